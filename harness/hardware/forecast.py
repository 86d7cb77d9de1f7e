"""What a calibrated profile says of points that it was not fitted to, and how right that is where they were measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from harness.hardware.calibration import Forecast
from harness.hardware.loops import recorded_of
from harness.hardware.measured import MeasuredPoint
from harness.hardware.posterior import Posterior
from harness.hardware.table import Metric
from simulator.load import Users
from simulator.plain import capacity_of
from simulator.policies import NO_DRAFTER

_SHOWN: Final[Metric] = "output_tok_s"
_SHOWN_OPEN: Final[Metric] = "tpot_mean_ms"
"""What is told of a point of which nothing was measured where no given row says better; of an open one, whose throughput is
what is asked."""


class Predicted(NamedTuple):
    """A value of a row that the profile was not fitted to."""

    point: MeasuredPoint
    metric: Metric
    forecast: Forecast
    measured: float | None

    @property
    def error(self) -> float | None:
        """How far the prediction is off, as a share; None where nobody measured."""
        return None if self.measured is None else self.forecast.value / self.measured - 1

    @property
    def inside(self) -> bool | None:
        """Whether what was measured lies inside the interval."""
        return None if self.measured is None else self.forecast.low <= self.measured <= self.forecast.high


@dataclass(frozen=True, slots=True)
class Best:
    """What is best at a load, by the profile; and what following it would have lost, where all of it was measured."""

    load: str
    name: str
    gain: Forecast | None
    """What the best that drafts gives over none, a share with its 95 % interval; None where the rows lack either."""
    measured: float | None
    """The same as it was measured; None where it was not."""
    regret: float | None


class Crossover(NamedTuple):
    """The number of users at which a drafter stops paying; None beyond all loads, 0 where it never pays."""

    name: str
    predicted: float | None
    measured: float | None
    """None also where too little was measured."""
    doubtful: tuple[int, ...]
    """Loads at which its gain may be a loss, or its loss a gain."""
    pays_from: float | None = None
    """The number of users from which it pays, where with fewer it does not; None where there is none."""
    measured_from: float | None = None
    """The same as it was measured."""


class Overload(NamedTuple):
    """A row of which more requests arrive than can be answered: its times grow with how long it goes on."""

    point: MeasuredPoint
    most_per_s: Forecast
    """Answers a second, at most."""


def overloads(found: Posterior, points: Sequence[MeasuredPoint]) -> list[Overload]:
    """The rows that are to be predicted and nothing can be said of."""
    return [Overload(one, most) for one in points if not one.given and (most := found.most_per_s(one)) is not None]


class Crowded(NamedTuple):
    """A row whose users hold more tokens at once than its profile has room for: there, some wait for others."""

    point: MeasuredPoint
    tokens: int
    """That all users hold on average, halfway through their answers."""
    room: int


def crowded(found: Posterior, points: Sequence[MeasuredPoint]) -> list[Crowded]:
    """The rows whose users cannot all run at once, by the profile."""
    rows = []
    for point in points:
        if isinstance(point.load, Users) and not found.timed(point):
            tokens = point.load.users * (point.prompt_tokens + point.output_tokens // 2)
            room = capacity_of(found.best.base.profile, point.policy, recorded_of(point).trace)
            rows += [Crowded(point, tokens, room)] * (tokens > room)
    return rows


def predictions(found: Posterior, points: Sequence[MeasuredPoint]) -> list[Predicted]:
    """All values of the rows that are to be predicted, and can be served."""
    return [
        Predicted(point, metric, found.forecast(point, metric), point.values.get(metric))
        for point in points if not point.given and not found.overloaded(point)
        for metric in (tuple(point.values) or (_shown(point, points),))
    ]  # fmt: skip


def _shown(point: MeasuredPoint, points: Sequence[MeasuredPoint]) -> Metric:
    """What is told of a point of which nothing was measured: what most given rows of such loads have."""
    closed = point.load.users is not None
    alike = [
        one for one in points if one.given and (one.load.users is not None) == closed and set(one.values) != {"step_ms"}
    ]
    measured = Counter(metric for one in alike for metric in one.values)
    return max(measured, key=lambda metric: measured[metric], default=_SHOWN if closed else _SHOWN_OPEN)


def winners(found: Posterior, points: Sequence[MeasuredPoint]) -> list[Best]:
    """By load, where there is something to choose from."""
    best = []
    for here in _comparable(found, points):
        values = {point.line: found.speed(point) for point in here}
        first = max(here, key=lambda point: values[point.line])
        plain = next((point for point in here if point.policy == NO_DRAFTER), None)
        told = [_measured(found, point) for point in here if point.line >= 0]
        chosen = _measured(found, first)
        drafts = max((one for one in here if one.policy != NO_DRAFTER), key=lambda one: values[one.line], default=None)
        regret = None if None in told or chosen is None else 1 - chosen / max(value for value in told if value is not None)
        gain = measured = None
        if plain is not None and drafts is not None:
            gain, seen, before = found.gain(drafts, plain), _measured(found, drafts), _measured(found, plain)
            measured = None if seen is None or before is None else seen / before - 1
        best.append(Best(here[0].load.label, first.what, gain, measured, regret))
    return best


def crossovers(found: Posterior, points: Sequence[MeasuredPoint]) -> list[Crossover]:
    """Where each way to draft crosses no speculation, if the rows have both at two loads or more of the same traffic."""
    crossed = []
    for at in _series(found, points):
        gains = {u: found.gain(one, none) for u, (one, none) in at.items()}
        predicted = {u: found.speed(one) / found.speed(none) for u, (one, none) in at.items()}
        told = {u: (_measured(found, one), _measured(found, none)) for u, (one, none) in at.items()}
        measured = {u: one / none for u, (one, none) in told.items() if one is not None and none is not None}
        rows = [u for u, pair in at.items() if all(point.line >= 0 for point in pair)]
        doubtful = tuple(u for u, gain in sorted(gains.items()) if gain.low < 0 < gain.high)
        whole = 1 < len(measured) == len(rows)
        crossed.append(
            Crossover(
                next(iter(at.values()))[0].what, _crossing(predicted), _crossing(measured) if whole else None, doubtful,
                _rising(predicted), _rising(measured) if whole else None,
            )
        )  # fmt: skip
    return crossed


def _series(found: Posterior, points: Sequence[MeasuredPoint]) -> list[dict[int, tuple[MeasuredPoint, MeasuredPoint]]]:
    """(a way to draft, no speculation) by users, at two loads or more of the same prompts and answers: however many requests
    were sent at each load, and whatever context they had by then, unless one load has several of those."""
    by_lengths: dict[tuple[object, ...], list[tuple[MeasuredPoint, MeasuredPoint]]] = {}
    for here in _comparable(found, points):
        plain = next((point for point in here if point.policy == NO_DRAFTER), None)
        for point in here:
            if plain is not None and point is not plain and isinstance(point.load, Users):
                by_lengths.setdefault((point.what, point.prompt_tokens, point.output_tokens), []).append((point, plain))
    series = list[dict[int, tuple[MeasuredPoint, MeasuredPoint]]]()
    for pairs in by_lengths.values():
        several = len({one.load.users for one, _ in pairs}) < len(pairs)
        apart: dict[object, dict[int, tuple[MeasuredPoint, MeasuredPoint]]] = {}
        for one, plain in pairs:
            assert one.load.users is not None
            apart.setdefault(one.traffic[3:] if several else None, {})[one.load.users] = (one, plain)
        series += [loads for loads in apart.values() if len(loads) > 1]
    return series


def _crossing(gains: dict[int, float]) -> float | None:
    """Where gains fall through 1 for good."""
    users = sorted(gains)
    if gains[users[-1]] >= 1:
        return None
    above = [i for i, u in enumerate(users) if gains[u] >= 1]
    return _through(gains, users[above[-1]], users[above[-1] + 1]) if above else 0.0


def _rising(gains: dict[int, float]) -> float | None:
    """Where gains first rise through 1."""
    users = sorted(gains)
    above = next((i for i, u in enumerate(users) if gains[u] >= 1), 0)
    return _through(gains, users[above - 1], users[above]) if above else None


def _through(gains: dict[int, float], low: int, high: int) -> float:
    """Where gains are 1, straight between two loads on logarithmic scales."""
    share = np.log(gains[low]) / (np.log(gains[low]) - np.log(gains[high]))
    return float(np.exp(np.log(low) + share * (np.log(high) - np.log(low))))


def _comparable(found: Posterior, points: Sequence[MeasuredPoint]) -> list[list[MeasuredPoint]]:
    """Rows that differ in what drafts alone, one of each, where there is something to choose from; by load.

    A step that was timed is none: how long it takes does not say how many tokens come of it.
    """
    groups: dict[object, dict[str, MeasuredPoint]] = {}
    for point in points:
        if found.timed(point) or found.overloaded(point):
            continue
        groups.setdefault(point.traffic, {}).setdefault(point.what, point)
    some = [list(group.values()) for group in groups.values() if len(group) > 1]
    return sorted(some, key=lambda here: here[0].load.users or 0)


def _measured(found: Posterior, point: MeasuredPoint) -> float | None:
    """What `Calibration.speed` is of: tokens a second of all GPUs where that was measured, else how fast a token comes."""
    values = point.values
    each_ms = values.get("tpot_mean_ms", values.get("tpot_ms"))
    if point.load.users is None:
        return None if each_ms is None else 1e3 / each_ms
    if "output_tok_s" in values:
        return values["output_tok_s"]
    if "output_tok_s_per_gpu" in values:
        return values["output_tok_s_per_gpu"] * found.best.base.profile.gpus
    return None if each_ms is None else 1e3 * point.load.users / each_ms
