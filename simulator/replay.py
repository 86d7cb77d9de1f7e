"""Replay of a dense record under any policy: slow, obvious, and the reference for everything faster."""

from __future__ import annotations

from simulator.hardware.cost import StepLoad
from simulator.policies.contract import Policy, StepView, verify_lengths
from simulator.policies.spec import PolicySpec
from simulator.records import Anchors, KeptDrafting, Round


def replay(anchors: Anchors, policy: Policy) -> list[Round]:
    """The rounds that make one response under `policy`, alone in its batch.

    Distributed as a live decode of that response would be, where `replays_exactly` says so. For other policies,
    confidences beyond what was verified are taken from the record's second draft where there is one: live, an unverified
    tail is independent of what comes next, while the tail of the coupled draft is not.
    """
    rounds: list[Round] = []
    at, tokens, alone = 0, len(anchors), StepLoad.of(1)
    while at < tokens:
        drafted = min(int(anchors.drafted[at]), policy.draft(alone, anchors.gamma))
        acceptable = min(int(anchors.accepted[at]), drafted)
        confidence = () if anchors.confidence is None else tuple(anchors.confidence[at, :drafted].tolist())
        step = StepView(policy, [drafted], [confidence], [rounds], [acceptable])
        [verified] = verify_lengths(policy, step)
        accepted = min(acceptable, verified)
        committed = min(accepted + 1, tokens - at)
        if anchors.fresh_confidence is not None and accepted == verified:
            fresh = anchors.fresh_confidence[at, :drafted].tolist()
            confidence = (*confidence[: verified + 1], *fresh[verified + 1 :])
        rounds.append(Round(drafted, verified, accepted, committed, confidence, running=1))
        at += committed
    return rounds


def replays_exactly(policy: Policy | PolicySpec, drafting: KeptDrafting) -> bool:
    """Whether replaying a recording under `policy` has the law of a live run.

    A greedy draft is settled by the context before it, its unverified tail too: there is nothing to be coupled with what
    comes next, and even a policy that looks at that tail's old confidences replays exactly. False for bounds: nobody can run
    them.
    """
    return policy.lossless and (policy.replays_exactly or drafting != "sampled")
