"""Every option of every command, given what nobody means: exit 0, or 2 with one sentence, and the database as it was.

Commands run in process, up to where a model is loaded or a cluster is started: what is wrong must have been said by then.
"""

from __future__ import annotations

import inspect
import itertools
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import duckdb
import pytest
import typer
from typer.testing import CliRunner

from harness.cli.app import app as harness
from tests.harness.served.writing import write_served
from tuner.cli.app import app as tuner

APPS = {"harness": harness, "tuner": tuner}
SECONDS = 180
"""What one command may take before it is called hanging."""
WORDS = (
    "", " ", ",", "nan", "-1", "0", "1e999", "☃", "a=b=c", "=", "x" * 5000, "../../etc/passwd", "%s", "none", "latest",
    "1..", "5..1", "1,,2", "math=nan", "math=1,math=2", "tps>=nan", "fixed:99", "fixed:-1", "k_by_batch:", "\udcff",
    "no.py:P", "own.py:P", "bad.py:P",
    "{}", "[1]", "eagle3=", "0.5,0.9", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", "[bold]", "'; DROP TABLE runs; --",
)  # fmt: skip
WHOLE = ("-1", "0", "1.5", "nan", "", "abc", "99999999999", "999999999999999999999", "-999999999999999999999", "1e3")
REAL = ("-1", "0", "nan", "inf", "-inf", "", "abc", "1e308", "-1e308", "1e-300", "1,5")
CONTENTS = (
    b"", b"\xff\xfe\x00", b"{", b"[]", b"null", b"{}", b"NaN", b"a,b\n1\n", b'{"a": 1}\n' * 3, b"\xef\xbb\xbf{}",
    b"- 1\n- 2\n", b"\x00" * 64, b"arrival_s,prompt_tokens,output_tokens\n0,1e400,-5\n",
)  # fmt: skip
"""Of files that are not what is asked for."""
RUN = (
    "harness",
    "synthesize",
    "--survival",
    ".7,.5",
    "--drafter",
    "mtp",
    "--responses-per-task",
    "40",
    "--output-tokens",
    "32",
)
SMALL = {"--hardware": "h100/qwen3-4b", "--seconds": "1", "--drafter": "mtp"}
SEARCH = {
    **SMALL,
    "--concurrency": "2",
    "--trials": "2",
    "--confirmation-draws": "5",
    "--decision-draws": "10",
    "--policy": "fixed",
}
BASES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "harness record": (("suites/math_code_chat",), {"--limit": "1"}),
    "harness run": (("suites/math_code_chat",), {"--limit": "1"}),
    "harness simulate": (("latest",), {**SMALL, "--concurrency": "2", "--decision-draws": "0", "--policy": "none,fixed:1"}),
    "harness profile": ((), {"--time-limit": "1"}),
    "harness regenerate": ((), {"--target": "tiny", "--prompts": "suites/math_code_chat/prompts/gsm8k.jsonl"}),
    "harness synthesize": ((), dict(zip(RUN[2::2], RUN[3::2], strict=True))),
    "harness check-policy": (("threshold:0.5",), {"--texts": "10000"}),
    "harness doctor": (("drafters/tiny/dspark",), {"--target": "tiny"}),
    "harness convert": (("drafters/tiny/dspark",), {"--to": "speculators", "--target": "tiny"}),
    "harness compare": (("latest", "latest"), {}),
    "harness baseline": (("latest", "new.json"), {}),
    "harness sensitivity": (("latest",), {**SMALL, "--concurrency": "2"}),
    "harness reproduce": (("field",), {}),
    "harness hardware fit": (("measured.csv",), {"--base": "h100/qwen3-4b"}),
    "harness hardware show": (("h100/qwen3-4b",), {}),
    "harness advise": (("served.log",), {}),
    "harness import": (("answers.jsonl",), {"--drafter": "eagle3"}),
    "harness predict": (("measured.csv",), {"--base": "h100/qwen3-4b"}),
    "harness train": (("dspark",), {"--target": "tiny", "--responses": "trained.jsonl"}),
    "tuner search": ((), SEARCH),
}
"""Arguments and options of a command that is right, and quick; others are right without any."""
BASES |= {
    f"harness train {option}": (("dspark",), {"--target": "qwen3-4b", "--dry-run": ""})
    for option in ("--hardware", "--gpus", "--tokens", "--sequence-tokens")
}
"""Those of an option that is right in another command alone."""
ANSWERS = {
    "harness compare": {0, 1, 2, 3},
    "harness check-policy": {0, 1, 2},
    "harness doctor": {0, 1, 2},
    "harness advise": {0, 1, 2, 3},
    **{key: {0, 1, 2} for key in ("tuner search", "tuner show", "tuner export")},
}
"""Exit codes; 0 and 2 where none are named."""


