"""vLLM as the engine: conversions and the fit without it; where it is installed, one small run of everything for real."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import harness.vllm.engine as engine
from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.kinds.learned import LearnedDrafter
from drafters.kinds.none import NoDrafter
from drafters.target import Target
from harness.cli.app import app
from harness.console import Watcher
from harness.parts import Parts
from harness.recording.pair import load_pair
from harness.recording.responses import GivenResponse
from harness.recording.suite import load_suite
from harness.validation.plan import ValidationPlan
from harness.vllm.checkpoints import convert, speculative
from harness.vllm.engine import EngineAnswer, EngineStep, StepLog
from harness.vllm.load import Loop, accepted_at, loop_figures
from harness.vllm.lookup import EarliestLookup
from harness.vllm.profile import FittedLoops, fit_profile, mean_step_error
from harness.vllm.speculative import check
from harness.vllm.validation import _WARM_UP_S, LoopBench, Method, closing_lines, fitted_users
from simulator.errors import InputError
from simulator.records import NO_RECORDING, Sampling
from simulator.serving.vllm import VLLM
from tests.documented import differences

PAIR = load_pair("tiny")
TEXT = torch.tensor([list(range(20, 44))])
with_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here (README, With vLLM)")


@pytest.fixture(scope="module")
def target() -> Target:
    torch.set_num_threads(1)
    return Target.load(PAIR.target)


def logits(source: str, target: Target) -> torch.Tensor:
    drafter = load_drafter(source, target)
    assert isinstance(drafter, LearnedDrafter)
    forced = torch.full((1, 1, drafter.gamma), 30)
    with torch.inference_mode():
        taps = target.read(TEXT, drafter.tap_layers).taps
        return drafter.teacher_forced(taps, TEXT, torch.tensor([[16]]), forced).logits


def test_dflash_becomes_a_dspark_that_drafts_the_same(target: Target, tmp_path: Path) -> None:
    assert convert(PAIR.drafters["dflash"], PAIR.target, tmp_path) == "dspark"
    config, tensors = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")
    assert (config["markov_rank"], config["enable_confidence_head"]) == (1, False)
    assert tensors["markov_head.markov_w1.weight"].shape == tensors["markov_head.markov_w2.weight"].shape == (4096, 1)
    assert torch.equal(tensors["lm_head.weight"].float(), target.lm_head.weight.data)
    assert torch.equal(tensors["embed_tokens.weight"].float(), target.embedding.weight.data)
    assert torch.equal(logits(str(tmp_path), target), logits(PAIR.drafters["dflash"], target))


def test_dspark_stays_what_it_is(target: Target, tmp_path: Path) -> None:
    assert convert(PAIR.drafters["dspark"], PAIR.target, tmp_path) == "dspark"
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["architectures"], config["markov_rank"]) == (["Qwen3DSparkModel"], 64)
    assert torch.equal(logits(str(tmp_path), target), logits(PAIR.drafters["dspark"], target))


def test_eagle3_is_described_as_vllm_reads_it(tmp_path: Path) -> None:
    drafter = {"kind": "eagle3", "gamma": 7, "checkpoint": PAIR.drafters["eagle3"]}
    found = speculative(drafter, PAIR.target, tmp_path, 0.0, "sampled")
    assert (found["method"], found["num_speculative_tokens"]) == ("eagle3", 7)
    assert "draft_sample_method" not in found
    folder = Path(found["model"])
    config = json.loads((folder / "config.json").read_text())
    expected = {
        "architectures": ["Eagle3Qwen3ForCausalLM"], "eagle_aux_hidden_state_layer_ids": [1, 3, 5, 7],
        "draft_vocab_size": 4096, "norm_before_residual": False, "norm_before_fc": False, "fc_norm": False,
        "norm_output": False,
    }  # fmt: skip
    assert {name: config[name] for name in expected} == expected
    ours, theirs = load_file(Path(PAIR.drafters["eagle3"]) / "model.safetensors"), load_file(folder / "model.safetensors")
    assert set(theirs) == {*ours, "embed_tokens.weight", "lm_head.weight"}
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert speculative(drafter, PAIR.target, tmp_path, 0.7, "sampled")["draft_sample_method"] == "probabilistic"
    assert speculative(drafter, PAIR.target, tmp_path, 0.7, "greedy")["draft_sample_method"] == "greedy"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("dspark", {"markov_head_type": "gated"}, "gated head"),
        ("eagle3", {"target_layer_ids": [0, 2, 4, 7]}, "last layer"),
        ("mtp", {}, "none of dense Qwen3"),
    ],
)
def test_what_vllm_lacks_is_said(kind: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    source, changed = Path(PAIR.drafters[kind]), tmp_path / "changed"
    changed.mkdir()
    config = json.loads((source / "config.json").read_text()) | changes
    tensors = load_file(source / "model.safetensors")
    if config.get("markov_head_type") == "gated":
        rank = config["markov_rank"]
        gate = {"weight": torch.zeros(rank, config["hidden_size"] + rank), "bias": torch.zeros(rank)}
        tensors |= {f"markov_head.gate_proj.{name}": value for name, value in gate.items()}
    save_file(tensors, changed / "model.safetensors")
    (changed / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        convert(str(changed), PAIR.target, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_lookup_takes_the_earliest_place() -> None:
    text = [1, 2, 9, 1, 2, 8, 5, 1, 2]
    assert EarliestLookup(3).drafts_along(text, len(text) - 1) == [[9, 1, 2]]
    assert EarliestLookup(3).drafts_along([5, 5, 5, 5], 3) == [[5]]  # the longest suffix, wherever it ends


def test_absence_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    for command in (["record", "math_code_chat"], ["validate"]):
        result = CliRunner().invoke(app, [*command, "--engine", "vllm", "--out", str(tmp_path)])
        assert result.exit_code == 2
        assert "vLLM is not installed" in result.output


def some_loop(users: int, step_s: Any, gamma: int = 0, steps: int = 200) -> Loop:
    """Steps whose seconds are given by (tokens, requests, prompts done)."""
    rng, found = np.random.default_rng(users), []
    for i in range(steps):
        prompts = int(rng.random() < 0.1)
        tokens, decoding = int(rng.integers(20, 60)) * prompts, users - prompts
        drafted = gamma * decoding
        seconds = step_s(tokens + decoding + drafted, users, prompts, decoding) if decoding else None
        found.append(
            EngineStep(i * 0.01, seconds, decoding, prompts, tokens, users + decoding, decoding, drafted, (decoding, 0))
        )
    answers = [EngineAnswer(30, tuple(range(11)), "length", 1.0, 1.001, 1.002, 1.002 + step_s(30, 1, 1, 0), 2.0)]
    return Loop(users, 2.0, tuple(found), tuple(answers), (0.002, 0.004), ((30, 1, step_s(30, 1, 1, 0)),))


def test_a_profile_is_found_again() -> None:
    """Steps made by a profile of known numbers."""

    def plain_s(tokens: int, requests: int, prompts: int, decoding: int) -> float:
        return 2e-3 + 2e-5 * tokens + 1e-4 * requests + 5e-4 * prompts

    def drafting_s(tokens: int, requests: int, prompts: int, decoding: int) -> float:
        return plain_s(tokens, requests, prompts, decoding) + (3e-3 + 1e-4 * decoding if decoding else 0.0)

    sizes = fitted_users((1, 2, 4, 8, 16, 32))
    assert sizes == [1, 3, 6, 12, 24, 48]
    assert (fitted_users((1,)), fitted_users((2, 3))) == ([1, 2], [1, 4])
    fitted = [
        FittedLoops("none", 0, tuple(some_loop(n, plain_s) for n in sizes)),
        FittedLoops("eagle3", 7, tuple(some_loop(n, drafting_s, 7) for n in sizes)),
    ]
    profile = fit_profile(fitted, "vllm/test", "cpu", "m", 10**6, {})
    assert abs(mean_step_error(profile, "none", 0, some_loop(16, plain_s))) < 0.002
    assert abs(mean_step_error(profile, "eagle3", 7, some_loop(16, drafting_s, 7))) < 0.01
    assert fitted[0].pause_s(2) == pytest.approx(0.003 + 0.001)


class Sliced(LoopBench):
    """Loops without an engine, interrupted before the slice of this number."""

    made, most_made = 0, 10**6

    async def _slice(self, engine: Any, which: str, users: int, number: int, seconds: float) -> Loop:
        if self.made == self.most_made:
            raise KeyboardInterrupt
        self.made += seconds != _WARM_UP_S
        return Loop(users, seconds, (EngineStep(1.0, None, 1, 0, 0, 1, 0, 0, ()),), (), (0.5,))


def test_a_validation_goes_on_with_the_slices_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("harness.vllm.validation.running", lambda *_, **__: nullcontext())
    monkeypatch.setattr("harness.vllm.validation.version", lambda: "no engine")
    monkeypatch.setattr("harness.vllm.validation.Bystanders", lambda: SimpleNamespace(share=lambda: 0.0))
    asked: Any = {"live": {"sums": [SimpleNamespace(ids=(1, 2))]}, "traced": {}}
    plan, target = ValidationPlan(concurrency=(1, 2), time_limit_s=60.0), cast(Target, None)

    def served(most_made: int) -> tuple[Sliced, Any]:
        bench = Sliced("a target", target, Sampling(), asked, plan)
        bench.most_made = most_made
        watcher = Watcher(lambda _: None, lambda *_: None)
        parts = Parts(tmp_path, "validation", "this one", watcher)
        return bench, asyncio.run(bench.serve([Method(NO_RECORDING, None)], watcher, parts))

    with pytest.raises(KeyboardInterrupt):
        served(3)
    bench, found = served(10**6)
    assert {key: [loop.users for loop in loops] for key, loops in found.items()} == {
        ("none", "live"): [1, 2], ("none", "traced"): [1, 3],
    }  # fmt: skip
    slices = sum(loop.slices for loops in found.values() for loop in loops)
    assert bench.made == slices - 3
    shutil.rmtree(tmp_path / "unfinished")
    assert served(10**6)[1] == found


def test_figures_of_a_loop() -> None:
    steps = tuple(EngineStep(0.1 * i, 0.1, 2, 0, 0, 6, 2, 14, (2, 1)) for i in range(18))
    answers = (EngineAnswer(30, tuple(range(11)), "length", 0.0, 0.0, 0.0, 0.5, 1.5),)
    loop = Loop(2, 2.0, steps, answers, ())
    found = loop_figures(loop)
    assert (found.throughput, found.tps) == pytest.approx((18 * 6 / 1.8, 10.0))
    assert (found.tau, found.budget) == (3.0, 8.0)
    assert accepted_at(loop) == [1.0, 0.5]
    row = {"drafter": "eagle3", "gamma": 2, "steps": 18, "users": 2, "step_errors": {"step": -0.1}}
    row |= {"measured": {"throughput": 100.0, "accepted_at": [1.0, 0.5]}}
    row |= {"simulated": {"throughput": 110.0, "accepted_at": [0.9, 0.4]}}
    left, kept = closing_lines([row])
    assert left.endswith("1.0%")  # 1.1 · 0.9 = 0.99
    assert kept.endswith("0.90 / 1.00  0.40 / 0.50")


def test_statistics_of_a_step() -> None:
    class Stats:
        def __init__(self, **fields: Any) -> None:
            self.__dict__.update(fields)

    log = StepLog()
    log.record(None, None)
    drafts = Stats(num_drafts=2, num_draft_tokens=14, num_accepted_tokens_per_pos=[2, 1])
    iteration = Stats(
        inter_token_latencies_iter=[0.01, 0.01],
        time_to_first_tokens_iter=[0.3],
        num_prompt_tokens=9,
        num_generation_tokens=6,
    )
    log.record(Stats(spec_decoding_stats=drafts), iteration)
    [step] = log.steps
    assert (step.seconds, step.decoding, step.prompts, step.prompt_tokens, step.emitted) == (0.01, 2, 1, 9, 6)
    assert (step.drafts, step.drafted, step.accepted_at) == (2, 14, (2, 1))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small greedy run of the bundled pair, its responses from vLLM."""
    out = tmp_path_factory.mktemp("runs")
    drafters = ["--drafter", "eagle3", "--drafter", "ngram", "--drafter", "dspark"]
    sampling = ["--temperature", "0", "--max-new-tokens", "32", "--limit", "6"]
    command = ["record", "math_code_chat", "--engine", "vllm", *drafters, *sampling, "--actors", "1", "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.ray
@with_vllm
def test_responses_of_vllm_are_those_of_our_own_loop(recorded: Path, target: Target) -> None:
    """Greedy: the same tokens, but for near ties that rounding flips; recording has checked every token besides."""
    [file] = (recorded / "responses").glob("vllm-math_code_chat-*.jsonl")
    given = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    said = {(g["prompt_id"], g.get("turn", 0)): GivenResponse(**g) for g in given}
    prompts = load_suite("math_code_chat", limit=6).prompts
    requests = [
        DecodeRequest(tuple(target.encode_chat([{"role": "user", "content": p.turns[0]}])), 32, (0,)) for p in prompts
    ]
    decoded = dict(decode(target, NoDrafter(), requests, Sampling(0.0), max_batch=27))
    equal = [tuple(decoded[i].token_ids) == tuple(said[p.prompt_id, 0].token_ids) for i, p in enumerate(prompts)]
    print(f"{sum(equal)} of {len(equal)} greedy responses of vLLM equal our own")
    assert np.mean(equal) > 0.9


@with_vllm
def test_speculation_in_vllm_changes_no_greedy_response(target: Target, tmp_path: Path) -> None:
    drafters = {"eagle3": {"kind": "eagle3", "gamma": 7, "checkpoint": PAIR.drafters["eagle3"]}}
    drafters["ngram"] = {"kind": "ngram", "gamma": 7}
    prompts = [
        target.encode_chat([{"role": "user", "content": p.turns[0]}]) for p in load_suite("math_code_chat", limit=3).prompts
    ]

    async def answers(configuration: dict[str, Any] | None) -> list[tuple[int, ...]]:
        started = engine.running(PAIR.target, target, requests=16, longest=512, seed=0, speculative=configuration)
        async with started as running:
            found = await asyncio.gather(*(running.answer(p, Sampling(0.0), 32, i) for i, p in enumerate(prompts)))
            assert bool(configuration) == any(s.drafts for s in running.log.steps)
        return [a.token_ids for a in found]

    plain = asyncio.run(answers(None))
    for name, drafter in drafters.items():
        found = asyncio.run(answers(speculative(drafter, PAIR.target, tmp_path, 0.0, "greedy")))
        equal = [a == b for a, b in zip(found, plain, strict=True)]
        print(f"{name}: {sum(equal)} of {len(equal)} greedy responses equal plain decoding's")
        assert np.mean(equal) > 0.9


@pytest.mark.ray
@with_vllm
def test_validate_with_vllm_for_real(recorded: Path) -> None:
    command = ["validate", "--engine", "vllm", "--out", str(recorded), "--time-limit", "36", "--concurrency", "2,8"]
    result = CliRunner().invoke(app, [*command, "--max-new-tokens", "24", "--json"])
    assert result.exit_code == 0, result.output
    assert differences(result.stdout) == []
    found = json.loads(result.stdout)
    rows = found["validation"]
    methods = ["none", "eagle3", "ngram"] if engine.on_cpu() else ["none", "dspark", "eagle3", "ngram"]
    assert [(r["drafter"], r["users"]) for r in rows] == [(d, u) for d in methods for u in (2, 8)]
    for r in rows:
        assert not set(r["live_prompts"]) & set(r["trace_prompts"])
        assert r["engine"] == "vllm"
        assert 0.4 < r["simulated"]["throughput"] / r["measured"]["throughput"] < 2.5  # others use this machine
        assert (r["measured"]["tau"] == pytest.approx(1)) == (r["drafter"] == "none")
        assert len(r["measured"]["accepted_at"]) == r["gamma"]
    print("\n".join(closing_lines(rows)), found["errors"])


@pytest.mark.ray
@with_vllm
def test_a_cpu_build_is_not_trusted_above_temperature_0(tmp_path: Path) -> None:
    engine.require()
    if not engine.on_cpu():
        pytest.skip("this vLLM runs on a GPU")
    command = ["record", "math_code_chat", "--drafter", "ngram", "--temperature", "0.7", "--limit", "2", "--actors", "1"]
    result = CliRunner().invoke(app, [*command, "--max-new-tokens", "8", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["validate", "--engine", "vllm", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "verifies drafts wrongly above temperature 0" in result.output


@pytest.mark.slow
@with_vllm
@pytest.mark.parametrize("kind", VLLM.kinds)
def test_exports_are_taken_by_vllms_own_class(kind: str) -> None:
    """Every kind's fields, with K by batch size, off above some, and with synthetic acceptance; what is wrong is refused."""
    own, names = VLLM.kinds[kind], VLLM.fields
    fields = {names.method: own.method, **own.options, names.tokens: 5}
    if own.checkpoint:
        fields[names.checkpoint] = "folder/of/a/drafter"
    synthetic = {"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [0.7, 0.5, 0.3, 0.2, 0.1]}
    rows = {names.batch_rows: [(1, 8, 5), (9, 32, 2), (33, 64, 0)]}
    for more in ({}, rows, {names.adaptive: True}, {names.drafting: "probabilistic"}):
        assert check({**fields, **more}).endswith("whose class takes the numbers")
    assert "whose class takes the numbers; rejection_sample_method synthetic is not lossless" in check(
        {**fields, **synthetic}
    )
    assert "non-increasing" in check({**fields, **synthetic, "synthetic_acceptance_rates": [0.1, 0.2, 0.2, 0.2, 0.2]})
    assert "refuses" in check({**fields, names.tokens: 0})
