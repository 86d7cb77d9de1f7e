"""What a study of the tuner found: its trials in order, what was confirmed, which knobs matter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import duckdb
import polars as pl

from results.figures.common import Origin, first_row, has_table, origin

TABLES: Final = ("studies", "trials", "confirmations", "sensitivities")


@dataclass(frozen=True, slots=True, kw_only=True)
class Study(Origin):
    """A row of `studies`, with its profile."""

    study_id: str
    finished_at: datetime | None
    plan: Mapping[str, Any]

    @property
    def loads(self) -> list[str]:
        """As `users:64/0`, in the order they were searched."""
        return list(self.plan.get("loads") or [])

    @property
    def slas(self) -> list[str]:
        """The bounds, as written."""
        return list(self.plan.get("slas") or [])

    @property
    def objective(self) -> str:
        """'throughput', 'tps', 'goodput' or 'pareto'."""
        return str(self.plan.get("objective", "throughput"))

    @property
    def figure(self) -> str:
        """The figure that is made large; throughput where two are."""
        return self.objective if self.objective in ("tps", "goodput") else "throughput"


def find_study(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> str | None:
    """The latest study of one of the runs that tried something."""
    if not has_table(con, *TABLES):
        return None
    sql = """
        SELECT s.study_id FROM studies s JOIN trials t USING (study_id)
        WHERE list_contains($runs, s.run_id) GROUP BY s.study_id, s.created_at ORDER BY s.created_at DESC LIMIT 1
    """
    rows = con.execute(sql, {"runs": list(run_ids)}).fetchall()
    return str(rows[0][0]) if rows else None


def study(con: duckdb.DuckDBPyConnection, study_id: str) -> Study:
    """A study. Raises LookupError for one that is not there."""
    sql = "SELECT * FROM studies JOIN profiles USING (profile_hash) WHERE study_id = ?"
    row = first_row(con, sql, study_id) if has_table(con, *TABLES) else None
    if row is None:
        raise LookupError(f"no study {study_id!r} in this database")
    return Study(study_id=study_id, finished_at=row["finished_at"], plan=json.loads(row["plan"]), **origin(row))


def trials(con: duckdb.DuckDBPyConnection, found: Study) -> pl.DataFrame:
    """Configurations tried, in the order they were proposed, with the best so far.

    Columns: load, number, origin, state, drafter, gamma, policy, confidences, request_cap, throughput, tps, feasible,
    objective (the figure that is made large), error, best (the largest objective of a feasible, complete trial so far; null
    before the first), front (whether no feasible trial of the load is as good in throughput and in TPS, and better in one).
    """
    sql = """
        SELECT load, number, origin, state, drafter, gamma, policy, confidences, request_cap, figures, feasible, error
        FROM trials WHERE study_id = ? ORDER BY load, number
    """
    rows: list[dict[str, Any]] = []
    for *plain, figures, feasible, error in con.execute(sql, [found.study_id]).fetchall():
        opened = json.loads(figures) if figures else {}
        row = dict(zip(list(_TRIALS)[:9], plain, strict=True))
        row |= {name: opened.get(name) for name in ("throughput", "tps")}
        rows.append(row | {"feasible": feasible, "objective": opened.get(found.figure), "error": error})
    places = {load: i for i, load in enumerate(found.loads)}
    rows.sort(key=lambda row: (places.get(row["load"], len(places)), row["number"]))
    best: dict[str, float] = {}
    for row in rows:
        counts = row["state"] == "complete" and row["feasible"] and row["objective"] is not None
        if counts:
            best[row["load"]] = max(row["objective"], best.get(row["load"], row["objective"]))
        row["best"] = best.get(row["load"])
    for row in rows:
        able = bool(row["feasible"]) and row["throughput"] is not None and row["tps"] is not None
        row["front"] = able and not any(_beaten(row, other) for other in rows)
    return pl.DataFrame(rows, schema=_TRIALS)


def confirmations(con: duckdb.DuckDBPyConnection, found: Study) -> pl.DataFrame:
    """What was confirmed on held-out prompts, loads in their order, the winner first.

    Columns: load, place, role, drafter, gamma, policy, confidences, request_cap, exact, prompts, draws, throughput, tps,
    tau, budget, p95_ttft with `…_half_width` (traffic's and the simulation's noise), gain, gain_half_width (of the winner
    over this one, paired), feasible, error.
    """
    sql = """
        SELECT load, place, role, drafter, gamma, policy, confidences, request_cap, exact, prompts, draws,
               figures, half_widths, gain, gain_half_width, feasible, error
        FROM confirmations WHERE study_id = ? ORDER BY load, place
    """
    rows = []
    for *plain, figures, halves, gain, gain_half, feasible, error in con.execute(sql, [found.study_id]).fetchall():
        row = dict(zip(list(_CONFIRMATIONS)[:11], plain, strict=True))
        for name in _FIGURES:
            row[name] = (json.loads(figures) if figures else {}).get(name)
            row[f"{name}_half_width"] = (json.loads(halves) if halves else {}).get(name)
        rows.append(row | {"gain": gain, "gain_half_width": gain_half, "feasible": feasible, "error": error})
    places = {load: i for i, load in enumerate(found.loads)}
    rows.sort(key=lambda row: (places.get(row["load"], len(places)), row["place"]))
    return pl.DataFrame(rows, schema=_CONFIRMATIONS)


def sensitivities(con: duckdb.DuckDBPyConnection, found: Study) -> pl.DataFrame:
    """Which parameters decide, and how far the optimum moves.

    Columns: load, kind ('importance', 'load', 'mix', 'verify' or 'elsewhere'), what, share, best (the configuration that is
    best then, in words), moved, loss (of keeping the winner), keeps.
    """
    sql = "SELECT load, kind, what, share, best, moved, loss, keeps FROM sensitivities WHERE study_id = ? ORDER BY rowid"
    rows = []
    for load, kind, what, share, best, moved, loss, keeps in con.execute(sql, [found.study_id]).fetchall():
        values = (load, kind, what, share, _words(json.loads(best)) if best else None, moved, loss, keeps)
        rows.append(dict(zip(_SENSITIVITIES, values, strict=True)))
    return pl.DataFrame(rows, schema=_SENSITIVITIES)


def baseline(confirmed: Sequence[Mapping[str, Any]], kind: str, kinds: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Of a load's confirmations the one a gain is told over: 'none', or 'mtp' with one token drafted and verified."""
    for row in confirmed:
        if row["error"] or row["throughput"] is None:
            continue
        if kind == "none" and row["policy"] == "none":
            return row
        name, _, k = row["policy"].partition(":")
        single = name == "fixed" and k.isdecimal() and min(int(k), row["gamma"]) == 1
        if kind == "mtp" and kinds.get(row["drafter"], row["drafter"]) == "mtp" and single:
            return row
    return None


