"""Replays of a stored recording, by hand: what is averaged, what is summed, and what is printed of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from harness.cli.replay import print_replays
from harness.sweeps.replay import replay_run
from results.store.database import Store
from results.store.rows import TARGET, anchor_table, recordings, response_tables
from simulator.errors import InputError
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import Anchors, Recording, Response, Round
from tests.results.test_store import INFO, both_ways

ACCEPTED = {"sums": [2, 2, 0, 0, 0, 0], "proofs": [0]}
"""Of two drafted, at each anchor of the one response to a task."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "specyard.duckdb")
    run_id = store.create_run(dataclasses.replace(INFO, drafters={"none": {}, "ngram": {}, "mtp": {}}))
    for task, accepted in ACCEPTED.items():
        count, prompt = len(accepted), f"{task}/0"
        plain = tuple(Round(0, 0, 0, 1, (), 1) for _ in accepted)
        response = Response(task, "math", prompt, 0, 5, tuple(range(count + 1)), "", "length", plain)
        anchors = Anchors(np.full(count, 2, np.uint8), np.array(accepted, np.uint8), np.zeros((count, 2), np.float32))
        store.add(run_id, response_tables(Recording("none", 0), [response]))
        store.add(run_id, {"recordings": recordings(Recording("ngram", 2), [(prompt, 0, count)])})
        store.add(run_id, {"anchors": anchor_table(Recording("ngram", 2), prompt, 0, anchors)})
    return store


def test_means_are_of_tasks_and_shares_are_of_tokens(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    policies = [PolicySpec.fixed(2), PolicySpec("oracle"), NO_DRAFTER]
    rows = replay_run(store, store.find_run("latest"), policies, None, calibrated=False, say=print)
    fixed, oracle, none = rows
    # sums: 3 + 1 + 1 + 1 tokens in 4 rounds; proofs: 1 in 1.
    assert (fixed.tau, fixed.budget) == ((6 / 4 + 1) / 2, 3)
    assert (fixed.rounds, fixed.verified, fixed.accepted) == (5, 10, 2)
    # Budgets of the tasks are 6 / 4 and 1: their mean says nothing of how many tokens were verified.
    assert (oracle.budget, oracle.verified, oracle.accepted) == (1.25, 2, 2)
    assert (none.verified, none.accepted) == (0, 0)
    other = dataclasses.replace(oracle, domain="chat", rounds=100, budget=1.01, verified=2, accepted=0)
    print_replays([fixed, oracle, none, other], as_json=False)
    shares = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert shares == ["20.0%", "50.0%", "–"]


def test_greedy_drafts_stand_beside_sampled_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "specyard.duckdb")
    run_id = both_ways(store)
    sampled, greedy, lookup = replay_run(store, run_id, [PolicySpec.fixed(2)], None, calibrated=False, say=print)
    assert [r.drafting for r in (sampled, greedy, lookup)] == ["sampled", "greedy", "either"]
    # Three tokens after the first: at once, or two and one, or one by one.
    assert (sampled.tau, greedy.tau, lookup.tau) == (3, 1.5, 1)
    assert greedy.change is not None
    assert (greedy.change.change, sampled.change, lookup.change) == (-0.5, None, None)
    print_replays([sampled, greedy, lookup], as_json=False)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "dspark γ=2 fixed:2 · greedy drafts 1.50, -50.0%" in lines
    [only] = replay_run(store, run_id, [PolicySpec.fixed(2)], ["dspark"], drafting="greedy", calibrated=False, say=print)
    assert only == dataclasses.replace(greedy, change=None)


def test_the_change_is_of_the_same_prompts_drawn_for_both(tmp_path: Path) -> None:
    """Prompts differ much, drafts hardly: the interval of the change is far narrower than those of τ."""
    store = Store(tmp_path / "specyard.duckdb")
    run_id = store.create_run(dataclasses.replace(INFO, drafters={"none": {}, "dspark": {}}))
    for i in range(12):
        plain = tuple(Round(0, 0, 0, 1, (), 1) for _ in range(24))
        response = Response("sums", "math", f"sums/{i}", 0, 5, tuple(range(25)), "", "length", plain)
        store.add(run_id, response_tables(TARGET, [response]))
        for key, accepted in ((Recording("dspark", 3), i % 2 * 3), (Recording("dspark", 3, drafting="greedy"), i % 2 * 2)):
            count = np.full(24, accepted, np.uint8)
            anchors = Anchors(np.full(24, 3, np.uint8), count, np.zeros((24, 3), np.float32))
            rows = anchor_table(key, f"sums/{i}", 0, anchors)
            noted = recordings(key, [(f"sums/{i}", 0, 24)])
            store.add(run_id, {"recordings": noted, "anchors": rows})
    sampled, greedy = replay_run(store, run_id, None, None, calibrated=False, say=print)
    # Half the prompts take 24 rounds; the others 6, or 8.
    assert (sampled.tau, greedy.tau) == (24 * 12 / (6 * 30), 24 * 12 / (6 * 32))
    change = greedy.change
    assert change is not None
    assert None not in (sampled.low, sampled.high, change.low, change.high)
    assert sampled.low < sampled.tau < sampled.high  # type: ignore[operator]
    assert change.change == pytest.approx(30 / 32 - 1)
    assert change.low <= change.change <= change.high  # type: ignore[operator]
    assert change.high - change.low < (sampled.high - sampled.low) / sampled.tau / 2  # type: ignore[operator]


def test_a_drafter_or_a_block_that_was_not_recorded_is_no_silent_gap(store: Store) -> None:
    """A name that is mistyped would drop one of two that are compared; fixed:9 of a block of two would be fixed:2."""
    run_id, said = store.find_run("latest"), list[str]()
    with pytest.raises(InputError, match="no dense recording of nosuch; there are: ngram"):
        replay_run(store, run_id, None, ["ngram", "nosuch"], calibrated=False, say=said.append)
    rows = replay_run(store, run_id, [PolicySpec.fixed(9), PolicySpec.fixed(1)], None, calibrated=False, say=said.append)
    assert {row.policy for row in rows} == {"fixed:1"}
    assert [text.partition(": ")[2] for text in said] == ["left out, verifies more than was drafted"]
    with pytest.raises(InputError, match=r"nothing to replay with these options: .*verifies more than was drafted"):
        replay_run(store, run_id, [PolicySpec.fixed(9)], None, calibrated=False, say=said.append)
    other = Recording("mtp", 9)
    store.add(run_id, {"recordings": recordings(other, [("sums/0", 0, 1)])})
    anchors = Anchors(np.full(1, 9, np.uint8), np.zeros(1, np.uint8), np.zeros((1, 9), np.float32))
    store.add(run_id, {"anchors": anchor_table(other, "sums/0", 0, anchors)})
    with pytest.raises(InputError, match=r"nothing to replay of ngram .*fixed:9: left out, verifies more"):
        replay_run(store, run_id, [PolicySpec.fixed(9)], ["mtp", "ngram"], calibrated=False, say=said.append)


def test_what_reads_no_confidences_is_replayed_without_a_calibration(store: Store) -> None:
    said = list[str]()
    policies = [PolicySpec.fixed(2), PolicySpec("threshold", "0.5")]
    rows = replay_run(store, store.find_run("latest"), policies, None, calibrated=True, say=said.append)
    assert [row.policy for row in rows] == ["fixed:2"]
    assert len(said) == 2
    assert "left out, the run has no calibration of its confidences" in said[0]
    assert "no calibration: every prompt is walked" in said[1]
