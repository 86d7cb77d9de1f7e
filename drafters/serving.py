"""The decode loop as a server under load: users come, wait and ask again; every step is timed and kept.

A step is what `simulator.engine.loop` takes it for: requests that run draft, verify and commit; requests that wait, as
many as there are rows, are prefilled in the same step and emit their first token at its end; who is finished leaves
then. The server's clock is the sum of its steps, so that nobody else on the machine makes users wait: arrivals are
measured on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import islice

import torch

from drafters.clock import seconds_now
from drafters.decoding import Batch, Decoded, DecodeRequest, Said, ShownConfidences
from drafters.kinds.contract import Drafter
from drafters.target import Target
from simulator.hardware.cost import StepLoad
from simulator.policies import Policy
from simulator.records import Drafting, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step of a live engine."""

    start_s: float
    """On the server's clock."""
    load: StepLoad
    """What it held before anybody decided: R decoding requests, prompts, contexts."""
    longest_context: int
    """Tokens of the longest context of a decoding request; 0 without any."""
    drafted: int
    """k: tokens drafted for each request, at most."""
    verified: int
    """Draft tokens in the target's pass; it holds as many anchors as there are decoding requests besides."""
    longest_verified: int
    """The largest ℓ: the pass is padded to it."""
    accepted: int
    committed: int
    """Tokens of rounds."""
    emitted: int
    """The same and first tokens."""
    draft_s: float
    """Drafting, and taking in what was verified."""
    verify_s: float
    """The target's pass over anchors and drafts, and the acceptance rule; the policy's decision included."""
    prefill_s: float
    """Prompts: the target's passes, first tokens, and the drafter's taking in."""
    overhead_s: float
    """All the rest."""

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.draft_s + self.verify_s + self.prefill_s + self.overhead_s

    @property
    def tokens(self) -> int:
        """B: anchors, verified drafts and prompt tokens, padding left out."""
        return self.load.decoding + self.verified + self.load.prefill_tokens


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """A finished request, times on the server's clock."""

    number: int
    """In order of arrival, from 0."""
    arrival_s: float
    first_s: float
    """When its first token was there."""
    finish_s: float
    decoded: Decoded


@dataclass(frozen=True, slots=True)
class ServerState:
    """Where a server stands between two steps, as it can be kept; caches are not, since texts can be read anew."""

    clock_s: float
    due: list[float]
    waiting: list[int]
    """Requests by number, first come first."""
    arrived_s: list[float]
    """When each request so far arrived."""
    first_s: dict[int, float]
    """When each that runs got its first token."""
    running: list[Said]
    """By row."""
    served: list[tuple[float, float, float, Said]]
    """Arrival, first token and end of each, and what was said."""
    steps: list[StepRecord]
    told: list[tuple[list[int], list[int]]]
    """What the policy was told after each round."""


