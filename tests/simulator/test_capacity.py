"""How much of a load is held: the search by thresholds that are known, money and machines by hand, one real simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.averages import Averages, trace_of
from simulator.capacity import (
    MOST,
    MOST_TRIED,
    check_costs,
    crowded,
    dollars_per_million,
    enough,
    falls_short,
    gpus_for,
    gpus_told,
    headroom,
    headrooms,
    share_low,
    too_few,
)
from simulator.decision import Draw, Range
from simulator.draws import HOLDING, drawn, headroom_of, holding, varied
from simulator.hardware.catalogue import find_profile
from simulator.hardware.profile import Errors
from simulator.load import Arrivals, Load, RecordedArrivals, SeveralLoads, Users, loads
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.recommendation import counted_share, seconds_for
from simulator.setup import RAMP, EngineLimits, Setup
from simulator.simulation import prepare, simulate
from simulator.sla import Sla


@given(st.floats(1 / 60, 60), st.booleans())
def test_the_largest_rate_is_found_to_five_per_cent(threshold: float, told: bool) -> None:
    """Of a machine that holds so many times 3 requests a second, and not one more."""
    tried: list[float] = []

    def holds(load: Load) -> bool:
        tried.append(load.rate_per_s or math.nan)
        return tried[-1] <= 3 * threshold

    found = headroom(Arrivals(3), holds, at_one=threshold >= 1 if told else None)
    assert found <= threshold < found * 1.051
    assert len(tried) <= MOST_TRIED
    assert len(set(tried)) == len(tried)
    assert (3.0 in tried) == (not told)


def test_the_ends_of_the_search() -> None:
    assert headroom(Arrivals(3), lambda load: True) == MOST
    assert headroom(Arrivals(3), lambda load: False) == 0
    assert headroom(Users(2), lambda load: False) == 0


@given(st.integers(1, 200), st.integers(1, 200))
def test_users_are_whole(users: int, most: int) -> None:
    """Found to one user where 5 % are less than that."""
    times = headroom(Users(users), lambda load: (load.users or 0) <= most) * users
    found = round(times)
    assert times == pytest.approx(found)
    assert found <= min(most, MOST * users) <= max(1.06 * found, found + 1) or found in (0, MOST * users)


def test_users_beyond_what_can_run_wait() -> None:
    assert not crowded(Users(64), 32, 2)
    assert crowded(Users(65), 32, 2)
    assert not crowded(Users(65, 1.0), 32, 2)
    assert not crowded(Arrivals(1000), 32, 2)
    assert crowded(SeveralLoads(((Users(1), 1), (Users(65), 1))), 32, 2)


def test_machines_and_money_by_hand() -> None:
    """1,000 tokens a second are 3.6 M an hour; 40 users on two replicas are 20 on each, so 90 need five."""
    assert dollars_per_million(1000, 3.6) == pytest.approx(1.0)
    assert gpus_for(90, Users(16), 2.5, replicas=2, gpus=4) == 20
    assert gpus_for(80, Users(16), 2.5, replicas=2, gpus=1) == 4
    assert gpus_for(80, Users(16), 0.0, replicas=2, gpus=1) is None


def test_few_requests_tell_nothing() -> None:
    """Five of 100 may break a promise to 95 %, five of 500 one to 99 %."""
    assert enough(100, [Sla.parse("tps>=10")])
    assert not enough(99, [Sla.parse("tps>=10")])
    assert enough(500, [Sla.parse("tps>=10"), Sla.parse("ttft<=1s@99%")])
    assert not enough(499, [Sla.parse("tps>=10"), Sla.parse("ttft<=1s@99%")])
    assert not enough(99, [Sla.parse("mean_tps>=10")])


def test_without_a_promise_twenty_requests_tell_something() -> None:
    assert not enough(19, [])
    assert enough(20, [])


@pytest.mark.parametrize(("finished", "share", "wanted"), [(17, 0.95, 100), (3, 0.99, 500), (99, 0.95, 100)])
def test_as_many_seconds_as_are_asked_for_are_enough(finished: int, share: float, wanted: int) -> None:
    """Requests come in as many as before a second."""
    slas = [Sla.parse("tps>=10@99%" if share == 0.99 else "tps>=10")]
    said = too_few(finished, slas, Arrivals(0.05), 600.0)
    assert str(finished) in said
    assert str(wanted) in said
    seconds = float(said.split("--seconds ")[1].split()[0])
    assert wanted <= finished * seconds / 600 <= 1.4 * wanted


def test_too_short_a_log_is_told_in_requests(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,5\n")
    said = too_few(1, [], RecordedArrivals.of(file), 600.0)
    assert "20 requests" in said
    assert "--seconds" not in said


def test_a_share_of_few_requests_is_never_certain() -> None:
    """Wilson's interval by hand, 17 of 17: n / (n + z²); and near the rule of three where there are many."""
    assert share_low(1.0, 17) == pytest.approx(17 / (17 + 1.959964**2))
    assert 1 - 4 / 1000 < share_low(1.0, 1000) < 1 - 3 / 1000
    assert counted_share(Range(1.0, 1.0, 1.0), 17).low == share_low(1.0, 17)
    assert counted_share(Range(0.0, 0.0, 0.0), 17).high == pytest.approx(1 - share_low(1.0, 17))


