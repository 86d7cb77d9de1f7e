"""Compiled twins of the policies: the same decisions as `simulator.policies`, over flat arrays.

Schedulers that rank need not sort: survivals fall into narrow buckets (32 to a factor of two), and only a bucket in which
the decision might fall is put in order. Survivals are multiples of 2⁻²⁴, so sums over a bucket are exact in any order.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.engine.compilation import callable_part, copied, inlined, part
from simulator.hardware.cost import SUMS, TERMS, StepCost, StepLoad, fixed_s, foreseen_s, verifying_s
from simulator.policies import BatchAdaptive, Fixed, KByBatch, LaggedScheduler, Oracle, Policy, PrefixScheduler, Threshold
from simulator.traces import rounded_survival

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

for term in TERMS:
    copied(term)
copied(rounded_survival)
for terms in SUMS:
    part(terms)

BUCKETS = 770
_LOWEST = (127 - 24) << 5
"""Bucket of 2⁻²⁴, the least survival above 0, in float32 bits without their last 18."""


class Kind(IntEnum):
    """Which rule the compiled loop follows."""

    TABLE = 0
    THRESHOLD = 1
    ORACLE = 2
    PREFIX = 3
    LAGGED = 4
    BATCH_ADAPTIVE = 5


class Rule(NamedTuple):
    """A policy as the compiled loop reads it."""

    kind: int
    k_by_requests: Ints
    """k by decoding requests, [requests + 1], for TABLE."""
    number: float
    """Threshold, or weight of a moving average."""
    lag: int
    believed: Any
    """What it takes a step to cost: `StepCost.compiled`."""


class Scratch(NamedTuple):
    """Room for one step's decision, so that nothing is allocated."""

    lengths: Ints
    """ℓ of each decoding request, the result."""
    anchors: Ints
    """Anchor of each decoding request, [requests]."""
    drafted: Ints
    """Tokens drafted for each, [requests]."""
    accepted: Ints
    """What would be accepted of each, [requests]."""
    old: npt.NDArray[np.float32]
    old_bits: npt.NDArray[np.int32]
    """Old survivals, [requests, γ], and the same memory as integers."""
    every: Ints
    """0, 1, …: the rows of `old`."""
    buckets: npt.NDArray[np.int16]
    """Bucket of every position, [γ, requests]; −1 where nothing was drafted."""
    counts: Ints
    sums: Floats
    """Positions in a bucket and the sum of their survivals, [BUCKETS]."""
    items: npt.NDArray[np.float32]
    owners: Ints
    """Survivals of one bucket and the requests they belong to, [requests · γ]."""


COMPILED = (Fixed, KByBatch, Threshold, Oracle, PrefixScheduler, LaggedScheduler, BatchAdaptive)
"""Policies that have a compiled form; any other is simulated by `simulator.engine.reference`."""


def rule_of(policy: Policy, requests: int, nothing: StepCost) -> Rule:
    """The compiled form of one of the `COMPILED`; `nothing` stands in where it needs no cost."""
    table = np.zeros(requests + 1, np.int64)
    lag, number, cost = 0, 0.0, nothing
    match policy:
        case Fixed():
            kind, table[:] = Kind.TABLE, policy.k
        case KByBatch():
            kind, lowest = Kind.TABLE, 0
            for most, k in policy.rows:
                table[lowest:] = k
                lowest = most + 1
        case Threshold():
            kind, number = Kind.THRESHOLD, policy.least
        case Oracle():
            kind, cost = Kind.ORACLE, policy.cost
        case PrefixScheduler():
            kind, cost = Kind.PREFIX, policy.cost
        case LaggedScheduler():
            kind, number, lag, cost = Kind.LAGGED, policy.ema, policy.lag, policy.cost
        case BatchAdaptive():
            kind, number, cost = Kind.BATCH_ADAPTIVE, policy.weight, policy.cost
        case _:
            raise AssertionError(f"policy {policy.name}: has no compiled form")
    return Rule(int(kind), table, float(number), lag, cost.compiled)


