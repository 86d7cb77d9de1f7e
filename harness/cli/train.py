"""`harness train`: a drafter for a target of one's own from its own answers; or what training one would take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drafters.chat import PLAIN
from drafters.configs import layers_of, read_config, vocabulary_of
from drafters.training.recipe import Design, Recipe, cache_bytes, check_taps, check_vocabulary, taps_of
from harness.console import plain_console, print_json, print_table, say, span, user_errors, watching
from harness.options import AsJson, RayAddress, WritableOut, check_resumed, check_void, checked, given_options
from simulator.errors import InputError
from simulator.numbers import abbreviated, counted, give_or_take

if TYPE_CHECKING:
    from harness.training.plan import TrainingPlan
    from harness.training.run import Trained
    from simulator.hardware.model import Model
    from simulator.hardware.roofline import Device
    from simulator.hardware.training import TrainingCost

_OF_DRY_RUN = ("hardware", "gpus", "tokens", "sequence_tokens")
_OF_BOTH = ("kind", "target", "gamma", "epochs", "anchors", "dry_run", "as_json")
_DEFAULT = Recipe()


def train(
    context: typer.Context,
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="What is trained: dspark, dflash, eagle3 or mtp.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Folder, hub id or GGUF file, `smollm2`, or a pair; with --dry-run a known one or a config.json."),
    ] = None,
    responses: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="The target's answers, as `harness regenerate` writes them (repeatable).",
        ),
    ] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="What was asked, where --responses do not say (repeatable)."),
    ] = None,
    chat_template: Annotated[str | None, typer.Option(metavar="FILE|plain", help="Which they were asked with.")] = None,
    thinking: Annotated[bool, typer.Option(help="Whether these answers were asked for with a thinking section.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Longer texts are cut there.")] = _DEFAULT.max_tokens,
    held_out: Annotated[
        float | None,
        typer.Option(help="Share of prompts, by a hash, that are never trained on; by default 0.05, of few more."),
    ] = None,
    cache: Annotated[
        str,
        typer.Option(help="Disk for the target's states, as 20GB; others are computed anew."),
    ] = "0",
    layers: Annotated[int | None, typer.Option(help="Layers; by default 5, eagle3 1.")] = None,
    taps: Annotated[
        str | None,
        typer.Option(help="Target layers it reads, from 0, as 1,9,17; by default as published."),
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Of dspark's sequential head; 256.")] = None,
    gamma: Annotated[int | None, typer.Option(help="Tokens drafted a round; by default 7, mtp 1.")] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(help="Tokens it can say: the most frequent of the answers; by default all."),
    ] = None,
    written_as: Annotated[
        Literal["auto", "deepspec", "speculators"],
        typer.Option("--format", help="The published format it is written in."),
    ] = "auto",
    start: Annotated[
        str | None,
        typer.Option("--from", help="Go on from a drafter, in place of these."),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Folder of the checkpoint; by default in --out, in drafters.")] = None,
    epochs: Annotated[float, typer.Option(help="How often the texts are read, at most.")] = _DEFAULT.epochs,
    steps: Annotated[int | None, typer.Option(help="Steps at most, in place of --epochs.")] = None,
    batch: Annotated[int, typer.Option(help="Texts of a step.")] = _DEFAULT.batch,
    accumulate: Annotated[int, typer.Option(help="Parts of a step, for less memory.")] = _DEFAULT.accumulate,
    anchors: Annotated[int | None, typer.Option(help="Blocks drafted in a text at once; 32, of --dry-run 512.")] = None,
    learning_rate: Annotated[
        float, typer.Option(help="Peak rate of tables, norms and heads (AdamW).")
    ] = _DEFAULT.learning_rate,
    matrix_rate: Annotated[float, typer.Option(help="Peak rate of hidden matrices (Muon).")] = _DEFAULT.matrix_rate,
    evaluations: Annotated[int, typer.Option(help="How often held-out answers are drafted on.")] = _DEFAULT.evaluations,
    evaluated: Annotated[int, typer.Option(help="Held-out answers of a domain, at most.")] = _DEFAULT.evaluated,
    patience: Annotated[
        int, typer.Option(help="Evaluations without a longer accepted length, then rates fall; as many more, and it stops.")
    ] = _DEFAULT.patience,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Of matrix products; by default what is measured to be fastest."),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Same seed, same weights, of one --precision: auto is measured anew.")] = 0,
    processes: Annotated[int, typer.Option(help="Processes, or GPUs, that share every step.")] = 1,
    shard: Annotated[
        bool,
        typer.Option(help="Each holds a share of the target's layers: for one that does not fit."),
    ] = False,
    ray_address: RayAddress = None,
    resume: Annotated[str | None, typer.Option(metavar="NAME", help="Go on with a training that was stopped.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Say what it would take on GPUs, and train nothing.")] = False,
    hardware: Annotated[
        str, typer.Option(help="Of --dry-run: the GPU, h100, h200, or another of `harness hardware list`.")
    ] = "h100",
    gpus: Annotated[int, typer.Option(help="Of --dry-run: GPUs that share the texts.")] = 1,
    tokens: Annotated[float, typer.Option(help="Of --dry-run: tokens of the text that is trained on, as 1e8.")] = 1e8,
    sequence_tokens: Annotated[int, typer.Option(help="Of --dry-run: length of a text.")] = 4096,
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train a drafter on a target's own answers; stopped, it goes on. With --dry-run, say what that would take instead."""
    with user_errors("harness"):
        given = given_options(context)
        if resume is not None:
            check_resumed(context)
            _train_on(resume, to, ray_address, out, as_json)
            return
        kind, target = _named(kind, target)
        if dry_run:
            own = (*_OF_BOTH, *_OF_DRY_RUN)
            _refuse([option for name, option in given.items() if name not in own], "--dry-run, which trains nothing")
            asked = {"epochs": epochs if "epochs" in given else 3, "anchors": anchors or 512, "gamma": gamma or 7}
            _estimate(kind, target, hardware, gpus, {"tokens": tokens, "sequence_tokens": sequence_tokens, **asked}, as_json)
            return
        _refuse([given[name] for name in _OF_DRY_RUN if name in given], "training; it is of --dry-run")
        check_void(context, {}, apart={"epochs": "steps"})
        if start is not None:
            sizes = ("layers", "taps", "rank", "gamma", "vocabulary", "written_as")
            _refuse([given[name] for name in sizes if name in given], "--from, which brings its own")
        if not responses:
            raise InputError(
                "--responses: name the target's answers, as `harness regenerate` writes them, or give --dry-run"
            )
        with checked():
            design = Design(
                kind=kind, layers=layers, taps=None if taps is None else taps_of(taps), rank=rank, gamma=gamma,
                vocabulary=vocabulary, format=written_as,
            )  # fmt: skip
            recipe = Recipe(
                epochs=epochs, steps=steps, batch=batch, accumulate=accumulate,
                anchors=_DEFAULT.anchors if anchors is None else anchors, max_tokens=max_tokens,
                learning_rate=learning_rate, matrix_rate=matrix_rate, held_out=held_out, evaluations=evaluations,
                evaluated=evaluated, patience=patience, precision=precision, cache_bytes=cache_bytes(cache), seed=seed,
            )  # fmt: skip
        where = (responses, prompts or [], chat_template, thinking, processes, shard, start, to)
        _train(_plan(target, design, recipe, *where), ray_address, out, as_json)


