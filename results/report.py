"""Runs as one HTML file that opens offline: puts the tables of `figures` into sections, computes nothing of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from results import appendix, figures
from results.answer import Answer, from_recordings, from_study, from_sweep
from results.drawing import confidence as confidence_sections
from results.drawing import recorded as recorded_sections
from results.drawing import simulated as simulated_sections
from results.drawing import studied as studied_sections
from results.drawing import validated as validated_sections
from results.drawing.simulated import View
from results.figures import confidence, simulated, studied, validated
from results.figures.run import Provenance
from results.look import Evidence, Series, series_of
from results.page import Section, render_page, write_page


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a report shows, not yet a page."""

    title: str
    subtitle: str
    answer: Answer
    notices: Sequence[str]
    sections: Sequence[Section]
    provenance: Sequence[tuple[str, appendix.Facts]]


def write_report(
    con: duckdb.DuckDBPyConnection,
    run_ids: str | Sequence[str],
    file: Path,
    *,
    sweep_id: str | None = None,
    study_id: str | None = None,
) -> None:
    """Write the report of runs to `file`, whole or not at all; see `compose`."""
    write_page(render(con, run_ids, sweep_id=sweep_id, study_id=study_id), file)


def render(
    con: duckdb.DuckDBPyConnection, run_ids: str | Sequence[str], *, sweep_id: str | None = None, study_id: str | None = None
) -> str:
    """The report as one self-contained HTML page; see `compose`."""
    return page(compose(con, run_ids, sweep_id=sweep_id, study_id=study_id))


def page(report: Report) -> str:
    """A report as one self-contained HTML page."""
    return render_page(
        "report.html", {}, title=report.title, subtitle=report.subtitle, answer=report.answer, notices=report.notices,
        sections=report.sections, provenance=report.provenance,
    )  # fmt: skip


def compose(
    con: duckdb.DuckDBPyConnection, run_ids: str | Sequence[str], *, sweep_id: str | None = None, study_id: str | None = None
) -> Report:
    """What there is to say of one or more runs, the first being what it is about.

    Without `sweep_id` and `study_id` the latest of these runs are shown, where there are any. Raises LookupError for a run,
    a sweep or a study that is not there.
    """
    names = [run_ids] if isinstance(run_ids, str) else list(dict.fromkeys(run_ids))
    tau = _over(names, lambda run: figures.accepted_length(con, run))
    alpha = _over(names, lambda run: figures.conditional_acceptance(con, run))
    speeds = _over(names, lambda run: figures.speed(con, run))
    runs = [figures.provenance(con, name) for name in names]
    draft = _Draft(con, runs, series_of(runs, [tau, speeds]))
    draft.add_sweep(sweep_id or simulated.find_sweep(con, names))
    draft.add_study(study_id or studied.find_study(con, names))
    draft.add_validation(validated.find_validation(con, names))
    draft.sections += [
        recorded_sections.accepted_length(tau, runs, draft.series),
        recorded_sections.conditional_acceptance(alpha, runs, draft.series),
        *_confidences(con, names, runs, tau, draft.series),
        recorded_sections.speed(speeds, runs, draft.series),
    ]
    first = runs[0]
    title = f"{first.suite} v{first.suite_version} · pair {first.pair}" + (f" · {len(runs)} runs" if len(runs) > 1 else "")
    return Report(
        title, appendix.subtitle(first), draft.answer or from_recordings(tau, speeds, draft.series), draft.notices,
        draft.sections, [*draft.provenance, ("how", appendix.of_method())],
    )  # fmt: skip


class _Draft:
    """A report while it grows; what comes first comes first on the page."""

    def __init__(self, con: duckdb.DuckDBPyConnection, runs: Sequence[Provenance], series: list[Series]) -> None:
        self.con, self.runs, self.series = con, runs, series
        several = len(runs) > 1
        self.sections: list[Section] = []
        self.answer: Answer | None = None
        self.notices: list[str] = []
        for run in runs:
            self.notices += appendix.notices(run, figures.missing_responses(con, run.run_id), several=several)
        self.provenance = [(f"run {run.run_id}" if several else "", appendix.of_run(run)) for run in runs]
        self._sweep: simulated.Sweep | None = None

    def add_sweep(self, sweep_id: str | None) -> None:
        """Simulations, where there are any."""
        if sweep_id is None:
            self.notices.append("Nothing was simulated on these runs: `harness simulate` shows how they do under load.")
            return
        self._sweep = simulated.sweep(self.con, sweep_id)
        view = View(self._sweep, simulated.simulated(self.con, sweep_id), self.runs)
        self.sections += simulated_sections.sections(view, self.series)
        self.answer = from_sweep(view)
        self._warn(appendix.model_notice(self._sweep.profile, self._run(self._sweep.run_id)))
        self._warn(appendix.sweep_notices(self._sweep, view.points))
        self.provenance.append(("simulations", appendix.of_sweep(self._sweep)))

    def add_study(self, study_id: str | None) -> None:
        """A study, where there is one; its answer goes before the sweep's."""
        if study_id is None:
            return
        study = studied.study(self.con, study_id)
        run = self._run(study.run_id)
        tried, confirmed = studied.trials(self.con, study), studied.confirmations(self.con, study)
        sensitive = studied.sensitivities(self.con, study)
        synthesised = run is not None and run.prompt_source == "synthesised"
        evidence: list[Evidence] = ["simulated", "synthesised"] if synthesised else ["simulated"]
        self.sections.append(studied_sections.section(study, tried, confirmed, sensitive, self.series, evidence))
        kinds = {} if run is None else {d.name: d.kind for d in run.drafters}
        self.answer = from_study(study, confirmed, sensitive, kinds) or self.answer
        self._warn(appendix.model_notice(study.profile, run))
        if study.finished_at is None:
            self._warn([f"Study {study.study_id} did not finish: what is not confirmed may not hold."])
        self.provenance.append(("study", appendix.of_study(study, self._sweep)))

    def add_validation(self, validation_id: str | None) -> None:
        """Simulated against measured, where that was done."""
        if validation_id is None:
            return
        points = validated.validated(self.con, validation_id)
        self.sections.append(validated_sections.section(points, self.series))
        self.provenance.append(("validation", [("command", points["command"].unique().to_list())]))

    def _warn(self, notices: Sequence[str]) -> None:
        self.notices += [notice for notice in notices if notice not in self.notices]

    def _run(self, run_id: str) -> Provenance | None:
        return next((run for run in self.runs if run.run_id == run_id), None)


def _confidences(
    con: duckdb.DuckDBPyConnection,
    names: Sequence[str],
    runs: Sequence[Provenance],
    tau: pl.DataFrame,
    series: Sequence[Series],
) -> list[Section]:
    found = {run: confidence.recordings(con, run) for run in names}
    sweep = pl.concat([confidence.threshold_sweep(recordings, run) for run, recordings in found.items()])
    bins = pl.concat([confidence.reliability(recordings, run) for run, recordings in found.items()])
    quality = pl.concat([confidence.confidence_quality(con, run) for run in names])
    kinds = {d.name: d.kind for run in runs for d in run.drafters}
    return [
        confidence_sections.threshold(sweep, runs, series),
        confidence_sections.reliability(bins, quality, runs, series),
        confidence_sections.block_size(confidence.block_sizes(tau, kinds), runs, series),
    ]


def _over(names: Sequence[str], table: Callable[[str], pl.DataFrame]) -> pl.DataFrame:
    """A table of every run, with the column `run` in front."""
    return pl.concat([table(name).select(pl.lit(name).alias("run"), pl.all()) for name in names])
