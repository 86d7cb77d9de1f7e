"""`harness import`: what a server logs as a run, on which the other commands work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.advise import Files, read_server
from harness.cli.report import write_report
from harness.cli.show import print_run
from harness.console import user_errors, watching
from harness.options import AsJson, Out


def import_(
    files: Files,
    drafter: Annotated[
        str | None,
        typer.Option(help="The drafter's kind, as eagle3, where no file says; with a name of your own mine=eagle3."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="The model that was served, where no file says.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same traces.")] = 0,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Keep what engines log as a run, estimated from served rounds: simulate, tuner search and report work on it."""
    from harness.published.averages import drafter_of
    from results.store.database import Store
    from simulator.errors import AnswerIsNo, InputError

    with user_errors("harness"):
        if seed < 0:
            raise InputError(f"--seed must be 0 or more, got {seed}")
        name, kind = ("", "") if drafter is None else drafter_of(drafter)
        with watching() as watcher:
            server = read_server(files, watcher)
            if not server.speculates:
                raise AnswerIsNo(f"{files[0]}: of a server that drafts nothing: there are no rounds to keep")
            for note in server.notes:
                watcher.say(f"· {note}")
            from harness.served.kept import keep_served

            store = Store(out / "specyard.duckdb")
            run_id = keep_served(
                server, name or server.kind or "served", kind or server.kind, target or "", seed, store, watcher.say
            )
        print_run(store, run_id, write_report(store, run_id), as_json=as_json)
