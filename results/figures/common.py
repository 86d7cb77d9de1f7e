"""What several figures share: sums, panels of several runs, lines, whiskers, and words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import polars as pl

from results.figures.section import LegendEntry, entry, slugs
from results.figures.style import MANNERS, STYLES, Evidence, Series, recorded_evidence
from results.published import PAPER_TARGET
from results.store.runs import Provenance
from simulator.configuration import System
from simulator.policies import NO_DRAFTER
from simulator.records import SERVED

if TYPE_CHECKING:  # takes a second, and numbers need none of it
    import plotly.graph_objects as go


def sums(frame: pl.DataFrame, *columns: str) -> dict[str, Any]:
    return frame.select(pl.col(columns).sum()).row(0, named=True)


def ratio(frame: pl.DataFrame, numerator: str, denominator: str) -> float | None:
    """Ratio of two columns' sums; None where there is nothing to divide by."""
    over, under = frame.select(pl.col(numerator, denominator).sum()).row(0)
    return float(over / under) if under else None


PROMPT_SOURCES: Final[Mapping[str, str]] = {
    "bundled": "bundled prompts, not the benchmarks",
    "suite": "prompts of a suite of one's own",
    "data-dir": "prompts from a local data directory",
    "hub": "prompts from the Hugging Face Hub",
    "synthesised": "synthesised from averages, no model was run",
    "served": SERVED,
}
IN_PAPER: Final = f"{PAPER_TARGET} in the paper"


def evidence_of(runs: Sequence[Provenance], published: bool = False) -> list[Evidence]:
    """What kinds of numbers recorded figures of these runs show."""
    found: list[Evidence] = []
    for run in runs:
        kind = recorded_evidence(run)
        found += [kind] if kind not in found else []
    return found + (["published"] if published else [])


NO_CONFIDENCES = (
    "No drafter here says how sure it is, or the run was not recorded dense: there are no confidences to look at."
)
PAPER_DSPARK = f"DSpark on {PAPER_TARGET} in the paper"


def is_baseline(kind: str, system: System) -> bool:
    """Whether it is what a gain is told over: no speculation, or MTP-1 (`mtp`), which drafts and verifies one token."""
    if kind == "none":
        return system.policy == NO_DRAFTER
    k = system.policy.k
    return system.recording.kind == kind and k is not None and min(k, system.recording.gamma) == 1


def drafted_by_load(rows: Sequence[tuple[int, int, int]]) -> str:
    """K by batch size in words, of rows (first, last, k)."""
    return listed([f"{k} with {f'{first} to {last}' if last > first else last} running" for first, last, k in rows])


def listed(items: Sequence[str]) -> str:
    """The items as one writes a list in a sentence: a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


class Facet(NamedTuple):
    """One panel of a figure about recordings."""

    run: str
    what: str
    """A domain, or a position."""
    slug: str
    """The end of its link anchor."""
    title: str
    """What it is, and of which run where there are several."""


def facets(runs: Sequence[Provenance], whats: Callable[[str], Iterable[str]]) -> list[Facet]:
    """The panels of every run, one run after the other; drafters keep their colours, so that runs compare panel by panel."""
    found = []
    for run in runs:
        names = list(whats(run.run_id))
        for what, short in zip(names, slugs(names), strict=True):
            if len(runs) == 1:
                found.append(Facet(run.run_id, what, short, what))
            else:
                title = f"{what} · {run_name(run)}".removeprefix(" · ")
                found.append(Facet(run.run_id, what, f"{short}-{run.run_id}".strip("-"), title))
    return found


def run_name(run: Provenance) -> str:
    """A run among others."""
    return f"{run.pair} {run.run_id}"


def legend_of(series: Sequence[Series]) -> list[LegendEntry]:
    """Drafters, each once however many runs there are; measured, synthesised and served ones apart."""
    mixed = len({s.evidence for s in series}) > 1
    found = {(s.name, s.evidence): entry(s, f"{s.name}, {s.evidence}" if mixed else s.name) for s in reversed(series)}
    return list(found.values())[::-1]


def overlay(runs: Sequence[Provenance]) -> Literal["plain", "faint"]:
    """How the paper's values of its small target are drawn beside these runs': faint where their target is another."""
    return "plain" if all(PAPER_TARGET.lower() in run.target.lower() for run in runs) else "faint"


def by_drafter(series: Sequence[Series], run: str) -> dict[str, Series]:
    """A run's drafters, each as the first of its series."""
    return {s.drafter: s for s in reversed(series) if s.run == run}


def style_of(drafter: str, styles: Mapping[str, Series]) -> tuple[str, str]:
    """Colour and symbol of a drafter, which may have no series of its own."""
    s = styles.get(drafter)
    return (s.colour, s.symbol) if s else STYLES.get(drafter, STYLES["none"])


def whiskers(rows: Sequence[Mapping[str, Any]], value: str) -> dict[str, Any]:
    """Plotly's asymmetric error bars from `low` and `high`; no whisker where there is no interval."""
    bounded = [row["low"] is not None for row in rows]
    return {
        "type": "data",
        "symmetric": False,
        "array": [row["high"] - row[value] if known else None for row, known in zip(rows, bounded, strict=True)],
        "arrayminus": [row[value] - row["low"] if known else None for row, known in zip(rows, bounded, strict=True)],
        "width": 2,
    }


def draw_line(
    plot: go.Figure,
    x: Sequence[Any],
    y: Sequence[Any],
    hover: Sequence[str],
    *,
    colour: str,
    symbol: str,
    evidence: Evidence,
    size: float = 7,
    **more: Any,
) -> None:
    """A line with markers in the manner of its evidence."""
    manner = MANNERS[evidence]
    settings: dict[str, Any] = {
        "mode": "lines+markers",
        "line": {"color": colour, "width": manner.width, "dash": manner.dash},
        "marker": {"symbol": f"{symbol}{manner.suffix}", "size": size, "color": colour, "line": {"width": 1.3}},
        "hoverinfo": "text",
        "hovertext": list(hover),
        "meta": evidence,
    }
    if not manner.suffix:
        settings["marker"]["line"] = {"width": 0}
    plot.add_scatter(x=list(x), y=list(y), **settings | more)


def bar_manner(colour: str, evidence: Evidence) -> dict[str, Any]:
    """A bar's marker: full, or hatched where no model was run."""
    pattern = MANNERS[evidence].pattern
    if not pattern:
        return {"color": colour, "line": {"width": 0}}
    return {
        "color": colour,
        "line": {"width": 1, "color": colour},
        "pattern": {"shape": pattern, "fillmode": "replace", "size": 6, "solidity": 0.45},
    }


def log_axis(plot: go.Figure, axis: str, title: str, values: Sequence[float | None]) -> None:
    """A logarithmic axis over the values that are there; a plain one where they hardly differ."""
    found = [v for v in values if v is not None and v > 0 and math.isfinite(v)]
    update = plot.update_xaxes if axis == "x" else plot.update_yaxes
    if not found or max(found) < 4 * min(found):
        update(title_text=title)
        return
    low, high = math.log10(min(found)), math.log10(max(found))
    pad = 0.06 * (high - low)
    powers = range(math.floor(low), math.ceil(high) + 1)
    steps = (1, 2, 5) if high - low < 2.2 else (1,)
    ticks = [k * 10.0**p for p in powers for k in steps if low - pad <= math.log10(k * 10.0**p) <= high + pad]
    update(
        type="log", title_text=title, range=[low - pad, high + pad], tickvals=ticks,
        ticktext=[f"{t:,.0f}" if t >= 1 else f"{t:g}" for t in ticks],
    )  # fmt: skip
