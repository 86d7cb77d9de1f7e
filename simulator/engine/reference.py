"""The serving engine once more, slow and obvious: a heap of events and plain objects. The compiled engine must equal it.

Events have an order, (time, kind, number). A step's end comes first: finished requests leave, and in a closed loop their
users' next requests fall due. Arrivals of that time come next, and steps start last; of replicas whose steps start together
the first goes first. What a step brings is known and counted when it starts, so that both engines have counted the same
until any time; but for how many requests a replica has, nobody else looks at it before it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count, takewhile
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simulator.engine.state import BINS, ROW, TOTALS, Ints, Records, bin_of
from simulator.hardware.cost import Longest, StepCost, StepLoad
from simulator.policies.contract import Policy, StepView, verify_lengths
from simulator.prefixes import PrefixBlocks
from simulator.traces import Trace

if TYPE_CHECKING:
    from simulator.setup import EngineLimits

END, ARRIVAL, START = range(3)
WORD = 2**64
"""Arithmetic of the draws wraps around here."""


class Visit(NamedTuple):
    """A round, as `simulator.records.Round` has it: a tuple, for there is one of every request and step."""

    drafted: int
    verified: int
    accepted: int
    committed: int
    confidence: tuple[float, ...]


@dataclass(slots=True, eq=False)
class Job:
    """A request in the system."""

    number: int
    """Requests are counted in order of arrival, from 0."""
    arrival_s: float
    think_s: float
    response: int
    prompt_tokens: int
    output_tokens: int
    """What the user asked for, as in `simulator.engine.state.REQUEST`."""
    reading: int
    """The recorded response it replays now."""
    at: int
    """Its next anchor in the trace."""
    goes_on: bool
    """Whether it needs more tokens than the response it asked for has, and continues on others."""
    prefill_left: int
    """Context tokens still to be computed before it can decode."""
    tokens: int
    """Context: prompt and response so far."""
    left: int
    """Tokens it still wants."""
    first_s: float = 0.0
    burst_s: float = 0.0
    """When it got its last tokens."""
    emitted: int = 0
    segment: int = 0
    """How often it has changed to another response."""
    chunk: int = 0
    """Context tokens computed in the step at hand."""
    preemptions: int = 0
    rounds: int = 0
    drafted: int = 0
    verified: int = 0
    accepted: int = 0
    """Sums over all its rounds."""
    blocks: tuple[int, ...] = ()
    """Whole blocks of its prompt, by what they hold."""
    held: tuple[int, ...] = ()
    """The first of them, which it shares with the prefix cache."""
    remembered: list[Visit] = field(default_factory=list)
    """Those since it was last admitted, as a policy may see them."""


@dataclass(slots=True, eq=False)
class Replica:
    """One engine: requests that run, in order of admission, and those that wait, first come first."""

    policy: Policy
    running: list[Job] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)
    idle: list[int] = field(default_factory=list)
    """Blocks of prompts that are kept and nobody's, least recently held first."""
    stepping: bool = False
    """Whether a step is in flight or about to start."""


