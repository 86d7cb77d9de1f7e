"""The DuckDB file: one writer that opens it per transaction, a versioned schema, readable by anything that reads DuckDB."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import duckdb
import numpy as np
import pyarrow as pa

from results.store import traces
from results.store.runs import RunInfo, SpeedSample
from simulator.errors import InputError
from simulator.records import DRAFTINGS, Drafting, KeptDrafting
from simulator.traces import Trace

_MIGRATIONS = Path(__file__).parent / "schema"
_RETRY_S = 20.0
_MIN_FREED_BYTES = 4 << 20
_JSON_COLUMNS = ("target", "drafters", "sampling", "plan", "packages", "host")


class Store:
    """A Specyard database. Raises InputError for a file that is not one, is newer, or cannot be written."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-only connection."""
        if not self.file.exists():
            raise InputError(f"{self.file}: no such database; `harness run` makes one")
        connection = self._connect(read_only=True)
        try:
            if 0 < self._version(connection) < len(_migrations()):  # made by an older Specyard: update it, then read
                connection.close()
                with self.writing():
                    pass
                connection = self._connect(read_only=True)
            self._check(connection)
            yield connection
        finally:
            connection.close()

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection inside one transaction, committed at the end or rolled back; brings the schema up to date."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.file.parent}: cannot be made ({error.strerror})") from None
        connection = self._connect(read_only=False)
        try:
            self._migrate(connection)
            connection.begin()
            yield connection
            connection.commit()
        except (duckdb.IOException, duckdb.FatalException, duckdb.OutOfMemoryException) as error:
            raise InputError(f"{self.file}: cannot be written: {_first_line(error)}; what was committed is safe") from error
        finally:
            connection.close()

    def create_run(self, info: RunInfo) -> str:
        """Insert a run; returns its id."""
        run_id = secrets.token_hex(3)
        row = {"run_id": run_id, "created_at": utc_now(), **dataclasses.asdict(info)}
        columns = {k: json.dumps(v) if k in _JSON_COLUMNS else v for k, v in row.items()}
        with self.writing() as connection:
            marks = ", ".join("?" * len(columns))
            connection.execute(f"INSERT INTO runs ({', '.join(columns)}) VALUES ({marks})", list(columns.values()))
        return run_id

    def add(self, run_id: str, tables: Mapping[str, pa.Table]) -> None:
        """Insert what one unit of work recorded, whole or not at all: rows, less the run, by table."""
        with self.writing() as connection:
            for name, rows in tables.items():
                connection.register("incoming", rows)
                connection.execute(f"INSERT INTO {name} BY NAME SELECT ? AS run_id, * FROM incoming", [run_id])
                connection.unregister("incoming")

    def add_speed(self, run_id: str, samples: Sequence[SpeedSample]) -> None:
        """Insert speed samples."""
        rows = [{"run_id": run_id, **dataclasses.asdict(s)} for s in samples]
        if not rows:  # every response was one token: nothing to time, and DuckDB refuses an empty list
            return
        with self.writing() as connection:
            for row in rows:
                insert_row(connection, "INSERT INTO speed_samples", row)

    def finish_run(self, run_id: str) -> None:
        """Mark a run as complete, and make the file small again."""
        with self.writing() as connection:
            connection.execute("UPDATE runs SET finished_at = ? WHERE run_id = ?", [utc_now(), run_id])
        self._compact()

    def find_run(self, name: str) -> str:
        """The id of a run from `latest`, an id, or the start of one. Raises InputError."""
        with self.reading() as connection:
            ids = [r[0] for r in connection.execute("SELECT run_id FROM runs ORDER BY created_at DESC").fetchall()]
        if not ids:
            raise InputError(f"{self.file}: has no runs yet; `harness run` makes one")
        if name == "latest":
            return str(ids[0])
        matches = [i for i in ids if i.startswith(name)]
        if name in ids or len(matches) == 1:
            return str(name if name in ids else matches[0])
        problem = "fits several runs" if matches else "no such run"
        raise InputError(f"run {name}: {problem} in {self.file}; the latest are {', '.join(ids[:5])}")

    def run(self, run_id: str) -> dict[str, Any]:
        """The row of `runs`, its JSON decoded."""
        with self.reading() as connection:
            cursor = connection.execute("SELECT * FROM runs WHERE run_id = ?", [run_id])
            names = [d[0] for d in cursor.description]
            rows = cursor.fetchall()
        if not rows:
            raise InputError(f"run {run_id}: no such run in {self.file}")
        decoded = dict(zip(names, rows[0], strict=True))
        return {k: json.loads(v) if k in _JSON_COLUMNS else v for k, v in decoded.items()}

    def recorded_prompts(self, run_id: str) -> set[tuple[str, int, KeptDrafting, str]]:
        """(drafter, γ, drafting, prompt id) of everything already recorded."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT DISTINCT drafter, gamma, drafting, prompt_id FROM recorded_responses WHERE run_id = ?", [run_id]
            )
            return {(r[0], int(r[1]), r[2], r[3]) for r in rows.fetchall()}

    def recordings(self, run_id: str) -> list[tuple[str, int, KeptDrafting]]:
        """(drafter, γ, drafting) of every dense recording of a run, in the order of its drafters."""
        sql = "SELECT DISTINCT drafter, gamma, drafting FROM recordings WHERE run_id = ?"
        with self.reading() as connection:
            rows = connection.execute(sql, [run_id]).fetchall()
        drafters, ways = list(self.run(run_id)["drafters"]), get_args(KeptDrafting)
        found = [(r[0], int(r[1]), r[2]) for r in rows]
        return sorted(found, key=lambda key: (drafters.index(key[0]), key[1], ways.index(key[2])))

    def draftings(self, run_id: str) -> list[Drafting]:
        """Ways to draft that every dense recording of a run can be asked for."""
        found = self.recordings(run_id)
        every = {key[:2] for key in found}
        return [way for way in DRAFTINGS if {key[:2] for key in found if key[2] in (way, "either")} == every]

    def traced(self, run_id: str, drafting: Drafting) -> list[tuple[str, int]]:
        """(drafter, γ) of every dense recording of a run, in the order of its drafters.

        Raises InputError where some were not recorded drafting so.
        """
        ways = self.draftings(run_id)
        if drafting not in ways:
            there = f"there are {' and '.join(ways)} ones" if ways else "some drafters have one kind, some another"
            raise InputError(f"run {run_id}: has no recordings of {drafting} drafts for --drafting {drafting}; {there}")
        return [(name, gamma) for name, gamma, way in self.recordings(run_id) if way in (drafting, "either")]

    def trace(self, run_id: str, drafter: str, gamma: int, drafting: KeptDrafting = "sampled") -> Trace:
        """A drafter's dense record, responses in order of prompt and turn. Raises InputError where there is none."""
        with self.reading() as connection:
            return traces.read_trace(connection, run_id, drafter, gamma, drafting)

    def temperatures(self, run_id: str, drafter: str, gamma: int, drafting: KeptDrafting = "sampled") -> list[float]:
        """T_1..T_γ of a drafter's confidences; empty where the run has no calibration of them."""
        with self.reading() as connection:
            return traces.read_temperatures(connection, run_id, drafter, gamma, drafting)

    def estimates(
        self, run_id: str, drafter: str, gamma: int, drafting: KeptDrafting = "sampled"
    ) -> list[tuple[float, float]]:
        """(intercept, slope) at each position of a drafter's estimated confidences; empty where the run has none."""
        with self.reading() as connection:
            return traces.read_estimates(connection, run_id, drafter, gamma, drafting)

    def create_sweep(
        self, run_id: str, command: str, plan: Mapping[str, Any], git_revision: str | None, packages: Mapping[str, str]
    ) -> str:
        """Insert a sweep of simulations; returns its id."""
        sweep_id = secrets.token_hex(3)
        row = [sweep_id, run_id, utc_now(), command, json.dumps(plan), git_revision, json.dumps(packages)]
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO sweeps (sweep_id, run_id, created_at, command, plan, git_revision, packages) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        return sweep_id

    def add_simulation(self, row: Mapping[str, Any], profiles: Sequence[Mapping[str, Any]]) -> None:
        """Insert one simulation, a row of `simulations`, and the profiles it was made with."""
        with self.writing() as connection:
            for profile in profiles:
                insert_row(connection, "INSERT OR IGNORE INTO profiles", profile)
            insert_row(connection, "INSERT INTO simulations", {**row, "load": json.dumps(row["load"])})

    def simulated(self, sweep_id: str) -> set[int]:
        """Points of a sweep that are there already."""
        with self.reading() as connection:
            rows = connection.execute("SELECT point FROM simulations WHERE sweep_id = ?", [sweep_id]).fetchall()
            return {int(r[0]) for r in rows}

    def finish_sweep(self, sweep_id: str) -> None:
        """Mark a sweep as complete."""
        with self.writing() as connection:
            connection.execute("UPDATE sweeps SET finished_at = ? WHERE sweep_id = ?", [utc_now(), sweep_id])

    def sweep(self, name: str) -> dict[str, Any]:
        """The row of `sweeps`, its JSON decoded, by id, the start of one, or `latest`. Raises InputError."""
        return self.named("sweep", "sweeps", "sweep_id", name)

    def simulations(self, sweep_id: str) -> list[dict[str, Any]]:
        """Rows of `simulations`, their JSON decoded, in order of point, with the profile's name, model, source and GPUs."""
        sql = """
            SELECT s.*, p.name AS profile, p.model AS profile_model, p.source AS profile_source, p.gpus, b.name AS believed
            FROM simulations s JOIN profiles p USING (profile_hash) LEFT JOIN profiles b ON b.profile_hash = s.believed_hash
            WHERE sweep_id = ? ORDER BY point
        """
        with self.reading() as connection:
            return decoded_rows(connection.execute(sql, [sweep_id]))

    def named(self, kind: str, table: str, key: str, name: str) -> dict[str, Any]:
        """The row of `table` whose `key` is or starts with `name`, or the `latest`, its JSON decoded. Raises InputError."""
        with self.reading() as connection:
            rows = decoded_rows(connection.execute(f"SELECT * FROM {table} ORDER BY created_at DESC"))
        if not rows:
            raise InputError(f"{self.file}: has no {kind} yet")
        matches = rows[:1] if name == "latest" else [r for r in rows if r[key].startswith(name)]
        if len(matches) != 1:
            problem = "fits several" if matches else "no such"
            raise InputError(
                f"{kind} {name}: {problem} {kind} in {self.file}; the latest are {', '.join(r[key] for r in rows[:5])}"
            )
        return matches[0]

    def timed(self, run_id: str) -> set[tuple[int, str]]:
        """(sample, prompt id) of the speed samples already taken."""
        with self.reading() as connection:
            rows = connection.execute("SELECT DISTINCT sample, prompt_id FROM speed_samples WHERE run_id = ?", [run_id])
            return {(int(r[0]), r[1]) for r in rows.fetchall()}

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        """Open the file, waiting a while for another process that holds it."""
        deadline = time.monotonic() + _RETRY_S
        while True:
            try:
                return duckdb.connect(str(self.file), read_only=read_only)
            except (duckdb.IOException, duckdb.CatalogException, duckdb.InvalidInputException) as error:
                if "could not set lock" in str(error).lower():
                    if time.monotonic() < deadline:
                        time.sleep(0.1)
                        continue
                    raise InputError(f"{self.file}: another process keeps it locked; close it and try again") from None
                problem = "is not a DuckDB file" if "not a valid DuckDB" in str(error) else "cannot be opened"
                raise InputError(f"{self.file}: {problem} ({_first_line(error)})") from None

    def _compact(self) -> None:
        """Rewrite the file where much of it is free blocks, which many small transactions leave behind.

        The lock on the old file is held until the new one has taken its place; who waits for it then opens the new one.
        """
        try:
            connection = self._connect(read_only=False)
        except InputError:  # another process holds the file: it stays as it is, complete
            return
        partial = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        try:
            sizes = connection.execute(
                "SELECT block_size, total_blocks, free_blocks, database_name FROM pragma_database_size()"
            )
            [(block_bytes, total, free, name)] = sizes.fetchall()
            if free * block_bytes < _MIN_FREED_BYTES or free < total / 5:
                return
            connection.execute(f"ATTACH '{str(partial).replace(chr(39), chr(39) * 2)}' AS compact")
            connection.execute(f'COPY FROM DATABASE "{name}" TO compact')
            connection.execute("DETACH compact")
            os.replace(partial, self.file)
        except duckdb.IOException:
            return  # no room for a second copy: the file stays as it is, complete
        finally:
            connection.close()
            partial.unlink(missing_ok=True)

    def _version(self, connection: duckdb.DuckDBPyConnection) -> int:
        """Schema version; 0 for an empty file."""
        tables = {r[0] for r in connection.execute("SELECT table_name FROM information_schema.tables").fetchall()}
        if "specyard_schema" not in tables:
            if tables:
                raise InputError(f"{self.file}: is a DuckDB file, but not one of Specyard's; choose another --out")
            return 0
        # fetchall, here and everywhere: DuckDB refuses the next query while a result is unread.
        [(version,)] = connection.execute("SELECT max(version) FROM specyard_schema").fetchall()
        return int(version)

    def _check(self, connection: duckdb.DuckDBPyConnection) -> None:
        known, version = len(_migrations()), self._version(connection)
        if version > known:
            raise InputError(f"{self.file}: has schema {version}, this Specyard knows up to {known}; upgrade specyard")
        if version == 0:
            raise InputError(f"{self.file}: is empty; `harness run` fills it")

    def _migrate(self, connection: duckdb.DuckDBPyConnection) -> None:
        version = self._version(connection)
        migrations = _migrations()
        if version > len(migrations):
            self._check(connection)
        for number, file in list(enumerate(migrations, 1))[version:]:
            connection.begin()
            if number == 1:
                connection.execute(
                    "CREATE TABLE specyard_schema (version INTEGER PRIMARY KEY, applied_at TIMESTAMP NOT NULL)"
                )
            connection.execute(file.read_text(encoding="utf-8"))
            connection.execute("INSERT INTO specyard_schema VALUES (?, ?)", [number, utc_now()])
            connection.commit()


