"""Self-contained HTML pages with Plotly figures that open offline: the frame of the report and of its relatives."""

from __future__ import annotations

import html
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
import polars as pl
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from results.figures.section import Figure, Panel, Section

_DIGITS: Final = 5
"""Significant digits of coordinates and of CSV files: more than any of them is known to."""
_FAINT: Final = 0.45
"""Opacity of published values of another model."""


def render_page(template: Path, drawn: Mapping[str, Figure], **context: Any) -> str:
    """One page: a template, the path of one that extends `page.html`, with figures and whatever else it names.

    Sections in the context bring their own figures and data.
    """
    sections: Sequence[Section] = context.setdefault("sections", [])
    every = [*drawn.values(), *(section.figure for section in sections)]
    specs = {panel.div_id: _spec(panel, figure) for figure in every for panel in figure.panels}
    data = {s.name: _columns(s.data) for s in sections if s.data is not None and not s.data.is_empty()}
    loader = jinja2.FileSystemLoader([template.parent, Path(__file__).parent])
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["prose"] = _prose
    return environment.get_template(template.name).render(
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


def _spec(panel: Panel, figure: Figure) -> dict[str, Any]:
    """A plot as JSON, its published values as the figure wants them."""
    spec: dict[str, Any] = _plain(_short(panel.plot.to_plotly_json()))
    for trace in spec["data"]:
        if trace.get("meta") == "published" and figure.published != "plain":
            trace["opacity"] = min(trace.get("opacity", 1), _FAINT)
    return spec


def _plain(value: Any) -> Any:
    """With all text as Plotly shows it unchanged, which takes it for markup; line breaks alone are ours."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return html.escape(value, quote=False).replace("&lt;br&gt;", "<br>") if isinstance(value, str) else value


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
