"""What was simulated: every point of a sweep, what each system delivers within the bounds, and the paper's curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final, Literal, NamedTuple

import duckdb
import polars as pl

from results.figures.common import is_baseline, k_of
from results.published import PAPER
from results.store.queries import Origin, first_row, origin
from simulator.policies import PolicySpec
from simulator.records import Recording, System
from simulator.sla import MEASURES, Promise, Sla, canonical, promises

PAPER_LABEL: Final = "DeepSeek-V4 in production, in the paper"

_HALVES: Final = ("throughput", "tps", "tau", "budget")
_QUANTILES: Final = [f"p{q}_{measure}" for measure in MEASURES for q in (5, 50, 95, 99)]
_PLAIN: Final = ("wasted", "running", "kv_used", "attainment", "goodput", "burst_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Origin):
    """A row of `sweeps` with the profile it was made with."""

    sweep_id: str
    finished_at: datetime | None
    plan: Mapping[str, Any]
    believed: str | None
    """The profile that policies were told; None: the truth."""

    @property
    def drafting(self) -> str:
        """How drafts were chosen in what was replayed."""
        return str(self.plan.get("drafting", "sampled"))

    @property
    def slas(self) -> list[Sla]:
        """The bounds asked for."""
        return [Sla.parse(text) for text in self.plan.get("slas") or []]


class Capacity(NamedTuple):
    """The most a system delivers within the bounds."""

    system: System
    throughput: float
    """Output tokens per second and GPU."""
    half_width: float
    """Half the width of throughput's 95 % interval, the simulation's noise alone; nan if too short to tell."""
    how: Literal["crossing", "highest", "reference"]
    """Where: between two loads, where a bound is just kept; the highest load simulated, which keeps them all; or, without
    bounds, the reference load."""
    near: Mapping[str, Any]
    """The last point that keeps the bounds, a row of `simulated`."""


def find_sweep(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> str | None:
    """The sweep over one of the runs that finished last, of those that came to something."""
    sql = """
        SELECT w.sweep_id FROM sweeps w JOIN simulations s USING (sweep_id)
        WHERE list_contains($runs, w.run_id) AND s.error IS NULL
        GROUP BY w.sweep_id, w.created_at, w.finished_at ORDER BY coalesce(w.finished_at, w.created_at) DESC LIMIT 1
    """
    rows = con.execute(sql, {"runs": list(run_ids)}).fetchall()
    return str(rows[0][0]) if rows else None


def sweep(con: duckdb.DuckDBPyConnection, sweep_id: str) -> Sweep:
    """A sweep. Raises LookupError for one that is not there."""
    row = first_row(con, "SELECT * FROM sweeps WHERE sweep_id = ?", sweep_id)
    if row is None:
        raise LookupError(f"no sweep {sweep_id!r} in this database")
    sql = """
        SELECT p.profile, b.name AS believed FROM simulations s JOIN profiles p USING (profile_hash)
        LEFT JOIN profiles b ON b.profile_hash = s.believed_hash WHERE sweep_id = ?
    """
    plan = json.loads(row["plan"])
    used = first_row(con, sql, sweep_id) or {"profile": plan["profile"], "believed": None}
    fields = origin(row | {"profile": used["profile"]})
    return Sweep(sweep_id=sweep_id, finished_at=row["finished_at"], plan=plan, believed=used["believed"], **fields)


def simulated(con: duckdb.DuckDBPyConnection, sweep_id: str) -> pl.DataFrame:
    """A sweep's points, seeds averaged, in order of load within a system.

    Columns: run, drafter, gamma, policy, confidences, lossless, exact, load (as `users:64`), load_kind ('users', 'rate' or
    'arrivals'), load_x (users, or requests per second), seeds, error; throughput, tps, tau, budget with `…_half_width`;
    wasted, running, kv_used, attainment, goodput, burst_s; overhead_s, draft_s, attention_s, target_s; means and quantiles
    of tps, ttft, tpot and e2e (seconds); kept (all bounds; null without any), stationary, warnings; attained (JSON: the
    share of requests that keeps each bound, or the mean), keeps_up (whether what arrives is answered; null where unknown).

    A half width over n seeds is the root of the summed squares over n: the simulations' own noise.
    """
    cursor = con.execute("SELECT * FROM simulations WHERE sweep_id = ? ORDER BY point", [sweep_id])
    names = [column[0] for column in cursor.description or []]
    rows = [_row(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in _KEY), []).append(row)
    frame = pl.DataFrame([_averaged(group) for group in groups.values()], schema=_SIMULATED)
    return frame.sort("load_x", maintain_order=True, nulls_last=True)


def systems(points: pl.DataFrame, *, bounds: bool = True) -> list[System]:
    """Every system with a result; without those that no engine can be, if `bounds` is false.

    `fixed:k` beyond the block is left out where the whole block is there too: it is the same.
    """
    found = points.filter(pl.col("throughput") > 0)
    if not bounds:
        found = found.filter(pl.col("lossless"))
    every = list(dict.fromkeys(map(system_of, found.iter_rows(named=True))))
    return [system for system in every if not _repeats(system, every)]


def system_of(row: Mapping[str, Any]) -> System:
    """The system of a row of `simulated`; all of a sweep draft the same way."""
    return System(Recording(row["drafter"], row["gamma"], row["confidences"]), row["policy"])


def by_system(points: pl.DataFrame) -> dict[System, list[dict[str, Any]]]:
    """Every system's points with results, in order of load."""
    found: dict[System, list[dict[str, Any]]] = {}
    for row in points.filter(pl.col("throughput") > 0).sort("load_x", nulls_last=True).iter_rows(named=True):
        found.setdefault(system_of(row), []).append(row)
    return found


