"""`harness profile`: this machine as a hardware profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from harness.console import plain_console, print_json, say, user_errors, watching
from harness.options import AsJson, PairDrafters, PairName, TargetSource, WritableOut, check_void, given_options, listed
from simulator.drafter_kinds import LEARNED
from simulator.errors import InputError
from simulator.numbers import counted

if TYPE_CHECKING:  # these take seconds
    from harness.hardware.measure import ProfileQuality
    from harness.recording.pair import Pair
    from simulator.hardware.profile import Profile


def profile(
    context: typer.Context,
    pair: PairName = "tiny",
    target: TargetSource = None,
    architecture: Annotated[
        str | None, typer.Option(help="Instead of a pair, random weights: qwen3-4b, -8b, -14b, or a config.json.")
    ] = None,
    drafter: PairDrafters = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; by default the pair's, or a GPU where there is one.")
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Numeric type of random weights; auto: bfloat16 where the device computes in it by itself."),
    ] = "auto",
    time_limit: Annotated[float, typer.Option(help="About how long to measure, in seconds.")] = 60.0,
    max_requests: Annotated[int | None, typer.Option(help="Largest batch; by default 64, on a GPU 256.")] = None,
    context_tokens: Annotated[int | None, typer.Option(help="Longest context; by default 1024, on a GPU 4096.")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="For keys and values; by default half of what is free.")] = None,
    graphs: Annotated[bool, typer.Option(help="Capture passes as CUDA graphs on a GPU.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the order of measurements.")] = 0,
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Measure this machine: what a step of a real target and its drafters takes, as a hardware profile."""
    from drafters.configs import read_architecture
    from harness.hardware.effort import Effort
    from harness.recording.pair import asked_pair, check_hub, load_pair
    from harness.recording.sources import check_sources

    with user_errors("harness"):
        check_void(context, {"dtype": "architecture"}, apart={"pair": "architecture", "target": "architecture"})
        check_void(context, {}, apart={"pair": "target"})
        named, chosen = asked_pair(pair, target, drafter) if architecture is None else (None, None)
        _check_graphs(context, device, named)
        effort = Effort(
            time_limit_s=time_limit, seed=seed, max_requests=max_requests, context_tokens=context_tokens,
            memory_gb=memory_gb, graphs=graphs,
        )  # fmt: skip
        if named is not None:  # before what takes seconds to import
            check_sources(load_pair(named), chosen, asked=False)
            check_hub(load_pair(named), chosen)
        elif architecture is not None:
            read_architecture(architecture)
        from harness.hardware.measure import profile_architecture, profile_file, profile_pair

        with watching() as watcher:
            if named is not None:
                made, quality = profile_pair(named, effort, watcher, device=device, drafters=chosen, out=out)
            elif architecture is not None:
                kinds = {name.partition("=")[0]: name.partition("=")[2] or name for name in listed(drafter) or LEARNED}
                made, quality = profile_architecture(
                    architecture, kinds, effort, watcher, device=device or "auto", dtype=dtype, out=out
                )
        print_profile(made, quality, profile_file(out, made.name), as_json=as_json)


def _check_graphs(context: typer.Context, device: str | None, pair: str | Pair | None) -> None:
    """Raise InputError where graphs are asked for, or not to be captured, on a CPU, which has none."""
    from harness.cluster import may_have_gpu
    from harness.recording.pair import load_pair

    on = device or (load_pair(pair).device if pair else "auto")
    if "graphs" in given_options(context) and (on == "cpu" or (on == "auto" and not may_have_gpu())):
        raise InputError("--graphs: is of no use on a CPU; leave it out")


def print_profile(profile: Profile, quality: ProfileQuality, file: Path, *, as_json: bool) -> None:
    """A measured profile, and how far to trust it."""
    if as_json:
        from simulator.hardware.profile import dump_profile

        print_json("profile", {"profile": json.loads(dump_profile(profile)), "quality": quality, "file": file})
        return
    console = plain_console()
    console.print(
        f"{profile.name} · {profile.device} · room for {profile.kv_capacity_tokens:,} context tokens", markup=False
    )
    table = Table("one request, ms a round", "as profiled", "as decoded", "ratio", box=None, header_style="bold")
    for name, live in quality.live.items():
        ratio = f"{live.predicted_s / live.measured_s:.2f}"
        table.add_row(name, f"{1e3 * live.predicted_s:.2f}", f"{1e3 * live.measured_s:.2f}", ratio)
    console.print(table)
    errors = ", ".join(f"{part} {median:.0%} ({worst:.0%})" for part, (median, worst) in quality.errors.items())
    say(console, f"error against the measured points, median (worst): {errors}")
    console.print(
        f"spread of repetitions {quality.spread[0]:.0%} ({quality.spread[1]:.0%}), {counted(quality.points, 'point')}"
    )
    console.print(str(file), soft_wrap=True, markup=False)
