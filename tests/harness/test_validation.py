"""Validation: fair halves of prompts, replicas that ask what the live engine asks, errors, and one small run for real."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pytest
from typer.testing import CliRunner

from drafters.serving import StepRecord
from harness.cli.app import app
from harness.cli.validate import print_validation
from harness.sweeps.sensitivity import CHANGES, CLEAR, judge
from harness.validation.plan import LivePoint, ValidationPlan, choose_points
from harness.validation.points import first_limits, split_prompts, step_errors, turns
from harness.validation.replicas import Replicas
from results.figures.validation import QUANTITIES
from simulator.configuration import System
from simulator.errors import InputError
from simulator.hardware.cost import Longest, StepLoad
from simulator.hardware.profile import Curve, DraftCurve, Profile
from simulator.hardware.whatif import accepting, confident, slower
from simulator.load import Users
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import NO_RECORDING, Anchors, Recording
from simulator.simulation import prepare
from simulator.traces import Trace, TracedResponse
from tests.documented import differences


def some_trace(alpha: float = 0.6, gamma: int = 3, responses: int = 12, tokens: int = 60) -> Trace:
    rng = np.random.default_rng(1)
    parts = []
    for i in range(responses):
        coins = rng.random((tokens, gamma)) < alpha
        anchors = Anchors(
            np.full(tokens, gamma, np.uint8), coins.cumprod(1).sum(1).astype(np.uint8),
            np.full((tokens, gamma), alpha, np.float32), np.full((tokens, gamma), 0.5, np.float32),
        )  # fmt: skip
        parts.append((TracedResponse(f"task{i % 3}", "math", f"task{i % 3}/{i}", 0, 20), anchors))
    return Trace.join("dspark", parts)


def some_profile(**changes: Any) -> Profile:
    settings: dict[str, Any] = {
        "name": "test/test", "device": "d", "model": "m", "source": "user", "provenance": {}, "kv_capacity_tokens": 10**6,
        "verify": Curve((1, 100), (1e-3, 2e-3)), "overhead_s": 1e-4, "overhead_s_per_prompt": 3e-4,
        "context_s_per_token": 1e-7,
        "draft": {"dspark": DraftCurve((3,), (Curve((1,), (5e-4,)),), True, 1e-8, 2e-6)},
        "context_by_width": Curve((1, 4), (1e-7, 4e-7)),
    }  # fmt: skip
    return Profile(**{**settings, **changes})


def test_halves_share_tasks_and_no_prompt() -> None:
    responses = [TracedResponse(f"t{i % 3}", "math", f"t{i % 3}/{i}", turn, 5) for i in range(30) for turn in (0, 1)]
    live, traced = split_prompts(responses, 0)
    assert not set(live) & set(traced)
    assert set(live) | set(traced) == {r.prompt_id for r in responses}
    assert Counter(p[:2] for p in live) == Counter(p[:2] for p in traced) == {"t0": 5, "t1": 5, "t2": 5}
    assert split_prompts(responses, 1) != (live, traced)
    with pytest.raises(InputError, match="task t9"):
        split_prompts([*responses, TracedResponse("t9", "math", "t9/0", 0, 5)], 0)


def test_tasks_and_prompts_take_turns() -> None:
    tasks = {"a": ["a1", "a2", "a3"], "b": ["b1"], "c": ["c1", "c2"]}
    some = list(islice(turns(tasks, np.random.default_rng(0)), 18))
    for i in range(0, 18, 3):
        assert {x[0] for x in some[i : i + 3]} == {"a", "b", "c"}
    assert Counter(some) == {"a1": 2, "a2": 2, "a3": 2, "b1": 6, "c1": 3, "c2": 3}
    limits = first_limits(1000, 48, 0)
    assert (limits.min(), limits.max()) == (1, 48)


@pytest.mark.parametrize("padded", [False, True])
def test_a_replica_comes_to_what_arithmetic_says(padded: bool) -> None:
    """One user, fixed:3, i.i.d. acceptance: τ = (1 − α⁴) / (1 − α), and steps of known length."""
    plan, trace = ValidationPlan(max_new_tokens=40), some_trace(responses=60)
    profile = some_profile(padded=padded, context_s_per_token=0.0, context_by_width=None)
    point = LivePoint(Recording("dspark", 3), PolicySpec.fixed(3), 1)
    replicas = Replicas(point, profile, profile, 30.0, 20, 3000, plan)
    found = replicas.run(prepare(trace), 0, redraw=True)
    tau = (1 - 0.6**4) / 0.4
    assert found.tau == pytest.approx(tau, rel=0.04)  # the length limit cuts last rounds
    assert found.budget == 4
    step_s = 1e-4 + 5e-4 + 1e-3 + 3 * 1e-3 / 99 + 1e-8 * 30
    assert found.tps == pytest.approx(tau / step_s, rel=0.04)
    prefill_s = 1e-4 + 3e-4 + 20 * 2e-6 + 1e-3 + 19 * 1e-3 / 99
    assert found.throughput == pytest.approx(40 / (prefill_s + 39 / tau * step_s), rel=0.04)


def test_padding_costs_what_the_longest_asks_for() -> None:
    cost = some_profile(padded=True).cost("dspark", 3, 8, 100)
    plain = some_profile().cost("dspark", 3, 8, 100)
    record = StepRecord(
        start_s=0, load=StepLoad(4, context_tokens=100), longest_context=40, drafted=3, verified=5, longest_verified=3,
        accepted=2, committed=6, emitted=6, draft_s=1.0, verify_s=1.0, prefill_s=0.0, overhead_s=1.0,
    )  # fmt: skip
    for some, tokens, context in ((cost, 16, 160), (plain, 9, 100)):
        verify_s = float(Curve((1, 100), (1e-3, 2e-3)).at(tokens)) + 1e-7 * context * tokens / 4
        errors = step_errors([record], some)
        assert errors["verify"] == pytest.approx(verify_s - 1)
        assert errors["draft"] == pytest.approx(5e-4 + 1e-8 * context - 1)
        assert errors["overhead"] == pytest.approx(1e-4 - 1)
        assert np.isnan(errors["prefill"])


def test_prompts_in_passes_of_their_own() -> None:
    cost = some_profile(padded=True, eager=Curve((1, 11), (1e-3, 2e-3))).cost("dspark", 3, 8, 100)
    load = StepLoad(0, prefilling=2, finishing_prefill=2, prefill_tokens=20, prefill_pairs=110)
    parts = cost.step(load, 3, 0, Longest(0, 0))
    assert parts.target_s == pytest.approx(1e-3 + 1e-3 + 20 * 1e-4 - 1e-4)
    assert parts.overhead_s == pytest.approx(1e-4 + 2 * 3e-4)
    assert parts.draft_s == pytest.approx(20 * 2e-6)


def test_a_point_draws_what_it_has_always_drawn() -> None:
    """Streams were seeded by this text when a point's policy was a text itself."""
    point = LivePoint(Recording("dspark", 3), PolicySpec.fixed(3), 4)
    text = "LivePoint(drafter='dspark', gamma=3, policy='fixed:3', confidences='none', users=4)"
    assert point.key == hashlib.sha256(text.encode()).digest()


