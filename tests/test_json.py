"""`--json` is a contract: every command prints one object, alone on stdout, with the keys that docs/json.md names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from harness.cli.app import app as harness
from harness.console import print_json
from tests.documented import differences, page
from tests.harness.processes import harness as harness_process
from tests.harness.served.writing import write_served
from tuner.cli.app import app as tuner

APPS = {"harness": harness, "tuner": tuner}
RUN = (
    "harness synthesize --survival math=.7,.5 --survival code=.6,.4 --drafter mtp --responses-per-task 40 --output-tokens 32"
)
SMALL = "--hardware h100/qwen3-4b --seconds 1 --drafter mtp"
SWEEP = f"harness simulate {SMALL} --concurrency 2,4 --decision-draws 10 --policy none,fixed:1 --sla tps>=1"
SEARCH = (
    f"tuner search {SMALL} --concurrency 2,4 --trials 2 --confirmation-draws 5 --decision-draws 10 --policy fixed "
    "--sla tps>=1 --actors 0"
)
PRINTED = {
    "harness synthesize": [f"{RUN} --out other"],
    "harness show": ["harness show", "harness show SHOWN"],
    "harness replay": ["harness replay"],
    "harness check-policy": ["harness check-policy threshold:0.5 --texts 10000"],
    "harness simulate": [SWEEP],
    "harness sensitivity": [f"harness sensitivity {SMALL} --concurrency 2 --policy none,fixed:1"],
    "harness hardware": ["harness hardware"],
    "harness hardware list": ["harness hardware list"],
    "harness hardware show": ["harness hardware show b300/deepseek-v4-flash"],
    "harness hardware fit": ["harness hardware fit measured.csv --base h100/qwen3-4b"],
    "harness predict": ["harness predict measured.csv --base h100/qwen3-4b"],
    "harness advise": [
        "harness advise served.log",
        "harness advise served.log --check later.log",
        "harness advise table.log",
        "harness advise answers.jsonl --hardware h100/qwen3-4b --drafter eagle3",
    ],
    "harness train": ["harness train dspark --target qwen3-4b --dry-run"],
    "harness export": ["harness export latest archive"],
    "harness import": ["harness import answers.jsonl --drafter eagle3 --out other", "harness import kept --out other"],
    "harness report": ["harness report", "harness report --format csv"],
    "harness compare": [
        "harness compare base.json latest --fail-on-regression 2% --allow-inconclusive",
        "harness compare base.json latest",
    ],
    "harness baseline": ["harness baseline latest again.json"],
    "harness runs": ["harness runs"],
    "harness rescue": ["harness rescue --to rescued.duckdb"],
    "tuner search": [SEARCH],
    "tuner show": ["tuner show"],
    "tuner export": ["tuner export --format json"],
    "harness prune": ["harness prune --keep 0"],
    "harness remove": ["harness remove REMOVED"],
}
"""Command lines by command, in an order in which nothing that is needed is removed."""
STANDING_ALONE = {
    "harness synthesize", "harness hardware", "harness hardware list", "harness hardware show", "harness check-policy",
    "harness train",
}  # fmt: skip
"""Commands that need nothing to be there."""
ELSEWHERE = {
    "harness record": "tests/harness/test_record.py",
    "harness run": "tests/harness/test_run.py",
    "harness profile": "tests/harness/test_profiling.py",
    "harness doctor": "tests/drafters/test_doctor.py",
    "harness convert": "tests/drafters/test_writing.py",
    "harness regenerate": "tests/harness/test_regenerating.py",
    "harness train": "tests/harness/test_training.py",
    "harness validate": "tests/harness/test_validation.py",
    "harness reproduce": "tests/harness/test_field.py",
}
"""Commands that run a model or take long; their JSON is compared with the page where they are tested."""


def printed(line: str, *, code: int = 0) -> str:
    """What a command prints on stdout."""
    program, *words = line.split()
    words += [] if program == "tuner" and words[0] == "export" else ["--json"]
    done = CliRunner().invoke(APPS[program], words)
    assert done.exit_code == code, (line, done.output, done.exception)
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a sweep, a study and a baseline."""
    made = tmp_path_factory.mktemp("json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        write_served(made)
        rows = "1,none,0,,100,given\n8,none,0,,700,predict\n1,mtp,1,1.7,150,given\n8,mtp,1,1.7,,predict\n"
        Path("measured.csv").write_text(f"concurrency,drafter,drafted_tokens,accepted_length,output_tok_s,role\n{rows}")
        for line in (RUN, SWEEP, SEARCH, "harness baseline latest base.json", "harness export latest kept"):
            printed(line)
    return made


@pytest.mark.parametrize("command", PRINTED)
def test_json_has_the_documented_keys(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for line in PRINTED[command]:
        assert differences(printed(_named(line))) == [], line


def _named(line: str) -> str:
    """A command line with the run that is removed, or a sweep on it that is shown, by name."""
    if not re.search("REMOVED|SHOWN", line):
        return line
    shown = json.loads(printed("harness show"))
    sweep = next((one["id"] for one in shown["on_it"] if one["kind"] == "sweep"), "")
    return line.replace("REMOVED", shown["run"]["run_id"]).replace("SHOWN", sweep)


def test_no_command_and_no_kind_is_left_out() -> None:
    known = {"tuner export"}
    for program, app in APPS.items():
        commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
        known |= {f"{program} {name}" for name, c in commands.items() if any("--json" in p.opts for p in c.params)}
    assert known == set(PRINTED) | set(ELSEWHERE)
    for file in ELSEWHERE.values():
        assert "differences(" in (Path(__file__).parents[1] / file).read_text()
    text = (Path(__file__).parents[1] / "docs" / "json.md").read_text()
    assert not [command for command in known if command not in text]
    assert len(page()) == text.count("\n## ") + text.count("\n### ")


def test_errors_leave_stdout_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command, lines in PRINTED.items():
        if command not in STANDING_ALONE:
            assert printed(lines[0], code=2) == "", command


LOUD = """
import os, subprocess, sys
from simulator.policies import Policy

print("as it is read")
os.write(1, b"by number")
os.fork()

class Loud(Policy):
    def __init__(self):
        subprocess.run(["echo", "another program"])
        os.fork()

    def admit(self, step):
        print("by the stream that was", file=sys.__stdout__, flush=True)
"""


def test_a_file_of_one_s_own_writes_nothing_beside_it(tmp_path: Path) -> None:
    """However it writes; and a process that it forks does not go on to print it a second time."""
    (tmp_path / "loud.py").write_text(LOUD)
    done = harness_process("check-policy", "loud.py:Loud", "--texts", "10000", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["kind"]) == (3, "policy")
    for word in ("as it is read", "by number", "another program", "by the stream that was"):
        assert word in done.stderr


def test_what_json_has_no_word_for(capsys: pytest.CaptureFixture[str]) -> None:
    values: dict[str, Any] = {
        "nan": float("nan"), "far": [float("inf"), np.float64("-inf")], "one": np.float32(1), "count": np.int64(3),
        "file": Path("a/b"),
    }  # fmt: skip
    print_json("runs", values)
    told = capsys.readouterr().out
    assert json.loads(told) == {
        "schema": 1, "kind": "runs", "nan": None, "far": [None, None], "one": 1.0, "count": 3, "file": "a/b"
    }  # fmt: skip


def test_a_key_that_is_new_or_gone_is_named() -> None:
    row = dict.fromkeys(("run", "created", "finished", "suite", "prompts", "pair", "seed", "responses", "failure"))
    fine = {"schema": 1, "kind": "runs", "runs": [row]}
    assert differences(json.dumps(fine) + "\n") == []
    assert differences(json.dumps({**fine, "extra": 1}) + "\n") == ["extra is not in docs/json.md"]
    del row["pair"]
    assert differences(json.dumps(fine) + "\n") == ["runs.[].pair of docs/json.md is gone"]
    assert differences(json.dumps({"kind": "runs", "runs": []}) + "\n") != []
