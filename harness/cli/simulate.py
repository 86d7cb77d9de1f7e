"""`harness simulate`: a run's recordings on modelled hardware, under load."""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness import options, stops
from harness.console import plain_console, print_json, print_table, say, user_errors, watching
from simulator.numbers import counted
from simulator.sla import USAGE, promises

if TYPE_CHECKING:  # these take seconds
    from rich.console import Console

    from results.store.contrasts import Contrast
    from results.store.database import Store
    from results.store.simulations import Simulation
    from simulator.configuration import System
    from simulator.decision import Decision
    from simulator.load import Load
    from simulator.plan import SweepPlan


def simulate(
    context: typer.Context,
    name: options.RunName = "latest",
    hardware: options.Hardware = None,
    model: options.ModelFile = None,
    gpus: options.Gpus = None,
    tp: options.Layouts = None,
    weights: options.Weights = None,
    kv: options.KvFormat = None,
    mean_context: options.MeanContext = None,
    captured: options.Captured = None,
    believed_hardware: Annotated[str | None, typer.Option(help="What policies think a step takes.")] = None,
    concurrency: Annotated[
        list[str] | None, typer.Option(metavar="USERS", help="Users of a closed loop: 64, 1,8,64, or 1..256.")
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
    policy: options.Policies = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="Compare all policies with this one, paired, at every load, in up to 60 draws."),
    ] = None,
    drafter: options.Drafters = None,
    confidences: Annotated[
        Literal["raw", "calibrated"] | None,
        typer.Option(help="By default calibrated, where the run has temperatures; estimated where a drafter gives none."),
    ] = None,
    drafting: options.DraftsChosen = None,
    mix: options.Mix = None,
    prompt_tokens: options.PromptTokens = None,
    output_tokens: options.OutputTokens = None,
    output_cv: options.OutputCv = 0.0,
    request_cap: Annotated[int, typer.Option(help="Requests running at once on a replica.")] = 256,
    step_tokens: options.StepTokens = 8192,
    kv_capacity_tokens: options.KvCapacityTokens = None,
    replicas: Annotated[int, typer.Option(help="Copies of the engine behind a router.")] = 1,
    router: Annotated[Literal["round_robin", "least_loaded"], typer.Option(help="How requests find one.")] = "least_loaded",
    seconds: Annotated[float, typer.Option(help="Seconds of simulated time, for each point.")] = 600.0,
    seed: Annotated[int, typer.Option(help="Same seed, same requests, whatever the policy.")] = 0,
    replications: Annotated[int, typer.Option(help="Seeds for every point, counted on from --seed.")] = 1,
    sla: Annotated[list[str] | None, typer.Option(metavar="PROMISE", help=f"A promise, as {USAGE} (repeatable).")] = None,
    share: options.Share = "95%",
    engine: Annotated[str, typer.Option(help="That is to run it: vllm, sglang, tensorrt-llm, llama.cpp or any.")] = "vllm",
    decision_draws: Annotated[
        int, typer.Option(help="Draws of prompts, seeds and the profile's errors, for the recommendation; 0 for none.")
    ] = 200,
    headroom: Annotated[
        bool | None,
        typer.Option(help="Search how many times each load is held; by default of open loads with an --sla, where few."),
    ] = None,
    gpu_hour: Annotated[float | None, typer.Option(help="Dollars for an hour of a GPU: adds $ per million tokens.")] = None,
    users: Annotated[int | None, typer.Option(help="Adds the GPUs that so many users need within the --sla.")] = None,
    rows: Annotated[Path | None, typer.Option(help="Folder for every request's row, one Parquet file a point.")] = None,
    actors: Annotated[int | None, typer.Option(help="Ray workers; none for a small sweep, else one a core.")] = None,
    ray_address: options.RayAddress = None,
    resume: Annotated[str | None, typer.Option(metavar="SWEEP", help="Go on with an interrupted sweep.")] = None,
    out: options.WritableOut = Path("runs"),
    as_json: options.AsJson = False,
) -> None:
    """Replay a run's dense recordings on modelled hardware, under load: throughput, TPS, latencies, budget."""
    from simulator.errors import InputError
    from simulator.policies import PolicySpec, policies_of

    with user_errors("harness"):
        if resume is not None:
            options.check_resumed(context)
        options.check_void_of_loads(context, {"share": "sla", "router": "replicas"})
        if decision_draws == 0:
            options.check_void(context, {}, apart={"engine": "decision_draws"})
        policies = policies_of(options.listed(policy))
        against_policy = None if against is None else PolicySpec.asked(against)
        if against is None:
            options.check_void_of_policies(context, policies)
        from harness.cluster import Cluster

        Cluster(ray_address, actors).check()
        from harness.sweeps.run import resume_sweep, run_sweep
        from results.store.database import Store
        from results.store.rows import read_plan
        from simulator.hardware.catalogue import find_profile, measured_on
        from simulator.plan import SweepPlan
        from simulator.serving.engines import engine_of

        store = Store(out / "specyard.duckdb")
        with watching() as watcher:
            if resume is not None:
                sweep_id = resume_sweep(store, resume, watcher, actors=actors, ray_address=ray_address, rows=rows)
            else:
                promised = options.slas_of(sla, share, watcher.say)
                shared = options.layouts_of(context, gpus, tp, replicas, measured_on(hardware))
                (profile, copies), *others = options.profiles_of(
                    lambda one: options.profile_of(hardware, model, one, weights, kv, captured, mean_context),
                    shared, watcher.say,
                )  # fmt: skip
                options.say_gpus(profile, hardware, tp if gpus is None else gpus, watcher.say)
                believed = None if believed_hardware is None else find_profile(believed_hardware)
                run_id = store.find_run(name)
                shares = options.mix_of(store, run_id, mix)
                watcher.doing("reading arrivals" if arrivals else "starting")
                asked = options.loads_of(
                    concurrency, think_s, rate, cv, arrivals, speed, window, watcher.say, requests, staggered
                )
                with options.checked():
                    plan = SweepPlan(
                        profile=profile, believed=believed, loads=asked,
                        policies=policies, against=against_policy, drafters=options.listed(drafter),
                        confidences=confidences, weights=shares, prompt_tokens=prompt_tokens, output_tokens=output_tokens,
                        output_cv=output_cv, request_cap=request_cap, step_tokens=step_tokens,
                        kv_capacity_tokens=kv_capacity_tokens, replicas=copies, others=[other for other, _ in others],
                        prefix_cache=prefix_cache, router=router, seconds=seconds, seed=seed, replications=replications,
                        engine=engine_of(engine), decision_draws=decision_draws,
                        slas=promised,
                        headroom=headroom, gpu_hour=gpu_hour, users=users,
                    )  # fmt: skip
                sweep_id = run_sweep(
                    store, run_id, plan, watcher,
                    drafting=drafting, actors=actors, ray_address=ray_address, rows=rows,
                )  # fmt: skip
        stops.finished(f"sweep {sweep_id}", ["show", sweep_id, "--out", str(out)])
        print_layouts(store, sweep_id, as_json=as_json)
        came = store.simulations(sweep_id)
        for own in (str(one) for one in read_plan(store.sweep(sweep_id)["plan"], SweepPlan).policies or () if one.own):
            wrong = [row["error"] for row in came if row["policy"] == own]
            if wrong and all(wrong):
                raise InputError(f"sweep {sweep_id}: {own} could not be simulated at any load: {wrong[0]}")