def main_kind(points: pl.DataFrame) -> str:
    """The kind of load most points have: what figures over load run over."""
    kinds = points["load_kind"].to_list()
    return max(("users", "rate", "arrivals"), key=kinds.count)


def capacities(points: pl.DataFrame, slas: Sequence[Sla]) -> list[Capacity]:
    """What every system that an engine can be delivers within the bounds, the most first, without those that never do.

    Where a bound is kept at one load and broken at the next, throughput is read off the line between the two, drawn in the
    logarithms of throughput and of a mean, or in the share of requests that keep it. Without bounds every system is read at
    the highest load that all have and one keeps up with. Where ever more requests wait, nothing is delivered that lasts.
    """
    points = points.filter(load_kind=main_kind(points)) if not points.is_empty() else points
    found = []
    able = systems(points, bounds=False)
    rows_of = {system: rows for system, rows in by_system(points).items() if system in able}
    reference = None if slas else _reference(rows_of)
    for system, rows in rows_of.items():
        if not slas:  # of recorded arrivals there is no highest: all are at the one load there is
            at = [row for row in rows if row["load_x"] == reference and row["keeps_up"] is not False]
            one = _at(system, at[0], "reference") if at else None
        else:
            within = [_within(system, rows, promise) for promise in promises(slas)]
            able_at = [c for c in within if c is not None]
            one = min(able_at, key=lambda c: c.throughput) if len(able_at) == len(within) else None
        if one is not None:
            found.append(one)
    return sorted(found, key=lambda c: -c.throughput)


def attained(promise: Promise, row: Mapping[str, Any]) -> float | None:
    """The share of a point's requests that keeps a promise, or the mean; None where that was not counted."""
    if promise.share is None:
        value = row[f"mean_{promise.slas[0].measure}"]
    else:
        value = json.loads(row["attained"] or "{}").get(promise.name)
    return None if value is None else float(value)


def kept(promise: Promise, row: Mapping[str, Any]) -> bool | None:
    """Whether a point keeps a promise; None where that was not counted. Where ever more requests wait, none is kept."""
    if row["keeps_up"] is False:
        return False
    value = attained(promise, row)
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


def baseline(found: Sequence[Capacity], kind: str, kinds: Mapping[str, str]) -> Capacity | None:
    """What a gain is told over; see `is_baseline`."""
    for capacity in found:
        r = capacity.system.recording
        if is_baseline(kind, capacity.system.policy, r.gamma, kinds.get(r.drafter, r.drafter)):
            return capacity
    return None


def gain(over: Capacity, under: Capacity) -> tuple[float, float]:
    """How much more one delivers than the other, as a share, and half of its 95 % interval; nan if unknown."""
    ratio = over.throughput / under.throughput
    return ratio - 1, ratio * math.hypot(over.half_width / over.throughput, under.half_width / under.throughput)


def leaders(points: pl.DataFrame, slas: Sequence[Sla]) -> list[System]:
    """Each drafter's system that delivers most within the bounds, or at all where none keeps them; the best first."""
    best: dict[str, System] = {}
    for capacity in capacities(points, slas):
        best.setdefault(capacity.system.recording.drafter, capacity.system)
    rows_of = by_system(points)
    most = {s: max(row["throughput"] for row in rows_of[s]) for s in systems(points, bounds=False)}
    for system in sorted(most, key=lambda s: -most[s]):
        best.setdefault(system.recording.drafter, system)
    return list(best.values())


def _repeats(system: System, every: Sequence[System]) -> bool:
    k, gamma = k_of(system.policy), system.recording.gamma
    return k is not None and k > gamma and System(system.recording, str(PolicySpec.fixed(gamma))) in every


