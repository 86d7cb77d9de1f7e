"""What a page is made of: sections of text, tables and figures."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import polars as pl

from results.figures.style import MANNERS, SYMBOLS, Evidence, Series

if TYPE_CHECKING:  # takes a second, and numbers need none of it
    import plotly.graph_objects as go


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
    published: Literal["plain", "faint"] = "plain"
    """How published values are shown: faint beside another model."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table."""

    text: str
    value: float | str | None = None
    """What sorting goes by; None comes last."""
    small: str = ""
    """A published value beside it."""
    hint: str = ""

    @classmethod
    def of(cls, value: float | None, form: str, digits: int = 5) -> Cell:
        """A figure in a format, sorted by so many digits; a dash where there is none."""
        return cls("–") if value is None else cls(f"{value:{form}}", round(value, digits))


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


def empty_plot(height: int) -> go.Figure:
    """An empty plot in the pages' manner; colours come from the page."""
    import plotly.graph_objects as go

    # At once: what is set one by one is checked against all of the rest each time.
    return go.Figure(
        layout={
            "template": "none", "height": height, "margin": {"l": 34, "r": 8, "t": 10, "b": 30}, "font": {"size": 12},
            "showlegend": False, "barmode": "overlay", "dragmode": False, "hovermode": "closest",
            "xaxis": {"fixedrange": True, "showgrid": False, "showline": True, "automargin": True},
            "yaxis": {"fixedrange": True, "automargin": True},
        }
    )  # fmt: skip


def entry(series: Series, label: str = "", evidence: Evidence | None = None) -> LegendEntry:
    """A drafter in a legend, drawn as its numbers are."""
    manner = MANNERS[evidence or series.evidence]
    hollow = bool(manner.suffix)
    return LegendEntry(label or series.label, SYMBOLS[series.symbol], series.colour, False, manner.legend, hollow)


def note(label: str, evidence: Evidence, *, symbol: str = "circle", line: bool = True) -> LegendEntry:
    """In a legend, what a manner of drawing stands for, in no drafter's colour."""
    return LegendEntry(label, SYMBOLS[symbol], None, False, MANNERS[evidence].legend if line else "", True, evidence)


def slug(name: str) -> str:
    """A name of ours as part of a link anchor."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def slugs(names: Sequence[str]) -> list[str]:
    """The same of names that users give, no two alike: one that would be another's, or nothing, has a digest."""
    simple = [slug(name) for name in names]
    return [
        short if simple.count(short) == 1 and (short or not name) else f"{short}-{_digest(name)}".strip("-")
        for name, short in zip(names, simple, strict=True)
    ]


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
