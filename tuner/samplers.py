"""What to try next: a function of the trials so far and the seed, and of nothing else.

Optuna's study is made anew from the trials for every batch. So it cannot disagree with the database, a resumed search
proposes what an uninterrupted one would have, and the number of workers changes nothing. A configuration that was tried
before is not tried again: simulations of it would come out the same.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from scipy.stats import qmc

from simulator.configuration import Configuration
from simulator.plan import Objective
from tuner.objective import WANTED
from tuner.space import COORDINATES, Leaf, PointChooser, Space, SuggestedChooser, leaf
from tuner.trial import Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)

BATCH = 8
"""Trials proposed together."""
STARTUP = 16
"""Trials that look around, known good starts included, before a sampler learns."""
_PATIENCE = 24
"""Proposals in a row that may have been tried before, until a random configuration is taken instead."""


class ProposedTrial(NamedTuple):
    """What to try."""

    leaf: Leaf
    origin: str
    attributes: dict[str, Any]


def propose(
    space: Space,
    done: Sequence[Trial],
    starts: Sequence[tuple[Configuration, str]],
    count: int,
    *,
    objective: Objective,
    sampler: str,
    seed: int,
) -> list[ProposedTrial]:
    """Up to `count` configurations not tried yet, fewer only where there are no more."""
    leaves = {found.configuration: found for found in space.leaves()}
    seen = {t.configuration for t in done}
    rng = np.random.default_rng([seed, len(done)])
    chosen: list[ProposedTrial] = []

    def take(found: Leaf, origin: str, attributes: dict[str, Any] | None = None) -> None:
        seen.add(found.configuration)
        chosen.append(ProposedTrial(found, origin, attributes or {}))

    for configuration, origin in starts:
        if configuration in leaves and configuration not in seen and len(chosen) < count:
            take(leaves[configuration], origin)
    exploring = count if sampler in ("random", "qmc") else max(0, min(count, STARTUP - len(done)))
    for found in _scattered(space, sampler, seed, len(done)):
        if len(chosen) >= exploring:
            break
        if found.configuration not in seen:
            take(found, "random" if sampler == "random" else "qmc")
    if sampler in ("tpe", "gp", "nsga2") and len(chosen) < count:
        for proposal in _suggested(space, done, sampler, objective, int(rng.integers(2**31)), count - len(chosen), seen):
            take(*proposal)
    unseen = sorted(c for c in leaves if c not in seen)
    rng.shuffle(unseen)
    while unseen and len(chosen) < count:
        take(leaves[unseen.pop()], "grid" if sampler == "grid" else "random")
    return chosen


def _scattered(space: Space, sampler: str, seed: int, after: int) -> list[Leaf]:
    """Configurations at points that fill the space evenly, or at random ones."""
    if sampler == "grid":
        return []
    if sampler == "random":
        points = np.random.default_rng([seed, after, 1]).random((256, COORDINATES))
    else:
        points = qmc.Sobol(COORDINATES, rng=np.random.default_rng(seed)).random(1024)
    return [leaf(space, PointChooser(point)) for point in points]


def _suggested(
    space: Space, done: Sequence[Trial], sampler: str, objective: Objective, seed: int, count: int, seen: set[Configuration]
) -> list[ProposedTrial]:
    """What Optuna's sampler asks for, repetitions left out."""
    study = study_of(done, objective, _optuna_sampler(sampler, seed))
    found: list[ProposedTrial] = []
    known, misses = set(seen), 0
    while len(found) < count and misses < _PATIENCE:
        asked = study.ask()
        reached = leaf(space, SuggestedChooser(asked))
        if reached.configuration in known:
            misses += 1
            continue
        known.add(reached.configuration)
        found.append(ProposedTrial(reached, sampler, _kept(study.trials[asked.number].system_attrs)))
    return found


def _kept(attributes: dict[str, Any]) -> dict[str, Any]:
    """What a genetic sampler must find again; others need nothing."""
    return {k: v for k, v in attributes.items() if k.endswith(":generation")}


def _optuna_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "tpe":
        with warnings.catch_warnings():  # group: joint distributions within each branch; experimental by name only
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=STARTUP // 2)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP // 2)
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=2 * BATCH)


def study_of(
    trials: Sequence[Trial],
    objective: Objective,
    sampler: optuna.samplers.BaseSampler | None = None,
    **options: Any,
) -> optuna.Study:
    """Optuna's view of trials; `options` of `optuna.create_study`, for instance a storage to look at with its dashboard.

    A trial that was cut is complete to Optuna: what it came to in its short simulation is an estimate like any other.
    """
    study = optuna.create_study(directions=["maximize"] * len(WANTED[objective]), sampler=sampler, **options)
    for t in trials:
        failed = t.state == "failed" or not all(map(math.isfinite, t.last.values))  # nobody finished in so short a time
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
                values=None if failed else list(t.last.values),
                params=dict(t.leaf.choices),
                distributions={name: _distribution(domain) for name, domain in t.leaf.domains.items()},
                constraints=None if failed else dict(t.last.violations),
                system_attrs=dict(t.attributes),
                user_attrs={"configuration": str(t.configuration), "state": t.state, "origin": t.origin},
            )
        )
    return study


def _distribution(domain: tuple[str, ...] | int) -> BaseDistribution:
    return IntDistribution(0, domain - 1) if isinstance(domain, int) else CategoricalDistribution(domain)


assert set(get_args(Objective)) == set(WANTED)
