"""K by batch size: what is best at single loads, put together as engines take it, K never rising with the load."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.served.expected import Estimate, Floats

_UNSEEN: Final = 0.01
"""A share of the time that a load which did not run counts as."""
_UNSURE: Final = 1e-6
"""By which what was served is better than what is as good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtLoad:
    """What is best at one load."""

    running: int
    served: bool
    """Whether so many, or about, ran in the files."""
    as_served: int
    """The k that was served with so many."""
    best: int
    """The k with most tokens a second, by the median; of those that are surely better where some are."""
    sure: bool
    """Whether it is surely better than what was served: 95 %, and by more than nobody restarts a server for."""
    gains: tuple[Estimate, ...]
    """What each k gains over what was served, shares; from `least` on."""
    least: int
    surely: frozenset[int]
    """Every k that is surely better."""
    tokens: float
    """Tokens a second of all requests as it was served, to a factor that all loads share."""
    over_none: Estimate | None
    """What K gains over no drafts; None where steps without drafts are not known."""

    @property
    def gain(self) -> Estimate:
        """What the best gains."""
        return self.gains[self.best - self.least]


def rows_of(at: Sequence[AtLoad], ran: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """K by running requests, (first, last, k), never rising: of those that are surely better at a load, or as it was served,
    what gives most tokens over all the time that was served.

    Where that leaves a load one that may lose, it counts as what it may lose.

    Args:
        ran: running requests at evenly spaced shares of that time.
    """
    ends = [(one.running + following.running) // 2 for one, following in itertools.pairwise(at)]
    begins = [1, *(end + 1 for end in ends)]
    ends += [one.running for one in at[-1:]]
    weights = [
        one.tokens * (sum(begin <= r <= end for r in ran) / max(len(ran), 1) + _UNSEEN)
        for one, begin, end in zip(at, begins, ends, strict=True)
    ]
    rows = list[tuple[int, int, int]]()
    for begin, end, k in zip(begins, ends, _falling(at, _worth(at), weights), strict=True):
        if end < begin:
            continue
        if rows and rows[-1][2] == k:
            rows[-1] = (rows[-1][0], end, k)
        else:
            rows.append((begin, end, k))
    return tuple(rows)


def _worth(at: Sequence[AtLoad]) -> list[Floats]:
    """What each k counts as at each load. One that is not sure there, but at the next loads on both sides that have one, is
    taken for what it likely is."""
    found = list[Floats]()
    for i, one in enumerate(at):
        below = next((other.best for other in reversed(at[:i]) if other.sure), None)
        above = next((other.best for other in at[i + 1 :] if other.sure), None)
        own = [min(gain.low, 0.0) - _UNSURE if k <= one.as_served else -1.0 for k, gain in enumerate(one.gains, one.least)]
        likely = {below} if below is not None and below == above and not one.sure else set()
        for k in one.surely | likely:
            more = k > one.as_served and one.over_none is None  # more than was served there, nothing tells
            if not more and (value := one.gains[k - one.least].value) > 0:
                own[k - one.least] = value
        own[one.as_served - one.least] = 0.0
        found.append(np.array(own))
    return found


def _falling(at: Sequence[AtLoad], worth: Sequence[Floats], weights: Sequence[float]) -> list[int]:
    """The k of each load, none above the one before it, whose worth is most in all; the largest of those that are alike."""
    later, chosen = np.zeros(len(worth[0]) if worth else 0), list[list[int]]()
    for own, weight in zip(reversed(worth), reversed(weights), strict=True):
        total = weight * own + later
        best = [max(range(top + 1), key=lambda k: (total[k], k)) for top in range(len(total))]
        chosen.append(best)
        later = total[best]
    found, top = list[int](), len(later) - 1
    for best in reversed(chosen):
        top = best[top]
        found.append(top)
    return [at[0].least + k for k in found]


def off_from(table: Sequence[tuple[int, int, int]]) -> int | None:
    """Running requests from which nothing is drafted; None where something always is."""
    return next((first for first, _, k in table if k == 0), None)
