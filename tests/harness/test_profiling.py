"""Profiling: the fit recovers what it was given, the grid is sound, a real profile agrees with live decoding."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from drafters.kinds.ngram import NGram
from drafters.target import Target
from harness.cli.profile import print_profile
from harness.console import Watcher
from harness.hardware.bench import BenchPoint
from harness.hardware.effort import Effort
from harness.hardware.fit import fit_costs, fit_line, host_seconds, predicted_seconds, prompt_seconds, rising
from harness.hardware.measure import ProfileQuality, grid, profile_architecture, profile_pair
from harness.hardware.timing import Timing
from simulator.errors import InputError
from simulator.hardware.profile import Profile, dump_profile, load_profile
from tests.documented import differences
from tests.drafters.conftest import micro_config

SILENT = Watcher(lambda text: None, lambda stage, done, total: None)
SMALL = Effort(time_limit_s=5, max_requests=4, context_tokens=128, memory_gb=1)


@pytest.fixture(scope="module")
def target() -> Target:
    return Target(Qwen3ForCausalLM(micro_config()))


@pytest.fixture(scope="module")
def measured() -> tuple[Profile, ProfileQuality]:
    return profile_pair("tiny", SMALL, SILENT)


def truth(point: BenchPoint) -> float:
    """A step whose law has the profile's own form."""
    if point.part == "target":
        return 3e-3 + 2e-5 * point.size + 4e-7 * point.requests * point.context
    if point.part == "prefill":
        return 2e-3 + 1e-5 * point.tokens + 6e-9 * (point.tokens * point.context + point.tokens * (point.tokens + 1) / 2)
    if point.part == "loop":
        return 1e-4 + 5e-6 * point.requests + 5e-5
    if point.part == "rule":
        return 5e-5
    passes = point.tokens if point.drafter == "eagle3" else 1
    return passes * (1e-3 + 1e-4 * point.requests + 2e-8 * point.requests * point.context)


def made_up(noise: float = 0.0, seed: int = 0) -> list[Timing]:
    random = np.random.Generator(np.random.Philox(seed))
    points = [BenchPoint("target", r, w, c) for r in (1, 2, 4, 8) for w in (1, 4, 8) for c in (16, 512)]
    points += [BenchPoint("prefill", 1, n, c) for n in (1, 64, 256) for c in (0, 512)]
    points += [
        BenchPoint("draft", r, g, c, d) for d in ("dspark", "eagle3") for g in (1, 7) for r in (1, 4) for c in (16, 512)
    ]
    points += [BenchPoint(part, r, 8, 0) for part in ("loop", "rule") for r in (1, 4, 8)]
    return [Timing(p, tuple(truth(p) * np.exp(noise * random.standard_normal(5)))) for p in points]


def test_the_fit_recovers_what_it_was_given() -> None:
    costs = fit_costs(made_up(), {"dspark": True, "eagle3": False})
    assert costs.context_s_per_token == pytest.approx(4e-7)
    assert costs.prefill_s_per_pair == pytest.approx(6e-9)
    assert (costs.overhead_s, costs.overhead_s_per_request) == (pytest.approx(1e-4), pytest.approx(5e-6))
    assert costs.verify.counts == (1, 2, 4, 8, 16, 32, 64)
    assert costs.verify.seconds == pytest.approx([3e-3 + 2e-5 * b for b in costs.verify.counts])
    assert costs.eager.seconds == pytest.approx([2e-3 + 1e-5 * n for n in costs.eager.counts])
    for name in ("dspark", "eagle3"):
        curve, passes = costs.draft[name], (1, 7 if name == "eagle3" else 1)
        assert curve.block == (name == "dspark")
        assert curve.context_s_per_token == pytest.approx(2e-8)
        for drafted, n in zip(curve.drafted, passes, strict=True):
            assert curve.at(drafted, 4) == pytest.approx(n * 1.4e-3)
    assert costs.smoothed == 0


