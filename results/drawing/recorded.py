"""Sections of what was recorded: accepted length by task, conditional acceptance by position, speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import plotly.graph_objects as go
import polars as pl

from results.drawing.common import bar_manner, draw_line, facets, legend_of, listed, overlay, whiskers
from results.figures.published import PAPER_DATASETS, PAPER_TARGET
from results.figures.run import Provenance
from results.look import Evidence, Series, in_order, longest
from results.page import Cell, Figure, Panel, Section, Table, empty_plot, note

PROMPT_SOURCES: Final[Mapping[str, str]] = {
    "bundled": "bundled prompts, not the benchmarks",
    "data-dir": "prompts from a local data directory",
    "hub": "prompts from the Hugging Face Hub",
    "synthesised": "synthesised from published curves, no model was run",
}
_OF_SEVERAL: Final = (
    "Of every drafter this is the largest block size recorded; the others are under "
    "“Accepted length over block size” and in the CSV."
)
_IN_PAPER: Final = f"{PAPER_TARGET} in the paper"


def evidence_of(runs: Sequence[Provenance], published: bool = False) -> list[Evidence]:
    """What kinds of numbers recorded figures of these runs show."""
    found: list[Evidence] = []
    for run in runs:
        kind: Evidence = "synthesised" if run.prompt_source == "synthesised" else "measured"
        found += [kind] if kind not in found else []
    return found + (["published"] if published else [])


def accepted_length(tau: pl.DataFrame, runs: Sequence[Provenance], series: Sequence[Series]) -> Section:
    """τ by task and drafter: a table, and bars with published values beside them."""
    chosen = longest(series)
    published = tau["paper"].drop_nulls().len() > 0
    table = _table(tau, chosen, runs)
    return Section(
        "accepted-length",
        "Accepted length by task",
        "τ is the number of tokens committed per round, bonus token included; decoding without a drafter commits exactly 1.",
        _bars(tau, chosen, runs),
        [table] if table.groups else [],
        evidence_of(runs, published),
        tau,
        [*([_comparison(runs[0])] if published else []), *([_OF_SEVERAL] if len(chosen) < len(series) else [])],
    )


def conditional_acceptance(alpha: pl.DataFrame, runs: Sequence[Provenance], series: Sequence[Series]) -> Section:
    """α_k by position, one panel per domain; published values dashed with hollow marks."""
    return Section(
        "conditional-acceptance",
        "Conditional acceptance by position",
        "α at position k is how often the target keeps draft position k once it has kept all positions before it.",
        _positions(alpha, longest(series), runs),
        (),
        evidence_of(runs, alpha["paper"].drop_nulls().len() > 0),
        alpha,
    )


def speed(speeds: pl.DataFrame, runs: Sequence[Provenance], series: Sequence[Series]) -> Section:
    """Speed-up over none by drafter, fastest on top."""
    return Section(
        "speed",
        "Speed on this machine",
        "Tokens per second of decoding, prefill excluded, relative to decoding without a drafter.",
        _speed(speeds, series, runs),
        (),
        ["measured"] if speeds.height else [],
        speeds,
    )


def times(row: Mapping[str, Any]) -> str:
    """A speed-up in words."""
    interval = "" if row["low"] is None else f" (95 % {row['low']:.2f} to {row['high']:.2f})"
    return f"{row['speedup']:.2f}×{interval}{', slower' if row['speedup'] < 1 else ''}"


def _comparison(run: Provenance) -> str:
    if run.prompt_source == "synthesised":
        return (
            f"Small grey numbers and hollow markers are the DSpark paper's {PAPER_TARGET}: these traces were fitted to them."
        )
    same = PAPER_TARGET.lower() in run.pair.lower() and run.prompt_source != "bundled"
    verdict = "compare them only at matching sampling and limits" if same else "they are not expected to be equal"
    return (
        f"Small grey numbers and hollow markers are the DSpark paper's: {PAPER_TARGET} on the real benchmarks, "
        f"temperature 1, γ 7. Ours are pair {run.pair} on {PROMPT_SOURCES.get(run.prompt_source, run.prompt_source)}: "
        f"{verdict}."
    )


def _tasks(tau: pl.DataFrame, domain: str) -> list[str]:
    """A domain's tasks: those of the paper in its order, then the others by name."""
    order = list(PAPER_DATASETS)
    found = tau.filter(pl.col("domain") == domain)["task"].drop_nulls().unique().to_list()
    return sorted(found, key=lambda task: (order.index(task) if task in order else len(order), task))


