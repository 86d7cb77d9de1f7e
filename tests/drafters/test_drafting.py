"""Sampled and greedy drafts: both are lossless, both are recorded from one pass, and each replays as it decodes live."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from drafters.decoding import DecodeRequest, decode
from drafters.dense import DenseText, record_anchors
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.sampling import Proposal
from drafters.target import Target
from simulator.policies import Policy, PolicySpec, StepView
from simulator.records import DRAFTINGS, Anchors, Drafting, KeptDrafting, Sampling
from simulator.replay import replay, replays_exactly
from tests.drafters.conftest import GAMMA, LEARNED
from tests.drafters.test_dense import (
    NEW_TOKENS,
    PROMPT,
    REJECT,
    SAMPLES,
    SETTINGS,
    assert_same,
    live_rounds,
    proposal_along,
    record_of,
    smallest_p_value,
    texts,
)
from tests.drafters.test_lossless import p_value
from tests.selection import few

Recorded = Callable[[str, Sampling], dict[KeptDrafting, list[Anchors]]]


@pytest.fixture(scope="module")
def finished(target: Target) -> Callable[[Sampling], list[DenseText]]:
    """Many responses to one prompt, by sampling settings."""
    return cache(lambda sampling: texts(target, [PROMPT] * SAMPLES, NEW_TOKENS, sampling, 41))


@pytest.fixture(scope="module")
def recorded(target: Target, make: Callable[[str], Drafter], finished: Callable[[Sampling], list[DenseText]]) -> Recorded:
    """Dense records of these responses, both ways from one pass, by drafter and sampling settings."""

    def record(name: str, sampling: Sampling) -> dict[KeptDrafting, list[Anchors]]:
        return record_anchors(target, [make(name)], finished(sampling), sampling, drafting=DRAFTINGS)[0]

    return cache(record)


# --- lossless ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    few(
        [(n, "temperature 0.7, top-k 4") for n in ("dspark-rnn", "dflash", "eagle3", "mtp")]
        + [("dspark", s) for s in ("temperature 1", "top-p 0.8")],
        ("eagle3", "temperature 0.7, top-k 4"),
        ("dspark", "top-p 0.8"),
    ),
)
def test_greedy_drafts_leave_the_targets_law(
    name: str, settings: str, make: Callable[[str], Drafter], target: Target
) -> None:
    assert p_value(target, make(name), SETTINGS[settings], 6000, "greedy") > REJECT


def plant(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Proposal, Proposal], Proposal]) -> None:
    """Let learned drafters propose what `wrong` makes of a sampled and a greedy proposal."""
    honest = LearnedDrafter.propose

    def propose(self: Any, state: Any, rows: Any, anchor: Any, position: Any, _: Sampling, draws: Any) -> Proposal:
        sampled, greedy = (
            honest(self, state, rows, anchor, position, Sampling(temperature), draws) for temperature in (1.0, 0.0)
        )
        return wrong(sampled, greedy)

    monkeypatch.setattr(LearnedDrafter, "propose", propose)


@pytest.mark.parametrize("name", few(["dspark", "dflash", "eagle3"], "dspark"))
def test_judging_greedy_drafts_as_sampled_ones_is_caught(
    name: str, make: Callable[[str], Drafter], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """min(1, p/q) of a token that was not drawn from q biases the output. (The reverse does not: see the next test.)"""
    plant(monkeypatch, lambda sampled, greedy: Proposal(greedy.tokens, greedy.drafted, sampled.probs))
    assert p_value(target, make(name), Sampling()) < REJECT


def test_judging_sampled_drafts_as_greedy_ones_is_lossless_but_accepts_less(
    make: Callable[[str], Drafter], target: Target, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept with p(x), replaced from p without x: whatever x is, what comes out is p. Only the replay tells."""
    plant(monkeypatch, lambda sampled, _: Proposal(sampled.tokens, sampled.drafted, None))
    drafter, policy = make("mtp"), PolicySpec.parse("fixed:3").bind()
    assert p_value(target, drafter, Sampling()) > REJECT
    live = live_rounds(target, drafter, policy, Sampling())
    for anchors in recorded("mtp", Sampling()).values():
        assert smallest_p_value([replay(a, policy) for a in anchors], live) < REJECT


