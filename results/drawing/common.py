"""What the renderers share: lines, whiskers, and what a drafter's numbers say when pointed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from results.look import MANNERS, Evidence


def listed(items: Sequence[str]) -> str:
    """As one writes a list in a sentence."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def whiskers(rows: Sequence[Mapping[str, Any]], value: str) -> dict[str, Any]:
    """Plotly's asymmetric error bars from `low` and `high`; no whisker where there is no interval."""
    bounded = [row["low"] is not None for row in rows]
    return {
        "type": "data",
        "symmetric": False,
        "array": [row["high"] - row[value] if known else None for row, known in zip(rows, bounded, strict=True)],
        "arrayminus": [row[value] - row["low"] if known else None for row, known in zip(rows, bounded, strict=True)],
        "width": 2,
    }


def draw_line(
    plot: go.Figure,
    x: Sequence[Any],
    y: Sequence[Any],
    hover: Sequence[str],
    *,
    colour: str,
    symbol: str,
    evidence: Evidence,
    size: float = 7,
    **more: Any,
) -> None:
    """A line with markers in the manner of its evidence."""
    manner = MANNERS[evidence]
    settings: dict[str, Any] = {
        "mode": "lines+markers",
        "line": {"color": colour, "width": manner.width, "dash": manner.dash},
        "marker": {"symbol": f"{symbol}{manner.suffix}", "size": size, "color": colour, "line": {"width": 1.3}},
        "hoverinfo": "text",
        "hovertext": list(hover),
        "meta": evidence,
    }
    if not manner.suffix:
        settings["marker"]["line"] = {"width": 0}
    plot.add_scatter(x=list(x), y=list(y), **settings | more)


def bar_manner(colour: str, evidence: Evidence) -> dict[str, Any]:
    """A bar's marker: full, or hatched where no model was run."""
    pattern = MANNERS[evidence].pattern
    if not pattern:
        return {"color": colour, "line": {"width": 0}}
    return {
        "color": colour,
        "line": {"width": 1, "color": colour},
        "pattern": {"shape": pattern, "fillmode": "replace", "size": 6, "solidity": 0.45},
    }


def spread(row: Mapping[str, Any], name: str, form: str) -> str:
    """A value and its half width, for people."""
    value, half = row.get(name), row.get(f"{name}_half_width")
    if value is None:
        return "–"
    return f"{value:{form}}" + ("" if half is None else f" ± {half:{form}}")
