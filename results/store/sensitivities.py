"""Tolerances in the database: how wrong something may be before another configuration would have won."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from results.store.database import Store, decoded_rows, insert_row, utc_now
from results.store.validations import Row


class Sensitivities:
    """The sensitivities of a database's runs, each several rows of `tolerances`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def add(self, rows: Sequence[Row], profile: Row) -> str:
        """Insert what one `harness sensitivity` found, rows without id, time, number and profile, whole; returns its id."""
        common = {
            "tolerance_id": secrets.token_hex(3), "created_at": utc_now(), "profile_hash": profile["profile_hash"],
        }  # fmt: skip
        with self.store.writing() as connection:
            insert_row(connection, "INSERT OR IGNORE INTO profiles", profile)
            for number, row in enumerate(rows):
                insert_row(connection, "INSERT INTO tolerances", {**common, "number": number, **row})
        return str(common["tolerance_id"])

    def rows(self, tolerance_id: str) -> list[dict[str, Any]]:
        """Rows of `tolerances` in their order, JSON decoded, with the name of the profile."""
        sql = """
            SELECT t.*, p.name AS profile FROM tolerances t JOIN profiles p USING (profile_hash)
            WHERE tolerance_id = ? ORDER BY number
        """
        with self.store.reading() as connection:
            return decoded_rows(connection.execute(sql, [tolerance_id]))
