"""Acceptance that goes with the load: what is asked when much runs may be easier, or harder, than what is asked at night."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.served.observed import Interval

Floats = npt.NDArray[np.float64]
_BLOCK_S: Final = 300.0
"""Seconds of stretches that hold the same requests, more or less, and count as one."""
_ALIKE: Final = 1.5
"""Times as many that run in a block."""
_FEWEST: Final = 4
"""Blocks of which fewer show no trend, half of them on each side of the middle."""
_SPREAD: Final = 1.5
"""Times as much as at the least that runs at the most, at least."""
_CHANCE: Final = 0.001
"""How often a trend is found where there is none."""
_WORTH: Final = 0.1
"""A trend, in logits over the loads that ran, below which all are alike."""
_SHIFTS: Final = np.linspace(-8.0, 8.0, 641)


@dataclass(frozen=True)
class Trend:
    """By how much logits of shares differ from those of all: a line over the logarithm of what runs."""

    centre: float
    """Logarithm of the running requests in the middle."""
    middle: float
    """The shift there."""
    slope: float
    """What it rises by for e times as many."""
    slopes: Floats
    """Draws of that, [draws]."""
    loads: tuple[float, float]
    """Running requests beyond which it stays as it is."""

    def shift(self, running: float) -> float:
        """At so many running requests."""
        return self.middle + self.slope * self._beside(running)

    def shifts(self, running: float) -> Floats:
        """Draws of it, [draws]."""
        return np.asarray(self.middle + self.slopes * self._beside(running), np.float64)

    def share(self, share: float, running: float) -> float:
        """A share of all, with so many running."""
        return float(shifted(np.array([[share]]), self.shift(running))[0, 0])

    def _beside(self, running: float) -> float:
        return float(np.log(np.clip(running, *self.loads)) - self.centre)


def shifted(survivals: Floats, shifts: npt.ArrayLike) -> Floats:
    """Survivals, [n, K], whose conditional acceptances are higher by so many logits, [n] or one; what is 0 or 1 stays."""
    before = np.concatenate([np.ones((len(survivals), 1)), survivals[:, :-1]], 1)
    alphas = survivals / np.maximum(before, 1e-300)
    inner = np.clip(alphas, 1e-9, 1 - 1e-9)
    moved = 1 / (1 + (1 - inner) / inner * np.exp(-np.asarray(shifts, np.float64).reshape(-1, 1)))
    return np.asarray(np.cumprod(np.where((alphas <= 0) | (alphas >= 1), alphas, moved), 1), np.float64)


class _Block(NamedTuple):
    """Stretches one after another at about one load."""

    load: float
    """Logarithm of its running requests."""
    shift: float
    weight: float


def trend_of(stretches: Sequence[Interval], survival: Floats, draws: int, rng: np.random.Generator) -> Trend | None:
    """The trend of the acceptance of a log's stretches, in order, whose drafts have as many tokens, beside that of all of
    them, [K]; None where there is none, too few blocks tell, or about as much ran in all."""
    at = shifted(np.tile(survival, (len(_SHIFTS), 1)), _SHIFTS).sum(1)
    if at[-1] - at[0] < 1e-6:
        return None
    steep = np.gradient(at, _SHIFTS)

    def shift(some: Sequence[Interval]) -> tuple[float, float]:
        number, accepted = (sum(getattr(one.drafts, name) for one in some) for name in ("drafts", "accepted"))
        found = float(np.interp(accepted / number, at, _SHIFTS))
        return found, number * max(float(np.interp(found, _SHIFTS, steep)), 1e-9) ** 2

    return _line([one for one in stretches if one.drafts is not None and one.drafts.drafts > 0], shift, draws, rng)


def covering_of(stretches: Sequence[Interval], coverage: float, draws: int, rng: np.random.Generator) -> Trend | None:
    """The same of the share of steps in which a drafter finds anything."""
    if not 0 < coverage < 1:
        return None
    centre = np.log(coverage / (1 - coverage))

    def shift(some: Sequence[Interval]) -> tuple[float, float]:
        steps, drafts = sum(one.request_steps for one in some), sum(one.drafts.drafts for one in some if one.drafts)
        share = float(np.clip(drafts / steps, 1e-3, 1 - 1e-3))
        return float(np.log(share / (1 - share)) - centre), steps * share * (1 - share)

    return _line([one for one in stretches if one.request_steps > 0], shift, draws, rng)


def _line(
    stretches: Sequence[Interval], shift: Callable[[Sequence[Interval]], tuple[float, float]], draws: int,
    rng: np.random.Generator,
) -> Trend | None:  # fmt: skip
    """A line through blocks: what follows within minutes is of the same requests, and tells no more than they do."""
    from scipy.special import stdtrit

    blocks = [
        _Block(float(np.average(np.log([one.running for one in own]), weights=[one.seconds for one in own])), *shift(own))
        for own in _blocks([one for one in stretches if one.running >= 0.5])
    ]
    if len(blocks) < _FEWEST:
        return None
    x, y, weights = np.array(blocks).T
    low, high = float(np.exp(x.min())), float(np.exp(x.max()))
    centre, middle = (float(np.average(own, weights=weights)) for own in (x, y))
    sides = [int((x < (x.min() + x.max()) / 2).sum()), int((x > (x.min() + x.max()) / 2).sum())]
    if high < _SPREAD * low or min(sides) < _FEWEST / 2:
        return None
    spread = float(weights @ (x - centre) ** 2)
    slope = float(weights @ ((x - centre) * y)) / spread
    left, free = y - middle - slope * (x - centre), len(blocks) - 2
    error = float(np.sqrt(weights @ left**2 / free / spread))
    if abs(slope) * np.log(high / low) < _WORTH or abs(slope) < -stdtrit(free, _CHANCE / 2) * error:
        return None
    return Trend(centre, middle, slope, slope + error * rng.standard_t(free, draws), (low, high))


def _blocks(stretches: Sequence[Interval]) -> list[list[Interval]]:
    found = list[list[Interval]]()
    for one in stretches:
        own = found[-1] if found else []
        mean = float(np.mean([each.running for each in own])) if own else 0.0
        alike = own and mean / _ALIKE <= one.running <= mean * _ALIKE
        if alike and sum(each.seconds for each in own) < _BLOCK_S:
            own.append(one)
        else:
            found.append([one])
    return found
