"""Step time by part over load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from results.figures import step_time
from results.figures import sweep as sweep_figure
from results.figures.common import bar_manner
from results.figures.section import Figure, LegendEntry, Panel, Section, empty_plot, slugs
from results.figures.style import PARTS
from results.figures.sweep import baseline, by_system, point_columns
from results.figures.view import AXES, View
from results.store.simulations import Simulation
from simulator.configuration import System


def parts(points: Sequence[Simulation], chosen: Sequence[System]) -> pl.DataFrame:
    """Milliseconds of a step by part for some systems, one row a load and part.

    Columns: drafter, gamma, policy, confidences, load, load_x, part, ms, share.
    """
    rows, rows_of = [], by_system(points)
    for system in chosen:
        for row in rows_of.get(system, []):
            whole = step_s(row)
            rows += [
                {**point_columns(row), "part": part, "ms": 1e3 * s, "share": s / whole}
                for part in PARTS
                if (s := row.step_s.get(part)) is not None and whole > 0
            ]
    schema: dict[str, Any] = {"drafter": pl.String, "gamma": pl.Int64, "policy": pl.String, "confidences": pl.String}
    schema |= {"load": pl.String, "load_x": pl.Float64, "part": pl.String, "ms": pl.Float64, "share": pl.Float64}
    return pl.DataFrame(rows, schema=schema)


def section(view: View) -> Section:
    """A panel for each of a few systems: milliseconds of a step by part."""
    chosen = _worth_a_panel(view)
    panels, data = [], step_time.parts(view.points, chosen)
    rows_of = {system: view.rows(system) for system in chosen}
    top = 1e3 * max((step_s(row) for rows in rows_of.values() for row in rows), default=0)
    names = dict(zip(rows_of, slugs([view.name(system) for system in rows_of]), strict=True))
    for system, rows in rows_of.items():
        plot = empty_plot(height=270)
        plot.update_layout(barmode="stack")
        for part, colour in PARTS.items():
            ms = [None if (s := row.step_s.get(part)) is None else 1e3 * s for row in rows]
            plot.add_bar(
                x=[f"{row.load.size:g}" if row.load.size else row.load.label for row in rows], y=ms,
                marker=bar_manner(colour, "simulated"), hoverinfo="text", meta="simulated",
                hovertext=[f"{view.name(system)}, {row.load.label}: {part} {value or 0:.2f} ms of {1e3 * step_s(row):.2f}"
                           for row, value in zip(rows, ms, strict=True)],
            )  # fmt: skip
        plot.update_xaxes(type="category", title_text=AXES[view.kind], tickangle=0, tickfont_size=10)
        plot.update_yaxes(range=[0, 1.05 * top], title_text="ms per step")
        plot.update_layout(margin={"l": 44, "b": 40})
        panels.append(Panel(f"step-time-{names[system]}", view.name(system), plot))
    legend = [LegendEntry(part, "M-7,-6h14v12h-14Z", colour) for part, colour in PARTS.items()]
    return Section(
        "step-time", f"Step time by part{' over load' if len({row.load for row in view.points}) > 1 else ''}",
        f"{view.where}: a step drafts for every running request, then passes all their tokens through the target "
        "once. Attention is the target's reading of contexts, overhead the host's and the scheduler's.",
        Figure(
            legend, panels, "Drafting pays as long as the target's part hardly grows; once it grows with the tokens "
            "verified, every rejected one is paid for.",
        ),
        (), view.evidence, data,
    )  # fmt: skip


def _worth_a_panel(view: View) -> list[System]:
    """The best system, the whole block verified always, MTP-1 and no speculation."""
    every = sweep_figure.systems(view.points, bounds=False)
    best = view.leaders[:1]
    leading = {(s.recording.drafter, s.recording.gamma) for s in best}
    same = [s for s in every if (s.recording.drafter, s.recording.gamma) in leading]
    block = [s for s in same if s.policy.k == s.recording.gamma]
    found = [baseline(view.capacities, kind) for kind in ("mtp", "none")]
    chosen = [*best, *block, *(c.system for c in found if c is not None), *view.leaders]
    return list(dict.fromkeys(chosen))[:4]


def step_s(row: Simulation) -> float:
    """Seconds of a step, all parts."""
    return sum(row.step_s.get(part) or 0.0 for part in PARTS)
