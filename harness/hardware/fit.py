"""From timed points to the fields of a profile: a slope for what grows with the context, rising curves for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness.hardware.bench import BenchPoint
from harness.hardware.timing import Timing
from simulator.hardware.cost import Longest, StepLoad
from simulator.hardware.profile import Curve, DraftCurve, Profile, Source


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed point: seconds = curve(count) + slope · extra."""

    count: int
    extra: float
    seconds: float
    shape: tuple[int, int]
    """(requests, tokens of each): samples of one shape differ in `extra` alone."""


@dataclass(frozen=True, slots=True)
class Costs:
    """The fields of a profile that timings of single passes tell; named alike."""

    verify: Curve
    eager: Curve
    draft: Mapping[str, DraftCurve]
    overhead_s: float
    overhead_s_per_request: float
    context_s_per_token: float
    prefill_s_per_pair: float
    context_by_width: Curve | None
    smoothed: float
    """The largest share by which a curve was changed so that it rises; no field of a profile."""

    def profile(self, *, name: str, device: str, model: str, source: Source, kv_capacity_tokens: int) -> Profile:
        """The profile of which these are the numbers, without provenance."""
        return Profile(
            name=name,
            device=device,
            model=model,
            source=source,
            provenance={},
            kv_capacity_tokens=kv_capacity_tokens,
            verify=self.verify,
            eager=self.eager,
            draft=self.draft,
            free_drafters=("none",),
            overhead_s=self.overhead_s,
            overhead_s_per_request=self.overhead_s_per_request,
            context_s_per_token=self.context_s_per_token,
            prefill_s_per_pair=self.prefill_s_per_pair,
            context_by_width=self.context_by_width,
        )


def fit_costs(timings: Sequence[Timing], block: Mapping[str, bool]) -> Costs:
    """What timings of a grid say. `block`: by drafter, whether it drafts its block in one pass."""
    by_part: defaultdict[str, list[Sample]] = defaultdict(list)
    for timing in timings:
        point = timing.point
        extra = _extra(point, block.get(point.drafter, True))
        sample = Sample(_count(point), extra, timing.seconds, (point.requests, point.tokens))
        name = point.drafter if point.part == "draft" else f"{point.part} {point.drafter}".strip()
        by_part[name].append(sample)
    reading = fit_reading(by_part["target"])
    context_s = float(reading.at(1))
    bare = [replace(s, seconds=max(s.seconds - float(reading.at(s.shape[1])) * s.extra, 0.0)) for s in by_part["target"]]
    verify, changed = fit_curve(bare, 0.0)
    pair_s = fit_slope(by_part["prefill"])
    eager, _ = fit_curve(by_part["prefill"], pair_s)
    draft = {}
    for name, in_one_pass in block.items():
        slope = fit_slope(by_part[name])
        gammas = sorted({t.point.tokens for t in timings if t.point.drafter == name and t.point.part == "draft"})
        curves = [fit_curve((s for s in by_part[name] if s.shape[1] == g), slope) for g in gammas]
        taking_in = by_part[f"read {name}"]  # long prompts count for more: short ones take what a pass takes at least
        read_s = sum(s.seconds for s in taking_in) / max(sum(s.count for s in taking_in), 1)
        draft[name] = DraftCurve(tuple(gammas), tuple(curve for curve, _ in curves), in_one_pass, slope, read_s)
        changed = max(changed, *(share for _, share in curves))
    host = host_seconds(timings)
    overhead = fit_line(list(host), list(host.values()))
    return Costs(verify, eager, draft, *overhead, context_s, pair_s, reading, changed)


def prompt_seconds(timings: Sequence[Timing]) -> float:
    """What a request's coming and going takes beside the passes over its prompt, both as the loop runs them."""
    passes = {(t.point.drafter, t.point.tokens): t.seconds for t in timings if t.point.part == "prompt"}
    admitted = [(t.point, t.seconds) for t in timings if t.point.part == "admit"]
    # Without a drafter's name the models took no time.
    left = [s - passes.get((p.drafter, p.tokens), s if p.drafter else 0.0) for p, s in admitted]
    return max(float(np.median(left)), 0.0) if left else 0.0


def predicted_seconds(profile: Profile, point: BenchPoint) -> float | None:
    """What a profile says of a point; None for points of the host's work."""
    requests, drafted = point.requests, point.tokens
    if point.part == "target":
        load, drafted = StepLoad(requests, context_tokens=requests * point.context), point.tokens - 1
    elif point.part == "prefill":
        load, drafted = StepLoad(0, requests, prefill_tokens=point.size, prefill_pairs=int(_extra(point, True))), 0
    elif point.part == "read":
        load, drafted = StepLoad(0, requests, prefill_tokens=point.size), profile.draft[point.drafter].drafted[-1]
    elif point.part == "draft":
        load = StepLoad(requests, context_tokens=requests * point.context)
    else:
        return None
    drafter = point.drafter if point.part in ("read", "draft") else "none"
    cost = profile.cost(drafter, drafted, requests, max(point.size, requests * (1 + drafted)))
    parts = cost.step(load, drafted, requests * drafted if load.decoding else 0, Longest(drafted, point.context))
    return parts.draft_s if point.part in ("read", "draft") else parts.attention_s + parts.target_s


