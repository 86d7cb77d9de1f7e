"""What a simulation comes to: streaming sums over slices of time, and the figures made of them.

Statistics. Simulated time is cut into slices. For loads without end the first slices are dropped: a tenth, in which users
come, and more where the rule MSER (White 1997) says so of throughput or of users' speed, namely the cut that makes the
standard error over what is left smallest, at most half of the run. What is left is joined to 20 batches, or fewer, down to
5, that last two requests' stay at least: within one's stay means go together. The batches' means give a 95 % interval by
Student's t. Quantiles come from histograms with bins of 1 %, so they are right to half a percent. A client that asks for so
much and leaves has no batches: its first wave and its drain are no noise; other seeds tell of that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from simulator.engine.state import BINS, GROWTH, LEAST, TOTALS, Records
from simulator.sla import MEASURES, Promise, Sla, promises

Floats = npt.NDArray[np.float64]

BATCHES, FEWEST, STAYS = 20, 5, 2.0
"""How many means an interval is made of, at most and at least, and how many requests' stays each lasts at least."""
PILE_UP, CHANCE, LONG, SHORT = 0.02, 3.0, 0.25, 0.1
"""A backlog that grows by more than this share of what arrives, by more than so many standard errors, grows without end.
Requests that stay for more than this share of half a run have not shown yet what becomes of them; those that stay for less
than the last are short beside it."""
_OPEN = "too short to tell whether it keeps up with what arrives"
FEW = 100
"""Finished requests with fewer of which quantiles mean little."""
PARTS = ("overhead_s", "draft_s", "attention_s", "target_s")
_WHOLE = sum(TOTALS[name].kind == "i" for name in TOTALS.names or ())
"""Fields of `TOTALS` that are whole numbers; they come first."""


@dataclass(slots=True)
class Slice:
    """Sums over one stretch of simulated time."""

    totals: npt.NDArray[np.void]
    """What was added to each field of `simulator.engine.state.TOTALS`."""
    seconds: float
    """Replica-seconds."""
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(MEASURES), np.int64))
    sums: Floats = field(default_factory=lambda: np.zeros(len(MEASURES)))
    histograms: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(MEASURES), BINS), np.int64))
    """Histograms, [measures, bins]; they, `counts` and `sums`, [measures], are of requests that finished in the slice."""
    bursts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    """Times between bursts of tokens, as a histogram, [bins]."""
    finished: int = 0
    good: int = 0
    good_tokens: int = 0
    """Requests that kept every bound by themselves, and their tokens."""
    kept: dict[str, int] = field(default_factory=dict)
    """Requests that kept a bound, or several together, counted one by one."""


class Ledger:
    """Takes what a simulation hands over; keeps as much for a million requests as for a hundred."""

    def __init__(self, slas: Sequence[Sla]) -> None:
        self.slas = slas
        self.slices: list[Slice] = []
        self._before = np.zeros(1, TOTALS)
        self._bursts_before = np.zeros(BINS, np.int64)

    def close_slice(self, totals: Records, rows: Records, seconds: float, bursts: npt.NDArray[np.int64]) -> None:
        """The slice ends: `totals` so far, requests finished in it, replica-seconds it lasted, and times between bursts so
        far."""
        change = totals.copy()
        change.view(np.int64)[:_WHOLE] -= self._before.view(np.int64)[:_WHOLE]
        change.view(np.float64)[_WHOLE:] -= self._before.view(np.float64)[_WHOLE:]
        self._before = totals.copy()
        here = Slice(change[0], seconds, bursts=bursts - self._bursts_before)
        self._bursts_before = bursts.copy()
        self.slices.append(here)
        if len(rows):
            self._take(here, rows)

    def _take(self, here: Slice, rows: Records) -> None:
        seconds = rows["finish_s"] - rows["first_s"]
        after = rows["output_tokens"] - 1
        spoken = (after > 0) & (seconds > 0)
        tpot = np.full(len(rows), np.nan)
        tpot[spoken] = seconds[spoken] / after[spoken]
        ttft, e2e = rows["first_s"] - rows["arrival_s"], rows["finish_s"] - rows["arrival_s"]
        values = {"tps": 1 / tpot, "ttft": ttft, "tpot": tpot, "e2e": e2e}
        fine = {sla: _fine(sla, values[sla.measure]) for sla in self.slas if sla.share is not None}
        good = np.logical_and.reduce([np.ones(len(rows), bool), *fine.values()])
        here.kept = {str(sla): int(own.sum()) for sla, own in fine.items()}
        for promise in promises(self.slas):
            if promise.share is not None:
                here.kept[promise.name] = int(np.logical_and.reduce([fine[sla] for sla in promise.slas]).sum())
        here.finished += len(rows)
        here.good += int(good.sum())
        here.good_tokens += int(rows["output_tokens"][good].sum())
        every = np.stack([values[name] for name in MEASURES])
        known = ~np.isnan(every)
        here.counts += known.sum(1)
        here.sums += np.where(known, every, 0.0).sum(1)
        np.add.at(here.histograms, (np.nonzero(known)[0], _bin(every[known])), 1)


