"""Anchors recorded a second on the bundled pair: dense, generation included, against our own live loop at batch 1 and 16.

`pytest benchmarks/test_recording.py --benchmark-columns=min,median` on the same prompts, one thread, all drafters of the
pair; each row's extra info holds anchors per second, drafts recorded one way or both. A live round is one
anchor. The dense row also says what share of its time the forwards of target and drafters take, and how many times the live
rows it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import drafters.dense as dense
from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.dense import DenseText, record_anchors
from drafters.kinds.block import DSpark
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import AutoregressiveDrafter
from drafters.kinds.none import NoDrafter
from drafters.target import Target
from harness.recording.pair import choose_drafters, load_pair
from harness.recording.suite import load_suite
from simulator.records import DRAFTINGS, Drafting, Sampling

PAIR, TOKENS = load_pair("tiny"), 96
_live: dict[int, float] = {}


@pytest.fixture(scope="module")
def target() -> Target:
    torch.set_num_threads(1)
    return Target.load(PAIR.target)


@pytest.fixture(scope="module")
def kinds(target: Target) -> list[Drafter]:
    return [load_drafter(source, target) for name, source in choose_drafters(PAIR, None).items() if name != "none"]


@pytest.fixture(scope="module")
def contexts(target: Target) -> list[tuple[int, ...]]:
    prompts = load_suite("math_code_chat", limit=5).prompts
    return [tuple(target.encode_chat([{"role": "user", "content": p.turns[0]}])) for p in prompts]


@pytest.mark.parametrize("batch", [1, 16])
def test_live(batch: int, target: Target, kinds: list[Drafter], contexts: list[tuple[int, ...]], benchmark: Any) -> None:
    requests = [DecodeRequest(c, TOKENS, (0, i)) for i, c in enumerate(contexts)]

    def work() -> int:
        live = (decode(target, drafter, requests, Sampling(), max_batch=batch) for drafter in kinds)
        return sum(len(d.rounds) for each in live for _, d in each)

    rounds = benchmark.pedantic(work, rounds=1)
    _live[batch] = benchmark.extra_info["anchors_per_s"] = rounds / benchmark.stats["min"]


@pytest.mark.parametrize("drafting", [("sampled",), DRAFTINGS], ids=["sampled", "both ways"])
@pytest.mark.parametrize("count", [1, 5], ids=["dspark alone", "all drafters"])
def test_dense(
    count: int,
    drafting: tuple[Drafting, ...],
    target: Target,
    kinds: list[Drafter],
    contexts: list[tuple[int, ...]],
    benchmark: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used, sampling = kinds[:count], Sampling()
    clock = Clock(monkeypatch)

    def work() -> int:
        clock.seconds.clear()
        requests = [DecodeRequest(c, TOKENS + 7, (0, i)) for i, c in enumerate(contexts)]
        texts = []
        for i, d in decode(target, NoDrafter(), requests, sampling, max_batch=len(requests)):
            ids = tuple(d.token_ids)
            texts.append(DenseText(contexts[i], ids[:TOKENS], ids[TOKENS:], len(ids) <= TOKENS, (1, i)))
        clock.seconds["generation"] = sum(clock.seconds.values())
        recorded = record_anchors(target, used, texts, sampling, drafting=drafting)
        return sum(len(a) for found in recorded for a in next(iter(found.values())))

    anchors = benchmark.pedantic(work, rounds=3)
    info = benchmark.extra_info
    info["anchors_per_s"] = anchors / benchmark.stats["min"]
    info |= {f"times live at batch {b}": round(info["anchors_per_s"] / rate, 1) for b, rate in _live.items()}
    generation = clock.seconds.pop("generation")
    total = sum(clock.seconds.values())
    info["forwards' share of the last round"] = round(total / benchmark.stats.stats.data[-1], 2)
    info["of it generation"] = round(generation / total, 2)
    info["of it"] = {name: round(seconds / total, 2) for name, seconds in clock.seconds.items()}


class Clock:
    """Seconds spent in the forwards, by kind: the choosing of tokens in between is taken off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: dict[str, float] = {}
        for owner, method in ((Target, "forward"), (Target, "read"), (Target, "head")):
            monkeypatch.setattr(owner, method, self.timed(f"target {method}", getattr(owner, method)))
        for kind in (DSpark, AutoregressiveDrafter):
            monkeypatch.setattr(kind, "read", self.timed("drafter read", kind.read))
            monkeypatch.setattr(kind, "drafts", self.timed("drafter drafts", kind.drafts))
        for method in ("follow", "couple", "free", "likeliest"):
            monkeypatch.setattr(dense._Blocks, method, self.timed("drafter drafts", getattr(dense._Blocks, method), sign=-1))

    def timed(self, name: str, call: Callable[..., Any], sign: int = 1) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + sign * (time.perf_counter() - started)

        return wrapped
