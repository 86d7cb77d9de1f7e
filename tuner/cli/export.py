"""`tuner export`: what is to be run, as a configuration to serve with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.console import print_json, user_errors
from harness.options import Out
from simulator.errors import InputError
from tuner.cli.options import StudyName


def export(
    name: StudyName = "latest",
    form: Annotated[
        Literal["vllm", "sglang", "tensorrt-llm", "llama.cpp", "json", "optuna", "synthetic", "inferencex"],
        typer.Option("--format", help="An engine's command, JSON, an Optuna journal, or acceptance for benches."),
    ] = "vllm",
    concurrency: Annotated[
        str | None, typer.Option(metavar="USERS", help="Only for so many users, of a study over several loads.")
    ] = None,
    out: Out = Path("runs"),
) -> None:
    """Write what a study says to run, as a configuration to serve with."""
    from results.store.database import Store
    from results.store.studies import Studies

    with user_errors("tuner"):
        users = None if concurrency is None else _users(concurrency)
        store = Store(out / "specyard.duckdb")
        study_id = Studies(store).find(name)["study_id"]
        from tuner.export import export_content, export_study  # Optuna takes seconds

        if form == "json":
            print_json("export", export_content(store, study_id, users))
        else:
            print(export_study(store, study_id, form, users))


def _users(concurrency: str) -> int:
    """Raise InputError for what is not one number."""
    if not concurrency.strip().isdecimal():
        raise InputError(
            f"--concurrency {concurrency}: is one of the study's loads, as 64; without it the command is for all of them"
        )
    return int(concurrency)
