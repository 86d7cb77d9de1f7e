"""vLLM's `/metrics`: counters since the server began, so that two scrapes say what was in between."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from harness.served.observed import NOTHING, Drafts, Interval, NothingServed, Observation, Settings
from harness.served.sources.prometheus import (
    Counts,
    Scrape,
    Window,
    begins,
    beside_baseline,
    in_all,
    remarks,
    together,
    windows,
)
from harness.served.text import Text
from simulator.errors import InputError

_SPEC = "vllm:spec_decode_num_"
_COUNTERS: Mapping[str, str] = {
    "generated": "vllm:generation_tokens", "prompt": "vllm:prompt_tokens", "first": "vllm:time_to_first_token_seconds_count",
    "steps": "vllm:iteration_tokens_total_count", "drafts": f"{_SPEC}drafts", "drafted": f"{_SPEC}draft_tokens",
    "accepted": f"{_SPEC}accepted_tokens",
}  # fmt: skip
_STEP = ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")
"""The time of each step of a request, and what it was called before vLLM 0.12."""
_POSITIONS = f"{_SPEC}accepted_tokens_per_pos"
_BASELINE = {"generated", "steps", "slots", "slots_s"}
"""What says how long steps without drafts took, and with how many requests."""

_ROUND = 64
"""Tokens of a step: a scrape may fall between two counters."""
_RUNNING = "vllm:num_requests_running"
_ALIKE = 0.15
"""Spread of the logarithm of ratios that are one number."""
_FEWEST = 3
"""Stretches that show it."""
_SEVERAL = 1.5
"""Times as many requests run as have a token in a counted step, from which several processes count the steps."""


class VllmMetrics:
    """See the module."""

    name: ClassVar[str] = "vLLM's /metrics"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """Samples whose names begin with `vllm:`."""
        return text.whole is None and any(begins(line, "vllm") for line in text.lines)

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """One observation of all servers that draft, and one of those that do not, scraped once or often."""
        scrapes = Scrape.all_of(texts, "vllm:")
        groups = beside_baseline(scrapes, _counts, _BASELINE)
        if len(groups) == 1:
            return [self._together(groups[0], texts)]
        return [self._together(own, list({id(s.text): s.text for s in own}.values())) for own in groups]

    def _together(self, scrapes: Sequence[Scrape], texts: Sequence[Text]) -> Observation:
        for scrape in scrapes:
            if scrape.total("vllm:generation_tokens") is None and "drafts" not in _counts(scrape):
                raise InputError(f"{scrape.text.name}: has no vllm:generation_tokens_total: it was cut, or filtered")
            if "drafts" not in (counted := _counts(scrape)) and {"drafted", "accepted"} & counted.keys():
                raise InputError(
                    f"{scrape.text.name}: counts drafted tokens and has no {_SPEC}drafts_total: it was filtered, or is of "
                    "vLLM before 0.9.1, which counts no drafts; the log of such a server says more"
                )
        models = sorted({name for scrape in scrapes for name in scrape.labels("model_name")})
        if len(models) > 1:
            raise InputError(
                f"{scrapes[0].text.name}: metrics of {len(models)} models ({', '.join(models)}): give those of one server"
            )
        _check_one_k(scrapes)
        whole = all(scrape.total("vllm:generation_tokens") is not None for scrape in scrapes)
        clock = "generated" if whole else "drafts"
        counters = in_all(scrapes, _counts)
        found = windows(scrapes, counters, clock)
        if all(not window.grown.get(clock) for window in found):
            raise NothingServed(
                f"{found[0].scrapes[0].text.name}: nothing was generated "
                + ("since the server began" if found[0].since_start else "between the scrapes")
            )
        speculating = [window for window in found if "drafts" in window.grown]
        gammas = {_gamma(window) for window in speculating}
        if len(gammas) > 1:
            told = ", ".join(f"K = {_gamma(w)}" for w in found)
            raise InputError(
                f"{found[-1].scrapes[-1].text.name}: the scrapes are of servers set otherwise ({told}): give those of one"
            )
        processes, gamma = _processes(found, counters), next(iter(gammas), 0)
        intervals = [one for window in found for one in _intervals(window, counters, gamma, processes or 1)]
        made = _observation(texts, found, models[0] if models else "", gamma or None, intervals)
        return replace(made, remarks=(*_instances(scrapes), *_of_processes(scrapes, processes)) if intervals else ())


def _instances(scrapes: Sequence[Scrape]) -> tuple[str, ...]:
    """What to say of a scrape of several servers."""
    several = max(len(scrape.by_server("vllm:generation_tokens", "model_name")) for scrape in scrapes)
    return (f"{several} servers in the scrapes: what runs is told of one of them, on average",) if several > 1 else ()


def _check_one_k(scrapes: Sequence[Scrape]) -> None:
    """Raise InputError where servers within one scrape, as Prometheus has them, draft other numbers of tokens."""
    for scrape in scrapes:
        drafted = {who: len(at) for who, at in scrape.by_server(_POSITIONS, "position").items()}
        made = {who for who in drafted if who}
        if len({drafted[who] for who in made}) > 1:
            told = ", ".join(f"K = {drafted[who]} at {who}" for who in sorted(made))
            raise InputError(f"{scrape.text.name}: is of servers set otherwise ({told}): give those of one K")


def _counts(scrape: Scrape) -> Counts:
    found = {name: value for name, counter in _COUNTERS.items() if (value := scrape.total(counter)) is not None}
    step = next((name for name in _STEP if scrape.total(f"{name}_count") is not None), _STEP[0])
    slots = {own: value for own, end in (("slots", "count"), ("slots_s", "sum"))
             if (value := scrape.total(f"{step}_{end}")) is not None}  # fmt: skip
    at = {f"at {int(position)}": value for position, value in scrape.by_label(_POSITIONS, "position").items()}
    return {**found, **slots, **at}


def _gamma(window: Window) -> int:
    return max((int(name[3:]) + 1 for name in window.grown if name.startswith("at ")), default=0)


def _observation(
    texts: Sequence[Text], found: Sequence[Window], model: str, gamma: int | None, intervals: Sequence[Interval]
) -> Observation:
    total, notes = together(found), remarks(found)
    if "generated" not in total:
        notes.append("it was filtered: how many steps had no draft is not in it")
    speculates = "drafts" in total
    drafts = None
    if speculates:
        drafts = _drafts(texts[0], total, gamma or 0)
        notes.append("a draft is a step in which something was proposed; per-position shares are of all drafts")
    return Observation(
        source=VllmMetrics.name, files=tuple(text.name for text in texts),
        settings=Settings(engine="vLLM", served_as=model, gamma=gamma or None, speculates=speculates),
        drafts=drafts if speculates else NOTHING, requests=total.get("first"), prompt_tokens=total.get("prompt"),
        generated=total.get("generated"), request_steps=total.get("slots"), engine_steps=total.get("steps"),
        intervals=tuple(intervals), notes=tuple(notes),
    )  # fmt: skip


def _drafts(text: Text, grown: Counts, gamma: int) -> Drafts:
    whole, accepted = sum(grown.get(f"at {k}", 0.0) for k in range(gamma)), grown.get("accepted", 0.0)
    apart = abs(whole - accepted) > max(_ROUND, 0.005 * accepted) or not {"drafted", "accepted"} <= grown.keys()
    if grown["drafts"] and apart:
        raise InputError(
            f"{text.name}: {accepted:,.0f} tokens were accepted, {whole:,.0f} of them at the {gamma} positions that it has: "
            "it was cut, or filtered"
        )
    if grown["drafts"] and grown["drafted"] > grown["drafts"] * gamma + max(_ROUND, 0.005 * grown["drafted"]):
        raise InputError(
            f"{text.name}: {grown['drafted']:,.0f} tokens were drafted in {grown['drafts']:,.0f} drafts of {gamma} at most: "
            "it was cut, or filtered"
        )
    try:
        return Drafts(
            drafts=grown["drafts"], drafted=grown.get("drafted", 0.0), accepted=grown.get("accepted", 0.0),
            accepted_at=tuple(grown.get(f"at {k}", 0.0) for k in range(gamma)),
        )  # fmt: skip
    except ValueError as error:
        raise InputError(f"{text.name}: {error}") from None


def _processes(found: Sequence[Window], counters: Callable[[Scrape], Counts]) -> int | None:
    """API servers of an engine (`--api-server-count`), each of which counts the steps in which a request of its own got a
    token: as many as what runs is more than a counted step has, at an end of each stretch, or at both. None where what runs
    at those is no number of times as many."""
    ends = list[tuple[float, float]]()
    for window in found:
        for before, after in itertools.pairwise(window.scrapes):
            slots, steps = (counters(after).get(name, 0.0) - counters(before).get(name, 0.0) for name in ("slots", "steps"))
            if slots > 0 and steps > 0:
                each = slots / steps * max(len(after.samples.get(_RUNNING, ())), 1)  # a gauge an engine, of every server
                ends.append(((before.total(_RUNNING) or 0.0) / each, (after.total(_RUNNING) or 0.0) / each))
    sides = [[own[0] for own in ends], [own[1] for own in ends], [sum(own) / 2 for own in ends if min(own) > 0]]
    logs = [np.log([ratio for ratio in own if ratio > 0]) for own in sides]
    spreads = [(float(own.std()), float(np.exp(np.median(own)))) for own in logs if len(own) >= _FEWEST]
    spread, ratio = min(spreads, default=(np.inf, 1.0))
    if spread > _ALIKE:
        return None
    return round(ratio) if ratio >= _SEVERAL else 1


def _of_processes(scrapes: Sequence[Scrape], processes: int | None) -> tuple[str, ...]:
    """What to say of several API servers, or of not knowing: of one alone metrics say when they began."""
    if processes is None and all(scrape.began is None for scrape in scrapes):
        return ("the scrapes do not say how many API servers answer (--api-server-count): of N, N times as many ran",)
    if processes in (None, 1):
        return ()
    return (f"{processes} API servers answer, each of which counts every step: {processes} times as many ran at a time",)


def _intervals(window: Window, counters: Callable[[Scrape], Counts], gamma: int, processes: int) -> list[Interval]:
    """Between scrapes that follow each other: how many ran in a step on average, and what a step took; see `_processes`."""
    counted = [counters(scrape) for scrape in window.scrapes]
    found = []
    for before, after in itertools.pairwise(counted):
        grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
        slots, seconds = grown.get("slots", 0.0), grown.get("slots_s", 0.0)
        steps = grown.get("steps", 0.0) / processes
        if slots < 20 or steps < 1 or seconds <= 0 or "generated" not in grown:
            continue
        each_s = seconds / slots
        drafts = _drafts(window.scrapes[-1].text, grown, gamma) if grown.get("drafts") else None
        found.append(
            Interval(
                seconds=each_s * steps, running=slots / steps, steady=True,
                generated_tok_s=grown["generated"] / steps / each_s,
                prompt_tok_s=grown.get("prompt", 0.0) / steps / each_s, drafts=drafts, plain=drafts is None, step_s=each_s,
            )
        )  # fmt: skip
    return found
