"""Promises: how they are written, to whom they are made, and what is counted against them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import sla
from simulator.engine.state import BINS, ROW, TOTALS, Records
from simulator.errors import InputError
from simulator.metrics import Ledger, Outcome, Slice, outcome
from simulator.sla import MEASURES, Promise, Sla, share_of


@st.composite
def drawn_bounds(draw: st.DrawFn) -> Sla:
    measure = draw(st.sampled_from(MEASURES))
    share = draw(st.one_of(st.none(), st.integers(1, 999).map(lambda n: n / 1000)))
    return Sla(measure, measure == "tps", draw(st.floats(1e-6, 1e6)), share)


@given(drawn_bounds())
def test_text_and_back(bound: Sla) -> None:
    assert Sla.parse(str(bound)) == bound


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("tps>=80", "tps>=80"),
        ("tps >= 80", "tps>=80"),
        ("ttft<=0.5", "ttft<=500ms"),
        ("ttft<=500ms", "ttft<=500ms"),
        ("e2e<=30s", "e2e<=30s"),
        ("p95_ttft<=0.5", "ttft<=500ms"),
        ("p99_ttft<=0.5", "ttft<=500ms@99%"),
        ("p5_tps>=80", "tps>=80"),
        ("mean_tps>=80", "mean_tps>=80"),
        ("tps>=80@99.5%", "tps>=80@99.5%"),
        ("tps>80", "tps>=80"),
        ("TTFT < 500 ms", "ttft<=500ms"),
        ("tpot≤40MS", "tpot<=40ms"),
        ("tps =>80", "tps>=80"),
        ("p99 ttft<=500ms", "ttft<=500ms@99%"),
        ("p99.9ttft<=500ms", "ttft<=500ms@99.9%"),
        ("ttft_p99<=500ms", "ttft<=500ms@99%"),
        ("TPOT mean < 40ms", "mean_tpot<=40ms"),
    ],
)
def test_how_bounds_are_written(text: str, written: str) -> None:
    assert str(Sla.asked(text)) == written


@pytest.mark.parametrize(
    "text",
    [
        "ttft<=500ms,tpot<=40ms", "ttft<=500ms, tpot<=40ms", "ttft<=500ms and tpot<=40ms", "TTFT<500ms AND tpot <= 40ms",
        "ttft<=500ms; tpot<=40ms", "ttft<=500ms && tpot<=40ms",
    ],
)  # fmt: skip
def test_bounds_stand_together_as_users_write_it(text: str) -> None:
    assert [str(Sla.asked(one)) for one in sla.bounds([text])] == ["ttft<=500ms", "tpot<=40ms"]


@pytest.mark.parametrize(
    "text",
    [
        "tps>",
        "tps==80",
        "and",
        "p95<=5ms",
        "tps<=80",
        "ttft>=1",
        "speed>=80",
        "tps>=0",
        "tps>=80ms",
        "tps>=nan",
        "tps>=1e999",
        "",
    ],
)
def test_what_is_no_bound(text: str) -> None:
    with pytest.raises(InputError, match=r"^SLA "):
        Sla.asked(text)


def test_a_bound_that_few_keep_is_refused_with_what_was_meant() -> None:
    with pytest.raises(InputError) as told:
        Sla.asked("p95_tps>=350")
    for words in ("5%", "tps>=350", "mean_tps>=350"):
        assert words in str(told.value)


@pytest.mark.parametrize("text", ["ttft<=500", "tpot<=100", "e2e<=5000"])
def test_milliseconds_without_their_unit_are_noticed(text: str) -> None:
    with pytest.raises(InputError, match=f"{text}ms"):
        Sla.asked(text)


@pytest.mark.parametrize(
    ("text", "doubted"), [("ttft<=500s", True), ("tpot<=40s", True), ("ttft<=60s", False), ("tps>=900", False)]
)
def test_seconds_that_nobody_promises_are_doubted(text: str, doubted: bool) -> None:
    sla = Sla.asked(text)
    assert bool(sla.doubt) == doubted
    assert not doubted or text.replace("s", "ms") in sla.doubt


def test_whom_a_promise_is_made_to() -> None:
    assert Sla.asked("tps>=80", share_of("99%")).share == 0.99
    assert Sla.asked("mean_tps>=80", 0.99).share is None
    assert Sla.asked("p90_ttft<=1s", 0.99).share == 0.9
    for wrong in ("95", "0%", "100%", "40%", "many"):
        with pytest.raises(InputError, match="--share"):
            share_of(wrong)


def rows(ttft_s: Sequence[float], tps: Sequence[float], tokens: Sequence[int] | int = 11) -> Records:
    """Requests that came at 0."""
    made = np.zeros(len(ttft_s), ROW)
    made["first_s"], made["output_tokens"] = ttft_s, tokens
    made["finish_s"] = made["first_s"] + (made["output_tokens"] - 1) / np.array(tps)
    return made


def finished(slas: list[Sla], served: Records) -> Outcome:
    ledger, totals = Ledger(slas), np.zeros(1, TOTALS)
    totals["arrived"] = totals["finished"] = len(served)
    totals["emitted"] = 11 * len(served)
    ledger.close_slice(totals, served, 1.0, np.zeros(BINS, np.int64))
    return outcome(ledger, gpus=1, replicas=1, kv_tokens=1, load="recorded", arriving=1)


def test_what_a_recorded_load_lacks_no_longer_simulation_gives() -> None:
    """Twenty requests of a log are twenty: a longer log has more; how exact throughput is, is no question of patience."""
    told = " ".join(finished([Sla.asked("tps>=80")], rows([0.1] * 20, [100.0] * 20)).warnings)
    assert "fewer than 100 requests" in told
    assert "record a longer log" in told
    assert "simulate longer" not in told
    assert "2 %" not in told


def test_requests_are_counted_against_all_bounds_of_a_share_together() -> None:
    """By hand: 100 requests, 3 of them too slow and 3 others too late: 97 % keep either bound, 94 % both. Their mean is
    (97 · 100 + 3 · 20) / 100 = 97.6 tokens a second."""
    tps = [20.0] * 3 + [100.0] * 97
    ttft = [0.1] * 97 + [0.9] * 3
    slas = [Sla.asked("tps>=80"), Sla.asked("ttft<=500ms"), Sla.asked("mean_tps>=97"), Sla.asked("mean_tps>=98")]
    found = finished(slas, rows(ttft, tps))
    assert found.attained["tps>=80"] == found.attained["ttft<=500ms"] == pytest.approx(0.97)
    assert found.attained["tps>=80 and ttft<=500ms"] == pytest.approx(0.94)
    assert found.attained["mean_tps>=97"] == pytest.approx(97.6)
    assert found.slas == {
        "tps>=80": True, "ttft<=500ms": True, "tps>=80 and ttft<=500ms": False, "mean_tps>=97": True, "mean_tps>=98": False,
    }  # fmt: skip
    assert found.attainment == pytest.approx(0.94)


def test_of_quantiles_every_request_is_one_however_long_its_answer() -> None:
    """Long answers wait longer and come slower: counted by tokens, the median would be theirs. Bins are 1 % wide."""
    rng = np.random.default_rng(0)
    long = rng.random(4000) < 0.3
    ttft = np.where(long, 0.9, 0.1) * rng.lognormal(0, 0.2, 4000)
    tps = np.where(long, 30.0, 90.0) * rng.lognormal(0, 0.1, 4000)
    tokens = np.where(long, 2000, 20)
    found = finished([], rows(ttft.tolist(), tps.tolist(), tokens.tolist())).quantiles
    for q in (5, 50, 90, 95, 99):
        assert found[f"p{q}_ttft"] == pytest.approx(np.quantile(ttft, q / 100), rel=0.015)
        assert found[f"p{q}_tps"] == pytest.approx(np.quantile(tps, q / 100), rel=0.015)
        assert found[f"p{q}_e2e"] == pytest.approx(np.quantile(ttft + (tokens - 1) / tps, q / 100), rel=0.015)


@given(st.lists(st.floats(79.9, 80.1), min_size=1, max_size=50))
def test_shares_are_counted_and_not_read_off_bins(tps: list[float]) -> None:
    """Bins are 1 % wide; the bound lies within one."""
    served = rows([0.0] * len(tps), tps)
    speeds = 1 / ((served["finish_s"] - served["first_s"]) / 10)  # ten tokens after the first
    found = finished([Sla.asked("tps>=80")], served)
    assert found.attained["tps>=80"] == pytest.approx(np.mean(speeds >= 80))


@pytest.mark.parametrize(
    ("name", "value", "kept", "shown"),
    [
        ("tps>=80", 0.9499, False, "94.9 % ✗"),
        ("tps>=80", 0.9999, True, "99.9 % ✓"),
        ("tps>=80", 1.0, True, "100 % ✓"),
        ("mean_tps>=80", 79.6, False, "79.6 ✗"),
        ("mean_ttft<=500ms", 0.1234, True, "123 ms ✓"),
        ("tps>=80 and ttft<=500ms", 0.94, False, "94 % ✗"),
        ("tps>=80", None, True, "✓"),
        ("tps>=80", float("nan"), None, "–"),
    ],
)
def test_attainment_as_shown(name: str, value: float | None, kept: bool | None, shown: str) -> None:
    assert Promise.parse(name).attained(value, kept) == shown


# --- keeping up -----------------------------------------------------------------------------------------------------------


def slices_of(arrived: list[int], finished: list[int], e2e_s: float) -> list[Slice]:
    found = []
    for came, went in zip(arrived, finished, strict=True):
        totals = np.zeros(1, TOTALS)
        totals["arrived"], totals["finished"] = came, went
        one = Slice(totals[0], 1.0)
        one.counts[MEASURES.index("e2e")], one.sums[MEASURES.index("e2e")] = went, went * e2e_s
        found.append(one)
    return found


def queue(rate: float, capacity: float, seed: int, seconds: int = 100) -> list[Slice]:
    """Poisson arrivals at a server that answers so many a second, a second at a time."""
    rng = np.random.default_rng(seed)
    waiting, arrived, gone = 0, [], []
    for _ in range(seconds):
        came = int(rng.poisson(rate))
        went = min(waiting + came, int(rng.poisson(capacity)))
        waiting += came - went
        arrived.append(came)
        gone.append(went)
    return slices_of(arrived, gone, 1.0)


def keeps_up(slices: list[Slice], *, closed: bool = False) -> bool | None:
    from simulator.metrics import Backlog

    return Backlog.of(slices).keeps_up(closed=closed)


def test_overload_is_told_from_noise() -> None:
    """A queue at 150 % of what can be answered grows: every run says so. At 70 % none does."""
    assert {keeps_up(queue(30, 20, seed)) for seed in range(200)} == {False}
    calm = [keeps_up(queue(20, 30, seed)) for seed in range(200)]
    assert calm.count(False) <= 1
    assert calm.count(True) >= 180


def test_an_idle_machine_keeps_up() -> None:
    """Three requests in a hundred seconds say nothing against it, however far from the nominal rate they are."""
    arrived = [0] * 100
    arrived[20] = arrived[60] = arrived[90] = 1
    assert keeps_up(slices_of(arrived, arrived, 0.5)) is True
    assert keeps_up(slices_of([0] * 100, [0] * 100, 0.5)) is True


def test_a_run_that_is_too_short_says_so() -> None:
    """Nobody has finished in half of the time; or requests take most of it."""
    assert keeps_up(slices_of([1] * 40, [0] * 40, 0.0)) is None
    assert keeps_up(slices_of([1] * 40, [1] * 40, 15.0)) is None


def test_ever_more_arrivals_are_no_backlog() -> None:
    """Each is answered after three seconds, while six times as much comes in the end: there are as many as Little says."""
    came = [1 + second // 20 for second in range(120)]
    went = [came[second - 3] if second >= 3 else 0 for second in range(120)]
    assert keeps_up(slices_of(came, went, 3.0)) is True
    short = [one - 1 for one in went[60:]]  # one a second of them is not answered
    assert keeps_up(slices_of(came, went[:60] + short, 3.0)) is not True


def test_in_a_closed_loop_nothing_piles_up() -> None:
    growing = slices_of([2] * 40, [1] * 40, 1.0)
    assert keeps_up(growing, closed=True) is True
    assert keeps_up(growing) is False
