"""Runs in the database: what is known when one starts, where its numbers come from, and what of it is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Any, Final

import duckdb
import polars as pl

from results.store.queries import query
from simulator.drafter_kinds import kind_of
from simulator.records import Drafting, KeptDrafting


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One row of `runs`, as known when the run starts."""

    command: str
    suite: str
    suite_version: int
    suite_hash: str
    prompt_source: str
    pair: str
    target: dict[str, Any]
    """source, hash, dtype, device."""
    drafters: dict[str, dict[str, Any]]
    """Name → kind, gamma, checkpoint, checkpoint_hash."""
    sampling: dict[str, Any]
    seed: int
    plan: dict[str, Any]
    """All that `--resume` needs to repeat the same work."""
    git_revision: str | None
    packages: dict[str, str]
    host: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SpeedSample:
    """One timed response of the live pass."""

    drafter: str
    gamma: int
    sample: int
    prompt_id: str
    batch: int
    tokens: int
    """Tokens committed in rounds; the prefill's token is not counted."""
    seconds: float
    """Wall-clock of those rounds."""
    drafting: KeptDrafting = "sampled"


@dataclass(frozen=True, slots=True)
class DeclaredDrafter:
    """A drafter as the run declared it."""

    name: str
    kind: str
    """Mechanism: one of `simulator.drafter_kinds`."""
    gamma: int
    """Drafted block size, tokens; 0 for 'none'."""
    checkpoint: str | None
    checkpoint_hash: str | None
    read_as: str = ""
    """The published format that it was read from and how, in a line; empty where that is not known."""
    prompts_seen: int = 0
    """Prompts of the run that it was trained on, as far as its checkpoint tells."""


def drafts_of(run: Mapping[str, Any], drafting: str) -> str:
    """How the drafts of a run, of which `run` is the row, were chosen, for a title; empty where nothing hangs on it: at
    temperature 0, and of averages, of whose temperature nobody knows."""
    return f"{drafting} drafts" if run["sampling"].get("temperature") else ""


def read_as(drafter: Mapping[str, Any]) -> str:
    """The published format that a run's drafter was read from, with which conventions; empty where that is not known."""
    told = "; ".join(f"{name} {value}" for name, value in (drafter.get("conventions") or {}).items())
    return f"read as {drafter['format']}: {told}" if drafter.get("format") else ""


def asked_with(target: Mapping[str, Any]) -> str:
    """What a run's target was asked with in place of its own chat template, in words; empty where with its own."""
    given = target.get("chat_template")
    if not given:
        return ""
    own = f"a chat template in place of its own, sha256 {hashlib.sha256(given.encode()).hexdigest()[:8]}"
    return f"the target is asked with {'the bare text, no chat template' if given == 'plain' else own}"


def kinds_of(run: Mapping[str, Any]) -> dict[str, str]:
    """Kinds of a run's drafters, by their names; `run` is its row."""
    return {name: kind_of(name, drafter) for name, drafter in run["drafters"].items()}


def kinds_in(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, str]:
    """The same of a run by its id."""
    rows = con.execute("SELECT drafters FROM runs WHERE run_id = ?", [run_id]).fetchall()
    return kinds_of({"drafters": json.loads(rows[0][0])}) if rows else {}


