"""Sections of what confidences are worth: threshold sweep, reliability, block sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from results.drawing.common import draw_line, facets, legend_of, listed, overlay, whiskers
from results.drawing.recorded import evidence_of
from results.figures.confidence import paper_reliability
from results.figures.published import PAPER_DATASETS, PAPER_TARGET
from results.figures.run import Provenance
from results.look import MANNERS, Series, in_order, longest
from results.page import Cell, Figure, Panel, Section, Table, empty_plot, note

_NO_CONFIDENCES = (
    "No drafter here says how sure it is, or the run was not recorded dense: there are no confidences to look at."
)
_PAPER_DSPARK = f"DSpark on {PAPER_TARGET} in the paper"
_SHOWN_POSITIONS = (1, 3, 5, 7)
"""Of reliability; all positions are in the CSV and in the table."""


def threshold(sweep: pl.DataFrame, runs: Sequence[Provenance], series: Sequence[Series]) -> Section:
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


def reliability(bins: pl.DataFrame, quality: pl.DataFrame, runs: Sequence[Provenance], series: Sequence[Series]) -> Section:
    """Survivals against what happened, before and after calibration."""
    return Section(
        "reliability",
        "Reliability of confidences, before and after calibration",
        "A survival is the product of confidences up to a position: how likely the drafter thinks it is that everything "
        "up to there is accepted.",
        _reliability(bins, series, runs),
        [_quality_table(quality, runs)] if quality.height else [],
        evidence_of(runs, bins.height > 0) if bins.height else [],
        bins,
        () if quality.height or not bins.height else (_UNCALIBRATED,),
    )


def block_size(sizes: pl.DataFrame, runs: Sequence[Provenance], series: Sequence[Series]) -> Section:
    """Accepted length over block size."""
    recorded = sizes.filter(pl.col("tau").is_not_null())
    several = recorded.height > 0 and recorded.group_by("run", "drafter").agg(n=pl.col("gamma").n_unique())["n"].max() != 1
    remark = "Only one block size is recorded of each drafter; `harness record SUITE --block-sizes 3,5,7` records several."
    return Section(
        "block-size",
        "Accepted length over block size",
        "What drafting more tokens in a round brings, before what it costs.",
        _block_size(sizes, longest(series), runs),
        (),
        evidence_of(runs, sizes["paper"].drop_nulls().len() > 0) if recorded.height else [],
        sizes,
        () if several or not recorded.height else (remark,),
    )


_UNCALIBRATED = "The run has too few prompts to calibrate confidences on: they are shown as they come, on all prompts."


def _threshold(sweep: pl.DataFrame, series: Sequence[Series], runs: Sequence[Provenance]) -> Figure:
    shown = [s for s in series if s.rows(sweep)]
    if not shown:
        return Figure(missing=_NO_CONFIDENCES)
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
        legend.append(note(_PAPER_DSPARK, "published"))
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
                [f"{word} {row[paper]:.2f} at {row['threshold']:g}: {_PAPER_DSPARK}, {PAPER_DATASETS[row['task']]}"
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


def _reliability(bins: pl.DataFrame, series: Sequence[Series], runs: Sequence[Provenance]) -> Figure:
    shown = [s for s in series if s.rows(bins)]
    if not shown:
        return Figure(missing=_NO_CONFIDENCES)

    def positions(run: str) -> list[str]:
        there = set(bins.filter(run=run)["position"].to_list())
        return [f"position {k}" for k in _SHOWN_POSITIONS if k in there]

    panels = []
    for run, what, name, title in facets(runs, positions):
        position, of_run = int(what.split()[1]), [s for s in shown if s.run == run]
        plot = empty_plot(height=300)
        plot.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line={"width": 1, "dash": "dot"})
        for s in [s for s in of_run if s.kind == "dspark"][:1]:
            _paper_reliability(plot, position, s)
        for s in of_run:
            _reliability_lines(plot, s, [row for row in s.rows(bins) if row["position"] == position])
        plot.update_xaxes(range=[-0.03, 1.03], dtick=0.5, title_text="survival predicted")
        plot.update_yaxes(range=[-0.03, 1.03], dtick=0.5, title_text="came true")
        plot.update_layout(margin={"l": 48, "b": 40})
        panels.append(Panel(f"reliability-{name.removeprefix('position-')}", title, plot))
    legend = legend_of(shown)
    if any(s.kind == "dspark" for s in shown):
        legend.append(note(f"{_PAPER_DSPARK}, Alpaca", "published"))
    return Figure(
        legend,
        panels,
        "On the dotted diagonal a survival means what it says; below it the drafter is too sure of itself. Faint lines are "
        "before calibration, full ones after.",
        published=overlay(runs),
    )


def _reliability_lines(plot: Any, s: Series, of_position: Sequence[Mapping[str, Any]]) -> None:
    """A drafter's survivals at a position, before and after calibration."""
    for stage in _STAGES:
        rows = [row for row in of_position if row["stage"] == stage]
        if not rows:
            continue
        faint: dict[str, Any] = {"opacity": 0.45} if stage == "before" else {}
        draw_line(
            plot, [row["predicted"] for row in rows], [row["observed"] for row in rows],
            [f"{s.label}, {_STAGES[stage]}: predicted {row['predicted']:.3f}, came true {row['observed']:.3f} "
             f"({row['anchors']:,} anchors)" for row in rows],
            colour=s.colour, symbol=s.symbol, evidence=s.evidence, size=5, **faint,
        )  # fmt: skip


