"""Captured sizes: what passes outside of them take, profiles whose engine captures others, and what that costs is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.averages import Averages, trace_of
from simulator.draws import GRAPHS, beyond_graphs
from simulator.errors import InputError
from simulator.hardware.catalogue import Asked, bundled_profiles, find_profile
from simulator.hardware.cost import StepLoad
from simulator.hardware.graphs import captured_sizes, capturing
from simulator.hardware.profile import Curve, DraftCurve, Launches, Profile, dump_profile, load_profile
from simulator.load import Arrivals, Users
from simulator.policies import PolicySpec
from simulator.policies.prefix_scheduler import PrefixScheduler
from simulator.setup import EngineLimits, Setup
from simulator.simulation import Prepared, prepare, simulate

B300 = "b300/deepseek-v4-flash"


def small(**changes: object) -> Profile:
    """A pass takes 10 ms and 10 µs a token; 1, 2, 4 and 8 tokens are captured, and 500 kernels launched outside."""
    return Profile(
        name="small", device="d", model="m", source="user", provenance={}, kv_capacity_tokens=10**6,
        verify=Curve((1, 10_001), (0.01001, 0.11001)), captured_tokens=(1, 2, 4, 8), launches=Launches(kernels=500),
        draft={"dspark": DraftCurve((3,), (Curve((1,), (0.001,)),), block=True)},
    ) if not changes else replace(small(), **changes)  # type: ignore[arg-type]  # fmt: skip


def test_sizes_are_those_that_vllm_captures() -> None:
    """1, 2, 4, every eighth below 256, every sixteenth to 512: 51 sizes."""
    assert captured_sizes(512)[:5] == (1, 2, 4, 8, 16)
    assert (captured_sizes(512)[-1], len(captured_sizes(512))) == (512, 51)
    assert captured_sizes(9) == (1, 2, 4, 8, 9)
    assert captured_sizes(1) == (1,)


def test_passes_outside_take_what_launching_takes_at_least() -> None:
    """500 kernels of 60 µs are 30 ms, a quarter of them 7.5: less than a pass inside takes; 3,000 tokens take 40 ms."""
    cost = small().cost("none", 0, 16, 4000)
    assert cost.verify_s[[3, 8]] == pytest.approx([0.01004, 0.01008])
    assert cost.verify_s[[9, 1000, 3000]] == pytest.approx([0.03, 0.03, 0.04])
    assert cost.target(StepLoad(2, prefill_tokens=4), 0) == pytest.approx(0.01006)
    assert cost.target(StepLoad(2, prefill_tokens=7), 0) == pytest.approx(0.03)
    leaves = small(launches=Launches(kernels=500, with_prompt=1)).cost("none", 0, 16, 4000)
    assert leaves.target(StepLoad(2, prefill_tokens=4), 0) == pytest.approx(0.03)
    assert leaves.target(StepLoad(6), 0) == cost.target(StepLoad(6), 0)


def test_what_was_timed_stands_before_what_is_assumed() -> None:
    timed = small(eager=Curve((1,), (0.02,)))
    assert timed.cost("none", 0, 16, 4000).verify_s[9] == 0.02


def test_every_roofline_has_graphs_and_keeps_them_in_its_file(tmp_path: Path) -> None:
    rooflines = [p for name in bundled_profiles() if (p := find_profile(name)).source == "roofline"]
    assert len(rooflines) > 50
    assert all(p.captured == 512 and p.launches is not None and p.eager is None for p in rooflines)
    (tmp_path / "own.json").write_text(dump_profile(rooflines[0]))
    assert load_profile(tmp_path / "own.json") == rooflines[0]


def test_captured_sizes_can_be_set() -> None:
    """Fewer are those that there are; more go on where they end."""
    assert capturing(small(), 5).captured_tokens == (1, 2, 4, 5)
    assert capturing(small(), 40).captured_tokens == (1, 2, 4, 8, 16, 24, 32, 40)
    assert capturing(small(), 8) == small()
    published = find_profile(B300, Asked(captured=512))
    assert published.name == f"{B300},captured512"
    assert published.captured_tokens == tuple(n for n in find_profile(B300).captured_tokens if n <= 512)
    cost = published.cost("none", 0, 600, 2048)
    assert cost.verify_s[512] < 0.02 < 0.1 < cost.verify_s[513]


@pytest.mark.parametrize(
    ("name", "largest", "named"),
    [
        ("h100/qwen3-4b", 0, "--captured 0: must be from 1"),
        ("h100/qwen3-4b", 10**7, "--captured 10000000: must be from 1"),
        ("h100-measured/qwen3-4b", 512, "does not say what a pass takes that is not captured"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(name: str, largest: int, named: str) -> None:
    with pytest.raises(InputError, match=named):
        find_profile(name, Asked(captured=largest))


@pytest.mark.parametrize("change", [{"kernels": 0}, {"each_s": -1.0}, {"each_s": 2.0}, {"with_prompt": 1.5}])
def test_launches_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Launches(**{"kernels": 1, **change})  # type: ignore[arg-type]


def test_launches_need_captured_sizes() -> None:
    with pytest.raises(ValueError, match="captured_tokens"):
        small(captured_tokens=())


def test_the_papers_scheduler_sees_no_stairs_but_the_cliff() -> None:
    """Between the ends of stairs, 0, 1, 2, 4 and 8 tokens, lines; what is beyond stays."""
    cost = small().cost("none", 0, 16, 12)
    believed = PrefixScheduler.believed_cost(cost).verify_s
    assert believed[[1, 2, 3, 4, 6, 8]] == pytest.approx([0.01001, 0.01002, 0.01003, 0.01004, 0.01006, 0.01008])
    np.testing.assert_array_equal(believed[9:], cost.verify_s[9:])
    without = replace(small(), captured_tokens=(), launches=None).cost("none", 0, 16, 12)
    np.testing.assert_array_equal(PrefixScheduler.believed_cost(without).verify_s, without.verify_s)


def walked() -> Prepared:
    """Answers of 300 tokens, four of five drafts accepted."""
    rng = np.random.default_rng(0)
    averages = {"chat": Averages.of_conditional([0.8] * 3)}
    return prepare(trace_of("dspark", averages, rng, responses=20, tokens=300, prompt_tokens=1))


def simulated(policy: str, users: int, profile: Profile, **changes: object) -> tuple[Setup, str, float]:
    """A set-up, what is told of its graphs, and the share of steps outside."""
    recorded = walked()
    setup = Setup(
        load=Users(users), policy=PolicySpec.parse(policy), profile=profile, seconds=100, prompt_tokens=1, **changes
    )  # type: ignore[arg-type]
    found = simulate(setup, recorded)
    return setup, beyond_graphs(setup, recorded, found, "--captured"), found.outside


def test_what_small_graphs_cost_is_said_with_the_setting() -> None:
    """Four users of four tokens are beyond 8: 30 ms in place of 10.16, and 1 for drafting: with graphs 31 / 11.16 times."""
    _, told, outside = simulated("fixed:3", 4, small())
    assert outside > 0.99
    assert told.startswith(f"{GRAPHS} 8 tokens, and 100% of steps are larger: 19.8 ms more in a step, launching assumed;")
    assert told.endswith("with --captured 256: tokens/s × 2.8")


def test_nothing_is_said_where_nothing_is_lost() -> None:
    assert simulated("fixed:3", 2, small())[1:] == ("", 0.0)  # inside
    assert simulated("none", 4, small())[1] == ""
    quick = Launches(kernels=1)
    told, outside = simulated("fixed:3", 4, small(launches=quick))[1:]
    assert outside > 0.99
    assert told == ""  # launching takes no time


def test_the_size_advised_holds_all_that_run() -> None:
    told = simulated("fixed:3", 100, small(), limits=EngineLimits(request_cap=80))[1]
    assert "with --captured 512:" in told  # 80 × 4 and a prompt
    recorded = walked()
    setup = Setup(load=Arrivals(2.0), policy=PolicySpec.parse("fixed:3"), profile=small(), seconds=100, prompt_tokens=9)
    told = beyond_graphs(setup, recorded, simulate(setup, recorded), "")
    assert "tokens/s of a user" in told
    assert "with graphs to 256" in told


def test_where_hardly_anything_was_served_nothing_is_said_of_graphs() -> None:
    """In so short a time shorter simulations serve nobody, or nobody arrives after the warm-up: there is no ratio."""
    recorded = prepare(trace_of("dspark", {"chat": Averages.of_conditional([0.8] * 3)}, np.random.default_rng(0),
                                responses=20, tokens=4, prompt_tokens=1))  # fmt: skip
    for load in (Users(4, think_s=1e308), Arrivals(0.5)):
        setup = Setup(load=load, policy=PolicySpec.parse("fixed:3"), profile=small(), seconds=1.0, prompt_tokens=1)
        found = replace(simulate(setup, recorded), outside=1.0, step_s={"verify": 0.03})
        beyond_graphs(setup, recorded, found, "--captured")
        beyond_graphs(setup, recorded, replace(found, running=float("nan")), "--captured")


def test_where_no_step_was_taken_nothing_is_said_of_graphs() -> None:
    """Of no steps no share is larger; a profile that names no captured sizes has none to make larger."""
    recorded = walked()
    for profile in (small(), small(captured_tokens=(), launches=None)):
        setup = Setup(load=Users(4), policy=PolicySpec.parse("fixed:3"), profile=profile, seconds=1.0, prompt_tokens=1)
        found = replace(simulate(setup, recorded), outside=float("nan"))
        assert beyond_graphs(setup, recorded, found, "--captured") == ""
