"""The replay on records whose outcome is known by hand or by formula."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.policies import PolicySpec
from simulator.policies.contract import Policy, StepView
from simulator.records import Anchors, Round
from simulator.replay import EVEN_STEPS, replay
from simulator.traces import Trace, TracedResponse, split_of


def record(accepted: list[int], gamma: int = 3, confidence: list[list[float]] | None = None) -> Anchors:
    count = len(accepted)
    chosen = None if confidence is None else np.array(confidence, np.float32)
    ones = np.ones((count, gamma), np.float32)
    return Anchors(np.full(count, gamma, np.uint8), np.array(accepted, np.uint8), ones, chosen)


def walked(rounds: list[Round]) -> list[tuple[int, int, int]]:
    return [(r.verified, r.accepted, r.committed) for r in rounds]


def test_hand_worked() -> None:
    anchors = record([2, 0, 3, 1, 3, 0])
    assert walked(replay(anchors, PolicySpec.parse("fixed:3").bind())) == [(3, 2, 3), (3, 1, 2), (3, 0, 1)]
    assert walked(replay(anchors, PolicySpec.parse("fixed:1").bind())) == [(1, 1, 2), (1, 1, 2), (1, 1, 2)]
    assert walked(replay(anchors, PolicySpec.parse("none").bind())) == [(0, 0, 1)] * 6
    assert walked(replay(anchors, PolicySpec.parse("oracle").bind(EVEN_STEPS))) == [(2, 2, 3), (1, 1, 2), (0, 0, 1)]


class OneLook(Policy):
    """Verifies nothing any more once the target has said anything."""

    told = 0

    def admit(self, step: StepView) -> None:
        step.admit(0, 0 if self.told else step.drafted(0))

    def learn(self, verified: Sequence[int], accepted: Sequence[int]) -> None:
        assert (len(verified), len(accepted)) == (1, 1)
        self.told += 1


def test_a_policy_learns_within_a_response() -> None:
    policy = OneLook()
    assert walked(replay(record([2, 0, 3, 1, 3, 0]), policy)) == [(3, 2, 3), (0, 0, 1), (0, 0, 1), (0, 0, 1)]
    assert policy.told == 4


def test_the_last_round_is_cut_by_the_end_of_the_response() -> None:
    assert walked(replay(record([0, 3]), PolicySpec.parse("fixed:3").bind())) == [(3, 0, 1), (3, 3, 1)]
    assert replay(record([]), PolicySpec.parse("fixed:3").bind()) == []


@pytest.mark.parametrize("alpha", [0.3, 0.8])
@pytest.mark.parametrize("k", [0, 1, 4, 7])
def test_accepted_length_of_independent_acceptances(alpha: float, k: int) -> None:
    """τ = (1 − α^(k+1)) / (1 − α) (Leviathan et al. 2023), within four standard errors."""
    rng, tokens = np.random.default_rng(7), 200_000
    accepted = (rng.random((tokens, 7)) < alpha).cumprod(1).sum(1)
    rounds = replay(record(accepted.tolist(), 7), PolicySpec.parse(f"fixed:{k}").bind())
    committed = np.array([r.committed for r in rounds])
    expected = (1 - alpha ** (k + 1)) / (1 - alpha)
    assert committed.mean() == pytest.approx(expected, abs=max(4 * committed.std() / len(committed) ** 0.5, 1e-4))


@given(st.lists(st.integers(0, 3), max_size=40), st.sampled_from(["fixed:0", "fixed:2", "fixed:3", "oracle"]))
def test_every_token_is_committed_once(accepted: list[int], policy: str) -> None:
    rounds = replay(record(accepted), PolicySpec.parse(policy).bind(EVEN_STEPS))
    assert sum(r.committed for r in rounds) == len(accepted)
    assert all(r.committed == r.accepted + 1 for r in rounds[:-1])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_the_oracle_commits_as_fast_as_verifying_all_and_wastes_nothing(accepted: list[int]) -> None:
    anchors = record(accepted)
    bound, everything = (replay(anchors, PolicySpec.parse(p).bind(EVEN_STEPS)) for p in ("oracle", "fixed:3"))
    assert [r.committed for r in bound] == [r.committed for r in everything]
    assert all(r.verified == r.accepted for r in bound)


def test_records_are_checked() -> None:
    with pytest.raises(ValueError, match="accepted ≤ drafted"):
        record([4])
    with pytest.raises(ValueError, match="one entry for each of 2 anchors"):
        Anchors(np.zeros(1, np.uint8), np.zeros(2, np.uint8), np.zeros((2, 3), np.float32))


def test_traces_join_cut_and_select() -> None:
    responses = [TracedResponse("t", "math", f"t/{i}", 0, 5) for i in range(3)]
    parts = [
        record([1, 2], confidence=[[0.5] * 3] * 2),
        record([], confidence=np.zeros((0, 3)).tolist() or None),
        record([3]),
    ]
    trace = Trace.join("dspark", list(zip(responses, [parts[0], parts[2], parts[2]], strict=True)))
    assert trace.offsets.tolist() == [0, 2, 3, 4]
    assert trace.anchors.confidence is None  # not all parts have them
    assert [len(a) for _, a in trace] == [2, 1, 1]
    kept = trace.select([True, False, True])
    assert [r.prompt_id for r in kept.responses] == ["t/0", "t/2"]
    assert kept.anchors.accepted.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="offsets must run"):
        Trace("x", tuple(responses), np.array([0, 1]), parts[2])


def test_the_split_is_by_prompt_and_about_a_quarter_a_half_and_a_quarter() -> None:
    names = [split_of(f"gsm8k/{i}") for i in range(4000)]
    assert names == [split_of(f"gsm8k/{i}") for i in range(4000)]
    for name, share in (("calibration", 0.25), ("search", 0.5), ("confirmation", 0.25)):
        assert names.count(name) / 4000 == pytest.approx(share, abs=0.03)
