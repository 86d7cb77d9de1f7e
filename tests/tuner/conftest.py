"""A small synthesised run, made once, and what a study stands on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.console import Watcher
from harness.published.run import Size, publish
from results.store.database import Store
from simulator.hardware.catalogue import find_profile
from simulator.hardware.profile import Profile
from simulator.load import Users
from simulator.plan import StudyPlan
from tuner.course import scenario_of, traces_of
from tuner.objective import Scenario
from tuner.plan import StudyInputs, space_of, study_inputs
from tuner.search import Run, Search

QUIET = Watcher(lambda text: None, lambda stage, done, total: None)


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of one run."""
    folder = tmp_path_factory.mktemp("tuner")
    publish("paper:qwen3-4b", 0, Size(16, 96), Store(folder / "specyard.duckdb"), lambda text: None)
    return folder


@pytest.fixture(scope="session")
def store(out: Path) -> Store:
    return Store(out / "specyard.duckdb")


@pytest.fixture(scope="session")
def profile() -> Profile:
    return find_profile("h100/qwen3-4b")


@pytest.fixture(scope="session")
def plan_of(profile: Profile) -> Callable[..., StudyPlan]:
    """Plans of short simulations."""

    def made(other: Profile | None = None, **options: Any) -> StudyPlan:
        short = {
            "loads": [Users(16)],
            "objective": "throughput",
            "seconds": 20.0,
            "trials": 24,
            "confirmation_draws": 5,
            "engine": None,
            "decision_draws": 10,
        }
        return StudyPlan(profile=other or profile, **{**short, "request_cap": 32, **options})

    return made


@pytest.fixture(scope="session")
def grounds(store: Store) -> Callable[[StudyPlan], StudyInputs]:
    return lambda plan: study_inputs(store, store.find_run("latest"), plan, QUIET)


@pytest.fixture(scope="session")
def here(grounds: Callable[[StudyPlan], StudyInputs]) -> Callable[[StudyPlan], tuple[StudyInputs, Scenario, Search, Run]]:
    """All that a search in this process needs."""

    def made(plan: StudyPlan) -> tuple[StudyInputs, Scenario, Search, Run]:
        found = grounds(plan)
        scenario = scenario_of(plan, found, plan.loads[0])
        what = Search(
            space=space_of(plan, found, plan.loads[0]), scenario=scenario, objective=plan.objective, sampler=plan.sampler,
            trials=plan.trials, seconds=plan.seconds, seed=plan.seed,
        )  # fmt: skip
        from tuner.objective import TrialWorker

        worker = TrialWorker(dict(traces_of(found)), found.plain)
        return found, scenario, what, lambda jobs: [worker.run(job) for job in jobs]

    return made
