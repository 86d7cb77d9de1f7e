"""How well measurements of real engines were predicted: the numbers, what they come to, as text and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from simulator.numbers import four_digits

Quantity = Literal["throughput", "tps", "tpot", "accepted_length", "speed"]
Role = Literal["input", "predicted"]
"""Whether a published number was used, by itself or in a fit, or was only compared with."""

UNITS: Final[dict[Quantity, str]] = {
    "throughput": "tokens/s",
    "tps": "tokens/s of a user",
    "tpot": "ms per token",
    "accepted_length": "τ",
    "speed": "tokens/s of one stream",
}
"""What a quantity is counted in."""


@dataclass(frozen=True, slots=True)
class FieldPoint:
    """A published number and what was predicted for it."""

    case: str
    """What it belongs to: an arm, a model, a data set."""
    at: str
    """Where in the case: concurrency (c=64), drafted tokens (k=3), a data set."""
    quantity: Quantity
    role: Role
    published: float
    predicted: float
    error: float
    """Predicted over published, less one."""


def field_point(case: str, at: str, quantity: Quantity, role: Role, published: float, predicted: float) -> FieldPoint:
    """A point, its error worked out."""
    return FieldPoint(case, at, quantity, role, float(published), float(predicted), float(predicted / published - 1))


@dataclass(frozen=True, slots=True)
class FieldSummary:
    """Errors over a case's predicted points, as shares."""

    case: str
    quantity: Quantity
    points: int
    mae: float
    """Mean absolute error."""
    bias: float
    worst: float
    """The error farthest from 0, with its sign."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A number that somebody would act on: a load, or a ratio of two throughputs."""

    what: str
    unit: Literal["requests", "ratio", "share"]
    published: float | None
    """None where it does not occur in the table, or was not published."""
    predicted: float | None
    """None where it does not occur at the loads of the table."""


@dataclass(frozen=True, slots=True)
class FieldAlternative:
    """The same prediction under another assumption."""

    name: str
    quantity: Quantity
    mae: Mapping[str, float]
    """Mean absolute error over predicted points, as a share, by case."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One way to predict one table."""

    name: str
    source: str
    """Files of results/published/field."""
    inputs: tuple[str, ...]
    """Published numbers that went in."""
    assumptions: tuple[str, ...]
    points: tuple[FieldPoint, ...]
    summaries: tuple[FieldSummary, ...]
    decisions: tuple[Decision, ...] = ()
    alternatives: tuple[FieldAlternative, ...] = ()
    identity: bool = False
    """Whether it is one number published in two ways, that have to agree: a check of what is published, no prediction."""


@dataclass(frozen=True, slots=True)
class Unreproduced:
    """A table, or a part of one, that nothing is predicted of."""

    table: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fieldwork:
    """The whole comparison as text."""

    experiments: tuple[Experiment, ...]
    unreproduced: tuple[Unreproduced, ...]
    caveats: tuple[str, ...]