WORK = (
    "harness.recording.run.joined", "harness.recording.regenerate.joined", "drafters.target.Target.load",
    "harness.cluster.Pool.__init__",
    "harness.published.field.predict.reproduce_field",
)  # fmt: skip
"""Where work begins that takes long."""
SIMULATING = (
    "simulator.simulation.ready", "harness.sweeps.work.ready", "harness.sweeps.sensitivity.ready", "tuner.search.ready",
    "harness.validation.run.ready",
)  # fmt: skip
"""Where simulating begins: in a fast run some values go further, to the end; a row of what was begun may be stored."""


class Reached(BaseException):
    """The command has checked what it was given and begins to work."""


class Simulating(BaseException):
    """The command has checked what it was given and begins to simulate."""


class Hung(BaseException):
    """It does not end."""


@dataclass(frozen=True, slots=True)
class Option:
    """One parameter of a command."""

    command: str
    name: str
    """As it is written, --seed; of an argument its place, from 0."""
    values: tuple[str, ...]
    """What nobody means."""

    def __str__(self) -> str:
        return f"{self.command} {self.name}"


def options() -> list[Option]:
    """All parameters of all commands."""
    found = []
    for program, app in APPS.items():
        for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
            hints, arguments = get_type_hints(command.callback), itertools.count()
            for parameter in command.params:
                if parameter.name in inspect.signature(command.callback).parameters:
                    optional = parameter.param_type_name == "option"
                    written = parameter.opts[0] if optional else str(next(arguments))
                    found.append(Option(f"{program} {name}", written, _hostile(hints[parameter.name])))
    return found


def _hostile(hint: Any) -> tuple[str, ...]:
    kinds = {kind for kind in (hint, *get_args(hint)) if kind is not type(None)}
    if bool in kinds:
        return ()
    if any(get_origin(kind) is Literal for kind in kinds):
        return "", "nope"
    if int in kinds:
        return WHOLE
    if float in kinds:
        return REAL
    return (*WORDS, "FOLDER", *(f"FILE{i}" for i in range(len(CONTENTS))))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a sweep and a study in its database."""
    folder = tmp_path_factory.mktemp("recorded")
    for program, command, *arguments in (
        RUN, ("harness", "simulate", *_flat(BASES["harness simulate"][1])), ("tuner", "search", *_flat(SEARCH))
    ):  # fmt: skip
        done = CliRunner().invoke(APPS[program], [command, *arguments, "--out", str(folder / "runs")])
        assert done.exit_code == 0, (command, done.output)
    return folder


@pytest.fixture
def here(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it to break, as the current folder; work is not reached, and nothing takes for ever."""
    folder = tmp_path / "here"
    shutil.copytree(recorded, folder)
    suites = Path(__file__).parents[1] / "suites"
    (folder / "suites").symlink_to(suites)
    (folder / "FOLDER").mkdir()
    for i, content in enumerate(CONTENTS):
        (folder / f"FILE{i}").write_bytes(content)
    (folder / "own.py").write_text("class P: pass\n")
    (folder / "measured.csv").write_text("concurrency,output_tok_s\n1,100\n8,700\n16,\n")
    write_served(folder)
    (folder / "trained.jsonl").write_text(
        '{"temperature": 1}\n{"prompt_id": "t/0", "token_ids": [5, 6], "finish": "length", "prompt_token_ids": [4]}\n'
    )
    (folder / "bad.py").write_text("raise RuntimeError('no')\n")
    monkeypatch.chdir(folder)

    def reached(*_: object, **__: object) -> None:
        raise Reached

    def hung(*_: object) -> None:
        raise Hung

    for place in WORK:
        monkeypatch.setattr(place, reached)
    before = signal.signal(signal.SIGALRM, hung)
    yield folder
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, int]:
    """Rows by table. A database that nobody has written to is not read again."""
    file = folder / "runs" / "specyard.duckdb"
    return _rows(file, file.stat().st_mtime_ns, file.with_name(f"{file.name}.wal").exists())