def scratch(requests: int, gamma: int) -> Scratch:
    """Room for so many decoding requests."""
    lengths, anchors, drafted, accepted = (np.zeros(requests, np.int64) for _ in range(4))
    old = np.ones((requests, gamma), np.float32)
    items, owners = np.zeros(requests * gamma, np.float32), np.zeros(requests * gamma, np.int64)
    counts, sums = np.zeros(BUCKETS, np.int64), np.zeros(BUCKETS, np.float64)
    every = np.arange(requests)
    buckets = np.zeros((gamma, requests), np.int16)
    return Scratch(lengths, anchors, drafted, accepted, old, old.view(np.int32), every, buckets, counts, sums, items, owners)


@inlined
def bucket(bits):  # type: ignore[no-untyped-def]
    """Where a survival goes, by the bits of its float32: 0 for 0, rising."""
    return max((bits >> 18) - _LOWEST + 1, 0)


@part
def fill_buckets(bits, survival, rows, drafted, n, gamma, s):  # type: ignore[no-untyped-def]
    """Find every drafted position's bucket, count and add up; returns the highest and the lowest bucket with any."""
    top, bottom = 0, BUCKETS - 1
    for i in range(n):
        row = rows[i]
        for k in range(drafted[i]):
            b = bucket(bits[row, k])
            s.buckets[k, i] = b
            s.counts[b] += 1
            s.sums[b] += survival[row, k]
            top = max(top, b)
            bottom = min(bottom, b)
        for k in range(drafted[i], gamma):
            s.buckets[k, i] = -1
    return top, bottom


@inlined
def clear_buckets(top, bottom, counts, sums):  # type: ignore[no-untyped-def]
    """Leave no trace: far cheaper than clearing all buckets each time."""
    for b in range(bottom, top + 1):
        counts[b] = 0
        sums[b] = 0.0


@part
def sort_bucket(survival, rows, n, gamma, wanted, s):  # type: ignore[no-untyped-def]
    """One bucket's survivals, falling; equals keep the order (position, request)."""
    size = 0
    for k in range(gamma):
        for i in range(n):
            if s.buckets[k, i] == wanted:
                value = survival[rows[i], k]
                j = size
                while j > 0 and s.items[j - 1] < value:
                    s.items[j], s.owners[j] = s.items[j - 1], s.owners[j - 1]
                    j -= 1
                s.items[j], s.owners[j] = value, i
                size += 1


@inlined
def lengths_above(n, gamma, limit, s):  # type: ignore[no-untyped-def]
    """ℓ = positions in buckets above `limit`; survivals fall along a draft, so they come first."""
    for i in range(n):
        s.lengths[i] = 0
    for k in range(gamma):
        for i in range(n):
            s.lengths[i] += s.buckets[k, i] > limit


@callable_part
def prefix_lengths(bits, survival, s, n, gamma, tokens, fixed_s, target_s, first):  # type: ignore[no-untyped-def]
    """`PrefixScheduler.admit`: target_s[first] is the pass with nothing verified."""
    at = first
    b, bottom = fill_buckets(bits, survival, s.anchors, s.drafted, n, gamma, s)
    top = b
    size = taken = 0
    fell = False
    while b >= bottom and not fell:
        size = s.counts[b]
        if size and _rises_throughout(b, size, tokens, at, fixed_s, target_s):
            tokens += s.sums[b]
            at += size
        elif size:
            sort_bucket(survival, s.anchors, n, gamma, b, s)
            taken = 0
            while taken < size:
                now_s, next_s = fixed_s + target_s[at], fixed_s + target_s[at + 1]
                if (tokens + s.items[taken]) * now_s <= tokens * next_s:
                    fell = True
                    break
                tokens += s.items[taken]
                at += 1
                taken += 1
        b -= 0 if fell else 1
    clear_buckets(top, bottom, s.counts, s.sums)
    lengths_above(n, gamma, b, s)
    if fell:
        for j in range(taken):
            s.lengths[s.owners[j]] += 1


