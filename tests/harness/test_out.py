"""Where results go is checked before anything else is, by every command that asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from harness.cli.app import app as harness
from tuner.cli.app import app as tuner

ROOT = Path(__file__).parents[2]
COMMANDS = [
    pytest.param(app, [*name.split(), "--out"], id=f"{program} {name}")
    for program, app in (("harness", harness), ("tuner", tuner))
    for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
    if any(parameter.name == "out" and parameter.default == Path("runs") for parameter in command.params)
]
WRITING = {
    "run", "record", "synthesize", "profile", "reproduce", "regenerate", "import", "hardware fit", "simulate", "sensitivity",
    "validate", "search", "remove", "prune",
}  # fmt: skip


@pytest.mark.parametrize(("app", "words"), COMMANDS)
def test_a_file_in_its_place_is_told_at_once(app: typer.Typer, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = CliRunner().invoke(app, [*words, str(tmp_path / "file" / "runs")])
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert f"{tmp_path / 'file'}: is no folder" in ended.stderr


@pytest.mark.parametrize(("app", "words"), [c for c in COMMANDS if " ".join(c.values[1][:-1]) in WRITING])  # type: ignore[arg-type]
def test_what_cannot_be_written_is_told_at_once(
    app: typer.Typer, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    ended = CliRunner().invoke(app, [*words, str(tmp_path / "runs")])
    assert ended.exit_code == 2
    assert f"{tmp_path}: cannot be written" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams_end_nothing(closed: str, tmp_path: Path) -> None:
    """As cron and daemons start programs: files that are opened must not take the numbers of streams."""
    ended = subprocess.run(f"{sys.executable} -m harness hardware {closed}", shell=True, cwd=tmp_path, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert b"Traceback" not in ended.stderr


def test_a_working_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    """As after a job's folder was cleared under a shell."""
    shell = f"cd {tmp_path} && rmdir {tmp_path} && {sys.executable} -m harness synthesize"
    ended = subprocess.run(shell, shell=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "working folder" in ended.stderr
