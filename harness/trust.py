"""Commands that say how far to trust a simulation: `harness validate`, `sensitivity` and `reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from harness.command import listed, user_errors
from simulator.errors import InputError

Out = Annotated[Path, typer.Option("--out", help="Folder of the database, the reports and everything else a run writes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout; progress goes to stderr.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the start of one, or `latest`.")]


def validate(
    name: RunName = "latest",
    engine: Annotated[
        Literal["specyard", "vllm"], typer.Option(help="Who serves: this project's own loop, or vLLM where it is installed.")
    ] = "specyard",
    hardware: Annotated[
        str | None,
        typer.Option(help="A profile to simulate with; by default this machine is measured, between live slices."),
    ] = None,
    concurrency: Annotated[str, typer.Option(help="Users of a closed loop: 64, 1,8,64, or 1..32.")] = "1..32",
    drafter: Annotated[list[str] | None, typer.Option(help="Only this drafter (repeatable); none is one.")] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="As fixed:3,threshold:0.5 (repeatable); by default fixed:γ and prefix_scheduler."),
    ] = None,
    drafting: Annotated[
        Literal["sampled", "greedy"] | None,
        typer.Option(help="How drafts are chosen, live and simulated; by default as the engine does: sampled, vLLM greedy."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="About how long to measure: profile and live points together.")] = 420.0,
    max_tokens: Annotated[int, typer.Option(help="Length limit of an answer.")] = 48,
    seed: Annotated[int, typer.Option(help="Of prompts' halves, their turns, and all that is drawn.")] = 0,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Serve a run's prompts live under load, and simulate the same from other prompts' traces: how far off is it?"""
    from harness.display import print_validation, watching
    from harness.sweeps import counts
    from harness.validation import Plan, validate_run
    from results.store import Store

    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        plan = Plan(
            concurrency=tuple(counts("--concurrency", concurrency)), drafters=None if drafter is None else tuple(drafter),
            policies=None if policy is None else tuple(listed(policy) or ()), seconds=seconds, max_tokens=max_tokens,
            drafting=drafting, seed=seed,
        )  # fmt: skip
        with watching() as watcher:
            if engine == "vllm":
                from harness.vllm.validation import validate_vllm

                validation_id = validate_vllm(store, name, plan, watcher, hardware=hardware)
            else:
                validation_id = validate_run(store, store.find_run(name), plan, watcher, hardware=hardware)
        print_validation(store, validation_id, as_json=as_json)
        if engine == "vllm" and not as_json:
            from harness.vllm.validation import closing_lines
            from results.validations import Validations

            print("\n".join(closing_lines(Validations(store).rows(validation_id))))


def sensitivity(
    name: RunName = "latest",
    hardware: Annotated[str | None, typer.Option(help="A profile: device/model, or the file of one's own.")] = None,
    concurrency: Annotated[str, typer.Option(help="Users of a closed loop: 64, 1,8,64, or 1..256.")] = "4,32,256",
    drafter: Annotated[list[str] | None, typer.Option(help="Only this drafter (repeatable).")] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="As fixed:3,none (repeatable); by default none, fixed:γ and prefix_scheduler.")
    ] = None,
    drafting: Annotated[
        Literal["sampled", "greedy"] | None,
        typer.Option(help="How drafts are chosen; by default sampled, or greedy where vLLM's policy is asked for."),
    ] = None,
    objective: Annotated[
        Literal["throughput", "tps"], typer.Option(help="What the best configuration has most of.")
    ] = "throughput",
    seconds: Annotated[float, typer.Option(help="Of simulated time, for each point.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Same seed, same requests.")] = 0,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """How wrong a profile, acceptances or lengths may be before another configuration would have won."""
    from harness.display import print_tolerances, watching
    from harness.sensitivity import run_sensitivity
    from harness.sweeps import Plan, counts
    from results.store import Store
    from simulator.hardware import dump_profile
    from simulator.profiles import find_profile

    with user_errors("harness"):
        if hardware is None:
            raise InputError("name a hardware profile with --hardware; `harness hardware` lists them")
        store = Store(out / "specyard.duckdb")
        loads = [f"users:{n}" for n in counts("--concurrency", concurrency)]
        plan = Plan(
            profile=dump_profile(find_profile(hardware)), loads=loads, policies=listed(policy), drafters=drafter,
            seconds=seconds, seed=seed,
        )  # fmt: skip
        with watching() as watcher:
            found = run_sensitivity(store, store.find_run(name), plan, objective, watcher, drafting=drafting)
        print_tolerances(found, as_json=as_json)


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

        from harness.display import watching
        from harness.fidelity import page, paper_checks
        from harness.field import reproduce_field
        from harness.reproduction import report_lines, reproduce
        from results.fieldwork import report_lines as field_lines
        from results.reproduction import write_reproduction
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
