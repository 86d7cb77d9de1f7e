"""What a step holds, and how long it takes: a profile's curves as tables, and the one arithmetic on them.

The functions below are plain Python. Policies, fits and the reference engine call them through `StepCost`;
`simulator.engine.rules` hands the same text to numba: a term of a step's time is written once, and numba is not needed here.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from simulator.numbers import is_whole

Seconds = npt.NDArray[np.float64]


class StepLoad(NamedTuple):
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
        return total_s(self)


Part = Literal["host", "target", "share"]
"""What moves a rate where a profile's parts are off: the host's work, the target's passes; a share moves with the step."""


def _rate(part: Part) -> float:
    """A field of `Rates`, 0 unless it is said."""
    rate: float = field(default=0.0, metadata={"part": part})
    return rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What a step takes by numbers alone, in seconds, or as shares of it.

    A further term is a field here, and its use in the arithmetic below. Profiles have a field of its name, which they read,
    check and write, `Profile.cost` hands it over, and errors, what-ifs and fits move it with its part.
    """

    overhead_s: float = _rate("host")
    """Host work of every step, whatever it holds: scheduling, sampling, launching."""
    overhead_s_per_request: float = _rate("host")
    """Host work for each running request, every step."""
    overhead_s_per_prompt: float = _rate("host")
    """Host work of taking a request in and letting it go, in the step its prompt is done."""
    context_s_per_token: float = _rate("target")
    """Reading one context token's keys and values, once for each running request."""
    prefill_s_per_pair: float = _rate("target")
    """Attention of one prefill token to one context token before it."""
    eager_s_per_token: float = _rate("target")
    """More for each token of decoding requests, prompts' left out, in a pass larger than any captured size. Policies foresee
    it of passes without prompts, which engines time, and of no others."""
    variety_s: float = _rate("target")
    """What the target's pass takes more for different texts, times the square root of their number less 1: each further one
    takes a mixture to other experts. A fit's form, and no law."""
    logits_s_per_token: float = _rate("target")
    """Logits of a token and a draw from them, a part of the target's pass: prompts' tokens, but for the last, need none."""
    idle_share: float = _rate("share")
    """What a step that drafts nothing takes more to keep the state of a drafter in step, where one is loaded: a share of the
    step, prompts left out."""
    deciding_share: float = _rate("share")
    """What a step takes more under a policy that decides by confidences, and verifies more of one request than of another: a
    share of the step, prompts left out. Policies do not foresee it."""


def rates(*parts: Part) -> tuple[str, ...]:
    """Names of the rates of some parts, by default of all."""
    return tuple(rate.name for rate in fields(Rates) if not parts or rate.metadata["part"] in parts)


@dataclass(frozen=True, eq=False, slots=True)
class StepCost(Rates):
    """Seconds of every part of a step, as tables and rates that nobody changes.

    Every field has the type that its annotation names, however it is made: for an int in place of a float, numba would
    compile the whole loop again.
    """

    verify_s: Seconds
    """By tokens in the target pass, [tokens + 1]."""
    eager_s: Seconds
    """The same where the step holds prefill, [tokens + 1]."""
    draft_s: Seconds
    """By drafted tokens and drafting requests, [γ + 1, requests + 1]."""
    draft_context_s_per_token: Seconds
    """What the drafter spends on each context token, by drafted tokens, [γ + 1]."""
    widening_s: Seconds = field(default_factory=lambda: np.zeros(2))
    """By tokens of each request in the target's pass: what a context token costs beyond `context_s_per_token`, [γ + 3]; a
    shorter table is 0 throughout."""
    draft_prefill_s_per_token: float = 0.0
    """What the drafter spends on a prompt's token."""
    assumed_context_tokens: int = -1
    """Context tokens of a request, where a table was made once at one context; −1 takes them as they are."""
    padded: bool = False
    """Whether passes are padded to the longest request, and prompts go in passes of their own; see `Profile.padded`."""
    captured: int = 0
    """Tokens of the largest pass that is captured."""

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, _MADE[str(one.type)](getattr(self, one.name)))

    def __deepcopy__(self, memo: object) -> Self:
        return self

    @property
    def compiled(self) -> Any:
        """The same as a named tuple, which compiled code reads as it reads this."""
        return _Compiled(*(getattr(self, one.name) for one in fields(self)))

    def fixed(self, load: StepLoad, drafted: int) -> float:
        """Everything that does not depend on how much is verified. ValueError where no table holds it."""
        _check_tokens(drafted, len(self.draft_s) - 1, "drafted")
        return fixed_s(self, load, drafted)

    def target(self, load: StepLoad, verified: int) -> float:
        """The target pass over prefill, anchors and `verified` draft tokens in all, contexts left out, logits for all."""
        table = self.eager_s if load.prefill_tokens else self.verify_s
        _check_tokens(verified, len(table) - 1 - load.prefill_tokens - load.decoding, "verified")
        return target_s(self, load, verified)

    def seconds(self, load: StepLoad, drafted: int, verified: int) -> float:
        """The whole step as a policy foresees it, by tokens: no padding, no attention growing with what is verified."""
        return self.fixed(load, drafted) + self.target(load, verified)

    def verifying(self, load: StepLoad, verified: int, longest: int) -> float:
        """What verifying adds to `fixed`, as it really is; `longest` is the most verified of one request."""
        return verifying_s(self, load, verified, longest)

    def step(self, load: StepLoad, drafted: int, verified: int, longest: Longest) -> Parts:
        """What the step really takes, by part."""
        return step_parts(self, load, drafted, verified, longest)


