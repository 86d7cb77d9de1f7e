"""What the report shows, as tables: pure functions of one run's rows, the paper's values joined. Nothing here draws."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]

PAPER_TARGET: Final = "Qwen3-4B"
"""The paper's target closest to a small pair; Figure 2 exists for it alone."""

PAPER_DRAFTERS: Final[Mapping[str, str]] = {"dspark": "DSpark", "dflash": "DFlash", "eagle3": "Eagle3"}
"""Kind of drafter → the paper's name for it."""

PAPER_DATASETS: Final[Mapping[str, str]] = {
    "gsm8k": "GSM8K",
    "math500": "MATH500",
    "aime25": "AIME25",
    "mbpp": "MBPP",
    "humaneval": "HumanEval",
    "livecodebench": "LiveCodeBench",
    "mt-bench": "MT-Bench",
    "alpaca": "Alpaca",
    "arena-hard-v2": "Arena-Hard",
}
"""Task → the paper's name for its dataset. A task not named here has no published value."""

RESAMPLES: Final = 2000
"""Bootstrap draws behind every interval."""

_DOMAIN_MEAN: Final = "mean of the domain"
_PAPER: Final = Path(__file__).parent / "paper"
_Z95: Final = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Drafter:
    """A drafter as the run declared it."""

    name: str
    kind: str
    """Mechanism: 'dspark', 'dflash', 'eagle3', 'mtp', 'ngram' or 'none'."""
    gamma: int
    """Drafted block size, tokens; 0 for 'none'."""
    checkpoint: str | None
    checkpoint_hash: str | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a run's numbers come from: enough to run it again and to doubt it well."""

    run_id: str
    created_at: datetime
    """UTC."""
    finished_at: datetime | None
    """UTC; None while running or interrupted."""
    command: str
    suite: str
    suite_version: int
    suite_hash: str
    prompt_source: str
    """'bundled', 'data-dir' or 'hub'."""
    pair: str
    sources: tuple[str, ...]
    """Publications that a synthesised run was fitted to; empty for a recorded one."""
    drafters: tuple[Drafter, ...]
    sampling: Mapping[str, Any]
    seed: int
    git_revision: str | None
    packages: Mapping[str, str]
    """Distribution → version."""
    host: Mapping[str, Any]
    prompts: int
    """Distinct prompts answered at least once."""
    responses: int
    """Over all drafters and turns."""
    rounds: int
    replayed: int
    """Of them replayed from a dense record, not decoded live."""
    speed_samples: int


def provenance(con: duckdb.DuckDBPyConnection, run_id: str) -> Provenance:
    """The run's row with its JSON opened, and counts of what was recorded. Raises LookupError for an unknown run."""
    runs = _query(con, "SELECT * FROM runs WHERE run_id = $run", run_id)
    if runs.is_empty():
        raise LookupError(f"no run {run_id!r} in this database")
    run = runs.row(0, named=True)
    counts = _query(
        con,
        """
        SELECT (SELECT count(DISTINCT prompt_id) FROM responses WHERE run_id = $run) AS prompts,
               (SELECT count(*) FROM recorded_responses WHERE run_id = $run) AS responses,
               (SELECT count(*) FROM rounds WHERE run_id = $run) AS rounds,
               (SELECT count(*) FROM rounds JOIN recordings USING (run_id, drafter, gamma, prompt_id, turn)
                WHERE run_id = $run) AS replayed,
               (SELECT count(*) FROM speed_samples WHERE run_id = $run) AS speed_samples
        """,
        run_id,
    ).row(0, named=True)
    drafters = tuple(
        Drafter(
            name=name,
            kind=settings.get("kind", name),
            gamma=settings.get("gamma", 0),
            checkpoint=settings.get("checkpoint"),
            checkpoint_hash=settings.get("checkpoint_hash"),
        )
        for name, settings in json.loads(run["drafters"]).items()
    )
    return Provenance(
        run_id=run_id,
        created_at=run["created_at"],
        finished_at=run["finished_at"],
        command=run["command"],
        suite=run["suite"],
        suite_version=run["suite_version"],
        suite_hash=run["suite_hash"],
        prompt_source=run["prompt_source"],
        pair=run["pair"],
        sources=tuple(json.loads(run["plan"]).get("sources", ())),
        drafters=drafters,
        sampling=json.loads(run["sampling"]),
        seed=run["seed"],
        git_revision=run["git_revision"],
        packages=json.loads(run["packages"]),
        host=json.loads(run["host"]),
        **counts,
    )


