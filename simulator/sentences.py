"""A decision in sentences: what to run, what it gives, and how sure that is."""

from __future__ import annotations

import math

import msgspec

from simulator.capacity import MOST, times_of
from simulator.decision import FIGURES, GAINS, Decision, Gain, Range, Rival, layout_of
from simulator.drafter_kinds import KINDS
from simulator.numbers import counted
from simulator.records import Recording
from simulator.serving.command import files_of, files_told, writing
from simulator.sla import Promise

WORTH_TELLING = 0.01
"""A gain of what an engine cannot run that is told though it is not sure."""


_ENOUGH_DRAWS = 40
"""Draws of which the ends of an interval are not nearly the least and the most."""


def too_few_draws(draws: int) -> str:
    """What to say of intervals of so few draws; empty of enough."""
    return (
        "" if draws >= _ENOUGH_DRAWS else f", of which fewer than {_ENOUGH_DRAWS} give intervals too narrow for their 95 %"
    )


def sentences(decision: Decision, *, gains: bool = True, brief: bool = False) -> list[str]:
    """The decision for people: what to run first, then gains, then what is unsure. Without the command and its notes.

    Not `gains` leaves those out where they are set out beside; `brief` ends with how the promise is kept.
    """
    d = decision
    shared = f"{layout_of(d.gpus or 1, d.replicas)}, " if (d.gpus or 1) * d.replicas > 1 else ""
    where = f"{d.profile} ({d.source}), {shared}{d.load.label}"
    promise = f", {' and '.join(promise.name for promise in d.promise)}" if d.promise else ""
    others = [line for rival in d.rivals for line in _against(d, rival)]
    if d.reason:
        return [f"No recommendation for {where}{promise}: {d.reason}.", f"Traffic: {d.traffic}.", *others]
    engine = "" if d.engine is None else f", with {d.engine.name}"
    assert d.candidate is not None
    cap = counted(d.candidate.request_cap, "request")
    said = [f"Run {d.run}{_drafts(d, d.candidate.recording)}, {cap} at a time at most{engine}: {where}{promise}."]
    if d.candidate.policy.own is not None:
        said.append(f"No engine has {d.candidate.policy}: it is of a file of your own, and would have to be built into one.")
    assert d.value is not None
    assert d.tps is not None
    assert d.p95_ttft is not None
    ttft = Range(*(1e3 * v for v in msgspec.structs.astuple(d.p95_ttft)))
    said.append(
        f"{_thousands(d.value)} {FIGURES[d.figure]}"
        + (f"; {_thousands(d.tps)} of a user on average" if d.figure != "tps" else "")
        + f"; first token within {_thousands(ttft)} ms for 95 % of requests."
    )
    room, users = d.candidate.request_cap * d.replicas, d.load.users
    said += [
        f"{signed(g.all.value)} {GAINS[d.figure]} {'over' if g.all.value >= 0 else 'against'} {g.over} "
        f"({_interval(g)}){_doubt(g)}."
        for g in (d.gains if gains else ())
    ]
    if waiting := users is not None and users > room:
        wait = f"{users - room:,} of the {counted(users, 'user')} wait for a place at any time: it serves {room:,} at a time"
        bounded = not d.promise or any(sla.measure in ("ttft", "e2e") for promise in d.promise for sla in promise.slas)
        said.append(wait + ("." if bounded else ", and no bound of the promise counts the wait."))
    said += [f"{promise.name}: {_attained(promise, d.attained[promise.name])}." for promise in d.promise]
    if d.sure is not None and d.sure < 0.975:
        said.append(f"The promise is kept in {d.sure:.0%} of the draws only: {_safer(d, d.sure, waiting=waiting)}.")
    if brief:
        return said
    if d.holds is not None:
        said.append(_enough(d, d.holds))
    said += _not_taken(d)
    errors = ", ".join(f"{name} {error:.0%}" for name, error in d.errors.items())
    said.append(
        f"Traffic: {d.traffic}. Intervals: {counted(d.draws, 'draw')} of prompts, seeds and the profile's errors "
        f"({errors}){too_few_draws(d.draws)}."
    )
    if d.next:
        said.append(f"To be surer: {d.next}.")
    return said + others


