"""A validation: a live engine under load beside its simulation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import duckdb
import polars as pl

from results.figures.common import by_drafter, k_of, log_axis, style_of
from results.figures.section import Cell, Figure, LegendEntry, Panel, Section, Table, empty_plot
from results.figures.style import SYMBOLS, Series
from results.store.queries import Origin, first_row, has_table, origin
from simulator.numbers import counted

if TYPE_CHECKING:  # takes a second, and numbers need none of it
    import plotly.graph_objects as go

QUANTITIES: Final = ("throughput", "tps", "tau", "budget")
STEP: Final = "step"
"""Another quantity, known by its error alone: predicted over measured seconds of the steps that ran live, less 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation(Origin):
    """What the points of a validation have in common; the profile is what was simulated with."""

    validation_id: str
    engine: str
    believed: str
    """The profile that schedulers decided by, live and simulated."""
    live_prompts: int
    trace_prompts: int
    """Simulated from: others."""
    points: int
    drafting: str
    """How drafts were chosen, live and simulated."""
    seconds: float
    """Seconds by the clocks of all live engines, added up."""


def find_validation(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> str | None:
    """The latest validation of one of the runs; None too where the database knows of none."""
    if not has_table(con, "validations"):
        return None
    sql = "SELECT validation_id FROM validations WHERE list_contains(?, run_id) ORDER BY created_at DESC LIMIT 1"
    row = first_row(con, sql, list(run_ids))
    return None if row is None else str(row["validation_id"])


def validation(con: duckdb.DuckDBPyConnection, validation_id: str) -> Validation:
    """Raises LookupError for one that is not there."""
    sql = """
        SELECT v.*, p.profile, b.name AS believed, len(live_prompts) AS live, len(trace_prompts) AS traced,
               (SELECT count(*) FROM validations WHERE validation_id = $1) AS points,
               (SELECT sum(seconds) FROM validations WHERE validation_id = $1) AS live_s
        FROM validations v JOIN profiles p USING (profile_hash) LEFT JOIN profiles b ON b.profile_hash = v.believed_hash
        WHERE validation_id = $1 ORDER BY point
    """
    row = first_row(con, sql, validation_id)
    if row is None:
        raise LookupError(f"no validation {validation_id!r} in this database")
    return Validation(
        validation_id=validation_id, engine=row["engine"], believed=row["believed"] or "unknown", live_prompts=row["live"],
        trace_prompts=row["traced"], points=row["points"], drafting=row["drafting"], seconds=row["live_s"], **origin(row),
    )  # fmt: skip


def validated(con: duckdb.DuckDBPyConnection, validation_id: str) -> pl.DataFrame:
    """Every quantity of every point, measured and simulated.

    Columns: run, engine, drafter, gamma, policy, confidences, users, requests (answered live), quantity ('throughput' in
    tokens per second, 'tps' of a user, 'tau', 'budget', 'step'), measured, simulated, low, high (95 % of replicates, prompts
    redrawn), same_prompts (simulated from the live prompts' own traces), error (simulated over measured, less 1), error_low
    and error_high (the same of low and high), same_error (of same_prompts), inside (whether measured lies between low and
    high). Of 'step' there is the error alone.
    """
    sql = """
        SELECT run_id AS run, engine, drafter, gamma, policy, confidences, users, requests,
               measured, simulated, low, high, same_prompts, step_errors
        FROM validations WHERE validation_id = ? ORDER BY point
    """
    rows: list[dict[str, Any]] = []
    for *plain, measured, simulated, low, high, same, steps in con.execute(sql, [validation_id]).fetchall():
        key = dict(zip(_PLAIN, plain, strict=True))
        each = {"measured": measured, "simulated": simulated, "low": low, "high": high, "same_prompts": same}
        opened = {name: json.loads(text) for name, text in each.items()}
        for quantity in QUANTITIES:
            values = {name: found.get(quantity) for name, found in opened.items()}
            if values["measured"] and values["simulated"] is not None:
                rows.append(key | {"quantity": quantity, **values, **_errors(values)})
        step = json.loads(steps).get("step")
        rows += [] if step is None else [key | {"quantity": STEP, "error": step}]
    return pl.DataFrame(rows, schema=_SCHEMA)


def errors(points: pl.DataFrame) -> pl.DataFrame:
    """How far off the simulation is in every quantity, over the points of a validation.

    Columns: quantity, points, mean_absolute, mean, worst (the largest absolute error; all shares), same_prompts (mean
    absolute error from the live prompts' own traces: what is left when prompts are no excuse), known (points with an
    interval), inside (of them, those whose measured value lies within).
    """
    error = pl.col("error")
    found = points.group_by("quantity", maintain_order=True).agg(
        points=error.count(), mean_absolute=error.abs().mean(), mean=error.mean(), worst=error.abs().max(),
        same_prompts=pl.col("same_error").abs().mean(), known=pl.col("inside").count(), inside=pl.col("inside").sum(),
    )  # fmt: skip
    order = {name: place for place, name in enumerate((*QUANTITIES, STEP))}
    return found.sort(pl.col("quantity").replace_strict(order, return_dtype=pl.Int64))


def _errors(values: Mapping[str, float | None]) -> dict[str, float | bool | None]:
    """Errors of a quantity's values, measured and simulated among them."""
    measured, low, high = values["measured"], values["low"], values["high"]
    assert measured

    def off(value: float | None) -> float | None:
        return None if value is None else value / measured - 1

    inside = None if low is None or high is None else low <= measured <= high
    found = {"error": off(values["simulated"]), "error_low": off(low), "error_high": off(high)}
    return {**found, "same_error": off(values["same_prompts"]), "inside": inside}


_PLAIN: Final = ("run", "engine", "drafter", "gamma", "policy", "confidences", "users", "requests")
_SCHEMA: Final = pl.Schema(
    {name: pl.Int64 if name in ("gamma", "users", "requests") else pl.String for name in _PLAIN}
    | {"quantity": pl.String}
    | dict.fromkeys(["measured", "simulated", "low", "high", "same_prompts"], pl.Float64)
    | dict.fromkeys(["error", "error_low", "error_high", "same_error"], pl.Float64)
    | {"inside": pl.Boolean}
)

TITLES: Final[Mapping[str, str]] = {
    "throughput": "throughput",
    "tps": "speed for a user",
    "tau": "τ, tokens per round",
    "budget": "verification budget",
    STEP: "step time",
}
_UNITS: Final = {"throughput": "tokens/s", "tps": "tokens/s"}


def section(found: Validation, points: pl.DataFrame, series: Sequence[Series]) -> Section:
    """Every point of a live engine beside its simulation."""
    styles = by_drafter(series, found.run_id)
    there = [quantity for quantity in TITLES if quantity in points["quantity"]]
    panels = [_scatter(points.filter(quantity=there[0]).to_dicts(), there[0], styles)] if there else []
    panels += [_error_panel(points.filter(quantity=quantity).to_dicts(), quantity, styles) for quantity in there]
    figure = Figure(_legend(points, styles), panels, _caption(points))
    if not panels:
        figure = Figure(missing=f"Validation {found.validation_id} holds no measured value to compare.")
    return Section(
        "validation", "Simulated against measured",
        f"A live engine ({found.engine}) served {counted(found.live_prompts, 'prompt')} in turn, in {found.points} "
        f"combinations of drafter, policy and load, {found.seconds / 60:.0f} minutes in all. The same was then simulated "
        f"from the traces of {found.trace_prompts} other prompts, on the "
        f"profile {found.profile.name} ({found.profile.source}).",
        figure, [_summary(points), _points(points)] if panels else [], ["measured", "simulated"], points,
    )  # fmt: skip


def _caption(points: pl.DataFrame) -> str:
    known = points.filter(pl.col("inside").is_not_null())
    share = f" {known['inside'].sum()} of {known.height} measured values do lie within." if known.height else ""
    return (
        "On the dotted lines the simulation is right, above them it says more than was measured: an error of +10% is "
        "a tenth too much. Whiskers are 95 % of simulations, "
        f"prompts drawn anew in each: where one does not reach the line, chance does not explain the error.{share}"
    )


def who(row: Mapping[str, Any]) -> str:
    """A point's drafter and policy, for people."""
    return "none" if row["policy"] == "none" else f"{row['drafter']} {row['policy']}"


def _systems(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """A quantity's points by drafter and policy, in order of users."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: int(row["users"])):
        found.setdefault(who(row), []).append(row)
    return found


def _symbol(row: Mapping[str, Any], symbol: str) -> str:
    """Hollow where what is verified varies, so that a drafter's policies can be told apart."""
    return f"{symbol}-open" if k_of(row["policy"]) is None else symbol


def _legend(points: pl.DataFrame, styles: Mapping[str, Series]) -> list[LegendEntry]:
    first = {who(row): row for row in reversed(points.to_dicts())}
    entries = []
    for name in dict.fromkeys(who(row) for row in points.to_dicts()):
        colour, symbol = style_of(first[name]["drafter"], styles)
        hollow = _symbol(first[name], symbol) != symbol
        entries.append(LegendEntry(name, SYMBOLS[symbol], colour, hollow=hollow))
    return entries


def _scatter(rows: Sequence[Mapping[str, Any]], quantity: str, styles: Mapping[str, Series]) -> Panel:
    """Simulated over measured, with the diagonal."""
    plot = empty_plot(height=300)
    ends = [v for row in rows for name in ("measured", "simulated", "low", "high") if (v := row[name]) is not None]
    line = {"x0": min(ends), "y0": min(ends), "x1": max(ends), "y1": max(ends)}
    plot.add_shape(type="line", **line, line={"width": 1, "dash": "dot"})
    for mine in _systems(rows).values():
        _marks(plot, mine, [row["measured"] for row in mine], quantity, "simulated", ("low", "high"), styles)
    unit = f", {_UNITS[quantity]}" if quantity in _UNITS else ""
    log_axis(plot, "x", f"measured{unit}", ends)
    log_axis(plot, "y", f"simulated{unit}", ends)
    plot.update_layout(margin={"l": 52, "b": 40})
    return Panel(f"validation-{quantity}", f"{TITLES[quantity]}: simulated against measured", plot)


def _error_panel(rows: Sequence[Mapping[str, Any]], quantity: str, styles: Mapping[str, Series]) -> Panel:
    """How far off the simulation is over the number of users; systems stand side by side."""
    plot = empty_plot(height=300)
    loads = sorted({int(row["users"]) for row in rows})
    systems = _systems(rows)
    for slot, mine in enumerate(systems.values()):
        aside = (slot - (len(systems) - 1) / 2) * 0.7 / len(systems)
        places = [loads.index(row["users"]) + aside for row in mine]
        _marks(plot, mine, places, quantity, "error", ("error_low", "error_high"), styles)
    plot.add_hline(y=0, line={"width": 1, "dash": "dot"})
    plot.update_xaxes(
        title_text="users", tickvals=list(range(len(loads))), ticktext=[str(n) for n in loads],
        range=[-0.6, len(loads) - 0.4],
    )  # fmt: skip
    plot.update_yaxes(title_text="error", tickformat="+.0%", rangemode="tozero")
    plot.update_layout(margin={"l": 52, "b": 40})
    return Panel(f"validation-{quantity}-error", f"{TITLES[quantity]}: error", plot)


def _marks(
    plot: go.Figure,
    rows: Sequence[Mapping[str, Any]],
    x: Sequence[float],
    quantity: str,
    y: str,
    ends: tuple[str, str],
    styles: Mapping[str, Series],
) -> None:
    """A system's points with their whiskers."""
    colour, symbol = style_of(rows[0]["drafter"], styles)
    low, high = ([row[end] for row in rows] for end in ends)
    values = [row[y] for row in rows]
    bars = {
        "array": [None if h is None else h - v for h, v in zip(high, values, strict=True)],
        "arrayminus": [None if n is None else v - n for n, v in zip(low, values, strict=True)],
    }
    plot.add_scatter(
        x=list(x), y=values, mode="markers", meta="measured", hoverinfo="text",
        marker={"color": colour, "symbol": _symbol(rows[0], symbol), "size": 8, "line": {"width": 1.3, "color": colour}},
        error_y={"type": "data", "symmetric": False, "width": 2, "thickness": 1.2, "color": colour, **bars},
        hovertext=[_hover(row, quantity) for row in rows],
    )  # fmt: skip


def _hover(row: Mapping[str, Any], quantity: str) -> str:
    said = f"{who(row)}, {counted(row['users'], 'user')}: "
    if row["measured"] is None:
        return f"{said}{TITLES[quantity]} predicted {row['error']:+.1%} off"
    return f"{said}measured {row['measured']:.4g}, simulated {row['simulated']:.4g} ({row['error']:+.1%})"


def _summary(points: pl.DataFrame) -> Table:
    """How far off every quantity is."""
    rows = []
    for row in errors(points).to_dicts():
        cells = [Cell(TITLES[row["quantity"]], row["quantity"]), _share(row["mean_absolute"]), _share(row["mean"], "+")]
        cells += [_share(row["worst"]), _share(row["same_prompts"])]
        inside = Cell(f"{row['inside']} of {row['known']}", row["inside"] / row["known"]) if row["known"] else Cell("–")
        rows.append(([*cells, inside], False))
    heads = [("quantity", ""), ("error", "mean absolute"), ("error", "mean"), ("error", "worst, absolute")]
    return Table(
        [*heads, ("error", "same prompts"), ("within", "95 % of simulations")], [rows],
        "Shares of the measured value, over all points. Same prompts: simulated from the very prompts that were served, so "
        "that their choice is no excuse. Step time: what the profile predicts for the steps that were run, against their "
        "measured seconds.",
    )  # fmt: skip


def _share(value: float | None, sign: str = "") -> Cell:
    return Cell("–") if value is None else Cell(f"{value:{sign}.1%}", round(value, 5))


def _points(points: pl.DataFrame) -> Table:
    """Every point: measured, then simulated and its error."""
    there = [quantity for quantity in TITLES if quantity in points["quantity"]]
    cells = {(who(row), row["users"], row["quantity"]): row for row in points.to_dicts()}
    rows = []
    for name, users in dict.fromkeys((who(row), row["users"]) for row in points.to_dicts()):
        found = [cells.get((name, users, quantity)) for quantity in there]
        rows.append(([Cell(name, name), Cell(str(users), users), *map(_point, found)], False))
    heads = [(TITLES[q].partition(",")[0], _UNITS.get(q, "")) for q in there]
    return Table(
        [("drafter, policy", ""), ("users", ""), *heads], [rows],
        "Measured, and small beside it how far off the simulation is; * measured outside of the simulations' 95 %.",
    )  # fmt: skip


def _point(row: Mapping[str, Any] | None) -> Cell:
    if row is None or row["error"] is None:
        return Cell("–")
    if row["measured"] is None:
        return Cell(f"{row['error']:+.1%}", round(row["error"], 5))
    form = ",.0f" if row["measured"] >= 100 else ".2f"
    star = "*" if row["inside"] is False else ""
    interval = "" if row["low"] is None else f", 95 % {row['low']:{form}} to {row['high']:{form}}"
    hint = f"simulated {row['simulated']:{form}}{interval}; {counted(row['requests'], 'request')} answered live"
    return Cell(f"{row['measured']:{form}}", round(row["measured"], 4), f"{row['error']:+.1%}{star}", hint)
