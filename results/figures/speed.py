"""Decoding speed against plain decoding, by drafter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import duckdb
import numpy as np
import polars as pl

from results.figures.common import facets, listed, ratio, sums, whiskers
from results.figures.intervals import RESAMPLES, Floats, divide, interval
from results.figures.section import Figure, Panel, Section, empty_plot
from results.figures.style import Series
from results.store.queries import query
from results.store.runs import Provenance
from simulator.records import NO_RECORDING

if TYPE_CHECKING:  # takes a second, and numbers need none of it
    import plotly.graph_objects as go


FEWEST_PROMPTS: Final = 3
"""Fewer that both were timed on say nothing of other prompts: there is no interval then."""


def speed(con: duckdb.DuckDBPyConnection, run_id: str, *, rng: np.random.Generator | None = None) -> pl.DataFrame:
    """Decoding speed by drafter, and how it compares with plain decoding ('none') on the same machine at the same time.

    `speedup` is the drafter's Σ tokens / Σ seconds over none's, both summed over the pairs only: cells (sample, prompt)
    that both ran, at the same batch. Samples of one number ran back to back, so a machine that slows down between
    samples slows both sides of a pair. Sums, not a mean of the pairs' ratios: a response weighs as long as it takes.

    Pairs are not independent: a prompt that drafts well does so in every sample, and one noisy sample touches every
    prompt. So [`low`, `high`] is the 95 % percentile interval of the pigeonhole bootstrap (Owen, Annals of Applied
    Statistics 1(2), 2007): samples and prompts are resampled separately, and a pair weighs the product of their
    counts, on both sides alike. Few prompts or samples leave it too narrow, fewer than `FEWEST_PROMPTS` give none, and one
    sample tells nothing of the machine. 'none' has speedup 1 exactly and no interval; without none's samples speedup is
    null.

    Columns: drafter, gamma, drafting, batch_min, batch_max (requests decoded together), samples, prompts, tokens, seconds,
    tokens_per_s (over all of the drafter's samples, paired or not), pairs, speedup, low, high.
    """
    rng = rng or np.random.default_rng(0)
    cells = _cells(con, run_id)
    rows: list[dict[str, Any]] = []
    for (drafter, gamma, drafting), own in cells.group_by("drafter", "gamma", "drafting", maintain_order=True):
        pairs = _beside_none(own, cells)
        own_speed, none_speed = ratio(pairs, "tokens", "seconds"), ratio(pairs, "tokens_none", "seconds_none")
        few = drafter == NO_RECORDING.drafter or pairs["prompt_id"].n_unique() < FEWEST_PROMPTS
        low, high = (None, None) if few else interval(_bootstrap_speedup(pairs, rng))
        rows.append(
            {
                "drafter": drafter,
                "gamma": gamma,
                "drafting": drafting,
                "batch_min": own["batch"].min(),
                "batch_max": own["batch"].max(),
                "samples": own["sample"].n_unique(),
                "prompts": own["prompt_id"].n_unique(),
                **sums(own, "tokens", "seconds"),
                "tokens_per_s": ratio(own, "tokens", "seconds"),
                "pairs": pairs.height,
                "speedup": own_speed / none_speed if own_speed is not None and none_speed else None,
                "low": low,
                "high": high,
            }
        )
    return pl.DataFrame(rows, schema=_SPEED)


def paired_cells(con: duckdb.DuckDBPyConnection, run_id: str) -> pl.DataFrame:
    """What `speed` sums up: a row a cell that a drafter and none ran alike.

    Columns: drafter, gamma, drafting, sample, prompt_id, batch, tokens, seconds, tokens_none, seconds_none.
    """
    cells = _cells(con, run_id)
    return _beside_none(cells.filter(pl.col("drafter") != NO_RECORDING.drafter), cells)


def _cells(con: duckdb.DuckDBPyConnection, run_id: str) -> pl.DataFrame:
    return query(
        con,
        """
        SELECT drafter, gamma, drafting, sample, prompt_id, batch, tokens::DOUBLE AS tokens, seconds
        FROM speed_samples WHERE run_id = $run ORDER BY ALL
        """,
        run_id,
    )


def _beside_none(own: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """A drafter's cells that none has too, beside none's."""
    baseline = cells.filter(drafter="none").drop("drafter", "gamma", "drafting")
    return own.join(baseline, on=["sample", "prompt_id", "batch"], suffix="_none", maintain_order="left")


_SPEED: Final = pl.Schema(
    {"drafter": pl.String, "gamma": pl.UInt8, "drafting": pl.String}
    | dict.fromkeys(["batch_min", "batch_max", "samples", "prompts", "tokens"], pl.Int64)
    | {"seconds": pl.Float64, "tokens_per_s": pl.Float64, "pairs": pl.Int64}
    | dict.fromkeys(["speedup", "low", "high"], pl.Float64)
)


def _bootstrap_speedup(pairs: pl.DataFrame, rng: np.random.Generator) -> Floats:
    """Pigeonhole draws of the speed-up, [RESAMPLES]: a pair weighs its sample's count times its prompt's count."""
    if pairs.height < 2:
        return np.full(RESAMPLES, np.nan)
    weights = np.ones((RESAMPLES, pairs.height), dtype=np.int64)
    for factor in ("sample", "prompt_id"):
        level = pairs[factor].rank("dense").to_numpy() - 1
        levels = int(level.max()) + 1
        weights *= rng.multinomial(levels, np.full(levels, 1 / levels), size=RESAMPLES)[:, level]
    tokens, seconds, tokens_none, seconds_none = (
        weights @ pairs[column].to_numpy() for column in ("tokens", "seconds", "tokens_none", "seconds_none")
    )
    return divide(tokens * seconds_none, seconds * tokens_none)


def section(speeds: pl.DataFrame, runs: Sequence[Provenance], series: Sequence[Series]) -> Section:
    """Speed-up over none by drafter, fastest on top."""
    return Section(
        "speed",
        "Speed on this machine",
        "Tokens per second of decoding, prefill excluded, relative to decoding without a drafter.",
        _speed(speeds, series, runs),
        (),
        ["measured"] if speeds.height else [],
        speeds,
    )


def times(row: Mapping[str, Any]) -> str:
    """A speed-up in words."""
    interval = "" if row["low"] is None else f" (95 % {row['low']:.2f} to {row['high']:.2f})"
    return f"{row['speedup']:.2f}×{interval}{', slower' if row['speedup'] < 1 else ''}"


def _speed(speeds: pl.DataFrame, series: Sequence[Series], runs: Sequence[Provenance]) -> Figure:
    measured = [(s, row) for s in series for row in s.rows(speeds)]
    rows = sorted((pair for pair in measured if pair[1]["speedup"]), key=lambda pair: float(pair[1]["speedup"]))
    unpaired = [f"{s.label} {row['tokens_per_s']:.1f} tokens/s" for s, row in measured if not row["speedup"]]
    apart = f" Not comparable, for want of none's samples beside theirs: {listed(unpaired)}." if unpaired else ""
    if not rows:
        return Figure(missing=apart.strip() or "No speed samples were taken in this run: nothing is said about speed.")
    ends = [row[name] for _, row in rows for name in ("speedup", "low", "high") if row[name] is not None]
    span = max(max(ends) - min(ends), 0.2)
    panels = []
    for run, _, name, title in facets(runs, lambda run: [""] if any(s.run == run for s, _ in rows) else []):
        plot = _speed_panel([(s, row) for s, row in rows if s.run == run])
        plot.update_xaxes(range=[min(ends) - 0.15 * span, max(ends) + 0.15 * span], title_text="times as fast as none")
        panels.append(Panel(f"speed-up-{name}".strip("-"), title, plot))
    batches = sorted({row["batch_min"] for _, row in rows} | {row["batch_max"] for _, row in rows})
    batch = f"{batches[0]}" if len(batches) == 1 else f"{batches[0]} to {batches[-1]}"
    return Figure(
        [],
        panels,
        f"Right of the dotted line a drafter pays for itself on this machine, at batch {batch}; whiskers are 95 % "
        f"intervals over prompts and passes, each pass paired with none's.{apart}",
    )


def _speed_panel(rows: Sequence[tuple[Series, Mapping[str, Any]]]) -> go.Figure:
    """A run's drafters, the fastest on top."""
    plot = empty_plot(height=90 + 46 * len(rows))
    for place, (s, row) in enumerate(rows):
        plot.add_scatter(
            x=[row["speedup"]], y=[place], mode="markers+text", meta="measured",
            marker={"color": s.colour, "symbol": s.symbol, "size": 11},
            error_x=whiskers([row], "speedup") | {"thickness": 1.6, "color": s.colour}, hoverinfo="text",
            text=[f"{row['speedup']:.2f}×" if s.gamma else ""], textposition="top center",
            hovertext=[f"{s.label}: {times(row)}, {row['pairs']} pairs with none"],
        )  # fmt: skip
    plot.add_vline(x=1, line={"width": 1, "dash": "dot"})
    plot.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[f"{s.name}<br>{row['tokens_per_s']:.1f} tok/s" for s, row in rows],
        range=[-0.6, len(rows) - 0.2],
    )
    return plot