def overhead_s(cost: StepCost, load: StepLoad) -> float:
    """Host work of the step, but for requests that come and go."""
    return cost.overhead_s + cost.overhead_s_per_request * (load.decoding + load.prefilling)


def draft_s(cost: StepCost, load: StepLoad, drafted: int) -> float:
    """Drafting `drafted` tokens for every decoding request, or keeping the drafter in step; prompts left out."""
    if load.decoding == 0:
        return 0.0
    context = context_tokens(cost, load)
    if drafted == 0:
        step_s = overhead_s(cost, load) + cost.context_s_per_token * context + cost.verify_s[load.decoding]
        return float(cost.idle_share * step_s)
    return float(cost.draft_s[drafted, load.decoding] + cost.draft_context_s_per_token[drafted] * context)


def attention_s(cost: StepCost, load: StepLoad) -> float:
    """What depends on whose texts are in a step: reading contexts for one token of each request, prefill's attention, and
    their variety."""
    reading_s = cost.context_s_per_token * context_tokens(cost, load) + cost.prefill_s_per_pair * load.prefill_pairs
    return float(reading_s + cost.variety_s * (max(float(load.decoding + load.prefilling), 1.0) ** 0.5 - 1.0))


def widening_s(cost: StepCost, load: StepLoad, tokens: int) -> float:
    """What reading contexts takes beyond that in a pass of so many tokens, all decoding requests' together."""
    width = tokens / load.decoding if load.decoding else 0.0
    low = int(width)
    if low + 1 >= len(cost.widening_s):
        return 0.0
    each_s = cost.widening_s[low] + (width - low) * (cost.widening_s[low + 1] - cost.widening_s[low])
    return float(each_s * context_tokens(cost, load))


def context_tokens(cost: StepCost, load: StepLoad) -> int:
    """Context tokens that a step's decoding requests read, or are taken to read."""
    return load.context_tokens if cost.assumed_context_tokens < 0 else cost.assumed_context_tokens * load.decoding


def unsampled_s(cost: StepCost, load: StepLoad) -> float:
    """What the target's passes save where nobody asks for a token's logits."""
    return cost.logits_s_per_token * (load.prefill_tokens - load.finishing_prefill)


def target_s(cost: StepCost, load: StepLoad, verified: int) -> float:
    """The target pass over prefill, anchors and `verified` draft tokens in all, contexts left out, logits for all."""
    own = load.decoding + verified
    if not load.prefill_tokens:
        return float(cost.verify_s[own])
    seconds = float(cost.eager_s[load.prefill_tokens + own])
    return seconds + cost.eager_s_per_token * own if load.prefill_tokens + own > cost.captured else seconds