def _beaten(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether another feasible trial of the load is better in one and no worse in the other."""
    if other["load"] != row["load"] or not other["feasible"]:
        return False
    pairs = [(row[name], other[name]) for name in ("throughput", "tps")]
    if any(theirs is None for _, theirs in pairs):
        return False
    return all(theirs >= mine for mine, theirs in pairs) and any(theirs > mine for mine, theirs in pairs)


def _words(best: Mapping[str, Any]) -> str:
    """A configuration as people read it."""
    known = [f"γ={v}" if k == "gamma" else str(v) for k, v in best.items() if k in ("drafter", "gamma", "policy")]
    return " ".join(known) or str(dict(best))


_FIGURES: Final = ("throughput", "tps", "tau", "budget", "p95_ttft")
_NAMES: Final = ("drafter", "gamma", "policy", "confidences", "request_cap")
_WHO: Final = {name: pl.Int64 if name in ("gamma", "request_cap") else pl.String for name in _NAMES}
_TRIALS: Final = pl.Schema(
    {"load": pl.String, "number": pl.Int64, "origin": pl.String, "state": pl.String}
    | _WHO
    | {"throughput": pl.Float64, "tps": pl.Float64, "feasible": pl.Boolean, "objective": pl.Float64, "error": pl.String}
    | {"best": pl.Float64, "front": pl.Boolean}
)
_CONFIRMATIONS: Final = pl.Schema(
    {"load": pl.String, "place": pl.Int64, "role": pl.String}
    | _WHO
    | {"exact": pl.Boolean, "prompts": pl.Int64, "draws": pl.Int64}
    | {column: pl.Float64 for name in _FIGURES for column in (name, f"{name}_half_width")}
    | {"gain": pl.Float64, "gain_half_width": pl.Float64, "feasible": pl.Boolean, "error": pl.String}
)
_SENSITIVITIES: Final = pl.Schema(
    {"load": pl.String, "kind": pl.String, "what": pl.String, "share": pl.Float64, "best": pl.String, "moved": pl.Boolean}
    | {"loss": pl.Float64, "keeps": pl.Boolean}
)
