"""Accepted length and acceptance by position of a drafter on held-out answers: what a recording of them says in the mean.

At every token of an answer y the positions of a block are accepted with β_k = min(1, q_k(y_k) / p_k(y_k)), given those
before (the law of dense recording). So the walk of a replay that verifies whole blocks has exact expectations, without a
coin: the chance that a round begins at a token, and from there how many tokens it commits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drafters.dense import Reading, chances, reading_of
from drafters.kinds.learned import LearnedDrafter
from drafters.sampling import probabilities
from drafters.target import Target
from drafters.training.losses import own_taps, own_tokens
from drafters.training.texts import Text, TextBatch, opening_prompts
from simulator.records import Sampling

_NUMBERS: Final = 1 << 25
"""Probabilities that are held at once."""


@dataclass(frozen=True, slots=True)
class Drafting:
    """What a drafter does on the answers of a domain."""

    domain: str
    tau: float
    """Tokens committed in rounds over rounds."""
    acceptance: tuple[float | None, ...]
    """α_k by position: accepted, of the rounds whose earlier positions were accepted and whose answer goes on so far; None
    where there is no such round."""
    prompts: int = 0
    """Prompts that these are answers to, the turns of a conversation and equal prompts counted once; 0 in what was kept
    before they were counted."""
    error: float | None = None
    """Standard error of τ, from how it differs between prompts (a ratio's, linearised); None of fewer than two."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A held-out text with what the target makes of it, which does not change while a drafter is trained: in main memory."""

    text: Text
    taps: Tensor
    """Taps of the target's pass over the whole text, [1, N, m·d]."""
    p: Tensor
    """The target's probability of each response token but the first, [n − 1]."""
    reading: Reading
    """What it makes of the answer: whether it is its own."""


@torch.no_grad()
def prepare(target: Target, texts: Sequence[Text], taps: Sequence[int], sampling: Sampling) -> Iterator[HeldOut]:
    """Let the target read held-out texts, one after another."""
    for text in texts:
        ids = torch.tensor([text.ids], device=target.device)
        seen = target.read(ids, taps)
        first = len(text.prompt)
        said, p, read = ids[0, first + 1 :], [], torch.zeros(3, dtype=torch.float64)
        states = seen.hidden[0, first : len(text) - 1]
        for some, tokens in zip(
            *(torch.split(x, max(1, _NUMBERS // target.vocab_size)) for x in (states, said)), strict=True
        ):
            probs = probabilities(sampling, target.head(some))
            chance, outside = chances(probs, tokens)
            own = torch.ones_like(outside)
            read += reading_of(probs, chance, outside, own, sampling).cpu()
            p.append(chance)
        outside_tokens, surprise, variance = read.tolist()
        reading = Reading(int(outside_tokens), surprise, variance)
        yield HeldOut(text, seen.taps.cpu(), torch.cat(p).cpu(), reading)


def held_bytes(target: Target, texts: Sequence[Text], taps: Sequence[int]) -> int:
    """Main memory of what is kept of held-out texts."""
    return sum(len(text) for text in texts) * len(taps) * target.hidden_size * target.dtype.itemsize


def drafting_on(
    drafter: LearnedDrafter, held_out: Sequence[HeldOut], sampling: Sampling, dtype: torch.dtype
) -> list[Drafting]:
    """What a drafter does on held-out answers, by domain; whole blocks are verified."""
    found: dict[str, list[tuple[tuple[int, ...], float, float, npt.NDArray[np.float64]]]] = defaultdict(list)
    opening = opening_prompts([one.text for one in held_out])
    was = drafter.training
    drafter.eval()
    for one in held_out:
        accept = acceptances(drafter, one, sampling, dtype)
        found[one.text.domain].append((opening[one.text.group], *walk(accept)))
    drafter.train(was)
    drafting = []
    for domain, answers in sorted(found.items()):
        accepted, tried = np.sum([counts for *_, counts in answers], 0)
        by_prompt: dict[tuple[int, ...], npt.NDArray[np.float64]] = defaultdict(lambda: np.zeros(2))
        for prompt, tokens, rounds, _ in answers:
            by_prompt[prompt] += tokens, rounds
        tau, error = ratio(*np.transpose([*by_prompt.values()]))
        acceptance = tuple(float(a / n) if n else None for a, n in zip(accepted, tried, strict=True))
        drafting.append(Drafting(domain, tau, acceptance, len(by_prompt), error))
    return drafting


def ratio(over: npt.NDArray[np.float64], under: npt.NDArray[np.float64]) -> tuple[float, float | None]:
    """(Σ over / Σ under, its standard error from n independent units); None of fewer than two.

    Cochran, Sampling Techniques, 6.3: Σ (over − ratio · under)² · n / (n − 1), over (Σ under)².
    """
    n, found = len(over), float(over.sum() / under.sum())
    if n < 2:
        return found, None
    return found, float(np.sqrt(((over - found * under) ** 2).sum() * n / (n - 1)) / under.sum())


@torch.no_grad()
def acceptances(
    drafter: LearnedDrafter, one: HeldOut, sampling: Sampling, dtype: torch.dtype = torch.float32
) -> npt.NDArray[np.float64]:
    """β_k at every anchor of an answer, [n − 1, γ]; 0 beyond the answer's end."""
    text, gamma = one.text, drafter.gamma
    device = drafter.lm_head.get_parameter("weight").device
    batch, p_said = TextBatch.of([text], device), one.p.to(device)
    first, last = len(text.prompt), len(text) - 1
    vocabulary = drafter.settings.draft_vocabulary
    found, taps = [], own_taps(drafter, one.taps.to(device))
    drafter.narrow = True
    try:
        for at in torch.split(torch.arange(first, last, device=device), max(1, _NUMBERS // (gamma * vocabulary))):
            places = at.unsqueeze(-1) + torch.arange(1, gamma + 1, device=at.device)
            tokens = batch.ids[0, places.clamp(max=last)]
            with torch.autocast(at.device.type, dtype=dtype, enabled=dtype != torch.float32):
                draft = drafter.teacher_forced(taps, batch.ids, at.unsqueeze(0), tokens.unsqueeze(0))
            own = own_tokens(drafter, tokens)
            q = probabilities(sampling, draft.logits[0]).gather(-1, own.clamp(min=0).unsqueeze(-1)).squeeze(-1)
            p = p_said[(places - first - 1).clamp(max=len(p_said) - 1)]
            beta = (q / p.clamp(min=1e-30)).clamp(max=1) * (own >= 0) * (places <= last)
            found.append(beta.double().cpu().numpy())
    finally:
        drafter.narrow = False
    return np.concatenate(found)


def walk(accept: npt.NDArray[np.float64]) -> tuple[float, float, npt.NDArray[np.float64]]:
    """(tokens committed in rounds, expected rounds, [2, γ] expected positions accepted, and tried) of an answer.

    `accept` [n − 1, γ] is β at its anchors. A round at anchor t commits min(a + 1, tokens that remain).
    """
    anchors, gamma = accept.shape
    survival = np.concatenate([np.ones((anchors, 1)), np.cumprod(accept, 1)], 1)
    exactly = survival - np.concatenate([survival[:, 1:], np.zeros((anchors, 1))], 1)
    begins, counts = np.zeros(anchors + 1), np.zeros((2, gamma))
    begins[0] = 1
    for t in range(anchors):
        left = anchors - t
        for accepted in range(min(gamma, left - 1) + 1):
            begins[t + accepted + 1] += begins[t] * exactly[t, accepted]
        seen = min(gamma, left)
        counts[0, :seen] += begins[t] * survival[t, 1 : seen + 1]
        counts[1, :seen] += begins[t] * survival[t, :seen]
    return float(anchors), float(begins[:-1].sum()), counts
