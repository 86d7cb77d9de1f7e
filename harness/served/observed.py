"""What a server was seen to do, in Specyard's words, whatever engine and tool wrote it down.

Engines count *drafts*: rounds in which something was proposed. A request also takes steps in which nothing was, of which no
draft speaks. Tokens per draft (1 + accepted / drafts) and tokens per step of a request are two numbers wherever the drafter
does not always propose, and only the second one is a speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.records import Drafting

MOST_POSITIONS: Final = 64
MOST: Final = 1e12
"""No server counts more."""
MOST_TOKENS: Final = 10_000_000
"""No answer is longer."""
_SLACK: Final = 1e-6

UNSAID: Final = "the scrapes do not say when the server began: had it begun anew in between, this would be wrong"
"""What is told of scrapes of which nobody knows whether they are of one server."""
CHANGED: Final = "K was changed in this log"
UNTIMED: Final = "llama.cpp"
"""The engine whose files time requests, and no steps."""
LEFT_OUT: Final = "left out"
"""Said of what does not count, on the screen too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafts:
    """Rounds in which something was proposed, counted. Raises ValueError for counts that contradict each other."""

    drafts: float
    """Rounds with a proposal. Whole, unless worked out of rounded averages."""
    drafted: float
    """Tokens proposed; 0 where nobody says."""
    accepted: float
    """Tokens kept."""
    accepted_at: tuple[float, ...] = ()
    """Drafts whose position k was accepted, k = 1, 2, …; empty where only the sum is known."""
    trimmed: bool = False
    """Whether less than was drafted may have been verified: late positions then look worse than they are."""

    def __post_init__(self) -> None:
        values = (self.drafts, self.drafted, self.accepted, *self.accepted_at)
        if not all(0 <= value <= MOST for value in values):
            raise ValueError(f"counts must be from 0 to {MOST:.0e}, got {', '.join(f'{value:g}' for value in values)}")
        if len(self.accepted_at) > MOST_POSITIONS:
            raise ValueError(f"{len(self.accepted_at)} positions are more than {MOST_POSITIONS}")
        if self.drafted and self.accepted > self.drafted * (1 + _SLACK):
            raise ValueError(f"{self.accepted:,.0f} tokens accepted of {self.drafted:,.0f} drafted: more than there were")
        at = self.accepted_at
        if at and at[0] > self.drafts * (1 + _SLACK) + 0.5:
            raise ValueError(f"position 1 was accepted in {at[0]:,.0f} of {self.drafts:,.0f} drafts: more than there were")
        rises = [k for k in range(1, len(at)) if at[k] > at[k - 1] * (1 + _SLACK) + 0.5]
        if rises:
            raise ValueError(
                f"position {rises[0] + 1} was accepted {at[rises[0]]:,.0f} times, position {rises[0]} before it "
                f"{at[rises[0] - 1]:,.0f} times: shares of all drafts cannot rise"
            )

    @property
    def survival(self) -> tuple[float, ...]:
        """Share of drafts whose position k was accepted; never rising, empty without a draft or positions."""
        if not self.drafts:
            return ()
        shares, least = [], 1.0
        for count in self.accepted_at:
            least = min(least, count / self.drafts)
            shares.append(least)
        return tuple(shares)

    @property
    def length(self) -> float:
        """Tokens per draft, the bonus token included."""
        return 1 + self.accepted / self.drafts if self.drafts else math.nan

    def __add__(self, other: Drafts) -> Drafts:
        size = max(len(self.accepted_at), len(other.accepted_at))
        whole = bool(self.accepted_at or not self.drafts) and bool(other.accepted_at or not other.drafts)
        at = tuple(_at(self, k) + _at(other, k) for k in range(size)) if whole else ()
        return Drafts(
            drafts=self.drafts + other.drafts, drafted=self.drafted + other.drafted, accepted=self.accepted + other.accepted,
            accepted_at=at, trimmed=self.trimmed or other.trimmed,
        )  # fmt: skip


def _at(drafts: Drafts, k: int) -> float:
    return drafts.accepted_at[k] if k < len(drafts.accepted_at) else 0.0


NOTHING: Final = Drafts(drafts=0, drafted=0, accepted=0)
"""No proposal."""


def pooled(many: Sequence[Drafts]) -> Drafts:
    """All of them together."""
    total = NOTHING
    for one in many:
        total = total + one
    return total


