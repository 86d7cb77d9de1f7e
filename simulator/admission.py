"""Compiled twins of the policies: the same decisions as `simulator.policies`, over flat arrays.

Schedulers that rank need not sort: survivals fall into narrow buckets (32 to a factor of two), and only a bucket in which
the decision might fall is put in order. Survivals are multiples of 2⁻²⁴, so sums over a bucket are exact in any order.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from simulator.cost import StepCost
from simulator.errors import InputError
from simulator.policies import BatchAdaptive, Fixed, KByBatch, LaggedScheduler, Oracle, Policy, PrefixScheduler, Threshold

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

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
    believed: StepCost


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
    counts: Ints
    sums: Floats
    """Positions in a bucket and the sum of their survivals, [BUCKETS]."""
    items: npt.NDArray[np.float32]
    owners: Ints
    """Survivals of one bucket and the requests they belong to, [requests · γ]."""


def rule_of(policy: Policy, requests: int, nothing: StepCost) -> Rule:
    """The compiled form of a policy; `nothing` stands in where it needs no cost. Raises InputError for one without."""
    table = np.zeros(requests + 1, np.int64)
    lag, number, cost = 0, 0.0, nothing
    match policy:
        case Fixed():
            kind, table[:] = Kind.TABLE, policy.k
        case KByBatch():
            kind, lowest = Kind.TABLE, 0
            for most, k in policy.rows:
                table[lowest : most + 1] = k
                lowest = most + 1
        case Threshold():
            kind, number = Kind.THRESHOLD, policy.least
        case Oracle():
            kind = Kind.ORACLE
        case PrefixScheduler():
            kind, cost = Kind.PREFIX, policy.cost
        case LaggedScheduler():
            kind, number, lag, cost = Kind.LAGGED, policy.ema, policy.lag, policy.cost
        case BatchAdaptive():
            kind, number, cost = Kind.BATCH_ADAPTIVE, policy.weight, policy.cost
        case _:
            raise InputError(f"policy {policy.name}: the simulator has no compiled form of it")
    return Rule(int(kind), table, float(number), lag, cost)


def scratch(requests: int, gamma: int) -> Scratch:
    """Room for so many decoding requests."""
    lengths, anchors, drafted, accepted = (np.zeros(requests, np.int64) for _ in range(4))
    old = np.ones((requests, gamma), np.float32)
    items, owners = np.zeros(requests * gamma, np.float32), np.zeros(requests * gamma, np.int64)
    counts, sums = np.zeros(BUCKETS, np.int64), np.zeros(BUCKETS, np.float64)
    every = np.arange(requests)
    return Scratch(lengths, anchors, drafted, accepted, old, old.view(np.int32), every, counts, sums, items, owners)


@njit(cache=True, inline="always")
def bucket(bits: int) -> int:
    """Where a survival goes, by the bits of its float32: 0 for 0, rising."""
    return max((bits >> 18) - _LOWEST + 1, 0)


@njit(cache=True)
def fill_buckets(bits, survival, rows, drafted, n, counts, sums):  # type: ignore[no-untyped-def]
    """Count and add up the survivals of all drafted positions; returns the highest bucket with any."""
    counts[:] = 0
    sums[:] = 0.0
    top = 0
    for i in range(n):
        row = rows[i]
        for k in range(drafted[i]):
            b = bucket(bits[row, k])
            counts[b] += 1
            sums[b] += survival[row, k]
            top = max(top, b)
    return top


@njit(cache=True)
def sort_bucket(bits, survival, rows, drafted, n, gamma, wanted, items, owners):  # type: ignore[no-untyped-def]
    """One bucket's survivals, falling; equals keep the order (position, request). Returns how many there are."""
    size = 0
    for k in range(gamma):
        for i in range(n):
            if k < drafted[i] and bucket(bits[rows[i], k]) == wanted:
                s = survival[rows[i], k]
                j = size
                while j > 0 and items[j - 1] < s:
                    items[j], owners[j] = items[j - 1], owners[j - 1]
                    j -= 1
                items[j], owners[j] = s, i
                size += 1
    return size


