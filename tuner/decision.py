"""What a study says to run at a load: the best of its trials that the engine can run, drawn again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from results.store.database import Store
from results.store.decisions import served, serving_of
from results.store.recordings import accepted_otherwise
from simulator.capacity import crowded, enough, falls_short, needed, too_few
from simulator.configuration import Configuration
from simulator.decision import Choice, Decision, Draw, Figure, Sampled, Simulated, choose, decide, refused, settle
from simulator.draws import counted_share, draws_for, seconds_for
from simulator.load import RecordedArrivals
from simulator.mix import Mix
from simulator.policies import PolicySpec
from simulator.serving.engine import ServingEngine
from simulator.sla import attained, promises
from simulator.traces import Trace
from tuner.confirmation import CONTENDERS, PART, Confirmation, Confirmed, headroom_of, times_held
from tuner.objective import KEEPS_UP, WANTED, Figures, TrialJob
from tuner.search import Result, Run
from tuner.space import Recorded
from tuner.trial import Trial, closest


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a decision is asked about, beside what is confirmed."""

    engine: ServingEngine | None
    """That is to run it; None for all policies."""
    draws: int
    """Draws of prompts, seeds and errors, with the profile off."""
    traffic: Trace
    """Whose prompts are asked for."""
    recorded: tuple[Recorded, ...]
    """What a better scheduler could read."""
    most_running: int
    """Requests on a replica, in any load of the study."""


