"""A profile calibrated to what a user has measured: factors on a base profile's terms, maximum a posteriori.

Each measured point is simulated once (`harness.hardware.loops`) and known under any factors from then on. Priors are
lognormal, and so is what is left: how far measurements and the model are off is found from what the fit leaves. The
posterior is Laplace's: normal in the logarithms, from the Jacobian at the mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from harness.hardware.discrepancy import Combined, Left, Place, scatter
from harness.hardware.loops import Floats, Kept, Loop, Unsure, acceptance_of, loop_of
from harness.hardware.measured import MeasuredPoint
from harness.hardware.table import Metric
from harness.hardware.terms import TERMS, Base, Factors, with_factors
from simulator.errors import InputError
from simulator.hardware.cost import StepLoad
from simulator.hardware.profile import Profile
from simulator.policies import NO_DRAFTER

_CLOSE: Final = 0.5
"""What is left by a fit to rows of another machine, or in other units."""
_CLOSE_DRAFTING: Final = 1.0
"""The same of all rows where those without drafts are close: a drafter may take several times what any base has for it."""
LEAST_NOISE: Final = 0.02
"""What measurements are off by at least, and the model: a profile is no better known than a bench is repeated."""
_FAR: Final = 3.0
"""Standard deviations of a prior beyond which a factor is worth a warning."""
_UNTOLD: Final = 0.95
"""The share of a prior's deviation from which on what is left says that nothing was told: a tenth of the variance."""
_IMPOSSIBLE: Final = 30.0
"""Times as much as anything comes to, or as little, that is no machine's: seconds for milliseconds are a thousand."""
_MOST_USERS: Final = 1024
"""Requests that run at once, of rows that say how many arrive."""
_AS_ASSUMED: Final = 4.0
"""Values that speak for the sizes that are assumed of what is left, beside those that were measured."""
_ACCEPTED_SPREAD: Final = 1.3
"""The spread of the logarithm of the odds that a draft token is accepted: from 0.19 to 0.97 in 95 of 100 cases."""


# --- the fit --------------------------------------------------------------------------------------------------------------


class Residual(NamedTuple):
    """A measured value, and what the calibrated profile makes of it."""

    point: MeasuredPoint
    metric: Metric
    measured: float
    fitted: float


class Told(NamedTuple):
    """A value that is told of a point, and what the logarithm of its speed hangs on."""

    value: float
    slope: Floats
    """The factors' logarithms."""
    place: Place
    weights: Floats
    """The logarithms of what was measured."""


def combined(told: Mapping[float, Told]) -> Combined:
    """A sum of logarithms, by how many times each counts."""
    times, some = np.array(list(told), np.float64), list(told.values())
    slope, weights = times @ np.stack([one.slope for one in some]), times @ np.stack([one.weights for one in some])
    return Combined(times, tuple(one.place for one in some), slope, weights)


def _sign(metric: Metric) -> int:
    """The sign of a metric's logarithm in that of speed."""
    return -1 if metric.endswith("_ms") else 1


