"""All that is believed after a fit: calibrations under all that nobody says and that has few values.

Up to which size an engine captures its passes, and whether all answers are as long: each is a base of its own, and what is
told is their mean, each weighing as much as it is believed before, times how well it explains what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from harness.hardware.calibration import (
    LEAST_NOISE,
    Advance,
    Calibration,
    Forecast,
    Simulated,
    Told,
    calibrate,
    combined,
    simulated,
)
from harness.hardware.discrepancy import Combined
from harness.hardware.loops import Floats, Served, Timed
from harness.hardware.measured import MeasuredPoint
from harness.hardware.table import Metric
from harness.hardware.terms import Base
from simulator.load import Arrivals
from simulator.policies import NO_DRAFTER

_Z: Final = 1.96
"""Standard deviations to either end of 95 %."""
_TAIL: Final = 0.025
"""What lies beyond either end."""
_LEAST_DEVIATION: Final = 1e-6
_NARROWER: Final = 0.95
"""What is left of an interval after a measurement that is worth it."""


@dataclass(frozen=True)
class Posterior:
    """Calibrations, and how probable each is."""

    members: tuple[Calibration, ...]
    weights: Floats

    @classmethod
    def of(
        cls,
        points: Sequence[MeasuredPoint],
        bases: Sequence[Base],
        advance: Advance = lambda done, total: None,
        fitting: Advance = lambda done, total: None,
        loops: Simulated | None = None,
    ) -> Posterior:
        """Fit all bases; see `simulated`, done unless it was, and `calibrate`. `advance` and `fitting` hear of each."""
        found = calibrate(points, bases, simulated(points, bases, advance) if loops is None else loops, fitting)
        before = np.log([one.base.belief for one in found])
        after = before + np.array([one.evidence for one in found])
        weights = np.exp(after - after.max())
        return cls(found, np.asarray(weights / weights.sum(), np.float64))

    @cached_property
    def best(self) -> Calibration:
        """The most probable one."""
        return self.members[int(self.weights.argmax())]

    @property
    def captured(self) -> dict[int, float]:
        """How probable each largest captured size is."""
        sizes = dict.fromkeys((one.base.captured for one in self.members), 0.0)
        for one, weight in zip(self.members, self.weights, strict=True):
            sizes[one.base.captured] += float(weight)
        return sizes

    @property
    def alike(self) -> float:
        """How probable it is that all answers are as long."""
        return float(sum(w for one, w in zip(self.members, self.weights, strict=True) if not one.base.answers))

    @property
    def one_by_one(self) -> dict[str, float]:
        """How probable it is of drafters that lost wherever they were measured that they draft for one request after
        another."""
        kinds = dict.fromkeys(sorted({kind for one in self.members for kind in one.base.one_by_one}), 0.0)
        for one, weight in zip(self.members, self.weights, strict=True):
            kinds |= {kind: kinds[kind] + float(weight) for kind in one.base.one_by_one}
        return kinds

    def timed(self, point: MeasuredPoint) -> bool:
        """Whether a point is a step that was timed."""
        return isinstance(self.best.loops[point.line], Timed)

    def overloaded(self, point: MeasuredPoint) -> bool:
        """Whether more requests as a point's arrive than can be answered."""
        loop = self.best.loops[point.line]
        if not isinstance(point.load, Arrivals) or isinstance(loop, Served | Timed):
            return False
        return point.load.rate_per_s >= loop.most_per_s(self.best.factors)

    def most_per_s(self, point: MeasuredPoint) -> Forecast | None:
        """Answers a second that can be given at most of requests as a point's, where more of them arrive; None where all
        are answered."""
        if not self.overloaded(point):
            return None
        return Forecast(*(tokens / point.output_tokens for tokens in self.forecast(point, "output_tok_s")))

    def forecast(self, point: MeasuredPoint, metric: Metric) -> Forecast:
        """What a measurement at a point would come to, its own noise included."""
        return self._forecast([[(1.0, one.told(point, metric))] for one in self.members], noise=1)

    def speed(self, point: MeasuredPoint) -> float:
        """See `Calibration.speed`: what is expected over all that the engine may be. By it one decides: what collapses
        on one engine in three is no good bet, though its median is."""
        return float(self.weights @ np.array([one.speed(point).value for one in self.members]))

    def gain(self, one: MeasuredPoint, plain: MeasuredPoint) -> Forecast:
        """What one gives more than the other: what moves both alike cancels, the noise of two measurements does not."""
        ratio = self._forecast([[(1.0, own.speed(one)), (-1.0, own.speed(plain))] for own in self.members], noise=2)
        return Forecast(*(value - 1 for value in ratio))

    def _forecast(self, told: Sequence[Sequence[tuple[float, Told]]], noise: int) -> Forecast:
        """Median and 95 % of a sum of logarithms, which is normal under each calibration: of two that are far apart, between
        them lies nothing."""
        from scipy.optimize import brentq
        from scipy.special import ndtr

        logs = np.array([_log(own) for own in told])
        some = zip(self.members, told, strict=True)
        deviations = np.maximum([own.deviation(combined(dict(sums)), noise) for own, sums in some], _LEAST_DEVIATION)
        low, high = float((logs - 9 * deviations).min()), float((logs + 9 * deviations).max())

        def at(share: float) -> float:
            return float(np.exp(brentq(lambda x: self.weights @ ndtr((x - logs) / deviations) - share, low, high)))

        return Forecast(at(0.5), at(_TAIL), at(1 - _TAIL))


