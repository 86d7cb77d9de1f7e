"""The DuckDB file: one writer that opens it per transaction, a versioned schema, readable by anything that reads DuckDB."""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import duckdb
import numpy as np
import pyarrow as pa

from results.store import traces
from results.store.commands import typed
from results.store.connection import StoreError, check_writable, clear_leftovers, compact, connect, unreadable, unwritable
from results.store.migration import bring_up_to_date, is_old, migrate, migrated_copy, version_of
from results.store.own_policies import keep_own_policies, recall_own_policies
from results.store.rows import plan_row
from results.store.runs import RunInfo, SpeedSample, kinds_of
from results.store.subjects import RUN, SWEEP, Subject, find, has_results
from simulator.errors import InputError
from simulator.plan import SweepPlan
from simulator.records import DRAFTINGS, Drafting, KeptDrafting, Recording
from simulator.traces import Trace

_ONE_AT_A_TIME = threading.RLock()
"""Threads of one process take turns: DuckDB opens a file either for reading or for writing in a process."""
_JSON_COLUMNS = ("target", "drafters", "sampling", "plan", "packages", "host")


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Store:
    """A Specyard database. Raises InputError for a file that is not one, is newer, or cannot be written."""

    def __init__(self, file: Path, say: Callable[[str], None] = _to_stderr) -> None:
        """`say` is told what takes the user by surprise: who is waited for, what was brought up to date."""
        self.file, self.say = file, say
        self.before_writing: list[Callable[[duckdb.DuckDBPyConnection], None]] = []
        """Called in each transaction before anything else; what these raise ends it."""
        self._copy: tuple[Path, TemporaryDirectory[str]] | None = None
        self._cleared = False

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-only connection. A database of an older Specyard is brought up to date before, or a copy of it is."""
        if not self.file.exists():
            raise InputError(f"{self.file}: no such database; `harness run` makes one")
        with _ONE_AT_A_TIME:
            connection = connect(self.file if self._copy is None else self._copy[0], self.say, read_only=True)
            try:
                version = version_of(connection, self.file)
                if is_old(version):
                    connection.close()
                    connection = connect(self._updated(), self.say, read_only=True)
                elif version == 0:
                    raise InputError(f"{self.file}: is empty; `harness run` fills it")
                recall_own_policies(connection)
                yield connection
            except duckdb.Error as error:
                if (damage := unreadable(self.file, error)) is not None:
                    raise damage from error
                raise
            finally:
                connection.close()

    @contextmanager
    def writing(self, *, patience_s: float = math.inf) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection inside one transaction, committed at the end or rolled back; brings the schema up to date.

        Another process that holds the file is waited for, for so many seconds.
        """
        self.check_writable()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with _ONE_AT_A_TIME:
            connection = connect(self.file, self.say, read_only=False, patience_s=patience_s)
            try:
                if is_old(version_of(connection, self.file)):
                    connection.close()
                    bring_up_to_date(self.file, self.say)
                    connection = connect(self.file, self.say, read_only=False, patience_s=patience_s)
                if not self._cleared:
                    clear_leftovers(self.file)
                    self._cleared = True
                migrate(connection, self.file)
                connection.begin()
                for call in self.before_writing:
                    call(connection)
                yield connection
                keep_own_policies(connection)
                connection.commit()
            except duckdb.Error as error:
                if (problem := unwritable(self.file, error)) is not None:
                    raise problem from error
                raise
            finally:
                connection.close()

    def check_writable(self) -> None:
        """Raise InputError where nothing could be written; a file and folder that are not there yet are not made."""
        check_writable(self.file)

    def prepare(self) -> None:
        """Find out, before anything expensive begins, whether results can be kept; makes no file. Raises InputError."""
        self.check_writable()
        if self.file.exists():
            with self.writing():
                pass

    def compact(self, *, whatever: bool = False) -> None:
        """Make the file small again where much of it is free; `whatever`: in any case."""
        with _ONE_AT_A_TIME:
            compact(self.file, whatever=whatever)

    def _updated(self) -> Path:
        """What to read in place of an older database: itself, brought up to date, or a copy where it cannot be written."""
        try:
            self.check_writable()
        except StoreError:
            folder = TemporaryDirectory(prefix="specyard-")
            self._copy = migrated_copy(self.file, Path(folder.name), self.say), folder
            return self._copy[0]
        bring_up_to_date(self.file, self.say)
        return self.file

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
            connection.execute("UPDATE runs SET finished_at = ?, failure = NULL WHERE run_id = ?", [utc_now(), run_id])
        self.compact()

    def find(self, subject: Subject, name: str) -> str:
        """The id of a run, sweep or study from `latest`, an id, or the start of one. Raises InputError.

        The latest is the newest that anything came of and that did not fail.
        """
        with self.reading() as connection:
            return find(connection, subject, name, self.file)

    def find_run(self, name: str) -> str:
        """The id of a run from `latest`, an id, or the start of one. Raises InputError."""
        return self.find(RUN, name)

    def check_results(self, subject: Subject, subject_id: str) -> None:
        """Raise InputError where nothing came of what has this id."""
        with self.reading() as connection:
            if not has_results(connection, subject, subject_id):
                raise InputError(
                    f"{subject.word} {subject_id}: has no results, so there is nothing to show; "
                    f"`{typed('harness', 'remove', subject_id, out=self.file.parent)}` removes it"
                )

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

    def recorded_prompts(self, run_id: str) -> set[tuple[Recording, str]]:
        """(recording, prompt id) of everything already recorded, the target's own responses among it."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT DISTINCT drafter, gamma, drafting, prompt_id FROM recorded_responses WHERE run_id = ?", [run_id]
            )
            return {(Recording(r[0], int(r[1]), drafting=r[2]), r[3]) for r in rows.fetchall()}

    def recordings(self, run_id: str) -> list[Recording]:
        """Every dense recording of a run as it is kept, showing no confidences, in the order of its drafters."""
        sql = "SELECT DISTINCT drafter, gamma, drafting FROM recordings WHERE run_id = ?"
        with self.reading() as connection:
            rows = connection.execute(sql, [run_id]).fetchall()
        kinds, ways = kinds_of(self.run(run_id)), get_args(KeptDrafting)
        found = [Recording(name, int(gamma), drafting=way, kind=kinds[name]) for name, gamma, way in rows]
        drafters = list(kinds)
        return sorted(found, key=lambda r: (drafters.index(r.drafter), r.gamma, ways.index(r.drafting)))

    def draftings(self, run_id: str) -> list[Drafting]:
        """Ways to draft that every dense recording of a run can be asked for."""
        found = self.recordings(run_id)
        every = {(r.drafter, r.gamma) for r in found}
        return [way for way in DRAFTINGS if {(r.drafter, r.gamma) for r in found if r.holds_for(way)} == every]

    def traced(self, run_id: str, drafting: Drafting) -> list[Recording]:
        """Every dense recording of a run, asked for as of drafts chosen one way, in the order of its drafters.

        Raises InputError where some were not recorded drafting so.
        """
        ways = self.draftings(run_id)
        if drafting not in ways:
            there = f"there are {' and '.join(ways)} ones" if ways else "some drafters have one kind, some another"
            raise InputError(f"run {run_id}: has no recordings of {drafting} drafts for --drafting {drafting}; {there}")
        return [r.drafted_by(drafting) for r in self.recordings(run_id) if r.holds_for(drafting)]

    def trace(self, run_id: str, recording: Recording) -> Trace:
        """A dense record as it was made, responses in order of prompt and turn. Raises InputError where there is none."""
        with self.reading() as connection:
            return traces.read_trace(connection, run_id, recording)

    def temperatures(self, run_id: str, recording: Recording) -> list[float]:
        """T_1..T_γ of a drafter's confidences; empty where the run has no calibration of them."""
        with self.reading() as connection:
            return traces.read_temperatures(connection, run_id, recording)

    def estimates(self, run_id: str, recording: Recording) -> list[tuple[float, float]]:
        """(intercept, slope) at each position of a drafter's estimated confidences; empty where the run has none."""
        with self.reading() as connection:
            return traces.read_estimates(connection, run_id, recording)

    def create_sweep(
        self, run_id: str, command: str, plan: SweepPlan, git_revision: str | None, packages: Mapping[str, str]
    ) -> str:
        """Insert a sweep of simulations; returns its id."""
        sweep_id = secrets.token_hex(3)
        row = [sweep_id, run_id, utc_now(), command, json.dumps(plan_row(plan)), git_revision, json.dumps(packages)]
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
            connection.execute("UPDATE sweeps SET finished_at = ?, failure = NULL WHERE sweep_id = ?", [utc_now(), sweep_id])

    def sweep(self, name: str) -> dict[str, Any]:
        """The row of `sweeps`, its JSON decoded, by id, the start of one, or `latest`. Raises InputError."""
        sweep_id = self.find(SWEEP, name)
        with self.reading() as connection:
            [row] = decoded_rows(connection.execute("SELECT * FROM sweeps WHERE sweep_id = ?", [sweep_id]))
        return row

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


def utc_now() -> datetime:
    """The time, as the database keeps it."""
    return datetime.now(UTC).replace(tzinfo=None)
