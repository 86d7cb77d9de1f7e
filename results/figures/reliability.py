"""How often survivals come true, before and after calibration, and how good confidences are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl

from results.figures.common import NO_CONFIDENCES, PAPER_DSPARK, draw_line, evidence_of, facets, legend_of, overlay
from results.figures.section import Cell, Figure, Panel, Section, Table, empty_plot, note
from results.figures.style import Series
from results.published import PAPER
from results.store.queries import query
from results.store.recordings import ConfidenceRecord
from results.store.runs import Provenance, drafting_of
from simulator.confidence import BINS, products
from simulator.numbers import counted
from simulator.traces import split_of

Ints = npt.NDArray[np.int64]


def reliability(found: Sequence[ConfidenceRecord], run_id: str) -> pl.DataFrame:
    """How often a survival s_k came true, by bin of s_k, before and after calibration, on prompts nothing was fitted on.

    Columns: run, drafter, gamma, position (from 1), stage ('before', 'after', or 'estimated'), predicted (mean s_k of the
    bin), observed (share with at least k accepted), anchors. Bins are of equal width; empty ones are left out.
    """
    rows = []
    for recording in found:
        test = np.array([split_of(prompt) != "calibration" for prompt in recording.prompts])
        fitted = recording.estimated or recording.calibrated is not None
        use = np.repeat(test if fitted else np.ones_like(test), np.diff(recording.offsets))
        stages = {"estimated": recording.confidence} if recording.estimated else {"before": recording.confidence}
        if recording.calibrated is not None:
            stages["after"] = recording.calibrated
        key = {"run": run_id, "drafter": recording.drafter, "gamma": recording.gamma}
        for stage, confidence in stages.items():
            survival = products(confidence[use])
            for k in range(survival.shape[1]):
                known = ~np.isnan(survival[:, k])
                s, kept = survival[known, k], recording.accepted[use][known] > k
                bins = np.minimum((s * BINS).astype(int), BINS - 1)
                count = np.bincount(bins, minlength=BINS)
                predicted, observed = np.bincount(bins, s, BINS), np.bincount(bins, kept, BINS)
                rows += [
                    key | {"position": k + 1, "stage": stage, "predicted": predicted[b] / count[b],
                           "observed": observed[b] / count[b], "anchors": int(count[b])}
                    for b in np.flatnonzero(count)
                ]  # fmt: skip
    return pl.DataFrame(rows, schema=_RELIABILITY)


def confidence_quality(con: duckdb.DuckDBPyConnection, run_id: str) -> pl.DataFrame:
    """What is stored of calibrations and estimates, by drafter and position; drafts are chosen as `drafting_of` says.

    Columns: run, drafter, gamma, position, fitted ('temperature' or 'estimate'), observed, ece_before, ece_after, auc,
    brier.
    """
    sql = """
        SELECT run_id AS run, drafter, gamma, position, 'temperature' AS fitted, observed, ece_before, ece_after,
               auc_after AS auc, brier_after AS brier
        FROM calibrations WHERE run_id = $run AND drafting IN ($drafting, 'either')
        UNION ALL
        SELECT run_id, drafter, gamma, position, 'estimate', observed, NULL, ece, auc, brier
        FROM estimates WHERE run_id = $run AND drafting IN ($drafting, 'either')
        ORDER BY drafter, gamma, position
    """
    return query(con, sql, run_id, drafting=drafting_of(con, run_id))


@cache
def paper_reliability() -> pl.DataFrame:
    """Figure 6: position, stage, predicted, observed."""
    return pl.read_csv(PAPER / "fig6_reliability.csv")


_RELIABILITY: Final = pl.Schema(
    {"run": pl.String, "drafter": pl.String, "gamma": pl.Int64, "position": pl.Int64, "stage": pl.String}
    | {"predicted": pl.Float64, "observed": pl.Float64, "anchors": pl.Int64}
)
_SHOWN_POSITIONS = (1, 3, 5, 7)
"""Positions whose reliability is drawn; all are in the CSV and in the table."""


def section(bins: pl.DataFrame, quality: pl.DataFrame, runs: Sequence[Provenance], series: Sequence[Series]) -> Section:
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


_UNCALIBRATED = "The run has too few prompts to calibrate confidences on: they are shown as they come, on all prompts."


def _reliability(bins: pl.DataFrame, series: Sequence[Series], runs: Sequence[Provenance]) -> Figure:
    shown = [s for s in series if s.rows(bins)]
    if not shown:
        return Figure(missing=NO_CONFIDENCES)

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
        legend.append(note(f"{PAPER_DSPARK}, Alpaca", "published"))
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
             f"({counted(row['anchors'], 'anchor')})" for row in rows],
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
                [f"{PAPER_DSPARK}, Alpaca, {_STAGES[stage]}: {r['predicted']:.2f}, {r['observed']:.2f}" for r in rows],
                colour=s.colour, symbol=s.symbol, evidence="published", size=4, opacity=0.35 if stage == "before" else 0.75,
            )  # fmt: skip


def _quality_table(quality: pl.DataFrame, runs: Sequence[Provenance]) -> Table:
    rows = []
    for row in quality.to_dicts():
        head = f"{row['drafter']} γ={row['gamma']}, position {row['position']}" + (
            f" · {row['run']}" if len(runs) > 1 else ""
        )
        cells = [Cell(head, head), Cell("head, scaled" if row["fitted"] == "temperature" else "estimated", row["fitted"])]
        cells += [Cell.of(row[name], ".3f", 6) for name in ("observed", "ece_before", "ece_after", "auc", "brier")]
        rows.append((cells, False))
    columns = [("survival up to", ""), ("confidences", ""), ("came true", ""), ("ECE", "before"), ("ECE", "after")]
    return Table(
        [*columns, ("ROC-AUC", "after"), ("Brier", "after")],
        [rows],
        "Expected calibration error, area under the ROC curve and Brier score of survivals, on prompts nothing was fitted "
        "on.",
    )
