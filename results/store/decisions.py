"""Decisions in the database: what a study or a sweep says to run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import duckdb

from results.store.database import Store, insert_row
from results.store.queries import has_table
from results.store.runs import read_as
from simulator.decision import Decision
from simulator.load import Load
from simulator.serving.command import Models, ServedWith


def keep_decision(store: Store, subject: str, decision: Decision) -> None:
    """Keep what a study or a sweep, `subject` its id, says to run at a load, in place of what it said before."""
    with store.writing() as connection:
        insert_decision(connection, subject, decision)


def insert_decision(connection: duckdb.DuckDBPyConnection, subject: str, decision: Decision) -> None:
    """The same in somebody's transaction."""
    row = {"subject": subject, "load": str(decision.load), "decision": decision.row()}
    insert_row(connection, "INSERT OR REPLACE INTO decisions", row)


def models_of(run: Mapping[str, Any]) -> Models:
    """The models of a run, of which `run` is the row, as a command names them."""
    target = run["target"]
    made = run.get("pair") if target.get("synthesised") else None  # stands for a checkpoint that nobody names
    named = {name: drafter.get("checkpoint") for name, drafter in run["drafters"].items()}
    return Models(
        target=str(target.get("source") or ""), named_after=str(target.get("named_after") or ""),
        checkpoints={name: str(source) for name, source in named.items() if source not in (None, "", "none", made)},
        temperature=run["sampling"].get("temperature"),
        formats={name: told for name, drafter in run["drafters"].items() if (told := read_as(drafter))},
        served={name: ServedWith(**told) for name, one in run["drafters"].items() if (told := one.get("served_with"))},
    )  # fmt: skip


def decisions(con: duckdb.DuckDBPyConnection, subject: str) -> dict[Load, Decision]:
    """What a study or a sweep says to run, by load; nothing of those that were made before decisions were kept."""
    if not has_table(con, "decisions"):
        return {}
    rows = con.execute("SELECT decision FROM decisions WHERE subject = ?", [subject]).fetchall()
    return {decision.load: decision for decision in (Decision.read(json.loads(row)) for (row,) in rows)}
