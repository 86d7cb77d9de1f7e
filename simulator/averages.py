"""Acceptance as engines and model cards state it, averages by position, and traces that have these averages.

Two conventions are in use for the same drafter. A *survival* is the share of drafts whose position k is accepted, as vLLM
logs it: it never rises. A *conditional* acceptance is the share among those drafts whose positions before k are accepted. An
*accepted length* is their sum, tokens per round, the bonus token included: 1 + Σ survivals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.errors import InputError
from simulator.numbers import as_share
from simulator.records import Anchors
from simulator.traces import Trace, TracedResponse

ASSUMPTIONS = (
    "synthesised from averages: no model was run, and nothing but the average acceptance by position is known",
    "rounds are independent of each other: prompts do not differ in ease, and intervals over prompts are too narrow",
    "there are no confidences: policies that read them cannot be simulated",
)
"""What averages do not say, and traces made of them yet contain."""
_MOST_POSITIONS = 64
FOUND = 0.75
"""The share of draft tokens, among those before which all were accepted, that is taken to be accepted of what a look-up
finds: assumed; a captured server's drafts (n-gram, vLLM) committed 4.14 tokens, in 11 % of its steps."""


@dataclass(frozen=True, slots=True)
class Averages:
    """Average acceptance of a drafter in one domain."""

    survival: tuple[float, ...]
    """P(a ≥ k) for k = 1..γ."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.survival) <= _MOST_POSITIONS:
            raise ValueError(f"1 to {_MOST_POSITIONS} positions are needed, got {len(self.survival)}")
        for k, share in enumerate(self.survival, 1):
            if not 0 <= share <= 1:
                raise ValueError(f"position {k}: a share from 0 to 1 is needed, got {share:g}")
        rises = [k for k in range(1, len(self.survival)) if self.survival[k] > self.survival[k - 1]]
        if rises:
            k = rises[0]
            raise ValueError(
                f"position {k + 1} ({self.survival[k]:g}) is accepted more often than position {k} "
                f"({self.survival[k - 1]:g}): "
                "survivals, shares of all drafts, cannot rise; shares of the drafts accepted so far are --conditional"
            )

    @classmethod
    def of_conditional(cls, acceptance: Sequence[float]) -> Averages:
        """From α_k, the acceptance of position k among drafts accepted so far. Raises ValueError."""
        for k, share in enumerate(acceptance, 1):
            if not 0 <= share <= 1:
                raise ValueError(f"position {k}: a share from 0 to 1 is needed, got {share:g}")
        return cls(tuple(float(s) for s in np.cumprod(acceptance)))

    @classmethod
    def of_accepted_length(cls, tokens: float, gamma: int) -> Averages:
        """From tokens per round, alike at all positions: 1 + α + … + α^γ = `tokens`. Raises ValueError."""
        if not 1 <= gamma <= _MOST_POSITIONS:
            raise ValueError(f"γ from 1 to {_MOST_POSITIONS} is needed, got {gamma}")
        if not 1 <= tokens <= gamma + 1:
            raise ValueError(f"with γ = {gamma} a round commits 1 to {gamma + 1} tokens, not {tokens:g}")
        low, high = 0.0, 1.0
        for _ in range(60):  # halves: to the last bit
            middle = (low + high) / 2
            low, high = (middle, high) if sum(middle**k for k in range(gamma + 1)) < tokens else (low, middle)
        return cls.of_conditional([high] * gamma)

    @classmethod
    def of_look_up(cls, tokens: float, gamma: int) -> Averages:
        """From tokens a step of a look-up, most of whose steps may have no draft: as many have one as `FOUND` leaves room
        for, or all. Raises ValueError."""
        alike = cls.of_accepted_length(tokens, gamma)
        each = math.fsum(FOUND**k for k in range(1, gamma + 1))
        if tokens - 1 > each:
            return alike
        return cls(tuple((tokens - 1) / each * FOUND**k for k in range(1, gamma + 1)))

    @property
    def gamma(self) -> int:
        """γ: positions that are known."""
        return len(self.survival)

    @property
    def accepted_length(self) -> float:
        """τ: tokens per round, bonus token included."""
        return 1 + math.fsum(self.survival)

    @property
    def looked_up(self) -> float:
        """The share of steps in which a look-up has a draft, where these averages are of all steps: what it finds is
        accepted as `FOUND` says, and what is accepted in all is known."""
        each = math.fsum(FOUND**k for k in range(1, self.gamma + 1))
        return min(max((self.accepted_length - 1) / each, self.survival[0]), 1.0)

    @property
    def conditional(self) -> tuple[float, ...]:
        """α_k; 0 after a position that is never accepted."""
        before = (1.0, *self.survival[:-1])
        return tuple(s / b if b else 0.0 for s, b in zip(self.survival, before, strict=True))


def numbers(text: str) -> tuple[float, ...]:
    """Numbers as users write them, .72,.53,.38 or 72%,53%,38%. Raises ValueError."""
    values = []
    for word in text.split(","):
        word = word.strip()
        try:
            values.append(as_share(word))
        except ValueError:
            raise ValueError(f"{word!r} is no number; numbers by position are written .72,.53,.38") from None
    return tuple(values)


def ambiguous(text: str) -> InputError:
    """What is said to numbers that might be survivals or conditional acceptances: both readings."""
    try:
        given = numbers(text)
        conditional = Averages.of_conditional(given)
    except ValueError as error:
        return InputError(f"{text}: {error}")
    as_conditional = f"--conditional {text} (shares of the drafts accepted so far: τ = {conditional.accepted_length:.2f})"
    try:
        survival = Averages(given)
    except ValueError:
        return InputError(f"{text}: can only be conditional, since it rises: say {as_conditional}")
    return InputError(
        f"{text}: could be read in two ways; say --survival {text} (shares of all drafts, as vLLM logs them: "
        f"τ = {survival.accepted_length:.2f}) or {as_conditional}"
    )


def trace_of(
    drafter: str, averages: Mapping[str, Averages], rng: np.random.Generator, *, responses: int, tokens: int,
    prompt_tokens: int, look_up: bool = False,
) -> Trace:  # fmt: skip
    """A trace whose survivals in each domain are the averages, to one anchor in all of them.

    Args:
        averages: by domain, all of one γ.
        responses: in each domain.
        tokens: of each response, at least 2.
        prompt_tokens: of each prompt.
        look_up: whether it drafts in some steps alone, as a look-up does; see `Averages.looked_up`.

    Raises InputError for sizes that make no trace.
    """
    gammas = {a.gamma for a in averages.values()}
    if len(gammas) != 1:
        raise InputError(f"acceptance of all domains must be of as many positions, not of {sorted(gammas)}")
    if responses < 1 or tokens < 2 or prompt_tokens < 1:
        raise InputError("a response in each domain, two tokens in each response and one in each prompt are needed")
    [gamma] = gammas
    each = responses * (tokens - 1)
    drafted, accepted, beta = [], [], []
    for own in averages.values():
        # Evenly spaced shares in random order: the averages are met, and nothing else is in them.
        share = (rng.permutation(each) + rng.random()) / each
        accepted.append((share[:, None] < np.array(own.survival)).sum(1))
        some = own.looked_up if look_up else 1.0
        there = share < some
        drafted.append(np.where(there, gamma, 0))
        chances = np.array([min(own.survival[0] / some, 1.0) if some else 0.0, *own.conditional[1:]], np.float32)
        beta.append(np.where(there[:, None], chances, np.float32(0)))
    told = [
        TracedResponse(domain, domain, f"{domain}/synth-{i}", 0, prompt_tokens)
        for domain in averages for i in range(responses)
    ]  # fmt: skip
    offsets = np.arange(len(told) + 1, dtype=np.int64) * (tokens - 1)
    counts = np.concatenate(accepted).astype(np.uint8)
    anchors = Anchors(np.concatenate(drafted).astype(np.uint8), counts, np.ascontiguousarray(np.concatenate(beta)))
    return Trace(drafter, tuple(told), offsets, anchors, "either")
