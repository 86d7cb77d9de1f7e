"""What all the files together say of one server: checked against each other, and each quantity from the one that knows it
best."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np

from harness.served.compared import averages_differ, coverage_checked, lengths_checked, measured_alike
from harness.served.draft_lengths import Shortener, are_short, explained, length_of, shortener_of
from harness.served.observed import (
    CHANGED,
    LEFT_OUT,
    NOTHING,
    UNSAID,
    Drafts,
    Interval,
    Observation,
    Point,
    ServedRequest,
    Settings,
    TimedStep,
    check_gamma,
    finds_lengths,
    kind_of_method,
    pooled,
)
from simulator.drafter_kinds import KINDS
from simulator.errors import InputError

ALWAYS: Final = 0.97
"""Share of steps with a draft from which on nearly every step has one."""
_WITHOUT_ENDS: Final = 0.9
"""A drafter that is never silent and proposes in more steps than that always does; what is missing are cut ends."""
_SILENT: Final = 0.25
"""A share of stretches without a draft that says that the drafter finds little, and is not switched off."""
_MISSED: Final = 100
"""Drafts that are missing where it is switched off, were it on: with fewer it may have found none."""
_BESIDE: Final = 0.15
"""A share of a load by which what ran at the ends of a stretch may be off its mean."""
_WHOLLY: Final = 0.85
"""A share of a stretch's steps with drafts: with less drafting was switched within. First tokens come from no such step."""
_ROUNDED: Final = 0.011
"""What rounding adds to an average of tokens a draft."""
_FAIR: Final = 0.3
"""A share of the steps that the largest source counts, below which another, however exact, says less of them."""
_NEAR: Final = 9
"""Stretches that say what was served at a load."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server, as its files have it."""

    observations: tuple[Observation, ...]
    settings: Settings
    gamma: int
    """K that was served; 0 where it does not draft."""
    drafts: Drafts
    counted_by: str
    """The source of `drafts`."""
    length: float
    """Tokens per draft, bonus token included."""
    tokens_per_step: float | None
    """Tokens of a request per step, after its first token; None where no file counts steps."""
    coverage: float | None
    """Share of requests' steps with a proposal."""
    steps_by: str
    """The source of those two; empty without one."""
    told_apart: tuple[ServedRequest, ...]
    intervals: tuple[Interval, ...]
    plain: tuple[Interval, ...]
    """Stretches in which nothing was drafted though something ran."""
    in_order: tuple[Interval, ...]
    """The stretches of both, as they were written."""
    baseline: tuple[Interval, ...]
    """The same of another server beside it, which does not draft: times of steps, and no load of this one's."""
    points: tuple[Point, ...]
    benched: tuple[Interval, ...]
    """What benchmarks ran, with drafts and without; empty where a log times steps itself."""
    steps: tuple[TimedStep, ...]
    """Steps whose parts were timed."""
    context_capacity: int | None
    """Context tokens that fit; None where no file says."""
    context: float | None
    """Mean tokens of a request half-way through its answer."""
    prompt_tokens: float | None
    output_tokens: float | None
    notes: tuple[str, ...]
    named: str = ""
    """The kind of its drafter, by who asks."""

    @property
    def speculates(self) -> bool:
        """Whether anything was ever drafted."""
        return self.gamma > 0

    @property
    def kind(self) -> str:
        """The kind of drafter, as Specyard calls it; as it was named where no file says it, else empty."""
        return kind_of_method(self.settings.method) or self.named

    @cached_property
    def _stretches(self) -> tuple[Interval, ...]:
        return (*self.intervals, *self.plain) if self.gamma else self.plain

    @cached_property
    def _by_load(self) -> list[Interval]:
        return sorted(self._stretches, key=lambda one: one.running)

    @cached_property
    def proposing(self) -> float:
        """Share of requests' steps with a proposal while drafting is on: all, of a drafter that always proposes; of one that
        may be silent, as it was at the loads at which it is asked."""
        shares = [one.drafting for one in self.intervals if one.drafting]
        if self.always_proposes or (not self.may_be_silent and shares and statistics.median(shares) > _WITHOUT_ENDS):
            return 1.0
        found = self.coverage
        if (most := self.drafts_to) is not None:
            on = [one for one in self._stretches if one.running <= most]
            inside = [one for one in on if one.running < most - beside(most)] or on
            if steps := sum(one.request_steps for one in inside):
                found = sum(one.drafts.drafts for one in inside if one.drafts is not None) / steps
        return 1.0 if found is None or found > (ALWAYS if self.may_be_silent else _WITHOUT_ENDS) else found

    @cached_property
    def drafts_to(self) -> float | None:
        """Requests running up to which drafts are asked for; None where they are at every load, as far as files say. By the
        table, else as stretches have it: none with more has a draft, though so many steps would, and most with fewer do."""
        if off := [first for first, _, k in self.settings.table if k == 0]:
            return min(off) - 1.0
        most = max((one.running for one in self.intervals if one.drafting), default=0.0)
        above = [one.request_steps for one in self.plain if one.running > most]
        below = [one for one in self._stretches if one.running <= most]
        drafts, steps = (sum(values) for values in (
            [one.drafts.drafts for one in below if one.drafts is not None], [one.request_steps for one in below]
        ))  # fmt: skip
        silent = sum(not one.drafting for one in below) > _SILENT * len(below)
        return most if len(above) >= _NEAR and not silent and sum(above) * drafts > _MISSED * steps else None

    @property
    def always_proposes(self) -> bool:
        """Whether the drafter is known to propose in every step in which it is asked."""
        return self.kind in KINDS and not self.may_be_silent

    @property
    def may_be_silent(self) -> bool:
        """Whether the drafter, or the engine for it, may propose nothing in a step though it is asked."""
        return finds_lengths(self.kind) or self.settings.engine == "llama.cpp" or self.settings.adaptive

    @cached_property
    def shortener(self) -> Shortener:
        """Who made drafts shorter than K."""
        return shortener_of(
            self.drafts, self.gamma, self.told_apart, self.intervals,
            finds=finds_lengths(self.kind) or self.settings.engine == "llama.cpp", adapts=self.settings.adaptive,
        )  # fmt: skip

    def served_k(self, running: float) -> int:
        """K as it was served with so many requests running: 0 where it was switched off."""
        for first, last, k in self.settings.table:
            if first <= round(running) <= last:
                return min(k, self.gamma)
        if (most := self.drafts_to) is not None and running > most:
            return 0
        at = bisect_left(self._by_load, running, key=lambda one: one.running)
        beside = self._by_load[max(at - _NEAR, 0) : at + _NEAR]
        near = sorted(beside, key=lambda one: abs(one.running - running))[:_NEAR]
        if self.proposing == 1 and near and sum(one.drafting for one in near) < len(near) / 2:
            return 0
        sizes = [size for one in near if one.drafts is not None and (size := length_of(one.drafts, self.gamma))]
        return statistics.median_low(sizes) if sizes and self.shortener == "engine" else self.gamma

    @cached_property
    def kv_used(self) -> float | None:
        """Share of the memory for contexts that a running request takes; None where no file says."""
        known = [(one.kv_used, one.running) for one in self.in_order if one.kv_used is not None]
        return sum(used for used, _ in known) / sum(running for _, running in known) if known else None

    @cached_property
    def _at_work(self) -> list[Interval]:
        return [one for one in self._by_load if one.running >= 0.5]

    @cached_property
    def running(self) -> tuple[float, ...]:
        """Requests that ran, from few to many, by stretches in which some did."""
        return tuple(one.running for one in self._at_work)

    def running_at(self, share: float) -> float:
        """How many ran at most in this share of the time in which any did: stretches may be of so many steps, and the
        busiest ones are the longest."""
        seconds = np.array([one.seconds for one in self._at_work])
        middles = np.cumsum(seconds) - seconds / 2
        return self.running[int(np.argmin(np.abs(middles - share * seconds.sum())))]

    @property
    def knows_load(self) -> bool:
        """Whether any file says how many requests ran at a time."""
        return bool(self.running or self.points)