def host_seconds(timings: Sequence[Timing]) -> dict[int, float]:
    """By requests: the loop's own work, which is a round of models that take no time less the acceptance rule in it."""
    by_part = {part: {t.point.requests: t.seconds for t in timings if t.point.part == part} for part in ("loop", "rule")}
    return {r: max(s - by_part["rule"][r], 0.0) for r, s in sorted(by_part["loop"].items()) if r in by_part["rule"]}


def fit_slope(samples: Iterable[Sample]) -> float:
    """Seconds for each of `extra`, 0 or more, from what each shape gains over its shortest sample.

    The one between the least and the largest gain with the least squares of logarithmic errors: kernels differ between
    shapes by several times, and relative errors would favour the shapes that gain least.
    """
    gains = []
    for some in _by_shape(samples):
        shortest = min(some, key=lambda s: s.extra)
        gains += [(shortest.seconds, s.seconds, s.extra - shortest.extra) for s in some if s.extra > shortest.extra]
    if not gains:
        return 0.0
    short_s, long_s, extra = np.array(gains).T
    slopes = np.maximum((long_s - short_s) / extra, 0.0)
    if (slopes > 0).any():
        slopes = np.append(slopes, np.geomspace(slopes[slopes > 0].min(), slopes.max(), 200))
    losses = (np.log((short_s + slopes[:, None] * extra) / long_s) ** 2).sum(1)
    return float(slopes[losses.argmin()])


def fit_reading(samples: Sequence[Sample]) -> Curve:
    """Seconds for each context token, over the tokens of each request in the pass; from widths of several shapes.

    A GPU reads the context once, however many tokens look at it. On a CPU a pass of two tokens a request may take twice as
    long over its context as one of a single token, and one of eight four times.
    """
    by_width: defaultdict[int, list[Sample]] = defaultdict(list)
    for s in samples:
        by_width[s.shape[1]].append(s)
    several = {w: some for w, some in by_width.items() if len({s.shape for s in some}) > 1} or by_width
    return Curve(tuple(sorted(several)), tuple(fit_slope(several[w]) for w in sorted(several)))


def fit_curve(samples: Iterable[Sample], slope: float) -> tuple[Curve, float]:
    """The curve through the shortest sample of each shape, made to rise, and by what share that changed it at most."""
    at_none: defaultdict[int, list[float]] = defaultdict(list)
    for some in _by_shape(samples):
        shortest = min(some, key=lambda s: s.extra)
        at_none[shortest.count].append(max(shortest.seconds - slope * shortest.extra, 0.0))
    counts = tuple(sorted(at_none))
    seconds = np.array([np.mean(at_none[c]) for c in counts])
    risen = rising(seconds, np.array([len(at_none[c]) for c in counts]))
    changed = np.abs(risen - seconds) / np.where(seconds > 0, seconds, 1.0)
    return Curve(counts, tuple(risen.tolist())), float(changed.max())


def fit_line(counts: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """(intercept, slope), both 0 or more, with the least squares of relative errors."""
    x, y = np.array(counts, np.float64), np.maximum(np.array(seconds, np.float64), 1e-12)
    ones = np.ones_like(x)
    design = np.stack([ones, x], 1) / y[:, None]
    (intercept, slope), *_ = np.linalg.lstsq(design, ones, rcond=None)
    if intercept >= 0 and slope >= 0:
        return float(intercept), float(slope)
    column = design[:, 1] if intercept < 0 else design[:, 0]
    alone = float(column.sum() / (column**2).sum())
    return (0.0, alone) if intercept < 0 else (alone, 0.0)


def rising(values: npt.NDArray[np.float64], weights: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The nearest sequence that never falls: neighbours that fall are replaced by their mean (isotonic regression)."""
    blocks: list[tuple[float, int, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, heavy, long = blocks.pop()
            total = heavy + block[1]
            block = ((mean * heavy + block[0] * block[1]) / total, total, long + block[2])
        blocks.append(block)
    return np.concatenate([np.full(length, mean) for mean, _, length in blocks])


def _count(point: BenchPoint) -> int:
    """What a curve runs over: requests where drafting, tokens elsewhere."""
    return point.requests if point.part == "draft" else point.size


def _extra(point: BenchPoint, in_one_pass: bool) -> float:
    """What a slope is charged for: context tokens, of every pass; in prefill, pairs of tokens."""
    if point.part == "prefill":
        return point.size * point.context + point.requests * point.tokens * (point.tokens + 1) / 2
    passes = point.tokens if point.part == "draft" and not in_one_pass else 1
    return float(point.requests * point.context * passes)


def _by_shape(samples: Iterable[Sample]) -> list[list[Sample]]:
    grouped: defaultdict[tuple[int, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        grouped[sample.shape].append(sample)
    return list(grouped.values())