def _within(system: System, rows: Sequence[Mapping[str, Any]], promise: Promise) -> Capacity | None:
    """The most throughput with a promise kept; None if it never is."""
    good = [bool(kept(promise, row)) for row in rows]
    if not any(good):
        return None
    last = max(range(len(rows)), key=lambda i: good[i] * (1 + (rows[i]["load_x"] or 0)))
    after = last + 1
    if after >= len(rows):
        return _at(system, rows[last], "highest")
    left, right = attained(promise, rows[last]), attained(promise, rows[after])
    assert left is not None
    if right is None or left == right or rows[after]["keeps_up"] is False:  # between them nobody knows where
        return _at(system, rows[last], "crossing")
    if promise.share is None:
        weight = (math.log(left) - math.log(promise.slas[0].bound)) / (math.log(left) - math.log(right))
    else:
        weight = (left - promise.share) / (left - right)
    low, high = rows[last]["throughput"], rows[after]["throughput"]
    throughput = math.exp((1 - weight) * math.log(low) + weight * math.log(high))
    half = max(_half(rows[last]) / low, _half(rows[after]) / high) * throughput
    return Capacity(system, throughput, half, "crossing", rows[last])


def _at(system: System, row: Mapping[str, Any], how: Literal["crossing", "highest", "reference"]) -> Capacity:
    return Capacity(system, row["throughput"], _half(row), how, row)


def _half(row: Mapping[str, Any]) -> float:
    half = row["throughput_half_width"]
    return math.nan if half is None else float(half)


def _reference(rows_of: Mapping[System, Sequence[Mapping[str, Any]]]) -> float | None:
    """The highest load at which every system has a result, and one keeps up."""
    loads = [{row["load_x"] for row in rows} for rows in rows_of.values()]
    common = set.intersection(*loads) if loads else set()
    held = {row["load_x"] for rows in rows_of.values() for row in rows if row["keeps_up"] is not False}
    return max(common & held, default=None)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """One simulation, its JSON opened and flat."""
    opened = {name: json.loads(row[name] or "{}") for name in ("means", "quantiles", "step_s", "slas")}
    attained = {canonical(name): value for name, value in json.loads(row.get("attained") or "{}").items()}
    load = json.loads(row["load"])
    load = load if isinstance(load, str) else str(load)
    kind = "users" if row["users"] is not None else "rate" if row["rate_per_s"] is not None else "arrivals"
    flat = {name: row[name] for name in ("drafter", "gamma", "policy", "confidences", "lossless", "exact", "error")}
    flat |= {"run": row["run_id"], "load": load, "load_kind": kind, "load_x": row["users"] or row["rate_per_s"]}
    flat |= {name: row[name] for name in (*_PLAIN, "stationary", *_HALVES, *(f"{n}_half_width" for n in _HALVES))}
    flat |= {f"{part}_s": opened["step_s"].get(part) for part in ("overhead", "draft", "attention", "target")}
    flat |= {f"mean_{name}": opened["means"].get(name) for name in MEASURES} | opened["quantiles"]
    kept = all(opened["slas"].values()) and row.get("keeps_up") is not False if opened["slas"] else None
    flat |= {"kept": kept, "warnings": row["warnings"] or []}
    flat |= {"attained": json.dumps(attained), "keeps_up": row.get("keeps_up")}
    return flat


_KEY: Final = ("run", "drafter", "gamma", "policy", "confidences", "lossless", "exact", "load", "load_kind", "load_x")
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


def _averaged(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Simulations that differ in their seed, as one; failed ones are left out where others are not."""
    fine = [row for row in group if row["throughput"] is not None]
    first = (fine or group)[0]
    made = {name: first[name] for name in _KEY} | {"seeds": len(fine), "error": None if fine else first["error"]}
    for name in _FLOATS:
        values = [row[name] for row in fine if row.get(name) is not None]
        if name.endswith("_half_width"):
            whole = values and len(values) == len(fine)
            made[name] = math.sqrt(sum(v * v for v in values)) / len(values) if whole else None
        else:
            made[name] = sum(values) / len(values) if values else None
    kept = [row["kept"] for row in fine if row["kept"] is not None]
    made["kept"] = all(kept) if kept else None
    shares = [json.loads(row["attained"]) for row in fine]
    made["attained"] = json.dumps({n: sum(each[n] for each in shares) / len(shares) for n in (shares[0] if shares else {})})
    each = {row["keeps_up"] for row in fine}
    made["keeps_up"] = False if False in each else None if None in each or not each else True
    made["stationary"] = all(row["stationary"] for row in fine) if fine else None
    made["warnings"] = list(dict.fromkeys(w for row in fine for w in row["warnings"]))
    return made
