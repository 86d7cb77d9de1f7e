"""Sections of what was simulated: frontier, throughput and budget over load, step time by part, latencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import plotly.graph_objects as go
import polars as pl

from results.drawing.common import bar_manner, by_drafter, counted, draw_line, log_axis, spread
from results.figures import simulated as figures
from results.figures.run import Provenance
from results.figures.simulated import PAPER_LABEL, Capacity, Sweep, System
from results.look import PARTS, STYLES, Evidence, Series
from results.page import Cell, Figure, LegendEntry, Panel, Section, Table, empty_plot, entry, note, slug
from simulator.sla import Sla

_AXES: Final = {"users": "users at once", "rate": "requests per second", "arrivals": "recorded arrivals"}
_LATENCIES: Final = {
    "ttft": ("time to first token, ms", 1e3),
    "tpot": ("time per token after it, ms", 1e3),
    "e2e": ("whole answer, s", 1.0),
}


def bound(sla: Sla | str) -> str:
    """A bound as people read it."""
    return str(sla).replace(">=", " ≥ ").replace("<=", " ≤ ")


def promise(sla: Sla | str) -> str:
    """A bound in words, for who has not read the manual."""
    sla = Sla.parse(sla) if isinstance(sla, str) else sla
    if sla.measure == "tps":
        whom = "a user on average" if sla.quantile is None else f"{100 - sla.quantile:g} % of requests"
        return f"at least {sla.bound:g} tokens/s for {whom}"
    what = {"ttft": "to the first token", "tpot": "per token after the first", "e2e": "for a whole answer"}[sla.measure]
    whom = "on average" if sla.quantile is None else f"for {sla.quantile:g} % of requests"
    return f"at most {sla.bound:g} s {what} {whom}"


class View:
    """A sweep with everything its sections share: who is drawn how, and who leads."""

    def __init__(self, sweep: Sweep, points: pl.DataFrame, runs: Sequence[Provenance]) -> None:
        self.sweep, self.points = sweep, points
        self.slas = sweep.slas
        self.kinds = {d.name: d.kind for run in runs if run.run_id == sweep.run_id for d in run.drafters}
        self.capacities = figures.capacities(points, self.slas)
        self.leaders = figures.leaders(points, self.slas)
        self.kind = figures.main_kind(points)
        self.systems = figures.systems(points)
        self.every = figures.by_system(points)
        synthesised = any(r.run_id == sweep.run_id and r.prompt_source == "synthesised" for r in runs)
        self.evidence: list[Evidence] = ["simulated", *(["synthesised"] if synthesised else [])]  # type: ignore[list-item]
        sizes = {system[:2] for system in self.systems}
        self._several = {name for name, gamma in sizes if any(n == name and g != gamma for n, g in sizes)}

    def name(self, system: System) -> str:
        """As people call it."""
        drafter, gamma, policy, confidences = system
        if policy == "none":
            return "none"
        estimated = " (estimated)" if confidences == "estimated" else ""
        return f"{drafter}{f' γ={gamma}' if drafter in self._several else ''} {policy}{estimated}"

    def series(self, system: System, colours: Mapping[str, Series]) -> Series:
        """How it is drawn: as its drafter."""
        drafter, gamma, policy, _ = system
        if policy == "none":
            return Series(self.sweep.run_id, "none", 0, "none", "none", *STYLES["none"], "simulated")
        own = colours.get(drafter)
        style = (own.colour, own.symbol) if own else STYLES.get(self.kinds.get(drafter, drafter), STYLES["none"])
        kind = self.kinds.get(drafter, drafter)
        return Series(self.sweep.run_id, drafter, gamma, kind, self.name(system), *style, "simulated")

    @property
    def published(self) -> Literal["plain", "hidden"]:
        """Whether the paper's served systems are shown at first: where theirs is the model that was simulated."""
        return "plain" if "deepseek-v4" in str(self.sweep.profile.get("model", "")).lower() else "hidden"

    @property
    def where(self) -> str:
        """The hardware, and how far to trust it."""
        return f"On {self.sweep.profile['name']} ({self.sweep.profile.get('source', 'unknown')})"

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        return " and ".join(map(bound, self.slas))

    @property
    def promises(self) -> str:
        """The same for the first sentence."""
        return " and ".join(map(promise, self.slas))

    def rows(self, system: System) -> list[dict[str, Any]]:
        """Its points over the load that most points have."""
        return [row for row in self.every[system] if row["load_kind"] == self.kind]