def padded_target_s(cost: StepCost, load: StepLoad, tokens: int) -> float:
    """The target's passes where prompts have passes of their own, beside one over so many padded tokens."""
    decoding_s = float(cost.verify_s[tokens]) if load.decoding else 0.0
    if not load.prefill_tokens:
        return decoding_s
    # One pass over all prompts' tokens, and for each further prompt what a pass takes however little it holds.
    return decoding_s + float(cost.eager_s[load.prefill_tokens] + (load.prefilling - 1) * cost.eager_s[1])


def verifying_s(cost: StepCost, load: StepLoad, verified: int, longest: int) -> float:
    """What of a step depends on how much is verified: the target's passes, and reading contexts in wider ones."""
    tokens = load.decoding * (1 + longest) if cost.padded else load.decoding + verified
    passes_s = padded_target_s(cost, load, tokens) if cost.padded else target_s(cost, load, verified)
    return widening_s(cost, load, tokens) + passes_s


def fixed_s(cost: StepCost, load: StepLoad, drafted: int) -> float:
    """Everything that does not depend on how much is verified, as a policy foresees it."""
    return overhead_s(cost, load) + draft_s(cost, load, drafted) + attention_s(cost, load) - unsampled_s(cost, load)


def foreseen_s(cost: StepCost, load: StepLoad, drafted: int, verified: int) -> float:
    """The whole step as a policy foresees it, by tokens: no padding, no attention growing with what is verified."""
    return fixed_s(cost, load, drafted) + target_s(cost, load, verified)


def step_parts(cost: StepCost, load: StepLoad, drafted: int, verified: int, longest: Longest) -> Parts:
    """What the step really takes, by part; `verified` draft tokens of all requests together."""
    tokens, context = load.decoding + verified, load.context_tokens
    if cost.padded:
        tokens, context = load.decoding * (1 + longest.verified), load.decoding * longest.context_tokens
    read = StepLoad(
        load.decoding, load.prefilling, load.finishing_prefill, load.prefill_tokens, load.prefill_pairs, context
    )  # compiled code knows no `_replace`
    host_s, drafting_s, wider_s = overhead_s(cost, load), draft_s(cost, read, drafted), widening_s(cost, read, tokens)
    reading_s, pairs_s = attention_s(cost, read) + wider_s, cost.prefill_s_per_pair * load.prefill_pairs
    alone_s = host_s + drafting_s + reading_s - pairs_s + float(cost.verify_s[tokens])
    deciding_s = cost.deciding_share * alone_s if load.decoding else 0.0
    passes_s = padded_target_s(cost, load, tokens) if cost.padded else target_s(cost, load, verified)
    return Parts(
        host_s + cost.overhead_s_per_prompt * load.finishing_prefill + deciding_s,
        drafting_s + cost.draft_prefill_s_per_token * load.prefill_tokens,
        reading_s,
        passes_s - unsampled_s(cost, load),
    )


def total_s(parts: Parts) -> float:
    """The whole step."""
    return parts.overhead_s + parts.draft_s + parts.attention_s + parts.target_s


TERMS = (overhead_s, draft_s, attention_s, widening_s, context_tokens, unsampled_s, target_s, padded_target_s, total_s)
"""Small functions of the arithmetic: copied to where compiled code calls them, for handing over tables takes longer than
they do."""
SUMS = (fixed_s, verifying_s, foreseen_s, step_parts)
"""Those that are made of them: compiled once each, for copies of copies take long to compile."""


def _check_tokens(tokens: int, most: int, what: str) -> None:
    """Raise ValueError for what a table does not hold, of which Python would read some from its end."""
    if not is_whole(tokens) or not 0 <= tokens <= most:
        raise ValueError(f"asks what a step of {tokens!r} {what} tokens costs; it must be a whole number from 0 to {most:,}")


def _table(seconds: npt.ArrayLike) -> Seconds:
    """A flat array of doubles that nobody writes to; copied only where it is none."""
    table = np.ascontiguousarray(seconds, np.float64).view()
    table.flags.writeable = False
    return table


_MADE: Final[dict[str, Callable[[Any], object]]] = {"Seconds": _table, "float": float, "int": int, "bool": bool}
"""By a field's annotation: its value, whatever was given."""
_Compiled: Any = namedtuple("_Compiled", [one.name for one in fields(StepCost)])  # type: ignore[misc]
