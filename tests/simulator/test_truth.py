"""The simulator against mathematics: closed forms and queueing theory, inside intervals over replications."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from simulator.engine.state import TOTALS
from simulator.hardware.profile import Curve, Profile
from simulator.load import Arrivals, Users
from simulator.metrics import Ledger, Outcome, Slice, mser, outcome, student_t
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import Anchors
from simulator.setup import EngineLimits, Setup
from simulator.simulation import Prepared, prepare, simulate
from simulator.sla import Sla
from simulator.traces import Trace, TracedResponse

GAMMA = 4
SEEDS = range(20)


def profile(counts: tuple[int, ...], seconds: tuple[float, ...], overhead_s: float = 0.0) -> Profile:
    return Profile(
        name="test", device="none", model="none", source="user", provenance={}, kv_capacity_tokens=10**9,
        verify=Curve(counts, seconds), free_drafters=("none", "iid"), overhead_s=overhead_s,
    )  # fmt: skip


def trace(lengths: list[int], alpha: float = 0.5, seed: int = 0) -> Prepared:
    """Responses of so many tokens whose drafts are accepted independently with probability α."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, tokens in enumerate(lengths):
        n = tokens - 1
        accepted = (rng.random((n, GAMMA)) < alpha).cumprod(1).sum(1).astype(np.uint8)
        every = np.full((n, GAMMA), alpha, np.float32)
        parts.append((TracedResponse("t", "d", f"p{i}", 0, 1), Anchors(np.full(n, GAMMA, np.uint8), accepted, every, every)))
    return prepare(Trace.join("iid", parts))


def agrees(values: list[float], truth: float) -> bool:
    """Whether the truth lies in the 99.9 % interval of replications, which must be narrow enough to mean something."""
    mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
    half = stats.t.ppf(0.9995, len(values) - 1) * error
    assert half < 0.1 * truth, f"±{half:.3g} around {mean:.3g} proves little"
    return bool(abs(mean - truth) <= half)


@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_accepted_length_of_independent_acceptances(alpha: float) -> None:
    """τ = (1 − α^(γ+1))/(1 − α) (Leviathan et al. 2023), when all is verified; ends of responses are too rare to matter."""
    setup = Setup(
        load=Users(16), policy=PolicySpec.fixed(GAMMA), profile=profile((1,), (0.01,)), output_tokens=10_000, seconds=200
    )
    taus = [simulate(setup, trace([4000] * 30, alpha, seed)).tau.value for seed in SEEDS]
    assert agrees(taus, (1 - alpha ** (GAMMA + 1)) / (1 - alpha))


def test_one_at_a_time_is_a_single_server_queue() -> None:
    """γ = 0 at a request cap of 1 is M/G/1: mean wait λ·E[S²]/(2(1 − ρ)) (Pollaczek–Khinchine)."""
    lengths = [1, 2, 5, 5, 9, 30]
    recorded, step_s = trace(lengths), 0.01
    service = step_s * np.array(lengths)  # a prompt of one token takes a step and brings the first token
    rate = 0.6 / service.mean()
    wait = rate * (service**2).mean() / (2 * (1 - rate * service.mean()))
    waits = [
        simulate(
            Setup(load=Arrivals(rate), policy=NO_DRAFTER, profile=profile((1,), (step_s,)),
                  limits=EngineLimits(request_cap=1), seconds=2000, seed=s), recorded,
        ).means["ttft"] - step_s
        for s in SEEDS
    ]  # fmt: skip
    assert agrees(waits, wait)


@pytest.mark.parametrize("lengths", [[200] * 6, [40, 60, 100, 200, 800]])
def test_short_steps_in_proportion_to_requests_share_the_processor(lengths: list[int]) -> None:
    """γ = 0 with t_step ∝ R is M/G/1 processor sharing: mean sojourn E[S]/(1 − ρ), whatever the spread of lengths."""
    token_s = 1e-3
    recorded = trace(lengths)
    shared = profile((1, 8192), (token_s, 8192 * token_s))
    service = token_s * np.mean(lengths)
    rate = 0.5 / service
    sojourns = [
        simulate(
            Setup(
                load=Arrivals(rate),
                policy=NO_DRAFTER,
                profile=shared,
                limits=EngineLimits(request_cap=1000),
                seconds=600,
                seed=s,
            ),
            recorded,
        ).means["e2e"]
        for s in SEEDS
    ]
    # Steps are not infinitely short: an arrival waits half a step, a departure comes at a step's end.
    assert agrees(sojourns, service / (1 - 0.5))


