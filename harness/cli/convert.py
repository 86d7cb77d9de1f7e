"""`harness convert`: a drafter's checkpoint in another published format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.console import plain_console, print_json, say, user_errors
from harness.options import AsJson
from simulator.errors import InputError


def convert(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A drafter's folder, or its id on the hub.")],
    to: Annotated[Literal["deepspec", "speculators", "zlab", "vllm"], typer.Option(help="Whose format to write.")],
    target: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Its target, where the files leave something to it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write; by default CHECKPOINT-FORMAT here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a drafter's checkpoint in another published format, where that can express it."""
    with user_errors("harness"):
        if not Path(checkpoint).is_dir() and (checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") != 1):
            raise InputError(f"checkpoint {checkpoint}: no such folder")
        folder = out or Path(f"{Path(checkpoint).resolve().name}-{to}")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"--out {folder}: is there already; name another folder")
        source = None
        if target is not None:
            from harness.recording.pair import asked_pair, load_pair

            source = load_pair(asked_pair("tiny", target)[0]).target
        from drafters.conversion import convert as write
        from drafters.conversion import read_target

        read = write(checkpoint, to, folder, None if source is None else read_target(source))
        if as_json:
            print_json("convert", {
                "checkpoint": checkpoint, "target": target, "format": read.format, "gamma": read.gamma, "to": to,
                "conventions": read.conventions, "assumed": sorted(read.assumed), "folder": str(folder),
            })  # fmt: skip
            return
        console = plain_console()
        say(console, f"{checkpoint}: {read.format}")
        say(console, "read with " + "; ".join(f"{name} {value}" for name, value in read.conventions.items()))
        say(console, f"{folder}: the same drafter as {to} writes it")
