"""Drafts of fewer tokens than K: who made them short, and what that leaves to be known of whole ones.

An engine may draft less at some loads, by a table of K by batch size. Such drafts say nothing of the positions that they do
not have: position k is tried only where k tokens were drafted. A drafter may find no more to propose: it would not, however
much it is asked for, so that a cap changes nothing but the drafts that are longer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.served.observed import Drafts, Interval, ServedRequest

Floats = npt.NDArray[np.float64]
Shortener = Literal["nobody", "engine", "drafter", "unknown"]
WHOLE: Final = 0.99
"""A share of K: drafts of fewer tokens on average are not all of that length."""
_EVEN: Final = 0.05
"""By how much of a whole number the mean length of a stretch is off, whose drafts all had as many tokens: the number of
drafts is worked out of rounded shares."""
_MOSTLY: Final = 0.5
"""A share of drafts whose lengths are known: with less nobody says which were short."""
ENOUGH: Final = 30
"""Tries of a position that tell anything."""


class Tries(NamedTuple):
    """How often each position was tried: it was drafted, and all before it were accepted."""

    tried: Floats
    """[K], 0 where no draft was so long, or nobody says which were."""
    passed: Floats
    """How many of those were accepted, [K]."""

    @property
    def survival(self) -> Floats:
        """Share of drafts of so many tokens whose position k is accepted (Kaplan and Meier), [K]; 0 where none is known."""
        return np.asarray(np.cumprod(self.passed / np.maximum(self.tried, 1e-9)), np.float64)

    @property
    def known(self) -> int:
        """Tokens of the longest drafts of which there are enough."""
        return int(np.argmin([*(self.tried >= ENOUGH), False]))

    @property
    def drafts(self) -> float:
        """Drafts of K tokens that would say as much of the position that is known least."""
        before = np.concatenate([[1.0], self.survival[:-1]])[: self.known]
        return float((self.tried[: self.known] / np.maximum(before, 1e-9)).min()) if self.known else 0.0


def length_of(drafts: Drafts, gamma: int) -> int | None:
    """How many tokens each of these drafts had; None where they differ, or nobody says."""
    if not drafts.drafts or not drafts.drafted or not drafts.accepted_at:
        return None
    mean = drafts.drafted / drafts.drafts
    if mean >= WHOLE * gamma:
        return gamma
    length = round(mean)
    even = length >= 1 and abs(mean - length) <= _EVEN * length
    return length if even and not sum(drafts.accepted_at[length:]) else None


def tries_of(unit: ServedRequest | Interval, gamma: int) -> Tries:
    """The tries in a request's rounds, or of a stretch whose drafts all had as many tokens; none of others."""
    positions = np.arange(1, gamma + 1)
    if isinstance(unit, ServedRequest) and unit.verified:
        accepted, drafted = np.array([unit.rounds]).T, np.array([unit.verified]).T
        tried = ((accepted >= positions - 1) & (drafted >= positions)).sum(0)
        return Tries(tried.astype(np.float64), (accepted >= positions).sum(0).astype(np.float64))
    length = None if unit.drafts is None else length_of(unit.drafts, gamma)
    if unit.drafts is None or length is None:
        return Tries(np.zeros(gamma), np.zeros(gamma))
    at = np.zeros(gamma)
    at[:length] = [*unit.drafts.accepted_at, *[0.0] * length][:length]
    return Tries(np.where(positions <= length, [unit.drafts.drafts, *at[:-1]], 0.0), at)


def all_tries(units: Sequence[ServedRequest | Interval], gamma: int) -> Tries:
    """The tries of all of them."""
    each = [tries_of(one, gamma) for one in units]
    return Tries(*(np.sum([one[i] for one in each], 0) if each else np.zeros(gamma) for i in (0, 1)))


def explained(units: Sequence[ServedRequest | Interval], gamma: int) -> bool:
    """Whether of most drafts it is known how many tokens they had."""
    number = sum(one.drafts.drafts for one in units if one.drafts is not None)
    return number > 0 and float(all_tries(units, gamma).tried[0]) >= _MOSTLY * number


def are_short(drafts: Drafts, gamma: int) -> bool:
    """Whether drafts had fewer than K tokens. Of those cut when they were verified, positions are of whole ones already."""
    return bool(drafts.drafts and drafts.drafted and drafts.drafted < WHOLE * gamma * drafts.drafts and not drafts.trimmed)


def shortener_of(
    drafts: Drafts, gamma: int, requests: Sequence[ServedRequest], intervals: Sequence[Interval], *, finds: bool,
    adapts: bool,
) -> Shortener:  # fmt: skip
    """Who made drafts short, as far as files say.

    Args:
        drafts: all of them.
        gamma: K.
        requests: those that are told apart.
        intervals: stretches of time.
        finds: whether the drafter is known to propose what it finds.
        adapts: whether the engine is known to verify less than it could, by its own policy.
    """
    if not are_short(drafts, gamma):
        return "nobody"
    if finds:
        return "drafter"
    if any(one.verified for one in requests) and explained(requests, gamma):
        return "engine" if adapts or _stay_short(requests, gamma) else "drafter"
    return "engine" if explained(intervals, gamma) else "unknown"


def _stay_short(requests: Sequence[ServedRequest], gamma: int) -> bool:
    """Whether after a short draft mostly comes one as short: a load lasts for many steps, what a drafter finds does not."""
    pairs = [pair for one in requests for pair in itertools.pairwise(one.verified) if pair[0] < gamma]
    return sum(a == b for a, b in pairs) > len(pairs) / 2


def shares_of_length(drafts: Drafts, requests: Sequence[ServedRequest], survival: Floats) -> Floats:
    """Share of drafts with at least k tokens, [K], of a drafter that makes them short: as its rounds have it, else lengths
    are taken to be geometric up to K, with the mean that was counted, and as long as what was accepted of them."""
    gamma = len(survival)
    own = [v for one in requests if one.rounds for v in one.verified or (gamma,) * len(one.rounds)]
    if any(one.verified for one in requests) and len(own) >= _MOSTLY * drafts.drafts:
        return np.asarray((np.array(own)[:, None] >= np.arange(1, gamma + 1)).mean(0), np.float64)
    mean = min(max(drafts.drafted / drafts.drafts, 1.0), float(gamma))
    low, high = 0.0, 1.0
    for _ in range(60):  # halves: to the last bit
        middle = (low + high) / 2
        short = np.maximum(middle ** np.arange(gamma), survival).sum() < mean
        low, high = (middle, high) if short else (low, middle)
    return np.asarray(np.maximum(high ** np.arange(gamma), survival), np.float64)