def _table(tau: pl.DataFrame, series: Sequence[Series], runs: Sequence[Provenance]) -> Table:
    """τ by task and run (rows, grouped by domain) and drafter (columns), each with the published value."""
    columns = list(dict.fromkeys((s.drafter, s.gamma) for s in series if s.rows(tau)))
    cells = {(row["run"], row["drafter"], row["gamma"], row["domain"], row["task"]): row for row in tau.to_dicts()}
    partial = False
    groups = []
    for domain in in_order(tau["domain"]):
        rows = []
        for task in [*_tasks(tau, domain), None]:
            for run in runs:
                full = len(_tasks(tau.filter(run=run.run_id), domain))
                found = [cells.get((run.run_id, *column, domain, task)) for column in columns]
                if not any(found):
                    continue
                short = [bool(task is None and row and row["tasks"] < full) for row in found]
                partial |= any(short)
                label = (task or f"{domain} mean") + (f" · {run.run_id}" if len(runs) > 1 else "")
                values = [_cell(row, "†" if mark else "") for row, mark in zip(found, short, strict=True)]
                rows.append(([Cell(label, label), *values], task is None))
        groups.append(rows)
    caption = "Higher is better, but no drafter can exceed its γ + 1; a domain is the plain mean of its tasks."
    if partial:
        caption += " † Mean of fewer tasks than the domain has: not comparable along the row."
    return Table([("τ", ""), *((drafter, f"γ {gamma}") for drafter, gamma in columns)], groups, caption)


def _cell(row: Mapping[str, Any] | None, mark: str) -> Cell:
    if row is None or row["tau"] is None:
        return Cell("–", hint="nothing recorded")
    paper = "" if row["paper"] is None else f"{row['paper']:.2f}"
    return Cell(f"{row['tau']:.2f}{mark}", round(row["tau"], 4), paper, _hint(row))


def _hint(row: Mapping[str, Any]) -> str:
    interval = "" if row["low"] is None else f", 95 % {row['low']:.2f} to {row['high']:.2f}"
    return f"{row['tau']:.3f}{interval} ({row['prompts']} prompts, {row['rounds']} rounds)"


def _bars(tau: pl.DataFrame, series: Sequence[Series], runs: Sequence[Provenance]) -> Figure:
    """Grouped bars by task, one panel per run and domain; published values as hollow diamonds on their bar."""
    shown = [s for s in series if s.gamma and s.rows(tau.filter(pl.col("tau").is_not_null()))]
    if not shown:
        return Figure(missing="No rounds of a drafter are recorded: there is no accepted length to draw.")
    drafted = tau.filter(pl.col("gamma") > 0)
    top = max(float(drafted.select(pl.max_horizontal("tau", "high", "paper").max()).item()), 2.0) * 1.06
    panels = []
    for run, domain, name, title in facets(runs, lambda run: in_order(drafted.filter(run=run)["domain"])):
        plot = _bar_panel(drafted.filter(run=run, domain=domain), domain, [s for s in shown if s.run == run])
        plot.update_yaxes(range=[0, top], title_text="τ, tokens per round")
        plot.update_layout(margin={"l": 44})
        panels.append(Panel(f"accepted-length-{name}", title, plot))
    legend = legend_of(shown)
    caption = "Compare bars within a task and with the dotted line at 1 (none); whiskers are 95 % intervals over prompts"
    if drafted["paper"].drop_nulls().len():
        legend.append(note(_IN_PAPER, "published", symbol="diamond", line=False))
        another = "the paper's" if overlay(runs) == "plain" else "another model on the real benchmarks"
        caption += f", and hollow diamonds {another}"
    return Figure(legend, panels, f"{caption}.", published=overlay(runs))


def _bar_panel(drafted: pl.DataFrame, domain: str, shown: Sequence[Series]) -> go.Figure:
    """A run's bars in a domain, tasks from left to right, then their mean."""
    places = {task: place for place, task in enumerate([*_tasks(drafted, domain), None])}
    plot, width = empty_plot(height=310), 0.8 / len(shown)
    for slot, s in enumerate(shown):
        rows = [row for row in s.rows(drafted) if row["tau"] is not None]
        x = [places[row["task"]] + (slot - (len(shown) - 1) / 2) * width for row in rows]
        plot.add_bar(
            x=x, y=[row["tau"] for row in rows], width=width * 0.9, marker=bar_manner(s.colour, s.evidence),
            error_y=whiskers(rows, "tau") | {"thickness": 1.2}, hoverinfo="text", meta=s.evidence,
            hovertext=[f"{s.label}, {row['task'] or 'mean'}: {_hint(row)}" for row in rows],
        )  # fmt: skip
        told = [(place, row) for place, row in zip(x, rows, strict=True) if row["paper"] is not None]
        if told:
            plot.add_scatter(
                x=[place for place, _ in told], y=[row["paper"] for _, row in told], mode="markers", meta="published",
                hoverinfo="text", marker={"symbol": "diamond-open", "size": 7, "line": {"width": 1.3}},
                hovertext=[f"{s.label}, {_IN_PAPER}: {row['paper']:.2f}" for _, row in told],
            )  # fmt: skip
    plot.add_hline(y=1, line={"width": 1, "dash": "dot"})
    plot.update_xaxes(
        range=[-0.5, len(places) - 0.5],
        tickvals=list(places.values()),
        ticktext=[task or "mean" for task in places],
        tickfont_size=10,
        tickangle=0 if len(places) <= 4 else -40,
    )
    return plot


