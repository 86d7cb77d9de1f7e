"""The law of dense traces: their replay and live decoding give the same rounds, for every policy that claims so."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency

import drafters
import drafters.dense as dense_module
from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.dense import DenseText, Reading, record_anchors
from drafters.kinds.contract import Drafter
from drafters.kinds.none import NoDrafter
from drafters.sampling import probabilities
from drafters.target import Target
from simulator.errors import InputError
from simulator.policies import Policy, PolicySpec
from simulator.records import Anchors, Drafting, Round, Sampling
from simulator.replay import replay
from tests.drafters.conftest import ALL, END, GAMMA
from tests.selection import few

PROMPT = (1, 3, 4, 1, 3)
NEW_TOKENS = 8
SAMPLES = 4000
REJECT = 1e-4
DRAFTING = [n for n in ALL if n != "none"]


def texts(
    target: Target, prompts: Sequence[tuple[int, ...]], limit: int, sampling: Sampling, seed: int, gamma: int = GAMMA
) -> list[DenseText]:
    """Responses of the target alone, and what it would have said beyond the length limit."""
    requests = [DecodeRequest(p, limit + gamma, (seed, i)) for i, p in enumerate(prompts)]
    decoded = dict(decode(target, NoDrafter(), requests, sampling, max_batch=SAMPLES))
    result = []
    for i, prompt in enumerate(prompts):
        ids = tuple(decoded[i].token_ids)
        ended = len(ids) <= limit and decoded[i].finish == "stop"
        result.append(DenseText(prompt, ids[:limit], ids[limit:], ended, (seed + 1, i)))
    return result


def record_of(
    target: Target, drafter: Drafter, texts: Sequence[DenseText], sampling: Sampling, **options: Any
) -> list[Anchors]:
    """The dense record of one drafter, drafting one way."""
    [found] = record_anchors(target, [drafter], texts, sampling, **options)[0].values()
    return found


@pytest.fixture(scope="module")
def finished(target: Target) -> Callable[[Sampling], list[DenseText]]:
    """Many responses to one prompt, by sampling settings."""
    return cache(lambda sampling: texts(target, [PROMPT] * SAMPLES, NEW_TOKENS, sampling, 21))


@pytest.fixture(scope="module")
def recorded(
    target: Target, make: Callable[[str], Drafter], finished: Callable[[Sampling], list[DenseText]]
) -> Callable[[str, Sampling], list[Anchors]]:
    """Dense records of these responses, by drafter and sampling settings."""
    return cache(lambda name, sampling: record_of(target, make(name), finished(sampling), sampling))


def live_rounds(
    target: Target, drafter: Drafter, policy: Policy, sampling: Sampling, drafting: Drafting = "sampled"
) -> list[list[Round]]:
    requests = [DecodeRequest(PROMPT, NEW_TOKENS, (5, i)) for i in range(SAMPLES)]
    decoded = dict(decode(target, drafter, requests, sampling, max_batch=SAMPLES, policy=policy, drafting=drafting))
    return [decoded[i].rounds for i in range(SAMPLES)]


def p_value(one: Sequence[Any], other: Sequence[Any]) -> float:
    """χ² of homogeneity of two samples of categories; rare ones are pooled."""
    counts = [Counter(one), Counter(other)]
    common = [c for c in counts[0] | counts[1] if counts[0][c] + counts[1][c] >= 20]
    table = [[*(n[c] for c in common), sum(n.values()) - sum(n[c] for c in common)] for n in counts]
    if table[0][-1] + table[1][-1] < 20:
        table = [row[:-1] for row in table]
    return float(chi2_contingency(table).pvalue) if len(table[0]) > 1 else 1.0


def statistics(responses: list[list[Round]]) -> dict[str, list[Any]]:
    """One category a response each, so that the samples are independent."""
    result: dict[str, list[Any]] = {"rounds": [len(r) for r in responses]}
    for i in range(3):
        result[f"accepted in round {i}"] = [r[i].accepted if len(r) > i else None for r in responses]
        # Confidences to one digit, all of them: what the policy saw and what it did not.
        result[f"confidence and accepted in round {i}"] = [
            (tuple(np.floor(np.array(r[i].confidence) * 10)), r[i].verified, r[i].accepted) if len(r) > i else None
            for r in responses
        ]
    result["all rounds"] = [tuple((r.verified, r.accepted, r.committed) for r in rounds) for rounds in responses]
    return result


def smallest_p_value(one: list[list[Round]], other: list[list[Round]]) -> float:
    ours, theirs = statistics(one), statistics(other)
    return min(p_value(ours[name], theirs[name]) for name in ours) * len(ours)


SETTINGS = {
    "temperature 1": Sampling(),
    "temperature 0.7, top-k 4": Sampling(temperature=0.7, top_k=4),
    "top-p 0.8": Sampling(top_p=0.8),
}


Recorded = Callable[[str, Sampling], list[Anchors]]


@pytest.mark.parametrize(
    ("name", "policy"),
    few(
        [(n, "fixed:3") for n in DRAFTING] + [("dspark", f"fixed:{k}") for k in (0, 1, 2)] + [("eagle3", "fixed:1")],
        ("dspark", "fixed:3"),
        ("ngram", "fixed:3"),
        ("eagle3", "fixed:1"),
    ),
)
def test_fixed_policies_replay_as_live(
    name: str, policy: str, make: Callable[[str], Drafter], target: Target, recorded: Recorded
) -> None:
    dense = [replay(a, PolicySpec.parse(policy).bind()) for a in recorded(name, Sampling())]
    live = live_rounds(target, make(name), PolicySpec.parse(policy).bind(), Sampling())
    assert smallest_p_value(dense, live) > REJECT


@pytest.mark.parametrize("name", few(["dspark", "dspark-gated", "dspark-rnn"], "dspark"))
@pytest.mark.parametrize("settings", few(SETTINGS, "temperature 0.7, top-k 4"))
def test_threshold_policies_replay_as_live(
    name: str, settings: str, make: Callable[[str], Drafter], target: Target, recorded: Recorded
) -> None:
    policy, sampling = PolicySpec.parse("threshold:0.65").bind(), SETTINGS[settings]
    dense = [replay(a, policy) for a in recorded(name, sampling)]
    assert len({r.verified for rounds in dense for r in rounds}) > 1  # the threshold decides something here
    assert smallest_p_value(dense, live_rounds(target, make(name), policy, sampling)) > REJECT


@pytest.mark.parametrize("name", few(DRAFTING, "dspark", "mtp"))
def test_sampling_settings_replay_as_live(
    name: str, make: Callable[[str], Drafter], target: Target, recorded: Recorded
) -> None:
    policy, sampling = PolicySpec.parse("fixed:3").bind(), Sampling(top_p=0.8)
    dense = [replay(a, policy) for a in recorded(name, sampling)]
    assert smallest_p_value(dense, live_rounds(target, make(name), policy, sampling)) > REJECT


PLANTED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "an acceptance 30 % too eager": lambda beta: (beta * 1.3).clamp(max=1.0),
    "an acceptance 10 % too strict": lambda beta: beta * 0.9,
}


def plant(monkeypatch: pytest.MonkeyPatch, error: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Record with wrong acceptance probabilities: `error` of the true ones."""
    honest = dense_module._Blocks.follow

    def wrong(self: Any, k: int, logits: torch.Tensor) -> torch.Tensor:
        before = self.accepted.clone()
        said = honest(self, k, logits)
        self.accept_prob[k] = error(self.accept_prob[k])
        self.accepted = before + ((before == k) & (self.verdicts.uniform[k, 0] < self.accept_prob[k]))
        return said

    monkeypatch.setattr(dense_module._Blocks, "follow", wrong)