def _log(told: Sequence[tuple[float, Told]]) -> float:
    return float(sum(times * np.log(one.value) for times, one in told))


class Suggestion(NamedTuple):
    """A measurement that would make a decision surer."""

    point: MeasuredPoint
    before: float
    """Half of the 95 % interval of the gain over no speculation, averaged over loads: a share."""
    after: float

    @property
    def narrows(self) -> bool:
        """Whether it is worth its while."""
        return self.after < _NARROWER * self.before


def next_measurement(found: Posterior, points: Sequence[MeasuredPoint]) -> Suggestion | None:
    """The point, of those that are not given and can be, whose throughput would narrow most what speculation gains; None
    without any."""
    points = [point for point in points if not found.timed(point) and not found.overloaded(point)]
    plain = {point.traffic: point for point in points if point.policy == NO_DRAFTER}
    pairs = [(point, plain[point.traffic]) for point in points if point.policy != NO_DRAFTER and point.traffic in plain]
    left = [point for point in points if not point.given]
    if not pairs or not left:
        return None
    gains = [[_Sum.of([(1.0, own.speed(a)), (-1.0, own.speed(b))]) for own in found.members] for a, b in pairs]
    variances = np.array([_covariance(found, gain, gain) for gain in gains])

    def half(variances: Floats) -> float:
        return float(np.mean(_Z * np.sqrt(np.maximum(variances, 0.0))))

    best: Suggestion | None = None
    for point in left:
        seen = [_Sum.of([(1.0, own.speed(point))]) for own in found.members]
        moved = np.array([_covariance(found, gain, seen) for gain in gains])
        own = _covariance(found, seen, seen) + found.best.scale * LEAST_NOISE**2
        after = half(variances - moved**2 / own)
        if best is None or after < best.after:
            best = Suggestion(point, half(variances), after)
    return best


class _Sum(NamedTuple):
    """A sum of logarithms, by one calibration."""

    log: float
    hangs_on: Combined

    @classmethod
    def of(cls, told: Sequence[tuple[float, Told]]) -> _Sum:
        return cls(_log(told), combined(dict(told)))


def _covariance(found: Posterior, one: Sequence[_Sum], other: Sequence[_Sum]) -> float:
    """The covariance of two sums, noise left out: within calibrations, and between them."""
    within = [own.covariance_of(a.hangs_on, b.hangs_on) for own, a, b in zip(found.members, one, other, strict=True)]
    logs, others = np.array([a.log for a in one]), np.array([b.log for b in other])
    apart = (logs - found.weights @ logs) * (others - found.weights @ others)
    return float(found.weights @ (np.array(within) + apart))
