"""Throughput of a GPU against speed for a user, and what every system delivers within the bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from results.figures import sweep as sweep_figure
from results.figures.common import log_axis
from results.figures.section import Cell, Figure, Panel, Section, Table, empty_plot
from results.figures.style import Series
from results.figures.sweep import Capacity, baseline, gain
from results.figures.view import View, back_to_front, bound, draw_published, draw_system, full_rows, legend_of_view
from results.store.simulations import Simulation

LEDE = "every point is a load: more users, more throughput of a GPU and fewer tokens per second for each of them."


def section(view: View, colours: Mapping[str, Series]) -> Section:
    """Throughput against speed: every point is a load."""
    plot = empty_plot(height=460)
    for name in view.published:
        draw_published(plot, "fig7_frontier", name, "tokens/s of a user", "tokens/s/GPU")
    for system in back_to_front(view):
        draw_system(plot, view, system, colours, "tps", "throughput")
    lines = [sla for sla in view.slas if sla.measure == "tps" and sla.share is None]
    log_axis(plot, "x", "tokens per second of a user", [r.tps for r in full_rows(view)])
    log_axis(plot, "y", "tokens per second and GPU", [r.throughput for r in full_rows(view)])
    for sla in lines:
        plot.add_vline(x=sla.bound, line={"width": 1.2, "dash": "dot"})
        x = math.log10(sla.bound) if plot.layout.xaxis.type == "log" else sla.bound
        top = {"y": 1, "yref": "paper", "xanchor": "left", "yanchor": "top"}
        plot.add_annotation(x=x, text=f"  {bound(sla)}", showarrow=False, **top)
    plot.update_layout(margin={"l": 56, "b": 44})
    caption = (
        "Up and to the right is better; a line above another serves more at the same speed. Full lines are each drafter's "
        "best policy, thin ones its others."
    )
    if lines:
        caption += f" What lies left of the dotted line breaks {' and '.join(map(bound, lines))}."
    legend = legend_of_view(view, colours, published=bool(view.published))
    figure = Figure(legend, [Panel("frontier-plot", "", plot)], caption)
    return Section(
        "frontier", "Throughput against speed for a user", f"{view.where}: {LEDE}", figure, [_table(view)],
        [*view.evidence, *(["published"] if view.published else [])], view.table(),  # type: ignore[list-item]
    )  # fmt: skip


def _table(view: View) -> Table:
    """What every system delivers within the bounds."""
    bases = {kind: baseline(view.capacities, kind) for kind in ("mtp", "none")}
    rows = []
    for c in view.capacities:
        near = c.near
        half = "" if math.isnan(c.half_width) else f" ± {c.half_width:,.0f}"
        cells = [
            Cell(view.name(c.system), view.name(c.system)),
            Cell(f"{'≥ ' if view.slas else ''}{c.throughput:,.0f}{half}", round(c.throughput, 2)),
            *(_gain(c, base) for base in bases.values()),
            Cell(near.load.label, near.load.size),
            *([_broken(c)] if view.slas else []),
            *(_figure(near, name, form) for name, form in _COLUMNS.items()),
            Cell.of(near.wasted, ".0%", 4),
        ]
        rows.append((cells, False))
    heads = [("system", ""), ("tok/s/GPU", view.bounds), ("gain", "over MTP-1"), ("gain", "over none"), ("load", "")]
    heads += [("broken at", "tok/s/GPU there")] if view.slas else []
    return Table(
        [*heads, ("mean tok/s", "of a user"), ("τ", ""), ("budget", ""), ("wasted", "of verified")], [rows], _caption(view)
    )


def _caption(view: View) -> str:
    """What the table's figures are, and where other loads might change them."""
    if not view.slas:
        return "At the highest load that all were simulated at."
    able = {c.system for c in view.capacities}
    untold = sweep_figure.untold(view.points, view.slas)
    never = [view.name(s) for s in sweep_figure.systems(view.points, bounds=False) if s not in able and s not in untold]
    caption = (
        f"≥: the most throughput of the loads simulated that keep {view.bounds}, ± that load's own noise. Beside it is the "
        "next load that breaks it: where that delivers much more, loads between may too. Gains compare what was simulated."
    )
    caption += f" Within the bounds at no load simulated: {', '.join(never)}." if never else ""
    return caption + (f" Too few requests finished to tell: {', '.join(map(view.name, untold))}." if untold else "")


def _broken(c: Capacity) -> Cell:
    """The next load that breaks a bound, and the throughput there."""
    if c.broken is None:
        return Cell("–")
    return Cell(f"{c.broken.load.label} ({c.broken.throughput:,.0f})", c.broken.load.size)


_COLUMNS: Final = {"tps": ",.1f", "tau": ".2f", "budget": ".2f"}


def _figure(near: Simulation, name: str, form: str) -> Cell:
    value = getattr(near, name)
    return Cell("–") if value is None else Cell(near.told(name, form), round(value, 4))


def _gain(c: Capacity, base: Capacity | None) -> Cell:
    if base is None:
        return Cell("–")
    if base.system == c.system:
        return Cell("")
    value, half = gain(c, base)
    return Cell(f"{value:+.0%}" + ("" if math.isnan(half) else f" ± {half:.1%}"), round(value, 5))
