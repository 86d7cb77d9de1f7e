"""Options that were called otherwise work for one release, with a note; hints name the command in today's words."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from harness import stops
from harness.cli.app import app as harness
from harness.spellings import FORMER, renewed
from tuner.cli.app import app as tuner

APPS = {"harness": harness, "tuner": tuner}
COMMANDS = {
    f"{program} {name}": command
    for program, app in APPS.items()
    for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
}
EVERY = [(command, old, new) for command, names in FORMER.items() for old, new in names.items()]


def takes_value(command: str) -> dict[str, bool]:
    options = [p for p in COMMANDS[command].params if p.param_type_name == "option"]
    return {spelling: not getattr(p, "is_flag", False) for p in options for spelling in p.opts}


@pytest.mark.parametrize(("command", "old", "new"), EVERY)
def test_old_names_become_todays(command: str, old: str, new: str) -> None:
    known = takes_value(command)
    assert old not in known
    others = ["--out", old, "word"]  # a value may look like an option
    if new.startswith("-"):
        assert new in known
        assert renewed(command, [old, "8", "--out", old], known)[0] == [new, "8", "--out", old]
        assert renewed(command, [f"{old}=8", *others], known)[0] == [f"{new}=8", *others]
    else:
        assert new in [p.metavar for p in COMMANDS[command].params]
        assert renewed(command, [old, "8", "--out", old], known)[0] == ["8", "--out", old]
        assert renewed(command, ["--out", old, f"{old}=8"], known)[0] == ["--out", old, "8"]
    given = [new, "9"] if new.startswith("-") else ["9"]
    for words in ([*given, old, "8"], [old, "8", *given], [f"{old}=8", *given]):
        with pytest.raises(ValueError, match=f"{old}: is .*{new} now, which is given too"):
            renewed(command, words, known)
    _, notes = renewed(command, [old, "8", old, "9"], known) if new.startswith("-") else renewed(command, [old, "8"], known)
    assert len(notes) == 1
    assert old in notes[0]
    assert new in notes[0]
    assert renewed(command, ["--", old], known) == (["--", old], [])
    assert renewed(command, [], known) == ([], [])


@pytest.mark.parametrize(("command", "old", "new"), EVERY)
def test_commands_take_them_with_a_note_on_stderr(command: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called with its old name an option fails as it does with its new one: its value is one that nobody means."""
    told: dict[str, list[str]] = {}
    for name in (old, new):
        program, verb = command.split()
        words = [verb, "--out", "nowhere", name, "☃"] if name.startswith("-") else [verb, "--out", "nowhere", "☃"]
        done = CliRunner().invoke(APPS[program], words)
        assert (done.exit_code, done.stdout) == (2, ""), done.output
        told[name] = done.stderr.splitlines()
    assert told[old][0] == f"note: {old} is {'called' if new.startswith('-') else 'the argument'} {new} now; " + (
        "the old name goes with the next release"
    )
    assert told[old][1:] == told[new]


def test_both_names_are_refused_in_a_sentence() -> None:
    done = CliRunner().invoke(tuner, ["search", "--load=8", "--concurrency", "8"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "tuner: --load: is called --concurrency now, which is given too; leave --load out\n"


def test_hints_name_the_command_in_todays_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said when a command is stopped: both `--resume` with what may stand beside it, and the same command again."""
    shown: list[Any] = []
    monkeypatch.setattr(stops, "_command", stops._Command("tuner", ()))
    monkeypatch.setattr("tuner.cli.search._cluster", lambda *_: shown.append(None) or stop())

    def stop() -> None:
        for resume in ("3f9c", None):
            stops.keep("study 3f9c", resume)
            shown.append(stops.way_on())
        raise typer.Exit

    CliRunner().invoke(tuner, ["search", "--traces", "latest", "--load=8", "--timeout", "60", "--out", "my runs"])
    assert [line and line.partition("go on with: ")[2] for line in shown] == [
        None,
        "tuner search --resume 3f9c --time-limit 60 --out 'my runs'",
        "tuner search latest --concurrency=8 --time-limit 60 --out 'my runs'",
    ]


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("harness report --s", "--study --sweep"), ("tuner search --load 5 --concurrency 4 --conf", "--confirmation-draws")],
)
def test_completion_goes_on(typed: str, completed: str) -> None:
    program, *words = typed.split()
    asked = {f"_{program.upper()}_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words))}
    code = f"import sys; sys.argv = ['{program}']; from {program}.__main__ import main; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **asked})
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, completed.split(), "")


@pytest.mark.parametrize("program", APPS)
def test_what_every_program_understands(program: str) -> None:
    code = (
        f"import sys; sys.argv = ['{program}', '--version']; from {program}.__main__ import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'ray', 'duckdb', 'numpy', 'polars'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"specyard {version('specyard')}\n", "")
    for command in ("", *(name.split()[1] for name in COMMANDS if name.startswith(program))):
        short, long = (CliRunner().invoke(APPS[program], [*filter(None, [command]), h]) for h in ("-h", "--help"))
        assert (short.exit_code, short.stdout) == (0, long.stdout)
        assert "Usage" in short.stdout


def test_one_word_for_one_thing() -> None:
    """An option of one name takes the same kind of value in every command."""
    kinds: dict[str, set[bool]] = {}
    for command, parameters in ((name, c.params) for name, c in COMMANDS.items()):
        for p in parameters:
            if p.param_type_name == "option" and command != "tuner export":  # whose --concurrency picks one load
                for spelling in p.opts:
                    kinds.setdefault(spelling, set()).add(bool(getattr(p, "multiple", False)))
    several = {name for name, found in kinds.items() if len(found) > 1}
    assert several == {"--drafter", "--drafting"}  # synthesize makes one drafter; only recordings hold several ways to draft