def _safer(d: Decision, sure: float, *, waiting: bool) -> str:
    """What keeps a promise more surely than what is said to be run."""
    if d.holds is not None and d.holds.low <= 0:
        safer = "in some of the others no load keeps it, and only a weaker promise or faster hardware is safer"
    else:
        safer = f"{'fewer requests at a time' if waiting else _safe(d.holds)}, or a weaker promise, is safer"
    surer = [one for one in d.rivals if not one.reason and (one.sure or 0.0) >= sure + _SURER]
    if not surer:
        return safer
    best = max(surer, key=lambda one: one.sure or 0.0)
    keep = "keep" if best.replicas > 1 else "keeps"
    return f"{best.layout} instead, told below, {keep} it in {best.sure:.0%}; {safer} too"


def _not_taken(d: Decision) -> list[str]:
    """What comes next, and what would be better and cannot be run."""
    said = list[str]()
    if d.runner_up is not None:
        clear = "" if d.runner_up.clear else ", which is within doubt: take whichever is easier to run"
        if d.runner_up.clear and d.runner_up.all.value < 0:
            clear = ": too little to run what is less plain"
        ends = d.runner_up.all
        low, high = (signed(1 / (1 + end) - 1) for end in (ends.high, ends.low))
        said.append(
            f"The next best, {d.runner_up.over}, gives {signed(-_lost(d.runner_up))} (95 %: {low} to {high}){clear}."
        )
    if d.better is not None and (d.better.all.low > 0 or d.better.all.value > WORTH_TELLING):
        more = f"{signed(d.better.all.value)} ({_interval(d.better)})"
        surely = "would add" if d.better.all.low > 0 else "may be better, which is not sure:"
        said.append(f"{d.engine_name} cannot run {d.better.over}, which {surely} {more}.")
    return said


def _enough(d: Decision, holds: Range) -> str:
    """Whether what a load is served on is enough for it, and how many times that load it holds."""
    many = d.replicas > 1
    where = "This machine" if d.gpus is None else layout_of(d.gpus, d.replicas)
    it = f"{'they hold' if many else 'it holds'} {_held(holds)}"
    if holds.low >= 1:
        return f"{where} {'are' if many else 'is'} enough: {it}."
    if holds.value < 1:
        return f"{where} {'are' if many else 'is'} not enough: {it}."
    surely = ""
    if holds.low > 0:
        replicas = math.ceil(d.replicas / holds.low - 1e-9)
        gpus = f" on {counted(d.gpus, 'GPU')} each, {replicas * d.gpus} GPUs in all," if (d.gpus or 1) > 1 and d.gpus else ""
        surely = f"; {counted(replicas, 'replica')}{gpus} would be at its lower end"
    return f"{where} may be enough, and may not: {it}{surely}."


def _held(times: Range, within: str = " within the promise") -> str:
    """How many times a load is held; of more than was tried, no more than that."""
    if times.low >= MOST:
        return f"{MOST:g} × this load{within} or more, in all the draws"
    low, high = times_of(times.low), times_of(times.high)
    most = times_of(times.value) if times.value >= MOST else f"up to {times_of(times.value)}"
    return f"{most} this load{within} (95 %: {low} to {high})"


