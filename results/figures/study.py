"""A study of the tuner: what was tried, what was confirmed on held-out prompts, what decides."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import duckdb
import polars as pl

from results.figures.common import by_drafter, is_baseline, listed, load_name, spread, style_of, users_of
from results.figures.section import Cell, Figure, LegendEntry, Panel, Section, Table, empty_plot, slug
from results.figures.style import SYMBOLS, Evidence, Series
from results.figures.view import bound
from results.store.queries import Origin, first_row, has_table, origin
from simulator.configuration import Configuration
from simulator.numbers import counted

OFF: Final = ("load", "mix", "verify", "elsewhere")
"""Kinds of `sensitivities` in which something is not what was assumed."""
TABLES: Final = ("studies", "trials", "confirmations", "sensitivities")


@dataclass(frozen=True, slots=True, kw_only=True)
class Study(Origin):
    """A row of `studies`, with its profile."""

    study_id: str
    finished_at: datetime | None
    plan: Mapping[str, Any]

    @property
    def loads(self) -> list[str]:
        """The loads as plans store them, for instance `users:64/0`, in the order they were searched."""
        return list(self.plan.get("loads") or [])

    @property
    def slas(self) -> list[str]:
        """The bounds, as written."""
        return list(self.plan.get("slas") or [])

    @property
    def objective(self) -> str:
        """'throughput', 'tps', 'goodput' or 'pareto'."""
        return str(self.plan.get("objective", "throughput"))

    @property
    def figure(self) -> str:
        """The figure that is made large; throughput where two are."""
        return self.objective if self.objective in ("tps", "goodput") else "throughput"


def find_study(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> str | None:
    """The study of one of the runs that finished last, of those that tried something; else began last."""
    if not has_table(con, *TABLES):
        return None
    sql = """
        SELECT s.study_id FROM studies s JOIN trials t USING (study_id)
        WHERE list_contains($runs, s.run_id) GROUP BY s.study_id, s.created_at, s.finished_at
        ORDER BY coalesce(s.finished_at, s.created_at) DESC LIMIT 1
    """
    rows = con.execute(sql, {"runs": list(run_ids)}).fetchall()
    return str(rows[0][0]) if rows else None


def study(con: duckdb.DuckDBPyConnection, study_id: str) -> Study:
    """A study. Raises LookupError for one that is not there."""
    sql = "SELECT * FROM studies JOIN profiles USING (profile_hash) WHERE study_id = ?"
    row = first_row(con, sql, study_id) if has_table(con, *TABLES) else None
    if row is None:
        raise LookupError(f"no study {study_id!r} in this database")
    return Study(study_id=study_id, finished_at=row["finished_at"], plan=json.loads(row["plan"]), **origin(row))


def trials(con: duckdb.DuckDBPyConnection, found: Study) -> pl.DataFrame:
    """Configurations tried, in the order they were proposed, with the best so far.

    Columns: load, number, origin, state, drafter, gamma, policy, confidences, request_cap, throughput, tps, feasible,
    objective (the figure that is made large), error, best (the largest objective of a feasible, complete trial so far; null
    before the first), front (whether no feasible trial of the load is as good in throughput and in TPS, and better in one).
    """
    sql = """
        SELECT load, number, origin, state, drafter, gamma, policy, confidences, request_cap, figures, feasible, error
        FROM trials WHERE study_id = ? ORDER BY load, number
    """
    rows: list[dict[str, Any]] = []
    for *plain, figures, feasible, error in con.execute(sql, [found.study_id]).fetchall():
        opened = json.loads(figures) if figures else {}
        row = dict(zip(list(_TRIALS)[:9], plain, strict=True))
        row |= {name: opened.get(name) for name in ("throughput", "tps")}
        rows.append(row | {"feasible": feasible, "objective": opened.get(found.figure), "error": error})
    places = {load: i for i, load in enumerate(found.loads)}
    rows.sort(key=lambda row: (places.get(row["load"], len(places)), row["number"]))
    best: dict[str, float] = {}
    for row in rows:
        counts = row["state"] == "complete" and row["feasible"] and row["objective"] is not None
        if counts:
            best[row["load"]] = max(row["objective"], best.get(row["load"], row["objective"]))
        row["best"] = best.get(row["load"])
    for row in rows:
        able = bool(row["feasible"]) and row["throughput"] is not None and row["tps"] is not None
        row["front"] = able and not any(_beaten(row, other) for other in rows)
    return pl.DataFrame(rows, schema=_TRIALS)


def confirmations(con: duckdb.DuckDBPyConnection, found: Study) -> pl.DataFrame:
    """What was confirmed on held-out prompts, loads in their order, the winner first.

    Columns: load, place, role, drafter, gamma, policy, confidences, request_cap, exact, prompts, draws, throughput, tps,
    tau, budget, p95_ttft with `…_half_width` (traffic's and the simulation's noise), gain, gain_half_width (of the winner
    over this one, paired), feasible, error.
    """
    sql = """
        SELECT load, place, role, drafter, gamma, policy, confidences, request_cap, exact, prompts, draws,
               figures, half_widths, gain, gain_half_width, feasible, error
        FROM confirmations WHERE study_id = ? ORDER BY load, place
    """
    rows = []
    for *plain, figures, halves, gain, gain_half, feasible, error in con.execute(sql, [found.study_id]).fetchall():
        row = dict(zip(list(_CONFIRMATIONS)[:11], plain, strict=True))
        for name in _FIGURES:
            row[name] = (json.loads(figures) if figures else {}).get(name)
            row[f"{name}_half_width"] = (json.loads(halves) if halves else {}).get(name)
        rows.append(row | {"gain": gain, "gain_half_width": gain_half, "feasible": feasible, "error": error})
    places = {load: i for i, load in enumerate(found.loads)}
    rows.sort(key=lambda row: (places.get(row["load"], len(places)), row["place"]))
    return pl.DataFrame(rows, schema=_CONFIRMATIONS)


def sensitivities(con: duckdb.DuckDBPyConnection, found: Study) -> pl.DataFrame:
    """What decides, and how far the optimum moves.

    Columns: load, kind ('choice': a knob set otherwise; 'load', 'mix', 'verify' or 'elsewhere': something is off; studies
    of before 0.4 have 'importance', which is not what decides), what, best (the configuration that is best then, in words),
    value (of a choice's knob in it), estimated (whether a choice was looked at shortly), moved, loss (of setting it
    otherwise, or of keeping the winner), keeps (whether bounds are kept then: of a choice by any, else by the winner).
    """
    sql = "SELECT load, kind, what, best, moved, loss, keeps FROM sensitivities WHERE study_id = ? ORDER BY rowid"
    rows = []
    for load, kind, what, best, moved, loss, keeps in con.execute(sql, [found.study_id]).fetchall():
        then = json.loads(best) if best else {}
        value, estimated = then.get("value"), then.get("state", "complete") != "complete"
        values = (load, kind, what, _words(then) if then else None, value and str(value), estimated, moved, loss, keeps)
        rows.append(dict(zip(_SENSITIVITIES, values, strict=True)))
    return pl.DataFrame(rows, schema=_SENSITIVITIES)


def choice(what: str, loss: float | None, value: Any, *, estimated: bool) -> str:
    """What one knob decides, of a row of kind 'choice'; estimated ones come of trials that were cut short."""
    if loss is None:
        return f"{what} (any other that was tried breaks a bound)"
    return f"{what} ({'about ' if estimated else ''}{max(loss, 0):.1%} less with {value})"


def choices(sensitive: pl.DataFrame, load: str) -> list[dict[str, Any]]:
    """What decides at a load, the most first: rows of kind 'choice', and words of each."""
    rows = sensitive.filter(load=load, kind="choice").to_dicts()
    return [r | {"words": choice(r["what"], r["loss"], r["value"], estimated=r["estimated"])} for r in rows]


class HowFar(NamedTuple):
    """How the advice stands where something is off."""

    cases: int
    broken: int
    """Those in which the winner breaks a bound: what it then loses is no percentage."""
    moved: int
    """Those of the others in which another configuration is better."""
    worst: float
    """The most that keeping the winner loses in those others; 0 without any."""

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> HowFar:
        """The counts over rows of `sensitivities` in which something is off; those without an answer do not count."""
        asked = [row for row in rows if row["kind"] in OFF and row["keeps"] is not None]
        kept = [row for row in asked if row["keeps"] and row["loss"] is not None]
        worst = max((row["loss"] for row in kept), default=0.0)
        return cls(
            len(asked), sum(not row["keeps"] for row in asked), sum(bool(row["moved"]) for row in kept), max(worst, 0.0)
        )

    def __str__(self) -> str:
        lost = f"another is better in {self.moved}: keeping the winner loses at most {self.worst:.1%}"
        lost = lost if self.moved else "no other is better"
        if not self.broken:
            return f"in none of {self.cases} cases does the winner break a bound, and {lost}"
        broken = f"the winner breaks a bound in {self.broken} of {self.cases} cases"
        return broken if self.broken == self.cases else f"{broken}; of the others, {lost}"


def baseline(confirmed: Sequence[Mapping[str, Any]], kind: str, kinds: Mapping[str, str]) -> Mapping[str, Any] | None:
    """The confirmation at a load that a gain is told over; see `is_baseline`."""
    for row in confirmed:
        told = not row["error"] and row["throughput"] is not None
        if told and is_baseline(kind, Configuration.read(row, "sampled", kinds).system):
            return row
    return None


def _beaten(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether another feasible trial of the load is better in one and no worse in the other."""
    if other["load"] != row["load"] or not other["feasible"]:
        return False
    pairs = [(row[name], other[name]) for name in ("throughput", "tps")]
    if any(theirs is None for _, theirs in pairs):
        return False
    return all(theirs >= mine for mine, theirs in pairs) and any(theirs > mine for mine, theirs in pairs)


