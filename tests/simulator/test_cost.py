"""What a step costs is of one type however it was made, and reads alike to Python and to compiled code."""

from __future__ import annotations

from typing import get_origin, get_type_hints

import numpy as np
import pytest
from numba import njit

from simulator.engine import rules
from simulator.hardware.cost import Longest, StepCost, StepLoad, step_parts, total_s
from simulator.hardware.profile import Curve, DraftCurve, Profile
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
    ints = StepCost([1, 2], [1, 2], [[1], [2]], [0, 0], 0, 0, 0, 0)
    copies = (ints, StepCost._make(ints), ints._replace(overhead_s=1, padded=0))  # type: ignore[arg-type]
    for cost in (*copies, some(True)):
        assert type(cost) is StepCost
        assert [type(value) for value in cost] == [get_origin(kind) or kind for kind in TYPES.values()]
        assert {table.dtype for table in cost if isinstance(table, np.ndarray)} == {np.dtype("f8")}
    with pytest.raises(TypeError, match="overhead"):
        StepCost([1], [1], [[1]], [1], overheads_s=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("padded", [False, True])
def test_compiled_code_runs_the_same_text(padded: bool) -> None:
    assert rules.copied  # registers the arithmetic

    @njit
    def compiled(cost, load, drafted, verified, longest):  # type: ignore[no-untyped-def]
        return total_s(step_parts(cost, load, drafted, verified, longest))

    cost = some(padded)
    for load in LOADS:
        verified = min(load.decoding, 3) * 2
        assert compiled(cost, load, 3, verified, Longest(3, 40)) == cost.step(load, 3, verified, Longest(3, 40)).seconds


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
