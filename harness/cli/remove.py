"""`harness remove` and `harness prune`: taking out of a database what nobody needs any more. `harness rescue`: what reads of
a damaged one."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.console import plain_console, print_json, user_errors
from harness.options import AsJson, WritableOut
from simulator.errors import InputError
from simulator.numbers import counted

if TYPE_CHECKING:  # these take seconds
    from results.store.database import Store
    from results.store.housekeeping import Holding

Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking; without it, and no terminal, it is only listed.")]
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def remove(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="Ids of runs, sweeps or studies, or the starts of them.")
    ],
    yes: Yes = False,
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Remove runs with all that stands on them, or sweeps or studies, and give their space back."""
    with user_errors("harness"):
        from results.store.database import Store
        from results.store.housekeeping import named

        store = Store(out / "specyard.duckdb")
        _take_out(store, named(store, names), yes=yes, as_json=as_json)


def prune(
    older: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="What was not used for so long, as 12h, 30d or 8w; by default anything."),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(metavar="N", help="Leave the N newest, of runs, sweeps and studies each.")
    ] = None,
    yes: Yes = False,
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Remove runs, sweeps and studies that are old, or not among the newest, and give their space back."""
    with user_errors("harness"):
        age = None if older is None else _age(older)
        if age is None and keep is None:
            raise InputError("say what may go: --older 30d, --keep 5, or both")
        if keep is not None and keep < 0:
            raise InputError(f"--keep {keep}: must be 0 or more")

        from results.store.database import Store
        from results.store.housekeeping import outdated

        store = Store(out / "specyard.duckdb")
        _take_out(store, outdated(store, older=age, keep=keep), yes=yes, as_json=as_json)


def rescue(
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The new database; by default specyard.rescued.duckdb in --out.")
    ] = None,
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Copy what can still be read of a damaged database into a new one; the damaged one stays as it is."""
    with user_errors("harness"):
        from results.store import rescue as rescuing

        file = out / "specyard.duckdb"
        into = to or out / "specyard.rescued.duckdb"
        found = rescuing.rescue(file, into, lambda text: print(text, file=sys.stderr))
        if as_json:
            print_json("rescue", {"file": into, "tables": found})
            return
        for each in found:
            if each.rows or each.lost:
                print(
                    f"{each.table}: {counted(each.rows, 'row')}" + (f", {each.lost:,} cannot be read" if each.lost else "")
                )
        print(f"{into}: what can be read of {file}, which stays as it is; to use it, move it to the name {file.name}")


def _age(text: str) -> timedelta:
    """A time such as 30d. Raises InputError."""
    found = re.fullmatch(r"(\d{1,6})([hdw])", text)
    if found is None:
        raise InputError(f"--older {text}: is written as 12h, 30d or 8w, for hours, days or weeks")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _take_out(store: Store, chosen: Sequence[Holding], *, yes: bool, as_json: bool) -> None:
    """List what goes; remove it where that is confirmed."""
    from results.store.housekeeping import take_out

    if not as_json:
        _print(chosen)
    asked = bool(chosen) and not yes and not as_json and sys.stdin.isatty()
    does = bool(chosen) and (
        yes or (asked and typer.confirm(f"remove {'this one' if len(chosen) == 1 else f'these {len(chosen)}'}?", err=True))
    )
    freed = take_out(store, chosen) if does else 0
    if as_json:
        listed = [{"kind": each.word, "id": each.id, "run": each.run_id} for each in chosen]
        print_json("removal", {"listed": listed, "removed": does, "bytes_freed": freed})
    elif does:
        held = "; another process reads it, so the space is used again and not given back yet"
        print(f"removed; {store.file} is {freed / 1e6:.1f} MB smaller" + held * (freed <= 0))
    elif chosen:
        print("nothing is removed; --yes removes what is listed")


def _print(chosen: Sequence[Holding]) -> None:
    """A line for each."""
    console = plain_console()
    if not chosen:
        console.print("nothing to remove")
    for each in chosen:
        of = "" if each.word == "run" else f" of run {each.run_id}"
        state = "" if each.results else " · without results"
        text = f"{each.word} {each.id}{of} · {each.created_at:%Y-%m-%d %H:%M} UTC{state} · {each.command}"
        console.print(text, markup=False, overflow="ellipsis", no_wrap=True)
