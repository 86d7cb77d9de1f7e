"""What was validated: a live engine under load beside its simulation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import duckdb
import polars as pl

QUANTITIES: Final = ("throughput", "tps", "tau", "budget")


def find_validation(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> str | None:
    """The latest validation of one of the runs; None too where the database knows of none."""
    if not con.execute("SELECT 1 FROM information_schema.tables WHERE table_name = 'validations'").fetchall():
        return None
    sql = "SELECT validation_id FROM validations WHERE list_contains($runs, run_id) ORDER BY created_at DESC LIMIT 1"
    rows = con.execute(sql, {"runs": list(run_ids)}).fetchall()
    return str(rows[0][0]) if rows else None


def validated(con: duckdb.DuckDBPyConnection, validation_id: str) -> pl.DataFrame:
    """Every quantity of every point, measured and simulated.

    Columns: run, engine, drafter, gamma, policy, confidences, users, quantity ('throughput' and 'tps' in tokens per second,
    'tau', 'budget'), measured, simulated, low, high (95 % of replicates, prompts redrawn), error (simulated over measured,
    less 1), inside (whether measured lies between low and high), same_prompts (simulated from the live prompts' own traces),
    requests (answered live), command.
    """
    sql = """
        SELECT run_id AS run, engine, drafter, gamma, policy, confidences, users, requests, command,
               measured, simulated, low, high, same_prompts
        FROM validations WHERE validation_id = ? ORDER BY point
    """
    rows: list[dict[str, Any]] = []
    for *plain, measured, simulated, low, high, same in con.execute(sql, [validation_id]).fetchall():
        key = dict(zip(_PLAIN, plain, strict=True))
        each = {"measured": measured, "simulated": simulated, "low": low, "high": high, "same_prompts": same}
        opened = {name: json.loads(text) for name, text in each.items()}
        for quantity in QUANTITIES:
            values = {name: found.get(quantity) for name, found in opened.items()}
            if values["measured"] is None or values["simulated"] is None:
                continue
            error = values["simulated"] / values["measured"] - 1 if values["measured"] else None
            known = values["low"] is not None and values["high"] is not None
            inside = values["low"] <= values["measured"] <= values["high"] if known else None
            rows.append(key | {"quantity": quantity, **values, "error": error, "inside": inside})
    return pl.DataFrame(rows, schema=_SCHEMA)


_PLAIN: Final = ("run", "engine", "drafter", "gamma", "policy", "confidences", "users", "requests", "command")
_SCHEMA: Final = pl.Schema(
    {name: pl.Int64 if name in ("gamma", "users", "requests") else pl.String for name in _PLAIN}
    | {"quantity": pl.String}
    | dict.fromkeys(["measured", "simulated", "low", "high", "same_prompts", "error"], pl.Float64)
    | {"inside": pl.Boolean}
)
