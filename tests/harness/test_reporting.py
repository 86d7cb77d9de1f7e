"""`harness report` and `harness compare` as commands: which runs, which files, which exit codes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner, Result

from harness.cli.app import app
from results.report.compose import compose
from results.store.database import Store
from tests.results.database import ACCEPTANCE, RUN, add_study, add_sweep, recorded

TWO = {"dspark": 7, "none": 0}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, the second with a drafter that is worse; the first with a sweep and a study."""
    folder = tmp_path_factory.mktemp("runs")
    with Store(folder / "specyard.duckdb").writing():
        pass
    with duckdb.connect(str(folder / "specyard.duckdb")) as con:
        recorded(TWO, con=con)
        recorded(TWO, con=con, run="beef", acceptance=ACCEPTANCE | {"dspark": 0.5})
        con.execute("UPDATE runs SET created_at = '2026-01-01' WHERE run_id = 'beef'").fetchall()
        add_sweep(con)
        add_study(con)
    return folder


def harness(out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--out", str(out)])


def test_a_report_by_run_sweep_or_study(out: Path) -> None:
    for arguments in ((), ("latest",), (RUN[:2],), ("--sweep", "5e"), ("--study", "latest")):
        result = harness(out, "report", *arguments)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == str(out / RUN / "report.html")
    both = harness(out, "report", "beef", RUN, "--sweep", "5eed", "--json")
    assert json.loads(both.stdout)["report"] == str(out / "beef" / "report.html")
    assert "2 runs" in (out / "beef" / "report.html").read_text()


@pytest.mark.parametrize("prompts", [1, 4])
def test_the_terminal_ends_in_what_the_report_leads_with(tmp_path: Path, prompts: int) -> None:
    """The same sentence and the same next command, about this database."""
    folder = tmp_path / "my runs"
    with Store(folder / "specyard.duckdb").writing():
        pass
    with duckdb.connect(str(folder / "specyard.duckdb")) as con:
        recorded(TWO, con=con, prompts=prompts)
        answer = compose(con, RUN, out=folder).answer
    assert "Measured on this machine" in answer.headline
    shown = harness(folder, "show", RUN).stdout
    assert answer.headline in shown
    assert f"\n  {answer.next}\n" in shown
    assert answer.next.endswith(shlex.join(["--out", str(folder)]))


def test_figures_as_tables(out: Path) -> None:
    result = harness(out, "report", RUN, "--format", "csv")
    files = [Path(line) for line in result.stdout.split()]
    assert {"frontier.csv", "study.csv", "accepted-length.csv"} <= {file.name for file in files}
    assert all(file.parent == out / RUN / "figures" and file.exists() for file in files)


def test_pictures_without_a_browser_are_refused_in_one_sentence(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("results.report.browser.find_browser", lambda: None)
    result = harness(out, "report", RUN, "--format", "png")
    assert result.exit_code == 2
    assert "pictures are drawn by a browser" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("beef", "--sweep", "5eed"), f"sweep 5eed: is of run {RUN}; name that run too"),
        (("beef", "--study", "57ad"), f"study 57ad: is of run {RUN}; name that run too"),
        (("gone",), "run gone: no such run"),
        ((RUN, "--sweep", "gone"), "sweep gone: no such sweep"),
        ((RUN, "--study", "gone"), "study gone: no such study"),
        ((RUN, "--study", "5eed"), "study 5eed: is a sweep, of which `harness show 5eed` tells all"),
    ],
)
def test_what_is_not_there_is_bad_input(out: Path, arguments: tuple[str, ...], said: str) -> None:
    result = harness(out, "report", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_regression_fails_if_asked_to(out: Path) -> None:
    told = harness(out, "compare", RUN, "beef")
    assert told.exit_code == 0
    assert "worse" in told.stdout
    assert harness(out, "compare", RUN, "beef", "--fail-on-regression", "2%").exit_code == 1
    gone = harness(out, "compare", RUN, "beef", "--fail-on-regression", "90%")  # the first has a sweep
    assert (gone.exit_code, "only in the first" in gone.stdout) == (1, True)
    assert harness(out, "compare", "beef", RUN, "--fail-on-regression", "2%").exit_code == 0
    found = json.loads(harness(out, "compare", RUN, "beef", "--fail-on-regression", "2%", "--json").stdout)
    assert {change["drafter"] for change in found["regressions"]} == {"dspark"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((RUN, "beef", "--fail-on-regression", "much"), "is written as 2% or 0.02"),
        ((RUN, "latest"), f"both are run {RUN}"),
        ((RUN, "gone"), "run gone: no such run"),
    ],
)
def test_a_comparison_of_nothing_is_bad_input(out: Path, arguments: tuple[str, ...], said: str) -> None:
    result = harness(out, "compare", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
