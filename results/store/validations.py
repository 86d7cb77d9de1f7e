"""Validations in the database: live engines beside their simulations."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from results.store.database import Store, decoded_rows, insert_row, utc_now

Row = Mapping[str, Any]


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
