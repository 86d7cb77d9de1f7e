"""K by batch size, put together of what is best at single loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from harness.served.by_batch import AtLoad, off_from, rows_of
from harness.served.expected import Estimate
from tests.harness.served.advising import run
from tests.harness.served.writing import Truth, vllm_log

LOADS = (2, 4, 8, 16, 32)


def at(running: int, *gains: tuple[float, float], sure: int | None = None, own: int = 3) -> AtLoad:
    """A load at which k = 0, 1, … gain so much by the median, and at least."""
    values = [value for value, _ in gains]
    surely = {k for k, (value, low) in enumerate(gains) if low > 0 and value > 0.01} if sure is not None else set[int]()
    return AtLoad(
        running=running, served=True, as_served=own, best=values.index(max(values)) if sure is None else sure,
        sure=sure is not None, gains=tuple(Estimate(value, low, value + 0.2) for value, low in gains), least=0,
        surely=frozenset(surely), tokens=float(running), over_none=Estimate(0.0, 0.0, 0.0),
    )  # fmt: skip


@pytest.mark.parametrize(("fewest", "surely"), [(1, 0), (8, 256), (256, 256)])
def test_where_drafting_surely_pays_is_told_of_loads_that_were_served(
    fewest: int, surely: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one running, where nobody timed anything, it may lose: of 8 and more that says nothing."""
    from harness.served import advice

    def speeds(_acceptance: object, _costs: object, running: int, _least: int) -> npt.NDArray[np.float64]:
        drafting = np.linspace(0.9, 2.0, 200) if running < 8 else np.linspace(1.1, 1.3, 200)
        return np.stack([np.ones(200), drafting], 1)

    monkeypatch.setattr(advice, "_speeds", speeds)
    acceptance, costs = cast("Any", None), cast("Any", None)
    assert advice._turns(acceptance, costs, fewest, 256) == (None, surely)


def test_small_sure_gains_do_not_cut_off_larger_ones_at_higher_loads() -> None:
    """What K may be at 8 running bounds it at 32, where most tokens are: 2 % there are not worth it."""
    small = at(8, (0.02, 0.01), (0.3, -0.05), (0.1, -0.1), (0.0, 0.0), sure=0)
    large = at(32, (0.14, 0.13), (0.4, 0.2), (0.2, 0.1), (0.0, 0.0), sure=1)
    assert rows_of([small, large], [8, 32]) == ((1, 20, 3), (21, 32, 1))
    assert rows_of([small], [8]) == ((1, 8, 0),)


def test_a_load_between_two_that_are_sure_takes_theirs_where_it_is_likely_better() -> None:
    sure = [at(n, (-0.1, -0.2), (0.3, 0.1), (0.1, -0.1), (0.0, 0.0), sure=1) for n in (4, 16)]
    likely = at(8, (-0.1, -0.2), (0.3, -0.1), (0.1, -0.2), (0.0, 0.0))
    worse = at(8, (-0.1, -0.2), (-0.02, -0.3), (0.1, -0.2), (0.0, 0.0))
    assert rows_of([sure[0], likely, sure[1]], [4, 8, 16]) == ((1, 16, 1),)
    assert rows_of([likely, sure[1]], [8, 16]) == ((1, 12, 3), (13, 16, 1))
    assert rows_of([sure[0], worse, sure[1]], [4, 8, 16, 16]) != ((1, 6, 1), (7, 12, 3), (13, 16, 1))  # would rise


def test_what_was_served_stays_where_nothing_is_surely_better() -> None:
    unsure = [at(n, (-0.1, -0.2), (0.3, -0.1), (0.1, 0.01), (0.0, 0.0)) for n in LOADS]
    assert rows_of(unsure, LOADS) == ((1, 32, 3),)
    falling = [at(n, (-0.1, -0.2), (0.0, 0.0), (0.1, 0.01), (0.5, 0.3), own=3 if n < 8 else 1) for n in LOADS]
    assert rows_of(falling, LOADS) == ((1, 6, 3), (7, 32, 1))


def test_off_from_where() -> None:
    assert off_from(((1, 6, 3), (7, 32, 0))) == 7
    assert off_from(((1, 6, 3),)) is None


@pytest.mark.parametrize(("beyond_s", "draft_s"), [(8e-5, 0.003), (12e-5, 0.0022)])
def test_a_table_that_loses_nowhere_stands_before_one_k_that_does(beyond_s: float, draft_s: float, tmp_path: Path) -> None:
    """Beyond a knee a smaller K gains a third or more, and below it less than was served."""
    truth = Truth(survival=(0.75, 0.57, 0.44, 0.34), base_s=0.012, draft_s=draft_s, knee=150, beyond_s=beyond_s)
    loads = [2] * 12 + [8] * 12 + [24] * 12 + [64] * 12
    (tmp_path / "k.log").write_text(vllm_log(truth, loads))
    (tmp_path / "none.log").write_text(vllm_log(truth, loads, seed=1, k=lambda _: 0, method=""))
    told = json.loads(run("advise", tmp_path / "k.log", tmp_path / "none.log", "--json").stdout)
    assert max(truth.speed(1, n) / truth.speed(4, n) for n in (2, 8, 24)) < 0.94
    assert max(truth.speed(k, 64) / truth.speed(4, 64) for k in (1, 2)) > 1.3
    assert told["verdict"] == "by_batch"
    for load in told["at_loads"]:
        n = load["running"]
        k = next(k for first, last, k in told["rows"] if first <= n <= last)
        assert truth.speed(k, n) > 0.99 * truth.speed(4, n)
        assert load["gain"]["low"] - 0.001 <= truth.speed(k, n) / truth.speed(4, n) - 1 <= load["gain"]["high"] + 0.001
