"""Profiles fitted to measurements: sums that are exact, planted profiles found again, files that are read or refused."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.hardware import calibration
from harness.hardware.acceptance import acceptance_in
from harness.hardware.calibration import LEAST_NOISE, simulated
from harness.hardware.discrepancy import ALL, DRAFTING, EACH, LOAD, OWN, Left, Place, shared
from harness.hardware.forecast import crossovers, crowded, overloads, predictions, winners
from harness.hardware.loops import ACCEPTED, Open, Served, acceptance_of, opened, recorded_of, serve, texts_of, timed
from harness.hardware.measured import MeasuredPoint, base_profile, losing, read_measured
from harness.hardware.posterior import Posterior, errors_of, next_measurement
from harness.hardware.steps import stepped
from harness.hardware.terms import EAGER_TOKENS, PROMPT_SHARE, TERMS, Base, Factors, TermName, with_factors
from simulator.averages import Averages, trace_of
from simulator.engine.state import REQUEST
from simulator.errors import InputError
from simulator.hardware.catalogue import Asked, find_profile
from simulator.hardware.cost import StepLoad, rates
from simulator.hardware.graphs import captured_sizes
from simulator.hardware.profile import dump_profile, parse_profile
from simulator.hardware.whatif import perturbed
from simulator.load import Arrivals, Users
from simulator.plain import cost_of
from simulator.policies import PolicySpec
from simulator.setup import EngineLimits, Setup
from simulator.simulation import Simulator, simulate
from tests.harness.processes import called

PROFILE = find_profile("h100/qwen3-4b")
DRAFTED = "concurrency,drafter,drafted_tokens,policy,accepted_length,output_tok_s\n"
HEAD = "concurrency,drafter,drafted_tokens,accepted_length,prompt_tokens,output_tokens,output_tok_s,role\n"
LINE = [1, 8, 32, 64, 128]


def base(launched: bool = True) -> Base:
    return Base.of(PROFILE if launched else replace(PROFILE, launches=None), 512)


def drawn(seed: int) -> dict[TermName, float]:
    """Factors as the priors have them, not far out."""
    rng = np.random.default_rng(seed)
    return {name: float(np.exp(0.7 * term.spread * rng.standard_normal())) for name, term in TERMS.items()}


def points(rows: str, tmp_path: Path) -> tuple[MeasuredPoint, ...]:
    file = tmp_path / "measured.csv"
    file.write_text(HEAD + rows)
    return read_measured(file).points


def truth(point: MeasuredPoint, factors: Factors) -> float:
    """Tokens a second by a long simulation of the whole profile: another client, other lengths, another seed."""
    assert isinstance(point.load, Users)
    setup = Setup(
        load=point.load, policy=point.policy, profile=with_factors(base(), factors), seed=7, seconds=300,
        prompt_tokens=point.prompt_tokens, output_tokens=point.output_tokens,
        limits=EngineLimits(request_cap=point.load.users), ramp=0.25,
    )  # fmt: skip
    return simulate(setup, recorded_of(point)).throughput.value


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
    whole = serve(point, made).times(dict.fromkeys(TERMS, 1.0) | {"token": 0.0, "root": 0.0, "draft_pass": 0.0} | alone)  # type: ignore[arg-type]
    np.testing.assert_allclose(parts.finish_s, whole.finish_s, rtol=1e-6)
    np.testing.assert_allclose(parts.first_s, whole.first_s, rtol=1e-6)


@pytest.mark.parametrize("rate", rates("host", "target"))
def test_every_rate_is_moved_by_one_term_and_lost_by_none(rate: str) -> None:
    own = 3e-7 if rate == "logits_s_per_token" else 3e-4  # which is a part of a pass
    made = replace(PROFILE, **{rate: own})
    parts = [getattr(Base.of(made, 512).parts[name], rate) for name in TERMS]
    assert sum(value == own for value in parts) == 1
    doubled = with_factors(Base.of(made, 512), dict.fromkeys(TERMS, 2.0))
    assert getattr(doubled, rate) == pytest.approx(2 * own)


def test_launching_is_a_floor_outside_of_captured_sizes() -> None:
    """288 kernels of 60 µs are 17.3 ms, whatever else a pass of 600 tokens takes but for its logits; 512 are captured."""
    profile = with_factors(
        base(), dict.fromkeys(TERMS, 1.0) | dict.fromkeys(("token", "root", "draft_pass", "eager_token"), 1e-9)
    )
    assert profile.eager is not None
    assert base().launch_s == pytest.approx(288 * 60e-6)
    cost = profile.cost("none", 0, 16, 8192)
    assert cost.verify_s[600] == pytest.approx(288 * 60e-6 + 600 * PROFILE.logits_s_per_token, rel=1e-6)
    assert cost.verify_s[512] == pytest.approx(float(PROFILE.verify.at([512])[0]), rel=1e-6)
    assert cost.verify_s[8000] == pytest.approx(float(PROFILE.verify.at([8000])[0]), rel=1e-6)
    sizes = captured_sizes(512)
    assert (sizes[0], sizes[-1], len(sizes)) == (1, 512, 51)  # vLLM's


def test_decoding_tokens_outside_of_captured_sizes_and_prompts_inside_cost_more() -> None:
    """0.02 ms a decoding token for 104 ms of launching, prompts' tokens none; a prompt inside a quarter of launching."""
    profile = with_factors(base(), dict.fromkeys(TERMS, 1.0) | {"token": 1e-9, "root": 1e-9, "draft_pass": 1e-9})
    launch_s, plain = 288 * 60e-6, replace(PROFILE, launches=None).cost("none", 0, 1024, 8192)
    cost = profile.cost("none", 0, 1024, 8192)

    def more(decoding: int, prompt: int) -> float:
        load = StepLoad(decoding, prefilling=1, finishing_prefill=1, prefill_tokens=prompt, prefill_pairs=1)
        load = load if prompt else StepLoad(decoding)
        return cost.target(load, 0) - plain.target(load, 0)

    assert more(512, 0) == pytest.approx(0, abs=1e-8)
    logits_s = 600 * PROFILE.logits_s_per_token
    assert cost.verify_s[600] == pytest.approx(launch_s * (1 + 600 / EAGER_TOKENS) + logits_s, rel=1e-6)
    assert more(100, 400) == pytest.approx(PROMPT_SHARE * launch_s, rel=1e-6)
    assert more(200, 8000 - 200) == pytest.approx(200 * launch_s / EAGER_TOKENS, rel=1e-6)
    again = parse_profile(dump_profile(profile))
    assert again == profile
    assert again.eager_s_per_token == pytest.approx(launch_s / EAGER_TOKENS)
    with pytest.raises(ValueError, match="captured_tokens"):
        replace(profile, captured_tokens=())


