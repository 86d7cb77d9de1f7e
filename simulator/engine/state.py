"""What the compiled engine reads and writes: flat arrays and records, made once."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.engine.rules import Kind, Rule, Scratch, scratch
from simulator.memory import JOB_BYTES, check_memory, jobs_of
from simulator.numbers import counted
from simulator.prefixes import PrefixBlocks

Records = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

REQUEST = np.dtype(
    [("arrival_s", "f8"), ("think_s", "f8"), ("prompt_tokens", "i8"), ("output_tokens", "i8"), ("response", "i8")],
    align=True,
)
"""What a user asks for: `response` is the recorded response it replays first; arrival_s counts in open loops only."""
ROW = np.dtype(
    [
        ("request", "i8"), ("response", "i8"), ("replica", "i8"), ("prompt_tokens", "i8"), ("output_tokens", "i8"),
        ("arrival_s", "f8"), ("first_s", "f8"), ("finish_s", "f8"),
        ("rounds", "i8"), ("drafted", "i8"), ("verified", "i8"), ("accepted", "i8"), ("preemptions", "i8"),
    ],
    align=True,
)  # fmt: skip
"""What a request came to."""
JOB = np.dtype(
    [
        ("request", "i8"), ("response", "i8"), ("segment", "i8"), ("prompt_tokens", "i8"), ("output_tokens", "i8"),
        ("arrival_s", "f8"), ("think_s", "f8"), ("first_s", "f8"), ("emitted", "i8"), ("prefill_left", "i8"),
        ("chunk", "i8"), ("anchor", "i8"), ("limit", "i8"), ("rounds", "i8"), ("drafted", "i8"), ("verified", "i8"),
        ("accepted", "i8"), ("preemptions", "i8"), ("since", "i8"), ("next", "i8"), ("burst_s", "f8"),
        ("held", "i8"),
    ],
    align=True,
)  # fmt: skip
"""A request in the system. `anchor` and `limit` point into the trace; at the limit it goes on with another response.
`since` counts rounds since it was admitted; `next` is the one behind it in its replica's queue; at `burst_s` it got its last
tokens; the first `held` blocks of its prompt are shared with the cache."""
assert JOB.itemsize == JOB_BYTES
_BLOCK_BYTES = 24
"""What a block takes on a replica."""
REPLICA = np.dtype(
    [
        ("clock_s", "f8"), ("running", "i8"), ("waiting", "i8"), ("leaving", "i8"), ("head", "i8"), ("tail", "i8"),
        ("kv_tokens", "i8"), ("idle", "i8"), ("in_system_area_s", "f8"), ("alpha", "f8"),
    ],
    align=True,
)  # fmt: skip
"""`kv_tokens` are those of running requests, blocks that several hold counted once; `idle` blocks are kept, and nobody's."""
TOTALS = np.dtype(
    [
        ("steps", "i8"), ("outside", "i8"), ("request_steps", "i8"), ("rounds", "i8"), ("drafted", "i8"), ("verified", "i8"),
        ("accepted", "i8"), ("emitted", "i8"), ("committed", "i8"), ("prefill_tokens", "i8"), ("hit_tokens", "i8"),
        ("prefills", "i8"), ("preemptions", "i8"), ("arrived", "i8"), ("finished", "i8"), ("finished_tokens", "i8"),
        ("overhead_s", "f8"), ("draft_s", "f8"), ("attention_s", "f8"), ("target_s", "f8"),
        ("kv_token_s", "f8"), ("request_s", "f8"), ("sojourn_s", "f8"),
    ],
    align=True,
)  # fmt: skip
"""Sums over all replicas. `outside` counts steps larger than any captured size; `committed` counts tokens of rounds,
`emitted` those of prefills too; the areas are integrals over time of KV tokens, decoding requests and requests in the
system. `hit_tokens` of prompts were found in the prefix cache."""
CONTROL = np.dtype(
    [
        ("next", "i8"), ("filled", "i8"), ("last", "i8"), ("due", "i8"), ("free", "i8"), ("rows", "i8"), ("turn", "i8"),
        ("logged", "i8"),
    ],
    align=True,
)  # fmt: skip
"""Cursors: next request of the chunk, requests in it, whether it is the last chunk; sizes of the heaps and buffers."""
LOGGED = np.dtype(
    [
        ("decoding", "i8"), ("prefilling", "i8"), ("finishing_prefill", "i8"), ("prefill_tokens", "i8"),
        ("prefill_pairs", "i8"), ("context_tokens", "i8"), ("drafted", "i8"), ("verified", "i8"), ("longest", "i8"),
        ("longest_context", "i8"),
    ],
    align=True,
)  # fmt: skip
"""What a step held: `StepLoad`, tokens drafted for each and verified of all, and `Longest`."""


LEAST, GROWTH, BINS = 1e-6, math.log(1.01), 2777
"""Histograms: from a microsecond to a million seconds, bins of 1 %."""


def bin_of(value: float) -> int:
    """The bin of a histogram that a value falls in; numba reads this too."""
    return int(min(math.log(max(value, LEAST) / LEAST) / GROWTH, BINS - 1))


