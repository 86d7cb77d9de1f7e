"""How long a step would take with k tokens drafted, as draws: believed, from a log's own steps, or from a profile.

Times of one server at one K do not say what another K would take. What is believed is stated, and what a log shows narrows
it: steps that hardly grow with what runs leave little room for tokens to cost much; steps without drafts tell what drafting
takes. A profile of the machine, moved to the log's steps as `harness hardware fit` does, tells the rest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from harness.served.acceptance import DRAWS, Acceptance
from harness.served.observed import Interval, one_hot
from harness.served.server import Server
from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.hardware.profile import same_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.hardware.measured import MeasuredPoint
    from simulator.hardware.profile import Profile

Floats = npt.NDArray[np.float64]

KNEE: Final = (300.0, 1.3)
"""Tokens in a pass at which it takes twice as long as over one, and the spread of its logarithm: an L40S turns from memory
to arithmetic at about 420, an H100 at 295, an A100 at 156 (bf16; their data sheets' FLOPs over bytes); mixtures of experts
and weights of fewer bits lie far beyond; processors, with some 3 TFLOPs and 200 GB/s, at about 15."""
_STEEP: Final = (0.5, 1.5, 16.0, 1000.0)
"""The share of machines whose passes grow by a power of their tokens from some size on, beside what each token adds, the
most of that power, and the least and the largest of such sizes: in proportion where arithmetic decides, and more where a
pass leaves what was captured, or tiles are filled up. Evenly in power and in the logarithm of sizes."""
_PASS: Final[Mapping[str, tuple[float, float]]] = {
    "ngram": (0.003, 0.7),
    "suffix": (0.003, 0.7),
    "eagle3": (0.03, 1.3),
    "mtp": (0.03, 1.3),
    "draft_model": (0.10, 0.8),
}
"""A pass of the drafter for one token, as a share of the target's over one token, and the spread of its logarithm: an
Eagle3 head or an MTP module is one layer and a head beside thirty to eighty layers, far less than a hundredth of a large
mixture, a sixth of a small target, and launches kernels of its own; a draft model is a tenth of its target."""
NAMED: Final = (*(kind for kind in KINDS if kind != "none"), *(kind for kind in _PASS if kind not in KINDS))
"""The kinds of drafters that a server's may be said to be."""
_UNKNOWN_PASS: Final = (0.04, 1.2)
_MEMORY: Final = (1.5, 1.1)
"""What all contexts that fit take to read, in passes over one token, and the spread of its logarithm: a pass reads the
weights that are used, and what memory is left beside all of them is full of contexts. Nine tenths of an H100's 80 GB leave
3.5 times what an 8B model weighs in 16 bits, those of eight leave three times what a 70B model does."""
_REQUEST: Final = (0.015, 1.6)
"""The same of one request, where nobody says how much of that memory it takes: contexts have some 2,000 tokens, each of some
8 millionths of the weights."""
_CONTEXT: Final = 512
"""Context tokens of a request where nobody says."""
_GROWN_OFF: Final = 0.04
"""What growth of a log's steps is off by, beside their own scatter: other causes make it more, hardly any make it less."""
_FALLEN: Final = 3.0
"""Standard errors by which steps with more running are shorter where something else than load decides them."""
_OTHER: Final = 5.0
"""Times as long, or as short, as a profile's are steps of another machine: of stretches that are too short to time them."""
_UNLIKE: Final = 4.0
"""Standard deviations of what is believed of a profile's parts beyond which the machine is another."""
_CHUNK: Final = (2048, 4096)
"""Tokens of passes between which a prompt's token is timed."""
_FALLS: Final = 1.1
"""Times as long, with fewer running, that steps are whose load does not decide them."""
_LEFT: Final = 0.3
"""What is left of a step at least, without its prompts."""
_PROMPT_OFF: Final = 0.3
"""What the time of prompts is off by."""
_OFF_FORM: Final = 0.08
"""What a moved profile is off by between no draft and the longest that was served, as a share of the logarithm of the one
over the other."""
_OFF_BEYOND: Final = 0.05
"""What it is off by at loads that did not run, for each doubling and half, of steps without drafts over those with."""
BINS: Final = 6
_OF_MEDIANS: Final = 1.2533
"""How many times as wide as a mean a median scatters."""
FEWEST: Final = 3
"""Stretches in a bin."""
EITHER: Final = 5
"""Stretches with drafts, and without, that are compared."""


class Costs(Protocol):
    """How long steps take, relative to each other."""

    @property
    def basis(self) -> str:
        """Where they come from, in words."""
        ...

    @property
    def knows_off(self) -> bool:
        """Whether a step without drafts is among what is known."""
        ...

    @property
    def reach(self) -> float:
        """Running requests up to which anything is known."""
        ...

    def seconds(self, k: int, running: float) -> Floats:
        """Seconds of a step of so many requests with k tokens drafted, [draws], to a factor that all k of a draw share."""
        ...

    def with_prompts(self, for_each: float) -> Costs | None:
        """The same of traffic with so many prompt tokens for each token of an answer; None where nothing tells what they
        take."""
        ...


class StepBin(NamedTuple):
    """Steps of about as many requests."""

    running: float
    each_s: float
    """Seconds of a step, the median of its stretches."""
    stretches: int
    """That it is the median of."""
    prompt_share: float
    """The share of all tokens that are prompts', in the median."""
    prompts: float
    """Prompt tokens in a step, in the median."""
    off: float
    """Standard error of the logarithm of `each_s`."""


def step_bins(intervals: Sequence[Interval]) -> list[StepBin]:
    """Median step times by how many requests ran, in up to six bins of a log's steady stretches, few prompts preferred."""
    timed = sorted(((one.running, each, one) for one in intervals if (each := one.each_s) is not None), key=lambda x: x[0])
    if not timed:
        return []
    edges = np.unique(np.geomspace(max(timed[0][0], 1.0), max(timed[-1][0] + 0.01, 1.01), BINS + 1))
    found = []
    for low, high in zip(edges, [*edges[1:-1], np.inf], strict=False):
        own = [(r, each, one) for r, each, one in timed if max(r, 1.0) >= low and max(r, 1.0) < high]
        if not own:
            continue
        shares = [one.prompt_tok_s / max(one.generated_tok_s + one.prompt_tok_s, 1e-9) for *_, one in own]
        quiet = [item for item, share in zip(own, shares, strict=True) if share <= np.median(shares)]
        found.append(
            StepBin(
                float(np.median([r for r, *_ in quiet])), float(np.median([each for _, each, _ in quiet])), len(own),
                float(np.median(shares)), float(np.median([one.prompt_tok_s * each for _, each, one in quiet])),
                _OF_MEDIANS * float(np.std(np.log([each for _, each, _ in quiet]))) / np.sqrt(len(quiet)),
            )
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class Believed:
    """From what is believed of drafters and devices, as far as a log's steps leave it open."""

    knee: Floats
    pass_share: Floats
    turn: Floats
    """Tokens in a pass from which on it takes (tokens / turn)^steep times as long."""
    steep: Floats
    request: Floats
    """What each request takes, however many of its tokens there are: its context is read."""
    block: bool
    """Whether a block takes one pass however long it is."""
    acceptance: Acceptance
    prompts: float
    """Prompt tokens for each token of an answer: they are computed in the same steps, the more the more a step gives."""
    basis: str
    knows_off: bool = False
    reach: float = math.inf

    def seconds(self, k: int, running: float) -> Floats:
        """See `Costs`; in units of a pass over one token."""
        return self.taking(k, running, prompts_in_step(self.acceptance, self.prompts, k, running))

    def taking(self, k: int, running: float, prompts: float) -> Floats:
        """The same of a step with so many tokens of prompts in it."""
        tokens, coverage = float(self.acceptance.drafted[k]), self.acceptance.coverage_at(running)
        passes = (1 if self.block and k else tokens) * coverage
        size = running * (1 + coverage * tokens) + prompts
        steeper = np.maximum(size / self.turn, 1.0) ** self.steep
        each = (1 + size / self.knee) * steeper + running * self.request + passes * self.pass_share
        return np.asarray(each, np.float64)

    def with_prompts(self, for_each: float) -> Believed:
        """See `Costs`."""
        return replace(self, prompts=for_each)


def believed(server: Server, kind: str, acceptance: Acceptance, seed: int = 0) -> Believed:
    """The prior, weighed by how a log's steps grow with what runs."""
    rng = np.random.default_rng([seed, 23])
    many = 4 * DRAWS
    middle, spread = KNEE
    knee = middle * np.exp(spread * rng.standard_normal(many))
    share, wide = _PASS.get(kind, _UNKNOWN_PASS)
    passes = share * np.exp(wide * rng.standard_normal(many))
    block = kind in KINDS and KINDS[kind].one_pass and not one_hot(kind)
    context, wider = _request(server)
    how_many, power, smallest, largest = _STEEP
    steep = power * rng.random(many) * (rng.random(many) < how_many)
    turn = smallest * (largest / smallest) ** rng.random(many)
    request = context * np.exp(wider * rng.standard_normal(many))
    made = Believed(knee, passes, turn, steep, request, block, acceptance, prompts_for_each(server), "")
    bins = [one for one in step_bins(server.intervals) if one.stretches >= FEWEST]
    weight, told = np.ones(many), "nothing: no steps of several loads are timed"
    if len(bins) > 1 and bins[-1].running >= 2 * bins[0].running:
        seen = np.log(bins[-1].each_s / bins[0].each_s)
        ends = (bins[-1], bins[0])
        most, least = (made.taking(drafting_k(server, one.running), one.running, one.prompts) for one in ends)
        grown = np.log(most / least)
        off = np.sqrt(_GROWN_OFF**2 + bins[0].off ** 2 + bins[-1].off ** 2)
        told = (
            f"steps of {bins[0].each_s * 1e3:.3g} ms at {bins[0].running:.0f} running, {bins[-1].each_s * 1e3:.3g} ms at "
            f"{bins[-1].running:.0f}"
        )
        if seen > -_FALLEN * off:
            # Hosts make steps grow too, and so on: what is seen bounds what tokens can cost from above only.
            weight = np.exp(-0.5 * (np.maximum(grown - max(seen, 0.0), 0.0) / off) ** 2)
        else:
            told = f"nothing: {told}, so that it is not what runs alone that makes them longer or shorter"
    if weight.sum() < 1e-9:
        weight = np.ones(many)
    chosen = rng.choice(many, DRAWS, p=weight / weight.sum())
    basis = f"assumed of drafters and devices, narrowed by {told}"
    return replace(
        made, knee=knee[chosen], pass_share=passes[chosen], turn=turn[chosen], steep=steep[chosen],
        request=request[chosen], basis=basis,
    )  # fmt: skip


def _request(server: Server) -> tuple[float, float]:
    """(what a request's context takes in a step, in passes over one token, the spread of its logarithm)."""
    passes, spread = _MEMORY
    return _REQUEST if server.kv_used is None else (passes * server.kv_used, spread)


def prompts_for_each(server: Server) -> float:
    """Prompt tokens for each token of an answer, as stretches with drafts have them; 0 where they do not say."""
    generated = sum(one.generated for one in server.intervals)
    return sum(one.prompt_tok_s * one.seconds for one in server.intervals) / generated if generated else 0.0


def prompts_in_step(acceptance: Acceptance, for_each: float, k: int, running: float) -> float:
    """Prompt tokens of requests that follow in a step of so many, were k tokens drafted: `for_each` token that it gives."""
    return for_each * running * float(np.median(acceptance.tokens_at(k, running))) if for_each else 0.0


def drafting_k(server: Server, running: float) -> int:
    """K of stretches with drafts and so many running."""
    return server.served_k(running) or server.gamma


@dataclass(frozen=True)
class Profiled:
    """From a profile, moved to the log's steps where it has some."""

    of: Callable[[int, float, float], Floats]
    """By k, running requests, and prompt tokens for each token of an answer."""
    basis: str
    prompts: float | None = None
    """The last of these, as it was served; None where prompts' time is left out."""
    knows_off: bool = True
    reach: float = math.inf

    def seconds(self, k: int, running: float) -> Floats:
        """See `Costs`."""
        return self.of(k, running, self.prompts or 0.0)

    def with_prompts(self, for_each: float) -> Profiled | None:
        """See `Costs`."""
        return None if self.prompts is None else replace(self, prompts=for_each)


def priced(kind: str) -> bool:
    """Whether there are profiles that know what drafts of a kind take."""
    return kind in KINDS


def profiled(profile: Profile, server: Server, kind: str, acceptance: Acceptance, seed: int = 0) -> Profiled:
    """Raises InputError where the profile has no such drafter, or its steps are far from the log's."""
    if not priced(kind) and kind:
        raise InputError(
            f"{profile.name}: no profile knows what a pass of {kind} takes; leave --hardware out, and give a log of this "
            "traffic without speculation beside these files"
        )
    if not kind or (kind not in profile.draft and not one_hot(kind)):
        there = ", ".join([*profile.draft, "ngram"])
        raise InputError(
            f"{profile.name} knows drafters of the kinds {there}; say with --drafter which of them this server's is"
            + (f" ({kind})" if kind else "")
        )
    profile, alike = _of_every_length(profile, kind)
    called = server.settings.called
    unlike = "" if same_model(profile.model, called) else f"; it is of {profile.model}, and the files are of {called}"
    unlike += alike
    bins = step_bins(server.intervals)
    if bins:
        moved, prompts = _moved(profile, bins, server, kind, acceptance, seed)
        basis = f"{profile.name} ({profile.source}), moved to {len(bins)} step times of the files{unlike}"
        return Profiled(moved, basis, prompts)
    as_it_is = _unfitted(profile, kind, _context(server, profile), acceptance, seed)
    _check_pace(as_it_is, profile, server)
    return replace(as_it_is, basis=as_it_is.basis + unlike)


def _context(server: Server, profile: Profile) -> int:
    """Context tokens of a request: by prompts and answers, or by the memory that they take."""
    capacity = server.context_capacity or profile.kv_capacity_tokens
    return int(server.context or capacity * (server.kv_used or 0.0)) or _CONTEXT


def _moved(
    profile: Profile, as_written: Sequence[StepBin], server: Server, kind: str, acceptance: Acceptance, seed: int
) -> tuple[Callable[[int, float, float], Floats], float | None]:
    """(seconds of steps by a profile that is moved to the files' own, `Profiled.prompts`). Raises InputError where it is far
    from them."""
    from harness.hardware.calibration import calibrate, simulated
    from harness.hardware.terms import Base
    from simulator.hardware.graphs import CAPTURED

    base, context = Base.of(profile, CAPTURED), _context(server, profile)
    bins, prompt_s = _without_prompts(as_written, profile)
    points = [_point(i, kind, drafting_k(server, one.running), one, context, acceptance) for i, one in enumerate(bins)]
    loops = simulated(points, [base])  # what the profile does not know is told as it is
    try:
        [found] = calibrate(points, [base], loops)
    except InputError:
        raise _unlike(profile, as_written) from None
    if np.abs(found.log_factors / [found.prior(name) for name in found.names]).max() > _UNLIKE:
        raise _unlike(profile, as_written)
    rng = np.random.default_rng([seed, 25])
    spread = np.linalg.cholesky(found.covariance + 1e-12 * np.eye(len(found.names))).T
    logs = found.log_factors + rng.standard_normal((DRAWS, len(found.names))) @ spread
    factors = {name: np.exp(logs[:, i]) for i, name in enumerate(found.names)}
    prompting = prompt_s * np.exp(_PROMPT_OFF * rng.standard_normal(DRAWS))
    parts, form = {name: base.parts[name] for name in base.linear}, rng.standard_normal((2, DRAWS))
    ran, most = (bins[0].running, bins[-1].running), len(acceptance.drafted) - 1

    @cache
    def fitted(k: int, users: int) -> Floats:
        each = {name: _step_s(part, kind, k, users, context, acceptance) for name, part in parts.items()}
        return np.asarray(sum(factors.get(name, 1.0) * s for name, s in each.items()), np.float64)

    @cache
    def of(k: int, running: float, for_each: float) -> Floats:
        users, share = max(round(running), 1), float(acceptance.drafted[k] / acceptance.drafted[-1])
        # At one K, and at the loads that ran, a log does not tell what drafts take from what a pass takes.
        between = _OFF_FORM * bow(share) * np.abs(np.log(fitted(most, users) / fitted(0, users)))
        apart = (1 - share) * sum(doublings(running, ran))
        off = np.exp(between * form[0] + _OFF_BEYOND * apart * form[1])
        return np.asarray(fitted(k, users) * off + prompting * prompts_in_step(acceptance, for_each, k, running), np.float64)

    return of, prompts_for_each(server) if prompt_s else None


def bow(share: float) -> float:
    """How far a line between two ends is from them, at a share of the way: 1 in the middle, 0 at the ends."""
    return 4 * share * (1 - share)


def doublings(running: float, loads: tuple[float, float]) -> tuple[float, float]:
    """(doublings above loads, fewest and most, halves below them) that so many running are."""
    above, below = (max(np.log2(ratio), 0.0) for ratio in (max(running, 0.1) / loads[1], loads[0] / max(running, 0.1)))
    return float(above), float(below)


def _without_prompts(bins: Sequence[StepBin], profile: Profile) -> tuple[list[StepBin], float]:
    """(step times without the prompts in them, seconds of a prompt's token), or times as they are and 0 where what is left
    would be next to nothing, or fall while more runs: prompts that were cached count as prompts in some versions' lines."""
    each_s = _prompt_token_s(profile)
    left = [one._replace(each_s=one.each_s - each_s * one.prompts) for one in bins]
    little = any(one.each_s < _LEFT * whole.each_s for one, whole in zip(left, bins, strict=True))
    falls = any(b.each_s < a.each_s / _FALLS for a, b in itertools.pairwise(left))
    rises = all(b.each_s >= a.each_s / _FALLS for a, b in itertools.pairwise(bins))
    return (list(bins), 0.0) if little or (falls and rises) else (left, each_s)


def _prompt_token_s(profile: Profile) -> float:
    """Seconds that each token of a prompt takes in a large pass: prompts come in chunks of many."""
    many, more = _CHUNK
    cost = profile.cost("none", 0, 1, more)
    return float(cost.verify_s[more] - cost.verify_s[many]) / (more - many)


def _of_every_length(profile: Profile, kind: str) -> tuple[Profile, str]:
    """(a profile that knows drafts of all lengths, what was taken for that): where it knows those of one length alone, every
    token is a pass like the others, or a block takes as long however much of it is asked for."""
    curve = profile.draft.get(kind)
    if curve is None or len(curve.drafted) > 1:
        return profile, ""
    [known], [whole] = curve.drafted, curve.requests
    lengths = (known, known + 1) if curve.block else (1, max(known, 2))
    shares = [1.0 if curve.block else length / known for length in lengths]
    curves = tuple(replace(whole, seconds=tuple(share * each for each in whole.seconds)) for share in shares)
    draft = {**profile.draft, kind: replace(curve, drafted=lengths, requests=curves)}
    return replace(profile, draft=draft), f"; it knows drafts of {known} alone, others are taken to be in proportion to it"


def _check_pace(found: Profiled, profile: Profile, server: Server) -> None:
    """Raise InputError where stretches that are too short to time are still far from what a profile's steps take."""
    each = [
        (one.running, one.running * one.seconds / one.request_steps)
        for one in server.intervals
        if one.running >= 0.5 and one.request_steps > 0 and one.step_s is None
    ]
    if len(each) < EITHER:
        return
    off = [seconds / float(np.median(found.seconds(drafting_k(server, running), running))) for running, seconds in each]
    if not 1 / _OTHER < float(np.median(off)) < _OTHER:
        running, seconds = (float(np.median(own)) for own in zip(*each, strict=True))
        raise _unlike(profile, [StepBin(running, seconds, len(each), 0.0, 0.0, 0.0)])


def _unlike(profile: Profile, bins: Sequence[StepBin]) -> InputError:
    told = ", ".join(f"{1e3 * one.each_s:.3g} ms at {one.running:.0f} running" for one in bins[:3])
    return InputError(
        f"{profile.name}: no machine like it takes what the files' steps took ({told}): are device, model, GPUs and "
        "formats the server's?"
    )


def _unfitted(profile: Profile, kind: str, context: int, acceptance: Acceptance, seed: int) -> Profiled:
    """A profile as it is, with its own errors."""
    from simulator.hardware.whatif import perturbed

    rng = np.random.default_rng([seed, 26])
    profiles = [perturbed(profile, rng)[0] for _ in range(DRAWS // 20)]

    @cache
    def of(k: int, running: float, _: float) -> Floats:
        users = max(round(running), 1)
        each = [_step_s(one, kind, k, users, context, acceptance) for one in profiles]
        return np.tile(np.array(each), 20)

    return Profiled(of, f"{profile.name} ({profile.source}) as it is: no file has step times")


def _step_s(profile: Profile, kind: str, k: int, users: int, context: int, acceptance: Acceptance) -> float:
    """Drafts of a mean length that is not whole take a time between those of whole ones."""
    from simulator.hardware.cost import Longest, StepLoad

    load = StepLoad(users, context_tokens=users * context)
    plain = profile.cost("none", 0, users, users).step(load, 0, 0, Longest(0, context)).seconds
    if not k or not acceptance.drafted[k]:
        return plain
    tokens, coverage = float(acceptance.drafted[k]), acceptance.coverage_at(users)
    drafting = 0.0
    for size, share in ((int(tokens), 1 - tokens % 1), (int(tokens) + 1, tokens % 1)):
        if share:
            cost = profile.cost(kind, size, users, users * (size + 1))
            drafting += share * cost.step(load, size, users * size, Longest(size, context)).seconds
    return coverage * drafting + (1 - coverage) * plain


def _point(line: int, kind: str, k: int, one: StepBin, context: int, acceptance: Acceptance) -> MeasuredPoint:
    """Where only some requests have a draft, a pass holds as many tokens as if all had a shorter one."""
    width = round(float(acceptance.drafted[k]) * acceptance.coverage_at(one.running))
    asked = _asked(kind, width, max(round(one.running), 1), context)
    return replace(asked, line=line, values={"step_ms": 1e3 * one.each_s}, given=True)


def _asked(kind: str, k: int, users: int, context: int) -> MeasuredPoint:
    from harness.hardware.measured import MeasuredPoint
    from simulator.load import Users
    from simulator.policies import NO_DRAFTER, PolicySpec

    return MeasuredPoint(
        line=0, load=Users(users), kind=kind if k else "none", policy=PolicySpec.fixed(k) if k else NO_DRAFTER, gamma=k,
        prompt_tokens=512, output_tokens=256, values={"step_ms": 1.0}, context=context, given=False,
    )  # fmt: skip
