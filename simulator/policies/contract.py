"""What a policy may look at. Written once: the live loop, the replay and the simulator all decide through it.

Verification stays lossless while the decision to verify position k of a request does not depend on what was drafted at k
or later. Confidence c_k is computed from the tokens before k, so it may be used; c_{k+1} may not, since it depends on the
token at k: a policy that looked at it and then declined position k would throw away drafts for what they say, and bias the
output (the DSpark paper's appendix gives the example p = .7/.3 → .85/.15). A `StepView` therefore shows confidences one
position at a time, and what is admitted stays admitted.
"""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from simulator.errors import InputError
from simulator.hardware.cost import StepCost, StepLoad
from simulator.numbers import is_whole
from simulator.traces import rounded_survival


class PeekError(InputError):
    """A user's policy looked at what no engine can know."""


class CausalityError(Exception):
    """A policy asked for something that its decision must not depend on."""


class PastRound(Protocol):
    """What a step needs of a round that was; `simulator.records.Round` is one."""

    @property
    def verified(self) -> int: ...
    @property
    def accepted(self) -> int: ...
    @property
    def confidence(self) -> tuple[float, ...]:
        """c_1..c_drafted."""


class Seen(NamedTuple):
    """What a past round has shown to everybody: how far the target agreed, as far as it was asked."""

    verified: int
    accepted: int
    confidence: tuple[float, ...]
    """c_1..c_{ℓ+1}, or fewer where fewer were drafted."""


class Policy(ABC):
    """How much of each draft to verify. One that learns from step to step is copied for every engine it serves."""

    lossless: ClassVar[bool] = True
    """False for bounds that look at what no engine can know; the live loop refuses these."""
    replays_exactly: ClassVar[bool] = True
    """False where old confidences beyond what was verified matter: a replay of sampled drafts is then an approximation."""
    reads_confidences: ClassVar[bool] = False
    """Whether it needs a drafter that says how sure it is."""
    wants_raw_confidences: ClassVar[bool] = False
    """Whether it ignores calibration."""
    needs_cost: ClassVar[bool] = False
    """Whether it decides by what a step costs, and takes that cost as its first argument."""
    searched: ClassVar[Sequence[str]] = ()
    """Parameters that `tuner search` tries of a user's own policy, in their order; without any, what `--policy` says."""

    @property
    def name(self) -> str:
        """The policy as users write it, parameter included, by default as its class is called: PrefixScheduler is
        prefix_scheduler. What is wrong with it is told under that name."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    @classmethod
    def parameters(cls, text: str) -> tuple[Any, ...]:
        """The class's arguments, after the cost where it needs one, from a parameter as users write it; empty without one.

        Raises ValueError for what it cannot be.
        """
        if text:
            raise ValueError("takes no parameter: its class has no `parameters`")
        return ()

    def foresee(self, useful: Sequence[int]) -> None:  # noqa: B027
        """What nobody can know before drafting, told to bounds alone: how many tokens of a whole draft would be accepted.

        One entry a decoding request of the coming step; tokens beyond the end of its response do not count.
        """

    def draft(self, load: StepLoad, gamma: int) -> int:
        """Tokens to draft for each decoding request of a step, asked before drafting; at most γ, 0 skips the drafter."""
        return gamma

    @classmethod
    def believed_cost(cls, cost: StepCost) -> StepCost:
        """What such a policy takes a step to cost, of one that is known."""
        return cost

    @abstractmethod
    def admit(self, step: StepView) -> None:
        """Admit drafted positions of the step's requests to verification."""

    def compiled(self) -> Policy | None:
        """The compiled form of a user's own: a policy of these that decides the same, simulated in its place; else None."""
        return None

    def learn(self, verified: Sequence[int], accepted: Sequence[int]) -> None:  # noqa: B027
        """What the target said in this step, one entry a decoding request."""


