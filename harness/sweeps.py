"""Sweeps: loads × drafters × policies × seeds over a run's traces, on every core there is."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from harness.calibration import Confidences, not_fitted_on
from harness.provenance import command_line, git_revision, package_versions
from harness.watcher import Watcher
from results.store import Store
from simulator.errors import InputError
from simulator.hardware import Profile, dump_profile, parse_profile
from simulator.metrics import Estimate, Outcome
from simulator.policies import parse_policy
from simulator.profiles import find_profile
from simulator.records import VLLM_DRAFTING, Drafting
from simulator.replay import replays_exactly
from simulator.simulation import Engine, Prepared, Setup, prepare, ready, simulate, start
from simulator.sla import Sla
from simulator.state import ROW, Records
from simulator.traces import Trace
from simulator.workload import Arrivals, Load, RecordedArrivals, Users

if TYPE_CHECKING:  # ray takes seconds
    from harness.workers import Cluster

IN_PROCESS = 32
"""Simulations up to which starting Ray takes longer than it saves."""

SLOW_S = 2.0
"""A simulation that takes longer says how far it is."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A sweep as the user asked for it. Raises ValueError or InputError for what makes no sense."""

    profile: str
    """JSON of what a step takes."""
    believed: str | None = None
    """JSON of what the policies think a step takes; None is the truth."""
    loads: list[str]
    """As `load_of` reads them."""
    policies: list[str] | None = None
    """None: fixed at γ, prefix_scheduler, and none."""
    drafters: list[str] | None = None
    confidences: Literal["raw", "calibrated"] | None = None
    """None: calibrated where the run has temperatures. Of drafters with a confidence head; others have estimated ones."""
    drafting: Drafting = "sampled"
    """How the drafts were chosen that are replayed."""
    weights: dict[str, float] | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    request_cap: int = 256
    step_tokens: int = 8192
    kv_capacity_tokens: int | None = None
    replicas: int = 1
    router: Literal["round_robin", "least_loaded"] = "least_loaded"
    seconds: float = 600.0
    seed: int = 0
    replications: int = 1
    slas: list[str] = []

    def __post_init__(self) -> None:
        if not self.loads or self.replications < 1 or self.seed < 0:
            raise ValueError("a load, replications ≥ 1 and a seed ≥ 0 are needed")
        for load in self.loads:
            load_of(load)


@dataclass(frozen=True, slots=True)
class Point:
    """One simulation of a sweep."""

    number: int
    drafter: str
    """`none` for the policy none, whatever the trace it walks."""
    trace: tuple[str, int, Confidences]
    """Drafter, γ and confidences of the trace."""
    load: str
    setup: Setup


def load_of(text: str) -> Load:
    """A load as plans write it: users:64, users:64/2.5 (mean think seconds), rate:5, rate:5/2 (cv), file:PATH[@SPEED]."""
    kind, _, rest = text.partition(":")
    if kind == "file":
        path, _, speed = rest.partition("@")
        return RecordedArrivals.read(Path(path), float(speed or 1))
    first, _, second = rest.partition("/")
    try:
        if kind == "users":
            return Users(int(first), float(second or 0))
        if kind == "rate":
            return Arrivals(float(first), float(second or 1))
    except ValueError as error:
        raise InputError(f"load {text}: {error}") from None
    raise InputError(f"load {text}: is written users:N[/THINK_S], rate:R[/CV] or file:PATH[@SPEED]")


def counts(option: str, text: str | None) -> list[int]:
    """Numbers as users write them: 8, 1,8,64, or 1..256 for every power of two in between and the ends."""
    found: list[int] = []
    for part in text.split(",") if text else []:
        if not re.fullmatch(r"\d+(\.\.\d+)?", part.strip()):
            raise InputError(f"{option} {text}: is written as 64, as 1,8,64 or as 1..256")
        low, *high = (int(n) for n in part.split(".."))
        powers = [2**i for i in range(31) if high and low <= 2**i <= high[0]]
        found += sorted({low, *powers, *high})
    if found and min(found) < 1:
        raise InputError(f"{option} {text}: must be 1 or more")
    return sorted(set(found))