def _named(kind: str | None, target: str | None) -> tuple[str, str]:
    """What must be said. Raises InputError."""
    from simulator.drafter_kinds import LEARNED

    if kind is None or kind not in LEARNED:
        raise InputError(f"KIND{'' if kind is None else f' {kind}'}: must be one of {', '.join(LEARNED)}")
    if target is None:
        raise InputError("--target: name the model that a drafter is trained for")
    return kind, target


def _refuse(options: list[str], what: str) -> None:
    """Raise InputError for the first of some options."""
    if options:
        raise InputError(f"{options[0]}: is of no use beside {what}; leave it out")


def _plan(
    target: str, design: Design, recipe: Recipe, responses: list[Path], prompts: list[Path], chat_template: str | None,
    thinking: bool, processes: int, shard: bool, start: str | None, to: Path | None,
) -> TrainingPlan:  # fmt: skip
    """Everything that decides what comes out. Raises InputError."""
    from harness.recording.pair import asked_pair, load_pair, sourced
    from harness.training.plan import TrainingPlan, check_installed, hash_of

    if not 1 <= processes <= 4096:
        raise InputError(f"--processes {processes}: must be from 1 to 4,096")
    if processes > 1:
        check_installed()
    if shard and processes == 1:
        raise InputError("--shard: shares the target out over several processes; give --processes")
    if shard and recipe.cache_bytes:
        raise InputError(
            "--cache: keeps what one process has read, and with --shard all read together; leave one of them out"
        )
    if recipe.batch % (processes * recipe.accumulate):
        parts = processes * recipe.accumulate
        raise InputError(f"--batch {recipe.batch}: must be a multiple of --processes × --accumulate, {parts}")
    files, asked = (tuple(str(path.resolve()) for path in paths) for paths in (responses, prompts))
    pair = load_pair(asked_pair("tiny", target, chat_template=chat_template)[0])
    if Path(pair.target).is_dir():
        config = read_config(Path(pair.target))
        if design.taps and (layers := layers_of(config)) is not None:
            check_taps(design.taps, layers)
        if design.vocabulary and (tokens := vocabulary_of(config)) is not None:
            check_vocabulary(design.vocabulary, tokens)
    if start is not None:
        start = sourced(f"--from {start}", start)
    return TrainingPlan(
        pair=pair, design=design, recipe=recipe, responses=files, responses_hash=hash_of(responses), prompts=asked,
        prompts_hash=hash_of(prompts) if prompts else "",
        thinking=thinking, start=start, processes=processes, shard=shard, to="" if to is None else str(to.absolute()),
    )  # fmt: skip


