"""Runs as one HTML file that opens offline: puts the tables of `figures` into sections, computes nothing of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from results import appendix, figures
from results.answer import Answer, from_recordings, from_study, from_sweep
from results.drawing import confidence as confidence_sections
from results.drawing import recorded as recorded_sections
from results.drawing import simulated as simulated_sections
from results.drawing import studied as studied_sections
from results.drawing import tolerated as tolerated_sections
from results.drawing import validated as validated_sections
from results.drawing.simulated import View
from results.figures import confidence, simulated, studied, tolerated, validated
from results.figures.common import Origin
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
        sections=report.sections, provenance=report.provenance, words=appendix.WORDS,
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
    draft.add_sensitivity(tolerated.find_sensitivity(con, names))
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
        title, appendix.subtitle(first), draft.answer or _of_first(tau, speeds, draft.series, first.run_id), draft.notices,
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
        self._profiles: list[Mapping[str, Any]] = []

    def add_sweep(self, sweep_id: str | None) -> None:
        """Simulations, where there are any."""
        if sweep_id is None:
            self.notices.append("Nothing was simulated on these runs: `harness simulate` shows how they do under load.")
            return
        sweep = simulated.sweep(self.con, sweep_id)
        view = View(sweep, simulated.simulated(self.con, sweep_id), self.runs)
        self.sections += simulated_sections.sections(view, self.series)
        self.answer = from_sweep(view)
        self._warn(appendix.model_notice(sweep.profile, self._run(sweep.run_id)))
        self._warn(appendix.sweep_notices(sweep, view.points))
        self._tell("simulations", appendix.of_sweep(sweep, self._profiles), sweep)

    def add_study(self, study_id: str | None) -> None:
        """A study, where there is one; its answer goes before the sweep's."""
        if study_id is None:
            return
        study = studied.study(self.con, study_id)
        run = self._run(study.run_id)
        tried, confirmed = studied.trials(self.con, study), studied.confirmations(self.con, study)
        sensitive = studied.sensitivities(self.con, study)
        self.sections.append(
            studied_sections.section(study, tried, confirmed, sensitive, self.series, self._evidence(study.run_id))
        )
        kinds = {} if run is None else {d.name: d.kind for d in run.drafters}
        self.answer = from_study(study, confirmed, sensitive, kinds) or self.answer
        self._warn(appendix.model_notice(study.profile, run))
        if study.finished_at is None:
            self._warn([f"Study {study.study_id} did not finish: what is not confirmed may not hold."])
        self._tell("study", appendix.of_study(study, self._profiles), study)

    def add_sensitivity(self, tolerance_id: str | None) -> None:
        """How wrong things may be, where that was asked; in the answer too, where that is of the same hardware."""
        if tolerance_id is None:
            if self.answer is not None and self.answer.profile:
                self._remark("How wrong the profile may be before another choice wins: `harness sensitivity` tells.")
            return
        found, looks = tolerated.sensitivity(self.con, tolerance_id), tolerated.tolerances(self.con, tolerance_id)
        run = self._run(found.run_id)
        self.sections.append(tolerated_sections.section(found, looks, self.series, self._evidence(found.run_id)))
        if self.answer is not None and self.answer.profile == found.profile["name"]:
            self._remark(tolerated_sections.sentence(found, looks, tolerated.closest_load(looks, self.answer.load)))
        self._warn(appendix.model_notice(found.profile, run))
        self._tell("sensitivity", appendix.of_sensitivity(found, self._profiles), found)

    def add_validation(self, validation_id: str | None) -> None:
        """Simulated against measured, where that was done."""
        if validation_id is None:
            return
        found, points = validated.validation(self.con, validation_id), validated.validated(self.con, validation_id)
        self.sections.append(validated_sections.section(found, points, self.series))
        self._tell("validation", appendix.of_validation(found, self._profiles), found)

    def _tell(self, title: str, facts: appendix.Facts, made: Origin) -> None:
        """Where something comes from; a profile is told once."""
        self.provenance.append((title, facts))
        self._profiles.append(made.profile)

    def _evidence(self, run_id: str) -> list[Evidence]:
        """Of what is simulated from a run."""
        run = self._run(run_id)
        return ["simulated", "synthesised"] if run is not None and run.prompt_source == "synthesised" else ["simulated"]

    def _remark(self, text: str) -> None:
        """The first of the answer's remarks."""
        if self.answer is not None:
            self.answer = replace(self.answer, remarks=[text, *self.answer.remarks])

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


def _of_first(tau: pl.DataFrame, speeds: pl.DataFrame, series: Sequence[Series], run: str) -> Answer:
    """Of what was recorded in the first run alone: others may have had other prompts."""
    return from_recordings(tau.filter(run=run), speeds.filter(run=run), [s for s in series if s.run == run])


def _over(names: Sequence[str], table: Callable[[str], pl.DataFrame]) -> pl.DataFrame:
    """A table of every run, with the column `run` in front."""
    return pl.concat([table(name).select(pl.lit(name).alias("run"), pl.all()) for name in names])
