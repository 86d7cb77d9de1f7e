"""`tuner search`: find the configuration to run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from harness import stops
from harness.console import check_resumed, check_void_of_loads, checked, joined, listed, mix_of, user_errors, watching
from harness.options import AsJson, RunName
from simulator.errors import InputError
from simulator.sla import USAGE, Sla, share_of
from tuner.cli.options import Out

SMALL = 32
"""Trials up to which starting Ray takes longer than it saves."""


def search(
    context: typer.Context,
    name: RunName = "latest",
    hardware: Annotated[
        str | None, typer.Option(help="A profile: device/model, or the file of one's own; see `harness hardware`.")
    ] = None,
    concurrency: Annotated[
        list[str] | None,
        typer.Option(help="Users of a closed loop: 64, 1,8,64, 1..256 for a table, or with weights 8=0.5,64=0.5."),
    ] = None,
    think_s: Annotated[float, typer.Option(help="Mean pause of a user between an answer and the next request.")] = 0.0,
    rate: Annotated[list[str] | None, typer.Option(help="Requests a second of an open loop, as 2,4,8.")] = None,
    cv: Annotated[float, typer.Option(help="Spread of the gaps in an open loop: 1 is Poisson, 0 constant.")] = 1.0,
    arrivals: Annotated[
        list[Path] | None,
        typer.Option(
            help="Recorded arrivals (repeatable): a gateway's log, a published trace, or a CSV; see docs/loads.md."
        ),
    ] = None,
    speed: Annotated[float, typer.Option(help="Recorded arrivals so many times as fast.")] = 1.0,
    objective: Annotated[
        Literal["throughput", "tps", "goodput", "pareto"] | None,
        typer.Option(help="What to make large; by default throughput with --concurrency, else a user's tps."),
    ] = None,
    sla: Annotated[list[str] | None, typer.Option(help=f"A promise to keep, as {USAGE} (repeatable).")] = None,
    share: Annotated[str, typer.Option(help="Share of requests to which the promise is made, all bounds together.")] = "95%",
    mix: Annotated[list[str] | None, typer.Option(help="Share of requests by domain, as math=0.4,code=0.6.")] = None,
    drafter: Annotated[
        list[str] | None, typer.Option(help="Only this drafter (repeatable); `none` is always tried.")
    ] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Only this kind of policy, as fixed,prefix_scheduler.")] = None,
    drafting: Annotated[
        Literal["sampled", "greedy"] | None,
        typer.Option(help="How drafts are chosen; by default greedy, as vLLM does, which winners are exported for."),
    ] = None,
    request_cap: Annotated[int, typer.Option(help="Most requests running at once; smaller caps are tried too.")] = 256,
    trials: Annotated[int | None, typer.Option(help="Configurations to try at each load; 64 by default.")] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="About how long to search: seconds after which no more are tried.")
    ] = None,
    sampler: Annotated[str, typer.Option(help="tpe, gp, nsga2; qmc, random and grid for comparison.")] = "tpe",
    seconds: Annotated[
        float, typer.Option(help="Seconds of simulated time, for each seed of a promising configuration.")
    ] = 600.0,
    confirmation_draws: Annotated[
        int, typer.Option(help="Times the held-out prompts are drawn to confirm the winner.")
    ] = 12,
    engine: Annotated[str, typer.Option(help="That is to run it: vllm, or any.")] = "vllm",
    decision_draws: Annotated[
        int | None,
        typer.Option(help="Draws of prompts, seeds and the profile's errors, to decide; by default 200, of many loads 100."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same study.")] = 0,
    prompt_tokens: Annotated[int | None, typer.Option(help="Length of every prompt; by default as recorded.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Length of every answer; by default as recorded.")] = None,
    step_tokens: Annotated[int, typer.Option(help="Tokens of one target pass, prompts included.")] = 8192,
    kv_capacity_tokens: Annotated[int | None, typer.Option(help="Context that fits; by default the profile's.")] = None,
    replicas: Annotated[int, typer.Option(help="Copies of the engine behind a router, together under the load.")] = 1,
    gpu_hour: Annotated[float | None, typer.Option(help="Dollars for an hour of a GPU: tells $ per million tokens.")] = None,
    users: Annotated[int | None, typer.Option(help="Tells the GPUs that so many users need within the --sla.")] = None,
    actors: Annotated[int | None, typer.Option(help="Ray workers; 0 is this process; by default one a core.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Go on with a study, as it was planned, or to more --trials.")
    ] = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Search a run's recordings for the configuration to run, confirm it on other prompts, and show what it gains."""
    with user_errors("tuner"):
        if resume is not None:
            check_resumed(context)
        check_void_of_loads(context, {"share": "sla"})
        cluster = _cluster(actors, ray_address, trials or 64)
        from results.store.database import Store
        from simulator.decision import draws_at
        from simulator.hardware.catalogue import find_profile
        from simulator.load import loads
        from simulator.plan import StudyPlan
        from simulator.policies import PolicySpec, is_own
        from simulator.serving.engines import engine_of
        from tuner.study import resume_study, start_study

        store = Store(out / "specyard.duckdb")
        with watching() as watcher:
            if resume is not None:
                study_id = resume_study(store, resume, trials, watcher, cluster=cluster, time_limit_s=time_limit)
            else:
                if hardware is None:
                    raise InputError("name a hardware profile with --hardware; `harness hardware` lists them")
                profile, run_id = find_profile(hardware), store.find_run(name)
                weights = mix_of(store, run_id, mix)
                asked = loads(joined(concurrency), think_s, joined(rate), cv, arrivals or (), speed, watcher.say)
                if not asked:
                    raise InputError("name a load: --concurrency, --rate or --arrivals")
                if (rate or arrivals) and objective == "throughput":
                    watcher.say("note: where arrivals are given every configuration that keeps up has the same throughput")
                if time_limit is not None and not time_limit > 0:
                    raise InputError(f"--time-limit {time_limit:g}: seconds above 0 are needed")
                # A user's own is searched as it is printed, by its file's hash.
                policies = policy and [str(PolicySpec.parse(p)) if is_own(p) else p for p in listed(policy) or ()]
                with checked():
                    plan = StudyPlan(
                        profile=profile, loads=asked,
                        objective=objective or ("throughput" if concurrency else "tps"),
                        slas=[Sla.asked(text, share_of(share)) for text in listed(sla) or []],
                        weights=weights, drafters=listed(drafter),
                        policies=policies, sampler=sampler, trials=64 if trials is None else trials,
                        engine=engine_of(engine),
                        decision_draws=draws_at(len(asked)) if decision_draws is None else decision_draws,
                        seconds=seconds, confirmation_draws=confirmation_draws, seed=seed, request_cap=request_cap,
                        prompt_tokens=prompt_tokens, output_tokens=output_tokens, step_tokens=step_tokens,
                        kv_capacity_tokens=kv_capacity_tokens,
                        replicas=replicas, gpu_hour=gpu_hour, users=users,
                    )  # fmt: skip
                study_id = start_study(
                    store, run_id, plan, watcher, drafting=drafting, cluster=cluster, time_limit_s=time_limit
                )
        stops.finished(f"study {study_id}", ["show", study_id, "--out", str(out)])
        from tuner.display import print_study

        print_study(store, study_id, as_json=as_json, whole=False)


def _cluster(actors: int | None, ray_address: str | None, trials: int) -> Any:
    """Where to simulate; None is here."""
    if (actors == 0 and ray_address is None) or (actors is None and ray_address is None and trials <= SMALL):
        return None
    from harness.cluster import Cluster

    cluster = Cluster(ray_address, actors)
    cluster.check()
    return cluster
