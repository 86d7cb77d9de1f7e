"""What files of a server show: counted so far, and after a change; each value with its 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.served.acceptance import Acceptance, interval
from harness.served.costs import Costs
from harness.served.server import ALWAYS, Server

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, draws: npt.ArrayLike) -> Estimate:
        """What was counted, and the interval of draws, which holds it."""
        low, high = interval(draws)
        return cls(value, min(low, value), max(high, value))

    @classmethod
    def of(cls, draws: npt.ArrayLike) -> Estimate:
        """The median of draws, and their interval."""
        return cls(float(np.median(np.asarray(draws))), *interval(draws))

    @classmethod
    def mean(cls, some: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
        """The mean of several that go together, such as one change's at several loads."""
        parts = ([getattr(one, name) for one in some] for name in ("value", "low", "high"))
        return cls(*(float(np.average(part, weights=weights)) for part in parts))

    @property
    def signed(self) -> str:
        """For people, of a gain."""
        return f"{self.value:+.0%} ({self.low:+.0%} to {self.high:+.0%})"

    def row(self) -> dict[str, float]:
        """The estimate as JSON has it."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What files should show after the change, and by which it is checked."""

    gamma: int
    length: Estimate
    """Tokens per draft."""
    tokens_per_step: Estimate | None
    positions: tuple[Estimate, ...]
    """Shares of drafts."""


def expected(server: Server, acceptance: Acceptance, k: int, *, kept: bool) -> Expected:
    """What files show of k tokens a draft; `kept` where that is as it was served."""
    step = per_step(acceptance, k) if acceptance.coverage < 1 else None
    if kept and acceptance.shortener == "engine":  # files go on to count drafts as short as they were
        length, gamma = acceptance.lengths_drawn(k), acceptance.gamma
        shares = zip(server.drafts.survival, acceptance.survival, acceptance.survivals.T, strict=False)
        return Expected(
            gamma=gamma, length=scaled(server.length, per_draft(acceptance, gamma).value, length),
            tokens_per_step=step, positions=tuple(scaled(share, float(one), draws) for share, one, draws in shares),
        )  # fmt: skip
    return Expected(
        gamma=k, length=per_draft(acceptance, k), tokens_per_step=step, positions=tuple(positions(acceptance)[:k])
    )  # fmt: skip


def expected_of_rows(
    rows: Sequence[tuple[int, int, int]], acceptance: Acceptance, costs: Costs, weights: Mapping[int, int]
) -> Expected | None:
    """What files show of K by batch size at the loads that were served: each draft is as long as its row has it, and there
    are as many of it as steps with it. None where no load that was served drafts."""
    most = max(k for _, _, k in rows)
    drafts, positions, value = np.zeros(1), np.zeros((most, 1)), np.zeros(most + 1)
    for running, n in weights.items():
        k = k_at(rows, running)
        often = n * running / costs.seconds(k, running)
        size = min(len(often), len(acceptance.survivals))
        own, mean = often[:size], float(np.median(often))
        if k:
            drafts = drafts + own
            value[0] += mean
            value[1 : k + 1] += mean * acceptance.survival_at(running)[:k]
            survivals = acceptance.survivals_at(running)[:size, :most]
            positions = positions + np.where(np.arange(most)[:, None] < k, own * survivals.T, 0.0)
    if not value[0]:
        return None
    shares, drawn = value[1:] / value[0], positions / drafts
    return Expected(
        gamma=most, length=Estimate.around(float(1 + shares.sum()), 1 + drawn.sum(0)), tokens_per_step=None,
        positions=tuple(Estimate.around(float(share), own) for share, own in zip(shares, drawn, strict=True)),
    )  # fmt: skip


def survivals_of_rows(
    rows: Sequence[tuple[int, int, int]], acceptance: Acceptance, weights: Mapping[int, int]
) -> tuple[Floats, Floats]:
    """(shares of drafts with a position k of which it is accepted, [K]; draws of them, [draws, K]) of K by batch size at
    loads, each so often: where acceptance goes with the load, they are other ones at other loads."""
    if acceptance.trend is None:
        return acceptance.survival, acceptance.survivals
    often = np.array([n * running for running, n in weights.items()], np.float64)
    drafted = np.array([[k_at(rows, running) > i for i in range(acceptance.gamma)] for running in weights])
    shares = often[:, None] * drafted
    shares = np.where(shares.sum(0) > 0, shares, often[:, None])
    shares = shares / shares.sum(0)
    survival = sum(own * acceptance.survival_at(running) for own, running in zip(shares, weights, strict=True))
    drawn = sum(own * acceptance.survivals_at(running) for own, running in zip(shares, weights, strict=True))
    return np.asarray(survival, np.float64), np.asarray(drawn, np.float64)


def k_at(rows: Sequence[tuple[int, int, int]], running: int) -> int:
    """K of a table with so many requests running."""
    return next((k for first, last, k in rows if first <= running <= last), rows[-1][2])


def scaled(value: float, whole: float, draws: Floats) -> Estimate:
    """What was counted, as wide in proportion as the draws of what it is a part of."""
    return Estimate.around(value, draws * (value / whole if whole else 0.0))


def served_step(server: Server, acceptance: Acceptance) -> Estimate:
    """Tokens of a request in a step as it was served: as the files have it, unless steps of a baseline count in that."""
    drawn = acceptance.tokens_drawn(acceptance.gamma)
    whole = value = acceptance.tokens(acceptance.gamma)
    if acceptance.shortener == "engine":
        value = 1 + acceptance.coverage * (server.length - 1)
    apart = (server.coverage or 0.0) < ALWAYS * acceptance.coverage
    return scaled((not apart and server.tokens_per_step) or value, whole, drawn)


def per_draft(acceptance: Acceptance, k: int) -> Estimate:
    """Tokens of a draft of k tokens, the bonus token included."""
    return Estimate.around(float(1 + acceptance.survival[:k].sum()), acceptance.lengths_drawn(k))


def per_step(acceptance: Acceptance, k: int) -> Estimate:
    """Tokens of a request in a step, with a draft of k tokens or none."""
    return Estimate.around(acceptance.tokens(k), acceptance.tokens_drawn(k))


def positions(acceptance: Acceptance) -> list[Estimate]:
    """Shares of drafts whose position k is accepted, as counted, with their intervals; as many as are known."""
    shares = acceptance.survival[: max(acceptance.known, 1)]
    return [Estimate.around(float(value), acceptance.survivals[:, i]) for i, value in enumerate(shares)]