def loads(
    option: str,
    users: str | None,
    think_s: float,
    rate: str | None,
    cv: float,
    arrivals: Path | None = None,
    speed: float = 1.0,
) -> list[str]:
    """Loads as plans write them: users, of the option called `option`, rates, recorded arrivals. Raises InputError."""
    found = [f"users:{n}/{think_s:g}" for n in counts(option, users)]
    try:
        found += [f"rate:{float(r):g}/{cv:g}" for r in rate.split(",")] if rate else []
    except ValueError:
        raise InputError(f"--rate {rate}: is written as 2,4,8") from None
    return found + ([f"file:{arrivals.resolve()}@{speed:g}"] if arrivals else [])


class Traces:
    """The traces of a run, read once, ready to simulate; all of drafts chosen one way."""

    def __init__(self, store: Store, run_id: str, drafting: Drafting) -> None:
        """Raises InputError where the run has no recordings of drafts chosen so."""
        self._store, self._run_id, self.drafting = store, run_id, drafting
        self.recorded = store.traced(run_id, drafting)
        self.temperatures = {key: store.temperatures(run_id, *key, drafting) for key in self.recorded}
        self.estimates = {key: store.estimates(run_id, *key, drafting) for key in self.recorded}
        self._raw: dict[tuple[str, int], Trace] = {}

    def confidences(self, drafter: str, gamma: int, wanted: str | None) -> Confidences:
        """What a trace offers a policy. Raises InputError where calibration is asked for and there is none."""
        if self.raw(drafter, gamma).anchors.confidence is None:
            return "estimated" if self.estimates[drafter, gamma] else "none"
        if wanted == "calibrated" and not self.temperatures[drafter, gamma]:
            raise InputError(f"run {self._run_id}: has no calibration of {drafter} at γ = {gamma}; leave calibrated out")
        return "raw" if wanted == "raw" or not self.temperatures[drafter, gamma] else "calibrated"

    def raw(self, drafter: str, gamma: int) -> Trace:
        """As recorded, without the prompts that temperatures and estimates were fitted on, where there are any."""
        if (drafter, gamma) not in self._raw:
            trace = self._store.trace(self._run_id, drafter, gamma, self.drafting)
            fitted = any(self.temperatures.values()) or any(self.estimates.values())
            self._raw[drafter, gamma] = not_fitted_on(trace) if fitted else trace
        return self._raw[drafter, gamma]

    def trace(self, drafter: str, gamma: int, confidences: Confidences) -> Trace:
        """With the confidences asked for."""
        trace = self.raw(drafter, gamma)
        if confidences == "calibrated":
            return trace.calibrated(self.temperatures[drafter, gamma])
        if confidences == "estimated":
            return trace.estimated(self.estimates[drafter, gamma])
        return trace

    def prepared(self, drafter: str, gamma: int, confidences: Confidences) -> Prepared:
        """Ready to simulate."""
        return prepare(self.trace(drafter, gamma, confidences))


def choose_drafting(
    store: Store, run_id: str, asked: Drafting | None, say: Callable[[str], None], *, engine: Drafting = "sampled"
) -> Drafting:
    """The way to draft that is simulated: as asked, or as the engine does that numbers are for; the papers' is sampled.

    Where nothing was asked and the run has recordings of the other way alone, that is taken, and said.
    """
    there = store.draftings(run_id)
    if asked is not None or engine in there or not there:
        return asked or engine
    say(f"note: run {run_id} has no recordings of {engine} drafts: what follows is of {there[0]} ones")
    return there[0]


def drafting_as(plan: Plan, store: Store, run_id: str, asked: Drafting | None, watcher: Watcher) -> Plan:
    """A plan drafting as asked; without, as vLLM does where its policy is among those to simulate."""
    engine: Drafting = VLLM_DRAFTING if "vllm_adaptive" in (plan.policies or []) else "sampled"
    return msgspec.structs.replace(plan, drafting=choose_drafting(store, run_id, asked, watcher.say, engine=engine))


def points(plan: Plan, traces: Traces, say: Callable[[str], None]) -> list[Point]:
    """Every simulation of a sweep, in an order that depends on the plan alone. Raises InputError if there is none."""
    engine = Engine(
        request_cap=plan.request_cap, step_tokens=plan.step_tokens, kv_capacity_tokens=plan.kv_capacity_tokens,
        replicas=plan.replicas, router=plan.router,
    )  # fmt: skip
    common: dict[str, Any] = {
        "profile": parse_profile(plan.profile), "believed": plan.believed and parse_profile(plan.believed), "engine": engine,
        "weights": plan.weights, "prompt_tokens": plan.prompt_tokens, "output_tokens": plan.output_tokens,
        "seconds": plan.seconds, "slas": tuple(Sla.parse(s) for s in plan.slas),
    }  # fmt: skip
    for policy in plan.policies or []:
        parse_policy(policy, common["profile"].cost("none", 0, 1, 2))
    found: list[Point] = []
    loads = {text: load_of(text) for text in plan.loads}
    for drafter, key, policy in _who(plan, traces, common["profile"], say):
        for text, load in loads.items():
            for seed in range(plan.seed, plan.seed + plan.replications):
                setup = Setup(load=load, policy=policy, seed=seed, **common)
                found.append(Point(len(found), drafter, key, text, setup))
    if not found:
        raise InputError("nothing to simulate with these options")
    return found


