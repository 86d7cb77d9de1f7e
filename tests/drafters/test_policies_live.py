"""Policies in the live loop: the two worked examples that say what a policy may look at, decoded for real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from drafters.cache import KVCache, Positions
from drafters.decoding import Decoded, DecodeRequest, decode
from drafters.kinds.contract import Drafter
from drafters.kinds.none import NoState
from drafters.sampling import Proposal, sample
from drafters.target import Target, TargetPass
from simulator.confidence import estimated
from simulator.errors import InputError
from simulator.policies import CausalityError, Policy, PolicySpec, StepView
from simulator.records import Anchors, Round, Sampling
from simulator.replay import EVEN_STEPS, replay

SAMPLES = 20_000
A, B = 0, 1


class TwoTokenTarget:
    """A target over {A, B} given as a table: P(A) after `token` at `position`."""

    device, max_positions, stop_tokens, cannot_decode = torch.device("cpu"), 100, frozenset[int](), None

    def __init__(self, chance_of_a: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.chance_of_a = chance_of_a

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        return KVCache(rows, capacity)

    def forward(self, ids: Tensor, positions: Positions, *_: Any) -> TargetPass:
        a = self.chance_of_a(ids, positions.tensor)
        return TargetPass(torch.stack([a, 1 - a], -1).double().log(), ids.new_zeros(*ids.shape, 0))

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


class TwoTokenDrafter:
    """Drafts two tokens from such a table, and says c_1, and c_2 by the first token drafted."""

    name, gamma, tap_layers = "two", 2, ()

    def __init__(self, chance_of_a: Callable[[Tensor, Tensor], Tensor], confidence: tuple[float, float, float]) -> None:
        self.chance_of_a, self.confidence = chance_of_a, confidence

    def start(self, rows: int, capacity: int) -> NoState:
        return NoState()

    def observe(self, *_: Any) -> None:
        pass

    def propose(self, _state: Any, _rows: slice, anchor: Tensor, position: Positions, _s: Sampling, draws: Any) -> Proposal:
        token, tokens, probs = anchor, [], []
        for k in range(2):
            a = self.chance_of_a(token, position.tensor[:, 0] + k)
            probs.append(torch.stack([a, 1 - a], -1))
            token = sample(probs[k], draws.draft[:, k])
            tokens.append(token)
        first, after_a, after_b = self.confidence
        second = torch.where(tokens[0] == A, after_a, after_b)
        confidence = torch.stack([torch.full_like(second, first), second], -1)
        return Proposal(torch.stack(tokens, 1), (2,) * len(anchor), torch.stack(probs, 1).float(), confidence)


def run(target: Any, drafter: Any, policy: Any, tokens: int) -> list[Decoded]:
    requests = [DecodeRequest((A,), tokens, (9, i)) for i in range(SAMPLES)]
    return [d for _, d in decode(target, drafter, requests, Sampling(), max_batch=SAMPLES, policy=policy)]


# --- the biased retrospective policy of the DSpark paper's appendix -----------------------------------------------

SPS = (1.0, 0.5, 0.45)


@dataclass(frozen=True)
class Retrospective(Policy):
    """Verifies the ℓ with most expected tokens × SPS, judged with all confidences at hand. Biased; hence not offered."""

    look: Callable[[StepView, int], float]

    name = "retrospective"
    reads_confidences = True

    def admit(self, step: StepView) -> None:
        for request in range(step.running):
            c = [self.look(step, k) for k in (1, 2)]
            gains = [SPS[0], (1 + c[0]) * SPS[1], (1 + c[0] + c[0] * c[1]) * SPS[2]]
            step.admit(request, int(np.argmax(gains)))


def appendix() -> tuple[Any, Any]:
    """p = .7/.3, q = .5/.5, c_1 = .8, c_2 = .9 after A and 0 after B."""
    target = TwoTokenTarget(lambda ids, _: torch.full(ids.shape, 0.7, dtype=torch.float64))
    drafter = TwoTokenDrafter(lambda ids, _: torch.full(ids.shape, 0.5, dtype=torch.float64), (0.8, 0.9, 0.0))
    return target, drafter


def share_of_a(decoded: list[Decoded]) -> float:
    """Of the second response tokens, the first that a round commits."""
    return float(np.mean([d.token_ids[1] == A for d in decoded]))


@pytest.mark.slow
def test_the_retrospective_policy_is_biased() -> None:
    """Past the contract, by taking what it does not show: .85/.15 instead of .7/.3."""

    class Peeking(Retrospective):
        def admit(self, step: StepView) -> None:
            for request in range(step.running):
                c = step._confidence[request]
                gains = [SPS[0], (1 + c[0]) * SPS[1], (1 + c[0] + c[0] * c[1]) * SPS[2]]
                step.admit(request, int(np.argmax(gains)))

    biased = share_of_a(run(*appendix(), Peeking(lambda *_: 0.0), 3))
    assert biased == pytest.approx(0.85, abs=4 * (0.85 * 0.15 / SAMPLES) ** 0.5)
    for policy in ("fixed:0", "fixed:2", "threshold:0.85"):
        honest = share_of_a(run(*appendix(), PolicySpec.parse(policy).bind(), 3))
        assert honest == pytest.approx(0.7, abs=4 * (0.7 * 0.3 / SAMPLES) ** 0.5)


def test_the_contract_refuses_the_retrospective_policy() -> None:
    policy = Retrospective(lambda step, k: step.confidence(0, k))
    with pytest.raises(CausalityError, match="looks at the confidence of position 2 before position 1 is admitted"):
        run(*appendix(), policy, 3)


# --- confidences estimated from the draft distribution ------------------------------------------------------------

TRUE_Q = {A: (0.6, 0.4), B: (0.1, 0.9)}
"""q after A and after B; p = .7/.3 after both."""


class HeadlessDrafter:
    """Drafts two tokens from TRUE_Q; its confidences are made from the tokens and distributions, by `confident`."""

    name, gamma, tap_layers = "headless", 2, ()

    def __init__(self, confident: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.confident = confident

    def start(self, rows: int, capacity: int) -> NoState:
        return NoState()

    def observe(self, *_: Any) -> None:
        pass

    def propose(self, _state: Any, _rows: slice, anchor: Tensor, _p: Tensor, _s: Sampling, draws: Any) -> Proposal:
        token, tokens, probs = anchor, [], []
        for k in range(2):
            probs.append(torch.tensor([TRUE_Q[A], TRUE_Q[B]])[token])
            token = sample(probs[k], draws.draft[:, k])
            tokens.append(token)
        drafted, q = torch.stack(tokens, 1), torch.stack(probs, 1)
        return Proposal(drafted, (2,) * len(anchor), q, self.confident(drafted, q))


def own_probability(tokens: Tensor, q: Tensor) -> Tensor:
    return q.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def estimate(_tokens: Tensor, q: Tensor) -> Tensor:
    """As `simulator.confidence` makes it: .55 where q is .6/.4, and .40 where it is .1/.9."""
    return torch.from_numpy(estimated(q.amax(-1).numpy(), [[0.337, -0.336]] * 2))


def output(admits: Callable[[int, tuple[float, float]], bool]) -> tuple[float, float]:
    """P(A) and P(B) of the next token after A, one token drafted and verified iff `admits(x, q)`. Exact."""
    p, q, out = (0.7, 0.3), TRUE_Q[A], [0.0, 0.0]
    residual = [max(a - b, 0) / sum(max(a - b, 0) for a, b in zip(p, q, strict=True)) for a, b in zip(p, q, strict=True)]
    for x in (A, B):
        kept = min(1, p[x] / q[x]) if admits(x, q) else 0.0
        out[x] += q[x] * kept
        for y in (A, B):
            out[y] += q[x] * ((1 - kept) * residual[y] if admits(x, q) else p[y])
    return out[0], out[1]


@pytest.mark.slow
def test_admitting_on_the_drafted_tokens_probability_is_biased_and_on_the_whole_of_q_is_not() -> None:
    assert output(lambda x, q: q[x] >= 0.5) == pytest.approx((0.88, 0.12))
    for least in (0.5, 0.7):
        assert output(lambda x, q, least=least: max(q) >= least) == pytest.approx((0.7, 0.3))

    target, threshold = TwoTokenTarget(lambda ids, _: torch.full(ids.shape, 0.7, dtype=torch.float64)), "threshold:0.5"
    error = 4 * (0.25 / SAMPLES) ** 0.5
    biased = run(target, HeadlessDrafter(own_probability), PolicySpec.parse(threshold).bind(), 4)
    after_a = [d for d in biased if d.token_ids[0] == A]
    assert share_of_a(after_a) == pytest.approx(0.88, abs=error)
    honest = run(target, HeadlessDrafter(estimate), PolicySpec.parse(threshold).bind(), 4)
    assert {d.rounds[0].verified for d in honest} == {0, 1, 2}  # it decides something, at both positions
    counts = Counter(tuple(d.token_ids) for d in honest)
    expected = {t: SAMPLES * 0.7 ** t.count(A) * 0.3 ** t.count(B) for t in product((A, B), repeat=4)}
    assert chisquare([counts[t] for t in expected], list(expected.values())).pvalue > 1e-4


# --- what lagged policies see of a trace --------------------------------------------------------------------------


@dataclass(frozen=True)
class Lagged(Policy):
    """Verifies nothing, then one token if the unverified c_2 of the round before was high."""

    replays_exactly = False
    name = "lagged"

    def admit(self, step: StepView) -> None:
        for request in range(step.running):
            stale = step.stale_confidence(request, 1)
            step.admit(request, int(stale is not None and stale[1] > 0.5))


def example() -> tuple[Any, Any]:
    """c_2 is high iff A was drafted first. After an A the drafter is right, after a B always wrong."""

    def target(ids: Tensor, positions: Tensor) -> Tensor:
        fair = torch.full(ids.shape, 0.5, dtype=torch.float64)
        return torch.where((positions >= 2) & (ids == B), torch.zeros_like(fair), fair)

    def drafter(ids: Tensor, positions: Tensor) -> Tensor:
        fair = torch.full(ids.shape, 0.5, dtype=torch.float64)
        return torch.where((positions >= 2) & (ids == B), torch.ones_like(fair), fair)

    return TwoTokenTarget(target), TwoTokenDrafter(drafter, (0.9, 0.9, 0.1))


def dense_example(rng: np.random.Generator, fresh: bool) -> Anchors:
    """The dense record of a response of three tokens y_0, y_1, y_2 by the law, worked out by hand for `example`."""
    y1 = int(rng.random() < 0.5)
    high = [[0.9, 0.9 if y == A else 0.1] for y in (y1, A)]
    # At the first anchor p = q, so the draft is what the response says; at the second it is right iff y_1 is A.
    accepted = [2 if y1 == A else 1, 2 if y1 == A else 0]
    free = [[0.9, 0.9 if rng.random() < 0.5 else 0.1] for _ in range(2)]
    matrices = [np.array(m, np.float32) for m in (high, free)]
    ones = np.ones((2, 2), np.float32)
    return Anchors(np.full(2, 2, np.uint8), np.array(accepted, np.uint8), ones, matrices[0], matrices[1] if fresh else None)


def second_accepted(responses: list[list[Round]]) -> float:
    """Mean accepted in the round at the second anchor."""
    return float(np.mean([rounds[1].accepted for rounds in responses]))


def test_lagged_policies_replay_wrong_without_fresh_tails_and_right_with_them() -> None:
    error = 4 * (0.25 / SAMPLES) ** 0.5
    target, drafter = example()
    live = second_accepted([d.rounds for d in run(target, drafter, Lagged(), 3)])
    assert live == pytest.approx(0.25, abs=error)
    rng = np.random.default_rng(2)
    coupled = second_accepted([replay(dense_example(rng, False), Lagged()) for _ in range(SAMPLES)])
    assert coupled == pytest.approx(0.5, abs=error)
    fresh = second_accepted([replay(dense_example(rng, True), Lagged()) for _ in range(SAMPLES)])
    assert fresh == pytest.approx(0.25, abs=error)


# --- bounds ------------------------------------------------------------------------------------------------------


def test_the_live_loop_refuses_bounds(make: Callable[[str], Drafter], target: Target) -> None:
    with pytest.raises(InputError, match="oracle: is a bound for replays"):
        list(
            decode(
                target,
                make("dspark"),
                [DecodeRequest((1,), 4, (0,))],
                Sampling(),
                max_batch=1,
                policy=PolicySpec.parse("oracle").bind(EVEN_STEPS),
            )
        )
