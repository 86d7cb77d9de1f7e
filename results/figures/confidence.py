"""What confidences are worth: the threshold sweep, reliability before and after calibration, and block sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl

from results.figures.common import PAPER, query
from results.figures.published import PAPER_DATASETS
from results.figures.run import drafting_of
from results.tables import matrix
from simulator.calibration import BINS, calibrated, estimated
from simulator.records import Drafting
from simulator.traces import split_of

Ints = npt.NDArray[np.int64]
Singles = npt.NDArray[np.floating[Any]]

THRESHOLDS: Final = tuple(round(0.05 * i, 2) for i in range(21))
"""Of the sweep; the paper has every second one."""
THRESHOLD_DATASETS: Final = {"GSM8K", "HumanEval", "MT-Bench"}
"""The data sets of the paper's Figure 5, one a domain."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One drafter's anchors with what they are sure of, flat, responses in order."""

    drafter: str
    gamma: int
    tasks: tuple[str, ...]
    """Of each of S responses, as the next two."""
    domains: tuple[str, ...]
    prompts: tuple[str, ...]
    offsets: Ints
    """[S + 1]."""
    drafted: Ints
    """[A]."""
    accepted: Ints
    """[A]."""
    confidence: Singles
    """Raw c_1..c_γ, or estimated ones, [A, γ]."""
    calibrated: Singles | None
    """The same after temperatures; None where there are none."""
    estimated: bool
    """Whether `confidence` is estimated, for want of a head."""


def recordings(con: duckdb.DuckDBPyConnection, run_id: str) -> list[Recording]:
    """The run's drafters that have confidences, at their largest γ; estimated ones where weights of estimates are kept.

    Drafts are chosen as `drafting_of` says.
    """
    sql = """
        SELECT drafter, max(gamma) FROM recordings WHERE run_id = ? AND drafting IN (?, 'either')
        GROUP BY drafter ORDER BY drafter
    """
    drafting = drafting_of(con, run_id)
    rows = con.execute(sql, [run_id, drafting]).fetchall()
    found = [_recording(con, run_id, drafter, int(gamma), drafting) for drafter, gamma in rows]
    return [recording for recording in found if recording is not None]


class Walked(NamedTuple):
    """Sums over the rounds that make responses, [thresholds, S]."""

    rounds: Ints
    committed: Ints
    verified: Ints
    accepted: Ints


def walk(recording: Recording, thresholds: Sequence[float]) -> Walked:
    """Every response replayed under `threshold:c`, all thresholds and responses at once.

    What `simulator.replay` does for one response and policy, in steps of arrays.
    """
    c = np.nan_to_num(recording.confidence.astype(np.float64))
    ends = recording.offsets[1:]
    verified = np.empty((len(thresholds), len(c)), np.int16)
    for i, threshold in enumerate(thresholds):
        below = c < threshold
        verified[i] = np.minimum(np.where(below.any(1), below.argmax(1), c.shape[1]), recording.drafted)
    accepted = np.minimum(verified, recording.accepted).astype(np.int16)
    at = np.tile(recording.offsets[:-1], (len(thresholds), 1))
    sums = Walked(*(np.zeros(at.shape, np.int64) for _ in Walked._fields))
    which = np.arange(len(thresholds))[:, None]
    while (live := at < ends).any():
        here = np.minimum(at, len(c) - 1)
        ell, kept = verified[which, here], accepted[which, here]
        committed = np.minimum(kept + 1, ends - at)
        for total, amount in zip(sums, (1, committed, ell, kept), strict=True):
            total += np.where(live, amount, 0)
        at = np.where(live, at + committed, at)
    return sums


def threshold_sweep(found: Sequence[Recording], run_id: str) -> pl.DataFrame:
    """Tokens accepted and rejected a round under `threshold:c`, by task and by domain, for raw or estimated confidences.

    A row whose task is null is a domain: the plain mean of its tasks. Columns: run, drafter, gamma, confidences, domain,
    task, threshold, tau (tokens per round, bonus token included), rejected (verified draft tokens that were not kept, per
    round), budget (tokens verified per round, anchor included), rounds, paper_tau, paper_rejected (DSpark on Qwen3-4B, one
    data set a domain; null elsewhere).
    """
    rows: list[dict[str, Any]] = []
    for recording in found:
        walked = walk(recording, THRESHOLDS)
        key = {"run": run_id, "drafter": recording.drafter, "gamma": recording.gamma}
        key["confidences"] = "estimated" if recording.estimated else "raw"
        tasks, domains = np.array(recording.tasks), np.array(recording.domains)
        for domain in dict.fromkeys(recording.domains):
            means = []
            for task in dict.fromkeys(tasks[domains == domain].tolist()):
                mine = (tasks == task) & (domains == domain)
                rounds, committed, verified, accepted = (part[:, mine].sum(1) for part in walked)
                if not rounds.all():
                    continue
                each = np.stack([committed / rounds, (verified - accepted) / rounds, 1 + verified / rounds])
                means.append(each)
                rows += _threshold_rows(key | {"domain": domain, "task": task}, each, rounds)
            if means:
                rounds = walked.rounds[:, domains == domain].sum(1)
                rows += _threshold_rows(key | {"domain": domain, "task": None}, np.mean(means, 0), rounds)
    frame = pl.DataFrame(rows, schema=_THRESHOLDS)
    dataset = pl.col("task").replace_strict(PAPER_DATASETS, default=None, return_dtype=pl.String)
    joined = frame.with_columns(dataset=dataset).join(
        paper_thresholds(), on=["dataset", "threshold"], how="left", maintain_order="left"
    )
    return joined.drop("dataset")


def reliability(found: Sequence[Recording], run_id: str) -> pl.DataFrame:
    """How often a survival s_k came true, by bin of s_k, before and after calibration, on prompts nothing was fitted on.

    Columns: run, drafter, gamma, position (from 1), stage ('before', 'after', or 'estimated'), predicted (mean s_k of the
    bin), observed (share with at least k accepted), anchors. Bins are of equal width; empty ones are left out.
    """
    rows = []
    for recording in found:
        test = np.array([split_of(prompt) != "calibration" for prompt in recording.prompts])
        fitted = recording.estimated or recording.calibrated is not None
        use = np.repeat(test if fitted else np.ones_like(test), np.diff(recording.offsets))
        stages = {"estimated": recording.confidence} if recording.estimated else {"before": recording.confidence}
        if recording.calibrated is not None:
            stages["after"] = recording.calibrated
        key = {"run": run_id, "drafter": recording.drafter, "gamma": recording.gamma}
        for stage, confidence in stages.items():
            survival = np.cumprod(confidence[use].astype(np.float64), 1)
            for k in range(survival.shape[1]):
                known = ~np.isnan(survival[:, k])
                s, kept = survival[known, k], recording.accepted[use][known] > k
                bins = np.minimum((s * BINS).astype(int), BINS - 1)
                count = np.bincount(bins, minlength=BINS)
                predicted, observed = np.bincount(bins, s, BINS), np.bincount(bins, kept, BINS)
                rows += [
                    key | {"position": k + 1, "stage": stage, "predicted": predicted[b] / count[b],
                           "observed": observed[b] / count[b], "anchors": int(count[b])}
                    for b in np.flatnonzero(count)
                ]  # fmt: skip
    return pl.DataFrame(rows, schema=_RELIABILITY)


def confidence_quality(con: duckdb.DuckDBPyConnection, run_id: str) -> pl.DataFrame:
    """What is stored of calibrations and estimates, by drafter and position; drafts are chosen as `drafting_of` says.

    Columns: run, drafter, gamma, position, fitted ('temperature' or 'estimate'), observed, ece_before, ece_after, auc,
    brier.
    """
    sql = """
        SELECT run_id AS run, drafter, gamma, position, 'temperature' AS fitted, observed, ece_before, ece_after,
               auc_after AS auc, brier_after AS brier
        FROM calibrations WHERE run_id = $run AND drafting IN ($drafting, 'either')
        UNION ALL
        SELECT run_id, drafter, gamma, position, 'estimate', observed, NULL, ece, auc, brier
        FROM estimates WHERE run_id = $run AND drafting IN ($drafting, 'either')
        ORDER BY drafter, gamma, position
    """
    return query(con, sql, run_id, drafting=drafting_of(con, run_id))


def block_sizes(lengths: pl.DataFrame, kinds: dict[str, str]) -> pl.DataFrame:
    """Accepted length over block size, by domain, from the table of accepted lengths of any runs.

    Columns: run, drafter, gamma, domain, tau, low, high, paper (Qwen3-4B, DSpark with its Markov head or DFlash; also at
    block sizes that were not recorded, whose tau is null).
    """
    mine = lengths.filter(pl.col("task").is_null(), pl.col("gamma") > 0, pl.col("tau").is_not_null())
    mine = mine.select("run", "drafter", pl.col("gamma").cast(pl.Int64), "domain", "tau", "low", "high")
    kind = pl.col("drafter").replace_strict(kinds, default=None, return_dtype=pl.String)
    keys = mine.select("run", "drafter", "domain").unique(maintain_order=True).with_columns(kind=kind)
    grid = keys.join(paper_block_sizes(), on=["kind", "domain"], how="inner", maintain_order="left").drop("kind")
    keys_of = ["run", "drafter", "domain", "gamma"]
    joined = mine.join(grid, on=keys_of, how="full", coalesce=True, maintain_order="left_right")
    return joined.sort("run", "drafter", "domain", "gamma", maintain_order=True)


@cache
def paper_thresholds() -> pl.DataFrame:
    """Figure 5: dataset, threshold, paper_tau, paper_rejected."""
    table = pl.read_csv(PAPER / "fig5_threshold.csv")
    dataset = pl.col("domain").replace_strict({"Math": "GSM8K", "Code": "HumanEval", "Chat": "MT-Bench"})
    columns = {"paper_tau": pl.col("accepted_tokens"), "paper_rejected": pl.col("rejected_tokens")}
    return table.select(dataset.alias("dataset"), pl.col("threshold").cast(pl.Float64), **columns)


@cache
def paper_reliability() -> pl.DataFrame:
    """Figure 6: position, stage, predicted, observed."""
    return pl.read_csv(PAPER / "fig6_reliability.csv")


@cache
def paper_block_sizes() -> pl.DataFrame:
    """Figure 4: kind, domain, gamma, paper. Its draft length counts the anchor."""
    table = pl.read_csv(PAPER / "fig4_draft_length.csv")
    kind = pl.col("method").replace_strict({"DSpark-markov": "dspark", "DFlash": "dflash"}, default=None)
    columns = {"gamma": pl.col("draft_length") - 1, "paper": pl.col("accepted_length")}
    return table.select(kind.alias("kind"), pl.col("domain").str.to_lowercase(), **columns).drop_nulls()


def _threshold_rows(key: dict[str, Any], each: npt.NDArray[np.float64], rounds: Ints) -> list[dict[str, Any]]:
    return [
        key | {"threshold": c, "tau": t, "rejected": r, "budget": b, "rounds": int(n)}
        for c, t, r, b, n in zip(THRESHOLDS, *each.tolist(), rounds.tolist(), strict=True)
    ]


def _recording(
    con: duckdb.DuckDBPyConnection, run_id: str, drafter: str, gamma: int, drafting: Drafting
) -> Recording | None:
    key = {"run": run_id, "drafter": drafter, "gamma": gamma, "drafting": drafting}
    mine = "run_id = $run AND drafter = $drafter AND gamma = $gamma AND drafting IN ($drafting, 'either')"
    sql = f"SELECT count(confidence), count(certainty) FROM anchors WHERE {mine}"
    [(given, certain)] = con.execute(sql, key).fetchall()
    weights = con.execute(f"SELECT intercept, slope FROM estimates WHERE {mine} ORDER BY position", key).fetchall()
    if not given and not (certain and weights):
        return None
    column = "confidence" if given else "certainty"
    sql = f"""
        SELECT drafted, accepted, {column} FROM anchors WHERE {mine} ORDER BY prompt_id, turn, anchor
    """
    table = con.sql(sql, params=key).to_arrow_table()
    sure = matrix(table, column, gamma)
    responses = con.execute(
        f"""
        SELECT s.task, s.domain, s.prompt_id, d.anchors
        FROM recordings d JOIN recorded_responses s USING (run_id, drafter, gamma, drafting, prompt_id, turn)
        WHERE {mine} AND d.anchors > 0 ORDER BY prompt_id, turn
        """,
        key,
    ).fetchall()
    offsets = np.cumsum([0, *(r[3] for r in responses)], dtype=np.int64)
    if sure is None or not len(sure) or offsets[-1] != len(sure):  # some anchors without: not to be made sense of
        return None
    temperatures = con.execute(f"SELECT temperature FROM calibrations WHERE {mine} ORDER BY position", key).fetchall()
    scaled = calibrated(sure, [t[0] for t in temperatures]) if given and temperatures else None
    tasks, domains, prompts = (tuple(r[i] for r in responses) for i in range(3))
    return Recording(
        drafter, gamma, tasks, domains, prompts, offsets,
        table["drafted"].to_numpy().astype(np.int64), table["accepted"].to_numpy().astype(np.int64),
        sure if given else estimated(sure, weights), scaled, not given,
    )  # fmt: skip


_THRESHOLDS: Final = pl.Schema(
    {"run": pl.String, "drafter": pl.String, "gamma": pl.Int64}
    | dict.fromkeys(["confidences", "domain", "task"], pl.String)
    | dict.fromkeys(["threshold", "tau", "rejected", "budget"], pl.Float64)
    | {"rounds": pl.Int64}
)
_RELIABILITY: Final = pl.Schema(
    {"run": pl.String, "drafter": pl.String, "gamma": pl.Int64, "position": pl.Int64, "stage": pl.String}
    | {"predicted": pl.Float64, "observed": pl.Float64, "anchors": pl.Int64}
)
