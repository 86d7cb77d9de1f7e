"""Throughput and verification budget against load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from results.figures.common import log_axis
from results.figures.section import Figure, Panel, Section, empty_plot
from results.figures.style import Series
from results.figures.view import AXES, View, back_to_front, draw_published, draw_system, full_rows, legend_of_view


def section(view: View, colours: Mapping[str, Series]) -> Section | None:
    """A panel for what grows with the load, and one for the verification budget; None where one load alone was simulated.

    With users that is throughput. Where arrivals are given all that keeps up has one throughput, and a user's speed is told.
    """
    if len({row.load.size for system in view.systems for row in view.rows(system)} - {None}) < 2:
        return None
    column, name, unit = (
        ("throughput", "throughput", "tokens per second and GPU")
        if view.kind == "users"
        else ("tps", "speed of a user", "tokens per second of a user")
    )
    panels = []
    published = view.published if view.kind == "users" else ()
    wanted: list[tuple[Literal["fig8_throughput", "fig8_budget"], str, str, str]] = [
        ("fig8_throughput", column, name, unit),
        ("fig8_budget", "budget", "verification budget", "tokens verified per request and step"),
    ]
    for paper, shown, panel, title in wanted:
        plot = empty_plot(height=380)
        for model in published:
            draw_published(plot, paper, model, "requests", title)
        for system in back_to_front(view):
            draw_system(plot, view, system, colours, "load", shown)
        log_axis(plot, "x", AXES[view.kind], [r.load.size for r in full_rows(view)])
        if shown != "budget":
            log_axis(plot, "y", title, [getattr(r, shown) for r in full_rows(view)])
        else:
            plot.update_yaxes(rangemode="tozero", title_text=title)
        plot.update_layout(margin={"l": 56, "b": 44})
        panels.append(Panel(f"load-{shown}", panel, plot))
    columns = ["drafter", "gamma", "policy", "load", "load_x", "throughput", "throughput_half_width", "tps", "tau", "budget"]
    return Section(
        "load", f"{name.capitalize()} and verification budget against load",
        f"{view.where}: how much a {'GPU delivers' if view.kind == 'users' else 'user gets'}, and how many tokens of a "
        "request the target verifies in a step, the last one committed included.",
        Figure(
            legend_of_view(view, colours, published=bool(published)), panels,
            f"Where lines of {'throughput' if view.kind == 'users' else 'speed'} bend, the GPU is full. From there on a "
            "scheduler verifies less of each request; a fixed block does not, and pays for tokens that are rejected.",
        ),
        (), [*view.evidence, *(["published"] if published else [])],  # type: ignore[list-item]
        view.table(*columns, "wasted", "running"),
    )  # fmt: skip
