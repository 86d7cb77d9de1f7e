"""How far a profile's form may be off, whatever its factors: smooth over loads, and alike for whatever drafts.

What a fit leaves of a measured value (the logarithm of measured over calibrated) is taken for a draw of a Gaussian process
over the logarithm of the requests that run: one part is all rows', one all that draft share, one each way to draft has to
itself. So a row between two given ones is told by what those have left of the profile, and one far from any by the profile
alone, and is unsure by so much. A fourth part is all rows' of one load and of hardly another: how a server's batches and a
client's waves fall there. By it a row without speculation tells one with it at the same load, as a ratio of the two does. A
fifth is one way's to draft at one load alone: gains of published tables jump by so much from load to load.
What drafts inside of captured sizes says nothing of what drafts outside of them: kernels and the host differ.
Sizes are assumed: what tables that others published leave, one set for all, chosen with thirty-five in view, of which those
are here that say where they are from (`results/published/field`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
ALL: Final = 0.04
"""Standard deviation of what is off in all rows alike: the server, its client, their traffic."""
DRAFTING: Final = 0.13
"""The same of what is off wherever something drafts: acceptance, drafts, wider passes."""
OWN: Final = 0.06
"""The same of what is off for one way to draft alone."""
LENGTH: Final = 10.0
"""Doublings of the load over which its correlation falls to 1/e."""
LOAD: Final = 0.03
"""Standard deviation of what is off in all rows of one load."""
EACH: Final = 0.04
"""The same of what is off for one way to draft at one load alone: by how much gains of published tables are off a smooth
line over loads, 0.03 to 0.05 in most."""
_TOGETHER: Final = 0.9
"""Correlation of what two values of one measurement are off by, as throughput and the time of a token: assumed."""
_LOAD_LENGTH: Final = 0.5
"""Doublings over which its correlation falls to 1/e."""


class Place(NamedTuple):
    """Where a value was measured."""

    doublings: float
    """log2 of the requests that run."""
    what: str
    """What drafts; `none` where nothing does."""
    outside: float = 0.0
    """The share of steps that are larger than any captured size."""
    row: int | None = None
    """The measurement that it is of; None is one by itself."""


def shared(some: Sequence[Place], others: Sequence[Place]) -> Floats:
    """Covariances of the logarithms at some places with those at others: [some, others]."""
    apart = np.array([[a.doublings - b.doublings for b in others] for a in some]).reshape(len(some), len(others))
    near, here = np.exp(-np.abs(apart) / LENGTH), np.exp(-np.abs(apart) / _LOAD_LENGTH)
    both = np.array([["none" not in (a.what, b.what) for b in others] for a in some]).reshape(len(some), len(others))
    alike = 1 - np.array([[abs(a.outside - b.outside) for b in others] for a in some]).reshape(len(some), len(others))
    same = np.array([[a.what == b.what for b in others] for a in some]).reshape(len(some), len(others))
    smooth = near * (ALL**2 + alike * both * (DRAFTING**2 + same * OWN**2))
    return np.asarray(smooth + here * (LOAD**2 + alike * both * same * EACH**2), np.float64)


class Combined(NamedTuple):
    """A sum of logarithms of values that are told of places, and what it hangs on."""

    times: Floats
    """How often each counts."""
    places: tuple[Place, ...]
    slope: Floats
    """By the factors' logarithms."""
    weights: Floats
    """By the logarithms of what was measured."""


@dataclass(frozen=True)
class Left:
    """What a fit has left at some places, and what follows elsewhere."""

    places: tuple[Place, ...]
    covariance: Floats
    """The covariance of what is measured there about the calibrated profile: what is smooth, and noise."""
    pull: Floats
    """By place, how much it moves what is told of others: C⁻¹ · log(measured / fitted)."""

    @classmethod
    def of(cls, places: Sequence[Place], left: Floats, noise: float) -> Left:
        """`left` are logarithms of measured over fitted values."""
        covariance = scatter(places, noise)
        return cls(tuple(places), covariance, np.asarray(np.linalg.solve(covariance, left), np.float64))

    def weights(self, place: Place) -> Floats:
        """How much each of the places tells of another."""
        return np.asarray(np.linalg.solve(self.covariance, shared(self.places, [place])[:, 0]), np.float64)

    def at(self, place: Place) -> float:
        """What is left there, as a logarithm."""
        return float(shared([place], self.places)[0] @ self.pull)

    def covariance_of(self, one: Combined, other: Combined) -> float:
        """The covariance of what is left in two sums."""
        return float(
            one.times @ shared(one.places, other.places) @ other.times - one.weights @ self.covariance @ other.weights
        )


def scatter(places: Sequence[Place], noise: float) -> Floats:
    """Covariance of what is measured at places about the profile. Two values of one measurement are off together."""
    rows = [i if one.row is None else f"row {one.row}" for i, one in enumerate(places)]
    together = np.array([[a == b for b in rows] for a in rows]).reshape(len(rows), len(rows))
    off = noise**2 * (_TOGETHER * together + (1 - _TOGETHER) * np.eye(len(places)))
    return np.asarray(shared(places, places) + off, np.float64)
