"""How good and how fast the tuner's search is: `pytest benchmarks/test_tuner.py -s`.

Regret: the whole space is simulated, so the optimum is known; what a search finds after 25, 50 and 100 trials is held
against it, over several seeds. Values are of whole simulations of one seed, the same for all configurations and samplers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from harness.cluster import Cluster
from harness.console import Watcher
from harness.published.run import Size, publish
from results.store.database import Store
from simulator.configuration import Configuration
from simulator.hardware.catalogue import find_profile
from simulator.load import Arrivals, Load, Users
from simulator.plan import StudyPlan
from simulator.sla import Sla
from tuner.course import defaults, scenario_of, starts_of, traces_of
from tuner.objective import TrialJob
from tuner.plan import StudyInputs, space_of, study_inputs
from tuner.samplers import BATCH, propose
from tuner.search import Search, runner, search
from tuner.trial import Trial, TrialRung, ranked

QUIET = Watcher(lambda text: None, lambda stage, done, total: None)
SEEDS = int(os.environ.get("SEEDS", "8"))
PROBLEMS: dict[str, dict[str, Any]] = {
    "throughput at 64 users": {"loads": [Users(64)], "objective": "throughput"},
    "throughput at 256 users": {"loads": [Users(256)], "objective": "throughput"},
    "throughput at 64 users, tps>=450": {"loads": [Users(64)], "objective": "throughput", "slas": [Sla.parse("tps>=450")]},
    "tps at 40 requests a second": {"loads": [Arrivals(40)], "objective": "tps"},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    found = Store(tmp_path_factory.mktemp("bench") / "specyard.duckdb")
    publish("paper:qwen3-4b", 0, Size(), found, lambda text: None)
    return found


def grounded(store: Store, **options: Any) -> tuple[StudyPlan, StudyInputs]:
    plan = StudyPlan(profile=find_profile("h100/qwen3-4b"), engine=None, **options)  # every policy there is
    return plan, study_inputs(store, store.find_run("latest"), plan, QUIET)


def searched(plan: StudyPlan, found: StudyInputs, load: Load) -> Search:
    return Search(
        space=space_of(plan, found, load), scenario=scenario_of(plan, found, load), objective=plan.objective,
        sampler=plan.sampler, trials=plan.trials, seconds=plan.seconds, seed=plan.seed,
    )  # fmt: skip


def tabled(
    what: Search,
    truth: dict[Configuration, TrialRung],
    starts: Sequence[tuple[Configuration, str]],
    seed: int,
    sampler: str,
) -> list[Trial]:
    """A search that looks its values up."""
    trials: list[Trial] = []
    while len(trials) < what.trials:
        proposals = propose(what.space, trials, starts, BATCH, objective=what.objective, sampler=sampler, seed=seed)
        if not proposals:  # an engine runs fewer configurations than a search would try
            break
        batch = len(trials) // BATCH
        trials += [
            Trial(
                number=len(trials) + i, batch=batch, origin=p.origin, leaf=p.leaf, attributes=p.attributes, state="complete",
                rungs=(truth[p.leaf.configuration],),
            )
            for i, p in enumerate(proposals)
        ]  # fmt: skip
    return trials


@pytest.mark.parametrize("problem", PROBLEMS)
def test_regret(problem: str, store: Store) -> None:
    plan, found = grounded(store, seconds=120.0, trials=104, **PROBLEMS[problem])
    what = searched(plan, found, plan.loads[0])
    leaves = list(what.space.leaves())
    with runner(traces_of(found), found.plain, Cluster(actors=2), QUIET) as run:
        results = run([TrialJob(one.configuration, what.scenario, plan.seconds, 0) for one in leaves])
    truth = {
        one.configuration: TrialRung.of(r, plan.objective, what.scenario, plan.seconds)
        for one, (r, _) in zip(leaves, results, strict=True)
        if not isinstance(r, str)
    }
    best = max(rung.values[0] for rung in truth.values() if rung.feasible)
    near = sum(rung.feasible and rung.values[0] >= 0.99 * best for rung in truth.values())
    print(f"\n{problem}: {len(truth)} configurations, {near} within 1 % of the best")
    chosen = defaults(store, store.find_run("latest"), found, plan.request_cap)
    starts = [(c, "start") for c in [*chosen, *starts_of(what.space, plan.request_cap, plan.served_by)]]
    for name, sampler, known in (("tpe from the defaults", "tpe", starts), ("tpe from nothing", "tpe", []),
                                 ("quasi-random", "qmc", []), ("random", "random", [])):  # fmt: skip
        regrets = np.array([
            [_regret(trials[:n], best) for n in (25, 50, 100)]
            for trials in (tabled(what, truth, known, seed, sampler) for seed in range(SEEDS))
        ])  # fmt: skip
        worst, median = regrets.max(0), np.median(regrets, 0)
        print(f"  {name:22s} regret at 25, 50, 100: median " + ", ".join(f"{m:.2%}" for m in median)
              + "; worst " + ", ".join(f"{w:.2%}" for w in worst))  # fmt: skip
        if sampler == "tpe" and known:
            assert median[1] <= 0.01


def _regret(trials: Sequence[Trial], best: float) -> float:
    found = ranked(trials)
    return 1 - found[0].last.values[0] / best if found else 1.0


@pytest.mark.parametrize("actors", [0, 2])
def test_200_trials_of_ten_simulated_minutes(actors: int, store: Store) -> None:
    plan, found = grounded(store, loads=[Users(64)], objective="throughput", trials=200)
    what = searched(plan, found, plan.loads[0])
    starts = [(c, "start") for c in defaults(store, store.find_run("latest"), found, plan.request_cap)]
    with runner(traces_of(found), found.plain, Cluster(actors=actors) if actors else None, QUIET) as run:
        run(
            [TrialJob(starts[1][0], what.scenario, 1.0, seed) for seed in range(2 * max(actors, 1))]
        )  # compiled code is loaded
        started, cpu = time.perf_counter(), time.process_time()
        trials = search(what, [], starts, run, lambda batch: None)
        wall_s = time.perf_counter() - started
    cut = sum(t.state == "cut" for t in trials)
    here_s = "" if actors else f", {time.process_time() - cpu:.1f} s of processor time"
    print(
        f"\n{actors or 'no'} workers: 200 trials in {wall_s:.1f} s{here_s}; {cut} cut; load average {os.getloadavg()[0]:.1f}"
    )
    assert len(trials) == 200
