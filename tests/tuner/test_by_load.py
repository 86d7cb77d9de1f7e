"""One table of k by batch size from several loads, on trials whose answer is known."""

from __future__ import annotations

import dataclasses

import pytest

from simulator.hardware.catalogue import find_profile
from simulator.load import Users
from simulator.setup import EngineLimits
from simulator.sla import Sla
from tests.tuner.configurations import configuration, plain
from tests.tuner.test_sensitivity import trials
from tuner.by_load import by_load
from tuner.confirmation import Confirmation, Confirmed
from tuner.objective import KEEPS_UP, Scenario
from tuner.trial import closest


def tried(none: float, *, eagle3: dict[int, float], dspark: dict[int, float], broken: float = -1.0) -> list:  # type: ignore[type-arg]
    return trials(
        (plain(64), none, "complete", broken),
        *((configuration("eagle3", 7, f"fixed:{k}"), value, "cut", -1.0) for k, value in eagle3.items()),
        *((configuration("dspark", 7, f"fixed:{k}"), value, "complete", -1.0) for k, value in dspark.items()),
        (configuration("eagle3", 7, "k_by_batch:8=5/64=1"), 9999.0, "complete", -1.0),  # not one k
    )


BOTH = {"eagle3": False, "dspark": True}


def test_the_best_k_of_one_drafter_at_every_load() -> None:
    """By hand: eagle3 gains 1.0 and .2, dspark .9 and nothing; dspark's fixed:3 would be another block."""
    found = by_load(
        {
            64: tried(1000, eagle3={5: 900, 1: 1200}, dspark={7: 800, 3: 5000}),
            8: tried(100, eagle3={5: 200, 1: 150}, dspark={7: 190}),
        },
        BOTH,
    )
    assert found is not None
    assert (found.recording.drafter, found.recording.gamma, str(found.policy)) == ("eagle3", 7, "k_by_batch:8=5/64=1")
    assert [(row.users, row.k, pytest.approx(row.gain)) for row in found.rows] == [(8, 5, 1.0), (64, 1, 0.2)]
    assert all(str(row.users) in line for row, line in zip(found.rows, found.bars({}), strict=True))


def test_a_block_is_drafted_whole_or_not_at_all() -> None:
    found = by_load(
        {64: tried(1000, eagle3={}, dspark={7: 800}), 8: tried(100, eagle3={}, dspark={7: 190})}, {"dspark": True}
    )
    assert found is not None
    assert str(found.policy) == "k_by_batch:8=7/64=0"
    assert found.rows[-1].gain == 0


def test_a_load_at_which_nothing_keeps_the_promise_leaves_no_table() -> None:
    assert by_load({8: tried(100, eagle3={}, dspark={}, broken=1.0)}, BOTH) is None
    assert by_load({8: tried(100, eagle3={5: 150}, dspark={})}, {}) is None


def test_only_trials_that_let_all_users_run_count() -> None:
    """By hand, two replicas: 64 users are 32 requests on each, so a trial of at most 16 says nothing there."""
    capped = trials(
        (plain(64), 1000, "complete", -1.0),
        (plain(16), 9999, "complete", -1.0),
        (dataclasses.replace(configuration("eagle3", 7, "fixed:7"), request_cap=16), 5000, "complete", -1.0),
        (configuration("eagle3", 7, "fixed:1"), 1100, "complete", -1.0),
    )
    found = by_load({64: capped, 8: tried(100, eagle3={5: 200}, dspark={})}, BOTH, replicas=2)
    assert found is not None
    assert [(row.users, row.running, row.k, pytest.approx(row.gain)) for row in found.rows] == [
        (8, 4, 5, 1.0),
        (64, 32, 1, 0.1),
    ]
    assert str(found.policy) == "k_by_batch:4=5/32=1"  # a server counts its own requests


def test_loads_that_put_as_many_on_a_replica_are_one_row() -> None:
    """Users 1 and 2 are one request on each of two replicas: the table has the k of 2, and every load its own gain."""
    some = {users: tried(100, eagle3={k: 200}, dspark={}) for users, k in ((1, 5), (2, 3), (8, 1))}
    found = by_load(some, BOTH, replicas=2)
    assert found is not None
    assert str(found.policy) == "k_by_batch:1=3/4=1"
    assert [row.users for row in found.rows] == [1, 2, 8]


def test_a_load_at_which_nothing_keeps_the_promise_takes_no_other_row_away() -> None:
    """And a drafter that lacks a row where another has one is no table, whatever it gains elsewhere."""
    kept = {8: tried(100, eagle3={5: 200}, dspark={}), 64: tried(100, eagle3={1: 110}, dspark={})}
    found = by_load({**kept, 256: tried(100, eagle3={}, dspark={}, broken=1.0)}, BOTH)
    assert found is not None
    assert str(found.policy) == "k_by_batch:8=5/64=1"
    some = {**kept, 64: tried(100, eagle3={1: 110}, dspark={}, broken=1.0), 8: tried(100, eagle3={5: 200}, dspark={7: 900})}
    found = by_load(some, BOTH)
    assert found is not None
    assert (found.recording.drafter, len(found.rows)) == ("eagle3", 2)


def test_a_table_that_never_drafts_is_none() -> None:
    assert by_load({8: tried(100, eagle3={5: 90}, dspark={7: 80})}, BOTH) is None


def test_confirmed_gains_stand_in_for_the_search_s_own() -> None:
    found = by_load({8: tried(100, eagle3={5: 200}, dspark={}), 64: tried(100, eagle3={1: 110}, dspark={})}, BOTH)
    assert found is not None
    first, second = found.bars({8: (0.5, 0.02)})
    assert "+50.0% ±  2.0%" in first
    assert "+10.0%" in second
    assert "±" not in second


def test_the_closest_is_one_of_those_that_were_simulated_longest() -> None:
    """A short simulation breaks less: requests have not come to wait for long."""
    long, short = trials((plain(64), 100, "complete", 0.4), (configuration("dspark", 7, "fixed:7"), 200, "cut", 0.1))
    cut = dataclasses.replace(short, rungs=(dataclasses.replace(short.last, seconds=long.last.seconds / 10),))
    assert closest([long, short]) is short
    assert closest([long, cut]) is long
    assert closest([cut]) is cut


def test_the_gain_is_over_the_no_speculation_that_gives_most_within_the_promise() -> None:
    """Others of it were confirmed beside the winner: with a smaller request cap, or where it breaks a bound."""
    scenario = Scenario(
        load=Users(8), profile=find_profile("h100/qwen3-4b"), weights={"math": 1.0}, slas=(Sla.parse("mean_tps>=50"),),
        limits=EngineLimits(),
    )  # fmt: skip
    what = Confirmation(scenario=scenario, objective="throughput", seconds=60.0, seed=0, draws=5)

    def confirmed(cap: int, throughput: float, tps: float) -> Confirmed:
        figures = {"throughput": throughput, "tps": tps, "mean_tps>=50": tps, KEEPS_UP: 1.0}
        return Confirmed("default", plain(cap), (figures,) * 5)

    small, best, broken = confirmed(4, 100, 80), confirmed(8, 150, 60), confirmed(16, 300, 20)
    assert what.best([small, broken, best]) is best
    assert what.best([broken]) is broken
    assert what.best([Confirmed("default", plain(8), error="no")]) is None