def together(observations: Sequence[Observation], said: Sequence[str] = (), named: str = "") -> Server:
    """All observations as of one server, whose drafter is `named` by who asks. Raises InputError where they cannot be of
    one."""
    settings = Settings()
    for one in sorted(observations, key=lambda one: not one.settings.method):
        _check_same(settings, one)
        settings = settings.beside(one.settings)
    drafting = [one for one in observations if _drafts(one)]
    notes = [*said]
    gamma, drafts, by, length = 0, NOTHING, "", 1.0
    if drafting:
        gamma = _shared_gamma(drafting, settings)
        _check_lengths(drafting, gamma)
        by, drafts, length = _counted(drafting, finds=finds_lengths(kind_of_method(settings.method) or named))
        notes += [UNSAID] * any(UNSAID in one.notes for one in drafting)
        notes += [remark for one in drafting for remark in one.remarks]
        notes += [note for one in drafting for note in one.notes if note.startswith(CHANGED) or LEFT_OUT in note]
        notes += [*lengths_checked(drafting), *coverage_checked(drafting), *averages_differ(drafting)]
    plain = [one for one in observations if not _drafts(one) and one.drafts is not None]
    if not drafting:
        _check_told(observations, plain)
    if drafting and plain:
        notes.append(
            f"{', '.join(sorted({one.source for one in plain}))} of a server that does not draft: its loads are a baseline"
        )
    notes += [
        f"{one.files[0]}: does not say whether anything was drafted, so that its load counts neither with drafts nor without"
        for one in observations
        if one.drafts is None and one.length is None and not one.request_steps and _has_load(one)
    ]
    if settings.adaptive:
        notes.append(
            "the engine verifies less than it drafts by its own policy: late positions are less well known, and gains here "
            "are of drafts that are verified whole"
        )
    points = tuple(p for one in observations for p in one.points)
    steps = _steps(drafting or observations)
    step_tokens = None if steps is None else steps.tokens_per_step or _estimated(steps)
    notes += measured_alike(points, step_tokens)
    known = [one for one in observations if one.generated and one.requests]
    prompt, output = _lengths(known)
    beside = [one for one in observations if drafting and _is_baseline(one)]
    own = _stretches([one for one in observations if one not in beside])
    server = Server(
        observations=tuple(observations), settings=settings, gamma=gamma, drafts=drafts, counted_by=by, length=length,
        tokens_per_step=step_tokens,
        coverage=None if steps is None else steps.coverage, steps_by="" if steps is None else steps.source,
        told_apart=max((one.told_apart for one in drafting), key=len, default=()),
        intervals=tuple(i for i in own if not i.plain or not gamma), plain=tuple(i for i in own if i.plain),
        in_order=tuple(own),
        baseline=tuple(i for i in _stretches(beside) if i.plain),
        points=points,
        benched=() if any(one.intervals for one in observations) else tuple(i for one in observations for i in one.benched),
        steps=tuple(s for one in observations for s in one.steps),
        context_capacity=next((one.context_capacity for one in observations if one.context_capacity), None),
        context=None if prompt is None or output is None else prompt + output / 2, prompt_tokens=prompt,
        output_tokens=output,
        notes=tuple(dict.fromkeys(notes)), named=named,
    )  # fmt: skip
    return replace(
        server, notes=(*_of_short_drafts(server), *server.notes),
        intervals=tuple(replace(i, steady=False, step_s=None) if _is_mixed(i, server) else i for i in server.intervals),
    )  # fmt: skip


