"""Timing the parts of a round, each alone, through the code that the decode loop runs; needs torch and numpy only.

A point is a part and a shape. On a GPU a part is captured as a CUDA graph where that is possible, which leaves out the
host's launches, as serving engines do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from drafters.cache import Positions, TargetCache
from drafters.clock import seconds_now
from drafters.decoding import Batch, DecodeRequest
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.sampling import Draws, Proposal, probabilities, sample, verify
from drafters.target import Target, TargetPass
from simulator.records import Sampling

Part = Literal["target", "draft", "prefill", "read", "prompt", "admit", "loop", "rule"]
Work = Callable[[], object]
_BEFORE_CONTEXT = 16
"""Context tokens of the target's pass before a draft."""


@dataclass(frozen=True, slots=True)
class BenchPoint:
    """What to time."""

    part: Part
    """target: a pass over anchors and drafts, head, sampling, acceptance. draft: propose, then take in what was verified.
    prefill: one prompt's chunk and its first token. read: a drafter takes in a prompt. prompt: both, as the decode loop runs
    them, eagerly. admit: one request leaves a batch and another one comes, prefill and all; without a drafter's name, with
    models that take no time. loop: a round of the decode loop with such models; rule: sampling and acceptance in it."""
    requests: int
    tokens: int
    """Tokens of each request: in the target pass, drafted, or in the prompt's chunk."""
    context: int
    """Tokens each request has before these."""
    drafter: str = ""
    """Its name, where the part is draft, read, prompt or admit."""

    @property
    def size(self) -> int:
        """Tokens in all."""
        return self.requests * self.tokens


