"""Algorithm 1 of the DSpark paper: admit the likeliest positions while expected throughput rises."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from simulator.hardware.cost import StepCost
from simulator.policies.contract import Policy, StepView
from simulator.policies.ranking import best_first


@dataclass(frozen=True, slots=True)
class PrefixScheduler(Policy):
    """Pools all survivals and stops at the first that would not raise (expected tokens) × SPS(B): causal, hence lossless."""

    cost: StepCost = field(repr=False, compare=False)
    """What the scheduler believes a step costs."""

    reads_confidences = True
    needs_cost = True

    @property
    def name(self) -> str:
        return "prefix_scheduler"

    @classmethod
    def believed_cost(cls, cost: StepCost) -> StepCost:
        """The cost with straight lines between captured sizes: of a staircase the first token of a stair would have to pay
        for all of it, and the algorithm would stop there for good."""
        passes_s = cost.verify_s[: cost.captured + 1]
        ends = np.append(np.flatnonzero(np.diff(passes_s) > 0), len(passes_s) - 1)
        lines_s = np.interp(np.arange(len(passes_s)), ends, passes_s[ends])
        return replace(cost, verify_s=np.concatenate([lines_s, cost.verify_s[cost.captured + 1 :]]))

    def admit(self, step: StepView) -> None:
        fixed = self.cost.fixed(step.load, step.longest_draft)
        tokens, verified = float(step.load.sampling), 0
        now_s = fixed + self.cost.target(step.load, 0)
        for _, survival in best_first(step):
            next_s = fixed + self.cost.target(step.load, verified + 1)
            if (tokens + survival) * now_s <= tokens * next_s:
                break
            tokens, verified, now_s = tokens + survival, verified + 1, next_s