def _fine(sla: Sla, values: Floats) -> npt.NDArray[np.bool_]:
    """Which requests keep a bound; answers of one token have no speed to bound."""
    return np.isnan(values) | (values >= sla.bound if sla.at_least else values <= sla.bound)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and how far the simulation's own noise may have moved it."""

    value: float
    half_width: float
    """Half the width of its 95 % interval; nan with too few batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one simulation came to, after its warm-up."""

    simulated_s: float
    warmup_s: float
    """Dropped at the start."""
    finished: int
    """Requests, after the warm-up."""
    throughput: Estimate
    """Output tokens per second and GPU."""
    tps: Estimate
    """Mean over users of (n − 1)/(last − first)."""
    quantiles: dict[str, float]
    """p5_tps, p50_ttft, …: tps and times in seconds, also of e2e and tpot, and of bursts (p50_burst): what a user waits from
    some tokens to the next."""
    means: dict[str, float]
    """tps, ttft, tpot, e2e."""
    burst_s: float
    """Mean seconds between a request's rounds: what a user sees as a burst of tokens."""
    tau: Estimate
    """Accepted length: tokens committed per round."""
    budget: Estimate
    """Verified tokens per request and step, anchor included."""
    wasted: float
    """Share of verified draft tokens that were rejected; 0 where none was verified."""
    running: float
    """Mean decoding requests of a replica, over the time steps take."""
    kv_used: float
    """Mean share of the KV capacity held by running requests, lookahead included."""
    step_s: dict[str, float]
    """Mean seconds of a step by part: overhead, draft, attention, target."""
    outside: float
    """Share of steps that are larger than any captured size."""
    preemptions: int
    attainment: float
    """Share of requests that kept every bound by themselves; 1 without bounds."""
    goodput: float
    """Output tokens per second and GPU of those."""
    attained: dict[str, float]
    """By bound the share of requests that kept it, or the mean; by bounds of one share also what kept them together."""
    slas: dict[str, bool]
    """The same, and whether the promise was kept; where ever more requests wait, none is."""
    keeps_up: bool | None
    """Whether what arrives is answered: False where ever more wait, None where the run is too short to tell."""
    stationary: bool
    """False where throughput still drifts after the warm-up, as under overload, or where nothing was dropped in time."""
    warnings: tuple[str, ...] = ()
    headroom: float | None = None
    """How many times its load it holds, see `simulator.capacity`; None where nobody asked."""

    @property
    def kept(self) -> bool:
        """Whether every promise is kept, and what arrives is answered."""
        return self.keeps_up is not False and all(self.slas.values())

    def settled(self, slas: Sequence[Sla], again: Outcome, times: int) -> Outcome:
        """The same of recorded arrivals, where that once was too short to tell whether it keeps up: `again`, that as often
        as `times` one after the other, tells."""
        if again.keeps_up is None:
            return self
        once = f"the log is short: whether it keeps up is told by {times} of it, one after the other"
        said = once if again.keeps_up else f"overload: {once}"
        return replace(
            self, keeps_up=again.keeps_up, stationary=self.stationary and again.keeps_up,
            slas=verdicts(slas, self.attained, keeps_up=again.keeps_up),
            warnings=tuple(said if warning.startswith(_OPEN) else warning for warning in self.warnings),
        )  # fmt: skip


