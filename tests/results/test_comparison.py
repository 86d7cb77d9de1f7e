"""What changed between two runs: exact where nothing did, sure where something did, and seldom wrong."""

from __future__ import annotations

import duckdb
import pytest

from harness.cli.changes import sentences
from results.change import Change, Measured, Noise, judged
from results.comparison import OVERALL, Comparison, compare, compare_drafters, with_prompts
from results.gate import judge
from tests.results.database import ACCEPTANCE, LOADS, RUN, add_sweep, point, recorded

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


@pytest.mark.slow
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
    found = [c for c in compare(con, RUN, "beef").changes if c.quantity == "throughput"]
    assert {c.verdict for c in found if c.drafter == "dspark"} == {"only in the first"}
    changes = [c for c in found if c.drafter == "mtp"]
    assert {c.where for c in changes} == {f"fixed:1 at {users} user{'s' * (users > 1)}" for users in LOADS}
    assert {c.verdict for c in changes} == {"worse"}
    assert changes[0].change == pytest.approx(-0.5)
    con.execute(
        "UPDATE sweeps SET plan = json_merge_patch(plan, '{\"output_tokens\": 4096}') WHERE sweep_id = 'beef5'"
    ).fetchall()
    other = compare(con, RUN, "beef")
    assert not [c for c in other.changes if c.quantity == "throughput"]
    assert any("output tokens" in told for told in other.differences)


def test_a_sweep_or_a_point_of_it_that_is_gone_is_a_regression() -> None:
    con = both()
    add_sweep(con)
    found = compare(con, RUN, "beef")
    gone = [c for c in found.regressions(0.5) if c.quantity == "throughput"]
    assert len(gone) == 4 * len(LOADS)  # fixed:1; fixed:7, prefix_scheduler and oracle
    assert {c.verdict for c in gone} == {"only in the first"}
    assert compare(con, "beef", RUN).regressions(0.5) == []
    con.execute("INSERT INTO sweeps SELECT * REPLACE ('beef5' AS sweep_id, 'beef' AS run_id) FROM sweeps").fetchall()
    con.execute(
        "INSERT INTO simulations SELECT * REPLACE ('beef5' AS sweep_id, 'beef' AS run_id) FROM simulations"
        " WHERE NOT (policy = 'fixed:7' AND users = 64)"
    ).fetchall()
    [one] = compare(con, RUN, "beef").regressions(0.5)
    assert (one.drafter, one.where, one.verdict) == ("dspark", "fixed:7 at 64 users", "only in the first")


def test_of_two_drafters_a_policy_of_one_alone_is_not_gone_and_a_point_that_failed_is() -> None:
    con = recorded({"old": 7, "new": 7, "none": 0}, kinds={"old": "eagle3", "new": "eagle3"})
    add_sweep(con, [
        point(0, "old", "fixed:7", 8, 900), point(1, "old", "fixed:7", 64, 2000), point(2, "old", "threshold:0.5", 8, 950),
        point(3, "new", "fixed:7", 8, 900), point(4, "new", "fixed:7", 64, None),
    ])  # fmt: skip
    found = [c for c in compare_drafters(con, RUN, "old", "new").changes if c.quantity == "throughput"]
    assert [(c.where, c.verdict) for c in found] == [
        ("fixed:7 at 8 users", "same"), ("fixed:7 at 64 users", "only in the first"),
    ]  # fmt: skip


def test_speed_that_is_gone_is_a_regression() -> None:
    """Of one drafter or of all, or of none, without whose samples there is nothing to compare with."""
    con = both()
    con.execute("DELETE FROM speed_samples WHERE run_id = 'beef' AND drafter = 'mtp'").fetchall()
    assert [(c.drafter, c.quantity) for c in compare(con, RUN, "beef").regressions(0.5)] == [("mtp", "speed against none")]
    con.execute("DELETE FROM speed_samples WHERE run_id = 'beef' AND drafter = 'none'").fetchall()
    assert {c.drafter for c in compare(con, RUN, "beef").regressions(0.5)} == {"dspark", "mtp"}
    con.execute("DELETE FROM speed_samples WHERE run_id = 'beef'").fetchall()
    gone = compare(con, RUN, "beef").regressions(0.5)
    assert {(c.drafter, c.quantity, c.verdict) for c in gone} == {
        (name, "speed against none", "only in the first") for name in ("dspark", "mtp")
    }
    assert compare(con, "beef", RUN).regressions(0.5) == []


def test_a_turn_that_is_gone_is_a_regression() -> None:
    con = both()
    for table in ("responses", "rounds"):
        con.execute(
            f"INSERT INTO {table} SELECT * REPLACE (1 AS turn) FROM {table}"
            " WHERE starts_with(prompt_id, 'gsm8k/')"
            " AND NOT (run_id = 'beef' AND drafter = 'dspark' AND prompt_id <> 'gsm8k/0')"
        ).fetchall()
    found = compare(con, RUN, "beef")
    [gone] = found.regressions(0.9)
    assert (gone.drafter, gone.where, gone.verdict, gone.gone, gone.turns_gone) == ("dspark", "gsm8k", "turns gone", 0, 7)
    assert judge(found, 0.9).outcome == "worse"
    assert sentences(judge(found, 0.9))[0] == "worse: dspark γ=7 gsm8k accepted length: 7 turns gone"
    assert compare(con, "beef", RUN).regressions(0.9) == []
    con.execute("DELETE FROM responses WHERE run_id = 'beef' AND drafter = 'dspark' AND prompt_id = 'gsm8k/1'").fetchall()
    assert of(compare(con, RUN, "beef"), "dspark", "gsm8k").verdict == "prompts gone"


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
