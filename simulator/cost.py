"""What a step holds, and how long it takes: a profile's curves as tables, one row of arithmetic for everybody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What a step holds before anybody decides what to verify."""

    decoding: int
    """Requests that draft and verify."""
    prefilling: int = 0
    """Requests with prompt tokens in this step."""
    finishing_prefill: int = 0
    """Those of them whose last prompt token is in it: they emit a token."""
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    """Σ over prefill tokens of the tokens they attend to."""
    context_tokens: int = 0
    """Tokens whose keys and values are read: contexts of decoding requests."""

    @classmethod
    def of(cls, decoding: int) -> StepLoad:
        """Decoding requests and nothing else, of no context."""
        return cls(decoding)

    @property
    def sampling(self) -> int:
        """Requests that emit at least one token."""
        return self.decoding + self.finishing_prefill


class StepCost(NamedTuple):
    """Seconds of every part of a step, as tables; a named tuple, so that compiled code reads the same object."""

    verify_s: Seconds
    """By tokens in the target pass, [tokens + 1]."""
    eager_s: Seconds
    """The same where the step holds prefill, [tokens + 1]."""
    draft_s: Seconds
    """By drafted tokens and drafting requests, [γ + 1, requests + 1]."""
    draft_context_s_per_token: Seconds
    """What the drafter spends on each context token, by drafted tokens, [γ + 1]."""
    overhead_s: float
    overhead_s_per_request: float
    context_s_per_token: float
    prefill_s_per_pair: float
    assumed_context_tokens: int = -1
    """Context tokens of a request, where a table was made once at one context; −1 takes them as they are."""

    def overhead(self, load: StepLoad) -> float:
        """Host work of the step."""
        return self.overhead_s + self.overhead_s_per_request * (load.decoding + load.prefilling)

    def draft(self, load: StepLoad, drafted: int) -> float:
        """Drafting `drafted` tokens for every decoding request."""
        if drafted == 0 or load.decoding == 0:
            return 0.0
        context = float(self.draft_context_s_per_token[drafted]) * self._context(load)
        return float(self.draft_s[drafted, load.decoding]) + context

    def attention(self, load: StepLoad) -> float:
        """Reading contexts, and prefill's attention."""
        return self.context_s_per_token * self._context(load) + self.prefill_s_per_pair * load.prefill_pairs

    def target(self, load: StepLoad, verified: int) -> float:
        """The target pass over prefill, anchors and `verified` draft tokens in all, contexts left out."""
        table = self.eager_s if load.prefill_tokens else self.verify_s
        return float(table[load.prefill_tokens + load.decoding + verified])

    def fixed(self, load: StepLoad, drafted: int) -> float:
        """Everything that does not depend on how much is verified."""
        return self.overhead(load) + self.draft(load, drafted) + self.attention(load)

    def seconds(self, load: StepLoad, drafted: int, verified: int) -> float:
        """The whole step."""
        return self.fixed(load, drafted) + self.target(load, verified)

    def _context(self, load: StepLoad) -> int:
        if self.assumed_context_tokens < 0:
            return load.context_tokens
        return self.assumed_context_tokens * load.decoding