Kind = Literal["closed", "open", "recorded", "finite"]
"""A kind of load: users who wait for answers, arrivals without end; recorded ones, or users who ask so much in all, until
all are served."""


def outcome(
    ledger: Ledger, *, gpus: int, replicas: int, kv_tokens: int, load: Kind, arriving: int, beginning: int = 0,
    cached: bool = False,
) -> Outcome:  # fmt: skip
    """The figures of a finished simulation under a kind of load; loads that end have no warm-up.

    `cached` says that there was a prefix cache, whose hits are told.
    `arriving` slices are those in which requests could arrive, `beginning` those in which users begin, no more than half.
    """
    endless = load in ("closed", "open")
    rates = np.array([s.totals["emitted"] / max(s.seconds, 1e-300) for s in ledger.slices])
    skip = max(_warm_up(ledger.slices, rates), beginning) if endless else 0
    kept = _Window(ledger.slices[skip:], replicas)
    by_time = kept.estimate if load != "finite" else kept.alone
    throughput = by_time(lambda w: _ratio(w.total("emitted"), w.seconds * gpus))
    keeps_up = load == "finite" or Backlog.of(ledger.slices[:arriving]).keeps_up(closed=load == "closed")
    stationary = not endless or (_stationary(rates[skip:], skip, len(rates)) and keeps_up is not False)
    shared = [sla for sla in ledger.slas if sla.share is not None]
    attained = {name: kept.attained(name) for name in [*map(str, shared), *(promise.name for promise in promises(shared))]}
    attained |= {str(sla): kept.mean(sla.measure) for sla in ledger.slas if sla.share is None}
    busy_s = sum(kept.total(part) for part in PARTS)
    return Outcome(
        simulated_s=sum(s.seconds for s in ledger.slices) / replicas,
        warmup_s=sum(s.seconds for s in ledger.slices[:skip]) / replicas,
        finished=kept.finished,
        throughput=throughput,
        tps=by_time(lambda w: w.mean("tps")),
        quantiles={f"p{q:g}_{name}": v for name in TIMED for q, v in zip(PERCENT, kept.quantiles(name), strict=True)},
        means={name: kept.mean(name) for name in MEASURES},
        burst_s=_ratio(kept.total("request_s"), kept.total("rounds")),
        tau=kept.estimate(lambda w: _ratio(w.total("committed"), w.total("rounds"))),
        budget=kept.estimate(lambda w: 1 + _ratio(w.total("verified"), w.total("rounds"))),
        wasted=1 - kept.total("accepted") / kept.total("verified") if kept.total("verified") else 0.0,
        running=_ratio(kept.total("request_s"), busy_s),
        kv_used=_ratio(kept.total("kv_token_s"), busy_s * kv_tokens),
        step_s={part.removesuffix("_s"): _ratio(kept.total(part), kept.total("steps")) for part in PARTS},
        outside=_ratio(kept.total("outside"), kept.total("steps")),
        preemptions=int(kept.total("preemptions")),
        attainment=_ratio(sum(s.good for s in kept.slices), kept.finished),
        goodput=_ratio(sum(s.good_tokens for s in kept.slices), kept.seconds * gpus),
        attained=attained,
        slas=verdicts(ledger.slas, attained, keeps_up=keeps_up),
        keeps_up=keeps_up,
        stationary=stationary,
        warnings=(
            *_warnings(throughput, stationary, keeps_up, kept, load),
            *([_hits(kept, replicas)] if cached else []),
        ),
    )


def _hits(kept: _Window, replicas: int) -> str:
    """What share of prompts was found in the prefix cache, of which each replica has its own."""
    found, computed = kept.total("hit_tokens"), kept.total("prefill_tokens")
    told = f"prefix cache: {_ratio(found, found + computed):.1%} of the tokens of prompts were found there"
    return (
        told if replicas == 1 else f"{told}; each of {replicas} replicas has its own, and the router does not look into them"
    )


