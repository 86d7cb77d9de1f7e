"""Batches decoded live, beside what a profile measured meanwhile says of the same rounds.

`python benchmarks/live_batches.py --architecture qwen3-4b --device cuda` makes random weights, times single passes as
`harness profile --no-graphs` does, decodes batches meanwhile with the project's own loop, and prints for each drafter and
batch the median round as measured and as the simulator's arithmetic has it, in all and by part.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from drafters.clock import seconds_now
from drafters.decoding import Batch, DecodeRequest
from drafters.kinds.contract import Drafter
from drafters.kinds.none import NoDrafter
from drafters.precision import choose_dtype
from drafters.random_models import random_drafters, random_target
from drafters.target import Target
from harness.console import Watcher
from harness.hardware.effort import Effort
from harness.hardware.measure import Measured, profile
from simulator.hardware.cost import Longest, StepLoad
from simulator.hardware.profile import Profile, dump_profile
from simulator.records import Sampling

WARM_UP = 2
"""Rounds of a batch that do not count."""


class LiveRound(NamedTuple):
    """A round of a batch: what the simulator is told of it, and what it took."""

    context_tokens: int
    longest_context: int
    seconds: float
    draft_s: float
    verify_s: float


def decoded(target: Target, drafter: Drafter, requests: int, prompts: tuple[int, int], counted: int) -> list[LiveRound]:
    """Rounds of a batch whose prompts are of different lengths, so that its rows never stand abreast."""
    random = np.random.default_rng([0, requests])
    tokens = (WARM_UP + counted + 1) * (drafter.gamma + 1)
    now = partial(seconds_now, target.device)
    batch = Batch(target, drafter, Sampling(), None, requests, prompts[1] + tokens, clock=now)
    lengths = random.integers(prompts[0], prompts[1] + 1, requests)
    asked = [tuple(random.integers(0, target.vocab_size, n).tolist()) for n in lengths]
    found = []
    with torch.inference_mode():
        batch.admit(deque((i, DecodeRequest(ids, tokens, (0, i))) for i, ids in enumerate(asked)))
        for number in range(WARM_UP + counted):
            contexts = [d.anchor_position + 1 for _, d in batch.running]
            started = now()
            batch.round()
            seconds, took = now() - started, batch.running[0][1].rounds[-1]
            if number >= WARM_UP:
                parts = (took.draft_s or 0.0, took.verify_s or 0.0)
                found.append(LiveRound(sum(contexts), max(contexts), seconds, *parts))
    return found


def predicted(found: Profile, name: str, gamma: int, requests: int, live: LiveRound) -> tuple[float, float, float]:
    """(whole round, drafting, the target's pass) as the simulator has them."""
    cost = found.cost(name, gamma, requests, requests * (gamma + 1))
    load = StepLoad(requests, context_tokens=live.context_tokens)
    parts = cost.step(load, gamma, requests * gamma, Longest(gamma, live.longest_context))
    return parts.seconds, parts.draft_s, parts.attention_s + parts.target_s


def compared(
    found: Profile, gammas: Mapping[str, int], lived: Mapping[tuple[str, int], list[LiveRound]]
) -> list[dict[str, object]]:
    """A row for each drafter and batch: medians over rounds, in milliseconds."""
    rows = []
    for (name, requests), rounds in lived.items():
        said = np.array([predicted(found, name, gammas[name], requests, r) for r in rounds])
        took = np.array([(r.seconds, r.draft_s, r.verify_s) for r in rounds])
        columns = zip(("round", "draft", "target"), np.median(said, 0), np.median(took, 0), strict=True)
        row: dict[str, object] = {"drafter": name, "requests": requests, "rounds": len(rounds)}
        for part, said_s, took_s in columns:
            row |= {f"{part}_predicted_ms": 1e3 * float(said_s), f"{part}_measured_ms": 1e3 * float(took_s)}
        rows.append(row)
    return rows


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--architecture", default="qwen3-4b")
    options.add_argument("--device", default="cuda")
    options.add_argument("--dtype", default="auto")
    options.add_argument("--drafter", nargs="*", default=["dspark", "eagle3"])
    options.add_argument("--batch", nargs="*", type=int, default=[1, 4, 16, 64])
    options.add_argument("--prompt-tokens", nargs=2, type=int, default=[256, 512], help="shortest and longest")
    options.add_argument("--context-tokens", type=int, default=1024, help="longest context that the profile times")
    options.add_argument("--rounds", type=int, default=10, help="that count, of each batch in each sweep")
    options.add_argument("--time-limit", type=float, default=300.0)
    options.add_argument("--out", type=Path, help="a JSON file for rows and profile")
    given = options.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)  # as `harness profile` does
    target = random_target(given.architecture, dtype=choose_dtype(given.dtype, given.device), device=given.device, seed=0)
    drafters = random_drafters(target, {name: name for name in given.drafter}, seed=0)
    every: dict[str, Drafter] = {"none": NoDrafter(), **drafters}
    lived: defaultdict[tuple[str, int], list[LiveRound]] = defaultdict(list)

    def live(name: str, requests: int) -> Callable[[], None]:
        def run() -> None:
            lived[name, requests] += decoded(target, every[name], requests, tuple(given.prompt_tokens), given.rounds)

        return run

    works = [live(name, requests) for name in every for requests in given.batch]
    for work in works:  # what is slow only the first time
        work()
    lived.clear()
    effort = Effort(
        time_limit_s=given.time_limit, max_requests=max(given.batch), context_tokens=given.context_tokens, graphs=False
    )
    say = Watcher(lambda text: print(text, flush=True), lambda stage, done, total: None)
    measured = Measured(target, drafters, given.architecture, given.architecture, "random, seed 0")
    found, quality = profile(measured, effort, say, others=works)
    found = replace(found, padded=True)  # the project's loop pads its passes
    gammas = {name: drafter.gamma for name, drafter in every.items()}
    rows = compared(found, gammas, lived)
    print(f"{found.device} · {found.provenance['versions']} · {quality.sweeps} sweeps")
    print(f"{'drafter':8} {'R':>4} {'rounds':>7} | round ms: predicted measured ratio | draft | target pass")
    for row in rows:
        cells = []
        for part in ("round", "draft", "target"):
            said, took = (float(str(row[f"{part}_{kind}_ms"])) for kind in ("predicted", "measured"))
            cells.append(f"{said:9.2f} {took:9.2f} {said / took if said > 0 and took > 0 else float('nan'):6.3f}")
        print(f"{row['drafter']:8} {row['requests']:4} {row['rounds']:7} | " + " | ".join(cells))
    if given.out is not None:
        given.out.write_text(json.dumps({"rows": rows, "profile": json.loads(dump_profile(found))}, indent=1))


if __name__ == "__main__":
    main()
