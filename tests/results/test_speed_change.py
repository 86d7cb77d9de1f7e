"""Speeds before and now: narrow where prompts are shared, seldom wrong, and not judged of few passes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from results.change import Measured, judged
from results.speed_change import speed_change

PROMPTS = 24


def timed(
    rng: np.random.Generator, passes: int, *, faster: float = 1.0, by_pass: float = 0.02, cell: float = 0.02
) -> pl.DataFrame:
    """Prompts that draft unlike, the same ones in every run; a pass is slower or faster in all, and so is a cell."""
    own = np.random.default_rng(5).lognormal(0.3, 0.4, PROMPTS)
    rows = []
    for sample in range(passes):
        slow = rng.lognormal(0, by_pass)
        for i, gain in enumerate(own):
            seconds = slow * rng.lognormal(0, cell) / (gain * faster)
            rows.append((sample, f"p{i}", 1, 100.0, seconds, 100.0, 1.0))
    names = ["sample", "prompt_id", "batch", "tokens", "seconds", "tokens_none", "seconds_none"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_a_run_like_the_last_one_has_a_narrow_interval() -> None:
    """Prompts differ by 40 %, passes by 2 %: of that the change's interval is, though two passes are few."""
    rng = np.random.default_rng(0)
    found = speed_change(timed(rng, 2), timed(rng, 2), same_suite=True, same_run=False)
    assert found.noise is not None
    assert found.paired
    assert found.noise.half_width < 0.25
    apart = speed_change(timed(rng, 2), timed(rng, 2), same_suite=False, same_run=False)
    assert apart.noise is not None
    assert not apart.paired
    assert apart.noise.error > 3 * found.noise.error


@pytest.mark.parametrize(("by_pass", "passes"), [(0.0, 3), (0.02, 3), (0.02, 5)])
def test_speeds_that_did_not_change_are_seldom_called_so(by_pass: float, passes: int) -> None:
    """Of 300 intervals 15 should miss; 26 are beyond 99 %. Verdicts are those of one row alone."""
    rng = np.random.default_rng(1)
    missed = clear = 0
    for _ in range(300):
        found = speed_change(
            timed(rng, passes, by_pass=by_pass), timed(rng, passes, by_pass=by_pass), same_suite=True, same_run=False
        )
        [row] = judged([Measured("speed against none", "a", 7, "", *found[:4], judged=found.judged)])
        assert row.low is not None
        assert row.high is not None
        missed += not row.low <= 0 <= row.high
        clear += row.verdict in ("better", "worse")
    assert missed <= 26
    assert clear <= 26


def test_a_loss_of_speed_is_found_with_three_passes() -> None:
    rng = np.random.default_rng(2)
    found = speed_change(timed(rng, 3), timed(rng, 3, faster=0.8), same_suite=True, same_run=False)
    [row] = judged([Measured("speed against none", "a", 7, "", *found[:4], judged=found.judged)])
    assert row.change == pytest.approx(-0.2, abs=0.06)
    assert row.verdict == "worse"


@pytest.mark.parametrize(
    ("passes", "same_run", "enough"), [(2, False, False), (3, False, True), (4, True, False), (5, True, True)]
)
def test_few_passes_are_shown_and_not_judged(passes: int, same_run: bool, enough: bool) -> None:
    rng = np.random.default_rng(3)
    found = speed_change(timed(rng, passes), timed(rng, passes, faster=0.3), same_suite=True, same_run=same_run)
    assert found.judged == enough
    [row] = judged([Measured("speed against none", "a", 7, "", *found[:4], judged=found.judged)])
    assert row.low is not None
    assert row.verdict == ("worse" if enough else "not judged")
    assert row.regressed(0.02) == enough


def test_passes_of_one_run_are_paired() -> None:
    """A pass that is slow is slow for both drafters of it: what both share is no noise of the change."""
    one = timed(np.random.default_rng(4), 5, by_pass=0.2, cell=0.0)
    other = one.with_columns(pl.col("seconds") * 1.1)
    found = speed_change(one, other, same_suite=True, same_run=True)
    assert found.noise is not None
    assert found.noise.error == pytest.approx(0, abs=1e-9)
    apart = speed_change(one, other, same_suite=True, same_run=False)
    assert apart.noise is not None
    assert apart.noise.error > 0.05


def test_only_prompts_that_both_timed_count() -> None:
    """A prompt that only the second timed, a very fast one, changes nothing."""
    one = timed(np.random.default_rng(5), 3)
    more = one.filter(prompt_id="p0").with_columns(prompt_id=pl.lit("new"), seconds=pl.lit(0.001))
    found = speed_change(one, pl.concat([one, more]), same_suite=True, same_run=False)
    assert found.first == found.second


def test_what_was_not_timed_has_no_speed_and_one_pass_no_noise() -> None:
    one = timed(np.random.default_rng(6), 1)
    assert speed_change(one, None, same_suite=True, same_run=False)[1:3] == (None, None)
    assert speed_change(None, one.clear(), same_suite=True, same_run=False)[:3] == (None, None, None)
    alone = speed_change(one, one, same_suite=True, same_run=False)
    assert (alone.noise, alone.judged) == (None, False)
