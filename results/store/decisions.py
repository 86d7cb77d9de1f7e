"""Decisions in the database: what a study or a sweep says to run."""

from __future__ import annotations

import duckdb
import msgspec

from results.store.database import Store, insert_row
from results.store.queries import has_table
from simulator.decision import Decision


def keep_decision(store: Store, subject: str, decision: Decision) -> None:
    """Keep what a study or a sweep, `subject` its id, says to run at a load, in place of what it said before."""
    row = {"subject": subject, "load": decision.load, "decision": msgspec.to_builtins(decision)}
    with store.writing() as connection:
        insert_row(connection, "INSERT OR REPLACE INTO decisions", row)


def decisions(con: duckdb.DuckDBPyConnection, subject: str) -> dict[str, Decision]:
    """What a study or a sweep says to run, by load; nothing of those that were made before decisions were kept."""
    if not has_table(con, "decisions"):
        return {}
    rows = con.execute("SELECT load, decision FROM decisions WHERE subject = ?", [subject]).fetchall()
    return {load: msgspec.json.decode(decision, type=Decision) for load, decision in rows}