def test_different_texts_cost_more_by_the_root_of_their_number() -> None:
    """One text adds nothing, 16 three times as much as 4, whatever is drafted of them; a profile without is written as it
    always was."""
    profile = replace(PROFILE, variety_s=0.5e-3)
    for texts, more_s in ((1, 0.0), (4, 0.5e-3), (16, 1.5e-3)):
        for drafted in (0, texts * 7):
            cost, plain = (p.cost("none", 0, 16, 8192) for p in (profile, PROFILE))
            load = StepLoad(texts)
            assert cost.seconds(load, 0, drafted) - plain.seconds(load, 0, drafted) == pytest.approx(more_s)
    assert parse_profile(dump_profile(profile)) == profile
    assert "variety_s" not in dump_profile(PROFILE)


def test_texts_that_differ_commit_as_many_tokens_a_round() -> None:
    """Rounds pooled, as engines report it: 1,000 tokens of each text are as many rounds as of 3 tokens each."""
    averages = Averages.of_accepted_length(3.0, 5)
    levels = texts_of(averages)
    assert 5 * 1000 / sum(1000 / level.accepted_length for level in levels) == pytest.approx(3.0)
    odds = [level.conditional[0] / (1 - level.conditional[0]) for level in levels]
    assert odds[-1] / odds[0] == pytest.approx(np.exp(2.8 * 0.5))
    assert texts_of(Averages((1.0, 1.0))) == [Averages((1.0, 1.0))]


def test_a_fitted_profile_is_a_base_again() -> None:
    """What it says of launching, of tokens outside and of prompts inside of captured sizes is read back."""
    factors = drawn(2) | {"root": 1e-9, "token": 1e-9}
    factors["growth"] = factors["target"]
    fitted_to = base()
    again = Base.of(with_factors(fitted_to, factors), 512)
    units, before = again.units, fitted_to.units
    for name in ("launch", "eager_token", "prompt"):
        assert units[name] == pytest.approx(factors[name] * before[name], rel=0.05), (
            name
        )  # a pass there is no pass over one token
    assert again.captured == 512


def test_caches_are_averaged_where_the_rows_contexts_are(tmp_path: Path) -> None:
    rows = points("1,none,0,,7000,2000,50,given", tmp_path)
    assert base_profile("h100/gemma-4-12b", Asked(), rows) == find_profile("h100/gemma-4-12b", Asked(mean_context=8000))
    assert base_profile("h100/qwen3-8b", Asked(), rows) == find_profile("h100/qwen3-8b")
    (tmp_path / "mine.json").write_text(dump_profile(find_profile("h100/gemma-4-12b")))
    assert base_profile(str(tmp_path / "mine.json"), Asked(), rows).mean_context_tokens == 2048  # nobody can say otherwise


def test_steps_are_no_speeds(tmp_path: Path) -> None:
    """A step with drafts is longer, and the more tokens come of it: no winner is told of steps alone."""
    file = tmp_path / "steps.csv"
    head = HEAD.replace("output_tok_s", "step_ms,context")
    file.write_text(head + "8,none,0,,512,256,5,1024,given\n8,eagle3,3,2.5,512,256,7,1024,given\n")
    rows = read_measured(file).points
    found = Posterior.of(rows, [base()])
    assert winners(found, rows) == []
    assert crossovers(found, rows) == []


def test_schedulers_believe_what_engines_time() -> None:
    """Passes without prompts are timed at start-up; what prompts make of the others nobody foresees."""
    profile = with_factors(base(), dict.fromkeys(TERMS, 1.0))
    cost = profile.cost("eagle3", 3, 64, 8192)
    policy = PolicySpec("prefix_scheduler").bind(cost)
    assert cost.eager_s_per_token > 0
    assert policy.cost.eager_s_per_token == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(6))
def test_a_planted_profile_is_found_again(seed: int, tmp_path: Path) -> None:
    """From a line without speculation and two points with it: the rest to 8.5 % on average, and inside the intervals."""
    factors = drawn(seed)
    asked = [f"{users},eagle3,5,2.9,512,200,,predict" for users in (4, 16, 32, 128)]
    bare = [f"{users},none,0,,512,200,1,given" for users in LINE] + [f"{u},eagle3,5,2.9,512,200,1,given" for u in (1, 64)]
    rows = points("\n".join([*bare, *asked]), tmp_path)
    noise = np.random.default_rng(seed)
    known = {p.line: truth(p, factors) for p in rows}
    rows = tuple(
        replace(p, values={"output_tok_s": known[p.line] * np.exp(0.02 * noise.standard_normal())} if p.given else {})
        for p in rows
    )
    found = Posterior.of(rows, [base()])
    told = predictions(found, rows)
    assert np.mean([abs(one.forecast.value / known[one.point.line] - 1) for one in told]) < 0.085
    assert all(one.forecast.low < known[one.point.line] < one.forecast.high for one in told)
    best = {b.load: b for b in winners(found, rows)}
    for users in (1, 64, 128):
        none, drafted = (
            next(known[p.line] for p in rows if p.load == Users(users) and p.kind == k) for k in ("none", "eagle3")
        )
        if abs(drafted / none - 1) > 0.05:
            chosen = best[Users(users).label]
            in_doubt = chosen.gain is not None and chosen.gain.low < 0 < chosen.gain.high
            assert in_doubt or chosen.name == ("none" if none > drafted else "eagle3 fixed:5")


