"""Acceptance that goes with the load: what is asked when much runs may be easier, or harder, than what is asked at night."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.served.observed import Interval

Floats = npt.NDArray[np.float64]
_FEWEST: Final = 8
"""Stretches of which fewer show no trend."""
_SPREAD: Final = 1.5
"""Times as much as at the least that runs at the most, at least."""
_SURE: Final = 4.0
"""Standard errors of a trend that is one: stretches that follow each other are not independent."""
_WORTH: Final = 0.1
"""A trend, in logits over the loads that ran, below which all are alike: some 3 % of what a draft gives."""
_SHIFTS: Final = np.linspace(-8.0, 8.0, 641)
_ENDS: Final = (0.02, 0.98)
"""Stretches' loads beyond which a trend is not drawn further."""


@dataclass(frozen=True)
class Trend:
    """By how much logits of conditional acceptance differ from those of all drafts: a line over the load's logarithm."""

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

    def _beside(self, running: float) -> float:
        return float(np.log(np.clip(running, *self.loads)) - self.centre)


def shifted(survivals: Floats, shifts: npt.ArrayLike) -> Floats:
    """Survivals, [n, K], whose conditional acceptances are higher by so many logits, [n] or one; what is 0 or 1 stays."""
    before = np.concatenate([np.ones((len(survivals), 1)), survivals[:, :-1]], 1)
    alphas = survivals / np.maximum(before, 1e-300)
    inner = np.clip(alphas, 1e-9, 1 - 1e-9)
    moved = 1 / (1 + (1 - inner) / inner * np.exp(-np.asarray(shifts, np.float64).reshape(-1, 1)))
    return np.asarray(np.cumprod(np.where((alphas <= 0) | (alphas >= 1), alphas, moved), 1), np.float64)


def trend_of(stretches: Sequence[Interval], survival: Floats, draws: int, rng: np.random.Generator) -> Trend | None:
    """The trend of stretches of a log whose drafts have as many tokens, beside the acceptance of all of them, [K]; None
    where there is none, too few stretches tell, or about as much ran in all."""
    own = [one for one in stretches if one.drafts is not None and one.drafts.drafts > 0 and one.running >= 0.5]
    if len(own) < _FEWEST:
        return None
    loads = np.array([one.running for one in own])
    low, high = (float(np.quantile(loads, share)) for share in _ENDS)
    if high < _SPREAD * low:
        return None
    number = np.array([one.drafts.drafts for one in own if one.drafts is not None])
    accepted = np.array([one.drafts.accepted / one.drafts.drafts for one in own if one.drafts is not None])
    at = shifted(np.tile(survival, (len(_SHIFTS), 1)), _SHIFTS).sum(1)
    if at[-1] - at[0] < 1e-6:
        return None
    found = np.interp(accepted, at, _SHIFTS)
    steep = np.interp(found, _SHIFTS, np.gradient(at, _SHIFTS))
    weights = number * np.maximum(steep, 1e-9) ** 2  # a shift is known the better the more drafts it moves, and the more
    x = np.log(np.maximum(loads, 0.5))
    centre = float(np.average(x, weights=weights))
    middle = float(np.average(found, weights=weights))
    spread = float(weights @ (x - centre) ** 2)
    slope = float(weights @ ((x - centre) * found)) / spread
    left = found - middle - slope * (x - centre)
    error = float(np.sqrt((weights**2) @ ((x - centre) ** 2 * left**2))) / spread
    if abs(slope) * np.log(high / low) < _WORTH or abs(slope) < _SURE * error:
        return None
    return Trend(centre, middle, slope, slope + error * rng.standard_normal(draws), (low, high))
