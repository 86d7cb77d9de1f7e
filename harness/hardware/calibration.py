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

from harness.hardware.loops import Floats, Loop, Timed, Unsure, acceptance_of, loop_of
from harness.hardware.measured import MeasuredPoint, Metric
from harness.hardware.terms import TERMS, Base, Factors, with_factors
from simulator.errors import InputError
from simulator.hardware.cost import Longest, StepLoad
from simulator.hardware.profile import Errors, Profile
from simulator.policies import NO_DRAFTER

DOUBLING: Final = 0.1
"""What the form of the model may be off by for each doubling of the load beyond what was measured: assumed, and stated."""
_NOTHING_NEAR: Final = 3.0
"""Doublings that are counted where nothing was given of what drafts."""
_CLOSE: Final = 0.5
"""What is left by a fit to rows of another machine, or in other units."""
LEAST_NOISE: Final = 0.03
"""What measurements are off by at least, and the model: a profile is no better known than a bench is repeated."""
_ACCEPTED_SPREAD: Final = 0.7
"""Of the logarithm of the odds that a draft token is accepted: from 0.3 to 0.88 in 95 of 100 cases."""
_MOST_ERROR: Final = 1.9
"""Relative errors of a profile's parts end below 2."""
_CONTEXT: Final = 400
"""Tokens of a request where parts of a step are compared."""


# --- the fit --------------------------------------------------------------------------------------------------------------


class Residual(NamedTuple):
    """A measured value, and what the calibrated profile makes of it."""

    point: MeasuredPoint
    metric: Metric
    measured: float
    fitted: float


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
    """Of terms, and of acceptances that nobody knows."""
    log_factors: Floats
    """Mode, by name."""
    covariance: Floats
    """Of the logarithms."""
    noise: float
    """What measurements are off by, and the model: a share."""
    residuals: tuple[Residual, ...]
    loops: Mapping[int, Loop]
    """By the line of their point."""

    @property
    def factors(self) -> dict[str, float]:
        """The mode."""
        return _factors(self.names, self.log_factors)

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

    def gradient(self, point: MeasuredPoint, metric: Metric) -> Floats:
        """Of the logarithm of what would be measured, by the factors' logarithms."""
        loop = self.loops[point.line]

        def log(z: Floats) -> Floats:
            return np.array([_log(loop, metric, _factors(self.names, z), self.base.profile.gpus)])

        return np.asarray(_gradient(log, self.log_factors)[0], np.float64)

    def forecast(self, point: MeasuredPoint, metric: Metric) -> Forecast:
        """What a measurement at a point would come to, its own noise included."""
        loop, slope = self.loops[point.line], self.gradient(point, metric)
        value = loop.value(metric, self.factors, self.base.profile.gpus)
        far = DOUBLING * self.doublings(point)
        deviation = float(np.sqrt(slope @ self.covariance @ slope + self.noise**2 + far**2))
        return Forecast(value, value * np.exp(-1.96 * deviation), value * np.exp(1.96 * deviation))

    def speed(self, point: MeasuredPoint) -> tuple[float, Floats]:
        """(how fast answers come, gradient of its logarithm): tokens a second; in an open loop, which has as many tokens a
        second however they are made, one over what each takes."""
        if point.load.users is not None:
            metric: Metric = "output_tok_s"
            return self.loops[point.line].value(metric, self.factors, self.base.profile.gpus), self.gradient(point, metric)
        each_ms = self.loops[point.line].value("tpot_mean_ms", self.factors, self.base.profile.gpus)
        return 1e3 / each_ms, -self.gradient(point, "tpot_mean_ms")

    def doublings(self, point: MeasuredPoint) -> float:
        """Doublings of the requests that run between a point and the nearest that was given of what drafts there."""
        here = self.loops[point.line].running(self.factors)
        near = [self.loops[r.point.line].running(self.factors) for r in self.residuals if r.point.what == point.what]
        return min((abs(float(np.log2(here / there))) for there in near), default=_NOTHING_NEAR)

    def untold(self) -> list[str]:
        """Terms of which the measurements say next to nothing."""
        return [name for name in self.names if self.spread(name) > 0.8 * self.prior(name)]

    def alike(self) -> list[tuple[str, str]]:
        """Pairs of terms that the measurements cannot tell apart: what one has more the other has less."""
        deviations = np.sqrt(np.diag(self.covariance))
        correlation = self.covariance / np.outer(deviations, deviations)
        told = set(self.names) - set(self.untold())
        return [
            (a, b) for i, a in enumerate(self.names) for j, b in enumerate(self.names[:i])
            if correlation[i, j] < -0.8 and {a, b} <= told
        ]  # fmt: skip


