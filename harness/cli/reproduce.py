"""`harness reproduce`: what others published of served systems, predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.options import AsJson, Out
from harness.console import user_errors
from simulator.errors import InputError


def reproduce(
    what: Annotated[
        str,
        typer.Argument(
            help="paper: the DSpark paper's system; field: engines that others measured; all: the page docs/fidelity.md."
        ),
    ] = "paper",
    alternatives: Annotated[bool, typer.Option(help="paper: how errors change with every choice that was made.")] = False,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Predict what others published of served systems, and say how far off every published point is."""
    with user_errors("harness"):
        if what not in ("paper", "field", "all"):
            raise InputError(f"reproduce {what}: no such thing; there are paper, field and all")
        import msgspec

        from harness.console import watching
        from harness.published.fidelity import page, paper_checks
        from harness.published.field.page import report_lines as field_lines
        from harness.published.field.predict import reproduce_field
        from harness.published.paper.page import write_reproduction
        from harness.published.paper.predict import report_lines, reproduce
        from simulator.simulation import ready

        with watching() as watcher:
            ready(watcher.say)
        found: dict[str, Any] = {}
        lines: list[str] = []
        if what == "all":
            found["qwen3-4b"] = paper_checks()
        if what in ("paper", "all"):
            found["paper"] = reproduce(alternatives=alternatives)
            out.mkdir(parents=True, exist_ok=True)
            write_reproduction(found["paper"], out / "reproduction.html")
            lines = [*report_lines(found["paper"]), str(out / "reproduction.html")]
        if what in ("field", "all"):
            found["field"] = reproduce_field()
            lines = field_lines(found["field"])
        if what == "all":
            lines = [page(found["qwen3-4b"], found["paper"], found["field"]).rstrip()]
        print(msgspec.json.encode(found if what == "all" else found[what]).decode() if as_json else "\n".join(lines))
