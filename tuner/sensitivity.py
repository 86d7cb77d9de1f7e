"""What decides, and how far the optimum moves when load, traffic or hardware are not quite what was assumed.

All of it is about the choice: what is to be run. What a knob decides is what is lost where it is set otherwise and all
else is tuned anew, by the trials of the search. The choice and the best of every other drafter and kind of policy are
simulated again with something off by 20 %. Which configuration is best then, and what keeping the choice loses, are found
among these; nothing is searched anew. Engines are
taken to know what their steps cost: a scheduler's table moves with the hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from results.store.studies import Kind, StudySensitivity
from simulator.configuration import Configuration
from simulator.hardware.whatif import slower
from simulator.load import Arrivals, Load, Users
from simulator.numbers import counted
from simulator.plan import Objective
from simulator.policies import NO_DRAFTER
from tuner.confirmation import PART, SHARE, SHORTEST_S
from tuner.objective import Scenario, TrialJob
from tuner.search import Run
from tuner.trial import CLEAR, Trial, TrialRung, best_of_kinds, ordered

OFF = 0.2
"""How far everything is off, in turn."""
COMPARED = 6
"""Configurations that may be best elsewhere."""
FRESH = 2_000_003
"""Added to the study's seed."""


class _Knob(NamedTuple):
    """Something to be set."""

    name: str
    value: Callable[[Configuration], str | int]
    comparable: Callable[[Configuration, Configuration], bool] = lambda other, choice: True
    """Whether the other configuration has this knob too: another drafter's γ is another knob."""


def _same_block(other: Configuration, choice: Configuration) -> bool:
    return (other.recording.drafter, other.recording.gamma) == (choice.recording.drafter, choice.recording.gamma)


KNOBS = (
    _Knob("drafter", lambda c: c.recording.drafter),
    _Knob("γ", lambda c: c.recording.gamma, lambda other, choice: other.recording.drafter == choice.recording.drafter),
    _Knob(
        "policy",
        lambda c: c.policy.name,
        lambda other, choice: NO_DRAFTER not in (other.policy, choice.policy),
    ),
    _Knob(
        "parameter of the policy",
        lambda c: str(c.policy),
        lambda other, choice: other.policy.name == choice.policy.name and _same_block(other, choice),
    ),
    _Knob(
        "confidences",
        lambda c: c.recording.confidences,
        lambda other, choice: "none" not in (other.recording.confidences, choice.recording.confidences),
    ),
    _Knob("request cap", lambda c: c.request_cap),
)
"""What a configuration is made of."""


def sensitivities(
    scenario: Scenario,
    objective: Objective,
    trials: Sequence[Trial],
    choice: Configuration,
    seconds: float,
    seed: int,
    run: Run,
) -> list[StudySensitivity]:
    """What decides at one load, then what happens when something is off."""
    rows = decisive(trials, choice, scenario.load)
    changed = list(elsewhere(scenario))
    compared = _compared(trials, choice)
    jobs = [TrialJob(c, other, _shorter(seconds), seed + FRESH, PART) for _, _, other in changed for c in compared]
    results = iter(run(jobs))
    for kind, what, other in changed:
        rungs = _rungs(compared, [next(results)[0] for _ in compared], objective, other)
        rows.append(_verdict(StudySensitivity(load=scenario.load, kind=kind, what=what), rungs, choice))
    return rows


def decisive(trials: Sequence[Trial], choice: Configuration, load: Load) -> list[StudySensitivity]:
    """What is lost with each knob set otherwise and the rest tuned anew, by trials that keep every bound; the most first.

    Where every other setting that was tried breaks a bound, `keeps` is False and there is neither loss nor best. A knob that
    was never set otherwise has none; nothing has where the choice itself was not tried, as the engine's default need not be
    where a search ended early.
    """
    done = [t for t in trials if t.rungs]
    own = next((t.last.values[0] for t in ordered(done) if t.configuration == choice), None)
    rows = list[StudySensitivity]()
    if own is None:
        return rows
    for knob in KNOBS:
        others = [
            t for t in done
            if knob.value(t.configuration) != knob.value(choice) and knob.comparable(t.configuration, choice)
        ]  # fmt: skip
        if not others:
            continue
        row = StudySensitivity(load=load, kind="choice", what=knob.name, keeps=False)
        if kept := [t for t in others if t.last.feasible]:
            best = max(kept, key=lambda t: (t.last.values[0], t.state == "complete", -t.number))
            row = msgspec.structs.replace(
                row, best=best.configuration, value=knob.value(best.configuration), state=best.state,
                loss=1 - best.last.values[0] / own if own else 0.0, keeps=True,
            )  # fmt: skip
        rows.append(row)
    return sorted(rows, key=lambda row: (bool(row.keeps), -(row.loss or 0.0)))


