"""Losslessness: what is committed follows the target, whatever the drafter, the batch or the sampling settings."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import drafters.sampling as sampling_module
from drafters.decoding import Decoded, DecodeRequest, decode
from drafters.kinds.contract import Drafter
from drafters.sampling import Draws, Proposal, probabilities, verify
from drafters.target import Target
from simulator.errors import InputError
from simulator.records import Drafting, Sampling
from tests.drafters.conftest import ALL, END, VOCAB
from tests.selection import few

PROMPT = (1, 3, 4, 1, 3)
NEW_TOKENS = 4
SAMPLES = 6_000
REJECT = 1e-4


def law(target: Target, sampling: Sampling) -> dict[tuple[int, ...], float]:
    """Exact probability of every response of up to NEW_TOKENS tokens, from plain full forward passes."""
    result: dict[tuple[int, ...], float] = {}
    alive: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(NEW_TOKENS):
        texts = torch.tensor([[*PROMPT, *response] for response in alive], device=target.device)
        with torch.no_grad():
            probs = probabilities(sampling, target.model(texts, use_cache=False).logits[:, -1].double())
        longer = {
            (*response, token): weight * float(row[token])
            for (response, weight), row in zip(alive.items(), probs, strict=True)
            for token in range(VOCAB)
        }
        result |= {r: w for r, w in longer.items() if r[-1] == END}
        alive = {r: w for r, w in longer.items() if r[-1] != END and w > 0}
    result |= alive
    return {r: w for r, w in result.items() if w > 0}


def p_value(
    target: Target, drafter: Drafter, sampling: Sampling, samples: int = SAMPLES, drafting: Drafting = "sampled"
) -> float:
    """χ² of whole responses against the exact law; rare responses are pooled."""
    requests = [DecodeRequest(PROMPT, NEW_TOKENS, (11, i)) for i in range(samples)]
    decoded = decode(target, drafter, requests, sampling, max_batch=4000, drafting=drafting)
    seen = Counter(tuple(d.token_ids) for _, d in decoded)
    expected = law(target, sampling)
    assert abs(sum(expected.values()) - 1) < 1e-5
    if set(seen) - set(expected):
        return 0.0  # a response the target cannot give
    common = [r for r, w in expected.items() if w * samples >= 8]
    observed = [*(seen[r] for r in common), samples - sum(seen[r] for r in common)]
    weights = [*(expected[r] for r in common), 1 - sum(expected[r] for r in common)]
    if weights[-1] * samples < 8:
        observed, weights = observed[:-1], weights[:-1]
    scale = sum(observed) / sum(weights)
    return float(chisquare(observed, [w * scale for w in weights]).pvalue)


SETTINGS = {
    "temperature 1": Sampling(),
    "temperature 0.7, top-k 4": Sampling(temperature=0.7, top_k=4),
    "top-p 0.8": Sampling(top_p=0.8),
}


@pytest.mark.parametrize("name", few(ALL, "dspark", "eagle3", "ngram"))
@pytest.mark.parametrize("settings", few(SETTINGS, "temperature 0.7, top-k 4"))
def test_responses_follow_the_targets_law(name: str, settings: str, make: Callable[[str], Drafter], target: Target) -> None:
    assert p_value(target, make(name), SETTINGS[settings]) > REJECT


@pytest.mark.parametrize("name", few([n for n in ALL if n != "none"], "dspark", "ngram"))
def test_a_wrong_residual_is_caught(
    name: str, make: Callable[[str], Drafter], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above has power: replacing max(p − q, 0) by p, a classic mistake, is rejected for every drafter."""
    monkeypatch.setattr(sampling_module, "_residual", lambda proposal, p_final, *rest: p_final)
    assert p_value(target, make(name), Sampling()) < REJECT


