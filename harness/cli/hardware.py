"""`harness hardware`: the profiles there are."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.console import user_errors


def hardware(
    name: Annotated[str | None, typer.Argument(help="A profile to print as JSON; by default all are listed.")] = None,
) -> None:
    """List the hardware profiles, or print one: a starting point for one's own."""
    from simulator.hardware.catalogue import bundled_profiles, find_profile
    from simulator.hardware.profile import dump_profile

    with user_errors("harness"):
        print("\n".join(bundled_profiles()) if name is None else dump_profile(find_profile(name)))
