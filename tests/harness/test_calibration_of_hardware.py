"""Profiles fitted to measurements: sums that are exact, planted profiles found again, files that are read or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.hardware import calibration
from harness.hardware.acceptance import acceptance_in
from harness.hardware.calibration import LEAST_NOISE
from harness.hardware.discrepancy import ALL, DRAFTING, EACH, LENGTH, LOAD, OWN, Left, Place, shared
from harness.hardware.forecast import crossovers, predictions, winners
from harness.hardware.left_behind import errors_of, left_behind
from harness.hardware.loops import ACCEPTED, acceptance_of, recorded_of, serve
from harness.hardware.measured import MeasuredPoint, base_profile, read_measured
from harness.hardware.posterior import Posterior, next_measurement
from harness.hardware.terms import EAGER_TOKENS, PROMPT_SHARE, TERMS, Base, Factors, TermName, with_factors
from simulator.averages import Averages, trace_of
from simulator.hardware.catalogue import Asked, find_profile
from simulator.hardware.cost import StepLoad, rates
from simulator.hardware.graphs import captured_sizes
from simulator.hardware.profile import Profile, dump_profile, parse_profile
from simulator.hardware.whatif import perturbed
from simulator.load import Users
from simulator.policies import PolicySpec
from simulator.setup import EngineLimits, Setup
from simulator.simulation import simulate

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
        base(),
        dict.fromkeys(TERMS, 1.0) | dict.fromkeys(("token", "root", "draft_pass", "draft_request", "eager_token"), 1e-9),
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
    profile = with_factors(
        base(), dict.fromkeys(TERMS, 1.0) | {"token": 1e-9, "root": 1e-9, "draft_pass": 1e-9, "draft_request": 1e-9}
    )
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
    """From a line without speculation and two points with it: the rest to 15 % on average at the worst, and inside the
    intervals: what drafts take at one user may be seen as acceptance, or as what is off there."""
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
    assert np.mean([abs(one.forecast.value / known[one.point.line] - 1) for one in told]) < 0.15
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
    told = {name: 1 - (found.best.spread(name) / found.best.prior(name)) ** 2 for name in found.best.names}
    assert set(found.best.untold()) == {name for name, share in told.items() if share < 0.1}, "as the table says it"


def gain_of(profile: Profile, drafting: MeasuredPoint, plain: MeasuredPoint) -> float:
    """What a long simulation of two rows gives."""
    drafted, without = (
        simulate(
            Setup(
                load=p.load, policy=p.policy, profile=profile, seed=7, seconds=300, prompt_tokens=512, output_tokens=256,
                limits=EngineLimits(request_cap=128), ramp=0.25,
            ), recorded_of(p),
        ).throughput.value
        for p in (drafting, plain)
    )  # fmt: skip
    return drafted / without - 1


@pytest.mark.parametrize(("kind", "share"), [("eagle3", 0.7), ("eagle3", 0.8), ("ngram", 0.7)])
def test_what_is_written_gains_what_was_measured(kind: str, share: float, tmp_path: Path) -> None:
    """Drafting at 64 users gives a share of what any factors explain: the profile says of it what a prediction does, of a
    drafter without times of its own too."""
    ones, rows = dict.fromkeys(TERMS, 1.0), ""
    for users, drafter in [(u, "none,0,") for u in LINE] + [(u, f"{kind},3,2.6") for u in (1, 64)]:
        [point] = points(f"{users},{drafter},512,256,,predict\n", tmp_path)
        value = serve(point, base()).value("output_tok_s", ones, 1) * (share if kind in drafter and users == 64 else 1)
        rows += f"{users},{drafter},512,256,{value},given\n"
    told = points(rows, tmp_path)
    found = Posterior.of(told, [base()])
    pair = [next(p for p in told if p.load.users == 64 and p.kind == one) for one in (kind, "none")]
    drafted, plain = (found.best.loops[one.line].value("output_tok_s", found.best.factors, 1) for one in pair)
    left = found.gain(*pair).value - (drafted / plain - 1)
    assert left < -0.05
    put = gain_of(left_behind(found), *pair) - gain_of(found.best.profile, *pair)
    assert put == pytest.approx(left, abs=0.02 if kind != "ngram" else 0.025)  # steps with more or fewer drafts differ


def test_each_request_that_drafts_takes_its_time() -> None:
    """So many seconds for each, however many tokens it drafts, in one pass or one after another; none without drafts."""
    ones, twice = dict.fromkeys(TERMS, 1.0), dict.fromkeys(TERMS, 1.0) | {"draft_request": 2.0}
    few, many = (StepLoad(n, context_tokens=200 * n) for n in (1, 64))
    for kind, k in (("eagle3", 3), ("eagle3", 1), ("dspark", 5), ("none", 0)):
        more = [
            with_factors(base(), twice).cost(kind, k, 64, 512).seconds(load, k, 0)
            - with_factors(base(), ones).cost(kind, k, 64, 512).seconds(load, k, 0)
            for load in (few, many)
        ]
        unit = base().units["draft_request"] * (kind != "none")
        assert more == pytest.approx([unit, 64 * unit], abs=1e-9)


def test_texts_make_no_difference_to_a_model_without_experts() -> None:
    """It reads the same weights whatever they are: growth of its line is of tokens and requests."""
    dense, experts = (Base.of(find_profile(f"h100/{model}"), 512) for model in ("qwen3-8b", "deepseek-v4-flash"))
    assert dense.units["variety"] < 0.01 * dense.parts["target"].verify.at([1])[0]
    assert experts.units["variety"] == pytest.approx(0.1 * experts.parts["target"].verify.at([1])[0])


def test_a_drafter_that_was_measured_takes_time() -> None:
    """N-grams are free by a roofline, and their proposals are not."""
    free, measured = (Base.several(find_profile("h100/qwen3-8b"), 512, drafting=it)[0] for it in ((), ("ngram",)))
    assert "ngram" not in free.profile.draft
    [cost] = [measured.parts["draft_request"].cost("ngram", 3, 8, 32).seconds(StepLoad(8), 3, 0)]
    assert cost == pytest.approx(8 * measured.units["draft_request"], rel=1e-3)


def test_a_fitted_profile_knows_the_step_better_than_its_parts(tmp_path: Path) -> None:
    """One user's speed is of host work and a pass together: which of them, it does not say. Draws keep the sum."""
    rows = points("1,none,0,,512,200,150,given\n", tmp_path)
    found = Posterior.of(rows, [base()])
    profile = replace(found.best.profile, errors=errors_of(found, found.best.profile))
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


