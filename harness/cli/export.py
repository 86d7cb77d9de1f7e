"""`harness export`: a run as an archive that `harness import` reads back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.console import plain_console, print_json, say, user_errors, watching
from harness.options import AsJson, Out, RunName
from simulator.numbers import counted


def export(
    name: RunName,
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="What to write; by default RUN-parquet here.")
    ] = None,
    *,
    to: Annotated[Literal["parquet"], typer.Option(help="The form to write: a folder of Parquet files.")] = "parquet",
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Write a run and what stands on it as an archive, which `harness import` takes up without loss."""
    from results.store.archives import write_archive
    from results.store.commands import typed
    from results.store.database import Store

    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        run_id = store.find_run(name)
        into = folder or Path(f"{run_id}-{to}")
        with watching() as watcher:
            watcher.doing("writing")
            made = write_archive(store, run_id, into, watcher.advance)
        size = sum(file.stat().st_size for file in into.iterdir())
        if as_json:
            print_json("archive", {
                "run": run_id, "folder": str(into), "form": to, "schema_version": made.schema, "specyard": made.specyard,
                "bytes": size, "tables": {table: told.rows for table, told in made.tables.items()},
            })  # fmt: skip
            return
        console = plain_console()
        tables = counted(len(made.tables), "table")
        say(console, f"run {run_id}: {made.rows:,} rows of {tables}, {size / 1e3:,.0f} kB")
        say(console, f"{into}: read back, here or elsewhere, with")
        say(console, f"  {typed('harness', 'import', into)}")