def _words(best: Mapping[str, Any]) -> str:
    """A configuration as people read it."""
    known = [f"γ={v}" if k == "gamma" else str(v) for k, v in best.items() if k in ("drafter", "gamma", "policy")]
    return " ".join(known) or str(dict(best))


_FIGURES: Final = ("throughput", "tps", "tau", "budget", "p95_ttft")
_NAMES: Final = ("drafter", "gamma", "policy", "confidences", "request_cap")
_WHO: Final = {name: pl.Int64 if name in ("gamma", "request_cap") else pl.String for name in _NAMES}
_TRIALS: Final = pl.Schema(
    {"load": pl.String, "number": pl.Int64, "origin": pl.String, "state": pl.String}
    | _WHO
    | {"throughput": pl.Float64, "tps": pl.Float64, "feasible": pl.Boolean, "objective": pl.Float64, "error": pl.String}
    | {"best": pl.Float64, "front": pl.Boolean}
)
_CONFIRMATIONS: Final = pl.Schema(
    {"load": pl.String, "place": pl.Int64, "role": pl.String}
    | _WHO
    | {"exact": pl.Boolean, "prompts": pl.Int64, "draws": pl.Int64}
    | {column: pl.Float64 for name in _FIGURES for column in (name, f"{name}_half_width")}
    | {"gain": pl.Float64, "gain_half_width": pl.Float64, "feasible": pl.Boolean, "error": pl.String}
)
_SENSITIVITIES: Final = pl.Schema(
    {"load": pl.String, "kind": pl.String, "what": pl.String, "best": pl.String, "value": pl.String, "estimated": pl.Boolean}
    | {"moved": pl.Boolean, "loss": pl.Float64, "keeps": pl.Boolean}
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


def configuration(row: Mapping[str, Any], *, capped: bool | None = None) -> str:
    """What was run, for people; by default with its request cap where that is below the number of users."""
    if capped is None:
        users = users_of(row["load"])
        capped = users is None or row["request_cap"] < users
    cap = f", at most {counted(row['request_cap'], 'request')} at once" if capped else ""
    if row["policy"] == "none" or row["drafter"] == "none":
        return f"none{cap}"
    basis = f" ({row['confidences']})" if row["confidences"] != "none" else ""
    return f"{row['drafter']} γ={row['gamma']} {row['policy']}{basis}{cap}"


def section(
    study: Study,
    trials: pl.DataFrame,
    confirmed: pl.DataFrame,
    sensitive: pl.DataFrame,
    series: Sequence[Series],
    evidence: Sequence[Evidence],
) -> Section:
    """Everything there is to see of a study."""
    within = f" within {' and '.join(map(bound, study.slas))}" if study.slas else ""
    loads = f" at {listed([load_name(load) for load in study.loads])}" if study.loads else ""
    where = f"on {study.profile['name']}{loads}"
    lede = (
        f"Study {study.study_id} looked for the most {_AIMS[study.figure]} {where}{within}: configurations were "
        "tried on half of the prompts, and the best confirmed on prompts it had not seen."
    )
    tables = [_confirmed(confirmed.filter(load=load), study) for load in dict.fromkeys(confirmed["load"].to_list())]
    asked = sensitive.filter(pl.col("kind").is_in(OFF))
    moved = asked.filter(pl.col("moved") | ~pl.col("keeps"))
    tables += [_sensitive(moved)] if moved.height else []
    return Section(
        "study", "What the tuner found", lede, _figure(study, trials, sensitive, series), tables, evidence, trials,
        [f"With load, mix or the cost of verification off, or at the other loads, {HowFar.of(asked.to_dicts())}."]
        if asked.height else [],
    )  # fmt: skip


def _figure(study: Study, trials: pl.DataFrame, sensitive: pl.DataFrame, series: Sequence[Series]) -> Figure:
    if trials.filter(pl.col("objective").is_not_null()).is_empty():
        errors = trials["error"].drop_nulls().to_list()
        why = f": {errors[0]}" if errors else ""
        return Figure(missing=f"No trial of study {study.study_id} came to a result{why}.")
    styles = by_drafter(series, study.run_id)
    panels = []
    for load in dict.fromkeys(trials["load"].to_list()):
        mine = trials.filter(load=load).to_dicts()
        name = load_name(load)
        panels.append(Panel(f"study-history-{slug(load)}", f"{name}: trials in order", _history(mine, study, styles)))
        panels.append(Panel(f"study-pareto-{slug(load)}", f"{name}: throughput against speed", _pareto(mine, styles)))
        if decided := choices(sensitive, load):
            panels.append(Panel(f"study-decides-{slug(load)}", f"{name}: what decides", _decides(decided)))
    drafters = list(dict.fromkeys(trials["drafter"].to_list()))
    legend = [LegendEntry(d, SYMBOLS[style_of(d, styles)[1]], style_of(d, styles)[0]) for d in drafters]
    legend.append(LegendEntry("best so far; Pareto front", "", None, False, "M-17,0H17"))
    return Figure(
        legend,
        panels,
        "Small, faint marks were cut short or break a bound. The line over trials is the best simulated in full so far: "
        "where it ends flat, more trials bring little. On the Pareto front no trial is better in throughput and in speed.",
    )


def _history(rows: Sequence[Mapping[str, Any]], study: Study, styles: Mapping[str, Series]) -> Any:
    plot = empty_plot(height=300)
    best = [row for row in rows if row["best"] is not None]
    plot.add_scatter(
        x=[row["number"] for row in best], y=[row["best"] for row in best], mode="lines", meta="ink",
        line={"width": 1.2, "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    _marks(plot, rows, "number", "objective", styles)
    plot.update_xaxes(title_text="trial")
    plot.update_yaxes(title_text=_AIMS[study.figure], rangemode="tozero", tickformat=",")
    plot.update_layout(margin={"l": 56, "b": 40})
    return plot


def _pareto(rows: Sequence[Mapping[str, Any]], styles: Mapping[str, Series]) -> Any:
    plot = empty_plot(height=300)
    front = sorted((row for row in rows if row["front"]), key=lambda row: row["tps"])
    plot.add_scatter(
        x=[row["tps"] for row in front], y=[row["throughput"] for row in front], mode="lines", meta="ink",
        line={"width": 1.2}, hoverinfo="skip",
    )  # fmt: skip
    _marks(plot, rows, "tps", "throughput", styles)
    plot.update_xaxes(title_text=_AIMS["tps"])
    plot.update_yaxes(title_text=_AIMS["throughput"], tickformat=",")
    plot.update_layout(margin={"l": 56, "b": 40})
    return plot


def _marks(plot: Any, rows: Sequence[Mapping[str, Any]], x: str, y: str, styles: Mapping[str, Series]) -> None:
    for drafter in dict.fromkeys(row["drafter"] for row in rows):
        mine = [row for row in rows if row["drafter"] == drafter and row[x] is not None and row[y] is not None]
        if not mine:
            continue
        colour, symbol = style_of(drafter, styles)
        full = [row["feasible"] and row["state"] == "complete" for row in mine]
        plot.add_scatter(
            x=[row[x] for row in mine], y=[row[y] for row in mine], mode="markers", hoverinfo="text", meta="simulated",
            marker={"color": colour, "symbol": f"{symbol}-open-dot", "size": [9 if f else 6 for f in full],
                    "opacity": [1 if f else 0.6 for f in full], "line": {"width": 1.3}},
            hovertext=[f"trial {row['number']}: {configuration(row)}<br>{row['throughput'] or 0:,.0f} tok/s/GPU, "
                       f"{row['tps'] or 0:.1f} of a user" + _fate(row) for row in mine],
        )  # fmt: skip


def _fate(row: Mapping[str, Any]) -> str:
    return ("<br>cut short: clearly worse" if row["state"] == "cut" else "") + (
        "" if row["feasible"] is not False else "<br>breaks a bound"
    )


def _decides(decided: Sequence[Mapping[str, Any]]) -> Any:
    """A bar for each knob, as long as what is lost where it is set otherwise: whole where every other breaks a bound."""
    rows = decided[::-1]
    plot = empty_plot(height=110 + 30 * len(rows))
    plot.add_bar(
        x=[1 if row["loss"] is None else max(row["loss"], 0) for row in rows], y=[row["what"] for row in rows],
        orientation="h", marker_color="#808890", hoverinfo="text", hovertext=[row["words"] for row in rows],
    )  # fmt: skip
    plot.update_xaxes(rangemode="tozero", tickformat=".0%", title_text="lost where it is set otherwise, the rest tuned anew")
    plot.update_layout(margin={"b": 40})
    return plot


def _confirmed(confirmed: pl.DataFrame, study: Study) -> Table:
    """What was confirmed at one load."""
    caps = confirmed["request_cap"].unique().to_list()
    roles: dict[str, list[str]] = {}
    for row in confirmed.to_dicts():
        roles.setdefault(configuration(row, capped=len(caps) > 1), []).append(_ROLES.get(row["role"], row["role"]))
    rows = []
    for row in confirmed.to_dicts():
        name = configuration(row, capped=len(caps) > 1)
        if name not in roles:
            continue  # the same configuration in another role: told above
        role = ", ".join(dict.fromkeys(roles.pop(name)))
        cells = [Cell(name, name), Cell(role, role, hint=row["error"] or "")]
        cells += [_value(row, column, form) for column, form in _SHOWN.items()]
        gain, half = row["gain"], row["gain_half_width"]
        said = "–" if gain is None else f"{gain:+.1%}" + ("" if half is None else f" ± {half:.1%}")
        cells.append(Cell("" if row["role"] == "winner" else said, None if gain is None else round(gain, 5)))
        cells.append(Cell("–" if row["feasible"] is None else "kept" if row["feasible"] else "broken"))
        rows.append((cells, row["role"] == "winner"))
    first = confirmed.row(0, named=True)
    heads = [
        (load_name(first["load"]), ""),
        ("why it is here", ""),
        ("tok/s/GPU", ""),
        ("tok/s", "of a user"),
        ("τ", ""),
        ("budget", ""),
    ]
    cap = f" At most {counted(caps[0], 'request')} at once." if len(caps) == 1 else ""
    return Table(
        [*heads, ("winner's gain", "over it"), ("bounds", " and ".join(map(bound, study.slas)))], [rows],
        f"On {counted(first['prompts'], 'prompt')} that the search has not seen, drawn {counted(first['draws'], 'time')}; "
        f"± is half of a 95 % interval over draws, gains are paired.{cap}",
    )  # fmt: skip


_SHOWN: Final = {"throughput": ",.0f", "tps": ",.1f", "tau": ".2f", "budget": ".2f"}


def _value(row: Mapping[str, Any], column: str, form: str) -> Cell:
    value = row[column]
    shown = spread(row, column, form) if column in ("throughput", "tps") else f"{value:{form}}" if value is not None else "–"
    return Cell(shown, None if value is None else round(value, 4))


def _sensitive(sensitive: pl.DataFrame) -> Table:
    """What if load, mix or verification cost are off: whether another configuration is better then."""
    rows = []
    for row in sensitive.to_dicts():
        off = f"at {load_name(row['what'])}" if row["kind"] == "elsewhere" else f"with {row['what']}"
        what = f"{load_name(row['load'])}, {off}"
        moved = "–" if row["moved"] is None else row["best"] if row["moved"] else "the winner still"
        loss = (
            Cell("–")
            if row["loss"] is None or not row["keeps"]
            else Cell(f"{max(row['loss'], 0):.1%}", round(row["loss"], 5))
        )
        keeps = "–" if row["keeps"] is None else "kept" if row["keeps"] else "broken"
        rows.append(([Cell(what, what), Cell(moved or "–"), loss, Cell(keeps)], False))
    heads = [("what is off", ""), ("best then", ""), ("lost", "by keeping the winner"), ("bounds", "by the winner")]
    return Table(heads, [rows], "How far the advice moves when the question was slightly wrong.")
