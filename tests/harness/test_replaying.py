"""Replays of a stored recording, by hand: what is averaged, what is summed, and what is printed of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from harness.display import print_replays
from harness.replaying import replay_run
from results.store import Store
from results.tables import anchor_table, recordings, response_tables
from simulator.records import Anchors, Response, Round

from ..results.test_store import INFO

ACCEPTED = {"sums": [2, 2, 0, 0, 0, 0], "proofs": [0]}
"""Of two drafted, at each anchor of the one response to a task."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "specyard.duckdb")
    run_id = store.create_run(dataclasses.replace(INFO, drafters={"none": {}, "ngram": {}}))
    for task, accepted in ACCEPTED.items():
        count, prompt = len(accepted), f"{task}/0"
        plain = tuple(Round(0, 0, 0, 1, (), 1) for _ in accepted)
        response = Response(task, "math", prompt, 0, 5, tuple(range(count + 1)), "", "length", plain)
        anchors = Anchors(np.full(count, 2, np.uint8), np.array(accepted, np.uint8), np.zeros((count, 2), np.float32))
        store.add(run_id, response_tables("none", 0, [response]))
        store.add(run_id, {"recordings": recordings("ngram", 2, [(prompt, 0, count)])})
        store.add(run_id, {"anchors": anchor_table("ngram", prompt, 0, anchors)})
    return store


def test_means_are_of_tasks_and_shares_are_of_tokens(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    policies = ["fixed:2", "oracle", "none"]
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