class Forecast(NamedTuple):
    """A value that is predicted, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """A base profile, factors on it, and how sure they are."""

    base: Base
    names: tuple[str, ...]
    """Names of terms, and of acceptances that nobody knows."""
    log_factors: Floats
    """Mode, by name."""
    covariance: Floats
    """The covariance of the factors' logarithms."""
    noise: float
    """What measurements are off by, each by itself: a share."""
    residuals: tuple[Residual, ...]
    loops: Mapping[int, Loop]
    """By the line of their point."""
    left: Left
    """What the factors do not explain, and what follows of it at other loads."""
    slopes: Floats
    """Derivatives of the logarithms of fitted values, by the factors' logarithms: [values, names]."""
    scale: float
    """Variance of what is left, in units of what is assumed of it; 1 at least."""
    evidence: float
    """Logarithm of how probable what was measured is with this base, but for what is the same for all: Laplace's."""

    @property
    def factors(self) -> dict[str, float]:
        """The mode."""
        return factors_of(self.names, self.log_factors)

    @cached_property
    def profile(self) -> Profile:
        """The calibrated profile, still called as its base is."""
        return with_factors(self.base, self.factors)

    def prior(self, name: str) -> float:
        """Standard deviation of a factor's logarithm before anything was measured."""
        return _prior(self.base, name)

    def spread(self, name: str) -> float:
        """Standard deviation of a factor's logarithm."""
        i = self.names.index(name)
        return float(np.sqrt(self.covariance[i, i]))

    @cached_property
    def _gradients(self) -> dict[tuple[int, Metric], Floats]:
        """Those that were asked for, by line: each takes dozens of evaluations, and tables ask for it time and again."""
        return {}

    def gradient(self, point: MeasuredPoint, metric: Metric) -> Floats:
        """The gradient of the logarithm of what would be measured, by the factors' logarithms."""
        if (point.line, metric) not in self._gradients:
            self._gradients[point.line, metric] = self._gradient(point, metric)
        return self._gradients[point.line, metric]

    def _gradient(self, point: MeasuredPoint, metric: Metric) -> Floats:
        loop = self.loops[point.line]

        def log(z: Floats) -> Floats:
            return np.array([_log(loop, metric, factors_of(self.names, z), self.base.profile.gpus)])

        return np.asarray(slopes_of(log, self.log_factors)[0], np.float64)

    def forecast(self, point: MeasuredPoint, metric: Metric) -> Forecast:
        """What a measurement at a point would come to, its own noise included."""
        told = self.told(point, metric)
        deviation = 1.96 * self.deviation(combined({1.0: told}), noise=1)
        return Forecast(told.value, told.value * np.exp(-deviation), told.value * np.exp(deviation))

    def told(self, point: MeasuredPoint, metric: Metric) -> Told:
        """What a point comes to without noise: by the profile, and by what near rows have left of it."""
        loop, sign = self.loops[point.line], _sign(metric)
        place = place_of(point, loop)
        weights = self.left.weights(place)
        value = loop.value(metric, self.factors, self.base.profile.gpus) * float(np.exp(sign * self.left.at(place)))
        return Told(value, sign * self.gradient(point, metric) - weights @ self.slopes, place, weights)

    def speed(self, point: MeasuredPoint) -> Told:
        """How fast answers come: tokens a second; in an open loop, which has as many tokens a second however they are made,
        one over what each takes."""
        if point.load.users is not None:
            return self.told(point, "output_tok_s")
        each = self.told(point, "tpot_mean_ms")
        return each._replace(value=1e3 / each.value)

    def covariance_of(self, one: Combined, other: Combined) -> float:
        """The covariance of the logarithms of two sums, noise left out."""
        return float(one.slope @ self.covariance @ other.slope + self.scale * self.left.covariance_of(one, other))

    def deviation(self, one: Combined, noise: int) -> float:
        """Standard deviation of a sum, with the noise of so many measurements."""
        return float(np.sqrt(max(self.covariance_of(one, one), 0.0) + noise * self.scale * LEAST_NOISE**2))

    def untold(self) -> list[str]:
        """Terms of which the measurements say next to nothing."""
        return [name for name in self.names if self.spread(name) > _UNTOLD * self.prior(name)]

    def strained(self) -> list[str]:
        """Terms that the measurements move further than anybody believed before."""
        far = np.abs(self.log_factors) > _FAR * np.array([self.prior(name) for name in self.names])
        return [name for name, it in zip(self.names, far, strict=True) if it]

    def alike(self) -> list[tuple[str, str]]:
        """Pairs of terms that the measurements cannot tell apart: what one has more the other has less."""
        deviations = np.sqrt(np.diag(self.covariance))
        correlation = self.covariance / np.outer(deviations, deviations)
        told = set(self.names) - set(self.untold())
        return [
            (a, b) for i, a in enumerate(self.names) for j, b in enumerate(self.names[:i])
            if correlation[i, j] < -0.8 and {a, b} <= told
        ]  # fmt: skip


