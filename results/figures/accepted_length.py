"""Accepted length by task and drafter, published values beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
import numpy as np
import polars as pl

from results.figures.common import (
    IN_PAPER,
    PROMPT_SOURCES,
    bar_manner,
    evidence_of,
    facets,
    legend_of,
    overlay,
    ratio,
    sums,
    whiskers,
)
from results.figures.intervals import Floats, bootstrap_ratio, interval
from results.figures.section import Cell, Figure, Panel, Section, Table, empty_plot, note
from results.figures.style import Series, in_order, longest
from results.published import DOMAIN_MEAN, PAPER_DATASETS, PAPER_TARGET, join_paper, paper_tau
from results.store.commands import DEFAULT_OUT, typed
from results.store.queries import query
from results.store.runs import Provenance, drafting_of, provenance
from simulator.numbers import counted
from simulator.records import Drafting

if TYPE_CHECKING:  # takes a second, and numbers need none of it
    import plotly.graph_objects as go


def accepted_length(
    con: duckdb.DuckDBPyConnection,
    run_id: str,
    drafting: Drafting | None = None,
    *,
    rng: np.random.Generator | None = None,
) -> pl.DataFrame:
    """Accepted length τ by drafter and task, and by drafter and domain.

    τ = Σ committed / Σ rounds, in tokens per round, bonus token included. A row whose `task` is null is a domain: the
    plain mean of its tasks' τ, as the paper averages datasets. [`low`, `high`] is a 95 % percentile bootstrap over
    prompts: prompts are resampled within their task with all their turns, the same for every drafter, τ is the ratio of
    the resampled sums, and a domain averages its tasks' independent draws. With few prompts such an interval is too
    narrow, and with one it is null. Without `rng`, the draws are those of `default_rng(0)`: the same run always gives the
    same table. `drafting` chooses among recordings of sampled and of greedy drafts; see `drafting_of` for None.

    Columns: drafter, gamma, drafting (`either` where both ways are one), domain, task, tasks (how many the row averages),
    prompts, responses, rounds, tau, low, high, paper (τ of Qwen3-4B for the same kind of drafter and dataset or domain at
    γ = 7, null where unpublished). A response without rounds counts as a response; a task without rounds has a null τ and
    is not averaged.
    """
    seed = int((rng or np.random.default_rng(0)).integers(2**32))
    prompts = query(
        con,
        """
        SELECT s.drafter, s.gamma, s.drafting, s.domain, s.task, s.prompt_id, count(DISTINCT s.turn) AS responses,
               count(r.round) AS rounds, coalesce(sum(r.committed), 0)::BIGINT AS committed
        FROM recorded_responses s LEFT JOIN rounds r USING (run_id, drafter, gamma, drafting, prompt_id, turn)
        WHERE s.run_id = $run AND s.drafting IN ($drafting, 'either') GROUP BY ALL ORDER BY ALL
        """,
        run_id,
        drafting=drafting or drafting_of(con, run_id),
    )
    rows: list[dict[str, Any]] = []
    keys = ("drafter", "gamma", "drafting", "domain")
    for key, of_domain in prompts.group_by(*keys, maintain_order=True):
        taus: list[float] = []
        draws: list[Floats] = []
        group = dict(zip(keys, key, strict=True))
        for (task,), of_task in of_domain.group_by("task", maintain_order=True):
            tau = ratio(of_task, "committed", "rounds")
            own = np.random.default_rng([seed, *str(task).encode()])  # of every drafter the same prompts are drawn
            resampled = bootstrap_ratio(of_task["committed"].to_numpy(), of_task["rounds"].to_numpy(), own)
            if tau is not None:
                taus.append(tau)
                draws.append(resampled)
            rows.append(group | {"task": task, "tasks": 1} | _tau_row(of_task, tau, resampled))
        mean, of_mean = (float(np.mean(taus)), np.mean(draws, axis=0)) if taus else (None, np.empty(0))
        rows.append(group | {"task": None, "tasks": len(taus)} | _tau_row(of_domain, mean, of_mean))
    measured = pl.DataFrame(rows, schema=_ACCEPTED_LENGTH)
    task_name = pl.col("task").replace_strict(PAPER_DATASETS, default=None, return_dtype=pl.String)
    dataset = pl.when(pl.col("task").is_null()).then(pl.lit(DOMAIN_MEAN)).otherwise(task_name)
    return join_paper(measured.with_columns(dataset=dataset), provenance(con, run_id), paper_tau()).drop("dataset")


_ACCEPTED_LENGTH: Final = pl.Schema(
    {"drafter": pl.String, "gamma": pl.UInt8, "drafting": pl.String, "domain": pl.String, "task": pl.String}
    | dict.fromkeys(["tasks", "prompts", "responses", "rounds"], pl.Int64)
    | dict.fromkeys(["tau", "low", "high"], pl.Float64)
)


def _tau_row(prompts: pl.DataFrame, tau: float | None, draws: Floats) -> dict[str, Any]:
    """The measured columns of one row of accepted lengths."""
    low, high = interval(draws)
    return {"prompts": prompts.height, **sums(prompts, "responses", "rounds"), "tau": tau, "low": low, "high": high}


_OF_SEVERAL: Final = (
    "Of every drafter this is the largest block size recorded; the others are under "
    "“Accepted length over block size” and in the CSV."
)
_OF_DRAFTS: Final[Mapping[str, str]] = {
    "sampled": "Drafts were drawn from the draft distribution, as in the papers; vLLM's are greedy by default: "
    "`{replay}` tells what that changes, where both were recorded.",
    "greedy": "Drafts were greedy: the likeliest token, as vLLM drafts by default.",
}


def section(tau: pl.DataFrame, runs: Sequence[Provenance], series: Sequence[Series], out: Path = DEFAULT_OUT) -> Section:
    """τ by task and drafter: a table, and bars with published values beside them; the database is in the folder `out`."""
    replay = typed("harness", "replay", runs[0].run_id, out=out)
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
        [
            *([_comparison(runs[0])] if published else []),
            *([_OF_SEVERAL] if len(chosen) < len(series) else []),
            *(text.format(replay=replay) for way, text in _OF_DRAFTS.items() if way in tau["drafting"]),
        ],
    )


def _comparison(run: Provenance) -> str:
    if run.suite == "published":
        return (
            f"Small grey numbers and hollow markers are the DSpark paper's {PAPER_TARGET}: these traces were fitted to them."
        )
    same = PAPER_TARGET.lower() in run.pair.lower() and run.prompt_source not in ("bundled", "suite")
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
    return f"{row['tau']:.3f}{interval} ({counted(row['prompts'], 'prompt')}, {counted(row['rounds'], 'round')})"


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
        legend.append(note(IN_PAPER, "published", symbol="diamond", line=False))
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
                hovertext=[f"{s.label}, {IN_PAPER}: {row['paper']:.2f}" for _, row in told],
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
