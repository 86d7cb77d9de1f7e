"""Verify up to the first position the drafter is not sure of."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.numbers import written
from simulator.policies.contract import Policy, StepView


@dataclass(frozen=True, slots=True)
class Threshold(Policy):
    """Stops before the first position whose confidence c_k is below `least`."""

    least: float
    """In [0, 1]."""

    reads_confidences = True

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1:
            raise ValueError(f"the confidence must be from 0 to 1, got {self.least}")

    @staticmethod
    def spelling(least: float) -> str:
        """The policy as users write it."""
        return f"threshold:{written(least)}"

    @property
    def name(self) -> str:
        return self.spelling(self.least)

    def admit(self, step: StepView) -> None:
        for request in range(step.running):
            for position in range(1, step.drafted(request) + 1):
                if step.confidence(request, position) < self.least:
                    break
                step.admit(request)