class Tables(NamedTuple):
    """A trace as the compiled loop reads it."""

    first: Ints
    last: Ints
    """Anchors of response s are first[s] to last[s]."""
    usable: Ints
    """A request that goes on with another response leaves at this anchor, while drafts can still be accepted whole."""
    drafted: npt.NDArray[np.uint8]
    accepted: npt.NDArray[np.uint8]
    survival: npt.NDArray[np.float32]
    survival_bits: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]
    fresh: npt.NDArray[np.float32]
    """[A, γ], or [0, γ] where not recorded."""
    domain: Ints
    """The domain of each response, [S], as its place among the sorted names."""
    members: Ints
    member_first: Ints
    """Responses of domain d that can be gone on with: members[member_first[d] : member_first[d + 1]]."""


class Limits(NamedTuple):
    """What the engine allows."""

    requests: int
    """Running at once, on each replica."""
    step_tokens: int
    kv_tokens: int
    gamma: int
    closed: bool
    """Whether a finished request brings its user's next one."""
    least_loaded: bool
    seed: int
    block_tokens: int = 0
    """Tokens of a block of the prefix cache; 0 without one."""


class Memory(NamedTuple):
    """Lags of `lagged_scheduler`, by job."""

    smoothed: Floats
    """[jobs, γ]."""
    anchors: Ints
    lengths: Ints
    whole: Ints
    """The last rounds' anchors, ℓ and whether all verified was accepted, [jobs, lag]."""


class Cache(NamedTuple):
    """Blocks of prompts that replicas keep, and those of each request."""

    ids: Ints
    offsets: Ints
    """The fields of `simulator.prefixes.PrefixBlocks`."""
    holders: Ints
    """Running requests that hold a block, [replicas, blocks]; −1 where it is not kept."""
    before: Ints
    after: Ints
    """Blocks that nobody holds, by when they were last held, as a ring: [replicas, blocks + 1], the last is no block."""


class State(NamedTuple):
    """Everything that changes."""

    jobs: Records
    free: Ints
    replicas: Records
    order: Ints
    """Running jobs of each replica in order of admission, [replicas, requests]."""
    decoding: Ints
    """Those that decode in the step at hand, [requests]."""
    due_s: Floats
    """Arrivals to come in a closed loop, as a heap."""
    requests: Records
    rows: Records
    totals: Records
    bursts: Ints
    """How often a user waited so long between two bursts of tokens, by `bin_of` seconds, [BINS]."""
    control: Records
    log: Records
    """What steps held, one of `LOGGED` each, until it is full."""
    memory: Memory
    cache: Cache
    paid: Floats
    """Tokens and seconds of decoding by decoding requests, for `oracle`, [replicas, requests + 1, 2]."""
    scratch: Scratch


def new_state(
    limits: Limits, rule: Rule, replicas: int, users: int, chunk: int, rows: int, blocks: PrefixBlocks | None = None,
    logged: int = 0,
) -> State:  # fmt: skip
    """An empty system that logs so many steps; `users` is 0 in an open loop. Raises InputError for more users than memory
    holds."""
    jobs = jobs_of(users)
    check_memory(jobs, f"{counted(users, 'user')}")
    state = State(
        np.zeros(jobs, JOB), np.arange(jobs), np.zeros(replicas, REPLICA),
        np.zeros((replicas, limits.requests), np.int64), np.zeros(limits.requests, np.int64), np.zeros(max(users, 1)),
        np.zeros(chunk, REQUEST), np.zeros(rows, ROW), np.zeros(1, TOTALS), np.zeros(BINS, np.int64),
        np.zeros(1, CONTROL), np.zeros(logged, LOGGED),
        _memory(jobs, limits.gamma, rule), _cache(replicas, blocks), np.zeros((replicas, limits.requests + 1, 2)),
        scratch(limits.requests, limits.gamma),
    )  # fmt: skip
    state.replicas["head"] = state.replicas["tail"] = -1
    state.replicas["alpha"] = 1.0
    state.control["due"], state.control["free"] = users, jobs
    return state


def _cache(replicas: int, blocks: PrefixBlocks | None) -> Cache:
    """Empty ones. Raises InputError for more blocks than memory holds."""
    distinct = blocks.distinct if blocks else 0
    check_memory(replicas * (distinct + 1) * _BLOCK_BYTES // JOB_BYTES, f"a prefix cache of {counted(distinct, 'block')}")
    ends = np.full((replicas, distinct + 1), distinct)
    none = np.zeros(0, np.int64), np.zeros(1, np.int64)
    ids, offsets = (blocks.ids.copy(), blocks.offsets.copy()) if blocks else none
    return Cache(ids, offsets, np.full((replicas, distinct), -1), ends, ends.copy())


def with_more_jobs(state: State, gamma: int, rule: Rule) -> State:
    """Twice the room. Raises InputError for more requests at once than memory holds."""
    jobs = len(state.jobs)
    check_memory(2 * jobs, f"the queue grows: more than {counted(jobs, 'request')} at once")
    state.control["free"] = jobs
    memory = _memory(2 * jobs, gamma, rule)
    for new, old in zip(memory, state.memory, strict=True):
        new[: len(old)] = old
    free = np.concatenate([np.arange(jobs, 2 * jobs), np.zeros(jobs, np.int64)])
    return state._replace(jobs=np.concatenate([state.jobs, np.zeros(jobs, JOB)]), free=free, memory=memory)


def _memory(jobs: int, gamma: int, rule: Rule) -> Memory:
    jobs = jobs if rule.kind == Kind.LAGGED else 1
    anchors, lengths, whole = (np.zeros((jobs, max(rule.lag, 1)), np.int64) for _ in range(3))
    return Memory(np.ones((jobs, gamma)), anchors, lengths, whole)
