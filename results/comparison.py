"""What changed between two runs, by task: with intervals, and with verdicts that many comparisons at once do not spoil."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import duckdb
import numpy as np
import polars as pl
from scipy.stats import t as student_t

from results.figures import sweep as sweep_figure
from results.figures.intervals import RESAMPLES, Floats, divide
from results.figures.speed import speed
from results.figures.style import in_order
from results.store.queries import query
from results.store.runs import TARGET_FILES, Provenance, provenance

Quantity = Literal["accepted length", "speed against none", "throughput"]
Verdict = Literal["better", "worse", "no clear change", "same", "only in the first", "only in the second"]

_BATCHES: Final = 38
"""Degrees of freedom of the noise of two simulations, 20 batches each."""

SURE: Final = 0.05
"""Chance that any verdict of a comparison is wrong where nothing changed (Holm, Scand. J. Statistics 6, 1979)."""

GREEDY: Final = " (greedy drafts)"
"""After a drafter's name where its drafts were greedy: the two ways are compared apart."""


@dataclass(frozen=True, slots=True)
class _Values:
    """One quantity in two runs."""

    quantity: Quantity
    drafter: str
    gamma: int
    where: str
    """Task, domain mean, or policy and load; empty for speed."""
    first: float | None
    second: float | None


@dataclass(frozen=True, slots=True)
class Change(_Values):
    """And what to think of it."""

    change: float | None
    """Share: .02 is 2 % more in the second."""
    low: float | None
    """Of the change's 95 % interval."""
    high: float | None
    paired: bool
    """Whether both saw the same prompts, or the same draws."""
    verdict: Verdict

    def regressed(self, tolerance: float) -> bool:
        """Whether it got worse, clearly and by more than a share, or is gone."""
        if self.verdict == "only in the first":
            return True
        return self.verdict == "worse" and self.change is not None and self.change < -tolerance


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs side by side."""

    first: str
    second: str
    differences: tuple[str, ...]
    """What else differs: settings, checkpoints, versions, machines."""
    changes: tuple[Change, ...]

    def regressions(self, tolerance: float) -> list[Change]:
        """What got worse, clearly and by more than a share."""
        return [change for change in self.changes if change.regressed(tolerance)]


def compare(con: duckdb.DuckDBPyConnection, first: str, second: str) -> Comparison:
    """Every quantity that either run has. Raises LookupError for an unknown run."""
    runs = provenance(con, first), provenance(con, second)
    found = [*_lengths(con, first, second), *_speeds(con, first, second), *_throughputs(con, first, second)]
    return Comparison(first, second, tuple(_differences(*runs)), tuple(_judged(found)))


def share(text: str) -> float:
    """A share as users write it: 2% or 0.02. Raises ValueError."""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= value < 1:
        raise ValueError("must be from 0 to 100 %")
    return value


@dataclass(frozen=True, slots=True)
class _Raw(_Values):
    """Before it is judged."""

    error: float
    """Standard error of log(second/first); nan if unknown."""
    freedom: float
    """Degrees of it: one less than prompts, or than what else was drawn."""
    paired: bool


def _judged(found: Sequence[_Raw]) -> list[Change]:
    """Verdicts by Holm's procedure over everything that can be judged; intervals are each one's own."""
    chances = [_chance(raw) for raw in found]
    order = sorted((i for i, p in enumerate(chances) if p is not None), key=lambda i: chances[i] or 0.0)
    clear: set[int] = set()
    for rank, i in enumerate(order):
        if (chances[i] or 0.0) > SURE / (len(order) - rank):
            break
        clear.add(i)
    return [_change(raw, i in clear) for i, raw in enumerate(found)]


def _chance(raw: _Raw) -> float | None:
    """Two-sided p-value of no change; None where it cannot be told."""
    if not raw.first or not raw.second or math.isnan(raw.error):
        return None
    z = abs(math.log(raw.second / raw.first))
    return 2 * float(student_t.sf(z / raw.error, raw.freedom)) if raw.error > 0 else float(z == 0)


def _change(raw: _Raw, clear: bool) -> Change:
    change = low = high = None
    verdict: Verdict = "no clear change"
    if raw.first is None or raw.second is None:
        verdict = "only in the second" if raw.first is None else "only in the first"
    elif raw.first == raw.second:
        change, verdict = 0.0, "same"
    elif raw.first:
        change = raw.second / raw.first - 1
        if not math.isnan(raw.error):
            width = float(student_t.ppf(0.975, raw.freedom)) * raw.error
            low, high = ((1 + change) * math.exp(sign * width) - 1 for sign in (-1, 1))
        verdict = ("better" if change > 0 else "worse") if clear else verdict
    return Change(
        raw.quantity, raw.drafter, raw.gamma, raw.where, raw.first, raw.second, change, low, high, raw.paired, verdict
    )


# --- accepted length ------------------------------------------------------------------------------------------------------


def _lengths(con: duckdb.DuckDBPyConnection, first: str, second: str) -> list[_Raw]:
    """τ by task, and the mean of the tasks of a domain that both have; paired where prompts are the same."""
    sums = [_prompt_sums(con, run) for run in (first, second)]
    keys = {key for each in sums for key in each}
    places = {domain: place for place, domain in enumerate(in_order(key[2] for key in keys))}
    rng = np.random.default_rng(0)
    found: list[_Raw] = []
    groups: dict[tuple[str, int, str], list[_Task]] = {}
    for drafter, gamma, domain, task in sorted(keys, key=lambda key: (key[0], -key[1], places[key[2]], key[3])):
        one, other = (each.get((drafter, gamma, domain, task)) for each in sums)
        if one is None or other is None:
            before, after = (None if each is None else _tau(each) for each in (one, other))
            found.append(_Raw("accepted length", drafter, gamma, task, before, after, math.nan, 1, False))
            continue
        draws, paired = _draws(one, other, rng)
        prompts = min(len(one), len(other))
        before, after = _tau(one), _tau(other)
        error = _error(*draws)
        found.append(_Raw("accepted length", drafter, gamma, task, before, after, error, max(prompts - 1, 1), paired))
        if before is not None and after is not None:
            groups.setdefault((drafter, gamma, domain), []).append(_Task(*draws, before, after, prompts, paired))
    for (drafter, gamma, domain), parts in groups.items():
        if len(parts) > 1:
            before, after = (float(np.mean(values)) for values in zip(*((p.before, p.after) for p in parts), strict=True))
            error = _error(np.mean([p.first for p in parts], axis=0), np.mean([p.second for p in parts], axis=0))
            freedom, paired = max(sum(p.prompts - 1 for p in parts), 1), all(p.paired for p in parts)
            where = f"{domain} mean"
            found.append(_Raw("accepted length", drafter, gamma, where, before, after, error, freedom, paired))
    return found


class _Task(NamedTuple):
    """Draws of τ in both runs, and what they are draws of."""

    first: Floats
    second: Floats
    before: float
    after: float
    prompts: int
    paired: bool


_Sums = dict[str, tuple[int, int]]
"""Prompt → committed, rounds."""


def _prompt_sums(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[tuple[str, int, str, str], _Sums]:
    rows = query(
        con,
        """
        SELECT s.drafter || CASE WHEN s.drafting = 'greedy' THEN $greedy ELSE '' END, s.gamma, s.domain, s.task,
               s.prompt_id, coalesce(sum(r.committed), 0)::BIGINT, count(r.round)
        FROM recorded_responses s LEFT JOIN rounds r USING (run_id, drafter, gamma, drafting, prompt_id, turn)
        WHERE s.run_id = $run AND s.gamma > 0 GROUP BY ALL ORDER BY ALL
        """,
        run_id,
        greedy=GREEDY,
    )
    found: dict[tuple[str, int, str, str], _Sums] = {}
    for drafter, gamma, domain, task, prompt, committed, rounds in rows.rows():
        found.setdefault((drafter, gamma, domain, task), {})[prompt] = (committed, rounds)
    return found


def _tau(sums: _Sums) -> float | None:
    committed, rounds = (sum(pair[i] for pair in sums.values()) for i in (0, 1))
    return committed / rounds if rounds else None


def _draws(one: _Sums, other: _Sums, rng: np.random.Generator) -> tuple[tuple[Floats, Floats], bool]:
    """Bootstrap draws of both τ; the same prompts are drawn for both where both have the same.

    Draws of n prompts spread less than samples do, by √(1 − 1/n); they are stretched by as much around their mean.
    """
    paired = set(one) == set(other)
    counts = _counts(len(one), rng)
    other_counts = counts if paired else _counts(len(other), rng)
    drawn = []
    for sums, weights in ((one, counts), (other, other_counts)):
        values = np.array([sums[prompt] for prompt in sorted(sums)], np.float64)
        draws = divide(weights @ values[:, 0], weights @ values[:, 1])
        if len(sums) > 1:
            draws = np.nanmean(draws) + (draws - np.nanmean(draws)) * math.sqrt(len(sums) / (len(sums) - 1))
        drawn.append(draws)
    return (drawn[0], drawn[1]), paired


def _counts(n: int, rng: np.random.Generator) -> Floats:
    """How often each of n prompts is drawn; never, with fewer than two: there is no telling."""
    return rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64) if n > 1 else np.zeros((RESAMPLES, n))


def _error(first: Floats, second: Floats) -> float:
    """Standard error of the logarithm of the ratio of two sets of draws."""
    ratio = divide(second, first)
    ratio = ratio[~np.isnan(ratio) & (ratio > 0)]
    return float(np.log(ratio).std(ddof=1)) if len(ratio) > RESAMPLES / 2 else math.nan


# --- speed and throughput -------------------------------------------------------------------------------------------------


def _speeds(con: duckdb.DuckDBPyConnection, first: str, second: str) -> list[_Raw]:
    """Speed against none, which is comparable between machines as far as anything is; independent bootstraps."""
    tables = [
        {
            (row["drafter"] + (GREEDY if row["drafting"] == "greedy" else ""), row["gamma"]): row
            for row in speed(con, run).to_dicts()
            if row["drafter"] != "none"
        }
        for run in (first, second)
    ]
    if not all(tables):
        return []
    found = []
    for drafter, gamma in sorted(dict.fromkeys([*tables[0], *tables[1]])):
        rows = [table.get((drafter, gamma)) for table in tables]
        values = [None if row is None else row["speedup"] for row in rows]
        if any(v is not None for v in values):
            error = math.hypot(*(_log_error(row) for row in rows))
            freedom = min((min(r["prompts"], r["samples"]) for r in rows if r is not None), default=1) - 1
            raw = _Raw("speed against none", drafter, gamma, "", values[0], values[1], error, max(freedom, 1), False)
            found.append(raw)
    return found


def _log_error(row: Mapping[str, Any] | None) -> float:
    if row is None or not row["low"] or not row["high"]:
        return math.nan
    return float(math.log(row["high"] / row["low"]) / 2 / 1.96)


def _throughputs(con: duckdb.DuckDBPyConnection, first: str, second: str) -> list[_Raw]:
    """Simulated throughput at equal policy and load, of each run's latest sweep, if hardware and drafts are the same."""
    sweeps = [sweep_figure.find_sweep(con, [run]) for run in (first, second)]
    if sweeps[0] is None or sweeps[1] is None:
        return []
    one, other = (sweep_figure.sweep(con, sweep) for sweep in sweeps if sweep is not None)
    if one.profile != other.profile or one.drafting != other.drafting:
        return []
    key = ("drafter", "gamma", "policy", "load")
    tables = [_points(sweep_figure.simulated(con, sweep), key) for sweep in sweeps if sweep is not None]
    found = []
    for drafter, gamma, policy, load in [point for point in tables[0] if point in tables[1]]:
        pair = [table[drafter, gamma, policy, load] for table in tables]
        error = math.hypot(*(_half(row) / row["throughput"] / 1.96 for row in pair))
        values = pair[0]["throughput"], pair[1]["throughput"]
        found.append(_Raw("throughput", drafter, gamma, f"{policy} at {load}", *values, error, _BATCHES, False))
    return found


