"""Timing every point of a grid, and what is decoded meanwhile: in sweeps over all of them, each of which can be kept.

Each sweep has another order, so that a machine that gets slower in the meantime is slower for all points; what counts is the
median. That is also why a grid may be timed in several sittings: a sweep is whole or it is not kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from drafters.clock import seconds_now
from drafters.decoding import DecodeRequest, decode
from drafters.kinds.contract import Drafter
from drafters.target import Target
from harness.hardware.bench import Bench, BenchPoint
from harness.parts import Keep, keep_nothing
from simulator.records import Round, Sampling

_REPETITION_S = 5e-3
"""A point is repeated for at least this long in each sweep, unless that would break the time limit."""
_LEAST_SWEEPS, _MOST_SWEEPS = 3, 40
_ALWAYS_TOKENS = 16
"""Points of no more tokens than this, and the loop's own work, are timed whatever the time limit."""
_FIRST_SHARE, _FIRST_SHARE_CAPTURING = 0.25, 0.5
"""Share of the time limit for the first look at every point; what would start later is left out. Where the first look
captures graphs, the sweeps after it are faster."""
_LIVE_TOKENS, _LIVE_PROMPT = 20, 48
"""Tokens of the response and of the prompt in the live check."""


class LivePass(NamedTuple):
    """One response decoded alone."""

    prompt_tokens: int
    rounds: list[Round]
    seconds: float
    """Seconds of all rounds, everything but prefill included."""


def live_pass(target: Target, drafter: Drafter, seed: int) -> LivePass:
    """Decode a short response to a random prompt; the time of prefill alone is taken off."""
    random = np.random.Generator(np.random.Philox(seed))
    prompt = tuple(random.integers(0, target.vocab_size, min(_LIVE_PROMPT, target.max_positions // 4)).tolist())

    def decoded(tokens: int) -> tuple[list[Round], float]:
        request = DecodeRequest(prompt, min(tokens, target.max_positions // 2), (seed,))
        started = seconds_now(target.device)
        [(_, done)] = decode(target, drafter, [request], Sampling(), max_batch=1)
        return done.rounds, seconds_now(target.device) - started

    _, prefill_s = decoded(1)
    rounds, seconds = decoded(_LIVE_TOKENS)
    return LivePass(len(prompt), rounds, seconds - prefill_s)


@dataclass(frozen=True, slots=True)
class Timing:
    """What one point took."""

    point: BenchPoint
    samples: tuple[float, ...]
    """Seconds, one a sweep."""

    @property
    def seconds(self) -> float:
        """The median."""
        return float(np.median(self.samples))

    @property
    def spread(self) -> float:
        """Median absolute deviation from the median, as a share of it."""
        return float(np.median(np.abs(np.array(self.samples) - self.seconds)) / self.seconds)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every point once, and what is done beside them."""

    sitting_s: float
    """When whoever made it began, in seconds since 1970."""
    seconds: float
    """What it took."""
    points: list[float | None]
    """Seconds of each; None where it was left out, for want of time or memory."""
    others: list[LivePass | None]


@dataclass(frozen=True, slots=True)
class Timed:
    """What came of timing a grid."""

    timings: list[Timing]
    left_out: list[BenchPoint]
    """Points too large for the time limit or for the memory."""
    others: list[list[LivePass | None]]
    """What the others gave, by sweep."""
    sweeps: int
    sittings: int
    """Times that somebody began, and went on with what was kept."""
    seconds: float
    """What it took."""
    method: str
    """The clock, in words."""
    captured: bool
    """Whether passes were captured as CUDA graphs."""
    attention: str = "the model's own"
    """How the target attends, in words."""


def time_points(
    bench: Bench,
    points: Sequence[BenchPoint],
    *,
    seconds: float,
    seed: int,
    advance: Callable[[float], None] = lambda _: None,
    others: Sequence[Callable[[], LivePass | None]] = (),
    keep: Keep = keep_nothing,
) -> Timed:
    """Time all points, largest ones left out where the time does not suffice.

    Args:
        seconds: time limit, roughly: three sweeps over the smallest points take what they take.
        advance: is told the share of the time that is gone, up to 1.
        others: done somewhere in each sweep, to time something else under the same conditions.
        keep: gives sweeps of an earlier sitting.
    """
    sitting_s, random = time.time(), np.random.Generator(np.random.Philox(seed))
    with torch.inference_mode():
        bench.reserve(points)
        first = keep("first look", Sweep, lambda: _first_look(bench, points, seconds, sitting_s, advance))
        kept = {p: s for p, s in zip(points, first.points, strict=True) if s is not None}
        least_s = min(_REPETITION_S, max(0.0, seconds - first.seconds) / _LEAST_SWEEPS / len(kept) / 2)
        runs = {p: min(max(math.ceil(least_s / s), 1), 1000) for p, s in kept.items()}
        gone_s, sweeps = first.seconds, list[Sweep]()
        while len(sweeps) < _MOST_SWEEPS:
            order = random.permutation(len(kept) + len(others)).tolist()
            made = partial(_sweep, bench, runs, others, order, sitting_s)
            sweep = keep(f"sweep {len(sweeps)}", Sweep, made)
            sweeps.append(sweep)
            gone_s += sweep.seconds
            advance(min(gone_s / seconds, 1.0))
            if len(sweeps) >= _LEAST_SWEEPS and gone_s + sweep.seconds > seconds:
                break
    samples = {p: tuple(x for s in sweeps if (x := s.points[i]) is not None) for i, p in enumerate(kept)}
    return Timed(
        [Timing(p, some) for p, some in samples.items() if some],
        [p for p in points if not samples.get(p)],
        [s.others for s in sweeps],
        len(sweeps),
        len({s.sitting_s for s in (first, *sweeps)}),
        gone_s,
        bench.method,
        bench.captures,
    )


def _first_look(
    bench: Bench, points: Sequence[BenchPoint], seconds: float, sitting_s: float, advance: Callable[[float], None]
) -> Sweep:
    """Every point there is time for, smallest ones first."""
    started = time.monotonic()
    found: dict[BenchPoint, float] = {}
    share = _FIRST_SHARE_CAPTURING if bench.captures else _FIRST_SHARE
    for point in sorted(points, key=lambda p: (p.size, p.context)):
        gone = (time.monotonic() - started) / seconds
        advance(min(gone, 1.0))
        if point.size <= _ALWAYS_TOKENS or point.part in ("loop", "rule") or gone < share:
            with suppress(torch.OutOfMemoryError):  # the point is left out, others stay captured
                found[point] = bench.measure(point, 1)
    return Sweep(sitting_s, time.monotonic() - started, [found.get(p) for p in points], [])


def _sweep(
    bench: Bench,
    runs: Mapping[BenchPoint, int],
    others: Sequence[Callable[[], LivePass | None]],
    order: Sequence[int],
    sitting_s: float,
) -> Sweep:
    """Each point as often as `runs` says, and each of the others once, in an order that numbers the points first."""
    started, points = time.monotonic(), list(runs)
    samples: list[float | None] = [None] * len(points)
    given: list[LivePass | None] = [None] * len(others)
    for i in order:
        if i >= len(points):
            given[i - len(points)] = others[i - len(points)]()
            continue
        with suppress(torch.OutOfMemoryError):  # memory in pieces: what fitted once may not fit again
            samples[i] = bench.measure(points[i], runs[points[i]])
    return Sweep(sitting_s, time.monotonic() - started, samples, given)
