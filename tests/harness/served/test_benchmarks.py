"""Sweeps of `vllm bench serve` with drafts and without: what drafting costs by load, where no log times steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness.served.advising import run
from tests.harness.served.writing import Truth, vllm_log

TRUTH = Truth(survival=(0.6, 0.35, 0.2, 0.11), base_s=0.012, draft_s=0.0015, knee=100, beyond_s=8e-5)
"""Drafts pay to about 50 users, and a shorter one beyond."""
SWEEP = (1, 4, 16, 64)
REQUESTS, ANSWER = 200, 101


def result(truth: Truth, users: int, k: int, chunk: float = 1.0, seed: int = 0, first_ms: float = 0.0) -> dict[str, Any]:
    """What a benchmark writes of answers of one length; a chunk holds so many steps, and first tokens take so long."""
    rng = np.random.default_rng([seed, users, k])
    alphas = np.array(truth.survival[:k]) / [1.0, *truth.survival[: k - 1]][:k]
    steps = round(REQUESTS * (ANSWER - 1) / truth.tokens(k))
    counts, left = list[int](), steps
    for alpha in alphas:
        left = int(rng.binomial(left, alpha))
        counts.append(left)
    step_ms = truth.step_s(k, users) * 1e3 * np.exp(0.01 * rng.standard_normal())
    generated = REQUESTS + steps + sum(counts)
    seconds = (steps * step_ms + REQUESTS * first_ms) / 1e3 / users
    found = {
        "backend": "vllm", "model_id": "Org/Model-8B", "num_prompts": REQUESTS, "request_rate": "inf",
        "max_concurrency": users, "duration": seconds, "completed": REQUESTS, "total_input_tokens": 0,
        "total_output_tokens": generated, "output_throughput": generated / seconds, "mean_ttft_ms": first_ms,
        "mean_tpot_ms": step_ms * steps / (generated - REQUESTS), "mean_itl_ms": step_ms * chunk,
    }  # fmt: skip
    if k:
        found |= {
            "spec_decode_num_drafts": steps, "spec_decode_draft_tokens": steps * k,
            "spec_decode_accepted_tokens": sum(counts), "spec_decode_acceptance_length": 1 + sum(counts) / steps,
            "spec_decode_per_position_acceptance_rates": [count / steps for count in counts],
        }  # fmt: skip
    return found


def sweep(folder: Path, loads: tuple[int, ...], ks: tuple[int, ...] = (4, 0), chunk: float = 1.0) -> Path:
    folder.mkdir()
    for users in loads:
        for k in ks:
            (folder / f"{k} {users}.json").write_text(json.dumps(result(TRUTH, users, k, chunk)))
    return folder


def told(*words: object) -> dict[str, Any]:
    done = run("advise", *words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_two_sweeps_say_what_drafting_costs_by_load(tmp_path: Path) -> None:
    found = told(sweep(tmp_path / "my sweep", SWEEP))
    assert found["knows_off"]
    assert "4 loads with drafts, 4 without" in found["basis"]
    for load in found["loads"]:
        n = load["running"]
        if n in SWEEP:
            ratio = TRUTH.speed(4, n) / TRUTH.speed(0, n) - 1
            assert load["over_none"]["low"] <= ratio <= load["over_none"]["high"]
            assert load["over_none"]["high"] - load["over_none"]["low"] < 0.3
    assert TRUTH.speed(4, 64) < 0.9 * TRUTH.speed(0, 64)
    assert found["verdict"] in ("set", "by_batch")
    for load in found["at_loads"]:
        n = load["running"]
        k = next((k for first, last, k in found["rows"] if first <= n <= last), found["tokens"])
        gain = TRUTH.speed(k, n) / TRUTH.speed(4, n) - 1
        assert load["gain"]["low"] - 0.005 <= gain <= load["gain"]["high"] + 0.005
        assert gain > -0.03


def test_a_load_that_was_disturbed_leaves_the_others_open(tmp_path: Path) -> None:
    """Twice as slow for another's sake: what is right at that load nobody knows, nor does it narrow those beside it."""
    folder = sweep(tmp_path / "s", SWEEP)
    found = result(TRUTH, 16, 4)
    for name in ("mean_itl_ms", "mean_tpot_ms", "duration"):
        found[name] *= 2
    (folder / "4 16.json").write_text(json.dumps(found | {"output_throughput": found["output_throughput"] / 2}))
    for load in told(folder)["loads"]:
        if (n := load["running"]) in (1, 4, 64):
            ratio = TRUTH.speed(4, n) / TRUTH.speed(0, n) - 1
            assert load["over_none"]["low"] <= ratio <= load["over_none"]["high"]


def test_the_screen_names_benchmarks_in_the_order_of_their_loads(tmp_path: Path) -> None:
    lines = run("advise", sweep(tmp_path / "s", SWEEP)).stdout.splitlines()
    loads = [line.split()[3] for line in lines if line.startswith("· at concurrency")]
    assert loads == ["1", "4", "16", "64"]
    assert not any("e+0" in line for line in lines)


@pytest.mark.parametrize("why", ["two loads", "chunks of two steps", "no sweep without drafts"])
def test_what_does_not_time_steps_by_load_says_nothing_of_them(why: str, tmp_path: Path) -> None:
    loads, chunk = SWEEP[:2] if why == "two loads" else SWEEP, 2.0 if why.startswith("chunks") else 1.0
    found = told(sweep(tmp_path / "s", loads, (4,) if why.startswith("no ") else (4, 0), chunk))
    assert not found["knows_off"]


def test_a_log_beside_them_times_steps_itself(tmp_path: Path) -> None:
    (tmp_path / "k.log").write_text(vllm_log(TRUTH, [8] * 30, method="eagle3"))
    folder = sweep(tmp_path / "s", SWEEP, (4,))
    assert "benchmarks" not in told(tmp_path / "k.log", folder)["basis"]


def test_time_to_first_tokens_leaves_less_to_gain(tmp_path: Path) -> None:
    """As the throughputs that were measured have it: a request that waits gets no tokens, with drafts and without."""
    first_ms = 400.0
    for users in SWEEP:
        for k in (4, 0):
            (tmp_path / f"{k} {users}.json").write_text(json.dumps(result(TRUTH, users, k, first_ms=first_ms)))
    for load in told(tmp_path)["loads"]:
        if (n := load["running"]) in SWEEP:
            with_s, without_s = ((ANSWER - 1) / TRUTH.speed(k, n) + first_ms / 1e3 for k in (4, 0))
            assert load["over_none"]["low"] <= without_s / with_s - 1 <= load["over_none"]["high"]
            assert load["over_none"]["value"] == pytest.approx(without_s / with_s - 1, abs=0.06)
