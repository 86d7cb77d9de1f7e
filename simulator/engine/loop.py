"""The compiled serving engine: continuous batching, one step at a time, over flat arrays.

Events have an order, (time, priority): what a step's end brings comes before arrivals of that time, arrivals before the
step that starts then; of replicas that start together, the first goes first. `reference.py` says the same slowly.
"""

from __future__ import annotations

import numpy as np

from simulator.engine.compilation import Kept, copied, inlined, part
from simulator.engine.rules import Kind, draft_tokens, foreseen_tokens, verify_lengths
from simulator.engine.state import bin_of
from simulator.hardware.cost import Longest, StepLoad, step_parts, total_s

copied(bin_of)

SLICE_DONE, ALL_DONE, NEED_REQUESTS, NEED_JOBS, ROWS_FULL = range(5)
"""Why `advance` came back."""


@Kept
def advance(state, tables, limits, rule, cost, until_s):  # type: ignore[no-untyped-def]
    """Run until no step or arrival before `until_s` is left, or something is needed; returns why."""
    control = state.control[0]
    while True:
        if control.rows + limits.requests > len(state.rows):
            return ROWS_FULL
        replica = _next_replica(state.replicas)
        arrival_s = np.inf
        if limits.closed:
            if control.due > 0:
                arrival_s = state.due_s[0]
        elif control.next < control.filled:
            arrival_s = state.requests[control.next].arrival_s
        if control.next == control.filled:
            if not control.last and not (limits.closed and control.due == 0):
                return NEED_REQUESTS
            arrival_s = np.inf
        if replica >= 0 and state.replicas[replica].clock_s < arrival_s:
            if state.replicas[replica].clock_s >= until_s:
                return SLICE_DONE
            _step(state, tables, limits, rule, cost, replica)
        elif arrival_s == np.inf:
            return ALL_DONE
        elif arrival_s >= until_s:
            return SLICE_DONE
        elif control.free == 0:
            return NEED_JOBS
        else:
            _arrive(state, tables, limits, arrival_s)


@inlined
def _next_replica(replicas):  # type: ignore[no-untyped-def]
    """The one with work whose next step starts first; −1 if none has work."""
    found = -1
    for r in range(len(replicas)):
        busy = replicas[r].running + replicas[r].waiting > 0
        if busy and (found < 0 or replicas[r].clock_s < replicas[found].clock_s):
            found = r
    return found


@part
def _arrive(state, tables, limits, arrival_s):  # type: ignore[no-untyped-def]
    """The next request enters the queue of the replica it is routed to."""
    control = state.control[0]
    if limits.closed:
        _pop_due(state.due_s, control)
    asked = state.requests[control.next]
    control.next += 1
    control.free -= 1
    j = state.free[control.free]
    job = state.jobs[j]
    job.request = state.totals[0].arrived
    state.totals[0].arrived += 1
    job.response, job.segment = asked.response, 0
    job.prompt_tokens, job.output_tokens = asked.prompt_tokens, asked.output_tokens
    job.arrival_s, job.think_s, job.first_s = arrival_s, asked.think_s, 0.0
    job.emitted = job.rounds = job.drafted = job.verified = job.accepted = job.preemptions = job.since = job.held = 0
    job.prefill_left = asked.prompt_tokens
    job.anchor = tables.first[asked.response]
    whole = asked.output_tokens <= tables.last[asked.response] - tables.first[asked.response] + 1
    job.limit = -1 if whole else tables.usable[asked.response]
    r = _route(state, limits, arrival_s)
    replica = state.replicas[r]
    if replica.clock_s > arrival_s:
        replica.in_system_area_s += replica.clock_s - arrival_s
    else:
        replica.clock_s = arrival_s
    _push_back(state.jobs, replica, j)


