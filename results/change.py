"""A change of one quantity: its interval, what it could have seen, and verdicts that many at once do not spoil."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.stats import chi2
from scipy.stats import t as student_t

from results.figures.intervals import Floats

Quantity = Literal["accepted length", "speed against none", "throughput"]
Verdict = Literal[
    "better",
    "worse",
    "no clear change",
    "same",
    "only in the first",
    "only in the second",
    "prompts gone",
    "turns gone",
    "not judged",
]

SURE: Final = 0.05
"""Chance that any verdict of a comparison is wrong where nothing changed (Holm, Scand. J. Statistics 6, 1979)."""

POWER: Final = 0.8
"""Chance to see what is said that would be seen."""

ASSURED: Final = 0.95
"""Chance that the noise is no larger than is counted with, where a number of prompts is told."""

LEAST_FREEDOM: Final = 2
"""Degrees of freedom below which nothing is said of a ratio's noise: two prompts that change alike by chance know none."""

MOST_PROMPTS: Final = 10_000_000
"""Where the search for a number of prompts ends."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise of the logarithm of a ratio: a sum over strata, such as tasks, each of independent units, such as prompts."""

    variances: tuple[float, ...]
    """What each stratum adds."""
    units: tuple[int, ...]
    """Independent units of each stratum, at least 2."""

    @property
    def error(self) -> float:
        """Standard error of log(second / first)."""
        return math.sqrt(sum(self.variances))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the error (Satterthwaite, Biometrics Bulletin 2, 1946)."""
        return _freedom(self.variances, [n - 1 for n in self.units])

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval of log(second / first)."""
        return float(student_t.ppf(1 - SURE / 2, self.freedom)) * self.error

    @property
    def sees(self) -> float:
        """The smallest loss, as a share, that is told from none at two-sided 5 % in 4 of 5 cases."""
        return -math.expm1(-_multiple(SURE, self.freedom) * self.error)

    def chance(self, change: float) -> float:
        """Two-sided p-value of no change, of a change of so much in the logarithm."""
        if self.error == 0:
            return float(change == 0)
        return 2 * float(student_t.sf(abs(change) / self.error, self.freedom))

    def needed(self, loss: float, tests: int) -> int | None:
        """Units that every stratum needs for a loss, a share, to be a clear one in 4 of 5 cases.

        A clear one passes the first and strictest step of Holm's procedure over so many tests. The noise is itself an
        estimate: counted with is the upper 95 % limit of its variance (Browne, Statistics in Medicine 14, 1995). None
        where more are needed than anyone asks, or where there was no noise to tell by.
        """
        if self.error == 0:
            return None
        of_one = [variance * n for variance, n in zip(self.variances, self.units, strict=True)]
        unsure = self.freedom / float(chi2.ppf(1 - ASSURED, self.freedom))

        def enough(n: int) -> bool:
            freedom = _freedom(of_one, [n - 1] * len(of_one))
            return _multiple(SURE / tests, freedom) * math.sqrt(unsure * sum(of_one) / n) <= -math.log1p(-loss)

        few, many = 1, 2
        while not enough(many):
            few, many = many, 2 * many
            if many > MOST_PROMPTS:
                return None
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (few, middle) if enough(middle) else (middle, many)
        return many


def _freedom(variances: Sequence[float], freedoms: Sequence[int]) -> float:
    parts = sum(variance**2 / freedom for variance, freedom in zip(variances, freedoms, strict=True))
    return sum(variances) ** 2 / parts if parts else float(sum(freedoms))


def _multiple(level: float, freedom: float) -> float:
    """Standard errors between no change and the smallest one that a two-sided test finds with `POWER`."""
    return float(student_t.ppf(1 - level / 2, freedom) + student_t.ppf(POWER, freedom))


@dataclass(frozen=True, slots=True)
class Measured:
    """One quantity before and now."""

    quantity: Quantity
    drafter: str
    gamma: int
    where: str
    """`overall`, a domain's mean, a task, or policy and load; empty for speed."""
    first: float | None
    second: float | None
    noise: Noise | None
    """None where nothing is known of it: too few prompts."""
    paired: bool
    """Whether both saw the same prompts, or the same draws."""
    gone: int = 0
    """Prompts of the first that the second has no answer to."""
    turns_gone: int = 0
    """Turns of the first that the second has no answer to, of prompts that both answered in part."""
    judged: bool = True
    """Whether it may have a verdict; else it is shown, with its interval."""