@inlined
def _rises_throughout(b, size, tokens, at, fixed_s, target_s):  # type: ignore[no-untyped-def]
    """Whether admitting a whole bucket surely raises the objective at every step, in whatever order."""
    if b == 0:
        return False
    steepest, least_s, most_s = 0.0, target_s[at], target_s[at]
    for j in range(at, at + size):
        steepest = max(steepest, target_s[j + 1] - target_s[j])
        least_s = min(least_s, target_s[j])
        most_s = max(most_s, target_s[j + 1])
    low, high = _edge(b), _edge(b + 1)
    # What rounding could do to the step times and products that the policy compares is far smaller than this.
    rounding_s = 2e-15 * (fixed_s + most_s)
    return low * (fixed_s + least_s) * (1 - 1e-9) > (tokens + size * high) * (steepest + rounding_s)


@inlined
def _edge(b):  # type: ignore[no-untyped-def]
    """The least survival of a bucket."""
    octave, part = divmod(b - 1, 32)
    return 2.0 ** (octave - 24) * (1 + part / 32)


@callable_part
def best_total(s, n, gamma, tokens, fixed_s, target_s, first):  # type: ignore[no-untyped-def]
    """How many positions to verify in all for the most expected tokens per second; the fewest of equals."""
    b, bottom = fill_buckets(s.old_bits, s.old, s.every, s.drafted, n, gamma, s)
    top = b
    best, best_rate, count = 0, tokens / (fixed_s + target_s[first]), 0
    while b >= bottom:
        size = s.counts[b]
        if size:
            end_rate = (tokens + s.sums[b]) / (fixed_s + target_s[first + count + size])
            bound = _best_inside(b, size, tokens, first + count, fixed_s, target_s)
            if bound >= max(end_rate, best_rate):
                sort_bucket(s.old, s.every, n, gamma, b, s)
                inside = tokens
                for j in range(size):
                    inside += s.items[j]
                    rate = inside / (fixed_s + target_s[first + count + j + 1])
                    if rate > best_rate:
                        best, best_rate = count + j + 1, rate
            elif end_rate > best_rate:
                best, best_rate = count + size, end_rate
            tokens += s.sums[b]
            count += size
        b -= 1
    clear_buckets(top, bottom, s.counts, s.sums)
    return best


@inlined
def _best_inside(b, size, tokens, at, fixed_s, target_s):  # type: ignore[no-untyped-def]
    """No rate inside a bucket, its end left out, is above this."""
    high, bound = _edge(b + 1), 0.0
    for j in range(1, size):
        bound = max(bound, (tokens + j * high) / (fixed_s + target_s[at + j]))
    return bound * (1 + 1e-9)


@callable_part
def fill_budget(bits, survival, s, n, gamma, budget):  # type: ignore[no-untyped-def]
    """Verify the `budget` best positions."""
    b, bottom = fill_buckets(bits, survival, s.anchors, s.drafted, n, gamma, s)
    top = b
    while b >= bottom and s.counts[b] <= budget:
        budget -= s.counts[b]
        b -= 1
    clear_buckets(top, bottom, s.counts, s.sums)
    lengths_above(n, gamma, b, s)
    if budget > 0 and b >= bottom:
        sort_bucket(survival, s.anchors, n, gamma, b, s)
        for j in range(budget):
            s.lengths[s.owners[j]] += 1


@callable_part
def threshold_lengths(confidence, s, n, least):  # type: ignore[no-untyped-def]
    """`Threshold.admit`."""
    for i in range(n):
        k = 0
        while k < s.drafted[i] and confidence[s.anchors[i], k] >= least:
            k += 1
        s.lengths[i] = k


@part
def draft_tokens(rule, gamma, load, alpha):  # type: ignore[no-untyped-def]
    """`Policy.draft`."""
    if rule.kind == Kind.TABLE:
        return min(gamma, rule.k_by_requests[load.decoding])
    if rule.kind != Kind.BATCH_ADAPTIVE:
        return gamma
    best, best_rate, power, accepted = 0, 0.0, 1.0, 0.0
    for k in range(gamma + 1):
        step_s = foreseen_s(rule.believed, load, k, load.decoding * k)
        rate = (load.decoding + load.finishing_prefill + load.decoding * accepted) / step_s
        if rate > best_rate:
            best, best_rate = k, rate
        power *= alpha
        accepted += power
    return best


