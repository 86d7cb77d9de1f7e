"""What was simulated: every point of a sweep, what each system delivers within the bounds, and the paper's curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final, Literal, NamedTuple, get_args

import duckdb
import polars as pl

from results.figures.common import is_baseline
from results.figures.style import PARTS
from results.published import PAPER
from results.store.queries import Origin, first_row, origin
from results.store.rows import read_plan
from results.store.simulations import LoadKind, Simulation, averaged, read_simulations
from simulator.configuration import System
from simulator.load import Load
from simulator.plan import SweepPlan
from simulator.policies import PolicySpec
from simulator.sla import MEASURES, Promise, Sla, promises

PAPER_LABEL: Final = "DeepSeek-V4 in production, in the paper"

WIDE: Final = 0.1
"""How much more throughput, a share, at the next load that breaks a bound leaves open what loads between would deliver."""

_HALVES: Final = ("throughput", "tps", "tau", "budget")
PERCENT: Final = (5, 50, 90, 95, 99)
_QUANTILES: Final = [f"p{q}_{measure}" for measure in (*MEASURES, "burst") for q in PERCENT]
_PLAIN: Final = ("wasted", "running", "kv_used", "attainment", "goodput", "burst_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Origin):
    """A row of `sweeps`."""

    sweep_id: str
    finished_at: datetime | None
    plan: SweepPlan


class Capacity(NamedTuple):
    """The most that a system was simulated to deliver within the bounds: a lower bound of what it can."""

    system: System
    throughput: float
    """Output tokens per second and GPU."""
    half_width: float
    """Half the width of throughput's 95 % interval, the simulation's noise alone; nan if too short to tell."""
    how: Literal["kept", "highest", "reference"]
    """Where: a load that keeps the bounds; one that does and is the highest simulated; or, without bounds, the reference
    load."""
    near: Simulation
    """That point."""
    broken: Simulation | None = None
    """The next higher load that breaks a bound; None where none was simulated."""

    @property
    def may_be(self) -> float | None:
        """What it may deliver at loads between, where that is much more: the throughput at the load that breaks a bound."""
        there = self.throughput if self.broken is None else self.broken.throughput or 0.0
        return there if there > (1 + WIDE) * self.throughput else None

    @property
    def between(self) -> str:
        """The loads between which it was not simulated, in words; empty where that leaves nothing open."""
        return "" if self.may_be is None or self.broken is None else f"{self.near.load.label} and {self.broken.load.label}"


def find_sweep(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> str | None:
    """The sweep over one of the runs that finished last, of those that came to something; else the one that began last."""
    sql = """
        SELECT w.sweep_id FROM sweeps w JOIN simulations s USING (sweep_id)
        WHERE list_contains($runs, w.run_id) AND s.error IS NULL
        GROUP BY w.sweep_id, w.created_at, w.finished_at ORDER BY w.finished_at DESC NULLS LAST, w.created_at DESC LIMIT 1
    """
    rows = con.execute(sql, {"runs": list(run_ids)}).fetchall()
    return str(rows[0][0]) if rows else None


def sweep(con: duckdb.DuckDBPyConnection, sweep_id: str) -> Sweep:
    """A sweep. Raises LookupError for one that is not there, and InputError for a plan that is not of this version."""
    row = first_row(con, "SELECT * FROM sweeps WHERE sweep_id = ?", sweep_id)
    if row is None:
        raise LookupError(f"no sweep {sweep_id!r} in this database")
    plan = read_plan(json.loads(row["plan"]), SweepPlan)
    return Sweep(sweep_id=sweep_id, finished_at=row["finished_at"], plan=plan, **origin(row, plan.profile))


def simulated(con: duckdb.DuckDBPyConnection, sweep_id: str) -> list[Simulation]:
    """A sweep's points, seeds averaged, in order of load within a system."""
    groups: dict[tuple[System, Load], list[Simulation]] = {}
    for one in read_simulations(con, sweep_id):
        groups.setdefault((one.system, one.load), []).append(one)
    return sorted(map(averaged, groups.values()), key=_by_load)


def _by_load(point: Simulation) -> float:
    return point.load.size or math.inf


