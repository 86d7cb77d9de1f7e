"""The course of a study: searches at each load, then confirmations, decisions and sensitivities, kept as they come."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from harness.console import Watcher
from results.store.database import Store
from results.store.decisions import models_of
from results.store.recordings import acceptance_note
from results.store.studies import K_BY_BATCH, Studies, StudyConfirmation, StudySensitivity
from simulator.capacity import shorter
from simulator.configuration import Configuration
from simulator.decision import Decision, refused
from simulator.drafter_kinds import KINDS
from simulator.draws import beyond_graphs
from simulator.load import Load
from simulator.mix import Mix
from simulator.numbers import counted
from simulator.plain import walked
from simulator.plan import StudyPlan
from simulator.policies import NO_DRAFTER, PolicyKind, PolicySpec
from simulator.recommendation import Question, decision_of
from simulator.serving.engine import ServingEngine
from simulator.simulation import prepare, simulate, start
from tuner.by_load import by_load, whole_blocks
from tuner.confirmation import PART, SHARE, SHORTEST_S, Confirmation, confirm, in_engine
from tuner.decision import StudyEvidence
from tuner.objective import WANTED, Scenario
from tuner.plan import StudyInputs, space_of
from tuner.prompts import TraceKey
from tuner.search import Run, Search, runner, search
from tuner.sensitivity import across, sensitivities
from tuner.space import Space
from tuner.trial import Trial, ranked, read_trials

if TYPE_CHECKING:  # ray takes seconds
    from harness.cluster import Cluster

NEIGHBOURS = 3
"""Best configurations of the load before that the next one begins with."""
CONFIRMED_TOKENS = 1_500_000
"""Output tokens of a draw on which a configuration is confirmed, where they come in less than the share of the plan's time:
then it is the choice of prompts that a figure is unsure by, and not the length of the simulation."""


def scenario_of(plan: StudyPlan, found: StudyInputs, load: Load) -> Scenario:
    """What configurations are put to at a load."""
    return Scenario(
        load=load, profile=plan.profile, weights=found.weights, slas=tuple(plan.slas),
        prompt_tokens=plan.prompt_tokens, output_tokens=plan.output_tokens, output_cv=plan.output_cv,
        limits=plan.limits,
    )  # fmt: skip


def check_served(plan: StudyPlan, found: StudyInputs) -> None:
    """Raise InputError where a load cannot be served without speculation: refused before anything is stored."""
    recorded = prepare(found.traffic.trace(TraceKey("search", found.plain)))
    for load in plan.loads:
        for setup, _ in scenario_of(plan, found, load).setups(Configuration.plain(plan.request_cap), plan.seconds, 0):
            start(setup, recorded, lambda rows: None)


def defaults(store: Store, run_id: str, found: StudyInputs, cap: int) -> list[Configuration]:
    """What one runs without a tuner: no drafter, MTP-1, and each other drafter with its own block, whole or scheduled."""
    drafters = store.run(run_id)["drafters"]
    chosen = [Configuration.plain(cap)]
    for name in dict.fromkeys(r.recording.drafter for r in found.recorded):
        blocks = [r for r in found.recorded if r.recording.drafter == name]
        block = next((r for r in blocks if r.recording.gamma == drafters[name]["gamma"]), blocks[-1])
        kind = KINDS.get(block.recording.kind)
        k = (kind and kind.default_tokens) or block.recording.gamma
        chosen.append(Configuration(block.recording, PolicySpec.fixed(k), cap))
        if "raw" in block.confidences:
            read = block.recording.showing(block.confidences[-1])
            chosen.append(Configuration(read, PolicySpec("prefix_scheduler"), cap))
    return chosen


def traces_of(found: StudyInputs) -> dict[TraceKey, Any]:
    """Every trace a study may simulate."""
    keys: list[TraceKey] = []
    for part in ("search", "confirmation"):
        keys.append(TraceKey(part, found.plain))
        for r in found.recorded:
            keys += [TraceKey(part, r.recording.showing(c)) for c in ("none", *r.confidences)]
    return {key: found.traffic.trace(key) for key in dict.fromkeys(keys)}


def carry_out(
    store: Store,
    study_id: str,
    plan: StudyPlan,
    found: StudyInputs,
    watcher: Watcher,
    *,
    cluster: Cluster | None,
    time_limit_s: float | None,
) -> None:
    """Whatever of a study is not stored yet: searches, then confirmations and sensitivities."""
    studies, started = Studies(store), time.monotonic()
    run_id = studies.find(study_id)["run_id"]
    watcher.say(
        f"study {study_id} · run {run_id} · {counted(plan.trials, 'trial')} at each of {counted(len(plan.loads), 'load')}"
    )
    for own in (kind.own.own for kind in plan.policies or () if kind.own is not None):
        if own is not None and own.slow:
            watcher.say(f"note: {own.slow}")
    spaces = {load: space_of(plan, found, load) for load in plan.loads}
    chosen = defaults(store, run_id, found, plan.request_cap)
    with runner(traces_of(found), found.plain, cluster, watcher) as run:
        searched: dict[Load, list[Trial]] = {}
        for number, load in enumerate(plan.loads):
            deadline = None if time_limit_s is None else started + time_limit_s * (number + 1) / len(plan.loads)
            near = ranked(searched[plan.loads[number - 1]])[:NEIGHBOURS] if number else []
            able = [c for c in chosen if c.policy == NO_DRAFTER or any(k.includes(c.policy) for k in spaces[load].policies)]
            starts = [(c, "start") for c in [*able, *starts_of(spaces[load], plan.request_cap, plan.served_by)]]
            starts = [(spaces[load].nearest(t.configuration), "neighbour") for t in near] + starts
            what = Search(
                space=spaces[load], scenario=scenario_of(plan, found, load), objective=plan.objective, sampler=plan.sampler,
                trials=plan.trials, seconds=plan.seconds, seed=plan.seed,
            )  # fmt: skip
            done = read_trials(studies, study_id, load, plan, found.kinds)
            keep = _keeper(studies, study_id, load, len(done), plan, watcher)
            searched[load] = search(what, done, starts, run, keep, deadline=deadline)
            tried = len(searched[load])  # fewer than asked for where there are no more
            watcher.advance(f"searching {load.label}", tried, tried)
        _finish(studies, study_id, run_id, plan, found, searched, chosen, run, watcher)


def _keeper(
    studies: Studies, study_id: str, load: Load, count: int, plan: StudyPlan, watcher: Watcher
) -> Callable[[Sequence[Trial]], None]:
    """Stores batches as they come, after `count` trials that are stored already."""

    def keep(batch: Sequence[Trial]) -> None:
        nonlocal count
        studies.add_trials(study_id, load, [t.row() for t in batch])
        count += len(batch)
        watcher.advance(f"searching {load.label}", count, plan.trials)

    return keep


def starts_of(space: Space, cap: int, engine: ServingEngine) -> list[Configuration]:
    """What the engine may have beside a fixed block, for every recording: its k-by-batch table, adaptive verification."""
    tables = {key: table.within(min(cap, space.binding), key.gamma) for key, table in space.tables.items()}
    found = [Configuration(key, policy, cap) for key, policy in tables.items() if policy != NO_DRAFTER]
    if not engine.adaptive:
        return found
    adaptive = [r.recording for r in space.recorded if PolicyKind(engine.adaptive) in space.policies_of(r)]
    return found + [Configuration(key.showing("raw"), PolicySpec(engine.adaptive), cap) for key in adaptive]


def _finish(
    studies: Studies, study_id: str, run_id: str, plan: StudyPlan, found: StudyInputs, searched: dict[Load, list[Trial]],
    chosen: Sequence[Configuration], run: Run, watcher: Watcher,
) -> None:  # fmt: skip
    """Confirm winners, decide, and ask how far what is to be run holds, at each load and then at the others, as far as none
    of that is kept."""
    end = _End(studies.store, run_id, plan, found, searched, chosen, run, watcher)
    told: dict[Load, Configuration] = {}  # what is to be run, or the search's winner where nothing can be recommended
    kept = studies.concluded(study_id)
    for number, load in enumerate(searched):
        watcher.advance("confirming", number, len(searched))
        if load in kept:
            decision, first = kept[load]
        else:
            decision, confirmations, sensitive = end.at(load)
            studies.conclude(study_id, decision, confirmations, sensitive)
            first = confirmations[0] if confirmations else None
        if first is not None:
            told[load] = decision.candidate or first.configuration
    elsewhere: list[StudySensitivity] = []
    if len(told) > 1:
        watcher.doing("asking what each would do at the other loads")
        scenarios = [scenario_of(plan, found, load) for load in told]
        elsewhere = across(scenarios, plan.objective, list(told.values()), plan.seconds, plan.seed, run)
    watcher.advance("confirming", len(searched), len(searched))
    studies.finish(study_id, elsewhere)


class _End:
    """What becomes of a load once all are searched."""

    def __init__(
        self, store: Store, run_id: str, plan: StudyPlan, found: StudyInputs, searched: Mapping[Load, Sequence[Trial]],
        chosen: Sequence[Configuration], run: Run, watcher: Watcher,
    ) -> None:  # fmt: skip
        self._plan, self._found, self._searched, self._chosen = plan, found, searched, chosen
        self._run, self._watcher = run, watcher
        self._models, self._note = models_of(store.run(run_id)), acceptance_note(store, run_id, plan.drafting)
        traffic = found.traffic.trace(TraceKey(PART, found.plain))
        self._mix = Mix(traffic, found.weights, plan.prompt_tokens, plan.output_tokens, plan.output_cv)
        self._for_all = _table_for_all(plan, found, searched)
        self._tried = sum(len(trials) for trials in searched.values())

    def at(self, load: Load) -> tuple[Decision, list[StudyConfirmation], list[StudySensitivity]]:
        """What is decided, what was confirmed, the winner first, and how far that holds; no more than the first where no
        trial came to anything."""
        plan, found, run, trials = self._plan, self._found, self._run, self._searched[load]
        scenario, seconds = scenario_of(plan, found, load), _seconds(plan, trials)
        what = Confirmation(
            scenario=scenario, objective=plan.objective, seconds=seconds, seed=plan.seed, draws=plan.confirmation_draws,
            drafting=plan.drafting, temperature=self._models.temperature,
        )  # fmt: skip
        advance = functools.partial(self._watcher.advance, f"deciding {load.label}")
        question = Question(
            plan=plan, load=load, figure=WANTED[plan.objective][0], mix=self._mix, models=self._models, seconds=seconds,
            draws=plan.decision_draws, note=self._note,
        )  # fmt: skip
        able = functools.partial(_able, plan.engine, self._models.target)
        decision = decision_of(question, StudyEvidence(what, trials, found.recorded, able, run, advance))
        decision = msgspec.structs.replace(_with_graphs(decision, scenario, found, plan, seconds), tried=self._tried)
        best = ranked(trials)
        if not best:
            return decision, [], []
        self._watcher.doing(f"confirming what is best at {load.label}")
        beside = _beside(best[0].configuration, self._chosen, found, plan, self._for_all)
        confirmed, prompts = confirm(what, trials, beside, run), found.traffic.prompts("confirmation")
        rows = [what.stored(one, place, confirmed[0], prompts) for place, one in enumerate(confirmed)]
        told = decision.candidate or confirmed[0].configuration
        self._watcher.doing(f"asking how far that holds at {load.label}")
        rivals = [t for t in trials if t.configuration == told or able(t.configuration)]
        return decision, rows, sensitivities(scenario, plan.objective, rivals, told, seconds, plan.seed, run)


def _with_graphs(decision: Decision, scenario: Scenario, found: StudyInputs, plan: StudyPlan, seconds: float) -> Decision:
    """A decision, with a note of what it costs that steps of the one to run are larger than the captured graphs."""
    run = decision.candidate
    if run is None or not plan.profile.captured:
        return decision
    recorded = prepare(found.traffic.trace(TraceKey(PART, walked(run.recording, [found.plain]))))
    for setup, _ in scenario.setups(run, seconds, plan.seed):
        short = replace(setup, seconds=shorter(seconds))
        if told := beyond_graphs(short, recorded, simulate(short, recorded), plan.served_by.flags.captured):
            return msgspec.structs.replace(decision, notes=[*decision.notes, told])
    return decision


def _able(engine: ServingEngine | None, target: str, candidate: Configuration) -> bool:
    return engine is None or not refused(engine, candidate, target)


def _seconds(plan: StudyPlan, trials: Sequence[Trial]) -> float:
    """Simulated seconds of which a confirmation takes a share: as planned, or fewer where prompts decide and not time."""
    fastest = max((t.figures["throughput"] for t in trials if t.figures), default=0.0) * plan.profile.gpus * plan.replicas
    return min(plan.seconds, max(SHORTEST_S, CONFIRMED_TOKENS / max(fastest, 1e-9)) / SHARE)


def _table_for_all(plan: StudyPlan, found: StudyInputs, searched: Mapping[Load, Sequence[Trial]]) -> Configuration | None:
    """One table of k by batch size for all the loads of a study of users; None where there is none, or one load."""
    if len(searched) < 2 or any(load.users is None for load in searched):
        return None
    whole = whole_blocks(plan.served_by, found.kinds)
    table = by_load({int(load.users or 0): trials for load, trials in searched.items()}, whole, plan.replicas)
    return None if table is None else table.configuration


def _beside(
    winner: Configuration, chosen: Sequence[Configuration], found: StudyInputs, plan: StudyPlan,
    for_all: Configuration | None,
) -> list[tuple[str, Configuration]]:  # fmt: skip
    """What stands beside a winner: defaults, what engines can do without its confidences, the oracle of every recording.

    `for_all` is the table for all the loads of the study, which stands for the one that was worked out for a recording.
    """
    engine = plan.served_by
    able = None if plan.engine is None else engine.policies
    beside = [("default" if able is None or c.policy.name in able else "scheduler", c) for c in chosen]
    walked = winner.recording.showing("none")
    if for_all is not None:
        beside.append((K_BY_BATCH, for_all))
    elif winner.policy != NO_DRAFTER:
        table = found.tables[walked]
        if table.within(winner.request_cap, walked.gamma) != winner.policy:
            beside.append((K_BY_BATCH, Configuration(walked, table, winner.request_cap)))
    if engine.adaptive and winner.policy.reads_confidences and winner.policy.name not in engine.policies:
        theirs = replace(winner, policy=PolicySpec(engine.adaptive), recording=walked.showing("raw"))
        if winner.recording.confidences == "estimated":
            theirs = replace(winner, policy=PolicySpec("lagged_scheduler", "2"))
        beside.append((in_engine(engine), theirs))
    bounds = [Configuration(r.recording, PolicySpec("oracle"), plan.request_cap) for r in found.recorded]
    return [*beside, *(("bound", c) for c in bounds)]
