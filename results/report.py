"""One run as one HTML file that opens offline: renders the tables of `figures`, computes nothing of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import polars as pl

from results import figures
from results.figures import PAPER_TARGET, Provenance
from results.page import STYLES, SYMBOLS, Figure, LegendEntry, Panel, empty_plot, render_page, write_page

PROMPT_SOURCES: Final[Mapping[str, str]] = {
    "bundled": "bundled prompts, not the benchmarks",
    "data-dir": "prompts from a local data directory",
    "hub": "prompts from the Hugging Face Hub",
    "synthesised": "synthesised from published curves, no model was run",
}

SPARE_STYLES: Final = [("#56B4E9", "cross"), ("#B8A900", "hourglass")]
"""For a second drafter of a kind, and for kinds not known here."""

DOMAINS: Final = ["math", "code", "chat"]
"""Report order; other domains follow by name."""


@dataclass(frozen=True, slots=True)
class Series:
    """How one (drafter, γ) looks wherever it appears."""

    drafter: str
    gamma: int
    label: str
    """The drafter's name, with γ where the run has several."""
    colour: str
    symbol: str

    def rows(self, frame: pl.DataFrame) -> list[dict[str, Any]]:
        return frame.filter(drafter=self.drafter, gamma=self.gamma).to_dicts()


def write_report(con: duckdb.DuckDBPyConnection, run_id: str, file: Path) -> None:
    """Write the run's report to `file`, whole or not at all. Raises LookupError for an unknown run."""
    write_page(render(con, run_id), file)


def render(con: duckdb.DuckDBPyConnection, run_id: str) -> str:
    """The report as one self-contained HTML page."""
    run = figures.provenance(con, run_id)
    tau = figures.accepted_length(con, run_id)
    alpha = figures.conditional_acceptance(con, run_id)
    speeds = figures.speed(con, run_id)
    series = _series(run, [tau, speeds])
    drawn = {
        "accepted_length": _accepted_length(tau, series),
        "conditional_acceptance": _conditional_acceptance(alpha, series),
        "speed": _speed(speeds, series),
    }
    return render_page(
        "report.html",
        drawn,
        title=f"{run.suite} v{run.suite_version} · pair {run.pair}",
        subtitle=_subtitle(run),
        answer=_answer(tau, speeds, series),
        notices=_notices(run, figures.missing_responses(con, run_id)),
        comparison=_comparison(run) if tau["paper"].drop_nulls().len() else "",
        table=_table(tau, series),
        provenance=_provenance(run),
    )


def _series(run: Provenance, measured: Iterable[pl.DataFrame]) -> list[Series]:
    """Every (drafter, γ) with rows, in report order; the first of a kind gets the kind's colour and symbol."""
    kinds = {drafter.name: drafter.kind for drafter in run.drafters}
    order = list(STYLES)
    keys = {key for frame in measured for key in frame.select("drafter", "gamma").rows()}

    def place(key: tuple[str, int]) -> tuple[float, bool, str, int]:
        name, gamma = key
        kind = kinds.get(name, name)
        unknown = order.index("none") - 0.5
        return (order.index(kind) if kind in order else unknown, name != kind, name, -gamma)

    names = [name for name, _ in keys]
    free, spare, series = dict(STYLES), 0, []
    for name, gamma in sorted(keys, key=place):
        style = free.pop(kinds.get(name, name), None)
        if style is None:
            style = SPARE_STYLES[spare % len(SPARE_STYLES)]
            spare += 1
        label = name if names.count(name) == 1 else f"{name} γ={gamma}"
        series.append(Series(name, gamma, label, *style))
    return series


def _domains(frame: pl.DataFrame) -> list[str]:
    found = frame["domain"].unique().to_list()
    return sorted(found, key=lambda domain: (DOMAINS.index(domain) if domain in DOMAINS else len(DOMAINS), domain))


def _tasks(tau: pl.DataFrame, domain: str) -> list[str]:
    """A domain's tasks: those of the paper in its order, then the others by name."""
    order = list(figures.PAPER_DATASETS)
    found = tau.filter(pl.col("domain") == domain)["task"].drop_nulls().unique().to_list()
    return sorted(found, key=lambda task: (order.index(task) if task in order else len(order), task))


