"""`harness train`: what training a drafter would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.console import plain_console, print_json, print_table, say, user_errors
from harness.options import AsJson
from simulator.errors import InputError
from simulator.numbers import counted

if TYPE_CHECKING:
    from simulator.hardware.roofline import Device, Model
    from simulator.hardware.training import TrainingCost


def train(
    kind: Annotated[str, typer.Argument(help="What is trained: dspark, dflash, eagle3 or mtp.")],
    target: Annotated[str, typer.Option(help="qwen3-4b, llama-3.1-8b, gpt-oss-20b, another known one, or a config.json.")],
    hardware: Annotated[str, typer.Option(help="The GPU: h100, h200, or another of `harness hardware list`.")] = "h100",
    gpus: Annotated[int, typer.Option(help="GPUs that share the texts.")] = 1,
    tokens: Annotated[float, typer.Option(help="Tokens of the text that is trained on, as 1e8.")] = 1e8,
    epochs: Annotated[int, typer.Option(help="How often it is read.")] = 3,
    sequence_tokens: Annotated[int, typer.Option(help="Length of a text.")] = 4096,
    anchors: Annotated[int, typer.Option(help="Blocks drafted in a text by dspark and dflash.")] = 512,
    gamma: Annotated[int, typer.Option(help="Tokens of a block.")] = 7,
    dry_run: Annotated[bool, typer.Option(help="Say what it would take, and train nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what it takes to train a drafter for a target, on GPUs of a kind; with --dry-run, and nothing else yet."""
    from simulator.hardware.catalogue import devices
    from simulator.hardware.training import PUBLISHED, Recipe, target_of, training_cost

    with user_errors("harness"):
        if hardware not in (known := devices()):
            raise InputError(f"--hardware {hardware}: must be one of {', '.join(known)}")
        device, model = known[hardware], target_of(target)
        recipe = Recipe(tokens=tokens, epochs=epochs, sequence_tokens=sequence_tokens, anchors=anchors, gamma=gamma)
        asked, published = (training_cost(kind, model, device, gpus, r) for r in (recipe, PUBLISHED))
        if not dry_run:
            raise InputError("--dry-run: is needed: what training takes is told here, and nothing is trained yet")
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
        say(console, f"a text at a time does not fit a GPU's {device.memory_bytes / 1e9:.0f} GB: fewer --anchors, or shards")
    for line in assumed(model):
        say(console, line)


def _cells(cost: TrainingCost) -> list[tuple[str, str]]:
    """A recipe's column."""
    return [
        ("text, tokens", _count(cost.tokens)), ("epochs", str(cost.epochs)),
        ("drafted positions", _count(cost.drafted_positions)), ("trained parameters", _count(cost.parameters)),
        ("operations, target", f"{cost.target_flops:.1e}"), ("operations, drafter", f"{cost.drafter_flops:.1e}"),
        ("hours, answers", _range(cost.answer_hours)), ("hours, training", _range(cost.hours)),
        ("  hidden states kept", _range(cost.hours_kept)), ("memory of a GPU", _size(cost.memory_bytes)),
        ("disk, answers", _size(cost.answers_bytes)), ("disk, checkpoints", _size(cost.checkpoint_bytes)),
        ("  hidden states kept", _size(cost.hidden_state_bytes)),
    ]  # fmt: skip


def assumed(model: Model) -> list[str]:
    """What the numbers stand on."""
    from simulator.hardware import training as given

    (worst, best), (slow, fast) = given.EFFICIENCY, given.ANSWERING
    recipe = given.PUBLISHED
    return [
        f"assumed: training reaches {worst:.0%} to {best:.0%} of a GPU's peak in bf16; answers, as many tokens as are "
        f"trained on, {slow:.0%} to {fast:.0%} of the roofline's speed with {given.ANSWERED_TOGETHER} requests on each GPU; "
        f"every GPU holds the target; {given.STATE_BYTES} bytes of state a trained parameter; {given.LOGIT_COPIES} tables "
        "of drafted positions × vocabulary, a text at a time; a drafter of the published shape over a target of width "
        f"{model.width:,}",
        f"published recipe: DeepSpec's for Qwen3-4B, on this target and these GPUs: {recipe.tokens / 1e9:.2f} G tokens (its "
        f"38 TB of hidden states), {recipe.epochs} epochs, {recipe.anchors} anchors in {recipe.sequence_tokens:,} tokens; "
        "its node has eight GPUs",
    ]


def _count(value: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.3g}"


def _size(value: float) -> str:
    return f"{_count(value)}B"


def _range(hours: tuple[float, float]) -> str:
    return f"{hours[0]:.2g} to {hours[1]:.2g}"