def test_reading_a_context_may_depend_on_how_many_tokens_look_at_it() -> None:
    def seconds(point: BenchPoint) -> float:
        return 3e-3 + 2e-5 * point.size + 1e-7 * point.tokens * point.requests * point.context

    points = [BenchPoint("target", r, w, c) for r in (1, 2, 4) for w in (1, 2, 8) for c in (16, 512)]
    others = [t for t in made_up() if t.point.part != "target"]
    drafters = {"dspark": True, "eagle3": False}
    costs = fit_costs([*(Timing(p, (seconds(p),)) for p in points), *others], drafters)
    assert costs.context_by_width is not None
    assert costs.context_by_width.at([1, 2, 4, 8]) == pytest.approx([1e-7, 2e-7, 4e-7, 8e-7])
    assert costs.context_s_per_token == pytest.approx(1e-7)
    assert costs.verify.at(8) == pytest.approx(3e-3 + 2e-5 * 8)


def test_prompts_and_what_comes_with_them() -> None:
    reads = [Timing(BenchPoint("read", 1, n, 0, "dspark"), (n * 3e-6,)) for n in (64, 256)]
    others = [t for t in made_up() if t.point.drafter != "eagle3"]
    costs = fit_costs([*others, *reads], {"dspark": True})
    assert costs.draft["dspark"].prefill_s_per_token == pytest.approx(3e-6)
    alone = Timing(BenchPoint("prompt", 1, 64, 0, "dspark"), (5e-3,))
    admit = Timing(BenchPoint("admit", 4, 64, 512, "dspark"), (5.7e-3,))
    assert prompt_seconds([*others, *reads, alone, admit]) == pytest.approx(7e-4)
    assert prompt_seconds([*others, *reads, admit]) == 0


def test_a_profile_predicts_the_law_it_was_fitted_to() -> None:
    """Every kind of point, by the arithmetic that the simulator steps with."""
    drafters = {"dspark": True, "eagle3": False}
    costs = fit_costs(made_up(), drafters)
    found = costs.profile(name="cpu/x", device="x", model="x", source="measured", kv_capacity_tokens=1000)
    timed = [t.point for t in made_up() if t.point.part in ("target", "prefill", "draft")]
    assert [predicted_seconds(found, p) for p in timed] == pytest.approx([truth(p) for p in timed])
    assert {p.part for p in timed} == {"target", "prefill", "draft"}


def test_a_noisy_fit_is_near_and_its_curves_rise() -> None:
    costs = fit_costs(made_up(noise=0.15), {"dspark": True, "eagle3": False})
    assert costs.context_s_per_token == pytest.approx(4e-7, rel=0.5)
    for curve in (costs.verify, costs.eager, *(c for d in costs.draft.values() for c in d.requests)):
        assert all(a <= b for a, b in pairwise(curve.seconds))


def test_slopes_are_not_negative() -> None:
    shrinking = [Timing(BenchPoint("target", 1, 1, c), (s,)) for c, s in ((16, 2e-3), (512, 1e-3))]
    prompts = [Timing(BenchPoint("prefill", 1, 8, 0), (1e-3,))]
    loop = [Timing(BenchPoint("loop", r, 1, 0), (s,)) for r, s in ((1, 1e-4), (9, 1e-5))]
    rule = [Timing(BenchPoint("rule", r, 1, 0), (1e-6,)) for r in (1, 9)]
    costs = fit_costs([*shrinking, *prompts, *loop, *rule], {})
    assert (costs.context_s_per_token, costs.prefill_s_per_pair, costs.overhead_s_per_request) == (0, 0, 0)
    assert costs.overhead_s > 0
    assert fit_line([1, 2], [1e-3, 3e-3])[0] == 0


def test_rising_is_the_nearest() -> None:
    """Against the definition: max over starts of min over ends of the means between."""
    random = np.random.Generator(np.random.Philox(5))
    for _ in range(50):
        values, weights = random.random(7), random.integers(1, 4, 7)
        means = [[np.average(values[i : j + 1], weights=weights[i : j + 1]) for j in range(i, 7)] for i in range(7)]
        expected = [max(min(means[i][k - i :]) for i in range(k + 1)) for k in range(7)]
        assert rising(values, weights).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("effort", [Effort(), Effort(max_requests=5, context_tokens=3), Effort(context_tokens=10**6)])