class Bench:
    """A target and its drafters, set up to run any point. To be used within `torch.inference_mode`."""

    def __init__(
        self,
        target: Target,
        drafters: Mapping[str, Mapping[int, Drafter]],
        *,
        seed: int = 0,
        sampling: Sampling | None = None,
        graphs: bool = True,
        abreast: bool = False,
    ) -> None:
        """`drafters`: by name and number of drafted tokens. `graphs`: capture on a GPU what can be. `abreast`: let all
        requests of a step stand at one position, for attention that needs it (`harness.hardware.attention`)."""
        self.target, self.drafters, self.sampling = target, drafters, sampling or Sampling()
        self._random = np.random.Generator(np.random.Philox(seed))
        self._noise = torch.Generator(target.device).manual_seed(seed)
        self._memory: TargetCache | None = None
        self._abreast = abreast
        self.captures = graphs and target.device.type == "cuda"
        """Whether passes are captured as CUDA graphs."""
        self._eager: dict[str, str] = {}
        self._replays: dict[BenchPoint, Work] = {}
        self._pool: Any = None
        every = [d for by_gamma in drafters.values() for d in by_gamma.values()]
        self._taps = max((d.tap_layers for d in every), key=len, default=())

    @property
    def method(self) -> str:
        """How points are timed, in words."""
        if self.target.device.type != "cuda":
            threads = torch.get_num_threads()
            clock = "one thread's time on the processor" if threads == 1 else f"wall clock, {threads} threads"
            return f"{clock}; drafts each after a pass of the target"
        if not self.captures:
            return "CUDA events, eager"
        eager = "".join(f"; {part} eager: {reason}" for part, reason in sorted(self._eager.items()))
        return f"CUDA events around CUDA graphs, prompts' passes too; the loop's own work and prompt lookup eager{eager}"

    def measure(self, point: BenchPoint, runs: int) -> float:
        """Mean seconds of `runs`, after one that does not count.

        On a CPU a pass of the target goes before every draft, as wide as the draft, and before the loop's own work, untimed:
        it leaves the caches as these find them. A small drafter is a third slower for it, the loop's work three times.
        """
        if self.target.device.type != "cuda":
            return _mean_seconds(self.work(point), runs, self._before(point))
        return _mean_event_seconds(self._replayed(point) or self.work(point), runs, self.target.device)

    def _replayed(self, point: BenchPoint) -> Work | None:
        """The work of a point as a CUDA graph; None where there is none.

        Graphs of the target's passes are kept, for capturing takes longer than replaying. They share their memory, and lose
        what they found: nobody looks at it. Raises torch.OutOfMemoryError, after which other points can still be captured.
        """
        part = point.drafter or point.part
        if not self.captures or part in self._eager or not self._on_device(point):
            return None
        if point in self._replays:
            return self._replays[point]
        keep = point.part in ("target", "prefill")
        if keep and self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            work = captured(self.work(point), self.target.device, self._pool if keep else None)
        except RuntimeError as error:  # of many kinds
            if isinstance(cause := _first(error), torch.OutOfMemoryError):
                raise cause from None
            torch.cuda.synchronize(self.target.device)
            self._eager[part] = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:100]
            return None
        if keep:
            self._replays[point] = work
        return work

    def work(self, point: BenchPoint) -> Work:
        """The work of a point, to be done as often as one likes."""
        makers: dict[Part, Callable[[BenchPoint], Work]] = {
            "target": self._target_work, "draft": self._draft_work, "prefill": self._prefill_work,
            "read": self._read_work, "prompt": self._prompt_work, "admit": self._admit_work, "loop": self._loop_work,
            "rule": self._rule_work,
        }  # fmt: skip
        return makers[point.part](point)

    def _before(self, point: BenchPoint) -> Work | None:
        if point.part == "draft":
            return self._target_work(
                BenchPoint("target", point.requests, point.tokens + 1, min(point.context, _BEFORE_CONTEXT))
            )
        return self._target_work(BenchPoint("target", 1, 1, _BEFORE_CONTEXT)) if point.part in ("loop", "rule") else None

    def reserve(self, points: Sequence[BenchPoint]) -> None:
        """Memory for the target's cache at any of the points, which share it: allocating it is nobody's time."""
        tokens = [p.requests * (p.context + p.tokens) for p in points if p.part in ("target", "prefill", "prompt")]
        device, first = self.target.device, slice(0, 1)
        self._memory = memory = self.target.new_cache(1, max(tokens, default=2))
        self.target.forward(self._ids(1, 2), Positions.of([0], 2, device), memory, first, ())
        if device.type == "cuda":  # zeros would be read with less power than what is really there
            for kept in memory.kv.tensors():
                kept.normal_(generator=self._noise)

    def _target_work(self, point: BenchPoint) -> Work:
        rows, drafted = point.requests, point.tokens - 1
        ids, positions = self._ids(rows, point.tokens), self._positions(point)
        even = torch.full((1, 1, 1), 1 / self.target.vocab_size, device=ids.device)
        probs = even.expand(rows, drafted, self.target.vocab_size) if drafted else None
        verified = torch.full((rows,), drafted, device=ids.device)
        proposal, draws = Proposal(ids[:, 1:], (drafted,) * rows, probs), self._draws(rows, drafted)
        cache = self._cache(point)

        def work() -> object:
            seen = self.target.forward(ids, positions, cache, slice(0, rows), self._taps)
            return verify(proposal, verified, probabilities(self.sampling, self.target.head(seen.hidden)), draws)

        return work

    def _prefill_work(self, point: BenchPoint) -> Work:
        ids, positions, cache = self._ids(point.requests, point.tokens), self._positions(point), self._cache(point)
        uniform = self._uniform(point.requests)

        def work() -> object:
            seen = self.target.forward(ids, positions, cache, slice(0, point.requests), self._taps)
            return sample(probabilities(self.sampling, self.target.head(seen.hidden[:, -1])), uniform)

        return work

    def _draft_work(self, point: BenchPoint) -> Work:
        drafter, R, context = self.drafters[point.drafter][point.tokens], point.requests, point.context
        wide, device, rows = point.tokens + 1, self.target.device, slice(0, point.requests)
        learned = isinstance(drafter, LearnedDrafter)
        state = drafter.start(R, context + 2 * wide)
        # A text that repeats itself: prompt lookup always finds a whole draft.
        text = torch.arange(context + wide + 1, device=device).remainder(wide).expand(R, -1)
        taps = self._taps_of(drafter, R, wide)
        starts = self._starts(point)
        length = torch.full((R,), wide, device=device)
        draws = self._draws(R, point.tokens)
        if not learned:
            starts = [context] * R
            before = Positions.of([0] * R, context, device)
            drafter.observe(state, rows, before, taps[:, :0], text[:, : context + 1], length - wide + context)
        at, new = Positions.of(starts, 1, device), Positions.of(starts, wide, device)
        rounds = count()

        def work() -> object:
            if learned:
                proposal = drafter.propose(state, rows, text[:, context], at, self.sampling, draws)
                drafter.observe(state, rows, new, taps, text[:, context:], length)
                return proposal
            grown = [s + next(rounds) * wide for s in starts[:1]] * R  # a text grows, a cache is overwritten
            proposal = drafter.propose(state, rows, text[:, context], Positions.of(grown, 1, device), self.sampling, draws)
            drafter.observe(state, rows, Positions.of(grown, wide, device), taps, text[:, context:], length)
            return proposal

        drafter.observe(state, rows, new, taps, text[:, context:], length)
        next(rounds)
        return work

    def _read_work(self, point: BenchPoint) -> Work:
        some = self.drafters[point.drafter]
        drafter, device, rows = some[max(some)], self.target.device, slice(0, point.requests)
        state = drafter.start(point.requests, point.tokens + 1)
        taps = self._taps_of(drafter, point.requests, point.tokens)
        text = self._ids(point.requests, point.tokens + 1)
        positions = Positions.of([0] * point.requests, point.tokens, device)
        length = torch.full((point.requests,), point.tokens, device=device)
        return lambda: drafter.observe(state, rows, positions, taps, text, length)

    def _prompt_work(self, point: BenchPoint) -> Work:
        prefill, read = self._prefill_work(replace(point, part="prefill")), self._read_work(replace(point, part="read"))
        return lambda: (prefill(), read())

    def _admit_work(self, point: BenchPoint) -> Work:
        longest = point.context + point.tokens
        target, drafter = self.target, None
        if point.drafter:
            drafter = self.drafters[point.drafter][max(self.drafters[point.drafter])]
        else:
            target = drafter = cast(Any, _Instant(point.requests, point.tokens - 1, self.target.device))
        batch = Batch(target, drafter, self.sampling, None, point.requests, longest)
        prompt = tuple(self._ids(1, point.tokens)[0].tolist())
        waiting = [(0, DecodeRequest(prompt, 1 << 60, (0,)))]
        for _ in range(point.requests):
            batch.admit(deque(waiting))

        def work() -> object:
            batch.running[0][1].finish = "length"  # its row is filled with the last one's
            batch.retire()
            batch.admit(deque(waiting))
            return batch

        return work

    def _loop_work(self, point: BenchPoint) -> Work:
        instant = _Instant(point.requests, point.tokens - 1, self.target.device)
        batch = Batch(cast(Target, instant), cast(Drafter, instant), self.sampling, None, point.requests, 0)
        batch.admit(deque((i, DecodeRequest((0,), 1 << 60, (i,))) for i in range(point.requests)))

        def work() -> object:
            batch.round()
            return batch.retire()

        return work

    def _rule_work(self, point: BenchPoint) -> Work:
        instant = _Instant(point.requests, point.tokens - 1, self.target.device)
        verified = torch.tensor(instant.proposal.drafted, device=self.target.device)
        draws = self._draws(point.requests, point.tokens - 1)
        return lambda: verify(instant.proposal, verified, probabilities(self.sampling, instant.hidden), draws)

    def _on_device(self, point: BenchPoint) -> bool:
        """Whether the work is all tensors: prompt lookup is the host's, and so is what the loop does around passes."""
        if point.part in ("draft", "read"):
            some = self.drafters[point.drafter]
            return isinstance(some[max(some)], LearnedDrafter)
        return point.part in ("target", "prefill")

    def _cache(self, point: BenchPoint) -> TargetCache:
        needed = point.context + point.tokens
        if self._memory is None or self._memory.kv.capacity < point.requests * needed:
            self.reserve([replace(point, part="target")])
        assert self._memory is not None
        return self._memory.reshaped(point.requests, needed)

    def _ids(self, rows: int, tokens: int) -> Tensor:
        return torch.from_numpy(self._random.integers(0, self.target.vocab_size, (rows, tokens))).to(self.target.device)

    def _starts(self, point: BenchPoint) -> list[int]:
        """Where requests stand: those of a step a token apart unless told, as live batches do not stand abreast."""
        apart = point.part in ("target", "draft") and point.context > 0 and not self._abreast
        return [point.context - apart * (i % 2) for i in range(point.requests)]

    def _positions(self, point: BenchPoint) -> Positions:
        return Positions.of(self._starts(point), point.tokens, self.target.device)

    def _taps_of(self, drafter: Drafter, rows: int, tokens: int) -> Tensor:
        shape, device = (rows, tokens, len(drafter.tap_layers) * self.target.hidden_size), self.target.device
        return torch.randn(shape, generator=self._noise, device=device).to(self.target.dtype)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.from_numpy(self._random.random(shape)).to(self.target.device)

    def _draws(self, rows: int, drafted: int) -> Draws:
        return Draws(self._uniform(rows, drafted), self._uniform(rows, drafted), self._uniform(rows))


