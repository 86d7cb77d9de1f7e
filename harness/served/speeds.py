"""Tokens a second before and after a change, at loads that ran in both, and what of it is the traffic's: longer prompts, or
shorter answers, take time that no K takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.served.acceptance import interval
from harness.served.advice import Advice
from harness.served.expected import Estimate, k_at
from harness.served.observed import Interval
from harness.served.server import Server

Floats = npt.NDArray[np.float64]

_STRETCHES: Final = 5
"""Stretches of a log at a load that tell anything."""
_DRAWS: Final = 1000
_NEAR: Final = 1.25
"""Loads that are one."""
_BESIDE: Final = 1.05
"""Times as much as may run on average at such a load, after as before: speeds fall as more runs."""
_ANOTHER: Final = 1.1
"""Times as many prompt tokens for each token of an answer that are other traffic."""
_CACHED: Final = 0.1
"""By how much another share of prompts' tokens is cached where traffic is another."""
_PROMPT_OFF: Final = 0.5
"""What the time of prompts is off by, a logarithm: contexts are longer with them, and some versions count cached ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """How tokens a second of a request compare."""

    gain: Estimate | None
    """At the loads of before, and with its prompts; None where no load ran in both, or nothing tells what prompts take."""
    weights: dict[int, float]
    """What each load that ran in both had of the tokens before."""
    counted: Estimate | None
    """What the files have, whatever the prompts were; None where no load ran in both."""
    traffic: str = ""
    """What of the traffic is another, in words; empty where all that is told of it is as it was."""


class _At(NamedTuple):
    """A load that ran in both, as draws between stretches."""

    running: int
    weight: float
    times: Floats
    """Speeds of after over those of before."""
    before: Floats
    """Prompt tokens for each token of an answer, before."""
    after: Floats
    rates: tuple[float, float]
    """Prompt tokens a second, before and after."""
    cached: tuple[float, float]
    """Shares of them that were cached, as far as files say."""


def speeds(advice: Advice, later: Server) -> Speeds:
    """Tokens a second of a request at the loads of before, as far as they ran in both, each by what it had of them."""
    found = _at_loads(_timed(advice.server), _timed(later))
    if not found:
        return Speeds(gain=None, weights={}, counted=None)
    shares = [one.weight for one in found]
    counted = _gain([one.times for one in found], shares)
    weights = {one.running: one.weight for one in found}
    cached = np.average([one.cached for one in found], axis=0, weights=shares)
    if abs(cached[1] - cached[0]) > _CACHED and any(max(one.rates) for one in found):
        traffic = f"of prompts' tokens {cached[0]:.0%} were cached before, {cached[1]:.0%} after"
        return Speeds(gain=None, weights=weights, counted=counted, traffic=traffic)
    if not _is_other_traffic(found):
        return Speeds(gain=counted, weights=weights, counted=counted)
    rates = np.average([one.rates for one in found], axis=0, weights=shares)
    traffic = f"prompts of {rates[0]:,.0f} tokens a second before, {rates[1]:,.0f} after: the traffic is another"
    factors = _factors(advice, found)
    gain = None if factors is None else _gain([one.times * own for one, own in zip(found, factors, strict=True)], shares)
    return Speeds(gain=gain, weights=weights, counted=counted, traffic=traffic)


def _gain(times: Sequence[Floats], weights: Sequence[float]) -> Estimate:
    return Estimate.of(np.average(times, axis=0, weights=weights) - 1)


def _at_loads(earlier: Sequence[Interval], after: Sequence[Interval]) -> list[_At]:
    rng = np.random.default_rng(0)
    found = list[_At]()
    for load in dict.fromkeys(round(one.running) for one in earlier):
        both = [[one for one in own if load / _NEAR <= one.running <= load * _NEAR] for own in (earlier, after)]
        if min(map(len, both)) < _STRETCHES:
            continue
        ran = [float(np.mean([one.running for one in own])) for own in both]
        if max(ran) > _BESIDE * min(ran):
            continue
        (was, prompts), (now, later) = (_drawn(own, rng) for own in both)
        weight = sum(one.generated_tok_s for one in earlier if round(one.running) == load)
        (rate, share), (rate_now, share_now) = (
            np.mean([(one.prompt_tok_s, np.nan if one.cached is None else one.cached) for one in own], 0) for own in both
        )
        found.append(_At(load, weight, now / was, prompts, later, (rate, rate_now), (share, share_now)))
    return found


def _drawn(some: Sequence[Interval], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(tokens a second of a request, prompt tokens for each token of an answer), [draws]; stretches of some engines are of
    as many steps, not seconds."""
    own = np.array([(one.generated, one.running * one.seconds, one.prompt_tok_s * one.seconds) for one in some])
    generated, spent, prompts = own[rng.integers(len(own), size=(_DRAWS, len(own)))].mean(1).T
    return generated / spent, prompts / generated


def _is_other_traffic(found: Sequence[_At]) -> bool:
    """Whether more, or fewer, prompt tokens come with each token of an answer than chance, and little, would have it."""
    weights = [one.weight for one in found]
    was, now = (np.average([getattr(one, name) for one in found], axis=0, weights=weights) for name in ("before", "after"))
    low, high = interval(now - was)
    middle = float(np.median(was)), float(np.median(now))
    return (low > 0 or high < 0) and max(middle) > _ANOTHER * min(middle)


def _factors(advice: Advice, found: Sequence[_At]) -> list[Floats] | None:
    """How many times as fast each load would be with the prompts of before, [draws]; None where nothing tells."""
    rng = np.random.default_rng(1)
    some, off = rng.random(_DRAWS), np.exp(_PROMPT_OFF * rng.standard_normal(_DRAWS))
    factors = list[Floats]()
    for one in found:
        k = k_at(advice.rows, one.running) if advice.rows else advice.k
        was, now = (advice.costs.with_prompts(float(np.median(own))) for own in (one.before, one.after))
        if was is None or now is None:
            return None
        longer = np.log(now.seconds(k, one.running) / was.seconds(k, one.running))
        factors.append(np.exp(off * longer[(some * len(longer)).astype(int)]))
    return factors


def _timed(server: Server) -> Sequence[Interval]:
    own = server.intervals if not server.gamma else (*server.intervals, *server.plain)
    return [_at_work(one) for one in own if one.steady and one.generated_tok_s > 0]


def _at_work(one: Interval) -> Interval:
    """A stretch whose steps are timed, with tokens a second of the time that they take: else pauses count as slowness."""
    if one.step_s is None or not one.request_steps:
        return one
    rate = one.running * one.generated / one.request_steps / one.step_s
    return replace(one, generated_tok_s=rate, prompt_tok_s=one.prompt_tok_s * rate / one.generated_tok_s)
