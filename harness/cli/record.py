"""`harness run` and `harness record`: record a suite with every drafter of a pair."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli.report import write_report
from harness.cli.show import print_run
from harness.console import Watcher, print_json, user_errors, watching
from harness.options import (
    AsJson,
    ChatTemplate,
    PairDrafters,
    PairName,
    TargetSource,
    WritableOut,
    check_resumed,
    check_void,
    checked,
    joined,
)
from simulator.errors import InputError
from simulator.numbers import counted

if TYPE_CHECKING:  # these take seconds
    from harness.cluster import Cluster
    from harness.recording.plan import RecordingPlan
    from harness.recording.run import RecordingEstimate
    from harness.recording.suite import Generation
    from results.store.database import Store
    from simulator.records import Drafting


def record(
    context: typer.Context,
    suite: Annotated[str | None, typer.Argument(help="A suite's folder, or the name of a bundled one.")] = None,
    pair: PairName = "tiny",
    target: TargetSource = None,
    drafter: PairDrafters = None,
    chat_template: ChatTemplate = None,
    mode: Annotated[
        Literal["dense", "live"],
        typer.Option(help="dense: what each drafter would do at every token; live: decode with each drafter."),
    ] = "dense",
    block_sizes: Annotated[
        list[str] | None, typer.Option(metavar="TOKENS", help="γ to record, as 3,5,7; by default each drafter its own.")
    ] = None,
    responses: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Responses of another engine, one JSON a line (repeatable).")
    ] = None,
    engine: Annotated[
        Literal["specyard", "vllm"], typer.Option(help="Who generates responses: vLLM is an optional extra.")
    ] = "specyard",
    drafting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WAYS",
            help="Ways to draft, by default sampled,greedy (as the papers, as vLLM by default); live: sampled.",
        ),
    ] = None,
    fresh_tails: Annotated[bool, typer.Option(help="Also a second, free draft of every anchor (28 bytes more).")] = False,
    limit: Annotated[int | None, typer.Option(help="First N prompts of each task.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with one <task>.jsonl a task.")] = None,
    source: Annotated[
        Literal["bundled", "hub"],
        typer.Option(help="Without --data-dir: the prompts in the suite's folder, or those of the hub."),
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
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    reported = context.info_name == "run"
    with user_errors("harness"):
        if resume is not None and (suite is not None or dry_run):
            raise InputError("--resume goes on with a run as it was planned; leave the suite and --dry-run out")
        if suite is None and resume is None:
            raise InputError("name a suite (for instance suites/math_code_chat), or give --resume RUN")
        if resume is not None:
            check_resumed(context)
        greedy = {"top_p": "temperature", "top_k": "temperature"} if temperature == 0 else {}
        check_void(context, {}, apart={"source": "data_dir", "max_new_tokens": "responses", "pair": "target", **greedy})
        if dry_run and engine == "vllm":
            raise InputError(
                "--engine: is of no use beside --dry-run, which times this project's own loop; leave one of them out"
            )
        if dry_run and mode == "live":
            raise InputError("--dry-run estimates dense recordings; leave --mode live out")
        store, run_id = _store(out, resume, dry_run=dry_run)

        from harness.cluster import Cluster

        cluster = Cluster(ray_address, actors, gpus_per_actor)
        cluster.check()

        from harness.recording.plan import RecordingPlan

        made: str | RecordingEstimate = run_id
        with watching() as watcher:
            if suite is None:
                from harness.recording.run import resume_run

                resume_run(run_id, store, cluster, watcher)
            else:
                from harness.recording.pair import asked_pair

                named, chosen = asked_pair(pair, target, drafter, chat_template)
                with checked():
                    plan = RecordingPlan(
                        generation=_generation(suite, temperature, top_p, top_k, max_new_tokens),
                        suite=_absolute(suite), pair=named, block_sizes=_block_sizes(joined(block_sizes)),
                        data_dir=None if data_dir is None else str(data_dir.resolve()),
                        responses=_files(responses), drafting=_draftings(joined(drafting), mode), mode=mode,
                        source=source, limit=limit, drafters=chosen,
                        fresh_tails=fresh_tails, batch=batch, seed=seed,
                        speed_passes=2 * reported if speed_passes is None else speed_passes,
                    )  # fmt: skip
                made = _recorded(plan, engine, store, cluster, watcher, dry_run=dry_run, skip_long=skip_long_prompts)
        if isinstance(made, str):
            print_run(store, made, write_report(store, made) if reported else None, as_json=as_json)
        else:
            print_estimate(made, as_json=as_json)


def _recorded(
    plan: RecordingPlan, engine: Literal["specyard", "vllm"], store: Store, cluster: Cluster, watcher: Watcher,
    *, dry_run: bool, skip_long: bool,
) -> str | RecordingEstimate:  # fmt: skip
    """Record what is planned; returns the run's id, or with `dry_run`, recording nothing, what it would cost."""
    from harness.recording.inputs import read_inputs
    from harness.recording.pair import check_hub, load_pair
    from harness.recording.sources import check_sources

    read_inputs(plan)  # before what takes seconds to import
    if cluster.address is None:  # other machines have folders, caches and networks of their own
        check_sources(load_pair(plan.pair), plan.drafters)
        check_hub(load_pair(plan.pair), plan.drafters, watcher.say)
    from harness.recording.run import estimate, start_run

    if dry_run:
        return estimate(plan, cluster, watcher, skip_long=skip_long)
    if engine == "vllm":
        from harness.vllm.responses import generate_responses

        plan = generate_responses(plan, store.file.parent / "responses", watcher)
    return start_run(plan, store, cluster, watcher, skip_long=skip_long)


