"""What the commands share with those who wait for them: progress, notes, tables, failures in one sentence."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from harness import spellings, stops
from simulator.errors import AnswerIsNo, InputError

if TYPE_CHECKING:  # these take seconds
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID

    from results.store.database import Store
    from simulator.hardware.profile import Profile


class WorkerDied(RuntimeError):
    """Workers died over the same work again and again, or all that runs them is gone."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """How a run tells the user what it is doing."""

    say: Callable[[str], None]
    """A line of text."""
    advance: Callable[[str, int, int], None]
    """(stage, done, total)."""
    doing: Callable[[str], None] = lambda text: None
    """What is done now, which is said only where it takes long."""
    began: Callable[[str, str | None], None] = lambda name, resume: None
    """(name, id): from here on results are kept as "run 3f9c", and `--resume` takes the id, or the same command goes on."""


_MOST_DIGITS = 18
"""Digits of the longest whole number that 64 bits surely hold."""


def program(name: str, help: str) -> typer.Typer:
    """A program whose commands are yet to come, with what all programs here understand: -h, --version, completion."""
    app = typer.Typer(
        name=name, cls=Commands, help=help, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip
    app.callback()(_before_commands)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"specyard {version('specyard')}")
        raise typer.Exit


def _before_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that stand before any command."""


_USAGE_ERROR: Any = typer.BadParameter.__base__
"""What is raised for options and commands that there are not: click's, or with a recent typer, typer's own."""


class Commands(TyperGroup):
    """The commands of a program. Whatever a signal or a closed pipe does to one, imports included, ends here."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for. The `Context` is click's or, with a recent typer, typer's own."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            stops.end_stopped()
        except BrokenPipeError:
            stops.end_of_pipe()
        except _USAGE_ERROR as error:
            self._refuse(error, f"{self.name} {ctx.invoked_subcommand or ''}")
        except InputError as error:  # of an option that is checked where it is read
            _fail(str(self.name), str(error), 2)
        except Exception:
            if stops.stopped():  # what an interrupted query or worker raises in its turn
                stops.end_stopped()
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Every command with its whole first sentence, broken to the terminal's width."""
        named = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(limit=1000)) for name, one in named if one and not one.hidden])

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """What stands before the command's name. Without any word the help is shown, which is an error of click's too."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except _USAGE_ERROR as error:
            if not words:
                raise
            self._refuse(error, str(self.name))

    def _refuse(self, error: Any, command: str) -> NoReturn:
        """End the program with what is wrong with its options, and where they are listed."""
        told = error.format_message().replace("Value error, ", "").rstrip(".")
        _fail(str(self.name), f"{told}; see `{command.strip()} -h`", 2)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that was asked for, and what follows its name, in today's spellings."""
        if ctx.resilient_parsing:  # a half-written line, to be completed
            return super().resolve_command(ctx, args)
        for before, word in pairwise(["", *args]):
            _check_word(str(self.name), word, before if before.startswith("-") else "")
        if (both := " ".join(args[:2])) in self.commands:  # a command of two words
            args = [both, *args[2:]]
        elif len(args) > 1:
            seconds = [name.removeprefix(f"{args[0]} ") for name in self.commands if name.startswith(f"{args[0]} ")]
            if meant := get_close_matches(args[1], seconds, 1):
                _fail(str(self.name), f"{both}: no such command; did you mean `{self.name} {args[0]} {meant[0]}`?", 2)
        name, command, rest = super().resolve_command(ctx, args)
        options = [p for p in command.params if p.param_type_name == "option"] if command else []
        takes_value = {spelling: not getattr(p, "is_flag", False) for p in options for spelling in p.opts}
        try:
            rest, notes = spellings.renewed(f"{self.name} {name}", rest, takes_value)
        except ValueError as error:
            _fail(str(self.name), str(error), 2)
        if {"--json", "--markdown"} & {*rest}:  # alone on stdout
            stops.keep_stdout()
        for note in notes:
            stops.say(f"note: {note}")
        resumed = any(word.partition("=")[0] == "--resume" for word in rest)
        named = (*stops.BESIDE_RESUME, *(stops.IN_PLACE if resumed else ()))
        beside = {spelling for p in options if p.name in named for spelling in p.opts}
        stops.command_is(str(name), rest, {spelling: takes_value[spelling] for spelling in beside})
        return name, command, rest


@contextmanager
def user_errors(program: str) -> Iterator[None]:
    """Turn what went wrong into one sentence and an exit code: 1 where the answer is no, 2 for bad input, 70 where workers
    were lost."""
    try:
        yield
    except typer.Exit:
        raise
    except Exception as error:
        if stops.stopped() or isinstance(error, BrokenPipeError):
            raise
        match error:
            case InputError():
                _fail(program, f"{error}{stops.way_on()}", 2)
            case AnswerIsNo():
                _fail(program, str(error), 1)
            case OSError():
                _fail(program, f"{error.filename or 'input/output'}: {error.strerror or error}", 2)
            case WorkerDied():
                _fail(program, f"{error}{stops.way_on()}", stops.INTERNAL)
        raise