class Planted:
    """Measurements of servers whose profiles and whatever else their steps take are drawn as is believed beforehand: each
    point is simulated once, whoever serves it."""

    def __init__(self, rows: Sequence[MeasuredPoint], monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows, self.base = rows, base()
        self.loops = {point.line: serve(point, self.base) for point in rows}
        monkeypatch.setattr(calibration, "loop_of", lambda point, base, kept=None: self.loops[point.line])

    def measured(self, seed: int) -> tuple[dict[TermName, float], dict[int, float], Posterior]:
        """(factors, what each row would be measured at without noise, what is believed of the given ones)."""
        rng = np.random.default_rng([seed, 5])
        factors = {n: float(np.exp(self.base.spread(n) * rng.standard_normal())) for n in self.base.terms}
        places = [calibration.place_of(point, self.loops[point.line]) for point in self.rows]
        smooth = np.exp(rng.multivariate_normal(np.zeros(len(places)), shared(places, places)))
        truth = {
            p.line: self.loops[p.line].value("output_tok_s", dict.fromkeys(TERMS, 1.0) | factors, 1) * float(more)
            for p, more in zip(self.rows, smooth, strict=True)
        }
        noise = {line: float(np.exp(LEAST_NOISE * rng.standard_normal())) for line in truth}
        seen = {line: value * noise[line] for line, value in truth.items()}
        given = tuple(replace(p, values={"output_tok_s": seen[p.line]} if p.given else {}) for p in self.rows)
        return factors, seen, Posterior.of(given, [self.base])

    def at_base(self, point: MeasuredPoint) -> float:
        """What the base makes of a point."""
        return self.loops[point.line].value("output_tok_s", dict.fromkeys(TERMS, 1.0), 1)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """A line without speculation, three points with it, and three in between and beyond that are asked for."""
    told = [f"{users},none,0,,512,200,1,given" for users in LINE]
    told += [f"{users},eagle3,5,2.9,512,200,1,given" for users in (1, 32, 128)]
    told += [f"{users},eagle3,5,2.9,512,200,,predict" for users in (8, 64, 256)]
    return Planted(points("\n".join(told), tmp_path), monkeypatch)


@pytest.mark.slow
def test_intervals_hold_what_they_say(planted: Planted) -> None:
    """Over forty planted profiles: of values and of factors, 95 in 100 lie inside."""
    values, terms = [], []
    for seed in range(40):
        factors, seen, found = planted.measured(seed)
        for point in planted.rows:
            if not point.given:
                told = found.forecast(point, "output_tok_s")
                values.append(told.low < seen[point.line] < told.high)
        best = found.best
        terms += [abs(np.log(factors[n] / best.factors[n])) < 1.96 * best.spread(n) for n in best.base.terms]
    assert 0.89 < np.mean(values) < 0.99  # 120 of them
    assert 0.90 < np.mean(terms) < 0.99  # 520, of which a server's hang together


@pytest.mark.slow
def test_between_measured_loads_nothing_is_lost_to_interpolation(planted: Planted) -> None:
    """Rows between given ones, over forty planted profiles: no worse than what is between the ratios of measured to base,
    or between the ratios of a drafter to none."""
    ours, of_base, of_none = [], [], []
    given = {p.load.users: p for p in planted.rows if p.gamma and p.given}
    plain = {p.load.users: p for p in planted.rows if not p.gamma}
    for seed in range(40):
        _, seen, found = planted.measured(seed)
        for point in planted.rows:
            users = point.load.users
            if point.given or users is None or users > 128:
                continue
            loads = np.log(list(given))
            over_base = [np.log(seen[p.line] / planted.at_base(p)) for p in given.values()]
            over_none = [np.log(seen[p.line] / seen[plain[u].line]) for u, p in given.items()]
            known = np.log(seen[point.line])
            ours.append(np.log(found.forecast(point, "output_tok_s").value) - known)
            of_base.append(np.log(planted.at_base(point)) + np.interp(np.log(users), loads, over_base) - known)
            of_none.append(np.log(seen[plain[users].line]) + np.interp(np.log(users), loads, over_none) - known)
    errors = [float(np.abs(one).mean()) for one in (ours, of_base, of_none)]
    assert errors[0] < min(errors[1:])


def fitted(tmp_path: Path) -> tuple[Posterior, tuple[MeasuredPoint, ...]]:
    rows = [
        f"{users},none,0,,512,200,{value},given" for users, value in zip(LINE, (150, 1100, 3600, 6000, 9000), strict=True)
    ]
    rows += ["1,eagle3,3,2.6,512,200,280,given", "64,eagle3,3,2.6,512,200,,predict", "128,eagle3,3,2.6,512,200,8000,predict"]
    made = points("\n".join(rows), tmp_path)
    return Posterior.of(made, [base()]), made


def test_the_next_measurement_narrows_what_it_says_it_does(tmp_path: Path) -> None:
    """The point is measured as predicted: the gain's interval is then as wide as was foreseen."""
    found, rows = fitted(tmp_path)
    suggested = next_measurement(found, rows)
    assert suggested is not None
    assert suggested.point.kind == "eagle3"
    assert suggested.after < suggested.before
    value = found.forecast(suggested.point, "output_tok_s").value
    more = tuple(
        replace(p, values={"output_tok_s": value}, given=True) if p.line == suggested.point.line else p for p in rows
    )
    again = next_measurement(Posterior.of(more, [base()]), rows)
    assert again is not None
    assert again.before == pytest.approx(suggested.after, rel=0.15)


def test_what_was_measured_and_not_given_is_the_check(tmp_path: Path) -> None:
    found, rows = fitted(tmp_path)
    one, other = predictions(found, rows)
    assert (one.measured, one.error, one.inside) == (None, None, None)
    assert other.measured == 8000
    assert other.error == pytest.approx(other.forecast.value / 8000 - 1)
    [crossed] = crossovers(found, rows)
    assert crossed.measured is None  # at 64 users nobody measured
    best = {b.load: b for b in winners(found, rows)}
    assert set(best) == {"1 user", "64 users", "128 users"}
    assert best["1 user"].regret == 0
    assert best["1 user"].measured == pytest.approx(280 / 150 - 1)
    assert best["64 users"].regret is None


def test_terms_nobody_measured_stay_as_unsure_as_they_were(tmp_path: Path) -> None:
    rows = points("\n".join(f"{u},none,0,,512,200,{100 * u},given" for u in (1, 8)), tmp_path)
    found = Posterior.of(rows, [base()])
    assert {"draft", "draft_pass", "launch"} <= set(found.best.untold())
    assert found.best.spread("draft") == pytest.approx(TERMS["draft"].spread, rel=1e-3)


def test_a_fitted_profile_knows_the_step_better_than_its_parts(tmp_path: Path) -> None:
    """One user's speed is of host work and a pass together: which of them, it does not say. Draws keep the sum."""
    rows = points("1,none,0,,512,200,150,given\n", tmp_path)
    found = Posterior.of(rows, [base()])
    profile = replace(found.best.profile, errors=errors_of(found))
    assert profile.errors is not None
    assert profile.errors.correlation[1] < -0.3
    rng = np.random.default_rng(0)
    apart = replace(profile, errors=replace(profile.errors, correlation=(0.0, 0.0, 0.0)))
    spread = {
        name: float(
            np.std([np.log(perturbed(p, rng)[0].cost("none", 0, 1, 64).seconds(StepLoad(1), 0, 0)) for _ in range(300)])
        )
        for name, p in (("together", profile), ("apart", apart))
    }
    assert spread["together"] < 0.7 * spread["apart"]
    assert spread["together"] < 0.1


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


def test_a_benchs_own_table_is_read(tmp_path: Path) -> None:
    """What `vllm bench serve` writes: totals and other throughputs are left out, an endless rate is a closed loop's."""
    file, said = tmp_path / "bench.csv", list[str]()
    file.write_text(
        "max_concurrency,request_rate,num_prompts,total_input_tokens,total_output_tokens,request_throughput,"
        "output_throughput,median_tpot_ms,p99_tpot_ms,std_tpot_ms,drafter\n16,inf,64,32768,16384,2.5,640,22.5,30.1,2.0,none\n"
    )
    [point] = read_measured(file, said.append).points
    assert (point.load.users, point.values) == (16, {"output_tok_s": 640, "tpot_ms": 22.5})
    assert "total_output_tokens" in said[0]


def test_a_step_that_was_timed_is_no_loop(tmp_path: Path) -> None:
    file = tmp_path / "steps.csv"
    file.write_text("concurrency,context,step_ms\n1,1000,9.0\n64,1000,12.5\n")
    rows = read_measured(file).points
    found = Posterior.of(rows, [base()])
    assert not any(isinstance(loop, Served) for loop in found.best.loops.values())
    for residual in found.best.residuals:
        told = found.forecast(residual.point, "step_ms")
        assert told.value == pytest.approx(residual.measured, rel=0.05)


def test_an_acceptance_nobody_knows_is_found_too(tmp_path: Path) -> None:
    """α = 0.8 behind two points, where the profile is right: found to within 0.05, and other loads as they come out."""
    ones = dict.fromkeys(TERMS, 1.0) | {"token": 1e-6, "root": 1e-6, "draft_pass": 1e-6}
    told = "".join(f"{users},eagle3,3,2.952,512,200,1,given\n" for users in (1, 16, 64))
    bare = "".join(f"{users},none,0,,512,200,1,given\n" for users in LINE)
    rows = [replace(p, values={"output_tok_s": truth(p, ones)}) for p in points(bare + told, tmp_path)]
    hidden = [replace(p, averages=None, given=p.load != Users(16)) if p.gamma else p for p in rows]
    found = Posterior.of(hidden, [base()])
    odds = ACCEPTED / (1 - ACCEPTED) * found.best.factors[acceptance_of("eagle3")]
    assert odds / (1 + odds) == pytest.approx(0.8, abs=0.05)
    assert found.best.spread(acceptance_of("eagle3")) < 0.7 * found.best.prior(acceptance_of("eagle3"))
    [one] = predictions(found, hidden)
    assert one.inside
    assert one.error == pytest.approx(0, abs=0.08)


def test_a_finite_client_drains(tmp_path: Path) -> None:
    """Thirty requests of sixteen users: the last wave is short, so throughput is below that without end."""
    rows = points("16,none,0,,64,100,1,given\n", tmp_path)
    endless, finite = (serve(replace(rows[0], requests=count), base()) for count in (None, 18))
    ones = dict.fromkeys(TERMS, 1.0)
    assert finite.value("output_tok_s", ones, 1) < 0.75 * endless.value("output_tok_s", ones, 1)
    assert finite.value("tpot_ms", ones, 1) < endless.value("tpot_ms", ones, 1)
    assert endless.value("output_tok_s_per_gpu", ones, 2) == pytest.approx(endless.value("output_tok_s", ones, 2) / 2)


@pytest.mark.parametrize(("rate", "kind"), [(2, "none,0,"), (25, "none,0,"), (25, "dspark,5,3.1"), (60, "dspark,5,3.1")])
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
    assert loop.value("tpot_mean_ms", factors, 1) == pytest.approx(1e3 * found.means["tpot"], rel=0.05)
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


def test_acceptance_of_a_run(tmp_path: Path) -> None:
    """A recording made of known averages has them, as far as its noise says; rows that say their own keep it."""
    known = Averages((0.7, 0.5, 0.3, 0.2))
    trace = trace_of("eagle3", {"all": known}, np.random.default_rng(5), responses=200, tokens=300, prompt_tokens=20)
    for gamma in (2, 4):
        found = acceptance_in(trace, gamma)
        length = Averages(known.survival[:gamma]).accepted_length
        assert 0 < found.half_width < 0.1
        assert found.averages.accepted_length == pytest.approx(length, abs=1.5 * found.half_width)
        assert found.averages.survival == pytest.approx(known.survival[:gamma], abs=0.02)


def test_a_run_says_what_rows_do_not(tmp_path: Path) -> None:
    runner, out = CliRunner(), ["--out", str(tmp_path / "runs")]
    made = ["synthesize", "--survival", ".7,.5,.3", "--drafter", "eagle3", "--target", "mine"]
    assert runner.invoke(app, [*made, *out]).exit_code == 0
    file = tmp_path / "measured.csv"
    rows = "1,none,0,,512,256,110,given\n64,none,0,,512,256,4000,given\n64,eagle3,3,,512,256,,predict\n"
    file.write_text(HEAD + rows)
    command = ["predict", str(file), "--base", "h100/qwen3-4b", *out, "--run", "latest"]
    told = runner.invoke(app, command)
    assert told.exit_code == 0, told.output
    assert "acceptance of eagle3" not in told.output
    file.write_text(HEAD + rows.replace("eagle3,3", "dspark,3"))
    refused = runner.invoke(app, command)
    assert (refused.exit_code, "line 4: dspark drafts 3 tokens" in refused.output.replace("\n", " ")) == (2, True)
    file.write_text(HEAD + rows.replace("eagle3,3,,", "eagle3,3,2.5,"))
    refused = runner.invoke(app, command)
    assert (refused.exit_code, "every row that drafts says" in refused.output.replace("\n", " ")) == (2, True)


def test_what_is_far_from_what_was_given_is_less_sure(tmp_path: Path) -> None:
    """A row of one user with a drafter says little of a hundred."""
    found, rows = fitted(tmp_path)
    widths = {p.load: found.forecast(p, "output_tok_s") for p in rows if p.kind == "eagle3"}
    wide = {load: np.log(one.high / one.low) / (2 * 1.96) for load, one in widths.items()}
    assert wide[Users(128)] > wide[Users(64)] > 2 * wide[Users(1)]


def test_what_is_left_is_told_of_near_rows() -> None:
    """At a given place all but the noise of it; half a doubling away most; of nothing that drafts, or of
    drafts outside of captured sizes, only what all share."""
    here, near, plain = Place(3.0, "eagle3 fixed:3"), Place(3.5, "eagle3 fixed:3"), Place(3.0, "none")
    left = Left.of([here], np.array([0.1]), noise=0.01)
    smooth = ALL**2 + DRAFTING**2 + OWN**2
    whole = smooth + LOAD**2 + EACH**2
    assert left.at(here) == pytest.approx(0.1 * whole / (whole + 0.01**2))
    assert left.at(near) == pytest.approx(left.at(here) * (smooth * np.exp(-0.1) + (LOAD**2 + EACH**2) * np.exp(-1)) / whole)
    assert left.at(plain) == pytest.approx(left.at(here) * (ALL**2 + LOAD**2) / whole)
    assert left.at(here._replace(outside=1.0)) == pytest.approx(left.at(plain))
    assert np.linalg.eigvalsh(shared([here, near, plain], [here, near, plain])).min() > 0


def test_a_size_that_nobody_says_is_found_of_a_cliff(tmp_path: Path) -> None:
    """An engine whose graphs end at 512 tokens, measured at 128 users of 8: not one that captures all."""
    truth_of = Base.of(PROFILE, 512)
    told = "".join(f"{users},none,0,,200,200,1,given\n{users},dspark,7,3.0,200,200,1,given\n" for users in (4, 32, 128))
    rows = points(told, tmp_path)
    ones = dict.fromkeys(TERMS, 1.0) | {"launch": 4.0}
    known = [replace(p, values={"output_tok_s": serve(p, truth_of).value("output_tok_s", ones, 1)}) for p in rows]
    found = Posterior.of(known, Base.several(PROFILE, None))
    assert sum(found.captured.values()) == pytest.approx(1)
    assert found.captured[512] > 0.6
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
        assert weight > 0.95 if one_by_one else weight < 0.05


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


def test_users_in_step_are_counted_in_whole_waves(tmp_path: Path) -> None:
    """Of an endless load without prompts to speak of: as many tokens a step as there are users."""
    [point] = points("48,none,0,,1,100,1,given\n", tmp_path)
    ones: dict[str, float] = dict.fromkeys(TERMS, 1.0)
    loops = [serve(point, replace(base(launched=False), answers=answers)) for answers in (0.0, 0.5)]
    even, varied = (loop.value("output_tok_s", ones, 1) for loop in loops)
    assert even == pytest.approx(varied, rel=0.03)


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


def test_rows_of_another_machine_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2: output_tok_s 1e\+09 is far from"):
        Posterior.of(points("1,none,0,,512,200,1e9,given\n", tmp_path), [base()])


@pytest.mark.parametrize("users", [2049, 5000])
def test_many_users_and_requests(users: int, tmp_path: Path) -> None:
    [point] = points(f"{users},none,0,,20,4,,predict\n", tmp_path)
    ones = dict.fromkeys(TERMS, 1.0)
    assert serve(point, base()).value("output_tok_s", ones, 1) > 1000
    assert serve(replace(point, load=Users(8), requests=9000), base()).value("output_tok_s", ones, 1) > 100


def test_only_rows_of_one_traffic_are_compared(tmp_path: Path) -> None:
    told = "".join(f"{u},none,0,,512,256,{75 * u},given\n{u},eagle3,3,2.5,4096,32,,predict\n" for u in (8, 16))
    rows = points(told, tmp_path)
    found = Posterior.of(rows, [base()])
    assert winners(found, rows) == []
    assert crossovers(found, rows) == []
    assert next_measurement(found, rows) is None


@pytest.mark.parametrize("sent", [(1,), (1, 10)])
def test_benches_send_more_requests_the_more_users(sent: tuple[int, ...], tmp_path: Path) -> None:
    """Loads are one series however many requests were sent at each; of loads that were sent twice each is its own."""
    rows = [
        f"{users},{drafts},512,256,{tok_s},{n * users * 5},{role}\n"
        for n in sent for users in (8, 16, 64)
        for drafts, tok_s, role in (("none,0,", 75 * users, "given"), ("eagle3,3,2.5", "", "predict"))
    ]  # fmt: skip
    file = tmp_path / "bench.csv"
    file.write_text(HEAD.replace("output_tok_s", "output_tok_s,requests") + "".join(rows))
    read = read_measured(file).points
    found = Posterior.of(read, [base()])
    series, best = crossovers(found, read), winners(found, read)
    assert len(best) == 3 * len(sent)
    doubtful = [b.load for b in best if b.gain is not None and b.gain.low < 0 < b.gain.high]
    if len(sent) == 1:
        [crossed] = series
        assert [f"{users} users" for users in crossed.doubtful] == doubtful
    else:
        assert series == []  # no two loads were sent as many


def test_users_that_do_not_fit_are_named(tmp_path: Path) -> None:
    told = "".join(f"{u},none,0,,4000,500,{40 * u},given\n" for u in (1, 8)) + "4000,none,0,,4000,500,,predict\n"
    rows = points(told, tmp_path)
    [named] = crowded(Posterior.of(rows, [base()]), rows)
    assert (named.point.load.users, named.tokens) == (4_000, 4_000 * 4250)
    assert named.room < named.tokens


def test_a_file_as_people_write_it(tmp_path: Path) -> None:
    file = tmp_path / "as written.csv"
    file.write_bytes(
        b'\xef\xbb\xbf# to 1,024\r\nConcurrency , "Drafter",drafted_tokens, survival,output_tok_s,role,\r\n'
        b'1,NONE,,,100,Given,\r\n,,,\r\n8,eagle3,3,"0.7, 0.5,  0.3",,,,\r\n'
    )
    one, other = read_measured(file).points
    assert (one.kind, one.given, other.given) == ("none", True, False)
    assert other.averages is not None
    assert other.averages.survival == (0.7, 0.5, 0.3)


@pytest.mark.parametrize(
    "text",
    [
        "Max-Concurrency;TPOT (ms);date;method;num_speculative_tokens;Survival\n16;12,5;May;eagle3;3;0,72 0,53 0,38\n",
        "tpot_ms [ms]\tusers\tsurvival\tdrafter\n12.5\t16\t.72 .53 .38\teagle3\n",
        "users,drafter,policy,survival,tpot_ms\n16,eagle3,fixed:3,.72 .53 .38,12.5\n16,eagle3,fixed:3,.72 .53 .38,12.5\n",
    ],
)
def test_files_of_other_hands_say_the_same(text: str, tmp_path: Path) -> None:
    file, told = tmp_path / "m.csv", list[str]()
    file.write_text(text)
    [one] = read_measured(file, told.append).points
    assert (one.load, one.kind, one.policy, one.gamma, one.given) == (Users(16), "eagle3", PolicySpec.fixed(3), 3, True)
    assert one.values == {"tpot_ms": 12.5}
    assert one.averages is not None
    assert one.averages.survival == (0.72, 0.53, 0.38)
    assert len(told) == ("date" in text) + ("fixed" in text) + 2  # no lengths


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        ("987.5\t12,345", (987.5, 12345)),
        ("987,5\t12.345", (987.5, 12345)),
        ("987,5;1.234", (987.5, 1234)),
        ("12,345.6\t2,000", (12345.6, 2000)),
        ("1,234,567\t2,000", (1234567, 2000)),
        ("0,125;12", (0.125, 12)),
        ("1.234,12", (1.234, 12)),
        ('"1,234.5",12', (1234.5, 12)),
    ],
)
def test_marks_of_numbers_are_told_by_the_whole_file(cells: str, values: tuple[float, float], tmp_path: Path) -> None:
    """Thousands that are set apart must not be read as a thousandth of what was measured."""
    file, apart = tmp_path / "m.csv", next(mark for mark in "\t;," if mark in cells)
    one, other = next(csv.reader([cells], delimiter=apart))
    rows = [["users", "output_tok_s"], ["1", one], ["64", other]]
    with file.open("w", newline="") as out:
        csv.writer(out, delimiter=apart).writerows(rows)
    assert tuple(point.values["output_tok_s"] for point in read_measured(file).points) == values


