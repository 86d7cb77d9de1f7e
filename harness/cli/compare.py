"""`harness compare`: what changed between two runs, a baseline and a run, or two drafters of one run; and may it merge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.console import print_json, user_errors
from harness.options import AsJson, Out
from simulator.errors import InputError
from simulator.numbers import as_share

if TYPE_CHECKING:  # these take seconds
    from results.comparison import Comparison
    from results.store.database import Store

WORSE, INCONCLUSIVE = 1, 3
"""Exit codes of a gate that does not pass."""


def compare(
    first: Annotated[
        str, typer.Argument(metavar="FIRST", help="What was before: a run, or a file that `harness baseline` wrote.")
    ],
    second: Annotated[
        str | None, typer.Argument(metavar="SECOND", help="The run that is now; by default the latest.", show_default=False)
    ] = None,
    drafters: Annotated[
        list[str] | None, typer.Option(metavar="OLD,NEW", help="Compare two drafters of the run FIRST, prompt by prompt.")
    ] = None,
    fail_on_regression: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Gate, as 2%: exit with 1 where it is worse by more, with 3 where nobody can tell."
        ),
    ] = None,
    allow_inconclusive: Annotated[
        bool, typer.Option("--allow-inconclusive", help="Exit with 0 where nobody can tell.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown alone on stdout, for a pull request.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the gate as JUnit XML, a test case a row.")
    ] = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """What changed, by task, with intervals, verdicts and what could have been seen; with a gate, whether it may merge."""
    with user_errors("harness"):
        tolerance = None if fail_on_regression is None else parse_tolerance(fail_on_regression)
        if markdown and as_json:
            raise InputError("--markdown and --json: stdout holds one of them; leave the other out")
        if tolerance is None and (junit is not None or allow_inconclusive):
            option = "--junit" if junit is not None else "--allow-inconclusive"
            raise InputError(f"{option}: is of a gate; add --fail-on-regression 2%")
        if junit is not None and not (junit.parent.is_dir() and os.access(junit.parent, os.W_OK) and not junit.is_dir()):
            raise InputError(f"--junit {junit}: cannot be written there")
        pair = None if drafters is None else _two(",".join(drafters), second)

        from harness.cli.changes import content, print_changes
        from harness.cli.changes import junit as junit_of
        from harness.cli.changes import markdown as markdown_of
        from results.gate import judge
        from results.store.database import Store

        found = _compared(Store(out / "specyard.duckdb"), first, second, pair)
        gate = None if tolerance is None else judge(found, tolerance)
        if junit is not None and gate is not None:
            junit.write_text(junit_of(found, gate, allow_inconclusive=allow_inconclusive), encoding="utf-8")
        if as_json:
            print_json("comparison", content(found, gate))
        elif markdown:
            print(markdown_of(found, gate))
        else:
            print_changes(found, gate)
        if gate is not None and gate.outcome == "worse":
            raise typer.Exit(WORSE)
        if gate is not None and gate.outcome == "inconclusive" and not allow_inconclusive:
            raise typer.Exit(INCONCLUSIVE)


def parse_tolerance(text: str) -> float:
    """A loss as users write it, 2% or 0.02, as a share. Raises InputError."""
    try:
        value = as_share(text)
    except ValueError:
        raise InputError(f"--fail-on-regression {text}: is written as 2% or 0.02") from None
    if 1 <= value < 100 and not text.endswith("%"):
        raise InputError(f"--fail-on-regression {text}: is more than the whole; {text} percent is written {text}%")
    if not 0 < value < 1:
        raise InputError(
            f"--fail-on-regression {text}: must be above 0 and below 100 %: no run can exclude a loss of nothing"
        )
    return value


def _two(drafters: str, second: str | None) -> tuple[str, str]:
    names = [name.strip() for name in drafters.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise InputError(f"--drafters {drafters}: is written old,new, with the names of two drafters of the run")
    if second is not None:
        raise InputError(f"--drafters {drafters}: compares within one run; leave {second} out")
    return names[0], names[1]


def _compared(store: Store, first: str, second: str | None, drafters: tuple[str, str] | None) -> Comparison:
    """What is before and now, by name. Raises InputError."""
    from results.baseline import read_baseline
    from results.comparison import compare as compare_runs
    from results.comparison import compare_drafters, compare_with_baseline

    if drafters is not None:
        run = store.find_run(first)
        with store.reading() as connection:
            return compare_drafters(connection, run, *drafters)
    if first.endswith(".json") or Path(first).is_file():
        before, run = read_baseline(Path(first)), store.find_run(second or "latest")
        with store.reading() as connection:
            return compare_with_baseline(connection, first, before, run)
    runs = store.find_run(first), store.find_run(second or "latest")
    if runs[0] == runs[1]:
        raise InputError(f"compare {first} {second or 'latest'}: both are run {runs[0]}")
    with store.reading() as connection:
        return compare_runs(connection, *runs)
