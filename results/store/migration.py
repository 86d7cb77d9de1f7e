"""The schema's versions: an older database is brought up to date, a copy of it kept; one that cannot be written is read
through a copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from results.store.connection import StoreError, beside, connect, first_line
from simulator.errors import InputError

MIGRATIONS = Path(__file__).parent / "schema"
"""A file of SQL for each version, in order."""


def migrations() -> list[Path]:
    """What makes each version of the schema out of the one before."""
    return sorted(MIGRATIONS.glob("[0-9]*.sql"))


def version_of(connection: duckdb.DuckDBPyConnection, file: Path) -> int:
    """Schema version of a database; 0 for an empty one. Raises InputError for one that is not ours."""
    tables = {r[0] for r in connection.execute("SELECT table_name FROM information_schema.tables").fetchall()}
    if "specyard_schema" not in tables:
        if tables:
            raise InputError(f"{file}: is a DuckDB file, but not one of Specyard's; choose another --out")
        return 0
    # fetchall, here and everywhere: DuckDB refuses the next query while a result is unread.
    [(version,)] = connection.execute("SELECT max(version) FROM specyard_schema").fetchall()
    if version > len(migrations()):
        raise InputError(f"{file}: has schema {version}, this Specyard knows up to {len(migrations())}; upgrade specyard")
    return int(version)


def is_old(version: int) -> bool:
    """Whether a database of this version holds something, and has to be brought up to date."""
    return 0 < version < len(migrations())


def migrate(connection: duckdb.DuckDBPyConnection, file: Path, up_to: int | None = None) -> None:
    """Bring the schema of an open database up to date, or to a version, step by step, each whole or not at all."""
    for number, sql in list(enumerate(migrations(), 1))[version_of(connection, file) : up_to]:
        connection.begin()
        if number == 1:
            connection.execute("CREATE TABLE specyard_schema (version INTEGER PRIMARY KEY, applied_at TIMESTAMP NOT NULL)")
        connection.execute(sql.read_text(encoding="utf-8"))
        now = datetime.now(UTC).replace(tzinfo=None)
        connection.execute("INSERT INTO specyard_schema VALUES (?, ?)", [number, now])
        connection.commit()


def bring_up_to_date(file: Path, say: Callable[[str], None]) -> None:
    """Migrate an older database, and keep a copy of it as it was beside it; both are said. Raises StoreError."""
    while True:
        connection = connect(file, say, read_only=False)  # writes what a log beside it still holds, so that it is one file
        version = version_of(connection, file)
        connection.close()
        if not is_old(version):
            return
        state = _state(file)
        kept = _copied(file, version)
        connection = connect(file, say, read_only=False)
        try:
            if _state(file) != state:  # another process wrote meanwhile: the copy may be of two minds
                kept.unlink(missing_ok=True)
                continue
            say(
                f"{file}: was made by an older Specyard (schema {version}); it is brought up to date to schema "
                f"{len(migrations())}, and stays as it was in {kept.name}"
            )
            migrate(connection, file)
        except duckdb.Error as error:
            raise StoreError(
                f"{file}: could not be brought up to date ({first_line(error)}); as it was, it is in {kept.name}"
            ) from error
        finally:
            connection.close()
        return


def migrated_copy(file: Path, folder: Path, say: Callable[[str], None]) -> Path:
    """A copy of an older database in a folder, brought up to date. Raises StoreError where there is no room for it."""
    copy = folder / file.name
    try:
        shutil.copyfile(file, copy)
        if (log := Path(f"{file}.wal")).exists():
            shutil.copyfile(log, folder / log.name)
    except OSError as error:
        raise StoreError(f"{file}: is of an older schema, and no copy can be made in {folder} ({error.strerror})") from None
    connection = connect(copy, say, read_only=False)
    try:
        version = version_of(connection, file)
        say(
            f"{file}: was made by an older Specyard (schema {version}) and cannot be written; it is read through a "
            f"temporary copy, brought up to date"
        )
        migrate(connection, copy)
    finally:
        connection.close()
    return copy


def _copied(file: Path, version: int) -> Path:
    """A copy of a file beside it, named after its schema, whole or not at all."""
    kept = file.with_name(f"{file.stem}.schema-{version}{file.suffix}")
    number = 1
    while kept.exists():
        number += 1
        kept = file.with_name(f"{file.stem}.schema-{version}-{number}{file.suffix}")
    partial = beside(file, "schema")
    try:
        shutil.copyfile(file, partial)
        os.replace(partial, kept)
    except OSError as error:
        raise StoreError(
            f"{file}: is of an older schema, and there is no place beside it to keep a copy ({error.strerror}); make room"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return kept


def _state(file: Path) -> tuple[int, int, bool]:
    """What changes when somebody writes."""
    found = file.stat()
    return found.st_mtime_ns, found.st_size, Path(f"{file}.wal").exists()
