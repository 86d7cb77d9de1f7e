"""Self-contained HTML pages with Plotly figures that open offline: the frame of the report and of its relatives."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import jinja2
import plotly.graph_objects as go
import polars as pl
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from results.look import MANNERS, STYLES, SYMBOLS, Evidence, Series

__all__ = [
    "STYLES", "SYMBOLS", "Cell", "Figure", "LegendEntry", "Panel", "Section", "Table", "empty_plot", "entry", "note",
    "render_page", "slug", "write_page",
]  # fmt: skip

_DIGITS: Final = 5
"""Significant digits of coordinates and of CSV files: more than any of them is known to."""
_FAINT: Final = 0.45
"""Opacity of published values of another model."""


@dataclass(frozen=True, slots=True)
class LegendEntry:
    label: str
    path: str
    """SVG path within ±8."""
    colour: str | None
    """None draws a hollow shape: a published value."""
    dashed: bool = False
    line: str = ""
    """SVG path of a line through the shape."""
    hollow: bool = False
    layer: Evidence | None = None
    """Readers can hide and show what is of this kind, in all panels of the figure."""


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
    published: Literal["plain", "faint", "hidden"] = "plain"
    """How published values are shown at first: faint beside another model, hidden where they would only be in the way."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Of a table."""

    text: str
    value: float | str | None = None
    """What sorting goes by; None comes last."""
    small: str = ""
    """A published value beside it."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that readers can sort by a click on a column's head."""

    columns: Sequence[tuple[str, str]]
    """Head and small print under it; the first column names the rows."""
    groups: Sequence[Sequence[tuple[Sequence[Cell], bool]]]
    """Groups of rows: cells, and whether the row sums the others up."""
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One thing to see: text, tables, a figure, and the numbers behind it."""

    name: str
    """Link anchor, and the name of its files."""
    title: str
    lede: str
    """What is shown, in a sentence."""
    figure: Figure
    tables: Sequence[Table] = ()
    evidence: Sequence[Evidence] = ()
    data: pl.DataFrame | None = None
    """One row a point drawn."""
    remarks: Sequence[str] = field(default_factory=tuple)


def render_page(template: str, drawn: Mapping[str, Figure], **context: Any) -> str:
    """One page: a template that extends `page.html`, with figures and whatever else it names.

    Sections in the context bring their own figures and data.
    """
    sections: Sequence[Section] = context.setdefault("sections", [])
    every = [*drawn.values(), *(section.figure for section in sections)]
    specs = {panel.div_id: _spec(panel, figure) for figure in every for panel in figure.panels}
    data = {s.name: _columns(s.data) for s in sections if s.data is not None and not s.data.is_empty()}
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["prose"] = _prose
    return environment.get_template(template).render(
        **context, **drawn, plotly_js=get_plotlyjs(), figures=_json(specs), data=_json(data), downloads=set(data)
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


def entry(series: Series, label: str = "", evidence: Evidence | None = None) -> LegendEntry:
    """A drafter in a legend, drawn as its numbers are."""
    manner = MANNERS[evidence or series.evidence]
    hollow = bool(manner.suffix)
    return LegendEntry(label or series.label, SYMBOLS[series.symbol], series.colour, False, manner.legend, hollow)


def note(label: str, evidence: Evidence, *, symbol: str = "circle", line: bool = True) -> LegendEntry:
    """In a legend, what a manner of drawing stands for, in no drafter's colour."""
    return LegendEntry(label, SYMBOLS[symbol], None, False, MANNERS[evidence].legend if line else "", True, evidence)


def slug(name: str) -> str:
    """A name as part of a link anchor."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _spec(panel: Panel, figure: Figure) -> dict[str, Any]:
    """A plot as JSON, its published values as the figure wants them."""
    spec: dict[str, Any] = _short(panel.plot.to_plotly_json())
    for trace in spec["data"]:
        if trace.get("meta") == "published" and figure.published != "plain":
            trace["opacity"] = min(trace.get("opacity", 1), _FAINT)
            trace["visible"] = figure.published != "hidden"
    return spec


def _prose(text: str) -> Markup:
    """Text as markup, commands between backticks set as such."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _json(value: Any) -> str:
    """For a script element, which only "<" could end; JSON may write it as an escape anywhere."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _short(value: Any) -> Any:
    """With numbers of no more digits than are known, and null for what is no number."""
    if isinstance(value, Mapping):
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Iterable):
        return [_short(v) for v in value]
    return _short(value.item()) if hasattr(value, "item") else value


def _columns(frame: pl.DataFrame) -> dict[str, Any]:
    """A frame by column; lists as text."""
    return {name: _short([_flat(v) for v in frame[name].to_list()]) for name in frame.columns}


def _flat(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list) else value
