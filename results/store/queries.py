"""Answers of the database as rows and tables, and what everything made of a run's recordings has in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import polars as pl

from simulator.hardware.profile import Profile, parse_profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What made something of a run's recordings: a sweep, a study, a validation."""

    run_id: str
    command: str
    created_at: datetime
    """UTC."""
    git_revision: str | None
    packages: Mapping[str, str]
    """Distribution → version."""
    profile: Profile
    """What it was simulated with."""


def origin(row: Mapping[str, Any], profile: Profile | None = None) -> dict[str, Any]:
    """The fields of an `Origin` from a row that has them as columns, JSON as text; the profile, unless it is known."""
    plain = {name: row[name] for name in ("run_id", "command", "created_at", "git_revision")}
    return plain | {"packages": json.loads(row["packages"]), "profile": profile or parse_profile(row["profile"])}


def has_table(con: duckdb.DuckDBPyConnection, *names: str) -> bool:
    """Whether a database, which may be of an earlier schema, has all of these tables."""
    tables = {row[0] for row in con.execute("SELECT table_name FROM information_schema.tables").fetchall()}
    return set(names) <= tables


def first_row(con: duckdb.DuckDBPyConnection, sql: str, *values: Any) -> dict[str, Any] | None:
    """The first row of an answer by column; None where there is none."""
    cursor = con.execute(sql, list(values))
    names = [column[0] for column in cursor.description or []]
    rows = cursor.fetchall()
    return dict(zip(names, rows[0], strict=True)) if rows else None


def latest_of(con: duckdb.DuckDBPyConnection, table: str, key: str, run_ids: Sequence[str]) -> str | None:
    """The latest id in a table of one of the runs; None too where the database, of an earlier schema, has no such table."""
    if not has_table(con, table):
        return None
    row = first_row(
        con, f"SELECT {key} FROM {table} WHERE list_contains(?, run_id) ORDER BY created_at DESC LIMIT 1", run_ids
    )
    return None if row is None else str(row[key])


def query(con: duckdb.DuckDBPyConnection, sql: str, run_id: str, **more: Any) -> pl.DataFrame:
    frame: pl.DataFrame = con.sql(sql, params={"run": run_id, **more}).pl()
    return frame
