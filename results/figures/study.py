"""A study of the tuner: what was tried, what was confirmed on held-out prompts, what decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import duckdb
import polars as pl

from results.figures.common import by_drafter, is_baseline, listed, style_of
from results.figures.section import Cell, Figure, LegendEntry, Panel, Section, Table, empty_plot, slug
from results.figures.style import SYMBOLS, Evidence, Series
from results.figures.view import bound
from results.store.queries import has_table
from results.store.studies import OFF, TABLES, Study, StudyConfirmation, StudySensitivity, StudyTrial
from simulator.load import Load
from simulator.numbers import counted, give_or_take


def find_study(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> str | None:
    """The study of one of the runs that finished last, of those that tried something; else began last."""
    if not has_table(con, *TABLES):
        return None
    sql = """
        SELECT s.study_id FROM studies s JOIN trials t USING (study_id)
        WHERE list_contains($runs, s.run_id) GROUP BY s.study_id, s.created_at, s.finished_at
        ORDER BY s.finished_at DESC NULLS LAST, s.created_at DESC LIMIT 1
    """
    rows = con.execute(sql, {"runs": list(run_ids)}).fetchall()
    return str(rows[0][0]) if rows else None


def made_large(study: Study) -> str:
    """The figure that is made large; throughput where two are."""
    return "throughput" if study.plan.objective == "pareto" else study.plan.objective


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial among those of its load."""

    trial: StudyTrial
    objective: float | None
    """The figure that is made large."""
    best: float | None
    """The largest objective of a feasible, complete trial so far; None before the first."""
    front: bool
    """Whether no feasible trial of the load is as good in throughput and in TPS, and better in one."""

    @property
    def drafter(self) -> str:
        """Whose drafts were tried."""
        return self.trial.configuration.recording.drafter

    def row(self) -> dict[str, Any]:
        """The columns of the table to take away."""
        t = self.trial
        plain = {name: getattr(t, name) for name in ("number", "origin", "state", "feasible", "error")}
        plain |= {name: t.of(name) for name in ("throughput", "tps")}
        found = {"objective": self.objective, "best": self.best, "front": self.front}
        return {"load": str(t.load), **t.configuration.row(), **plain, **found}


def tried(study: Study) -> list[Tried]:
    """Configurations tried, in the order they were proposed, with the best so far."""
    best: dict[Load, float] = {}
    found = []
    for t in study.trials:
        objective = t.of(made_large(study))
        if t.state == "complete" and t.feasible and objective is not None:
            best[t.load] = max(objective, best.get(t.load, objective))
        able = bool(t.feasible) and None not in _both(t)
        front = able and not any(_beaten(t, other) for other in study.trials)
        found.append(Tried(t, objective, best.get(t.load), front))
    return found


def frame(every: Sequence[Tried]) -> pl.DataFrame:
    """Trials as a table to take away.

    Columns: load, number, origin, state, drafter, gamma, policy, confidences, request_cap, throughput, tps, feasible, error,
    and those of `Tried`.
    """
    return pl.DataFrame([one.row() for one in every], schema=_TRIALS)


def choices(study: Study, load: Load) -> list[StudySensitivity]:
    """What decides at a load, the most first."""
    return [one for one in study.sensitivities if one.load == load and one.kind == "choice"]


class HowFar(NamedTuple):
    """How the advice stands where something is off."""

    cases: int
    broken: int
    """Those in which what is to be run breaks a bound: what it then loses is no percentage."""
    moved: int
    """Those of the others in which another configuration is better."""
    worst: float
    """The most that keeping it loses in those others; 0 without any."""

    @classmethod
    def of(cls, found: Iterable[StudySensitivity]) -> HowFar:
        """The counts over those in which something is off; those without an answer do not count."""
        asked = [one for one in found if one.kind in OFF and one.keeps is not None]
        kept = [(one.loss, bool(one.moved)) for one in asked if one.keeps and one.loss is not None]
        worst = max((loss for loss, _ in kept), default=0.0)
        return cls(len(asked), sum(not one.keeps for one in asked), sum(moved for _, moved in kept), max(worst, 0.0))

    def __str__(self) -> str:
        lost = f"another is better in {self.moved}: keeping the choice loses at most {self.worst:.1%}"
        lost = lost if self.moved else "no other is better"
        if not self.broken:
            return f"in none of {self.cases} cases does the choice break a bound, and {lost}"
        broken = f"the choice breaks a bound in {self.broken} of {self.cases} cases"
        return broken if self.broken == self.cases else f"{broken}; of the others, {lost}"


