"""What a sweep says to run: at the highest load that keeps the promise, the best that the engine can run."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from harness.console import Watcher
from harness.sweeps.plan import SweepPoint, task_of
from results.store.database import Store
from results.store.decisions import models_of
from results.store.recordings import Recordings, acceptance_note
from results.store.simulations import Simulation
from simulator.capacity import MOST_TRIED, enough, too_few
from simulator.configuration import Configuration
from simulator.decision import Choice, Decision, Draw, Figure, Range, Sampled, Simulated, refused
from simulator.draws import GRAPHS, HOLDING, fits, headroom_of, holding, sample, under, varied
from simulator.load import Load, RecordedArrivals
from simulator.mix import Mix
from simulator.plan import SweepPlan
from simulator.recommendation import Near, Question, decision_of
from simulator.records import Recording
from simulator.serving.command import Models
from simulator.setup import Setup
from simulator.simulation import AGAIN, Prepared, prepare, simulate
from simulator.sla import Sla, promises

Rows = Sequence[tuple[SweepPoint, Simulation]]
"""Points of a sweep, and what came of them."""


def sweep_decision(
    store: Store, run_id: str, plan: SweepPlan, rows: Rows, recordings: Recordings, watcher: Watcher
) -> Decision | None:
    """The decision of a sweep; None where nothing came to a result."""
    found = [(point, row) for point, row in rows if row.throughput is not None and row.lossless]
    if not found:
        return None
    load = _load(found, bool(plan.slas))
    figure: Figure = "tps" if load.users is None else "throughput"
    here = [(point, row) for point, row in found if point.setup.load == load]
    evidence = SweepEvidence(plan, load, figure, here, recordings, models_of(store.run(run_id)), watcher)
    if not evidence.at and not evidence.too_short:  # nobody got a second token
        return None
    mix = Mix(recordings.trace(here[0][0].recording), plan.weights, plan.prompt_tokens, plan.output_tokens, plan.output_cv)
    question = Question(
        plan=plan, load=load, figure=figure, mix=mix, models=evidence.models, seconds=plan.seconds,
        draws=plan.decision_draws, note=acceptance_note(store, run_id, plan.drafting),
    )  # fmt: skip
    decision = decision_of(question, evidence)
    told = evidence.graphs(decision.candidate)
    return msgspec.structs.replace(decision, notes=[*decision.notes, told]) if told else decision


class SweepEvidence:
    """What a sweep has simulated at a load, as `Evidence`."""

    def __init__(
        self, plan: SweepPlan, load: Load, figure: Figure, here: Rows, recordings: Recordings, models: Models,
        watcher: Watcher,
    ) -> None:  # fmt: skip
        """`here` are the points and rows at the load, of what is lossless."""
        self.plan, self.load, self.figure, self.models = plan, load, figure, models
        self.too_short = _too_short(here, plan)
        self.at = [(point, row) for point, row in here if getattr(row, figure) is not None]
        self.simulated = [_simulated(self.at, c, figure) for c in dict.fromkeys(point.configuration for point, _ in self.at)]
        self._recordings, self._watcher = recordings, watcher
        self._tasks: dict[Configuration, tuple[Setup, Prepared]] = {}
        self._held: dict[Configuration, float] = {}
        """How many times the load was found to be held, where the rows do not say it."""

    def closest(self) -> Near | None:
        """See `Evidence`."""
        plan, engine = self.plan, self.plan.engine
        able = [(p, r) for p, r in self.at if engine is None or not refused(engine, p.configuration, self.models.target)]
        if not able or any(row.keeps_promise for _, row in self.at):
            return None
        point, row = max(able, key=lambda one: _closeness(one[1], plan.slas))
        recorded = prepare(self._recordings.trace(point.recording))
        times = row.headroom
        if times is None and plan.headroom is not False:
            times = headroom_of(point.setup, recorded, simulate(point.setup, recorded))
            self._held[point.configuration] = times
        return Near(point.configuration, row.attained, row.keeps_up is False, times)

    def unsure(self, run: Configuration) -> str:
        """See `Evidence`."""
        rows = self._rows(run)
        told = self.load.users is not None or all(row.keeps_up is not None for row in rows)
        return "" if told else _open(self.load, self.plan, rows)

    def scheduled(self, run: Configuration) -> None:
        """None: what was not asked for is not simulated."""

    def throughputs(self, compared: Sequence[Configuration]) -> list[float]:
        """See `Evidence`."""
        gpus = self.plan.profile.gpus * self.plan.replicas
        return [gpus * row.throughput for point, row in self.at if row.throughput and point.configuration in compared]

    def drawn(self, choice: Choice, seconds: float, draws: Sequence[Draw]) -> dict[Configuration, Sampled]:
        """See `Evidence`."""
        self._tasks = _tasks(choice, self.at, self._recordings, seconds)
        return sample(self._tasks, draws, self.figure, lambda done, total: self._watcher.advance("deciding", done, total))

    def finished(self, run: Configuration) -> float:
        """See `Evidence`."""
        return sum((row.finished or 0) for row in self._rows(run))

    def times_held(self, run: Configuration) -> Range | None:
        """See `Evidence`."""
        if self.plan.headroom is False:
            return None
        searched = next((row.headroom for row in self._rows(run)), None)
        searched = self._held.get(run) if searched is None else searched
        return _holds(*self._tasks[run], searched, self.plan, self._watcher)

    def graphs(self, run: Configuration | None) -> str:
        """What is told of the size of graphs, of the one to run; empty where that is nothing."""
        rows = [] if run is None else self._rows(run)
        return next((told for row in rows for told in row.warnings if told.startswith(GRAPHS)), "")

    def _rows(self, run: Configuration) -> list[Simulation]:
        return [row for point, row in self.at if point.configuration == run]


def _too_short(here: Rows, plan: SweepPlan) -> str:
    """Why what was simulated at a load can carry no recommendation, and how much would; empty where it can."""
    if all(row.keeps_up is False for _, row in here):
        return ""  # that it is overload is known
    load = here[0][0].setup.load
    finished = Counter[Configuration]()
    for point, row in here:
        finished[point.configuration] += row.finished or 0
    if not enough(least := min(finished.values()), plan.slas):
        return too_few(least, plan.slas, load, plan.seconds)
    able = not plan.slas or any(row.keeps_promise for _, row in here)  # what breaks it does so whether it keeps up or not
    if able and load.users is None and all(row.keeps_up is None for _, row in here):
        return _open(load, plan, [row for _, row in here])
    return ""


def _open(load: Load, plan: SweepPlan, rows: Sequence[Simulation]) -> str:
    """That nobody knows whether what arrives is answered, and what would tell."""
    said = "too short to tell whether what arrives is answered"
    if not isinstance(load, RecordedArrivals):
        return f"{said}: give more --seconds than {plan.seconds:g}"
    lasts = float(load.requests.arrival_s[-1])
    answer_s = min(row.means["e2e"] or math.inf for row in rows)
    if math.isinf(answer_s) or answer_s <= lasts / 2:
        return f"{said}: {AGAIN} times this log, one after the other, do not tell either; give one several times as long"
    faster = f", or less than --speed {load.speed:g}" if load.speed > 1 else ""
    return (
        f"{said}: answers take {answer_s:,.3g} s on average, and all were asked within {lasts:,.3g} s; "
        f"give a log of {2 * answer_s:,.2g} s or more{faster}"
    )


def _closeness(row: Simulation, slas: Sequence[Sla]) -> tuple[bool, float, float]:
    """What comes closer to promises is larger: by whether it keeps up, how much of the promised share, or of the bound of a
    mean, is reached at worst, and where nobody reaches anything, how far requests are on average.
    """

    def reached(sla: Sla, value: float | None) -> float:
        return 0.0 if not value else value / sla.bound if sla.at_least else sla.bound / value

    each = []
    for promise in promises(slas):
        value = row.attained.get(promise.name)
        each.append(reached(promise.slas[0], value) if promise.share is None else (value or 0.0) / promise.share)
    means = [reached(sla, row.means.get(sla.measure)) for sla in slas]
    return row.keeps_up is not False, min(1.0, *each), min(means)


def _load(found: Rows, promised: bool) -> Load:
    """The highest load at which something keeps the promise, or where nothing does the lowest: not even that is held.
    Without a promise the highest that most were simulated at.
    """
    loads = list(dict.fromkeys(point.setup.load for point, _ in found))
    able = [load for load in loads if any(row.keeps_promise for point, row in found if point.setup.load == load)]

    if promised:
        return max(able, key=_size) if able else min(loads, key=_size)
    count = {load: sum(point.setup.load == load for point, _ in found) for load in loads}
    return max((load for load in loads if count[load] == max(count.values())), key=_size)


def _size(load: Load) -> float:
    return load.size or 0


def _simulated(at: Rows, candidate: Configuration, figure: Figure) -> Simulated:
    """A candidate over its seeds."""
    rows = [row for point, row in at if point.configuration == candidate]
    value = sum(float(getattr(row, figure)) for row in rows) / len(rows)
    keeps_up = all(row.keeps_up is not False for row in rows)
    return Simulated(candidate=candidate, value=value, kept=all(row.keeps_promise for row in rows), keeps_up=keeps_up)


def _tasks(chosen: Choice, at: Rows, recordings: Recordings, seconds: float) -> dict[Configuration, tuple[Setup, Prepared]]:
    """Set-ups and traces of a choice's candidates: as simulated, or like the one to run under another policy."""
    among = [point for point, _ in at]
    like = {point.configuration: point for point in among}[chosen.run]
    prepared, tasks = dict[Recording, Prepared](), {}
    for candidate in chosen.all:
        setup, recording = task_of(candidate, among, like)
        if recording not in prepared:
            prepared[recording] = prepare(recordings.trace(recording))
        tasks[candidate] = (dataclasses.replace(setup, seconds=seconds), prepared[recording])
    return tasks


def _holds(setup: Setup, recorded: Prepared, times: float | None, plan: SweepPlan, watcher: Watcher) -> Range | None:
    """How many times its load what is run holds; `times` where that was searched before with everything as it is."""
    setup, asked = dataclasses.replace(setup, seconds=plan.seconds), 0
    if times is None:
        times = headroom_of(setup, recorded, simulate(setup, recorded))
    if math.isnan(times):
        return None

    def hold(machines: Sequence[tuple[Draw, Load]]) -> list[bool]:
        nonlocal asked
        answers = []
        for draw, load in machines:
            there = under(setup, load)
            answers.append(fits(there) and simulate(*varied(there, recorded, draw)).kept)
            asked += 1
            watcher.advance("trying other loads, at most", asked, HOLDING * MOST_TRIED)
        return answers

    return holding(setup.load, times, hold)