def print_layouts(store: Store, sweep_id: str, *, as_json: bool) -> None:
    """What a sweep came to, after the tables of other layouts that it was compared with."""
    from results.store.decisions import decisions

    with store.reading() as connection:
        decided = decisions(connection, sweep_id).values()
    for other in () if as_json else [rival.sweep for decision in decided for rival in decision.rivals]:
        print_sweep(store, other, as_json=False, decides=False)
        plain_console().print()
    print_sweep(store, sweep_id, as_json=as_json)


def print_sweep(store: Store, sweep_id: str, *, as_json: bool, decides: bool = True) -> None:
    """What a sweep of simulations came to; without what to run where that `decides` nothing."""
    from results.store.commands import typed
    from results.store.contrasts import read_contrasts
    from results.store.decisions import decisions
    from results.store.rows import read_plan
    from results.store.runs import drafts_of
    from results.store.simulations import read_simulations
    from simulator.decision import layout_of
    from simulator.plan import SweepPlan
    from simulator.records import SERVED
    from simulator.sentences import told

    sweep = store.sweep(sweep_id)
    with store.reading() as connection:
        decided, contrasted = decisions(connection, sweep_id), read_contrasts(connection, sweep_id)
        rows = [] if as_json else read_simulations(connection, sweep_id)
    run = store.run(sweep["run_id"])
    served = run["prompt_source"] == "served"
    if as_json:
        compared = [one.row() for one in contrasted]
        told_as = {str(load): decision.row() for load, decision in decided.items()}
        found = {"simulations": store.simulations(sweep_id), "contrasts": compared, "decisions": told_as}
        print_json("sweep", {"sweep": sweep, "label": SERVED if served else None, **found})
        return
    plan = read_plan(sweep["plan"], SweepPlan)
    console = plain_console()
    head = " · ".join(filter(None, (f"sweep {sweep_id}", f"run {sweep['run_id']}", drafts_of(run, plan.drafting))))
    shared = f" · {layout_of(plan.profile.gpus, plan.replicas)}" if plan.profile.gpus * plan.replicas > 1 else ""
    cache = " · no prefix cache" if plan.whole_prompts else ""
    say(console, f"{head} · {plan.profile.name} ({plan.profile.source}){shared}{cache}")
    if sweep["finished_at"] is None:
        say(console, "this sweep is not finished: what follows is what it has so far")
    if served:
        say(console, SERVED)
    loads = list(dict.fromkeys(r.load for r in rows))
    if len(loads) == 1:
        say(console, loads[0].label)
    for promise in promises(plan.slas):
        say(console, f"promise: {promise.name}")
    best = {load: _best([r for r in rows if r.load == load], plan) for load in loads}
    costs = _cost_columns(plan, rows, decided)
    _print_rows(console, plan, rows, best, costs)
    if any(best.values()) and len(rows) > len(loads):
        apart = "; whether others differ is told below, paired" if contrasted else ""
        say(console, f"* most{' within the promise' if plan.slas else ''} at its load{apart}")
    if _DOLLARS in costs:
        say(console, f"{_DOLLARS}: dollars per million output tokens at the load of the row, not at the most it holds")
    if any(not r.exact and r.lossless for r in rows):
        say(console, "policies that look at old confidences replay sampled drafts approximately; see docs/simulating.md")
    if len(loads) > 1:
        say(console, _best_by_load(plan, rows, best))
    if contrasted:
        console.print()
        _print_contrasts(console, contrasted)
        say(console, f"as a figure: {typed('harness', 'report', str(sweep['run_id']), out=store.file.parent)}")
        if missing := [load.label for load in loads if load not in {one.load for one in contrasted}]:
            say(console, f"not compared, or not yet (--resume {sweep_id} goes on): {', '.join(missing)}")
    for decision in decided.values() if decides else ():
        console.print()
        for line in [*told(decision), *_needed(plan, decision)]:
            say(console, line)


