"""Draft and verify what pays, knowing what will be accepted: a bound on what policies could bring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from simulator.hardware.cost import StepCost, StepLoad
from simulator.policies.contract import Policy, StepView


class _Choice(NamedTuple):
    """One more position verified."""

    position: int
    request: int
    """−1 where nothing is verified."""
    worth: float
    """Tokens verified so far, less their seconds at the price of a second: drafting left out."""


@dataclass(slots=True)
class Oracle(Policy):
    """Drafts and verifies what brings the most tokens less what its seconds could have brought otherwise.

    Not lossless, not an engine's choice. Whatever it verifies is accepted, so only how much counts: it goes position by
    position over the requests, for a padded pass is as long as its longest. A second's price is the rate of all steps with
    as many decoding requests so far, prompts left out (Dinkelbach 1967, On Nonlinear Fractional Programming): the most
    tokens per second of one step would not be the most in the long run, for a step that brings few is better cut short.
    """

    cost: StepCost = field(repr=False, compare=False)
    """What a step costs."""
    _useful: Sequence[int] = field(default=(), init=False, compare=False, repr=False)
    _paid: dict[int, tuple[int, float]] = field(default_factory=dict, init=False, compare=False, repr=False)
    """Tokens and seconds of decoding so far, by decoding requests."""
    _drafted: int = field(default=0, init=False, compare=False, repr=False)
    _bill: tuple[int, int, float] = field(default=(0, 0, 0.0), init=False, compare=False, repr=False)
    """Decoding requests, tokens and seconds of the step at hand."""

    lossless = False
    needs_cost = True

    @property
    def name(self) -> str:
        return "oracle"

    def foresee(self, useful: Sequence[int]) -> None:
        self._useful = useful

    def draft(self, load: StepLoad, gamma: int) -> int:
        """The longest of the best: a block costs the same however much of it counts."""
        price, choices = self._price(load), list(self._choices(load, self._useful))
        best, most, worth = 0, -math.inf, -math.inf
        for k in range(gamma + 1):
            worth = max([worth, *(choice.worth for choice in choices if choice.position == k)])
            value = worth - price * self.cost.fixed(load, k)
            if value >= most:
                best, most = k, value
        self._drafted = best
        return best

    def admit(self, step: StepView) -> None:
        choices = list(self._choices(step.load, [step.accepted(request) for request in range(step.running)]))
        best = max(range(len(choices)), key=lambda m: choices[m].worth)  # the first of equals
        for choice in choices[1 : best + 1]:
            step.admit(choice.request)
        alone = StepLoad(step.running, context_tokens=step.load.context_tokens)
        seconds = self.cost.fixed(alone, self._drafted) + self.cost.verifying(alone, best, choices[best].position)
        self._bill = step.running, step.running + best, seconds

    def learn(self, verified: Sequence[int], accepted: Sequence[int]) -> None:
        decoding, tokens, seconds = self._bill
        before_tokens, before_s = self._paid.get(decoding, (0, 0.0))
        self._paid[decoding] = before_tokens + tokens, before_s + seconds

    def _price(self, load: StepLoad) -> float:
        """Tokens a second; 0 before the first step of so many requests."""
        tokens, seconds = self._paid.get(load.decoding, (0, 0.0))
        return tokens / seconds if seconds > 0 else 0.0

    def _choices(self, load: StepLoad, useful: Sequence[int]) -> Iterator[_Choice]:
        """Nothing, then one position more at a time: all first ones, all second ones, and so on."""
        price, verified = self._price(load), 0
        yield _Choice(0, -1, 0.0 - price * self.cost.verifying(load, 0, 0))
        for position in range(1, max(useful, default=0) + 1):
            for request, tokens in enumerate(useful):
                if tokens >= position:
                    verified += 1
                    yield _Choice(position, request, verified - price * self.cost.verifying(load, verified, position))