@dataclass(frozen=True, slots=True)
class Change(Measured):
    """And what to think of it."""

    change: float | None = None
    """Share: .02 is 2 % more in the second."""
    low: float | None = None
    """Lower end of the change's 95 % interval; `high` is the upper."""
    high: float | None = None
    sees: float | None = None
    """Smallest loss, a share, that would have been seen: told from none at two-sided 5 % in 4 of 5 cases."""
    verdict: Verdict = "no clear change"

    def regressed(self, tolerance: float) -> bool:
        """Whether it got worse, clearly and by more than a share, or is gone, wholly or in part."""
        if self.verdict in ("only in the first", "prompts gone", "turns gone"):
            return True
        return self.verdict == "worse" and self.change is not None and self.change < -tolerance


def judged(found: Sequence[Measured]) -> list[Change]:
    """Verdicts by Holm's procedure over everything that can be judged; intervals are each one's own."""
    chances = [_chance(measured) for measured in found]
    order = sorted((i for i, p in enumerate(chances) if p is not None), key=lambda i: chances[i] or 0.0)
    clear: set[int] = set()
    for rank, i in enumerate(order):
        if (chances[i] or 0.0) > SURE / (len(order) - rank):
            break
        clear.add(i)
    return [_change(measured, i in clear) for i, measured in enumerate(found)]


def can_be_judged(measured: Measured) -> bool:
    """Whether it takes part in Holm's procedure."""
    return measured.judged and bool(measured.first and measured.second) and measured.noise is not None


def _chance(measured: Measured) -> float | None:
    """Two-sided p-value of no change; None where it cannot be told."""
    if not can_be_judged(measured) or not measured.first or not measured.second or measured.noise is None:
        return None
    return measured.noise.chance(math.log(measured.second / measured.first))


def _change(measured: Measured, clear: bool) -> Change:
    change = low = high = sees = None
    verdict: Verdict = "no clear change"
    if measured.first is None or measured.second is None:
        verdict = "only in the second" if measured.first is None else "only in the first"
    elif measured.first:
        change = measured.second / measured.first - 1
        if measured.noise is not None:
            low, high = ((1 + change) * math.exp(sign * measured.noise.half_width) - 1 for sign in (-1, 1))
            sees = measured.noise.sees
        verdict = "same" if change == 0 else ("better" if change > 0 else "worse") if clear else verdict
        verdict = verdict if measured.judged or change == 0 else "not judged"
    elif measured.second == 0:
        change, verdict = 0.0, "same"
    if (measured.gone or measured.turns_gone) and verdict != "only in the first":
        verdict = "prompts gone" if measured.gone else "turns gone"
    return Change(
        measured.quantity, measured.drafter, measured.gamma, measured.where, measured.first, measured.second, measured.noise,
        measured.paired, measured.gone, measured.turns_gone, measured.judged, change, low, high, sees, verdict,
    )  # fmt: skip


# --- a mean of ratios of sums ---------------------------------------------------------------------------------------------


def mean_of_ratios(strata: Sequence[Floats]) -> float | None:
    """The mean over strata of Σ numerators / Σ denominators, each an [n, 2] array; None where a stratum has nothing."""
    sums = [stratum.sum(axis=0) for stratum in strata]
    return float(np.mean([over / under for over, under in sums])) if sums and all(under > 0 for _, under in sums) else None


def noise_of_ratio(first: Sequence[Floats], second: Sequence[Floats], *, paired: bool) -> Noise | None:
    """Noise of log(mean of ratios of the second / of the first), each a sequence of [n, 2] arrays, one a stratum.

    Paired strata have the same units in the same order. By the jackknife that leaves out one unit of one stratum at a
    time, (n − 1)/n · Σ (θ₋ᵢ − mean)² summed over strata (Efron and Stein, Annals of Statistics 9, 1981), which errs to
    the wide side. None where a stratum has fewer than two units, or cannot spare one, or all together are too few.
    """
    sides = _left_out(first), _left_out(second)
    if any(side is None for side in sides):
        return None
    one, other = (side for side in sides if side is not None)
    apart = [b - a for a, b in zip(one, other, strict=True)] if paired else [*one, *other]
    if sum(len(v) - 1 for v in apart) < LEAST_FREEDOM:
        return None
    variances = tuple(float((len(v) - 1) / len(v) * ((v - v.mean()) ** 2).sum()) for v in apart)
    return Noise(variances, tuple(len(v) for v in apart))


def _left_out(strata: Sequence[Floats]) -> list[Floats] | None:
    """The logarithm of the mean of ratios without each unit of each stratum."""
    if not strata or any(len(stratum) < 2 for stratum in strata):
        return None
    sums = [stratum.sum(axis=0) for stratum in strata]
    without = [total - stratum for total, stratum in zip(sums, strata, strict=True)]
    if any((rest[:, 1] <= 0).any() for rest in without):
        return None
    ratios = [over / under for over, under in sums]
    return [
        np.log((sum(ratios) - ratio + rest[:, 0] / rest[:, 1]) / len(strata))
        for ratio, rest in zip(ratios, without, strict=True)
    ]
