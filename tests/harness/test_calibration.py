"""What a recording's confidences are fitted to, on synthetic anchors in a real store."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from harness.cli.replay import print_replays
from harness.recording.calibrate import calibrate
from harness.sweeps.replay import replay_run
from results.store.database import Store
from results.store.rows import anchor_table, recordings, response_tables
from simulator.confidence import estimated
from simulator.errors import InputError
from simulator.policies import PolicySpec
from simulator.records import Anchors, Recording, Response, Round
from simulator.traces import split_of
from tests.results.test_store import INFO

WEIGHTS = [(0.8, 0.5), (-0.3, 0.9)]


def recorded(file: Path, prompts: int, tokens: int = 400) -> tuple[Store, str]:
    """A run of eagle3, whose acceptances follow its certainties by WEIGHTS, and of ngram, which has none."""
    store, rng = Store(file), np.random.default_rng(0)
    run_id = store.create_run(dataclasses.replace(INFO, drafters={"none": {}, "eagle3": {}, "ngram": {}}))
    plain = tuple(Round(0, 0, 0, 1, (), 1) for _ in range(tokens))
    for i in range(prompts):
        response = Response("t", "math", f"t/{i}", 0, 5, (7,) * (tokens + 1), "", "length", plain)
        certainty = rng.uniform(0.05, 0.99, (tokens, 2)).astype(np.float32)
        beta = estimated(certainty, WEIGHTS)
        accepted = (rng.random(beta.shape) < beta).cumprod(1).sum(1).astype(np.uint8)
        bare = Anchors(np.full(tokens, 2, np.uint8), accepted, beta)
        store.add(run_id, response_tables(Recording("none", 0), [response]))
        for name, anchors in (("eagle3", dataclasses.replace(bare, certainty=certainty)), ("ngram", bare)):
            tables = {"recordings": recordings(Recording(name, 2), [(f"t/{i}", 0, tokens)])}
            store.add(run_id, {**tables, "anchors": anchor_table(Recording(name, 2), f"t/{i}", 0, anchors)})
    return store, run_id


@pytest.mark.slow
def test_estimates_are_fitted_on_the_held_out_prompts_and_judged_on_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, run_id = recorded(tmp_path / "specyard.duckdb", 48)
    said: list[str] = []
    calibrate(run_id, store, said.append)
    calibrate(run_id, store, said.append)  # a resumed run does it once
    assert said == []
    np.testing.assert_allclose(store.estimates(run_id, Recording("eagle3", 2)), WEIGHTS, atol=0.1)
    assert store.estimates(run_id, Recording("ngram", 2)) == store.temperatures(run_id, Recording("eagle3", 2)) == []
    held_out = sum(split_of(f"t/{i}") == "calibration" for i in range(48))
    with store.reading() as connection:
        columns = "position, fit_prompts, fit_anchors, test_prompts, test_anchors, ece, auc, brier"
        rows = connection.execute(f"SELECT {columns} FROM estimates ORDER BY position").fetchall()
    assert [r[:2] + r[3:5] for r in rows] == [(k, held_out, 48 - held_out, (48 - held_out) * 400) for k in (1, 2)]
    assert rows[0][2] == held_out * 400 > rows[1][2] > 0
    for *_, ece, auc, brier in rows:
        assert ece < 0.02
        assert 0.6 < auc < 0.9
        assert brier < 0.25

    [replayed] = replay_run(store, run_id, [PolicySpec("threshold", "0.6")], ["eagle3"], calibrated=True, say=print)
    assert (replayed.confidences, replayed.prompts) == ("estimated", 48 - held_out)
    assert 1 < replayed.budget < 3
    rows = replay_run(store, run_id, [PolicySpec.fixed(1)], None, calibrated=True, say=said.append)
    assert [(row.drafter, row.prompts, row.held_out) for row in rows] == [
        (d, 48 - held_out, True) for d in ("eagle3", "ngram")
    ]
    assert said == [f"{48 - held_out} of 48 prompts, for every policy: those that no calibration was fitted on"]
    print_replays([replayed, *rows], as_json=False)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert sum("fixed:1 · held-out prompts" in line for line in lines) == 2
    assert sum("threshold:0.6 on estimated confidences" in line and "held-out" not in line for line in lines) == 1
    [all_of_them] = replay_run(store, run_id, [PolicySpec.fixed(1)], ["eagle3"], calibrated=False, say=print)
    assert (all_of_them.prompts, all_of_them.held_out) == (48, False)
    with pytest.raises(InputError, match="needs confidences, and this drafter has none"):
        replay_run(store, run_id, [PolicySpec("threshold", "0.6")], ["eagle3"], calibrated=False, say=print)


def test_too_little_to_fit_on_is_said(tmp_path: Path) -> None:
    store, run_id = recorded(tmp_path / "specyard.duckdb", 3, tokens=20)
    said: list[str] = []
    calibrate(run_id, store, said.append)
    assert store.estimates(run_id, Recording("eagle3", 2)) == []
    [line] = said
    assert line.startswith("eagle3 γ=2: confidences are not estimated: ")
    assert line.endswith("it needs 8 prompts and 500 anchors of each")
