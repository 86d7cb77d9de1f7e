"""Opening the DuckDB file: waiting for who holds it, what is wrong with it in one sentence, and making it small again."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import duckdb

from results.store.commands import typed
from simulator.errors import InputError

_SETTINGS = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
"""Nothing is fetched from the network because a file looks as if another program had written it."""
SAY_AFTER_S = 1.0
"""Seconds of waiting for another process after which it is said, once."""
_MIN_FREED_BYTES = 4 << 20
_COMPACT_WAITS_S = 2.0
_HELD = re.compile(r"Conflicting lock is held in (?P<program>.*?) ?\(PID (?P<pid>\d+)\)")
_DAMAGED = re.compile(
    r"Corrupt|Could not read (all|enough) bytes|checksum|failed to load metadata|Serialization", re.IGNORECASE
)
_FULL = re.compile(r"No space left|File too large|quota exceeded|Out of Memory", re.IGNORECASE)


class StoreError(InputError):
    """The database file cannot be opened, read or written now; what was committed is safe, and work can go on later."""


def connect(
    file: Path, say: Callable[[str], None], *, read_only: bool, patience_s: float = math.inf
) -> duckdb.DuckDBPyConnection:
    """A connection to a file, for which another process is waited for, by default without end.

    Raises StoreError where the file cannot be opened, or `patience_s` have passed.
    """
    started, said = time.monotonic(), False
    while True:
        before = _inode(file)
        try:
            connection = duckdb.connect(str(file), read_only=read_only, config=_SETTINGS)
        except duckdb.Error as error:
            holder = _holder(str(error))
            if holder is None:
                raise StoreError(_why(file, error, read_only=read_only)) from None
        else:
            if before in (None, _inode(file)):
                return connection
            connection.close()  # a smaller copy took its place between looking and opening
            continue
        waited_s = time.monotonic() - started
        if waited_s > patience_s:
            raise StoreError(f"{file}: {holder} holds it; close it and try again") from None
        if waited_s > SAY_AFTER_S and not said:
            said = True
            say(f"{file}: {holder} holds it; waiting until it lets go")
        time.sleep(0.1)


def unreadable(file: Path, error: duckdb.Error) -> StoreError | None:
    """What to say where a query failed for the file's sake; None where it failed for its own."""
    return StoreError(_damaged(file, error)) if _DAMAGED.search(str(error)) else None


def unwritable(file: Path, error: duckdb.Error) -> StoreError | None:
    """What to say where a transaction failed for the file's or the disk's sake; None where it failed for its own."""
    if _FULL.search(str(error)):
        return StoreError(
            f"{file}: cannot be written: {first_line(error)}; what was committed is safe: make room, and go on"
        )
    if found := unreadable(file, error):
        return found
    if isinstance(error, duckdb.IOException | duckdb.FatalException):
        return StoreError(f"{file}: cannot be written: {first_line(error)}; what was committed is safe")
    return None


def compact(file: Path, *, whatever: bool = False) -> None:
    """Rewrite a file where much of it is free blocks, which many small transactions leave behind; `whatever`: in any case.

    The lock on the old file is held until the new one has taken its place; who waits for it then opens the new one. Where
    another process holds the file, or a second copy finds no room, the file stays as it is, complete.
    """
    try:
        connection = connect(file, lambda text: None, read_only=False, patience_s=_COMPACT_WAITS_S)
    except StoreError:
        return
    partial = beside(file, "compact")
    try:
        sizes = connection.execute("SELECT block_size, total_blocks, free_blocks, database_name FROM pragma_database_size()")
        [(block_bytes, total, free, name)] = sizes.fetchall()
        if not whatever and (free * block_bytes < _MIN_FREED_BYTES or free < total / 5):
            return
        connection.execute(f"ATTACH '{quoted(partial)}' AS compact")
        connection.execute(f'COPY FROM DATABASE "{name}" TO compact')
        connection.execute("DETACH compact")
        os.replace(partial, file)
    except duckdb.IOException:
        return
    finally:
        connection.close()
        partial.unlink(missing_ok=True)
        partial.with_name(f"{partial.name}.wal").unlink(missing_ok=True)


def quoted(file: Path) -> str:
    """A path inside the quotes of SQL."""
    return str(file).replace("'", "''")


def beside(file: Path, purpose: str) -> Path:
    """A hidden name for a copy that is to take a file's place, or a name of its own, once it is whole."""
    return file.with_name(f".{file.name}.{purpose}-{os.getpid()}")


