"""`harness baseline`: what later runs are judged by, as a file that lives in git."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.console import print_json, user_errors
from harness.options import AsJson, Out, RunName
from simulator.errors import InputError
from simulator.numbers import counted


def baseline(
    name: RunName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON file to write, or to replace.")],
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Write what `harness compare FILE RUN` needs of a run: tokens and rounds of each prompt and drafter."""
    with user_errors("harness"):
        if file.suffix != ".json":
            raise InputError(f"{file}: a baseline's name ends in .json, by which `harness compare` knows it")
        if file.parent.exists() and not file.parent.is_dir():
            raise InputError(f"{file.parent}: is no folder for {file.name}")

        from results.baseline import finished_baseline, write_baseline
        from results.store.commands import typed
        from results.store.database import Store

        store = Store(out / "specyard.duckdb")
        run_id = store.find_run(name)
        with store.reading() as connection:
            made = finished_baseline(connection, run_id, out)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_baseline(made, file)
        told = {"run": run_id, "file": str(file), "prompts": len(made.prompts), "drafters": list(made.drafters)}
        if as_json:
            print_json("baseline", told)
        else:
            print(f"run {run_id}: {counted(len(made.prompts), 'prompt')} with {', '.join(made.drafters)} → {file}")
            later = typed("harness", "compare", file, "latest", "--fail-on-regression", "2%", out=out)
            print(f"commit it; later:\n  {later}")