# --- text ---------------------------------------------------------------------------------------------------------


def _subtitle(run: Provenance) -> str:
    source = PROMPT_SOURCES.get(run.prompt_source, f"prompts: {run.prompt_source}")
    facts = [source, f"{run.prompts} prompts", f"{run.responses} responses"]
    if "temperature" in run.sampling:
        facts.append(f"temperature {run.sampling['temperature']:g}")
    return " · ".join([*facts, f"seed {run.seed}", f"run {run.run_id}", f"{run.created_at:%Y-%m-%d %H:%M} UTC"])


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


def _answer(tau: pl.DataFrame, speeds: pl.DataFrame, series: Sequence[Series]) -> str:
    """Who commits most tokens per round in each domain, where that is too close to call, and at what speed."""
    wins: dict[str, list[str]] = {}
    close: list[str] = []
    labels = {(s.drafter, s.gamma): s.label for s in series}
    means = tau.filter(pl.col("task").is_null(), pl.col("gamma") > 0, pl.col("tau").is_not_null())
    # A drafter that lacks some of a domain's tasks has a mean of something else.
    means = means.filter(pl.col("tasks") == pl.col("tasks").max().over("domain"))
    for domain in _domains(means):
        best, *others = means.filter(pl.col("domain") == domain).sort("tau", descending=True).to_dicts()
        wins.setdefault(labels[best["drafter"], best["gamma"]], []).append(f"{domain} ({best['tau']:.2f})")
        second = others[0] if others else None
        if second and (best["low"] is None or second["high"] is None or best["low"] <= second["high"]):
            close.append(f"{domain} ({labels[second['drafter'], second['gamma']]} {second['tau']:.2f})")
    if not wins:
        return "No drafter has committed a round yet."
    leads = [f"{label} in {_listed(domains)}" for label, domains in wins.items()]
    sentences = [f"Most tokens per round: {'; '.join(leads)}."]
    if close:
        overlap = "overlap or are missing" if means["low"].has_nulls() else "overlap"
        sentences.append(f"Not clearly ahead in {_listed(close)}: the 95 % intervals {overlap}.")
    return " ".join([*sentences, *_speed_answer(speeds, series, wins)])


def _speed_answer(speeds: pl.DataFrame, series: Sequence[Series], winners: Iterable[str]) -> list[str]:
    measured = {s.label: row for s in series if s.gamma for row in s.rows(speeds) if row["speedup"] is not None}
    if not measured:
        return ["How fast that is was not measured."]
    fastest = max(measured, key=lambda label: float(measured[label]["speedup"]))
    said = [f"{label} {_times(measured[label])}" if label in measured else f"{label} not measured" for label in winners]
    sentences = [f"Speed against none on this machine: {_listed(said)}."]
    if fastest not in winners:
        sentences.append(f"The fastest is {fastest}, {_times(measured[fastest])}.")
    return sentences


def _times(row: Mapping[str, Any]) -> str:
    interval = "" if row["low"] is None else f" (95 % {row['low']:.2f} to {row['high']:.2f})"
    return f"{row['speedup']:.2f}×{interval}{', slower' if row['speedup'] < 1 else ''}"


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _notices(run: Provenance, missing: pl.DataFrame) -> list[str]:
    """What a reader must know before trusting the numbers."""
    notices = []
    if run.prompt_source == "synthesised":
        notices.append(
            "Synthesised: no model was run. Everything here comes from traces that were fitted to published averages "
            f"({'; '.join(run.sources)})."
        )
    if run.finished_at is None:
        notices.append("This run did not finish, or has not yet: everything here is about what it has recorded so far.")
    for (drafter,), rows in missing.group_by("drafter", maintain_order=True):
        lacking = int((rows["expected"] - rows["responses"]).sum())
        where = f"in {rows.height} tasks" if rows.height > 3 else f"in {_listed(rows['task'].to_list())}"
        notices.append(f"{drafter} lacks {lacking} responses that other drafters gave, {where}.")
    return notices


