"""A benchmark client, simulated: how much it asks, and what it sees.

It keeps `users` requests under way until a fixed number is answered, as `vllm bench serve --max-concurrency` does: all
users begin at once, and at the end the queue drains. A closed loop without end would miss both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from harness.published.paper.fit import Floats
from simulator.engine.state import REQUEST, Records
from simulator.hardware.cost import StepLoad
from simulator.hardware.profile import Profile
from simulator.load import Users
from simulator.policies import PolicySpec
from simulator.setup import EngineLimits, Setup
from simulator.simulation import Prepared, Simulator

STEP_TOKENS: Final = 8192
"""Tokens of one pass, prompts included: vLLM's default on such GPUs."""


# --- the client -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Client:
    """How much is asked."""

    requests: int
    """In all."""
    prompt_tokens: int
    """Tokens of each prompt; on average where lengths are `varied`."""
    output_tokens: int = 512
    """Tokens of each answer."""
    varied: bool = False
    """Whether prompts' lengths are exponential."""
    staggered: bool = False
    """Whether users begin spread over the time of an answer without speculation, not all at once."""

    def prompts(self, rng: np.random.Generator) -> Floats:
        """Tokens of every request's prompt."""
        if not self.varied:
            return np.full(self.requests, float(self.prompt_tokens))
        return np.ceil(rng.exponential(self.prompt_tokens, self.requests))


class ClientFigures(NamedTuple):
    """What a client sees."""

    throughput: float
    """Output tokens per second over all GPUs, from the first request to the last answer, as clients report it."""
    tps: float
    """1 / median time per token."""
    mean_tpot_ms: float


def serve(
    profile: Profile,
    recorded: Prepared,
    policy: PolicySpec,
    users: int,
    client: Client,
    believed: Profile | None = None,
    seed: int = 0,
) -> ClientFigures:
    """Simulate a client's whole run; `believed` is what the policy takes a step to cost, by default the truth."""
    limits = EngineLimits(request_cap=users, step_tokens=STEP_TOKENS)
    setup = Setup(load=Users(users), policy=policy, profile=profile, believed=believed, limits=limits)
    rng, asked = np.random.default_rng(seed), np.zeros(client.requests, REQUEST)
    asked["response"] = rng.integers(len(recorded.trace.responses), size=client.requests)
    asked["prompt_tokens"], asked["output_tokens"] = client.prompts(rng), client.output_tokens
    parts = list[Records]()
    simulator = Simulator(
        recorded, policy.bind(setup.cost(recorded.trace, believed=True)), setup.cost(recorded.trace), limits,
        profile.kv_capacity_tokens, iter([asked]), users=users, seed=seed, on_rows=lambda rows: parts.append(rows.copy()),
    )  # fmt: skip
    if client.staggered:
        answer_s = client.output_tokens * step_s(profile, "none", 0, users, 0)
        simulator.state.due_s[:users] = np.sort(rng.random(users)) * answer_s
    simulator.run_until(np.inf)
    simulator.flush()
    simulator.check_conservation()
    rows = np.concatenate(parts)
    assert len(rows) == client.requests, "requests were lost"
    tpot_s = (rows["finish_s"] - rows["first_s"]) / (client.output_tokens - 1)
    tokens = client.requests * client.output_tokens
    return ClientFigures(tokens / float(rows["finish_s"].max()), 1 / float(np.median(tpot_s)), 1e3 * float(tpot_s.mean()))


def step_s(profile: Profile, drafter: str, gamma: int, users: int, verified: int) -> float:
    """Seconds of a step in which each of so many requests drafts γ tokens and verifies some, without prefill."""
    return profile.cost(drafter, gamma, users, STEP_TOKENS).seconds(StepLoad(users), gamma, users * verified)
