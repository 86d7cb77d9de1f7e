"""Tokens accepted and rejected over the confidence threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from results.figures.common import NO_CONFIDENCES, PAPER_DSPARK, draw_line, evidence_of, facets, legend_of, listed, overlay
from results.figures.section import Figure, Panel, Section, empty_plot, note
from results.figures.style import MANNERS, Series, in_order
from results.published import PAPER, PAPER_DATASETS
from results.store.recordings import ConfidenceRecord
from results.store.runs import Provenance
from simulator.replay import walk

Ints = npt.NDArray[np.int64]

THRESHOLDS: Final = tuple(round(0.05 * i, 2) for i in range(21))
"""Thresholds of the sweep; the paper has every second one."""


def threshold_sweep(found: Sequence[ConfidenceRecord], run_id: str) -> pl.DataFrame:
    """Tokens accepted and rejected a round under `threshold:c`, by task and by domain, for raw or estimated confidences.

    A row whose task is null is a domain: the plain mean of its tasks. Columns: run, drafter, gamma, confidences, domain,
    task, threshold, tau (tokens per round, bonus token included), rejected (verified draft tokens that were not kept, per
    round), budget (tokens verified per round, anchor included), rounds, paper_tau, paper_rejected (DSpark on Qwen3-4B, one
    data set a domain; null elsewhere).
    """
    rows: list[dict[str, Any]] = []
    for recording in found:
        walked = walk(recording.confidence, recording.drafted, recording.accepted, recording.offsets, THRESHOLDS)
        key = {"run": run_id, "drafter": recording.drafter, "gamma": recording.gamma}
        key["confidences"] = "estimated" if recording.estimated else "raw"
        tasks, domains = np.array(recording.tasks), np.array(recording.domains)
        for domain in dict.fromkeys(recording.domains):
            means = []
            for task in dict.fromkeys(tasks[domains == domain].tolist()):
                mine = (tasks == task) & (domains == domain)
                rounds, committed, verified, accepted = (part[:, mine].sum(1) for part in walked)
                if not rounds.all():
                    continue
                each = np.stack([committed / rounds, (verified - accepted) / rounds, 1 + verified / rounds])
                means.append(each)
                rows += _threshold_rows(key | {"domain": domain, "task": task}, each, rounds)
            if means:
                rounds = walked.rounds[:, domains == domain].sum(1)
                rows += _threshold_rows(key | {"domain": domain, "task": None}, np.mean(means, 0), rounds)
    frame = pl.DataFrame(rows, schema=_THRESHOLDS)
    dataset = pl.col("task").replace_strict(PAPER_DATASETS, default=None, return_dtype=pl.String)
    joined = frame.with_columns(dataset=dataset).join(
        paper_thresholds(), on=["dataset", "threshold"], how="left", maintain_order="left"
    )
    return joined.drop("dataset")


@cache
def paper_thresholds() -> pl.DataFrame:
    """Figure 5: dataset, threshold, paper_tau, paper_rejected."""
    table = pl.read_csv(PAPER / "fig5_threshold.csv")
    dataset = pl.col("domain").replace_strict({"Math": "GSM8K", "Code": "HumanEval", "Chat": "MT-Bench"})
    columns = {"paper_tau": pl.col("accepted_tokens"), "paper_rejected": pl.col("rejected_tokens")}
    return table.select(dataset.alias("dataset"), pl.col("threshold").cast(pl.Float64), **columns)


def _threshold_rows(key: dict[str, Any], each: npt.NDArray[np.float64], rounds: Ints) -> list[dict[str, Any]]:
    return [
        key | {"threshold": c, "tau": t, "rejected": r, "budget": b, "rounds": int(n)}
        for c, t, r, b, n in zip(THRESHOLDS, *each.tolist(), rounds.tolist(), strict=True)
    ]


_THRESHOLDS: Final = pl.Schema(
    {"run": pl.String, "drafter": pl.String, "gamma": pl.Int64}
    | dict.fromkeys(["confidences", "domain", "task"], pl.String)
    | dict.fromkeys(["threshold", "tau", "rejected", "budget"], pl.Float64)
    | {"rounds": pl.Int64}
)


def section(sweep: pl.DataFrame, runs: Sequence[Provenance], series: Sequence[Series]) -> Section:
    """Accepted and rejected tokens over the confidence threshold."""
    return Section(
        "threshold",
        "Accepted and rejected tokens over the confidence threshold",
        "Verifying only up to the first position whose confidence is below a threshold saves tokens that would have been "
        "rejected, and some that would not.",
        _threshold(sweep, series, runs),
        (),
        evidence_of(runs, sweep["paper_tau"].drop_nulls().len() > 0) if sweep.height else [],
        sweep,
    )


def _threshold(sweep: pl.DataFrame, series: Sequence[Series], runs: Sequence[Provenance]) -> Figure:
    shown = [s for s in series if s.rows(sweep)]
    if not shown:
        return Figure(missing=NO_CONFIDENCES)
    panels = []
    for run, domain, name, title in facets(runs, lambda run: in_order(sweep.filter(run=run)["domain"])):
        of_domain = sweep.filter(run=run, domain=domain)
        tasks = of_domain.filter(pl.col("paper_tau").is_not_null())["task"].unique().to_list()
        task = tasks[0] if tasks else None
        rows_of = of_domain.filter(pl.col("task").is_null() if task is None else pl.col("task") == task)
        plot = empty_plot(height=330)
        for s in shown:
            if s.run == run:
                _threshold_lines(plot, s, s.rows(rows_of))
        plot.update_xaxes(range=[-0.03, 1.03], title_text="least confidence verified", dtick=0.2)
        plot.update_yaxes(rangemode="tozero", title_text="tokens per round")
        plot.update_layout(margin={"l": 48, "b": 40})
        panels.append(Panel(f"threshold-{name}", f"{title}, {task or 'mean of its tasks'}", plot))
    estimated = [s.label for s in shown if s.rows(sweep)[0]["confidences"] == "estimated"]
    caption = "Full lines are accepted tokens, bonus token included, thin ones rejected: look for where the thin has fallen "
    caption += "and the full not yet."
    if estimated:
        caption += f" Confidences of {listed(estimated)} are estimated: there is no head that gives them."
    legend = legend_of(shown)
    if sweep["paper_tau"].drop_nulls().len():
        legend.append(note(PAPER_DSPARK, "published"))
    return Figure(legend, panels, caption, published=overlay(runs))


def _threshold_lines(plot: Any, s: Series, rows: Sequence[Mapping[str, Any]]) -> None:
    told = [row for row in rows if row["paper_tau"] is not None and s.kind == "dspark"]
    for column, paper, word in (("tau", "paper_tau", "accepted"), ("rejected", "paper_rejected", "rejected")):
        thin: dict[str, Any] = {}
        if word == "rejected":
            thin = {"opacity": 0.6, "line": {"color": s.colour, "width": 1, "dash": MANNERS[s.evidence].dash}}
        if told:
            draw_line(
                plot, [row["threshold"] for row in told], [row[paper] for row in told],
                [f"{word} {row[paper]:.2f} at {row['threshold']:g}: {PAPER_DSPARK}, {PAPER_DATASETS[row['task']]}"
                 for row in told],
                colour=s.colour, symbol=s.symbol, evidence="published", size=6,
                opacity=0.75 if word == "accepted" else 0.45,
            )  # fmt: skip
        draw_line(
            plot, [row["threshold"] for row in rows], [row[column] for row in rows],
            [f"{s.label}, {row['confidences']} confidences: {word} {row[column]:.2f} per round at {row['threshold']:g}, "
             f"verifying {row['budget']:.2f}" for row in rows],
            colour=s.colour, symbol=s.symbol, evidence=s.evidence, size=4, **thin,
        )  # fmt: skip
