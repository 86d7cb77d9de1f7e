"""A study: from a run's recordings, a profile and loads to the configuration to run, stored from the first trial on."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from harness.console import Watcher, say_model
from results.store.database import Store
from results.store.decisions import keep_decision
from results.store.lease import leased
from results.store.provenance import command_line, git_revision, package_versions
from results.store.recordings import Recordings, choose_drafting
from results.store.rows import plan_row, profile_row, read_plan
from results.store.studies import Studies
from results.store.subjects import STUDY
from results.store.unfinished import begun, keeping
from simulator.configuration import Configuration
from simulator.decision import Decision
from simulator.drafter_kinds import KINDS as KIND_FACTS
from simulator.draws import DRAWS
from simulator.errors import InputError
from simulator.hardware.profile import Profile
from simulator.load import Load, RecordedArrivals
from simulator.numbers import counted
from simulator.plan import Plan
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import Drafting, Recording
from simulator.requests import Mix
from simulator.serving.command import cannot_run
from simulator.serving.engines import ENGINES
from simulator.serving.vllm import VLLM
from simulator.simulation import prepare, start
from tuner.by_load import by_load, whole_blocks
from tuner.confirmation import IN_VLLM, K_BY_BATCH, PART, SHARE, SHORTEST_S, Confirmation, confirm
from tuner.decision import Asked, decision_of
from tuner.k_by_batch import k_by_batch, row_ends
from tuner.objective import Objective, Scenario
from tuner.prompts import TraceKey, Traffic
from tuner.samplers import SAMPLERS
from tuner.search import Run, Search, runner, search
from tuner.sensitivity import across, sensitivities
from tuner.space import KINDS, READING, Recorded, Space, request_caps
from tuner.trial import Trial, ranked

if TYPE_CHECKING:  # ray takes seconds
    from harness.cluster import Cluster

NEIGHBOURS = 3
"""Best configurations of the load before that the next one begins with."""
CONFIRMED_TOKENS = 1_500_000
"""Output tokens of a draw on which a configuration is confirmed, where they come in less than the share of the plan's time:
then it is the choice of prompts that a figure is unsure by, and not the length of the simulation."""


class StudyPlan(Plan, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A study as the user asked for it. Raises ValueError or InputError for what makes no sense."""

    objective: Literal["throughput", "tps", "goodput", "pareto"]
    kinds: list[str] | None = None
    """Kinds of policies to search; None: all."""
    sampler: str = "tpe"
    trials: int = 64
    """At each load."""
    draws: int = 12
    """Draws of the held-out prompts, to confirm on."""
    decision_draws: int = DRAWS
    """Draws of prompts, seeds and the profile's errors, for the intervals of the decision."""

    def __post_init__(self) -> None:
        if not self.loads or self.trials < 1 or self.seed < 0:
            raise ValueError("a load, --trials of 1 or more and a --seed of 0 or more are needed")
        if self.decision_draws < 10:
            raise ValueError(f"--decision-draws {self.decision_draws}: an interval needs 10 or more")
        if self.draws < 5:
            raise ValueError(f"--confirmation-draws {self.draws}: an interval needs 5 draws of the prompts or more")
        if self.objective not in get_args(Objective):
            raise ValueError(f"--objective {self.objective}: there are {', '.join(get_args(Objective))}")
        if self.objective == "goodput" and not self.slas:
            raise ValueError("--objective goodput: counts what keeps a bound; give one with --sla")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"--sampler {self.sampler}: there are {', '.join(SAMPLERS)}")
        super().__post_init__()


@dataclass(frozen=True, slots=True)
class StudyInputs:
    """What a study stands on: recordings that can be simulated on the profile, and their prompts."""

    profile: Profile
    recordings: Recordings
    traffic: Traffic
    recorded: tuple[Recorded, ...]
    weights: dict[str, float]
    tables: dict[Recording, PolicySpec]
    """By recording, showing no confidences, the k-by-batch policy worked out for it."""

    @property
    def bare(self) -> Recording:
        """The recording that `none` walks."""
        return bare_of(self.recorded, self.recordings)

    @property
    def kinds(self) -> dict[str, str]:
        """Kinds of the drafters, by their names."""
        return {recording.drafter: recording.kind for recording in self.recordings.keys}


def bare_of(recorded: Sequence[Recorded], recordings: Recordings) -> Recording:
    """The recording that `none` walks: the first that can be chosen, or the first of all."""
    return recorded[0].recording if recorded else recordings.keys[0]


