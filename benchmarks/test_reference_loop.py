"""Our decode loop at batch 1 against loops for one request, greedy, on the bundled pair.

Two loops, both with transformers' own `DynamicCache`, cropped after a rejection, drafter contexts grown by concatenation, no
padding, no masks, no ragged rows, no records; they differ in how a round is judged:

- *evaluator*: by laws at every temperature, as DeepSpec's evaluator does (`deepspec/eval/base_evaluator.py` in
  deepseek-ai/DeepSpec at 3bc8dc7): one-hot laws of target and draft at temperature 0, a coin a draft, a draw of what
  follows, end tokens looked for by `isin`;
- *shortest*: by comparing tokens, the least that a loop can do, and that can only decode greedily.

All must give the same texts in the same rounds. `pytest benchmarks/test_reference_loop.py -s -n 0` prints rounds a processor
second of ours and theirs, taken in turn, and the geometric mean of the ratios with its 95 % interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.families.layers import KeyValue
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


Judge = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""What a round commits: of k draft tokens, logits [k, V] they were drafted by, the target's [k + 1, V], and end tokens."""


def shortest(drafted: Tensor, _drafts: Tensor, logits: Tensor, _ends: Tensor) -> Tensor:
    best = logits.argmax(-1)
    agreed = [a == b for a, b in zip(drafted.tolist(), best.tolist(), strict=False)]
    return best[: [*agreed, False].index(False) + 1]


def evaluator(drafted: Tensor, drafts: Tensor, logits: Tensor, ends: Tensor) -> Tensor:
    laws, count, accepted = _one_hot(logits), len(drafted), 0
    if count:
        laws_of_drafts = _one_hot(drafts)
        p, q = (law[:count].gather(-1, drafted[:, None])[:, 0] for law in (laws, laws_of_drafts))
        ratio = (p / q.clamp_min(1e-8)).clamp(max=1)
        accepted = int((torch.rand_like(ratio) < ratio).long().cumprod(0).sum())
        ended = torch.isin(drafted[:accepted], ends).nonzero()
        if len(ended):
            return drafted[: int(ended[0]) + 1]
    law = laws[-1]
    if accepted < count:
        left = (laws[accepted] - laws_of_drafts[accepted]).clamp(min=0)
        law = torch.where(left.sum() <= 1e-8, laws[accepted], left)
        law = law / law.sum().clamp_min(1e-8)
    return torch.cat([drafted[:accepted], torch.multinomial(law, 1)])


def _one_hot(logits: Tensor) -> Tensor:
    return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1)


@torch.inference_mode()
def reference(target: Target, name: str, judge: Judge) -> Timed:
    drafter, texts, rounds, started = load_drafter(DRAFTERS[name], target), [], 0, time.process_time()
    ends = torch.tensor(sorted(target.stop_tokens))
    for prompt in prompts(target):
        cache, text = DynamicCache(config=target.model.config), torch.tensor(prompt)
        logits, taps = _pass(target, drafter, cache, text)
        text = torch.cat([text, logits[-1:].argmax(-1)])
        context = _Grown(drafter, taps, text) if isinstance(drafter, LearnedDrafter) else None
        ended = bool(torch.isin(text[-1:], ends).any())
        while not ended and len(text) < len(prompt) + TOKENS:
            drafted, drafts = context.draft(text[-1:]) if context else (text[:0], logits[:0])
            logits, taps = _pass(target, drafter, cache, torch.cat([text[-1:], drafted]))
            new = judge(drafted, drafts, logits, ends)
            if len(new) <= len(drafted):
                cache.crop(-(len(drafted) + 1 - len(new)))
            if context:
                context.grow(taps[:, : len(new)], new)
            rounds += 1
            ended = bool(torch.isin(new, ends).any())
            text = torch.cat([text, new])
        said = text[len(prompt) :][:TOKENS].tolist()
        stops = [i for i, token in enumerate(said) if token in target.stop_tokens]
        texts.append(said[: stops[0] + 1] if stops else said)
    return Timed(texts, rounds, time.process_time() - started)


def _pass(target: Target, drafter: Drafter, cache: DynamicCache, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The target's logits after each of `ids`, and what a learned drafter reads of them."""
    learned = isinstance(drafter, LearnedDrafter)
    output = target.model(ids[None], past_key_values=cache, use_cache=True, output_hidden_states=learned)
    taps = torch.cat([output.hidden_states[i + 1] for i in drafter.tap_layers], -1) if learned else output.logits[..., :0]
    return output.logits[0], taps


class _Grown:
    """A learned drafter's context of one text."""

    def __init__(self, drafter: LearnedDrafter, taps: Tensor, text: Tensor) -> None:
        self.drafter, self.length, self.entries = drafter, 0, [KeyValue(taps[:, :0], taps[:, :0])] * len(drafter.layers)
        self.grow(taps, text[1:])

    def grow(self, taps: Tensor, following: Tensor) -> None:
        features = self.drafter.project(taps)
        positions = torch.arange(self.length, self.length + taps.shape[1])[None]

        def extend(i: int, new: KeyValue) -> KeyValue:
            added = [x.transpose(1, 2) for x in new]
            whole = [torch.cat(x, 2) for x in zip(self.entries[i], added, strict=True)] if self.length else added
            self.entries[i] = KeyValue(*whole)
            return self.entries[i]

        self.drafter.take_in(features, following[None], positions, extend)
        self.length += taps.shape[1]
        self.feature = features[:, -1:]

    def draft(self, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Draft tokens [γ] after `anchor` [1], and the logits they were chosen by [γ, V]."""
        drafted: list[Tensor] = []

        def choose(_k: int, logits: Tensor) -> Tensor:
            drafted.append(logits.argmax(-1))
            return drafted[-1]

        context = Context(self.entries, self.feature, torch.tensor([[self.length]]), whole=True)
        draft = self.drafter.draft(context, anchor[None], choose)
        return torch.cat(drafted, 1)[0], draft.logits[0, 0]


@pytest.mark.parametrize("name", ["none", "dspark", "dflash", "eagle3"])
@pytest.mark.parametrize(("judge", "least"), [(evaluator, 1.0), (shortest, 0.95)])
def test_batch_of_one_is_as_fast_as_a_loop_for_one(name: str, judge: Judge, least: float, target: Target) -> None:
    ours(target, name), reference(target, name, judge)
    ratios = []
    for i in range(PAIRS):  # who goes first changes, since a processor's clock drifts
        if i % 2:
            a, b = ours(target, name), reference(target, name, judge)
        else:
            b, a = reference(target, name, judge), ours(target, name)
        assert a.texts == b.texts
        assert a.rounds == b.rounds
        ratios.append((a.rounds / a.seconds) / (b.rounds / b.seconds))
    logs = np.log(ratios)
    mean, half = np.exp(logs.mean()), 1.96 * logs.std(ddof=1) / PAIRS**0.5
    rates = f"ours {a.rounds / a.seconds:.1f}, {judge.__name__} {b.rounds / b.seconds:.1f} rounds a second of the processor"
    print(f"\n{name}: {rates}; ratio {mean:.3f} ± {half:.3f}")
    assert mean + half > least
