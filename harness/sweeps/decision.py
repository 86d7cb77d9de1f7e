"""What a sweep says to run: at the highest load that keeps the promise, the best that the engine can run."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from harness.console import Watcher
from harness.sweeps.plan import SweepPlan, SweepPoint
from results.store.database import Store
from results.store.decisions import served, serving_of
from results.store.recordings import Recordings, accepted_otherwise
from results.store.rows import keeps_promise
from simulator.capacity import MOST_TRIED, crowded, enough, falls_short, needed, too_few
from simulator.configuration import Configuration
from simulator.decision import Choice, Decision, Draw, Figure, Range, Simulated, choose, decide, refused, settle
from simulator.draws import HOLDING, counted_share, draws_for, fits, headroom_of, holding, sample, seconds_for, under, varied
from simulator.load import Load, RecordedArrivals
from simulator.mix import Mix
from simulator.plain import walked
from simulator.records import Recording
from simulator.setup import Setup
from simulator.simulation import Prepared, prepare, simulate
from simulator.sla import Sla, attained, promises

Rows = Sequence[tuple[SweepPoint, Mapping[str, Any]]]
"""Points of a sweep, and their rows of `simulations`."""


def decision_of(
    store: Store, run_id: str, plan: SweepPlan, rows: Rows, recordings: Recordings, watcher: Watcher
) -> Decision | None:
    """The decision of a sweep; None where nothing came to a result."""
    engine = plan.engine
    found = [(point, row) for point, row in rows if row["throughput"] is not None and row["lossless"]]
    if not found:
        return None
    load = _load(found, bool(plan.slas))
    figure: Figure = "tps" if load.users is None else "throughput"
    here = [(point, row) for point, row in found if point.setup.load == load]
    stored = store.run(run_id)
    mix = Mix(recordings.trace(here[0][0].recording), plan.weights, plan.prompt_tokens, plan.output_tokens)
    stub = Decision.about(
        engine=engine, profile=plan.profile, load=load, replicas=plan.replicas,
        slas=plan.slas, figure=figure, traffic=mix.words(load), temperature=stored["sampling"].get("temperature"),
    )  # fmt: skip
    if short := _too_short(here, plan):
        return stub.without(short)
    at = [(point, row) for point, row in here if row[figure] is not None]
    if not at:  # nobody got a second token
        return None
    source = str(stored["target"].get("source") or "")
    candidates = dict.fromkeys(point.configuration for point, _ in at)
    simulated = [_simulated(at, candidate, figure) for candidate in candidates]
    chosen = choose(simulated, engine, source, load=load, replicas=plan.replicas)
    if otherwise := accepted_otherwise(store, run_id, plan.drafting):
        stub = msgspec.structs.replace(stub, notes=[otherwise])
    if isinstance(chosen, str):
        able = [c for c in candidates if engine is None or not refused(engine, c, source)]
        return stub.without(chosen + _closest(at, able, recordings, plan))
    if load.users is None and any(row["keeps_up"] is None for point, row in at if point.configuration == chosen.run):
        return stub.without(_open(load, plan))
    throughput = max(float(row["throughput"]) for _, row in at) * plan.profile.gpus * plan.replicas
    seconds = seconds_for(load, throughput, plan.seconds, mix.mean_lengths()[1], needed(plan.slas))
    tokens = seconds * throughput
    if isinstance(load, RecordedArrivals):
        tokens = float(load.requests.output_tokens.sum())
    draws = draws_for(tokens, plan.draws)
    tasks = _tasks(chosen, at, recordings, seconds)
    sampled = sample(tasks, draws, figure, lambda done, total: watcher.advance("deciding", done, total))
    chosen = settle(chosen, sampled, draws, arrivals_set=load.users is None and figure != "tps")
    decision = decide(stub, chosen, sampled, draws, engine)
    decision = msgspec.structs.replace(decision, attained=_counted(decision, chosen.run, at, plan))
    waiting = crowded(load, chosen.run.request_cap, plan.replicas)  # so many users hold whatever waits
    if plan.slas and plan.headroom is not False and not decision.reason and not waiting:
        searched = next((row["headroom"] for point, row in at if point.configuration == chosen.run), None)
        decision = msgspec.structs.replace(decision, holds=_holds(*tasks[chosen.run], searched, plan, watcher))
    if engine is None or decision.reason:
        return decision
    serving = serving_of(
        stored, engine, chosen.run, model=plan.profile.model, drafting=plan.drafting,
        step_tokens=plan.step_tokens, gpus=plan.profile.gpus,
        replicas=plan.replicas,
        most_running=max(asked.most_running(plan.request_cap, plan.replicas) for asked in plan.loads),
    )  # fmt: skip
    return served(decision, serving)


def _too_short(here: Rows, plan: SweepPlan) -> str:
    """Why what was simulated at a load can carry no recommendation, and how much would; empty where it can."""
    if all(row["keeps_up"] is False for _, row in here):
        return ""  # that it is overload is known
    load = here[0][0].setup.load
    finished = Counter[Configuration]()
    for point, row in here:
        finished[point.configuration] += int(row["finished"])
    if not enough(least := min(finished.values()), plan.slas):
        return too_few(least, plan.slas, load, plan.seconds)
    able = not plan.slas or any(keeps_promise(row) for _, row in here)  # what breaks it does so whether it keeps up or not
    if able and load.users is None and all(row["keeps_up"] is None for _, row in here):
        return _open(load, plan)
    return ""


def _open(load: Load, plan: SweepPlan) -> str:
    """That nobody knows whether what arrives is answered."""
    more = "give a longer log" if isinstance(load, RecordedArrivals) else f"give more --seconds than {plan.seconds:g}"
    return f"too short to tell whether what arrives is answered: {more}"


def _closest(at: Rows, able: Sequence[Configuration], recordings: Recordings, plan: SweepPlan) -> str:
    """Who of the `able` is closest to a promise that nothing keeps, and how much of the load it holds; else empty."""
    if not plan.slas or not able or any(keeps_promise(row) for _, row in at):
        return ""
    point, row = max(((p, row) for p, row in at if p.configuration in able), key=lambda one: _closeness(one[1], plan.slas))
    recorded = prepare(recordings.trace(point.recording))
    times = row["headroom"]
    if times is None and plan.headroom is not False:
        times = headroom_of(point.setup, recorded, simulate(point.setup, recorded))
    kept = [
        f"{promise.name}: {attained(promise.name, row['attained'].get(promise.name), None)}"
        for promise in promises(plan.slas)
    ]
    if row["keeps_up"] is False:
        kept = ["ever more requests wait"]
    return "; " + falls_short(str(point.configuration), kept, times, plan.replicas)


def _counted(decision: Decision, run: Configuration, at: Rows, plan: SweepPlan) -> dict[str, Range]:
    """What becomes of each promise, no surer than the requests of the simulation at hand can tell."""
    own = [int(row["finished"]) for point, row in at if point.configuration == run]
    finished = sum(own) or min(int(row["finished"]) for _, row in at)  # the engine's default may not have been asked for
    shares = {promise.name for promise in promises(plan.slas) if promise.share is not None}
    return {name: counted_share(r, finished) if name in shares else r for name, r in decision.attained.items()}


def _closeness(row: Mapping[str, Any], slas: Sequence[Sla]) -> tuple[bool, float, float]:
    """What comes closer to promises is larger: by whether it keeps up, how much of the promised share, or of the bound of a
    mean, is reached at worst, and where nobody reaches anything, how far requests are on average.
    """

    def reached(sla: Sla, value: float | None) -> float:
        return 0.0 if not value else value / sla.bound if sla.at_least else sla.bound / value

    each = []
    for promise in promises(slas):
        value = row["attained"].get(promise.name)
        each.append(reached(promise.slas[0], value) if promise.share is None else (value or 0.0) / promise.share)
    means = [reached(sla, row["means"].get(sla.measure)) for sla in slas]
    return row["keeps_up"] is not False, min(1.0, *each), min(means)


def _load(found: Rows, promised: bool) -> Load:
    """The highest load at which something keeps the promise, or where nothing does the lowest: not even that is held.
    Without a promise the highest that most were simulated at.
    """
    loads = list(dict.fromkeys(point.setup.load for point, _ in found))
    able = [load for load in loads if any(keeps_promise(row) for point, row in found if point.setup.load == load)]

    def size(load: Load) -> float:
        return load.users or load.rate_per_s or 0

    if promised:
        return max(able, key=size) if able else min(loads, key=size)
    count = {load: sum(point.setup.load == load for point, _ in found) for load in loads}
    return max((load for load in loads if count[load] == max(count.values())), key=size)


def _simulated(at: Rows, candidate: Configuration, figure: Figure) -> Simulated:
    """A candidate over its seeds."""
    rows = [row for point, row in at if point.configuration == candidate]
    value = sum(float(row[figure]) for row in rows) / len(rows)
    keeps_up = all(row["keeps_up"] is not False for row in rows)
    return Simulated(candidate=candidate, value=value, kept=all(keeps_promise(row) for row in rows), keeps_up=keeps_up)


def _tasks(chosen: Choice, at: Rows, recordings: Recordings, seconds: float) -> dict[Configuration, tuple[Setup, Prepared]]:
    """Set-ups and traces of a choice's candidates: as simulated, or like the one to run under another policy."""
    points = {point.configuration: point for point, _ in at}
    like, prepared, tasks = points[chosen.run], dict[Recording, Prepared](), {}
    for candidate in chosen.all:
        point = points.get(candidate)
        recording = walked(candidate.recording, [like.recording]) if point is None else point.recording
        if recording not in prepared:
            prepared[recording] = prepare(recordings.trace(recording))
        setup = like.setup if point is None else point.setup
        tasks[candidate] = (dataclasses.replace(setup, policy=candidate.policy, seconds=seconds), prepared[recording])
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
