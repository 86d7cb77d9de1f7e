"""`tuner show`: a study and its results."""

from __future__ import annotations

from pathlib import Path

from harness.console import user_errors
from harness.options import AsJson, Out
from tuner.cli.options import StudyName


def show(name: StudyName = "latest", out: Out = Path("runs"), as_json: AsJson = False) -> None:
    """Show a study: the winner at each load, what it gains, and how far it holds."""
    from results.store.database import Store
    from results.store.studies import Studies

    with user_errors("tuner"):
        store = Store(out / "specyard.duckdb")
        study_id = Studies(store).find(name)["study_id"]
        from tuner.display import print_study  # Optuna takes seconds

        print_study(store, study_id, as_json=as_json)