class Server:
    """A target with a drafter and a policy, serving N users of a closed loop or arrivals of an open one."""

    def __init__(
        self,
        target: Target,
        drafter: Drafter,
        sampling: Sampling,
        policy: Policy,
        requests: Iterator[DecodeRequest],
        *,
        users: int | None = None,
        arrivals: Iterator[float] | None = None,
        rows: int,
        longest: int,
        drafting: Drafting = "sampled",
        shown: ShownConfidences | None = None,
    ) -> None:
        """A server at time 0, before its first step.

        Args:
            requests: what is asked, in order of arrival; the server stops taking more when it ends.
            users: of a closed loop, who all come at time 0 and ask again at once when answered.
            arrivals: of an open loop: rising times. One of the two is needed.
            rows: requests that may run at once.
            longest: most tokens of a request, prompt and response.
            drafting: how draft tokens are chosen.
            shown: confidences as the policy sees them; by default the drafter's own.

        Raises InputError where a request may not fit the target's context, or the policy is no engine's.
        """
        if (users is None) == (arrivals is None):
            raise ValueError("server: either users or arrivals are needed")
        self._device = target.device
        self._batch = Batch(
            target, drafter, sampling, policy, rows, longest,
            drafting=drafting, shown=shown, clock=partial(seconds_now, target.device),
        )  # fmt: skip
        self._requests, self._arrivals = requests, arrivals
        self._due: list[float] = [0.0] * (users or 0)
        self._waiting: deque[tuple[int, DecodeRequest]] = deque()
        self._arrived_s: list[float] = []
        self._first_s: dict[int, float] = {}
        self._told: list[tuple[list[int], list[int]]] = []
        self.clock_s, self.emitted = 0.0, 0
        self.steps: list[StepRecord] = []
        self.served: list[ServedRequest] = []

    @property
    def state(self) -> ServerState:
        """Where it stands."""
        served = [(s.arrival_s, s.first_s, s.finish_s, Said.of(s.number, s.decoded)) for s in self.served]
        return ServerState(
            self.clock_s, list(self._due), [n for n, _ in self._waiting], list(self._arrived_s),
            dict(self._first_s), [Said.of(n, d) for n, d in self._batch.running], served, list(self.steps), list(self._told),
        )  # fmt: skip

    def take_up(self, left: ServerState) -> None:
        """Go on where a server of the same settings was stopped; to be called before the first step.

        Requests draw on from where their streams were, and the policy is told again what it was told. What is read anew is
        on nobody's clock.
        """
        asked = list(islice(self._requests, len(left.arrived_s)))
        if self._arrivals is not None:
            deque(islice(self._arrivals, len(left.arrived_s) + len(left.due)), maxlen=0)
        self.clock_s, self.emitted, self.steps = left.clock_s, sum(s.emitted for s in left.steps), list(left.steps)
        self._due, self._arrived_s, self._first_s = list(left.due), list(left.arrived_s), dict(left.first_s)
        self._waiting, self._told = deque((n, asked[n]) for n in left.waiting), list(left.told)
        with torch.inference_mode():
            for said in left.running:
                self._batch.take_up(asked[said.number], said)
        for arrival_s, first_s, finish_s, said in left.served:
            decoded = self._batch.take_up(asked[said.number], said)
            self.served.append(ServedRequest(said.number, arrival_s, first_s, finish_s, decoded))
        if self._batch.policy is not None:
            for verified, accepted in left.told:
                self._batch.policy.learn(verified, accepted)

    def run(self, until_s: float) -> None:
        """Step on until the clock has passed `until_s` or nothing is left to do."""
        with torch.inference_mode():
            while self.clock_s < until_s and self.step():
                pass

    def step(self) -> bool:
        """Take in who has come, and make one step; False where nobody is there or will come."""
        self._arrive()
        batch, started = self._batch, self._now()
        running = [d for _, d in batch.running]
        new = [self._waiting.popleft() for _ in range(min(len(self._waiting), batch.rows - len(running)))]
        if not running and not new:
            return False
        contexts = [d.anchor_position + 1 for d in running]
        prompts = [len(r.prompt) for _, r in new]
        load = StepLoad(
            decoding=len(running), prefilling=len(new), finishing_prefill=len(new), prefill_tokens=sum(prompts),
            prefill_pairs=sum(n * (n + 1) // 2 for n in prompts), context_tokens=sum(contexts),
        )  # fmt: skip
        if running:
            batch.round(load)
            rounds = [d.rounds[-1] for d in running]
            self._told.append(([r.verified for r in rounds], [r.accepted for r in rounds]))
        prefilled_from = self._now()
        for each in new:  # one at a time: what a pass takes must not depend on who else comes
            batch.admit(deque([each]))
        prefilled = self._now()
        done = batch.retire()
        self._note(load, contexts, running, prefilled - prefilled_from, self._now() - started)
        self._first_s |= dict.fromkeys((number for number, _ in new), self.clock_s)
        for number, decoded in done:
            times = (self._arrived_s[number], self._first_s.pop(number), self.clock_s)
            self.served.append(ServedRequest(number, *times, decoded))
            if self._arrivals is None:
                heappush(self._due, self.clock_s)
        return True

    def _now(self) -> float:
        return seconds_now(self._device)

    def _note(self, load: StepLoad, contexts: list[int], running: list[Decoded], prefill_s: float, seconds: float) -> None:
        rounds = [d.rounds[-1] for d in running]
        draft_s, verify_s = (rounds[0].draft_s or 0.0, rounds[0].verify_s or 0.0) if rounds else (0.0, 0.0)
        committed = sum(r.committed for r in rounds)
        record = StepRecord(
            start_s=self.clock_s, load=load, longest_context=max(contexts, default=0),
            drafted=max((r.drafted for r in rounds), default=0), verified=sum(r.verified for r in rounds),
            longest_verified=max((r.verified for r in rounds), default=0), accepted=sum(r.accepted for r in rounds),
            committed=committed, emitted=committed + load.finishing_prefill, draft_s=draft_s, verify_s=verify_s,
            prefill_s=prefill_s, overhead_s=seconds - draft_s - verify_s - prefill_s,
        )  # fmt: skip
        self.steps.append(record)
        self.clock_s += seconds
        self.emitted += record.emitted

    def _arrive(self) -> None:
        """Everybody due by now; where nobody runs or waits, the clock goes on to who comes next."""
        idle = not self._batch.running and not self._waiting
        while True:
            if self._arrivals is not None and not self._due:
                self._due = [s for s in [next(self._arrivals, None)] if s is not None]
            if not self._due or (self._due[0] > self.clock_s and not idle):
                return
            request = next(self._requests, None)
            if request is None:
                self._due, self._arrivals = [], None
                return
            arrival_s = heappop(self._due)
            self.clock_s, idle = max(self.clock_s, arrival_s), False
            self._waiting.append((len(self._arrived_s), request))
            self._arrived_s.append(arrival_s)