def insert_row(connection: duckdb.DuckDBPyConnection, into: str, row: Mapping[str, Any]) -> None:
    """One row by column name; dictionaries and lists of them as JSON, nan as NULL."""
    marks = ", ".join("?" * len(row))
    connection.execute(f"{into} ({', '.join(row)}) VALUES ({marks})", [_stored(v) for v in row.values()])


def _stored(value: Any) -> Any:
    if isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, Mapping) for v in value)):
        return json.dumps(without_nan(value))
    return without_nan(value)


def without_nan(value: Any) -> Any:
    """A value with None for every nan in it, as JSON can say it."""
    if isinstance(value, Mapping):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float | np.floating) and math.isnan(value) else value


def decoded_rows(cursor: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """All rows as dictionaries, JSON columns decoded."""
    names = [(d[0], str(d[1]) == "JSON") for d in cursor.description or []]
    return [
        {name: json.loads(v) if is_json and v is not None else v for (name, is_json), v in zip(names, row, strict=True)}
        for row in cursor.fetchall()
    ]


def _migrations() -> list[Path]:
    return sorted(_MIGRATIONS.glob("[0-9]*.sql"))


def utc_now() -> datetime:
    """The time, as the database keeps it."""
    return datetime.now(UTC).replace(tzinfo=None)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
