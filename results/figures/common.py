"""What all tables of numbers are made with: queries, intervals, and where the paper's numbers lie."""

from __future__ import annotations

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


def query(con: duckdb.DuckDBPyConnection, sql: str, run_id: str) -> pl.DataFrame:
    frame: pl.DataFrame = con.sql(sql, params={"run": run_id}).pl()
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
