"""Runs as one HTML file that opens offline: puts the tables of `figures` into sections, computes nothing of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import polars as pl

from results.baseline import run_key
from results.figures import (
    acceptance,
    accepted_length,
    block_size,
    contrast,
    frontier,
    latency,
    load,
    reliability,
    sensitivity,
    speed,
    step_time,
    threshold,
    training,
    validation,
)
from results.figures import study as study_figure
from results.figures import sweep as sweep_figure
from results.figures.common import by_drafter
from results.figures.frontier import LEDE
from results.figures.section import Figure, Section
from results.figures.style import Evidence, Series, recorded_evidence, series_of
from results.figures.sweep import Sweep
from results.figures.view import View
from results.report import notes
from results.report.headline import (
    Headline,
    from_decision,
    from_recordings,
    from_study,
    from_sweep,
    from_table,
    simulating,
    sums_of,
)
from results.report.page import render_page, write_page
from results.store import recordings as recordings_store
from results.store import runs as runs_store
from results.store.commands import DEFAULT_OUT, MADE_OF, given, typed
from results.store.contrasts import Contrast, read_contrasts
from results.store.database import decoded_rows
from results.store.decisions import decisions, models_of
from results.store.queries import Origin, latest_of
from results.store.runs import Provenance, missing_responses
from results.store.sensitivities import read_sensitivity
from results.store.studies import Study, one_table, read_study
from results.store.trainings import DrafterTraining, read_trainings
from results.store.validations import read_validation
from simulator.hardware.profile import Profile
from simulator.load import Load, Users
from simulator.plan import serving_of
from simulator.serving.command import cannot_run


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a report shows, not yet a page."""

    title: str
    subtitle: str
    answer: Headline
    notices: Sequence[str]
    sections: Sequence[Section]
    provenance: Sequence[tuple[str, notes.Facts]]


def write_report(
    con: duckdb.DuckDBPyConnection,
    run_ids: str | Sequence[str],
    file: Path,
    *,
    sweep_id: str | None = None,
    study_id: str | None = None,
    out: Path = DEFAULT_OUT,
) -> None:
    """Write the report of runs to `file`, whole or not at all; see `compose`."""
    write_page(render(con, run_ids, sweep_id=sweep_id, study_id=study_id, out=out), file)


def render(
    con: duckdb.DuckDBPyConnection,
    run_ids: str | Sequence[str],
    *,
    sweep_id: str | None = None,
    study_id: str | None = None,
    out: Path = DEFAULT_OUT,
) -> str:
    """The report as one self-contained HTML page; see `compose`."""
    return page(compose(con, run_ids, sweep_id=sweep_id, study_id=study_id, out=out))


def page(report: Report) -> str:
    """A report as one self-contained HTML page."""
    return render_page(
        Path(__file__).with_name("report.html"), {}, title=report.title, subtitle=report.subtitle, answer=report.answer,
        notices=report.notices, sections=report.sections, provenance=report.provenance, words=notes.WORDS,
    )  # fmt: skip


