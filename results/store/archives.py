"""A run as a folder of Parquet files, one a table, that any database takes up: its recordings, and what stands on it.

`archive.json` says of which run, schema and version of Specyard the rows are, and the digest of each file. They are taken up
through a database of the archive's own schema, which keeps that schema's rules and is then brought up to date: an archive
lives as long as a database of its day.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final, Literal

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from results.store.commands import typed
from results.store.connection import beside, check_new_folder, connect, first_line, quoted
from results.store.database import Store, utc_now
from results.store.migration import migrate, migrations
from results.store.provenance import package_versions
from results.store.subjects import OF_A_RUN, RUN
from results.store.traces import read_trace
from simulator.errors import InputError
from simulator.records import Recording

MANIFEST: Final = "archive.json"
_ROWS = 100_000
"""Rows that are held at once."""
_LEVEL = 9
"""The level at which zstd compresses."""
_SHARED: Final = ("profiles", "own_policies")
"""Tables whose rows several runs may stand on: what is there already stays."""
Whole = Annotated[int, msgspec.Meta(ge=0)]
Progress = Callable[[str, int, int], None]
"""(what is done, rows done, rows in all)."""


class ArchivedTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of an archive."""

    rows: Whole
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Archive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an archive says of itself."""

    format: Literal["specyard run"]
    schema: Annotated[int, msgspec.Meta(ge=1)]
    """The schema of the database that it was taken out of."""
    specyard: str
    """The version that wrote it."""
    written_at: datetime
    """UTC, as is `created_at`."""
    run_id: str
    created_at: datetime
    """When the run began."""
    tables: dict[str, ArchivedTable]
    """By name; a table without rows has no file."""

    @property
    def rows(self) -> int:
        """Over all tables."""
        return sum(table.rows for table in self.tables.values())


def is_archive(path: Path) -> bool:
    """Whether a path is meant as an archive's: its folder, or a file of it."""
    inside = any((path / name).is_file() for name in (MANIFEST, "runs.parquet"))
    return inside or (path.is_file() and (path.name == MANIFEST or path.suffix == ".parquet"))


def write_archive(store: Store, run_id: str, folder: Path, progress: Progress = lambda what, done, total: None) -> Archive:
    """Write a run and what stands on it as a new folder, whole or not at all.

    Raises InputError for a run that is not finished, and for a folder that is there already or cannot be written.
    """
    check_new_folder(folder, "FOLDER")
    run = store.run(run_id)
    if run["finished_at"] is None:
        resume = typed("harness", "run", "--resume", run_id, out=store.file.parent)
        raise InputError(f"run {run_id}: is not finished; go on with `{resume}`")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(folder, "part")
    try:
        partial.mkdir()
        with store.reading() as con:
            counts = _counts(con, run_id)
            tables = dict[str, ArchivedTable]()
            for name in (name for name, rows in counts.items() if rows):
                done = sum(table.rows for table in tables.values())
                file = partial / f"{name}.parquet"
                for rows in _write(con, name, run_id, file):
                    progress("rows", done + rows, sum(counts.values()))
                tables[name] = ArchivedTable(counts[name], _digest(file))
        version = package_versions()["specyard"]
        made = Archive("specyard run", len(migrations()), version, utc_now(), run_id, run["created_at"], tables)
        (partial / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return made


def _counts(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, int]:
    """Rows of a run and of what stands on it, by table."""
    return {
        name: con.execute(f"SELECT count(*) FROM {name} WHERE {which}", {"run": run_id}).fetchall()[0][0]
        for name, which in OF_A_RUN.items()
    }


def _write(con: duckdb.DuckDBPyConnection, name: str, run_id: str, file: Path) -> Iterator[int]:
    """Write a table's rows of a run, in the order of its columns; yields how many are written so far."""
    rows = con.sql(f"SELECT * FROM {name} WHERE {OF_A_RUN[name]} ORDER BY ALL", params={"run": run_id})
    reader = pa.RecordBatchReader.from_stream(rows)
    schema = reader.schema
    lists = [field.name for field in schema if pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type)]
    written = 0
    with pq.ParquetWriter(
        file, schema, compression="zstd", compression_level=_LEVEL,
        use_dictionary=[field for field in schema.names if field not in lists],
        use_byte_stream_split=[f"{field}.list.element" for field in lists],
    ) as writer:  # fmt: skip
        for batch in reader:
            writer.write_batch(batch)
            written += batch.num_rows
            yield written


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_archive(path: Path) -> tuple[Path, Archive]:
    """An archive's folder and what it says of itself, each file found to be as it was written.

    Raises InputError for what is not so, or was written by a newer Specyard.
    """
    folder = path.parent if path.is_file() else path
    file = folder / MANIFEST
    if not file.exists():
        raise InputError(f"{folder}: has no {MANIFEST}, so it is no archive of `harness export`, or not all of one")
    try:
        raw = msgspec.json.decode(file.read_bytes())
        if isinstance(raw, dict) and isinstance(schema := raw.get("schema"), int) and schema > len(migrations()):
            raise InputError(f"{file}: has schema {schema}, this Specyard knows up to {len(migrations())}; upgrade specyard")
        archive = msgspec.convert(raw, Archive)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file}: is not what `harness export` writes ({first_line(error)})") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    if unknown := sorted(archive.tables.keys() - OF_A_RUN.keys()):
        raise InputError(f"{file}: names a table {unknown[0]!r:.60}, which no run has; get the archive again")
    for name, table in archive.tables.items():
        part = folder / f"{name}.parquet"
        try:
            sound = _digest(part) == table.sha256
        except OSError as error:
            raise InputError(f"{part}: cannot be read ({error.strerror}), and {MANIFEST} names it") from None
        if not sound:
            raise InputError(f"{part}: is not as it was written (its SHA-256 is another); get the archive again")
    return folder, archive


