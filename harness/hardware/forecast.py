"""What a calibrated profile says of points that it was not fitted to, and how right that is where they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from harness.hardware.calibration import Forecast
from harness.hardware.measured import MeasuredPoint, Metric
from harness.hardware.posterior import Posterior
from simulator.load import Users
from simulator.policies import NO_DRAFTER

_SHOWN: Final[Metric] = "output_tok_s"
_SHOWN_OPEN: Final[Metric] = "tpot_mean_ms"
"""What is told of a point of which nothing was measured; of an open one, whose throughput is what is asked."""


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
    """Over no speculation, a share with its 95 % interval; None where that is not among the rows, or best itself."""
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


class Overload(NamedTuple):
    """A row of which more requests arrive than can be answered: its times grow with how long it goes on."""

    point: MeasuredPoint
    most_per_s: float
    """Answers a second, at most."""


def overloads(found: Posterior, points: Sequence[MeasuredPoint]) -> list[Overload]:
    """The rows that are to be predicted and nothing can be said of."""
    return [Overload(point, most) for point in points if not point.given and (most := found.most_per_s(point)) is not None]


def predictions(found: Posterior, points: Sequence[MeasuredPoint]) -> list[Predicted]:
    """All values of the rows that are to be predicted, and can be served."""
    return [
        Predicted(point, metric, found.forecast(point, metric), point.values.get(metric))
        for point in points if not point.given and found.most_per_s(point) is None
        for metric in (tuple(point.values) or (_SHOWN if point.load.users is not None else _SHOWN_OPEN,))
    ]  # fmt: skip


def winners(found: Posterior, points: Sequence[MeasuredPoint]) -> list[Best]:
    """By load, where there is something to choose from."""
    best = []
    for here in _comparable(found, points):
        values = {point.line: found.speed(point) for point in here}
        first = max(here, key=lambda point: values[point.line])
        plain = next((point for point in here if point.policy == NO_DRAFTER), None)
        told = [_measured(found, point) for point in here]
        chosen = _measured(found, first)
        regret = None if None in told or chosen is None else 1 - chosen / max(value for value in told if value is not None)
        gain = None if plain in (None, first) or plain is None else found.gain(first, plain)
        before = None if plain is None else _measured(found, plain)
        measured = None if gain is None or chosen is None or before is None else chosen / before - 1
        best.append(Best(here[0].load.label, first.what, gain, measured, regret))
    return best


def crossovers(found: Posterior, points: Sequence[MeasuredPoint]) -> list[Crossover]:
    """Where each way to draft crosses no speculation, if the rows have both at two loads or more of the same traffic."""
    crossed = []
    pairs: dict[tuple[object, ...], dict[int, tuple[MeasuredPoint, MeasuredPoint]]] = {}
    for here in _comparable(found, points):
        plain = next((point for point in here if point.policy == NO_DRAFTER), None)
        for point in here:
            if plain is not None and point is not plain and isinstance(point.load, Users):
                pairs.setdefault((point.what, *point.traffic[1:]), {})[point.load.users] = (point, plain)
    for at in (loads for loads in pairs.values() if len(loads) > 1):
        gains = {u: found.gain(one, none) for u, (one, none) in at.items()}
        predicted = {u: found.speed(one) / found.speed(none) for u, (one, none) in at.items()}
        told = {u: (_measured(found, one), _measured(found, none)) for u, (one, none) in at.items()}
        measured = {u: one / none for u, (one, none) in told.items() if one is not None and none is not None}
        doubtful = tuple(u for u, gain in sorted(gains.items()) if gain.low < 0 < gain.high)
        own = _crossing(measured) if len(measured) == len(predicted) else None
        crossed.append(Crossover(next(iter(at.values()))[0].what, _crossing(predicted), own, doubtful))
    return crossed


def _crossing(gains: dict[int, float]) -> float | None:
    """Where gains fall through 1 for good, straight between loads on logarithmic scales."""
    users = sorted(gains)
    if gains[users[-1]] >= 1:
        return None
    above = [i for i, u in enumerate(users) if gains[u] >= 1]
    if not above:
        return 0.0
    low, high = users[above[-1]], users[above[-1] + 1]
    share = np.log(gains[low]) / (np.log(gains[low]) - np.log(gains[high]))
    return float(np.exp(np.log(low) + share * (np.log(high) - np.log(low))))


def _comparable(found: Posterior, points: Sequence[MeasuredPoint]) -> list[list[MeasuredPoint]]:
    """Rows that differ in what drafts alone, one of each, where there is something to choose from; by load.

    A step that was timed is none: how long it takes does not say how many tokens come of it.
    """
    groups: dict[object, dict[str, MeasuredPoint]] = {}
    for point in points:
        if found.timed(point) or found.most_per_s(point) is not None:
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