def accepted_length(con: duckdb.DuckDBPyConnection, run_id: str, *, rng: np.random.Generator | None = None) -> pl.DataFrame:
    """Accepted length τ by drafter and task, and by drafter and domain.

    τ = Σ committed / Σ rounds, in tokens per round, bonus token included. A row whose `task` is null is a domain: the
    plain mean of its tasks' τ, as the paper averages datasets. [`low`, `high`] is a 95 % percentile bootstrap over
    prompts: prompts are resampled within their task with all their turns, τ is the ratio of the resampled sums, and a
    domain averages its tasks' independent draws. With few prompts such an interval is too narrow, and with one it is
    null. Without `rng`, the draws are those of `default_rng(0)`: the same run always gives the same table.

    Columns: drafter, gamma, domain, task, tasks (how many the row averages), prompts, responses, rounds, tau, low,
    high, paper (τ of Qwen3-4B for the same kind of drafter and dataset or domain at γ = 7, null where unpublished).
    A response without rounds counts as a response; a task without rounds has a null τ and is not averaged.
    """
    rng = rng or np.random.default_rng(0)
    prompts = _query(
        con,
        """
        SELECT s.drafter, s.gamma, s.domain, s.task, s.prompt_id, count(DISTINCT s.turn) AS responses,
               count(r.round) AS rounds, coalesce(sum(r.committed), 0)::BIGINT AS committed
        FROM recorded_responses s LEFT JOIN rounds r USING (run_id, drafter, gamma, prompt_id, turn)
        WHERE s.run_id = $run GROUP BY ALL ORDER BY ALL
        """,
        run_id,
    )
    rows: list[dict[str, Any]] = []
    for (drafter, gamma, domain), of_domain in prompts.group_by("drafter", "gamma", "domain", maintain_order=True):
        taus: list[float] = []
        draws: list[Floats] = []
        group = {"drafter": drafter, "gamma": gamma, "domain": domain}
        for (task,), of_task in of_domain.group_by("task", maintain_order=True):
            tau = _ratio(of_task, "committed", "rounds")
            resampled = _bootstrap_ratio(of_task["committed"].to_numpy(), of_task["rounds"].to_numpy(), rng)
            if tau is not None:
                taus.append(tau)
                draws.append(resampled)
            rows.append(group | {"task": task, "tasks": 1} | _tau_row(of_task, tau, resampled))
        mean, of_mean = (float(np.mean(taus)), np.mean(draws, axis=0)) if taus else (None, np.empty(0))
        rows.append(group | {"task": None, "tasks": len(taus)} | _tau_row(of_domain, mean, of_mean))
    measured = pl.DataFrame(rows, schema=_ACCEPTED_LENGTH)
    task_name = pl.col("task").replace_strict(PAPER_DATASETS, default=None, return_dtype=pl.String)
    dataset = pl.when(pl.col("task").is_null()).then(pl.lit(_DOMAIN_MEAN)).otherwise(task_name)
    return _join_paper(measured.with_columns(dataset=dataset), provenance(con, run_id), _paper_tau()).drop("dataset")