def _provenance(run: Provenance) -> list[tuple[str, list[str]]]:
    """Name and lines of each fact."""
    host = dict(run.host)
    memory = host.pop("memory_bytes", None)
    machine = [f"{name} {value}" for name, value in host.items() if value is not None]
    if memory is not None:
        machine.append(f"memory {memory / 2**30:.1f} GiB")
    drafters = [
        " ".join(filter(None, [f"{d.name}: {d.kind}, γ {d.gamma}", d.checkpoint and f"· {d.checkpoint}", d.checkpoint_hash]))
        for d in run.drafters
    ]
    replayed = (
        f"{run.replayed} rounds replayed from a dense record, every drafted token verified; the others are plain decoding"
    )
    finished = f"to {run.finished_at:%Y-%m-%d %H:%M:%S} UTC" if run.finished_at else "UTC, not finished"
    facts = [
        ("command", run.command),
        ("run", f"{run.run_id} · {run.created_at:%Y-%m-%d %H:%M:%S} {finished}"),
        ("suite", f"{run.suite} v{run.suite_version} · {run.suite_hash}"),
        ("prompts", PROMPT_SOURCES.get(run.prompt_source, run.prompt_source)),
        ("pair", run.pair),
        ("drafters", *drafters),
        ("sampling", ", ".join(f"{name} {value}" for name, value in run.sampling.items())),
        ("seed", str(run.seed)),
        (
            "recorded",
            f"{run.prompts} prompts, {run.responses} responses, {run.rounds} rounds, {run.speed_samples} speed samples",
            replayed if run.replayed else "all rounds decoded live",
        ),
        ("git revision", run.git_revision or "unknown"),
        ("machine", ", ".join(machine)),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(run.packages.items()))),
    ]
    return [(name, lines) for name, *lines in facts]


# --- the table ----------------------------------------------------------------------------------------------------


def _table(tau: pl.DataFrame, series: Sequence[Series]) -> dict[str, Any]:
    """τ by task (rows, grouped by domain) and drafter (columns), each with the published value."""
    columns = [s for s in series if s.rows(tau)]
    cells = {(row["drafter"], row["gamma"], row["domain"], row["task"]): row for row in tau.to_dicts()}
    full = {domain: len(_tasks(tau, domain)) for domain in _domains(tau)}
    partial = False
    domains = []
    for domain in _domains(tau):
        rows = []
        for task in [*_tasks(tau, domain), None]:
            found = [cells.get((s.drafter, s.gamma, domain, task)) for s in columns]
            short = [bool(task is None and row and row["tasks"] < full[domain]) for row in found]
            partial |= any(short)
            rendered = [_cell(row, "†" if mark else "") for row, mark in zip(found, short, strict=True)]
            rows.append({"label": task or f"{domain} mean", "mean": task is None, "cells": rendered})
        domains.append(rows)
    caption = "Higher is better, but no drafter can exceed its γ + 1; a domain is the plain mean of its tasks."
    if partial:
        caption += " † Mean of fewer tasks than the domain has: not comparable along the row."
    return {"columns": [{"name": s.drafter, "gamma": s.gamma} for s in columns], "domains": domains, "caption": caption}


def _cell(row: Mapping[str, Any] | None, mark: str) -> dict[str, str]:
    if row is None or row["tau"] is None:
        return {"tau": "–", "paper": "", "hint": "nothing recorded"}
    paper = "" if row["paper"] is None else f"{row['paper']:.2f}"
    return {"tau": f"{row['tau']:.2f}{mark}", "paper": paper, "hint": _hint(row)}


def _hint(row: Mapping[str, Any]) -> str:
    interval = "" if row["low"] is None else f", 95 % {row['low']:.2f} to {row['high']:.2f}"
    return f"{row['tau']:.3f}{interval} ({row['prompts']} prompts, {row['rounds']} rounds)"


# --- the figures --------------------------------------------------------------------------------------------------