@pytest.mark.parametrize("error", list(PLANTED))
@pytest.mark.parametrize("name", few(["dspark", "dflash", "eagle3"], "dspark"))
def test_a_planted_error_is_caught(
    name: str,
    error: str,
    make: Callable[[str], Drafter],
    target: Target,
    finished: Callable[[Sampling], list[DenseText]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tests above have power."""
    plant(monkeypatch, PLANTED[error])
    drafter, policy = make(name), PolicySpec.parse("fixed:3").bind()
    dense = [replay(a, policy) for a in record_of(target, drafter, finished(Sampling()), Sampling())]
    assert smallest_p_value(dense, live_rounds(target, drafter, policy, Sampling())) < REJECT


@pytest.mark.parametrize("name", few(["dspark-gated", "dspark-rnn"], "dspark-gated"))
def test_a_draft_uncoupled_from_its_acceptances_is_caught(
    name: str,
    make: Callable[[str], Drafter],
    target: Target,
    finished: Callable[[Sampling], list[DenseText]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Confidences depend on the tokens drafted before them, accepted or not: from a free draft, they are wrong."""
    monkeypatch.setattr(dense_module._Blocks, "couple", dense_module._Blocks.free)
    drafter, policy = make(name), PolicySpec.parse("fixed:3").bind()
    dense = [replay(a, policy) for a in record_of(target, drafter, finished(Sampling()), Sampling())]
    assert smallest_p_value(dense, live_rounds(target, drafter, policy, Sampling())) < REJECT


@pytest.mark.parametrize("name", few(DRAFTING, "dspark", "eagle3", "ngram"))
def test_greedy_replay_is_live_decoding_exactly(name: str, make: Callable[[str], Drafter], target: Target) -> None:
    rng = np.random.default_rng(3)
    prompts = [tuple(rng.choice([1, 3, 4, 5], size=n).tolist()) for n in rng.integers(1, 20, 30)]
    drafter, greedy = make(name), Sampling(temperature=0)
    done = texts(target, prompts, 25, greedy, 0)
    assert {t.ended for t in done} == {False, True}
    anchors = record_of(target, drafter, done, greedy)
    policies = ["fixed:0", "fixed:1", "fixed:2", "fixed:3"] + ["threshold:0.5"] * name.startswith("dspark")
    for policy in (PolicySpec.parse(text).bind() for text in policies):
        requests = [DecodeRequest(p, 25, (0, i)) for i, p in enumerate(prompts)]
        live = dict(decode(target, drafter, requests, greedy, max_batch=7, policy=policy))
        for i, recorded in enumerate(anchors):
            replayed = replay(recorded, policy)
            assert [outcome(r) for r in replayed] == [outcome(r) for r in live[i].rounds]
            for ours, theirs in zip(replayed, live[i].rounds, strict=True):
                np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=1e-4)


def outcome(r: Round) -> tuple[int, ...]:
    return r.drafted, r.verified, r.accepted, r.committed


@pytest.mark.parametrize("name", DRAFTING)
def test_records_do_not_depend_on_the_pass(name: str, make: Callable[[str], Drafter], target: Target) -> None:
    """One text alone, many together, or a few anchors at a time: the same record."""
    rng = np.random.default_rng(4)
    prompts = [tuple(rng.choice([1, 3, 4, 5], size=n).tolist()) for n in (3, 9, 4, 4, 30, 1)]
    done, drafter = texts(target, prompts, 20, Sampling(), 3), make(name)
    together = record_of(target, drafter, done, Sampling(), fresh=True)
    for i, text in enumerate(done):
        [alone] = record_of(target, drafter, [text], Sampling(), fresh=True)
        [sliced] = record_of(target, drafter, [text], Sampling(), budget_bytes=40_000, fresh=True)
        for other in (alone, sliced):
            assert_same(other, together[i])


def assert_same(one: Anchors, other: Anchors) -> None:
    assert one.drafted.tolist() == other.drafted.tolist()
    assert one.accepted.tolist() == other.accepted.tolist()
    for name in ("accept_prob", "confidence", "fresh_confidence", "certainty"):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["dspark", "dflash", "eagle3", "mtp", "ngram"])