def clear_leftovers(file: Path) -> None:
    """Remove hidden copies that a kill left beside a file, which has to be open for writing: then nobody else makes any.

    Names of Specyard 0.3, which end in a process id alone, are cleared too.
    """
    name = re.compile(rf"\.{re.escape(file.name)}\.(\w+-)?\d+(\.wal)?")
    for found in file.parent.iterdir():
        if name.fullmatch(found.name) and found.is_file():
            found.unlink(missing_ok=True)


def check_writable(file: Path) -> None:
    """Raise StoreError where a file, or one still to be made, could not be written; it and its folder stay as they are."""
    for path in (file, Path(f"{file}.wal")):
        if path.exists() and not os.access(path, os.W_OK):
            raise _not_writable(path)
    check_folder(file.parent, writable=True)
    if not file.exists() and Path(f"{file}.wal").exists():
        raise StoreError(f"{file}.wal: its database {file.name} is gone; move it away, or bring the database back")


def check_folder(folder: Path, *, writable: bool = False, option: str = "--out") -> None:
    """Raise StoreError where a folder that may be yet to be made could not be, or could not be written; makes nothing."""
    try:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:  # its name is too long
        raise StoreError(f"{option} {folder!s:.60}…: {error.strerror}; choose another") from None
    if not there.is_dir():
        raise StoreError(f"{there}: is no folder; choose another {option}")
    if writable and not os.access(there, os.W_OK):
        raise _not_writable(there, option)


def check_new_folder(folder: Path, option: str) -> None:
    """Raise StoreError where something is in the way of a folder to be written, or nothing can be written there."""
    check_folder(folder.parent, writable=True, option=option)
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise StoreError(f"{option} {folder!s:.60}…: cannot be written ({error.strerror})") from None
    if taken:
        raise StoreError(f"{option} {folder}: is there, and is not written over; name a new folder")


def check_written(folder: Path, option: str) -> None:
    """Raise StoreError where a folder cannot be made, by making it and taking it away: `check_new_folder` makes nothing."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    made = list[Path]()
    try:
        for path in reversed([path for path in (folder.absolute(), *folder.absolute().parents) if there in path.parents]):
            path.mkdir()
            made.append(path)
        for path in (folder, folder.absolute().parent):
            with TemporaryFile(dir=path):
                pass
    except OSError as error:
        raise StoreError(f"{option} {folder}: cannot be written ({error.strerror}); choose another {option}") from None
    finally:
        for path in reversed(made):
            with suppress(OSError):  # somebody else has put something there
                path.rmdir()
    if folder.is_mount():
        raise StoreError(f"{option} {folder}: is where a disk is mounted, and is put in place whole; name a folder in it")


def _not_writable(path: Path, option: str = "--out") -> StoreError:
    return StoreError(f"{path}: cannot be written; choose another {option}" + (", or a copy" if option == "--out" else ""))


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _holder(message: str) -> str | None:
    """Who holds a file, from DuckDB's words; None where these are about something else."""
    if found := _HELD.search(message):
        program = Path(found["program"]).name
        return f"process {found['pid']}" + (f" ({program})" if program else "")
    return "another process" if "Conflicting lock" in message or "temporarily unavailable" in message else None


def _why(file: Path, error: BaseException, *, read_only: bool) -> str:
    """Why a file cannot be opened, and the way out."""
    message = str(error)
    if "WAL" in message:
        wal = f"{file.name}.wal"
        return (
            f"{file}.wal: belongs to another database, or to an earlier state of {file.name} ({first_line(error)}); "
            f"move {wal} away: what was written into {file.name} is there"
        )
    if "only read versions" in message or "newer version of DuckDB" in message:
        return f"{file}: was written by another version of DuckDB; upgrade duckdb ({first_line(error)})"
    try:
        with file.open("rb") as opened:
            head = opened.read(16)
    except OSError as problem:
        return f"{file}: cannot be {'read' if read_only else 'written'} ({problem.strerror})"
    if not head:
        return f"{file}: is empty, not a DuckDB file; remove it, or choose another --out"
    if head.startswith(b"SQLite format 3"):
        return f"{file}: is not a DuckDB file but one of SQLite's; choose another --out"
    if head[8:12] != b"DUCK":
        return f"{file}: is not a DuckDB file; choose another --out"
    if _DAMAGED.search(message):
        return _damaged(file, error)
    if "Could not set lock" in message:
        return f"{file}: cannot be locked on this disk ({first_line(error)}); choose an --out on a disk of this machine"
    return f"{file}: cannot be {'read' if read_only else 'written'} ({first_line(error)})"


def _damaged(file: Path, error: BaseException) -> str:
    way_out = f"`{typed('harness', 'rescue', out=file.parent)}` copies what can still be read"
    return f"{file}: is damaged ({first_line(error)}); {way_out}"


def _inode(file: Path) -> tuple[int, int] | None:
    """What file a name stands for now."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