def decision_of(
    store: Store, run_id: str, asked: Asked, what: Confirmation, trials: Sequence[Trial], run: Run,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Decision:  # fmt: skip
    """The decision of a study at a load, from its trials; `advance` takes the draws that are done, and all of them."""
    engine, scenario, profile = asked.engine, what.scenario, what.scenario.profile
    stored = store.run(run_id)

    mix = Mix(asked.traffic, scenario.weights, scenario.prompt_tokens, scenario.output_tokens)
    stub = Decision.about(
        engine=engine, profile=profile, load=scenario.load,
        replicas=scenario.limits.replicas, slas=scenario.slas, figure=_FIGURES[what.objective],
        traffic=mix.words(scenario.load), temperature=stored["sampling"].get("temperature"),
    )  # fmt: skip
    simulated, confirmed = _simulated(what, trials, engine, run)
    source = str(stored["target"].get("source") or "")
    chosen = choose(simulated, engine, source, load=scenario.load, replicas=scenario.limits.replicas)
    if otherwise := accepted_otherwise(store, run_id, what.drafting):
        stub = msgspec.structs.replace(stub, notes=[otherwise])
    if isinstance(chosen, str):
        return stub.without(chosen + _closest(what, trials, run))
    finished = next(t.figures["finished"] for t in trials if t.figures and t.configuration == chosen.run)
    if not enough(finished, scenario.slas):
        return stub.without(too_few(round(finished), scenario.slas, scenario.load, what.seconds))
    if engine is not None and chosen.better is None:
        chosen = msgspec.structs.replace(chosen, better=_scheduled(chosen.run, asked.recorded))
    best = next(s.value for s in simulated if s.candidate == chosen.run)
    sampled, draws = _sampled(chosen, what, best, mix.mean_lengths()[1], asked.draws, run, advance)
    if isinstance(sampled, str):
        return stub.without(sampled)
    set_by_arrivals = scenario.load.users is None and WANTED[what.objective][0] != "tps"
    chosen = settle(chosen, sampled, draws, arrivals_set=set_by_arrivals)
    decision = decide(stub, chosen, sampled, draws, engine)
    shares = {promise.name for promise in promises(scenario.slas) if promise.share is not None}
    counted = {name: counted_share(r, finished) if name in shares else r for name, r in decision.attained.items()}
    decision = msgspec.structs.replace(decision, attained=counted)
    waiting = crowded(scenario.load, chosen.run.request_cap, scenario.limits.replicas)  # so many users hold whatever waits
    if scenario.slas and not decision.reason and not waiting:
        one = confirmed.get(chosen.run) or what.run([("to run", chosen.run)], run)[0]
        decision = msgspec.structs.replace(decision, holds=times_held(what, one, run))
    if engine is None or decision.reason:
        return decision
    serving = serving_of(
        stored, engine, chosen.run, model=profile.model, drafting=what.drafting,
        step_tokens=scenario.limits.step_tokens, gpus=profile.gpus,
        replicas=scenario.limits.replicas, most_running=asked.most_running,
    )  # fmt: skip
    return served(decision, serving)


def _closest(what: Confirmation, trials: Sequence[Trial], run: Run) -> str:
    """Who is closest to a promise that nothing keeps, and how much of the load it holds; empty where something keeps it."""
    scenario, near = what.scenario, closest(trials)
    if not scenario.slas or near is None or near.last.feasible:
        return ""
    [one] = what.run([("closest", near.configuration)], run)
    if not one.draws:
        return ""
    means, waits = one.means(), near.last.violations.get(KEEPS_UP, 0.0) > 0
    kept = [f"{promise.name}: {attained(promise.name, means[promise.name], None)}" for promise in promises(scenario.slas)]
    waiting = crowded(scenario.load, near.configuration.request_cap, scenario.limits.replicas)
    times = None if waiting else headroom_of(what, one, run)
    told = ["ever more requests wait"] if waits else kept
    return "; " + falls_short(str(near.configuration), told, times, scenario.limits.replicas)


_FIGURES: dict[str, Figure] = {"throughput": "throughput", "pareto": "throughput", "tps": "tps", "goodput": "goodput"}


def _scheduled(run: Configuration, recorded: Sequence[Recorded]) -> Configuration | None:
    """What is run, under the paper's scheduler; under a moving average of acceptance where nothing says how sure it is."""
    own = next((r for r in recorded if r.recording == run.recording.showing("none")), None)
    if own is None:
        return None
    if own.confidences:
        recording, policy = run.recording.showing(own.confidences[-1]), PolicySpec("prefix_scheduler")
    else:
        recording, policy = run.recording.showing("none"), PolicySpec("batch_adaptive")
    return Configuration(recording, policy, run.request_cap)


def _simulated(
    what: Confirmation, trials: Sequence[Trial], engine: ServingEngine | None, run: Run
) -> tuple[list[Simulated], dict[Configuration, Confirmed]]:  # fmt: skip
    """The trials as candidates; of those that may be chosen, whether the promise is kept on prompts nobody searched on."""
    confirmed: dict[Configuration, Confirmed] = {}
    found = {
        t.configuration: Simulated(
            candidate=t.configuration,
            value=t.last.values[0],
            kept=t.last.feasible,
            keeps_up=t.last.violations.get(KEEPS_UP, 0.0) <= 0,
        )
        for t in trials
        if t.rungs
    }
    if not what.scenario.slas:
        return list(found.values()), confirmed
    ordered = sorted((c for c, s in found.items() if s.kept), key=lambda c: -found[c].value)
    able = [c for c in ordered if engine is None or not refused(engine, found[c].candidate)]
    for configuration in able[:CONTENDERS]:
        [one] = what.run([("to run", configuration)], run)
        confirmed[configuration] = one
        if what.keeps(one):
            break
        found[configuration] = msgspec.structs.replace(found[configuration], kept=False)
    return list(found.values()), confirmed


def _sampled(
    chosen: Choice,
    what: Confirmation,
    value: float,
    answer_tokens: float,
    count: int,
    run: Run,
    advance: Callable[[int, int], None],
) -> tuple[dict[Configuration, Sampled] | str, list[Draw]]:
    """What came of the candidates of a choice in every draw, or why nothing did; `value` is what the one to run gives."""
    scenario, figure = what.scenario, WANTED[what.objective][0]
    throughput = value * (
        scenario.load.users or _SOME_USERS if figure == "tps" else scenario.profile.gpus * scenario.limits.replicas
    )
    seconds = seconds_for(scenario.load, throughput, what.seconds, answer_tokens, needed(scenario.slas))
    tokens = seconds * throughput
    if isinstance(scenario.load, RecordedArrivals):
        tokens = float(scenario.load.requests.output_tokens.sum())
    draws, candidates = draws_for(tokens, count), chosen.all
    results: list[Result] = []
    for done in range(0, len(draws), AT_ONCE):
        advance(done, len(draws))
        some = draws[done : done + AT_ONCE]
        results += run([TrialJob(c, scenario, seconds, what.seed, PART, vary=draw) for draw in some for c in candidates])
    advance(len(draws), len(draws))
    failed = next((r for r, _ in results if isinstance(r, str)), None)
    if failed is not None:
        return f"a draw of the decision failed: {failed}", draws
    figures: list[Figures] = [r for r, _ in results if not isinstance(r, str)]
    found = {}
    for i, c in enumerate(candidates):
        own = figures[i :: len(candidates)]
        found[c] = Sampled(
            value=[f[figure] for f in own],
            attained=[{promise.name: f[promise.name] for promise in promises(scenario.slas)} for f in own],
            also=[{name: f[name] for name in ("tps", "p95_ttft")} for f in own],
            kept=[all(v <= 0 for v in scenario.violations(f).values()) for f in own],
        )
    return found, draws


AT_ONCE = 20
"""Draws that are simulated between two signs of life."""
_SOME_USERS = 16
"""Users taken for an open loop, to guess how many tokens come in a second: more only make draws shorter."""
