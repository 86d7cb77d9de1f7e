"""The terms of a step's time that a user's measurements can move: each a factor on a part of a profile.

A profile is the sum of its terms' parts, each times a factor. So is the time that any server takes whose steps do not depend
on their times, as those of a closed loop: simulated once for every part, it is known under all factors. Factors are
lognormal before anything is measured: most are 1 in the median, and what no profile has, such as a fixed cost for each pass
of a drafter, has a unit that is stated here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np

from simulator.hardware.cost import rates
from simulator.hardware.graphs import CAPTURED, captured_sizes, capturing
from simulator.hardware.profile import Curve, DraftCurve, Profile
from simulator.hardware.whatif import scaled
from simulator.setup import EngineLimits

TermName = Literal[
    "step",
    "request",
    "target",
    "growth",
    "token",
    "root",
    "context",
    "draft",
    "draft_pass",
    "draft_request",
    "launch",
    "eager_token",
    "prompt",
    "variety",
]
Factors = Mapping[str, float]
"""By name of a term."""


@dataclass(frozen=True, slots=True)
class Term:
    """A factor, and what is believed of it before anything is measured."""

    words: str
    spread: float
    """Standard deviation of its logarithm."""


TERMS: Final[Mapping[TermName, Term]] = {
    "step": Term("host work of a step", 0.7),
    "request": Term("host work of each request in a step", 1.0),
    "target": Term("a pass of the target over one token", 0.25),
    "growth": Term("what a pass takes beyond that, as the base has it", 0.5),
    "token": Term("more for each token of a pass", 1.8),
    "context": Term("reading contexts, and prompts' attention", 0.4),
    "draft": Term("the drafter's passes", 0.5),
    "draft_pass": Term("a fixed cost of each pass of a drafter", 1.2),
    "draft_request": Term("more for each request that drafts, in each step", 1.3),
    "launch": Term("launching kernels one by one, outside of captured sizes", 0.9),
    "eager_token": Term("more for each decoding token, outside of captured sizes", 0.8),
    "prompt": Term("more for a prompt in a pass, inside of captured sizes", 1.2),
    "variety": Term("more for different texts in a pass", 0.8),
    "root": Term("more for different tokens of a pass, by the root of their number", 1.8),
}
LEAST_STEP_S, LEAST_REQUEST_S = 0.2e-3, 15e-6
"""Units of host work where a profile has less, the second chosen with published tables in view."""
TOKEN_SHARE: Final = 0.3
"""The unit of `token`: this share of what a token costs in large passes of the base. Rooflines have a few tokens nearly for
free, and kernels of mixtures, with a token or two an expert, are far from their best there."""
ROOT_SHARE: Final = 0.02
"""The unit of `root`: this share of a pass of the target over one token, times the root of its tokens less 1."""
TIMED_SHARE: Final = 0.1
"""The same two, and that of `draft_request`, where the base has passes of many tokens timed: it knows what they take, but
not of different texts."""
DRAFT_PASS_S: Final = 0.3e-3
"""The unit of `draft_pass`: between a launch and the millisecond that was seen on a B200."""
DRAFT_REQUEST_S: Final = 30e-6
"""The unit of `draft_request`: choosing among drafts, the state that each leaves, proposals of n-grams. Rooflines have none
of it, and published tables gain less at high loads than without it."""
EAGER_TOKENS: Final = 5000
"""The unit of `eager_token`: what launching takes, over so many tokens, where the base does not say. DeepSeek-V4-Flash on
B300 has 2.9 tokens a round (one user: 6.97 ms by the engine's tables, 2.386 ms a token), so that 256 users' rounds of 5 and
7 drafted tokens take 141 and 156 ms; less launching, 104.5, and some 6 for drafts and the host that is 0.02 ms for each of
1,536 and of 2,048 tokens."""
PROMPT_SHARE: Final = 0.1
"""The unit of `prompt`, where the base does not say: this share of launching, for what of a step with a prompt engines do
not capture. Assumed."""
VARIETY_SHARE: Final = 0.1
"""The unit of `variety`: this share of a pass of the target over one token, or what its next seven tokens add where that is
less. A model without experts reads the same weights whatever the texts are."""
_FEW: Final = 8
CAPTURED_SIZES: Final[Mapping[int, float]] = {512: 0.36, 1024: 0.2, 2048: 0.14, 16384: 0.3}
"""Largest captured sizes, where nobody says, and how probable each is: vLLM's default, which half of its users keep; what
the others set for long drafts; and all there are, as with engines that count requests and not tokens (SGLang, TensorRT-LLM,
ATOM). Assumed."""
ANSWERS: Final[Mapping[float, float]] = {0.0: 0.5, 0.5: 0.5}
"""Coefficients of variation of answers' lengths, and how probable each is: most benchmarks force a length, so that users who
begin together end together, and a finite client has next to no drain; traffic has answers of many lengths. Assumed."""
VARIED: Final = 0.5
"""The same of traffic."""
_TIMED_SPREAD: Final = 0.1
"""The spread of launching, where the base has it timed: what nobody knows is how it goes on another day."""
_LARGE: Final = 1024
"""Tokens of a large pass."""
_ROOTS: Final = tuple(sorted({round(2 ** (i / 2)) for i in range(29)}))
"""Knots of a root, to 16,384 tokens."""


_OF_RATES: Final[Mapping[str, TermName]] = {
    "overhead_s_per_request": "request", "context_s_per_token": "context", "prefill_s_per_pair": "context",
    "eager_s_per_token": "eager_token", "variety_s": "variety", "logits_s_per_token": "growth",
}  # fmt: skip
_NOTHING_S: Final = 1e-15
"""What a pass takes in a profile of which only another part is left: a pass has to take time."""


@dataclass(frozen=True)
class Base:
    """What terms are factors on."""

    profile: Profile
    """With captured sizes, and a pass outside of them as if no kernel had to be launched."""
    launch_s: float
    """What launching the kernels of a pass of the target takes; 0 where nobody knows."""
    prompt_s: float
    """What a prompt adds to a pass inside of captured sizes."""
    launch_timed: bool = False
    """Whether the profile itself has passes outside of captured sizes; else launching is assumed."""
    step_tokens: int = EngineLimits().step_tokens
    """The engine's most tokens of a pass, prompts included."""
    answers: float = VARIED
    """Coefficient of variation of the lengths of answers."""
    one_by_one: frozenset[str] = frozenset()
    """Drafters that draft for one request after another: what a pass of theirs takes is taken for each."""

    @classmethod
    def of(cls, profile: Profile, captured: int, step_tokens: int = EngineLimits().step_tokens) -> Base:
        """A profile whose engine captures sizes up to `captured`, where it does not say itself.

        What launching takes is the least pass outside of captured sizes, where the profile knows one that is longer than
        the largest inside, else what is assumed of each of its kernels, if it says how many. A step with a prompt stays in
        its graph while it is no larger than that, but for what the profile, or else a share of launching, adds to it.
        """
        if profile.eager is None or not profile.captured_tokens:
            launch_s = 0.0
            if profile.launches is not None:
                launch_s, profile = profile.launches.seconds, capturing(profile, captured)
            sizes = profile.captured_tokens or captured_sizes(captured)
            made = replace(profile, captured_tokens=sizes, eager=profile.verify, launches=None)
            return cls(made, launch_s, PROMPT_SHARE * launch_s, step_tokens=step_tokens)
        largest = profile.captured_tokens[-1]
        known = profile.eager.counts[0] <= largest  # else nothing inside of captured sizes is known but for a held value
        prompt_s = float(profile.eager.at([1])[0] - profile.verify.at([1])[0]) if known else 0.0
        outside_s, inside_s = float(profile.eager.at([largest + 1])[0]), float(profile.verify.at([largest])[0])
        logits_s = profile.logits_s_per_token * (largest + 1)  # beside what is launched; see Profile.outside
        launch_s = outside_s - logits_s if outside_s > inside_s else 0.0
        made = replace(profile, eager=_unlaunched(profile, largest))
        return cls(made, launch_s, max(prompt_s, 0.0) or PROMPT_SHARE * launch_s, launch_s > 0, step_tokens)

    @classmethod
    def several(
        cls,
        profile: Profile,
        captured: int | None,
        step_tokens: int = EngineLimits().step_tokens,
        *,
        closed: bool = True,
        drafting: Collection[str] = (),
        losing: Collection[str] = (),
    ) -> tuple[Base, ...]:
        """One for each of `ANSWERS`, where there are closed loops, and each largest captured size that an engine may have:
        what is known, or all of `CAPTURED_SIZES`. Drafters that were measured take time, whatever the profile says.

        Each twice, if some drafters lose wherever they were measured: why one does is not to be seen at one load. What it
        takes too long for may be the same at all loads, or taken for each request, of which one is as likely as the other.
        """
        sizes = CAPTURED_SIZES if captured is None and profile.launches is not None else (captured or CAPTURED,)
        profile = charged(profile, {*drafting, *losing})
        made = [cls.of(profile, size, step_tokens) for size in sizes]
        made = [replace(base, answers=answers) for answers in (ANSWERS if closed else (VARIED,)) for base in made]
        return (*made, *(replace(base, one_by_one=frozenset(losing)) for base in made if losing))

    @property
    def belief(self) -> float:
        """How probable it is before anything is measured, among those of `several`."""
        return CAPTURED_SIZES.get(self.captured, 1.0) * ANSWERS.get(self.answers, 1.0)

    @property
    def captured(self) -> int:
        """Largest captured size."""
        return self.profile.captured_tokens[-1]

    def spread(self, name: TermName) -> float:
        """Standard deviation of the logarithm of a term's factor, before anything is measured."""
        return _TIMED_SPREAD if name == "launch" and self.launch_timed else TERMS[name].spread

    @property
    def units(self) -> dict[TermName, float]:
        """Seconds that a factor of 1 stands for, of the terms that have a unit."""
        profile = self.profile
        slope = float(profile.verify.at([_LARGE])[0] - profile.verify.at([1])[0]) / (_LARGE - 1)
        one_s, few_s = (float(s) for s in profile.verify.at([1, _FEW]))
        unknown = 1.0 if profile.source in ("roofline", "user") else TIMED_SHARE
        return {
            "step": max(profile.overhead_s, LEAST_STEP_S),
            "request": max(profile.overhead_s_per_request, LEAST_REQUEST_S),
            "token": unknown * TOKEN_SHARE * slope,
            "root": unknown * ROOT_SHARE * one_s,
            "draft_pass": DRAFT_PASS_S,
            "draft_request": unknown * DRAFT_REQUEST_S,
            "launch": self.launch_s,
            "prompt": self.prompt_s,
            "eager_token": profile.eager_s_per_token or self.launch_s / EAGER_TOKENS,
            "variety": profile.variety_s or min(VARIETY_SHARE * one_s, few_s - one_s),
        }

    @cached_property
    def parts(self) -> dict[TermName, Profile]:
        """The profile with one term of it left at a factor of 1, by term: it is the sum of these, launching apart."""
        return {name: _part_of(self, name) for name in self.terms}

    @property
    def linear(self) -> tuple[TermName, ...]:
        """The terms that a step's time is a sum of; launching is no sum, but the least that a pass takes."""
        return tuple(name for name in self.terms if name != "launch")

    @property
    def terms(self) -> tuple[TermName, ...]:
        """All that there are."""
        none = {"launch", "eager_token", "prompt"} if not self.launch_s else set()
        return tuple(name for name in TERMS if name not in none and (name != "variety" or self.units["variety"] > 0))


def charged(profile: Profile, drafters: Collection[str]) -> Profile:
    """A profile with an entry for some drafters that take no time by it: what a pass of theirs takes can be put there."""
    nothing = DraftCurve((1, 2), (Curve((1,), (0.0,)),) * 2, block=True)
    free = tuple(name for name in profile.free_drafters if name not in drafters)
    entries = {name: nothing for name in profile.free_drafters if name in drafters}
    return replace(profile, draft={**profile.draft, **entries}, free_drafters=free)


def _moves(rate: str) -> TermName:
    """The term that a rate of a profile is a part of: its own, or the host's and the target's first."""
    return _OF_RATES.get(rate, "step" if rate in rates("host") else "target")


def _part_of(base: Base, name: TermName) -> Profile:
    profile, units = base.profile, base.units
    nothing = Curve((1,), (_NOTHING_S,))
    drafts = {drafter: _of_draft(curve, 0.0) for drafter, curve in profile.draft.items()}
    its: dict[str, Any] = {rate: getattr(profile, rate) if _moves(rate) == name else 0.0 for rate in rates("host", "target")}
    none: dict[str, Any] = {"verify": nothing, "eager": nothing, "draft": drafts, "context_by_width": None, **its}

    def left(**parts: Any) -> Profile:
        return replace(profile, **{**none, **parts})

    match name:
        case "step":
            return left(overhead_s=units["step"])
        case "request":
            return left(overhead_s_per_request=units["request"])
        case "target":
            return left(verify=_least(profile.verify), eager=_least(_eager(profile)))
        case "growth":
            return left(verify=_beyond(profile.verify), eager=_beyond(_eager(profile)))
        case "token":
            line = Curve((1, _LARGE), (_NOTHING_S, (_LARGE - 1) * units["token"]))
            return left(verify=line, eager=line)
        case "root":
            root = Curve(_ROOTS, tuple(float(max(units["root"] * (n**0.5 - 1), _NOTHING_S)) for n in _ROOTS))
            return left(verify=root, eager=root)
        case "context":
            return left(context_by_width=profile.context_by_width)
        case "draft":
            return left(draft=profile.draft)
        case "draft_pass":
            return left(draft={
                drafter: _of_draft(curve, 0.0, units["draft_pass"], one_by_one=drafter in base.one_by_one)
                for drafter, curve in profile.draft.items()
            })  # fmt: skip
        case "draft_request":
            its_s = units["draft_request"]
            return left(draft={name: _of_draft(curve, 0.0, request_s=its_s) for name, curve in profile.draft.items()})
        case "eager_token":
            return left(eager_s_per_token=units["eager_token"])
        case "prompt":
            sizes, end = (1, base.captured, base.captured + 1), units["prompt"]
            return left(eager=Curve(sizes, (end, end, _NOTHING_S)))
        case "variety":
            return left(variety_s=units["variety"])
        case "launch":
            return left()


def launched(base: Base, floor_s: float) -> Profile:
    """What launching adds to the target's passes outside of captured sizes, none of which is shorter than `floor_s`."""
    none, curve = base.parts["launch"], _eager(base.profile)
    counts = np.array(sorted({*curve.counts, base.captured, base.captured + 1}))
    rest_s = curve.at(counts) - base.profile.logits_s_per_token * counts  # of Profile.outside
    more = np.where(counts > base.captured, np.maximum(floor_s - rest_s, 0.0), 0.0)
    return replace(none, eager=Curve(tuple(counts.tolist()), tuple(more.tolist())))


def with_factors(base: Base, factors: Factors) -> Profile:
    """The base profile under factors, one for every term."""
    parts = {name: base.parts[name] for name in base.linear}
    width, units = base.profile.context_by_width, base.units
    totals: dict[str, Any] = {
        rate: sum(factors[name] * getattr(part, rate) for name, part in parts.items()) for rate in rates("host", "target")
    }
    return replace(
        base.profile,
        verify=_sum([scaled(part.verify, factors[name]) for name, part in parts.items()]),
        eager=_sum([scaled(_eager(part), factors[name]) for name, part in parts.items()] + _launches(base, factors)),
        draft={
            drafter: _of_draft(
                curve,
                factors["draft"],
                factors["draft_pass"] * units["draft_pass"],
                factors["draft_request"] * units["draft_request"],
                one_by_one=drafter in base.one_by_one,
            )
            for drafter, curve in base.profile.draft.items()
        },
        context_by_width=None if width is None else scaled(width, factors["context"]),
        **totals,
    )


def _of_draft(
    curve: DraftCurve, factor: float, pass_s: float = 0.0, request_s: float = 0.0, *, one_by_one: bool = False
) -> DraftCurve:
    """A drafter's times, so many times as long, and with so many seconds more for each of its passes, or each request in
    one, and for each request of a step."""
    passes = [1 if curve.block else k for k in curve.drafted]
    by_request = one_by_one or request_s
    counts = [tuple(sorted({*own.counts, *((1, _LARGE) if by_request else ())})) for own in curve.requests]

    def more_s(n: int, many: int) -> float:
        return pass_s * many * (n if one_by_one else 1) + request_s * n

    requests = [
        Curve(at, tuple(float(factor * s + more_s(n, many)) for n, s in zip(at, own.at(at), strict=True)))
        for at, own, many in zip(counts, curve.requests, passes, strict=True)
    ]
    return replace(
        curve, requests=tuple(requests), context_s_per_token=factor * curve.context_s_per_token,
        prefill_s_per_token=factor * curve.prefill_s_per_token,
    )  # fmt: skip


def _launches(base: Base, factors: Factors) -> list[Curve]:
    """What launching adds, where it is known how many kernels there are: the rest of a pass counts as its smallest does."""
    if not base.launch_s:
        return []
    more = launched(base, factors["launch"] * base.units["launch"] / factors["target"])
    return [scaled(_eager(more), factors["target"])]


def _unlaunched(profile: Profile, captured: int) -> Curve:
    """Passes outside of captured sizes as if nothing had to be launched: beyond the largest they grow as launched ones."""
    assert profile.eager is not None
    inside = [n for n in profile.verify.counts if n <= captured]
    beyond = [captured + 1, *(n for n in profile.eager.counts if n > captured + 1)]
    grown = profile.eager.at(beyond) - profile.eager.at([captured + 1])[0]
    seconds = [*profile.verify.at(inside), *(profile.verify.at([captured])[0] + np.maximum(grown, 0.0))]
    return Curve((*inside, *beyond), tuple(float(s) for s in seconds))


def _eager(profile: Profile) -> Curve:
    return profile.eager or profile.verify


def _least(curve: Curve) -> Curve:
    """What a pass over one token takes, whatever it holds."""
    return Curve((1,), (float(curve.at([1])[0]),))


def _beyond(curve: Curve) -> Curve:
    """What passes take beyond that."""
    least_s = float(curve.at([1])[0])
    return Curve(curve.counts, tuple(max(s - least_s, _NOTHING_S) for s in curve.seconds))


def _sum(curves: list[Curve]) -> Curve:
    counts = sorted({count for curve in curves for count in curve.counts})
    return Curve(tuple(counts), tuple(np.sum([curve.at(counts) for curve in curves], 0).tolist()))
