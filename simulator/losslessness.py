"""A world small enough to be known: a target and a drafter of three tokens, given as tables, decoded under a policy.

Whatever a policy does, what comes out must have the target's law, which is exact here. The drafter's confidences say a lot
about the token drafted before, so that a policy which looks at one too early and declines for it shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.errors import InputError
from simulator.hardware.cost import StepCost, StepLoad
from simulator.policies.contract import Policy, StepView, verify_lengths
from simulator.policies.spec import PolicySpec
from simulator.records import Round

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TARGET: Floats = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]])
"""P(next token | token) of the target."""
DRAFTER: Floats = np.array([[0.4, 0.2, 0.4], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]])
"""The same of the drafter."""
CONFIDENCE, AROUND = np.array([0.5, 0.9, 0.2]), 0.4
"""c of a position by the token before it, in the middle, and how far from that it is in a batch and at a position: policies
decide by thresholds of their own, so there must be confidences around any."""
GAMMA, TOKENS, START = 4, 4, 0
BATCHES = (1, 2, 5, 8, 40)
"""Requests that decode together, in turn."""
_MOST, LONGEST, _STEPS = 512, 16, 300
"""What a policy is asked about beyond what is decoded, and a compiled form held to it in: requests of the largest batch, the
longest block, steps at random."""
TOGETHER = 8
"""Times that all of these go by before a policy begins anew: what it learns reaches so far."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What a policy made of many requests."""

    counts: Ints
    """How often each text came out, in the order of `law`."""
    lengths: Ints
    """How often ℓ = 0..γ of a draft was verified."""
    repeats: bool
    """Whether the policy, made anew and asked the same, decided the same."""

    @property
    def verified(self) -> float:
        """The share of rounds in which anything of a draft was verified."""
        return float(1 - self.lengths[0] / self.lengths.sum())


def law() -> Floats:
    """P of every text of `TOKENS` tokens after `START`, [3^TOKENS]: what a lossless policy must leave as it is."""
    texts = np.array(list(itertools.product(range(3), repeat=TOKENS)))
    before = np.concatenate([np.full((len(texts), 1), START), texts[:, :-1]], axis=1)
    return np.asarray(TARGET[before, texts].prod(axis=1))


def texts_under(spec: PolicySpec, samples: int, seed: int, progress: Callable[[int], None] = lambda done: None) -> Texts:
    """Decode at least so many requests; `progress` is told how many are done.

    Raises InputError where the policy looks at what it must not, is a bound, or decides otherwise than its compiled form.
    """
    if not spec.lossless:
        raise InputError(f"policy {spec}: says of itself that it is not lossless: there is nothing to check")
    progress(0)
    _check_longer(spec, seed)
    rng = np.random.default_rng(seed)
    first = counts, lengths = _decoded(spec, rng)
    repeats = _same(_decoded(spec, np.random.default_rng(seed)), first)
    while (done := int(counts.sum())) < samples:
        progress(done)
        more = _decoded(spec, rng)
        counts, lengths = counts + more[0], lengths + more[1]
    repeats = repeats and _same(_decoded(spec, np.random.default_rng(seed)), first)
    progress(samples)
    return Texts(counts, lengths, repeats)


def _check_longer(spec: PolicySpec, seed: int) -> None:
    """Ask a policy about what is not decoded here: longer blocks, larger batches, drafts that are cut, prompts and contexts
    beside them. Raises InputError where it looks at what it must not, or its compiled form decides otherwise."""
    policy = spec.bind(_cost())
    form = policy.compiled()
    if form is not None:
        for gamma, requests in itertools.product((1, GAMMA, LONGEST), range(1, _MOST + 1)):
            _check_drafts(spec, policy, form, StepLoad(requests), gamma)
    rng = np.random.default_rng(seed)
    for load, gamma in [_any_load(rng) for _ in range(_STEPS)]:
        k = min(policy.draft(load, gamma), gamma) if form is None else _check_drafts(spec, policy, form, load, gamma)
        drafted = [k if rng.random() < 0.5 else int(rng.integers(0, k + 1)) for _ in range(load.decoding)]
        shown = [rng.random(n).tolist() for n in drafted]
        past = [[_any_round(rng, gamma, load.decoding)] * int(rng.integers(0, 2)) for _ in drafted]
        verified = verify_lengths(policy, StepView(policy, drafted, shown, past, load=load))
        formed = verified if form is None else verify_lengths(form, StepView(form, drafted, shown, past, load=load))
        for n, own, its in zip(drafted, verified, formed, strict=True):
            if own != its:
                raise InputError(
                    f"policy {spec}: its `compiled` verifies {its} of {n} drafted tokens, and it {own} ({load})"
                )
        accepted = [int(rng.integers(0, n + 1)) for n in verified]
        policy.learn(verified, accepted)
        if form is not None:
            form.learn(verified, accepted)


def _any_load(rng: np.random.Generator) -> tuple[StepLoad, int]:
    """(what a step holds, γ)."""
    prefilling = int(rng.integers(0, 3))
    load = StepLoad(
        decoding=int(rng.integers(1, 65)), prefilling=prefilling, finishing_prefill=int(rng.integers(0, prefilling + 1)),
        prefill_tokens=prefilling * int(rng.integers(1, 100)), prefill_pairs=prefilling * int(rng.integers(1, 10_000)),
        context_tokens=int(rng.integers(0, 100_000)),
    )  # fmt: skip
    return load, int(rng.integers(1, LONGEST + 1))