def across(
    scenarios: Sequence[Scenario],
    objective: Objective,
    choices: Sequence[Configuration],
    seconds: float,
    seed: int,
    run: Run,
) -> list[StudySensitivity]:
    """What each load's choice loses at every other load, against the choice there."""
    distinct = list(dict.fromkeys(choices))
    jobs = [TrialJob(c, scenario, _shorter(seconds), seed + FRESH, PART) for scenario in scenarios for c in distinct]
    results = iter(run(jobs))
    rows = []
    for scenario in scenarios:
        rungs = _rungs(distinct, [next(results)[0] for _ in distinct], objective, scenario)
        for home, c in zip(scenarios, choices, strict=True):
            if c in rungs and home.load != scenario.load:
                row = StudySensitivity(load=home.load, kind="elsewhere", what="", elsewhere=scenario.load)
                rows.append(_verdict(row, rungs, c))
    return rows


def elsewhere(scenario: Scenario) -> Iterator[tuple[Kind, str, Scenario]]:
    """(kind, what is off, the scenario then)."""
    load = scenario.load
    for sign, factor in (("+", 1 + OFF), ("−", 1 - OFF)):
        label = f"{sign}{OFF:.0%}"
        if isinstance(load, Users):
            at_least_one = load.users + (1 if factor > 1 else -1)
            users = (max if factor > 1 else min)(at_least_one, round(load.users * factor))
            if users >= 1:
                yield "load", counted(users, "user"), replace(scenario, load=replace(load, users=users))
        elif isinstance(load, Arrivals):
            rate = f"{load.rate_per_s * factor:g}"  # as one would ask for it
            yield (
                "load",
                f"{counted(float(rate), 'request')} a second",
                replace(scenario, load=Arrivals(float(rate), load.cv)),
            )
        else:
            yield "load", f"{label} of the load", replace(scenario, load=load.times(factor))
        profile = slower(scenario.profile, "verify", factor)
        yield "verify", f"{label} seconds of verification", replace(scenario, profile=profile)
        for domain, share in scenario.weights.items():
            if share and len(scenario.weights) > 1:
                yield "mix", f"{label} {domain}", replace(scenario, weights={**scenario.weights, domain: share * factor})


def _shorter(seconds: float) -> float:
    """Simulated time: all are asked for the same, so differences show soon."""
    return max(SHARE * seconds, min(seconds, SHORTEST_S))


def _compared(trials: Sequence[Trial], choice: Configuration) -> list[Configuration]:
    """The choice, the best of every other recording and kind, then whatever comes next."""
    others = [t.configuration for t in ordered(trials)]
    return list(dict.fromkeys([choice, *best_of_kinds(trials), *others]))[:COMPARED]


def _rungs(
    configurations: Sequence[Configuration], results: Sequence[Any], objective: Objective, scenario: Scenario
) -> dict[Configuration, TrialRung]:
    return {
        c: TrialRung.of(result, objective, scenario, 0.0)
        for c, result in zip(configurations, results, strict=True)
        if not isinstance(result, str)
    }


def _verdict(row: StudySensitivity, rungs: dict[Configuration, TrialRung], kept: Configuration) -> StudySensitivity:
    """With who is best, and what keeping a configuration loses; bounds come before the objective, and what loses no more
    than the noise is kept."""
    if kept not in rungs:
        return row
    best = min(rungs, key=lambda c: (rungs[c].broken, tuple(-v for v in rungs[c].values), c != kept))
    loss = 1 - rungs[kept].values[0] / rungs[best].values[0] if rungs[best].values[0] else 0.0
    if rungs[kept].feasible and loss <= CLEAR:
        best, loss = kept, 0.0
    return msgspec.structs.replace(row, best=best, moved=best != kept, loss=loss, keeps=rungs[kept].feasible)