def sections(view: View, series: Sequence[Series]) -> list[Section]:
    """Everything there is to see of a sweep."""
    colours = by_drafter(series, view.sweep.run_id)
    if not view.systems:
        errors = view.points["error"].drop_nulls().to_list()
        why = f": {errors[0]}" if errors else "; it was interrupted, or is not finished"
        missing = Figure(missing=f"No simulation of sweep {view.sweep.sweep_id} has come to a result{why}.")
        return [Section("frontier", "Throughput against speed for a user", f"{view.where}: {_FRONTIER}", missing)]
    return [_frontier(view, colours), _load(view, colours), _step_time(view), _latency(view, colours)]


_FRONTIER = "every point is a load: more users, more throughput of a GPU and fewer tokens per second for each of them."


def _frontier(view: View, colours: Mapping[str, Series]) -> Section:
    plot = empty_plot(height=460)
    for name in ("V4-Flash", "V4-Pro"):
        _published(plot, "fig7_frontier", name, "tokens/s of a user", "tokens/s/GPU")
    for system in _back_to_front(view):
        _system_line(plot, view, system, colours, "tps", "throughput")
    lines = [sla for sla in view.slas if sla.measure == "tps" and sla.quantile is None]
    log_axis(plot, "x", "tokens per second of a user", [r["tps"] for r in _fine(view)])
    log_axis(plot, "y", "tokens per second and GPU", [r["throughput"] for r in _fine(view)])
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
    figure = Figure(_legend(view, colours), [Panel("frontier-plot", "", plot)], caption, published=view.published)
    return Section(
        "frontier", "Throughput against speed for a user", f"{view.where}: {_FRONTIER}", figure, [_table(view)],
        [*view.evidence, "published"], view.points,
    )  # fmt: skip


def _load(view: View, colours: Mapping[str, Series]) -> Section:
    panels = []
    wanted: list[tuple[Literal["fig8_throughput", "fig8_budget"], str, str, str]] = [
        ("fig8_throughput", "throughput", "throughput", "tokens per second and GPU"),
        ("fig8_budget", "budget", "verification budget", "tokens verified per request and step"),
    ]
    for paper, column, name, title in wanted:
        plot = empty_plot(height=380)
        if view.kind == "users":
            for model in ("V4-Flash", "V4-Pro"):
                _published(plot, paper, model, "requests", title)
        for system in _back_to_front(view):
            _system_line(plot, view, system, colours, "load_x", column)
        log_axis(plot, "x", _AXES[view.kind], [r["load_x"] for r in _fine(view)])
        if column == "throughput":
            log_axis(plot, "y", title, [r["throughput"] for r in _fine(view)])
        else:
            plot.update_yaxes(rangemode="tozero", title_text=title)
        plot.update_layout(margin={"l": 56, "b": 44})
        panels.append(Panel(f"load-{column}", name, plot))
    columns = ["drafter", "gamma", "policy", "load", "load_x", "throughput", "throughput_half_width", "tps", "tau", "budget"]
    return Section(
        "load", "Throughput and verification budget against load",
        f"{view.where}: how much a GPU delivers, and how many tokens of a request the target verifies in a step, the "
        "last one committed included.",
        Figure(
            _legend(view, colours), panels,
            "Where lines of throughput bend, the GPU is full. From there on a scheduler verifies less of each request; a "
            "fixed block does not, and pays for tokens that are rejected.",
            published=view.published,
        ),
        (), [*view.evidence, *(["published"] if view.kind == "users" else [])],  # type: ignore[list-item]
        view.points.select(*columns, "wasted", "running"),
    )  # fmt: skip


