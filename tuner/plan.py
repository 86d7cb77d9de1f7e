"""What a study is to do, as it was asked for, and what it stands on: recordings, and what may be tried with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.console import Watcher, say_model
from results.store.database import Store
from results.store.recordings import Recordings
from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.load import Load
from simulator.mix import Mix
from simulator.plain import walked
from simulator.plan import StudyPlan
from simulator.policies import PolicyKind, PolicySpec
from simulator.records import NO_RECORDING, Recording
from simulator.serving.command import cannot_run
from tuner.k_by_batch import k_by_batch, row_ends
from tuner.prompts import TraceKey, Traffic
from tuner.space import SEARCHED, OfferedRecording, Space, request_caps


@dataclass(frozen=True, slots=True)
class StudyInputs:
    """What a study stands on: recordings that can be simulated on the profile, and their prompts."""

    recordings: Recordings
    traffic: Traffic
    recorded: tuple[OfferedRecording, ...]
    weights: dict[str, float]
    tables: dict[Recording, PolicySpec]
    """By recording, showing no confidences, the k-by-batch policy worked out for it."""

    @property
    def plain(self) -> Recording:
        """The recording that plain decoding walks."""
        return _plain(self.recorded, self.recordings)

    @property
    def kinds(self) -> dict[str, str]:
        """Kinds of the drafters, by their names."""
        return {recording.drafter: recording.kind for recording in self.recordings.keys}


def _plain(recorded: Sequence[OfferedRecording], recordings: Recordings) -> Recording:
    """The recording that plain decoding walks: one that can be chosen, before any other."""
    return walked(NO_RECORDING, [*(r.recording for r in recorded), *recordings.keys])


def study_inputs(store: Store, run_id: str, plan: StudyPlan, watcher: Watcher) -> StudyInputs:
    """What there is to choose from; what cannot be simulated is left out and said, or refused if it was asked for."""
    profile, recordings = plan.profile, Recordings(store, run_id, plan.drafting)
    say_model(store, run_id, profile, watcher)
    known = list(dict.fromkeys(key.drafter for key in recordings.keys))
    if unknown := [d for d in plan.drafters or [] if d not in known and d != NO_RECORDING.drafter]:
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
            watcher.say(f"{key.short}: left out: {error}")
            continue
        engine = plan.engine
        lacks = "" if engine is None else cannot_run(engine, key, PolicySpec.fixed(gamma), 1, target=source)
        if lacks:
            said = f"{lacks}; --engine any tries it all the same"
            if plan.drafters:
                raise InputError(f"drafter {name}: {said}")
            watcher.say(f"{key.short}: left out: {said}")
            continue
        whole = engine is not None and not KINDS[key.kind].prefix
        recorded.append(OfferedRecording(key, recordings.offered(key), whole))
        if not recorded[-1].confidences and (
            reading := [kind.name for kind in plan.policies or SEARCHED if kind in SEARCHED and kind.says.reads_confidences]
        ):
            watcher.say(f"{key.short}: has no confidences: left out: {', '.join(reading)}")
    plain = _plain(recorded, recordings)
    traffic = Traffic(recordings, [r.recording for r in recorded] or [plain])
    weights = traffic.shares(plain, plan.weights)
    tables = {r.recording: _table(plan, traffic, weights, r) for r in recorded}
    return StudyInputs(recordings, traffic, tuple(recorded), weights, tables)


def space_of(plan: StudyPlan, found: StudyInputs, load: Load) -> Space:
    """What may be tried at a load. Raises InputError for kinds of policies that do not exist."""
    binding = load.most_running(plan.request_cap, plan.replicas)
    return Space(
        recorded=found.recorded,
        request_caps=request_caps(binding, plan.request_cap),
        binding=binding,
        tables=found.tables,
        policies=policies_of(plan),
    )


def policies_of(plan: StudyPlan) -> tuple[PolicyKind, ...]:
    """Kinds of policies to search: as asked, or those that the engine runs."""
    if plan.policies:
        return tuple(plan.policies)
    return SEARCHED if plan.engine is None else tuple(kind for kind in SEARCHED if kind.name in plan.engine.policies)


def _table(plan: StudyPlan, traffic: Traffic, weights: dict[str, float], recorded: OfferedRecording) -> PolicySpec:
    """The k-by-batch policy for a recording."""
    trace = traffic.trace(TraceKey("search", recorded.recording))
    mix = Mix(trace, weights, plan.prompt_tokens, plan.output_tokens)
    tokens = plan.request_cap * (recorded.recording.gamma + 1)
    cost = plan.profile.cost(trace.drafter, trace.gamma, plan.request_cap, tokens, kind=trace.kind)
    ends = row_ends(plan.loads, plan.request_cap, plan.replicas)
    return k_by_batch(trace, mix, cost, ends, whole=recorded.whole)