def _accepted_length(tau: pl.DataFrame, series: Sequence[Series]) -> Figure:
    """Grouped bars by task, one panel per domain; published values as hollow diamonds on their bar."""
    shown = [s for s in series if s.gamma and s.rows(tau.filter(pl.col("tau").is_not_null()))]
    if not shown:
        return Figure(missing="No rounds of a drafter are recorded: there is no accepted length to draw.")
    drafted = tau.filter(pl.col("gamma") > 0)
    top = max(float(drafted.select(pl.max_horizontal("tau", "high", "paper").max()).item()), 2.0) * 1.06
    panels = []
    for domain in _domains(drafted):
        tasks = _tasks(drafted, domain)
        places = {task: place for place, task in enumerate([*tasks, None])}
        plot = empty_plot(height=310)
        for slot, s in enumerate(shown):
            rows = [row for row in s.rows(drafted) if row["domain"] == domain and row["tau"] is not None]
            width = 0.8 / len(shown)
            x = [places[row["task"]] + (slot - (len(shown) - 1) / 2) * width for row in rows]
            plot.add_bar(
                x=x, y=[row["tau"] for row in rows], width=width * 0.9, marker_color=s.colour, marker_line_width=0,
                error_y=_whiskers(rows, "tau") | {"thickness": 1.2}, hoverinfo="text",
                hovertext=[f"{s.label}, {row['task'] or 'mean'}: {_hint(row)}" for row in rows],
            )  # fmt: skip
            plot.add_scatter(
                x=x, y=[row["paper"] for row in rows], mode="markers", meta="ink", hoverinfo="text",
                marker={"symbol": "diamond-open", "size": 7, "line": {"width": 1.3}},
                hovertext=[f"{s.label}, {PAPER_TARGET} in the paper: {row['paper']}" for row in rows],
            )  # fmt: skip
        plot.add_hline(y=1, line={"width": 1, "dash": "dot"})
        plot.update_xaxes(
            range=[-0.5, len(places) - 0.5],
            tickvals=list(places.values()),
            ticktext=[task or "mean" for task in places],
            tickfont_size=10,
            tickangle=0 if len(places) <= 4 else -40,
        )
        plot.update_yaxes(range=[0, top])
        panels.append(Panel(f"accepted-length-{_slug(domain)}", domain, plot))
    legend = [_entry(s) for s in shown]
    caption = "Compare bars within a task and with the dotted line at 1 (none); whiskers are 95 % intervals over prompts"
    if drafted["paper"].drop_nulls().len():
        legend.append(LegendEntry(f"{PAPER_TARGET} in the paper", SYMBOLS["diamond"], None))
        caption += ", and hollow diamonds another model on the real benchmarks"
    return Figure(legend, panels, f"{caption}.")


def _conditional_acceptance(alpha: pl.DataFrame, series: Sequence[Series]) -> Figure:
    """α_k by position, one panel per domain; published values as faint dashed lines with hollow markers."""
    shown = [s for s in series if s.rows(alpha)]
    if not shown:
        return Figure(missing="No drafted position was ever verified: there is no conditional acceptance to draw.")
    last = int(alpha["position"].max())  # type: ignore[arg-type]
    panels = []
    for domain in _domains(alpha):
        plot = empty_plot(height=330)
        for slot, s in enumerate(shown):
            rows = [row for row in s.rows(alpha) if row["domain"] == domain]
            # A small sideways step per drafter keeps whiskers apart.
            x = [row["position"] + (slot - (len(shown) - 1) / 2) * 0.09 for row in rows]
            plot.add_scatter(
                x=[row["position"] for row in rows], y=[row["paper"] for row in rows], mode="lines+markers",
                line={"color": s.colour, "width": 1.2, "dash": "dash"}, opacity=0.6, hoverinfo="text",
                marker={"symbol": f"{s.symbol}-open", "size": 5},
                hovertext=[f"{s.label}, {PAPER_TARGET} in the paper: {row['paper']}" for row in rows],
            )  # fmt: skip
            plot.add_scatter(
                x=x, y=[row["alpha"] for row in rows], mode="lines+markers", hoverinfo="text",
                line={"color": s.colour, "width": 2}, marker={"symbol": s.symbol, "size": 8},
                error_y=_whiskers(rows, "alpha") | {"thickness": 1.2, "color": s.colour},
                hovertext=[f"{s.label}, position {row['position']}: {row['alpha']:.3f}, 95 % {row['low']:.3f} to "
                           f"{row['high']:.3f} ({row['accepted']} of {row['trials']})" for row in rows],
            )  # fmt: skip
        plot.update_xaxes(range=[0.5, last + 0.5], dtick=1, title_text="position in the draft")
        plot.update_yaxes(range=[0, 1.02], dtick=0.2, tickformat=".1f")
        panels.append(Panel(f"conditional-acceptance-{_slug(domain)}", domain, plot))
    legend = [_entry(s) for s in shown]
    if alpha["paper"].drop_nulls().len():
        legend.append(LegendEntry(f"{PAPER_TARGET} in the paper", SYMBOLS["circle"], None, dashed=True))
    return Figure(
        legend,
        panels,
        "A line that falls to the right belongs to a drafter that loses the thread within its block; whiskers are 95 % "
        "intervals, wide where few rounds got that far.",
    )