def test_greedy_drafts_write_out_no_distribution(make: Callable[[str], Drafter], target: Target) -> None:
    seen: list[Proposal] = []
    drafter = make("dspark")
    honest = drafter.propose

    def noted(*arguments: Any) -> Proposal:
        seen.append(honest(*arguments))
        return seen[-1]

    drafter.propose = noted  # type: ignore[method-assign]
    for sampling, drafting in ((Sampling(), "greedy"), (Sampling(temperature=0), "sampled")):
        list(decode(target, drafter, [DecodeRequest(PROMPT, 6, (0,))], sampling, max_batch=1, drafting=drafting))  # type: ignore[arg-type]
        assert {p.probs is None for p in seen} == {True}
        assert {p.certainty is not None and p.confidence is not None for p in seen} == {True}
        seen.clear()


# --- replayed as live -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "policy"),
    few(
        [(n, "temperature 1", "fixed:3") for n in LEARNED]
        + [(n, "temperature 0.7, top-k 4", "threshold:0.65") for n in ("dspark", "dspark-gated", "dspark-rnn")]
        + [("dspark", "top-p 0.8", "threshold:0.65")],
        ("eagle3", "temperature 1", "fixed:3"),
        ("dspark", "temperature 0.7, top-k 4", "threshold:0.65"),
    ),
)
def test_greedy_drafts_replay_as_live(
    name: str, settings: str, policy: str, make: Callable[[str], Drafter], target: Target, recorded: Recorded
) -> None:
    sampling, parsed = SETTINGS[settings], PolicySpec.parse(policy).bind()
    dense = [replay(a, parsed) for a in recorded(name, sampling)["greedy"]]
    assert smallest_p_value(dense, live_rounds(target, make(name), parsed, sampling, "greedy")) > REJECT


@pytest.mark.parametrize("name", few(["dspark", "dflash", "eagle3"], "dspark"))
def test_taking_one_way_for_the_other_is_caught(
    name: str, make: Callable[[str], Drafter], target: Target, recorded: Recorded
) -> None:
    """The tests above and of `test_dense` have power."""
    policy = PolicySpec.parse("fixed:3").bind()
    for played, other in (("sampled", "greedy"), ("greedy", "sampled")):
        live = live_rounds(target, make(name), policy, Sampling(), played)  # type: ignore[arg-type]
        assert smallest_p_value([replay(a, policy) for a in recorded(name, Sampling())[other]], live) < REJECT  # type: ignore[index]


@dataclass(frozen=True)
class Lagged(Policy):
    """Verifies as much as last round's draft was sure of, verified or not; one token in the first round."""

    replays_exactly = False
    name = "lagged"

    def admit(self, step: StepView) -> None:
        for request in range(step.running):
            stale = step.stale_confidence(request, 1)
            step.admit(request, 1 if stale is None else int((np.cumprod(stale) >= 0.4).sum()))


@pytest.mark.parametrize("name", few(["dspark-gated", "dspark-rnn"], "dspark-gated"))
def test_policies_that_look_at_old_tails_replay_greedy_drafts_exactly(
    name: str, make: Callable[[str], Drafter], target: Target, recorded: Recorded
) -> None:
    """A greedy tail is settled by the context, so there is no coupling to get wrong."""
    policy, sampling = Lagged(), Sampling(0.7, top_k=4)
    assert [replays_exactly(policy, way) for way in ("sampled", "greedy", "either")] == [False, True, True]
    assert not replays_exactly(PolicySpec("oracle"), "greedy")
    dense = [replay(a, policy) for a in recorded(name, sampling)["greedy"]]
    assert len({r.verified for rounds in dense for r in rounds}) > 1
    assert smallest_p_value(dense, live_rounds(target, make(name), policy, sampling, "greedy")) > REJECT


