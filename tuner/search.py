"""The search at one load: propose a batch, simulate it shortly, simulate longer what is promising, store it, repeat.

Simulations run in this process or on Ray's workers; the results come in the order asked, and are the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from simulator.configuration import Configuration
from simulator.plan import Objective
from simulator.records import Recording
from simulator.simulation import ready
from simulator.traces import Trace
from tuner.objective import Figures, Scenario, TrialJob, TrialWorker, mean_of
from tuner.prompts import TraceKey
from tuner.samplers import BATCH, ProposedTrial, propose
from tuner.space import Space
from tuner.trial import Trial, TrialRung

if TYPE_CHECKING:  # these take seconds
    from harness.cluster import Cluster
    from harness.console import Watcher


Result = tuple[Figures | str, float]
_CALLS = 4
"""Calls that a worker gets of a batch of many jobs: one for each job would have it wait as long as a short one takes."""
Run = Callable[[Sequence[TrialJob]], list[Result]]
"""Runs jobs; returns what came of each, in their order, with the seconds it took."""


@contextmanager
def runner(traces: dict[TraceKey, Trace], plain: Recording, cluster: Cluster | None, watcher: Watcher) -> Iterator[Run]:
    """Something that runs jobs, for as long as the block runs; without a cluster in this process."""
    ready(watcher.say)
    if cluster is None:
        worker = TrialWorker(dict(traces), plain)
        yield lambda jobs: [worker.run(job) for job in jobs]
        return
    from harness.cluster import Pool, joined

    with joined(cluster, watcher.doing):
        import ray  # after what `joined` tells it

        pool = Pool(cluster, TrialWorker, ({key: ray.put(trace) for key, trace in traces.items()}, plain), watcher.say)

        def run(jobs: Sequence[TrialJob]) -> list[Result]:
            size = max(1, len(jobs) // (pool.size * _CALLS))
            calls: list[tuple[Any, ...]] = [(jobs[i : i + size], i) for i in range(0, len(jobs), size)]
            found: dict[int, list[Result]] = {first: results for (_, first), results in pool.map("run_all", calls)}
            return [result for first in sorted(found) for result in found[first]]

        yield run


SHORT = 0.1
"""Share of the simulated time that every configuration gets."""
SHORTEST_S = 20.0
"""Fewest seconds of simulated time that every configuration gets, unless the whole is shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is searched, and how."""

    space: Space
    scenario: Scenario
    objective: Objective
    sampler: str
    trials: int
    seconds: float
    """Simulated for each seed of a trial that is not cut."""
    seed: int


def search(
    what: Search,
    done: Sequence[Trial],
    starts: Sequence[tuple[Configuration, str]],
    run: Run,
    keep: Callable[[Sequence[Trial]], None],
    *,
    deadline: float | None = None,
) -> list[Trial]:
    """All trials, those of `done` included, the others handed to `keep` batch by batch.

    Args:
        starts: configurations to begin with, and where they come from.
        deadline: of `time.monotonic`; no batch but the first begins after it.
    """
    trials = list(done)
    while len(trials) < what.trials and (not trials or deadline is None or time.monotonic() < deadline):
        count = min(BATCH, what.trials - len(trials))
        proposals = propose(
            what.space, trials, starts, count, objective=what.objective, sampler=what.sampler, seed=what.seed
        )
        if not proposals:  # everything there is was tried
            break
        batch = evaluate(what, trials, proposals, run)
        keep(batch)
        trials += batch
    return trials


def evaluate(what: Search, before: Sequence[Trial], proposals: Sequence[ProposedTrial], run: Run) -> list[Trial]:
    """Trials of a batch, rung by rung: a short simulation, a whole one, and one more seed.

    What is clearly worse than any trial on the same rung goes no further. Rivals are those of earlier batches and of this
    one, whoever finished first.
    """
    batch = before[-1].batch + 1 if before else 0
    trials = [
        Trial(number=len(before) + i, batch=batch, origin=p.origin, leaf=p.leaf, attributes=p.attributes)
        for i, p in enumerate(proposals)
    ]
    short = min(what.seconds, max(SHORT * what.seconds, SHORTEST_S))
    rungs = [(short, 0), (what.seconds, 0), (what.seconds, 1)] if short < what.seconds else [(short, 0), (short, 1)]
    whole: dict[int, Figures] = {}
    left = list(range(len(trials)))
    for step, (seconds, seed) in enumerate(rungs):
        jobs = [TrialJob(trials[i].configuration, what.scenario, seconds, what.seed + seed) for i in left]
        for i, (result, wall_s) in zip(left, run(jobs), strict=True):
            t = replace(trials[i], wall_s=trials[i].wall_s + wall_s)
            if isinstance(result, str):
                trials[i] = replace(t, state="failed", error=result, rungs=(), figures=None)
                continue
            figures = mean_of([whole[i], result]) if seed else result
            whole[i] = figures
            rung = TrialRung.of(figures, what.objective, what.scenario, seconds * (seed + 1))
            trials[i] = replace(t, rungs=(*t.rungs, rung), figures=figures, state="complete")
        rivals = [t.rungs[step] for t in (*before, *trials) if len(t.rungs) > step]
        for i in left:
            if step + 1 < len(rungs) and trials[i].rungs and any(trials[i].rungs[step].clearly_worse(r) for r in rivals):
                trials[i] = replace(trials[i], state="cut")
        left = [i for i in left if trials[i].state == "complete"]
    return trials
