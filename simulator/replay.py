"""Replay of a dense record under any policy: slow, obvious, and the reference for everything faster.

`walk` is the one faster copy of it outside of the engine: thresholds alone, all responses at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.hardware.cost import StepCost, StepLoad
from simulator.policies.contract import Policy, StepView, verify_lengths
from simulator.policies.spec import PolicySpec
from simulator.records import Anchors, KeptDrafting, Round

Ints = npt.NDArray[np.int64]


EVEN_STEPS = StepCost(np.ones(257), np.ones(257), np.zeros((256, 2)), np.zeros(256))
"""One request's steps where nobody knows their seconds: every round takes the same, whatever it drafts and verifies."""


def replay(anchors: Anchors, policy: Policy) -> list[Round]:
    """The rounds that make one response under `policy`, alone in its batch. A policy that learns is new for every response.

    Distributed as a live decode of that response would be, where `replays_exactly` says so. For other policies,
    confidences beyond what was verified are taken from the record's second draft where there is one: live, an unverified
    tail is independent of what comes next, while the tail of the coupled draft is not.
    """
    rounds: list[Round] = []
    at, tokens, alone = 0, len(anchors), StepLoad.of(1)
    while at < tokens:
        if not policy.lossless:
            policy.foresee([min(int(anchors.accepted[at]), tokens - at - 1)])
        drafted = min(int(anchors.drafted[at]), policy.draft(alone, anchors.gamma))
        acceptable = min(int(anchors.accepted[at]), drafted)
        confidence = () if anchors.confidence is None else tuple(anchors.confidence[at, :drafted].tolist())
        step = StepView(policy, [drafted], [confidence], [rounds], [min(acceptable, tokens - at - 1)])
        [verified] = verify_lengths(policy, step)
        accepted = min(acceptable, verified)
        committed = min(accepted + 1, tokens - at)
        if anchors.fresh_confidence is not None and accepted == verified:
            fresh = anchors.fresh_confidence[at, :drafted].tolist()
            confidence = (*confidence[: verified + 1], *fresh[verified + 1 :])
        rounds.append(Round(drafted, verified, accepted, committed, confidence, running=1))
        policy.learn([verified], [accepted])
        at += committed
    return rounds


def replays_exactly(policy: Policy | PolicySpec, drafting: KeptDrafting) -> bool:
    """Whether replaying a recording under `policy` has the law of a live run.

    A greedy draft is settled by the context before it, its unverified tail too: there is nothing to be coupled with what
    comes next, and even a policy that looks at that tail's old confidences replays exactly. False for bounds: nobody can run
    them.
    """
    return policy.lossless and (policy.replays_exactly or drafting != "sampled")


class Walked(NamedTuple):
    """Sums over the rounds that make responses, [thresholds, S]."""

    rounds: Ints
    committed: Ints
    verified: Ints
    accepted: Ints


def walk(
    confidence: npt.NDArray[np.floating[Any]], drafted: Ints, accepted: Ints, offsets: Ints, thresholds: Sequence[float]
) -> Walked:
    """Every response under `threshold:c`, all thresholds and responses at once: what `replay` does for one of each.

    Args:
        confidence: c_1..c_γ at each anchor, [A, γ]; nan where none was drafted.
        drafted: tokens drafted, [A]; accepted: a, [A].
        offsets: anchors of response s are offsets[s] to offsets[s + 1], [S + 1].
        thresholds: the least confidences that are verified.
    """
    c = np.nan_to_num(confidence.astype(np.float64))
    ends = offsets[1:]
    verified = np.empty((len(thresholds), len(c)), np.int16)
    for i, threshold in enumerate(thresholds):
        below = c < threshold
        verified[i] = np.minimum(np.where(below.any(1), below.argmax(1), c.shape[1]), drafted)
    kept = np.minimum(verified, accepted).astype(np.int16)
    at = np.tile(offsets[:-1], (len(thresholds), 1))
    sums = Walked(*(np.zeros(at.shape, np.int64) for _ in Walked._fields))
    which = np.arange(len(thresholds))[:, None]
    while (live := at < ends).any():
        here = np.minimum(at, len(c) - 1)
        committed = np.minimum(kept[which, here] + 1, ends - at)
        for total, amount in zip(sums, (1, committed, verified[which, here], kept[which, here]), strict=True):
            total += np.where(live, amount, 0)
        at = np.where(live, at + committed, at)
    return sums