TARGET_FILES: Final = {
    "hash": "weights",
    "tokenizer_hash": "tokenizer or chat template",
    "generation_hash": "generation settings",
    "end_tokens": "end tokens",
    "dtype": "numeric type",
}
"""Fields of a run's target that decide its answers, in words."""


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
    """'bundled', 'suite' (of one's own), 'data-dir', 'hub', 'synthesised' or 'served'."""
    pair: str
    target: str
    """The model that answers, as the pair names it."""
    config: str
    """The config.json that it was read from, as typed; empty where there was none."""
    asked_with: str
    """What it was asked with in place of its own chat template, in words; empty where with its own."""
    target_files: Mapping[str, Any]
    """What decides its answers, as far as the run knows: hashes of its files, end tokens, numeric type."""
    sources: tuple[str, ...]
    """What a synthesised run was fitted to, and what was assumed beside; empty for a recorded one."""
    averaged: bool
    """Whether its answers were made with averages of what was served, for want of requests told apart."""
    drafters: tuple[DeclaredDrafter, ...]
    sampling: Mapping[str, Any]
    seed: int
    git_revision: str | None
    packages: Mapping[str, str]
    """Distribution → version."""
    host: Mapping[str, Any]
    prompts: int
    """Distinct prompts answered at least once."""
    responses: int
    """Turns of prompts that were answered, however many drafters were recorded on each."""
    rounds: int
    replayed: int
    """Rounds that were replayed from a dense record, not decoded live."""
    speed_samples: int

    @property
    def target_name(self) -> str:
        """The target for whom folders of this machine mean nothing: of one, its last part."""
        return PurePath(self.target).name if self.target.startswith(("/", ".", "~")) else self.target


def provenance(con: duckdb.DuckDBPyConnection, run_id: str) -> Provenance:
    """The run's row with its JSON opened, and counts of what was recorded. Raises LookupError for an unknown run."""
    runs = query(con, "SELECT * FROM runs WHERE run_id = $run", run_id)
    if runs.is_empty():
        raise LookupError(f"no run {run_id!r} in this database")
    run = runs.row(0, named=True)
    counts = query(
        con,
        """
        SELECT (SELECT count(DISTINCT prompt_id) FROM responses WHERE run_id = $run) AS prompts,
               (SELECT count(DISTINCT (prompt_id, turn)) FROM recorded_responses WHERE run_id = $run) AS responses,
               (SELECT count(*) FROM rounds WHERE run_id = $run) AS rounds,
               (SELECT count(*) FROM rounds JOIN recordings USING (run_id, drafter, gamma, drafting, prompt_id, turn)
                WHERE run_id = $run) AS replayed,
               (SELECT count(*) FROM speed_samples WHERE run_id = $run) AS speed_samples
        """,
        run_id,
    ).row(0, named=True)
    drafters = tuple(
        DeclaredDrafter(
            name=name,
            kind=kind_of(name, settings),
            gamma=settings.get("gamma", 0),
            checkpoint=settings.get("checkpoint"),
            checkpoint_hash=settings.get("checkpoint_hash"),
            prompts_seen=int(settings.get("training", {}).get("prompts_seen", 0)),
            read_as=read_as(settings),
        )
        for name, settings in json.loads(run["drafters"]).items()
    )
    target = json.loads(run["target"])
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
        target=str(target.get("source", "")),
        config=str(target.get("config") or ""),
        asked_with=asked_with(target),
        target_files={name: target[name] for name in TARGET_FILES if target.get(name) is not None},
        sources=tuple(line for name in ("sources", "assumptions") for line in json.loads(run["plan"]).get(name, ())),
        averaged=bool(json.loads(run["plan"]).get("averaged")),
        drafters=drafters,
        sampling=json.loads(run["sampling"]),
        seed=run["seed"],
        git_revision=run["git_revision"],
        packages=json.loads(run["packages"]),
        host=json.loads(run["host"]),
        **counts,
    )


def drafting_of(con: duckdb.DuckDBPyConnection, run_id: str) -> Drafting:
    """How drafts were chosen in what tables and figures show of a run: sampled, as in the paper, unless all are greedy."""
    sql = "SELECT bool_or(drafting = 'sampled'), bool_or(drafting = 'greedy') FROM recorded_responses WHERE run_id = ?"
    [(sampled, greedy)] = con.execute(sql, [run_id]).fetchall()
    return "greedy" if greedy and not sampled else "sampled"


def missing_responses(con: duckdb.DuckDBPyConnection, run_id: str) -> pl.DataFrame:
    """Responses that other drafters of the run gave and this one did not: an interrupted run, or a failed drafter.

    Columns: drafter, domain, task, responses, expected (distinct prompts and turns that any drafter answered). Only
    incomplete rows; a declared drafter without a single response has one for every task.
    """
    return query(
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
