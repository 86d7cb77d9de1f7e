"""What changed between two runs: exact where nothing did, sure where something did, and seldom wrong."""

from __future__ import annotations

import duckdb
import pytest

from results.change import Change, Measured, Noise, judged
from results.comparison import OVERALL, Comparison, compare, with_prompts
from tests.results.database import ACCEPTANCE, LOADS, RUN, add_sweep, recorded

TWO = {"dspark": 7, "mtp": 1, "none": 0}


def both(**second: object) -> duckdb.DuckDBPyConnection:
    con = recorded(TWO, prompts=8)
    return recorded(TWO, con=con, run="beef", prompts=8, **second)  # type: ignore[arg-type]


def of(found: Comparison, drafter: str, where: str) -> Change:
    [change] = [c for c in found.changes if (c.drafter, c.where, c.quantity) == (drafter, where, "accepted length")]
    return change


def test_the_same_run_twice_is_the_same() -> None:
    found = compare(both(), RUN, "beef")
    assert {c.verdict for c in found.changes} == {"same"}
    assert {c.quantity for c in found.changes} == {"accepted length", "speed against none"}
    assert found.differences == ()
    assert found.regressions(0.0) == []


def test_a_drafter_that_got_worse_is_found_and_the_other_is_left_alone() -> None:
    found = compare(both(acceptance=ACCEPTANCE | {"dspark": 0.6}), RUN, "beef")
    for task in ("gsm8k", "aime25", "math mean", "overall"):
        change = of(found, "dspark", task)
        assert change.verdict == "worse"
        # τ of α = .8 and .6 at γ = 7: 4.16 and 2.46, 41 % less.
        assert change.change == pytest.approx(-0.41, abs=0.1)
        assert change.low is not None
        assert change.high is not None
        assert change.low < change.change < change.high < 0
        assert change.paired
        assert change.regressed(0.02)
        assert not change.regressed(0.6)
    assert not any(c.regressed(0) for c in found.changes if c.drafter == "mtp" and c.quantity == "accepted length")


def test_nothing_is_cried_over_chance() -> None:
    """20 pairs of runs that differ in their seed alone: one in 20 may have a verdict, and one interval in 20 misses 0.

    4 pairs with a verdict are beyond 99 %; of 320 intervals 16 should miss, and pairs share their runs.
    """
    wrong = missed = every = 0
    for seed in range(20):
        con = recorded(TWO, prompts=6, seed=2 * seed, speed=False)
        recorded(TWO, con=con, run="beef", prompts=6, seed=2 * seed + 1, speed=False)
        changes = compare(con, RUN, "beef").changes
        wrong += any(c.verdict in ("better", "worse") for c in changes)
        bounded = [(c.low, c.high) for c in changes if c.low is not None and c.high is not None]
        missed += sum(not low <= 0 <= high for low, high in bounded)
        every += len(bounded)
    assert wrong <= 3
    assert 0.01 < missed / every < 0.11


def test_what_is_gone_is_a_regression_and_what_is_new_is_not() -> None:
    con = recorded(TWO)
    recorded(TWO, con=con, run="beef", keep=lambda drafter, task: (drafter, task) != ("dspark", "gsm8k"))
    found = compare(con, RUN, "beef")
    assert of(found, "dspark", "gsm8k").verdict == "only in the first"
    assert [c.where for c in found.regressions(0.5)] == ["gsm8k"]
    assert compare(con, "beef", RUN).regressions(0.5) == []


def test_one_prompt_tells_nothing() -> None:
    con = recorded(TWO, prompts=1, speed=False)
    recorded(TWO, con=con, run="beef", prompts=1, seed=9, speed=False, acceptance=ACCEPTANCE | {"dspark": 0.1})
    found = compare(con, RUN, "beef")
    change = of(found, "dspark", "gsm8k")
    assert (change.verdict, change.low) == ("no clear change", None)


def test_settings_that_differ_are_named() -> None:
    con = both(source="hub")
    con.execute("UPDATE runs SET seed = 7, packages = '{\"torch\": \"3.0\"}' WHERE run_id = 'beef'").fetchall()
    found = compare(con, RUN, "beef")
    assert found.differences == ("prompt source: bundled → hub", "seed: 0 → 7", "version of torch: 2.9 → 3.0")


def test_simulations_are_compared_at_equal_policy_and_load() -> None:
    con = both()
    add_sweep(con)
    con.execute("INSERT INTO sweeps SELECT * REPLACE ('beef5' AS sweep_id, 'beef' AS run_id) FROM sweeps").fetchall()
    con.execute(
        "INSERT INTO simulations SELECT * REPLACE ('beef5' AS sweep_id, 'beef' AS run_id, 0.5 * throughput AS throughput)"
        " FROM simulations WHERE drafter = 'mtp'"
    ).fetchall()
    changes = [c for c in compare(con, RUN, "beef").changes if c.quantity == "throughput"]
    assert {c.drafter for c in changes} == {"mtp"}
    assert {c.where for c in changes} == {f"fixed:1 at {users} user{'s' * (users > 1)}" for users in LOADS}
    assert {c.verdict for c in changes} == {"worse"}
    assert changes[0].change == pytest.approx(-0.5)
    con.execute(
        "UPDATE sweeps SET plan = json_merge_patch(plan, '{\"output_tokens\": 4096}') WHERE sweep_id = 'beef5'"
    ).fetchall()
    other = compare(con, RUN, "beef")
    assert not [c for c in other.changes if c.quantity == "throughput"]
    assert any("output tokens" in told for told in other.differences)


def test_a_throughput_is_no_surer_than_its_prompts() -> None:
    """A longer simulation of few prompts says 3 % less to 0.3 %; the prompts leave 6 % open."""
    simulated = Measured("throughput", "mtp", 1, "fixed:1 at 8 users", 1000.0, 970.0, Noise((1e-6,), (39,)), paired=False)
    length = Measured("accepted length", "mtp", 1, OVERALL, 2.0, 1.96, Noise((9e-4,), (12,)), paired=True)
    assert [c.verdict for c in judged([simulated])] == ["worse"]
    [row] = with_prompts([simulated], [length])
    assert row.noise is not None
    assert row.noise.error == pytest.approx((1e-6 + 9e-4) ** 0.5)
    assert [c.verdict for c in judged([row])] == ["no clear change"]
    assert [row.noise for row in with_prompts([simulated], [])] == [None]
