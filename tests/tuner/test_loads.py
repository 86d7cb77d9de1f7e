"""Loads of a study: several with weights, replicas, arrivals that stay the same, tables of what was searched, one export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from results.store.database import Store
from results.store.studies import Studies, StudyConfirmation
from simulator.configuration import Configuration
from simulator.errors import InputError
from simulator.hardware.catalogue import find_profile
from simulator.load import Arrivals, Load, RecordedArrivals, SeveralLoads, Users
from simulator.plan import StudyPlan
from simulator.policies import PolicyKind
from simulator.simulation import EngineLimits
from simulator.sla import Sla
from tests.tuner.configurations import configuration
from tests.tuner.conftest import QUIET
from tuner.confirmation import rivals
from tuner.display import by_role, capacity
from tuner.export import export_study
from tuner.k_by_batch import row_ends
from tuner.objective import KEEPS_UP, Scenario, TrialJob, weighted
from tuner.stored import AtLoad, read_study
from tuner.study import resume_study, start_study

BOTH = SeveralLoads(((Users(4), 1), (Users(16), 3)))
SHORT: dict[str, Any] = {
    "objective": "throughput", "seconds": 3.0, "trials": 8, "confirmation_draws": 5, "decision_draws": 10, "request_cap": 32,
    "drafters": ["eagle3"], "policies": [PolicyKind("fixed"), PolicyKind("k_by_batch")],
}  # fmt: skip


def started(store: Store, **options: Any) -> str:
    plan = StudyPlan(profile=find_profile("h100/qwen3-4b"), **{**SHORT, **options})
    return start_study(store, store.find_run("latest"), plan, QUIET, cluster=None, time_limit_s=None)


@pytest.fixture(scope="module")
def both(store: Store) -> str:
    """A study of two loads with weights, on two replicas, with all that can be counted."""
    return started(
        store,
        loads=[BOTH],
        seconds=20.0,
        slas=[Sla.parse("tps>=100")],
        policies=[PolicyKind("fixed")],
        replicas=2,
        gpu_hour=3.6,
    )


def test_what_no_speculation_does_best_with_is_said_where_it_matters() -> None:
    """Of 256 users at a time another number is served; of 64 all are, whatever the cap."""

    def plain(users: int, cap: int, tokens: float) -> StudyConfirmation:
        common: dict[str, Any] = dict.fromkeys(("error", "gain", "gain_half_width", "violations", "feasible"))
        return StudyConfirmation(
            load=Users(users), place=1, role="default", configuration=Configuration.plain(cap), exact=True, prompts=1,
            draws=1, figures={"throughput": tokens}, half_widths=None, **common,
        )  # fmt: skip

    def found(users: int) -> AtLoad:
        beside = [plain(users, 256, 900.0), plain(users, 224, 950.0)]
        return AtLoad(trials={}, errors=[], decision=None, winner=None, beside=beside, closest=None, sensitivities=[])

    table = replace(configuration("mtp", 1, "k_by_batch:8=1/64=0"), request_cap=256)
    assert found(256).other_cap(table) == " (which does best with 224 at a time)"
    assert found(64).other_cap(table) == ""
    assert found(256).other_cap(replace(table, request_cap=224)) == ""


def test_rows_of_one_role_stand_together() -> None:
    common: dict[str, Any] = dict.fromkeys(("prompts", "draws"), 0)
    common |= dict.fromkeys(("error", "figures", "half_widths", "gain", "gain_half_width", "violations", "feasible"))
    common |= {"load": Users(4), "configuration": configuration("mtp", 1, "fixed:1"), "exact": True}
    roles = ["winner", "next best", "default", "in vLLM", "default", "next best"]
    rows = by_role([StudyConfirmation(place=place, role=role, **common) for place, role in enumerate(roles)])
    assert [row.place for row in rows] == [0, 1, 5, 2, 4, 3]


def test_the_same_run_by_another_name_is_no_next_best() -> None:
    """With 16 users a table that begins to differ beyond is the k before; one under another request cap is not."""
    limits = EngineLimits(request_cap=256)
    scenario = Scenario(load=Users(16), profile=find_profile("h100/qwen3-4b"), weights={}, limits=limits)
    fixed, table = configuration("mtp", 3, "fixed:2"), configuration("mtp", 3, "k_by_batch:16=2/64=1")
    smaller = configuration("mtp", 3, "k_by_batch:16=2/64=1", cap=8)
    assert rivals(scenario, [fixed, table, smaller]) == [fixed, smaller]


def test_figures_over_loads_by_hand() -> None:
    """A quarter and three quarters: means by weight, noise as of independent figures, promises by the worse load."""
    slas = (Sla.parse("tps>=50"), Sla.parse("mean_ttft<=1"), Sla.parse("mean_tps>=50"))
    one = {"throughput": 100.0, "throughput ±": 4.0, "tps>=50": 0.99, "mean_ttft<=1s": 0.2, "mean_tps>=50": 90.0,
           KEEPS_UP: 1.0, "p5_tps": 60.0, "p95_ttft": 0.4, "finished": 10.0}  # fmt: skip
    two = {"throughput": 200.0, "throughput ±": 4.0, "tps>=50": 0.90, "mean_ttft<=1s": 0.7, "mean_tps>=50": 60.0,
           KEEPS_UP: 0.0, "p5_tps": 40.0, "p95_ttft": 0.9, "finished": 30.0}  # fmt: skip
    found = weighted([(one, 0.25), (two, 0.75)], slas)
    assert found == pytest.approx(
        {"throughput": 175.0, "throughput ±": (1 + 9) ** 0.5, "tps>=50": 0.90, "mean_ttft<=1s": 0.7, "mean_tps>=50": 60.0,
         KEEPS_UP: 0.0, "p5_tps": 40.0, "p95_ttft": 0.9, "finished": 40.0}
    )  # fmt: skip
    assert str(slas[1]) in found
    assert weighted([(one, 1.0)], slas) == one


@pytest.mark.parametrize(
    ("loads", "cap", "replicas", "ends"),
    [
        ([Users(8), Users(64)], 256, 1, [8, 64]),
        ([Users(8), Users(64)], 32, 1, [8, 32]),
        ([Users(9), Users(64)], 256, 2, [5, 32]),
        ([SeveralLoads(((Users(8), 1), (Users(64), 1)))], 256, 1, [8, 64]),
        ([Users(6, 2.0)], 256, 1, [1, 2, 4, 6]),
        ([Arrivals(3)], 16, 4, [1, 2, 4, 8, 16]),
    ],
)
def test_rows_of_a_table_end_at_what_is_searched(loads: list[Load], cap: int, replicas: int, ends: list[int]) -> None:
    assert row_ends(loads, cap, replicas) == ends
    assert max(load.most_running(cap, replicas) for load in loads) == ends[-1]


@pytest.mark.slow
def test_a_trial_at_several_loads_is_the_mean_of_trials_at_each(here: Any, plan_of: Any) -> None:
    found = {}
    for load in (BOTH, Users(4), Users(16)):
        _, scenario, _, run = here(plan_of(loads=[load], seconds=3.0))
        [(figures, _)] = run([TrialJob(configuration("mtp", 1, "fixed:1", "none", 32), scenario, 3.0, 0)])
        found[load] = figures
    for name in ("throughput", "tps", "tau"):
        assert found[BOTH][name] == pytest.approx(found[Users(4)][name] / 4 + 3 * found[Users(16)][name] / 4)


def test_two_replicas_are_two_machines(here: Any, plan_of: Any) -> None:
    """Twice the users on twice the machines: as many tokens of each GPU, within the noise of a short simulation."""
    found = []
    for users, replicas in ((8, 1), (16, 2)):
        _, scenario, what, run = here(plan_of(loads=[Users(users)], seconds=20.0, replicas=replicas))
        assert what.space.binding == 8
        [(figures, _)] = run([TrialJob(configuration("mtp", 1, "fixed:1", "none", 32), scenario, 20.0, 0)])
        found.append(figures["throughput"])
    assert found[1] == pytest.approx(found[0], rel=0.02)


def test_one_winner_for_several_loads_is_shown_and_exported(store: Store, both: str) -> None:
    study = read_study(store, both)
    [(load, found)] = study.loads.items()
    assert load == BOTH
    assert found.winner is not None
    assert found.decision is not None
    assert found.decision.holds is not None
    assert found.decision.holds.value > 1
    assert found.decision.value is not None
    dollars = 1e6 * 3.6 / 3600 / found.decision.value.value
    assert f"${dollars:.3g} per million" in "\n".join(capacity(load, study))
    assert found.winner.configuration.recording.drafter == "eagle3"
    command = export_study(store, both, "vllm", None)
    assert "--data-parallel-size 2" in command
    assert "2 replicas" in command


def test_an_export_needs_no_load_where_one_winner_serves_all(store: Store) -> None:
    """With one configuration to choose from it is the winner everywhere."""
    name = started(store, loads=[Users(4), Users(8)], drafters=["none"], request_cap=1, trials=1)
    assert "4 users and for 8 users" in export_study(store, name, "vllm", None)
    assert "for 4 users on" in export_study(store, name, "vllm", 4)
    with pytest.raises(InputError, match="choose one with --concurrency"):
        export_study(store, name, "vllm", 5)


@pytest.mark.slow
def test_users_of_a_service_in_gpus(store: Store) -> None:
    """As many as the winner holds on a machine, and machines for all of them."""
    name = started(
        store, loads=[Users(4)], seconds=20.0, policies=[PolicyKind("fixed")], slas=[Sla.parse("tps>=100")], users=1000
    )
    study = read_study(store, name)
    [(load, found)] = study.loads.items()
    assert found.decision is not None
    holds = found.decision.holds
    assert holds is not None
    assert holds.low <= holds.value <= holds.high
    gpus = -(-1000 // round(4 * holds.value))
    assert any(line.startswith(f"1,000 users need {gpus} GPUs") for line in capacity(load, study))


@pytest.mark.slow
def test_a_study_resumes_the_same_arrivals_or_none(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "arrivals.csv"
    file.write_text(before := "arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i / 4},50,40\n" for i in range(40)))
    name = started(store, loads=[RecordedArrivals.of(file)], objective="tps", policies=[PolicyKind("fixed")], trials=4)
    done = Studies(store).find(name)
    for change in (lambda: file.write_text(before + "11,50,40\n"), file.unlink):
        change()
        with pytest.raises((InputError, OSError), match=r"has changed|No such file"):
            resume_study(store, name, 8, QUIET, cluster=None, time_limit_s=None)
        assert Studies(store).find(name) == done
    assert read_study(store, name).loads
    file.write_text(before)
    assert resume_study(store, name, None, QUIET, cluster=None, time_limit_s=None) == name