def compose(
    con: duckdb.DuckDBPyConnection,
    run_ids: str | Sequence[str],
    *,
    sweep_id: str | None = None,
    study_id: str | None = None,
    out: Path = DEFAULT_OUT,
) -> Report:
    """What there is to say of one or more runs, the first being what it is about.

    What is named is shown alone. Without `sweep_id` and `study_id` the latest of these runs are shown, where there are any;
    a sweep that is of another profile than the study answers another question, and is left out. The page opens with the
    study, with the sweep where the study found nothing. The database is in the folder `out`, of which commands are told.
    Raises LookupError for a run, a sweep or a study that is not there.
    """
    names = [run_ids] if isinstance(run_ids, str) else list(dict.fromkeys(run_ids))
    tau = _over(names, lambda run: accepted_length.accepted_length(con, run))
    alpha = _over(names, lambda run: acceptance.conditional_acceptance(con, run))
    speeds = _over(names, lambda run: speed.speed(con, run))
    runs = [runs_store.provenance(con, name) for name in names]
    draft = _Draft(con, runs, series_of(runs, [tau, speeds]), out)
    if sweep_id is None and study_id is None:
        sweep_id, study_id = sweep_figure.find_sweep(con, names), study_figure.find_study(con, names)
        if sweep_id and study_id and draft.leaves_out(sweep_id, study_id):
            sweep_id = None
    draft.add_sweep(sweep_id)
    draft.add_study(study_id)
    draft.notice_nothing()
    draft.add_sensitivity(latest_of(con, "tolerances", "tolerance_id", names))
    draft.add_validation(latest_of(con, "validations", "validation_id", names))
    draft.sections += [
        accepted_length.section(tau, runs, draft.series, out),
        acceptance.section(alpha, runs, draft.series, draft.lost),
        *_confidences(con, names, runs, tau, draft.series),
        speed.section(speeds, runs, draft.series),
    ]
    draft.add_trainings({name: read_trainings(con, name) for name in names})
    if draft.made is not None:  # what was asked is answered: what was not recorded beside it is no part of that
        draft.sections = [section for section in draft.sections if not section.figure.missing]
    first = runs[0]
    about = next((run for run in runs if draft.made is not None and run.run_id == draft.made.run_id), first)
    answer = draft.answer or _of_first(con, tau, speeds, draft.series, first, out)
    return Report(
        notes.title(about, draft.made, runs), notes.subtitle(runs), answer, draft.notices, draft.sections,
        [*draft.provenance, ("how", notes.of_method(served=draft.served))],
    )  # fmt: skip