def _step_time(view: View) -> Section:
    chosen = _worth_a_panel(view)
    panels, data = [], figures.parts(view.points, chosen)
    rows_of = {system: view.rows(system) for system in chosen}
    top = 1e3 * max((_step_s(row) for rows in rows_of.values() for row in rows), default=0)
    for system, rows in rows_of.items():
        plot = empty_plot(height=270)
        plot.update_layout(barmode="stack")
        for part, colour in PARTS.items():
            ms = [None if row[f"{part}_s"] is None else 1e3 * row[f"{part}_s"] for row in rows]
            plot.add_bar(
                x=[f"{row['load_x']:g}" if row["load_x"] else row["load"] for row in rows], y=ms,
                marker=bar_manner(colour, "simulated"), hoverinfo="text", meta="simulated",
                hovertext=[f"{view.name(system)}, {_at(row)}: {part} {value or 0:.2f} ms of {1e3 * _step_s(row):.2f}"
                           for row, value in zip(rows, ms, strict=True)],
            )  # fmt: skip
        plot.update_xaxes(type="category", title_text=_AXES[view.kind], tickangle=0, tickfont_size=10)
        plot.update_yaxes(range=[0, 1.05 * top], title_text="ms per step")
        plot.update_layout(margin={"l": 44, "b": 40})
        panels.append(Panel(f"step-time-{slug(view.name(system))}", view.name(system), plot))
    legend = [LegendEntry(part, "M-7,-6h14v12h-14Z", colour) for part, colour in PARTS.items()]
    return Section(
        "step-time", "Step time by part over load",
        f"{view.where}: a step drafts for every running request, then passes all their tokens through the target "
        "once. Attention is the target's reading of contexts, overhead the host's and the scheduler's.",
        Figure(
            legend, panels, "Drafting pays as long as the target's part hardly grows; once it grows with the tokens "
            "verified, every rejected one is paid for.",
        ),
        (), view.evidence, data,
    )  # fmt: skip


def _latency(view: View, colours: Mapping[str, Series]) -> Section:
    load = _latency_load(view)
    chosen = [s for s in view.leaders if any(r["load"] == load for r in view.rows(s))]
    panels = []
    for measure, (title, scale) in _LATENCIES.items():
        plot = empty_plot(height=70 + 44 * len(chosen))
        for place, system in enumerate(reversed(chosen)):
            s = view.series(system, colours)
            row = next(r for r in view.rows(system) if r["load"] == load)
            values = [row[f"p{q}_{measure}"] for q in (5, 50, 95, 99)]
            if None in values:
                continue
            low, middle, high, last = (v * scale for v in values)
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
    columns = [f"p{q}_{m}" for m in ("ttft", "tpot", "e2e", "tps") for q in (5, 50, 95, 99)]
    at = next((_at(r) for s in chosen for r in view.rows(s) if r["load"] == load), load)
    return Section(
        "latency", "Latencies of requests",
        f"{view.where} at {at}, every drafter with its best policy; other loads are in the CSV.",
        Figure(
            (), panels, "A mark is the median, the line runs from 5 to 95 % of requests and on to 99 %: what users wait for "
            "is at the right ends.",
        ),
        (), view.evidence, view.points.select("drafter", "gamma", "policy", "load", "load_x", *columns),
    )  # fmt: skip


def _latency_load(view: View) -> str:
    """Where the best system is when it delivers most within the bounds; else the highest load there is."""
    if view.capacities:
        return str(view.capacities[0].near["load"])
    return str(max((row for s in view.leaders for row in view.rows(s)), key=lambda r: r["load_x"] or 0)["load"])


def _worth_a_panel(view: View) -> list[System]:
    """The best system, the whole block verified always, MTP-1 and no speculation."""
    every = figures.systems(view.points, bounds=False)
    best = view.leaders[:1]
    block = [s for s in every if best and s[:2] == best[0][:2] and s[2] == f"fixed:{s[1]}"]
    found = [figures.baseline(view.capacities, kind, view.kinds) for kind in ("mtp", "none")]
    chosen = [*best, *block, *(c.system for c in found if c is not None), *view.leaders]
    return list(dict.fromkeys(chosen))[:4]


def _table(view: View) -> Table:
    """What every system delivers within the bounds."""
    bases = {kind: figures.baseline(view.capacities, kind, view.kinds) for kind in ("mtp", "none")}
    rows = []
    for c in view.capacities:
        near = c.near
        half = "" if math.isnan(c.half_width) else f" ± {c.half_width:,.0f}"
        cells = [
            Cell(view.name(c.system), view.name(c.system)),
            Cell(f"{'≥ ' if c.how == 'highest' and view.slas else ''}{c.throughput:,.0f}{half}", round(c.throughput, 2)),
            *(_gain(c, base) for base in bases.values()),
            Cell(_at(near), near["load_x"]),
            *(Cell("–") if near[n] is None else Cell(spread(near, n, f), round(near[n], 4)) for n, f in _COLUMNS.items()),
        ]
        rows.append((cells, False))
    able = {c.system for c in view.capacities}
    never = [view.name(s) for s in figures.systems(view.points, bounds=False) if s not in able]
    caption = (
        f"Throughput where {view.bounds} is just kept, between two loads; ≥ where it is kept at the highest load simulated. "
        "The columns to the right are of the last load that keeps it."
        if view.slas
        else "At the highest load that all were simulated at."
    )
    caption += f" Never within the bounds: {', '.join(never)}." if never and view.slas else ""
    heads = [
        ("system", ""),
        ("tok/s/GPU", view.bounds),
        ("gain", "over MTP-1"),
        ("gain", "over none"),
        ("kept up to" if view.slas else "load", ""),
    ]
    return Table([*heads, ("tok/s", "of a user"), ("τ", ""), ("budget", ""), ("wasted", "of verified")], [rows], caption)


