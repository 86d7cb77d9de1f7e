"""What was recorded: accepted length, conditional acceptance and speed, the paper's values beside them."""

from __future__ import annotations

from typing import Any, Final

import duckdb
import numpy as np
import polars as pl

from results.figures.common import RESAMPLES, Z95, Floats, bootstrap_ratio, divide, interval, query, ratio, sums
from results.figures.published import DOMAIN_MEAN, PAPER_DATASETS, join_paper, paper_alpha, paper_tau
from results.figures.run import drafting_of, provenance
from simulator.records import Drafting


def accepted_length(
    con: duckdb.DuckDBPyConnection,
    run_id: str,
    drafting: Drafting | None = None,
    *,
    rng: np.random.Generator | None = None,
) -> pl.DataFrame:
    """Accepted length τ by drafter and task, and by drafter and domain.

    τ = Σ committed / Σ rounds, in tokens per round, bonus token included. A row whose `task` is null is a domain: the
    plain mean of its tasks' τ, as the paper averages datasets. [`low`, `high`] is a 95 % percentile bootstrap over
    prompts: prompts are resampled within their task with all their turns, τ is the ratio of the resampled sums, and a
    domain averages its tasks' independent draws. With few prompts such an interval is too narrow, and with one it is
    null. Without `rng`, the draws are those of `default_rng(0)`: the same run always gives the same table. `drafting`
    chooses among recordings of sampled and of greedy drafts; see `drafting_of` for None.

    Columns: drafter, gamma, drafting (`either` where both ways are one), domain, task, tasks (how many the row averages),
    prompts, responses, rounds, tau, low, high, paper (τ of Qwen3-4B for the same kind of drafter and dataset or domain at
    γ = 7, null where unpublished). A response without rounds counts as a response; a task without rounds has a null τ and
    is not averaged.
    """
    rng = rng or np.random.default_rng(0)
    prompts = query(
        con,
        """
        SELECT s.drafter, s.gamma, s.drafting, s.domain, s.task, s.prompt_id, count(DISTINCT s.turn) AS responses,
               count(r.round) AS rounds, coalesce(sum(r.committed), 0)::BIGINT AS committed
        FROM recorded_responses s LEFT JOIN rounds r USING (run_id, drafter, gamma, drafting, prompt_id, turn)
        WHERE s.run_id = $run AND s.drafting IN ($drafting, 'either') GROUP BY ALL ORDER BY ALL
        """,
        run_id,
        drafting=drafting or drafting_of(con, run_id),
    )
    rows: list[dict[str, Any]] = []
    keys = ("drafter", "gamma", "drafting", "domain")
    for key, of_domain in prompts.group_by(*keys, maintain_order=True):
        taus: list[float] = []
        draws: list[Floats] = []
        group = dict(zip(keys, key, strict=True))
        for (task,), of_task in of_domain.group_by("task", maintain_order=True):
            tau = ratio(of_task, "committed", "rounds")
            resampled = bootstrap_ratio(of_task["committed"].to_numpy(), of_task["rounds"].to_numpy(), rng)
            if tau is not None:
                taus.append(tau)
                draws.append(resampled)
            rows.append(group | {"task": task, "tasks": 1} | _tau_row(of_task, tau, resampled))
        mean, of_mean = (float(np.mean(taus)), np.mean(draws, axis=0)) if taus else (None, np.empty(0))
        rows.append(group | {"task": None, "tasks": len(taus)} | _tau_row(of_domain, mean, of_mean))
    measured = pl.DataFrame(rows, schema=_ACCEPTED_LENGTH)
    task_name = pl.col("task").replace_strict(PAPER_DATASETS, default=None, return_dtype=pl.String)
    dataset = pl.when(pl.col("task").is_null()).then(pl.lit(DOMAIN_MEAN)).otherwise(task_name)
    return join_paper(measured.with_columns(dataset=dataset), provenance(con, run_id), paper_tau()).drop("dataset")


