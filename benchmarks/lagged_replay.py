"""How far a replay is off for a policy that looks at unverified old confidences: live, replayed, and with fresh tails.

    python benchmarks/lagged_replay.py [--responses 360]

Live, the draft behind what was verified says nothing about what comes next; in the coupled record it does (DESIGN: exact at
temperature 0 only). The policy here looks at nothing else, alone in its batch: the worst case. Bundled pair, DSpark, T = 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.dense import DenseText, record_anchors
from drafters.kinds.none import NoDrafter
from drafters.target import Target
from harness.recording.pair import choose_drafters, load_pair
from harness.recording.suite import load_suite
from simulator.policies import Policy, StepView
from simulator.records import Round, Sampling
from simulator.replay import replay

TOKENS = 96


@dataclass(frozen=True, slots=True)
class LaggedSurvival(Policy):
    """Verifies as many positions as had a survival of at least `least` in the round before; one in the first round."""

    least: float

    replays_exactly = False

    @property
    def name(self) -> str:
        return f"lagged:{self.least:g}"

    def admit(self, step: StepView) -> None:
        for request in range(step.running):
            stale = step.stale_confidence(request, 1)
            count = 1 if stale is None else int((np.cumprod(stale) >= self.least).sum())
            step.admit(request, min(count, step.drafted(request)))


def summary(responses: Sequence[Sequence[Round]], rng: np.random.Generator) -> str:
    """τ and verified tokens a round, each with the standard error of a bootstrap over responses."""
    sums = np.array([[len(rs), sum(r.committed for r in rs), sum(r.verified for r in rs)] for rs in responses], float)
    draws = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), 1000) @ sums
    tau, verified = sums[:, 1].sum() / sums[:, 0].sum(), sums[:, 2].sum() / sums[:, 0].sum()
    errors = (draws[:, 1:] / draws[:, :1]).std(0)
    return f"τ {tau:.3f} ± {errors[0]:.3f}   verified {verified:.3f} ± {errors[1]:.3f}"


def main() -> None:
    """Print one line for each way, and for the exact policy fixed:7 beside them."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--responses", type=int, default=360)
    count = arguments.parse_args().responses
    torch.set_num_threads(1)
    pair = load_pair("tiny")
    target, sampling = Target.load(pair.target), Sampling()
    drafter = load_drafter(choose_drafters(pair, None)["dspark"], target)
    prompts = [p.turns[0] for p in load_suite("math_code_chat").prompts]
    contexts = [tuple(target.encode_chat([{"role": "user", "content": prompts[i % len(prompts)]}])) for i in range(count)]

    requests = [DecodeRequest(c, TOKENS + drafter.gamma, (1, i)) for i, c in enumerate(contexts)]
    texts = []
    for i, decoded in sorted(decode(target, NoDrafter(), requests, sampling, max_batch=45)):
        ids = tuple(decoded.token_ids)
        texts.append(DenseText(contexts[i], ids[:TOKENS], ids[TOKENS:], len(ids) <= TOKENS, (2, i)))
    anchors = record_anchors(target, [drafter], texts, sampling, fresh=True)[0]["sampled"]

    rng = np.random.default_rng(0)
    for policy in (LaggedSurvival(0.3), LaggedSurvival(0.5)):
        requests = [DecodeRequest(c, TOKENS, (3, i)) for i, c in enumerate(contexts)]
        live = [d.rounds for _, d in decode(target, drafter, requests, sampling, max_batch=32, policy=policy)]
        print(f"{policy.name}  live            {summary(live, rng)}", flush=True)
        coupled = [replay(replace(a, fresh_confidence=None), policy) for a in anchors]
        print(f"{policy.name}  replayed        {summary(coupled, rng)}")
        print(f"{policy.name}  and fresh tails {summary([replay(a, policy) for a in anchors], rng)}", flush=True)


if __name__ == "__main__":
    main()
