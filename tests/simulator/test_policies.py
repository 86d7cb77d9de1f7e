"""One contract for all policies, and what each of them decides."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from simulator.errors import InputError
from simulator.hardware.cost import StepCost, StepLoad
from simulator.policies import (
    POLICIES,
    BatchAdaptive,
    CausalityError,
    LaggedScheduler,
    Policy,
    PolicySpec,
    StepView,
    verify_lengths,
)
from simulator.records import Round
from simulator.traces import survival

EVERY = [
    "fixed:0", "fixed:3", "none", "threshold:0.5", "threshold:0", "threshold:1", "oracle", "k_by_batch:2=5/4=1", "cutoff:3",
    "prefix_scheduler", "lagged_scheduler:2", "lagged_scheduler:1/0.8", "vllm_adaptive", "batch_adaptive:0.05",
]  # fmt: skip
EVERY += [usage for usage in POLICIES if ":" not in usage and usage not in EVERY]


def cost_of(target_s: Any, draft_s: float = 0.0, overhead_s: float = 0.0) -> StepCost:
    """A step whose target pass takes target_s[B], whatever else is in it."""
    target = np.asarray(target_s, float)
    return StepCost(target, target, np.full((8, 65), draft_s), np.zeros(8), overhead_s=overhead_s)


COST = cost_of(1 + 0.1 * np.arange(100))


def policy_of(name: str) -> Policy:
    return PolicySpec.parse(name).bind(COST)


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


class TestEveryPolicy:
    """What every policy keeps to; one that is new joins by itself where it needs no parameter, else in the list above."""

    @every
    @given(case=steps())
    def test_verifies_what_was_drafted_at_most(self, name: str, case: dict[str, Any]) -> None:
        policy = policy_of(name)
        lengths = verify_lengths(policy, StepView(policy, **case))
        assert all(0 <= length <= drafted for length, drafted in zip(lengths, case["drafted"], strict=True))
        assert lengths == verify_lengths(policy, StepView(policy, **case))

    @pytest.mark.parametrize("name", [n for n in EVERY if policy_of(n).lossless])
    @given(case=steps(), other=st.lists(chances, min_size=7, max_size=7))
    def test_depends_on_nothing_behind_what_it_verifies(self, name: str, case: dict[str, Any], other: list[float]) -> None:
        """c_1..c_{ℓ+1} decide ℓ: with everything behind replaced, the decision stands."""
        policy = policy_of(name)
        lengths = verify_lengths(policy, StepView(policy, **case))
        changed = [
            (*c[: length + 1], *other[: max(0, len(c) - length - 1)])
            for c, length in zip(case["confidence"], lengths, strict=True)
        ]
        acceptances = [0] * len(lengths)
        assert (
            verify_lengths(policy, StepView(policy, **{**case, "confidence": changed, "accepted": acceptances})) == lengths
        )

    @every
    @given(case=steps(), data=st.data())
    def test_the_order_of_requests_does_not_matter(self, name: str, case: dict[str, Any], data: st.DataObject) -> None:
        """With all survivals distinct the decision moves with the requests; ties go to the earlier position and request."""
        numbers = np.random.default_rng(data.draw(st.integers(0, 99))).random((len(case["drafted"]), 7))
        confidence = [tuple(row[:n].tolist()) for row, n in zip(numbers, case["drafted"], strict=True)]
        case = {**case, "confidence": confidence, "past": [[*past, *past] for past in case["past"]]}
        survivals = [s for c in confidence if c for s in survival(c).tolist()]
        assume(len(set(survivals)) == len(survivals))
        order = data.draw(st.permutations(range(len(numbers))))
        policy = policy_of(name)
        lengths = verify_lengths(policy, StepView(policy, **case))
        permuted: Any = {what: [each[i] for i in order] for what, each in case.items()}
        assert verify_lengths(policy, StepView(policy, **permuted)) == [lengths[i] for i in order]

    @pytest.mark.parametrize("name", [n for n in EVERY if isinstance(policy_of(n), LaggedScheduler)])
    @given(case=steps(), other=st.lists(chances, min_size=7, max_size=7))
    def test_an_old_budget_knows_nothing_of_today(self, name: str, case: dict[str, Any], other: list[float]) -> None:
        policy = policy_of(name)
        total = sum(verify_lengths(policy, StepView(policy, **case)))
        changed = [tuple(other[: len(c)]) for c in case["confidence"]]
        assert sum(verify_lengths(policy, StepView(policy, **{**case, "confidence": changed}))) == total

    @every
    def test_names_are_what_users_write(self, name: str) -> None:
        policy = policy_of(name)
        again = policy_of(policy.name)
        assert (type(again), again.name) == (type(policy), policy.name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fixed:2", [2, 1, 0]), ("fixed:9", [3, 1, 0]), ("threshold:0.6", [2, 0, 0]), ("threshold:0.95", [0, 0, 0]),
     ("oracle", [1, 1, 0])],
)  # fmt: skip
def test_hand_worked(name: str, expected: list[int]) -> None:
    policy = policy_of(name)
    step = StepView(policy, [3, 1, 0], [(0.9, 0.6, 0.5), (0.4,), ()], [[], [], []], [1, 1, 0])
    assert verify_lengths(policy, step) == expected


def old_round(*confidence: float) -> Round:
    return Round(len(confidence), 0, 0, 1, confidence, 1)


@pytest.mark.parametrize(
    ("name", "requests", "expected"),
    [("k_by_batch:2=5/4=1", 1, 5), ("k_by_batch:2=5/4=1", 2, 5), ("k_by_batch:2=5/4=1", 3, 1), ("k_by_batch:2=5/4=1", 4, 1),
     ("k_by_batch:2=5/4=1", 5, 1), ("cutoff:3", 3, 7), ("cutoff:3", 4, 0), ("fixed:3", 9, 3), ("threshold:1", 9, 7)],
)  # fmt: skip
def test_how_much_is_drafted(name: str, requests: int, expected: int) -> None:
    """Of γ = 7, and never more than γ; what is drafted is verified where the table says so."""
    policy = policy_of(name)
    assert policy.draft(StepLoad.of(requests), 7) == expected
    assert policy.draft(StepLoad.of(requests), 2) == min(expected, 2)
    if name.startswith(("k_by_batch", "cutoff")):
        step = StepView(policy, [expected, *[0] * (requests - 1)], [()] * requests, [[]] * requests)
        assert verify_lengths(policy, step) == [expected, *[0] * (requests - 1)]


def test_batch_adaptive_by_hand() -> None:
    """Steps of 1 + .1 B s. α = 1: four tokens in 1.4 s are the best. α = .5: 1/1.1, 1.5/1.2, 1.75/1.3 = 1.346,
    1.875/1.4 = 1.339. With a prompt of 10 tokens that ends in it: 2/2.1, 2.5/2.2, 2.75/2.3 = 1.196, 2.875/2.4 = 1.198."""
    policy = BatchAdaptive(COST, weight=0.5)
    assert policy.draft(StepLoad.of(1), 3) == 3
    policy.learn([3], [0])  # one position was tried and refused, two were not tried
    assert policy.alpha == 0.5
    assert policy.draft(StepLoad.of(1), 3) == 2
    assert policy.draft(StepLoad(1, prefilling=1, finishing_prefill=1, prefill_tokens=10), 3) == 3
    policy.learn([2, 0], [1, 0])  # one of two
    assert policy.alpha == 0.5
    policy.learn([0], [0])
    policy.learn([], [])
    assert policy.alpha == 0.5  # nothing tried, nothing learnt
    policy.learn([2, 3], [2, 2])  # four of five
    assert policy.alpha == pytest.approx(0.65)


def test_prefix_scheduler_by_hand() -> None:
    """Survivals .9, .72, .36 and .6, .3. 2/1 < 2.9/1.2 = 2.42 < 3.62/1.4 = 2.59 > 4.22/1.9 = 2.22: the two best, both of
    the first request."""
    policy = PolicySpec.parse("prefix_scheduler").bind(cost_of([0, 0, 1, 1.2, 1.4, 1.9, 2, 2]))
    assert verify_lengths(policy, StepView(policy, [3, 2], [(0.9, 0.8, 0.5), (0.6, 0.5)], [[], []])) == [2, 0]


def test_prefix_scheduler_counts_tokens_of_finished_prompts() -> None:
    """One position of .5: with one prompt that ends, 2/1 < 2.5/1.2; with three, 4/1 > 4.5/1.2."""
    policy = PolicySpec.parse("prefix_scheduler").bind(cost_of([9, 9, 9, 9, 9, 1, 1.2]))
    for finishing, expected in ((1, 1), (3, 0)):
        load = StepLoad(1, prefilling=3, finishing_prefill=finishing, prefill_tokens=4)
        assert verify_lengths(policy, StepView(policy, [1], [(0.5,)], [[]], load=load)) == [expected]


def test_lagged_scheduler_by_hand() -> None:
    """Two rounds ago the first request had survivals .5, .25; the second is new, 1, 1. 2/1, 3/1.2, 4/1.4 = 2.86, 4.5/2,
    4.75/2.1: two positions. Today's best two are .9 and .81, both of the first request."""
    policy = PolicySpec.parse("lagged_scheduler").bind(cost_of([0, 0, 1, 1.2, 1.4, 2, 2.1]))
    past = [[old_round(0.0, 0.0), old_round(0.5, 0.5), old_round(0.1, 0.1)], [old_round(0.1, 0.1)]]
    assert verify_lengths(policy, StepView(policy, [2, 2], [(0.9, 0.9), (0.6, 0.5)], past)) == [2, 0]