# --- the record itself ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dspark", "dflash", "eagle3", "mtp"])
def test_greedy_acceptances_match_one_block_at_a_time(name: str, make: Callable[[str], Drafter], target: Target) -> None:
    """β is 1 where the drafter's likeliest token, the response in front, is what the response says, else 0."""
    sampling, drafter = Sampling(0.7, top_p=0.9), make(name)
    for text in texts(target, [PROMPT] * 4, 12, sampling, 8):
        anchors = record_of(target, drafter, [text], sampling, drafting=("greedy",))[0]
        expected = np.zeros((text.anchors, GAMMA))
        for t in range(text.anchors):
            at = len(PROMPT) + t
            q = proposal_along(drafter, target, text.ids, at, sampling)
            for k in range(min(GAMMA, len(text.ids) - at - 1)):
                expected[t, k] = int(q[k].argmax()) == text.ids[at + k + 1]
        assert anchors.accept_prob.tolist() == expected.tolist()
        assert anchors.accepted.tolist() == expected.cumprod(1).sum(1).tolist()


def test_both_ways_of_one_pass_are_those_of_two(make: Callable[[str], Drafter], target: Target) -> None:
    done = texts(target, [PROMPT, (4, 1), PROMPT], 20, Sampling(), 3)
    drafters = [make(n) for n in ("dspark-rnn", "eagle3", "ngram")]
    together = record_anchors(target, drafters, done, Sampling(), drafting=DRAFTINGS, fresh=True)
    assert [list(found) for found in together] == [["sampled", "greedy"], ["sampled", "greedy"], ["either"]]
    for drafter, found in zip(drafters, together, strict=True):
        for way, anchors in found.items():
            asked: tuple[Drafting, ...] = ("sampled",) if way != "greedy" else ("greedy",)
            for ours, theirs in zip(
                anchors, record_of(target, drafter, done, Sampling(), drafting=asked, fresh=True), strict=True
            ):
                assert_same(ours, theirs)
    assert together[0]["sampled"][0].fresh_confidence is not None
    assert together[0]["greedy"][0].fresh_confidence is None  # the same tail again


def test_at_temperature_0_both_ways_are_one(make: Callable[[str], Drafter], target: Target) -> None:
    greedy = Sampling(temperature=0)
    done = texts(target, [PROMPT, (4, 1)], 20, greedy, 3)
    [found] = record_anchors(target, [make("dspark")], done, greedy, drafting=DRAFTINGS)
    assert list(found) == ["either"]
    requests = [DecodeRequest(t.prompt, 20, (0, i)) for i, t in enumerate(done)]
    for drafting in DRAFTINGS:
        live = dict(decode(target, make("dspark"), requests, greedy, max_batch=2, drafting=drafting))
        for i, anchors in enumerate(found["either"]):
            replayed = replay(anchors, PolicySpec.parse("fixed:3").bind())
            assert [r.accepted for r in replayed] == [r.accepted for r in live[i].rounds]


def test_estimates_see_the_greedy_draft(make: Callable[[str], Drafter], target: Target) -> None:
    """The certainty is max q at temperature 1 along the tokens drafted greedily."""
    [text], drafter = texts(target, [PROMPT], 12, Sampling(), 8), make("eagle3")
    anchors = record_of(target, drafter, [text], Sampling(), drafting=("greedy",))[0]
    assert anchors.certainty is not None
    for t in range(text.anchors):
        at = len(PROMPT) + t
        block: list[int] = []
        for _ in range(GAMMA):  # token by token, each the likeliest after those before
            q = proposal_along(drafter, target, [*text.ids[: at + 1], *block], at, Sampling())
            block.append(int(q[len(block)].argmax()))
        np.testing.assert_allclose(anchors.certainty[t], [float(p.max()) for p in q], atol=1e-5)
