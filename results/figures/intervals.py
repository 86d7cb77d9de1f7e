"""Intervals of what was measured: bootstraps over prompts."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES: Final = 2000
"""Bootstrap draws behind every interval."""

FEWEST_UNITS: Final = 2
"""Fewer, such as one prompt of a task, cannot be resampled: there is no interval then."""

Z95: Final = NormalDist().inv_cdf(0.975)


def bootstrap_ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any], rng: np.random.Generator) -> Floats:
    """Σ numerator / Σ denominator, [RESAMPLES], resampling the n units of two [n] arrays; NaN from too few."""
    n = len(numerator)
    if n < FEWEST_UNITS:
        return np.full(RESAMPLES, np.nan)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return divide(counts @ numerator, counts @ denominator)


def divide(over: Floats, under: Floats) -> Floats:
    """Elementwise; NaN where a draw left nothing to divide by."""
    quotient = np.full(len(over), np.nan)
    np.divide(over, under, out=quotient, where=under > 0)
    return quotient


def half_width(error: float | None, units: int) -> float | None:
    """Half the width of the 95 % interval of what was found from so many units, by Student's t; None without an error."""
    if error is None or units < FEWEST_UNITS:
        return None
    from scipy.special import stdtrit

    return float(stdtrit(units - 1, 0.975)) * error


def interval(draws: Floats) -> tuple[float | None, float | None]:
    """The middle 95 % of the draws, NaN ones left out; (None, None) without any."""
    drawn = draws[~np.isnan(draws)]
    if not len(drawn):
        return None, None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
