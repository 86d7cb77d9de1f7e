"""`tuner search`: find the configuration to run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from harness import options, stops
from harness.console import user_errors, watching
from simulator.errors import InputError
from simulator.sla import USAGE

SMALL = 32
"""Trials up to which starting Ray takes longer than it saves."""


def search(
    context: typer.Context,
    name: options.RunName = "latest",
    hardware: options.Hardware = None,
    model: options.ModelFile = None,
    gpus: options.Gpus = None,
    tp: options.TensorParallel = None,
    weights: options.Weights = None,
    kv: options.KvFormat = None,
    mean_context: options.MeanContext = None,
    captured: options.Captured = None,
    concurrency: Annotated[
        list[str] | None,
        typer.Option(
            metavar="USERS", help="Users of a closed loop: 64, 1,8,64, 1..256 for a table, or with weights 8=0.5,64=0.5."
        ),
    ] = None,
    think_s: options.ThinkSeconds = 0.0,
    requests: options.Requests = None,
    staggered: options.Staggered = False,
    rate: options.Rates = None,
    cv: options.Cv = 1.0,
    arrivals: options.Arrivals = None,
    speed: options.Speed = 1.0,
    window: options.Window = None,
    prefix_cache: options.PrefixCache = True,
    objective: Annotated[
        Literal["throughput", "tps", "goodput", "pareto"] | None,
        typer.Option(help="What to make large; by default throughput with --concurrency, else a user's tps."),
    ] = None,
    sla: Annotated[
        list[str] | None, typer.Option(metavar="PROMISE", help=f"A promise to keep, as {USAGE} (repeatable).")
    ] = None,
    share: options.Share = "95%",
    mix: options.Mix = None,
    drafter: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this drafter (repeatable); `none` is always tried.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="POLICY", help="Only this kind of policy, as fixed,prefix_scheduler.")
    ] = None,
    drafting: Annotated[
        Literal["sampled", "greedy"] | None,
        typer.Option(help="How drafts are chosen; by default greedy, as vLLM does, which winners are exported for."),
    ] = None,
    request_cap: Annotated[int, typer.Option(help="Most requests running at once; smaller caps are tried too.")] = 256,
    trials: Annotated[int | None, typer.Option(help="Configurations to try at each load; 64 by default.")] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which no more are tried; confirming and deciding come after.")
    ] = None,
    sampler: Annotated[str, typer.Option(help="tpe, gp, nsga2; qmc, random and grid for comparison.")] = "tpe",
    seconds: Annotated[
        float, typer.Option(help="Seconds of simulated time, for each seed of a promising configuration.")
    ] = 600.0,
    confirmation_draws: Annotated[
        int, typer.Option(help="Times the held-out prompts are drawn to confirm the winner.")
    ] = 12,
    engine: Annotated[str, typer.Option(help="That is to run it: vllm, sglang, tensorrt-llm, llama.cpp or any.")] = "vllm",
    decision_draws: Annotated[
        int | None,
        typer.Option(help="Draws of prompts, seeds and the profile's errors, to decide; by default 200, of many loads 100."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same study.")] = 0,
    prompt_tokens: options.PromptTokens = None,
    output_tokens: options.OutputTokens = None,
    output_cv: options.OutputCv = 0.0,
    step_tokens: options.StepTokens = 8192,
    kv_capacity_tokens: options.KvCapacityTokens = None,
    replicas: Annotated[int, typer.Option(help="Copies of the engine behind a router, together under the load.")] = 1,
    gpu_hour: Annotated[float | None, typer.Option(help="Dollars for an hour of a GPU: tells $ per million tokens.")] = None,
    users: Annotated[int | None, typer.Option(help="Tells the GPUs that so many users need within the --sla.")] = None,
    actors: Annotated[int | None, typer.Option(help="Ray workers; 0 is this process; by default one a core.")] = None,
    ray_address: options.RayAddress = None,
    resume: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Go on with a study, as it was planned, or to more --trials.")
    ] = None,
    out: options.WritableOut = Path("runs"),
    as_json: options.AsJson = False,
) -> None:
    """Search a run's recordings for the configuration to run, confirm it on other prompts, and show what it gains."""
    with user_errors("tuner"):
        if resume is not None:
            options.check_resumed(context)
        options.check_void_of_loads(context, {"share": "sla"})
        cluster = _cluster(actors, ray_address, trials or 64)
        from results.store.database import Store
        from simulator.decision import draws_at
        from simulator.hardware.catalogue import measured_on
        from simulator.plan import StudyPlan
        from simulator.policies import PolicyKind
        from simulator.serving.engines import engine_of
        from tuner.study import resume_study, start_study

        store = Store(out / "specyard.duckdb")
        with watching() as watcher:
            if resume is not None:
                study_id = resume_study(store, resume, trials, watcher, cluster=cluster, time_limit_s=time_limit)
            else:
                promised = options.slas_of(sla, share, watcher.say)
                tp, replicas = options.shared_out(context, gpus, tp, replicas, measured_on(hardware))
                profile = options.profile_of(hardware, model, tp, weights, kv, captured, mean_context)
                options.say_gpus(profile, hardware, tp, watcher.say)
                run_id = store.find_run(name)
                shares = options.mix_of(store, run_id, mix)
                watcher.doing("reading arrivals" if arrivals else "starting")
                asked = options.loads_of(
                    concurrency, think_s, rate, cv, arrivals, speed, window, watcher.say, requests, staggered
                )
                if (rate or arrivals) and objective == "throughput":
                    watcher.say("note: where arrivals are given every configuration that keeps up has the same throughput")
                if time_limit is not None and not time_limit > 0:
                    raise InputError(f"--time-limit {time_limit:g}: seconds above 0 are needed")
                kinds = None if policy is None else [PolicyKind.asked(kind) for kind in options.listed(policy) or ()]
                with options.checked():
                    plan = StudyPlan(
                        profile=profile, loads=asked,
                        objective=objective or ("throughput" if concurrency else "tps"),
                        slas=promised,
                        weights=shares, drafters=options.listed(drafter),
                        policies=kinds, sampler=sampler, trials=64 if trials is None else trials,
                        engine=engine_of(engine),
                        decision_draws=draws_at(len(asked)) if decision_draws is None else decision_draws,
                        seconds=seconds, confirmation_draws=confirmation_draws, seed=seed, request_cap=request_cap,
                        prompt_tokens=prompt_tokens, output_tokens=output_tokens, output_cv=output_cv,
                        step_tokens=step_tokens, kv_capacity_tokens=kv_capacity_tokens,
                        replicas=replicas, prefix_cache=prefix_cache, gpu_hour=gpu_hour, users=users,
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