def _train_on(name: str, to: Path | None, ray_address: str | None, out: Path, as_json: bool) -> None:
    """Go on with a training that was stopped; written to another folder where one is named."""
    from harness.training.plan import kept_plan

    _train(kept_plan(out, name), ray_address, out, as_json, to)


def _train(plan: TrainingPlan, ray_address: str | None, out: Path, as_json: bool, to: Path | None = None) -> None:
    """Train as planned, and print what came out; `to` stands in for the plan's folder."""
    from harness.cluster import Cluster
    from harness.recording.pair import as_typed, check_hub
    from harness.recording.sources import check_drafter, check_sources, check_whole
    from harness.training.plan import check_asked, checkpoint_of, folder_of, read_given
    from results.store.connection import check_new_folder, check_written

    to = checkpoint_of(plan, out) if to is None else to.absolute()
    check_new_folder(to, "--to")
    check_written(to, "--to")
    cluster = Cluster(ray_address, plan.processes if ray_address is None else None)
    cluster.check()
    given = read_given([Path(p) for p in plan.responses], [Path(p) for p in plan.prompts])
    if not folder_of(out, plan.name).exists():
        check_asked(plan, given)
    with watching() as watcher:
        if cluster.address is None:
            check_sources(plan.pair, [])
            check_whole(plan.pair.target)
            if plan.start is not None:
                check_drafter(plan.start, {})
            check_hub(plan.pair, [], watcher.say)
        from harness.training.run import train as trained

        watcher.say(f"training {plan.name}: {plan.design.kind} for {plan.pair.target}, seed {plan.recipe.seed}")
        result = trained(plan, given, out, to, cluster, watcher)
    if as_json:
        print_json("trained", {"trained": dataclasses.asdict(result)})
        return
    own = plan.pair.chat_template  # of one from a file the text alone is kept
    print_trained(
        result, as_typed(plan.pair.target), out, ("--chat-template", own if own == PLAIN else "FILE") if own else ()
    )


def print_trained(result: Trained, target: str, out: Path, asked_with: tuple[str, ...] = ()) -> None:
    """What came out, and the command that says what it is worth."""
    from results.store.commands import typed

    console = plain_console()
    rows = [
        [
            domain, str(result.prompts[domain]), give_or_take(tau, result.half_width[domain], ".2f"),
            " ".join(give_or_take(a, None, ".2f") for a in result.acceptance[domain]),
        ]
        for domain, tau in result.tau.items()
    ]  # fmt: skip
    say(console, f"{result.kind}: the weights of step {result.best_step} of {result.steps}, on held-out answers")
    print_table(console, ["domain", "prompts", "τ, ± 95 %", "accepted by position, of rounds that reach it"], rows, ())
    say(
        console,
        "expected values, of drafts drawn as the answers were; the step was chosen by these answers, which flatters it a "
        "little. Engines that draft greedily, as vLLM does unless told otherwise, may accept less: the recording has both",
    )
    if not result.best_step:
        say(console, "no step was better than the start: these are the weights that training began with")
    trained, tokens = f"{abbreviated(result.facts['trained_parameters'])} parameters", result.facts["train_tokens"]
    say(
        console,
        f"took {span(result.facts['seconds'])} in all: {trained}, {tokens:,} tokens of answers",
    )
    say(console, f"  {result.checkpoint}")
    say(console, "next, what it is worth on other prompts, with intervals:")
    asked = ("--target", target, *asked_with, "--drafter", f"new={result.checkpoint}")
    record = typed("harness", "record", "math_code_chat", *asked, out=out)
    say(console, f"  {record}")