def test_the_grid_fits_the_target_and_can_be_fitted(target: Target, effort: Effort) -> None:
    points = grid(target, {"ngram": {1: NGram(1), 7: NGram(7)}}, effort)
    assert len(set(points)) == len(points)
    assert all(p.context + p.tokens <= target.max_positions + 8 for p in points)
    assert all(p.requests <= (effort.max_requests or 64) and p.context >= (p.part in ("target", "draft")) for p in points)
    for part, tokens in (("target", set(range(1, 9))), ("draft", {1, 7})):
        assert {p.tokens for p in points if p.part == part} == tokens
    at_one = {p.context for p in points if (p.part, p.requests, p.tokens) == ("target", 1, 1)}
    assert len(at_one) == 2


@pytest.mark.slow
def test_a_real_profile_is_whole(measured: tuple[Profile, ProfileQuality], tmp_path: Path) -> None:
    profile, quality = measured
    file = tmp_path / "profile.json"
    file.write_text(dump_profile(profile))
    assert load_profile(file) == profile
    assert (profile.name, profile.model, profile.source) == ("cpu/tiny", "tiny", "measured")
    assert profile.kv_capacity_tokens == int(1e9 // (2 * 8 * 2 * 64 * 4))
    assert set(profile.draft) == {"dspark", "dflash", "eagle3", "mtp", "ngram"}
    assert {n for n, d in profile.draft.items() if not d.block} == {"eagle3", "mtp"}
    assert "torch" in profile.provenance["versions"]
    assert str(Path.cwd()) not in dump_profile(profile)
    assert profile.verify.at(32) > profile.verify.at(1) > 1e-4
    assert profile.overhead_s + profile.overhead_s_per_request > 0
    for drafter in profile.draft:
        assert profile.cost(drafter, 5, 4, 24).draft_s[5, 4] > 0
    assert quality.points > 50
    assert quality.errors["target"][0] < 0.5


def test_a_profile_and_its_quality_as_json(
    measured: tuple[Profile, ProfileQuality], capsys: pytest.CaptureFixture[str]
) -> None:
    print_profile(*measured, Path("tiny.json"), as_json=True)
    assert differences(capsys.readouterr().out) == []


def test_predicted_steps_are_near_live_decoding(measured: tuple[Profile, ProfileQuality]) -> None:
    """Loose: other programs share this machine. What it came to on a quiet one is in the profile's provenance."""
    _, quality = measured
    ratios = {name: live.predicted_s / live.measured_s for name, live in quality.live.items()}
    assert set(ratios) == {"none", "dspark", "dflash", "eagle3", "mtp", "ngram"}
    assert all(0.5 < ratio < 2 for ratio in ratios.values()), ratios


def test_an_architecture_with_random_weights(tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(micro_config(vocab_size=64).to_dict()))
    effort = Effort(time_limit_s=1, max_requests=2, context_tokens=32)
    threads = torch.get_num_threads()
    profile, quality = profile_architecture(
        str(folder), {"dspark": "dspark", "mtp": "mtp"}, effort, SILENT, device="cpu", dtype="float32"
    )
    assert torch.get_num_threads() == threads
    assert (profile.name, profile.model) == ("cpu/mini", "mini")
    assert profile.draft["dspark"].drafted == profile.draft["mtp"].drafted == (1, 7)
    assert set(quality.live) == {"none", "dspark", "mtp"}
    assert str(tmp_path) not in dump_profile(profile)
    assert predicted_seconds(profile, BenchPoint("loop", 1, 1, 0)) is None


def test_host_seconds_are_what_the_rule_leaves() -> None:
    timings = [Timing(BenchPoint(part, 2, 8, 0), (s,)) for part, s in (("loop", 3e-4), ("rule", 1e-4))]
    assert host_seconds(timings) == {2: pytest.approx(2e-4)}


def test_refusals() -> None:
    with pytest.raises(InputError, match="no bundled pair"):
        profile_pair("no-such-pair", SMALL, SILENT)
    with pytest.raises(InputError, match="eagle9"):
        profile_pair("tiny", SMALL, SILENT, drafters=["eagle9"])
    with pytest.raises(InputError, match="device"):
        profile_pair("tiny", SMALL, SILENT, device="no-such-device")
    with pytest.raises(InputError, match="--time-limit must be above 0"):
        Effort(time_limit_s=0)
    with pytest.raises(InputError, match="qwen3-8b"):
        profile_architecture("qwen3-99b", {}, SMALL, SILENT)