def conditional_acceptance(con: duckdb.DuckDBPyConnection, run_id: str) -> pl.DataFrame:
    """Conditional acceptance α_k = P(position k accepted | positions before k accepted), by drafter and domain.

    A round that accepted a of ℓ verified tokens is a success at positions 1..a and, if a < ℓ, a failure at a + 1. No
    such failure is counted where the response ended with an end token inside the accepted draft: what came after the
    end was never judged. That round is told by finish = 'stop' and committed = a: any other commits a + 1 or was cut by
    the length limit. Rounds of all tasks of a domain are pooled. [`low`, `high`] is Wilson's 95 % score interval (JASA
    22, 1927), which takes trials as independent: where prompts differ much it is too narrow. Drafters with γ = 0 have
    no rows, nor have positions never tried.

    Columns: drafter, gamma, domain, position (from 1), trials, accepted, alpha, low, high, paper (the paper's Figure 2,
    Qwen3-4B at γ = 7, for the same kind of drafter, domain and position; null where unpublished).
    """
    trials = _query(
        con,
        """
        WITH judged AS (
            SELECT r.drafter, r.gamma, s.domain, r.accepted, r.verified,
                   s.finish = 'stop' AND r.committed = r.accepted AS ended_inside_draft
            FROM rounds r JOIN recorded_responses s USING (run_id, drafter, gamma, prompt_id, turn)
            WHERE r.run_id = $run AND r.gamma > 0
        )
        SELECT drafter, gamma, domain, p.position, count(*) AS trials,
               count_if(p.position <= accepted)::BIGINT AS accepted
        FROM judged JOIN range(1, 256) AS p(position)
          ON p.position <= least(gamma, accepted + (accepted < verified AND NOT ended_inside_draft)::INTEGER)
        GROUP BY ALL ORDER BY ALL
        """,
        run_id,
    )
    n, alpha = pl.col("trials"), pl.col("accepted") / pl.col("trials")
    centre = (alpha + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 / (1 + _Z95**2 / n) * (alpha * (1 - alpha) / n + _Z95**2 / (4 * n**2)).sqrt()
    measured = trials.with_columns(alpha=alpha, low=centre - half, high=centre + half)
    return _join_paper(measured, provenance(con, run_id), _paper_alpha())


def speed(con: duckdb.DuckDBPyConnection, run_id: str, *, rng: np.random.Generator | None = None) -> pl.DataFrame:
    """Decoding speed by drafter, and how it compares with plain decoding ('none') on the same machine at the same time.

    `speedup` is the drafter's Σ tokens / Σ seconds over none's, both summed over the pairs only: cells (sample, prompt)
    that both ran, at the same batch. Samples of one number ran back to back, so a machine that slows down between
    samples slows both sides of a pair. Sums, not a mean of the pairs' ratios: a response weighs as long as it takes.

    Pairs are not independent: a prompt that drafts well does so in every sample, and one noisy sample touches every
    prompt. So [`low`, `high`] is the 95 % percentile interval of the pigeonhole bootstrap (Owen, Annals of Applied
    Statistics 1(2), 2007): samples and prompts are resampled separately, and a pair weighs the product of their
    counts, on both sides alike. Few prompts or samples leave it too narrow, and one sample tells nothing of the
    machine. 'none' has speedup 1 exactly and no interval; without none's samples speedup is null.

    Columns: drafter, gamma, batch_min, batch_max (requests decoded together), samples, prompts, tokens, seconds,
    tokens_per_s (over all of the drafter's samples, paired or not), pairs, speedup, low, high.
    """
    rng = rng or np.random.default_rng(0)
    cells = _query(
        con,
        """
        SELECT drafter, gamma, sample, prompt_id, batch, tokens::DOUBLE AS tokens, seconds
        FROM speed_samples WHERE run_id = $run ORDER BY ALL
        """,
        run_id,
    )
    baseline = cells.filter(drafter="none").drop("drafter", "gamma")
    rows: list[dict[str, Any]] = []
    for (drafter, gamma), own in cells.group_by("drafter", "gamma", maintain_order=True):
        pairs = own.join(baseline, on=["sample", "prompt_id", "batch"], suffix="_none", maintain_order="left")
        own_speed, none_speed = _ratio(pairs, "tokens", "seconds"), _ratio(pairs, "tokens_none", "seconds_none")
        low, high = (None, None) if drafter == "none" else _interval(_bootstrap_speedup(pairs, rng))
        rows.append(
            {
                "drafter": drafter,
                "gamma": gamma,
                "batch_min": own["batch"].min(),
                "batch_max": own["batch"].max(),
                "samples": own["sample"].n_unique(),
                "prompts": own["prompt_id"].n_unique(),
                **_sums(own, "tokens", "seconds"),
                "tokens_per_s": _ratio(own, "tokens", "seconds"),
                "pairs": pairs.height,
                "speedup": own_speed / none_speed if own_speed is not None and none_speed else None,
                "low": low,
                "high": high,
            }
        )
    return pl.DataFrame(rows, schema=_SPEED)


def missing_responses(con: duckdb.DuckDBPyConnection, run_id: str) -> pl.DataFrame:
    """Responses that other drafters of the run gave and this one did not: an interrupted run, or a failed drafter.

    Columns: drafter, domain, task, responses, expected (distinct prompts and turns that any drafter answered). Only
    incomplete rows; a declared drafter without a single response has one for every task.
    """
    return _query(
        con,
        """
        WITH declared AS (SELECT unnest(json_keys(drafters)) AS drafter FROM runs WHERE run_id = $run),
        answered AS (SELECT * FROM recorded_responses WHERE run_id = $run),
        everything AS (SELECT DISTINCT domain, task, prompt_id, turn FROM answered)
        SELECT d.drafter, e.domain, e.task,
               count(DISTINCT (a.prompt_id, a.turn)) FILTER (a.prompt_id IS NOT NULL) AS responses,
               count(DISTINCT (e.prompt_id, e.turn)) AS expected
        FROM declared d CROSS JOIN everything e
        LEFT JOIN answered a USING (drafter, prompt_id, turn)
        GROUP BY ALL HAVING responses < expected ORDER BY ALL
        """,
        run_id,
    )


_ACCEPTED_LENGTH: Final = pl.Schema(
    {"drafter": pl.String, "gamma": pl.UInt8, "domain": pl.String, "task": pl.String}
    | dict.fromkeys(["tasks", "prompts", "responses", "rounds"], pl.Int64)
    | dict.fromkeys(["tau", "low", "high"], pl.Float64)
)
_SPEED: Final = pl.Schema(
    {"drafter": pl.String, "gamma": pl.UInt8}
    | dict.fromkeys(["batch_min", "batch_max", "samples", "prompts", "tokens"], pl.Int64)
    | {"seconds": pl.Float64, "tokens_per_s": pl.Float64, "pairs": pl.Int64}
    | dict.fromkeys(["speedup", "low", "high"], pl.Float64)
)


def _query(con: duckdb.DuckDBPyConnection, sql: str, run_id: str) -> pl.DataFrame:
    frame: pl.DataFrame = con.sql(sql, params={"run": run_id}).pl()
    return frame


def _sums(frame: pl.DataFrame, *columns: str) -> dict[str, Any]:
    return frame.select(pl.col(columns).sum()).row(0, named=True)


def _ratio(frame: pl.DataFrame, numerator: str, denominator: str) -> float | None:
    """Ratio of two columns' sums; None where there is nothing to divide by."""
    over, under = frame.select(pl.col(numerator, denominator).sum()).row(0)
    return float(over / under) if under else None


def _tau_row(prompts: pl.DataFrame, tau: float | None, draws: Floats) -> dict[str, Any]:
    """The measured columns of one row of accepted lengths."""
    low, high = _interval(draws)
    return {"prompts": prompts.height, **_sums(prompts, "responses", "rounds"), "tau": tau, "low": low, "high": high}


def _bootstrap_ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any], rng: np.random.Generator) -> Floats:
    """Σ numerator / Σ denominator, [RESAMPLES], resampling the n units of two [n] arrays; NaN from fewer than two."""
    n = len(numerator)
    if n < 2:
        return np.full(RESAMPLES, np.nan)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return _divide(counts @ numerator, counts @ denominator)


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
    return _divide(tokens * seconds_none, seconds * tokens_none)