def of_rounds(accepted: Sequence[int], drafted: Sequence[int], gamma: int) -> Drafts:
    """Drafts of single rounds, those left out in which nothing was drafted. Raises ValueError."""
    check_gamma(gamma)
    if len(accepted) != len(drafted):
        raise ValueError(f"{len(accepted)} rounds have accepted tokens and {len(drafted)} drafted ones")
    some = [(a, d) for a, d in zip(accepted, drafted, strict=True) if d > 0]
    if any(not 0 <= a <= d for a, d in some):
        raise ValueError("a round accepted more tokens than it drafted")
    at = tuple(float(sum(a >= k for a, _ in some)) for k in range(1, gamma + 1))
    return Drafts(
        drafts=len(some), drafted=sum(d for _, d in some), accepted=sum(a for a, _ in some), accepted_at=at
    )  # fmt: skip


class NothingServed(InputError):
    """Files in which nothing was generated: they say nothing, and contradict nothing that stands beside them."""


def check_gamma(gamma: int) -> None:
    """Raise ValueError for more tokens a draft than a chain has."""
    if gamma > MOST_POSITIONS:
        raise ValueError(f"{str(gamma)[:20]} tokens a draft are a tree's, and chains are what is read here")


def of_histogram(steps: Sequence[float], drafted: float) -> Drafts:
    """Drafts from how many of them accepted 0, 1, …, K tokens; all of it 0 where nothing was proposed. Raises ValueError."""
    at = tuple(float(sum(steps[k:])) for k in range(1, len(steps)))
    return Drafts(drafts=float(sum(steps)), drafted=drafted, accepted=float(sum(at)), accepted_at=at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRequest:
    """One request."""

    prompt_tokens: int | None = None
    output_tokens: int
    drafts: Drafts
    rounds: tuple[int, ...] = ()
    """Accepted in each draft, in order; empty where nobody says."""
    verified: tuple[int, ...] = ()
    """Drafted and verified in each draft; empty where that was K in every one."""
    confidences: tuple[tuple[float, ...], ...] = ()
    """Confidences of each draft, by position; empty where nobody says."""
    output_s: float | None = None
    """Seconds from its first to its last token."""

    def __post_init__(self) -> None:
        if not 0 <= self.output_tokens <= MOST_TOKENS or not 0 <= (self.prompt_tokens or 0) <= MOST_TOKENS:
            raise ValueError(
                f"a request of {self.prompt_tokens} and {self.output_tokens} tokens: 0 to {MOST_TOKENS:,} are read"
            )

    @property
    def steps(self) -> float:
        """Steps after its first token, one token each and those accepted. Drafts that an end cuts count as accepted, so it
        may be a step or two more."""
        return max(self.output_tokens - 1 - self.drafts.accepted, self.drafts.drafts, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A stretch of time, some seconds long, as a server logs it."""

    seconds: float
    running: float
    """Requests, on average of its ends."""
    steady: bool
    """Whether about as many ran at both ends, and all steps drafted alike: else a step's time is none of any load."""
    waiting: float = 0.0
    generated_tok_s: float
    prompt_tok_s: float = 0.0
    cached: float | None = None
    """Share of prompts' tokens that were cached, of late; None where nobody says."""
    kv_used: float | None = None
    """Share of the memory for contexts that the running requests' take; None where nobody says."""
    drafts: Drafts | None = None
    """None where nothing was drafted in it, or nobody says."""
    plain: bool = False
    """Whether it is known that nothing was drafted."""
    step_s: float | None = None
    """Seconds of one step, where it is measured and not worked out."""
    wait_s: float = 0.0
    """Seconds to a request's first token over the tokens that follow it, where a benchmark measured that."""

    @property
    def generated(self) -> float:
        """Tokens."""
        return self.generated_tok_s * self.seconds

    @property
    def request_steps(self) -> float:
        """Steps of all its requests: a token each, and those accepted beside; no fewer than drafts, whose last tokens an
        answer's end cuts though they count as accepted."""
        return max(self.generated - self.drafts.accepted, self.drafts.drafts) if self.drafts else self.generated

    @property
    def drafting(self) -> float:
        """Share of its requests' steps in which something was proposed."""
        steps = self.request_steps
        return min(self.drafts.drafts / steps, 1.0) if self.drafts is not None and steps else 0.0

    @property
    def each_s(self) -> float | None:
        """Seconds that a step of a request took; None where too little ran to tell."""
        if self.step_s is not None:
            return self.step_s
        if not self.steady or self.request_steps < 20 or self.running < 0.5:
            return None
        return self.running * self.seconds / self.request_steps


class TimedStep(NamedTuple):
    """A step of an engine that times its parts."""

    running: int
    tokens: int
    """Tokens of the target's pass, anchors included."""
    step_s: float
    draft_s: float
    verify_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server was set, as far as a file says."""

    engine: str = ""
    """The engine's name as its makers write it."""
    version: str = ""
    model: str = ""
    """Its checkpoint."""
    served_as: str = ""
    """What its clients call it."""
    method: str = ""
    """The engine's own word for what drafts."""
    drafter: str = ""
    """Its checkpoint."""
    gamma: int | None = None
    """K: tokens drafted in a round at most."""
    drafting: Drafting | None = None
    """How drafts are chosen; None where nobody says."""
    table: tuple[tuple[int, int, int], ...] = ()
    """(first, last, K) by running requests, where K changes with them."""
    adaptive: bool = False
    """Whether it verifies less than it drafts, by its own policy."""
    besides: tuple[tuple[str, object], ...] | None = None
    """(name, value) of whatever else its configuration of drafting says, as the engine has it; None where nobody says."""
    request_cap: int | None = None
    temperature: float | None = None
    speculates: bool | None = None
    """Whether it drafts at all; None where nobody says."""

    @property
    def called(self) -> str:
        """The model's name; empty where no file has one."""
        return self.model or self.served_as

    def unlike(self, other: Settings) -> tuple[str, str, str] | None:
        """What shows that the two are not of one server: (what, here, there). A checkpoint may be served by another name."""
        names = [{one.rpartition("/")[2] for one in (own.model, own.served_as) if one} for own in (self, other)]
        for what in ("engine", "model", "served_as"):
            here, there = getattr(self, what), getattr(other, what)
            apart = here and there and here.rpartition("/")[2] != there.rpartition("/")[2]
            if apart and (what == "engine" or not names[0] & names[1]):
                return ("engine" if what == "engine" else "model"), here, there
        return None

    def beside(self, other: Settings) -> Settings:
        """What either says; this one's where both do."""
        names = self.__dataclass_fields__
        own = {name: getattr(self, name) for name in names}
        missing = {
            name for name, value in own.items() if value is None or value == "" or (value == () and getattr(other, name))
        }
        merged = {name: getattr(other, name) if name in missing else value for name, value in own.items()}
        return Settings(**{**merged, "adaptive": self.adaptive or other.adaptive})


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Throughput under a load, as a benchmark measured it."""

    concurrency: float
    output_tok_s: float
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one kind of file says of a server."""

    source: str
    """Name of the source."""
    files: tuple[str, ...]
    settings: Settings = field(default_factory=Settings)
    drafts: Drafts | None = None
    """All of them; None where the file could not tell, `NOTHING` where nothing was proposed."""
    length: float | None = None
    """Tokens per draft, where it is an average and nothing is counted."""
    requests: float | None = None
    """How many were answered."""
    prompt_tokens: float | None = None
    generated: float | None = None
    request_steps: float | None = None
    """Steps after the first token, of all requests: with a proposal or without."""
    engine_steps: float | None = None
    told_apart: tuple[ServedRequest, ...] = ()
    intervals: tuple[Interval, ...] = ()
    points: tuple[Point, ...] = ()
    benched: tuple[Interval, ...] = ()
    """What a benchmark ran, each a stretch of one load: times of steps, and no load that was served."""
    steps: tuple[TimedStep, ...] = ()
    """Steps whose parts were timed."""
    context_capacity: int | None = None
    """Context tokens that fit, where it says so."""
    notes: tuple[str, ...] = ()
    """How its definitions were converted, and what was left out."""
    remarks: tuple[str, ...] = ()
    """What is told on the screen too."""

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens that a request got in each of its steps after the first token."""
        if self.generated is None or self.requests is None or not self.request_steps:
            return None
        return (self.generated - self.requests) / self.request_steps

    @property
    def coverage(self) -> float | None:
        """Share of requests' steps in which something was proposed."""
        if self.drafts is None or not self.request_steps:
            return None
        return min(self.drafts.drafts / self.request_steps, 1.0)


def kind_of_method(method: str) -> str:
    """The kind of a drafter that engines call so; their own word where there is no such kind here, empty for none."""
    word = method.lower().replace("-", "_")
    if "," in word:  # llama.cpp asks one after another
        return word
    if word.startswith("ngram"):
        return "ngram"
    if word.endswith("mtp") or word == "nextn":
        return "mtp"
    if word.startswith("draft_"):
        word = "draft_model" if word in ("draft_simple", "draft_model") else word.removeprefix("draft_")
    return "eagle3" if word in ("eagle", "eagle3") else word


def finds_lengths(kind: str) -> bool:
    """Whether a kind of drafter proposes as many tokens as it finds, and no more however many it may."""
    return kind == "suffix" or one_hot(kind)


def one_hot(kind: str) -> bool:
    """Whether a kind drafts the same however its drafts are chosen."""
    return kind in KINDS and KINDS[kind].one_hot
