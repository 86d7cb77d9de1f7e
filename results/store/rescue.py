"""A damaged database: what of it can still be read, in a new file beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa

from results.store.connection import StoreError, connect, first_line
from results.store.database import Store
from results.store.migration import is_old, migrate, version_of
from simulator.errors import InputError

_PART = 2048
"""Rows that are read together where a table cannot be read whole: DuckDB's vectors."""


@dataclass(frozen=True, slots=True)
class Rescued:
    """What came out of a table."""

    table: str
    rows: int
    lost: int
    """Rows that could not be read."""


def rescue(file: Path, into: Path, say: Callable[[str], None]) -> list[Rescued]:
    """Copy what can be read of a database into a new one, and leave the first as it is; returns what came of each table.

    Raises InputError where the new file is there already, and StoreError where nothing can be read.
    """
    if not file.exists():
        raise InputError(f"{file}: no such database")
    if into.exists():
        raise InputError(f"{into}: is there already; move it away, or give another --to")
    with TemporaryDirectory(prefix="specyard-", dir=into.parent if into.parent.is_dir() else None) as folder:
        copy = Path(folder) / file.name
        try:
            shutil.copyfile(file, copy)  # without the log beside it, which may be what keeps it from being opened
            if (log := Path(f"{file}.wal")).exists():
                shutil.copyfile(log, Path(f"{copy}.wal"))
        except OSError as error:
            raise StoreError(f"{into.parent}: no copy can be made there ({error.strerror})") from None
        source = _opened(file, copy, say)
        try:
            return _copied(source, file, into, say)
        finally:
            source.close()


def _opened(file: Path, copy: Path, say: Callable[[str], None]) -> duckdb.DuckDBPyConnection:
    """The copy, without its log where that does not fit, and brought up to date."""
    log = Path(f"{copy}.wal")
    try:
        connection = connect(copy, say, read_only=False)
    except StoreError:
        if not log.exists():
            raise StoreError(f"{file}: nothing of it can be read, not even what it holds; go back to a copy of it") from None
        log.unlink()
        say(f"{file}.wal: does not fit, and is left out")
        return _opened(file, copy, say)
    try:
        if is_old(version_of(connection, file)):
            migrate(connection, copy)
    except duckdb.Error as error:
        connection.close()
        raise StoreError(f"{file}: is damaged and of an older schema, and cannot be read ({first_line(error)})") from None
    return connection


def _copied(source: duckdb.DuckDBPyConnection, file: Path, into: Path, say: Callable[[str], None]) -> list[Rescued]:
    """Each table's rows in the new file, which is removed again where there are none at all.

    Where rows are lost, recordings that are not whole any more are left out, and no run is the latest by itself.
    """
    with Store(into, say).writing() as target:
        sql = "SELECT table_name FROM duckdb_tables() WHERE NOT internal AND table_name != 'specyard_schema' ORDER BY ALL"
        names = [name for (name,) in source.execute(sql).fetchall() if name != "leases"]
        found = [_table(source, target, name) for name in names]
        if any(each.lost for each in found):
            _leave_out_torn(target)
    if not any(each.rows for each in found):
        into.unlink()
        raise StoreError(f"{file}: no row of it can be read; go back to a copy of it")
    return found


def _leave_out_torn(target: duckdb.DuckDBPyConnection) -> None:
    """Remove recordings without all their anchors or their response, and anchors without a recording; mark the runs."""
    key = "(run_id, drafter, gamma, drafting, prompt_id, turn)"
    columns = key.strip("()")
    target.execute(f"""
        DELETE FROM recordings WHERE {key} NOT IN (
            SELECT {key} FROM (SELECT {columns}, anchors FROM recordings) d
            JOIN (SELECT {columns}, count(*) AS found FROM anchors GROUP BY ALL) a USING {key}
            JOIN (SELECT run_id, prompt_id, turn FROM responses WHERE drafter = 'none') r USING (run_id, prompt_id, turn)
            WHERE d.anchors = a.found
        ) AND anchors > 0
    """)
    target.execute(f"DELETE FROM anchors WHERE {key} NOT IN (SELECT {key} FROM recordings)")
    target.execute("UPDATE runs SET failure = 'rows were lost where its database was damaged'")


def _table(source: duckdb.DuckDBPyConnection, target: duckdb.DuckDBPyConnection, name: str) -> Rescued:
    """One table, whole, or part by part what reads of it."""
    [(count, last)] = source.execute(f"SELECT count(*), coalesce(max(rowid), -1) FROM {name}").fetchall()
    found = [_read(source, name, 0, last + 1)]
    if found == [None]:
        found = [_read(source, name, first, first + _PART) for first in range(0, last + 1, _PART)]
    rows = 0
    for part in found:
        if part is not None:
            target.register("incoming", part)
            target.execute(f"INSERT INTO {name} BY NAME SELECT * FROM incoming")
            target.unregister("incoming")
            rows += part.num_rows
    return Rescued(name, rows, count - rows)


def _read(source: duckdb.DuckDBPyConnection, name: str, first: int, end: int) -> pa.Table | None:
    """Rows of a table by number, from `first` to before `end`; None where they cannot be read."""
    try:
        return source.sql(f"SELECT * FROM {name} WHERE rowid >= ? AND rowid < ?", params=[first, end]).to_arrow_table()
    except duckdb.Error:
        return None
