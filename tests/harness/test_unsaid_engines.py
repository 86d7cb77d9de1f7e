"""What nobody says of an engine, weighed by what was measured: captured sizes, lengths of answers, why a drafter loses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.hardware.calibration import simulated
from harness.hardware.forecast import predictions, winners
from harness.hardware.loops import serve
from harness.hardware.measured import losing, read_measured
from harness.hardware.posterior import Posterior
from harness.hardware.terms import TERMS, Base
from simulator.load import Users
from tests.harness.test_calibration_of_hardware import HEAD, PROFILE, base, fitted, points


def test_a_size_that_nobody_says_is_found_of_a_cliff(tmp_path: Path) -> None:
    """An engine whose graphs end at 512 tokens, measured at 128 users of 8: not one that captures all."""
    truth_of = Base.of(PROFILE, 512)
    told = "".join(f"{users},none,0,,200,200,1,given\n{users},dspark,7,3.0,200,200,1,given\n" for users in (4, 32, 128))
    rows = points(told, tmp_path)
    ones = dict.fromkeys(TERMS, 1.0) | {"launch": 4.0}
    known = [replace(p, values={"output_tok_s": serve(p, truth_of).value("output_tok_s", ones, 1)}) for p in rows]
    found = Posterior.of(known, Base.several(PROFILE, None))
    assert sum(found.captured.values()) == pytest.approx(1)
    assert found.captured[512] > 0.5
    sizes = [
        {one.captured for one in Base.several(*asked)}
        for asked in ((PROFILE, 1024), (replace(PROFILE, launches=None), None))
    ]
    assert sizes == [{1024}, {512}]


def test_answers_of_one_length_are_found(tmp_path: Path) -> None:
    """A client of 100 requests, 64 at once: where lengths differ the last few keep the server waiting."""
    told = "".join(f"{users},none,0,,200,200,1,given\n" for users in (8, 32, 64))
    rows = tuple(replace(point, requests=100) for point in points(told, tmp_path))
    ones = dict.fromkeys(TERMS, 1.0)
    for answers in (0.0, 0.5):
        truth_of = replace(Base.of(PROFILE, 512), answers=answers)
        known = [replace(p, values={"output_tok_s": serve(p, truth_of).value("output_tok_s", ones, 1)}) for p in rows]
        found = Posterior.of(known, Base.several(PROFILE, 512))
        assert found.alike > 0.8 if answers == 0 else found.alike < 0.2


@pytest.mark.parametrize("kind", ["eagle3", "ngram"])
def test_a_drafter_that_loses_at_one_user_may_lose_more_at_many(kind: str, tmp_path: Path) -> None:
    """Each pass takes 1.5 ms, or each request of it: not to be told at one user, and told by a row at 64."""
    told = "".join(f"{users},none,0,,64,40,1,given\n{users},{kind},2,1.2,64,40,1,given\n" for users in (1, 16, 64))
    rows = points(told, tmp_path)
    bases = Base.several(PROFILE, 512, closed=False, losing=[kind])
    factors, loops = dict.fromkeys(TERMS, 1.0) | {"draft_pass": 5.0}, simulated(rows, bases)
    for one_by_one, its in enumerate(loops):
        values = {p.line: {"output_tok_s": its[p.line].value("output_tok_s", factors, 1)} for p in rows}
        one = [replace(p, values=values[p.line], given=not p.gamma or p.load == Users(1)) for p in rows]
        assert losing(one) == {kind}
        found = Posterior.of(one, bases, loops=loops)
        assert found.one_by_one == {kind: pytest.approx(0.5, abs=0.05)}
        assert all(told.inside for told in predictions(found, one))
        assert [best.name for best in winners(found, one)] == ["none"] * 3
        alone = predictions(Posterior.of(one, bases[:1], loops=loops[:1]), one)
        assert all(told.inside for told in alone) != one_by_one
        more = [replace(p, given=p.given or p.load == Users(64)) for p in one]
        weight = Posterior.of(more, bases, loops=loops).one_by_one[kind]
        assert weight > 0.9 if one_by_one else weight < 0.1


def test_what_loses_is_seen_of_rows_of_the_same_traffic(tmp_path: Path) -> None:
    told = "1,none,0,,64,40,100,given\n1,eagle3,3,2,64,40,99,given\n1,eagle3,5,2,64,40,80,given\n"
    assert losing(points(told, tmp_path)) == {"eagle3"}
    assert losing(points(told.replace("64,40,80", "64,40,101"), tmp_path)) == set()
    assert losing(points(told.replace("100,given", "100,predict"), tmp_path)) == set()
    assert losing(points(told.replace("64,40,1", "65,40,1"), tmp_path)) == set()
    file = tmp_path / "measured.csv"
    head = HEAD.replace("output_tok_s", "tpot_ms")
    file.write_text(head + told)
    assert losing(read_measured(file).points) == set()
    assert Base.several(PROFILE, 512, losing=[]) == Base.several(PROFILE, 512)


def test_a_base_that_is_another_machine_is_told(tmp_path: Path) -> None:
    """Steps of which the host takes twenty times as long as the base has it."""
    rows = points("".join(f"{users},none,0,,64,40,1,given\n" for users in (1, 4, 16, 32)), tmp_path)
    loops, strained = simulated(rows, [base()]), []
    for times in (1.0, 20.0):
        ones = dict.fromkeys(TERMS, 1.0) | {"step": times}
        known = [replace(p, values={"output_tok_s": loops[0][p.line].value("output_tok_s", ones, 1)}) for p in rows]
        strained.append(Posterior.of(known, [base()], loops=loops).best.strained())
    assert strained[0] == []
    assert "step" in strained[1]


def test_of_engines_that_are_far_apart_nothing_lies_between(tmp_path: Path) -> None:
    """The median is that of the likelier one, the interval holds both, and decisions are made by what is expected."""
    found, rows = fitted(tmp_path)
    slow = replace(found.best, log_factors=found.best.log_factors + (np.array(found.best.names) == "target") * 3.0)
    both, point = Posterior((found.best, slow), np.array([0.7, 0.3])), rows[0]
    fast_s, slow_s = (one.speed(point).value for one in both.members)
    told = both.forecast(point, "output_tok_s")
    assert slow_s < 0.5 * fast_s
    assert told.value == pytest.approx(fast_s, rel=0.1)
    assert told.low < slow_s < told.value < told.high
    assert both.speed(point) == pytest.approx(0.7 * fast_s + 0.3 * slow_s)