def test_equal_rows_of_two_runs_are_two_measurements(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text("users,output_tok_s,run\n8,12.3,run1\n8,12.3,run2\n8,12.3,run2\n")
    assert len(read_measured(file).points) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows"),
        ("users\toutput_tok_s\n1\t987\n64\t12,345\n", "12,345 may be a thousand times as much"),
        ("users;output_tok_s\n1;98.7\n64;12,5\n", "some numbers have decimal points, and some decimal commas"),
        (HEAD, "has no rows"),
        ("concurency,drafter\n1,none\n", "no column 'concurency' is read; did you mean concurrency"),
        ("concurrency,TPOT (s)\n1,5\n", "'TPOT \\(s\\)' is in s; tpot_ms is in ms"),
        ("users,concurrency,output_tok_s\n1,1,5\n", "'concurrency' is there twice"),
        ("concurrency,concurrency\n1,1\n", "is there twice"),
        ("drafter,output_tok_s\nnone,1\n", "a column concurrency, or rate, is needed"),
        (HEAD + "0,none,0,,1,1,5,given\n", "line 2: concurrency must be from 1"),
        (HEAD + ",none,0,,1,1,5,given\n", "line 2: needs a concurrency or a rate"),
        (HEAD + "1,medusa,3,,1,1,5,given\n", "drafter 'medusa' is not one of"),
        (HEAD + "1,eagle3,,2,1,1,5,given\n", "drafted_tokens: how many"),
        (HEAD + "1,eagle3,3,5,1,1,5,given\n", "accepted_length: with γ = 3"),
        (HEAD + "1,none,0,2.0,1,1,5,given\n", "accepted_length: nothing drafts here"),
        (HEAD + "1,none,0,,1,1,nan,given\n", "a given row needs one of"),
        (HEAD + "1,none,0,,1,1,-5,given\n", "output_tok_s must be above 0"),
        (HEAD + "1,none,0,,1,1,,given\n", "a given row needs one of"),
        (HEAD + "1,none,0,,1,1,5,later\n", "role 'later' is not given or predict"),
        (HEAD + "1,none,0,,1,1,5,given,7\n", "has 9 cells under 8 heads"),
        (HEAD + "9999999,none,0,,1,1,5,given\n", "concurrency must be from 1 to 8,192"),
        ("concurrency\n1\n", "its head has no commas"),
        (DRAFTED + "64,eagle3,3,,2.1,2100\n64,eagle3,3,,2.9,2600\n", "lines 2 and 3: are of eagle3 fixed:3 at one load"),
        (DRAFTED + "16,eagle3,,cutoff:32,,5\n", "drafted_tokens: how many"),
        ("rate,drafter,policy,accepted_length,tpot_ms\n2,eagle3,k_by_batch:8=3/512=1,2.0,5\n", "give survival"),
        ("concurrency,output_tok_s,step_ms\n8,5,9\n", "give the step a row of its own"),
        ("rate,step_ms\n8,9\n", "step_ms: is of so many requests"),
        ("rate,output_tok_s\n8,900\n", "output_tok_s: is what arrives"),
        ("rate,num_prompts,output_tok_s\ninf,500,900\n", "concurrency is how many"),
        ("users;output_tok_s\n1;987\n64;12.345\n", "12.345 may be a thousand times as much"),
        ("# captured sizes to 99999999999\n" + HEAD + "1,none,0,,1,1,5,given\n", "captured sizes to 99999999999: must be"),
        ("concurrency,requests,output_tok_s\n8,4,5\n", "requests 4 are fewer than the users"),
        ("concurrency,context,output_tok_s\n8,400,5\n", "context: says something of a step_ms"),
        ("concurrency,output_tokens,tpot_ms\n8,1,5\n", "output_tokens 1: between"),
        ("concurrency,drafter,drafted_tokens,policy,output_tok_s\n8,eagle3,3,fixed:5,5\n", "verifies 5 tokens where 3"),
        ("concurrency,drafter,survival,accepted_length,output_tok_s\n8,eagle3,.5 .2 .1,3.4,5\n", "differ"),
        ("concurrency,drafter,survival,output_tok_s\n8,eagle3,.5 .7,5\n", "survival: position 2 .* more often"),
        (
            "concurrency,drafter,drafted_tokens,policy,output_tok_s\n8,eagle3,3,k_by_batch:16=3;64=1,5\n",
            "is no row REQUESTS=K",
        ),
    ],
)
def test_wrong_files_name_line_column_and_fix(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=said) as raised:
        read_measured(file)
    assert "\n" not in str(raised.value)


