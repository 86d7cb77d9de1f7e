"""`harness convert`: a drafter's checkpoint in another published format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from harness import stops
from harness.console import plain_console, print_json, say, user_errors
from harness.options import AsJson
from simulator.errors import InputError


def convert(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A drafter's folder, or its id on the hub.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="The folder to write; by default CHECKPOINT-FORMAT here.")
    ] = None,
    *,
    to: Annotated[Literal["deepspec", "speculators", "zlab", "vllm"], typer.Option(help="Whose format to write.")],
    target: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Its target, where the files leave something to it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a drafter's checkpoint in another published format, where that can express it."""
    with user_errors("harness"):
        from harness.recording.sources import check_conversion
        from results.store.connection import check_new_folder

        if not Path(checkpoint).is_dir() and (checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") != 1):
            raise InputError(f"checkpoint {checkpoint}: no such folder")
        written = folder or Path(f"{Path(checkpoint).resolve().name}-{to}")
        check_new_folder(written, "FOLDER")
        check_conversion(checkpoint, to)
        source = None
        if target is not None:
            from harness.recording.pair import asked_pair, load_pair

            source = load_pair(asked_pair("tiny", target)[0]).target
        from drafters.conversion import convert as write
        from drafters.conversion import drafted_by, read_target

        files = None if source is None else read_target(source)
        read = write(checkpoint, to, written, files)
        if (again := drafted_by(written, files)) not in (None, read.gamma):
            note = f"{to} has no place for the {read.gamma} tokens that it drafts: read again it drafts {again}"
            stops.say(f"note: {note}; tell the engine how many (num_speculative_tokens)")
        if as_json:
            print_json("convert", {
                "checkpoint": checkpoint, "target": target, "format": read.format, "gamma": read.gamma, "to": to,
                "conventions": read.conventions, "assumed": sorted(read.assumed), "folder": str(written),
            })  # fmt: skip
            return
        console = plain_console()
        say(console, f"{checkpoint}: {read.format}")
        say(console, "read with " + "; ".join(f"{name} {value}" for name, value in read.conventions.items()))
        say(console, f"{written}: the same drafter as {to} writes it")
