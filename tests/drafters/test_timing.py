"""Timing: every kind of point does its work, whatever is repeated gives the same, and time limits hold."""

from __future__ import annotations

import gc
import json
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import pytest
import torch

from drafters.configs import known_architectures
from drafters.decoding import Batch
from drafters.kinds.contract import Drafter
from drafters.random_models import random_drafters, random_target
from drafters.sampling import Proposal, Verdict
from drafters.target import Target
from harness.console import Watcher
from harness.hardware.bench import Bench, BenchPoint, Part, captured
from harness.hardware.timing import LivePass, Timed, Timing, time_points
from harness.parts import Parts
from simulator.errors import InputError
from simulator.records import Round
from tests.drafters.conftest import GAMMA, drafter_config, micro_config

Make = Callable[..., Drafter]


@pytest.fixture
def bench(target: Target, make: Make) -> Bench:
    return Bench(target, {name: {GAMMA: make(name)} for name in ("dspark", "eagle3", "ngram")})


@pytest.mark.parametrize("drafter", ["dspark", "eagle3", "ngram"])
@torch.inference_mode()
def test_a_draft_can_be_repeated(bench: Bench, drafter: str) -> None:
    """Twice the same proposal, of whole drafts, from the same state: what is timed does not change while it is timed."""
    work = bench.work(BenchPoint("draft", 3, GAMMA, 12, drafter))
    first, second = work(), work()
    assert isinstance(first, Proposal)
    assert isinstance(second, Proposal)
    assert first.drafted == second.drafted == (GAMMA,) * 3
    assert first.tokens.tolist() == second.tokens.tolist()


@pytest.mark.parametrize("context", [0, 12])
@pytest.mark.parametrize("tokens", [1, GAMMA + 1])
@torch.inference_mode()
def test_a_target_pass_can_be_repeated(bench: Bench, tokens: int, context: int) -> None:
    work = bench.work(BenchPoint("target", 3, tokens, context))
    first, second = work(), work()
    assert isinstance(first, Verdict)
    assert isinstance(second, Verdict)
    assert first.next_token.tolist() == second.next_token.tolist()
    assert int(first.accepted.max()) < tokens


@pytest.mark.parametrize("part", ["prefill", "loop", "rule"])
@torch.inference_mode()
def test_other_parts_take_time(bench: Bench, part: Part) -> None:
    point = BenchPoint(part, 1, 5, 0)
    assert 0 < bench.measure(point, 2) < 1


def test_the_largest_points_are_left_out_where_time_is_short(bench: Bench) -> None:
    small, large = BenchPoint("target", 1, 1, 4), BenchPoint("target", 8, 4, 4)
    timed = time_points(bench, [large, small], seconds=1e-6, seed=0)
    assert [t.point for t in timed.timings] == [small]
    assert timed.left_out == [large]
    assert timed.sweeps == len(timed.timings[0].samples) == 3


def test_time_limit_sweeps_and_others(bench: Bench) -> None:
    called: list[int] = []
    shares: list[float] = []
    points = [BenchPoint("target", r, 1, 4) for r in (1, 2)] + [BenchPoint("draft", 1, GAMMA, 4, "eagle3")]
    started = time.monotonic()
    timed = time_points(
        bench, points, seconds=0.5, seed=0, advance=shares.append, others=[lambda: called.append(1)] * 2
    )  # fmt: skip
    assert time.monotonic() - started < 5
    assert {t.point for t in timed.timings} == set(points)
    assert len(called) == 2 * timed.sweeps
    assert 0 <= min(shares) <= max(shares) <= 1


def test_median_and_spread() -> None:
    timing = Timing(BenchPoint("target", 1, 1, 0), (1.0, 2.0, 2.2, 1.8, 90.0))
    assert timing.seconds == 2.0
    assert timing.spread == pytest.approx(0.1)