def _stretches(observations: Sequence[Observation]) -> list[Interval]:
    """In which something ran."""
    return [i for one in observations for i in one.intervals if i.generated_tok_s > 0 and i.running >= 0.5]


def _is_baseline(one: Observation) -> bool:
    """Whether it is of a server that was not set to draft, beside one that drafts."""
    return not _drafts(one) and not one.settings.speculates


def _is_mixed(one: Interval, server: Server) -> bool:
    """Whether drafting was switched, or K was changed, within a stretch: its mean step is none that ever ran."""
    if one.drafts is None:
        return False
    if server.may_be_silent or server.proposing < 1:
        most = server.drafts_to
        return most is not None and abs(one.running - most) <= beside(most)
    changed = server.shortener == "engine" and length_of(one.drafts, server.gamma) is None
    return changed or one.drafting < _WHOLLY


def beside(most: float) -> float:
    """So near a load at which drafting is switched some of a stretch may lie on the other side."""
    return max(1.0, _BESIDE * most)


def _of_short_drafts(server: Server) -> list[str]:
    """What shares of positions are of, in sentences, where drafts had fewer than K tokens."""
    drafts, gamma = server.drafts, server.gamma
    if drafts.trimmed or (shortener := server.shortener) == "nobody":
        return []
    of = {
        "engine": f"so many at some loads: position k is counted over drafts of k tokens, and a draft is one of {gamma}",
        "drafter": "as the drafter found them: shares of late positions are of all drafts, shorter ones too",
    }.get(shortener, "and no file says which were shorter: shares of late positions are of all drafts")
    return [f"drafts had {drafts.drafted / drafts.drafts:.1f} tokens on average, {gamma} at most, {of}"]


def _shared_gamma(drafting: Sequence[Observation], settings: Settings) -> int:
    """Tokens of a draft, by files of which each drafts. Raises InputError where they are not of one server, or none says."""
    gammas = {g for one in drafting if (g := _gamma(one))}
    if len(gammas) > 1:
        told = "; ".join(f"{one.files[0]}: K = {_gamma(one)}" for one in drafting)
        raise InputError(f"the files are of servers set otherwise ({told}): give those of one")
    gamma = next(iter(gammas), settings.gamma or 0)
    if not gamma:
        raise InputError(
            f"{drafting[0].files[0]}: no file says how many tokens a draft has: give the log from where the server starts"
        )
    try:
        check_gamma(gamma)
    except ValueError as error:
        raise InputError(f"{drafting[0].files[0]}: {error}") from None
    return gamma


def _check_told(observations: Sequence[Observation], plain: Sequence[Observation]) -> None:
    """Raise InputError where nobody knows whether anything was drafted; where only lengths are known, with why."""
    silent = [one for one in observations if one.drafts is None and (one.settings.speculates or not plain)]
    if silent:
        one = silent[0]
        why = f" ({'; '.join(one.notes)})" if one.notes and not one.request_steps else ""
        raise InputError(
            f"{one.files[0]}: does not say how many drafts there were, or none was made{why}: give the server's log or "
            "metrics too"
        )


