"""Where simulations run: in this process, or on Ray's workers; the results come in the order asked, and are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from simulator.simulation import ready
from simulator.traces import Trace
from tuner.objective import Figures, Job, Worker
from tuner.traffic import Key

if TYPE_CHECKING:  # ray takes seconds
    from harness.workers import Cluster

Result = tuple[Figures | str, float]
Run = Callable[[Sequence[Job]], list[Result]]
"""Runs jobs; returns what came of each, in their order, with the seconds it took."""


@contextmanager
def runner(
    traces: dict[Key, Trace], bare: tuple[str, int], cluster: Cluster | None, say: Callable[[str], None]
) -> Iterator[Run]:
    """Something that runs jobs, for as long as the block runs; without a cluster in this process."""
    ready(say)
    if cluster is None:
        worker = Worker(dict(traces), bare)
        yield lambda jobs: [worker.run(job) for job in jobs]
        return
    import ray

    from harness.workers import Pool, joined

    with joined(cluster):
        pool = Pool(cluster, Worker, ({key: ray.put(trace) for key, trace in traces.items()}, bare), say)

        def run(jobs: Sequence[Job]) -> list[Result]:
            found: list[Result | None] = [None] * len(jobs)
            numbered: list[tuple[Any, ...]] = [(job, i) for i, job in enumerate(jobs)]
            for (_, i), result in pool.map("run", numbered):
                found[i] = result
            return [result for result in found if result is not None]

        yield run