class Reference:
    """One simulation: `rows` are requests that have finished, in the order in which their last steps began."""

    def __init__(
        self, trace: Trace, policy: Policy, cost: StepCost, limits: EngineLimits, kv_tokens: int, stream: Iterable[Any], *,
        users: int, seed: int, begin_s: Iterable[float] = (), times: Sequence[int] | None = None,
        blocks: PrefixBlocks | None = None,
    ) -> None:  # fmt: skip
        """`stream` gives requests one by one, where `Simulator` takes chunks of them; `users` is 0 in an open loop.

        Each user begins at one of `begin_s`, by default all at once; `times` is how often a response counts among those that
        requests go on with, by default once each; `blocks` are those that prompts have in common, and kept.
        """
        self.trace, self.cost, self.limits, self.kv_tokens = trace, cost, limits, kv_tokens
        self.stream, self.closed, self.seed = iter(stream), users > 0, seed
        self.gamma, self.offsets = trace.gamma, trace.offsets.tolist()
        self.blocks, self.block_tokens = blocks, blocks.tokens if blocks else 0
        self.others = _others(trace, times)
        self.replicas = [Replica(deepcopy(policy)) for _ in range(limits.replicas)]
        self.rows: list[Any] = []
        self.totals: Any = dict.fromkeys(TOTALS.names or (), 0)
        self.bursts: Ints = np.zeros(BINS, np.int64)
        """How often a user waited so long between two bursts of tokens; see `simulator.engine.state.State`."""
        self.events: list[tuple[float, int, int, Any]] = []
        self.numbers = count()
        self.clock_s, self.inside_s = 0.0, 0.0
        """The time of the last event, and the integral of requests in the system until then."""
        for time_s in [*begin_s] or [0.0] * users:
            self._plan(time_s, ARRIVAL)
        self._plan_next()

    def run(self) -> Records:
        """All events, to the last; returns `simulator.engine.state.ROW` records."""
        self.run_until(inf)
        return np.array(self.rows, ROW)

    def run_until(self, until_s: float) -> bool:
        """All events before a time; False once there are none left."""
        while self.events and self.events[0][0] < until_s:
            time_s, kind, number, what = heappop(self.events)
            inside = sum(len(replica.running) + len(replica.waiting) for replica in self.replicas)
            self.inside_s += inside * (time_s - self.clock_s)
            self.clock_s = time_s
            if kind == END:
                self._end_step(time_s, *what)
            elif kind == START:
                self._start_step(time_s, number)
            elif (asked := next(self.stream, None) if self.closed else what) is not None:
                self._plan_next()
                self._arrive(time_s, asked)
        return bool(self.events)

    @property
    def ends_s(self) -> float:
        """When the last step that has begun ends."""
        return max([self.clock_s, *(time_s for time_s, *_ in self._ends())])

    def check_conservation(self) -> None:
        """Every token and request is somewhere, and Little's law holds: ∫ requests in the system dt = Σ their time in it."""
        there = [job for replica in self.replicas for job in (*replica.running, *replica.waiting)]
        inside, sums = [job for job in there if job.left], self.totals
        assert sums["emitted"] == sums["finished_tokens"] + sum(job.emitted for job in inside), "tokens were lost"
        assert sums["arrived"] == sums["finished"] + len(inside), "requests were lost"
        yet_s = sum(len(leaving) * (time_s - self.clock_s) for time_s, _, _, (_, leaving) in self._ends())
        times_s = sums["sojourn_s"] - yet_s + sum(self.clock_s - job.arrival_s for job in inside)
        assert abs(self.inside_s - times_s) <= 1e-6 * max(self.inside_s, 1e-9), "Little's law does not hold"

    def _plan_next(self) -> None:
        """In an open loop, the next request to arrive."""
        if not self.closed and (asked := next(self.stream, None)) is not None:
            self._plan(float(asked["arrival_s"]), ARRIVAL, asked)

    def _plan(self, time_s: float, kind: int, what: Any = None) -> None:
        heappush(self.events, (time_s, kind, what if kind == START else next(self.numbers), what))

    def _arrive(self, time_s: float, asked: Any) -> None:
        number, (_, think_s, prompt, output, response) = self.totals["arrived"], asked.item()
        self.totals["arrived"] += 1
        first, last = self.offsets[response], self.offsets[response + 1]
        goes_on = output > last - first + 1
        job = Job(
            number, time_s, think_s, response, prompt, output,
            reading=response, at=first, goes_on=goes_on, prefill_left=prompt, tokens=prompt, left=output,
            blocks=() if self.blocks is None else self.blocks.of(number),
        )  # fmt: skip
        if self.limits.router == "round_robin":
            r = number % len(self.replicas)
        else:
            loads = [len(replica.running) + len(replica.waiting) for replica in self.replicas]
            r = loads.index(min(loads))
        self.replicas[r].waiting.append(job)
        self._plan_step(time_s, r)

    def _plan_step(self, time_s: float, r: int) -> None:
        replica = self.replicas[r]
        if not replica.stepping and (replica.running or replica.waiting):
            replica.stepping = True
            self._plan(time_s, START, r)

    def _start_step(self, time_s: float, r: int) -> None:
        """Who runs, how much is drafted and verified, how long that takes, and what comes of it."""
        replica = self.replicas[r]
        preempted = self._preempt(replica)
        decoding = [job for job in replica.running if job.prefill_left == 0]
        self._share_prefill(replica, len(decoding), admits=not preempted)
        load = self._load(replica, decoding)

        rounds, asked = self._rounds(replica, decoding, load)
        lengths, contexts = [round_.verified for round_ in rounds], [job.tokens for job in decoding]
        verified, longest = sum(lengths), Longest(max(lengths, default=0), max(contexts, default=0))
        parts = self.cost.step(load, asked, verified, longest)
        step_s = parts.seconds
        sums = {
            "steps": 1, "outside": 0 < self.cost.captured < load.prefill_tokens + len(decoding) + verified,
            "request_steps": len(decoding), "rounds": len(decoding), "verified": verified,
            "prefill_tokens": load.prefill_tokens, "prefills": load.finishing_prefill,
            "drafted": sum([round_.drafted for round_ in rounds]), "accepted": sum([round_.accepted for round_ in rounds]),
            **parts._asdict(),
            "request_s": len(decoding) * step_s, "kv_token_s": self._reserved(replica.running) * step_s,
        }  # fmt: skip
        for name, value in sums.items():
            self.totals[name] += value
        self._plan(time_s + step_s, END, (r, self._commit(time_s + step_s, r, decoding, rounds)))

    def _reserved(self, jobs: list[Job]) -> int:
        """KV tokens these requests hold or may write in a step; a block that several hold is there once."""
        tokens = sum([job.tokens for job in jobs]) + len(jobs) * (self.gamma + 1)
        if not self.block_tokens:
            return tokens
        held = [block for job in jobs for block in job.held]
        return tokens - self.block_tokens * (len(held) - len(set(held)))

    def _preempt(self, replica: Replica) -> bool:
        """The last admitted leave until the others fit; they keep their tokens and wait in front."""
        preempted = False
        while self._reserved(replica.running) > self.kv_tokens:
            job = replica.running.pop()
            self._release(replica, job)
            job.prefill_left, job.remembered = job.tokens, []
            job.preemptions += 1
            self.totals["preemptions"] += 1
            replica.waiting.insert(0, job)
            preempted = True
        self._evict(replica)
        return preempted

    def _evict(self, replica: Replica) -> None:
        """What nobody holds gives way until all fits."""
        while replica.idle and self._reserved(replica.running) + self.block_tokens * len(replica.idle) > self.kv_tokens:
            replica.idle.pop(0)

    @staticmethod
    def _hold(replica: Replica, job: Job, blocks: tuple[int, ...]) -> None:
        job.held = blocks
        replica.idle = [block for block in replica.idle if block not in blocks]

    @staticmethod
    def _release(replica: Replica, job: Job) -> None:
        """A request that runs no more; of its prompt the end is to go first."""
        others = {block for other in replica.running for block in other.held}
        replica.idle += [block for block in reversed(job.held) if block not in others]
        job.held = ()

    def _kept(self, replica: Replica, job: Job) -> tuple[int, ...]:
        """Blocks of a prompt that are kept, from its beginning; one token at least is left to compute."""
        kept = {*replica.idle, *(block for other in replica.running for block in other.held)}
        most = (job.prefill_left - 1) // self.block_tokens if self.block_tokens else 0
        return tuple(takewhile(kept.__contains__, job.blocks[:most]))

    def _share_prefill(self, replica: Replica, decoding: int, admits: bool) -> None:
        """What decoding leaves of the step's tokens goes to prompts: those that run already, then new ones."""
        left = self.limits.step_tokens - decoding * (self.gamma + 1)
        for job in replica.running:
            job.chunk = min(left, job.prefill_left)
            left -= job.chunk
        while admits and left > 0 and replica.waiting and len(replica.running) < self.limits.request_cap:
            job = replica.waiting[0]
            job.held = self._kept(replica, job)
            if self._reserved([*replica.running, job]) > self.kv_tokens:
                job.held = ()
                break
            replica.waiting.pop(0)
            replica.running.append(job)
            self._hold(replica, job, job.held)
            job.prefill_left -= len(job.held) * self.block_tokens
            self.totals["hit_tokens"] += len(job.held) * self.block_tokens
            self._evict(replica)
            job.chunk = min(left, job.prefill_left)
            left -= job.chunk

    @staticmethod
    def _load(replica: Replica, decoding: list[Job]) -> StepLoad:
        prefilling = [job for job in replica.running if job.chunk > 0]
        pairs = 0
        for job in prefilling:
            done = job.tokens - job.prefill_left
            pairs += sum(range(done + 1, done + job.chunk + 1))
        return StepLoad(
            decoding=len(decoding),
            prefilling=len(prefilling),
            finishing_prefill=sum(job.chunk == job.prefill_left for job in prefilling),
            prefill_tokens=sum(job.chunk for job in prefilling),
            prefill_pairs=pairs,
            context_tokens=sum(job.tokens for job in decoding),
        )

    def _rounds(self, replica: Replica, decoding: list[Job], load: StepLoad) -> tuple[list[Visit], int]:
        """What the policy verifies of each decoding request, and what comes of it; and the tokens it asked to be drafted."""
        policy, a, at = replica.policy, self.trace.anchors, np.array([job.at for job in decoding], np.int64)
        whole, useful = a.accepted[at].tolist(), list[int]()
        if not policy.lossless:  # tokens of a whole draft that would be accepted and are still wanted
            useful = [min(accepted, job.left - 1) for accepted, job in zip(whole, decoding, strict=True)]
            policy.foresee(useful)
        asked = min(policy.draft(load, self.gamma), self.gamma)
        drafted = np.minimum(a.drafted[at], asked).tolist()
        known, fresh = (None if c is None else c[at].tolist() for c in (a.confidence, a.fresh_confidence))
        shown = [()] * len(decoding) if known is None else [c[:n] for c, n in zip(known, drafted, strict=True)]
        wanted = list(map(min, useful, drafted)) or None
        step = StepView(policy, drafted, shown, [job.remembered for job in decoding], wanted, load)
        rounds = []
        for i, verified in enumerate(verify_lengths(policy, step)):
            accepted, confidence = min(whole[i], verified), shown[i]
            if fresh is not None and accepted == verified and known is not None:
                confidence = [*confidence[: verified + 1], *fresh[i][verified + 1 : drafted[i]]]
            committed = min(accepted + 1, decoding[i].left)
            rounds.append(Visit(drafted[i], verified, accepted, committed, tuple(confidence)))
        return rounds, asked

    def _commit(self, end_s: float, r: int, decoding: list[Job], rounds: list[Visit]) -> list[Job]:
        """What a step brings that ends then; returns the requests that leave."""
        replica = self.replicas[r]
        replica.policy.learn([round_.verified for round_ in rounds], [round_.accepted for round_ in rounds])
        self._burst(end_s, decoding)
        self.totals["committed"] += sum([round_.committed for round_ in rounds])
        for job, round_ in zip(decoding, rounds, strict=True):
            drafted, verified, accepted, committed, _ = round_
            job.rounds += 1
            job.drafted += drafted
            job.verified += verified
            job.accepted += accepted
            job.remembered.append(round_)
            self._emit(job, committed, committed)
        for job in replica.running:
            if job.chunk > 0:
                job.prefill_left -= job.chunk
                job.chunk = 0
                if job.prefill_left == 0:
                    self._hold(replica, job, job.blocks)
                if job.prefill_left == 0 and job.emitted == 0:
                    job.first_s = job.burst_s = end_s
                    self._emit(job, 1, 0)
                elif job.prefill_left == 0:
                    self._burst(end_s, [job])
                    self._emit(job, 1, 1)
        leaving = [job for job in replica.running if job.left == 0]
        for job in leaving:
            self._count(end_s, r, job)
        return leaving

    def _end_step(self, time_s: float, r: int, leaving: list[Job]) -> None:
        replica = self.replicas[r]
        for job in leaving:
            replica.running.remove(job)
            self._release(replica, job)
            if self.closed:
                self._plan(time_s + job.think_s, ARRIVAL)
        replica.stepping = False
        self._plan_step(time_s, r)

    def _ends(self) -> list[tuple[float, int, int, Any]]:
        """The ends of steps that have begun."""
        return [event for event in self.events if event[1] == END]

    def _burst(self, time_s: float, jobs: list[Job]) -> None:
        """Users who have seen tokens before see more of them; most have waited equally long, since the step before."""
        for before_s, users in Counter([job.burst_s for job in jobs]).items():
            self.bursts[bin_of(time_s - before_s)] += users
        for job in jobs:
            job.burst_s = time_s

    def _emit(self, job: Job, tokens: int, anchors: int) -> None:
        """So many tokens enter the response. Who goes on leaves a response while drafts there can be accepted whole."""
        self.totals["emitted"] += tokens
        job.emitted += tokens
        job.tokens += tokens
        job.left -= tokens
        job.at += anchors
        while job.goes_on and job.at >= self.offsets[job.reading + 1] - self.gamma:
            job.segment += 1
            others = self.others[self.trace.responses[job.reading].domain]
            job.reading = others[draw(self.seed, job.number, job.segment) % len(others)]
            job.at = self.offsets[job.reading]

    def _count(self, end_s: float, r: int, job: Job) -> None:
        """A request that leaves at the end of a step."""
        sums = self.totals
        sums["finished"] += 1
        sums["finished_tokens"] += job.emitted
        sums["sojourn_s"] += end_s - job.arrival_s
        self.rows.append((
            job.number, job.response, r, job.prompt_tokens, job.output_tokens,
            job.arrival_s, job.first_s, end_s, job.rounds, job.drafted, job.verified, job.accepted, job.preemptions,
        ))  # fmt: skip


def _others(trace: Trace, times: Sequence[int] | None) -> dict[str, list[int]]:
    """By domain, the responses that can be gone on with, each as often as it counts; all once where none counts."""
    found: dict[str, list[int]] = {}
    for domain in {response.domain for response in trace.responses}:
        long = [
            i for i, (response, tokens) in enumerate(zip(trace.responses, np.diff(trace.offsets), strict=True))
            if response.domain == domain and tokens > trace.gamma
        ]  # fmt: skip
        found[domain] = [i for i in long for _ in range(1 if times is None else times[i])] or long
    return found


def draw(seed: int, request: int, segment: int) -> int:
    """A number below 2⁶⁴ that depends on nothing but these three: the last step of splitmix64."""
    x = (seed ^ request * 0x9E3779B97F4A7C15 ^ segment * 0xD1B54A32D192ED03) % WORD
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB % WORD
    return x ^ x >> 31