def _check_lengths(drafting: Sequence[Observation], gamma: int) -> None:
    """Raise InputError for an average that no drafts of K tokens have: K was another one while it was written."""
    for one in drafting:
        counts = [one.drafts, *(stretch.drafts for stretch in one.intervals)]
        averages = [drafts.length for drafts in counts if drafts is not None and drafts.drafts and not drafts.accepted_at]
        most = max([*averages, one.length or 0.0])
        if most > gamma + 1 + _ROUNDED:
            raise InputError(
                f"{one.files[0]}: {most:.2f} tokens a draft are more than K = {gamma} gives: K was another one, or changed, "
                "while it was written; give what was written at one K"
            )


def _has_load(one: Observation) -> bool:
    """Whether a source says more than how the server was set."""
    return bool(one.requests or one.generated or one.points or one.intervals)


def _drafts(one: Observation) -> bool:
    return bool((one.drafts is not None and one.drafts.drafts) or one.length)


def _gamma(one: Observation) -> int:
    return one.settings.gamma or (len(one.drafts.accepted_at) if one.drafts else 0)


def _check_same(settings: Settings, one: Observation) -> None:
    if (found := settings.unlike(one.settings)) is not None:
        what, here, there = found
        raise InputError(f"{one.files[0]}: is of {what} {there}, the other files of {here}: give those of one server")


def _counted(drafting: Sequence[Observation], *, finds: bool) -> tuple[str, Drafts, float]:
    """The drafts that count most, by position where any file has positions: (source, drafts, tokens per draft). Where they
    are short, those count of which lengths are known, unless the drafter `finds` them.

    Of one source, observations are of servers or times apart.
    """
    whole = [one for one in drafting if one.drafts is not None and one.drafts.drafts]
    if not whole:
        one = drafting[0]
        lengths = [own.length for own in drafting if own.length]
        return one.source, NOTHING, sum(lengths) / len(lengths) if lengths else math.nan
    names = dict.fromkeys(one.source for one in whole)
    sets = [(name, pooled([one.drafts for one in whole if one.drafts and one.source == name])) for name in names]
    with_positions = [(name, drafts) for name, drafts in sets if drafts.accepted_at] or sets
    told = [one for one in with_positions if finds or _lengths_known(one[0], one[1], whole)]
    name, drafts = max(told or with_positions, key=lambda one: one[1].drafts)
    return name, drafts, drafts.length


def _lengths_known(source: str, drafts: Drafts, observations: Sequence[Observation]) -> bool:
    """Whether it is known of a source's drafts how many tokens they had."""
    own = [one for one in observations if one.source == source]
    gamma = max(len(drafts.accepted_at), *(_gamma(one) for one in own))
    requests, stretches = [i for one in own for i in one.told_apart], [i for one in own for i in one.intervals]
    return not are_short(drafts, gamma) or explained(requests, gamma) or explained(stretches, gamma)


def _steps(observations: Sequence[Observation]) -> Observation | None:
    """The observation that knows best how many steps requests took: counted by the engine before worked out."""
    known = [one for one in observations if one.request_steps]
    enough = _FAIR * max((one.request_steps or 0.0 for one in known), default=0.0)
    known = [one for one in known if (one.request_steps or 0.0) >= enough]
    exact = [one for one in known if one.engine_steps]
    most = exact or [one for one in known if one.requests] or known
    best = max(most, key=lambda one: one.request_steps or 0, default=None)
    if best is None or best.drafts is None:
        return best
    alike = [one for one in most if one.source == best.source and one.drafts is not None]
    return replace(
        best, drafts=pooled([one.drafts for one in alike if one.drafts is not None]),
        requests=_sum(one.requests for one in alike), generated=_sum(one.generated for one in alike),
        request_steps=_sum(one.request_steps for one in alike),
    )  # fmt: skip


def _sum(values: Iterable[float | None]) -> float | None:
    """Their sum; None where one is not known."""
    found = list(values)
    return None if None in found else sum(value or 0.0 for value in found)


def _estimated(one: Observation) -> float | None:
    """Tokens per step where nobody says how many requests there were: each has a first token, which comes from no step."""
    if not one.request_steps or one.generated is None:
        return None
    return one.generated / one.request_steps


def _lengths(known: Sequence[Observation]) -> tuple[float | None, float | None]:
    best = max((one for one in known if one.prompt_tokens), key=lambda one: one.requests or 0, default=None)
    if best is None or not best.requests:
        return None, None
    return (best.prompt_tokens or 0.0) / best.requests, (best.generated or 0.0) / best.requests