def take_up(store: Store, path: Path, progress: Progress = lambda what, done, total: None) -> tuple[Archive, bool]:
    """Take a run of an archive into a database, whole or not at all; returns whether anything was new.

    A run that is there already stays as it is. Raises InputError for an archive that is not sound, and where another run
    has its id.
    """
    folder, archive = read_archive(path)
    with TemporaryDirectory(prefix="specyard-") as scratch:
        file = Path(scratch) / "archive.duckdb"
        _fill(file, folder, archive, progress)
        _check_replays(Store(file), archive, folder)
        with store.writing() as con:
            con.execute(f"ATTACH '{quoted(file)}' AS archive (READ_ONLY)")
            if con.execute("SELECT run_id FROM runs WHERE run_id = ?", [archive.run_id]).fetchall():
                _check_same(con, archive.run_id, store.file, folder)
                return archive, False
            for name in OF_A_RUN:
                kept = "OR IGNORE " if name in _SHARED else ""
                try:
                    con.execute(f"INSERT {kept}INTO {name} BY NAME SELECT * FROM archive.{name}")
                except duckdb.ConstraintException as error:
                    raise InputError(
                        f"{folder}: {store.file} has some of its {name} already ({first_line(error)})"
                    ) from None
    return archive, True


def _fill(file: Path, folder: Path, archive: Archive, progress: Progress) -> None:
    """A new database of an archive's schema with its rows, brought up to date. Raises InputError for others."""
    con = connect(file, lambda text: None, read_only=False)
    try:
        migrate(con, file, archive.schema)
        done = 0
        for name, table in archive.tables.items():
            part = folder / f"{name}.parquet"
            con.begin()
            try:
                for rows in _insert(con, name, part):
                    progress("rows", done + rows, archive.rows)
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                raise InputError(f"{part}: holds no rows of {name} ({first_line(error)})") from None
            con.commit()
            done += table.rows
        try:
            migrate(con, file)
            counts = _counts(con, archive.run_id)
            [whose] = con.execute("SELECT list(run_id), list(created_at) FROM runs").fetchall()
        except duckdb.Error as error:
            raise InputError(f"{folder}: its rows cannot be brought up to date ({first_line(error)})") from None
        if whose != ([archive.run_id], [archive.created_at]):
            raise InputError(f"{folder / MANIFEST}: is of run {archive.run_id}, and the rows beside it are not")
        for name, table in archive.tables.items():
            if counts[name] != table.rows:
                raise InputError(f"{folder / name}.parquet: holds other rows than {table.rows} of run {archive.run_id}")
    finally:
        con.close()


def _insert(con: duckdb.DuckDBPyConnection, name: str, part: Path) -> Iterator[int]:
    """Insert a file's rows into their table; yields how many so far. Raises InputError for other columns."""
    expected = con.sql(f"SELECT * FROM {name} LIMIT 0").to_arrow_table().schema
    with pq.ParquetFile(part) as parquet:
        found = parquet.schema_arrow
        for column in sorted({*expected.names} ^ {*found.names}):
            told = "lacks" if column in expected.names else "has an unknown"
            raise InputError(f"{part}: {told} column {column!r:.60}")
        rows = 0
        for batch in parquet.iter_batches(_ROWS):
            con.register("incoming", pa.Table.from_batches([batch]))
            con.execute(f"INSERT INTO {name} BY NAME SELECT * FROM incoming")
            con.unregister("incoming")
            rows += batch.num_rows
            yield rows


def _check_replays(taken: Store, archive: Archive, folder: Path) -> None:
    """Raise InputError where a recording is not whole: every trace is read as commands read it."""
    sql = "SELECT drafter, gamma, drafting FROM recordings GROUP BY ALL HAVING sum(anchors) > 0"
    try:
        with taken.reading() as con:
            for drafter, gamma, drafting in con.execute(sql).fetchall():
                read_trace(con, archive.run_id, Recording(drafter, int(gamma), drafting=drafting))
    except (InputError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise InputError(f"{folder}: its recordings do not replay ({first_line(error)})") from None


def _check_same(con: duckdb.DuckDBPyConnection, run_id: str, file: Path, folder: Path) -> None:
    """Raise InputError where a run's own rows, of a database and of the archive beside it, differ."""
    for name in RUN.tables:
        columns = ", ".join(column[0] for column in con.sql(f"SELECT * FROM {name} LIMIT 0").description)
        here = f"SELECT {columns} FROM {name} WHERE run_id = ?"
        there = f"SELECT {columns} FROM archive.{name}"
        sql = f"SELECT count(*) FROM (({here} EXCEPT ALL {there}) UNION ALL ({there} EXCEPT ALL {here}))"
        if con.execute(sql, [run_id, run_id]).fetchall() != [(0,)]:
            raise InputError(
                f"{folder}: {file} has a run {run_id} with other {name}; import it into another --out, or remove that one"
            )
