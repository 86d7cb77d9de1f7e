"""`harness runs`: the runs of a database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.console import plain_console, print_json, print_table, user_errors
from harness.options import AsJson, Out

if TYPE_CHECKING:  # these take seconds
    from results.store.database import Store


def runs(out: Out = Path("runs"), as_json: AsJson = False) -> None:
    """List the runs of a database."""
    from results.store.database import Store

    with user_errors("harness"):
        print_runs(Store(out / "specyard.duckdb"), as_json=as_json)


def print_runs(store: Store, *, as_json: bool) -> None:
    """All runs of a database, the latest first."""
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT run_id, created_at, finished_at IS NOT NULL AS finished, suite, prompt_source, pair, seed,
                   (SELECT count(*) FROM responses s WHERE s.run_id = r.run_id) AS responses, failure
            FROM runs r ORDER BY created_at DESC
            """
        ).fetchall()
    names = ("run", "created", "finished", "suite", "prompts", "pair", "seed", "responses", "failure")
    if as_json:
        print_json("runs", {"runs": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    failed = any(row[-1] for row in rows)
    lines = [
        [name, f"{created:%Y-%m-%d %H:%M}", "yes" if finished else "no", *("" if v is None else str(v) for v in rest)][
            : 9 if failed else 8
        ]
        for name, created, finished, *rest in rows
    ]
    console = plain_console()
    expendable = ("seed", "prompts", "responses", "suite")
    print_table(console, names if failed else names[:-1], lines, expendable)