def _divide(over: Floats, under: Floats) -> Floats:
    """Elementwise; NaN where a draw left nothing to divide by."""
    quotient = np.full(len(over), np.nan)
    np.divide(over, under, out=quotient, where=under > 0)
    return quotient


def _interval(draws: Floats) -> tuple[float | None, float | None]:
    """The middle 95 % of the draws, NaN ones left out; (None, None) without any."""
    drawn = draws[~np.isnan(draws)]
    if not len(drawn):
        return None, None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


@cache
def _paper_tau() -> pl.DataFrame:
    """Published τ, columns kind, domain, dataset (`_DOMAIN_MEAN` for the mean of a domain's datasets), paper."""
    table = _published("table1_accepted_length.csv").filter(target=PAPER_TARGET)
    sets = table.select("kind", "domain", "dataset", pl.col("tau").alias("paper"))
    means = sets.group_by("kind", "domain").agg(pl.lit(_DOMAIN_MEAN).alias("dataset"), pl.col("paper").mean())
    return pl.concat([sets, means])


@cache
def _paper_alpha() -> pl.DataFrame:
    """Published α_k, columns kind, domain, position, paper."""
    table = _published("fig2_conditional_acceptance.csv")
    return table.select("kind", "domain", "position", pl.col("cond_acceptance").alias("paper"))


def _published(name: str) -> pl.DataFrame:
    """One of the paper's tables, its domains and drafters renamed to ours."""
    table = pl.read_csv(_PAPER / name)
    return table.with_columns(
        pl.col("domain").str.to_lowercase(),
        pl.col("drafter").replace_strict({paper: kind for kind, paper in PAPER_DRAFTERS.items()}).alias("kind"),
    )


def _join_paper(measured: pl.DataFrame, run: Provenance, published: pl.DataFrame) -> pl.DataFrame:
    """`measured` with the column `paper`, null where the paper has nothing of that key for the drafter's kind."""
    kinds = pl.DataFrame(
        [(drafter.name, drafter.kind) for drafter in run.drafters],
        schema={"drafter": pl.String, "kind": pl.String},
        orient="row",
    )
    keys = [column for column in published.columns if column != "paper"]
    keyed = measured.join(kinds, on="drafter", how="left", maintain_order="left")
    return keyed.join(published, on=keys, how="left", maintain_order="left").drop("kind")