def _store(out: Path, resume: str | None, *, dry_run: bool) -> tuple[Store, str]:
    """The database, and the run to go on with, where there is one: looked at before anything that takes seconds to import.

    Raises InputError where results could not be kept, there is no such run, or another process is at work on it.
    """
    from results.store.database import Store
    from results.store.lease import check_free
    from results.store.subjects import RUN

    store = Store(out / "specyard.duckdb")
    if not dry_run:
        store.prepare()
    if resume is None:
        return store, ""
    run_id = store.find_run(resume)
    with store.reading() as connection:
        check_free(connection, RUN, run_id)
    return store, run_id


def _generation(
    suite: str, temperature: float | None, top_p: float | None, top_k: int | None, max_new_tokens: int | None
) -> Generation | None:
    """The suite's generation with what the options override; None where they override nothing."""
    from harness.recording.suite import Generation, find_suite, read_suite_file

    if all(option is None for option in (temperature, top_p, top_k, max_new_tokens)):
        return None
    own = read_suite_file(find_suite(suite) / "suite.yaml").generation
    if own.temperature == 0 and temperature is None and (top_p is not None or top_k is not None):
        option = "--top-k" if top_p is None else "--top-p"
        raise InputError(f"{option}: is of no use at the suite's temperature of 0; leave it out, or give a --temperature")
    return Generation(
        temperature=own.temperature if temperature is None else temperature,
        top_p=own.top_p if top_p is None else top_p,
        top_k=own.top_k if top_k is None else top_k,
        max_new_tokens=own.max_new_tokens if max_new_tokens is None else max_new_tokens,
        thinking=own.thinking,
        today=own.today,
    )


def _block_sizes(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(size) for size in text.split(",")]
    except ValueError:
        raise InputError(f"--block-sizes {text}: must be whole numbers with commas between, as 3,5,7") from None


def _draftings(text: str | None, mode: Literal["dense", "live"]) -> tuple[Drafting, ...]:
    """The ways to draft that are recorded; without the option both ways where that costs little."""
    from simulator.records import DRAFTINGS

    if not text:
        return DRAFTINGS if mode == "dense" else ("sampled",)
    names = text.split(",")
    found = tuple(drafting for name in names for drafting in DRAFTINGS if drafting == name)
    if len(found) < len(names):
        raise InputError(f"--drafting {text}: is written sampled, greedy or sampled,greedy")
    return found


def _files(paths: list[Path] | None) -> str | list[str] | None:
    """Files, each once, made independent of the current folder; one by itself as it is kept in plans."""
    names = list(dict.fromkeys(str(path.resolve()) for path in paths or []))
    return names if len(names) > 1 else next(iter(names), None)


def _absolute(name: str) -> str:
    """A path that exists, made independent of the current folder; any other name as it is."""
    path = Path(name)
    return str(path.resolve()) if path.is_file() or (path / "suite.yaml").is_file() else name


def print_estimate(costs: RecordingEstimate, *, as_json: bool) -> None:
    """What a recording would cost."""
    if as_json:
        print_json("estimate", dataclasses.asdict(costs))
        return
    each, probe = costs.anchor_bytes / max(costs.anchors, 1), costs.probe
    basis = "as given" if costs.given else "at most: if every response runs to the limit"
    generation = "" if costs.given else f"{probe.generate_s * 1e3:.2f} ms to generate a token, "
    print(
        f"{counted(costs.responses, 'response')} and {counted(costs.anchors, 'anchor')} ({basis})\n"
        f"{_size(costs.anchor_bytes)} on disk: {each:.0f} bytes an anchor, two numbers a drafted position\n"
        f"({_size(costs.hidden_state_bytes)} the target's hidden states of the same text: recomputed, never kept)\n"
        f"about {costs.seconds / 60:.1f} minutes on {counted(costs.workers, 'worker')}: {generation}"
        f"{probe.record_s * 1e3:.2f} ms to record a token with all drafters; timing drafters live comes on top"
    )


def _size(count: float) -> str:
    """Bytes for people."""
    power = min(int(math.log(max(count, 1), 1000)), 4)
    return f"{count / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