class StepView:
    """The drafts of one step as a policy sees them; requests are counted from 0, positions from 1."""

    def __init__(
        self,
        policy: Policy,
        drafted: Sequence[int],
        confidence: Sequence[Sequence[float]],
        past: Sequence[Sequence[PastRound]],
        accepted: Sequence[int] | None = None,
        load: StepLoad | None = None,
    ) -> None:
        """One entry a decoding request in each sequence.

        Args:
            drafted: tokens drafted.
            confidence: c_1..c_drafted; empty without a confidence head.
            past: earlier rounds, the latest last.
            accepted: tokens that would be accepted and are still wanted, where somebody knows them: a replay does, an engine
                does not.
            load: what else the step holds; by default nothing.

        Raises InputError where the policy needs confidences and the drafter has none.
        """
        if policy.reads_confidences and any(d and not c for d, c in zip(drafted, confidence, strict=True)):
            raise InputError(f"policy {policy.name}: needs confidences, and this drafter has none")
        self._policy, self._drafted, self._confidence, self._past, self._accepted = (
            policy, tuple(drafted), confidence, past, accepted,
        )  # fmt: skip
        self._admitted = [0] * len(drafted)
        self._products: dict[int, list[float]] = {}
        self.load = load or StepLoad.of(len(drafted))

    @property
    def running(self) -> int:
        """R: requests in this step."""
        return len(self._drafted)

    @property
    def longest_draft(self) -> int:
        """Tokens drafted for the request with the most."""
        return max(self._drafted, default=0)

    def drafted(self, request: int) -> int:
        """Positions that can be admitted."""
        self._check_request(request)
        return self._drafted[request]

    def admitted(self, request: int) -> int:
        """Positions admitted so far."""
        self._check_request(request)
        return self._admitted[request]

    def admit(self, request: int, count: int = 1) -> None:
        """Admit the next `count` positions of a request, for good. Raises ValueError for what is no request or no count."""
        self._check_request(request)
        if not is_whole(count):
            raise ValueError(f"admits {count!r} positions of request {request}; it must be a whole number")
        if not 0 <= count <= self._drafted[request] - self._admitted[request]:
            raise CausalityError(
                f"{self._policy.name}: admits {count} more positions of a request that has "
                f"{self._drafted[request] - self._admitted[request]} left"
            )
        self._admitted[request] += operator.index(count)

    def lengths(self) -> list[int]:
        """ℓ of every request, as far as it is admitted."""
        if not all(0 <= length <= drafted for length, drafted in zip(self._admitted, self._drafted, strict=True)):
            raise CausalityError(f"{self._policy.name}: verifies {self._admitted} tokens of drafts of {[*self._drafted]}")
        return [*self._admitted]

    def _check_request(self, request: int) -> None:
        if not is_whole(request) or not 0 <= request < len(self._drafted):
            raise ValueError(f"asks for request {request!r} of a step that has {len(self._drafted)}, counted from 0")

    def confidence(self, request: int, position: int) -> float:
        """c of a position, counted from 1, once all positions before it are admitted.

        Raises ValueError where the policy does not say that it reads them.
        """
        if not self._policy.reads_confidences:
            raise ValueError("reads confidences, which not every drafter has: its class must say `reads_confidences = True`")
        self._check_request(request)
        if position < 1:
            raise CausalityError(f"{self._policy.name}: asks for position {position}; positions are counted from 1")
        if position > self._admitted[request] + 1:
            raise CausalityError(
                f"{self._policy.name}: looks at the confidence of position {position} before position {position - 1} is "
                "admitted; it depends on the token drafted there, and the decision would bias the output"
            )
        try:
            return self._confidence[request][position - 1]
        except (IndexError, TypeError):
            raise ValueError(f"asks for position {position!r} of a draft of {self._drafted[request]}") from None

    def survival(self, request: int, position: int) -> float:
        """s_k = c_1···c_k, once all positions before it are admitted."""
        self.confidence(request, position)
        products, confidence = self._products.setdefault(request, []), self._confidence[request]
        while len(products) < position:
            products.append((products[-1] if products else 1.0) * confidence[len(products)])
        return rounded_survival(products[position - 1])

    def past(self, request: int, ago: int = 1) -> Seen | None:
        """What the request's round `ago` rounds ago showed, 1 the latest; None before its first."""
        self._check_request(request)
        self._check_ago(ago)
        if ago > len(self._past[request]):
            return None
        old = self._past[request][-ago]
        return Seen(old.verified, old.accepted, old.confidence[: old.verified + 1])

    def rounds(self, request: int) -> int:
        """How many rounds the request has behind it."""
        self._check_request(request)
        return len(self._past[request])

    def stale_confidence(self, request: int, ago: int) -> tuple[float, ...] | None:
        """All confidences of an old round. Lossless, but a replay draws them coupled with what came next."""
        if self._policy.replays_exactly:
            raise CausalityError(f"{self._policy.name}: looks at unverified old confidences but claims to replay exactly")
        self._check_request(request)
        self._check_ago(ago)
        return self._past[request][-ago].confidence if ago <= len(self._past[request]) else None

    def _check_ago(self, ago: int) -> None:
        if ago < 1:
            raise CausalityError(f"{self._policy.name}: asks for the round {ago} rounds ago; they are counted from 1")

    def accepted(self, request: int) -> int:
        """What will be accepted and is still wanted, for bounds that do not claim to be lossless."""
        if self._policy.lossless or self._accepted is None:
            raise CausalityError(f"{self._policy.name}: looks at the acceptances of this step, which nobody knows yet")
        self._check_request(request)
        return self._accepted[request]


def verify_lengths(policy: Policy, step: StepView) -> list[int]:
    """ℓ of every request of the step."""
    policy.admit(step)
    return step.lengths()
