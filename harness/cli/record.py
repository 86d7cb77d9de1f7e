"""`harness run` and `harness record`: record a suite with every drafter of a pair."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from harness.cli.options import AsJson, Out
from harness.cli.report import write_report
from harness.cli.show import print_run
from harness.console import user_errors, watching
from simulator.errors import InputError

if TYPE_CHECKING:  # these take seconds
    from harness.recording.run import RecordingEstimate


T = TypeVar("T")


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
    from harness.cluster import Cluster
    from harness.recording.run import estimate, resume_run, start_run
    from results.store.database import Store

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
                    from harness.vllm.responses import generate_responses

                    plan = generate_responses(plan, out / "responses", watcher)
                if dry_run:
                    costs = estimate(plan, cluster, watcher, skip_long=skip_long_prompts)
                else:
                    run_id = start_run(plan, store, cluster, watcher, skip_long=skip_long_prompts)
        if dry_run:
            print_estimate(costs, as_json=as_json)
        else:
            print_run(store, run_id, write_report(store, run_id) if reported else None, as_json=as_json)


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

    from harness.recording.plan import RecordingPlan
    from harness.recording.suite import find_suite, read_suite_file

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
        lambda: RecordingPlan(
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


def print_estimate(costs: RecordingEstimate, *, as_json: bool) -> None:
    """What a recording would cost."""
    if as_json:
        print(json.dumps(dataclasses.asdict(costs)))
        return
    each, probe = costs.anchor_bytes / max(costs.anchors, 1), costs.probe
    basis = "as given" if costs.given else "at most: if every response runs to the limit"
    generation = "" if costs.given else f"{probe.generate_s * 1e3:.2f} ms to generate a token, "
    print(
        f"{costs.responses:,} responses and {costs.anchors:,} anchors ({basis})\n"
        f"{_size(costs.anchor_bytes)} on disk: {each:.0f} bytes an anchor, two numbers a drafted position\n"
        f"({_size(costs.hidden_state_bytes)} the target's hidden states of the same text: recomputed, never kept)\n"
        f"about {costs.seconds / 60:.1f} minutes on {costs.workers} workers: {generation}"
        f"{probe.record_s * 1e3:.2f} ms to record a token with all drafters; timing drafters live comes on top"
    )


def _size(count: float) -> str:
    """Bytes for people."""
    power = min(int(math.log(max(count, 1), 1000)), 4)
    return f"{count / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