class _Instant:
    """A target, a drafter and its state that take no time: what is left of a round is the loop's own work."""

    name, tap_layers, stop_tokens, max_positions, cannot_decode = "instant", (), frozenset[int](), 1 << 62, None

    def __init__(self, rows: int, gamma: int, device: torch.device) -> None:
        self.gamma, self.device = gamma, device
        self.hidden = torch.zeros(rows, gamma + 1, 2, device=device)
        tokens = torch.zeros(rows, gamma, dtype=torch.int64, device=device)
        confidence = torch.ones(rows, gamma, device=device)
        self.proposal = Proposal(tokens, (gamma,) * rows, None, confidence)

    def forward(self, *_: object) -> TargetPass:
        return TargetPass(self.hidden, self.hidden[..., :0])

    def head(self, hidden: Tensor) -> Tensor:
        return hidden

    def new_cache(self, *_: object) -> _Instant:
        return self

    def start(self, *_: object) -> _Instant:
        return self

    def observe(self, *_: object) -> None:
        pass

    def move(self, *_: object) -> None:
        pass

    def propose(self, *_: object) -> Proposal:
        return self.proposal


def captured(work: Work, device: torch.device, pool: Any = None) -> Work:
    """The same work as a CUDA graph, with memory of `pool` where given. Raises RuntimeError where it cannot be one."""
    work()  # libraries, caches and tables are set up outside of the graph
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        work()

    def replay(_inputs: Work = work) -> None:  # a graph reads its inputs where they were: they must stay there
        graph.replay()

    return replay


def _first(error: BaseException) -> BaseException:
    """What went wrong first: a capture that is given up tells of that alone."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _mean_seconds(work: Work, runs: int, before: Work | None) -> float:
    seconds, cpu = 0.0, torch.device("cpu")
    work()
    for _ in range(runs):
        if before is not None:
            before()
        started = seconds_now(cpu)
        work()
        seconds += seconds_now(cpu) - started
    return seconds / runs


def _mean_event_seconds(work: Work, runs: int, device: torch.device) -> float:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    work()
    torch.cuda.synchronize(device)
    first.record()
    for _ in range(runs):
        work()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) * 1e-3 / runs