def _any_round(rng: np.random.Generator, gamma: int, running: int) -> Round:
    verified = int(rng.integers(0, gamma + 1))
    accepted = int(rng.integers(0, verified + 1))
    return Round(gamma, verified, accepted, accepted + 1, tuple(rng.random(gamma).tolist()), running)


def _check_drafts(spec: PolicySpec, policy: Policy, form: Policy, load: StepLoad, gamma: int) -> int:
    """What both draft. Raises InputError where that differs."""
    k, form_k = (min(one.draft(load, gamma), gamma) for one in (policy, form))
    if k != form_k:
        told = f"its `compiled` drafts {form_k} of {gamma} tokens for each of {load.decoding} requests, and it {k} ({load})"
        raise InputError(f"policy {spec}: {told}")
    return k


def _same(one: tuple[Ints, Ints], other: tuple[Ints, Ints]) -> bool:
    return all(map(np.array_equal, one, other))


def _decoded(spec: PolicySpec, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Counts and lengths as `Texts` has them, of all batches in turn under a policy made anew."""
    policy, texts, lengths = spec.bind(_cost()), list[list[int]](), np.zeros(GAMMA + 1, np.int64)
    form = policy.compiled()
    for requests in BATCHES * TOGETHER:
        texts += _batch(policy, form, requests, rng, lengths)
    places = np.ravel_multi_index(tuple(np.transpose(texts)), (3,) * TOKENS)
    return np.bincount(places, minlength=3**TOKENS), lengths


def _cost() -> StepCost:
    """Steps that a policy which weighs them has something to weigh of: dearer with every token, and with drafting."""
    verify = 1.0 + 0.15 * np.arange((LONGEST + 2) * _MOST, dtype=np.float64)
    draft = np.repeat(0.05 * np.arange(LONGEST + 1.0)[:, None], _MOST + 1, axis=1)
    return StepCost(verify, verify, draft, np.zeros(LONGEST + 1))


def _batch(policy: Policy, form: Policy | None, requests: int, rng: np.random.Generator, lengths: Ints) -> list[list[int]]:
    """Texts of requests that begin together; those that have theirs leave. A compiled form is held to the policy."""
    sure = np.clip(CONFIDENCE + AROUND * rng.uniform(-1, 1, (GAMMA, 3)), 0.0, 1.0).tolist()
    texts: list[list[int]] = [[] for _ in range(requests)]
    past: list[list[Round]] = [[] for _ in range(requests)]
    while decoding := [i for i, text in enumerate(texts) if len(text) < TOKENS]:
        load = StepLoad(len(decoding), context_tokens=sum(1 + len(texts[i]) for i in decoding))
        k = min(policy.draft(load, GAMMA), GAMMA)
        form_k = k if form is None else min(form.draft(load, GAMMA), GAMMA)
        anchors = [texts[i][-1] if texts[i] else START for i in decoding]
        drafts = [_drafted(anchor, k, rng) for anchor in anchors]
        shown = [
            [sure[i][token] for i, token in enumerate([anchor, *draft][:k])]
            for anchor, draft in zip(anchors, drafts, strict=True)
        ]
        seen = ([k] * len(decoding), shown, [past[i] for i in decoding])
        verified = verify_lengths(policy, StepView(policy, *seen, load=load))
        form_verified = verified if form is None else verify_lengths(form, StepView(form, *seen, load=load))
        if (form_k, form_verified) != (k, verified):
            raise InputError(
                f"policy {policy.name}: its `compiled` drafts {form_k} and verifies {form_verified} where it drafts {k} "
                f"and verifies {verified}"
            )
        accepted = []
        for i, anchor, draft, length, confidence in zip(decoding, anchors, drafts, verified, shown, strict=True):
            emitted = _verified(anchor, draft[:length], rng)
            accepted.append(len(emitted) - 1)
            past[i].append(Round(k, length, accepted[-1], len(emitted), tuple(confidence), len(decoding)))
            texts[i] = (texts[i] + emitted)[:TOKENS]
            lengths[length] += 1
        policy.learn(verified, accepted)
        if form is not None:
            form.learn(verified, accepted)
    return texts


def _drafted(anchor: int, k: int, rng: np.random.Generator) -> list[int]:
    tokens = [anchor]
    for _ in range(k):
        tokens.append(_drawn(DRAFTER[tokens[-1]], rng))
    return tokens[1:]


def _verified(anchor: int, draft: list[int], rng: np.random.Generator) -> list[int]:
    """Accepted tokens and the one that follows: each kept with min(1, p/q), the first that is not replaced by the residual.

    After Leviathan et al. 2023, Fast Inference from Transformers via Speculative Decoding.
    """
    emitted, before = list[int](), anchor
    for token in draft:
        p, q = TARGET[before], DRAFTER[before]
        if rng.random() * q[token] >= p[token]:
            left = np.maximum(p - q, 0.0)
            return [*emitted, _drawn(left / left.sum(), rng)]
        emitted.append(token)
        before = token
    return [*emitted, _drawn(TARGET[before], rng)]


def _drawn(probabilities: Floats, rng: np.random.Generator) -> int:
    """A token."""
    u = rng.random()
    return 0 if u < probabilities[0] else 1 if u < probabilities[0] + probabilities[1] else 2