def test_each_point_is_run_once_and_no_speculation_uses_no_drafter() -> None:
    recorded: Any = SimpleNamespace(keys=(Recording("dspark", 3), Recording("dspark", 7), Recording("mtp", 1)))
    fixed = PolicySpec.fixed(1)
    plan = ValidationPlan(concurrency=(4,), policies=(fixed, fixed, NO_DRAFTER))
    assert choose_points(plan, recorded) == [
        LivePoint(NO_RECORDING, NO_DRAFTER, 4), LivePoint(Recording("dspark", 7), fixed, 4),
        LivePoint(Recording("mtp", 1), fixed, 4),
    ]  # fmt: skip


def test_a_policy_runs_where_what_it_reads_is_known_or_it_is_said() -> None:
    """Under drafters without confidences it is left out, and refused where there are no others."""
    keys = (Recording("mtp", 1), Recording("ngram", 4))

    def shown(recording: Recording, policy: PolicySpec) -> Recording:
        if recording.drafter == "ngram":
            raise InputError(f"policy {policy}: needs confidences")
        return recording.showing("raw")

    recorded, said = SimpleNamespace(keys=keys, shown=shown), list[str]()
    reads = PolicySpec.parse("threshold:0.5")
    plan = ValidationPlan(concurrency=(4,), policies=(reads,), drafters=("mtp", "ngram"))
    assert choose_points(plan, recorded, said.append) == [LivePoint(keys[0].showing("raw"), reads, 4)]  # type: ignore[arg-type]
    assert len(said) == 1
    assert "ngram γ=4 threshold:0.5: left out" in said[0]
    for policies in ((reads,), (PolicySpec.fixed(1), reads)):
        with pytest.raises(InputError, match=r"policy threshold:0\.5: needs confidences"):
            choose_points(replace(plan, policies=policies, drafters=("ngram",)), recorded)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"policy oracle: .* cannot run live"):
        ValidationPlan(policies=(PolicySpec("oracle"),))


