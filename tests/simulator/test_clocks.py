"""Times of gateways' logs: which of several counts, what unit they have, and what is told of clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.errors import InputError
from tests.simulator.logs import USED, at, lines, requests_of, table, told

NINE = datetime(2026, 11, 3, 9, tzinfo=UTC)
HEAD = "timestamp,input_tokens,output_tokens"


def stamp(seconds: float) -> str:
    return (NINE + timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize(
    ("of", "rate", "said"),
    [
        (lambda s: f"{1000 * s:.0f}", 0.005, "where they are milliseconds, give --speed 1000"),
        (lambda s: f"{s:.3f}", 5.0, "taken for seconds since some beginning: 5.1 requests a second"),
        (lambda s: f"{46000 + s / 86400:.9f}", 432000, "days, as spreadsheets have them, give --speed 1.15741e-05"),
        (lambda s: f"{1.7e9 + s:.3f}", 5.0, ""),
    ],
    ids=["ms", "s", "days", "since 1970"],
)
def test_the_unit_of_times_that_are_no_dates_is_told(of: Any, rate: float, said: str, tmp_path: Path) -> None:
    """50 requests, 200 ms apart."""
    found = requests_of(tmp_path, table(HEAD, *(f"{of(0.2 * i)},300,50" for i in range(50))), "own.csv")
    assert found.rate_per_s == pytest.approx(rate, rel=1e-3)
    assert ("no dates" in told(found)) == bool(said)
    assert said in told(found)


@pytest.mark.parametrize(
    ("each", "n", "rate"),
    [(lambda i: float(i // 100), 600, 100.0), (lambda i: (i // 3) * 1e-3, 1500, 3000.0)],
    ids=["s", "ms"],
)
def test_a_short_burst_is_no_hour(each: Any, n: int, rate: float, tmp_path: Path) -> None:
    """Whole seconds of six are multiples of one second, not all of one hour; times to the ms are as they are."""
    found = requests_of(tmp_path, lines(*({"time": stamp(each(i)), "usage": USED} for i in range(n))))
    assert found.rate_per_s == pytest.approx(rate, rel=0.02)


def test_batches_at_each_full_hour_stay_batches(tmp_path: Path) -> None:
    """120 within five seconds of it: rounded to whole seconds, not to hours."""
    came = [3600.0 * hour + second for hour in range(12) for second in range(5) for _ in range(24)]
    found = requests_of(tmp_path, lines(*({"time": stamp(s), "usage": USED} for s in came)))
    assert (found.arrival_s < 6).sum() == 120
    assert "rounded to 1 s" in told(found)


def test_times_to_the_hour_are_spread_over_it(tmp_path: Path) -> None:
    rows = [f"{stamp(3600 * hour)},300,50" for hour in range(24) for _ in range(10)]
    assert "rounded to 3600 s" in told(requests_of(tmp_path, table(HEAD, *rows), "own.csv"))


def test_ends_in_whole_seconds_are_spread_before_what_they_took_is_taken_off(tmp_path: Path) -> None:
    """Else no two times are alike, and nobody is told that they are rounded: 200 a second for 20 s, each of 1.5 to 2.5 s."""
    took = [1500 + 37 * i % 1000 for i in range(4000)]
    rows = [{"time": stamp((i / 200 + own / 1e3) // 1), "duration_ms": own, "usage": USED} for i, own in enumerate(took)]
    found = requests_of(tmp_path, lines(*rows))
    assert "rounded to 1 s" in told(found)
    assert abs(found.arrival_s.mean() - 10) < 1.0
    assert found.rate_per_s == pytest.approx(200, rel=0.06)


def test_databricks_time_is_when_a_request_came(tmp_path: Path) -> None:
    rows = [{"timestamp_ms": 1793696400000 + 2000 * i, "execution_time_ms": 500 + 9000 * i, "usage": USED} for i in range(2)]
    assert requests_of(tmp_path, lines(*rows)).arrival_s.tolist() == [0, 2]


def test_a_field_that_says_milliseconds_is_in_milliseconds(tmp_path: Path) -> None:
    """Beside a duration, which --speed would not mend: the unknown unit's note says so."""
    rows = [f"{60000 * i + 9000},5,3,8" for i in range(30)]
    plain = requests_of(tmp_path, table(HEAD + ",duration_s", *rows), "own.csv")
    assert "call the field timestamp_ms" in told(plain)
    named = requests_of(tmp_path, table(HEAD.replace("timestamp", "timestamp_ms") + ",duration_s", *rows), "own.csv")
    assert named.arrival_s.tolist() == [60 * i for i in range(30)]
    assert "no dates" not in told(named)


