"""`tuner export`: the winner as a configuration to serve with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.console import user_errors
from tuner.cli.options import Out, StudyName


def export(
    name: StudyName = "latest",
    form: Annotated[
        Literal["vllm", "json", "optuna"],
        typer.Option("--format", help="A vLLM command, JSON, or an Optuna journal beside the database."),
    ] = "vllm",
    concurrency: Annotated[int | None, typer.Option(help="Users, of a study whose loads have winners of their own.")] = None,
    out: Out = Path("runs"),
) -> None:
    """Write the winner as a configuration to serve with."""
    from results.store.database import Store
    from results.store.studies import Studies
    from tuner.export import export_study

    with user_errors("tuner"):
        store = Store(out / "specyard.duckdb")
        print(export_study(store, Studies(store).find(name)["study_id"], form, concurrency))
