"""`harness hardware`: the profiles there are."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import stops
from harness.console import plain_console, print_json, print_table, user_errors
from harness.options import AsJson, Captured, KvFormat, MeanContext, ModelFile, Out, TensorParallel, Weights, profile_of
from simulator.errors import InputError

if TYPE_CHECKING:
    from simulator.hardware.profile import Profile


ProfileName = Annotated[
    str, typer.Argument(metavar="PROFILE", help="device/model, the file of one's own, or a device with --model.")
]


def hardware(
    name: Annotated[str | None, typer.Argument(metavar="PROFILE", help="As `harness hardware show` takes it.")] = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the hardware profiles; `list`, `show` and `fit` after it say more."""
    if name is None:
        list_profiles(out, as_json)
        return
    stops.say(
        f"note: `harness hardware {name}` is `harness hardware show {name}` now; the old way goes with the next release"
    )
    show_profile(name, as_json=as_json)


def list_profiles(out: Out = Path("runs"), as_json: AsJson = False) -> None:
    """List the hardware profiles there are, those of one's own under --out included."""
    from simulator.hardware.catalogue import bundled_profiles, find_profile

    with user_errors("harness"):
        rows = [_row(name, find_profile(name)) for name in bundled_profiles()]
        for file in sorted((out / "hardware").glob("**/*.json")):
            try:
                rows.append(_row(str(file), find_profile(str(file)), file))
            except InputError as error:  # a list of the others is still of use
                stops.say(f"left out: {error}")
        if as_json:
            print_json("hardware", {"profiles": rows})
            return
        lines = [
            (row["profile"], str(row["gpus"]), f"{row['context_tokens']:,}", row["source"], row["date"] or "–")
            for row in rows
        ]
        heads = ("profile", "GPUs", "context that fits", "source", "date")
        print_table(plain_console(), heads, lines, ("date", "GPUs"))


def show_profile(
    name: ProfileName,
    model: ModelFile = None,
    tp: TensorParallel = None,
    weights: Weights = None,
    kv: KvFormat = None,
    mean_context: MeanContext = None,
    captured: Captured = None,
    as_json: AsJson = False,
) -> None:
    """Print a profile as JSON: a starting point for another."""
    from simulator.hardware.profile import dump_profile

    with user_errors("harness"):
        made = dump_profile(profile_of(name, model, tp, weights, kv, captured, mean_context))
        if as_json:
            print_json("profile", {"profile": json.loads(made)})
        else:
            print(made)


def _row(name: str, profile: Profile, file: Path | None = None) -> dict[str, Any]:
    """What is known of a profile; of a file of one's own that does not say when it was made, when it was written."""
    date = profile.provenance.get("date")
    if date is None and file is not None:
        date = f"{datetime.fromtimestamp(file.stat().st_mtime, UTC):%Y-%m-%d}"
    return {
        "profile": name, "gpus": profile.gpus, "context_tokens": profile.kv_capacity_tokens, "source": profile.source,
        "date": date,
    }  # fmt: skip