@pytest.mark.parametrize(
    ("name", "rounds", "known"),
    [("lagged_scheduler:1/0.5", [0.5], 0.75), ("lagged_scheduler:1/0.5", [0.5, 0.1], 0.425),
     ("lagged_scheduler:2/0.5", [0.5, 0.1], 0.75), ("lagged_scheduler:1", [0.5, 0.1], 0.1),
     ("lagged_scheduler:3/0.8", [0.5, 0.1], 1.0), ("lagged_scheduler:2/0.8", [0.5, 0.1, 0.1], 0.74)],
)  # fmt: skip
def test_moving_average_by_hand(name: str, rounds: list[float], known: float) -> None:
    """One position of one request: verified iff (1 + known)/t₂ > 1/t₁."""
    for margin, expected in ((-0.001, 1), (0.001, 0)):
        policy = PolicySpec.parse(name).bind(cost_of([0, 1, 1 + known + margin]))
        assert verify_lengths(policy, StepView(policy, [1], [(0.3,)], [[old_round(c) for c in rounds]])) == [expected]


def test_positions_an_old_round_did_not_draft_count_as_sure() -> None:
    """.5, .5 from a round of one token: 1/1, 1.5/1.6, 2/1.9. A short round before that changes nothing: .5, .45."""
    policy = PolicySpec.parse("lagged_scheduler:1").bind(cost_of([0, 1, 1.6, 1.9]))
    for past in ([old_round(0.5)], [old_round(), old_round(0.5, 0.9)]):
        assert verify_lengths(policy, StepView(policy, [2], [(0.3, 0.3)], [past])) == [2]


