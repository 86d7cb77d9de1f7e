"""Self-contained HTML pages with Plotly figures that open offline: the frame of the report and of its relatives."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

SYMBOLS: Final[Mapping[str, str]] = {
    "circle": "M-6,0a6,6 0 1,0 12,0a6,6 0 1,0 -12,0",
    "square": "M-5.5,-5.5h11v11h-11Z",
    "diamond": "M0,-7.5L7.5,0L0,7.5L-7.5,0Z",
    "triangle-up": "M0,-6.5L7,5.5H-7Z",
    "triangle-down": "M0,6.5L7,-5.5H-7Z",
    "hexagon": "M0,-7L6,-3.5V3.5L0,7L-6,3.5V-3.5Z",
    "cross": "M-2.5,-6.5h5v4h4v5h-4v4h-5v-4h-4v-5h4Z",
    "hourglass": "M-6,-6.5H6L-6,6.5H6Z",
}
"""Plotly's symbol → the same shape as an SVG path for legends."""

STYLES: Final[Mapping[str, tuple[str, str]]] = {
    "dspark": ("#1A80C4", "circle"),
    "dflash": ("#E69F00", "square"),
    "eagle3": ("#009E73", "diamond"),
    "mtp": ("#CC79A7", "triangle-up"),
    "ngram": ("#D55E00", "triangle-down"),
    "none": ("#808890", "hexagon"),
}
"""Kind of drafter → colour and symbol, in report order. Okabe and Ito's colours, which colour-blind readers tell apart,
the blue lightened to stand out from a dark page too."""


@dataclass(frozen=True, slots=True)
class LegendEntry:
    label: str
    path: str
    """SVG path within ±8."""
    colour: str | None
    """None draws a hollow shape: a published value."""
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    div_id: str
    title: str
    plot: go.Figure


@dataclass(frozen=True, slots=True)
class Figure:
    """A legend, plots side by side and the sentence that says what to see; or what is missing instead."""

    legend: Sequence[LegendEntry] = ()
    panels: Sequence[Panel] = ()
    caption: str = ""
    missing: str = ""


def render_page(template: str, drawn: Mapping[str, Figure], **context: Any) -> str:
    """One page: a template that extends `page.html`, with figures and whatever else it names."""
    specs = {panel.div_id: panel.plot.to_plotly_json() for figure in drawn.values() for panel in figure.panels}
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(
        **context,
        **drawn,
        plotly_js=get_plotlyjs(),
        # Inside a script element only "<" could end it; JSON may write it as an escape anywhere.
        figures=json.dumps(specs).replace("<", "\\u003c"),
    )


def write_page(page: str, file: Path) -> None:
    """Whole or not at all."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def empty_plot(height: int) -> go.Figure:
    """An empty plot in the pages' manner; colours come from the page."""
    plot = go.Figure()
    plot.update_layout(
        template="none",
        height=height,
        margin={"l": 34, "r": 8, "t": 10, "b": 30},
        font={"size": 12},
        showlegend=False,
        barmode="overlay",
        dragmode=False,
        hovermode="closest",
    )
    plot.update_xaxes(fixedrange=True, showgrid=False, showline=True, automargin=True)
    plot.update_yaxes(fixedrange=True, automargin=True)
    return plot
