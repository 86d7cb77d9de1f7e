"""Studies in the database: what the tuner tried, confirmed and found."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from results.store.database import Store, decoded_rows, insert_row, utc_now
from results.store.subjects import STUDY

Row = Mapping[str, Any]
_FOUND = ("confirmations", "sensitivities")


class Studies:
    """The studies of a database."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def create(self, row: Row, profile: Row) -> str:
        """Insert a study, a row of `studies` without id and times, and its profile; returns the study's id."""
        study_id = secrets.token_hex(3)
        with self.store.writing() as connection:
            insert_row(connection, "INSERT OR IGNORE INTO profiles", profile)
            insert_row(connection, "INSERT INTO studies", {"study_id": study_id, "created_at": utc_now(), **row})
        return study_id

    def find(self, name: str) -> dict[str, Any]:
        """The row of `studies`, its JSON decoded, by id, the start of one, or `latest`. Raises InputError."""
        study_id = self.store.find(STUDY, name)
        with self.store.reading() as connection:
            [row] = decoded_rows(connection.execute("SELECT * FROM studies WHERE study_id = ?", [study_id]))
        return row

    def reopen(self, study_id: str, plan: Row) -> None:
        """Go on with a study under a plan that may ask for more trials."""
        with self.store.writing() as connection:
            sql = "UPDATE studies SET plan = ?, finished_at = NULL WHERE study_id = ?"
            connection.execute(sql, [json.dumps(plan), study_id])

    def add_trials(self, study_id: str, load: str, rows: Sequence[Row]) -> None:
        """Insert a batch of trials, whole or not at all."""
        with self.store.writing() as connection:
            _insert(connection, "trials", [{"study_id": study_id, "load": load, **row} for row in rows])

    def trials(self, study_id: str, load: str | None = None) -> list[dict[str, Any]]:
        """Rows of `trials` in the order they were proposed, of one load or of all."""
        return self._of(study_id, "trials", "load, number", load)

    def finish(self, study_id: str, confirmations: Sequence[Row], sensitivities: Sequence[Row]) -> None:
        """Keep what was confirmed and found, in place of what an earlier end of the study found."""
        with self.store.writing() as connection:
            for table, rows in zip(_FOUND, (confirmations, sensitivities), strict=True):
                connection.execute(f"DELETE FROM {table} WHERE study_id = ?", [study_id])
                _insert(connection, table, [{"study_id": study_id, **row} for row in rows])
            connection.execute(
                "UPDATE studies SET finished_at = ?, failure = NULL WHERE study_id = ?", [utc_now(), study_id]
            )

    def confirmations(self, study_id: str) -> list[dict[str, Any]]:
        """Rows of `confirmations`, loads apart, each with its winner first."""
        return self._of(study_id, "confirmations", "load, place")

    def sensitivities(self, study_id: str) -> list[dict[str, Any]]:
        """Rows of `sensitivities`."""
        return self._of(study_id, "sensitivities", "rowid")

    def _of(self, study_id: str, table: str, order: str, load: str | None = None) -> list[dict[str, Any]]:
        where, values = ("", [study_id]) if load is None else (" AND load = ?", [study_id, load])
        with self.store.reading() as connection:
            sql = f"SELECT * EXCLUDE (study_id) FROM {table} WHERE study_id = ?{where} ORDER BY {order}"
            return decoded_rows(connection.execute(sql, values))


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row]) -> None:
    for row in rows:
        insert_row(connection, f"INSERT INTO {table}", row)
