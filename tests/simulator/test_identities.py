"""Lines of one request: which are put together, and by which ids they are not."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from simulator.identities import Line, joined
from tests.simulator.logs import at, lines, requests_of, table, told


@pytest.mark.parametrize("field", ["id", "request_id"])
@pytest.mark.parametrize("ids", [["llama"] * 60, [f"session {i // 15}" for i in range(60)]], ids=["model", "session"])
def test_an_id_that_is_no_requests_joins_nothing(field: str, ids: list[str], tmp_path: Path) -> None:
    """Three requests a second of the same lengths, whose times are whole seconds: 60 requests, and no copies."""
    rows = [f"{name},{1793696400 + i // 3},500,100" for i, name in enumerate(ids)]
    found = requests_of(tmp_path, table(f"{field},time,prompt_tokens,completion_tokens", *rows), "own.csv")
    assert len(found.arrival_s) == 60
    assert "are no request's" in told(found)


def test_copies_are_left_out_though_one_request_was_tried_again(tmp_path: Path) -> None:
    """All lines stand twice, and of one id there is another request a second later."""
    rows = [at(i, request_id=f"r{i}") for i in range(5)]
    found = requests_of(tmp_path, lines(*rows, *rows, at(9, request_id="r0")))
    assert found.arrival_s.tolist() == [0, 1, 2, 3, 4, 9]
    assert "5 copies of others" in told(found)


def test_an_answer_that_grows_line_by_line_is_one_request(tmp_path: Path) -> None:
    """Streams that say their usage with each chunk: it came with the first, and is as long as the last says."""
    rows = [
        at(5 * i + k, request_id=f"r{i}", usage={"prompt_tokens": 7 + i, "completion_tokens": 4 * (k + 1)})
        for i in range(3)
        for k in range(3)
    ]
    found = requests_of(tmp_path, lines(*rows))
    assert found.arrival_s.tolist() == [0, 5, 10]
    assert (found.prompt_tokens.tolist(), found.output_tokens.tolist()) == ([7, 8, 9], [12, 12, 12])
    assert "6 earlier lines of answers that grew" in told(found)


@pytest.mark.parametrize(
    ("asked", "answered", "came"),
    [
        ({"event": "request", "status": None}, {}, [0, 10]),
        ({"event": "request", "status": None}, {"duration_ms": 2500}, [0, 10]),  # 0.5 s after the line in each
        ({"event": "request_started", "status": None}, {}, [0, 10]),
        ({"status": 200}, {}, [3, 13]),  # an access log's, of which nothing says that it was written at the beginning
    ],
)
def test_a_line_of_a_request_and_one_of_its_answer_are_one(
    asked: dict[str, object], answered: dict[str, object], came: list[float], tmp_path: Path
) -> None:
    """The first says when it came; and nobody's tokens are missing."""
    rows = [
        one
        for i in range(2)
        for one in (at(10 * i, request_id=i, usage=None, **asked), at(10 * i + 3, request_id=i, **answered))
    ]
    found = requests_of(tmp_path, lines(*rows))
    assert np.diff(found.arrival_s).tolist() == np.diff(came).tolist()
    assert "answered requests do not say" not in told(found)
    assert "2 further lines of requests" in told(found)
    begun = asked["status"] is None and not answered
    assert ("2 of its requests have a line that was written when they came" in told(found)) == begun


def test_a_request_begins_when_its_own_line_says(tmp_path: Path) -> None:
    """After 3 s each, but the last after 8: its answer is written 13 s after the first's, and it came 10 s after."""
    rows = [at(0, request_id=1, usage=None, status=None), at(3, request_id=1)]
    rows += [at(10, request_id=2, usage=None, status=None), at(16, request_id=2)]
    assert requests_of(tmp_path, lines(*rows)).arrival_s.tolist() == [0, 10]


def test_answers_of_others_than_those_known_still_lack_their_tokens(tmp_path: Path) -> None:
    found = requests_of(tmp_path, lines(at(0, request_id=1), at(1, request_id=2, usage=None), at(2, request_id=3)))
    assert "1 of 3 answered requests do not say how many tokens they had" in told(found)


@pytest.mark.parametrize(
    ("second", "apart", "more"),
    [
        (30, 60.0, {"duration_ms": 900}),  # tries that each ended
        (30, 2.0, {"status": 500}),  # of which the first failed once its answer had begun
        (10, 0.0, {}),  # two answers to one question, at once
        (30, 600.0, {}),  # a session's questions, which begin alike
    ],
    ids=["tries", "a failure", "n = 2", "a session"],
)
def test_requests_of_one_id_that_are_no_growing_answer_all_count(
    second: int, apart: float, more: dict[str, object], tmp_path: Path
) -> None:
    """They were taken for pieces of one: half of the load."""
    rows = []
    for i in range(6):
        one, other = ({"prompt_tokens": 50, "completion_tokens": n} for n in (20, second))
        rows += [at(1000 * i, request_id=i, usage=one, **more), at(1000 * i + apart, request_id=i, usage=other)]
    found = requests_of(tmp_path, lines(*rows))
    assert len(found.arrival_s) == 12


def test_copies_are_left_out_though_other_ids_are_used_again(tmp_path: Path) -> None:
    rows = [at(100 * i + 700 * k, request_id=f"r{i}") for i in range(3) for k in (0, 1)]
    copy = at(50, request_id="x")
    found = requests_of(tmp_path, lines(*rows, copy, copy))
    assert len(found.arrival_s) == 7
    assert "1 copies of others" in told(found)


def test_a_silent_line_of_hours_ago_is_another_request(tmp_path: Path) -> None:
    """A user's id: the requests do not come when he first asked, and those without tokens are missing."""
    rows = [one for i in range(3) for one in (at(60 * i, id=i, usage=None), at(60 * i + 18_000, id=i))]
    found = requests_of(tmp_path, lines(*rows))
    assert found.arrival_s.tolist() == [0, 60, 120]
    assert "3 of 6 answered requests do not say" in told(found)


def test_a_long_log_that_stands_twice_is_put_together_at_once() -> None:
    """50,000 ids at two lines each: looking for each among all others would take minutes."""
    twice = [Line(i, float(i), 5, 3, says_when=False) for i in range(50_000)] * 2
    began = perf_counter()
    found = joined(twice, [])
    assert len(found.left_out) == 50_000
    assert perf_counter() - began < 10
