"""What docs/extending.md shows is run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from results.report.compose import compose
from results.store.database import Store
from tuner.cli.app import app as tuner

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
OWN, ADDED = PAGE.split("# What else can be added\n")
RUN = "synthesize paper:qwen3-4b --responses-per-task 4 --output-tokens 64"


def run(line: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, shlex.split(line))
    assert done.exit_code == code, (line, done.output, done.exception)
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the page's files and a run."""
    made = tmp_path_factory.mktemp("extending")
    for name, text in files(OWN):
        (made / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        run(RUN)
        yield made


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def files(page: str) -> Iterator[tuple[str, str]]:
    """(name, text) of the Python files of a page."""
    for text in blocks("python", page):
        name = re.match(r"# (\S+\.py)\n", text)
        assert name is not None, text
        yield name[1], text


def commands(of: str) -> list[str]:
    return re.findall(rf"^    harness ({of} .*)$", OWN, re.MULTILINE)


class Tried(NamedTuple):
    """The folder, and what was made in it of the page's policy."""

    folder: Path
    sweep: str


@pytest.fixture(scope="module")
def tried(folder: Path) -> Tried:
    """The same, with a sweep and a study of the page's policy."""
    [line] = commands("simulate")
    printed = run(line.replace("4,16,64", "1,4").replace("--seconds 60", "--seconds 5").replace("-draws 20", "-draws 10"))
    [line] = re.findall(r"^    (tuner search .*)$", OWN, re.MULTILINE)
    small = "--trials 3 --decision-draws 10 --confirmation-draws 5 --seconds 5 --drafter dspark --actors 0"
    done = CliRunner().invoke(tuner, shlex.split(f"{line} {small}")[1:])
    assert done.exit_code == 0, (done.output, done.exception)
    return Tried(folder, printed.split()[1])


@pytest.mark.slow
@pytest.mark.usefixtures("tried")
def test_the_policy_is_checked_and_replayed() -> None:
    for line in commands("check-policy"):
        assert ": lossless as far as 10," in run(f"{line} --texts 10000")
    for line in commands("replay"):
        assert "halfway.py:Halfway#" in run(line)


@pytest.mark.slow
def test_it_is_compared_over_loads_by_the_page_s_command(folder: Path) -> None:
    """As it stands there, for a shorter time: a table and a figure against Algorithm 1, paired."""
    [line] = commands("simulate")
    sweep = run(line.replace("--seconds 60", "--seconds 15")).split()[1]
    printed = json.loads(run(f"show {sweep} --json"))
    rows = {(row["policy"].partition("#")[0], row["load"]): row["throughput"] for row in printed["simulations"]}
    assert len(rows) == 9
    for one in printed["contrasts"]:
        assert (one["candidate"]["policy"].partition("#")[0], one["against"]) == ("halfway.py:Halfway", "prefix_scheduler")
        gain, load = one["gain"]["held"], one["load"]
        assert gain["low"] <= gain["value"] <= gain["high"]
        apart = rows["halfway.py:Halfway", load] / rows["prefix_scheduler", load] - 1
        assert gain["value"] == pytest.approx(apart, abs=0.15)
    assert {one["load"] for one in printed["contrasts"]} == {load for _, load in rows}
    run(f"report latest --sweep {sweep}")
    store = Store(folder / "runs" / "specyard.duckdb")
    with store.reading() as con:
        sections = {one.name: one for one in compose(con, store.find_run("latest"), sweep_id=sweep).sections}
    [panel] = sections["contrast"].figure.panels
    assert [list(trace.x) for trace in panel.plot.data] == [[4, 16, 64]]


@pytest.mark.parametrize("looks", ["step.accepted(0)", "step.confidence(0, 2)"])
def test_a_policy_that_peeks_is_a_no(looks: str, tmp_path: Path) -> None:
    """Exit 1, as where χ² finds it, and not 2, as where a file is wrong."""
    (tmp_path / "peek.py").write_text(
        "from simulator.policies import Policy\n\n\nclass Peek(Policy):\n    reads_confidences = True\n\n"
        f"    def admit(self, step):\n        step.admit(0, {looks} > 0.5)\n"
    )
    done = CliRunner().invoke(app, ["check-policy", f"{tmp_path / 'peek.py'}:Peek", "--texts", "10000"])
    assert done.exit_code == 1
    said = done.stderr.splitlines()[-1]
    assert said.count("Peek#") == 1
    assert "line 8: looks at" in said


@pytest.mark.slow
def test_it_is_kept_with_what_it_did_and_nothing_is_run_from_there(tried: Tried) -> None:
    """Another process, without the file, shows everything; only what goes on with it needs it as it was."""
    folder, sweep = tried
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
        study = unfinished(folder, sweep)
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


def unfinished(folder: Path, sweep: str) -> str:
    """The study; it and the sweep are as if they had been stopped before their last trials and point."""
    with Store(folder / "runs" / "specyard.duckdb").writing() as con:
        con.execute("UPDATE sweeps SET finished_at = NULL WHERE sweep_id = ?", [sweep])
        con.execute("DELETE FROM simulations WHERE policy LIKE 'halfway%' AND users = 4 AND sweep_id = ?", [sweep])
        [(study,)] = con.execute("UPDATE studies SET finished_at = NULL RETURNING study_id").fetchall()
        con.execute("DELETE FROM trials WHERE number > 0")
    return str(study)


def change(root: Path, page: str) -> None:
    """Apply the changes of a page: hunks without line numbers, whose first lines stand in a file once."""
    for block in blocks("diff", page):
        for name, hunks in re.findall(r"^--- (\S+)\n(.*?)(?=^--- |\Z)", block, re.DOTALL | re.MULTILINE):
            text = (root / name).read_text(encoding="utf-8")
            for hunk in hunks.split("@@\n"):
                lines = hunk.splitlines()
                before = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
                after = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
                assert text.count(before) == 1, (name, before)
                text = text.replace(before, after)
            (root / name).write_text(text, encoding="utf-8")


def test_what_the_page_adds_fits_where_it_says(tmp_path: Path) -> None:
    """Every hunk stands once in its file, and what comes of all of them is Python."""
    here = Path(__file__).parents[1]
    names = set(re.findall(r"^--- (\S+)$", ADDED, re.MULTILINE))
    assert len(names) > 5
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(here / name, tmp_path / name)
    change(tmp_path, ADDED)
    for name in names:
        if name.endswith(".py"):
            compile((tmp_path / name).read_text(encoding="utf-8"), name, "exec")


@pytest.mark.slow
def test_every_seam_takes_what_the_page_adds_to_it(tmp_path: Path) -> None:
    """All of it at once, in a copy of the package: the files, the lines, then the commands, as they stand there."""
    here = Path(__file__).parents[1]
    left_out = shutil.ignore_patterns("__pycache__", ".git", "runs", ".venv", "*.egg-info")
    for name in ("docs", "drafters", "harness", "results", "simulator", "suites", "tests", "tuner"):
        shutil.copytree(here / name, tmp_path / name, ignore=left_out)
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(here / name, tmp_path)
    for name, text in files(ADDED):
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text, encoding="utf-8")
    change(tmp_path, ADDED)
    [pair] = re.findall(r"^    # echo\.yaml\n((?:    .*\n)+)", ADDED, re.MULTILINE)
    (tmp_path / "echo.yaml").write_text(textwrap.dedent(pair), encoding="utf-8")
    said = {line: _in_copy(tmp_path, line) for line in [f"harness {RUN}", *_lines(ADDED)]}
    told = "\n".join(said.values())
    assert ": lossless as far as " in told
    assert "swift serve " in told
    assert re.search(r"run \w+: [\d,]+ tokens", told)
    reports = [file.read_text(encoding="utf-8") for file in (tmp_path / "runs").glob("*/report.html")]
    assert any("How long responses are" in text for text in reports)
    with Store(tmp_path / "runs" / "specyard.duckdb").reading() as con:
        simulated = con.execute("SELECT DISTINCT drafter, policy FROM simulations WHERE error IS NULL").fetchall()
    assert {"half", "none"} <= {policy for _, policy in simulated}
    assert "echo" in {drafter for drafter, _ in simulated}


def _lines(page: str) -> list[str]:
    """The commands of a page, short of what takes long and shows no more."""
    found = re.findall(r"^    ((?:harness|tuner|python -m pytest) .*)$", page, re.MULTILINE)
    short = " --seconds 5 --decision-draws 10"
    return [
        f"{line}{short}{' --drafter dspark' if '--policy' in line else ''}" if line.startswith("harness simulate") else line
        for line in found
    ]


def _in_copy(root: Path, line: str) -> str:
    words = shlex.split(line)
    command = words[1:] if words[0] == "python" else ["-m", *words]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=root, env=environment)
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    return done.stdout