def test_acceptance_probabilities_match_one_block_at_a_time(
    name: str, make: Callable[[str], Drafter], target: Target
) -> None:
    """β from the dense pass against the drafter's own live proposal, forced along the response."""
    sampling, drafter = Sampling(top_p=0.9), make(name)
    [text] = texts(target, [PROMPT], 12, sampling, 8)
    [anchors] = record_of(target, drafter, [text], sampling)
    ids = text.ids
    with torch.no_grad():
        p = probabilities(sampling, target.model(torch.tensor([ids]), use_cache=False).logits[0])
    for t in range(text.anchors):
        at = len(PROMPT) + t
        q = proposal_along(drafter, target, ids, at, sampling)
        for k in range(min(GAMMA, len(ids) - at - 1)):
            token = ids[at + k + 1]
            expected = min(1.0, float(q[k][token] / p[at + k][token]))
            assert anchors.accept_prob[t, k] == pytest.approx(expected, abs=1e-5)
        if text.ended:
            assert not anchors.accept_prob[t, len(ids) - at - 1 :].any()


@pytest.mark.parametrize("name", ["dspark", "eagle3"])
def test_what_is_accepted_is_what_the_coins_say(name: str, make: Callable[[str], Drafter], target: Target) -> None:
    """Of each text's own stream: positions before the first whose coin is not below its acceptance probability."""
    done = texts(target, [PROMPT] * 50, NEW_TOKENS, Sampling(), 6)
    for text, anchors in zip(done, record_of(target, make(name), done, Sampling()), strict=True):
        coins = np.random.Generator(np.random.Philox(seed=text.seed)).random((GAMMA, 3, text.anchors))[:, 0].T
        assert anchors.accepted.tolist() == (coins < anchors.accept_prob).cumprod(1).sum(1).tolist()


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(), Sampling(0.7, top_p=0.8, top_k=4)], ids=str)
@pytest.mark.parametrize("name", ["dflash", "eagle3", "mtp"])
def test_certainty_is_the_largest_live_probability(
    name: str, sampling: Sampling, make: Callable[[str], Drafter], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Along the coupled draft, of the distribution at temperature 1 with nothing cut off, whatever the settings."""
    drafted, couple = [], dense_module._Blocks.couple

    def noted(self: Any, k: int, logits: torch.Tensor) -> torch.Tensor:
        drafted.append(couple(self, k, logits))
        return drafted[-1]

    monkeypatch.setattr(dense_module._Blocks, "couple", noted)
    drafter = make(name)
    [text] = texts(target, [PROMPT], 12, sampling, 8)
    [anchors] = record_of(target, drafter, [text], sampling)
    assert anchors.confidence is None
    assert anchors.certainty is not None
    for t in range(text.anchors):
        at, block = len(PROMPT) + t, [int(tokens[0, t]) for tokens in drafted]
        q = proposal_along(drafter, target, [*text.ids[: at + 1], *block], at, Sampling())
        np.testing.assert_allclose(anchors.certainty[t], [float(p.max()) for p in q], atol=1e-5)
        if sampling.temperature == 0:  # the coupled draft is the live one
            live = proposal_along(drafter, target, [*text.ids[: at + 1], *block], at, sampling)
            assert block == [int(p.argmax()) for p in live]
    assert 1 / 6 < anchors.certainty.min() < anchors.certainty.max() < 1


def test_who_is_confident_has_no_certainty_and_lookup_has_neither(make: Callable[[str], Drafter], target: Target) -> None:
    [text] = texts(target, [PROMPT], 12, Sampling(), 8)
    found = record_anchors(target, [make(name) for name in ("dspark", "eagle3", "ngram")], [text], Sampling(), fresh=True)
    known = [
        [x is not None for x in (a.confidence, a.fresh_confidence, a.certainty)] for one in found for [a] in one.values()
    ]
    assert known == [[True, True, False], [False, False, True], [False, False, False]]


def proposal_along(drafter: Drafter, target: Target, ids: list[int], at: int, sampling: Sampling) -> list[torch.Tensor]:
    """q_1..q_γ at the anchor `ids[at]` with the text itself as the drafted tokens, from the live state."""
    from drafters.cache import Positions
    from drafters.kinds import learned as drafter_module
    from drafters.sampling import Draws

    cache, state = target.new_cache(1, len(ids) + 9), drafter.start(1, len(ids) + 9)
    tokens, read = torch.tensor([ids[:at]]), Positions.of([0], at, target.device)
    seen = target.forward(tokens, read, cache, slice(0, 1), drafter.tap_layers)
    drafter.observe(state, slice(0, 1), read, seen.taps, torch.tensor([ids[: at + 1]]), torch.tensor([at]))
    draws = Draws(torch.zeros(1, GAMMA).double(), torch.zeros(1, GAMMA).double(), torch.zeros(1).double())
    forced = iter([*ids[at + 1 :], *[0] * GAMMA])
    original, drafter_module.sample = drafter_module.sample, lambda *_: torch.tensor([next(forced)])
    try:
        position = Positions.of([at], 1, target.device)
        proposal = drafter.propose(state, slice(0, 1), torch.tensor([ids[at]]), position, sampling, draws)
    finally:
        drafter_module.sample = original
    if proposal.probs is None:
        size = proposal.drafted[0]
        return [torch.eye(6)[int(proposal.tokens[0, k])] if k < size else torch.zeros(6) for k in range(GAMMA)]
    return list(proposal.probs[0])


def test_tokens_that_the_target_cannot_say_are_counted(make: Callable[[str], Drafter], target: Target) -> None:
    """Against the model's own distributions over each whole text, one at a time."""
    sampled = texts(target, [PROMPT] * 5, 30, Sampling(temperature=2.0), 1)
    for sampling in (Sampling(temperature=0), Sampling(top_p=0.5), Sampling(temperature=2.0)):
        expected = []
        for text in sampled:
            with torch.no_grad():
                p = probabilities(sampling, target.model(torch.tensor([text.ids]), use_cache=False).logits[0])
            said = range(len(text.prompt) + 1, len(text.prompt) + len(text.response))
            expected.append(sum(float(p[i - 1, text.ids[i]]) == 0 for i in said))
        for kinds in ([make("dflash"), make("ngram")], [make("ngram")]):
            made: list[Reading] = []
            record_anchors(target, kinds, sampled, sampling, budget_bytes=40_000, readings=made)
            assert [one.outside for one in made] == expected
        assert (sum(expected) > 20) == (sampling.temperature != 2.0)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=2.0), Sampling(top_p=0.7)], ids=str)
