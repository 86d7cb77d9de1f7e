"""Latencies of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from results.figures.section import Figure, Panel, Section, empty_plot
from results.figures.style import Series
from results.figures.sweep import PERCENT
from results.figures.view import View
from simulator.load import Load

_LATENCIES: Final = {
    "ttft": ("time to first token, ms", 1e3),
    "tpot": ("time per token after it, ms", 1e3),
    "burst": ("time between bursts of tokens, ms", 1e3),
    "e2e": ("whole answer, s", 1.0),
}


def section(view: View, colours: Mapping[str, Series]) -> Section:
    """A panel for each latency: percentiles of every drafter at one load."""
    load = _latency_load(view)
    chosen = [s for s in view.leaders if any(r.load == load for r in view.rows(s))]
    panels = []
    for measure, (title, scale) in _LATENCIES.items():
        if chosen and not any(f"p50_{measure}" in r.quantiles for r in view.rows(chosen[0])):  # of an older database
            continue
        plot = empty_plot(height=70 + 44 * len(chosen))
        for place, system in enumerate(reversed(chosen)):
            s = view.series(system, colours)
            row = next(r for r in view.rows(system) if r.load == load)
            values = [row.quantiles.get(f"p{q}_{measure}") for q in (5, 50, 95, 99)]
            known = [v * scale for v in values if v is not None]
            if len(known) < len(values):
                continue
            low, middle, high, last = known
            text = f"{view.name(system)}: half below {middle:.3g}, 5 to 95 % {low:.3g} to {high:.3g}, 99 % {last:.3g}"
            plot.add_scatter(
                x=[low, middle, high, last], y=[place] * 4, mode="lines+markers", meta="simulated",
                line={"color": s.colour, "width": 3}, hoverinfo="text", hovertext=[text] * 4,
                marker={"color": s.colour, "opacity": 1,
                        "symbol": ["line-ns-open", s.symbol, "line-ns-open", "line-ns-open"],
                        "size": [8, 10, 8, 5], "line": {"width": [2, 0, 2, 2]}},
            )  # fmt: skip
        plot.update_yaxes(
            tickvals=list(range(len(chosen))), ticktext=[view.name(s).replace(" ", "<br>", 1) for s in reversed(chosen)],
            range=[-0.6, len(chosen) - 0.4], tickfont_size=11,
        )  # fmt: skip
        plot.update_xaxes(rangemode="tozero")
        panels.append(Panel(f"latency-{measure}", title, plot))
    columns = [f"p{q}_{m}" for m in ("ttft", "tpot", "burst", "e2e", "tps") for q in PERCENT]
    return Section(
        "latency", "Latencies of requests",
        f"{view.where} at {load.label}, every drafter with its best policy"
        + ("; other loads are in the CSV." if len({row.load for row in view.points}) > 1 else "."),
        Figure(
            (), panels, "A mark is the median, the line runs from 5 to 95 % of requests, or of bursts, and on to 99 %: what "
            "users wait for is at the right ends. A burst is what a round commits: a client that streams sees its tokens "
            "together.",
        ),
        (), view.evidence, view.table("drafter", "gamma", "policy", "load", "load_x", *columns),
    )  # fmt: skip


def _latency_load(view: View) -> Load:
    """Where the best system is when it delivers most within the bounds; else the highest load there is."""
    if view.capacities:
        return view.capacities[0].near.load
    return max((row.load for s in view.leaders for row in view.rows(s)), key=lambda load: load.size or 0)