def test_random_weights_are_of_the_shape_asked_for_and_leave_the_generator_alone(tmp_path: Path) -> None:
    config = micro_config(vocab_size=64).to_dict() | {"attn_implementation": "flash_attention_2"}  # that machine's
    (tmp_path / "config.json").write_text(json.dumps(config))
    before = torch.random.get_rng_state()
    target = random_target(str(tmp_path), dtype=torch.float32, device="cpu", seed=3)
    again = random_target(str(tmp_path / "config.json"), dtype=torch.float32, device="cpu", seed=3)
    own = tmp_path / "dspark.json"
    own.write_text(json.dumps(drafter_config("dspark", target)))
    kinds = {"dflash": "dflash", "eagle3": "eagle3", "mtp": "mtp", "ngram": "ngram", "mine": str(own)}
    drafters = random_drafters(target, kinds, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(target.lm_head.weight, again.lm_head.weight)
    assert [d.gamma for d in drafters.values()] == [7, 7, 1, 7, GAMMA]
    bench = Bench(target, {name: {d.gamma: d} for name, d in drafters.items()})
    with torch.inference_mode():
        for name, drafter in drafters.items():
            assert bench.measure(BenchPoint("draft", 2, drafter.gamma, 10, name), 1) > 0


@pytest.mark.parametrize("name", sorted(known_architectures()))
def test_known_shapes_have_the_published_number_of_parameters(name: str) -> None:
    """On the meta device, which allocates nothing. Numbers of the model cards."""
    with torch.device("meta"):
        target = random_target(name, dtype=torch.bfloat16, device="meta", seed=0)
    billions = sum(p.numel() for p in target.model.parameters()) / 1e9
    assert billions == pytest.approx({"qwen3-4b": 4.02, "qwen3-8b": 8.19, "qwen3-14b": 14.77}[name], abs=0.01)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": "no such"}'])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        random_target(str(file), dtype=torch.float32, device="cpu", seed=0)


def test_a_configuration_of_another_kind_of_model_is_told_in_few_words(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(InputError, match="no causal language model of model_type 't5'") as refused:
        random_target(str(tmp_path), dtype=torch.float32, device="cpu", seed=0)
    assert len(str(refused.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_random_weights_do_not_stand_in_for_quantised_ones(tmp_path: Path, kind: str) -> None:
    quantised = {"quantization_config": {"quant_method": "fp8"}}
    parts = {"text_config": quantised} if kind == "gemma3" else quantised
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **parts}))
    with pytest.raises(InputError, match=rf"^architecture {tmp_path}: its quantization_config asks for other weights"):
        random_target(str(tmp_path), dtype=torch.float32, device="cpu", seed=0)


def test_an_unknown_architecture_names_those_there_are() -> None:
    with pytest.raises(InputError, match="qwen3-14b"):
        random_target("gpt-9", dtype=torch.float32, device="cpu", seed=0)


class Scarce:
    """A bench whose memory is gone for points of more than two tokens, at first or only later."""

    captures, method = False, "none"

    def __init__(self, later: bool) -> None:
        self.later, self.calls = later, 0

    def reserve(self, points: object) -> None:
        pass

    def measure(self, point: BenchPoint, runs: int) -> float:
        self.calls += 1
        if point.size > 2 and (self.calls > 3 or not self.later):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1e-3


@pytest.mark.parametrize("later", [False, True])
def test_a_point_that_does_not_fit_the_memory_is_left_out_and_the_others_are_timed(later: bool) -> None:
    points = [BenchPoint("target", r, 1, 4) for r in (1, 2, 3)]
    timed = time_points(cast(Bench, Scarce(later)), points, seconds=1.0, seed=0)
    assert [t.point for t in timed.timings] == points[:2]
    assert timed.left_out == points[2:]
    assert all(len(t.samples) == timed.sweeps for t in timed.timings)


class Stopped(Scarce):
    """A bench that is interrupted the seventh time: after the first look at two points, and two sweeps."""

    def measure(self, point: BenchPoint, runs: int) -> float:
        if self.calls == 6:
            raise KeyboardInterrupt
        return super().measure(point, runs)


def test_a_grid_is_timed_in_two_sittings(tmp_path: Path) -> None:
    """What was kept is not timed again, and is part of what comes out."""
    points = [BenchPoint("target", r, 1, 4) for r in (1, 2)]
    lived = LivePass(3, [Round(2, 2, 1, 2, (0.5, 0.25), running=1)], 0.5)

    def timed(bench: Scarce) -> Timed:
        parts = Parts(tmp_path, "profile", "this one", Watcher(lambda _: None, lambda *_: None))
        others = [lambda: lived, lambda: None]
        return time_points(cast(Bench, bench), points, seconds=1.0, seed=0, others=others, keep=parts.part)

    with pytest.raises(KeyboardInterrupt):
        timed(Stopped(later=False))
    again = Scarce(later=False)
    found = timed(again)
    assert again.calls == 2 * (found.sweeps - 2)
    assert found.sittings == 2
    assert found.others == [[lived, None]] * found.sweeps
    assert [(t.point, t.samples) for t in found.timings] == [(p, (1e-3,) * found.sweeps) for p in points]


def test_what_no_graph_can_hold_runs_eagerly_and_says_why_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that ends a capture is followed by one that says that it ended; lack of memory makes nothing eager."""

    def refused(work: object, device: object, pool: object) -> None:
        try:
            raise error
        finally:
            raise RuntimeError("capture was invalidated")

    monkeypatch.setattr("harness.hardware.bench.captured", refused)
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: None)
    bench.captures = True
    error: Exception = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        bench._replayed(BenchPoint("target", 1, 1, 4))
    assert bench._eager == {}
    error = RuntimeError("operation not permitted\nwhen stream is capturing")
    assert bench._replayed(BenchPoint("target", 1, 1, 4)) is None
    assert bench._eager == {"target": "operation not permitted"}


def test_a_graphs_inputs_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph knows addresses alone: freed inputs would be overwritten, and replays read others' numbers."""
    replayed: list[int] = []

    class Graph:
        def replay(self) -> None:
            replayed.append(1)

    monkeypatch.setattr("torch.cuda.CUDAGraph", Graph)
    monkeypatch.setattr("torch.cuda.graph", lambda graph, pool: nullcontext())
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)

    def made() -> tuple[Callable[[], object], weakref.ref[torch.Tensor]]:
        inputs = torch.ones(3)
        return captured(lambda: inputs + 1, torch.device("cpu")), weakref.ref(inputs)

    replay, inputs = made()
    gc.collect()
    replay()
    assert replayed == [1]
    assert inputs() is not None
    del replay
    gc.collect()
    assert inputs() is None


