"""What to run at a load: from what a sweep or a study has simulated, through draws of it, to a decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from simulator.capacity import crowded, falls_short, needed, share_low
from simulator.configuration import Configuration
from simulator.decision import (
    DRAWS,
    MEASURE,
    Choice,
    Decision,
    Draw,
    Figure,
    Range,
    Sampled,
    Simulated,
    choose,
    decide,
    range_of,
    settle,
)
from simulator.hardware.profile import Profile
from simulator.load import Load, RecordedArrivals, Users
from simulator.mix import Mix
from simulator.numbers import counted
from simulator.plan import Plan, serving_of
from simulator.serving.command import Models
from simulator.setup import ANSWERS, RAMP
from simulator.sla import promises
from simulator.traces import strata

HELD_SHARE = 0.3
"""How many more draws have the profile held, as a share of those with another profile each."""
TOKENS, SHORTEST_S = 150_000, 10.0
"""Output tokens that a draw simulates, and the least seconds of it."""
MOST_TOKENS = 54_000_000
"""Most output tokens of all draws of a candidate: where recorded arrivals hold many tokens, there are fewer draws."""
FEWEST = 20
_IN_DOUBT = 0.025
"""Share of the draws that keep a promise, or break it, from which on that is open."""
_FEW_PROMPTS = 10
"""Prompts beyond one of each stratum, of which fewer leave the normal law of an interval (Student's t)."""
ELSEWHERE = 1.5
"""Times as long as the traffic's, or as short, a profile's context has to be to be spoken of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a decision is asked about."""

    plan: Plan
    load: Load
    figure: Figure
    mix: Mix
    """The traffic."""
    models: Models
    seconds: float
    """Simulated seconds of a draw, at most."""
    draws: int
    """Draws of prompts, seeds and errors, with the profile off."""
    note: str = ""
    """What is to be known whatever is decided."""


class Near(NamedTuple):
    """What comes closest to a promise that nothing keeps."""

    configuration: Configuration
    attained: Mapping[str, float | None]
    """What becomes of each promise."""
    waits: bool
    """Whether ever more requests wait."""
    times: float | None
    """How many times the load it holds within the promise; None or nan where nobody knows."""


class Evidence(Protocol):
    """What a sweep or a study has simulated at a load, and can simulate on. `times_held` is asked after `drawn`."""

    @property
    def too_short(self) -> str:
        """Why what was simulated can carry no recommendation, whatever it is; empty where it can."""

    @property
    def simulated(self) -> Sequence[Simulated]:
        """The candidates."""

    def closest(self) -> Near | None:
        """What is closest to a promise that nothing keeps; None where something keeps it, or nothing can be run."""

    def unsure(self, run: Configuration) -> str:
        """Why what was simulated of the one to run does not recommend it; empty where it does."""

    def scheduled(self, run: Configuration) -> Configuration | None:
        """What is run under a scheduler that the engine has not, where nothing that was simulated is better."""

    def throughputs(self, compared: Sequence[Configuration]) -> Sequence[float]:
        """Output tokens a second, of all GPUs and replicas, of those of them that were simulated: by which it is known how
        long to simulate."""

    def drawn(self, choice: Choice, seconds: float, draws: Sequence[Draw]) -> Mapping[Configuration, Sampled] | str:
        """What came of the candidates of a choice in every draw, or why nothing did."""

    def finished(self, run: Configuration) -> float:
        """Requests that finished in the simulation of the one to run; 0 where it was not simulated but in draws."""

    def times_held(self, run: Configuration) -> Range | None:
        """How many times its load what is run holds within the promise; None where nobody asked, or too few tell."""


def decision_of(question: Question, evidence: Evidence) -> Decision:
    """What to run, of what was simulated."""
    plan, load, engine = question.plan, question.load, question.plan.engine
    decision = Decision.about(
        engine=engine, profile=plan.profile, load=load, replicas=plan.replicas, slas=plan.slas, figure=question.figure,
        traffic=question.mix.words(load) + ("; no prefix cache" if plan.whole_prompts else ""),
        temperature=question.models.temperature,
    )  # fmt: skip
    if evidence.too_short:
        return decision.without(evidence.too_short)
    chosen = choose(
        evidence.simulated, engine, question.models.target, load=load, replicas=plan.replicas, promised=bool(plan.slas)
    )  # fmt: skip
    notes = (question.note, few_prompts(question.mix), averaged_elsewhere(plan.profile, question.mix.mean_context(load)))
    decision = msgspec.structs.replace(decision, notes=[note for note in notes if note])
    if isinstance(chosen, str):
        return decision.without(chosen + _closest(question, evidence))
    if unsure := evidence.unsure(chosen.run):
        return decision.without(unsure)
    if engine is not None and chosen.better is None:
        chosen = msgspec.structs.replace(chosen, better=evidence.scheduled(chosen.run))
    picked = chosen.run
    seconds, draws = _draws(question, evidence.throughputs(chosen.all))
    sampled = evidence.drawn(chosen, seconds, draws)
    if isinstance(sampled, str):
        return decision.without(sampled)
    chosen = settle(chosen, sampled, draws, arrivals_set=load.users is None and question.figure != "tps")
    decision = decide(decision, chosen, sampled, draws, engine, temperature=question.models.temperature)
    if decision.reason:
        return decision
    decision = msgspec.structs.replace(decision, notes=[*_unasked(chosen.run, evidence.simulated), *decision.notes])
    finished = evidence.finished(chosen.run) or evidence.finished(picked)
    shares = {promise.name for promise in promises(plan.slas) if promise.share is not None}
    kept = {name: counted_share(r, finished) if name in shares else r for name, r in decision.attained.items()}
    waiting = crowded(load, chosen.run.request_cap, plan.replicas)  # so many users hold whatever waits
    holds = evidence.times_held(chosen.run) if plan.slas and not waiting else None
    decision = msgspec.structs.replace(decision, attained=kept, holds=holds)
    if engine is None:
        return decision
    serving = serving_of(plan, engine, question.models, chosen.run)
    return msgspec.structs.replace(
        decision, command=serving.command, settings=serving.speculative or {}, notes=[*serving.told, *decision.notes]
    )


def few_prompts(mix: Mix) -> str:
    """What is to be known of intervals over prompts where there are few; else empty."""
    weights = mix.weights or {}
    asked = [r for r in mix.trace.responses if mix.weights is None or weights.get(r.domain)]
    domain_of = {r.prompt_id: r.domain for r in asked}
    drawn_from = [own for names in strata(mix.trace) if (own := [name for name in names if name in domain_of])]
    if alone := sorted({domain_of[names[0]] for names in drawn_from if len(names) == 1}):
        whose = f"of {' and of '.join(alone)}" if len({*domain_of.values()}) > 1 else "here"
        return f"{whose} there is a single prompt: how prompts differ there is in no interval; record more"
    if sum(len(names) - 1 for names in drawn_from) < _FEW_PROMPTS:
        return f"{counted(len(domain_of), 'prompt')}: intervals over so few come out too narrow; record more"
    return ""


def averaged_elsewhere(profile: Profile, context_tokens: float) -> str:
    """What is to be known of a profile whose caches are averaged over another context than the traffic's; else empty."""
    at = profile.mean_context_tokens
    if not at or 1 / ELSEWHERE < context_tokens / at < ELSEWHERE:
        return ""
    digits = 2 - len(f"{context_tokens:.0f}")
    meant = max(round(context_tokens, min(digits, 0)), 1)
    again = f": simulate again with --mean-context {meant:.0f}" if profile.source == "roofline" else ""
    return (
        f"{profile.model} keeps windows or compressed caches, which {profile.name} averages at contexts of {at:,} tokens; "
        f"yours have {meant:,.0f} on average{again}"
    )


def _unasked(run: Configuration, simulated: Sequence[Simulated]) -> list[str]:
    """That what runs stands in no table of what was asked for, where it does not."""
    if any(one.candidate == run for one in simulated):
        return []
    return [f"{run.with_cap} was not asked for: it is what one runs by default, simulated in the decision's draws alone"]


def _closest(question: Question, evidence: Evidence) -> str:
    """Who is closest to a promise that nothing keeps, and how much of the load it holds, with all that is unsure; empty
    where nobody is."""
    plan = question.plan
    near = evidence.closest() if plan.slas else None
    if near is None:
        return ""
    who = near.configuration
    drawn = None if near.waits else _drawn_alone(question, evidence, who)
    if drawn is None:
        kept = [f"{p.name}: {p.attained(near.attained.get(p.name), None)}" for p in promises(plan.slas)]
        told = ["ever more requests wait"] if near.waits else kept
        return "; " + falls_short(who.with_cap, told, near.times, plan.replicas)
    held = None if near.times is None or near.times >= 1 else evidence.times_held(who)
    times, ends = (near.times, None) if held is None else (held.value, (held.low, held.high))
    said = falls_short(who.with_cap, drawn.told, times, plan.replicas, ends)
    if drawn.is_open:
        said += f"; the {plan.profile.source} profile's errors leave it open: {MEASURE}"
    return f"; {said}"


class _Alone(NamedTuple):
    """What becomes of promises in the draws of one configuration."""

    told: list[str]
    is_open: bool
    """Whether it keeps them in some of the draws in which the profile is off, and in fewer of those in which it is right."""


def _drawn_alone(question: Question, evidence: Evidence, who: Configuration) -> _Alone | None:
    """None where draws came to nothing."""
    seconds, draws = _draws(question, evidence.throughputs([who]))
    sampled = evidence.drawn(Choice(run=who, none=who, default=None, runner_up=None, better=None), seconds, draws)
    if isinstance(sampled, str):
        return None
    off, finished = np.array([draw.off for draw in draws]), evidence.finished(who)
    told = []
    for promise in promises(question.plan.slas):
        values = np.array([one[promise.name] for one in sampled[who].attained])
        found = range_of(values[off], float(values[~off].mean()))
        found = found if promise.share is None or not finished else counted_share(found, finished)
        value, low, high = (promise.attained(end, None) for end in (found.value, found.low, found.high))
        told.append(f"{promise.name}: {value}, 95 %: {low} to {high}")
    kept = np.array(sampled[who].kept)
    kept_in, right = float(kept[off].mean()), float(kept[~off].mean())
    told.append(f"kept in {kept_in:.0%} of the draws")
    return _Alone(told, _IN_DOUBT <= kept_in <= 1 - _IN_DOUBT and kept_in > right)


def _draws(question: Question, throughputs: Sequence[float]) -> tuple[float, list[Draw]]:
    """Simulated seconds of a draw, and the draws, where so many tokens come a second of what is compared."""
    _, answer = question.mix.mean_lengths()
    least = needed(question.plan.slas)
    return draws_at_load(question.load, answer, throughputs, seconds=question.seconds, count=question.draws, requests=least)


def draws_at_load(
    load: Load, answer_tokens: float, throughputs: Sequence[float], *, seconds: float, count: int, requests: float = 0
) -> tuple[float, list[Draw]]:
    """Simulated seconds of a draw at a load, and the draws, where so many tokens come a second of what is compared; see
    `seconds_for`."""
    each_s = seconds_for(load, throughputs, seconds, answer_tokens, requests)
    tokens = each_s * max(throughputs, default=0.0)
    if isinstance(load, RecordedArrivals):
        tokens = float(load.requests.output_tokens.sum())
    elif isinstance(load, Users) and load.requests_in_all is not None:
        tokens = load.requests_in_all * answer_tokens
    return each_s, draws_for(tokens, count)


def draws_for(tokens: float, count: int = DRAWS) -> list[Draw]:
    """The draws of a decision whose every simulation gives so many tokens: `count` of them, or fewer where they are long."""
    share = min(1.0, MOST_TOKENS / max(tokens, 1.0) / (count * (1 + HELD_SHARE)))
    return [
        Draw(number, off)
        for off, most in ((True, count), (False, round(HELD_SHARE * count)))
        for number in range(max(min(FEWEST, count), round(share * most)))
    ]


def seconds_for(
    load: Load, throughputs: Sequence[float], seconds: float, answer_tokens: float, requests: float = 0
) -> float:
    """Simulated seconds of a draw, `seconds` at most; loads that end run until all are served.

    Users of a closed loop begin within the time of an answer of the slowest: answers of like lengths, none of which drafts,
    keep the places they began at, and what is counted is whole turns of them.

    Args:
        throughputs: tokens a second, of all GPUs and replicas, of what is compared.
        answer_tokens: of an answer, on average.
        requests: that have to finish in it, for its figures to tell anything.
    """
    if load.ends:
        return seconds
    slowest, fastest = (max(one(throughputs, default=0.0), 1e-9) for one in (min, max))
    answers = max(ANSWERS * (load.users or 0), requests / (1 - RAMP))
    return min(seconds, max(SHORTEST_S, TOKENS / fastest, answers * answer_tokens / slowest))


def counted_share(share: Range, count: float) -> Range:
    """A share of requests with an interval that no more than so many of them can tell: at least Wilson's."""
    low, high = share_low(share.value, count), 1 - share_low(1 - share.value, count)
    return Range(share.value, min(share.low, low), max(share.high, high))
