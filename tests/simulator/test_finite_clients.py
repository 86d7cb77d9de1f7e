"""Users who ask so much in all: hand-worked runs with their drain, and how such loads are written."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import gamma, kstest

from simulator.averages import Averages, trace_of
from simulator.engine.state import Records
from simulator.errors import InputError
from simulator.hardware.profile import Curve, Profile
from simulator.load import Load, Users, loads
from simulator.mix import Mix
from simulator.policies import PolicySpec
from simulator.requests import requests
from simulator.setup import EngineLimits, Setup
from simulator.simulation import Prepared, prepare, simulate

STEP_S = 0.010


def walked(prompt_tokens: int = 1) -> Prepared:
    averages = {"chat": Averages.of_conditional([0.5])}
    rng = np.random.default_rng(0)
    return prepare(trace_of("mtp", averages, rng, responses=20, tokens=60, prompt_tokens=prompt_tokens))


def setup(load: Users, **changes: object) -> Setup:
    """Every step takes 10 ms, and brings each request a token; answers have 5."""
    profile = Profile(
        name="flat", device="d", model="m", source="user", provenance={}, kv_capacity_tokens=10**6,
        verify=Curve((1,), (STEP_S,)),
    )  # fmt: skip
    asked: dict[str, object] = {"output_tokens": 5, "seconds": 1000.0, **changes}
    return Setup(load=load, policy=PolicySpec.parse("none"), profile=profile, **asked)  # type: ignore[arg-type]


def test_ten_requests_of_four_users_take_three_waves() -> None:
    """An answer is 5 steps, the prompt's first: 4, 4 and 2 at a time, 150 ms in all, and 50 tokens."""
    rows: list[Records] = []
    found = simulate(setup(Users(4, requests_in_all=10)), walked(), on_rows=rows.append)
    done = np.concatenate(rows)
    assert sorted(done["finish_s"]) == pytest.approx([0.05] * 4 + [0.10] * 4 + [0.15] * 2)
    assert found.finished == 10
    assert found.simulated_s == pytest.approx(0.15)
    assert found.throughput.value == pytest.approx(50 / 0.15)
    assert found.running == pytest.approx((4 * 8 + 2 * 4) / 15)  # decoding, over steps: four of each five
    assert found.keeps_up is True
    assert not [w for w in found.warnings if "settle" in w or "overload" in w]
    assert np.isnan([found.throughput.half_width, found.tps.half_width]).all(), "waves and a drain are no noise"


@pytest.mark.parametrize("cv", [0.3, 0.6, 1.0])
def test_answers_of_many_lengths_keep_their_mean(cv: float) -> None:
    """Mean, deviation and largest are a gamma distribution's; the same seed asks for the same, whatever the policy."""
    asked = next(requests(Mix(walked().trace, output_tokens=400, output_cv=cv), Users(1), np.random.default_rng(1)))
    lengths = asked["output_tokens"].astype(float)
    assert lengths.min() >= 1
    assert lengths.mean() == pytest.approx(400, rel=5 * cv / np.sqrt(len(lengths)))
    assert lengths.std() / lengths.mean() == pytest.approx(cv, rel=0.1)
    assert kstest(lengths, gamma(cv**-2, scale=400 * cv**2).cdf).statistic < 2.5 / np.sqrt(len(lengths))
    again = next(requests(Mix(walked().trace, output_tokens=400, output_cv=cv), Users(1), np.random.default_rng(1)))
    assert (again == asked).all()


def test_who_asks_what_is_the_same_with_and_without_a_spread() -> None:
    plain, spread = (
        next(requests(Mix(walked().trace, output_cv=cv), Users(1, think_s=1.0), np.random.default_rng(1)))
        for cv in (0.0, 1.0)
    )
    for name in ("response", "prompt_tokens", "think_s"):
        assert (plain[name] == spread[name]).all()
    assert (plain["output_tokens"] == 60).all()


def test_a_burst_lasts_as_long_as_its_longest_answer() -> None:
    """All begin at once and never wait: the last token is of the longest of eight gamma-distributed answers."""
    rows: list[Records] = []
    found = simulate(setup(Users(8, requests_in_all=8), output_tokens=100, output_cv=1.0), walked(), on_rows=rows.append)
    done = np.concatenate(rows)
    assert found.simulated_s == pytest.approx(STEP_S * done["output_tokens"].max())
    assert done["finish_s"] == pytest.approx(STEP_S * done["output_tokens"])
    assert len({*done["output_tokens"].tolist()}) > 5


@pytest.mark.parametrize("cv", [-0.1, 1e-300, 5.0, float("nan")])
def test_no_traffic_has_such_a_spread(cv: float) -> None:
    with pytest.raises(ValueError, match="--output-cv"):
        setup(Users(1), output_cv=cv)


def test_fewer_requests_than_users_and_caps_below_them() -> None:
    assert simulate(setup(Users(8, requests_in_all=3)), walked()).simulated_s == pytest.approx(0.05)
    capped = setup(Users(4, requests_in_all=4), limits=EngineLimits(request_cap=2))
    assert simulate(capped, walked()).simulated_s == pytest.approx(0.10)


def test_pauses_are_within_the_run() -> None:
    """One user with a pause after each of three answers but the last."""
    found = simulate(setup(Users(1, think_s=2.0, requests_in_all=3)), walked())
    assert 0.15 < found.simulated_s < 20
    assert found.finished == 3


def test_staggered_users_begin_within_an_answer() -> None:
    """An answer takes 50 ms without speculation: in the first wave all have come by then, at random moments."""
    rows: list[Records] = []
    simulate(setup(Users(50, requests_in_all=100, staggered=True)), walked(), on_rows=rows.append)
    first = np.sort(np.concatenate(rows)["arrival_s"])[:50]
    assert 0 < first[0] < first[-1] < 0.05
    assert first[-1] - first[0] > 0.03


def test_whoever_asks_all_at_once_has_a_drain() -> None:
    """880 requests of 64 users come in 14 waves of which the last has 48: 880 × 5 tokens in 0.7 s."""
    found = simulate(setup(Users(64, requests_in_all=880)), walked())
    assert found.throughput.value == pytest.approx(880 * 5 / (14 * 0.05))


@pytest.mark.parametrize(
    ("text", "load"),
    [
        ("users:64/0#880", Users(64, requests_in_all=880)),
        ("users:64/2.5#880+staggered", Users(64, 2.5, 880, True)),
        ("users:64/0", Users(64)),
    ],
)
def test_loads_are_read_back(text: str, load: Users) -> None:
    assert str(load) == text
    assert Load.parse(text) == load
    assert load.ends == ("#" in text)


@pytest.mark.parametrize(
    "text", ["users:64#0", "users:64#x", "users:64#880+late", "users:64#", "users:64#-1", "users:64#9e9"]
)
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"users:64#"):
        Load.parse(text)


def test_the_command_line() -> None:
    assert loads("8,64", 0.0, None, 1.0, requests=880, staggered=True) == [Users(n, 0.0, 880, True) for n in (8, 64)]
    with pytest.raises(InputError, match="--requests 0: must be from 1"):
        loads("8", 0.0, None, 1.0, requests=0)
    with pytest.raises(InputError, match="--requests: is of users of one load"):
        loads("8=0.5,64=0.5", 0.0, None, 1.0, requests=10)
    with pytest.raises(ValueError, match="anyway"):
        Users(8, staggered=True)
