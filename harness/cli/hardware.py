"""`harness hardware`: the profiles there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import AsJson, Out
from harness.console import plain_console, print_table, user_errors
from simulator.errors import InputError

if TYPE_CHECKING:
    from simulator.hardware.profile import Profile


def hardware(
    name: Annotated[str | None, typer.Argument(help="A profile to print as JSON; by default all are listed.")] = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the hardware profiles, those of one's own under --out included, or print one: a starting point for another."""
    from simulator.hardware.catalogue import bundled_profiles, find_profile
    from simulator.hardware.profile import dump_profile

    with user_errors("harness"):
        if name is not None:
            print(dump_profile(find_profile(name)))
            return
        found = {name: find_profile(name) for name in bundled_profiles()}
        for file in sorted((out / "hardware").glob("**/*.json")):
            try:
                found[str(file)] = find_profile(str(file))
            except InputError as error:  # a list of the others is still of use
                typer.echo(f"left out: {error}", err=True)
        rows = [(name, *_facts(profile)) for name, profile in found.items()]
        if as_json:
            keys = ("profile", "gpus", "context_tokens", "source", "measured")
            print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
            return
        heads = ("profile", "GPUs", "context tokens that fit", "source", "measured")
        lines = [(name, str(gpus), f"{tokens:,}", *rest) for name, gpus, tokens, *rest in rows]
        console = plain_console()
        print_table(console, heads, lines, ("measured", "GPUs"))


def _facts(profile: Profile) -> tuple[int, int, str, str]:
    """GPUs, context tokens, source, and when it was measured, empty where it was not."""
    return profile.gpus, profile.kv_capacity_tokens, profile.source, profile.provenance.get("date", "")
