"""Verify the first k positions, always."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.hardware.cost import StepLoad
from simulator.policies.contract import Policy, StepView


@dataclass(frozen=True, slots=True)
class Fixed(Policy):
    """ℓ = min(k, drafted); k = 0 is plain decoding."""

    k: int
    """Positions to verify."""

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"k must be 0 or more, got {self.k}")

    @staticmethod
    def spelling(k: int) -> str:
        """The policy as users write it."""
        return f"fixed:{k}"

    @property
    def name(self) -> str:
        return self.spelling(self.k)

    def draft(self, load: StepLoad, gamma: int) -> int:
        return min(self.k, gamma)

    def admit(self, step: StepView) -> None:
        for request in range(step.running):
            step.admit(request, min(self.k, step.drafted(request)))