def _estimate(kind: str, target: str, hardware: str, gpus: int, asked_of: dict[str, Any], as_json: bool) -> None:
    """Say what training would take on GPUs. Raises InputError."""
    from simulator.hardware.catalogue import devices
    from simulator.hardware.training import PUBLISHED, target_of, training_cost
    from simulator.hardware.training import Recipe as Asked

    if (named := hardware.lower()) not in (known := devices()):
        raise InputError(f"--hardware {hardware}: must be one of {', '.join(known)}")
    device, model = known[named], target_of(target)
    asked, published = (training_cost(kind, model, device, gpus, r) for r in (Asked(**asked_of), PUBLISHED))
    if as_json:
        content = {"drafter": kind, "target": model.name, "device": device.name, "gpus": gpus}
        print_json("training", {**content, "asked": asked, "published": published, "assumed": assumed(model)})
        return
    _print(kind, model, device, gpus, asked, published)


def _print(kind: str, model: Model, device: Device, gpus: int, asked: TrainingCost, published: TrainingCost) -> None:
    console = plain_console()
    on = f"{counted(gpus, 'GPU')}, {device.name}"
    say(console, f"training {kind} for {model.name} on {on}: an estimate; nothing was run")
    lines = [[name, one, other] for (name, one), (_, other) in zip(_cells(asked), _cells(published), strict=True)]
    print_table(console, ["", "as asked", "published recipe"], lines, ())
    if asked.memory_bytes > device.memory_bytes:
        fits = gpus > 1 and asked.memory_shared_bytes <= device.memory_bytes
        way = "--shard" if fits else _way(asked, device)
        say(console, f"a text at a time does not fit a GPU's {device.memory_bytes / 1e9:.0f} GB: {way}")
    for line in assumed(model):
        say(console, line)


def _way(asked: TrainingCost, device: Device) -> str:
    """What makes a training fit that does not, however its target is shared out."""
    if asked.least_memory_bytes <= device.memory_bytes:
        return "fewer --anchors, more --gpus with --shard, or larger ones"
    own = f"the drafter's own state, {_size(asked.least_memory_bytes)}, is on each"
    return f"{own}, however many share the target; larger GPUs, or a smaller drafter (--layers, --rank: not counted here)"


def _cells(cost: TrainingCost) -> list[tuple[str, str]]:
    """A recipe's column."""
    return [
        ("text, tokens", abbreviated(cost.tokens)), ("epochs", f"{cost.epochs:g}"),
        ("drafted positions", abbreviated(cost.drafted_positions)), ("trained parameters", abbreviated(cost.parameters)),
        ("operations, target", f"{cost.target_flops:.1e}"), ("operations, drafter", f"{cost.drafter_flops:.1e}"),
        ("hours, answers", _range(cost.answer_hours)), ("hours, training", _range(cost.hours)),
        ("  hidden states kept", _range(cost.hours_kept)), ("memory of a GPU", _size(cost.memory_bytes)),
        ("  target shared out", _size(cost.memory_shared_bytes)),
        ("main memory of a process", _size(cost.main_memory_bytes)), ("disk, answers", _size(cost.answers_bytes)),
        ("disk, checkpoints", _size(cost.checkpoint_bytes)), ("  hidden states kept", _size(cost.hidden_state_bytes)),
    ]  # fmt: skip


def assumed(model: Model) -> list[str]:
    """What the numbers stand on."""
    from simulator.hardware import training as given

    (worst, best), (slow, fast) = given.EFFICIENCY, given.ANSWERING
    recipe = given.PUBLISHED
    return [
        f"assumed: training reaches {worst:.0%} to {best:.0%} of a GPU's peak in bf16; answers, as many tokens as are "
        f"trained on, {slow:.0%} to {fast:.0%} of the roofline's speed with {given.ANSWERED_TOGETHER} requests "
        "on each GPU, or as many as fit; "
        "every GPU holds the target as it is published, or its share of the layers (--shard); "
        f"main memory holds the target while it is loaded, and states of {given.HELD_OUT_TEXTS} held-out texts; "
        f"{given.STATE_BYTES} bytes of state a trained parameter; "
        f"{given.LOGIT_COPIES} tables of drafted positions × vocabulary, a text at a time; a drafter of the published shape "
        f"over a target of width {model.width:,}",
        f"published recipe: DeepSpec's for Qwen3-4B, on this target and these GPUs: {recipe.tokens / 1e9:.2f} G tokens (its "
        f"38 TB of hidden states), {recipe.epochs} epochs, {recipe.anchors} anchors in {recipe.sequence_tokens:,} tokens; "
        "its node has eight GPUs",
    ]


def _size(value: float) -> str:
    return f"{abbreviated(value)}B"


def _range(hours: tuple[float, float] | None) -> str:
    """Two digits of each, written out."""
    if hours is None:
        return "does not fit"
    least, most = (f"{float(f'{value:.2g}'):,g}" for value in hours)
    return f"{least} to {most}"