def test_plans_refuse_nonsense() -> None:
    for wrong in ({"time_limit_s": 0}, {"max_new_tokens": 1}, {"concurrency": ()}, {"concurrency": (0,)}, {"replicates": 1}):
        with pytest.raises(InputError):
            ValidationPlan(**wrong)  # type: ignore[arg-type]


def test_acceptance_off_by_a_factor_keeps_the_coins() -> None:
    trace = some_trace(alpha=0.6, tokens=2000)
    for factor in (0.7, 1.0, 1.3):
        other = accepting(trace, factor, 0)
        alpha = 0.6 * factor
        expected = sum(alpha**k for k in range(1, 4))
        assert other.anchors.accepted.mean() == pytest.approx(expected, abs=0.02)
        same = other.anchors.accepted == trace.anchors.accepted
        if factor == 1:
            assert same.all()
        better = other.anchors.accepted.astype(int) - trace.anchors.accepted
        assert (better <= 0).all() if factor <= 1 else (better >= 0).all()
    assert (confident(trace, 3.0).anchors.confidence == 1).all()  # type: ignore[union-attr]


def test_one_part_gets_slower_and_no_other() -> None:
    base = some_profile()
    load = StepLoad(4, prefilling=1, finishing_prefill=1, prefill_tokens=7, prefill_pairs=28, context_tokens=99)

    def parts(profile: Profile) -> tuple[float, float, float]:
        found = profile.cost("dspark", 3, 8, 100).step(load, 3, 6, Longest(3, 50))
        return found.overhead_s, found.draft_s, found.attention_s + found.target_s

    before = parts(base)
    for i, part in enumerate(("overhead", "draft", "verify")):
        after = parts(slower(base, part, 1.25))  # type: ignore[arg-type]
        assert after == pytest.approx([b * (1.25 if i == j else 1) for j, b in enumerate(before)])


