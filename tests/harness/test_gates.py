"""`harness compare` as a gate, and `harness baseline`: exit codes, forms of output, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import duckdb
import msgspec
import numpy as np
import pytest
import typer
import yaml
from rich.cells import cell_len
from typer.testing import CliRunner, Result

from harness.cli import changes
from harness.cli.app import app
from harness.cli.compare import parse_tolerance
from results.gate import judge
from results.store.commands import DEFAULT_OUT, typed
from results.store.database import Store
from simulator.errors import InputError
from tests.results.database import ACCEPTANCE, RUN, recorded
from tests.results.sums import compared, drawn, prompts
from tuner.cli.app import app as tuner_app

TWO = {"old": 7, "new": 7, "none": 0}
WORKFLOW = Path(__file__).parents[2] / "docs" / "ci" / "specyard.yml"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of `old` and `new`, the latter worse: one, the same again, `new` worse still, one unfinished, other draws."""
    folder = tmp_path_factory.mktemp("runs")
    with Store(folder / "specyard.duckdb").writing():
        pass
    kinds = {"old": "eagle3", "new": "eagle3"}
    law = ACCEPTANCE | {"old": 0.8, "new": 0.7}
    with duckdb.connect(str(folder / "specyard.duckdb")) as con:
        recorded(TWO, con=con, acceptance=law, kinds=kinds, prompts=6)
        recorded(TWO, con=con, run="5a3e", acceptance=law, kinds=kinds, prompts=6)
        recorded(TWO, con=con, run="beef", acceptance=law | {"new": 0.4}, kinds=kinds, prompts=6)
        recorded(TWO, con=con, run="c07e", acceptance=law, kinds=kinds, prompts=6, finished=False)
        recorded(TWO, con=con, run="d1ce", acceptance=law, kinds=kinds, prompts=6, seed=1)
        con.execute("UPDATE runs SET created_at = '2026-01-01' WHERE run_id <> 'beef'").fetchall()
    return folder