@inlined
def _route(state, limits, now_s):  # type: ignore[no-untyped-def]
    control = state.control[0]
    if not limits.least_loaded:
        control.turn += 1
        return (control.turn - 1) % len(state.replicas)
    best, best_load = 0, -1
    for r in range(len(state.replicas)):
        replica = state.replicas[r]
        load = replica.running + replica.waiting + (replica.leaving if now_s < replica.clock_s else 0)
        if best_load < 0 or load < best_load:
            best, best_load = r, load
    return best


@part
def _step(state, tables, limits, rule, cost, r):  # type: ignore[no-untyped-def]
    """One engine iteration of replica r: preempt, admit, draft, verify, commit."""
    replica, totals, s = state.replicas[r], state.totals[0], state.scratch
    admits = not _preempt(state, limits, r)
    n, context, longest_context = _gather_decoding(state, r)
    prefilling, finishing, prefill_tokens, pairs = _give_prefill(state, limits, r, n, admits)

    load = StepLoad(n, prefilling, finishing, prefill_tokens, pairs, context)
    if rule.kind == Kind.ORACLE:
        _foresee(state, tables, n)
        k = foreseen_tokens(s, state.paid[r], rule, limits.gamma, load)
    else:
        k = draft_tokens(rule, limits.gamma, load, replica.alpha)
    for i in range(n):
        job = state.jobs[state.decoding[i]]
        s.anchors[i] = job.anchor
        s.drafted[i] = min(k, tables.drafted[job.anchor])
        s.accepted[i] = tables.accepted[job.anchor]
    verify_lengths(state, tables, limits, rule, load)

    verified = longest = 0
    for i in range(n):
        verified += s.lengths[i]
        longest = max(longest, s.lengths[i])
    parts = step_parts(cost, load, k, verified, Longest(longest, longest_context))
    step_s = total_s(parts)

    if state.control[0].logged < len(state.log):
        _log(state, load, k, verified, longest, longest_context)
    totals.steps += 1
    totals.outside += 0 < cost.captured < prefill_tokens + n + verified
    totals.request_steps += n
    totals.overhead_s += parts.overhead_s
    totals.draft_s += parts.draft_s
    totals.attention_s += parts.attention_s
    totals.target_s += parts.target_s
    totals.kv_token_s += replica.kv_tokens * step_s
    totals.request_s += n * step_s
    totals.prefill_tokens += prefill_tokens
    replica.in_system_area_s += (replica.running + replica.waiting) * step_s
    replica.clock_s += step_s
    _commit(state, tables, limits, rule, r, n)


@part
def _log(state, load, drafted, verified, longest, longest_context):  # type: ignore[no-untyped-def]
    """Write down what a step holds."""
    held = state.log[state.control[0].logged]
    state.control[0].logged += 1
    held.decoding, held.prefilling, held.finishing_prefill = load.decoding, load.prefilling, load.finishing_prefill
    held.prefill_tokens, held.prefill_pairs, held.context_tokens = (
        load.prefill_tokens, load.prefill_pairs, load.context_tokens
    )  # fmt: skip
    held.drafted, held.verified, held.longest, held.longest_context = drafted, verified, longest, longest_context


@inlined
def _foresee(state, tables, n):  # type: ignore[no-untyped-def]
    """What would be accepted of a whole draft of each, and is still wanted."""
    for i in range(n):
        job = state.jobs[state.decoding[i]]
        state.scratch.accepted[i] = min(tables.accepted[job.anchor], job.output_tokens - job.emitted - 1)


@inlined
def _preempt(state, limits, r):  # type: ignore[no-untyped-def]
    """The last admitted give way until what everybody may write in this step fits; they begin anew, keeping their tokens.

    Returns whether anybody did.
    """
    replica = state.replicas[r]
    before = replica.running
    while replica.kv_tokens > limits.kv_tokens:
        replica.running -= 1
        j = state.order[r, replica.running]
        job = state.jobs[j]
        replica.kv_tokens -= _reserved(job, limits)
        _release(state.cache, limits, replica, r, job)
        job.prefill_left = job.prompt_tokens + job.emitted
        job.preemptions += 1
        job.since = 0
        state.totals[0].preemptions += 1
        job.next = replica.head
        replica.head = j
        if replica.tail < 0:
            replica.tail = j
        replica.waiting += 1
    _evict(state.cache, limits, replica, r)
    return replica.running < before