def test_break_even_lies_between_what_was_looked_at() -> None:
    a, b, c = (System(Recording(name, 1), PolicySpec.fixed(1)) for name in "abc")
    values = {-0.2: {a: 10.0, b: 6.0}, 0.0: {a: 10.0, b: 9.0, c: 1.0}, 0.1: {a: 10.0, b: 10.5}, 0.3: {a: 7.0, b: 14.0}}
    found = judge(Users(4), "x", values)
    assert (found.winner, found.down, found.instead) == (a, None, b)
    assert found.margin == pytest.approx(1 / 9)
    lead, behind = 10 / 9 - 1 + CLEAR, 1 - CLEAR - 10 / 10.5
    assert found.up == pytest.approx(0.1 * lead / (lead + behind))
    assert [one.best for one in found.deviations] == [a, a, b, b]
    assert found.deviations[-1].loss == pytest.approx(0.5)
    assert judge(Users(4), "x", {0.0: {a: 2.0, b: 1.0}, 0.3: {a: 2.0, b: 1.0}}).up is None


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of the bundled pair."""
    out = tmp_path_factory.mktemp("runs")
    arguments = [
        "record",
        "math_code_chat",
        "--limit",
        "4",
        "--drafter",
        "dspark",
        "--drafter",
        "mtp",
        "--max-new-tokens",
        "16",
    ]
    result = CliRunner().invoke(app, [*arguments, "--actors", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.slow
@pytest.mark.ray
def test_validate_for_real(recorded: Path) -> None:
    command = [
        "validate",
        "--out",
        str(recorded),
        "--time-limit",
        "6",
        "--concurrency",
        "1,3",
        "--drafter",
        "dspark",
        "--drafter",
        "none",
    ]
    result = CliRunner().invoke(app, [*command, "--max-new-tokens", "12", "--json"])
    assert result.exit_code == 0, result.output
    assert differences(result.stdout) == []
    found = json.loads(result.stdout)
    rows = found["validation"]
    assert [(r["drafter"], r["policy"], r["users"]) for r in rows] == [
        (d, p, u) for d, p in (("none", "none"), ("dspark", "fixed:7"), ("dspark", "prefix_scheduler")) for u in (1, 3)
    ]
    for r in rows:
        assert not set(r["live_prompts"]) & set(r["trace_prompts"])
        assert 0.4 < r["simulated"]["throughput"] / r["measured"]["throughput"] < 2.5  # others use this machine
        assert r["measured"]["budget"] == (1 if r["drafter"] == "none" else r["measured"]["budget"])
        assert r["steps"] > 0
    assert set(found["errors"]) == {*QUANTITIES, "step"}
    with duckdb.connect(str(recorded / "specyard.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM validations").fetchone() == (6,)


@pytest.mark.slow
@pytest.mark.ray
def test_validate_with_a_given_profile_and_wrong_names(recorded: Path) -> None:
    common = ["validate", "--out", str(recorded), "--time-limit", "1", "--concurrency", "2"]
    result = CliRunner().invoke(app, [*common, "--hardware", "h100/qwen3-4b", "--drafter", "none", "--max-new-tokens", "8"])
    assert result.exit_code == 0, result.output
    assert "none" in result.stdout
    result = CliRunner().invoke(app, [*common, "--drafter", "nobody"])
    assert (result.exit_code, "nobody" in result.output) == (2, True)


def test_what_nobody_was_served_in_the_time_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a slow machine no answer of a user may lie within a second: then nothing is known of his speed."""
    figures = dict.fromkeys(QUANTITIES, 1.0)
    row = {"drafter": "none", "users": 2, "run_id": "a", "drafting": "sampled", "profile": "p", "live_prompts": [1]}
    row |= {"trace_prompts": [1], "simulated": figures, "measured": figures | {"tps": None}, "low": figures, "high": figures}
    known = {"mean_absolute": 0.0, "mean": 0.0, "worst": 0.0, "known": 0}
    told = [{"quantity": name, **known} for name in (*QUANTITIES, "step") if name != "tps"]
    monkeypatch.setattr("results.store.validations.Validations.rows", lambda *_: [row | {"step_errors": {"step": 0.1}}])
    monkeypatch.setattr("results.figures.validation.validated", lambda *_: None)
    monkeypatch.setattr("results.figures.validation.errors", lambda _: SimpleNamespace(to_dicts=lambda: told))
    store: Any = SimpleNamespace(reading=lambda: nullcontext())
    print_validation(store, "b", as_json=False)
    assert "--time-limit" in capsys.readouterr().out


@pytest.mark.ray
def test_sensitivity_command(recorded: Path) -> None:
    command = ["sensitivity", "--out", str(recorded), "--hardware", "h100/qwen3-4b", "--concurrency", "4", "--seconds", "1"]
    result = CliRunner().invoke(app, [*command, "--drafter", "dspark", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["sensitivities"]
    assert [t["what"] for t in found] == list(CHANGES)
    for t in found:
        assert len(t["deviations"]) == 7
        assert t["margin"] >= 0
        assert all(look["loss"] >= 0 for look in t["deviations"])
    with duckdb.connect(str(recorded / "specyard.duckdb"), read_only=True) as connection:
        stored = connection.execute("SELECT what, winner, down, seed, len(looks::JSON[]) FROM tolerances ORDER BY number")
        assert stored.fetchall() == [(t["what"], t["winner"], t["down"], 0, 7) for t in found]
    blind = CliRunner().invoke(app, [*command, "--drafter", "dspark", "--policy", "none,fixed:1", "--json"])
    assert [t["what"] for t in json.loads(blind.stdout)["sensitivities"]] == [
        what for what in CHANGES if what != "confidences"
    ]
    assert CliRunner().invoke(app, ["sensitivity", "--out", str(recorded)]).exit_code == 2


def test_a_cost_without_the_new_terms_is_what_it_was() -> None:
    """Bundled profiles name none of them: packed passes, nothing beyond what policies foresee."""
    cost = some_profile(overhead_s_per_prompt=0.0, context_by_width=None).cost("dspark", 3, 8, 100)
    terms = dict.fromkeys(("draft_prefill_s_per_token", "variety_s", "idle_share", "deciding_share"), 0.0)
    cost = replace(cost, **terms, padded=False, eager_s_per_token=0.0, captured=0)
    load = StepLoad(4, context_tokens=77)
    assert cost.step(load, 3, 5, Longest(3, 30)).seconds == pytest.approx(cost.seconds(load, 3, 5))