@pytest.mark.parametrize(("last", "expected"), [(0.5, [3, 3]), (0.3, [0, 3])])
def test_vllm_adaptive_by_hand(last: float, expected: list[int]) -> None:
    """The published rule: argmax over all b of (sampling requests + Σ top-b raw survivals two rounds old) / (draft +
    verify ms), no early stop, costs padded to captured sizes.

    Two requests decode, γ = 3; one prompt of 4 tokens ends, another goes on by 3, which cost but bring nothing. 9 tokens pad
    to 12, up to b = 3; then to 16. A draft takes 2, attention 1 (8192 tokens profiled for each of the two, whatever their
    contexts), passes 10 and 14 ms. The new request has 1, 1, 1, the other .9, .72, .36 two rounds ago: b = 0 has 3/13, 3 has
    6/13 = .4615, 4 has 6.9/17 = .406, 5 has 7.62/17, 6 has 7.98/17 = .4694, the best. With .216 in the place of .36 b = 6
    has 7.836/17 = .4609, and b = 3 is the best.
    """
    padded = np.array([next(ms for size, ms in ((8, 8), (12, 10), (16, 14)) if size >= b) for b in range(17)]) / 1000
    cost = replace(cost_of(padded, draft_s=0.002), context_s_per_token=0.001 / 16384)
    policy = PolicySpec.parse("vllm_adaptive").bind(cost)
    load = StepLoad(2, 2, finishing_prefill=1, prefill_tokens=7, context_tokens=123456)
    past = [[old_round(0.9, 0.8, last), old_round(0, 0, 0)], []]
    today = [(0.1, 0.9, 0.9), (0.9, 0.9, 0.9)]
    assert verify_lengths(policy, StepView(policy, [3, 3], today, past, load=load)) == expected