class _Draft:
    """A report while it grows; what comes first comes first on the page."""

    def __init__(self, con: duckdb.DuckDBPyConnection, runs: Sequence[Provenance], series: list[Series], out: Path) -> None:
        self.con, self.runs, self.series, self.out = con, runs, series, out
        several = len(runs) > 1
        self.sections: list[Section] = []
        self.answer: Headline | None = None
        self.notices: list[str] = []
        for run in runs:
            self.notices += notes.notices(run, missing_responses(con, run.run_id), several=several)
        keys = [run_key(con, run) for run in runs]
        for run, key in zip(runs[1:], keys[1:], strict=True):
            self.notices += notes.unlike(runs[0], run, keys[0].differences(key))
        lost = {run.run_id: acceptance.lost_in_words(acceptance.lost(con, run.run_id)) for run in runs}
        self.lost = [f"{name}: {told}." for own in lost.values() for name, told in own.items()]
        """What drafters' vocabularies lack, in sentences."""
        self.provenance = [(f"run {run.run_id}" if several else "", notes.of_run(run, lost[run.run_id])) for run in runs]
        self._profiles: list[Profile] = []
        self.served = False
        """Whether the paper's served systems are drawn."""
        self.made: Sweep | Study | None = None
        """What the answer is of; None where that is what was recorded."""

    def add_sweep(self, sweep_id: str | None) -> None:
        """Simulations, where there are any."""
        if sweep_id is None:
            return
        sweep = sweep_figure.sweep(self.con, sweep_id)
        view = View(sweep, sweep_figure.simulated(self.con, sweep_id), self.runs)
        self.sections += sweep_sections(view, self.series, read_contrasts(self.con, sweep_id))
        self.served = bool(view.systems and view.published)
        so_far = None if sweep.finished_at is None else from_sweep(view)  # half of the points tell nobody what to run
        self.answer = self._decided(sweep_id, sweep.plan.loads) or so_far
        self.made = sweep if self.answer is not None else None
        self._warn(notes.model_notice(sweep.profile, self._run(sweep.run_id)))
        self._warn(notes.sweep_notices(sweep, view.points))
        self._tell("simulations", notes.of_sweep(sweep, self._profiles), sweep)

    def leaves_out(self, sweep_id: str, study_id: str) -> bool:
        """Whether a sweep answers another question than a study, being of another profile; which is then told."""
        found, profile = sweep_figure.sweep(self.con, sweep_id), read_study(self.con, study_id).profile
        if found.profile.name == profile.name:
            return False
        shows = typed("harness", "report", found.run_id, "--sweep", sweep_id, out=self.out)
        self._warn(
            [f"Sweep {sweep_id} is of {found.profile.name}, not of {profile.name}, and is not shown: `{shows}` does."]
        )
        return True

    def add_study(self, study_id: str | None) -> None:
        """A study, where there is one; the page opens with it, where it found something."""
        if study_id is None:
            return
        study = read_study(self.con, study_id)
        run = self._run(study.run_id)
        self.sections.append(study_figure.section(study, self.series, self._evidence(study.run_id)))
        mine = self._table(study) or self._decided(study_id, study.plan.loads) or from_study(study)
        if mine is not None:
            self.answer, self.made = mine, study
        self._warn(notes.model_notice(study.profile, run))
        if study.finished_at is None:
            self._warn([f"Study {study.study_id} did not finish: what is not confirmed may not hold."])
        self._tell("study", notes.of_study(study, self._profiles), study)

    def notice_nothing(self) -> None:
        """That neither a sweep nor a study has anything to say, and what would."""
        if not self._profiles:
            shows, fill_in = simulating(self.runs[0], self.out)
            self.notices.append(f"Nothing was simulated on these runs: `{shows}`{fill_in} shows how they do under load.")

    def add_sensitivity(self, sensitivity_id: str | None) -> None:
        """How wrong things may be, where that was asked; in the answer too, where that is of the same hardware."""
        if sensitivity_id is None:
            self._tell_of_sensitivity()
            return
        found = read_sensitivity(self.con, sensitivity_id)
        run = self._run(found.run_id)
        self.sections.append(sensitivity.section(found, self.series, self._evidence(found.run_id)))
        if self.answer is not None and self.answer.profile == found.profile.name:
            self._remark(sensitivity.sentence(found, sensitivity.closest_load(found, self.answer.load)))
        self._warn(notes.model_notice(found.profile, run))
        self._tell("sensitivity", notes.of_sensitivity(found, self._profiles), found)

    def _tell_of_sensitivity(self) -> None:
        """How to ask how wrong things may be, where that command asks what was answered: its users are of a closed loop,
        nothing is promised them, and prompts are as they were recorded."""
        if self.answer is None or not self.answer.profile or not isinstance(self.answer.load, Users):
            return
        assert self.made is not None
        plan, load = self.made.plan, self.answer.load
        altered = (plan.slas, plan.weights, plan.prompt_tokens, plan.output_tokens, plan.output_cv, plan.kv_capacity_tokens)
        if any(altered) or plan.replicas > 1 or load != Users(load.users):
            return
        asked = {option: given(self.made.command, option) for option in MADE_OF}
        asked["--hardware"] = asked["--hardware"] or self.answer.profile
        if asked["--tp"] is not None or given(self.made.command, "--gpus") is not None:  # of the layout that is shown
            asked["--tp"] = str(self.made.profile.gpus)
        asked["--concurrency"] = str(load.users)
        options = [word for option, value in asked.items() if value is not None for word in (option, value)]
        tells = typed("harness", "sensitivity", self.made.run_id, *options, out=self.out)
        self._remark(f"How wrong the profile may be before another choice wins: `{tells}` tells.")

    def add_validation(self, validation_id: str | None) -> None:
        """Simulated against measured, where that was done."""
        if validation_id is None:
            return
        found = read_validation(self.con, validation_id)
        self.sections.append(validation.section(found, self.series))
        self._tell("validation", notes.of_validation(found, self._profiles), found)

    def add_trainings(self, found: Mapping[str, Mapping[str, DrafterTraining]]) -> None:
        """How drafters were trained, where their checkpoints tell."""
        if (section := training.section(found, self.series)) is not None:
            self.sections.append(section)

    def _table(self, study: Study) -> Headline | None:
        """The table of k by batch size for all the loads of a study; None where there is none, or its engine has none."""
        confirmed = {load: [one for one in study.confirmations if one.load == load] for load in study.plan.loads}
        tables = one_table(confirmed) if len(confirmed) > 1 else {}
        if not tables:
            return None
        run, engine, plan = next(iter(tables.values())).configuration, study.plan.served_by, study.plan
        if cannot_run(engine, run.recording, run.policy, plan.most_running):
            return None
        [row] = decoded_rows(self.con.execute("SELECT * FROM runs WHERE run_id = ?", [study.run_id]))
        found = decisions(self.con, study.study_id)
        decided = [found[load] for load in plan.loads if load in found]
        return from_table(study, tables, decided, serving_of(plan, engine, models_of(row), run).script)

    def _decided(self, subject: str, loads: Sequence[Load]) -> Headline | None:
        """What a study or a sweep says to run, at the last of its loads that it decided about; None where it did not."""
        found = decisions(self.con, subject)
        told = [found[load] for load in loads if load in found]
        return from_decision(told[-1], told[:-1]) if told else None

    def _tell(self, title: str, facts: notes.Facts, made: Origin) -> None:
        """Where something comes from; a profile is told once."""
        self.provenance.append((title, facts))
        self._profiles.append(made.profile)

    def _evidence(self, run_id: str) -> list[Evidence]:
        """The kinds of evidence of what is simulated from a run."""
        run = self._run(run_id)
        made = "measured" if run is None else recorded_evidence(run)
        return ["simulated"] if made == "measured" else ["simulated", made]

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
    found = {run: recordings_store.confidence_records(con, run) for run in names}
    sweep = pl.concat([threshold.threshold_sweep(recordings, run) for run, recordings in found.items()])
    bins = pl.concat([reliability.reliability(recordings, run) for run, recordings in found.items()])
    quality = pl.concat([reliability.confidence_quality(con, run) for run in names])
    kinds = {d.name: d.kind for run in runs for d in run.drafters}
    return [
        threshold.section(sweep, runs, series),
        reliability.section(bins, quality, runs, series),
        block_size.section(block_size.block_sizes(tau, kinds), runs, series),
    ]


