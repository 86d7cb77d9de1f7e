"""One k for the whole batch, from how often drafts were accepted lately: for engines without confidences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from simulator.hardware.cost import StepCost, StepLoad
from simulator.numbers import real, written
from simulator.policies.contract import Policy, StepView

_WEIGHT = 0.05


@dataclass(slots=True)
class BatchAdaptive(Policy):
    """Drafts the k with the best expected tokens per second, if every position is accepted with probability α.

    After SmartSpec (Liu et al. 2024, Optimizing Speculative Decoding for Serving Large Language Models Using Goodput):
    expected accepted tokens are α + α² + … + α^k. At k = 0 nothing is learnt and α stays.
    """

    cost: StepCost = field(repr=False, compare=False)
    """What the policy believes a step costs."""
    weight: float = _WEIGHT
    """Weight of the newest step in the moving average of α."""
    alpha: float = field(default=1.0, init=False, compare=False)
    """Moving average of accepted over tried positions; 1 before the first step."""

    needs_cost = True

    def __post_init__(self) -> None:
        _check(self.weight)

    @staticmethod
    def parameters(text: str) -> tuple[float]:
        """The weight as users write it, or nothing. Raises ValueError."""
        weight = real(text) if text else _WEIGHT
        _check(weight)
        return (weight,)

    @staticmethod
    def spelling(weight: float) -> str:
        """The policy as users write it, without the usual weight."""
        return "batch_adaptive" + (f":{written(weight)}" if weight != _WEIGHT else "")

    @property
    def name(self) -> str:
        return self.spelling(self.weight)

    def draft(self, load: StepLoad, gamma: int) -> int:
        best, best_rate, power, accepted = 0, 0.0, 1.0, 0.0
        for k in range(gamma + 1):
            rate = (load.sampling + load.decoding * accepted) / self.cost.seconds(load, k, load.decoding * k)
            if rate > best_rate:
                best, best_rate = k, rate
            power *= self.alpha
            accepted += power
        return best

    def admit(self, step: StepView) -> None:
        for request in range(step.running):
            step.admit(request, step.drafted(request))

    def learn(self, verified: Sequence[int], accepted: Sequence[int]) -> None:
        tried = sum(min(a + 1, v) for v, a in zip(verified, accepted, strict=True))
        if tried:
            self.alpha += self.weight * (sum(accepted) / tried - self.alpha)


def _check(weight: float) -> None:
    if not 0 < weight <= 1:
        raise ValueError(f"the weight must be above 0 and at most 1, got {weight}")
