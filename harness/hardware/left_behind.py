"""The profile that a fit leaves behind: the most probable one, with what its factors leave of drafting, and its errors.

Factors alone may be far from a row that drafts: what they leave is told to others near it by `discrepancy`, and profiles
have no such thing. So what drafting rows leave, beside what those without do, is put where a profile has room for it: into
the time that its drafter takes, by drafted tokens and requests. Where a row was measured, a profile's gain is about its.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from harness.hardware.calibration import Calibration, factors_of, slopes_of
from harness.hardware.discrepancy import ALL, Place, shared
from harness.hardware.loops import Floats
from harness.hardware.posterior import Posterior
from harness.hardware.terms import charged, with_factors
from simulator.drafter_kinds import KINDS
from simulator.hardware.cost import Longest, Parts, StepLoad
from simulator.hardware.profile import Curve, DraftCurve, Errors, Profile

_MOST_ERROR: Final = 1.9
"""Relative errors of a profile's parts end below 2."""
_CONTEXT: Final = 400
"""Tokens of a request where parts of a step are compared, of rows that do not say it."""
_LEAST_SHARE: Final = 0.1
"""The least share of a step that is a drafter's: what is unsure of a whole step is not put into less."""
_MOST_PROMPTS: Final = 5.0
"""Times as long as its decoding that a step is taken to be at most."""
_LOADS: Final = tuple(2**i for i in range(13))
"""Requests at which what is left is put into a drafter's times, beside those that were measured."""


def left_behind(found: Posterior) -> Profile:
    """The profile, still called as its base is, with its errors."""
    best = found.best
    profile = charged(best.profile, [kind for kind in best.profile.free_drafters if _rows(best, kind)])
    drafts = {kind: _with_rest(best, profile, kind) for kind in profile.draft}
    return replace(profile, draft=drafts, errors=errors_of(found, replace(profile, draft=drafts)))


class _Row(NamedTuple):
    """A measured row of a drafter."""

    number: int
    """Among what was measured."""
    drafted: int
    running: float
    context: float
    """Tokens of a request, halfway through its answer."""
    share: float
    """Its steps in which it has a draft, as a share; less than 1 of look-ups."""


def _rows(best: Calibration, kind: str) -> list[_Row]:
    found = [(i, r.point) for i, r in enumerate(best.residuals) if r.point.kind == kind and r.point.gamma]
    return [
        _Row(
            i, one.gamma, best.loops[one.line].running(best.factors),
            float(one.context or one.prompt_tokens + one.output_tokens / 2),
            one.averages.looked_up if KINDS[kind].looks_up and one.averages is not None else 1.0,
        )
        for i, one in found
    ]  # fmt: skip


def _with_rest(best: Calibration, profile: Profile, kind: str) -> DraftCurve:
    """A drafter's times, with what its rows leave of a step beside what those without drafts leave."""
    curve, rows = profile.draft[kind], _rows(best, kind)
    if not rows:
        return curve
    context = int(np.median([row.context for row in rows]))
    share = float(np.mean([row.share for row in rows]))
    told = sorted((row.running, _with_prompts(best, profile, kind, row)) for row in rows)
    lengths = sorted({*curve.drafted, *(row.drafted for row in rows)}) if len(curve.drafted) > 1 else list(curve.drafted)
    loads = sorted({*_LOADS, *(max(round(row.running), 1) for row in rows)})
    counts = sorted({*loads, *(n for own in curve.requests for n in own.counts)})

    def seconds(k: int) -> Iterable[float]:
        prompts = np.interp(counts, [running for running, _ in told], [longer for _, longer in told])
        for n, longer, plain in zip(counts, prompts, curve.at(k, counts), strict=True):
            slower = np.exp(-_rest(best, kind, k, n)) - 1
            yield max(float(plain + slower * longer * _step(profile, kind, k, n, context, share).seconds), 0.0)

    curves = tuple(Curve(tuple(counts), tuple(np.maximum.accumulate(list(seconds(k))).tolist())) for k in lengths)
    return replace(curve, drafted=tuple(lengths), requests=curves)


def _with_prompts(best: Calibration, profile: Profile, kind: str, row: _Row) -> float:
    """How many times as long as its decoding a row's steps are, prompts between them counted: by how much its speed falls
    where the host takes longer for every step, of which it is known by how much."""
    slope = -float(best.slopes[row.number, best.names.index("step")])
    host_s = best.factors["step"] * best.base.units["step"]
    decoding_s = _step(profile, kind, row.drafted, max(round(row.running), 1), int(row.context), row.share).seconds
    return float(np.clip(host_s / max(slope, 1e-12) / decoding_s, 1.0, _MOST_PROMPTS))


