"""What docs/extending.md shows is run as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from results.store.database import Store
from tuner.cli.app import app as tuner

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
RUN = "synthesize paper:qwen3-4b --responses-per-task 4 --output-tokens 64"


def run(line: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, shlex.split(line))
    assert done.exit_code == code, (line, done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the page's files and a run."""
    made = tmp_path_factory.mktemp("extending")
    for text in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        name = re.match(r"# (\S+\.py)\n", text)
        assert name is not None, text
        (made / name[1]).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        run(RUN)
        yield made


def commands(of: str) -> list[str]:
    return re.findall(rf"^    harness ({of} .*)$", PAGE, re.MULTILINE)


def test_the_policy_is_checked_replayed_and_simulated(folder: Path) -> None:
    for line in commands("check-policy"):
        assert ": lossless as far as 10," in run(f"{line} --texts 10000")
    for line in commands("simulate"):
        quick = line.replace("1..64", "1,4")
        run(f"{quick} --seconds 5 --decision-draws 10 --drafter dspark")
    [line] = re.findall(r"^    (tuner search .*)$", PAGE, re.MULTILINE)
    small = "--trials 3 --decision-draws 10 --confirmation-draws 5 --seconds 5 --drafter dspark --actors 0"
    done = CliRunner().invoke(tuner, shlex.split(f"{line} {small}")[1:])
    assert done.exit_code == 0, (done.output, done.exception)
    for line in commands("replay"):
        assert "halfway.py:Halfway#" in run(line)


def test_it_is_kept_with_what_it_did_and_nothing_is_run_from_there(folder: Path) -> None:
    """Another process, without the file, shows everything; only what goes on with it needs it as it was."""
    with Store(folder / "runs" / "specyard.duckdb").reading() as con:
        [(name, text)] = con.execute("SELECT policy, text FROM own_policies WHERE policy LIKE 'halfway%'").fetchall()
    assert name.startswith("halfway.py:Halfway#")
    assert text == (folder / "halfway.py").read_text()
    (folder / "halfway.py").rename(folder / "elsewhere")
    try:
        for line in ("show latest", "report latest", "runs"):
            done = subprocess.run(
                [sys.executable, "-m", "harness", *line.split()], capture_output=True, text=True, cwd=folder
            )
            assert done.returncode == 0, (line, done.stderr)
        sweep, study = unfinished(folder)
        asked = [sys.executable, "-m", "harness", "simulate", "--resume", sweep]
        search = [sys.executable, "-m", "tuner", "search", "--resume", study, "--actors", "0"]
        for line in (asked, search):
            done = subprocess.run(line, capture_output=True, text=True, cwd=folder)
            assert done.returncode == 2
            assert "halfway.py: No such file" in done.stderr.splitlines()[-1]
        (folder / "halfway.py").write_text(text + "# other\n", encoding="utf-8")
        done = subprocess.run(asked, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 2
        assert "has changed since" in done.stderr.splitlines()[-1]
    finally:
        (folder / "elsewhere").rename(folder / "halfway.py")
    for line in (asked, search):
        done = subprocess.run(line, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr
    with Store(folder / "runs" / "specyard.duckdb").reading() as con:
        errors = con.execute("SELECT error FROM simulations WHERE error IS NOT NULL").fetchall()
        states = con.execute("SELECT DISTINCT state FROM trials").fetchall()
    assert errors == []
    assert ("failed",) not in states


def unfinished(folder: Path) -> tuple[str, str]:
    """The sweep and the study, as if they had been stopped before their last point and trials."""
    with Store(folder / "runs" / "specyard.duckdb").writing() as con:
        [(sweep,)] = con.execute("UPDATE sweeps SET finished_at = NULL RETURNING sweep_id").fetchall()
        con.execute("DELETE FROM simulations WHERE policy LIKE 'halfway%' AND users = 4")
        [(study,)] = con.execute("UPDATE studies SET finished_at = NULL RETURNING study_id").fetchall()
        con.execute("DELETE FROM trials WHERE number > 0")
    return str(sweep), str(study)