def test_own_texts_surprise_as_much_as_they_should(
    sampling: Sampling, make: Callable[[str], Drafter], target: Target
) -> None:
    """Σ (−log p − H) of the target's own samples is 0 within its variance; of tokens drawn evenly it is far from that."""
    own: list[Reading] = []
    record_anchors(target, [make("ngram")], texts(target, [PROMPT] * 60, 30, sampling, 7), sampling, readings=own)
    z = sum(one.surprise for one in own) / np.sqrt(sum(one.variance for one in own))
    assert abs(z) < 4
    flatter = Sampling(temperature=3 * sampling.temperature)
    foreign: list[Reading] = []
    record_anchors(target, [make("ngram")], texts(target, [PROMPT] * 60, 30, flatter, 7), sampling, readings=foreign)
    assert sum(one.outside for one in foreign) > 20 or (
        sum(one.surprise for one in foreign) / np.sqrt(sum(one.variance for one in foreign)) > 6
    )


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(top_p=0.9)], ids=str)
def test_bfloat16_records_what_it_said_itself(sampling: Sampling) -> None:
    """Decoded in pieces and read whole it rounds otherwise here and there, which refuses nothing."""
    tiny = Path(drafters.__file__).parent / "tiny"
    target = Target.load(str(tiny / "target"), dtype=torch.bfloat16)
    drafter = load_drafter(str(tiny / "mtp"), target)
    prompts = [tuple(target.encode_chat([{"role": "user", "content": f"Count to {n}."}])) for n in range(6, 14)]
    made: list[Reading] = []
    said = texts(target, prompts, 48, sampling, 3)
    [recorded] = record_anchors(target, [drafter], said, sampling, readings=made)[0].values()
    tokens = sum(len(a) for a in recorded)
    assert (sampling.temperature == 0) <= sum(one.outside for one in made) < 0.05 * tokens
    assert all(np.isfinite(a.accept_prob).all() for a in recorded)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            "target",
            r"^prompt t/0: the target's logits after position 5 of the text are not finite in float32; give the pair",
        ),
        ("drafter", r"^prompt t/0: logits or confidences of dspark for drafts after position 5 of the text are not finite"),
        (
            "confidence",
            r"^prompt t/0: logits or confidences of dspark for drafts after position 5 of the text are not finite",
        ),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_that_is_not_finite_is_recorded(
    part: str, temperature: float, message: str, make: Callable[[str], Drafter], target: Target
) -> None:
    """A nan would be recorded as token 0, or as a rejection; both read and live it is named instead."""
    drafter: Any = make("dspark")
    broken, sampling = copy.deepcopy(target), Sampling(temperature)
    text = DenseText(PROMPT, (1, 3, 4, END), (), True, (1,), "prompt t/0")
    if part == "target":
        broken.model.model.norm.weight.data[3] = torch.inf
    else:
        weights = drafter.confidence_head if part == "confidence" else drafter.layers[0]
        next(weights.parameters()).data.view(-1)[0] = torch.nan
    with pytest.raises(InputError, match=message):
        record_anchors(broken, [drafter], [text], sampling)
    request = DecodeRequest(PROMPT, 9, (0,), "prompt t/0")
    live = {
        "target": "target's logits after position 4",
        "drafter": "drafter's logits after position 5",
        "confidence": "drafter's confidences after position 5",
    }
    with pytest.raises(InputError, match=f"^prompt t/0: the {live[part]} of the text are not finite in float32"):
        list(decode(broken, drafter, [request], sampling, max_batch=1))