def start_study(
    store: Store, run_id: str, plan: StudyPlan, watcher: Watcher,
    *, drafting: Drafting | None = None, cluster: Cluster | None, time_limit_s: float | None,
) -> str:  # fmt: skip
    """Search, confirm and store what is planned; returns the study's id. Raises InputError.

    Without `drafting`, drafts are chosen as vLLM does, which winners are exported for.
    """
    store.prepare()
    drafting = choose_drafting(store, run_id, drafting, watcher.say, engine=VLLM.drafting)
    plan = msgspec.structs.replace(plan, drafting=drafting)
    found = study_inputs(store, run_id, plan, watcher)
    recorded = prepare(found.traffic.trace(TraceKey("search", found.bare)))
    for load in plan.loads:  # refuse before anything is stored
        space_of(plan, found, load)
        plainly = Configuration(found.bare, PolicySpec.fixed(0), plan.request_cap)
        for setup, _ in scenario_of(plan, found, load).setups(plainly, plan.seconds, 0):
            start(setup, recorded, lambda rows: None)
    row = {
        "run_id": run_id, "command": command_line("tuner"), "plan": plan_row(plan),
        "profile_hash": plan.profile.digest, "git_revision": git_revision(),
        "packages": package_versions(),
    }  # fmt: skip
    study_id = Studies(store).create(row, profile_row(found.profile))
    with begun(store, STUDY, study_id, watcher.began):
        carry_out(store, study_id, plan, found, watcher, cluster=cluster, time_limit_s=time_limit_s)
    return study_id


def resume_study(
    store: Store, name: str, trials: int | None, watcher: Watcher, *, cluster: Cluster | None, time_limit_s: float | None
) -> str:
    """Go on with a study where it stopped, or beyond, to so many trials; returns its id."""
    studies = Studies(store)
    row = studies.find(name)
    plan = read_plan(row["plan"], StudyPlan)
    if row["finished_at"] is not None and (trials is None or trials <= plan.trials):
        watcher.say(f"study {row['study_id']} is finished; --trials of more than {plan.trials} goes on with it")
        return str(row["study_id"])
    if trials is not None:
        plan = msgspec.structs.replace(plan, trials=trials)
    for load, _ in (part for asked in plan.loads for part in asked.parts):
        if isinstance(load, RecordedArrivals):  # a file that is gone or has changed is told before anything is
            _ = load.requests
    study_id = str(row["study_id"])
    with leased(store, STUDY, study_id):
        found = study_inputs(store, row["run_id"], plan, watcher)
        studies.reopen(study_id, plan_row(plan))
        with keeping(store, STUDY, study_id, watcher.began):
            carry_out(store, study_id, plan, found, watcher, cluster=cluster, time_limit_s=time_limit_s)
    return study_id


def study_inputs(store: Store, run_id: str, plan: StudyPlan, watcher: Watcher) -> StudyInputs:
    """What there is to choose from; what cannot be simulated is left out and said, or refused if it was asked for."""
    profile, recordings = plan.profile, Recordings(store, run_id, plan.drafting)
    say_model(store, run_id, profile, watcher)
    known = list(dict.fromkeys(key.drafter for key in recordings.keys))
    if unknown := [d for d in plan.drafters or [] if d not in known and d != "none"]:
        raise InputError(f"no dense recording of {', '.join(unknown)}; there are: {', '.join(known) or 'none'}")
    if not recordings.keys:
        raise InputError(f"run {run_id}: has no dense recordings; `harness record` makes them")
    recorded, source = [], str(store.run(run_id)["target"].get("source") or "")
    for key in recordings.keys:
        name, gamma = key.drafter, key.gamma
        if plan.drafters and name not in plan.drafters:
            continue
        try:
            profile.cost(name, gamma, 1, gamma + 2, kind=key.kind)
        except InputError as error:
            if plan.drafters:
                raise
            watcher.say(f"{name} γ={gamma}: left out: {error}")
            continue
        engine = ENGINES[plan.engine]
        lacks = "" if engine is None else cannot_run(engine, key, PolicySpec.fixed(gamma), 1, target=source)
        if lacks:
            said = f"{lacks}; --engine any tries it all the same"
            if plan.drafters:
                raise InputError(f"drafter {name}: {said}")
            watcher.say(f"{name} γ={gamma}: left out: {said}")
            continue
        whole = engine is not None and not KIND_FACTS[key.kind].prefix
        recorded.append(Recorded(key, recordings.offered(key), whole))
        if not recorded[-1].confidences and (reading := [kind for kind in plan.kinds or READING if kind in READING]):
            watcher.say(f"{name} γ={gamma}: has no confidences: left out: {', '.join(reading)}")
    bare = bare_of(recorded, recordings)
    traffic = Traffic(recordings, [r.recording for r in recorded] or [bare])
    weights = traffic.shares(bare, plan.weights)
    tables = {r.recording: _table(plan, profile, traffic, weights, r) for r in recorded}
    return StudyInputs(profile, recordings, traffic, tuple(recorded), weights, tables)


