"""Validations in the database: live engines beside their simulations, read as values."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import duckdb

from results.store.database import Store, decoded_rows, insert_row, utc_now
from results.store.queries import Origin, first_row, origin
from results.store.runs import kinds_in
from simulator.configuration import System
from simulator.records import Drafting

Row = Mapping[str, Any]
Values = Mapping[str, float | None]
"""By quantity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPoint:
    """A system under so many users: what a live engine measured, and what was simulated."""

    system: System
    users: int
    requests: int
    """Answered live."""
    measured: Values
    simulated: Values
    low: Values
    """95 % of replicates, prompts redrawn, lie from here to `high`."""
    high: Values
    same_prompts: Values
    """Simulated from the live prompts' own traces."""
    step_errors: Values
    """Predicted over measured seconds of the steps that ran, less 1, by part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation(Origin):
    """A validation; its profile is what was simulated with."""

    validation_id: str
    engine: str
    believed: str
    """The profile that schedulers decided by, live and simulated."""
    live_prompts: int
    trace_prompts: int
    """Simulated from: others."""
    drafting: Drafting
    """How drafts were chosen, live and simulated."""
    seconds: float
    """Seconds by the clocks of all live engines, added up."""
    points: tuple[ValidationPoint, ...]


def read_validation(con: duckdb.DuckDBPyConnection, validation_id: str) -> Validation:
    """A validation. Raises LookupError for one that is not there, and InputError for a policy unknown here."""
    sql = """
        SELECT v.*, p.profile, b.name AS believed FROM validations v JOIN profiles p USING (profile_hash)
        LEFT JOIN profiles b ON b.profile_hash = v.believed_hash WHERE validation_id = ? ORDER BY point
    """
    first = first_row(con, sql, validation_id)
    if first is None:
        raise LookupError(f"no validation {validation_id!r} in this database")
    rows, kinds = decoded_rows(con.execute(sql, [validation_id])), kinds_in(con, first["run_id"])

    return Validation(
        validation_id=validation_id, **origin(first), engine=first["engine"], believed=first["believed"] or "unknown",
        live_prompts=len(first["live_prompts"]), trace_prompts=len(first["trace_prompts"]), drafting=first["drafting"],
        seconds=sum(row["seconds"] for row in rows),
        points=tuple(
            ValidationPoint(system=System.read(row, kinds), **{f.name: row[f.name] for f in fields(ValidationPoint)[1:]})
            for row in rows
        ),
    )  # fmt: skip


class Validations:
    """The validations of a database."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def add(self, rows: Sequence[Row], profile: Row, believed: Row) -> str:
        """Insert a validation, rows of `validations` without id, time, number and profiles, whole; returns its id."""
        found = {"validation_id": secrets.token_hex(3), "created_at": utc_now()}
        found |= {"profile_hash": profile["profile_hash"], "believed_hash": believed["profile_hash"]}
        with self.store.writing() as connection:
            for each in (profile, believed):
                insert_row(connection, "INSERT OR IGNORE INTO profiles", each)
            for number, row in enumerate(rows):
                insert_row(connection, "INSERT INTO validations", {**found, "point": number, **row})
        return str(found["validation_id"])

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Rows of `validations` by id, the start of one, or `latest`, JSON decoded. Raises InputError."""
        found = self.store.named(
            "validation", "(SELECT DISTINCT validation_id, created_at FROM validations)", "validation_id", name
        )
        sql = """
            SELECT v.*, p.name AS profile, b.name AS believed FROM validations v
            JOIN profiles p USING (profile_hash) JOIN profiles b ON b.profile_hash = v.believed_hash
            WHERE validation_id = ? ORDER BY point
        """
        with self.store.reading() as connection:
            return decoded_rows(connection.execute(sql, [found["validation_id"]]))
