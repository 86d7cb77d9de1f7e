"""How a drafter's speed against none changed: prompts are paired where both runs timed them, and passes are noise apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from results.change import Noise
from results.figures.intervals import Floats
from results.figures.speed import FEWEST_PROMPTS

FREEDOM_OF_PASSES: Final = 4
"""Degrees of freedom of the noise of passes from which on speed is judged: 3 passes in each of two runs, or 5 of one run.

Of fewer Satterthwaite's freedom is too high in the tail that Holm's procedure asks for, and chance is called a change.
"""

_SUMS: Final = ("tokens", "seconds", "tokens_none", "seconds_none")


class SpeedChange(NamedTuple):
    """A speed against none before and now."""

    first: float | None
    second: float | None
    noise: Noise | None
    """None where prompts or passes are too few to know it."""
    paired: bool
    """Whether it is of prompts that both timed."""
    judged: bool
    """Whether there are passes enough to judge by."""


def speed_change(
    first: pl.DataFrame | None, second: pl.DataFrame | None, *, same_suite: bool, same_run: bool
) -> SpeedChange:
    """What changed between two tables of cells beside none's; None, or an empty one, where nothing was timed.

    Of one suite only prompts that both timed count, if there are any. The noise of prompts and of passes are the jackknife's
    that leaves out one of them at a time, in all cells: what cells add of their own is in both, so it errs to the wide side.
    Passes are paired within a run alone, where both were timed back to back.
    """
    sides = [None if side is None or side.is_empty() else side for side in (first, second)]
    one, other = sides
    if one is None or other is None:
        before, after = (None if side is None else _speedup(side) for side in sides)
        return SpeedChange(before, after, None, paired=False, judged=True)
    common = set(one["prompt_id"]) & set(other["prompt_id"]) if same_suite else set()
    if common:
        one, other = (side.filter(pl.col("prompt_id").is_in(list(common))) for side in (one, other))
    parts = [*_parts(one, other, "prompt_id", paired=bool(common)), *_parts(one, other, "sample", paired=same_run)]
    freedom = sum(0 if part is None else len(part) - 1 for part in parts[1 if common else 2 :])
    known = [part for part in parts if part is not None]
    few = min(side["prompt_id"].n_unique() for side in (one, other)) < FEWEST_PROMPTS
    variances = [float((len(part) - 1) / len(part) * ((part - part.mean()) ** 2).sum()) for part in known]
    noise = None if few or len(known) < len(parts) else Noise(tuple(variances), tuple(map(len, known)))
    return SpeedChange(_speedup(one), _speedup(other), noise, bool(common), freedom >= FREEDOM_OF_PASSES)


def _parts(first: pl.DataFrame, second: pl.DataFrame, factor: str, *, paired: bool) -> Sequence[Floats | None]:
    """The logarithm without each level of a factor: of the change where paired, else of each side."""
    if not paired:
        return [_left_out(first, factor), _left_out(second, factor)]
    shared = set(first[factor]) & set(second[factor])
    one, other = (_left_out(side.filter(pl.col(factor).is_in(list(shared))), factor) for side in (first, second))
    return [None if one is None or other is None else other - one]


def _left_out(cells: pl.DataFrame, factor: str) -> Floats | None:
    """The logarithm of the speed-up without each level, in order of the levels; None where it cannot spare one."""
    levels = cells.group_by(factor).agg(pl.col(_SUMS).sum()).sort(factor).select(_SUMS).to_numpy().astype(np.float64)
    rest = levels.sum(axis=0) - levels
    if len(levels) < 2 or (rest <= 0).any():
        return None
    tokens, seconds, tokens_none, seconds_none = rest.T
    return np.asarray(np.log(tokens * seconds_none / (seconds * tokens_none)), np.float64)


def _speedup(cells: pl.DataFrame) -> float | None:
    """Tokens a second over none's; None without any."""
    tokens, seconds, tokens_none, seconds_none = (float(cells[name].sum()) for name in _SUMS)
    under = seconds * tokens_none
    return tokens * seconds_none / under if under else None
