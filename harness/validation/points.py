"""Live points of a validation: a run's pair serving users with prompts of the run, and what is asked of it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from drafters.decoding import DecodeRequest, ShownConfidences
from drafters.kinds.contract import Drafter
from drafters.kinds.none import NoDrafter
from drafters.sampling import Proposal
from drafters.serving import Server, StepRecord
from drafters.target import Target
from harness.recording.plan import RecordingPlan
from harness.recording.suite import Generation, Prompt, load_suite
from harness.validation.plan import LivePoint
from results.store.database import Store
from simulator.confidence import calibrated, estimated
from simulator.errors import InputError
from simulator.hardware.cost import Longest, StepCost
from simulator.records import NO_RECORDING, Confidences, Drafting, Sampling
from simulator.traces import TracedResponse

WARM_UP = 0.1
"""Share of a point's seconds that does not count: users all come at once."""


class LiveRequest(NamedTuple):
    """What one live request asks."""

    prompt: Prompt
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """What a point came to, live or simulated."""

    throughput: float
    """Output tokens per second."""
    tps: float
    """Mean over answered requests of (n − 1) / (last − first)."""
    tau: float
    """Accepted length."""
    budget: float
    """Verified tokens per request and step, anchor included."""

    @classmethod
    def of(
        cls, *, emitted: float, seconds: float, committed: float, verified: float, rounds: float, speeds: npt.ArrayLike
    ) -> LiveFigures:
        """From sums; nan where there was nothing."""
        each = np.asarray(speeds, np.float64)
        rounds = rounds or np.nan
        return cls(
            float(emitted / seconds) if seconds > 0 else np.nan,
            float(each.mean()) if each.size else np.nan,
            float(committed / rounds),
            float(1 + verified / rounds),
        )


def split_prompts(responses: Sequence[TracedResponse], seed: int) -> tuple[list[str], list[str]]:
    """(prompts asked live, prompts whose traces are simulated): halves of every task, in an order given by the seed.

    Raises InputError where a task has one prompt only.
    """
    of_task: defaultdict[str, set[str]] = defaultdict(set)
    for r in responses:
        if r.turn == 0:
            of_task[r.task].add(r.prompt_id)
    live: list[str] = []
    traced: list[str] = []
    for task, prompts in of_task.items():
        if len(prompts) < 2:
            raise InputError(
                f"task {task}: has {len(prompts)} prompt to validate with; two are needed, one live, one traced"
            )
        ordered = sorted(prompts, key=lambda p: hashlib.sha256(f"{seed}\n{p}".encode()).digest())
        live += ordered[::2]
        traced += ordered[1::2]
    return live, traced


def turns(tasks: Mapping[str, Sequence[Any]], rng: np.random.Generator) -> Iterator[Any]:
    """Round after round one entry of every task, tasks in a new order each round, each task's entries by turns."""
    bags: dict[str, list[Any]] = {task: [] for task in tasks}
    while True:
        for task in rng.permutation(sorted(tasks)):
            if not bags[task]:
                bags[task] = [tasks[task][i] for i in rng.permutation(len(tasks[task]))]
            yield bags[task].pop()


def first_limits(users: int, limit: int, seed: int) -> npt.NDArray[np.int64]:
    """Length limits of the users' first requests: users begin somewhere in the middle of an answer."""
    return np.random.default_rng([seed, users]).integers(1, limit + 1, users)


def read_prompts(store: Store, run_id: str, target: Target, wanted: Sequence[str]) -> dict[str, list[LiveRequest]]:
    """First turns of the wanted prompts, by task, as the run's plan has them. Raises InputError."""
    row = store.run(run_id)
    try:
        plan = msgspec.convert(row["plan"], RecordingPlan)
    except msgspec.ValidationError:
        raise InputError(f"run {run_id}: was not recorded from a suite with this Specyard; nothing can run live") from None
    data_dir = Path(plan.data_dir) if plan.data_dir else None
    suite = load_suite(plan.suite, data_dir=data_dir, source=plan.source, limit=plan.limit)
    generation = msgspec.convert(row["sampling"], Generation)
    known = {p.prompt_id: p for p in suite.prompts}
    if missing := [p for p in wanted if p not in known]:
        raise InputError(f"run {run_id}: suite {plan.suite} no longer has prompt {missing[0]}")
    tasks: defaultdict[str, list[LiveRequest]] = defaultdict(list)
    for prompt in (known[p] for p in wanted):
        messages = [*prompt.opening, {"role": "user", "content": prompt.turns[0]}]
        ids = target.encode_chat(messages, thinking=generation.thinking, today=generation.today)
        tasks[prompt.task].append(LiveRequest(prompt, tuple(ids)))
    return dict(tasks)


