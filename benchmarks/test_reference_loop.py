"""Our decode loop at batch 1 against the plain loop of a reference evaluator, greedy, on the bundled pair.

The reference is the shortest loop there can be for one request: transformers' own `DynamicCache`, cropped after a
rejection, drafter contexts grown by concatenation, no padding, no masks, no ragged rows, no records. Both must give the same
texts in the same rounds. `pytest benchmarks/test_reference_loop.py -s -n 0` prints rounds a processor second of both, taken
in turn, and the geometric mean of the ratios with its 95 % interval.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.families.qwen3 import KeyValue
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import Context, LearnedDrafter
from drafters.target import Target
from harness.recording.pair import choose_drafters, load_pair
from harness.recording.suite import load_suite
from simulator.records import Sampling

PAIR = load_pair("tiny")
DRAFTERS = choose_drafters(PAIR, None)
TOKENS, PAIRS = 64, 12


@dataclass(frozen=True, slots=True)
class Timed:
    """What a loop gave for all prompts."""

    texts: list[list[int]]
    rounds: int
    seconds: float


@pytest.fixture(scope="module")
def target() -> Target:
    torch.set_num_threads(1)
    return Target.load(PAIR.target)


def prompts(target: Target) -> list[tuple[int, ...]]:
    some = load_suite("math_code_chat", limit=1).prompts[::2]
    return [tuple(target.encode_chat([{"role": "user", "content": p.turns[0]}])) for p in some]


def ours(target: Target, name: str) -> Timed:
    drafter, texts, rounds, started = load_drafter(DRAFTERS[name], target), [], 0, time.process_time()
    for i, prompt in enumerate(prompts(target)):
        request = DecodeRequest(prompt, TOKENS, (i,))
        [(_, done)] = decode(target, drafter, [request], Sampling(temperature=0), max_batch=1)
        texts.append(done.token_ids)
        rounds += len(done.rounds)
    return Timed(texts, rounds, time.process_time() - started)


@torch.inference_mode()
def reference(target: Target, name: str) -> Timed:
    drafter, texts, rounds, started = load_drafter(DRAFTERS[name], target), [], 0, time.process_time()
    stop_tokens = target.stop_tokens
    for prompt in prompts(target):
        cache, text = DynamicCache(config=target.model.config), list(prompt)
        best, taps = _pass(target, drafter, cache, text)
        text.append(int(best[-1]))
        context = _Grown(drafter, taps, text) if isinstance(drafter, LearnedDrafter) else None
        while text[-1] not in stop_tokens and len(text) < len(prompt) + TOKENS:
            drafted = context.draft(text[-1]) if context else []
            best, taps = _pass(target, drafter, cache, [text[-1], *drafted])
            agreed = [a == b for a, b in zip(drafted, best.tolist(), strict=False)]
            accepted = [*agreed, False].index(False)
            if accepted < len(drafted):
                cache.crop(-(len(drafted) - accepted))
            new = best[: accepted + 1].tolist()
            if context:
                context.grow(taps[:, : accepted + 1], new)
            rounds += 1
            ends = [i for i, token in enumerate(new) if token in stop_tokens]
            text += new[: ends[0] + 1] if ends else new
        texts.append(text[len(prompt) : len(prompt) + TOKENS])
    return Timed(texts, rounds, time.process_time() - started)


def _pass(target: Target, drafter: Drafter, cache: DynamicCache, ids: list[int]) -> tuple[Tensor, Tensor]:
    """The target's choice after each of `ids`, and what a learned drafter reads of them."""
    learned = isinstance(drafter, LearnedDrafter)
    output = target.model(torch.tensor([ids]), past_key_values=cache, use_cache=True, output_hidden_states=learned)
    taps = torch.cat([output.hidden_states[i + 1] for i in drafter.tap_layers], -1) if learned else output.logits[..., :0]
    return output.logits[0].argmax(-1), taps


class _Grown:
    """A learned drafter's context of one text."""

    def __init__(self, drafter: LearnedDrafter, taps: Tensor, text: list[int]) -> None:
        self.drafter, self.length, self.entries = drafter, 0, [KeyValue(taps[:, :0], taps[:, :0])] * len(drafter.layers)
        self.grow(taps, text[1:])

    def grow(self, taps: Tensor, following: list[int]) -> None:
        features = self.drafter.project(taps)
        positions = torch.arange(self.length, self.length + taps.shape[1])[None]
        new = self.drafter.context_entries(features, torch.tensor([following]), positions)
        for i, entry in enumerate(new):
            added = [x.transpose(1, 2) for x in entry]
            whole = [torch.cat(x, 2) for x in zip(self.entries[i], added, strict=True)] if self.length else added
            self.entries[i] = KeyValue(*whole)
        self.length += taps.shape[1]
        self.feature = features[:, -1:]

    def draft(self, anchor: int) -> list[int]:
        drafted: list[Tensor] = []

        def choose(_k: int, logits: Tensor) -> Tensor:
            drafted.append(logits.argmax(-1))
            return drafted[-1]

        context = Context(self.entries, self.feature, torch.tensor([[self.length]]), whole=True)
        self.drafter.draft(context, torch.tensor([[anchor]]), choose)
        return torch.cat(drafted, 1)[0].tolist()


@pytest.mark.parametrize("name", ["none", "dspark", "dflash", "eagle3"])
def test_batch_of_one_is_as_fast_as_the_plain_loop(name: str, target: Target) -> None:
    ours(target, name), reference(target, name)
    ratios = []
    for i in range(PAIRS):  # who goes first changes, since a processor's clock drifts
        if i % 2:
            a, b = ours(target, name), reference(target, name)
        else:
            b, a = reference(target, name), ours(target, name)
        assert a.texts == b.texts
        assert a.rounds == b.rounds
        ratios.append((a.rounds / a.seconds) / (b.rounds / b.seconds))
    logs = np.log(ratios)
    mean, half = np.exp(logs.mean()), 1.96 * logs.std(ddof=1) / PAIRS**0.5
    rate, plain = a.rounds / a.seconds, b.rounds / b.seconds
    print(
        f"\n{name}: ours {rate:.1f}, reference {plain:.1f} rounds a second of the processor; ratio {mean:.3f} ± {half:.3f}"
    )
    assert mean > 0.9