def _against(d: Decision, rival: Rival) -> list[str]:
    """What is run against the same GPUs shared out otherwise."""
    if rival.reason:
        return [f"{rival.layout} instead: {rival.reason}."]
    gain, clear = rival.gain, rival.gain is not None and rival.gain.clear
    first = f"{layout_of(d.gpus or 1, d.replicas)} against {rival.layout}, which would run {rival.run}"
    if gain is not None:
        first += f": {signed(gain.all.value)} {GAINS[d.figure]} in the same draws ({_interval(gain)})"
        first += "" if clear else ", which is within doubt"
    said = [f"{first}."]
    there = [f"{p.name} for {_attained(p, rival.attained[p.name])}" for p in d.promise if p.name in rival.attained]
    if there and rival.sure is not None:
        there.append(f"in {rival.sure:.0%} of the draws")
    if rival.holds is not None:
        there.append(_held(rival.holds, within=""))
    if there:
        said.append(f"There the promise is kept so: {'; '.join(there)}.")
    if d.holds is not None and rival.holds is not None and rival.holds.value > _HOLDS_MORE * d.holds.value:
        said.append(f"{rival.layout} hold{'' if rival.replicas > 1 else 's'} more: to be chosen where the load is to grow.")
    elif gain is not None and not clear:
        said.append("Take whichever is easier to run.")
    said.append(
        "What GPUs that share a model take to exchange is assumed, and only one of the two layouts has as much of it: steps "
        "of both, measured, would make this surer."
    )
    return said


_SURER = 0.03
"""By how many more of the draws another layout keeps a promise to be named as safer: 60 draws tell no less."""
_HOLDS_MORE = 1.05
"""From how many times as much of the load on another layout is said to hold more: what is held is searched to 5 %."""


def told(decision: Decision) -> list[str]:
    """All of a decision for a terminal: the sentence that says what to run, the command, the other sentences, notes."""
    first, *others = sentences(decision)
    files = {} if decision.engine is None else files_of(decision.engine, decision.settings)
    command = [*writing(files), *decision.command.splitlines()]
    notes = [note for note in decision.notes if note not in files_told(files)]  # they are written
    otherwise = [
        part for words, served in beside(decision) for part in (words, *(f"  {one}" for one in served.splitlines()))
    ]
    return [first, *(f"  {line}" for line in command), *others, *otherwise, *(f"Note: {note}." for note in notes)]


def beside(decision: Decision) -> list[tuple[str, str]]:
    """The commands that serve what the other layouts would run, each with its words."""
    engine = decision.engine

    def words(rival: Rival) -> str:
        alone = rival.replicas > 1 and engine is not None and engine.flags.replicas not in rival.command.split()
        return f"{rival.layout} would be served so{', each of them' if alone else ''}:"

    return [(words(rival), rival.command) for rival in decision.rivals if rival.command and not rival.reason]


def _drafts(d: Decision, recording: Recording) -> str:
    """How drafts are chosen, where that makes a difference."""
    kind = KINDS.get(recording.kind)
    told = kind is not None and not kind.one_hot and d.engine is not None and d.engine.fields.drafting in d.settings
    return f", {recording.drafting} drafts" if told else ""


def _thousands(r: Range) -> str:
    return f"{r.value:,.0f} ({r.low:,.0f} to {r.high:,.0f})"


def _lost(gain: Gain) -> float:
    return 1 - 1 / (1 + gain.all.value)


def signed(value: float) -> str:
    """A share with its sign: +3.4%, -12%."""
    return f"{value:+.0%}" if abs(value) >= 0.0995 else f"{round(value, 3) + 0.0:+.1%}"  # no −0.0 %


def _interval(gain: Gain) -> str:
    return (
        f"95 %: {signed(gain.all.low)} to {signed(gain.all.high)}; with the profile held "
        f"{signed(gain.held.low)} to {signed(gain.held.high)}"
    )


def _safe(holds: Range | None) -> str:
    """The load at which a promise is kept whatever the draw."""
    return "a smaller load" if holds is None or holds.low >= 1 else f"{times_of(holds.low)} this load"


def _doubt(gain: Gain) -> str:
    return "" if gain.clear else ", which may be none"


def _attained(promise: Promise, kept: Range) -> str:
    if promise.share is None:
        return f"{kept.value:.3g} (95 %: {kept.low:.3g} to {kept.high:.3g})"
    value, low, high = (f"{math.floor(1000 * end + 1e-9) / 10:.1f}%" for end in (kept.value, kept.low, kept.high))
    return f"{value} of requests (95 %: {low} to {high})"  # rounded down: never 100 % of which some break it
