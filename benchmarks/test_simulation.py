"""How fast the simulator is: `pytest benchmarks/test_simulation.py`, one core.

Simulated output tokens per second of wall-clock, everything on: contexts, KV capacity, prefill, latencies, intervals.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.published.synthesis import synthesize
from simulator.hardware.catalogue import find_profile
from simulator.load import Users
from simulator.policies import PolicySpec
from simulator.setup import Setup
from simulator.simulation import Prepared, prepare, simulate
from simulator.traces import Trace

HARNESS = [sys.executable, "-m", "harness"]


@pytest.fixture(scope="module")
def recorded() -> Prepared:
    """DSpark's traces synthesised from the paper's curves for Qwen3-4B, γ = 7."""
    return prepare(synthesized())


def synthesized() -> Trace:
    return next(trace for trace in synthesize(0) if trace.drafter == "dspark")


@pytest.mark.parametrize("policy", ["prefix_scheduler", "lagged_scheduler:2", "fixed:7", "none"])
@pytest.mark.parametrize("users", [8, 64, 256])
def test_tokens_per_second(benchmark: Any, recorded: Prepared, users: int, policy: str) -> None:
    profile = find_profile("h100/qwen3-4b")
    setup = Setup(load=Users(users), policy=PolicySpec.parse(policy), profile=profile, seconds=600)
    simulate(setup, recorded)
    tokens: list[float] = []

    def once() -> None:
        started = time.perf_counter()
        outcome = simulate(setup, recorded)
        tokens.append(outcome.throughput.value * outcome.simulated_s / (time.perf_counter() - started))

    benchmark.pedantic(once, rounds=3)
    benchmark.extra_info["million_tokens_per_s"] = round(float(np.median(tokens)) / 1e6, 1)
    print(f"\n{policy} at {users} users: {np.median(tokens) / 1e6:.1f} million simulated output tokens a second")


def test_a_million_requests_in_bounded_memory(benchmark: Any, recorded: Prepared) -> None:
    profile = find_profile("h100/qwen3-4b")

    def memory(seconds: float) -> tuple[int, int]:
        setup = Setup(
            load=Users(64), policy=PolicySpec("prefix_scheduler"), profile=profile, output_tokens=32, seconds=seconds
        )
        outcome = simulate(setup, recorded)
        return outcome.finished, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    few, small = memory(100)
    many, large = benchmark.pedantic(lambda: memory(5000), rounds=1)
    print(f"\n{few} requests: peak {small / 1024:.0f} MiB; {many} requests: peak {large / 1024:.0f} MiB")
    assert many > 1_000_000
    assert large - small < 64 * 1024


def test_a_cold_process_answers_soon(benchmark: Any, tmp_path: Path) -> None:
    """A first simulation from a new process, once compiled code is cached."""
    done = subprocess.run([*HARNESS, "synthesize", "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    asked = ["simulate", "--hardware", "h100/qwen3-4b", "--concurrency", "64", "--drafter", "dspark", "--seconds", "60"]

    def once() -> None:
        subprocess.run([*HARNESS, *asked, "--out", str(tmp_path)], capture_output=True, check=True)

    once()
    benchmark.pedantic(once, rounds=3)
    print(f"\n`harness simulate` of three policies at 64 users, whole process: {benchmark.stats.stats.median:.2f} s")
