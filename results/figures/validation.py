"""A validation: a live engine under load beside its simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import duckdb
import polars as pl

from results.figures.common import by_drafter, log_axis, style_of
from results.figures.section import Cell, Figure, LegendEntry, Panel, Section, Table, empty_plot
from results.figures.style import SYMBOLS, Series
from results.store.validations import Validation, ValidationPoint, read_validation
from simulator.configuration import System
from simulator.numbers import counted
from simulator.policies import NO_DRAFTER

if TYPE_CHECKING:  # takes a second, and numbers need none of it
    import plotly.graph_objects as go

QUANTITIES: Final = ("throughput", "tps", "tau", "budget")
STEP: Final = "step"
"""Another quantity, known by its error alone: predicted over measured seconds of the steps that ran live, less 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A quantity of a point, measured and simulated."""

    point: ValidationPoint
    quantity: str
    measured: float | None = None
    simulated: float | None = None
    low: float | None = None
    high: float | None = None
    same_prompts: float | None = None
    error: float
    """Simulated over measured, less 1."""

    def off(self, value: float | None) -> float | None:
        """The same of another value that was simulated."""
        return None if value is None or self.measured is None else value / self.measured - 1

    @property
    def inside(self) -> bool | None:
        """Whether what was measured lies between low and high."""
        if self.low is None or self.high is None or self.measured is None:
            return None
        return self.low <= self.measured <= self.high

    @property
    def who(self) -> str:
        """Drafter and policy, for people."""
        system = self.point.system
        return "none" if system.policy == NO_DRAFTER else f"{system.drafter} {system.policy}"


def compared(found: Validation) -> list[Compared]:
    """Every quantity of every point; of 'step' there is the error alone."""
    made = []
    for point in found.points:
        for name in QUANTITIES:
            measured, simulated = point.measured.get(name), point.simulated.get(name)
            if measured and simulated is not None:
                made.append(Compared(
                    point=point, quantity=name, measured=measured, simulated=simulated, low=point.low.get(name),
                    high=point.high.get(name), same_prompts=point.same_prompts.get(name), error=simulated / measured - 1,
                ))  # fmt: skip
        if (step := point.step_errors.get("step")) is not None:
            made.append(Compared(point=point, quantity=STEP, error=step))
    return made


def validated(con: duckdb.DuckDBPyConnection, validation_id: str) -> pl.DataFrame:
    """Every quantity of every point, measured and simulated, as a table to take away.

    Columns: run, engine, drafter, gamma, policy, confidences, users, requests (answered live), quantity ('throughput' in
    tokens per second, 'tps' of a user, 'tau', 'budget', 'step'), measured, simulated, low, high (95 % of replicates, prompts
    redrawn), same_prompts (simulated from the live prompts' own traces), error (simulated over measured, less 1), error_low
    and error_high (the same of low and high), same_error (of same_prompts), inside (whether measured lies between low and
    high). Of 'step' there is the error alone.
    """
    found = read_validation(con, validation_id)
    return frame(found, compared(found))


def frame(found: Validation, every: Sequence[Compared]) -> pl.DataFrame:
    """The table of `validated`."""
    values = ("quantity", "measured", "simulated", "low", "high", "same_prompts", "error", "inside")
    rows = [
        {"run": found.run_id, "engine": found.engine, **one.point.system.row(), "users": one.point.users,
         "requests": one.point.requests, **{name: getattr(one, name) for name in values}, "error_low": one.off(one.low),
         "error_high": one.off(one.high), "same_error": one.off(one.same_prompts)}
        for one in every
    ]  # fmt: skip
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


def section(found: Validation, series: Sequence[Series]) -> Section:
    """Every point of a live engine beside its simulation."""
    styles, every = by_drafter(series, found.run_id), compared(found)
    of = {quantity: [one for one in every if one.quantity == quantity] for quantity in TITLES}
    of = {quantity: some for quantity, some in of.items() if some}
    panels = [_scatter(some, styles) for some in list(of.values())[:1]] + [
        _error_panel(some, styles) for some in of.values()
    ]
    points = frame(found, every)
    figure = Figure(_legend(every, styles), panels, _caption(every))
    if not panels:
        figure = Figure(missing=f"Validation {found.validation_id} holds no measured value to compare.")
    return Section(
        "validation", "Simulated against measured",
        f"A live engine ({found.engine}) served {counted(found.live_prompts, 'prompt')} in turn, in {len(found.points)} "
        f"combinations of drafter, policy and load, {found.seconds / 60:.0f} minutes in all. The same was then simulated "
        f"from the traces of {found.trace_prompts} other prompts, on the "
        f"profile {found.profile.name} ({found.profile.source}).",
        figure, [_summary(points), _points(every, list(of))] if panels else [], ["measured", "simulated"], points,
    )  # fmt: skip


def _caption(every: Sequence[Compared]) -> str:
    known = [one.inside for one in every if one.inside is not None]
    share = f" {sum(known)} of {len(known)} measured values do lie within." if known else ""
    return (
        "On the dotted lines the simulation is right, above them it says more than was measured: an error of +10% is "
        "a tenth too much. Whiskers are 95 % of simulations, "
        f"prompts drawn anew in each: where one does not reach the line, chance does not explain the error.{share}"
    )


def _systems(some: Sequence[Compared]) -> list[list[Compared]]:
    """A quantity's points by drafter and policy, in order of users."""
    found: dict[str, list[Compared]] = {}
    for one in sorted(some, key=lambda one: one.point.users):
        found.setdefault(one.who, []).append(one)
    return list(found.values())


def _look(system: System, styles: Mapping[str, Series]) -> tuple[str, str, bool]:
    """Colour, symbol, and whether it is hollow: where what is verified varies, so that a drafter's policies differ."""
    return (*style_of(system.drafter, styles), system.policy.k is None)


def _legend(every: Sequence[Compared], styles: Mapping[str, Series]) -> list[LegendEntry]:
    entries = []
    for who, system in {one.who: one.point.system for one in every}.items():
        colour, symbol, hollow = _look(system, styles)
        entries.append(LegendEntry(who, SYMBOLS[symbol], colour, hollow=hollow))
    return entries


def _scatter(some: Sequence[Compared], styles: Mapping[str, Series]) -> Panel:
    """Simulated over measured, with the diagonal."""
    plot, quantity = empty_plot(height=300), some[0].quantity
    ends = [v for one in some for v in (one.measured, one.simulated, one.low, one.high) if v is not None]
    line = {"x0": min(ends), "y0": min(ends), "x1": max(ends), "y1": max(ends)}
    plot.add_shape(type="line", **line, line={"width": 1, "dash": "dot"})
    for mine in _systems(some):
        _marks(plot, mine, [(one.measured, one.simulated, one.low, one.high) for one in mine], styles)
    unit = f", {_UNITS[quantity]}" if quantity in _UNITS else ""
    log_axis(plot, "x", f"measured{unit}", ends)
    log_axis(plot, "y", f"simulated{unit}", ends)
    plot.update_layout(margin={"l": 52, "b": 40})
    return Panel(f"validation-{quantity}", f"{TITLES[quantity]}: simulated against measured", plot)


def _error_panel(some: Sequence[Compared], styles: Mapping[str, Series]) -> Panel:
    """How far off the simulation is over the number of users; systems stand side by side."""
    plot, quantity = empty_plot(height=300), some[0].quantity
    loads = sorted({one.point.users for one in some})
    systems = _systems(some)
    for slot, mine in enumerate(systems):
        aside = (slot - (len(systems) - 1) / 2) * 0.7 / len(systems)
        at = [(loads.index(one.point.users) + aside, one.error, one.off(one.low), one.off(one.high)) for one in mine]
        _marks(plot, mine, at, styles)
    plot.add_hline(y=0, line={"width": 1, "dash": "dot"})
    plot.update_xaxes(
        title_text="users", tickvals=list(range(len(loads))), ticktext=[str(n) for n in loads],
        range=[-0.6, len(loads) - 0.4],
    )  # fmt: skip
    plot.update_yaxes(title_text="error", tickformat="+.0%", rangemode="tozero")
    plot.update_layout(margin={"l": 52, "b": 40})
    return Panel(f"validation-{quantity}-error", f"{TITLES[quantity]}: error", plot)


def _marks(
    plot: go.Figure, mine: Sequence[Compared], at: Sequence[tuple[float | None, ...]], styles: Mapping[str, Series]
) -> None:
    """A system's points with their whiskers, each at (x, y, low, high)."""
    colour, symbol, hollow = _look(mine[0].point.system, styles)
    bars = {
        "array": [None if y is None or high is None else high - y for _, y, _, high in at],
        "arrayminus": [None if y is None or low is None else y - low for _, y, low, _ in at],
    }
    mark = {"color": colour, "symbol": f"{symbol}-open" if hollow else symbol, "size": 8}
    plot.add_scatter(
        x=[x for x, *_ in at], y=[y for _, y, *_ in at], mode="markers", meta="measured", hoverinfo="text",
        marker={**mark, "line": {"width": 1.3, "color": colour}},
        error_y={"type": "data", "symmetric": False, "width": 2, "thickness": 1.2, "color": colour, **bars},
        hovertext=[_hover(one) for one in mine],
    )  # fmt: skip


def _hover(one: Compared) -> str:
    said = f"{one.who}, {counted(one.point.users, 'user')}: "
    if one.measured is None:
        return f"{said}{TITLES[one.quantity]} predicted {one.error:+.1%} off"
    return f"{said}measured {one.measured:.4g}, simulated {one.simulated:.4g} ({one.error:+.1%})"


def _summary(points: pl.DataFrame) -> Table:
    """How far off every quantity is."""
    rows = []
    for row in errors(points).to_dicts():
        cells = [
            Cell(TITLES[row["quantity"]], row["quantity"]),
            Cell.of(row["mean_absolute"], ".1%"),
            Cell.of(row["mean"], "+.1%"),
        ]
        cells += [Cell.of(row["worst"], ".1%"), Cell.of(row["same_prompts"], ".1%")]
        inside = Cell(f"{row['inside']} of {row['known']}", row["inside"] / row["known"]) if row["known"] else Cell("–")
        rows.append(([*cells, inside], False))
    heads = [("quantity", ""), ("error", "mean absolute"), ("error", "mean"), ("error", "worst, absolute")]
    return Table(
        [*heads, ("error", "same prompts"), ("within", "95 % of simulations")], [rows],
        "Shares of the measured value, over all points. Same prompts: simulated from the very prompts that were served, so "
        "that their choice is no excuse. Step time: what the profile predicts for the steps that were run, against their "
        "measured seconds.",
    )  # fmt: skip


def _points(every: Sequence[Compared], there: Sequence[str]) -> Table:
    """Every point: measured, then simulated and its error."""
    cells = {(one.who, one.point.users, one.quantity): one for one in every}
    rows = []
    for name, users in dict.fromkeys((one.who, one.point.users) for one in every):
        found = [cells.get((name, users, quantity)) for quantity in there]
        rows.append(([Cell(name, name), Cell(str(users), users), *map(_point, found)], False))
    heads = [(TITLES[q].partition(",")[0], _UNITS.get(q, "")) for q in there]
    return Table(
        [("drafter, policy", ""), ("users", ""), *heads], [rows],
        "Measured, and small beside it how far off the simulation is; * measured outside of the simulations' 95 %.",
    )  # fmt: skip


def _point(one: Compared | None) -> Cell:
    if one is None:
        return Cell("–")
    if one.measured is None:
        return Cell.of(one.error, "+.1%")
    form = ",.0f" if one.measured >= 100 else ".2f"
    star = "*" if one.inside is False else ""
    interval = "" if one.low is None else f", 95 % {one.low:{form}} to {one.high:{form}}"
    hint = f"simulated {one.simulated:{form}}{interval}; {counted(one.point.requests, 'request')} answered live"
    return Cell(f"{one.measured:{form}}", round(one.measured, 4), f"{one.error:+.1%}{star}", hint)