def scenario_of(plan: StudyPlan, found: StudyInputs, load: Load) -> Scenario:
    """What configurations are put to at a load."""
    return Scenario(
        load=load, profile=found.profile, weights=found.weights, slas=tuple(plan.slas),
        prompt_tokens=plan.prompt_tokens, output_tokens=plan.output_tokens, limits=plan.limits,
    )  # fmt: skip


def space_of(plan: StudyPlan, found: StudyInputs, load: Load) -> Space:
    """What may be tried at a load. Raises InputError for kinds of policies that do not exist."""
    binding = load.most_running(plan.request_cap, plan.replicas)
    return Space(
        recorded=found.recorded,
        request_caps=request_caps(binding, plan.request_cap),
        binding=binding,
        tables=found.tables,
        kinds=kinds_of(plan),
    )


def kinds_of(plan: StudyPlan) -> tuple[str, ...]:
    """Kinds of policies to search: as asked, or those that the engine runs."""
    engine = ENGINES[plan.engine]
    if plan.kinds:
        return tuple(plan.kinds)
    return KINDS if engine is None else tuple(kind for kind in KINDS if kind in engine.policies)


def _table(plan: StudyPlan, profile: Profile, traffic: Traffic, weights: dict[str, float], recorded: Recorded) -> PolicySpec:
    """The k-by-batch policy for a recording."""
    trace = traffic.trace(TraceKey("search", recorded.recording))
    mix = Mix(trace, weights, plan.prompt_tokens, plan.output_tokens)
    tokens = plan.request_cap * (recorded.recording.gamma + 1)
    cost = profile.cost(trace.drafter, trace.gamma, plan.request_cap, tokens, kind=trace.kind)
    ends = row_ends(plan.loads, plan.request_cap, plan.replicas)
    return k_by_batch(trace, mix, cost, ends, whole=recorded.whole)


def defaults(store: Store, run_id: str, found: StudyInputs, cap: int) -> list[Configuration]:
    """What one runs without a tuner: no drafter, MTP-1, and each other drafter with its own block, whole or scheduled."""
    drafters = store.run(run_id)["drafters"]
    chosen = [Configuration.plain(cap)]
    for name in dict.fromkeys(r.recording.drafter for r in found.recorded):
        blocks = [r for r in found.recorded if r.recording.drafter == name]
        block = next((r for r in blocks if r.recording.gamma == drafters[name]["gamma"]), blocks[-1])
        kind = KIND_FACTS.get(block.recording.kind)
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
        keys.append(TraceKey(part, found.bare))
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
    spaces = {load: space_of(plan, found, load) for load in plan.loads}
    chosen = defaults(store, run_id, found, plan.request_cap)
    with runner(traces_of(found), found.bare, cluster, watcher.say) as run:
        searched: dict[Load, list[Trial]] = {}
        for number, load in enumerate(plan.loads):
            deadline = None if time_limit_s is None else started + time_limit_s * (number + 1) / len(plan.loads)
            near = ranked(searched[plan.loads[number - 1]])[:NEIGHBOURS] if number else []
            able = [c for c in chosen if c.policy == NO_DRAFTER or c.policy.name in spaces[load].kinds]
            starts = [(c, "start") for c in [*able, *starts_of(spaces[load], plan.request_cap)]]
            starts = [(spaces[load].nearest(t.configuration), "neighbour") for t in near] + starts
            what = Search(
                space=spaces[load], scenario=scenario_of(plan, found, load), objective=plan.objective, sampler=plan.sampler,
                trials=plan.trials, seconds=plan.seconds, seed=plan.seed,
            )  # fmt: skip
            done = [Trial.read(row, plan.drafting, found.kinds) for row in studies.trials(study_id, str(load))]
            keep = _keeper(studies, study_id, load, len(done), plan, watcher)
            searched[load] = search(what, done, starts, run, keep, deadline=deadline)
        _finish(studies, study_id, run_id, plan, found, searched, chosen, run, watcher)


def _keeper(
    studies: Studies, study_id: str, load: Load, count: int, plan: StudyPlan, watcher: Watcher
) -> Callable[[Sequence[Trial]], None]:
    """Stores batches as they come, after `count` trials that are stored already."""

    def keep(batch: Sequence[Trial]) -> None:
        nonlocal count
        studies.add_trials(study_id, str(load), [t.row() for t in batch])
        count += len(batch)
        watcher.advance(f"searching {load.label}", count, plan.trials)

    return keep


def starts_of(space: Space, cap: int) -> list[Configuration]:
    """Of every recording, what an engine may have beside a fixed block: its k-by-batch table, adaptive verification."""
    tables = {key: table.within(min(cap, space.binding), key.gamma) for key, table in space.tables.items()}
    found = [Configuration(key, policy, cap) for key, policy in tables.items() if policy != NO_DRAFTER]
    adaptive = [r.recording for r in space.recorded if VLLM.adaptive in space.kinds_of(r)]
    return found + [Configuration(key.showing("raw"), PolicySpec(VLLM.adaptive), cap) for key in adaptive]