CAME_AT_0_AND_9: dict[str, Any] = {
    "created, and completed": lambda s, took: {"created_at": stamp(s), "completed_at": stamp(s + took)},
    "an end that is none of the time's": lambda s, took: {"timestamp": stamp(s), "endTime": stamp(s + took)},
    "the time is the end, and says so": lambda s, took: {"timestamp": stamp(s + took), "endTime": stamp(s + took)},
    "a start in other words": lambda s, took: {"timestamp": stamp(s + took), "startTimestamp": stamp(s)},
    "a request's": lambda s, took: {"timestamp": stamp(s + took), "request_timestamp": stamp(s)},
    "Helicone's": lambda s, took: {"request_created_at": stamp(s), "response_created_at": stamp(s + took), "latency": 2},
}


@pytest.mark.parametrize("how", CAME_AT_0_AND_9)
def test_what_stands_beside_a_time_says_whether_it_is_the_end(how: str, tmp_path: Path) -> None:
    """Two requests, of 8 s and of 2 s."""
    rows = [CAME_AT_0_AND_9[how](s, took) | {"duration_ms": 1000 * took, "usage": USED} for s, took in ((0, 8), (9, 2))]
    assert requests_of(tmp_path, lines(*rows)).arrival_s == pytest.approx([0, 9])


def test_nginxs_times_to_the_millisecond_count(tmp_path: Path) -> None:
    rows = [{"time_iso8601": "2026-11-03T09:00:04+00:00", "msec": f"1793696404.{ms}", "usage": USED} for ms in (125, 875)]
    assert requests_of(tmp_path, lines(*rows)).arrival_s == pytest.approx([0, 0.75])
    took = [at(i, msec=250) for i in range(2)]  # a duration that is called so
    assert requests_of(tmp_path, lines(*took)).arrival_s.tolist() == [0, 1]


@pytest.mark.parametrize("odd", ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", 0, "2199-01-01T00:00:00Z"])
def test_one_time_that_is_none_is_left_out(odd: object, tmp_path: Path) -> None:
    found = requests_of(tmp_path, lines(at(0, time=odd), *(at(i) for i in range(9))))
    assert found.arrival_s.tolist() == list(range(9))
    assert "1 with a time before 2001 or after 2099" in told(found)
    with pytest.raises(InputError, match="3 of its 8 requests have times before 2001"):
        requests_of(tmp_path, lines(*(at(0, time=odd) for _ in range(3)), *(at(i) for i in range(5))))


def test_a_request_of_another_year_is_told(tmp_path: Path) -> None:
    """Its time is a date, so that it counts until the window leaves it out."""
    found = requests_of(tmp_path, lines(at(0, time="2016-11-03T09:00:00Z"), *(at(i) for i in range(30))))
    assert len(found.arrival_s) == 31
    assert "1 of its requests came 3,652 days before all others" in told(found).replace("3.65e+03", "3,652")
    assert "(--window 315532800..)" in told(found)


def test_times_with_a_zone_beside_some_without_are_told(tmp_path: Path) -> None:
    bare = [at(i, time=f"2026-11-03T10:00:0{i}") for i in range(3)]
    assert "3 of its times have no zone and are taken for UTC, beside 2 that have one" in told(
        requests_of(tmp_path, lines(*bare, at(0), at(1)))
    )
    assert "zone" not in told(requests_of(tmp_path, lines(at(0), at(1, time="2026-11-03 10:00:01 CET"))))


def night(zone: str, *, starts: bool) -> list[dict[str, Any]]:
    """Requests of the night in which Berlin's clocks are put back, in the order of their ends."""
    rng = np.random.default_rng(4)
    began = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)
    came = [began + timedelta(seconds=float(s)) for s in np.cumsum(rng.exponential(5.0, 2500))]
    took = rng.uniform(1, 60, len(came)) if starts else np.zeros(len(came))
    summer, winter = timezone(timedelta(hours=2), "CEST"), timezone(timedelta(hours=1), "CET")
    put_back = datetime(2026, 10, 25, 1, tzinfo=UTC)
    rows = sorted(zip(came, took, strict=True), key=lambda row: row[0] + timedelta(seconds=row[1]))
    form = {"none": "%Y-%m-%d %H:%M:%S.%f", "offset": "%Y-%m-%dT%H:%M:%S.%f%z", "name": "%Y-%m-%d %H:%M:%S.%f %Z"}[zone]
    field = "start_time" if starts else "time"
    return [{field: t.astimezone(summer if t < put_back else winter).strftime(form), "usage": USED} for t, _ in rows]