def _print_rows(
    console: Console,
    plan: SweepPlan,
    rows: Sequence[Simulation],
    best: Mapping[Load, Sequence[Simulation]],
    costs: Mapping[str, Cell],
) -> None:
    """The table, a row a simulation, and below it the warnings: marked by letters in the rows they are about."""
    promised = [promise.name for promise in promises(plan.slas)]
    replicated, several = len({r.seed for r in rows}) > 1, len(best) > 1
    starred = {r.point for own in best.values() for r in own}
    texts = dict.fromkeys(w for r in rows for w in r.warnings)
    about = {text: [text in r.warnings for r in rows] for text in texts}
    letters = dict(zip((text for text in texts if not all(about[text])), string.ascii_letters, strict=False))
    kept = ["promise"] if len(promised) == 1 else promised
    heads = ["drafter · policy", *(["load"] if several else []), *_FIGURES, *kept, *costs, *(["notes"] if letters else [])]
    lines: list[list[str]] = []
    last = None
    for r in rows:
        who, star = _who(r), " *" if r.point in starred else ""
        seed = f" #{r.seed}" if replicated else ""
        where = [r.load.label + seed + star] if several else []
        who, shown = (
            who + ("" if several else seed),
            "" if who == last and several else who + ("" if several else seed + star),
        )
        cells = [r.error] if r.error else [*_simulation_cells(r, plan), *(cell(r) for cell in costs.values())]
        marks = [", ".join(letters[w] for w in r.warnings if w in letters)] if letters and not r.error else []
        lines.append([shown, *where, *cells, *marks])
        last = who
    print_table(console, heads, lines, (*_LEAST_FIRST, *(["tok/s/GPU", *reversed(list(costs))] if costs else [])))
    for text in texts:
        say(console, f"{letters[text]}: {text}" if text in letters else f"{'all rows: ' if len(rows) > 1 else ''}{text}")