@given(st.integers(1, 400), st.data())
def test_a_share_lies_in_its_interval_which_draws_can_only_widen(count: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, count)) / count
    told = counted_share(Range(kept, kept, kept), count)
    assert 0 <= told.low <= kept <= told.high <= 1
    assert told.high - told.low > 0
    assert counted_share(Range(kept, 0.0, 1.0), count) == Range(kept, 0.0, 1.0)


def test_gpus_are_told_with_the_range_of_what_is_held() -> None:
    """16 users, 2.5 times on one replica of 4 GPUs, 1 to 5 times in the draws: 90 users need 3, 2 to 6 replicas."""
    said = gpus_told(90, Users(16), 2.5, 1.0, 5.0, replicas=1, gpus=4)
    assert "12 GPUs" in said
    assert "8 to 24" in said
    worst = gpus_told(90, Users(16), 2.5, 0.0, 5.0, replicas=1, gpus=4)
    assert "8 GPUs or more" in worst
    assert "not one user" in worst
    assert "not one user" in gpus_told(90, Users(16), 0.0, 0.0, 5.0, replicas=1, gpus=4)


def test_where_a_replica_holds_more_than_was_tried_gpus_are_told_at_most() -> None:
    """One user, 64 times or more: 157 for 10,000, or fewer."""
    said = gpus_told(10_000, Users(1), MOST, MOST, MOST, replicas=1, gpus=1)
    assert "at most 157 GPUs" in said
    assert "95 %" not in said


def test_what_falls_short_says_how_many_replicas_would_do() -> None:
    assert "--replicas 2" in falls_short("none", ["80 % ✗"], 0.67, 1)
    assert "--replicas 5" in falls_short("none", ["80 % ✗"], 0.81, 4)
    assert "--replicas 2" in falls_short("none", ["80 % ✗"], 0.5, 1)
    assert "try" not in falls_short("none", ["80 % ✗"], 0.0, 1)
    assert "(95 %: 0.4 × to 1.2 ×) this load within the promise: try --replicas 2, 3 to be surer" in falls_short(
        "none", ["80 % ✗"], 0.67, 1, (0.4, 1.2)
    )
    assert falls_short("none", ["80 % ✗"], 0.67, 1, (0.6, 1.2)).endswith("try --replicas 2")
    assert "in some of the draws no number helps" in falls_short("none", ["80 % ✗"], 0.67, 1, (0.0, 1.2))
    assert falls_short("none", ["80 % ✗"], 0.0, 1, (0.0, 0.0)).endswith("no number of --replicas helps")
    assert "in some of the draws it does" in falls_short("none", ["80 % ✗"], 0.0, 1, (0.0, 0.3))
    assert "replica" not in falls_short("none", ["80 % ✗"], math.nan, 1)


def test_weights_that_are_no_shares_are_made_shares_and_said() -> None:
    said: list[str] = []
    [several] = loads("8=0.5,64=0.6", 0, None, 1, say=said.append)
    assert sum(weight for _, weight in several.parts) == pytest.approx(1)
    assert len(said) == 1
    assert "1.1" in said[0]
    assert len(loads("8=0.5,64=0.5", 0, None, 1, say=said.append)) == len(said) == 1


def test_a_draw_is_long_enough_for_what_has_to_finish_in_it() -> None:
    """At 10,000 tokens a second and answers of 3,000, 3⅓ requests finish a second."""
    assert seconds_for(Arrivals(3), [10_000], 600, 3000) == 15
    assert seconds_for(Arrivals(3), [10_000], 600, 3000, 100) * 0.75 * 10_000 / 3000 == pytest.approx(100)
    assert seconds_for(Arrivals(3), [10_000], 20, 3000, 100) == 20