def _check_word(program: str, word: str, option: str) -> None:
    """End the program where a word of the command line can be no value of any option: no database or library takes it."""
    at = f"{option} " if option else ""
    if not word or (word.startswith("--") and word.endswith("=")):  # a path without a name would be this folder
        where = f"{word[:-1]}: " if word else f"after {option}: " if option else ""
        _fail(program, f"{where}a value is empty, as of a shell variable that is not set; give one, or leave it out", 2)
    try:
        word.encode()
    except UnicodeEncodeError:
        _fail(program, f"{at}{word!a}: is no text in UTF-8", 2)
    number = word.rpartition("=")[2]
    if len(number) > _MOST_DIGITS and number.lstrip("+-").isdigit():
        _fail(program, f"{at}{word[:60]}: is larger than anything that can be counted here", 2)


def _fail(program: str, message: str, code: int) -> NoReturn:
    stops.say(f"{program}: {message}")
    raise typer.Exit(code)


SILENT_S = 5.0
"""Seconds after which somebody who waits wonders."""


class Display:
    """Progress on stderr: bars on a terminal, plain lines elsewhere, and never silent for long."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._console = progress, progress.console
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, tuple[int, float, int]] = {}
        """By stage: the tenth that was printed last, when the stage began, and what was done then."""
        self._last, self._since, self._shown = "starting", time.monotonic(), time.monotonic()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """A line of text."""
        with self._lock:
            self._last, self._since = text.partition("\n")[0], time.monotonic()
            self._print(text)

    def doing(self, text: str) -> None:
        """What is done now; said where it takes long."""
        with self._lock:
            self._last, self._since = text, time.monotonic()

    def advance(self, stage: str, done: int, total: int) -> None:
        """How far a stage is."""
        stops.check()
        now = time.monotonic()
        with self._lock:
            if stage not in self._tasks:
                name = shortened(stage, max(self._console.width - _OF_BAR, 16))
                self._tasks[stage] = self._progress.add_task(name, total=total)
            self._progress.update(self._tasks[stage], completed=done, total=total)
            tenth, began_s, before = self._tenths.get(stage, (-1, now, done))
            reached = 10 * done // max(total, 1)
            if reached != tenth and not self._console.is_terminal:
                left_s = (now - began_s) / (done - before) * (total - done) if done > before else 0.0
                self._print(f"{stage} · {done}/{total}" + (f" · {span(left_s)} left" if left_s >= 1 else ""))
            self._tenths[stage] = (reached, began_s, before)
            self._last, self._since = f"{stage} · {done}/{total}", now

    def watch(self, ended: threading.Event) -> None:
        """Say that it goes on where nothing was said for long; a bar that moves says so itself."""
        while not ended.wait(SILENT_S / 5):
            with self._lock:
                silent = time.monotonic() - self._shown > SILENT_S
                if silent and not (self._console.is_terminal and self._tasks):
                    since_s = time.monotonic() - self._since
                    self._print(f"… {self._last}" + (f" · for {span(since_s)}" if since_s >= 1 else ""))

    def _print(self, text: str) -> None:
        self._shown = time.monotonic()
        say(self._console, text)


_OF_BAR = 48
"""Columns that the bar of a stage, its counts and its times need beside its name."""


def shortened(text: str, width: int) -> str:
    """A text, its middle left out where it is longer than that."""
    if len(text) <= width:
        return text
    end = width // 2
    return f"{text[: width - end - 1]}…{text[-end:]}"


def span(seconds: float) -> str:
    """A time for people."""
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min" if whole < 6000 else f"{whole / 3600:.1f} h"


@contextmanager
def watching() -> Iterator[Watcher]:
    """A progress display on stderr while the block runs; plain lines where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console, ended = Console(stderr=True, highlight=False), threading.Event()
    with Progress(*bar_columns(), console=console, disable=not console.is_terminal) as progress, stops.working():
        display = Display(progress)
        threading.Thread(target=display.watch, args=(ended,), daemon=True, name="display").start()
        try:
            yield Watcher(display.say, display.advance, display.doing, stops.keep)
        finally:
            ended.set()


def bar_columns() -> Sequence[ProgressColumn]:
    """What stands beside a stage's bar: how far it is, and its times."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times


def plain_console() -> Console:
    """For results: wide where nobody's terminal would break the lines."""
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            """Rich would exit with 1, which is an answer here."""
            stops.end_of_pipe()

    console = Quiet(highlight=False)
    return console if console.is_terminal else Quiet(highlight=False, width=200)


SCHEMA = 1
"""Version of what `--json` prints, as docs/json.md has it: it rises when a key goes, is renamed or means something else."""


def print_json(kind: str, content: Mapping[str, Any]) -> None:
    """Print one JSON object, alone on stdout: what kind of thing it is, by which version of docs/json.md, and its content.

    Numbers that are not finite are null, times are in ISO 8601. What stdout has no character for is escaped.
    """
    import msgspec

    head = {"schema": SCHEMA, "kind": kind}
    assert not head.keys() & content.keys(), content.keys()
    text = msgspec.json.encode({**head, **content}, enc_hook=_plain).decode()
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text))
    print(text)


