"""The compiled schedulers against the policies they stand for, and against trying everything."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.rules import best_total, fill_budget, prefix_lengths, scratch, threshold_lengths
from simulator.hardware.cost import StepCost, StepLoad
from simulator.policies import LaggedScheduler, Policy, PrefixScheduler, StepView, Threshold, verify_lengths
from simulator.records import Round
from simulator.traces import survival

slow = settings(deadline=None, derandomize=True, max_examples=250)


@dataclass(frozen=True)
class Pool:
    """What a step could verify, and what that costs."""

    confidence: Any
    """[R, γ] float32."""
    old: Any
    """The same of one round ago."""
    drafted: list[int]
    cost: StepCost
    load: StepLoad

    @property
    def ranked(self) -> list[tuple[float, int, int]]:
        """(survival, position, request), the best first."""
        s = survival(self.confidence)
        pool = [(-float(s[i, k]), k, i) for i, n in enumerate(self.drafted) for k in range(n)]
        return [(-s, k, i) for s, k, i in sorted(pool)]

    def rate(self, expected: float, verified: int) -> float:
        """Tokens per second of a step."""
        return (self.load.sampling + expected) / self.seconds(verified)

    def seconds(self, verified: int) -> float:
        return self.cost.seconds(self.load, max(self.drafted), verified)

    def slow(self, policy: Policy) -> list[int]:
        """By the policy itself."""
        n = [range(d) for d in self.drafted]
        shown = [self.confidence[i, : len(k)].tolist() for i, k in enumerate(n)]
        gamma = self.old.shape[1]
        past = [[Round(gamma, 0, 0, 1, tuple(row), 1)] for row in self.old.tolist()]
        return verify_lengths(policy, StepView(policy, self.drafted, shown, past, load=self.load))

    def fast_prefix(self) -> list[int]:
        s, fixed_s, target_s, first = self._compiled()
        shown = survival(self.confidence)
        n, gamma = shown.shape
        tokens = float(self.load.sampling)
        prefix_lengths(shown.view(np.int32), shown, s, n, gamma, tokens, fixed_s, target_s, first)
        return [int(length) for length in s.lengths]

    def fast_lagged(self) -> tuple[int, list[int]]:
        """Budget and ℓ."""
        s, fixed_s, target_s, first = self._compiled()
        shown = survival(self.confidence)
        n, gamma = shown.shape
        s.old[:] = survival(self.old)
        budget = int(best_total(s, n, gamma, float(self.load.sampling), fixed_s, target_s, first))
        fill_budget(shown.view(np.int32), shown, s, n, gamma, budget)
        return budget, [int(length) for length in s.lengths]

    def _compiled(self) -> tuple[Any, float, Any, int]:
        s = scratch(*self.confidence.shape)
        s.anchors[:], s.drafted[:] = s.every, self.drafted
        target_s = self.cost.eager_s if self.load.prefill_tokens else self.cost.verify_s
        return s, self.cost.fixed(self.load, max(self.drafted)), target_s, self.load.prefill_tokens + self.load.decoding


def cost_of(target_s: Any, fixed_s: float) -> StepCost:
    table = np.ascontiguousarray(target_s, np.float64)
    return StepCost(table, table, np.zeros((8, 65)), np.zeros(8), overhead_s=fixed_s)


def some_confidences(rng: np.random.Generator, kind: str, requests: int, gamma: int) -> Any:
    shape = (requests, gamma)
    if kind == "ties":
        return rng.choice(np.array([0, 0.25, 0.5, 0.5, 1, 1, 1], np.float32), shape)
    if kind == "tiny":
        return (2.0 ** rng.uniform(-26, 0, shape)).astype(np.float32)
    c = rng.random(shape).astype(np.float32) ** rng.choice(np.array([0.05, 0.5, 1], np.float32))
    return np.where(rng.random(shape) < 0.1, rng.choice(np.array([0, 1], np.float32), shape), c)


def some_times(rng: np.random.Generator, kind: str, count: int) -> Any:
    """Target passes of 0..count − 1 tokens, in seconds."""
    tokens = np.arange(count)
    slope = 10 ** rng.uniform(-6, 0)
    if kind == "convex":
        return 1 + slope * np.maximum(0, tokens - rng.integers(0, count))
    if kind == "staircase":
        return 1 + slope * (tokens // rng.integers(1, 33))
    if kind == "flat":
        return np.ones(count)
    noise = rng.choice([1e-9, 1e-3, 0.3]) * rng.random(count)
    return 1 + slope * tokens + (noise if kind == "rough" else np.sort(noise))


@st.composite
def pools(draw: st.DrawFn, *, most: int = 64, most_drafted: int = 7, times: tuple[str, ...] = ()) -> Pool:
    requests, gamma = draw(st.integers(1, most)), draw(st.integers(1, most_drafted))
    kinds = draw(st.tuples(*(st.sampled_from(["smooth", "ties", "tiny"]),) * 2))
    shape = draw(st.sampled_from(times or ("convex", "staircase", "flat", "rough", "rising")))
    prefill, finishing = draw(st.sampled_from([(0, 0), (0, 0), (10, 0), (10, 2)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ragged = draw(st.booleans())
    drafted = rng.integers(0, gamma + 1, requests) if ragged else np.full(requests, gamma)
    confidence, old = (some_confidences(rng, kind, requests, gamma) for kind in kinds)
    cost = cost_of(some_times(rng, shape, prefill + requests * (gamma + 1) + 1), draw(st.sampled_from([0.0, 0.01, 3.0])))
    load = StepLoad(requests, prefilling=2 if prefill else 0, finishing_prefill=finishing, prefill_tokens=prefill)
    return Pool(confidence, old, drafted.tolist(), cost, load)


class TestPrefixScheduler:
    @given(pool=pools())
    @slow
    def test_decides_as_the_policy_does(self, pool: Pool) -> None:
        assert pool.fast_prefix() == pool.slow(PrefixScheduler(pool.cost))

    @given(pool=pools())
    @slow
    def test_stops_at_the_first_fall_in_sorted_order(self, pool: Pool) -> None:
        lengths, tokens = [0] * len(pool.drafted), float(pool.load.sampling)
        for verified, (s, _, request) in enumerate(pool.ranked):
            if (tokens + s) * pool.seconds(verified) <= tokens * pool.seconds(verified + 1):
                break
            tokens += s
            lengths[request] += 1
        assert pool.fast_prefix() == lengths

    @given(pool=pools(most=4, most_drafted=3, times=("convex", "flat")))
    @slow
    def test_is_the_best_of_all_selections_where_times_are_convex(self, pool: Pool) -> None:
        s = np.concatenate([np.zeros((len(pool.drafted), 1)), survival(pool.confidence).cumsum(1, dtype=float)], 1)

        def rate(lengths: Any) -> float:
            return pool.rate(sum(s[i, length] for i, length in enumerate(lengths)), sum(lengths))

        best = max(map(rate, product(*(range(n + 1) for n in pool.drafted))))
        assert rate(pool.fast_prefix()) == pytest.approx(best, rel=1e-12)

    def test_times_that_fall_within_a_bucket(self) -> None:
        """Both survivals share a bucket. The pass gets cheaper with the first and dearer with the second, which
        brings less than it costs once the first has made the step cheap: 2/10, (2 + .5)/1, but (2 + .5 + .5)/1.4."""
        pool = Pool(np.full((2, 1), 0.5, np.float32), np.ones((2, 1)), [1, 1], cost_of([0, 0, 10, 1, 1.4], 0), StepLoad(2))
        assert pool.fast_prefix() == pool.slow(PrefixScheduler(pool.cost)) == [1, 0]

    @pytest.mark.parametrize("seed", range(40))
    def test_survivals_worth_less_than_rounding(self, seed: int) -> None:
        """A survival of 2⁻²⁴ among 64 sure tokens, and a step that gets longer by just about what it brings."""
        rng = np.random.default_rng(seed)
        c = np.full((64, 1), 2.0**-24, np.float32)
        start_s, fixed_s = 1 + rng.random(), rng.random()
        slope_s = (start_s + fixed_s) * 2.0**-24 / 64 * rng.uniform(1 - 1e-6, 1)
        pool = Pool(c, c, [1] * 64, cost_of(start_s + slope_s * np.arange(-64, 66), fixed_s), StepLoad(64))
        assert pool.fast_prefix() == pool.slow(PrefixScheduler(pool.cost))


class TestLaggedScheduler:
    @given(pool=pools())
    @slow
    def test_decides_as_the_policy_does(self, pool: Pool) -> None:
        assert pool.fast_lagged()[1] == pool.slow(LaggedScheduler(pool.cost, lag=1))

    @given(pool=pools())
    @slow
    def test_the_budget_is_the_first_best_of_all(self, pool: Pool) -> None:
        s = survival(pool.old)
        old = sorted((float(s[i, k]) for i, n in enumerate(pool.drafted) for k in range(n)), reverse=True)
        rates = [pool.rate(sum(old[:count]), count) for count in range(len(old) + 1)]
        assert pool.fast_lagged()[0] == rates.index(max(rates))

    @given(pool=pools())
    @slow
    def test_the_budget_is_spent_on_the_best(self, pool: Pool) -> None:
        budget, lengths = pool.fast_lagged()
        expected = [0] * len(pool.drafted)
        for _, _, request in pool.ranked[:budget]:
            expected[request] += 1
        assert lengths == expected


@given(pool=pools(), least=st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]))
@slow
def test_threshold_decides_as_the_policy_does(pool: Pool, least: float) -> None:
    s = scratch(*pool.confidence.shape)
    s.anchors[:], s.drafted[:] = s.every, pool.drafted
    threshold_lengths(pool.confidence, s, len(pool.drafted), least)
    assert s.lengths.tolist() == pool.slow(Threshold(least))
