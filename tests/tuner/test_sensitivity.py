"""What decides, on trials whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from results.store.studies import State
from simulator.configuration import Configuration
from simulator.hardware.catalogue import find_profile
from simulator.load import Arrivals, Load, RecordedArrivals, SeveralLoads, Users
from simulator.simulation import EngineLimits
from tests.tuner.configurations import configuration, plain
from tuner.objective import Scenario
from tuner.samplers import study_of
from tuner.sensitivity import decisive, elsewhere
from tuner.space import Leaf
from tuner.trial import Trial, TrialRung, ordered, ranked


def trials(*tried: tuple[Configuration, float, State, float]) -> list[Trial]:
    """Configurations, what each came to, how far it was simulated and by how much it breaks the bound."""
    return [
        Trial(
            number=number, batch=0, origin="start", leaf=Leaf(c, {}, {}), attributes={}, state=state,
            rungs=() if state == "failed" else (TrialRung(1.0, (value,), (0.0,), {"tps>=1": broken}),),
        )
        for number, (c, value, state, broken) in enumerate(tried)
    ]  # fmt: skip


def test_a_clients_own_number_of_requests_stays_where_users_are_off() -> None:
    load = Users(64, 1.0, requests_in_all=880, staggered=True)
    ends = [s.load for kind, _, s in elsewhere(scenario(load)) if kind == "load"]
    assert ends == [replace(load, users=77), replace(load, users=51)]


def test_a_trial_in_which_nobody_finished_is_no_result() -> None:
    """Its speed of a user is no number: it is a failure to Optuna, and neither the best nor the worst of the rest."""
    found = trials((plain(64), math.nan, "cut", -1), (configuration("dspark", 7, "fixed:7"), 5.0, "complete", -1))
    assert [t.state.name for t in study_of(found, "tps").trials] == ["FAIL", "COMPLETE"]
    assert [t.number for t in ordered(found)] == [t.number for t in ranked(found)] == [1]


WINNER = configuration("dspark", 7, "lagged_scheduler:2", "calibrated")


def losses(found: list[Trial], winner: Configuration = WINNER) -> dict[str, tuple[object, float | None]]:
    """By knob, in their order: its value in the best of the others, and what is lost."""
    return {
        one.what: (one.value, None if one.loss is None else round(one.loss, 9)) for one in decisive(found, winner, Users(64))
    }


def test_a_knob_decides_what_is_lost_when_the_rest_is_tuned_anew() -> None:
    """The drafter decides by far, though it is the request cap that most trials differ in, and most of all by a bad one."""
    found = trials(
        (WINNER, 1000, "complete", -1),
        (configuration("dspark", 7, "lagged_scheduler:1", "calibrated"), 990, "complete", -1),
        (configuration("dspark", 7, "lagged_scheduler:3", "calibrated"), 600, "complete", -1),
        (configuration("dspark", 7, "prefix_scheduler", "raw"), 950, "complete", -1),
        (configuration("dspark", 5, "fixed:5"), 800, "complete", -1),
        (configuration("dflash", 7, "fixed:4"), 700, "complete", -1),
        (configuration("mtp", 1, "fixed:1"), 650, "complete", -1),
        (plain(64), 400, "complete", -1),
        *((configuration("dspark", 7, "lagged_scheduler:2", "calibrated", cap), 10.0 * cap, "complete", -1)
          for cap in (1, 2, 4, 8, 16, 32)),
        (configuration("dspark", 7, "lagged_scheduler:2", "calibrated", 128), 1000, "complete", -1),
    )  # fmt: skip
    expected = {
        "drafter": ("dflash", 0.3), "γ": (5, 0.2), "policy": ("prefix_scheduler", 0.05), "confidences": ("raw", 0.05),
        "parameter of the policy": ("lagged_scheduler:1", 0.01), "request cap": (128, 0.0),
    }  # fmt: skip
    assert losses(found) == expected
    assert list(losses(found)) == list(expected)


def test_only_what_keeps_the_bounds_is_an_alternative() -> None:
    """With another drafter nothing keeps the bound: that decides most. A failed trial has come to nothing."""
    found = trials(
        (configuration("dflash", 7, "fixed:7"), 2000, "complete", 0.1),
        (WINNER, 1000, "complete", -1),
        (configuration("dspark", 7, "fixed:7"), 1500, "complete", 0.2),
        (configuration("dspark", 7, "fixed:5"), 900, "complete", -1),
        (configuration("dspark", 5, "fixed:5"), 0, "failed", 0),
    )
    assert losses(found) == {"drafter": (None, None), "policy": ("fixed", 0.1)}
    assert [one.keeps for one in decisive(found, WINNER, Users(64))] == [False, True]


def test_what_was_cut_short_is_said_to_be() -> None:
    found = trials((WINNER, 1000, "complete", -1), (configuration("mtp", 1, "fixed:1"), 500, "cut", -1))
    states = {one.what: one.state for one in decisive(found, WINNER, Users(64))}
    assert states == {"drafter": "cut", "policy": "cut"}


def test_of_plain_decoding_there_is_only_whether_and_how_many() -> None:
    found = trials((plain(64), 1000, "complete", -1), (configuration("mtp", 1, "fixed:1", cap=32), 900, "complete", -1))
    assert losses(found, plain(64)) == {"drafter": ("mtp", 0.1), "request cap": (32, 0.1)}


@pytest.mark.parametrize(
    ("load", "moved"),
    [
        (Users(10), {"users:12/0", "users:8/0"}),
        (Users(1), {"users:2/0"}),
        (Arrivals(5.0), {"rate:6/1", "rate:4/1"}),
        (SeveralLoads(((Users(10), 1), (Users(20), 1))), None),
    ],
)
def test_every_kind_of_load_is_moved_both_ways(load: Load, moved: set[str] | None) -> None:
    found = [s.load for kind, _, s in elsewhere(scenario(load)) if kind == "load"]
    expected = {str(load.times(1.2)), str(load.times(0.8))} if moved is None else moved
    assert {str(one) for one in found} == expected


def test_what_was_recorded_comes_faster_and_slower(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,5\n10,5,5\n")
    ends = [s.load for kind, _, s in elsewhere(scenario(RecordedArrivals.of(file))) if kind == "load"]
    assert [one.requests.arrival_s[-1] for one in ends] == pytest.approx([10 / 1.2, 10 / 0.8])  # type: ignore[attr-defined]


def scenario(load: Load) -> Scenario:
    return Scenario(load=load, profile=find_profile("h100/qwen3-4b"), weights={"all": 1.0}, limits=EngineLimits())