_STAGES: Mapping[str, str] = {
    "before": "before calibration",
    "after": "after calibration",
    "estimated": "estimated confidences",
}


def _paper_reliability(plot: Any, position: int, s: Series) -> None:
    for stage in ("before", "after"):
        rows = paper_reliability().filter(position=position, stage=stage).sort("predicted").to_dicts()
        if rows:
            draw_line(
                plot, [row["predicted"] for row in rows], [row["observed"] for row in rows],
                [f"{_PAPER_DSPARK}, Alpaca, {_STAGES[stage]}: {r['predicted']:.2f}, {r['observed']:.2f}" for r in rows],
                colour=s.colour, symbol=s.symbol, evidence="published", size=4, opacity=0.35 if stage == "before" else 0.75,
            )  # fmt: skip


def _quality_table(quality: pl.DataFrame, runs: Sequence[Provenance]) -> Table:
    rows = []
    for row in quality.to_dicts():
        head = f"{row['drafter']} γ={row['gamma']}, position {row['position']}" + (
            f" · {row['run']}" if len(runs) > 1 else ""
        )
        cells = [Cell(head, head), Cell("head, scaled" if row["fitted"] == "temperature" else "estimated", row["fitted"])]
        cells += [_number(row[name], ".3f") for name in ("observed", "ece_before", "ece_after", "auc", "brier")]
        rows.append((cells, False))
    columns = [("survival up to", ""), ("confidences", ""), ("came true", ""), ("ECE", "before"), ("ECE", "after")]
    return Table(
        [*columns, ("ROC-AUC", "after"), ("Brier", "after")],
        [rows],
        "Expected calibration error, area under the ROC curve and Brier score of survivals, on prompts nothing was fitted "
        "on.",
    )


def _number(value: float | None, form: str) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:{form}}", round(value, 6))


def _block_size(sizes: pl.DataFrame, series: Sequence[Series], runs: Sequence[Provenance]) -> Figure:
    """τ over every block size recorded; a drafter's name and looks are those of its largest."""
    recorded = sizes.filter(pl.col("tau").is_not_null())
    there = set(recorded.select("run", "drafter").rows())
    shown = [replace(s, label=s.drafter) for s in series if (s.run, s.drafter) in there]
    if not shown:
        return Figure(missing="No rounds of a drafter are recorded: there is no accepted length to draw.")
    top = max(float(sizes.select(pl.max_horizontal("tau", "high", "paper").max()).item()), 2.0) * 1.06
    most = float(sizes["gamma"].max()) + 0.5  # type: ignore[arg-type]
    panels = []
    for run, domain, name, title in facets(runs, lambda run: in_order(recorded.filter(run=run)["domain"])):
        plot = empty_plot(height=310)
        for s in (s for s in shown if s.run == run):
            _block_size_lines(plot, s, sizes.filter(run=run, drafter=s.drafter, domain=domain).sort("gamma").to_dicts())
        plot.update_xaxes(title_text="block size γ, tokens drafted", range=[0, most])
        plot.update_yaxes(title_text="τ, tokens per round", range=[0, top])
        plot.update_layout(margin={"l": 44, "b": 40})
        panels.append(Panel(f"block-size-{name}", title, plot))
    legend = legend_of(shown)
    if sizes["paper"].drop_nulls().len():
        legend.append(note(f"{PAPER_TARGET} in the paper", "published"))
    return Figure(
        legend,
        panels,
        "Where a line flattens, drafting more tokens brings nothing more; whiskers are 95 % intervals over prompts.",
        published=overlay(runs),
    )


def _block_size_lines(plot: Any, s: Series, rows: Sequence[Mapping[str, Any]]) -> None:
    """A drafter's line and the published one."""
    told, mine = ([row for row in rows if row[column] is not None] for column in ("paper", "tau"))
    if told:
        draw_line(
            plot, [row["gamma"] for row in told], [row["paper"] for row in told],
            [f"{s.name}, γ={row['gamma']}, {PAPER_TARGET} in the paper: {row['paper']:.2f}" for row in told],
            colour=s.colour, symbol=s.symbol, evidence="published", size=6, opacity=0.7,
        )  # fmt: skip
    draw_line(
        plot, [row["gamma"] for row in mine], [row["tau"] for row in mine],
        [f"{s.name}, γ={row['gamma']}: {row['tau']:.3f}" + (
            "" if row["low"] is None else f", 95 % {row['low']:.2f} to {row['high']:.2f}") for row in mine],
        colour=s.colour, symbol=s.symbol, evidence=s.evidence, size=8,
        error_y=whiskers(mine, "tau") | {"thickness": 1.2, "color": s.colour},
    )  # fmt: skip
