"""Several processes on one database: who holds it is waited for, and no two do the same work."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

import results.store.connection
import results.store.lease
from results.store.connection import StoreError
from results.store.database import Store, utc_now
from results.store.lease import Lease, leased
from results.store.rows import response_tables
from results.store.subjects import RUN
from results.store.unfinished import Began, begun
from simulator.errors import InputError
from simulator.records import Recording
from tests.results.test_store import INFO, RESPONSE


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "specyard.duckdb", said.append)


READER = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); print('held', flush=True); input()"
WORKER = """
import sys
from pathlib import Path
from results.store.database import Store
from results.store.lease import leased
from results.store.subjects import RUN
with leased(Store(Path(sys.argv[1])), RUN, sys.argv[2]):
    print("held", flush=True)
    input()
"""


@contextmanager
def other(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs `code`, from when it says that it holds until it is told to go on."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_reader_is_waited_for_however_long_and_that_is_said_once(
    store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes by a clock that runs an eighth of a minute at each look, while a real process holds the file."""
    store.create_run(INFO)
    now, naps = [0.0], [0]

    def nap(seconds: float) -> None:
        naps[0] += 1
        now[0] += 7.5
        if naps[0] == 80:
            reader.kill()
            reader.wait()

    with other(READER, str(store.file)) as reader:
        monkeypatch.setattr(results.store.connection.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(results.store.connection.time, "sleep", nap)
        store.create_run(INFO)
        monkeypatch.undo()
    assert naps[0] >= 80
    assert said == [
        f"{store.file}: process {reader.pid} ({Path(sys.executable).resolve().name}) holds it; waiting until it lets go"
    ]


def test_readers_do_not_wait_for_readers(store: Store, said: list[str]) -> None:
    run_id = store.create_run(INFO)
    with other(READER, str(store.file)):
        assert store.find_run(run_id) == run_id
    assert said == []


def test_a_run_that_is_worked_on_is_refused_and_one_whose_process_was_killed_is_taken_over(
    store: Store, said: list[str]
) -> None:
    run_id = store.create_run(INFO)
    with other(WORKER, str(store.file), run_id) as worker:
        who = rf"run {run_id}: process {worker.pid} on {socket.gethostname()} since 20\d\d-.* UTC is at work on it"
        with pytest.raises(InputError, match=who), leased(store, RUN, run_id):
            pass
        worker.kill()
        worker.wait()
        with leased(store, RUN, run_id):
            [sentence] = said
            assert f"process {worker.pid} on {socket.gethostname()}" in sentence
            assert "is gone; taking over" in sentence
            assert lease(store, run_id).pid == os.getpid()
    assert rows(store) == 0


def test_a_run_is_free_again_when_work_ends(store: Store, said: list[str]) -> None:
    run_id = store.create_run(INFO)
    with other(WORKER, str(store.file), run_id) as worker:
        worker.communicate("go on\n")
        with leased(store, RUN, run_id), pytest.raises(InputError, match="is at work on it"), leased(store, RUN, run_id):
            pass
    assert said == []


@pytest.mark.slow
def test_another_machine_is_believed_or_watched(store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes cannot be seen from here, and its clock may be wrong: only a sign of life that changes is one."""
    monkeypatch.setattr(results.store.lease, "WATCHED_S", 0.2)
    run_id = store.create_run(INFO)
    elsewhere = dataclasses.replace(Lease.mine(run_id), host="far", machine="far away", pid=1)
    write(store, elsewhere)
    with pytest.raises(InputError, match="process 1 on far since"), leased(store, RUN, run_id):
        pass
    assert said == []
    for off in (timedelta(hours=-1), timedelta(hours=1)):  # silent for long, or of a clock that is ahead
        write(store, dataclasses.replace(elsewhere, heartbeat=utc_now() + off))
        with leased(store, RUN, run_id):
            pass
        assert "watching for" in said[-2]
        assert "is gone; taking over" in said[-1]

    write(store, dataclasses.replace(elsewhere, heartbeat=utc_now() - timedelta(hours=1)))
    monkeypatch.setattr(
        results.store.lease.time, "sleep",
        lambda seconds: write(store, dataclasses.replace(elsewhere, heartbeat=utc_now() - timedelta(minutes=59))),
    )  # fmt: skip
    with pytest.raises(InputError, match="process 1 on far since"), leased(store, RUN, run_id):
        pass


def test_a_process_id_that_was_given_again_is_another_process(store: Store) -> None:
    run_id = store.create_run(INFO)
    mine = Lease.mine(run_id)
    write(store, dataclasses.replace(mine, pid=os.getppid(), started="1"))
    assert lease(store, run_id).gone is True
    write(store, dataclasses.replace(mine, pid=os.getppid(), started=None))
    assert lease(store, run_id).gone is False


def test_signs_of_life_come_while_nothing_is_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while this thread reads again and again: a process opens the file either to read or to write."""
    monkeypatch.setattr(results.store.lease, "HEARTBEAT_S", 0.05)
    run_id = store.create_run(INFO)
    with leased(store, RUN, run_id):
        first, seen = lease(store, run_id).heartbeat, set()
        deadline = time.monotonic() + 10
        while len(seen) < 3 and time.monotonic() < deadline:
            seen.add(lease(store, run_id).heartbeat)
            time.sleep(0.02)
        assert len(seen) >= 3
        assert max(seen) > first
    assert threading.active_count() == 1 or not any(t.name.startswith("lease of") for t in threading.enumerate())


def test_who_lost_its_lease_stores_nothing_more(store: Store) -> None:
    """A process that was stopped for long, and taken for gone, must not do the work twice."""
    run_id = store.create_run(INFO)
    with leased(store, RUN, run_id):
        write(Store(store.file), dataclasses.replace(Lease.mine(run_id), host="far", machine="far away", pid=7))
        with pytest.raises(InputError, match=f"run {run_id}: is at work for process 7 on far since .*; this process ends"):
            store.add(run_id, response_tables(Recording("dspark", 2), [RESPONSE]))
    assert store.recorded_prompts(run_id) == set()
    assert lease(store, run_id).pid == 7  # and the other's stays


def test_what_ends_without_results_is_not_kept(store: Store, said: list[str]) -> None:
    run_id = store.create_run(INFO)
    told: list[tuple[str, str | None]] = []
    with pytest.raises(KeyboardInterrupt), begun(store, RUN, run_id, lambda *began: told.append(began)):
        raise KeyboardInterrupt
    assert told == [(f"run {run_id}", run_id), ("", None)]
    with pytest.raises(InputError, match="has no run yet"):
        store.find_run("latest")
    assert rows(store) == 0
    assert said == [f"nothing was recorded: run {run_id} is not kept"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a worker died"), StoreError("the disk is full")])
def test_what_was_interrupted_can_go_on(store: Store, said: list[str], error: BaseException) -> None:
    run_id, told = store.create_run(INFO), list[tuple[str, str | None]]()
    with pytest.raises(type(error)):
        record_and_raise(store, run_id, lambda *began: told.append(began), error)
    assert told == [(f"run {run_id}", run_id)]
    assert said == []
    assert store.find_run("latest") == run_id


def test_what_was_refused_would_be_refused_again(store: Store, said: list[str]) -> None:
    run_id, told = store.create_run(INFO), list[tuple[str, str | None]]()
    with pytest.raises(InputError, match="not the target's"):
        record_and_raise(store, run_id, lambda *began: told.append(began), InputError("these are not the target's"))
    assert told == [(f"run {run_id}", run_id), ("", None)]
    assert said == []
    assert store.run(run_id)["failure"] == "these are not the target's"
    with pytest.raises(InputError, match="has no run with results yet"):
        store.find_run("latest")
    store.finish_run(run_id)  # resumed by its id, once what was wrong is mended
    assert store.find_run("latest") == run_id


def test_what_cannot_be_resumed_is_whole_or_not_there(store: Store, said: list[str]) -> None:
    run_id = store.create_run(INFO)
    with pytest.raises(KeyboardInterrupt):
        record_and_raise(store, run_id, None, KeyboardInterrupt())
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM responses").fetchall() == [(0,)]
        assert connection.execute("SELECT count(*) FROM runs").fetchall() == [(0,)]


def record_and_raise(store: Store, run_id: str, began: Began | None, error: BaseException) -> None:
    with begun(store, RUN, run_id, began):
        store.add(run_id, response_tables(Recording("dspark", 2), [RESPONSE]))
        raise error


def lease(store: Store, run_id: str) -> Lease:
    with store.reading() as connection:
        found = Lease.of(connection, run_id)
    assert found is not None
    return found


def rows(store: Store) -> int:
    with store.reading() as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM leases").fetchall()
    return int(count)


def write(store: Store, row: Lease) -> None:
    """As the process of another machine would."""
    with store.writing() as connection:
        connection.execute("DELETE FROM leases")
        values = [getattr(row, name) for name in Lease.__slots__]
        connection.execute(f"INSERT INTO leases ({', '.join(Lease.__slots__)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
