"""The prefix cache against theory: what is found is what a least recently used cache of that size holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.engine.state import REQUEST
from simulator.hardware.catalogue import find_profile
from simulator.load import RecordedArrivals
from simulator.metrics import Outcome
from simulator.policies import PolicySpec
from simulator.prefixes import PrefixBlocks
from simulator.setup import EngineLimits, Setup
from simulator.simulation import Simulator, prepare, simulate
from tests.simulator.test_engine import some_cost, some_trace

TOKENS, ALPHA, CATALOGUE = 16, 0.8, 300


def hits(blocks: list[int], capacity: int) -> float:
    """The share of requests that find their one block, one request after another, where so many blocks fit."""
    rng = np.random.default_rng(0)
    trace = some_trace(rng, [9], 1, ragged=False, sure=False, fresh=False)
    asked = np.zeros(len(blocks), REQUEST)
    asked["prompt_tokens"], asked["output_tokens"] = TOKENS + 1, 1
    asked["arrival_s"] = 1e6 * np.arange(len(blocks))
    reserved = TOKENS + 1 + 3  # a request, with its answer and what it may write
    kept = PrefixBlocks(TOKENS, np.array(blocks), np.arange(len(blocks) + 1))
    limits = EngineLimits(request_cap=1, step_tokens=64)
    simulator = Simulator(
        prepare(trace), PolicySpec.parse("none").bind(), some_cost(rng, 64, 1, 1, -1), limits,
        reserved + (capacity - 1) * TOKENS, iter([asked[i : i + 8192] for i in range(0, len(asked), 8192)]),
        users=0, seed=0, on_rows=lambda rows: None, blocks=kept,
    )  # fmt: skip
    simulator.run_until(np.inf)
    simulator.check_conservation()
    return float(simulator.totals["hit_tokens"][0]) / TOKENS / len(blocks)


def zipf(n: int) -> tuple[np.ndarray, list[int]]:
    """Popularities, and independent references by them."""
    p = np.arange(1, CATALOGUE + 1) ** -ALPHA
    p /= p.sum()
    return p, np.random.default_rng(1).choice(CATALOGUE, n, p=p).tolist()


@pytest.mark.parametrize("capacity", [1, 2, 40, CATALOGUE])
def test_a_block_is_found_where_its_stack_distance_is_within_the_cache(capacity: int) -> None:
    """Mattson et al. 1970: least recently used finds what fewer different blocks than it holds were asked for since."""
    _, blocks = zipf(3000)
    stack: list[int] = []
    found = 0
    for block in blocks:
        found += block in stack[-capacity:]
        stack = [b for b in stack if b != block] + [block]
    assert hits(blocks, capacity) == found / len(blocks)


@pytest.mark.parametrize("capacity", [20, 100])
def test_ches_approximation(capacity: int) -> None:
    """Che, Tung and Wang 2002: a block is found with 1 − exp(−p T), where T fills the cache: Σ 1 − exp(−p T) = capacity."""
    p, blocks = zipf(60_000)
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - np.exp(-p * middle)).sum() < capacity else (low, middle)
    assert hits(blocks, capacity) == pytest.approx(float((p * (1 - np.exp(-p * low))).sum()), abs=0.01)


def simulated(file: Path, **limits: object) -> Outcome:
    trace = some_trace(np.random.default_rng(0), [30, 40], 3, ragged=False, sure=False, fresh=False)
    setup = Setup(
        load=RecordedArrivals.of(file), policy=PolicySpec.parse("none"), profile=find_profile("h100/qwen3-4b"),
        limits=replace(EngineLimits(request_cap=8, step_tokens=512), **limits),  # type: ignore[arg-type]
    )  # fmt: skip
    return simulate(setup, prepare(trace))


def test_what_is_found_is_told_and_need_not_be_kept(tmp_path: Path) -> None:
    """Ten prompts that share three of their four blocks: nine tenths of three quarters are found, and answers come early."""
    file = tmp_path / "mooncake.jsonl"
    rows = [
        {"timestamp": 1e4 * i, "input_length": 2048, "output_length": 4, "hash_ids": [1, 2, 3, 10 + i]} for i in range(10)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, plain = simulated(file), simulated(file, prefix_cache=False)
    [told] = [warning for warning in kept.warnings if "prefix cache" in warning]
    assert "67.5%" in told
    assert not any("prefix cache" in warning for warning in plain.warnings)
    assert kept.means["ttft"] < 0.6 * plain.means["ttft"]
