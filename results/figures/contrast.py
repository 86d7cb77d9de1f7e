"""Policies against one of them: what each gives more at every load, in the same draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from results.figures.common import draw_line, log_axis, whiskers
from results.figures.section import Cell, Figure, Panel, Section, Table, empty_plot, entry
from results.figures.style import Series
from results.figures.view import AXES, View
from results.store.contrasts import Contrast
from simulator.configuration import System
from simulator.decision import FIGURES, Range

_DASHES: Final = ("solid", "dash", "dot", "dashdot")
"""Policies of one drafter, which have its colour in common."""


def section(view: View, found: Sequence[Contrast], colours: Mapping[str, Series]) -> Section:
    """A line for every policy over the loads, with whiskers that hold everything that is unsure."""
    against = found[0].against
    data = pl.DataFrame([_row(one) for one in found], infer_schema_length=None)
    return Section(
        "contrast", f"Against {against}", f"{view.where}: what every policy gives more than {against}, load by load.",
        _figure(view, [one for one in found if _kind(one) == view.kind and one.gain is not None and one.load.size], colours),
        [_table(view, found)], view.evidence, data,
    )  # fmt: skip


def _kind(one: Contrast) -> str:
    return "users" if one.load.users is not None else "rate" if one.load.rate_per_s is not None else "arrivals"


def _figure(view: View, drawn: Sequence[Contrast], colours: Mapping[str, Series]) -> Figure:
    """The loads of the kind that most points have."""
    if not drawn:
        return Figure(missing="No loads that lie on an axis were compared.")
    against, plot, systems = drawn[0].against, empty_plot(height=380), list(dict.fromkeys(c.candidate.system for c in drawn))
    plot.add_hline(y=0, line={"width": 1.2, "dash": "dot"})
    for i, system in enumerate(systems):
        rows, s = [_row(one) for one in drawn if one.candidate.system == system], view.series(system, colours)
        before = sum(other.recording.drafter == system.recording.drafter for other in systems[:i])
        draw_line(
            plot, [row["load_x"] for row in rows], [row["gain"] for row in rows],
            [f"{view.name(system)}, {row['load']}<br>{row['gain']:+.1%} ({row['low']:+.1%} to {row['high']:+.1%})"
             for row in rows],
            colour=s.colour, symbol=s.symbol, evidence="simulated", error_y=whiskers(rows, "gain"),
            line={"color": s.colour, "width": 2, "dash": _DASHES[before % len(_DASHES)]},
        )  # fmt: skip
    log_axis(plot, "x", AXES[view.kind], [one.load.size for one in drawn])
    plot.update_yaxes(title_text=f"{FIGURES[drawn[0].figure]}, against {against}", tickformat="+.0%")
    plot.update_layout(margin={"l": 64, "b": 44})
    draws = min(one.draws for one in drawn)
    caption = (
        f"Above the dotted line it gives more than {against} on the same recording. Both saw the same prompts, seeds and "
        f"errors of the profile in each of {draws} draws; whiskers hold 95 % of what came of them."
    )
    return Figure([entry(view.series(s, colours)) for s in systems], [Panel("contrast-plot", "", plot)], caption)


def _row(one: Contrast) -> dict[str, Any]:
    r, gain = one.candidate.recording, one.gain
    return {
        "drafter": r.drafter, "gamma": r.gamma, "policy": str(one.candidate.policy), "against": str(one.against),
        "load": one.load.label, "load_x": one.load.size, "figure": one.figure, "draws": one.draws,
        "gain": gain and gain.all.value, "low": gain and gain.all.low, "high": gain and gain.all.high,
        "held_low": gain and gain.held.low, "held_high": gain and gain.held.high,
    }  # fmt: skip


def _table(view: View, found: Sequence[Contrast]) -> Table:
    systems: dict[System, list[Contrast]] = {}
    for one in found:
        systems.setdefault(one.candidate.system, []).append(one)
    groups = [[(_cells(view, one), False) for one in own] for own in systems.values()]
    over = f"over {found[0].against}"
    heads = [("system", ""), ("load", ""), ("of", ""), ("gain", over), ("95 %", ""), ("95 %", "profile held")]
    return Table(heads, groups, "An interval that holds 0 shows no difference.")


def _cells(view: View, one: Contrast) -> list[Cell]:
    name = view.name(one.candidate.system)
    load = Cell(one.load.label, one.load.size), Cell(FIGURES[one.figure])
    if one.gain is None:
        return [Cell(name, name), *load, Cell("–"), Cell("–"), Cell("–")]
    ends = [Cell(_between(r), r.low) for r in (one.gain.all, one.gain.held)]
    return [Cell(name, name), *load, Cell(f"{one.gain.all.value:+.1%}", one.gain.all.value), *ends]


def _between(r: Range) -> str:
    return f"{r.low:+.1%} to {r.high:+.1%}"
