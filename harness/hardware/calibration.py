"""A profile calibrated to what a user has measured: factors on a base profile's terms, maximum a posteriori.

Each measured point is simulated once for every term (`harness.hardware.terms`); from then on any factors are a weighted
sum. Priors are lognormal, and so is what is left: how far measurements and the model are off is found from what the fit
leaves. The posterior is Laplace's: normal in the logarithms, from the Jacobian at the mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.hardware.measured import MeasuredPoint, Metric
from harness.hardware.terms import TERMS, Base, Factors, Term, TermName, launched, part_of, with_factors
from simulator.averages import Averages, trace_of
from simulator.engine.state import REQUEST, Records
from simulator.errors import InputError
from simulator.hardware.cost import Longest, StepLoad
from simulator.hardware.profile import Errors, Profile
from simulator.load import Users
from simulator.plain import cost_of
from simulator.policies import NO_DRAFTER
from simulator.requests import CHUNK
from simulator.setup import EngineLimits
from simulator.simulation import Prepared, Simulator, prepare

Floats = npt.NDArray[np.float64]

_STEP_TOKENS: Final = 8192
"""Tokens of a pass, prompts included: vLLM's default on such GPUs."""
_BESIDE: Final = 1024
"""Tokens that a pass leaves to prompts at least."""
DOUBLING: Final = 0.1
"""What the form of the model may be off by for each doubling of the load beyond what was measured: assumed, and stated."""
_NOTHING_NEAR: Final = 3.0
"""Doublings that are counted where nothing was given of what drafts."""
_CLOSE: Final = 0.5
"""What is left by a fit to rows of another machine, or in other units."""
LEAST_NOISE: Final = 0.03
"""What measurements are off by at least, and the model: a profile is no better known than a bench is repeated."""
_ANSWERS: Final = 12
"""Answers that each user of an endless load gets, of which those in the middle count."""
_FEWEST, _MOST = 200, 3000
"""Requests of an endless load."""
_MIDDLE: Final = (0.25, 0.85)
"""Of its requests, by when they finish."""
_SPREAD: Final = 0.5
"""Coefficient of variation of the lengths of answers in an endless load: users whose answers are all as long would stay in
lockstep."""
_FLOORS_S: Final = (0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""What launching the kernels of a pass takes, at which the target's passes are simulated; linear in between."""
_ACCEPTED: Final = 0.65
"""The share of draft tokens, among those before which all were accepted, that is taken to be accepted where nobody knows."""
_ACCEPTED_SPREAD: Final = 0.7
"""Of the logarithm of its odds: from 0.3 to 0.88 in 95 of 100 cases."""
_ODDS: Final = (0.15, 0.4, 0.7, 1.0, 1.5, 2.5, 6.0)
"""Odds that are simulated, in units of those."""
_MOST_ERROR: Final = 1.9
"""Relative errors of a profile's parts end below 2."""
_RESPONSES, _TOKENS = 100, 400
"""Of the traces that requests walk."""


class _Walk(NamedTuple):
    """When requests had their first and their last token, by request."""

    first_s: Floats
    finish_s: Floats


@dataclass(frozen=True, slots=True)
class Served:
    """A closed loop, served: its times under any factors."""

    tokens: Floats
    """Of each answer."""
    finite: bool
    parts: Mapping[TermName, _Walk]
    floors: tuple[_Walk, ...]
    """What launching adds, where it takes each of `_FLOORS_S`; empty where no pass has to be launched."""
    launch_s: float
    """What a factor of 1 on launching stands for."""

    def times(self, factors: Factors) -> _Walk:
        """All requests' times."""
        walks = [(factors[name], walk) for name, walk in self.parts.items()]
        if self.floors:
            walks.append((factors["target"], self._launches(factors)))
        return _Walk(*(np.sum([factor * walk[i] for factor, walk in walks], 0) for i in range(2)))

    def _launches(self, factors: Factors) -> _Walk:
        floor_s = min(factors["launch"] * self.launch_s / factors["target"], _FLOORS_S[-1])
        right = min(max(int(np.searchsorted(_FLOORS_S, floor_s)), 1), len(_FLOORS_S) - 1)
        share = (floor_s - _FLOORS_S[right - 1]) / (_FLOORS_S[right] - _FLOORS_S[right - 1])
        low, high = self.floors[right - 1], self.floors[right]
        return _Walk(*(below + share * (above - below) for below, above in zip(low, high, strict=True)))

    def value(self, metric: Metric, factors: Factors, gpus: int) -> float:
        """What would be measured."""
        first_s, finish_s = self.times(factors)
        order = np.argsort(finish_s, kind="stable")
        begin, end = (0, len(order)) if self.finite else (int(share * len(order)) for share in _MIDDLE)
        counted = order[begin:end]
        if metric in ("output_tok_s", "output_tok_s_per_gpu"):
            since_s = 0.0 if self.finite else float(finish_s[order[begin - 1]])
            rate = float(self.tokens[counted].sum()) / max(float(finish_s[order[end - 1]]) - since_s, 1e-12)
            return rate / (gpus if metric == "output_tok_s_per_gpu" else 1)
        each_ms = 1e3 * (finish_s - first_s)[counted] / np.maximum(self.tokens[counted] - 1, 1)
        return float(np.median(each_ms) if metric == "tpot_ms" else each_ms.mean())


@dataclass(frozen=True, slots=True)
class Unsure:
    """A closed loop whose drafts are accepted nobody knows how often, served for several odds; straight in between."""

    kind: str
    loops: tuple[Served, ...]
    """For each of `_ODDS`."""

    def value(self, metric: Metric, factors: Factors, gpus: int) -> float:
        """What would be measured."""
        odds = min(max(factors[acceptance_of(self.kind)], _ODDS[0]), _ODDS[-1])
        right = min(max(int(np.searchsorted(_ODDS, odds)), 1), len(_ODDS) - 1)
        share = np.log(odds / _ODDS[right - 1]) / np.log(_ODDS[right] / _ODDS[right - 1])
        low, high = (np.log(self.loops[i].value(metric, factors, gpus)) for i in (right - 1, right))
        return float(np.exp(low + share * (high - low)))


def acceptance_of(kind: str) -> str:
    """What the odds are called that a draft token of a kind is accepted, where nobody knows them."""
    return f"acceptance of {kind}"


@dataclass(frozen=True, slots=True)
class Timed:
    """One step, timed at a context."""

    seconds: Mapping[TermName, float]

    def value(self, metric: Metric, factors: Factors, gpus: int) -> float:
        """Milliseconds."""
        return 1e3 * sum(factors[name] * seconds for name, seconds in self.seconds.items())


def serve(point: MeasuredPoint, base: Base, seed: int = 0) -> Served:
    """A point's closed loop, simulated for every term."""
    assert isinstance(point.load, Users), point
    rng, users = np.random.default_rng([seed, point.load.users]), point.load.users
    recorded = recorded_of(point)
    step_tokens = max(_STEP_TOKENS, users * (recorded.trace.gamma + 1) + _BESIDE)
    asked, limits = _requests(point, recorded, rng), EngineLimits(request_cap=users, step_tokens=step_tokens)

    def walk(profile: Profile) -> _Walk:
        cost = cost_of(profile, point.policy, recorded.trace, users, step_tokens)
        believed = cost_of(base.profile, point.policy, recorded.trace, users, step_tokens)
        rows = list[Records]()
        simulator = Simulator(
            recorded, point.policy.bind(believed), cost, limits, base.profile.kv_capacity_tokens, _in_chunks(asked),
            users=users, seed=seed, on_rows=lambda some: rows.append(some.copy()),
        )  # fmt: skip
        simulator.run_until(np.inf)
        simulator.flush()
        done = np.concatenate(rows)
        by_request = np.argsort(done["request"])
        return _Walk(done["first_s"][by_request], done["finish_s"][by_request])

    drafting = point.policy != NO_DRAFTER
    names = [name for name in base.linear if drafting or name not in ("draft", "draft_pass")]
    floors = tuple(walk(launched(base, floor_s)) for floor_s in _FLOORS_S) if base.launch_s else ()
    parts = {name: walk(part_of(base, name)) for name in names}
    tokens = asked["output_tokens"].astype(np.float64)
    return Served(tokens, point.requests is not None, parts, floors, base.units["launch"])


def recorded_of(point: MeasuredPoint) -> Prepared:
    """Responses whose drafts are accepted as the point says."""
    averages = point.averages or Averages((0.5,) * max(point.gamma, 1))  # where it makes no difference
    rng = np.random.default_rng(0)
    trace = trace_of(
        point.kind if point.gamma else "ngram", {"all": averages}, rng, responses=_RESPONSES, tokens=_TOKENS,
        prompt_tokens=point.prompt_tokens,
    )  # fmt: skip
    return prepare(trace)


def _requests(point: MeasuredPoint, recorded: Prepared, rng: np.random.Generator) -> Records:
    assert isinstance(point.load, Users)
    count = point.requests or min(max(_ANSWERS * point.load.users, _FEWEST), max(_MOST, 4 * point.load.users))
    asked = np.zeros(count, REQUEST)
    asked["response"] = rng.integers(len(recorded.trace.responses), size=count)
    asked["prompt_tokens"], asked["output_tokens"] = point.prompt_tokens, point.output_tokens
    if point.requests is None:
        shape = _SPREAD**-2
        asked["output_tokens"] = np.maximum(rng.gamma(shape, point.output_tokens / shape, count).round(), 2)
    return asked


def _in_chunks(asked: Records) -> Iterator[Records]:
    """As many at a time as a simulation takes."""
    for begin in range(0, len(asked), CHUNK):
        yield asked[begin : begin + CHUNK]


def timed(point: MeasuredPoint, base: Base) -> Timed:
    """A point's step, by term; launching is left out, for engines time captured sizes."""
    assert isinstance(point.load, Users), point
    users, gamma = point.load.users, point.gamma
    load = StepLoad(users, context_tokens=users * (point.context or 0))
    if load.context_tokens > base.profile.kv_capacity_tokens:
        raise InputError(
            f"context {point.context} of {users} users: {base.profile.name} holds {base.profile.kv_capacity_tokens:,} tokens"
        )
    recorded, step_tokens = recorded_of(point), users * (gamma + 1)
    seconds = {}
    for name in base.linear:
        cost = cost_of(part_of(base, name), point.policy, recorded.trace, users, step_tokens)
        seconds[name] = cost.step(load, gamma, users * gamma, Longest(gamma, point.context or 0)).seconds
    return Timed(seconds)


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

    def doublings(self, point: MeasuredPoint) -> float:
        """Doublings of the load between a point and the nearest that was given of what drafts there."""
        near = [r.point.load for r in self.residuals if r.point.what == point.what]
        if not isinstance(point.load, Users) or not near:
            return _NOTHING_NEAR
        return min(abs(float(np.log2(point.load.users / load.users))) for load in near if isinstance(load, Users))

    def untold(self) -> list[str]:
        """Terms of which the measurements say next to nothing."""
        return [name for name in self.names if self.spread(name) > 0.8 * term_of(name).spread]

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
        loops[point.line] = _loop(point, base)
    advance(len(points), len(points))
    unknown = dict.fromkeys(acceptance_of(loop.kind) for loop in loops.values() if isinstance(loop, Unsure))
    names, gpus = (*base.terms, *unknown), base.profile.gpus
    wanted = [(point, metric, value) for point in given for metric, value in point.values.items()]
    spreads = np.array([term_of(name).spread for name in names])

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


Loop = Served | Unsure | Timed


def term_of(name: str) -> Term:
    """What is believed of a factor before anything is measured."""
    return TERMS.get(name) or Term(name, _ACCEPTED_SPREAD)  # type: ignore[call-overload]


def _loop(point: MeasuredPoint, base: Base) -> Loop:
    if not isinstance(point.load, Users):
        raise InputError(f"line {point.line}: rows by rate are not read yet; give the concurrency that was reached")
    try:
        if set(point.values) == {"step_ms"}:
            return timed(point, base)
        if point.gamma and point.averages is None:
            return Unsure(point.kind, tuple(serve(replace(point, averages=at), base) for at in _averages(point.gamma)))
        return serve(point, base)
    except InputError as error:
        raise InputError(f"line {point.line}: {error}") from None


def _mode(misses: Callable[[Floats], Floats], spreads: Floats, noise: float, start: Floats) -> Floats:
    from scipy.optimize import least_squares

    found = least_squares(lambda z: np.concatenate([misses(z) / noise, z / spreads]), start, x_scale=spreads)
    return np.asarray(found.x, np.float64)


def _averages(gamma: int) -> list[Averages]:
    """Acceptances for each of `_ODDS`, alike at all positions."""
    odds = [_ACCEPTED / (1 - _ACCEPTED) * factor for factor in _ODDS]
    return [Averages.of_conditional([one / (1 + one)] * gamma) for one in odds]


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
    users = sorted(p.load.users for p in (r.point for r in found.residuals) if isinstance(p.load, Users))
    load = StepLoad(users[len(users) // 2], context_tokens=users[len(users) // 2] * _TOKENS)
    drafter = next(iter(found.base.profile.draft), "none")
    gamma = found.base.profile.draft[drafter].drafted[-1] if drafter != "none" else 0

    def log_parts(z: Floats) -> Floats:
        profile = with_factors(found.base, _factors(found.names, z))
        cost = profile.cost(drafter, gamma, load.decoding, load.decoding * (gamma + 1))
        parts = cost.step(load, gamma, 0, Longest(gamma, _TOKENS))
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
    metric: Metric = "output_tok_s"
    points = [point for point in points if not isinstance(found.loops[point.line], Timed)]
    plain = {point.traffic: point for point in points if point.policy == NO_DRAFTER}
    gains = [
        found.gradient(point, metric) - found.gradient(plain[point.traffic], metric)
        for point in points if point.policy != NO_DRAFTER and point.traffic in plain
    ]  # fmt: skip
    unmeasured = [point for point in points if not point.values]
    if not gains or not unmeasured:
        return None

    def half(covariance: Floats) -> float:
        return float(np.mean([1.96 * np.sqrt(gain @ covariance @ gain) for gain in gains]))

    best: Suggestion | None = None
    for point in unmeasured:
        slope = found.gradient(point, metric)
        moved = found.covariance @ slope
        after = half(found.covariance - np.outer(moved, moved) / (found.noise**2 + slope @ moved))
        if best is None or after < best.after:
            best = Suggestion(point, half(found.covariance), after)
    return best
