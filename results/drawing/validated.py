"""The section of a validation: simulated against measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from results.drawing.common import whiskers
from results.figures.validated import QUANTITIES
from results.look import STYLES, SYMBOLS, Series
from results.page import Figure, LegendEntry, Panel, Section, empty_plot

_TITLES: Final = {
    "throughput": "throughput, tokens/s",
    "tps": "tokens/s of a user",
    "tau": "τ, tokens per round",
    "budget": "tokens verified per request and step",
}


def section(points: pl.DataFrame, series: Sequence[Series]) -> Section:
    """Every point of a live engine beside its simulation."""
    looks = {s.drafter: (s.colour, s.symbol) for s in reversed(series)}
    there = [quantity for quantity in QUANTITIES if quantity in points["quantity"]]
    panels = [_panel(points.filter(quantity=quantity).to_dicts(), quantity, looks) for quantity in there]
    known = points.filter(pl.col("inside").is_not_null())
    inside = known["inside"].sum()
    share = f"{inside} of {known.height} measured values lie within their intervals. " if known.height else ""
    drawn = {drafter: _look(drafter, looks) for drafter in points["drafter"].unique(maintain_order=True)}
    legend = [LegendEntry(drafter, SYMBOLS[symbol], colour) for drafter, (colour, symbol) in drawn.items()]
    return Section(
        "validation", "Simulated against measured",
        "A live engine was put under load, and the same load simulated from the traces of other prompts.",
        Figure(
            legend, panels,
            f"{share}On the dotted diagonal the simulation is right; whiskers are 95 % of simulations, prompts drawn anew "
            "in each.",
        ),
        (), ["measured", "simulated"], points,
    )  # fmt: skip


def _look(drafter: str, looks: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    return looks.get(drafter) or STYLES.get(drafter, STYLES["none"])


def _panel(rows: Sequence[Mapping[str, Any]], quantity: str, looks: Mapping[str, tuple[str, str]]) -> Panel:
    plot = empty_plot(height=300)
    ends = [v for row in rows for name in ("measured", "simulated", "low", "high") if (v := row[name]) is not None]
    low, high = (min(ends), max(ends)) if ends else (0, 1)
    plot.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"width": 1, "dash": "dot"})
    for drafter in dict.fromkeys(row["drafter"] for row in rows):
        mine = [row for row in rows if row["drafter"] == drafter]
        colour, symbol = _look(drafter, looks)
        plot.add_scatter(
            x=[row["measured"] for row in mine], y=[row["simulated"] for row in mine], mode="markers", meta="measured",
            marker={"color": colour, "symbol": symbol, "size": 8}, hoverinfo="text",
            error_y=whiskers(mine, "simulated") | {"thickness": 1.2, "color": colour},
            hovertext=[f"{drafter} {row['policy']}, {row['users']} users: measured {row['measured']:.4g}, simulated "
                       f"{row['simulated']:.4g}" + ("" if row["error"] is None else f" ({row['error']:+.1%})")
                       for row in mine],
        )  # fmt: skip
    plot.update_xaxes(title_text="measured")
    plot.update_yaxes(title_text="simulated")
    plot.update_layout(margin={"l": 52, "b": 40})
    return Panel(f"validation-{quantity}", _TITLES[quantity], plot)
