"""Simulations as the store gives them: values, from rows of any version."""

from __future__ import annotations

import pytest

from results.store.simulations import read_simulations
from simulator.configuration import System
from simulator.errors import InputError
from simulator.load import Arrivals, Users
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import Recording
from tests.results.database import add_run, add_sweep, empty, point


def test_a_row_is_read_as_values() -> None:
    con = empty()
    add_run(con, kinds={"dspark": "dflash"})
    add_sweep(con, [
        point(0, "dspark", "fixed:07", 8, 900, drafting="greedy", slas={"tps>=080": True, "mean_tps>=50": False}),
        point(1, "none", "none", 8, None) | {"users": None, "rate_per_s": 2.5, "load": '"rate:2.5/1"'},
    ])  # fmt: skip
    drafted, failed = read_simulations(con, "5eed")
    assert drafted.system == System(Recording("dspark", 7, "none", "greedy"), PolicySpec.fixed(7))
    assert drafted.system.recording.kind == "dflash"
    assert (drafted.load, drafted.load_kind, drafted.load.size) == (Users(8), "users", 8)
    assert (drafted.slas, drafted.kept, drafted.keeps_up) == ({"tps>=80": True, "mean_tps>=50": False}, False, None)
    assert drafted.told("throughput", ",.0f") == "900 ± 9"
    assert (failed.load, failed.load_kind, failed.load.size) == (Arrivals(2.5), "rate", 2.5)
    assert (failed.system.policy, failed.error, failed.kept) == (NO_DRAFTER, "no room", None)
    assert failed.told("throughput", ",.0f") == "–"


def test_a_policy_unknown_here_is_named() -> None:
    con = empty()
    add_run(con)
    add_sweep(con, [point(0, "dspark", "clairvoyant:3", 8, 900)])
    with pytest.raises(InputError, match="policy clairvoyant:3: no such policy"):
        read_simulations(con, "5eed")
