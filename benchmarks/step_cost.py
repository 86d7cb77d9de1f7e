"""What a simulated step costs, over requests and γ: `python benchmarks/step_cost.py [FILE.html]` prints it and plots it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from simulator.hardware.profile import Curve, DraftCurve, Profile
from simulator.load import Users
from simulator.policies import PolicySpec
from simulator.records import Anchors
from simulator.setup import EngineLimits, Setup
from simulator.simulation import Prepared, prepare, start
from simulator.traces import Trace, TracedResponse

REQUESTS = (1, 4, 16, 64, 256, 1024)
GAMMAS = (1, 3, 7, 15)
POLICIES = ("fixed:15", "prefix_scheduler", "lagged_scheduler:2")


def profile() -> Profile:
    """A pass that becomes dearer with its tokens early on, so that schedulers have something to decide."""
    free = DraftCurve((1, 15), (Curve((1,), (1e-3,)), Curve((1,), (1e-3,))), True)
    return Profile(
        name="bench", device="none", model="none", source="user", provenance={}, kv_capacity_tokens=10**8,
        verify=Curve((1, 100_000), (5e-3, 1.5)), draft={"bench": free},
    )  # fmt: skip


def recorded(gamma: int) -> Prepared:
    """Calibrated logit-normal confidences, correlated within a round."""
    rng = np.random.default_rng(gamma)
    parts = []
    for i in range(64):
        noise = 0.8 * rng.normal(size=(1024, 1)) + 0.6 * rng.normal(size=(1024, gamma))
        confidence = (1 / (1 + np.exp(-(1.7 - 0.25 * np.arange(gamma) + 1.2 * noise)))).astype(np.float32)
        accepted = (rng.random((1024, gamma)) < confidence).cumprod(1).sum(1).astype(np.uint8)
        anchors = Anchors(np.full(1024, gamma, np.uint8), accepted, confidence, confidence)
        parts.append((TracedResponse("t", "d", f"p{i}", 0, 100), anchors))
    return prepare(Trace.join("bench", parts))


def step_us(policy: str, requests: int, ready: Prepared) -> tuple[float, float]:
    """Microseconds of a step, the best of three, and tokens it commits."""
    limits = EngineLimits(request_cap=requests, step_tokens=20_000)
    setup = Setup(load=Users(requests), policy=PolicySpec.asked(policy), profile=profile(), limits=limits)
    best, tokens = float("inf"), 0.0
    for _ in range(3):
        simulator = start(setup, ready, lambda rows: None)
        simulator.run_until(setup.ramp * setup.seconds + 1)  # until all users are there
        before, started = simulator.totals[0].copy(), time.perf_counter()
        while time.perf_counter() - started < 0.15:
            simulator.run_until(simulator.clock_s + 2.0)
        after, seconds = simulator.totals[0], time.perf_counter() - started
        steps = after["steps"] - before["steps"]
        best, tokens = min(best, 1e6 * seconds / steps), (after["emitted"] - before["emitted"]) / steps
    return best, tokens


def main() -> None:
    """Measure, print, plot."""
    found: dict[tuple[str, int], list[float]] = {}
    print("µs a step (million tokens a second)\n" + " " * 26 + "".join(f"{f'R={r}':>16}" for r in REQUESTS))
    for gamma in GAMMAS:
        ready = recorded(gamma)
        for policy in POLICIES:
            measured = [step_us(policy, r, ready) for r in REQUESTS]
            found[policy, gamma] = [us for us, _ in measured]
            cells = "".join(f"{us:8.1f} ({tokens / us:5.1f})" for us, tokens in measured)
            print(f"{policy:20} γ={gamma:<3} {cells}", flush=True)
    if len(sys.argv) > 1:
        plot(found, Path(sys.argv[1]))


def plot(found: dict[tuple[str, int], list[float]], file: Path) -> None:
    """Lines over R, one for each policy and γ."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for (policy, gamma), us in found.items():
        figure.add_scatter(x=REQUESTS, y=us, name=f"{policy} γ={gamma}", mode="lines+markers")
    figure.update_xaxes(type="log", title="running requests R")
    figure.update_yaxes(type="log", title="µs of wall-clock a simulated step")
    figure.write_html(file, include_plotlyjs=True)


if __name__ == "__main__":
    main()
