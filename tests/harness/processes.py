"""The command as a user runs it, in a process of its own, and what it has stored."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb


def harness(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def wait_until(holds: Callable[[], object], seconds: float = 120, *, every_s: float = 0.1) -> None:
    """Look again and again until it holds; a failure after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not after {seconds:.0f} s"
        time.sleep(every_s)


@contextmanager
def killed_after(seconds: float, process: subprocess.Popen[str]) -> Iterator[None]:
    """While the block reads what a process says: it is killed after so many seconds, and then says no more."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def query(out: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(out / "specyard.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()
