"""What a step costs is of one type however it was made, and reads alike to Python and to compiled code."""

from __future__ import annotations

import copy
from dataclasses import FrozenInstanceError, replace
from typing import Any, get_origin, get_type_hints

import numpy as np
import pytest
from numba import njit, typeof

from simulator.engine import rules
from simulator.hardware.cost import Longest, StepCost, StepLoad, rates, step_parts, total_s
from simulator.hardware.profile import Curve, DraftCurve, Profile, dump_profile, parse_profile
from simulator.hardware.whatif import Part, slower
from simulator.plain import cost_of
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import Recording

LOADS = [StepLoad(3, 2, 1, 7, 28, 90), StepLoad(4, context_tokens=77), StepLoad(0, 2, 2, 9, 45), StepLoad(2)]

TYPES = get_type_hints(StepCost)
"""Of every field: a new term is held to what it says."""


def some(padded: bool) -> StepCost:
    rng = np.random.default_rng(0)
    tables = (rng.random(40), rng.random(40), rng.random((5, 5)), rng.random(5))
    numbers = {name: float(rng.random()) for name, kind in TYPES.items() if kind is float}
    return StepCost(*tables, **numbers, widening_s=rng.random(7), padded=padded)


def test_a_cost_has_one_type_however_it_was_made() -> None:
    ints: Any = StepCost(*([1, 2], [1, 2], [[1], [2]], [0, 0]), overhead_s=0)
    for cost in (ints, replace(ints, overhead_s=1, padded=0), some(True)):
        values = cost.compiled
        assert [type(value) for value in values] == [get_origin(kind) or kind for kind in TYPES.values()]
        assert typeof(values) == typeof(ints.compiled)
    with pytest.raises(TypeError, match="overhead"):
        StepCost([1], [1], [[1]], [1], overheads_s=1)  # type: ignore[call-arg, arg-type, list-item]


def test_nobody_changes_it() -> None:
    """A policy of a user's own is given it, and the engine goes on with it."""
    given = np.ones(40)
    cost = replace(some(False), verify_s=given)
    with pytest.raises(ValueError, match="read-only"):
        cost.verify_s[0] = 0
    with pytest.raises(FrozenInstanceError):
        cost.overhead_s = 1.0  # type: ignore[misc]
    given[0] = 2  # whoever made it may go on with what is theirs
    assert copy.deepcopy(cost) is cost


@pytest.mark.parametrize("padded", [False, True])
def test_compiled_code_runs_the_same_text(padded: bool) -> None:
    assert rules.copied  # registers the arithmetic

    @njit
    def compiled(cost, load, drafted, verified, longest):  # type: ignore[no-untyped-def]
        return total_s(step_parts(cost, load, drafted, verified, longest))

    cost = some(padded)
    for load in LOADS:
        verified = min(load.decoding, 3) * 2
        assert (
            compiled(cost.compiled, load, 3, verified, Longest(3, 40))
            == cost.step(load, 3, verified, Longest(3, 40)).seconds
        )


def test_no_speculation_pays_for_no_drafter() -> None:
    """Whatever it walks: 10 ms a pass, with a prompt of 7 tokens too; its drafter would take in that prompt in 7 ms more."""
    draft = DraftCurve((3,), (Curve((1,), (0.005,)),), block=True, context_s_per_token=1e-3, prefill_s_per_token=1e-3)
    profile = Profile(
        name="test", device="none", model="none", source="user", provenance={}, kv_capacity_tokens=100,
        verify=Curve((1,), (0.01,)), draft={"dspark": draft},
    )  # fmt: skip
    load = StepLoad(2, prefilling=1, finishing_prefill=1, prefill_tokens=7, context_tokens=90)

    def step_s(policy: PolicySpec) -> float:
        cost = cost_of(profile, policy, Recording("mine", 3, kind="dspark"), 4, 40)
        return cost.step(load, 0, 0, Longest(0, 50)).seconds

    assert step_s(NO_DRAFTER) == pytest.approx(0.010)
    assert step_s(PolicySpec.fixed(3)) == pytest.approx(0.017)


