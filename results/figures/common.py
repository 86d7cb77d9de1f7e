"""What all tables of numbers are made with: queries, intervals, and where the paper's numbers lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]

RESAMPLES: Final = 2000
"""Bootstrap draws behind every interval."""

PAPER: Final = Path(__file__).parents[1] / "paper"
"""The published numbers."""

Z95: Final = NormalDist().inv_cdf(0.975)


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
    profile: Mapping[str, Any]
    """Name, device, model, source, gpus, and `provenance`: where its numbers come from."""


def origin(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an `Origin` from a row that has them as columns, JSON as text."""
    plain = {name: row[name] for name in ("run_id", "command", "created_at", "git_revision")}
    return plain | {name: json.loads(row[name]) for name in ("packages", "profile")}


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


def query(con: duckdb.DuckDBPyConnection, sql: str, run_id: str, **more: Any) -> pl.DataFrame:
    frame: pl.DataFrame = con.sql(sql, params={"run": run_id, **more}).pl()
    return frame


def sums(frame: pl.DataFrame, *columns: str) -> dict[str, Any]:
    return frame.select(pl.col(columns).sum()).row(0, named=True)


def ratio(frame: pl.DataFrame, numerator: str, denominator: str) -> float | None:
    """Ratio of two columns' sums; None where there is nothing to divide by."""
    over, under = frame.select(pl.col(numerator, denominator).sum()).row(0)
    return float(over / under) if under else None


def bootstrap_ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any], rng: np.random.Generator) -> Floats:
    """Σ numerator / Σ denominator, [RESAMPLES], resampling the n units of two [n] arrays; NaN from fewer than two."""
    n = len(numerator)
    if n < 2:
        return np.full(RESAMPLES, np.nan)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return divide(counts @ numerator, counts @ denominator)


def divide(over: Floats, under: Floats) -> Floats:
    """Elementwise; NaN where a draw left nothing to divide by."""
    quotient = np.full(len(over), np.nan)
    np.divide(over, under, out=quotient, where=under > 0)
    return quotient


def interval(draws: Floats) -> tuple[float | None, float | None]:
    """The middle 95 % of the draws, NaN ones left out; (None, None) without any."""
    drawn = draws[~np.isnan(draws)]
    if not len(drawn):
        return None, None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
