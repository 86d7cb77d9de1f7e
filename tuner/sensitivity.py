"""How far the optimum moves when load, traffic or hardware are not quite what was assumed, and what that costs.

The winner and the best of every other drafter and kind of policy are simulated again with something off by 20 %. Which
configuration is best then, and what keeping the winner loses, are found among these; nothing is searched anew. Engines are
taken to know what their steps cost: a scheduler's table moves with the hardware.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from simulator.hardware.whatif import slower
from simulator.load import Arrivals, Users
from tuner.confirmation import SHARE, SHORTEST_S
from tuner.objective import Objective, Scenario, TrialJob
from tuner.samplers import importances
from tuner.search import Run
from tuner.space import Configuration
from tuner.trial import Trial, TrialRung, best_of_kinds, ordered

OFF = 0.2
"""How far everything is off, in turn."""
COMPARED = 6
"""Configurations that may be best elsewhere."""
FRESH = 2_000_003
"""Added to the study's seed."""


def sensitivities(
    scenario: Scenario,
    objective: Objective,
    trials: Sequence[Trial],
    winner: Configuration,
    seconds: float,
    seed: int,
    run: Run,
) -> list[dict[str, Any]]:
    """Rows of `sensitivities` at one load: importances, then what happens when something is off."""
    common = {"load": str(scenario.load), "best": None, "moved": None, "loss": None, "keeps": None}
    shares = importances(trials, objective)
    rows: list[dict[str, Any]] = [
        {**common, "kind": "importance", "what": name, "share": share} for name, share in shares.items()
    ]
    changed = list(elsewhere(scenario))
    compared = _compared(trials, winner)
    jobs = [TrialJob(c, other, _shorter(seconds), seed + FRESH) for _, _, other in changed for c in compared]
    results = iter(run(jobs))
    for kind, what, other in changed:
        looks = _looks(compared, [next(results)[0] for _ in compared], objective, other)
        rows.append({**common, "kind": kind, "what": what, "share": None, **_verdict(looks, winner)})
    return rows


def across(
    scenarios: Sequence[Scenario],
    objective: Objective,
    winners: Sequence[Configuration],
    seconds: float,
    seed: int,
    run: Run,
) -> list[dict[str, Any]]:
    """Rows of `sensitivities`: what each load's winner loses at every other load, against the winner there."""
    distinct = list(dict.fromkeys(winners))
    jobs = [TrialJob(c, scenario, _shorter(seconds), seed + FRESH) for scenario in scenarios for c in distinct]
    results = iter(run(jobs))
    rows = []
    for scenario in scenarios:
        looks = _looks(distinct, [next(results)[0] for _ in distinct], objective, scenario)
        for home, c in zip(scenarios, winners, strict=True):
            if c in looks and home.load != scenario.load:
                row = {"load": str(home.load), "kind": "elsewhere", "what": str(scenario.load), "share": None}
                rows.append({**row, **_verdict(looks, c)})
    return rows


def elsewhere(scenario: Scenario) -> Iterator[tuple[str, str, Scenario]]:
    """(kind, what is off, the scenario then)."""
    load = scenario.load
    for sign, factor in (("+", 1 + OFF), ("−", 1 - OFF)):
        label = f"{sign}{OFF:.0%}"
        if isinstance(load, Users):
            at_least_one = load.users + (1 if factor > 1 else -1)
            users = (max if factor > 1 else min)(at_least_one, round(load.users * factor))
            if users >= 1:
                yield "load", f"{users} users", replace(scenario, load=Users(users, load.think_s))
        elif isinstance(load, Arrivals):
            rate = f"{load.rate_per_s * factor:g}"  # as one would ask for it
            yield "load", f"{rate} requests a second", replace(scenario, load=Arrivals(float(rate), load.cv))
        profile = slower(scenario.profile, "verify", factor)
        yield "verify", f"{label} seconds of verification", replace(scenario, profile=profile)
        for domain, share in scenario.weights.items():
            if share and len(scenario.weights) > 1:
                yield "mix", f"{label} {domain}", replace(scenario, weights={**scenario.weights, domain: share * factor})


def _shorter(seconds: float) -> float:
    """Simulated time: all are asked for the same, so differences show soon."""
    return max(SHARE * seconds, min(seconds, SHORTEST_S))


def _compared(trials: Sequence[Trial], winner: Configuration) -> list[Configuration]:
    """The winner, the best of every other recording and kind, then whatever comes next."""
    others = [t.configuration for t in ordered(trials)]
    return list(dict.fromkeys([winner, *best_of_kinds(trials), *others]))[:COMPARED]


def _looks(
    configurations: Sequence[Configuration], results: Sequence[Any], objective: Objective, scenario: Scenario
) -> dict[Configuration, TrialRung]:
    return {
        c: TrialRung.of(result, objective, scenario, 0.0)
        for c, result in zip(configurations, results, strict=True)
        if not isinstance(result, str)
    }


def _verdict(looks: dict[Configuration, TrialRung], kept: Configuration) -> dict[str, Any]:
    """Who is best, and what keeping a configuration loses; bounds come before the objective."""
    if kept not in looks:
        return {"best": None, "moved": None, "loss": None, "keeps": None}
    best = min(looks, key=lambda c: (looks[c].broken, tuple(-v for v in looks[c].values), c != kept))
    loss = 1 - looks[kept].values[0] / looks[best].values[0] if looks[best].values[0] else 0.0
    return {"best": best.row(), "moved": best != kept, "loss": loss, "keeps": looks[kept].feasible}
