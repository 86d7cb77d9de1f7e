"""What a step holds, and how long it takes: a profile's curves as tables, one row of arithmetic for everybody."""

from __future__ import annotations

from dataclasses import dataclass, replace
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


class Longest(NamedTuple):
    """The largest of a step's decoding requests: what a padded pass is as long as."""

    verified: int
    """ℓ."""
    context_tokens: int


class Parts(NamedTuple):
    """Seconds of a step."""

    overhead_s: float
    draft_s: float
    attention_s: float
    """The target's, prompts included."""
    target_s: float
    """Everything else in the target's passes."""

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.overhead_s + self.draft_s + self.attention_s + self.target_s


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
    widening_s: Seconds = np.zeros(2)
    """By tokens of each request in the target's pass: what a context token costs beyond `context_s_per_token`, [γ + 3]; a
    shorter table is 0 throughout."""
    draft_prefill_s_per_token: float = 0.0
    """What the drafter spends on a prompt's token."""
    overhead_s_per_prompt: float = 0.0
    """Host work of taking a request in and letting it go, when its prompt is done."""
    padded: bool = False
    """Whether passes are padded to the longest request, and prompts go in passes of their own; see `Profile.padded`."""

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

    def widening(self, width: float) -> float:
        """Of a pass with so many tokens of each request, on average."""
        low = int(width)
        if low + 1 >= len(self.widening_s):
            return 0.0
        return float(self.widening_s[low] + (width - low) * (self.widening_s[low + 1] - self.widening_s[low]))

    def target(self, load: StepLoad, verified: int) -> float:
        """The target pass over prefill, anchors and `verified` draft tokens in all, contexts left out."""
        table = self.eager_s if load.prefill_tokens else self.verify_s
        return float(table[load.prefill_tokens + load.decoding + verified])

    def fixed(self, load: StepLoad, drafted: int) -> float:
        """Everything that does not depend on how much is verified."""
        return self.overhead(load) + self.draft(load, drafted) + self.attention(load)

    def seconds(self, load: StepLoad, drafted: int, verified: int) -> float:
        """The whole step as a policy foresees it, by tokens: no padding, no attention growing with what is verified."""
        return self.fixed(load, drafted) + self.target(load, verified)

    def step(self, load: StepLoad, drafted: int, verified: int, longest: Longest) -> Parts:
        """What the step really takes, by part."""
        n = load.decoding
        tokens = n * (1 + longest.verified) if self.padded else n + verified
        context = n * longest.context_tokens if self.padded else load.context_tokens
        read = replace(load, context_tokens=context)
        draft = self.draft(read, drafted) + self.draft_prefill_s_per_token * load.prefill_tokens
        attention = self.attention(read) + self.widening(tokens / n if n else 0.0) * self._context(read)
        overhead = self.overhead(load) + self.overhead_s_per_prompt * load.finishing_prefill
        if not self.padded:
            return Parts(overhead, draft, attention, self.target(load, verified))
        target = float(self.verify_s[tokens]) if n else 0.0
        if load.prefill_tokens:
            target += float(self.eager_s[load.prefill_tokens]) + (load.prefilling - 1) * float(self.eager_s[1])
        return Parts(overhead, draft, attention, target)

    def _context(self, load: StepLoad) -> int:
        if self.assumed_context_tokens < 0:
            return load.context_tokens
        return self.assumed_context_tokens * load.decoding