def summarised(points: Iterable[FieldPoint]) -> tuple[FieldSummary, ...]:
    """Errors of each case and quantity that has predicted points, in order of appearance."""
    groups: dict[tuple[str, Quantity], list[float]] = {}
    for p in points:
        if p.role == "predicted":
            groups.setdefault((p.case, p.quantity), []).append(p.error)
    return tuple(
        FieldSummary(case, quantity, len(e), _mean([abs(x) for x in e]), _mean(e), max(e, key=abs))
        for (case, quantity), e in groups.items()
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# --- words ----------------------------------------------------------------------------------------------------------------


def report_lines(result: Fieldwork) -> list[str]:
    """What the command prints."""
    lines = []
    for e in result.experiments:
        lines += [f"{e.name} · {e.source}", *(f"  given: {i}" for i in e.inputs)]
        for s in e.summaries:
            errors = "  ".join(f"{p.at} {_percent(p.error)}" for p in _of(e, s))
            lines.append(f"  {s.case:26} {UNITS[s.quantity]:22} {_said(s)}  |  {errors}")
        lines += [f"  {_decision(d)}" for d in e.decisions]
        lines += [f"  {_alternative(a)}" for a in e.alternatives]
        lines.append("")
    lines += ["not predicted:", *(f"  {u.table}: {u.reason}" for u in result.unreproduced), ""]
    lines += ["assumed:", *(f"  {a}" for a in _assumptions(result)), ""]
    return [*lines, "beware:", *(f"  {c}" for c in result.caveats)]


def field_markdown(result: Fieldwork) -> str:
    """A section for docs/fidelity.md: errors, then every point and what went in."""
    parts = ["| experiment | predicted points | mean absolute error |", "|---|---|---|"]
    for e in result.experiments:
        first = [s for s in e.summaries if s.quantity == e.summaries[0].quantity]
        errors = ", ".join(f"{s.case} {100 * s.mae:.1f} %" for s in first)
        count = f"{sum(s.points for s in e.summaries)}{' checked' if e.identity else ''}"
        parts.append(f"| {e.name} | {count} | {UNITS[first[0].quantity]}: {errors} |")
    parts.append("")
    for e in result.experiments:
        parts += [f"### {e.name}", "", f"From {_code(e.source)}. Given: {'; '.join(e.inputs)}.", ""]
        if e.assumptions:
            parts += [f"Assumed: {'; '.join(e.assumptions)}.", ""]
        parts += [
            f"| case | of | published → {'worked out' if e.identity else 'predicted'} (error) | mean error | worst |",
            "|---|---|---|---|---|",
            *_rows(e),
            "",
        ]
        parts += [f"* {_decision(d)}" for d in e.decisions]
        parts += [f"* {_alternative(a)}" for a in e.alternatives]
        parts += [""] if e.decisions or e.alternatives else []
    parts += ["### Not predicted", "", "| table | why |", "|---|---|"]
    parts += [f"| {_code(u.table)} | {u.reason} |" for u in result.unreproduced]
    return "\n".join([*parts, "", "### Beware", "", *(f"* {c}" for c in result.caveats), ""])


def _rows(e: Experiment) -> list[str]:
    rows = []
    for case, quantity in dict.fromkeys((p.case, p.quantity) for p in e.points):
        mine = [p for p in e.points if (p.case, p.quantity) == (case, quantity)]
        cells = " · ".join(
            f"{p.at}: {four_digits(p.published)} → {four_digits(p.predicted)} ({_percent(p.error)})"
            + (" given" if p.role == "input" else "")
            for p in mine
        )
        s = next((s for s in e.summaries if (s.case, s.quantity) == (case, quantity)), None)
        end = f"{100 * s.mae:.1f} % | {_percent(s.worst)}" if s else " | "
        rows.append(f"| {case} | {UNITS[quantity]} | {cells} | {end} |")
    return rows


def _of(e: Experiment, s: FieldSummary) -> list[FieldPoint]:
    return [p for p in e.points if (p.case, p.quantity, p.role) == (s.case, s.quantity, "predicted")]


def _assumptions(result: Fieldwork) -> list[str]:
    return list(dict.fromkeys(a for e in result.experiments for a in e.assumptions))


def _said(s: FieldSummary) -> str:
    return f"{s.points:2} points  off by {100 * s.mae:5.1f} %  bias {_percent(s.bias):>7}  worst {_percent(s.worst):>7}"


def _decision(d: Decision) -> str:
    def amount(value: float | None) -> str:
        if value is None:
            return "at no load"
        return {"requests": f"{value:.0f} requests", "share": f"{100 * value:.0f} %", "ratio": f"× {value:.2f}"}[d.unit]

    if d.published is None and d.unit != "requests":
        return f"{d.what}: predicted {amount(d.predicted)}, not published"
    return f"{d.what}: published {amount(d.published)}, predicted {amount(d.predicted)}"


def _alternative(a: FieldAlternative) -> str:
    errors = ", ".join(f"{case} {100 * mae:.0f} %" for case, mae in a.mae.items())
    return f"{a.name}: {UNITS[a.quantity]} off by {errors}"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def _code(files: str) -> str:
    return ", ".join(f"`{name}`" for name in files.split(", "))