def frame(points: Sequence[Simulation]) -> pl.DataFrame:
    """Points as a table to take away.

    Columns: run, drafter, gamma, policy, confidences, lossless, exact, load (as `users:64`), load_kind ('users', 'rate' or
    'arrivals'), load_x (users, or requests per second), seeds, error; throughput, tps, tau, budget with `…_half_width`;
    wasted, running, kv_used, attainment, goodput, burst_s; overhead_s, draft_s, attention_s, target_s; means and quantiles
    of tps, ttft, tpot and e2e (seconds), quantiles of bursts, the times between tokens that a user gets together; kept (all
    bounds; null without any), stationary, warnings; attained (JSON: the share of requests that keeps each bound, or the
    mean), keeps_up (whether what arrives is answered; null where unknown).
    """
    return pl.DataFrame([_flat(point) for point in points], schema=_SIMULATED)


def point_columns(point: Simulation) -> dict[str, Any]:
    """What was simulated, as the columns of tables to take away have it: γ is that of the recording that was walked."""
    return {**point.system.row(), "gamma": point.gamma, "load": str(point.load), "load_x": point.load.size}


def _flat(point: Simulation) -> dict[str, Any]:
    plain = ("lossless", "exact", "load_kind", "seeds", "error", *_HALVES, *(f"{n}_half_width" for n in _HALVES), *_PLAIN)
    flat = {"run": point.run_id, **point_columns(point)}
    flat |= {name: getattr(point, name) for name in (*plain, "kept", "stationary", "keeps_up")}
    flat |= {f"{part}_s": point.step_s.get(part) for part in PARTS}
    flat |= {f"mean_{name}": point.means.get(name) for name in MEASURES}
    flat |= {name: point.quantiles.get(name) for name in _QUANTILES}
    return flat | {"attained": json.dumps(point.attained), "warnings": list(point.warnings)}


def systems(points: Sequence[Simulation], *, bounds: bool = True) -> list[System]:
    """Every system with a result; without those that no engine can be, if `bounds` is false.

    `fixed:k` beyond the block is left out where the whole block is there too: it is the same.
    """
    every = list(dict.fromkeys(point.system for point in points if point.throughput and (bounds or point.lossless)))
    return [system for system in every if not _repeats(system, every)]


def by_system(points: Sequence[Simulation]) -> dict[System, list[Simulation]]:
    """Every system's points with results, in order of load."""
    found: dict[System, list[Simulation]] = {}
    for point in sorted((point for point in points if point.throughput), key=_by_load):
        found.setdefault(point.system, []).append(point)
    return found


def main_kind(points: Sequence[Simulation]) -> LoadKind:
    """The kind of load most points have: what figures over load run over."""
    kinds = [point.load_kind for point in points]
    return max(get_args(LoadKind), key=kinds.count)


def capacities(points: Sequence[Simulation], slas: Sequence[Sla]) -> list[Capacity]:
    """What every system that an engine can be delivers within the bounds, the most first, without those that never do.

    It is the most throughput of all loads simulated that keep every bound: between two loads nobody knows where a bound
    breaks. Without bounds every system is read at the highest load that all have and one keeps up with. Where ever more
    requests wait, nothing is delivered that lasts.
    """
    main, found = main_kind(points), []
    points = [point for point in points if point.load_kind == main]
    able = systems(points, bounds=False)
    rows_of = {system: rows for system, rows in by_system(points).items() if system in able}
    reference = None if slas else _reference(rows_of)
    for system, rows in rows_of.items():
        if not slas:  # of recorded arrivals there is no highest: all are at the one load there is
            there = [row for row in rows if row.load.size == reference and row.keeps_up is not False]
            one = _at(system, there[0], "reference") if there else None
        else:
            one = _within(system, rows, promises(slas))
        if one is not None:
            found.append(one)
    return sorted(found, key=lambda c: -c.throughput)


def untold(points: Sequence[Simulation], slas: Sequence[Sla]) -> list[System]:
    """Systems of which too little was simulated at every load to tell whether promises are kept."""
    able = systems(points, bounds=False)
    return [system for system, rows in by_system(points).items() if system in able and not any(r.tells(slas) for r in rows)]


def attained(promise: Promise, point: Simulation) -> float | None:
    """The share of a point's requests that keeps a promise, or the mean; None where that was not counted."""
    return point.means.get(promise.slas[0].measure) if promise.share is None else point.attained.get(promise.name)


def kept(promise: Promise, point: Simulation) -> bool | None:
    """Whether a point keeps a promise; None where that was not counted. Where ever more requests wait, none is kept."""
    if point.keeps_up is False:
        return False
    value = attained(promise, point)
    return None if value is None else promise.kept(value)