@part
def foreseen_tokens(s, paid, rule, gamma, load):  # type: ignore[no-untyped-def]
    """`Oracle.draft` and `Oracle.admit`, knowing in `s.accepted` what is useful: k, and ℓ of every request in the scratch.

    `paid` is the replica's tokens and seconds of decoding by requests; this step's are added.
    """
    n = load.decoding
    if n == 0:
        return 0
    price = paid[n, 0] / paid[n, 1] if paid[n, 1] > 0 else 0.0
    verified = most = most_now = best = longest = longest_now = 0
    worth = 0.0 - price * verifying_s(rule.believed, load, 0, 0)
    highest = -np.inf
    for k in range(gamma + 1):
        for i in range(n if k else 0):
            if s.accepted[i] >= k:
                verified += 1
                now = verified - price * verifying_s(rule.believed, load, verified, k)
                if now > worth:
                    worth, most_now, longest_now = now, verified, k
        value = worth - price * fixed_s(rule.believed, load, k)
        if value >= highest:
            highest, best, most, longest = value, k, most_now, longest_now
    left = most
    for i in range(n):
        s.lengths[i] = 0
    for k in range(1, longest + 1):
        for i in range(n):
            if left > 0 and s.accepted[i] >= k:
                s.lengths[i] += 1
                left -= 1
    alone = StepLoad(n, 0, 0, 0, 0, load.context_tokens)
    paid[n, 0] += n + most
    paid[n, 1] += fixed_s(rule.believed, alone, best) + verifying_s(rule.believed, alone, most, longest)
    return best


@part
def verify_lengths(state, tables, limits, rule, load):  # type: ignore[no-untyped-def]
    """`Policy.admit`: ℓ of every decoding request, into the scratch."""
    s, n = state.scratch, load.decoding
    if rule.kind == Kind.THRESHOLD:
        threshold_lengths(tables.confidence, s, n, rule.number)
    elif rule.kind == Kind.PREFIX or rule.kind == Kind.LAGGED:
        longest = 0
        for i in range(n):
            longest = max(longest, s.drafted[i])
        before_s = fixed_s(rule.believed, load, longest)
        target_s = rule.believed.eager_s if load.prefill_tokens else rule.believed.verify_s  # as cost.target_s
        tokens, first = float(n + load.finishing_prefill), load.prefill_tokens + n
        if rule.kind == Kind.PREFIX:
            prefix_lengths(tables.survival_bits, tables.survival, s, n, limits.gamma, tokens, before_s, target_s, first)
        else:
            _recall(state, tables, limits, rule, n)
            budget = best_total(s, n, limits.gamma, tokens, before_s, target_s, first) if n else 0
            fill_budget(tables.survival_bits, tables.survival, s, n, limits.gamma, budget)
    elif rule.kind != Kind.ORACLE:  # whose lengths are there since before drafting
        for i in range(n):
            s.lengths[i] = s.drafted[i]


@part
def _recall(state, tables, limits, rule, n):  # type: ignore[no-untyped-def]
    """Survivals `lag` rounds old, smoothed; confidences are 1 for requests without, and where nothing was drafted."""
    memory, s = state.memory, state.scratch
    for i in range(n):
        j = state.decoding[i]
        since = state.jobs[j].since
        at = since % rule.lag
        product = 1.0
        for k in range(limits.gamma):
            if since < rule.lag:
                memory.smoothed[j, k] = 1.0
            else:
                anchor = memory.anchors[j, at]
                unseen = memory.whole[j, at] and k > memory.lengths[j, at] and len(tables.fresh) > 0
                c = 1.0
                if k < tables.drafted[anchor]:
                    c = tables.fresh[anchor, k] if unseen else tables.confidence[anchor, k]
                memory.smoothed[j, k] = rule.number * memory.smoothed[j, k] + (1 - rule.number) * c
            product *= memory.smoothed[j, k]
            s.old[i, k] = rounded_survival(product)