def _who(
    plan: Plan, traces: Traces, profile: Profile, say: Callable[[str], None]
) -> Iterator[tuple[str, tuple[str, int, Confidences], str]]:
    """(drafter, trace, policy) of the sweep; what cannot be is left out and said, or refused if it was asked for."""
    known = list(dict.fromkeys(name for name, _ in traces.recorded))
    if unknown := [d for d in plan.drafters or [] if d not in known]:
        raise InputError(f"no dense recording of {', '.join(unknown)}; there are: {', '.join(known) or 'none'}")
    bare = False
    for name, gamma in traces.recorded:
        if plan.drafters and name not in plan.drafters:
            continue
        confidences = traces.confidences(name, gamma, plan.confidences)
        for policy in plan.policies or ["none", f"fixed:{gamma}", "prefix_scheduler"]:
            if policy == "none":
                if not bare:
                    yield "none", (name, gamma, confidences), policy
                bare = True
                continue
            try:
                cost = profile.cost(name, gamma, 1, gamma + 2)
                parsed = parse_policy(policy, cost)
                if parsed.reads_confidences and confidences == "none":
                    raise InputError(f"policy {policy}: needs confidences, and {name} has none")
            except InputError as error:
                if plan.drafters and plan.policies:
                    raise
                say(f"{name} γ={gamma} {policy}: left out: {error}")
                continue
            # Calibration is what such a policy ignores; estimates are all that a drafter without a head has, there too.
            raw = parsed.wants_raw_confidences and confidences == "calibrated"
            yield name, (name, gamma, "raw" if raw else confidences), policy


class Worker:
    """Simulates points; as a Ray actor or here."""

    def __init__(self, traces: dict[tuple[str, int, Confidences], Any], rows: Path | None) -> None:
        """Traces by key, or references to them in Ray's object store, which a node holds once."""
        self.traces, self.rows = traces, rows

    def check(self, point: Point) -> None:
        """Raises InputError for a point that cannot be simulated."""
        start(point.setup, self._recorded(point), lambda rows: None)

    def simulate(self, point: Point, progress: Callable[[float], None] | None = None) -> tuple[Outcome | str, float]:
        """What came of a point, or why nothing did; and the seconds it took. `progress` takes the share that is done."""
        started = time.perf_counter()
        try:
            with _writing(self.rows and self.rows / f"point_{point.number:05}.parquet") as on_rows:
                found = simulate(point.setup, self._recorded(point), on_rows=on_rows, progress=progress)
            return found, time.perf_counter() - started
        except InputError as error:
            return str(error), time.perf_counter() - started

    def _recorded(self, point: Point) -> Prepared:
        found = self.traces[point.trace]
        if not isinstance(found, Prepared):
            import ray

            found = self.traces[point.trace] = ray.get(found)
        prepared: Prepared = found
        if point.drafter == "none":
            return prepared._replace(trace=dataclasses.replace(prepared.trace, drafter="none"))
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
        run_id, sweep_id, plan = found["run_id"], found["sweep_id"], msgspec.convert(found["plan"], Plan)
    else:
        if hardware is None:
            raise InputError("name a hardware profile with --hardware; `harness hardware` lists them")
        if not loads:
            raise InputError("name a load: --concurrency, --rate or --arrivals")
        texts = [None if name is None else dump_profile(find_profile(name)) for name in (hardware, believed)]
        try:
            plan = Plan(profile=texts[0] or "", believed=texts[1], loads=loads, **options)
        except ValueError as error:
            raise InputError(str(error)) from None
        run_id, sweep_id = store.find_run(run), None
        plan = drafting_as(plan, store, run_id, drafting, watcher)
    say_model(store, run_id, parse_profile(plan.profile), watcher)
    traces = Traces(store, run_id, plan.drafting)
    every = points(plan, traces, watcher.say)
    distributed = actors is not None or ray_address is not None or len(every) > IN_PROCESS
    cluster = None
    if distributed:
        from harness.workers import Cluster

        cluster = Cluster(ray_address, actors)
    return sweep(run_id, plan, store, watcher, every, traces, sweep_id=sweep_id, cluster=cluster, rows=rows)