Advance = Callable[[int, int], None]


Simulated = Sequence[Mapping[int, Loop]]
"""For each base, every point by its line."""


def simulated(
    points: Sequence[MeasuredPoint], bases: Sequence[Base], advance: Advance = lambda done, total: None
) -> Simulated:
    """All points, so that those that are not given can be predicted.

    Raises InputError where none is given, or a drafter's acceptance or time is not known.
    """
    if not any(point.given for point in points):
        raise InputError(
            "no row is given: nothing to fit to; a row is one point, with output_tok_s, tpot_ms or another of what was "
            "measured, and `given` under role or nothing"
        )
    loops: list[dict[int, Loop]] = [{} for _ in bases]
    for done, point in enumerate(points):
        advance(done, len(points))
        kept = Kept()
        for own, base in zip(loops, bases, strict=True):
            own[point.line] = loop_of(point, base, kept)
    advance(len(points), len(points))
    return loops


def calibrate(
    points: Sequence[MeasuredPoint],
    bases: Sequence[Base],
    loops: Simulated,
    advance: Advance = lambda done, total: None,
) -> tuple[Calibration, ...]:
    """Fit the factors of each base to the given ones among points; of those that come close. Raises InputError where none
    does."""
    found, far = list[Calibration](), list[InputError]()
    for done, (base, own) in enumerate(zip(bases, loops, strict=True)):
        advance(done, len(bases))
        try:
            found.append(_calibrated(points, base, own))
        except InputError as error:
            far.append(error)
    advance(len(bases), len(bases))
    if not found:
        raise far[0]
    return tuple(found)


def _calibrated(points: Sequence[MeasuredPoint], base: Base, loops: Mapping[int, Loop]) -> Calibration:
    """Raises InputError where nothing comes close."""
    given = [point for point in points if point.given]
    unknown = dict.fromkeys(acceptance_of(loop.kind) for loop in loops.values() if isinstance(loop, Unsure))
    names, gpus = (*base.terms, *unknown), base.profile.gpus
    wanted = [(point, metric, value) for point in given for metric, value in point.values.items()]
    spreads = np.array([_prior(base, name) for name in names])
    told_speeds = np.array([_sign(metric) * np.log(value) for _, metric, value in wanted])

    def misses(z: Floats) -> Floats:
        factors = factors_of(names, z)
        fitted = [_sign(metric) * _log(loops[p.line], metric, factors, gpus) for p, metric, _ in wanted]
        return np.asarray(np.array(fitted) - told_speeds, np.float64)

    places = [place_of(point, loops[point.line]) for point, _, _ in wanted]
    white = np.linalg.inv(np.linalg.cholesky(scatter(places, LEAST_NOISE)))
    z, scale = np.zeros(len(names)), 1.0
    for _ in range(3):
        z = _mode(misses, white / scale**0.5, spreads, z)
        slopes = slopes_of(misses, z)
        told = (white @ slopes).T @ (white @ slopes) / scale
        covariance = np.asarray(np.linalg.inv(told + np.diag(spreads**-2)), np.float64)
        used = float(np.trace(told @ covariance))  # as many measurements as the factors take up
        left = float(((white @ misses(z)) ** 2).sum())
        scale = max(1.0, (left + _AS_ASSUMED) / (max(len(wanted) - used, 0.0) + _AS_ASSUMED))
    noise = float(np.sqrt(np.mean(misses(z) ** 2)))
    factors = factors_of(names, z)
    residuals = [Residual(p, m, value, loops[p.line].value(m, factors, gpus)) for p, m, value in wanted]
    if _far(wanted, misses(z)):
        worst = max(residuals, key=lambda r: abs(np.log(r.fitted / r.measured)))
        raise _another(worst.point, worst.metric, worst.measured, base.profile, worst.fitted)
    rest = Left.of(places, -misses(z), LEAST_NOISE)
    told = np.linalg.slogdet(np.eye(len(z)) + told * np.outer(spreads, spreads))[1]
    evidence = -0.5 * float(((white @ misses(z)) ** 2).sum() / scale + ((z / spreads) ** 2).sum() + told)
    evidence -= 0.5 * len(wanted) * float(np.log(scale))
    return Calibration(base, names, z, covariance, noise, tuple(residuals), loops, rest, slopes, scale, evidence)


