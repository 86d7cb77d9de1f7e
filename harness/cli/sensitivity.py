"""`harness sensitivity`: how wrong an input may be before another configuration would have won."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.console import plain_console, print_json, print_table, user_errors, watching
from harness.options import (
    AsJson,
    Captured,
    Drafters,
    DraftsChosen,
    Hardware,
    KvFormat,
    MeanContext,
    ModelFile,
    Policies,
    RunName,
    TensorParallel,
    Weights,
    WritableOut,
    check_void_of_policies,
    checked,
    joined,
    listed,
    profile_of,
)

if TYPE_CHECKING:  # these take seconds
    from results.store.sensitivities import BreakEven


def sensitivity(
    context: typer.Context,
    name: RunName = "latest",
    hardware: Hardware = None,
    model: ModelFile = None,
    tp: TensorParallel = None,
    weights: Weights = None,
    kv: KvFormat = None,
    mean_context: MeanContext = None,
    captured: Captured = None,
    concurrency: Annotated[
        list[str] | None,
        typer.Option(metavar="USERS", help="Users of a closed loop: 64, 1,8,64, or 1..256; by default 4,32,256."),
    ] = None,
    drafter: Drafters = None,
    policy: Policies = None,
    drafting: DraftsChosen = None,
    objective: Annotated[
        Literal["throughput", "tps"], typer.Option(help="What the best configuration has most of.")
    ] = "throughput",
    seconds: Annotated[float, typer.Option(help="Seconds of simulated time, for each point.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Same seed, same requests.")] = 0,
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """How wrong a profile, acceptances or lengths may be before another configuration would have won."""
    from harness.sweeps.run import run_sensitivity
    from results.store.database import Store
    from simulator.load import Load, Users, counts
    from simulator.plan import SweepPlan
    from simulator.policies import policies_of

    with user_errors("harness"):
        policies = policies_of(listed(policy))
        check_void_of_policies(context, policies)
        profile = profile_of(hardware, model, tp, weights, kv, captured, mean_context)
        store = Store(out / "specyard.duckdb")
        loads: list[Load] = [Users(n) for n in counts("--concurrency", joined(concurrency) or "4,32,256")]
        with checked():
            plan = SweepPlan(
                profile=profile, loads=loads, policies=policies, drafters=listed(drafter),
                seconds=seconds, seed=seed,
            )  # fmt: skip
        with watching() as watcher:
            found = run_sensitivity(store, store.find_run(name), plan, objective, watcher, drafting=drafting)
        print_sensitivities(found.break_evens, as_json=as_json)


def print_sensitivities(found: Sequence[BreakEven], *, as_json: bool) -> None:
    """How far things may be off before another configuration wins."""
    if as_json:
        print_json("sensitivity", {"sensitivities": [one.row() for one in found]})
        return
    heads = ("what is off", "holds from", "to", "lost at ±30 %", "then wins")
    lines, last = list[list[str]](), None
    for t in found:
        ends = [
            f"{end:+.0%}" if end is not None else f"{side}30 %" for end, side in ((t.down, "below −"), (t.up, "beyond +"))
        ]
        losses = " / ".join(f"{one.loss:.1%}" for one in (t.deviations[0], t.deviations[-1]))
        if t.load != last:
            lines.append([f"{t.load.label}: {t.winner} wins, by {t.margin:.1%}"])
        lines.append([f"  {t.what}", *ends, losses, str(t.instead or "–")])
        last = t.load
    console = plain_console()
    print_table(console, heads, lines, ("lost at ±30 %",))