def calibrate(
    points: Sequence[MeasuredPoint], base: Base, advance: Callable[[int, int], None] = lambda done, total: None
) -> Calibration:
    """Fit the base's factors to the given ones among points. All are simulated, so that the others can be predicted.

    Raises InputError where nothing is given, or a drafter's acceptance or time is not known.
    """
    given = [point for point in points if point.given]
    if not given:
        raise InputError("no row is given: nothing to fit to")
    loops: dict[int, Loop] = {}
    for done, point in enumerate(points):
        advance(done, len(points))
        loops[point.line] = loop_of(point, base)
    advance(len(points), len(points))
    unknown = dict.fromkeys(acceptance_of(loop.kind) for loop in loops.values() if isinstance(loop, Unsure))
    names, gpus = (*base.terms, *unknown), base.profile.gpus
    wanted = [(point, metric, value) for point in given for metric, value in point.values.items()]
    spreads = np.array([_prior(base, name) for name in names])

    def misses(z: Floats) -> Floats:
        factors = _factors(names, z)
        return np.array([_log(loops[p.line], metric, factors, gpus) - np.log(value) for p, metric, value in wanted])

    z, noise = np.zeros(len(names)), LEAST_NOISE
    for _ in range(3):
        z = _mode(misses, spreads, noise, z)
        slopes = _gradient(misses, z)
        precision = slopes.T @ slopes / noise**2 + np.diag(spreads**-2)
        covariance = np.asarray(np.linalg.inv(precision), np.float64)
        used = float(np.trace(slopes @ covariance @ slopes.T)) / noise**2  # as many measurements as the factors take up
        left = float((misses(z) ** 2).sum())
        noise = max(LEAST_NOISE, float(np.sqrt(left / max(len(wanted) - used, 1.0))))
    factors = _factors(names, z)
    residuals = [Residual(p, m, value, loops[p.line].value(m, factors, gpus)) for p, m, value in wanted]
    if noise > _CLOSE:
        worst = max(residuals, key=lambda r: abs(np.log(r.fitted / r.measured)))
        raise InputError(
            f"line {worst.point.line}: {worst.metric} {worst.measured:,.4g} is far from anything that {base.profile.name} "
            f"comes to ({worst.fitted:,.4g} at the closest): are unit, GPUs, model and device those?"
        )
    return Calibration(base, names, z, covariance, noise, tuple(residuals), loops)


def _prior(base: Base, name: str) -> float:
    """Of a term, or of the odds that nobody knows."""
    return base.spread(name) if name in TERMS else _ACCEPTED_SPREAD  # type: ignore[arg-type]


def _mode(misses: Callable[[Floats], Floats], spreads: Floats, noise: float, start: Floats) -> Floats:
    from scipy.optimize import least_squares

    found = least_squares(lambda z: np.concatenate([misses(z) / noise, z / spreads]), start, x_scale=spreads)
    return np.asarray(found.x, np.float64)


def _log(loop: Loop, metric: Metric, factors: Factors, gpus: int) -> float:
    return float(np.log(max(loop.value(metric, factors, gpus), 1e-12)))


def _factors(names: Sequence[str], logs: Floats) -> dict[str, float]:
    ones: dict[str, float] = dict.fromkeys(TERMS, 1.0)
    return ones | dict(zip(names, np.exp(logs).tolist(), strict=True))


def _gradient(of: Callable[[Floats], Floats], at: Floats, step: float = 1e-4) -> Floats:
    """By central differences: [values, len(at)]."""
    return np.stack([(of(at + step * unit) - of(at - step * unit)) / (2 * step) for unit in np.eye(len(at))], -1)


def errors_of(found: Calibration) -> Errors:
    """How far parts of the calibrated profile may be off, each by itself, at the median of the loads that were fitted to.

    Parts that the measurements cannot tell apart are unsure together, which taken one by one makes an interval wider.
    """
    running = sorted(found.loops[r.point.line].running(found.factors) for r in found.residuals)
    users = max(round(running[len(running) // 2]), 1)
    load = StepLoad(users, context_tokens=users * _CONTEXT)
    drafter = next(iter(found.base.profile.draft), "none")
    gamma = found.base.profile.draft[drafter].drafted[-1] if drafter != "none" else 0

    def log_parts(z: Floats) -> Floats:
        profile = with_factors(found.base, _factors(found.names, z))
        cost = profile.cost(drafter, gamma, load.decoding, load.decoding * (gamma + 1))
        parts = cost.step(load, gamma, 0, Longest(gamma, _CONTEXT))
        return np.log([parts.target_s + parts.attention_s, max(parts.draft_s, 1e-12), max(parts.overhead_s, 1e-12)])

    slopes = _gradient(log_parts, found.log_factors)
    verify, draft, host = np.sqrt(np.einsum("ij,jk,ik->i", slopes, found.covariance, slopes) + found.noise**2)
    return Errors(min(float(verify), _MOST_ERROR), min(float(draft), _MOST_ERROR), min(float(host), _MOST_ERROR))


# --- what to measure next -------------------------------------------------------------------------------------------------


class Suggestion(NamedTuple):
    """A measurement that would make a decision surer."""

    point: MeasuredPoint
    before: float
    """Half of the 95 % interval of the gain over no speculation, averaged over loads: a share."""
    after: float


def next_measurement(found: Calibration, points: Sequence[MeasuredPoint]) -> Suggestion | None:
    """Of the points that were not measured, the one whose throughput would narrow most what speculation gains; None without
    any."""
    points = [point for point in points if not isinstance(found.loops[point.line], Timed)]
    plain = {point.traffic: point for point in points if point.policy == NO_DRAFTER}
    gains = [
        found.speed(point)[1] - found.speed(plain[point.traffic])[1]
        for point in points if point.policy != NO_DRAFTER and point.traffic in plain
    ]  # fmt: skip
    unmeasured = [point for point in points if not point.values]
    if not gains or not unmeasured:
        return None

    def half(covariance: Floats) -> float:
        return float(np.mean([1.96 * np.sqrt(gain @ covariance @ gain) for gain in gains]))

    best: Suggestion | None = None
    for point in unmeasured:
        slope = found.speed(point)[1]
        moved = found.covariance @ slope
        after = half(found.covariance - np.outer(moved, moved) / (found.noise**2 + slope @ moved))
        if best is None or after < best.after:
            best = Suggestion(point, half(found.covariance), after)
    return best