def _far(wanted: Sequence[tuple[MeasuredPoint, Metric, float]], misses: Floats) -> bool:
    """Whether rows are of another machine than the base: as told by those without drafts, where there are some; drafters
    take longer for reasons that no base has."""
    plain = np.array([point.policy == NO_DRAFTER for point, *_ in wanted])
    if not plain.any():
        return float(np.sqrt(np.mean(misses**2))) > _CLOSE
    return bool(np.sqrt(np.mean(misses[plain] ** 2)) > _CLOSE or np.sqrt(np.mean(misses**2)) > _CLOSE_DRAFTING)


def _another(point: MeasuredPoint, metric: Metric, measured: float, profile: Profile, closest: float) -> InputError:
    return InputError(
        f"line {point.line}: {metric} {measured:,.4g} is far from anything that {profile.name} comes to ({closest:,.4g} at "
        "the closest): are unit, GPUs, model and device those?"
    )


def check_possible(point: MeasuredPoint, profile: Profile) -> None:
    """Raise InputError, before anything is simulated, for a value that is in another unit: far from what a step without
    drafts takes of one request with all drafts accepted, and far from one of all of them with none."""
    users, context = point.load.users or _MOST_USERS, point.prompt_tokens + point.output_tokens
    loads = (StepLoad(n, context_tokens=n * context) for n in (1, users))
    alone_s, all_s = (profile.cost("none", 0, load.decoding, load.decoding).seconds(load, 0, 0) for load in loads)
    for metric, value in point.values.items():
        gpus = profile.gpus if metric == "output_tok_s_per_gpu" else 1
        ends = (1e3 * alone_s / (1 + point.gamma), 1e3 * all_s * (1 + point.gamma))
        if not metric.endswith("_ms"):
            ends = (users / all_s / (1 + point.gamma) / gpus, users * (1 + point.gamma) / alone_s / gpus)
        if not ends[0] / _IMPOSSIBLE < value < ends[1] * _IMPOSSIBLE:
            raise _another(point, metric, value, profile, ends[0] if value < ends[0] else ends[1])


def place_of(point: MeasuredPoint, loop: Loop) -> Place:
    return Place(float(np.log2(loop.running(dict.fromkeys(TERMS, 1.0)))), point.what, loop.outside, point.line)


def _prior(base: Base, name: str) -> float:
    """The prior's spread of a term, or of the odds that nobody knows."""
    return base.spread(name) if name in TERMS else _ACCEPTED_SPREAD  # type: ignore[arg-type]


def _mode(misses: Callable[[Floats], Floats], white: Floats, spreads: Floats, start: Floats) -> Floats:
    from scipy.optimize import least_squares

    found = least_squares(lambda z: np.concatenate([white @ misses(z), z / spreads]), start, x_scale=spreads)
    return np.asarray(found.x, np.float64)


def _log(loop: Loop, metric: Metric, factors: Factors, gpus: int) -> float:
    return float(np.log(max(loop.value(metric, factors, gpus), 1e-12)))


def factors_of(names: Sequence[str], logs: Floats) -> dict[str, float]:
    ones: dict[str, float] = dict.fromkeys(TERMS, 1.0)
    return ones | dict(zip(names, np.exp(logs).tolist(), strict=True))


def slopes_of(of: Callable[[Floats], Floats], at: Floats, step: float = 1e-4) -> Floats:
    """By central differences: [values, len(at)]."""
    return np.stack([(of(at + step * unit) - of(at - step * unit)) / (2 * step) for unit in np.eye(len(at))], -1)