def test_of_a_table_accepted_tokens_are_of_as_many_as_it_drafts_there(tmp_path: Path) -> None:
    """At 64 users 1.7 tokens of 1 drafted one are 0.7 of it; so as if the row said 1 and nothing of a table."""
    table = "k_by_batch:8=7/32=3/512=1"
    rows = f"64,eagle3,,{table},1.7,1\n64,eagle3,1,,1.7,1\n32,eagle3,,{table},2.6,1\n32,eagle3,3,,2.6,1\n"
    (tmp_path / "m.csv").write_text(DRAFTED + rows)
    given = [point.averages for point in read_measured(tmp_path / "m.csv").points]
    assert all(given)
    whole = [one.conditional[0] for one in given if one is not None]
    assert whole[::2] == pytest.approx(whole[1::2])
    assert [one.gamma for one in given if one is not None] == [7, 1, 7, 3]


def test_acceptance_that_other_lines_say_is_taken_of_them(tmp_path: Path) -> None:
    told = list[str]()
    rows = "1,none,,,,1\n4,eagle3,3,,2.9,1\n64,eagle3,3,,2.5,1\n128,eagle3,3,,,\n128,eagle3,5,,,\n"
    (tmp_path / "m.csv").write_text(DRAFTED + rows)
    *_, near, other = read_measured(tmp_path / "m.csv", told.append).points
    assert near.averages is not None
    assert near.averages.accepted_length == pytest.approx(2.5)
    assert other.averages is None
    assert any("lines 5 say" in line or "lines 5 " in line for line in told)