def harness(out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--out", str(out)])


def gated(out: Path, *arguments: str, tolerance: str = "2%") -> Result:
    return harness(out, "compare", *arguments, "--fail-on-regression", tolerance)


@pytest.fixture(scope="module")
def base(out: Path) -> Path:
    file = out / "base.json"
    result = harness(out, "baseline", RUN, str(file))
    assert result.exit_code == 0, result.output
    assert "36 prompts with old, new" in result.stdout
    return file


def test_the_four_answers(out: Path, base: Path) -> None:
    answers = {
        "pass": (gated(out, RUN, "5a3e"), 0),
        "worse": (gated(out, str(base)), 1),
        "inconclusive": (gated(out, str(base), "d1ce"), 3),
    }
    for answer, (result, code) in answers.items():
        assert result.exit_code == code, result.output
        assert f"\n{answer}: " in result.stdout
    assert "prompts a task, 6 now" in answers["inconclusive"][0].stdout
    assert gated(out, str(base), "d1ce", "--allow-inconclusive").exit_code == 0
    assert gated(out, str(base), "beef", "--allow-inconclusive").exit_code == 1
    assert gated(out, str(base), "c07e").exit_code == 2


def test_old_against_new_of_one_recording(out: Path) -> None:
    worse = gated(out, RUN, "--drafters", "old,new")
    assert worse.exit_code == 1, worse.output
    assert "old → new γ=7" in worse.stdout
    assert gated(out, RUN, "--drafters", "new,old").exit_code == 0


def test_markdown_has_the_answer_on_top_and_one_row_each(out: Path, base: Path) -> None:
    found = json.loads(gated(out, str(base), "--json").stdout)
    lines = gated(out, str(base), "--markdown").stdout.splitlines()
    assert lines[0].startswith("**worse: new γ=7")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(found["changes"])
    assert len({line.count("|") for line in table}) == 1
    assert harness(out, "compare", str(base), "--markdown").stdout.count("\n|") == len(table)


def test_how_many_prompts_a_gate_needs_is_told_by_the_task_on_any_terminal(
    out: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    monkeypatch.setattr(changes, "plain_console", lambda: Console(width=80, highlight=False))
    found = json.loads(gated(out, str(base), "d1ce", "--json").stdout)
    rows = [row for row in found["gate"]["rows"] if row["decides"] and row["outcome"] == "inconclusive"]
    assert rows
    for row in rows:
        told = f"takes {row['prompts_needed']:,} prompts a task, 6 now"  # of 36 in six tasks
        assert told in " ".join(gated(out, str(base), "d1ce").stdout.split())
        assert told in gated(out, str(base), "d1ce", "--markdown").stdout
    head = next(line for line in gated(out, str(base), "d1ce", "--markdown").stdout.splitlines() if line.startswith("|"))
    assert head.endswith("| prompts needed a task |")


def test_what_a_close_call_takes_is_told_too() -> None:
    """Where the loss asked for could have been seen, and what was seen is close to it."""
    rng = np.random.default_rng(3)
    close = 0
    for _ in range(30):
        means = prompts(rng, 30, spread=0.1)
        gate = judge(compared(drawn(rng, means), drawn(rng, means, loss=0.05)), 0.05)
        [row] = [row for row in gate.rows if row.decides]
        if gate.outcome == "inconclusive" and row.prompts_needed is not None and row.prompts_needed > 30:
            assert row.change.sees is not None
            close += row.change.sees <= 0.05
            assert f"takes {row.prompts_needed:,} prompts a task, 30 now" in changes.sentences(gate)[0]
    assert close > 3


def test_every_drafter_that_is_gone_is_named_once() -> None:
    """However many rows each of them had."""
    rng = np.random.default_rng(0)
    names = ("dflash", "dspark", "eagle3", "mtp", "ngram", "suffix")
    whole = drawn(rng, prompts(rng, 40, spread=0.01), drafters=names)
    left = msgspec.structs.replace(whole, recordings=whole.recordings[1:2])
    [told, *_] = changes.sentences(judge(compared(whole, left), 0.1))
    assert [told.count(f"{name} γ=7") for name in names] == [1, 0, 1, 1, 1, 1]
    assert "more" not in told


def test_drafts_that_are_decided_by_come_first() -> None:
    rng = np.random.default_rng(0)
    whole = drawn(rng, prompts(rng, 4))
    [one] = whole.recordings
    both = msgspec.structs.replace(whole, recordings=(msgspec.structs.replace(one, drafting="greedy"), one))
    labels = list(dict.fromkeys(change.drafter for change in compared(both, both).changes))
    assert labels == ["dspark", "dspark (greedy drafts)"]


@pytest.mark.parametrize(
    ("run", "options", "code"), [("5a3e", (), 0), ("beef", (), 1), ("d1ce", (), 3), ("d1ce", ("--allow-inconclusive",), 0)]
)
def test_junit_fails_exactly_where_the_gate_does(
    out: Path, base: Path, tmp_path: Path, run: str, options: tuple[str, ...], code: int
) -> None:
    """A CI that reads the file alone merges what the exit code lets merge; what fails is what decided."""
    file = tmp_path / "gate.xml"
    result = gated(out, str(base), run, "--junit", str(file), "--json", *options)
    assert result.exit_code == code
    gate = json.loads(result.stdout)["gate"]
    [suite] = ElementTree.parse(file).getroot().findall("testsuite")
    cases = suite.findall("testcase")
    assert len(cases) == int(suite.attrib["tests"]) == len(gate["rows"])
    failing = {0: "", 1: "worse", 3: "inconclusive"}[code]
    for case, row in zip(cases, gate["rows"], strict=True):
        failure, skipped = case.find("failure"), case.find("skipped")
        fails = row["outcome"] == failing and (failing == "worse" or row["decides"])
        assert (failure is not None) == fails
        assert failure is None or failure.attrib["type"] == failing
        assert (skipped is not None) == (not fails and row["outcome"] != "pass")
    for name, count in (("failures", "failure"), ("skipped", "skipped")):
        assert int(suite.attrib[name]) == len(suite.findall(f"testcase/{count}"))
    assert (int(suite.attrib["failures"]) > 0) == (code != 0)


def test_why_an_interval_without_0_may_be_no_clear_change_is_told_under_the_table(out: Path, base: Path) -> None:
    """With a gate or without, in any form."""
    for options in ((), ("--markdown",), ("--fail-on-regression", "2%"), ("--fail-on-regression", "2%", "--markdown")):
        lines = harness(out, "compare", str(base), "d1ce", *options).stdout.splitlines()
        [place] = [i for i, line in enumerate(lines) if "interval is its row's alone" in line]
        assert "verdicts hold for all rows together" in " ".join(lines[place:])
        assert any("livecodebench" in line for line in lines[:place])
        assert not any("livecodebench" in line and line.startswith(("|", "  ")) for line in lines[place:])


@pytest.mark.parametrize("gate", [True, False])
def test_a_line_a_row_at_80_columns(
    out: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gate: bool
) -> None:
    from rich.console import Console

    monkeypatch.setattr(changes, "plain_console", lambda: Console(width=80, highlight=False))
    result = gated(out, str(base)) if gate else harness(out, "compare", str(base))
    rows = [line for line in result.stdout.splitlines() if line.startswith(("  ", "accepted"))]
    assert len(rows) > 15
    assert max(cell_len(line) for line in rows) <= 80
    assert all("livecodebench" not in line or line.count("%") >= 3 for line in rows)
    told = " ".join(result.stdout.split())
    head = next(line for line in result.stdout.splitlines() if line.startswith("accepted length"))
    assert "verdict" in head
    assert ("gate" in head) == gate
    gone = [name for name in ("before", "after", "could see") if name not in head]
    assert bool(gone) == gate
    left_out = told.partition("(a wider terminal has also: ")[2].partition(")")[0]
    assert [name for name in left_out.split(", ") if name] == [*gone, *(["prompts needed a task"] if gate else [])]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("compare", RUN, "beef", "--fail-on-regression", "much"), "--fail-on-regression much: is written as 2% or 0.02"),
        (("compare", RUN, "beef", "--fail-on-regression", "0"), "must be above 0 and below 100 %"),
        (("compare", RUN, "beef", "--junit", "x.xml"), "--junit: is of a gate; add --fail-on-regression"),
        (("compare", RUN, "beef", "--allow-inconclusive"), "--allow-inconclusive: is of a gate"),
        (("compare", RUN, "beef", "--json", "--markdown"), "--markdown and --json"),
        (("compare", RUN, "beef", "--fail-on-regression", "2%", "--junit", "no/where.xml"), "--junit no/where.xml"),
        (("compare", RUN, "--drafters", "old"), "--drafters old: is written old,new"),
        (("compare", RUN, "beef", "--drafters", "old,new"), "compares within one run; leave beef out"),
        (("compare", RUN, "--drafters", "old,mtp"), "has no recordings of mtp; it has"),
        (("compare", "gone.json"), "gone.json: cannot be read"),
        (("compare", RUN, "c07e", "--fail-on-regression", "2%"), "run c07e is not finished"),
        (("baseline", "c07e", "x.json"), "run c07e: is not finished"),
        (("baseline", RUN, "x.txt"), "ends in .json"),
        (("baseline", RUN, "/dev/null/where.json"), "/dev/null: is no folder"),
    ],
)
def test_what_cannot_be_judged_is_one_sentence_and_leaves_nothing(
    out: Path, arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = harness(out, *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_suggested_can_be_pasted(out: Path, base: Path, tmp_path: Path) -> None:
    """From folders and files with blanks in their names; what it then says is about this database."""
    folder = tmp_path / "my runs"
    folder.mkdir()
    (folder / "specyard.duckdb").write_bytes((out / "specyard.duckdb").read_bytes())
    later = harness(folder, "baseline", RUN, str(tmp_path / "my base.json")).stdout.splitlines()[-1]
    unfinished = harness(folder, "baseline", "c07e", str(tmp_path / "x.json")).stderr
    unknown = harness(folder, "remove", "gone").stderr
    for line, code in ((later, 1), (re.findall("`(.*?)`", unfinished)[0], None), (re.findall("`(.*?)`", unknown)[0], 0)):
        program, command, *arguments = shlex.split(line)
        assert program == "harness"
        assert arguments[-2:] == ["--out", str(folder)]
        if code is None:  # it would record: as far as that is understood
            typer.main.get_command(app).commands[command].make_context(command, arguments)  # type: ignore[attr-defined]
        else:
            assert CliRunner().invoke(app, [command, *arguments]).exit_code == code


def test_the_default_folder_is_not_told_and_is_that_of_every_command() -> None:
    assert typed("harness", "runs", out=Path("runs")) == "harness runs"
    for program in (app, tuner_app):
        for name, command in typer.main.get_command(program).commands.items():  # type: ignore[attr-defined]
            if name != "convert":  # which has no database: its folder is the checkpoint that it writes
                assert {p.default for p in command.params if p.name == "out"} <= {DEFAULT_OUT}


def test_a_baseline_of_another_key_is_named(out: Path, base: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(base.read_text().replace('"seed": 0', '"seed": 5'))
    result = harness(out, "compare", str(file))
    assert result.exit_code == 2
    assert "is of another key than run beef, so they cannot be compared: seed (5 → 0)" in result.stderr


def test_a_gate_names_no_folder_of_this_machine(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a target in a folder its last part, in every form; and the line that names it fits a terminal."""
    own, file, target = tmp_path / "runs", tmp_path / "gate.xml", tmp_path / "C Pair" / "Target"
    shutil.copytree(out, own)
    with duckdb.connect(str(own / "specyard.duckdb")) as con:
        con.execute("UPDATE runs SET target = ?", [json.dumps({"source": str(target)})]).fetchall()
    for name, value in {"COLUMNS": "80", "FORCE_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    done = gated(own, RUN, "5a3e", "--junit", str(file))
    assert done.exit_code == 0, done.output
    assert [line for line in done.stdout.splitlines() if cell_len(line) > 80] == []
    for text in (done.stdout, gated(own, RUN, "5a3e", "--markdown").stdout, file.read_text()):
        assert str(tmp_path) not in text
        assert "target Target," in " ".join(text.split())


@pytest.mark.parametrize(("text", "value"), [("2%", 0.02), ("0.02", 0.02), ("0.5%", 0.005)])
def test_tolerances_as_users_write_them(text: str, value: float) -> None:
    assert parse_tolerance(text) == pytest.approx(value)


@pytest.mark.parametrize("wrong", ["-1%", "200%", "a lot", "nan", "0%", "100%", "", "%"])
def test_what_is_no_tolerance(wrong: str) -> None:
    with pytest.raises(InputError, match="--fail-on-regression"):
        parse_tolerance(wrong)


def test_the_workflow_runs_commands_that_exist() -> None:
    steps = [step for job in yaml.safe_load(WORKFLOW.read_text())["jobs"].values() for step in job["steps"]]
    typed = [line.split() for step in steps for line in step.get("run", "").splitlines() if "harness " in line]
    assert [words[1] for words in typed] == ["record", "compare"]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for words in typed:
        options = {option for parameter in commands[words[1]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