@njit(cache=True)
def lengths_above(bits, rows, drafted, n, limit, lengths):  # type: ignore[no-untyped-def]
    """ℓ = positions in buckets above `limit`; survivals fall along a draft, so they come first."""
    for i in range(n):
        row = rows[i]
        k = 0
        while k < drafted[i] and bucket(bits[row, k]) > limit:
            k += 1
        lengths[i] = k


@njit(cache=True)
def prefix_lengths(bits, survival, s, n, gamma, tokens, fixed_s, target_s, first):  # type: ignore[no-untyped-def]
    """`PrefixScheduler.admit`: target_s[first] is the pass with nothing verified."""
    at = first
    b = fill_buckets(bits, survival, s.anchors, s.drafted, n, s.counts, s.sums)
    size = taken = 0
    fell = False
    while b >= 0 and not fell:
        size = s.counts[b]
        if size and _rises_throughout(b, size, tokens, at, fixed_s, target_s):
            tokens += s.sums[b]
            at += size
        elif size:
            sort_bucket(bits, survival, s.anchors, s.drafted, n, gamma, b, s.items, s.owners)
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
    lengths_above(bits, s.anchors, s.drafted, n, b, s.lengths)
    if fell:
        for j in range(taken):
            s.lengths[s.owners[j]] += 1


@njit(cache=True)
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


@njit(cache=True)
def _edge(b):  # type: ignore[no-untyped-def]
    """The least survival of a bucket."""
    octave, part = divmod(b - 1, 32)
    return 2.0 ** (octave - 24) * (1 + part / 32)


@njit(cache=True)
def best_total(s, n, gamma, tokens, fixed_s, target_s, first):  # type: ignore[no-untyped-def]
    """How many positions to verify in all for the most expected tokens per second; the fewest of equals."""
    b = fill_buckets(s.old_bits, s.old, s.every, s.drafted, n, s.counts, s.sums)
    best, best_rate, count = 0, tokens / (fixed_s + target_s[first]), 0
    while b >= 0:
        size = s.counts[b]
        if size:
            end_rate = (tokens + s.sums[b]) / (fixed_s + target_s[first + count + size])
            bound = _best_inside(b, size, tokens, first + count, fixed_s, target_s)
            if bound >= max(end_rate, best_rate):
                sort_bucket(s.old_bits, s.old, s.every, s.drafted, n, gamma, b, s.items, s.owners)
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
    return best


@njit(cache=True)
def _best_inside(b, size, tokens, at, fixed_s, target_s):  # type: ignore[no-untyped-def]
    """No rate inside a bucket, its end left out, is above this."""
    high, bound = _edge(b + 1), 0.0
    for j in range(1, size):
        bound = max(bound, (tokens + j * high) / (fixed_s + target_s[at + j]))
    return bound * (1 + 1e-9)


@njit(cache=True)
def fill_budget(bits, survival, s, n, gamma, budget):  # type: ignore[no-untyped-def]
    """Verify the `budget` best positions."""
    b = fill_buckets(bits, survival, s.anchors, s.drafted, n, s.counts, s.sums)
    while b >= 0 and s.counts[b] <= budget:
        budget -= s.counts[b]
        b -= 1
    lengths_above(bits, s.anchors, s.drafted, n, b, s.lengths)
    if budget > 0 and b >= 0:
        sort_bucket(bits, survival, s.anchors, s.drafted, n, gamma, b, s.items, s.owners)
        for j in range(budget):
            s.lengths[s.owners[j]] += 1


@njit(cache=True)
def threshold_lengths(confidence, s, n, least):  # type: ignore[no-untyped-def]
    """`Threshold.admit`."""
    for i in range(n):
        k = 0
        while k < s.drafted[i] and confidence[s.anchors[i], k] >= least:
            k += 1
        s.lengths[i] = k
