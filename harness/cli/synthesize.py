"""`harness synthesize`: traces made from published curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import AsJson, Out
from harness.cli.report import write_report
from harness.cli.show import print_run
from harness.console import user_errors, watching


def synthesize(
    curves: Annotated[str, typer.Argument(help="Published curves; paper:qwen3-4b is what there is.")] = "paper:qwen3-4b",
    responses_per_task: Annotated[int, typer.Option(help="Responses to each of nine tasks.")] = 40,
    output_tokens: Annotated[int, typer.Option(help="Tokens of each response.")] = 512,
    seed: Annotated[int, typer.Option(help="Same seed, same traces.")] = 0,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Make dense traces from published curves, to study a model's operating range without running it."""
    from harness.published.run import Size, publish
    from results.store.database import Store

    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        with watching() as watcher:
            run_id = publish(curves, seed, Size(responses_per_task, output_tokens), store, watcher.say)
        print_run(store, run_id, write_report(store, run_id), as_json=as_json)