def test_a_drafter_that_idles_is_no_drafter_unless_there_are_lines_without(tmp_path: Path) -> None:
    told = list[str]()
    (tmp_path / "m.csv").write_text(DRAFTED + "64,eagle3,0,,1.0,1800\n64,none,0,,,2010\n8,eagle3,0,,,300\n")
    found = read_measured(tmp_path / "m.csv", told.append).points
    assert [point.values["output_tok_s"] for point in found] == [2010, 300]
    assert any("left out" in line for line in told)


def test_cells_as_spreadsheets_and_frames_write_them(tmp_path: Path) -> None:
    """A file for Excel, in UTF-16; counts as floats; means of lengths; cells that say there is no number."""
    text = "sep=;\nmax_concurrency;method;num_speculative_tokens;mean_acceptance_length;input_len;output_len;output_tok_s\n"
    text += "1.0;none;0.0;N/A;211.7;99.5;44.5\n64.0;eagle3;3.0;2.63;211.7;99.5;OOM\n"
    (tmp_path / "m.csv").write_text(text, encoding="utf-16")
    one, other = read_measured(tmp_path / "m.csv").points
    assert (one.load, one.prompt_tokens, one.output_tokens, one.values) == (Users(1), 212, 100, {"output_tok_s": 44.5})
    assert (other.gamma, other.given, other.values) == (3, False, {})


