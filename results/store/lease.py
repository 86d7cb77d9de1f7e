"""Who is at work on a run, sweep or study: a row that its process renews, so that nobody else does the same work."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from results.store.connection import StoreError
from results.store.database import Store, utc_now
from results.store.subjects import Subject
from simulator.errors import InputError

HEARTBEAT_S = 20.0
"""Seconds between two signs of life."""
FRESH = timedelta(seconds=60)
"""A sign of life that is no older is believed."""
WATCHED_S = 50.0
"""Seconds for which a process on another machine is watched for a sign of life before its work is taken over."""
_LET_GO_S = 5.0
"""Seconds that a process which ends waits for others, to remove its row; one that stays is known by its dead process."""
_HERE: set[str] = set()
"""Tokens of what this process is at work on."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A row of `leases`."""

    subject: str
    token: str
    host: str
    machine: str
    pid: int
    started: str | None
    since: datetime
    heartbeat: datetime

    @classmethod
    def of(cls, con: duckdb.DuckDBPyConnection, subject_id: str) -> Lease | None:
        """The lease on what has this id, if there is one."""
        rows = con.execute(f"SELECT {', '.join(cls.__slots__)} FROM leases WHERE subject = ?", [subject_id]).fetchall()
        return cls(*rows[0]) if rows else None

    @classmethod
    def mine(cls, subject_id: str) -> Lease:
        """A new one, of this process."""
        now, pid = utc_now(), os.getpid()
        return cls(subject_id, secrets.token_hex(8), socket.gethostname(), _machine(), pid, _started(pid), now, now)

    @property
    def gone(self) -> bool | None:
        """Whether its process has ended; None where that cannot be seen from here."""
        if self.machine != _machine():
            return None
        if self.pid == os.getpid():
            return self.token not in _HERE
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return self.started is not None and self.started != _started(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since:%Y-%m-%d %H:%M:%S} UTC"


@contextmanager
def leased(store: Store, subject: Subject, subject_id: str) -> Iterator[None]:
    """While the block runs, this process alone is at work on what has this id.

    Raises InputError where another process is; one that is gone is taken over. Each transaction renews the lease, and a
    thread does between them.
    """
    lease = _taken(store, subject, subject_id)

    def renew(con: duckdb.DuckDBPyConnection) -> None:
        sql = "UPDATE leases SET heartbeat = ? WHERE subject = ? AND token = ? RETURNING pid"
        if not con.execute(sql, [utc_now(), subject_id, lease.token]).fetchall():
            other = Lease.of(con, subject_id)
            whom = f"is at work for {other} now" if other else "is gone, or somebody else's now"
            raise InputError(f"{subject.word} {subject_id}: {whom}; this process ends")

    _HERE.add(lease.token)
    store.before_writing.append(renew)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(store, ended), name=f"lease of {subject_id}", daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join(timeout=_LET_GO_S)
        store.before_writing.remove(renew)
        _HERE.discard(lease.token)
        with suppress(InputError, duckdb.Error), store.writing(patience_s=_LET_GO_S) as con:
            con.execute("DELETE FROM leases WHERE subject = ? AND token = ?", [subject_id, lease.token])


def check_free(con: duckdb.DuckDBPyConnection, subject: Subject, subject_id: str) -> None:
    """Raise InputError where a process that may still be there is at work on what has this id."""
    lease = Lease.of(con, subject_id)
    if lease is not None and not lease.gone:
        raise InputError(_refusal(subject, lease))


def _taken(store: Store, subject: Subject, subject_id: str) -> Lease:
    """A lease of this process, once nobody else has one."""
    watched: Lease | None = None
    while True:
        with store.writing() as con:
            other = Lease.of(con, subject_id)
            if other is None or other.gone or (watched is not None and watched.heartbeat == other.heartbeat):
                con.execute("DELETE FROM leases WHERE subject = ?", [subject_id])
                lease = Lease.mine(subject_id)
                row = [getattr(lease, name) for name in Lease.__slots__]
                con.execute(f"INSERT INTO leases ({', '.join(Lease.__slots__)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
                if other is not None:
                    store.say(f"{subject.word} {subject_id}: {other} is gone; taking over")
                return lease
        if other.gone is False or watched is not None or timedelta(0) <= utc_now() - other.heartbeat <= FRESH:
            raise InputError(_refusal(subject, other))
        watched = other
        store.say(
            f"{subject.word} {subject_id}: {other} was at work on it; watching for {WATCHED_S:.0f} s whether it still is"
        )
        time.sleep(WATCHED_S)


def _refusal(subject: Subject, lease: Lease) -> str:
    return f"{subject.word} {lease.subject}: {lease} is at work on it; let it finish, or stop it first"


def _beat(store: Store, ended: threading.Event) -> None:
    """Renew leases, whatever the main thread does meanwhile; where the file is held, try again soon."""
    pause_s = HEARTBEAT_S
    while not ended.wait(pause_s):
        try:
            with store.writing(patience_s=0):
                pause_s = HEARTBEAT_S
        except (StoreError, duckdb.Error):
            pause_s = 1.0
        except InputError:  # somebody else's now: the main thread finds out when it next writes
            return


def _machine() -> str:
    """Where process ids mean the same: a host, since its system was started, and its space of process ids."""
    parts: list[Any] = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(Path("/proc/self/ns/pid").readlink())
    return " ".join(map(str, parts))


def _started(pid: int) -> str | None:
    """When a process began, in its system's ticks; tells two that had the same id one after the other apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
