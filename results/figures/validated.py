"""What was validated: a live engine under load beside its simulation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import polars as pl

from results.figures.common import Origin, first_row, has_table, origin

QUANTITIES: Final = ("throughput", "tps", "tau", "budget")
STEP: Final = "step"
"""Another quantity, known by its error alone: predicted over measured seconds of the steps that ran live, less 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation(Origin):
    """What the points of a validation have in common; the profile is what was simulated with."""

    validation_id: str
    engine: str
    believed: str
    """The profile that schedulers decided by, live and simulated."""
    live_prompts: int
    trace_prompts: int
    """Simulated from: others."""
    points: int
    drafting: str
    """How drafts were chosen, live and simulated."""
    seconds: float
    """Of all live engines' clocks."""


def find_validation(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> str | None:
    """The latest validation of one of the runs; None too where the database knows of none."""
    if not has_table(con, "validations"):
        return None
    sql = "SELECT validation_id FROM validations WHERE list_contains(?, run_id) ORDER BY created_at DESC LIMIT 1"
    row = first_row(con, sql, list(run_ids))
    return None if row is None else str(row["validation_id"])


def validation(con: duckdb.DuckDBPyConnection, validation_id: str) -> Validation:
    """Raises LookupError for one that is not there."""
    sql = """
        SELECT v.*, p.profile, b.name AS believed, len(live_prompts) AS live, len(trace_prompts) AS traced,
               (SELECT count(*) FROM validations WHERE validation_id = $1) AS points,
               (SELECT sum(seconds) FROM validations WHERE validation_id = $1) AS live_s
        FROM validations v JOIN profiles p USING (profile_hash) LEFT JOIN profiles b ON b.profile_hash = v.believed_hash
        WHERE validation_id = $1 ORDER BY point
    """
    row = first_row(con, sql, validation_id)
    if row is None:
        raise LookupError(f"no validation {validation_id!r} in this database")
    return Validation(
        validation_id=validation_id, engine=row["engine"], believed=row["believed"] or "unknown", live_prompts=row["live"],
        trace_prompts=row["traced"], points=row["points"], drafting=row["drafting"], seconds=row["live_s"], **origin(row),
    )  # fmt: skip


def validated(con: duckdb.DuckDBPyConnection, validation_id: str) -> pl.DataFrame:
    """Every quantity of every point, measured and simulated.

    Columns: run, engine, drafter, gamma, policy, confidences, users, requests (answered live), quantity ('throughput' in
    tokens per second, 'tps' of a user, 'tau', 'budget', 'step'), measured, simulated, low, high (95 % of replicates, prompts
    redrawn), same_prompts (simulated from the live prompts' own traces), error (simulated over measured, less 1), error_low
    and error_high (the same of low and high), same_error (of same_prompts), inside (whether measured lies between low and
    high). Of 'step' there is the error alone.
    """
    sql = """
        SELECT run_id AS run, engine, drafter, gamma, policy, confidences, users, requests,
               measured, simulated, low, high, same_prompts, step_errors
        FROM validations WHERE validation_id = ? ORDER BY point
    """
    rows: list[dict[str, Any]] = []
    for *plain, measured, simulated, low, high, same, steps in con.execute(sql, [validation_id]).fetchall():
        key = dict(zip(_PLAIN, plain, strict=True))
        each = {"measured": measured, "simulated": simulated, "low": low, "high": high, "same_prompts": same}
        opened = {name: json.loads(text) for name, text in each.items()}
        for quantity in QUANTITIES:
            values = {name: found.get(quantity) for name, found in opened.items()}
            if values["measured"] and values["simulated"] is not None:
                rows.append(key | {"quantity": quantity, **values, **_errors(values)})
        step = json.loads(steps).get("step")
        rows += [] if step is None else [key | {"quantity": STEP, "error": step}]
    return pl.DataFrame(rows, schema=_SCHEMA)


def errors(points: pl.DataFrame) -> pl.DataFrame:
    """Of every quantity how far off the simulation is, over the points of a validation.

    Columns: quantity, points, mean_absolute, mean, worst (the largest absolute error; all shares), same_prompts (mean
    absolute error from the live prompts' own traces: what is left when prompts are no excuse), known (points with an
    interval), inside (of them, those whose measured value lies within).
    """
    error = pl.col("error")
    found = points.group_by("quantity", maintain_order=True).agg(
        points=error.count(), mean_absolute=error.abs().mean(), mean=error.mean(), worst=error.abs().max(),
        same_prompts=pl.col("same_error").abs().mean(), known=pl.col("inside").count(), inside=pl.col("inside").sum(),
    )  # fmt: skip
    order = {name: place for place, name in enumerate((*QUANTITIES, STEP))}
    return found.sort(pl.col("quantity").replace_strict(order, return_dtype=pl.Int64))


def _errors(values: Mapping[str, float | None]) -> dict[str, float | bool | None]:
    """Errors of a quantity's values, measured and simulated among them."""
    measured, low, high = values["measured"], values["low"], values["high"]
    assert measured

    def off(value: float | None) -> float | None:
        return None if value is None else value / measured - 1

    inside = None if low is None or high is None else low <= measured <= high
    found = {"error": off(values["simulated"]), "error_low": off(low), "error_high": off(high)}
    return {**found, "same_error": off(values["same_prompts"]), "inside": inside}


_PLAIN: Final = ("run", "engine", "drafter", "gamma", "policy", "confidences", "users", "requests")
_SCHEMA: Final = pl.Schema(
    {name: pl.Int64 if name in ("gamma", "users", "requests") else pl.String for name in _PLAIN}
    | {"quantity": pl.String}
    | dict.fromkeys(["measured", "simulated", "low", "high", "same_prompts"], pl.Float64)
    | dict.fromkeys(["error", "error_low", "error_high", "same_error"], pl.Float64)
    | {"inside": pl.Boolean}
)