def conditional_acceptance(con: duckdb.DuckDBPyConnection, run_id: str) -> pl.DataFrame:
    """Conditional acceptance α_k = P(position k accepted | positions before k accepted), by drafter and domain.

    A round that accepted a of ℓ verified tokens is a success at positions 1..a and, if a < ℓ, a failure at a + 1. No
    such failure is counted where the response ended with an end token inside the accepted draft: what came after the
    end was never judged. That round is told by finish = 'stop' and committed = a: any other commits a + 1 or was cut by
    the length limit. Rounds of all tasks of a domain are pooled. [`low`, `high`] is Wilson's 95 % score interval (JASA
    22, 1927), which takes trials as independent: where prompts differ much it is too narrow. Drafters with γ = 0 have
    no rows, nor have positions never tried. Drafts are chosen as `drafting_of` says.

    Columns: drafter, gamma, domain, position (from 1), trials, accepted, alpha, low, high, paper (the paper's Figure 2,
    Qwen3-4B at γ = 7, for the same kind of drafter, domain and position; null where unpublished).
    """
    trials = query(
        con,
        """
        WITH judged AS (
            SELECT r.drafter, r.gamma, s.domain, r.accepted, r.verified,
                   s.finish = 'stop' AND r.committed = r.accepted AS ended_inside_draft
            FROM rounds r JOIN recorded_responses s USING (run_id, drafter, gamma, drafting, prompt_id, turn)
            WHERE r.run_id = $run AND r.gamma > 0 AND r.drafting IN ($drafting, 'either')
        )
        SELECT drafter, gamma, domain, p.position, count(*) AS trials,
               count_if(p.position <= accepted)::BIGINT AS accepted
        FROM judged JOIN range(1, 256) AS p(position)
          ON p.position <= least(gamma, accepted + (accepted < verified AND NOT ended_inside_draft)::INTEGER)
        GROUP BY ALL ORDER BY ALL
        """,
        run_id,
        drafting=drafting_of(con, run_id),
    )
    n, alpha = pl.col("trials"), pl.col("accepted") / pl.col("trials")
    centre = (alpha + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * (alpha * (1 - alpha) / n + Z95**2 / (4 * n**2)).sqrt()
    measured = trials.with_columns(alpha=alpha, low=centre - half, high=centre + half)
    return join_paper(measured, provenance(con, run_id), paper_alpha())


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

    Columns: drafter, gamma, drafting, batch_min, batch_max (requests decoded together), samples, prompts, tokens, seconds,
    tokens_per_s (over all of the drafter's samples, paired or not), pairs, speedup, low, high.
    """
    rng = rng or np.random.default_rng(0)
    cells = query(
        con,
        """
        SELECT drafter, gamma, drafting, sample, prompt_id, batch, tokens::DOUBLE AS tokens, seconds
        FROM speed_samples WHERE run_id = $run ORDER BY ALL
        """,
        run_id,
    )
    baseline = cells.filter(drafter="none").drop("drafter", "gamma", "drafting")
    rows: list[dict[str, Any]] = []
    for (drafter, gamma, drafting), own in cells.group_by("drafter", "gamma", "drafting", maintain_order=True):
        pairs = own.join(baseline, on=["sample", "prompt_id", "batch"], suffix="_none", maintain_order="left")
        own_speed, none_speed = ratio(pairs, "tokens", "seconds"), ratio(pairs, "tokens_none", "seconds_none")
        low, high = (None, None) if drafter == "none" else interval(_bootstrap_speedup(pairs, rng))
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


_ACCEPTED_LENGTH: Final = pl.Schema(
    {"drafter": pl.String, "gamma": pl.UInt8, "drafting": pl.String, "domain": pl.String, "task": pl.String}
    | dict.fromkeys(["tasks", "prompts", "responses", "rounds"], pl.Int64)
    | dict.fromkeys(["tau", "low", "high"], pl.Float64)
)
_SPEED: Final = pl.Schema(
    {"drafter": pl.String, "gamma": pl.UInt8, "drafting": pl.String}
    | dict.fromkeys(["batch_min", "batch_max", "samples", "prompts", "tokens"], pl.Int64)
    | {"seconds": pl.Float64, "tokens_per_s": pl.Float64, "pairs": pl.Int64}
    | dict.fromkeys(["speedup", "low", "high"], pl.Float64)
)


def _tau_row(prompts: pl.DataFrame, tau: float | None, draws: Floats) -> dict[str, Any]:
    """The measured columns of one row of accepted lengths."""
    low, high = interval(draws)
    return {"prompts": prompts.height, **sums(prompts, "responses", "rounds"), "tau": tau, "low": low, "high": high}


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