@inlined
def _reserved(job, limits):  # type: ignore[no-untyped-def]
    return job.prompt_tokens + job.emitted + limits.gamma + 1


@inlined
def _gather_decoding(state, r):  # type: ignore[no-untyped-def]
    n = context = longest = 0
    for i in range(state.replicas[r].running):
        j = state.order[r, i]
        job = state.jobs[j]
        if job.prefill_left == 0:
            state.decoding[n] = j
            n += 1
            context += job.prompt_tokens + job.emitted
            longest = max(longest, job.prompt_tokens + job.emitted)
    return n, context, longest


@part
def _give_prefill(state, limits, r, n, admits):  # type: ignore[no-untyped-def]
    """Share what the decoding requests leave of the step's tokens among prompts, admitted ones first, in order.

    Some are always left, so only the last prompt served stays unfinished, and the next step serves it first: every
    running prompt has a chunk of this step. After a preemption nobody is admitted.
    """
    replica = state.replicas[r]
    left = limits.step_tokens - n * (limits.gamma + 1)
    prefilling = finishing = pairs = 0
    if replica.running == n and replica.waiting == 0:
        return prefilling, finishing, 0, pairs
    budget = left
    i = 0
    while left > 0:
        if i == replica.running and not (admits and _admit_next(state, limits, r)):
            break
        job = state.jobs[state.order[r, i]]
        i += 1
        job.chunk = 0
        if job.prefill_left > 0:
            job.chunk = min(left, job.prefill_left)
            left -= job.chunk
            prefilling += 1
            finishing += job.chunk == job.prefill_left
            done = job.prompt_tokens + job.emitted - job.prefill_left
            pairs += job.chunk * done + job.chunk * (job.chunk + 1) // 2
    return prefilling, finishing, budget - left, pairs


@inlined
def _admit_next(state, limits, r):  # type: ignore[no-untyped-def]
    """The first in line starts to run, if there is room for it and for what it may write next."""
    replica = state.replicas[r]
    if replica.waiting == 0 or replica.running == limits.requests:
        return False
    j = replica.head
    job = state.jobs[j]
    hits, shared = _look_up(state.cache, limits, r, job)
    needed = _reserved(job, limits) - shared * limits.block_tokens
    if replica.kv_tokens + needed > limits.kv_tokens:
        return False
    replica.head = job.next
    if replica.head < 0:
        replica.tail = -1
    replica.waiting -= 1
    replica.kv_tokens += needed
    state.order[r, replica.running] = j
    replica.running += 1
    if hits > 0:
        _hold(state.cache, replica, r, job, hits)
        job.prefill_left -= hits * limits.block_tokens
        state.totals[0].hit_tokens += hits * limits.block_tokens
    _evict(state.cache, limits, replica, r)
    return True