def _positions(alpha: pl.DataFrame, series: Sequence[Series], runs: Sequence[Provenance]) -> Figure:
    shown = [s for s in series if s.rows(alpha)]
    if not shown:
        return Figure(missing="No drafted position was ever verified: there is no conditional acceptance to draw.")
    last = max(row["position"] for s in shown for row in s.rows(alpha))
    panels = []
    for run, domain, name, title in facets(runs, lambda run: in_order(alpha.filter(run=run)["domain"])):
        plot = empty_plot(height=330)
        of_run = [s for s in shown if s.run == run]
        for slot, s in enumerate(of_run):
            _position_lines(plot, s, s.rows(alpha.filter(domain=domain)), (slot - (len(of_run) - 1) / 2) * 0.09)
        plot.update_xaxes(range=[0.5, last + 0.5], dtick=1, title_text="position in the draft")
        plot.update_yaxes(range=[0, 1.02], dtick=0.2, tickformat=".1f", title_text="α, share kept")
        plot.update_layout(margin={"l": 48, "b": 40})
        panels.append(Panel(f"conditional-acceptance-{name}", title, plot))
    legend = legend_of(shown)
    if alpha["paper"].drop_nulls().len():
        legend.append(note(_IN_PAPER, "published"))
    return Figure(
        legend,
        panels,
        "A line that falls to the right belongs to a drafter that loses the thread within its block; whiskers are 95 % "
        "intervals, wide where few rounds got that far.",
        published=overlay(runs),
    )


def _position_lines(plot: go.Figure, s: Series, rows: Sequence[Mapping[str, Any]], aside: float) -> None:
    """A drafter's line, set aside a little to keep whiskers apart, and the published one."""
    told = [row for row in rows if row["paper"] is not None]
    if told:
        draw_line(
            plot, [row["position"] for row in told], [row["paper"] for row in told],
            [f"{s.label}, {_IN_PAPER}: {row['paper']:.3f}" for row in told],
            colour=s.colour, symbol=s.symbol, evidence="published", size=5, opacity=0.7,
        )  # fmt: skip
    if rows:
        draw_line(
            plot, [row["position"] + aside for row in rows], [row["alpha"] for row in rows],
            [f"{s.label}, position {row['position']}: {row['alpha']:.3f}, 95 % {row['low']:.3f} to "
             f"{row['high']:.3f} ({row['accepted']} of {row['trials']})" for row in rows],
            colour=s.colour, symbol=s.symbol, evidence=s.evidence, size=8,
            error_y=whiskers(rows, "alpha") | {"thickness": 1.2, "color": s.colour},
        )  # fmt: skip


def _speed(speeds: pl.DataFrame, series: Sequence[Series], runs: Sequence[Provenance]) -> Figure:
    measured = [(s, row) for s in series for row in s.rows(speeds)]
    rows = sorted((pair for pair in measured if pair[1]["speedup"]), key=lambda pair: float(pair[1]["speedup"]))
    unpaired = [f"{s.label} {row['tokens_per_s']:.1f} tokens/s" for s, row in measured if not row["speedup"]]
    apart = f" Not comparable, for want of none's samples beside theirs: {listed(unpaired)}." if unpaired else ""
    if not rows:
        return Figure(missing=apart.strip() or "No speed samples were taken in this run: nothing is said about speed.")
    ends = [row[name] for _, row in rows for name in ("speedup", "low", "high") if row[name] is not None]
    span = max(max(ends) - min(ends), 0.2)
    panels = []
    for run, _, name, title in facets(runs, lambda run: [""] if any(s.run == run for s, _ in rows) else []):
        plot = _speed_panel([(s, row) for s, row in rows if s.run == run])
        plot.update_xaxes(range=[min(ends) - 0.15 * span, max(ends) + 0.15 * span], title_text="times as fast as none")
        panels.append(Panel(f"speed-up-{name}".strip("-"), title, plot))
    batches = sorted({row["batch_min"] for _, row in rows} | {row["batch_max"] for _, row in rows})
    batch = f"{batches[0]}" if len(batches) == 1 else f"{batches[0]} to {batches[-1]}"
    return Figure(
        [],
        panels,
        f"Right of the dotted line a drafter pays for itself on this machine, at batch {batch}; whiskers are 95 % "
        f"intervals over prompts and passes, each pass paired with none's.{apart}",
    )


def _speed_panel(rows: Sequence[tuple[Series, Mapping[str, Any]]]) -> go.Figure:
    """A run's drafters, the fastest on top."""
    plot = empty_plot(height=90 + 46 * len(rows))
    for place, (s, row) in enumerate(rows):
        plot.add_scatter(
            x=[row["speedup"]], y=[place], mode="markers+text", meta="measured",
            marker={"color": s.colour, "symbol": s.symbol, "size": 11},
            error_x=whiskers([row], "speedup") | {"thickness": 1.6, "color": s.colour}, hoverinfo="text",
            text=[f"{row['speedup']:.2f}×" if s.gamma else ""], textposition="top center",
            hovertext=[f"{s.label}: {times(row)}, {row['pairs']} pairs with none"],
        )  # fmt: skip
    plot.add_vline(x=1, line={"width": 1, "dash": "dot"})
    plot.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[f"{s.name}<br>{row['tokens_per_s']:.1f} tok/s" for s, row in rows],
        range=[-0.6, len(rows) - 0.2],
    )
    return plot
