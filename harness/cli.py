"""The command `harness`. Arguments in, work elsewhere, results out; bad input exits with code 2 and one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from harness import trust
from harness.command import listed, shares, user_errors
from simulator.errors import InputError

T = TypeVar("T")
LEARNED = ("dspark", "dflash", "eagle3", "mtp")

app = typer.Typer(
    name="harness",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Benchmark speculative decoding: record real target/draft pairs, keep everything in DuckDB, report.",
)

Out = Annotated[Path, typer.Option("--out", help="Folder of the database, the reports and everything else a run writes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout; progress goes to stderr.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the start of one, or `latest`.")]


@app.command("run", help="Record a suite with every drafter of a pair, time the drafters live, write a report.")
@app.command("record", help="Record a suite with every drafter of a pair, and no more.")
def record(
    context: typer.Context,
    suite: Annotated[str | None, typer.Argument(help="A suite's folder, or the name of a bundled one.")] = None,
    pair: Annotated[str, typer.Option(help="A pair's YAML file, or the name of a bundled one.")] = "tiny",
    drafter: Annotated[list[str] | None, typer.Option(help="Only this drafter (repeatable); `none` always runs.")] = None,
    mode: Annotated[
        Literal["dense", "live"],
        typer.Option(help="dense: what each drafter would do at every token; live: decode with each drafter."),
    ] = "dense",
    block_sizes: Annotated[str | None, typer.Option(help="γ to record, as 3,5,7; by default each drafter its own.")] = None,
    responses: Annotated[Path | None, typer.Option(help="Responses of another engine, one JSON a line.")] = None,
    engine: Annotated[
        Literal["specyard", "vllm"], typer.Option(help="Who generates responses: vLLM is an optional extra.")
    ] = "specyard",
    drafting: Annotated[
        str | None,
        typer.Option(help="Ways to draft, by default sampled,greedy (as the papers, as vLLM by default); live: sampled."),
    ] = None,
    fresh_tails: Annotated[bool, typer.Option(help="Also a second, free draft of every anchor (28 bytes more).")] = False,
    limit: Annotated[int | None, typer.Option(help="First N prompts of each task.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with one <task>.jsonl a task.")] = None,
    source: Annotated[
        Literal["bundled", "hub"], typer.Option(help="Where prompts come from without --data-dir.")
    ] = "bundled",
    temperature: Annotated[float | None, typer.Option(help="Overrides the suite's.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Overrides the suite's.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Overrides the suite's; 0 is off.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Overrides the suite's length limit of a response.")] = None,
    batch: Annotated[int, typer.Option(help="Prompts recorded together.")] = 24,
    seed: Annotated[int, typer.Option(help="Same seed, same responses.")] = 0,
    speed_passes: Annotated[
        int | None, typer.Option(help="Times one prompt a task is timed live with every drafter; run: 2, record: 0.")
    ] = None,
    skip_long_prompts: Annotated[bool, typer.Option(help="Leave out prompts that do not fit the target's context.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what it would cost, on a small sample, and record nothing.")] = False,
    actors: Annotated[int | None, typer.Option(help="Workers; by default one a core, or one a GPU.")] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(help="GPUs of each worker; by default one where there are any.")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to join; by default a local one is started.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with an interrupted run.")] = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    from harness.display import print_estimate, print_run, watching
    from harness.recording import estimate, resume_run, start_run
    from harness.workers import Cluster
    from results.store import Store

    reported = context.info_name == "run"
    settings = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_new_tokens": max_new_tokens}
    choices: dict[str, Any] = {
        "drafting": tuple(drafting.split(",")) if drafting else ("sampled", "greedy") if mode == "dense" else ("sampled",),
        "mode": mode, "source": source, "limit": limit, "drafters": drafter, "fresh_tails": fresh_tails,
        "batch": batch, "seed": seed, "speed_passes": 2 * reported if speed_passes is None else speed_passes,
    }  # fmt: skip
    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        cluster = Cluster(ray_address, actors, gpus_per_actor)
        with watching() as watcher:
            if resume is not None:
                if suite is not None or dry_run:
                    raise InputError("--resume goes on with a run as it was planned; leave the suite and --dry-run out")
                run_id = store.find_run(resume)
                resume_run(run_id, store, cluster, watcher)
            else:
                plan = _plan(suite, pair, block_sizes, data_dir, responses, settings, choices)
                if engine == "vllm" and not dry_run:
                    from harness.vllm.responses import speak

                    plan = speak(plan, out / "responses", watcher)
                if dry_run:
                    costs = estimate(plan, cluster, watcher, skip_long=skip_long_prompts)
                else:
                    run_id = start_run(plan, store, cluster, watcher, skip_long=skip_long_prompts)
        if dry_run:
            print_estimate(costs, as_json=as_json)
        else:
            print_run(store, run_id, _write_report(store, run_id) if reported else None, as_json=as_json)


@app.command()
def replay(
    name: RunName = "latest",
    policy: Annotated[
        list[str] | None, typer.Option(help="fixed:K, threshold:C, oracle or none (repeatable); by default all drafted.")
    ] = None,
    drafter: Annotated[list[str] | None, typer.Option(help="Only this drafter (repeatable).")] = None,
    drafting: Annotated[
        Literal["sampled", "greedy"] | None,
        typer.Option(help="Only drafts chosen so; by default all that were recorded, and what greedy ones are worth."),
    ] = None,
    calibrated: Annotated[
        bool,
        typer.Option(
            help="Decide from calibrated confidences, or estimated ones where a drafter gives none, on prompts these were "
            "not fitted on."
        ),
    ] = False,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Walk a dense recording under policies: accepted length, tokens verified, tokens wasted."""
    from harness.display import print_replays, watching
    from harness.replaying import replay_run
    from results.store import Store

    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        with watching() as watcher:
            run_id = store.find_run(name)
            rows = replay_run(store, run_id, policy, drafter, drafting=drafting, calibrated=calibrated, say=watcher.say)
        print_replays(rows, as_json=as_json)