def _print_contrasts(console: Console, found: Sequence[Contrast]) -> None:
    """Every policy against one of them, a row a load: what it gives more, with both intervals; a table for each figure."""
    from simulator.decision import FIGURES
    from simulator.sentences import signed, too_few_draws

    say(console, f"Against {found[0].against}, on the same recording and in the same draws of prompts and seeds:")
    for figure in dict.fromkeys(one.figure for one in found):
        lines, last = list[list[str]](), ""
        # Sorting is stable: loads stay in their order.
        for one in sorted((one for one in found if one.figure == figure), key=lambda one: str(one.candidate)):
            who, cells = one.candidate.system.short, ["nothing to compare: too few tokens in some draw"]
            if one.gain is not None:
                ends = (one.gain.all, one.gain.held)
                cells = [signed(one.gain.all.value), *(f"{signed(r.low)} to {signed(r.high)}" for r in ends)]
            lines.append(["" if who == last else who, one.load.label, *cells])
            last = who
        heads = ["drafter · policy", "load", FIGURES[figure], "95 %", "profile held"]
        print_table(console, heads, lines, ("profile held",))
    draws = min(one.draws for one in found)
    of = f"{draws} draws of prompts, seeds and the profile's errors{too_few_draws(draws)}"
    say(console, f"{of}; an interval that holds 0 shows no difference.")


Cell = Callable[["Simulation"], str]
_TPOT, _BURSTS = "TPOT p50/90/99", "bursts p50/90/99 ms"
_FIGURES = ("tok/s/GPU", "mean tok/s of a user", "TTFT p50", "TTFT p95 ms", _TPOT, _BURSTS, "τ", "budget")
_LEAST_FIRST = (_TPOT, _BURSTS, "budget", "TTFT p50", "τ", "TTFT p95 ms", "mean tok/s of a user")
"""What goes where a terminal is too narrow."""
_DOLLARS = "$ / M tokens"


def _who(r: Simulation) -> str:
    """What was simulated, for people."""
    from simulator.policies import NO_DRAFTER

    walked, policy = r.system.recording, r.system.policy
    who = f"{walked.drafter} γ={walked.gamma} {policy}" if policy != NO_DRAFTER else "none"
    return who + (" (estimated)" if walked.confidences == "estimated" else "") + ("" if r.lossless else " (a bound)")


def _best(rows: Sequence[Simulation], plan: SweepPlan) -> list[Simulation]:
    """The rows, one a seed, of the system with most throughput, or speed, among those that an engine can be, and that keep
    up and the promise, as far as enough requests finished to tell."""
    figure = "throughput" if rows and rows[0].load.users is not None else "tps"
    systems: dict[System, list[Simulation]] = {}
    for r in rows:
        if getattr(r, figure) is not None and r.lossless and r.keeps_promise and r.tells(plan.slas):
            systems.setdefault(r.system, []).append(r)
    seeds = len({r.seed for r in rows})
    always = [own for own in systems.values() if len(own) == seeds]
    return max(always, key=lambda own: sum(getattr(r, figure) for r in own), default=[])