def test_an_acceptance_nobody_knows_is_found_too(tmp_path: Path) -> None:
    """α = 0.8 behind two points, where the profile is right: found as surely as is said, and other loads too."""
    ones = dict.fromkeys(TERMS, 1.0) | {"token": 1e-6, "root": 1e-6, "draft_pass": 1e-6, "draft_request": 1e-6}
    told = "".join(f"{users},eagle3,3,2.952,512,200,1,given\n" for users in (1, 16, 64))
    bare = "".join(f"{users},none,0,,512,200,1,given\n" for users in LINE)
    rows = [replace(p, values={"output_tok_s": truth(p, ones)}) for p in points(bare + told, tmp_path)]
    hidden = [replace(p, averages=None, given=p.load != Users(16)) if p.gamma else p for p in rows]
    found = Posterior.of(hidden, [base()])
    name = acceptance_of("eagle3")
    odds = ACCEPTED / (1 - ACCEPTED) * found.best.factors[name]
    assert odds / (1 + odds) == pytest.approx(0.8, abs=0.1)
    assert abs(np.log(odds / 4)) < found.best.spread(name) < 0.8 * found.best.prior(name)
    [one] = predictions(found, hidden)
    assert one.inside
    assert one.error == pytest.approx(0, abs=0.08)


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
    assert left.at(near) == pytest.approx(
        left.at(here) * (smooth * np.exp(-0.5 / LENGTH) + (LOAD**2 + EACH**2) * np.exp(-1)) / whole
    )
    assert left.at(plain) == pytest.approx(left.at(here) * (ALL**2 + LOAD**2) / whole)
    assert left.at(here._replace(outside=1.0)) == pytest.approx(left.at(plain))
    assert np.linalg.eigvalsh(shared([here, near, plain], [here, near, plain])).min() > 0
