"""Simulations in the database: the rows of a sweep, read in one place as values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import duckdb
import msgspec

from results.store.database import decoded_rows
from results.store.runs import kinds_in
from simulator.capacity import enough
from simulator.configuration import Configuration, System
from simulator.load import Load
from simulator.numbers import give_or_take
from simulator.sla import Sla, canonical

LoadKind = Literal["users", "rate", "arrivals"]


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `simulations`: what was simulated, and what came of it; figures of one that failed are None, or empty."""

    point: int
    """Its number in the sweep."""
    run_id: str
    system: System
    """What was simulated; its recording shows the confidences that the policy read, `none` if it reads none."""
    gamma: int = 0
    """Tokens drafted in the recording that was walked."""
    load: Load
    lossless: bool
    """Whether an engine can be it; else it is a bound."""
    exact: bool
    """Whether a live run has the law of its replay."""
    seed: int
    seeds: int = 1
    """How many simulations it is the mean of, which differ in their seed alone."""
    error: str | None = None
    """Why nothing came of it."""
    finished: int | None = None
    """Requests."""
    throughput: float | None = None
    """Output tokens per second and GPU; of each half width, half of a 95 % interval, None where too short to tell."""
    throughput_half_width: float | None = None
    tps: float | None = None
    """Tokens per second of a user, on average."""
    tps_half_width: float | None = None
    tau: float | None = None
    tau_half_width: float | None = None
    budget: float | None = None
    budget_half_width: float | None = None
    wasted: float | None = None
    running: float | None = None
    kv_used: float | None = None
    attainment: float | None = None
    goodput: float | None = None
    burst_s: float | None = None
    headroom: float | None = None
    """How many times its load is held; None where nobody searched."""
    stationary: bool | None = None
    keeps_up: bool | None = None
    """Whether what arrives is answered; None where it is too short to tell, or was not asked."""
    means: Mapping[str, float | None] = {}
    """By measure."""
    quantiles: Mapping[str, float | None] = {}
    """p5_tps, p50_ttft, …"""
    step_s: Mapping[str, float | None] = {}
    """Mean seconds of a step, by part."""
    slas: Mapping[str, bool] = {}
    """Whether each promise is kept, by its name."""
    attained: Mapping[str, float | None] = {}
    """The share of requests that keeps each promise, or the mean, by its name."""
    warnings: tuple[str, ...] = ()

    @property
    def load_kind(self) -> LoadKind:
        """What a load is told by."""
        return "users" if self.load.users is not None else "rate" if self.load.rate_per_s is not None else "arrivals"

    @property
    def kept(self) -> bool | None:
        """Whether every promise is kept, and it keeps up with what arrives; None without a promise."""
        return self.keeps_promise if self.slas else None

    @property
    def keeps_promise(self) -> bool:
        """Whether every promise is kept, and it keeps up with what arrives, as far as is known; see `Outcome.kept`."""
        return self.keeps_up is not False and all(self.slas.values())

    def tells(self, slas: Sequence[Sla]) -> bool:
        """Whether it can tell whether promises are kept: enough requests finished, and it is known whether it keeps up. One
        that does not keep up tells, and so does one of an older database, which does not know how many finished."""
        if self.keeps_up is False or self.finished is None:
            return True
        return enough(self.finished, slas) and (self.keeps_up is not None or self.load.users is not None)

    def is_of(self, run: Configuration) -> bool:
        """Whether it is of what is run, request caps aside."""
        return self.system == run.system

    def half_width(self, name: str) -> float:
        """Half of the interval of a figure; nan where unknown."""
        half: float | None = getattr(self, f"{name}_half_width")
        return math.nan if half is None else half

    def told(self, name: str, form: str) -> str:
        """A figure and half of its interval, for people."""
        return give_or_take(getattr(self, name), getattr(self, f"{name}_half_width"), form)


def read_simulations(con: duckdb.DuckDBPyConnection, sweep_id: str) -> list[Simulation]:
    """The simulations of a sweep, in order of their points. Raises InputError for a policy or a load unknown here."""
    rows = decoded_rows(con.execute("SELECT * FROM simulations WHERE sweep_id = ? ORDER BY point", [sweep_id]))
    kinds = {run_id: kinds_in(con, run_id) for run_id in dict.fromkeys(row["run_id"] for row in rows)}
    return [_read(row, kinds[row["run_id"]]) for row in rows]


def _read(row: Mapping[str, Any], kinds: Mapping[str, str]) -> Simulation:
    """A simulation from its row, which is of an earlier schema where it lacks the newest columns."""
    values = {name: row[name] for name in Simulation.__struct_fields__ if row.get(name) is not None}
    values |= {"system": System.read(row, kinds), "load": Load.parse(row["load"])}
    values |= {name: {canonical(promise): value for promise, value in (row.get(name) or {}).items()} for name in _PROMISES}
    return msgspec.convert(values, Simulation)


_PROMISES = ("slas", "attained")
_INTERVALS = ("throughput", "tps", "tau", "budget")
_MEANS = (*_INTERVALS, "wasted", "running", "kv_used", "attainment", "goodput", "burst_s")
_BY_NAME = ("means", "quantiles", "step_s", "attained")


def averaged(group: Sequence[Simulation]) -> Simulation:
    """Simulations that differ in their seed, as one; failed ones are left out where others are not.

    A half width over n seeds is the root of the summed squares over n: the simulations' own noise.
    """
    fine = [one for one in group if one.throughput is not None]
    if not fine:
        return msgspec.structs.replace(group[0], seeds=0)
    made: dict[str, Any] = {name: _mean([getattr(one, name) for one in fine]) for name in _MEANS}
    for name in _INTERVALS:
        half = math.sqrt(sum(one.half_width(name) ** 2 for one in fine)) / len(fine)
        made[f"{name}_half_width"] = None if math.isnan(half) else half
    for which in _BY_NAME:
        each: list[Mapping[str, float | None]] = [getattr(one, which) for one in fine]
        made[which] = {name: _mean([some.get(name) for some in each]) for name in each[0]}
    keep_up = {one.keeps_up for one in fine}
    return msgspec.structs.replace(
        fine[0], seeds=len(fine), **made,
        finished=None if any(one.finished is None for one in fine) else sum(one.finished or 0 for one in fine),
        keeps_up=False if False in keep_up else None if None in keep_up else True,
        stationary=all(one.stationary for one in fine),
        slas={name: all(one.slas[name] for one in fine) for name in fine[0].slas},
        warnings=tuple(dict.fromkeys(warning for one in fine for warning in one.warnings)),
    )  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is known; None where nothing is."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