@pytest.mark.parametrize("name", few([n for n in ALL if n != "none"], "dspark", "ngram"))
def test_accepting_too_much_is_caught(
    name: str, make: Callable[[str], Drafter], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is an acceptance probability 30 % too high."""
    honest = sampling_module.verify

    def eager(proposal, verified, target_probs, draws):  # type: ignore[no-untyped-def]
        lower = sampling_module.Draws(draws.draft, draws.accept * 0.7, draws.final)
        return honest(proposal, verified, target_probs, lower)

    monkeypatch.setattr("drafters.decoding.verify", eager)
    assert p_value(target, make(name), Sampling()) < REJECT


@pytest.mark.parametrize("drafting", ["sampled", "greedy"])
def test_one_round_commits_the_targets_law(drafting: Drafting) -> None:
    """Every draft token, at every 200th of its acceptance and 1000th of what replaces it: weighed by q, their sum is p.

    An acceptance 2 % too eager moves a law by less than thousands of draws can tell.
    """
    p, q = torch.tensor([0.06, 0.1, 0.15, 0.2, 0.2, 0.29]), torch.tensor([0.3, 0.2, 0.2, 0.15, 0.1, 0.05])
    tokens = torch.arange(VOCAB) if drafting == "sampled" else torch.tensor([0])
    accepts, finals = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (200, 1000))
    token, accept, final = (column.flatten() for column in torch.meshgrid(tokens.double(), accepts, finals, indexing="ij"))
    token, count = token.long(), len(token)
    probs = q.expand(count, 1, VOCAB) if drafting == "sampled" else None
    verdict = verify(
        Proposal(token.unsqueeze(1), (1,) * count, probs),
        torch.ones(count, dtype=torch.int64),
        p.expand(count, 2, VOCAB),
        Draws(accept.unsqueeze(1), accept.unsqueeze(1), final),
    )
    committed = torch.where(verdict.accepted == 1, token, verdict.next_token)
    weight = (q[token].double() if drafting == "sampled" else torch.ones(count).double()) / (len(accepts) * len(finals))
    found = torch.zeros(VOCAB, dtype=torch.float64).index_add(0, committed, weight)
    torch.testing.assert_close(found, p.double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_greedy_output_is_the_targets_own(name: str, make: Callable[[str], Drafter], target: Target) -> None:
    prompts = [tuple(p) for p in itertools.islice(itertools.product((1, 3, 4), repeat=3), 12)]
    prompts += [(1, 3, 4, 1, 3, 5, 4) * 3, (4,)]
    requests = [DecodeRequest(p, 40, (0, i)) for i, p in enumerate(prompts)]
    decoded = dict(decode(target, make(name), requests, Sampling(temperature=0), max_batch=5))
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            ids = torch.tensor([prompt], device=target.device)
            own = target.model.generate(ids, max_new_tokens=40, do_sample=False, pad_token_id=0)
        assert decoded[i].token_ids == own[0, len(prompt) :].tolist()
        assert decoded[i].finish == ("stop" if decoded[i].token_ids[-1] == END else "length")


def outcome(decoded: Decoded) -> tuple[object, ...]:
    """All of a response that must not depend on the batch: everything but the clock and the batch's size."""
    rounds = [(r.drafted, r.verified, r.accepted, r.committed, np.round(r.confidence, 4).tolist()) for r in decoded.rounds]
    return decoded.token_ids, decoded.finish, rounds


@pytest.mark.parametrize("name", ALL)
def test_results_do_not_depend_on_the_batch(name: str, make: Callable[[str], Drafter], target: Target) -> None:
    rng = np.random.default_rng(3)
    prompts = [tuple(rng.choice([1, 3, 4, 5], size=n).tolist()) for n in (1, 2, 5, 9, 14, 3, 7, 20)]
    requests = [DecodeRequest(p, int(rng.integers(2, 30)), (5, i)) for i, p in enumerate(prompts)]
    drafter = make(name)

    def run(order: list[int], max_batch: int) -> dict[int, tuple[object, ...]]:
        done = decode(target, drafter, [requests[i] for i in order], Sampling(), max_batch=max_batch)
        return {order[j]: outcome(d) for j, d in done}

    alone = run(list(range(8)), 1)
    assert run(list(range(8)), 8) == alone
    assert run([7, 2, 5, 0, 1, 6, 3, 4], 3) == alone
    some = run([6, 2], 2)
    assert some == {i: alone[i] for i in some}


@pytest.mark.parametrize("name", ALL)
def test_rounds_account_for_every_token(name: str, make: Callable[[str], Drafter], target: Target) -> None:
    requests = [DecodeRequest(PROMPT, limit, (2, i)) for i, limit in enumerate([1, 2, 3, 5, 8, 13, 60, 60, 60, 60])]
    for i, decoded in decode(target, make(name), requests, Sampling(), max_batch=4):
        assert len(decoded.token_ids) == 1 + sum(r.committed for r in decoded.rounds)
        assert len(decoded.token_ids) <= requests[i].max_new_tokens
        assert END not in decoded.token_ids[:-1]
        for r in decoded.rounds[:-1]:
            assert r.committed == r.accepted + 1
        if decoded.finish == "length":
            assert len(decoded.token_ids) == requests[i].max_new_tokens


def test_a_request_beyond_the_context_is_refused(make: Callable[[str], Drafter], target: Target) -> None:
    with pytest.raises(InputError, match="context has 256"):
        list(decode(target, make("none"), [DecodeRequest((1,) * 250, 9, (0,))], Sampling(), max_batch=1))


@pytest.mark.parametrize("settings", [Sampling(0.5), Sampling(1, 0.6), Sampling(1, 1, 3), Sampling(2, 0.7, 4), Sampling(0)])
def test_probabilities_match_a_plain_reference(settings: Sampling) -> None:
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row, ours in zip(logits, probabilities(settings, logits), strict=True):
        assert ours.double().numpy() == pytest.approx(plain_probabilities(row.numpy(), settings), abs=1e-6)


def plain_probabilities(logits: np.ndarray, s: Sampling) -> np.ndarray:
    """Sort, cut, renormalise; one token at a time."""
    if s.temperature == 0:
        return np.eye(len(logits))[int(logits.argmax())]
    weights = np.exp(logits / s.temperature)
    order = sorted(range(len(logits)), key=lambda i: -weights[i])
    if s.top_k:
        order = order[: s.top_k]
    total, kept, mass = sum(weights[i] for i in order), [], 0.0
    for i in order:
        if mass >= s.top_p:
            break
        kept.append(i)
        mass += weights[i] / total
    result = np.zeros(len(logits))
    for i in kept:
        result[i] = weights[i] / sum(weights[j] for j in kept)
    return result