def _of_first(
    con: duckdb.DuckDBPyConnection,
    tau: pl.DataFrame,
    speeds: pl.DataFrame,
    series: Sequence[Series],
    run: Provenance,
    out: Path,
) -> Headline:
    """The headline of what was recorded in the first run alone: others may have had other prompts."""
    name = run.run_id
    mine = [s for s in series if s.run == name]
    return from_recordings(tau.filter(run=name), speeds.filter(run=name), mine, run, out, sums_of(con, name))


def _over(names: Sequence[str], table: Callable[[str], pl.DataFrame]) -> pl.DataFrame:
    """A table of every run, with the column `run` in front."""
    return pl.concat([table(name).select(pl.lit(name).alias("run"), pl.all()) for name in names])


def sweep_sections(view: View, series: Sequence[Series], contrasts: Sequence[Contrast] = ()) -> list[Section]:
    """Everything there is to see of a sweep."""
    colours = by_drafter(series, view.sweep.run_id)
    if not view.systems:
        errors = [point.error for point in view.points if point.error]
        why = f": {errors[0]}" if errors else "; it was interrupted, or is not finished"
        missing = Figure(missing=f"No simulation of sweep {view.sweep.sweep_id} has come to a result{why}.")
        return [Section("frontier", "Throughput against speed for a user", f"{view.where}: {LEDE}", missing)]
    compared = [contrast.section(view, contrasts, colours)] if contrasts else []
    front = [frontier.section(view, colours)] if view.kind == "users" else []  # else one throughput for all that keeps up
    over_loads = [one for one in (load.section(view, colours),) if one is not None]
    return [*compared, *front, *over_loads, step_time.section(view), latency.section(view, colours)]