def verdicts(slas: Sequence[Sla], attained: Mapping[str, float], *, keeps_up: bool | None = None) -> dict[str, bool]:
    """Which promises are kept, by bound, and by all bounds of a share together, given the shares and means attained.

    Where what arrives is not answered (`keeps_up` False) none is, whatever became of the requests that finished.
    """
    each = [*(Promise((sla,)) for sla in slas), *promises(slas)]
    stands = keeps_up is not False
    return {promise.name: stands and promise.kept(attained.get(promise.name, math.nan)) for promise in each}


@dataclass(frozen=True, slots=True)
class Backlog:
    """Whether requests in the system pile up while they arrive."""

    arrived: int
    """Requests, in the second half of the time."""
    growth: float
    """More of them in the system at the end of that half than at its beginning; users of a closed loop are always there."""
    error: float
    """Standard error of the growth, if it is the sum of independent parts; nan with too few."""
    wait_s: float
    """Mean time in the system of those that finished in the half."""
    seconds: float
    """That the half lasts."""
    rising_per_s: float = 0.0
    """By how much more arrives in its last quarter than in its first."""

    @classmethod
    def of(cls, slices: Sequence[Slice]) -> Backlog:
        """From what arrived and what is still there at the ends of slices."""
        half = slices[len(slices) // 2 :]
        arrived = np.array([int(s.totals["arrived"]) for s in half])
        change = arrived - np.array([int(s.totals["finished"]) for s in half])
        parts = [float(part.sum()) for part in np.array_split(change, BATCHES) if len(part)]
        error = float(np.std(parts, ddof=1) * np.sqrt(len(parts))) if len(parts) >= 8 else math.nan
        window, quarter = _Window(half), max(1, len(half) // 4)
        first, last = (
            _ratio(float(arrived[part].sum()), sum(s.seconds for s in half[part]))
            for part in (slice(quarter), slice(-quarter, None))
        )
        return cls(int(arrived.sum()), float(change.sum()), error, window.mean("e2e"), window.seconds, last - first)

    def keeps_up(self, *, closed: bool) -> bool | None:
        """False where the growth is beyond chance, and more than a trifle of what arrived; None where that is open.

        What waits in a system that keeps up goes up and down: parts of its growth undo each other, so that the error of
        independent parts is, if anything, too large. Requests that take a large part of the time in view say nothing yet,
        nor does a burst of which nobody could be answered meanwhile. In a `closed` loop nothing piles up. Where ever more
        arrives, ever more are in a system that keeps up, by Little's law as many as arrive during a stay: where stays are
        short beside the time in view, that is no backlog.
        """
        short = self.wait_s <= SHORT * self.seconds
        more = max(self.rising_per_s, 0.0) * self.wait_s if short else 0.0
        share = 0.0 if closed else (self.growth - more) / max(self.arrived, 1)
        if share <= PILE_UP:
            return None if self.wait_s > LONG * self.seconds else True
        if not math.isnan(self.error) and not math.isnan(self.wait_s) and self.growth > CHANCE * self.error:
            return False
        return None


PERCENT = (5.0, 50.0, 90.0, 95.0, 99.0)
"""Quantiles that are always of interest."""
BURST = "burst"
TIMED = (*MEASURES, BURST)
"""What there are quantiles of."""


class _Window:
    """Some consecutive slices as one."""

    def __init__(self, slices: Sequence[Slice], replicas: int = 1) -> None:
        self.slices = slices
        self.replicas = replicas
        self.seconds = sum(s.seconds for s in slices)
        self.finished = sum(s.finished for s in slices)

    def total(self, name: str) -> float:
        """The sum over the slices of a field of `simulator.engine.state.TOTALS`."""
        return float(sum(s.totals[name] for s in self.slices))

    def mean(self, measure: str) -> float:
        """Over finished requests."""
        i = MEASURES.index(measure)
        return _ratio(sum(s.sums[i] for s in self.slices), sum(s.counts[i] for s in self.slices))

    def quantiles(self, measure: str) -> list[float]:
        """By `PERCENT`, the middle of the bin below whose end so many percent of requests lie."""
        counts = (s.bursts if measure == BURST else s.histograms[MEASURES.index(measure)] for s in self.slices)
        reached = np.cumsum(sum(counts, np.zeros(BINS, np.int64)))
        if reached[-1] == 0:
            return [math.nan for _ in PERCENT]
        found = np.searchsorted(reached, np.array(PERCENT) / 100 * reached[-1], side="left")
        return [float(v) for v in LEAST * np.exp((found + 0.5) * GROWTH)]

    def attained(self, bounds: str) -> float:
        """Share of finished requests that kept them."""
        return _ratio(sum(s.kept.get(bounds, 0) for s in self.slices), self.finished)

    @property
    def stays(self) -> float:
        """How many times as long as a finished request's stay it is; nan where none finished."""
        return _ratio(self.seconds / self.replicas, self.mean("e2e"))

    def alone(self, of: Callable[[_Window], float]) -> Estimate:
        """A figure of a run whose parts are not alike."""
        return Estimate(of(self), math.nan)

    def estimate(self, of: Callable[[_Window], float]) -> Estimate:
        """A figure with the interval that the means of batches give."""
        n, stays = len(self.slices), self.stays
        count = FEWEST if math.isnan(stays) else int(min(max(stays / STAYS, FEWEST), BATCHES))
        cuts = [self.slices[i * n // count : (i + 1) * n // count] for i in range(count)]
        return Estimate(of(self), _half_width(np.array([of(_Window(cut)) for cut in cuts if cut])))


def _warm_up(slices: Sequence[Slice], rates: Floats) -> int:
    """Slices to drop."""
    speeds = np.array([_ratio(s.sums[0], s.counts[0]) for s in slices])
    cuts = [mser(series) for series in (rates, speeds) if not np.isnan(series[len(slices) // 10 :]).any()]
    return min(max([len(slices) // 10, *cuts]), len(slices) // 2)


def mser(series: Floats) -> int:
    """How many values to drop from the front: the fewest-error cut of White (1997), at most half."""
    n = len(series)
    errors = [np.nan_to_num(series[d:].var() / (n - d), nan=np.inf) for d in range(n // 2 + 1)]
    return int(np.argmin(errors)) if n > 1 else 0


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by the expansion in 1/freedom (Abramowitz and Stegun 26.7.5); 3 or more."""
    z = 1.959963984540054
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + float(sum(term / freedom ** (i + 1) for i, term in enumerate(terms)))


def _half_width(means: Floats) -> float:
    means = means[~np.isnan(means)]
    if len(means) < 4:
        return float("nan")
    return float(student_t(len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means)))


def _stationary(rates: Floats, skipped: int, slices: int) -> bool:
    """Whether the halves of what is left agree, and the warm-up was over in time."""
    if len(rates) < 8:
        return False
    first, second = np.array_split(rates, 2)
    spread = np.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    return bool(skipped < slices // 2 and abs(first.mean() - second.mean()) <= max(4 * spread, 0.02 * rates.mean()))


def _warnings(throughput: Estimate, stationary: bool, keeps_up: bool | None, kept: _Window, load: Kind) -> list[str]:
    found = []
    more = {"recorded": "record a longer log", "finite": "give more --requests"}.get(load, "simulate longer")
    if keeps_up is False and load == "recorded":
        found.append("overload: the queue was still growing when the last request came; more of the same would wait longer")
    elif keeps_up is False:
        found.append("overload: the queue grows without end: waiting times are those of so long a run only; lower the load")
    elif not stationary:
        found.append("did not settle: throughput drifts; simulate longer")
    if keeps_up is None:
        found.append(f"{_OPEN}; {more}")
    if kept.finished < FEW:
        found.append(f"fewer than {FEW} requests finished: quantiles mean little; {more}")
    if load in ("closed", "open") and not throughput.half_width <= 0.02 * throughput.value:
        found.append("throughput is known to no better than 2 %; simulate longer or with more seeds")
    if load in ("closed", "open") and kept.stays < FEWEST:
        found.append(f"requests stay long, what is in view lasts {kept.stays:.1f} times as long: ± may be too small; {more}")
    return found


def _bin(values: Floats) -> npt.NDArray[np.int64]:
    index = np.log(np.maximum(values, LEAST) / LEAST) / GROWTH
    return np.asarray(np.minimum(index, BINS - 1), np.int64)


def _ratio(top: float, bottom: float) -> float:
    return float(top / bottom) if bottom else float("nan")
