"""The work of a sweep: loads × drafters × policies × seeds over a run's traces, on every core there is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.console import Watcher
from harness.sweeps.contrast import contrasts
from harness.sweeps.decision import sweep_decision
from harness.sweeps.plan import SweepPoint
from results.store.contrasts import Contrast, keep_contrasts, read_contrasts
from results.store.database import Store
from results.store.decisions import decisions, keep_decision
from results.store.lease import leased
from results.store.provenance import command_line, git_revision, package_versions
from results.store.recordings import Recordings
from results.store.rows import profile_row
from results.store.simulations import read_simulations
from results.store.subjects import SWEEP
from results.store.unfinished import keeping
from simulator.draws import beyond_graphs, headroom_of
from simulator.engine.state import ROW, Records
from simulator.errors import InputError
from simulator.load import RecordedArrivals
from simulator.metrics import Estimate, Outcome
from simulator.numbers import counted
from simulator.plan import SweepPlan
from simulator.records import Recording
from simulator.replay import replays_exactly
from simulator.simulation import Prepared, prepare, ready, settled, simulate, start

if TYPE_CHECKING:  # these take seconds
    from harness.cluster import Cluster


SLOW_S = 2.0
"""A simulation that takes longer says how far it is."""


class SweepWorker:
    """Simulates points; as a Ray actor or here."""

    def __init__(self, traces: dict[Recording, Any], rows: Path | None, flag: str) -> None:
        """Traces by key, or references to them in Ray's object store, which a node holds once; `flag` is the engine's for
        the largest captured size."""
        self.traces, self.rows, self.flag = traces, rows, flag

    def check(self, point: SweepPoint) -> None:
        """Raises InputError for a point that cannot be simulated."""
        start(point.setup, self._recorded(point), lambda rows: None)

    def simulate(self, point: SweepPoint, progress: Callable[[float], None] | None = None) -> tuple[Outcome | str, float]:
        """What came of a point, or why nothing did; and the seconds it took. `progress` takes the share that is done."""
        started = time.perf_counter()
        try:
            with _writing(self.rows and self.rows / f"point_{point.number:05}.parquet") as on_rows:
                found = simulate(point.setup, self._recorded(point), on_rows=on_rows, progress=progress)
            found = settled(point.setup, self._recorded(point), found)
            if told := beyond_graphs(point.setup, self._recorded(point), found, self.flag):
                found = dataclasses.replace(found, warnings=(*found.warnings, told))
            if point.headroom:
                found = dataclasses.replace(found, headroom=headroom_of(point.setup, self._recorded(point), found))
            return found, time.perf_counter() - started
        except InputError as error:
            return str(error), time.perf_counter() - started

    def _recorded(self, point: SweepPoint) -> Prepared:
        found = self.traces[point.recording]
        if not isinstance(found, Prepared):
            import ray

            found = self.traces[point.recording] = ray.get(found)
        prepared: Prepared = found
        return prepared


@contextmanager
def _writing(file: Path | None) -> Iterator[Callable[[Records], None] | None]:
    """Takes finished requests into a Parquet file, which appears once it is whole."""
    if file is None:
        yield None
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ROW.names or ()
    schema = pa.schema([(name, pa.from_numpy_dtype(ROW[name])) for name in names])
    partial = file.with_suffix(".partial")
    try:
        with pq.ParquetWriter(partial, schema) as writer:
            yield lambda rows: writer.write_table(
                pa.table({name: np.ascontiguousarray(rows[name]) for name in names}, schema=schema)
            )
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def sweep(
    run_id: str,
    plan: SweepPlan,
    store: Store,
    watcher: Watcher,
    every: Sequence[SweepPoint],
    recordings: Recordings,
    *,
    sweep_id: str | None = None,
    cluster: Cluster | None = None,
    rows: Path | None = None,
) -> str:
    """Simulate the points of a plan that are not stored yet, storing each as it comes; returns the sweep's id.

    Without a `cluster` in this process: the numbers are the same. `rows` is a folder for every request's row.
    """
    worker = SweepWorker(
        {key: prepare(recordings.trace(key)) for key in dict.fromkeys(p.recording for p in every)},
        rows and rows.absolute(),  # a name with a colon is no address
        plan.served_by.flags.captured,
    )
    alike = {(p.recording, p.setup.policy, p.setup.load): p for p in every}
    for point in alike.values():  # refuse before anything is stored
        worker.check(point)
    if rows is not None:
        try:
            rows.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=rows):
                pass
        except OSError as error:
            raise InputError(f"--rows {rows}: is no folder that can be written ({error.strerror})") from None
    new = sweep_id is None
    if sweep_id is None:
        sweep_id = store.create_sweep(run_id, command_line(), plan, git_revision(), package_versions())
    watcher.say(f"sweep {sweep_id} · run {run_id} · {counted(len(every), 'point')}")
    with leased(store, SWEEP, sweep_id) if new else nullcontext(), keeping(store, SWEEP, sweep_id, watcher.began):
        _finish(sweep_id, run_id, plan, store, watcher, every, recordings, worker, cluster)
    return sweep_id


def _finish(
    sweep_id: str, run_id: str, plan: SweepPlan, store: Store, watcher: Watcher, every: Sequence[SweepPoint],
    recordings: Recordings, worker: SweepWorker, cluster: Cluster | None,
) -> None:  # fmt: skip
    """Simulate what a sweep has left, store it, and decide."""
    done = store.simulated(sweep_id)
    left = [p for p in every if p.number not in done]
    profiles = [profile_row(profile) for profile in (plan.profile, plan.believed) if profile is not None]
    ready(watcher.say)
    with closing(_results(left, worker, cluster, watcher)) as results:  # leaves the cluster whatever happens here
        for number, (point, (result, wall_s)) in enumerate(results, len(done) + 1):
            row = _row(point, recordings, result, wall_s)
            store.add_simulation({"sweep_id": sweep_id, "run_id": run_id, "drafting": plan.drafting, **row}, profiles)
            watcher.advance("simulating", number, len(every))
    with store.reading() as connection:
        stored = {row.point: row for row in read_simulations(connection, sweep_id)}
    simulated = [(point, stored[point.number]) for point in every if point.number in stored]
    if simulated and all(row.error for _, row in simulated):
        raise InputError(f"nothing could be simulated: {simulated[0][1].error}")
    store.finish_sweep(sweep_id)
    with store.reading() as connection:
        known, decided = read_contrasts(connection, sweep_id), bool(decisions(connection, sweep_id))
    if plan.against is not None:
        found = list[Contrast]()
        for of_load in contrasts(plan, plan.against, simulated, recordings, watcher, known):
            found += of_load
            keep_contrasts(store, sweep_id, found)  # load by load: each takes as long as a sweep
    if plan.decision_draws and not (decided and not left):  # decisions are made last, of all points
        decision = sweep_decision(store, run_id, plan, simulated, recordings, watcher)
        if decision is not None:
            keep_decision(store, sweep_id, decision)


def _results(
    left: Sequence[SweepPoint], worker: SweepWorker, cluster: Cluster | None, watcher: Watcher
) -> Generator[tuple[SweepPoint, tuple[Outcome | str, float]]]:
    if cluster is None:
        for point in left:
            yield point, worker.simulate(point, _while_slow(watcher))
        return
    from harness.cluster import Pool, joined

    with joined(cluster, watcher.doing):
        import ray  # after what `joined` tells it

        shared = {key: ray.put(value) for key, value in worker.traces.items()}
        pool = Pool(cluster, SweepWorker, (shared, worker.rows, worker.flag), watcher.say)
        for (point,), result in pool.map("simulate", [(p,) for p in left]):
            yield point, result


def _while_slow(watcher: Watcher) -> Callable[[float], None]:
    """Progress of one simulation, once it has taken seconds."""
    started = time.monotonic()

    def advance(share: float) -> None:
        if time.monotonic() - started > SLOW_S:
            watcher.advance("this point, %", round(100 * share), 100)

    return advance


def _row(point: SweepPoint, recordings: Recordings, result: Outcome | str, wall_s: float) -> dict[str, Any]:
    setup, walked = point.setup, point.recording
    policy, load = setup.policy, setup.load
    exact = replays_exactly(policy, recordings.trace(walked.showing("none")).drafting)
    row: dict[str, Any] = {
        "point": point.number, "profile_hash": setup.profile.digest,
        "believed_hash": setup.believed and setup.believed.digest, **point.configuration.system.row(), "gamma": walked.gamma,
        "lossless": policy.lossless, "exact": exact, "users": load.users, "rate_per_s": load.rate_per_s,
        "arrivals": load.name if isinstance(load, RecordedArrivals) else None, "load": str(load),
        "engine": dataclasses.asdict(setup.limits), "seed": setup.seed, "wall_s": wall_s,
    }  # fmt: skip
    if isinstance(result, str):
        return row | {"error": result}
    for field in dataclasses.fields(result):
        if field.name == "outside":  # told in a warning, where it matters
            continue
        value = getattr(result, field.name)
        if isinstance(value, Estimate):
            row |= {field.name: value.value, f"{field.name}_half_width": value.half_width}
        else:
            row[field.name] = list(value) if isinstance(value, tuple) else value
    return row
