"""Does vLLM commit the target's own distribution when it speculates? The same prompts with and without, many seeds each.

    python benchmarks/vllm_losslessness.py [--samples 300] [--temperature 1.0]

For each prompt and response position from the second on, the tokens of speculative and of plain decoding are two
samples of what must be one distribution: a χ² test of two samples, rare tokens pooled. Its p-values are combined
over prompts and positions by the smallest, times their number (Bonferroni).
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.stats import chi2_contingency

from drafters.target import Target
from harness.recording.pair import load_pair
from harness.recording.suite import load_suite
from harness.vllm.checkpoints import speculative
from harness.vllm.engine import require, running, version
from simulator.records import Sampling
from simulator.serving.vllm import VLLM

TOKENS, PROMPTS, GAMMA, EXPECTED = 6, 9, 7, 8
"""Tokens of a response; prompts; drafted; and the least count a pooled token is expected to have in each sample."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--temperature", type=float, default=1.0)
    options = parser.parse_args()
    require()
    pair = load_pair("tiny")
    target = Target.outline(pair.target, pair.dtype)
    prompts = [
        target.encode_chat([{"role": "user", "content": p.turns[0]}]) for p in load_suite("math_code_chat", limit=1).prompts
    ][:PROMPTS]

    async def responses(configuration: dict[str, object] | None, first: int) -> list[list[tuple[int, ...]]]:
        """By prompt, one response a seed."""
        sampling = Sampling(options.temperature)
        started = running(pair.target, target, requests=32, longest=512, seed=0, speculative=configuration)
        async with started as engine:
            found = [
                await asyncio.gather(*(engine.answer(ids, sampling, TOKENS, first + i) for i in range(options.samples)))
                for ids in prompts
            ]
        return [[a.token_ids for a in each] for each in found]

    plain, again = asyncio.run(responses(None, 0)), asyncio.run(responses(None, options.samples))
    print(f"{version()}, temperature {options.temperature:g}, {options.samples} responses to each of {len(prompts)} prompts")
    report("plain, other seeds", again, plain)
    drafters = {"eagle3": {"kind": "eagle3", "gamma": GAMMA, "checkpoint": pair.drafters["eagle3"]}}
    drafters["ngram"] = {"kind": "ngram", "gamma": GAMMA}
    with tempfile.TemporaryDirectory() as folder:
        for name, drafter in drafters.items():
            configuration = speculative(drafter, pair.target, Path(folder), options.temperature, VLLM.drafting)
            report(name, asyncio.run(responses(configuration, options.samples)), plain)


def report(name: str, found: list[list[tuple[int, ...]]], plain: list[list[tuple[int, ...]]]) -> None:
    """Print the verdict of one method."""
    values = [
        p_value([r[k] for r in a if k < len(r)], [r[k] for r in b if k < len(r)])
        for a, b in zip(found, plain, strict=True)
        for k in range(1, TOKENS)
    ]
    known = [p for p in values if p is not None]
    p = min(1.0, min(known) * len(known))
    verdict = "not the target's distribution" if p < 0.001 else "no difference found"
    print(f"{name}: p = {p:.2g} over {len(known)} tests: {verdict}")


def p_value(one: list[int], other: list[int]) -> float | None:
    """That two samples of tokens come from one distribution; None where all tokens are the same."""
    counts, others = Counter(one), Counter(other)
    both = counts + others
    common = [token for token, n in both.items() if n >= 2 * EXPECTED]
    table = [[c[t] for t in common] + [sum(n for t, n in c.items() if t not in common)] for c in (counts, others)]
    columns = [column for column in zip(*table, strict=True) if sum(column)]
    return None if len(columns) < 2 else float(chi2_contingency(np.transpose(columns), correction=False).pvalue)


if __name__ == "__main__":
    main()
