"""Sweeps: loads × drafters × policies × seeds over a run's traces, on every core there is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from harness.console import Watcher, say_model
from harness.sweeps.plan import SweepPlan, SweepPoint, points
from results.store.database import Store
from results.store.provenance import command_line, git_revision, package_versions
from results.store.recordings import Recordings, choose_drafting
from results.store.rows import profile_row
from simulator.engine.state import ROW, Records
from simulator.errors import InputError
from simulator.hardware.catalogue import find_profile
from simulator.hardware.profile import dump_profile, parse_profile
from simulator.metrics import Estimate, Outcome
from simulator.policies import parse_policy
from simulator.records import Drafting, Recording
from simulator.replay import replays_exactly
from simulator.serving.vllm import VLLM
from simulator.simulation import Prepared, Setup, prepare, ready, simulate, start

if TYPE_CHECKING:  # these take seconds
    from harness.cluster import Cluster


IN_PROCESS = 32
"""Simulations up to which starting Ray takes longer than it saves."""

SLOW_S = 2.0
"""A simulation that takes longer says how far it is."""


def drafting_as(plan: SweepPlan, store: Store, run_id: str, asked: Drafting | None, watcher: Watcher) -> SweepPlan:
    """A plan drafting as asked; without, as vLLM does where its policy is among those to simulate."""
    engine: Drafting = VLLM.drafting if "vllm_adaptive" in (plan.policies or []) else "sampled"
    return msgspec.structs.replace(plan, drafting=choose_drafting(store, run_id, asked, watcher.say, engine=engine))


class SweepWorker:
    """Simulates points; as a Ray actor or here."""

    def __init__(self, traces: dict[Recording, Any], rows: Path | None) -> None:
        """Traces by key, or references to them in Ray's object store, which a node holds once."""
        self.traces, self.rows = traces, rows

    def check(self, point: SweepPoint) -> None:
        """Raises InputError for a point that cannot be simulated."""
        start(point.setup, self._recorded(point), lambda rows: None)

    def simulate(self, point: SweepPoint, progress: Callable[[float], None] | None = None) -> tuple[Outcome | str, float]:
        """What came of a point, or why nothing did; and the seconds it took. `progress` takes the share that is done."""
        started = time.perf_counter()
        try:
            with _writing(self.rows and self.rows / f"point_{point.number:05}.parquet") as on_rows:
                found = simulate(point.setup, self._recorded(point), on_rows=on_rows, progress=progress)
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


def run_sweep(
    store: Store,
    run: str,
    hardware: str | None,
    believed: str | None,
    loads: list[str],
    options: dict[str, Any],
    watcher: Watcher,
    *,
    drafting: Drafting | None = None,
    resume: str | None,
    actors: int | None,
    ray_address: str | None,
    rows: Path | None,
) -> str:
    """Simulate what the command line asks for, or what an interrupted sweep has left; returns the sweep's id.

    Without `drafting`, drafts are sampled, or chosen as vLLM does where its policy is among those asked for.
    """
    if resume is not None:
        found = store.sweep(resume)
        run_id, sweep_id, plan = found["run_id"], found["sweep_id"], msgspec.convert(found["plan"], SweepPlan)
    else:
        if hardware is None:
            raise InputError("name a hardware profile with --hardware; `harness hardware` lists them")
        if not loads:
            raise InputError("name a load: --concurrency, --rate or --arrivals")
        texts = [None if name is None else dump_profile(find_profile(name)) for name in (hardware, believed)]
        try:
            plan = SweepPlan(profile=texts[0] or "", believed=texts[1], loads=loads, **options)
        except ValueError as error:
            raise InputError(str(error)) from None
        run_id, sweep_id = store.find_run(run), None
        plan = drafting_as(plan, store, run_id, drafting, watcher)
    say_model(store, run_id, parse_profile(plan.profile), watcher)
    recordings = Recordings(store, run_id, plan.drafting)
    every = points(plan, recordings, watcher.say)
    distributed = actors is not None or ray_address is not None or len(every) > IN_PROCESS
    cluster = None
    if distributed:
        from harness.cluster import Cluster

        cluster = Cluster(ray_address, actors)
    return sweep(run_id, plan, store, watcher, every, recordings, sweep_id=sweep_id, cluster=cluster, rows=rows)


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
    worker = SweepWorker({key: prepare(recordings.trace(key)) for key in dict.fromkeys(p.recording for p in every)}, rows)
    for point in {(p.recording, p.setup.policy, p.load): p for p in every}.values():  # refuse before anything is stored
        worker.check(point)
    if sweep_id is None:
        sweep_id = store.create_sweep(run_id, command_line(), msgspec.to_builtins(plan), git_revision(), package_versions())
    if rows is not None:
        rows.mkdir(parents=True, exist_ok=True)
    done = store.simulated(sweep_id)
    left = [p for p in every if p.number not in done]
    ready(watcher.say)
    for number, (point, (result, wall_s)) in enumerate(_results(left, worker, cluster, watcher), len(done) + 1):
        row = {"sweep_id": sweep_id, "run_id": run_id, "drafting": plan.drafting, **_row(point, recordings, result, wall_s)}
        store.add_simulation(row, _profile_rows(point.setup))
        watcher.advance("simulating", number, len(every))
    store.finish_sweep(sweep_id)
    return sweep_id