_COLUMNS: Final = {"tps": ",.1f", "tau": ".2f", "budget": ".2f", "wasted": ".0%"}


def _gain(c: Capacity, base: Capacity | None) -> Cell:
    if base is None:
        return Cell("–")
    if base.system == c.system:
        return Cell("")
    value, half = figures.gain(c, base)
    return Cell(f"{value:+.0%}" + ("" if math.isnan(half) else f" ± {half:.1%}"), round(value, 5))


def _system_line(plot: go.Figure, view: View, system: System, colours: Mapping[str, Series], x: str, y: str) -> None:
    rows = view.rows(system) if x == "load_x" else view.every[system]
    rows = [row for row in rows if row[x] is not None and row[y] is not None]
    s = view.series(system, colours)
    leads = system in view.leaders
    style: dict[str, Any] = {"size": 7} if leads else {"size": 4, "opacity": 0.4, "line": {"color": s.colour, "width": 1}}
    draw_line(
        plot, [row[x] for row in rows], [row[y] for row in rows],
        [f"{view.name(system)}{'' if row['lossless'] else ' (a bound)'}, {_at(row)}<br>"
         f"{spread(row, 'throughput', ',.0f')} tok/s/GPU · {spread(row, 'tps', '.1f')} tok/s of a user<br>"
         f"τ {spread(row, 'tau', '.2f')} · budget {spread(row, 'budget', '.2f')}"
         f"{'<br>breaks a bound' if row['kept'] is False else ''}" for row in rows],
        colour=s.colour, symbol=s.symbol, evidence="simulated", **style,
    )  # fmt: skip


def _published(plot: go.Figure, name: Any, model: str, x: str, y: str) -> None:
    """The paper's served system behind ours, dashed and hollow, its model named at its end."""
    for kind in ("dspark", "mtp"):
        rows = figures.paper_curves(name).filter(model=model, kind=kind).filter(pl.col("x") > 0, pl.col("y") > 0).to_dicts()
        if not rows:
            continue
        colour, symbol = STYLES[kind]
        draw_line(
            plot, [row["x"] for row in rows], [row["y"] for row in rows],
            [f"{model} with {kind}, published: {row['y']:,.4g} {y} at {row['x']:,.4g} {x}" for row in rows],
            colour=colour, symbol=symbol, evidence="published", opacity=0.6,
            marker={"symbol": f"{symbol}-open", "size": 6, "color": colour, "maxdisplayed": 7},
        )  # fmt: skip
    line = figures.paper_curves(name).filter(model=model, kind="dspark")
    tenth = 6 if model == "V4-Flash" or name == "fig7_frontier" else 2
    middle = line.row(line.height * tenth // 10, named=True)
    plot.add_scatter(
        x=[middle["x"]], y=[middle["y"]], mode="text", text=[model], textposition="bottom left", textfont={"size": 10},
        hoverinfo="skip", meta="published",
    )  # fmt: skip


def _step_s(row: Mapping[str, Any]) -> float:
    """Seconds of a step, all parts."""
    return float(sum(row[f"{part}_s"] or 0 for part in PARTS))


def _legend(view: View, colours: Mapping[str, Series]) -> list[LegendEntry]:
    order = list(STYLES)
    places = {kind: place for place, kind in enumerate(order)}
    systems = sorted(view.leaders, key=lambda s: places.get(view.kinds.get(s[0], s[0]), len(order)))
    entries = [entry(view.series(s, colours)) for s in systems]
    return [*entries, note(f"{PAPER_LABEL}: dspark and mtp", "published")]


def _back_to_front(view: View) -> list[System]:
    """Leaders last, so that they lie on top."""
    return sorted(view.systems, key=lambda s: s in view.leaders)


def _fine(view: View) -> list[dict[str, Any]]:
    return [row for system in view.systems for row in view.every[system]]


def _at(row: Mapping[str, Any]) -> str:
    if row["load_kind"] == "arrivals" or row["load_x"] is None:
        return "recorded arrivals"
    return f"{row['load_x']:g} requests/s" if row["load_kind"] == "rate" else counted(row["load_x"], "user")