def sweep(
    run_id: str,
    plan: Plan,
    store: Store,
    watcher: Watcher,
    every: Sequence[Point],
    traces: Traces,
    *,
    sweep_id: str | None = None,
    cluster: Cluster | None = None,
    rows: Path | None = None,
) -> str:
    """Simulate the points of a plan that are not stored yet, storing each as it comes; returns the sweep's id.

    Without a `cluster` in this process: the numbers are the same. `rows` is a folder for every request's row.
    """
    worker = Worker({key: traces.prepared(*key) for key in dict.fromkeys(p.trace for p in every)}, rows)
    for point in {(p.trace, p.setup.policy, p.load): p for p in every}.values():  # refuse before anything is stored
        worker.check(point)
    if sweep_id is None:
        sweep_id = store.create_sweep(run_id, command_line(), msgspec.to_builtins(plan), git_revision(), package_versions())
    if rows is not None:
        rows.mkdir(parents=True, exist_ok=True)
    done = store.simulated(sweep_id)
    left = [p for p in every if p.number not in done]
    ready(watcher.say)
    for number, (point, (result, wall_s)) in enumerate(_results(left, worker, cluster, watcher), len(done) + 1):
        row = {"sweep_id": sweep_id, "run_id": run_id, "drafting": plan.drafting, **_row(point, traces, result, wall_s)}
        store.add_simulation(row, _profile_rows(point.setup))
        watcher.advance("simulating", number, len(every))
    store.finish_sweep(sweep_id)
    return sweep_id


def say_model(store: Store, run_id: str, profile: Profile, watcher: Watcher) -> None:
    """A profile of another model than was recorded is a question one may ask, but not by accident."""
    target = str(store.run(run_id)["target"].get("source", ""))
    if profile.model.lower().replace("-", "") not in target.lower().replace("-", ""):
        watcher.say(f"note: profile {profile.name} is of {profile.model}, the traces are of {target}")


def _results(
    left: Sequence[Point], worker: Worker, cluster: Cluster | None, watcher: Watcher
) -> Iterator[tuple[Point, tuple[Outcome | str, float]]]:
    if cluster is None:
        for point in left:
            yield point, worker.simulate(point, _while_slow(watcher))
        return
    import ray

    from harness.workers import Pool, joined

    with joined(cluster):
        shared = {key: ray.put(value) for key, value in worker.traces.items()}
        pool = Pool(cluster, Worker, (shared, worker.rows), watcher.say)
        for (point,), result in pool.map("simulate", [(p,) for p in left]):
            yield point, result


def _while_slow(watcher: Watcher) -> Callable[[float], None]:
    """Progress of one simulation, once it has taken seconds."""
    started = time.monotonic()

    def advance(share: float) -> None:
        if time.monotonic() - started > SLOW_S:
            watcher.advance("this point, %", round(100 * share), 100)

    return advance


def profile_row(profile: Profile) -> dict[str, Any]:
    """The row of `profiles`."""
    text, names = dump_profile(profile), ("name", "device", "model", "source", "gpus")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"profile_hash": digest, **{n: getattr(profile, n) for n in names}, "profile": text}


def _profile_rows(setup: Setup) -> list[dict[str, Any]]:
    return [profile_row(profile) for profile in (setup.profile, setup.believed) if profile is not None]


def _row(point: Point, traces: Traces, result: Outcome | str, wall_s: float) -> dict[str, Any]:
    setup, (walked, gamma, confidences) = point.setup, point.trace
    policy = parse_policy(setup.policy, setup.profile.cost("none", 0, 1, 2))
    profile, *believed = (row["profile_hash"] for row in _profile_rows(setup))
    users, rate = getattr(setup.load, "users", None), getattr(setup.load, "rate_per_s", None)
    row: dict[str, Any] = {
        "point": point.number, "profile_hash": profile,
        "believed_hash": believed[0] if believed else None, "drafter": point.drafter, "gamma": gamma,
        "confidences": confidences if policy.reads_confidences else "none", "policy": setup.policy,
        "lossless": policy.lossless, "exact": replays_exactly(policy, traces.raw(walked, gamma).drafting),
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
