"""Speed of the decode loop on the bundled pair: every drafter against `none`, batch 1 and 16, as ratios within one run.

`pytest benchmarks --benchmark-columns=min,median` prints seconds for a fixed piece of work; the extra info of each row holds
tokens per second and, for all but `none`, the ratio to `none` at the same batch in the same session.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.target import Target
from harness.recording.pair import choose_drafters, load_pair
from harness.recording.suite import load_suite
from simulator.records import Sampling

PAIR = load_pair("tiny")
DRAFTERS = choose_drafters(PAIR, None)
_tokens_per_s: dict[tuple[str, int], float] = {}


@pytest.fixture(scope="module")
def target() -> Target:
    torch.set_num_threads(1)
    return Target.load(PAIR.target)


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("name", list(DRAFTERS))
def test_decode(name: str, batch: int, target: Target, benchmark: Any) -> None:
    drafter = load_drafter(DRAFTERS[name], target)
    prompts = load_suite("math_code_chat", limit=2).prompts[:: 18 // batch][:batch]
    requests = [
        DecodeRequest(tuple(target.encode_chat([{"role": "user", "content": p.turns[0]}])), 64, (0, i))
        for i, p in enumerate(prompts)
    ]

    def work() -> int:
        return sum(len(d.token_ids) for _, d in decode(target, drafter, requests, Sampling(), max_batch=batch))

    tokens = benchmark.pedantic(work, rounds=5, warmup_rounds=1)
    _tokens_per_s[name, batch] = tokens / benchmark.stats["median"]
    benchmark.extra_info["tokens_per_s"] = _tokens_per_s[name, batch]
    if ("none", batch) in _tokens_per_s:
        benchmark.extra_info["against_none"] = _tokens_per_s[name, batch] / _tokens_per_s["none", batch]