def _places(best: Calibration, kind: str, k: int, running: float) -> tuple[Place, Place]:
    """Where a drafter's row would lie, and one without drafts: as much outside of captured sizes as the nearest row is, or
    wholly where its drafts alone are."""
    doublings, most = float(np.log2(max(running, 1.0))), best.base.captured

    def place(what: str, drafts: bool, tokens: float) -> Place:
        near = [one for one in best.left.places if (one.what != "none") == drafts]
        outside = min(near, key=lambda one: abs(one.doublings - doublings)).outside if near else 0.0
        return Place(doublings, what, 1.0 if tokens > most else outside)

    return place(f"{kind} fixed:{k}", True, running * (k + 1)), place("none", False, running)


def _rest(best: Calibration, kind: str, k: int, running: float) -> float:
    """By how much, as a logarithm, drafting is faster than factors have it, beside what is left without."""
    drafting, plain = _places(best, kind, k, running)
    return best.left.at(drafting) - best.left.at(plain)


def _step(profile: Profile, kind: str, k: int, running: int, context: int, share: float) -> Parts:
    """A step of so many requests, of which a share draft as much as they may."""
    load = StepLoad(running, context_tokens=running * context)
    cost = profile.cost(kind, k, running, running * (k + 1))
    return cost.step(load, k, round(share * running * k), Longest(k, context))


def errors_of(found: Posterior, written: Profile) -> Errors:
    """How far parts of a written profile may be off, and how they hang together, at the median load of a fit."""
    best = found.best
    running = sorted(best.loops[r.point.line].running(best.factors) for r in best.residuals)
    middle = max(round(running[len(running) // 2]), 1)
    load = StepLoad.of(middle)
    load = load._replace(context_tokens=load.decoding * _CONTEXT)
    covariance = np.full((3, 3), ALL**2) + best.noise**2 * np.eye(3)
    at_best, _ = _parts(best, load)
    for own, weight in zip(found.members, found.weights, strict=True):
        logs, within = _parts(own, load)
        covariance += weight * (within + np.outer(logs - at_best, logs - at_best))
    covariance[1, 1] += _unexplained(best, written, middle) ** 2
    deviations = np.sqrt(np.diag(covariance))
    together = (covariance / np.outer(deviations, deviations))[np.triu_indices(3, 1)]
    verify, draft, host = np.minimum(deviations, _MOST_ERROR).tolist()
    return Errors(verify, draft, host, tuple(together.tolist()))


def _unexplained(best: Calibration, written: Profile, running: int) -> float:
    """By how much, as a logarithm, a drafter's times may be off for what nothing explains of its steps; the most of all."""
    found = [0.0]
    for kind, rows in ((kind, _rows(best, kind)) for kind in written.draft):
        if not rows:
            continue
        places, times = _places(best, kind, rows[0].drafted, running), np.array([1.0, -1.0])
        weights = times @ np.stack([best.left.weights(place) for place in places])
        variance = times @ shared(places, places) @ times - weights @ best.left.covariance @ weights
        parts = _step(written, kind, rows[0].drafted, running, _CONTEXT, rows[0].share)
        share = parts.draft_s / parts.seconds
        found.append(float(np.sqrt(max(best.scale * variance, 0.0))) / max(share, _LEAST_SHARE))
    return max(found)


def _parts(own: Calibration, load: StepLoad) -> tuple[Floats, Floats]:
    """(the logarithms of what the target, drafting and the host take of a step, their covariance)."""
    drafter = next(iter(own.base.profile.draft), "none")
    gamma = own.base.profile.draft[drafter].drafted[-1] if drafter != "none" else 0

    def logs(z: Floats) -> Floats:
        profile = with_factors(own.base, factors_of(own.names, z))
        cost = profile.cost(drafter, gamma, load.decoding, load.decoding * (gamma + 1))
        parts = cost.step(load, gamma, 0, Longest(gamma, _CONTEXT))
        return np.log([parts.target_s + parts.attention_s, max(parts.draft_s, 1e-12), max(parts.overhead_s, 1e-12)])

    slopes = slopes_of(logs, own.log_factors)
    return logs(own.log_factors), np.asarray(slopes @ own.covariance @ slopes.T, np.float64)