class LiveEngine:
    """Makes the server of a point."""

    def __init__(
        self, target: Target, drafters: Mapping[str, Drafter], sampling: Sampling, tasks: Mapping[str, list[LiveRequest]],
        max_tokens: int, seed: int, drafting: Drafting = "sampled",
    ) -> None:  # fmt: skip
        self.target, self.drafters, self.sampling, self.tasks = target, drafters, sampling, tasks
        self.max_tokens, self.seed, self.drafting = max_tokens, seed, drafting

    def server(self, point: LivePoint, believed: StepCost, weights: Any) -> Server:
        """At time 0. `weights`: temperatures or estimates, as the point's confidences ask for."""
        drafter: Drafter = NoDrafter() if point.recording == NO_RECORDING else self.drafters[point.recording.drafter]
        longest = max(len(a.ids) for some in self.tasks.values() for a in some) + self.max_tokens
        return Server(
            self.target, drafter, self.sampling, point.policy.bind(believed), self._requests(point),
            users=point.users, rows=point.users, longest=longest, drafting=self.drafting,
            shown=shown_confidences(point.recording.confidences, weights),
        )  # fmt: skip

    def _requests(self, point: LivePoint) -> Iterator[DecodeRequest]:
        """The same prompts in the same order for every point; a random stream for each request of each."""
        limits = first_limits(point.users, self.max_tokens, self.seed)
        order = turns(self.tasks, np.random.default_rng([self.seed, 1]))
        for number, asked in zip(count(), order, strict=False):
            limit = int(limits[number]) if number < point.users else self.max_tokens
            seed = (self.seed, int.from_bytes(point.key[:8], "big"), number)
            yield DecodeRequest(asked.ids, limit, seed, f"prompt {asked.prompt.prompt_id}")


def shown_confidences(confidences: Confidences, weights: Any) -> ShownConfidences | None:
    """Calibrated or estimated confidences, as traces of a run offer them; None leaves them as the drafter gives them."""
    if confidences not in ("calibrated", "estimated"):
        return None

    def show(proposal: Proposal) -> list[list[float]]:
        estimates = confidences == "estimated"
        raw, change = (proposal.certainty if estimates else proposal.confidence), (estimated if estimates else calibrated)
        if raw is None:  # nothing was drafted
            return [[]] * len(proposal.tokens)
        found: list[list[float]] = change(raw.cpu().numpy(), weights[: raw.shape[1]]).tolist()
        return found

    return show


def live_figures(server: Server) -> LiveFigures:
    """The figures of everything that a server did after the warm-up."""
    begin_s = WARM_UP * server.clock_s
    steps = [s for s in server.steps if s.start_s >= begin_s]
    speeds = [
        (len(s.decoded.token_ids) - 1) / (s.finish_s - s.first_s)
        for s in server.served
        if s.finish_s > begin_s and s.finish_s > s.first_s
    ]
    total = {name: sum(getattr(s, name) for s in steps) for name in ("emitted", "committed", "verified", "seconds")}
    return LiveFigures.of(**total, rounds=sum(s.load.decoding for s in steps), speeds=speeds)


def step_errors(steps: Sequence[StepRecord], cost: StepCost) -> dict[str, float]:
    """How far off a profile is on the steps that ran, by part and in all: 0.1 is 10 % too slow; nan for no such part."""
    predicted: defaultdict[str, float] = defaultdict(float)
    measured: defaultdict[str, float] = defaultdict(float)
    for s in steps:
        bare = s.load._replace(prefilling=0, finishing_prefill=0, prefill_tokens=0, prefill_pairs=0)
        longest = Longest(s.longest_verified, s.longest_context)
        whole, rest = (cost.step(load, s.drafted, s.verified, longest) for load in (s.load, bare))
        overhead_s = rest.overhead_s
        parts = {"overhead": overhead_s, "draft": rest.draft_s, "verify": rest.attention_s + rest.target_s}
        parts["prefill"] = whole.seconds - sum(parts.values())
        for name, seconds in parts.items():
            predicted[name] += seconds
            measured[name] += getattr(s, f"{name}_s")
        predicted["step"] += whole.seconds
        measured["step"] += s.seconds
    return {name: predicted[name] / m - 1 if m > 0 else float("nan") for name, m in measured.items()}