@pytest.mark.parametrize(
    ("loads", "slas", "users", "gpu_hour", "message"),
    [
        ([Users(4)], ["tps>=10"], None, 0.0, "--gpu-hour 0"),
        ([Users(4)], [], 5, None, "--sla"),
        ([Users(4)], ["tps>=10"], 0, None, "one user or more"),
        ([Arrivals(4)], ["tps>=10"], 5, None, "closed loop"),
        ([SeveralLoads(((Users(8), 1), (Users(64), 1)))], ["tps>=10"], 5, None, "weights.*--concurrency 64"),
    ],
)
def test_what_cannot_be_counted(
    loads: list[Load], slas: list[str], users: int | None, gpu_hour: float | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_costs(loads, [Sla.parse(s) for s in slas], users=users, gpu_hour=gpu_hour)


def test_what_is_held_keeps_the_promise_and_a_tenth_more_breaks_it(tmp_path: Path) -> None:
    """Recorded arrivals of one length on a small machine, the same requests however fast they come."""
    averages = {"all": Averages((0.7, 0.5))}
    trace = trace_of("eagle3", averages, np.random.default_rng(0), responses=20, tokens=64, prompt_tokens=64)
    times = np.cumsum(np.random.default_rng(1).exponential(0.05, 600))
    file = tmp_path / "arrivals.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{t},64,64\n" for t in times))
    setup = Setup(
        load=RecordedArrivals.of(file), policy=PolicySpec.parse("fixed:2"), profile=find_profile("h100/qwen3-4b"),
        limits=EngineLimits(request_cap=8, step_tokens=512), slas=(Sla.parse("ttft<=50ms"),),
    )  # fmt: skip
    recorded = prepare(trace)

    def at(factor: float) -> bool:
        return simulate(replace(setup, load=setup.load.times(factor)), recorded).kept

    found = headroom_of(setup, recorded, simulate(setup, recorded))
    assert 0 < found < MOST
    assert at(found)
    assert not at(1.1 * found)


def test_where_the_queue_grows_nothing_is_kept() -> None:
    """However fast those are served that are: a cap of 8 leaves every user all the speed there is."""
    trace = trace_of(
        "eagle3", {"all": Averages((0.7, 0.5))}, np.random.default_rng(0), responses=20, tokens=64, prompt_tokens=9
    )
    setup = Setup(
        load=Arrivals(400), policy=PolicySpec.parse("fixed:2"), profile=find_profile("h100/qwen3-4b"), seconds=20,
        limits=EngineLimits(request_cap=8), slas=(Sla.parse("tps>=1"), Sla.parse("mean_tps>=1")),
    )  # fmt: skip
    found = simulate(setup, prepare(trace))
    assert found.keeps_up is False
    assert found.attained["tps>=1"] == 1
    assert not any(found.slas.values())
    assert not found.stationary


def test_of_what_nobody_was_answered_in_time_to_tell_every_promise_has_a_figure() -> None:
    """A simulation that is shorter than an answer, as the first of a search may be: the share that keeps it is nan."""
    trace = trace_of(
        "eagle3", {"all": Averages((0.7, 0.5))}, np.random.default_rng(0), responses=4, tokens=64, prompt_tokens=9
    )
    setup = Setup(
        load=Users(4), policy=PolicySpec.parse("fixed:2"), profile=find_profile("h100/qwen3-4b"), seconds=1,
        output_tokens=50_000, slas=(Sla.parse("tps>=1"), Sla.parse("ttft<=1s"), Sla.parse("mean_tps>=1")),
    )  # fmt: skip
    found = simulate(setup, prepare(trace))
    assert found.finished == 0
    assert set(found.attained) == {"tps>=1", "ttft<=1s", "tps>=1 and ttft<=1s", "mean_tps>=1"}
    assert all(math.isnan(share) for share in found.attained.values())
    assert not any(found.slas.values())


@given(st.lists(st.floats(1 / 60, 60), min_size=2, max_size=5))
def test_searches_side_by_side_are_searches_alone(thresholds: list[float]) -> None:
    """And ask about every machine that is not known yet at once."""

    def hold(asked: Sequence[tuple[int, Load]]) -> list[bool]:
        assert len({number for number, _ in asked}) == len(asked)
        return [(load.rate_per_s or math.nan) <= thresholds[number] for number, load in asked]

    found = headrooms(Arrivals(1), hold, len(thresholds))
    alone = [headroom(Arrivals(1), lambda load, most=most: (load.rate_per_s or math.nan) <= most) for most in thresholds]  # type: ignore[misc]
    assert found == alone


