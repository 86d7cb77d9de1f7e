"""Budget from old confidences, filled with the best of today's: the DSpark paper's section 5.2, and vLLM's version of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from simulator.hardware.cost import StepCost
from simulator.numbers import real, whole, written
from simulator.policies.contract import Policy, StepView
from simulator.policies.ranking import best_first
from simulator.traces import survival

_LAG = 2
VLLM_PROFILED_CONTEXT_TOKENS = 8192
"""The context vLLM 0.32 profiles its cost tables at."""


@dataclass(frozen=True, slots=True)
class LaggedScheduler(Policy):
    """The total budget is the best of all, not the first fall, so that jagged step times cannot stop it early.

    Lossless, because the budget knows nothing of today's draft. Requests without rounds so old count as sure (1.0),
    and so do positions that the old round did not draft.
    """

    cost: StepCost = field(repr=False, compare=False)
    """What the scheduler believes a step costs."""
    lag: int = _LAG
    """Rounds between a confidence and the budget it enters."""
    ema: float = 0.0
    """Weight of what was known before, in a moving average of old confidences; 0 takes the old round alone."""

    replays_exactly = False
    reads_confidences = True
    needs_cost = True

    def __post_init__(self) -> None:
        _check(self.lag, self.ema)

    @staticmethod
    def parameters(text: str) -> tuple[int, float]:
        """Lag and moving average as users write them: 2, 2/0.5, or nothing. Raises ValueError."""
        lag, _, ema = text.partition("/")
        found = whole(lag or str(_LAG)), real(ema or "0")
        _check(*found)
        return found

    @staticmethod
    def spelling(lag: int, ema: float) -> str:
        """The policy as users write it, without the usual lag where nothing else is told."""
        return "lagged_scheduler" + (f":{lag}/{written(ema)}" if ema else f":{lag}" if lag != _LAG else "")

    @property
    def name(self) -> str:
        return self.spelling(self.lag, self.ema)

    def admit(self, step: StepView) -> None:
        left = self._budget(step)
        for _ in best_first(step):
            if left == 0:
                break
            left -= 1

    def _budget(self, step: StepView) -> int:
        """Positions to verify in all: the argmax of expected tokens per second, the smallest of equals."""
        old = sorted((s for r in range(step.running) for s in self._old_survivals(step, r)), reverse=True)
        fixed = self.cost.fixed(step.load, step.longest_draft)
        tokens = float(step.load.sampling)
        best, best_rate = 0, tokens / (fixed + self.cost.target(step.load, 0))
        for count, s in enumerate(old, 1):
            tokens += s
            rate = tokens / (fixed + self.cost.target(step.load, count))
            if rate > best_rate:
                best, best_rate = count, rate
        return best

    def _old_survivals(self, step: StepView, request: int) -> list[float]:
        confidence = [1.0] * step.drafted(request)
        for ago in range(step.rounds(request), self.lag - 1, -1):
            drafted = step.stale_confidence(request, ago) or ()
            old = (*drafted, *[1.0] * (len(confidence) - len(drafted)))
            confidence = [self.ema * mean + (1 - self.ema) * c for mean, c in zip(confidence, old, strict=False)]
        return [float(s) for s in survival(confidence)] if confidence else []


class VllmAdaptive(LaggedScheduler):
    """vLLM 0.32's adaptive verification: raw confidences two rounds old, costs profiled once at one context."""

    name = "vllm_adaptive"
    wants_raw_confidences = True

    @classmethod
    def believed_cost(cls, cost: StepCost) -> StepCost:
        return replace(cost, assumed_context_tokens=VLLM_PROFILED_CONTEXT_TOKENS)


def _check(lag: int, ema: float) -> None:
    if not 1 <= lag <= 8:
        raise ValueError(f"the lag must be from 1 to 8 rounds, got {lag}")
    if not 0 <= ema < 1:
        raise ValueError(f"the moving average must be from 0 to below 1, got {ema}")