@part
def _look_up(cache, limits, r, job):  # type: ignore[no-untyped-def]
    """Blocks of a prompt that are kept, from its beginning, and how many others hold; one token is left to compute."""
    hits = shared = 0
    if limits.block_tokens == 0:
        return hits, shared
    first = cache.offsets[job.request]
    most = min(cache.offsets[job.request + 1] - first, (job.prefill_left - 1) // limits.block_tokens)
    while hits < most:
        holders = cache.holders[r, cache.ids[first + hits]]
        if holders < 0:
            break
        shared += holders > 0
        hits += 1
    return hits, shared


@part
def _hold(cache, replica, r, job, blocks):  # type: ignore[no-untyped-def]
    """The request holds so many more blocks of its prompt; returns how many of them others hold too."""
    shared = 0
    first = cache.offsets[job.request] + job.held
    for i in range(first, first + blocks):
        b = cache.ids[i]
        if cache.holders[r, b] > 0:
            shared += 1
        elif cache.holders[r, b] == 0:
            _unlink(cache, r, b)
            replica.idle -= 1
        cache.holders[r, b] = max(cache.holders[r, b], 0) + 1
    job.held += blocks
    return shared


@part
def _release(cache, limits, replica, r, job):  # type: ignore[no-untyped-def]
    """The request holds its blocks no more. Those that nobody else holds are kept, the end of the prompt to go first."""
    if job.held == 0:
        return
    first, end = cache.offsets[job.request], len(cache.after[r]) - 1
    for i in range(first + job.held - 1, first - 1, -1):
        b = cache.ids[i]
        cache.holders[r, b] -= 1
        if cache.holders[r, b] > 0:
            replica.kv_tokens += limits.block_tokens
            continue
        last = cache.before[r, end]
        cache.after[r, last] = cache.before[r, end] = b
        cache.before[r, b], cache.after[r, b] = last, end
        replica.idle += 1
    job.held = 0


@inlined
def _unlink(cache, r, b):  # type: ignore[no-untyped-def]
    before, after = cache.before[r, b], cache.after[r, b]
    cache.after[r, before], cache.before[r, after] = after, before


@part
def _evict(cache, limits, replica, r):  # type: ignore[no-untyped-def]
    """Blocks that nobody holds give way, least recently held first, until all fits."""
    end = len(cache.after[r]) - 1
    while replica.idle > 0 and replica.kv_tokens + replica.idle * limits.block_tokens > limits.kv_tokens:
        b = cache.after[r, end]
        _unlink(cache, r, b)
        cache.holders[r, b] = -1
        replica.idle -= 1


@part
def _commit(state, tables, limits, rule, r, n):  # type: ignore[no-untyped-def]
    """What the target said: tokens enter responses, prompts move on, finished requests leave."""
    replica, totals, s = state.replicas[r], state.totals[0], state.scratch
    before = totals.emitted
    tried = accepted_sum = burst_bin = 0
    gap_s = -1.0
    for i in range(n):
        j = state.decoding[i]
        job = state.jobs[j]
        length = s.lengths[i]
        accepted = min(s.accepted[i], length)
        committed = min(accepted + 1, job.output_tokens - job.emitted)
        if rule.kind == Kind.LAGGED:
            at = job.since % rule.lag
            state.memory.anchors[j, at], state.memory.lengths[j, at] = job.anchor, length
            state.memory.whole[j, at] = accepted == length
        if replica.clock_s - job.burst_s != gap_s:  # most have waited for this step alone
            gap_s = replica.clock_s - job.burst_s
            burst_bin = bin_of(gap_s)
        state.bursts[burst_bin] += 1
        job.burst_s = replica.clock_s
        job.since += 1
        job.rounds += 1
        job.drafted += s.drafted[i]
        job.verified += length
        job.accepted += accepted
        tried += min(accepted + 1, length)
        accepted_sum += accepted
        totals.drafted += s.drafted[i]
        totals.verified += length
        _emit(job, tables, limits, committed)
        totals.emitted += committed
    totals.rounds += n
    totals.accepted += accepted_sum
    totals.committed += totals.emitted - before
    if rule.kind == Kind.BATCH_ADAPTIVE and tried > 0:
        replica.alpha += rule.number * (accepted_sum / tried - replica.alpha)
    if replica.running > n:
        _move_prefill(state, tables, limits, r)
    replica.kv_tokens += totals.emitted - before
    _retire(state, limits, r)


@part
def _emit(job, tables, limits, tokens):  # type: ignore[no-untyped-def]
    """Move along the response, and on to another one of its domain where it ends before the request does."""
    job.emitted += tokens
    job.anchor += tokens
    while job.limit >= 0 and job.anchor >= job.limit:
        job.segment += 1
        domain = tables.domain[job.response]
        first = tables.member_first[domain]
        count = tables.member_first[domain + 1] - first
        draw = _mix(np.uint64(limits.seed), np.uint64(job.request), np.uint64(job.segment))
        response = tables.members[first + np.int64(draw % np.uint64(count))]
        job.anchor, job.limit = tables.first[response], tables.usable[response]


@inlined
def _mix(seed, request, segment):  # type: ignore[no-untyped-def]
    """A draw that depends on nothing but these three, so that every policy sees the same text (splitmix64)."""
    x = seed ^ (request * np.uint64(0x9E3779B97F4A7C15)) ^ (segment * np.uint64(0xD1B54A32D192ED03))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@part
def _move_prefill(state, tables, limits, r):  # type: ignore[no-untyped-def]
    """Prompts go on by their chunk; the last chunk emits a token: the first, or after a preemption the next."""
    replica, totals = state.replicas[r], state.totals[0]
    for i in range(replica.running):
        job = state.jobs[state.order[r, i]]
        if job.prefill_left == 0:
            continue
        job.prefill_left -= job.chunk
        if job.prefill_left > 0:
            continue
        if limits.block_tokens > 0:
            blocks = state.cache.offsets[job.request + 1] - state.cache.offsets[job.request] - job.held
            replica.kv_tokens -= limits.block_tokens * _hold(state.cache, replica, r, job, blocks)
        totals.prefills += 1
        totals.emitted += 1
        if job.emitted == 0:
            job.first_s = replica.clock_s
            job.emitted = 1
            _emit(job, tables, limits, 0)
        else:
            state.bursts[bin_of(replica.clock_s - job.burst_s)] += 1
            _emit(job, tables, limits, 1)
        job.burst_s = replica.clock_s


@part
def _retire(state, limits, r):  # type: ignore[no-untyped-def]
    """Write out finished requests and close the ranks, keeping the order."""
    replica, totals, control = state.replicas[r], state.totals[0], state.control[0]
    kept = 0
    for i in range(replica.running):
        j = state.order[r, i]
        job = state.jobs[j]
        if job.emitted < job.output_tokens or job.prefill_left > 0:
            state.order[r, kept] = j
            kept += 1
            continue
        replica.kv_tokens -= _reserved(job, limits)
        _release(state.cache, limits, replica, r, job)
        row = state.rows[control.rows]
        control.rows += 1
        row.request, row.response, row.replica = job.request, job.response, r
        row.prompt_tokens, row.output_tokens = job.prompt_tokens, job.output_tokens
        row.arrival_s, row.first_s, row.finish_s = job.arrival_s, job.first_s, replica.clock_s
        row.rounds, row.drafted, row.verified, row.accepted = job.rounds, job.drafted, job.verified, job.accepted
        row.preemptions = job.preemptions
        totals.finished += 1
        totals.finished_tokens += job.output_tokens
        totals.sojourn_s += replica.clock_s - job.arrival_s
        state.free[control.free] = j
        control.free += 1
        if limits.closed:
            _push_due(state.due_s, control, replica.clock_s + job.think_s)
    replica.leaving = replica.running - kept
    replica.running = kept


@inlined
def _push_back(jobs, replica, j):  # type: ignore[no-untyped-def]
    jobs[j].next = -1
    if replica.tail < 0:
        replica.head = j
    else:
        jobs[replica.tail].next = j
    replica.tail = j
    replica.waiting += 1


@inlined
def _push_due(due_s, control, time_s):  # type: ignore[no-untyped-def]
    i = control.due
    control.due += 1
    while i > 0 and due_s[(i - 1) // 2] > time_s:
        due_s[i] = due_s[(i - 1) // 2]
        i = (i - 1) // 2
    due_s[i] = time_s


@inlined
def _pop_due(due_s, control):  # type: ignore[no-untyped-def]
    control.due -= 1
    last, i = due_s[control.due], 0
    while 2 * i + 1 < control.due:
        child = 2 * i + 1
        if child + 1 < control.due and due_s[child + 1] < due_s[child]:
            child += 1
        if due_s[child] >= last:
            break
        due_s[i] = due_s[child]
        i = child
    due_s[i] = last