def shared() -> Profile:
    """A pass of 10 ms, 1 ms of the host and 0.5 for each request, 1 µs a context token; a block is drafted in 2 ms."""
    draft = DraftCurve((3,), (Curve((1,), (0.002,)),), block=True)
    return Profile(
        name="test", device="none", model="none", source="user", provenance={}, kv_capacity_tokens=100,
        verify=Curve((1,), (0.01,)), draft={"dspark": draft, "ngram": draft}, free_drafters=("suffix",), overhead_s=0.001,
        overhead_s_per_request=0.0005, context_s_per_token=1e-6, idle_share=0.1, deciding_share=0.05,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "drafter", "drafted", "more"),
    [
        ("none", "dspark", 0, 0.0),  # no drafter is loaded
        ("fixed:3", "dspark", 3, 0.002),
        ("k_by_batch:1=3/9=0", "dspark", 0, 0.1 * (0.010 + 0.001 + 0.002 + 0.001)),  # 10 % of the step
        ("k_by_batch:1=3/9=0", "suffix", 0, 0.0),  # has no state
        ("threshold:0.5", "dspark", 3, 0.002 + 0.05 * (0.010 + 0.001 + 0.002 + 0.001 + 0.002)),  # 5 % of the step
    ],
)
def test_keeping_a_drafter_in_step_and_deciding_are_shares_of_a_step(
    policy: str, drafter: str, drafted: int, more: float
) -> None:
    """Four requests and 1,000 tokens of context: 10 ms, 1, 2 and 1."""
    cost = cost_of(shared(), PolicySpec.parse(policy), Recording(drafter, 3, kind=drafter), 8, 40)
    load = StepLoad(4, context_tokens=1000)
    parts = cost.step(load, drafted, 0, Longest(0, 300))
    assert parts.seconds == pytest.approx(0.014 + more)
    assert cost.seconds(load, drafted, 0) == pytest.approx(0.014 + (more if drafted == 0 else 0.002))  # deciding: unforeseen


def test_prompts_are_no_part_of_what_shares_are_of() -> None:
    cost = cost_of(shared(), PolicySpec.parse("k_by_batch:1=3/9=0"), Recording("dspark", 3, kind="dspark"), 8, 4000)
    alone, beside = StepLoad(4, context_tokens=1000), StepLoad(4, 1, 1, 3000, 9000, 1000)
    idle = [cost.step(load, 0, 0, Longest(0, 300)).draft_s for load in (alone, beside)]
    assert idle[1] - idle[0] == pytest.approx(0.1 * 0.0005)  # one request more to look after
    assert cost.step(StepLoad(0, 1, 1, 3000, 9000), 0, 0, Longest(0, 0)).draft_s == 0


@pytest.mark.parametrize("rate", rates())
class TestEveryRate:
    """What holds for any term that is a number; a new one is among them."""

    def profile(self, rate: str, value: float = 1e-5) -> Profile:
        return replace(shared(), captured_tokens=(1, 2, 4), eager=Curve((1,), (0.02,)), **{rate: value})

    def seconds(self, profile: Profile) -> float:
        """Of steps of all kinds: with prompts and without, larger than captured, drafting and not, deciding and not."""
        loads = [StepLoad(3, context_tokens=300), StepLoad(3, 2, 1, 70, 2000, 300), StepLoad(0, 2, 2, 70, 2000)]
        costs = [profile.cost("dspark", 3, 8, 200, decides=decides) for decides in (False, True)]
        steps = [cost.step(load, k, 2 * k, Longest(k, 100)) for cost in costs for load in loads for k in (0, 3)]
        return sum(step.seconds for step in steps)

    def test_more_of_it_takes_longer(self, rate: str) -> None:
        more, none = self.seconds(self.profile(rate)), self.seconds(self.profile(rate, 0.0))
        assert more < none if rate == "logits_s_per_token" else more > none  # which are left out of prompts' passes

    def test_a_profile_says_it(self, rate: str) -> None:
        for value in (0.0, 1e-5):
            assert parse_profile(dump_profile(self.profile(rate, value))) == self.profile(rate, value)
        for wrong in (-1.0, float("nan"), 1e300):
            with pytest.raises(ValueError, match=f"{rate} must be "):
                self.profile(rate, wrong)

    def test_it_moves_with_its_part(self, rate: str) -> None:
        parts: dict[str, Part] = {"host": "overhead", "target": "verify"}
        for part, what in parts.items():
            moved = getattr(slower(self.profile(rate), what, 2.0), rate)
            assert moved == (2e-5 if rate in rates(part) else 1e-5)