def _speed(speeds: pl.DataFrame, series: Sequence[Series]) -> Figure:
    """Speed-up over none by drafter, fastest on top."""
    measured = [(s, row) for s in series for row in s.rows(speeds)]
    rows = sorted((pair for pair in measured if pair[1]["speedup"]), key=lambda pair: float(pair[1]["speedup"]))
    unpaired = [f"{s.label} {row['tokens_per_s']:.1f} tokens/s" for s, row in measured if not row["speedup"]]
    apart = f" Not comparable, for want of none's samples beside theirs: {_listed(unpaired)}." if unpaired else ""
    if not rows:
        return Figure(missing=apart.strip() or "No speed samples were taken in this run: nothing is said about speed.")
    plot = empty_plot(height=90 + 46 * len(rows))
    for place, (s, row) in enumerate(rows):
        plot.add_scatter(
            x=[row["speedup"]], y=[place], mode="markers+text",
            marker={"color": s.colour, "symbol": s.symbol, "size": 11},
            error_x=_whiskers([row], "speedup") | {"thickness": 1.6, "color": s.colour}, hoverinfo="text",
            text=[f"{row['speedup']:.2f}×" if s.gamma else ""], textposition="top center",
            hovertext=[f"{s.label}: {_times(row)}, {row['pairs']} pairs with none"],
        )  # fmt: skip
    ends = [row[name] for _, row in rows for name in ("speedup", "low", "high") if row[name] is not None]
    span = max(max(ends) - min(ends), 0.2)
    plot.add_vline(x=1, line={"width": 1, "dash": "dot"})
    plot.update_xaxes(range=[min(ends) - 0.15 * span, max(ends) + 0.15 * span], title_text="times as fast as none")
    plot.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[f"{s.label}<br>{row['tokens_per_s']:.1f} tok/s" for s, row in rows],
        range=[-0.6, len(rows) - 0.2],
    )
    batches = sorted({row["batch_min"] for _, row in rows} | {row["batch_max"] for _, row in rows})
    batch = f"{batches[0]}" if len(batches) == 1 else f"{batches[0]} to {batches[-1]}"
    return Figure(
        [],
        [Panel("speed-up", "", plot)],
        f"Right of the dotted line a drafter pays for itself on this machine, at batch {batch}; whiskers are 95 % "
        f"intervals over prompts and passes, each pass paired with none's.{apart}",
    )


def _whiskers(rows: Sequence[Mapping[str, Any]], value: str) -> dict[str, Any]:
    """Plotly's asymmetric error bars from `low` and `high`; no whisker where there is no interval."""
    bounded = [row["low"] is not None for row in rows]
    return {
        "type": "data",
        "symmetric": False,
        "array": [row["high"] - row[value] if known else None for row, known in zip(rows, bounded, strict=True)],
        "arrayminus": [row[value] - row["low"] if known else None for row, known in zip(rows, bounded, strict=True)],
        "width": 2,
    }


def _entry(series: Series) -> LegendEntry:
    return LegendEntry(series.label, SYMBOLS[series.symbol], series.colour)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
