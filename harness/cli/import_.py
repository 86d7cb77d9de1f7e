"""`harness import`: what a server logs, or an archive of a run, as a run on which the other commands work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.advise import read_server
from harness.cli.report import write_report
from harness.cli.show import print_run
from harness.console import Watcher, user_errors, watching
from harness.options import AsJson, WritableOut, given_options

if TYPE_CHECKING:
    from harness.served.server import Server


def import_(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="What engines wrote, or folders of it, as of `harness advise`; or an archive."),
    ],
    drafter: Annotated[
        str | None,
        typer.Option(help="The drafter's kind, as eagle3, where no file says; with a name of your own mine=eagle3."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="The model that was served, where no file says.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same traces.")] = 0,
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Keep what engines log as a run, estimated from served rounds, or take up an archive that `harness export` wrote.

    simulate, tuner search and report work on it.
    """
    from harness.published.averages import drafter_of
    from results.store.archives import is_archive
    from results.store.database import Store
    from simulator.errors import AnswerIsNo, InputError

    with user_errors("harness"):
        if archives := [file for file in files if is_archive(file)]:
            _take_up(context, files, archives[0], out, as_json=as_json)
            return
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
            _keep_profile(server, f"served-{run_id}", kind or server.kind, out, watcher)
        print_run(store, run_id, write_report(store, run_id), as_json=as_json)


def _take_up(context: typer.Context, files: Sequence[Path], archive: Path, out: Path, *, as_json: bool) -> None:
    """Take up a run of an archive, which stands alone. Raises InputError."""
    from results.store.archives import take_up
    from results.store.database import Store
    from simulator.errors import InputError

    if len(files) > 1:
        raise InputError(f"{archive}: is an archive of a run; import it alone")
    given = given_options(context)
    for name in ("drafter", "target", "seed"):
        if name in given:
            raise InputError(f"{given[name]}: says nothing of {archive}, an archive of a run; leave it out")
    store = Store(out / "specyard.duckdb")
    with watching() as watcher:
        watcher.doing("reading")
        taken, new = take_up(store, archive, watcher.advance)
        told = f"run {taken.run_id} of {taken.created_at:%Y-%m-%d %H:%M} UTC, written by Specyard {taken.specyard}"
        watcher.say(told if new else f"{told}: is there already, the same; nothing was imported")
    print_run(store, taken.run_id, write_report(store, taken.run_id), as_json=as_json)


def _keep_profile(server: Server, name: str, kind: str, out: Path, watcher: Watcher) -> None:
    """Write the profile that steps with timed parts make, where there are enough of them."""
    from harness.served.profile import profile_of
    from simulator.hardware.profile import dump_profile

    profile = profile_of(server, name, kind)
    if profile is not None:
        file = out / "hardware" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dump_profile(profile), encoding="utf-8")
        watcher.say(f"its steps make a profile: --hardware {file}")