def test_a_closed_loop_of_one_is_arithmetic() -> None:
    """One user: a step for the prompt, then one a token; nothing is random."""
    recorded = trace([101])
    outcome = simulate(Setup(load=Users(1), policy=NO_DRAFTER, profile=profile((1,), (0.01,)), seconds=1000), recorded)
    assert outcome.tps.value == pytest.approx(100, rel=1e-9)
    assert outcome.means["ttft"] == pytest.approx(0.01, rel=1e-6)
    assert outcome.means["e2e"] == pytest.approx(1.01, rel=1e-9)
    assert outcome.throughput.value == pytest.approx(100, rel=2e-3)
    assert outcome.tau.value == outcome.budget.value == 1
    assert outcome.stationary


def test_little_holds_for_what_is_reported() -> None:
    """Users in a closed loop without pauses: N = finished per second × mean time in the system."""
    outcome = simulate(
        Setup(load=Users(24), policy=PolicySpec.fixed(GAMMA), profile=profile((1, 100), (0.01, 0.02)), seconds=2000),
        trace([90, 400]),
    )
    rate = outcome.finished / (outcome.simulated_s - outcome.warmup_s)
    assert rate * outcome.means["e2e"] == pytest.approx(24, rel=0.01)


def test_overload_is_said() -> None:
    recorded = trace([100])
    outcome = simulate(
        Setup(load=Arrivals(20.0), policy=NO_DRAFTER, profile=profile((1, 512), (0.01, 5.0)),
              limits=EngineLimits(request_cap=4), seconds=300, slas=(Sla.parse("p95_ttft<=1"),)), recorded,
    )  # fmt: skip
    assert outcome.slas == {"ttft<=1s": False}
    assert outcome.keeps_up is False
    assert not outcome.stationary
    assert any(w.startswith("overload") for w in outcome.warnings)
    assert outcome.means["ttft"] > 10


def answers(seed: int, stay: int, seconds: int = 100, users: int = 64) -> Outcome:
    """Slices of a second in which users commit at their answer's own rate, drawn anew with each answer of `stay` seconds."""
    rng = np.random.default_rng(seed)
    slices = []
    left, rate = rng.integers(1, stay + 1, users), rng.normal(3.0, 0.6, users)
    for _ in range(seconds):
        totals = np.zeros(1, TOTALS)
        totals["rounds"], totals["committed"], totals["emitted"] = 1000 * users, 1000 * rate.sum(), 1000 * rate.sum()
        here = Slice(totals[0], 1.0)
        done = left == 1
        here.finished = int(done.sum())
        here.counts += here.finished
        here.sums += here.finished * float(stay)
        rate[done] = rng.normal(3.0, 0.6, here.finished)
        left = np.where(done, stay, left - 1)
        slices.append(here)
    ledger = Ledger([])
    ledger.slices = slices
    return outcome(ledger, gpus=1, replicas=1, kv_tokens=1, load="closed", arriving=seconds)


@pytest.mark.parametrize(("stay", "least"), [(1, 0.93), (4, 0.9), (9, 0.85), (15, 0.8)])
def test_intervals_cover_where_answers_are_long(stay: int, least: float) -> None:
    """95 % of intervals should hold the truth; means within one answer go together, and are no batches of their own."""
    found = [answers(seed, stay).tau for seed in range(200)]
    held = np.mean([abs(tau.value - 3.0) <= tau.half_width for tau in found])
    assert least <= held <= 0.99


def test_answers_as_long_as_the_run_are_told() -> None:
    assert any("lasts 1.6 times as long" in warning for warning in answers(0, 40).warnings)
    assert not any("times as long" in warning for warning in answers(0, 15).warnings)


def test_student_t_is_the_real_one() -> None:
    for freedom in (3, 5, 9, 19, 100):
        assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)


def test_the_warm_up_rule_finds_a_ramp() -> None:
    rng = np.random.default_rng(0)
    series = np.concatenate([np.linspace(0, 10, 15), np.full(85, 10.0)]) + rng.normal(0, 0.2, 100)
    assert 11 <= mser(series) <= 20
    assert mser(np.full(100, 3.0)) == 0
