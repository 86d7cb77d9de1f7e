"""The command as a user runs it, in a process of its own, and what it has stored."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from typer.testing import CliRunner

from harness.cli.app import app as harness_app
from tuner.cli.app import app as tuner_app


def harness(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


PROGRAMS = {"harness": harness_app, "tuner": tuner_app}


def called(*arguments: str, program: str = "harness") -> subprocess.CompletedProcess[str]:
    """What the command says and stores, in this process: for tests that need none of its own."""
    done = CliRunner().invoke(PROGRAMS[program], arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


HEAVY = ("torch", "ray", "transformers", "plotly", "numba", "optuna", "vllm")
"""What takes seconds to import."""

_FORKED = multiprocessing.get_context("forkserver")
# What every refusal imports, once for all of them: a process of one's own takes a second for it.
_FORKED.set_forkserver_preload(
    ["harness.cli.app", "harness.sweeps.run", "harness.recording.sources", "tests.harness.processes"]
)


def refusal(*arguments: str, program: str = "harness", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What a command says that does no work, in a process of its own; it must import nothing heavy."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "stdout"), Path(folder, "stderr")
        process = _FORKED.Process(target=_refuse, args=(program, arguments, cwd or Path.cwd(), out, err))
        process.start()
        process.join(300)
        assert process.exitcode is not None, "not after 300 s"
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def _refuse(program: str, arguments: tuple[str, ...], cwd: Path, out: Path, err: Path) -> None:
    os.chdir(cwd)
    for file, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    main = importlib.import_module(f"{program}.__main__").main
    sys.argv = [program, *arguments]
    assert not (before := set(HEAVY) & set(sys.modules)), before
    try:
        main()
    finally:
        assert not (found := set(HEAVY) & set(sys.modules)), found


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