@app.command()
def simulate(
    name: RunName = "latest",
    hardware: Annotated[
        str | None, typer.Option(help="A profile: device/model, or the file of one's own; see `harness hardware`.")
    ] = None,
    believed_hardware: Annotated[str | None, typer.Option(help="What policies think a step takes.")] = None,
    concurrency: Annotated[str | None, typer.Option(help="Users of a closed loop: 64, 1,8,64, or 1..256.")] = None,
    think_s: Annotated[float, typer.Option(help="Mean pause of a user between an answer and the next request.")] = 0.0,
    rate: Annotated[str | None, typer.Option(help="Requests a second of an open loop, as 2,4,8.")] = None,
    cv: Annotated[float, typer.Option(help="Spread of the gaps in an open loop: 1 is Poisson, 0 constant.")] = 1.0,
    arrivals: Annotated[
        Path | None, typer.Option(help="Recorded arrivals: a CSV of arrival_s, prompt_tokens, output_tokens.")
    ] = None,
    speed: Annotated[float, typer.Option(help="Recorded arrivals so many times as fast.")] = 1.0,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="As fixed:3,none (repeatable); by default none, fixed:γ and prefix_scheduler."),
    ] = None,
    drafter: Annotated[list[str] | None, typer.Option(help="Only this drafter (repeatable).")] = None,
    confidences: Annotated[
        Literal["raw", "calibrated"] | None,
        typer.Option(help="By default calibrated, where the run has temperatures; estimated where a drafter gives none."),
    ] = None,
    drafting: Annotated[
        Literal["sampled", "greedy"] | None,
        typer.Option(help="How drafts are chosen; by default sampled, or greedy where vLLM's policy is asked for."),
    ] = None,
    mix: Annotated[str | None, typer.Option(help="Share of requests by domain, as math=0.4,code=0.6.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Length of every prompt; by default as recorded.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Length of every answer; by default as recorded.")] = None,
    request_cap: Annotated[int, typer.Option(help="Requests running at once on a replica.")] = 256,
    step_tokens: Annotated[int, typer.Option(help="Tokens of one target pass, prompts included.")] = 8192,
    kv_capacity_tokens: Annotated[int | None, typer.Option(help="Context that fits; by default the profile's.")] = None,
    replicas: Annotated[int, typer.Option(help="Copies of the engine behind a router.")] = 1,
    router: Annotated[Literal["round_robin", "least_loaded"], typer.Option(help="How requests find one.")] = "least_loaded",
    seconds: Annotated[float, typer.Option(help="Of simulated time, for each point.")] = 600.0,
    seed: Annotated[int, typer.Option(help="Same seed, same requests, whatever the policy.")] = 0,
    replications: Annotated[int, typer.Option(help="Seeds for every point, counted on from --seed.")] = 1,
    sla: Annotated[list[str] | None, typer.Option(help="A bound, as tps>=80 or p95_ttft<=0.5 (repeatable).")] = None,
    rows: Annotated[Path | None, typer.Option(help="Folder for every request's row, one Parquet file a point.")] = None,
    actors: Annotated[int | None, typer.Option(help="Ray workers; none for a small sweep, else one a core.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="SWEEP", help="Go on with an interrupted sweep.")] = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Replay a run's dense recordings on modelled hardware, under load: throughput, TPS, latencies, budget."""
    from harness.display import print_sweep, watching
    from harness.sweeps import loads, run_sweep
    from results.store import Store

    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        options: dict[str, Any] = {
            "policies": listed(policy), "drafters": drafter, "confidences": confidences, "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens, "request_cap": request_cap, "step_tokens": step_tokens,
            "kv_capacity_tokens": kv_capacity_tokens, "replicas": replicas, "router": router, "seconds": seconds,
            "seed": seed, "replications": replications, "slas": sla or [], "weights": shares(mix),
        }  # fmt: skip
        asked = loads("--concurrency", concurrency, think_s, rate, cv, arrivals, speed)
        with watching() as watcher:
            sweep_id = run_sweep(
                store, name, hardware, believed_hardware, asked, options, watcher,
                drafting=drafting, resume=resume, actors=actors, ray_address=ray_address, rows=rows,
            )  # fmt: skip
        print_sweep(store, sweep_id, as_json=as_json)


@app.command()
def hardware(
    name: Annotated[str | None, typer.Argument(help="A profile to print as JSON; by default all are listed.")] = None,
) -> None:
    """List the hardware profiles, or print one: a starting point for one's own."""
    from simulator.hardware import dump_profile
    from simulator.profiles import bundled_profiles, find_profile

    with user_errors("harness"):
        print("\n".join(bundled_profiles()) if name is None else dump_profile(find_profile(name)))


@app.command()
def profile(
    pair: Annotated[str, typer.Option(help="A pair's YAML file, or the name of a bundled one.")] = "tiny",
    architecture: Annotated[
        str | None, typer.Option(help="Instead of a pair, random weights: qwen3-4b, -8b, -14b, or a config.json.")
    ] = None,
    drafter: Annotated[list[str] | None, typer.Option(help="Only this drafter (repeatable).")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; by default the pair's, or a GPU where there is one.")
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of an architecture's random weights; auto: bfloat16 where the device computes in it by itself."),
    ] = "auto",
    seconds: Annotated[float, typer.Option(help="About how long to measure.")] = 60.0,
    max_requests: Annotated[int | None, typer.Option(help="Largest batch; by default 64, on a GPU 256.")] = None,
    context_tokens: Annotated[int | None, typer.Option(help="Longest context; by default 1024, on a GPU 4096.")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="For keys and values; by default half of what is free.")] = None,
    graphs: Annotated[bool, typer.Option(help="Capture passes as CUDA graphs on a GPU.")] = True,
    seed: Annotated[int, typer.Option(help="Of the order of measurements.")] = 0,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Measure this machine: what a step of a real target and its drafters takes, as a hardware profile."""
    from harness.display import print_profile, watching
    from harness.profiling import Effort, profile_architecture, profile_pair
    from simulator.hardware import dump_profile

    with user_errors("harness"):
        effort = Effort(
            seconds=seconds, seed=seed, max_requests=max_requests, context_tokens=context_tokens, memory_gb=memory_gb,
            graphs=graphs,
        )  # fmt: skip
        with watching() as watcher:
            if architecture is None:
                made, quality = profile_pair(pair, effort, watcher, device=device, drafters=drafter)
            else:
                kinds = {name.partition("=")[0]: name.partition("=")[2] or name for name in drafter or LEARNED}
                made, quality = profile_architecture(
                    architecture, kinds, effort, watcher, device=device or "auto", dtype=dtype
                )
        file = out / "hardware" / f"{made.name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dump_profile(made))
        print_profile(made, quality, file, as_json=as_json)


@app.command()
def synthesize(
    curves: Annotated[str, typer.Argument(help="Published curves; paper:qwen3-4b is what there is.")] = "paper:qwen3-4b",
    responses_per_task: Annotated[int, typer.Option(help="Responses to each of nine tasks.")] = 40,
    output_tokens: Annotated[int, typer.Option(help="Tokens of each response.")] = 512,
    seed: Annotated[int, typer.Option(help="Same seed, same traces.")] = 0,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Make dense traces from published curves, to study a model's operating range without running it."""
    from harness.display import print_run, watching
    from harness.published import Size, publish
    from results.store import Store

    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        with watching() as watcher:
            run_id = publish(curves, seed, Size(responses_per_task, output_tokens), store, watcher.say)
        print_run(store, run_id, _write_report(store, run_id), as_json=as_json)


@app.command()
def report(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="RUN…", help="Run ids, the start of one, or `latest`, the default.")
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="STUDY", help="By default the latest of these runs.")] = None,
    sim: Annotated[str | None, typer.Option(metavar="SIM", help="A sweep; by default the latest of these runs.")] = None,
    form: Annotated[
        Literal["html", "png", "csv"],
        typer.Option("--format", help="One page, or every figure as a picture or as a table of its own."),
    ] = "html",
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Write the report of one or more runs: one HTML file that opens offline, or its figures as pictures or tables."""
    from harness.reporting import make_report
    from results.store import Store

    with user_errors("harness"):
        files = make_report(Store(out / "specyard.duckdb"), names or [], sweep=sim, study=study, form=form)
        made: Any = str(files[0]) if form == "html" else [str(file) for file in files]
        print(json.dumps({"report": made}) if as_json else "\n".join(map(str, files)))


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="What was before.")],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="What is now; by default the latest.")] = "latest",
    fail_on_regression: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Exit with code 1 if anything is clearly worse by more, as 2%.")
    ] = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """What changed between two runs, by task, with intervals and verdicts."""
    from harness.display import print_comparison
    from results.comparison import compare as compare_runs
    from results.comparison import share
    from results.store import Store

    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        try:
            tolerance = None if fail_on_regression is None else share(fail_on_regression)
        except ValueError:
            raise InputError(f"--fail-on-regression {fail_on_regression}: is written as 2% or 0.02") from None
        ids = store.find_run(first), store.find_run(second)
        if ids[0] == ids[1]:
            raise InputError(f"compare {first} {second}: both are run {ids[0]}")
        with store.reading() as connection:
            found = compare_runs(connection, *ids)
        print_comparison(found, tolerance, as_json=as_json)
        if tolerance is not None and found.regressions(tolerance):
            raise typer.Exit(1)


@app.command()
def runs(out: Out = Path("runs"), as_json: AsJson = False) -> None:
    """List the runs of a database."""
    from harness.display import print_runs
    from results.store import Store

    with user_errors("harness"):
        print_runs(Store(out / "specyard.duckdb"), as_json=as_json)


@app.command()
def show(name: RunName = "latest", out: Out = Path("runs"), as_json: AsJson = False) -> None:
    """Show a run: what was run, with what, and its results."""
    from harness.display import print_run
    from results.store import Store

    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        run_id = store.find_run(name)
        report_file = out / run_id / "report.html"
        print_run(store, run_id, report_file if report_file.exists() else None, as_json=as_json, details=True)


app.command()(trust.validate)
app.command()(trust.sensitivity)
app.command()(trust.reproduce)


def main() -> None:
    """Entry point of the console script."""
    app()


def _write_report(store: Any, run_id: str) -> Path:
    from harness.reporting import make_report

    return make_report(store, [run_id])[0]


def _plan(
    suite: str | None,
    pair: str,
    block_sizes: str | None,
    data_dir: Path | None,
    responses: Path | None,
    settings: dict[str, Any],
    choices: dict[str, Any],
) -> Any:
    """The plan of a run; `settings` override the suite's generation, where given."""
    import msgspec

    from harness.recording import Plan
    from harness.suites import find_suite, read_suite_file

    if suite is None:
        raise InputError("name a suite (for instance suites/math_code_chat), or give --resume RUN")
    generation = None
    overrides = {k: v for k, v in settings.items() if v is not None}
    if overrides:
        own = read_suite_file(find_suite(suite) / "suite.yaml").generation
        generation = _checked(lambda: msgspec.structs.replace(own, **overrides))
    try:
        sizes = None if block_sizes is None else [int(size) for size in block_sizes.split(",")]
    except ValueError:
        raise InputError(f"--block-sizes {block_sizes}: must be whole numbers with commas between, as 3,5,7") from None
    return _checked(
        lambda: Plan(
            suite=_absolute(suite),
            pair=_absolute(pair),
            data_dir=None if data_dir is None else str(data_dir.resolve()),
            responses=None if responses is None else str(responses.resolve()),
            block_sizes=sizes,
            generation=generation,
            **choices,
        )
    )


def _absolute(name: str) -> str:
    """A path that exists, made independent of the current folder; any other name as it is."""
    path = Path(name)
    return str(path.resolve()) if path.is_file() or (path / "suite.yaml").is_file() else name


def _checked(make: Callable[[], T]) -> T:
    """Build a value from options; what its own validation refuses is the user's mistake."""
    try:
        return make()
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from None
