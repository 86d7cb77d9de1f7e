"""Verify exactly what will be accepted: the bound no policy can beat."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.policies.contract import Policy, StepView


@dataclass(frozen=True, slots=True)
class Oracle(Policy):
    """ℓ = a. Not lossless, not an engine's choice: an upper bound on what better confidences could bring."""

    lossless = False

    @property
    def name(self) -> str:
        return "oracle"

    def admit(self, step: StepView) -> None:
        for request in range(step.running):
            step.admit(request, step.accepted(request))