def _points(frame: pl.DataFrame, key: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = frame.filter(pl.col("throughput") > 0).to_dicts()
    return {tuple(row[name] for name in key): row for row in rows}


def _half(row: Mapping[str, Any]) -> float:
    half = row["throughput_half_width"]
    return math.nan if half is None else float(half)


def _differences(first: Provenance, second: Provenance) -> list[str]:
    """What else differs between two runs, in words."""
    plain = ("suite", "suite_version", "suite_hash", "prompt_source", "pair", "target", "seed", "git_revision")
    found = [
        f"{name.replace('_', ' ')}: {getattr(first, name)} → {getattr(second, name)}"
        for name in plain
        if getattr(first, name) != getattr(second, name)
    ]
    for name, one, other in (
        ("sampling", first.sampling, second.sampling),
        ("version of", first.packages, second.packages),
        ("machine", first.host, second.host),
    ):
        keys = dict.fromkeys([*one, *other])
        found += [f"{name} {key}: {one.get(key)} → {other.get(key)}" for key in keys if one.get(key) != other.get(key)]
    files = first.target_files, second.target_files
    both = [name for name in TARGET_FILES if name in files[0] and name in files[1]]
    changed = [TARGET_FILES[name] for name in both if files[0][name] != files[1][name]]
    if changed:
        found.append(f"the target is not the same: {', '.join(changed)}; changes may be the target's, not the drafters'")
    if files[0].keys() != files[1].keys():
        found.append("an older run does not know its tokenizer, chat template and end tokens: they may not be the same")
    hashes = [{d.name: d.checkpoint_hash for d in run.drafters} for run in (first, second)]
    both = [name for name in hashes[0] if name in hashes[1]]
    found += [f"checkpoint of {name} differs" for name in both if hashes[0][name] != hashes[1][name]]
    return found
