"""`harness reproduce`: what others published of served systems, predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.console import plain_console, print_json, say_listed, say_markdown, user_errors
from harness.options import AsJson, WritableOut
from simulator.errors import InputError


def reproduce(
    what: Annotated[
        str,
        typer.Argument(
            help="paper: the DSpark paper's served system, in averages; field: engines that others measured; all: every "
            "published value beside ours, as docs/fidelity.md has them."
        ),
    ] = "paper",
    alternatives: Annotated[bool, typer.Option(help="paper: how errors change with every choice that was made.")] = False,
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Predict what others published of served systems, and say how far off every published point is."""
    with user_errors("harness"):
        if what not in ("paper", "field", "all"):
            raise InputError(f"reproduce {what}: no such thing; there are paper, field and all")
        if alternatives and what == "field":
            raise InputError("--alternatives: is of the paper, and of no use with field; leave it out")
        from harness.console import watching
        from harness.parts import Parts
        from harness.published.fidelity import Check, page, paper_checks
        from harness.published.field.page import Fieldwork
        from harness.published.field.page import report_lines as field_lines
        from harness.published.field.predict import reproduce_field
        from harness.published.paper.page import Reproduction, write_reproduction
        from harness.published.paper.predict import report_lines, reproduce
        from simulator.simulation import ready

        found: dict[str, Any] = {}
        lines: list[str] = []
        with watching() as watcher:
            parts = Parts(out, "reproduction", alternatives, watcher)
            ready(watcher.say)
            if what == "all":
                watcher.say("Qwen3-4B: traces as published, asked for every published number")
                found["qwen3-4b"] = parts.part("qwen3-4b", list[Check], paper_checks)
            if what in ("paper", "all"):
                watcher.say("the paper's served system: simulated at every published point")
                found["paper"] = parts.part("paper", Reproduction, lambda: reproduce(alternatives=alternatives))
            if what in ("field", "all"):
                watcher.say("engines that others measured: simulated at every published point")
                found["field"] = parts.part("field", Fieldwork, reproduce_field)
            if what in ("paper", "all"):
                out.mkdir(parents=True, exist_ok=True)
                write_reproduction(found["paper"], out / "reproduction.html")
                lines = [*report_lines(found["paper"]), str(out / "reproduction.html")]
            parts.done()
        if what == "field":
            lines = field_lines(found["field"])
        if as_json:
            print_json("reproduction", found)
        elif what == "all":
            say_markdown(plain_console(), page(found["qwen3-4b"], found["paper"], found["field"]).rstrip())
        else:
            console = plain_console()
            for line in lines:
                say_listed(console, line)