def test_a_benchs_requests_beside_a_rate_are_not_read(tmp_path: Path) -> None:
    told = list[str]()
    (tmp_path / "m.csv").write_text("request_rate,num_prompts,tpot_mean_ms,output_tok_s\n4,500,24,1024\n")
    [point] = read_measured(tmp_path / "m.csv", told.append).points
    assert (point.requests, point.values) == (None, {"tpot_mean_ms": 24})
    assert sum("rate" in line for line in told) == 2


def test_the_same_measurement_in_two_columns_is_one(tmp_path: Path) -> None:
    """Intervals are as wide as with one, or nearly; of another number of GPUs it is a mistake."""
    rows = (
        "1,none,0,,44.6,{}",
        "64,none,0,,2010,{}",
        "64,eagle3,3,2.63,2390,{}",
        "128,none,0,,,{}",
        "128,eagle3,3,2.63,,{}",
    )
    head = "concurrency,drafter,drafted_tokens,accepted_length,output_tok_s,"
    times = ["22.4", "31.8", "26.8", "", ""]

    def widths(column: str, values: Sequence[str]) -> list[float]:
        table = "\n".join(row.format(value) for row, value in zip(rows, values, strict=True))
        (tmp_path / "m.csv").write_text(f"{head}{column}\n{table}\n")
        read = read_measured(tmp_path / "m.csv").points
        told = predictions(Posterior.of(read, [base()]), read)
        return [float(np.log(one.forecast.high / one.forecast.low)) for one in told]

    alone = widths("tpot_mean_ms", [""] * 5)
    assert widths("output_tok_s_per_gpu", ["44.6", "2010", "2390", "", ""]) == pytest.approx(alone)
    assert widths("tpot_mean_ms", times) > [0.85 * width for width in alone]
    with pytest.raises(InputError, match="of no whole number of GPUs"):
        widths("output_tok_s_per_gpu", ["60", "2010", "2390", "", ""])