def _plain(value: Any) -> Any:
    """What JSON has no word for: numbers of numpy as numbers, anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)


def say(console: Console, line: str) -> None:
    """Print a line of text, broken between words on a terminal; indented ones, which are to be copied, stay whole."""
    whole = not console.is_terminal or line.startswith("  ")
    for part in [line] if whole else stops.broken(line, console.width):
        console.print(part, markup=False, soft_wrap=True)


def say_listed(console: Console, line: str) -> None:
    """Print a line of a list, which nobody copies: on a terminal broken between words however far it is indented, and what
    goes on further in than its beginning."""
    for part in stops.broken(line, console.width if console.is_terminal else sys.maxsize, further="  "):
        console.print(part, markup=False, soft_wrap=True)


def say_markdown(console: Console, text: str) -> None:
    """Print Markdown: as it is written, for a file, or on a terminal laid out within its width, tables too."""
    from rich.markdown import Markdown

    console.print(Markdown(text) if console.is_terminal else text, markup=False, soft_wrap=not console.is_terminal)


LONG_NAME, LEAST_NAME = 32, 2
"""Characters of a row's name beyond which it has a line of its own, where there is no room beside it;
and the least that its column keeps."""


def print_table(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], expendable: Sequence[str]) -> None:
    """Print a table with one line a row, no wider than the terminal: of its columns the `expendable` go where there is no
    room, the first ones first, and are named below. What the first column calls a row has a line of its own where it is
    long and there is no room yet. Only what is still too wide runs on in the next line, and nothing is cut.

    A row may be shorter than the others; the last of its cells then has the rest of the line, and counts for no width.
    """
    from rich.cells import cell_len
    from rich.text import Text

    full = [row for row in rows if len(row) == len(heads)]
    needs = {head: max(map(cell_len, [head, *(row[i] for row in full)])) if full else 0 for i, head in enumerate(heads)}
    if _wide(needs) > console.width:
        beside = (cell_len(row[0]) for row in full if cell_len(row[0]) <= LONG_NAME)
        needs[heads[0]] = min(needs[heads[0]], max(LEAST_NAME, *beside, 0))
    names = fitting(needs, expendable, console.width)
    shown = [i for i, head in enumerate(heads) if head in names]
    widths = [needs[name] for name in names]
    widths[0] = max(LEAST_NAME, widths[0] - max(0, _wide({name: needs[name] for name in names}) - console.width))

    def put(cells: Sequence[str], style: str = "") -> None:
        name, *others = cells
        if cell_len(name) > widths[0]:
            for part in _broken(name, console.width - 3) if console.is_terminal else [name]:
                console.print(Text(f" {part}", style=style), soft_wrap=True)
            name = ""
        last = len(others) - 1 if len(cells) < len(names) else len(others)  # of a short row the last cell has no column
        padded = [
            c + " " * (w - cell_len(c)) if i < last else c for i, (c, w) in enumerate(zip(others, widths[1:], strict=False))
        ]
        text = Text(" " + "  ".join([name + " " * (widths[0] - cell_len(name)), *padded]).rstrip(), style=style)
        console.print(text, soft_wrap=not console.is_terminal)

    for i, cells in enumerate([heads, *rows]):
        put([cells[j] for j in shown] if len(cells) == len(heads) else cells[: len(names)], "" if i else "bold")
    say_left_out(console, heads, names)


def say_left_out(console: Console, heads: Sequence[str], shown: Collection[str]) -> None:
    """Name the columns of a table that had no room."""
    if gone := [head for head in heads if head not in shown]:
        say(console, f"(a wider terminal has also: {', '.join(gone)})")


def _wide(needs: Mapping[str, int]) -> int:
    """Characters of columns side by side, two spaces after each."""
    return sum(needs.values()) + 2 * len(needs)


def _broken(name: str, width: int) -> list[str]:
    """A name in lines of so many characters, broken after spaces, slashes and commas where it has any."""
    lines = [""]
    for part in re.findall(r"[^ /,]*[ /,]?", name):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("  ")
        lines[-1] += part
    return lines


def fitting(needs: Mapping[str, int], expendable: Sequence[str], width: int) -> list[str]:
    """Columns that fit side by side, two spaces after each, by what each needs: the `expendable` go, first ones first."""
    shown = dict(needs)
    for name in expendable:
        if _wide(shown) <= width:
            break
        shown.pop(name, None)
    return list(shown)


def say_model(store: Store, run_id: str, profile: Profile, watcher: Watcher) -> None:
    """A profile of another model than was recorded is a question one may ask, but not by accident."""
    from simulator.hardware.profile import formats_told, same_model

    recorded = store.run(run_id)["target"]
    target = str(recorded.get("source", ""))
    if (told := formats_told(profile)) and (kind := recorded.get("dtype")):
        watcher.say(f"note: profile {profile.name} is of {told}, the traces were recorded in {kind}: acceptance may differ")
    if not same_model(profile.model, target):
        watcher.say(f"note: profile {profile.name} is of {profile.model}, the traces are of {target}")