def _best_by_load(plan: SweepPlan, rows: Sequence[Simulation], best: Mapping[Load, Sequence[Simulation]]) -> str:
    """What is best from which load to which, in a sentence."""

    def at(load: Load) -> str:
        if best[load]:
            return _who(best[load][0])
        if not all(r.tells(plan.slas) for r in rows if r.load == load and not r.error):
            return "too few requests to tell"
        return f"nothing that keeps {'the promise' if plan.slas else 'up'}"

    ordered = sorted(best, key=lambda load: load.size or 0)
    said = []
    for who, group in itertools.groupby(ordered, at):
        ends = [load.label for load in group]
        said.append(f"{who} at {ends[0]}" if len(ends) == 1 else f"{who} from {ends[0]} to {ends[-1]}")
    return f"Most tokens{' within the promise' if plan.slas else ''}: {'; '.join(said)}."


def _simulation_cells(r: Simulation, plan: SweepPlan) -> list[str]:
    """A row's figures. Where the queue grows, times to the first token are as long as the run, and nothing is kept."""
    overload = r.keeps_up is False
    ttft = [None if overload else r.quantiles[q] for q in ("p50_ttft", "p95_ttft")]
    cells = [r.told("throughput", ",.0f"), r.told("tps", ".1f")]
    cells += ["grows" if overload else "–" if t is None else f"{t * 1e3:.0f}" for t in ttft]
    cells += [_quantiles(r, "tpot"), _quantiles(r, "burst")]
    cells += ["–" if figure is None else f"{figure:.2f}" for figure in (r.tau, r.budget)]
    for promise in promises(plan.slas):
        verdict = r.slas.get(promise.name) if r.tells(plan.slas) else None
        cells.append("overload ✗" if overload else promise.attained(r.attained.get(promise.name), verdict))
    return cells


def _quantiles(r: Simulation, of: str) -> str:
    """Milliseconds that half, 90 and 99 of 100 do not exceed; a dash where nobody knows, as in older databases."""
    known = [t for q in (50, 90, 99) if (t := r.quantiles.get(f"p{q}_{of}")) is not None]
    return "/".join(f"{1e3 * t:.3g}" for t in known) if len(known) == 3 else "–"


def _cost_columns(plan: SweepPlan, rows: Sequence[Simulation], decided: Mapping[Load, Decision]) -> dict[str, Cell]:
    """Columns of capacity and money that a plan asks for, and how a row fills them."""
    from simulator.capacity import dollars_per_million, times_of

    columns: dict[str, Cell] = {}
    if any(r.headroom is not None for r in rows):
        columns["holds"] = lambda r: times_of(r.headroom if r.tells(plan.slas) else None)
    if (gpu_hour := plan.gpu_hour) is not None:
        columns[_DOLLARS] = lambda r: f"{dollars_per_million(r.throughput or 0.0, gpu_hour):.3g}"
    if (users := plan.users) is not None:
        columns[f"GPUs for {counted(users, 'user')}"] = lambda r: _gpus(plan, users, r, decided)
    return columns


def _gpus(plan: SweepPlan, users: int, r: Simulation, decided: Mapping[Load, Decision]) -> str:
    """The GPUs of a whole service, with their range where it is known how sure is what is held."""
    from simulator.capacity import gpus_for
    from simulator.load import Users

    load, decision = r.load, decided.get(r.load)
    if r.headroom is None or not isinstance(load, Users):
        return "–"

    def gpus(times: float) -> int | None:
        return gpus_for(users, load, times, replicas=plan.replicas, gpus=plan.profile.gpus)

    told = str(gpus(r.headroom) or "–")
    if decision is None or decision.candidate is None or decision.holds is None or not r.is_of(decision.candidate):
        return told
    fewest, most = gpus(decision.holds.high), gpus(decision.holds.low)
    return f"{told} ({fewest or '–'} to {most:,})" if most else f"{told} ({fewest or '–'} or more)"


def _needed(plan: SweepPlan, decision: Decision) -> list[str]:
    """The GPUs of a whole service that runs what a decision says."""
    from simulator.capacity import gpus_told
    from simulator.load import Users

    load, holds = decision.load, decision.holds
    if plan.users is None or holds is None or not isinstance(load, Users):
        return []
    ends = (holds.value, holds.low, holds.high)
    return [gpus_told(plan.users, load, *ends, replicas=plan.replicas, gpus=plan.profile.gpus) + "."]