def test_more_than_can_be_answered_has_no_times(tmp_path: Path) -> None:
    """And no winner; what can be answered is said."""
    (tmp_path / "m.csv").write_text("rate,drafter,drafted_tokens,accepted_length,tpot_mean_ms\n2,none,0,,24\n400,none,0,,\n")
    rows = read_measured(tmp_path / "m.csv").points
    found = Posterior.of(rows, [base()])
    assert predictions(found, rows) == []
    [over] = overloads(found, rows)
    assert 2 < over.most_per_s < 400


def test_captured_sizes_are_read_from_a_line_for_people(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text("﻿# device: one L40S; vLLM, captured sizes to 1024\n" + HEAD + "1,none,0,,1,1,5,given\n")
    assert read_measured(file).captured == 1024


def test_a_server_that_verifies_trees_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    file = tmp_path / "measured.csv"
    file.write_text("# sglang --speculative-eagle-topk 8 --speculative-num-steps 5\nconcurrency,output_tok_s\n1,100\n")
    read_measured(file, told.append)
    assert any("speculative_eagle_topk 8" in line and "tree" in line for line in told)
    told.clear()
    file.write_text("# sglang --speculative-eagle-topk 1\nconcurrency,output_tok_s\n1,100\n")
    read_measured(file, told.append)
    assert not any("tree" in line for line in told)


def test_predictions_tell_what_drafting_would_lose_what_stands_alone_and_what_to_measure_next(tmp_path: Path) -> None:
    file = tmp_path / "bench.csv"
    given = "".join(f"{users},none,0,,512,256,{75 * users},given\n" for users in (1, 8))
    asked = "256,none,0,,512,256,,predict\n256,eagle3,7,1.1,512,256,,predict\n16,eagle3,7,1.1,512,256,,predict\n"
    file.write_text(HEAD + given + asked)
    done = called("predict", str(file), "--base", "h100/qwen3-4b")
    assert done.returncode == 0, done.stderr
    [row] = [line for line in done.stdout.splitlines() if line.strip().startswith("256 users  ") and "%" in line]
    gain = re.search(r"none +([+-]\d+)% \(([+-]\d+)% to ([+-]\d+)%\)", row)
    assert gain is not None, row
    low, value, high = (int(gain[i]) for i in (2, 1, 3))
    assert low <= value <= high < 0  # of the drafter, though none is the best
    assert "nothing to compare with at 16 users (eagle3" in " ".join(done.stdout.split())
    assert "measure next: " in done.stdout
