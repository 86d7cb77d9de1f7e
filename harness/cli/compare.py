"""`harness compare`: what changed between two runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from harness.cli.options import AsJson, Out
from harness.console import plain_console, user_errors
from simulator.errors import InputError

if TYPE_CHECKING:  # these take seconds
    from results.comparison import Comparison


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="What was before.")],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="What is now; by default the latest.")] = "latest",
    fail_on_regression: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Exit with code 1 if anything is clearly worse by more, as 2%.")
    ] = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """What changed between two runs, by task, with intervals and verdicts."""
    from results.comparison import compare as compare_runs
    from results.comparison import share
    from results.store.database import Store

    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        try:
            tolerance = None if fail_on_regression is None else share(fail_on_regression)
        except ValueError:
            raise InputError(f"--fail-on-regression {fail_on_regression}: is written as 2% or 0.02") from None
        ids = store.find_run(first), store.find_run(second)
        if ids[0] == ids[1]:
            raise InputError(f"compare {first} {second}: both are run {ids[0]}")
        with store.reading() as connection:
            found = compare_runs(connection, *ids)
        print_comparison(found, tolerance, as_json=as_json)
        if tolerance is not None and found.regressions(tolerance):
            raise typer.Exit(1)


def print_comparison(found: Comparison, tolerance: float | None, *, as_json: bool) -> None:
    """What changed between two runs; what is clearly worse by more than `tolerance` comes last and again."""
    failing = [] if tolerance is None else found.regressions(tolerance)
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), "regressions": [dataclasses.asdict(c) for c in failing]}))
        return
    console = plain_console()
    console.print(f"run {found.first} → run {found.second}")
    for line in found.differences:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    last = None
    for quantity in dict.fromkeys(c.quantity for c in found.changes):
        table = Table(quantity, "where", "before", "after", "change", "95 %", "verdict", box=None, header_style="bold")
        for c in (c for c in found.changes if c.quantity == quantity):
            who = f"{c.drafter} γ={c.gamma}"
            interval = "" if c.low is None or c.high is None else f"{c.low:+.1%} to {c.high:+.1%}"
            before, after = ("–" if v is None else f"{v:.3f}" if v < 100 else f"{v:,.0f}" for v in (c.first, c.second))
            change = "" if c.change is None else f"{c.change:+.1%}"
            table.add_row("" if who == last else who, c.where, before, after, change, interval, c.verdict)
            last = who
        console.print(table)
    if not found.changes:
        console.print("neither run has anything to compare")
    console.print("verdicts hold together: at most 1 comparison in 20 like this calls anything changed where nothing is")
    if tolerance is not None:
        console.print(f"{len(failing)} worse by more than {tolerance:.1%}, or gone")