@cache
def _rows(file: Path, *_: object) -> dict[str, int]:
    with duckdb.connect(str(file), read_only=True) as con:
        tables = [name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {name: con.execute(f'SELECT count(*) FROM "{name}"').fetchall()[0][0] for name in tables}


def _flat(options: dict[str, str]) -> list[str]:
    return [f"{name}={value}" if value else name for name, value in options.items()]


def line_of(option: Option, value: str) -> list[str]:
    """The command with the option given so, and the others right."""
    arguments, others = BASES.get(str(option), BASES.get(option.command, ((), {})))
    given, named = list(arguments), {name: v for name, v in others.items() if name != option.name}
    if option.name.isdigit():
        place = int(option.name)
        given[place : place + 1] = [value]
        return [*option.command.split()[1:], *_flat(named), "--", *given]
    return [*option.command.split()[1:], *_flat(named), f"{option.name}={value}", "--", *given]


def trouble(option: Option, value: str, folder: Path) -> str:
    """What is wrong with how a command takes a value; empty if nothing is."""
    before = contents(folder)
    program = option.command.split()[0]
    signal.alarm(SECONDS)
    try:
        done = CliRunner().invoke(APPS[program], line_of(option, value))
    except Reached:
        return "" if contents(folder) == before else "the database has changed before any work was done"
    except Simulating:
        return ""
    except Hung:
        return f"nothing for {SECONDS} seconds"
    finally:
        signal.alarm(0)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return f"{type(done.exception).__name__}: {done.exception}"
    if done.exit_code not in ANSWERS.get(option.command, {0, 2}):
        return f"exit {done.exit_code}: {done.stderr[-300:]}"
    if done.exit_code == 2:
        if "Traceback" in done.stderr:
            return "a traceback"
        said = [line for line in done.stderr.splitlines() if line.startswith((f"{program}: ", "Usage: ", "╭─ Error"))]
        if not said:
            return f"no sentence: {done.stderr[-300:]}"
        if contents(folder) != before:
            return "the database has changed"
    return ""


EVERY = [option for option in options() if option.values]
"""All but switches, which have no value."""
FEW = 1
"""Values of each option in a fast run, which goes to its end."""


@pytest.mark.parametrize("option", EVERY, ids=str)
def test_what_nobody_means_is_refused_in_a_sentence(option: Option, here: Path) -> None:
    some = random.Random(str(option)).sample(option.values, min(FEW, len(option.values)))
    assert not {value: said for value in some if (said := trouble(option, value, here))}


@pytest.mark.slow
@pytest.mark.parametrize("option", EVERY, ids=str)
def test_whatever_nobody_means_is_refused_in_a_sentence(option: Option, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def simulating(_: object) -> None:
        raise Simulating

    for place in SIMULATING:
        monkeypatch.setattr(place, simulating)
    assert not {value: said for value in option.values if (said := trouble(option, value, here))}


def test_no_command_is_left_out() -> None:
    """Every command has options here; the counts are printed by `pytest -s`."""
    commands = {f"{program} {name}" for program, app in APPS.items() for name in typer.main.get_command(app).commands}  # type: ignore[attr-defined]
    assert {option.command for option in EVERY} == commands
    assert {key.partition(" --")[0] for key in BASES} <= commands
    print(f"{len(EVERY)} options of {len(commands)} commands, {sum(len(o.values) for o in EVERY)} values")