def test_what_draws_hold_is_told_of_the_load_that_was_asked_for() -> None:
    """Machines that hold 4.5 to 6.4 requests a second, of a load of 2 held 2.6 times with nothing off; users whole."""
    most = {number: 4.5 + 0.1 * number for number in range(HOLDING)}

    def hold(asked: Sequence[tuple[Draw, Load]]) -> list[bool]:
        assert all(draw.off for draw, _ in asked)
        return [(load.rate_per_s or load.users or math.nan) <= most[draw.number] for draw, load in asked]

    expected = np.quantile(list(most.values()), [0.025, 0.975]) / 2
    found = holding(Arrivals(2), 2.6, hold)
    assert found.value == 2.6
    assert [found.low, found.high] == pytest.approx(expected, rel=0.05)
    for times in (0.0, MOST, 4.0):  # wherever the search begins
        found = holding(Users(1), times, hold)
        assert (found.low, found.high) == (min(times, 4), max(times, 6))


def test_draws_on_a_slower_profile_are_longer() -> None:
    """Step times 40 % off, as few as half of the requests would finish; given the time, nearly as many do in every draw."""
    errors = Errors(0.4, 0.4, 0.4)
    profile = replace(find_profile("h100/qwen3-4b"), errors=errors)
    averages = {"all": Averages((0.7, 0.5))}
    recorded = prepare(trace_of("eagle3", averages, np.random.default_rng(0), responses=40, tokens=64, prompt_tokens=64))
    setup = Setup(load=Users(16), policy=PolicySpec.parse("fixed:2"), profile=profile, seconds=10)
    finished = [simulate(*varied(setup, recorded, Draw(number, off=True))).finished for number in range(40)]
    assert min(finished) > 0.75 * simulate(replace(setup, ramp=RAMP), recorded).finished


def test_nothing_is_told_of_the_time_in_which_users_begin() -> None:
    averages = {"all": Averages((0.7, 0.5))}
    recorded = prepare(trace_of("eagle3", averages, np.random.default_rng(0), responses=40, tokens=64, prompt_tokens=64))
    policy, profile = PolicySpec.parse("fixed:2"), find_profile("h100/qwen3-4b")
    for ramp in (0.05, 0.25, 0.5):
        setup = Setup(load=Users(4), policy=policy, profile=profile, seconds=10, ramp=ramp)
        assert simulate(setup, recorded).warmup_s >= ramp * setup.seconds - 1e-9


def test_draws_of_what_does_not_draft_are_of_whole_turns() -> None:
    """Beside something faster too: its users keep the places they began at, and a part of a turn is another speed."""
    averages = {"all": Averages((0.7, 0.5, 0.3))}
    recorded = prepare(trace_of("eagle3", averages, np.random.default_rng(0), responses=40, tokens=512, prompt_tokens=512))
    setup = Setup(load=Users(256), policy=NO_DRAFTER, profile=find_profile("h100/qwen3-8b"))
    long = simulate(setup, recorded)
    short = replace(setup, seconds=seconds_for(setup.load, [long.throughput.value, 12_000], setup.seconds, 512.0))
    assert short.seconds < 0.15 * setup.seconds
    for number in range(4):
        found = drawn(short, recorded, Draw(number, off=False))
        assert found.throughput.value == pytest.approx(long.throughput.value, rel=0.004)
    part = replace(setup, seconds=seconds_for(setup.load, [12_000], setup.seconds, 512.0))
    assert drawn(part, recorded, Draw(0, off=False)).throughput.value > 1.01 * long.throughput.value


def test_a_draw_tells_what_a_long_simulation_does() -> None:
    """Answers of one length: users that began together would end together, and their prompts wait for each other."""
    averages = {"all": Averages((0.55, 0.25))}
    recorded = prepare(trace_of("eagle3", averages, np.random.default_rng(0), responses=40, tokens=512, prompt_tokens=512))
    setup = Setup(load=Users(96), policy=PolicySpec.parse("fixed:2"), profile=find_profile("l40s/qwen3-8b"))
    long = simulate(setup, recorded)
    short = replace(setup, seconds=seconds_for(setup.load, [long.throughput.value], setup.seconds, 512.0))
    assert short.seconds < 0.15 * setup.seconds
    for number in range(4):
        found = drawn(short, recorded, Draw(number, off=False))
        assert found.throughput.value == pytest.approx(long.throughput.value, rel=0.015)
        assert found.quantiles["p95_ttft"] < long.quantiles["p95_ttft"] + 0.07  # all at once: 1.4 s more