def baseline(confirmed: Sequence[StudyConfirmation], kind: str) -> StudyConfirmation | None:
    """The confirmation at a load that a gain is told over; see `is_baseline`."""
    told = (one for one in confirmed if one.of("throughput")[0] is not None)
    return next((one for one in told if is_baseline(kind, one.configuration.system)), None)


def _both(trial: StudyTrial) -> tuple[float | None, float | None]:
    return trial.of("throughput"), trial.of("tps")


def _beaten(trial: StudyTrial, other: StudyTrial) -> bool:
    """Whether another feasible trial of the load is better in one and no worse in the other."""
    if other.load != trial.load or not other.feasible:
        return False
    pairs = list(zip(_both(trial), _both(other), strict=True))
    known = [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
    return len(known) == len(pairs) and all(b >= a for a, b in known) and any(b > a for a, b in known)


_TRIALS: Final = pl.Schema(
    {"load": pl.String, "number": pl.Int64, "origin": pl.String, "state": pl.String, "drafter": pl.String}
    | {"gamma": pl.Int64, "policy": pl.String, "confidences": pl.String, "request_cap": pl.Int64}
    | {"throughput": pl.Float64, "tps": pl.Float64, "feasible": pl.Boolean, "objective": pl.Float64, "error": pl.String}
    | {"best": pl.Float64, "front": pl.Boolean}
)

_AIMS: Final = {
    "throughput": "tokens per second and GPU",
    "tps": "tokens per second of a user",
    "goodput": "tokens per second and GPU within bounds",
}
_ROLES: Final = {
    "bound": "upper bound",
    "refuted": "breaks a bound here",
    "default": "as shipped",
}


def configuration(row: StudyTrial | StudyConfirmation, *, capped: bool | None = None) -> str:
    """What was run, for people; by default with its request cap where that is below the number of users."""
    run, users = row.configuration, row.load.users
    if capped is None:
        capped = users is None or run.request_cap < users
    return f"{run.system}" + (f", at most {counted(run.request_cap, 'request')} at once" if capped else "")


def section(study: Study, series: Sequence[Series], evidence: Sequence[Evidence]) -> Section:
    """Everything there is to see of a study."""
    plan, every = study.plan, tried(study)
    within = f" within {' and '.join(map(bound, plan.slas))}" if plan.slas else ""
    where = f"on {study.profile.name} at {listed([load.label for load in plan.loads])}"
    lede = (
        f"Study {study.study_id} looked for the most {_AIMS[made_large(study)]} {where}{within}: configurations were "
        "tried on half of the prompts, and the best confirmed on prompts it had not seen."
    )
    at: dict[Load, list[StudyConfirmation]] = {}
    for one in study.confirmations:
        at.setdefault(one.load, []).append(one)
    tables = [_confirmed(confirmed, study) for confirmed in at.values()]
    asked = [one for one in study.sensitivities if one.kind in OFF]
    moved = [one for one in asked if one.moved or one.keeps is False]
    tables += [_sensitive(moved)] if moved else []
    return Section(
        "study", "What the tuner found", lede, _figure(study, every, series), tables, evidence, frame(every),
        [f"With load, mix or the cost of verification off, or at the other loads, {HowFar.of(asked)}."] if asked else [],
    )  # fmt: skip


def _figure(study: Study, every: Sequence[Tried], series: Sequence[Series]) -> Figure:
    if all(one.objective is None for one in every):
        errors = [one.trial.error for one in every if one.trial.error]
        why = f": {errors[0]}" if errors else ""
        return Figure(missing=f"No trial of study {study.study_id} came to a result{why}.")
    styles = by_drafter(series, study.run_id)
    panels = []
    for load in dict.fromkeys(one.trial.load for one in every):
        mine, name, end = [one for one in every if one.trial.load == load], load.label, slug(str(load))
        panels.append(Panel(f"study-history-{end}", f"{name}: trials in order", _history(mine, study, styles)))
        panels.append(Panel(f"study-pareto-{end}", f"{name}: throughput against speed", _pareto(mine, styles)))
        if decided := choices(study, load):
            panels.append(Panel(f"study-decides-{end}", f"{name}: what decides", _decides(decided)))
    drafters = list(dict.fromkeys(one.drafter for one in every))
    legend = [LegendEntry(d, SYMBOLS[style_of(d, styles)[1]], style_of(d, styles)[0]) for d in drafters]
    legend.append(LegendEntry("best so far; Pareto front", "", None, False, "M-17,0H17"))
    return Figure(
        legend,
        panels,
        "Small, faint marks were cut short or break a bound. The line over trials is the best simulated in full so far: "
        "where it ends flat, more trials bring little. On the Pareto front no trial is better in throughput and in speed.",
    )


def _history(every: Sequence[Tried], study: Study, styles: Mapping[str, Series]) -> Any:
    plot = empty_plot(height=300)
    best = [one for one in every if one.best is not None]
    plot.add_scatter(
        x=[one.trial.number for one in best], y=[one.best for one in best], mode="lines", meta="ink",
        line={"width": 1.2, "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    _marks(plot, [(one, one.trial.number, one.objective) for one in every], styles)
    plot.update_xaxes(title_text="trial")
    plot.update_yaxes(title_text=_AIMS[made_large(study)], rangemode="tozero", tickformat=",")
    plot.update_layout(margin={"l": 56, "b": 40})
    return plot


def _pareto(every: Sequence[Tried], styles: Mapping[str, Series]) -> Any:
    plot = empty_plot(height=300)
    front = sorted((one.trial for one in every if one.front), key=lambda trial: trial.of("tps") or 0.0)
    plot.add_scatter(
        x=[trial.of("tps") for trial in front], y=[trial.of("throughput") for trial in front], mode="lines", meta="ink",
        line={"width": 1.2}, hoverinfo="skip",
    )  # fmt: skip
    _marks(plot, [(one, one.trial.of("tps"), one.trial.of("throughput")) for one in every], styles)
    plot.update_xaxes(title_text=_AIMS["tps"])
    plot.update_yaxes(title_text=_AIMS["throughput"], tickformat=",")
    plot.update_layout(margin={"l": 56, "b": 40})
    return plot


def _marks(plot: Any, at: Sequence[tuple[Tried, float | None, float | None]], styles: Mapping[str, Series]) -> None:
    """Trials where they lie, to the right and up."""
    for drafter in dict.fromkeys(one.drafter for one, *_ in at):
        mine = [(one.trial, x, y) for one, x, y in at if one.drafter == drafter and x is not None and y is not None]
        if not mine:
            continue
        colour, symbol = style_of(drafter, styles)
        full = [t.feasible and t.state == "complete" for t, *_ in mine]
        plot.add_scatter(
            x=[x for _, x, _ in mine], y=[y for *_, y in mine], mode="markers", hoverinfo="text", meta="simulated",
            marker={"color": colour, "symbol": f"{symbol}-open-dot", "size": [9 if f else 6 for f in full],
                    "opacity": [1 if f else 0.6 for f in full], "line": {"width": 1.3}},
            hovertext=[f"trial {t.number}: {configuration(t)}<br>{t.of('throughput') or 0:,.0f} tok/s/GPU, "
                       f"{t.of('tps') or 0:.1f} of a user" + _fate(t) for t, *_ in mine],
        )  # fmt: skip


def _fate(trial: StudyTrial) -> str:
    return ("<br>cut short: clearly worse" if trial.state == "cut" else "") + (
        "" if trial.feasible is not False else "<br>breaks a bound"
    )


def _decides(decided: Sequence[StudySensitivity]) -> Any:
    """A bar for each knob, as long as what is lost where it is set otherwise: whole where every other breaks a bound."""
    knobs = decided[::-1]
    plot = empty_plot(height=110 + 30 * len(knobs))
    plot.add_bar(
        x=[1 if one.loss is None else max(one.loss, 0) for one in knobs], y=[one.what for one in knobs],
        orientation="h", marker_color="#808890", hoverinfo="text", hovertext=[one.words for one in knobs],
    )  # fmt: skip
    plot.update_xaxes(rangemode="tozero", tickformat=".0%", title_text="lost where it is set otherwise, the rest tuned anew")
    plot.update_layout(margin={"b": 40})
    return plot


def _confirmed(confirmed: Sequence[StudyConfirmation], study: Study) -> Table:
    """What was confirmed at one load."""
    caps = list(dict.fromkeys(one.configuration.request_cap for one in confirmed))
    roles: dict[str, list[str]] = {}
    for one in confirmed:
        roles.setdefault(configuration(one, capped=len(caps) > 1), []).append(_ROLES.get(one.role, one.role))
    rows = []
    for one in confirmed:
        name = configuration(one, capped=len(caps) > 1)
        if name not in roles:
            continue  # the same configuration in another role: told above
        role = ", ".join(dict.fromkeys(roles.pop(name)))
        cells = [Cell(name, name), Cell(role, role, hint=one.error or "")]
        cells += [_value(one, figure, form) for figure, form in _SHOWN.items()]
        gain, half = one.gain, one.gain_half_width
        said = "–" if gain is None else f"{gain:+.1%}" + ("" if half is None else f" ± {half:.1%}")
        cells.append(Cell("" if one.role == "winner" else said, None if gain is None else round(gain, 5)))
        cells.append(Cell("–" if one.feasible is None else "kept" if one.feasible else "broken"))
        rows.append((cells, one.role == "winner"))
    first = confirmed[0]
    heads = [
        (first.load.label, ""),
        ("why it is here", ""),
        ("tok/s/GPU", ""),
        ("tok/s", "of a user"),
        ("τ", ""),
        ("budget", ""),
    ]
    cap = f" At most {counted(caps[0], 'request')} at once." if len(caps) == 1 else ""
    return Table(
        [*heads, ("winner's gain", "over it"), ("bounds", " and ".join(map(bound, study.plan.slas)))], [rows],
        f"On {counted(first.prompts, 'prompt')} that the search has not seen, drawn {counted(first.draws, 'time')}; "
        f"± is half of a 95 % interval over draws, gains are paired.{cap}",
    )  # fmt: skip


_SHOWN: Final = {"throughput": ",.0f", "tps": ",.1f", "tau": ".2f", "budget": ".2f"}


def _value(one: StudyConfirmation, figure: str, form: str) -> Cell:
    value, half = one.of(figure)
    shown = give_or_take(value, half if figure in ("throughput", "tps") else None, form)
    return Cell(shown, None if value is None else round(value, 4))


def _sensitive(found: Sequence[StudySensitivity]) -> Table:
    """What if load, mix or verification cost are off: whether another configuration is better then."""
    rows = []
    for one in found:
        off = f"with {one.what}" if one.elsewhere is None else f"at {one.elsewhere.label}"
        what = f"{one.load.label}, {off}"
        best = "–" if one.best is None else one.best.system.short
        moved = "–" if one.moved is None else best if one.moved else "the choice still"
        loss = Cell("–") if one.loss is None or not one.keeps else Cell(f"{max(one.loss, 0):.1%}", round(one.loss, 5))
        keeps = "–" if one.keeps is None else "kept" if one.keeps else "broken"
        rows.append(([Cell(what, what), Cell(moved), loss, Cell(keeps)], False))
    heads = [("what is off", ""), ("best then", ""), ("lost", "by keeping the choice"), ("bounds", "by the choice")]
    return Table(heads, [rows], "How far the advice moves when the question was slightly wrong.")
