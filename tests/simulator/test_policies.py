"""One contract for all policies, and what each of them decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cost import StepCost, StepLoad
from simulator.errors import InputError
from simulator.policies import CausalityError, Policy, Step, parse_policy, verify_lengths
from simulator.records import Round

EVERY = [
    "fixed:0", "fixed:3", "none", "threshold:0.5", "threshold:0", "threshold:1", "oracle", "k_by_batch:2=5/4=1", "cutoff:3",
    "prefix_scheduler", "lagged_scheduler:2", "lagged_scheduler:1/0.8", "vllm_adaptive", "batch_adaptive:0.05",
]  # fmt: skip


def cost_of(target_s: Any, draft_s: float = 0.0, overhead_s: float = 0.0) -> StepCost:
    """A step whose target pass takes target_s[B], whatever else is in it."""
    target = np.asarray(target_s, float)
    return StepCost(target, target, np.full((8, 65), draft_s), overhead_s, 0, 0, 0, 0)


COST = cost_of(1 + 0.1 * np.arange(100))


def policy_of(name: str) -> Policy:
    return parse_policy(name, COST)


every = pytest.mark.parametrize("name", EVERY)
chances = st.floats(0, 1, width=32)


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Any]:
    """Drafts of some requests: ragged, with confidences, acceptances and a past."""
    drafted = draw(st.lists(st.integers(0, 7), min_size=1, max_size=5))
    confidence = [tuple(draw(st.lists(chances, min_size=n, max_size=n))) for n in drafted]
    accepted = [draw(st.integers(0, n)) for n in drafted]
    verified = [draw(st.integers(0, 7)) for _ in drafted]
    past = [[Round(7, v, min(v, 2), 1, (0.5,) * 7, 1)] for v in verified]
    return {"drafted": drafted, "confidence": confidence, "accepted": accepted, "past": past}


class TestContract:
    """What every policy keeps to; a new policy joins by its name in the list above."""

    @every
    @given(case=steps())
    def test_verifies_what_was_drafted_at_most(self, name: str, case: dict[str, Any]) -> None:
        policy = policy_of(name)
        lengths = verify_lengths(policy, Step(policy, **case))
        assert all(0 <= length <= drafted for length, drafted in zip(lengths, case["drafted"], strict=True))
        assert lengths == verify_lengths(policy, Step(policy, **case))

    @pytest.mark.parametrize("name", [n for n in EVERY if policy_of(n).lossless])
    @given(case=steps(), other=st.lists(chances, min_size=7, max_size=7))
    def test_depends_on_nothing_behind_what_it_verifies(self, name: str, case: dict[str, Any], other: list[float]) -> None:
        """c_1..c_{ℓ+1} decide ℓ: with everything behind replaced, the decision stands."""
        policy = policy_of(name)
        lengths = verify_lengths(policy, Step(policy, **case))
        changed = [
            (*c[: length + 1], *other[: max(0, len(c) - length - 1)])
            for c, length in zip(case["confidence"], lengths, strict=True)
        ]
        acceptances = [0] * len(lengths)
        assert verify_lengths(policy, Step(policy, **{**case, "confidence": changed, "accepted": acceptances})) == lengths

    @every
    def test_names_are_what_users_write(self, name: str) -> None:
        policy = policy_of(name)
        assert policy_of(policy.name) == policy


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fixed:2", [2, 1, 0]), ("fixed:9", [3, 1, 0]), ("threshold:0.6", [2, 0, 0]), ("threshold:0.95", [0, 0, 0]),
     ("oracle", [1, 1, 0])],
)  # fmt: skip
def test_hand_worked(name: str, expected: list[int]) -> None:
    policy = policy_of(name)
    step = Step(policy, [3, 1, 0], [(0.9, 0.6, 0.5), (0.4,), ()], [[], [], []], [1, 1, 0])
    assert verify_lengths(policy, step) == expected


@dataclass(frozen=True)
class Asking(Policy):
    """A policy that does what it is told, for seeing what the contract says to it."""

    question: Any

    name = "asking"

    def admit(self, step: Step) -> None:
        self.question(step)


class AskingStale(Asking):
    replays_exactly = False


def step_for(policy: Policy) -> Step:
    past = [Round(3, 1, 1, 2, (0.9, 0.8, 0.7), 1)]
    return Step(policy, [3], [(0.9, 0.8, 0.7)], [past], [2])


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (lambda s: s.confidence(0, 2), "confidence of position 2 before position 1 is admitted"),
        (lambda s: s.accepted(0), "acceptances of this step"),
        (lambda s: s.admit(0, 4), "admits 4 more positions of a request that has 3 left"),
        (lambda s: s.admit(0, -1), "admits -1 more"),
        (lambda s: s.stale_confidence(0, 1), "claims to replay exactly"),
    ],
)
def test_the_contract_refuses(question: Any, why: str) -> None:
    policy = Asking(question)
    with pytest.raises(CausalityError, match=why):
        verify_lengths(policy, step_for(policy))


def test_the_past_is_shown_as_far_as_it_was_verified() -> None:
    seen: list[Any] = []
    policy = Asking(lambda s: seen.extend([s.past(0), s.past(0, 2)]))
    verify_lengths(policy, step_for(policy))
    assert seen == [(1, 1, (0.9, 0.8)), None]
    stale = AskingStale(lambda s: seen.append(s.stale_confidence(0, 1)))
    verify_lengths(stale, step_for(stale))
    assert seen[-1] == (0.9, 0.8, 0.7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fixd:3", "there are fixed:K, threshold:C, k_by_batch"),
        ("fixed", "is written fixed:K"),
        ("oracle:2", "is written oracle"),
        ("fixed:x", "is written fixed:K"),
        ("fixed:-1", "k must be 0 or more"),
        ("threshold:1.5", "from 0 to 1"),
        ("prefix_scheduler", "name a hardware profile"),
        ("prefix_scheduler:", "is written prefix_scheduler$"),
        ("k_by_batch:8", "is written k_by_batch"),
        ("k_by_batch:8=3/8=2", "must rise"),
        ("cutoff:x", "is written cutoff"),
    ],
)
def test_bad_policies_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_policy(text)


def test_threshold_needs_confidences() -> None:
    policy = parse_policy("threshold:0.5")
    with pytest.raises(InputError, match="this drafter has none"):
        verify_lengths(policy, Step(policy, [3], [()], [[]]))