def _results(
    left: Sequence[SweepPoint], worker: SweepWorker, cluster: Cluster | None, watcher: Watcher
) -> Iterator[tuple[SweepPoint, tuple[Outcome | str, float]]]:
    if cluster is None:
        for point in left:
            yield point, worker.simulate(point, _while_slow(watcher))
        return
    import ray

    from harness.cluster import Pool, joined

    with joined(cluster):
        shared = {key: ray.put(value) for key, value in worker.traces.items()}
        pool = Pool(cluster, SweepWorker, (shared, worker.rows), watcher.say)
        for (point,), result in pool.map("simulate", [(p,) for p in left]):
            yield point, result


def _while_slow(watcher: Watcher) -> Callable[[float], None]:
    """Progress of one simulation, once it has taken seconds."""
    started = time.monotonic()

    def advance(share: float) -> None:
        if time.monotonic() - started > SLOW_S:
            watcher.advance("this point, %", round(100 * share), 100)

    return advance


def _profile_rows(setup: Setup) -> list[dict[str, Any]]:
    return [profile_row(profile) for profile in (setup.profile, setup.believed) if profile is not None]


def _row(point: SweepPoint, recordings: Recordings, result: Outcome | str, wall_s: float) -> dict[str, Any]:
    setup, walked = point.setup, point.recording
    policy = parse_policy(setup.policy, setup.profile.cost("none", 0, 1, 2))
    profile, *believed = (row["profile_hash"] for row in _profile_rows(setup))
    users, rate = getattr(setup.load, "users", None), getattr(setup.load, "rate_per_s", None)
    row: dict[str, Any] = {
        "point": point.number, "profile_hash": profile,
        "believed_hash": believed[0] if believed else None, "drafter": point.drafter, "gamma": walked.gamma,
        "confidences": walked.confidences if policy.reads_confidences else "none", "policy": setup.policy,
        "lossless": policy.lossless, "exact": replays_exactly(policy, recordings.trace(walked.showing("none")).drafting),
        "users": users, "rate_per_s": rate,
        "arrivals": Path(point.load.partition(":")[2]).name if point.load.startswith("file:") else None,
        "load": point.load, "engine": dataclasses.asdict(setup.engine), "seed": setup.seed, "wall_s": wall_s,
    }  # fmt: skip
    if isinstance(result, str):
        return row | {"error": result}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if isinstance(value, Estimate):
            row |= {field.name: value.value, f"{field.name}_half_width": value.half_width}
        else:
            row[field.name] = list(value) if isinstance(value, tuple) else value
    return row
