"""What the commands share with those who wait for them: progress, notes, failures in one sentence, options that hold
several values."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import typer

from simulator.errors import InputError

if TYPE_CHECKING:  # these take seconds
    from rich.console import Console
    from rich.table import Table

    from results.store.database import Store
    from simulator.hardware.profile import Profile


class WorkerDied(RuntimeError):
    """Workers died over the same work again and again."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """How a run tells the user what it is doing."""

    say: Callable[[str], None]
    """A line of text."""
    advance: Callable[[str, int, int], None]
    """(stage, done, total)."""


@contextmanager
def user_errors(program: str) -> Iterator[None]:
    """Turn what went wrong into one sentence and an exit code: 2 for bad input, 1 for a failure, 130 for Ctrl-C."""
    try:
        yield
    except InputError as error:
        _fail(program, str(error), 2)
    except OSError as error:
        _fail(program, f"{error.filename or 'input/output'}: {error.strerror or error}", 2)
    except WorkerDied as error:
        _fail(program, str(error), 1)
    except KeyboardInterrupt:
        _fail(program, "interrupted", 130)


@contextmanager
def checked() -> Iterator[None]:
    """While a value is built from options: what its own validation refuses is the user's mistake."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from None


def listed(texts: list[str] | None) -> list[str] | None:
    """Options that may be repeated, and each hold several with commas between."""
    return [part.strip() for text in texts for part in text.split(",")] if texts else None


def shares(mix: str | None) -> dict[str, float] | None:
    """Shares of domains, as math=0.4,code=0.6. Raises InputError."""
    if mix is None:
        return None
    try:
        return {domain: float(share) for domain, share in (part.split("=") for part in mix.split(","))}
    except ValueError:
        raise InputError(f"--mix {mix}: is written as math=0.4,code=0.6") from None


def _fail(program: str, message: str, code: int) -> NoReturn:
    print(f"{program}: {message}", file=sys.stderr)
    raise typer.Exit(code)


@contextmanager
def watching() -> Iterator[Watcher]:
    """A progress display on stderr while the block runs; plain lines where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}
        last: dict[str, int] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage)
            progress.update(tasks[stage], completed=done, total=total)
            tenth = 10 * done // max(total, 1)
            if not console.is_terminal and last.get(stage) != tenth:
                last[stage] = tenth
                console.print(f"{stage} · {done}/{total}", soft_wrap=True)

        yield Watcher(lambda text: say(console, text), advance)


def plain_console() -> Console:
    """For results: wide where nobody's terminal would break the lines."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def say(console: Console, line: str) -> None:
    """Print a line of text, broken between words on a terminal; indented ones, which are to be copied, stay whole."""
    console.print(line, markup=False, soft_wrap=not console.is_terminal or line.startswith("  "))


def check_resumed(context: typer.Context, allowed: Collection[str]) -> None:
    """Raise InputError where an option beside `--resume` asks for something else than was planned."""
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if name not in allowed and source is not None and source.name == "COMMANDLINE":
            raise InputError(
                f"{parameter.opts[0]}: cannot stand beside --resume, which goes on as planned; leave it out, or begin anew"
            )


def fitted(heads: Sequence[str], rows: Sequence[Sequence[str]], expendable: Sequence[str], width: int) -> Table:
    """A table with one line a row, within `width` characters: of its columns the `expendable` go, the first ones first.

    A row may be shorter than the others; the last of its cells then has the rest of the line, and counts for no width.
    """
    from rich.cells import cell_len
    from rich.table import Table

    full = [row for row in rows if len(row) == len(heads)]
    needs = {head: max(map(cell_len, [head, *(row[i] for row in full)])) if full else 0 for i, head in enumerate(heads)}
    names = fitting(needs, expendable, width)
    shown = [i for i, head in enumerate(heads) if head in names]
    table = Table(box=None, header_style="bold")
    for i in shown:
        table.add_column(heads[i], no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*(row[i] for i in shown) if len(row) == len(heads) else row[: len(shown)])
    return table


def fitting(needs: Mapping[str, int], expendable: Sequence[str], width: int) -> list[str]:
    """Columns that fit side by side, two spaces after each, by what each needs: the `expendable` go, first ones first."""
    shown = dict(needs)
    for name in expendable:
        if sum(shown.values()) + 2 * len(shown) <= width:
            break
        shown.pop(name, None)
    return list(shown)


def say_model(store: Store, run_id: str, profile: Profile, watcher: Watcher) -> None:
    """A profile of another model than was recorded is a question one may ask, but not by accident."""
    from simulator.hardware.profile import same_model

    target = str(store.run(run_id)["target"].get("source", ""))
    if not same_model(profile.model, target):
        watcher.say(f"note: profile {profile.name} is of {profile.model}, the traces are of {target}")