@pytest.mark.parametrize("starts", [False, True])
@pytest.mark.parametrize("zone", ["none", "offset", "name"])
def test_the_hour_that_comes_twice_is_told_where_no_zone_tells_it(starts: bool, zone: str, tmp_path: Path) -> None:
    found = requests_of(tmp_path, lines(*night(zone, starts=starts)))
    assert ("jump back by an hour" in told(found)) == (zone == "none")
    if zone != "none":
        assert len(found.arrival_s) / found.arrival_s[-1] == pytest.approx(0.2, rel=0.05)


def test_one_long_request_is_no_clock_put_back(tmp_path: Path) -> None:
    """Written when it ended, with the time at which it began, 40 minutes before those around it."""
    rows = [
        {"start_time": f"2026-11-03T09:{minute:02}:{second:02}", "usage": USED} for minute in range(60) for second in (0, 30)
    ]
    rows.insert(100, {"start_time": "2026-11-03T09:09:59", "usage": USED})
    found = requests_of(tmp_path, lines(*rows))
    assert len(found.arrival_s) == 121
    assert "jump back" not in told(found)


def test_logs_of_two_servers_with_zones_are_no_clock_put_back(tmp_path: Path) -> None:
    hour = [at(0, time=f"2026-11-03T09:{minute:02}:00Z") for minute in range(60)]
    assert "jump back" not in told(requests_of(tmp_path, lines(*hour, *hour)))


@pytest.mark.parametrize(
    "time",
    ["03.11.2026 09:00:04", "13/11/2026 09:00:04", "11/13/2026 9:00:04", "11/03/2026 09:00:04 AM", "03/Nov/2026:09:00:04",
     "2026-11-03T10:00:04+01:00[Europe/Berlin]", "2026-11-03 09:00:04.0 +0000 UTC m=+0.28", "2026-11-03 10:00:04 CET",
     "2026-11-03 04:00:04 EST", "Tue, 03 Nov 2026 11:00:04 CEST", {"$date": "2026-11-03T09:00:04Z"},
     {"$date": {"$numberLong": "1793696404000"}}, "Nov 3, 2026 9:00:04 AM"],
    ids=str,
)  # fmt: skip
def test_moments_are_read_in_other_countries_forms(time: object, tmp_path: Path) -> None:
    day = 10 * 86400 if "13" in str(time)[:5] else 0
    first = at(0, time=NINE.timestamp() + day)

    assert requests_of(tmp_path, lines(first, at(0, time=time))).arrival_s == pytest.approx([0, 4])


@pytest.mark.parametrize(
    ("time", "why"),
    [("11/03/2026 09:00:04", "its month may be 11 or 3; write ISO 8601"), ("Tue, 03 Nov 2026 09:00:04 XYZ", "zone XYZ")],
)
def test_moments_that_can_be_read_in_two_ways_are_refused(time: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"line 1: time .*{why}"):
        requests_of(tmp_path, lines(at(0, time=time)))