def _finish(
    studies: Studies, study_id: str, run_id: str, plan: StudyPlan, found: StudyInputs, searched: dict[Load, list[Trial]],
    chosen: Sequence[Configuration], run: Run, watcher: Watcher,
) -> None:  # fmt: skip
    """Confirm winners, ask how far they hold, and keep it all."""
    confirmations: list[dict[str, Any]] = []
    sensitive: list[dict[str, Any]] = []
    winners: dict[Load, Configuration] = {}
    decisions: list[Decision] = []
    asked = Asked(
        engine=plan.engine,
        draws=plan.decision_draws,
        traffic=found.traffic.trace(TraceKey(PART, found.bare)),
        recorded=found.recorded,
        most_running=max(load.most_running(plan.request_cap, plan.replicas) for load in plan.loads),
    )
    for_all = _table_for_all(plan, found, searched)
    for number, (load, trials) in enumerate(searched.items()):
        scenario, seconds = scenario_of(plan, found, load), _seconds(plan, trials)
        watcher.advance("confirming", number, len(searched))
        what = Confirmation(
            scenario=scenario, objective=plan.objective, seconds=seconds, seed=plan.seed, draws=plan.draws,
            drafting=plan.drafting,
        )  # fmt: skip
        advance = functools.partial(watcher.advance, f"deciding {load.label}")
        decisions.append(decision_of(studies.store, run_id, asked, what, trials, run, advance))
        best = ranked(trials)
        if not best:
            continue
        beside = _beside(best[0].configuration, chosen, found, plan, for_all)
        rows = confirm(what, trials, beside, found.traffic.prompts("confirmation"), run)
        confirmations += rows
        winners[load] = Configuration.read(rows[0], plan.drafting, found.kinds)
        sensitive += sensitivities(scenario, plan.objective, trials, winners[load], seconds, plan.seed, run)
    if len(winners) > 1:
        scenarios = [scenario_of(plan, found, load) for load in winners]
        sensitive += across(scenarios, plan.objective, list(winners.values()), plan.seconds, plan.seed, run)
    watcher.advance("confirming", len(searched), len(searched))
    for decision in decisions:
        keep_decision(studies.store, study_id, decision)
    studies.finish(study_id, confirmations, sensitive)


def _seconds(plan: StudyPlan, trials: Sequence[Trial]) -> float:
    """Simulated seconds of which a confirmation takes a share: as planned, or fewer where prompts decide and not time."""
    fastest = max((t.figures["throughput"] for t in trials if t.figures), default=0.0) * plan.profile.gpus * plan.replicas
    return min(plan.seconds, max(SHORTEST_S, CONFIRMED_TOKENS / max(fastest, 1e-9)) / SHARE)


def _table_for_all(plan: StudyPlan, found: StudyInputs, searched: Mapping[Load, Sequence[Trial]]) -> Configuration | None:
    """One table of k by batch size for all the loads of a study of users; None where there is none, or one load."""
    if len(searched) < 2 or any(load.users is None for load in searched):
        return None
    whole = whole_blocks(found.kinds)
    table = by_load({int(load.users or 0): trials for load, trials in searched.items()}, whole, plan.replicas)
    return None if table is None else table.configuration


def _beside(
    winner: Configuration, chosen: Sequence[Configuration], found: StudyInputs, plan: StudyPlan,
    for_all: Configuration | None,
) -> list[tuple[str, Configuration]]:  # fmt: skip
    """What stands beside a winner: defaults, what engines can do without its confidences, the oracle of every recording.

    `for_all` is the table for all the loads of the study, which stands for the one that was worked out for a recording.
    """
    engine = ENGINES[plan.engine]
    able = None if engine is None else (NO_DRAFTER.name, *engine.policies)
    beside = [("default" if able is None or c.policy.name in able else "scheduler", c) for c in chosen]
    walked = winner.recording.showing("none")
    if for_all is not None:
        beside.append((K_BY_BATCH, for_all))
    elif winner.policy != NO_DRAFTER:
        table = found.tables[walked]
        if table.within(winner.request_cap, walked.gamma) != winner.policy:
            beside.append((K_BY_BATCH, Configuration(walked, table, winner.request_cap)))
    if winner.policy.reads_confidences and winner.policy.name not in VLLM.policies:
        theirs = replace(winner, policy=PolicySpec(VLLM.adaptive), recording=walked.showing("raw"))
        if winner.recording.confidences == "estimated":
            theirs = replace(winner, policy=PolicySpec("lagged_scheduler", "2"))
        beside.append((IN_VLLM, theirs))
    bounds = [Configuration(r.recording, PolicySpec("oracle"), plan.request_cap) for r in found.recorded]
    return [*beside, *(("bound", c) for c in bounds)]