@torch.inference_mode()
def test_a_pass_asks_nothing_of_the_host(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph cannot hold numbers that the host reads or makes: learned drafts and target passes use tensors alone."""
    works = [bench.work(BenchPoint("target", 3, n, 12)) for n in (1, GAMMA + 1)]
    works += [bench.work(BenchPoint("prefill", 1, 5, c)) for c in (0, 12)]
    for name in ("dspark", "eagle3"):
        works += [bench.work(BenchPoint("draft", 3, GAMMA, 12, name)), bench.work(BenchPoint("read", 1, 5, 0, name))]
    for work in works:
        work()  # tables are set up outside of a graph

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("asks the host")

    for name in ("tensor", "from_numpy", "as_tensor"):
        monkeypatch.setattr(torch, name, refused)
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refused)
    for work in works:
        work()


@torch.inference_mode()
def test_caches_of_other_shapes_share_their_memory(bench: Bench) -> None:
    """What a pass says does not depend on what others left behind."""
    points = [BenchPoint("target", 3, 2, 12), BenchPoint("target", 1, 5, 30), BenchPoint("prefill", 1, 9, 0)]
    bench.reserve(points)
    memory = bench._memory
    assert memory is not None
    assert memory.kv.capacity == 3 * 14
    prompt = bench.work(points[2])
    first = cast(torch.Tensor, prompt())
    for point in points[:2]:
        bench.work(point)()
    assert torch.equal(first, cast(torch.Tensor, prompt()))
    assert bench._memory is memory
    with pytest.raises(ValueError, match="no 3 × 15"):
        memory.reshaped(3, 15)


@torch.inference_mode()
def test_a_request_comes_and_goes_with_models_that_take_no_time(bench: Bench) -> None:
    work = bench.work(BenchPoint("admit", 3, 6, 0))
    for _ in range(3):
        batch = work()
        assert isinstance(batch, Batch)
        assert [d.finish for _, d in batch.running] == [None] * 3
