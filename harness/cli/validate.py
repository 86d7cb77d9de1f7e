"""`harness validate`: a live engine beside its simulation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from harness.console import plain_console, print_json, print_table, say, user_errors, watching
from harness.options import AsJson, RunName, WritableOut, check_void_of_policies, joined, listed
from simulator.numbers import counted

if TYPE_CHECKING:  # these take seconds
    from results.store.database import Store


def validate(
    context: typer.Context,
    name: RunName = "latest",
    engine: Annotated[
        Literal["specyard", "vllm"], typer.Option(help="Who serves: this project's own loop, or vLLM where it is installed.")
    ] = "specyard",
    hardware: Annotated[
        str | None,
        typer.Option(help="A profile to simulate with; by default this machine is measured, between live slices."),
    ] = None,
    concurrency: Annotated[
        list[str] | None, typer.Option(metavar="USERS", help="Users of a closed loop: 64, 1,8,64, or 1..32; the default.")
    ] = None,
    drafter: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this drafter (repeatable); none is one.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY",
            help="Policies, as fixed:3,threshold:0.5 (repeatable); by default fixed:γ and prefix_scheduler.",
        ),
    ] = None,
    drafting: Annotated[
        Literal["sampled", "greedy"] | None,
        typer.Option(help="How drafts are chosen, live and simulated; by default as the engine does: sampled, vLLM greedy."),
    ] = None,
    time_limit: Annotated[
        float, typer.Option(help="About how long to measure, in seconds: profile and live points together.")
    ] = 420.0,
    max_new_tokens: Annotated[int, typer.Option(help="Length limit of an answer.")] = 48,
    seed: Annotated[int, typer.Option(help="Seed of prompts' halves, their turns, and all that is drawn.")] = 0,
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Serve a run's prompts live under load, and simulate the same from other prompts' traces: how far off is it?"""
    from harness.recording.pair import check_hub, load_pair
    from harness.validation.plan import ValidationPlan, pair_of
    from results.store.database import Store
    from simulator.hardware.catalogue import find_profile
    from simulator.load import counts
    from simulator.policies import policies_of

    with user_errors("harness"):
        policies = policies_of(listed(policy))
        check_void_of_policies(context, policies)
        store = Store(out / "specyard.duckdb")
        plan = ValidationPlan(
            concurrency=tuple(counts("--concurrency", joined(concurrency) or "1..32")),
            drafters=None if drafter is None else tuple(listed(drafter) or ()),
            policies=None if policies is None else tuple(policies), time_limit_s=time_limit,
            max_new_tokens=max_new_tokens,
            drafting=drafting, seed=seed,
        )  # fmt: skip
        profile = None if hardware is None else find_profile(hardware)
        if engine == "vllm":
            from harness.vllm.engine import require

            require()
        run_id = store.find_run(name)
        check_hub(load_pair(pair_of(store.run(run_id))))
        with watching() as watcher:
            if engine == "vllm":
                from harness.vllm.validation import validate_vllm

                validation_id = validate_vllm(store, run_id, plan, watcher, hardware=profile)
            else:
                from harness.validation.run import validate_run

                validation_id = validate_run(store, run_id, plan, watcher, hardware=profile)
        print_validation(store, validation_id, as_json=as_json)
        if engine == "vllm" and not as_json:
            from harness.vllm.validation import closing_lines
            from results.store.validations import Validations

            print("\n".join(closing_lines(Validations(store).rows(validation_id))))


def print_validation(store: Store, validation_id: str, *, as_json: bool) -> None:
    """Live points beside their simulations."""
    from results.figures.validation import QUANTITIES, validated
    from results.figures.validation import errors as errors_of
    from results.store.validations import Validations

    rows = Validations(store).rows(validation_id)
    with store.reading() as connection:
        errors = {e.pop("quantity"): e for e in errors_of(validated(connection, validation_id)).to_dicts()}
    if as_json:
        print_json("validation", {"validation": rows, "errors": errors})
        return
    console, first = plain_console(), rows[0]
    say(
        console,
        f"validation {validation_id} · run {first['run_id']} · {first['drafting']} drafts · {first['profile']} · "
        f"live: {counted(len(first['live_prompts']), 'prompt')}, simulated: {len(first['trace_prompts'])} others",
    )
    names = {"throughput": "tok/s", "tps": "tok/s of a user", "tau": "τ", "budget": "budget"}
    heads, lines, last = ["drafter · policy", "users", *names.values(), "step time"], list[list[str]](), None
    for r in rows:
        who = r["drafter"] if r["drafter"] == "none" else f"{r['drafter']} γ={r['gamma']} {r['policy']}"
        cells = [_compared_cell(r, figure) for figure in QUANTITIES]
        lines.append(["" if who == last else who, str(r["users"]), *cells, f"{r['step_errors']['step']:+.1%}"])
        last = who
    print_table(console, heads, lines, ("step time", "budget", "τ", "tok/s of a user"))
    say(console, "simulated / measured (error, * outside the 95 % interval); step time: predicted for the steps that ran")
    for figure, label in {**names, "step": "step time"}.items():
        if (e := errors.get(figure)) is None:  # too short for anybody to have been served
            say(console, f"{label}: not measured at any load; give more --time-limit")
            continue
        rest = ""
        if e["known"]:
            rest = f", {e['same_prompts']:.1%} from the live prompts' own traces, {e['inside'] / e['known']:.0%} inside"
        say(
            console,
            f"{label}: mean absolute error {e['mean_absolute']:.1%} (mean {e['mean']:+.1%}, worst {e['worst']:.1%}){rest}",
        )


def _compared_cell(r: dict[str, Any], figure: str) -> str:
    simulated, measured = r["simulated"][figure], r["measured"][figure]
    if simulated is None or measured is None:
        return "–"
    form = ",.0f" if figure in ("throughput", "tps") else ".2f"
    star = "" if r["low"][figure] <= measured <= r["high"][figure] else "*"
    return f"{simulated:{form}} / {measured:{form}} ({simulated / measured - 1:+.1%}{star})"