@pytest.mark.parametrize("name", ["dspark", "eagle3", "ngram"])
def test_a_response_of_one_token_has_no_anchors(name: str, make: Callable[[str], Drafter], target: Target) -> None:
    one, long = DenseText(PROMPT, (END,), (), True, (0,)), DenseText(PROMPT, (1, 3, 4, END), (), True, (1,))
    drafter = make(name)
    for texts in ([one], [one, long], [one, one]):
        recorded = record_of(target, drafter, texts, Sampling(), fresh=True)
        assert [len(a) for a in recorded] == [t.anchors for t in texts]
        assert {a.accept_prob.shape[1] for a in recorded} == {GAMMA}
        assert {a.confidence is not None for a in recorded} == {name == "dspark"}
        assert {a.fresh_confidence is not None for a in recorded} == {name == "dspark"}


def test_a_drafter_that_drafts_nothing_has_no_record(make: Callable[[str], Drafter], target: Target) -> None:
    """Plain decoding has no anchors to record: an empty record would look like a drafter that was never accepted."""
    text = DenseText(PROMPT, (1, 3, 4, END), (), True, (1,))
    with pytest.raises(TypeError, match="none: no dense record of a NoDrafter"):
        record_anchors(target, [make("dflash"), make("none")], [text], Sampling())


def test_a_cut_response_needs_its_continuation(make: Callable[[str], Drafter], target: Target) -> None:
    cut = DenseText(PROMPT, (1, 3, 4), (1,), False, (0,))
    with pytest.raises(InputError, match="goes on for 1 tokens; γ = 3 are needed"):
        record_anchors(target, [make("dflash")], [cut], Sampling())