def test_a_step_in_the_curve_stops_one_scheduler_for_good_and_not_the_other() -> None:
    """Four requests, c = .9. The pass takes 1 s up to 4 tokens and 1.5 s up to 16. One position more is not worth it, 4/1 >
    4.9/1.5; all twelve are: (4 + 4 (.9 + .81 + .729))/1.5 = 9.2."""
    cost = cost_of([1.0] * 5 + [1.5] * 12)
    prefix, lagged = PolicySpec.parse("prefix_scheduler").bind(cost), PolicySpec.parse("lagged_scheduler").bind(cost)
    past: list[Round] = []
    for _ in range(5):
        now: Any = ([3] * 4, [(0.9, 0.9, 0.9)] * 4, [past] * 4)
        assert verify_lengths(prefix, StepView(prefix, *now)) == [0] * 4
        assert verify_lengths(lagged, StepView(lagged, *now)) == [3] * 4
        past = [*past, old_round(0.9, 0.9, 0.9)]


@dataclass(frozen=True)
class Asking(Policy):
    """A policy that does what it is told, for seeing what the contract says to it."""

    question: Any

    name = "asking"
    reads_confidences = True

    def admit(self, step: StepView) -> None:
        self.question(step)


class AskingStale(Asking):
    replays_exactly = False


def step_for(policy: Policy) -> StepView:
    past = [Round(3, 1, 1, 2, (0.9, 0.8, 0.7), 1)]
    return StepView(policy, [3], [(0.9, 0.8, 0.7)], [past], [2])


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


class AskingWithout(Asking):
    reads_confidences = False


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (lambda s: s.admit(0, 1.5), "admits 1.5 positions of request 0; it must be a whole number"),
        (lambda s: s.admit(0, True), "must be a whole number"),
        (lambda s: s.admit(-1), "request -1 of a step that has 1"),
        (lambda s: s.drafted(1), "request 1 of a step that has 1"),
        (lambda s: s.admit(0.0), "request 0.0 of a step"),
        (lambda s: s.confidence(0, 1), "must say `reads_confidences = True`"),
        (lambda s: s.survival(0, 1), "must say `reads_confidences = True`"),
    ],
)
def test_what_is_no_request_and_no_count_is_told(question: Any, why: str) -> None:
    policy = AskingWithout(question)
    with pytest.raises(ValueError, match=why):
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
        ("prefix_scheduler", "which a replay does not know; simulate it"),
        ("prefix_scheduler:", "is written prefix_scheduler$"),
        ("k_by_batch:8", "is written k_by_batch"),
        ("k_by_batch:8=3/8=2", "must rise"),
        ("cutoff:x", "is written cutoff"),
    ],
)
def test_bad_policies_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PolicySpec.parse(text).bind()


def test_threshold_needs_confidences() -> None:
    policy = PolicySpec.parse("threshold:0.5").bind()
    with pytest.raises(InputError, match="this drafter has none"):
        verify_lengths(policy, StepView(policy, [3], [()], [[]]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fixed:three", "policy fixed:three: three is no whole number; it is written fixed:K"),
        ("threshold:x", "policy threshold:x: x is no number; it is written threshold:C"),
        ("cutoff:1.5", "policy cutoff:1.5: 1.5 is no whole number"),
        ("k_by_batch:8=a", "a is no whole number"),
        ("lagged_scheduler:z", "z is no whole number"),
        ("batch_adaptive:z", "z is no number"),
    ],
)
def test_words_for_numbers_are_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        PolicySpec.parse(text)


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 9)), min_size=1, max_size=4, unique_by=lambda row: row[0]),
    st.integers(1, 24),
    st.integers(1, 7),
)
def test_the_plainest_policy_does_the_same(rows: list[tuple[int, int]], cap: int, gamma: int) -> None:
    text = "/".join(f"{requests}={k}" for requests, k in sorted(rows))
    table = PolicySpec("k_by_batch", text)
    plain = table.within(cap, gamma)
    made = table.k_by_batch
    assert made is not None
    for running in range(1, cap + 1):
        k = min(made.at(running), gamma)
        assert k == (min(plain.k, gamma) if plain.k is not None else min(plain.k_by_batch.at(running), gamma))  # type: ignore[union-attr]
    assert (plain.k_by_batch is None) == (len({min(made.at(r), gamma) for r in range(1, cap + 1)}) == 1)