def paper_curves(name: Literal["fig7_frontier", "fig8_throughput", "fig8_budget"]) -> pl.DataFrame:
    """A served system of the paper: columns model, kind ('dspark' or 'mtp'), x, y, in the paper's units."""
    return _paper_curves(name)


@cache
def _paper_curves(name: str) -> pl.DataFrame:
    table = pl.read_csv(PAPER / f"{name}.csv")
    _, _, x, y = table.columns
    kind = pl.col("method").replace_strict({"DSpark": "dspark", "MTP": "mtp"})
    return table.select("model", kind.alias("kind"), pl.col(x).alias("x"), pl.col(y).alias("y"))


def baseline(found: Sequence[Capacity], kind: str) -> Capacity | None:
    """What a gain is told over; see `is_baseline`."""
    return next((capacity for capacity in found if is_baseline(kind, capacity.system)), None)


def gain(over: Capacity, under: Capacity) -> tuple[float, float]:
    """How much more one was simulated to deliver, as a share, and half of its 95 % interval; nan if unknown."""
    ratio = over.throughput / under.throughput
    return ratio - 1, ratio * math.hypot(over.half_width / over.throughput, under.half_width / under.throughput)


def leaders(points: Sequence[Simulation], slas: Sequence[Sla]) -> list[System]:
    """Each drafter's system that delivers most within the bounds, or at all where none keeps them; the best first."""
    best: dict[str, System] = {}
    for capacity in capacities(points, slas):
        best.setdefault(capacity.system.recording.drafter, capacity.system)
    rows_of = by_system(points)
    most = {s: max(row.throughput or 0.0 for row in rows_of[s]) for s in systems(points, bounds=False)}
    for system in sorted(most, key=lambda s: -most[s]):
        best.setdefault(system.recording.drafter, system)
    return list(best.values())


def _repeats(system: System, every: Sequence[System]) -> bool:
    k, gamma = system.policy.k, system.recording.gamma
    return k is not None and k > gamma and System(system.recording, PolicySpec.fixed(gamma)) in every


def _within(system: System, rows: Sequence[Simulation], asked: Sequence[Promise]) -> Capacity | None:
    """The most throughput of the loads that keep every promise, as far as they tell; None if none does."""
    slas = [sla for promise in asked for sla in promise.slas]
    rows = [row for row in rows if row.tells(slas)]
    good = [all(kept(promise, row) for promise in asked) for row in rows]
    if not any(good):
        return None
    best = max((i for i, keeps in enumerate(good) if keeps), key=lambda i: rows[i].throughput or 0.0)
    above = [row for row, keeps in list(zip(rows, good, strict=True))[best + 1 :] if not keeps and row.load.size is not None]
    one = _at(system, rows[best], "highest" if best == len(rows) - 1 else "kept")
    return one._replace(broken=above[0] if above else None)


def _at(system: System, row: Simulation, how: Literal["kept", "highest", "reference"]) -> Capacity:
    return Capacity(system, row.throughput or 0.0, row.half_width("throughput"), how, row)


def _reference(rows_of: Mapping[System, Sequence[Simulation]]) -> float | None:
    """The highest load at which every system has a result, and one keeps up."""
    loads = [{row.load.size for row in rows} for rows in rows_of.values()]
    common = set.intersection(*loads) if loads else set()
    held = {row.load.size for rows in rows_of.values() for row in rows if row.keeps_up is not False}
    return max((size for size in common & held if size is not None), default=None)


_FLOATS: Final = (
    *_HALVES, *(f"{n}_half_width" for n in _HALVES), *_PLAIN, "overhead_s", "draft_s", "attention_s", "target_s",
    *(f"mean_{name}" for name in MEASURES), *_QUANTILES,
)  # fmt: skip
_SIMULATED: Final = pl.Schema(
    {"run": pl.String, "drafter": pl.String, "gamma": pl.Int64, "policy": pl.String, "confidences": pl.String}
    | {"lossless": pl.Boolean, "exact": pl.Boolean, "load": pl.String, "load_kind": pl.String, "load_x": pl.Float64}
    | {"seeds": pl.Int64, "error": pl.String}
    | dict.fromkeys(_FLOATS, pl.Float64)
    | {"kept": pl.Boolean, "stationary": pl.Boolean, "keeps_up": pl.Boolean, "attained": pl.String}
    | {"warnings": pl.List(pl.String)}
)
