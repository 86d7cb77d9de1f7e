"""The command as a user runs it, in a process of its own, and what it has stored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb


def harness(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def query(out: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(out / "specyard.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()
