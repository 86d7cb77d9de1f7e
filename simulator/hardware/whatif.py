"""What-ifs: profiles, acceptances and confidences that are off by a factor, to see what a decision hangs on."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from simulator.hardware.cost import rates
from simulator.hardware.profile import Curve, Profile
from simulator.traces import Trace

Part = Literal["verify", "draft", "overhead"]


def slower(profile: Profile, part: Part, factor: float) -> Profile:
    """A profile with one part of the step that takes `factor` times as long: the target's passes, drafting, or the host."""
    if part == "overhead":
        return replace(profile, **{name: getattr(profile, name) * factor for name in rates("host")})
    if part == "draft":
        draft = {
            name: replace(
                curve,
                requests=tuple(scaled(c, factor) for c in curve.requests),
                context_s_per_token=curve.context_s_per_token * factor,
                prefill_s_per_token=curve.prefill_s_per_token * factor,
            )
            for name, curve in profile.draft.items()
        }
        return replace(profile, draft=draft)
    changes: dict[str, Any] = {n: getattr(profile, n) * factor for n in rates("target")}
    curves = {name: getattr(profile, name) for name in ("verify", "eager", "context_by_width")}
    changes |= {name: None if curve is None else scaled(curve, factor) for name, curve in curves.items()}
    if profile.launches is not None:
        changes["launches"] = replace(profile.launches, each_s=min(profile.launches.each_s * factor, 1.0))
    return replace(profile, **changes)


def perturbed(profile: Profile, rng: np.random.Generator) -> tuple[Profile, float]:
    """A profile that might be the true one, its parts off by factors as its errors draw them; and how many times as long a
    step can take for it, at most.

    A roofline assumes two numbers of the target's passes, how much of the bandwidth is reached and how much of the peak.
    Each is off by itself, so that it is unsure too where the one gives way to the other. What a draft takes is assumed of
    every kind of drafter anew: half of the variance of its logarithm is the kind's own.
    """
    errors = profile.relative_errors
    verify, draft, host = errors.factors(rng)
    profile = slower(slower(profile, "overhead", host), "verify", verify)
    if profile.source != "roofline":
        return slower(profile, "draft", draft), max(verify, draft, host)
    arithmetic = math.exp(errors.verify * rng.standard_normal())
    profile, seed = _tilted(profile, arithmetic / verify), int(rng.integers(1 << 62))
    own = {kind: np.random.default_rng([seed, zlib.crc32(kind.encode())]).standard_normal() for kind in profile.draft}
    half = math.sqrt(0.5)
    factors = {kind: draft**half * math.exp(errors.draft * half * z) for kind, z in own.items()}
    drafted = {kind: slower(profile, "draft", factor).draft[kind] for kind, factor in factors.items()}
    return replace(profile, draft=drafted), max(verify, arithmetic, host, *factors.values())


def _tilted(profile: Profile, ratio: float) -> Profile:
    """A roofline whose arithmetic takes `ratio` times as long, its traffic with memory as long as before."""
    changes: dict[str, Any] = {name: getattr(profile, name) * ratio for name in ("prefill_s_per_pair", "logits_s_per_token")}
    curves = {name: getattr(profile, name) for name in ("verify", "eager")}
    changes |= {name: None if curve is None else _with_arithmetic(curve, ratio) for name, curve in curves.items()}
    return replace(profile, **changes)


def _with_arithmetic(curve: Curve, ratio: float) -> Curve:
    """A curve of passes by tokens: arithmetic takes what the largest pass takes a token, memory what the passes take that
    are mostly not arithmetic, and a pass the longer of the two, a little more where they are near."""
    tokens, seconds = np.asarray(curve.counts, np.float64), np.asarray(curve.seconds)
    computed = seconds[-1] / tokens[-1] * tokens
    last = int(np.flatnonzero(computed <= seconds / 2)[-1:].sum())
    read = np.where(np.arange(len(tokens)) <= last, seconds, seconds[last])
    longer = np.maximum(read, computed * ratio) / np.maximum(np.maximum(read, computed), 1e-300)
    return Curve(curve.counts, tuple(np.maximum.accumulate(seconds * longer).tolist()))


def scaled(curve: Curve, factor: float) -> Curve:
    """A curve `factor` times as high."""
    return Curve(curve.counts, tuple(s * factor for s in curve.seconds))


def accepting(trace: Trace, factor: float, seed: int) -> Trace:
    """A trace whose β are `factor` times as large, 1 at most; confidences stay what they were.

    The coins are those of the trace as far as they are known: what was accepted and is no less likely stays accepted.
    """
    a = trace.anchors
    beta = a.accept_prob.astype(np.float64)
    new = np.minimum(beta * factor, 1.0)
    position, accepted = np.arange(a.gamma), a.accepted.astype(np.int64)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(beta > 0, new / beta, 1.0)
        turned = np.where(beta < 1, (new - beta) / (1 - beta), 0.0)
    chance = np.where(position < accepted, kept, np.where(position == accepted, turned, new))
    happens = np.random.default_rng(seed).random(beta.shape) < chance
    happens &= position < a.drafted.astype(np.int64)[:, None]
    count = happens.cumprod(1).sum(1).astype(np.uint8)
    return replace(trace, anchors=replace(a, accepted=count, accept_prob=new.astype(np.float32)))


def confident(trace: Trace, factor: float) -> Trace:
    """A trace whose confidences are `factor` times as large, 1 at most; without any it stays as it is."""
    a = trace.anchors
    if a.confidence is None:
        return trace
    some = np.minimum(a.confidence * np.float32(factor), np.float32(1))
    fresh = None if a.fresh_confidence is None else np.minimum(a.fresh_confidence * np.float32(factor), np.float32(1))
    return replace(trace, anchors=replace(a, confidence=some, fresh_confidence=fresh))
