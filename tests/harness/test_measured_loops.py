"""Loops of users and queues of arrivals under factors, against their sums and closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.hardware.loops import Open, Served, opened, recorded_of, serve, texts_of, timed
from harness.hardware.measured import read_measured
from harness.hardware.posterior import Posterior
from harness.hardware.steps import stepped
from harness.hardware.terms import TERMS, Base, Factors, with_factors
from simulator.averages import Averages
from simulator.engine.state import REQUEST
from simulator.load import Arrivals
from simulator.plain import cost_of
from simulator.setup import EngineLimits, Setup
from simulator.simulation import Simulator, simulate
from tests.harness.test_calibration_of_hardware import HEAD, PROFILE, base, drawn, points


@pytest.mark.parametrize(
    "row", ["16,none,0,,300,80,1,given", "16,dspark,5,3.1,300,80,1,given", "4,eagle3,3,2.5,9000,40,1,given"]
)
def test_a_loop_under_factors_is_the_sum_of_its_parts(row: str, tmp_path: Path) -> None:
    """Simulated once for every part, and once with all of them together: the same times to a millionth."""
    [point] = points(f"{row}\n", tmp_path)
    factors = drawn(3)
    parts = serve(point, base(launched=False)).times(factors)
    made = Base(with_factors(base(launched=False), factors), 0, 0)
    profile, units = made.profile, made.units
    alone = {"step": profile.overhead_s / units["step"], "request": profile.overhead_s_per_request / units["request"]}
    whole = serve(point, made).times(
        dict.fromkeys(TERMS, 1.0) | {"token": 0.0, "root": 0.0, "draft_pass": 0.0, "draft_request": 0.0} | alone
    )  # type: ignore[arg-type]
    np.testing.assert_allclose(parts.finish_s, whole.finish_s, rtol=1e-6)
    np.testing.assert_allclose(parts.first_s, whole.first_s, rtol=1e-6)


def test_texts_that_differ_commit_as_many_tokens_a_round() -> None:
    """Rounds pooled, as engines report it: 1,000 tokens of each text are as many rounds as of 3 tokens each."""
    averages = Averages.of_accepted_length(3.0, 5)
    levels = texts_of(averages)
    assert 5 * 1000 / sum(1000 / level.accepted_length for level in levels) == pytest.approx(3.0)
    odds = [level.conditional[0] / (1 - level.conditional[0]) for level in levels]
    assert odds[-1] / odds[0] == pytest.approx(np.exp(2.8 * 0.5))
    assert texts_of(Averages((1.0, 1.0))) == [Averages((1.0, 1.0))]


def test_a_look_up_is_verified_where_it_has_a_draft(tmp_path: Path) -> None:
    """Of 1.2 tokens a step few steps have a draft: with every one of them drafting the passes would be six times as wide."""
    rows = "".join(f"64,{kind},5,1.2,1,200,1000,given\n" for kind in ("ngram", "mtp"))
    look_up, other = points(rows, tmp_path)
    served = [serve(point, base()) for point in (look_up, other)]
    wide, narrow = (float(loop.parts["token"].finish_s.max()) for loop in reversed(served))
    assert look_up.averages is not None
    tokens = 1 + look_up.averages.looked_up * 5
    assert narrow / wide == pytest.approx(tokens / 6, rel=0.15)


def test_a_timed_step_drafts_as_its_policy_says(tmp_path: Path) -> None:
    """At 64 users a policy that is off above 8 is a step without drafts; the same as fixed:5 below."""
    file = tmp_path / "steps.csv"
    rows = ['8,eagle3,"k_by_batch:8=5/256=0"', "8,eagle3,fixed:5", '64,eagle3,"k_by_batch:8=5/256=0"', "64,eagle3,fixed:5"]
    head = "concurrency,drafter,policy,drafted_tokens,accepted_length,step_ms\n"
    file.write_text(head + "".join(f"{row},5,2.6,9\n" for row in rows) + "64,none,,,,9\n")
    few, fixed_few, off, on, _ = (timed(point, base()) for point in read_measured(file).points)
    assert few.seconds == fixed_few.seconds
    assert off.seconds["draft"] + off.seconds["draft_pass"] < 1e-12
    assert sum(off.seconds.values()) < 0.7 * sum(on.seconds.values())


def test_a_step_that_was_timed_is_no_loop(tmp_path: Path) -> None:
    file = tmp_path / "steps.csv"
    file.write_text("concurrency,context,step_ms\n1,1000,9.0\n64,1000,12.5\n")
    rows = read_measured(file).points
    found = Posterior.of(rows, [base()])
    assert not any(isinstance(loop, Served) for loop in found.best.loops.values())
    for residual in found.best.residuals:
        told = found.forecast(residual.point, "step_ms")
        assert told.value == pytest.approx(residual.measured, rel=0.05)


def test_a_finite_client_drains(tmp_path: Path) -> None:
    """Thirty requests of sixteen users: the last wave is short, so throughput is below that without end."""
    rows = points("16,none,0,,64,100,1,given\n", tmp_path)
    endless, finite = (serve(replace(rows[0], requests=count), base()) for count in (None, 18))
    ones = dict.fromkeys(TERMS, 1.0)
    assert finite.value("output_tok_s", ones, 1) < 0.75 * endless.value("output_tok_s", ones, 1)
    assert finite.value("tpot_ms", ones, 1) < endless.value("tpot_ms", ones, 1)
    assert endless.value("output_tok_s_per_gpu", ones, 2) == pytest.approx(endless.value("output_tok_s", ones, 2) / 2)


@pytest.mark.parametrize(("rate", "kind"), [(2, "none,0,"), (25, "none,0,"), (25, "dspark,5,3.1"), (45, "dspark,5,3.1")])
def test_arrivals_are_a_queue_that_shares_the_server(rate: float, kind: str, tmp_path: Path) -> None:
    """What a token takes, from closed loops and a queueing law, is what simulated arrivals come to."""
    file = tmp_path / "open.csv"
    file.write_text(
        HEAD.replace("concurrency", "rate").replace("output_tok_s", "tpot_mean_ms") + f"{rate},{kind},200,150,,predict\n"
    )
    [point] = read_measured(file).points
    factors = drawn(1)
    loop = opened(point, base(launched=False))
    setup = Setup(
        load=Arrivals(rate), policy=point.policy, profile=with_factors(base(launched=False), factors), seed=7,
        seconds=240 + 4000 / rate, prompt_tokens=200, output_tokens=150, limits=EngineLimits(request_cap=1024), ramp=0.25,
    )  # fmt: skip
    found = simulate(setup, recorded_of(point))
    assert loop.value("tpot_mean_ms", factors, 1) == pytest.approx(1e3 * found.means["tpot"], rel=0.08)
    assert loop.value("output_tok_s", factors, 1) == pytest.approx(found.throughput.value, rel=0.08)


def test_arrivals_at_constant_rates_of_service_are_known_in_closed_form() -> None:
    """As many answers a second whoever is there: M/M/1 shared, where who comes is one of n with (1 − ρ) ρⁿ⁻¹."""
    ones = dict.fromkeys(TERMS, 1.0)

    class Steady:
        def __init__(self, users: int) -> None:
            self.users = users

        def value(self, metric: str, factors: Factors, gpus: int) -> float:
            return 100.0 if metric == "output_tok_s" else float(self.users)

    users = tuple(2**i for i in range(11))
    loops: Any = tuple(Steady(n) for n in users)
    for rho in (0.1, 0.5, 0.9):
        queue = Open(10 * rho, 10, users, loops)
        assert queue.running(ones) == pytest.approx(1 / (1 - rho), rel=1e-6)
        assert queue.value("tpot_mean_ms", ones, 1) == pytest.approx(1 / (1 - rho), rel=1e-6)
    assert Open(11.0, 10, users, loops).running(ones) == 1024


def test_users_in_step_are_counted_in_whole_waves(tmp_path: Path) -> None:
    """Of an endless load without prompts to speak of: as many tokens a step as there are users."""
    [point] = points("48,none,0,,1,100,1,given\n", tmp_path)
    ones: dict[str, float] = dict.fromkeys(TERMS, 1.0)
    loops = [serve(point, replace(base(launched=False), answers=answers)) for answers in (0.0, 0.5)]
    even, varied = (loop.value("output_tok_s", ones, 1) for loop in loops)
    assert even == pytest.approx(varied, rel=0.03)


def test_one_simulation_serves_every_profile(tmp_path: Path) -> None:
    """Steps summed up afterwards take what the engine takes that is given their times, to the last digits."""
    [point] = points("9,eagle3,3,2.5,2000,60,1,given\n", tmp_path)
    recorded, limits = recorded_of(point), EngineLimits(request_cap=9, step_tokens=512)
    profile = replace(PROFILE, variety_s=1e-4, overhead_s_per_prompt=2e-4)
    asked = np.zeros(60, REQUEST)
    asked["response"], asked["prompt_tokens"] = np.arange(60) % 5, 500 + 31 * np.arange(60)
    asked["output_tokens"] = 20 + np.arange(60) % 7
    for padded in (False, True):
        cost = cost_of(replace(profile, padded=padded), point.policy, recorded.trace, 9, 512)
        rows: list[Any] = []
        simulator = Simulator(
            recorded, point.policy.bind(cost), cost, limits, 400_000, iter([asked.copy()]), users=9, seed=0,
            on_rows=lambda some, rows=rows: rows.append(some.copy()),
        )  # fmt: skip
        simulator.run_until(np.inf)
        simulator.flush()
        done = np.concatenate(rows)
        done = done[np.argsort(done["request"])]
        walk = stepped(recorded, point.policy.bind(cost), asked, 9, limits, 400_000, 0).walk(cost)
        np.testing.assert_allclose(walk.finish_s, done["finish_s"], rtol=1e-9)
        np.testing.assert_allclose(walk.first_s, done["first_s"], rtol=1e-9)
