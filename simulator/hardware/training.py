"""What training a drafter takes: tokens, arithmetic, memory, disk and hours, from shapes and a datasheet. Nothing is run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from simulator.drafter_kinds import KINDS, LEARNED
from simulator.errors import InputError
from simulator.hardware.architecture import model_of
from simulator.hardware.catalogue import Asked, config_of, configs, model_file, models
from simulator.hardware.model import FORMAT_BYTES, MARKOV_RANK, Model
from simulator.hardware.roofline import Assumptions, Device, Machine, kv_capacity_tokens

EFFICIENCY: Final = (0.25, 0.5)
"""Share of a GPU's peak that training reaches, the worst and the best that is assumed."""
ANSWERING: Final = (0.5, 1.0)
"""Share of the roofline's speed that a server reaches while it answers."""
ANSWERED_TOGETHER: Final = 256
"""Requests that a GPU answers at once, at most: as many as fit."""
STATE_BYTES: Final = 20
"""Memory of a trained parameter: itself, its gradient, two moments and the best so far, in 32 bits."""
HELD_OUT_TEXTS: Final = 3 * 16
"""Held-out answers whose states the first process keeps: as many as are drafted on unless one says otherwise, of three
domains."""
LOGIT_COPIES: Final = 4
"""Tables of drafted positions × vocabulary in 32 bits held at once: the target's, the drafter's, its gradient, another."""
_FORWARD, _BOTH = 2, 6
"""Operations of a parameter for one position: forwards, and backwards too where it is trained."""
_THROUGH = 4
"""The same of a frozen one that gradients pass through."""
_WRITTEN_BYTES = 7
"""Disk that a token in a file of responses takes."""
_CACHED_BYTES = 2
"""Disk that a number of a hidden state takes, in bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long, and at how many places, a drafter is trained. Raises InputError for what makes no sense."""

    tokens: float
    """Tokens of the text, prompts included."""
    epochs: float
    sequence_tokens: int = 4096
    """Tokens of one text, at most."""
    anchors: int = 512
    """Blocks drafted in a text of that length by kinds that draft one at a time; others draft at every token."""
    gamma: int = 7

    def __post_init__(self) -> None:
        for option, value, least, most in (
            ("--tokens", self.tokens, 1, 1e15), ("--epochs", self.epochs, 1e-3, 1e4), ("--anchors", self.anchors, 1, 1e6),
            ("--gamma", self.gamma, 1, 64), ("--sequence-tokens", self.sequence_tokens, 1, 1e7),
        ):  # fmt: skip
            if not least <= value <= most:
                raise InputError(f"{option} {value:g}: must be from {least:g} to {most:g}")


PUBLISHED: Final = Recipe(tokens=38e12 / 30_720, epochs=10)
"""DeepSpec's for Qwen3-4B: its README's 38 TB of hidden states are of so many tokens, five taps and the last state of 2,560
numbers in bf16 each; epochs, anchors and γ as in its config/."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCost:
    """What a recipe takes, on one or several GPUs that each hold the target and share the texts."""

    tokens: float
    epochs: float
    drafted_positions: float
    """Over all epochs."""
    parameters: int
    """That are trained."""
    target_flops: float
    """Operations of reading the texts once in every epoch."""
    target_flops_kept: float
    """Operations of reading them once, where hidden states are kept."""
    drafter_flops: float
    answer_hours: tuple[float, float] | None
    """For the target to say as many tokens, the least and the most; None where it does not fit the GPUs."""
    hours: tuple[float, float] | None
    """Hours of training with hidden states computed anew, the least and the most; None where it does not fit them."""
    hours_kept: tuple[float, float] | None
    """Hours of training where they are kept: reading them from disk is not counted."""
    memory_bytes: float
    """Memory of each GPU, a text at a time."""
    least_memory_bytes: float
    """Memory of the drafter and its state alone, which every GPU has however much is shared out."""
    memory_shared_bytes: float
    """The same as `memory_bytes` where each GPU holds its share of the target's layers (`--shard`), and of the others' two
    at a time: FSDP puts the next one together while one computes."""
    main_memory_bytes: float
    """Main memory of the first process: the target while it is loaded (of a target that is shared out one process of a
    machine has it at a time), and what it keeps of held-out answers as long as `sequence_tokens`."""
    answers_bytes: float
    hidden_state_bytes: float
    """On disk, where they are kept."""
    checkpoint_bytes: float
    """Disk for the drafter, and for what training goes on from."""


def training_cost(kind: str, model: Model, device: Device, gpus: int, recipe: Recipe) -> TrainingCost:
    """What it takes to train a drafter of a kind for a target. Raises InputError for kinds that are not trained."""
    if kind not in LEARNED:
        raise InputError(f"KIND {kind}: must be one of {', '.join(LEARNED)}")
    if not 1 <= gpus <= 10**5:
        raise InputError(f"--gpus {gpus}: must be from 1 to 100,000")
    texts, drafts = recipe.tokens / recipe.sequence_tokens, model.drafters
    sparse = KINDS[kind].one_pass
    gamma = 1 if kind == "mtp" else recipe.gamma
    positions = (texts * recipe.anchors if sparse else recipe.tokens) * gamma
    layer, per_text_token, per_position = _parts(kind, model)
    context = recipe.sequence_tokens / 2
    attended = sum(a.flops(context) for a in model.attention)
    reading = recipe.tokens * (_FORWARD * model.active_parameters + attended)
    of_draft = replace(drafts.attention, layers=drafts.attention.layers if sparse else 1)
    drafter = recipe.epochs * (
        recipe.tokens * _BOTH * per_text_token
        + positions * (_BOTH * per_position + _THROUGH * model.head_parameters + 3 * of_draft.flops(context))
    )
    states = _taps(kind, model) + 1
    at_once = (recipe.anchors if sparse else recipe.sequence_tokens) * gamma
    held = model.width * recipe.sequence_tokens * states * _CACHED_BYTES
    trained = STATE_BYTES * layer + held + LOGIT_COPIES * 4 * at_once * model.vocabulary
    layers = sum(model.layer_bytes(a) for a in model.attention)
    largest = max(model.layer_bytes(a) / a.layers for a in model.attention)
    whole = model.weight_bytes + trained
    shared = model.weight_bytes - layers + min(layers, layers / gpus + 2 * largest) + trained
    fits = min(whole, shared if gpus > 1 else whole) <= device.memory_bytes
    return TrainingCost(
        tokens=recipe.tokens, epochs=recipe.epochs, drafted_positions=positions * recipe.epochs, parameters=layer,
        target_flops=recipe.epochs * reading, target_flops_kept=reading, drafter_flops=drafter,
        answer_hours=_answering(model, device, gpus, recipe),
        hours=_hours(recipe.epochs * reading + drafter, device, gpus) if fits else None,
        hours_kept=_hours(reading + drafter, device, gpus) if fits else None,
        memory_bytes=whole, least_memory_bytes=STATE_BYTES * layer, memory_shared_bytes=shared,
        main_memory_bytes=model.weight_bytes
        + HELD_OUT_TEXTS * recipe.sequence_tokens * model.width * (states - 1) * _CACHED_BYTES,
        answers_bytes=_WRITTEN_BYTES * recipe.tokens,
        hidden_state_bytes=recipe.tokens * states * model.width * _CACHED_BYTES,
        checkpoint_bytes=(2 + STATE_BYTES - 4) * layer,  # in bf16, and all but gradients
    )  # fmt: skip


def target_of(name: str) -> Model:
    """A target by its short name or its hub id, or by a `config.json` or the folder of one. Raises InputError."""
    known, raw = models(), configs()
    hub = {model.name.lower(): short for short, model in known.items()} | {config_of(raw[own]).lower(): own for own in raw}
    short = hub.get(name.lower(), name)
    if short in known:
        return known[short]
    if short in raw:
        return model_of(raw[short], config_of(raw[short]), f"configuration of huggingface.co/{config_of(raw[short])}")
    try:
        there = Path(name).exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise InputError(f"--target {name}: no such file, and not one of {', '.join([*known, *raw])}")
    if name.lower().endswith(".gguf"):
        raise InputError(f"--target {name}: shapes are read from a config.json, not from a GGUF file; name the model's")
    return model_file(Path(name), Asked())


def _parts(kind: str, model: Model) -> tuple[int, int, int]:
    """Trained parameters, those that are used for every token of the text, and those used for every drafted position.

    Of a mixture the drafter is assumed to have a dense MLP of as many parameters as are active for a token.
    """
    d, drafts = model.width, model.drafters
    mlp = model.mlp_parameters + model.active_experts * model.expert_parameters
    projections = drafts.attention.projection_parameters
    if kind == "eagle3":
        joined = _taps(kind, model) * d * d
        return drafts.eagle_parameters + joined, joined, drafts.eagle_parameters
    if kind == "mtp":
        return projections + mlp + 2 * d * d, 0, projections + mlp + 2 * d * d
    layers, joined = drafts.attention.layers, _taps(kind, model) * d * d
    cached = FORMAT_BYTES["bf16" if drafts.within else model.cache_format]
    kept = round(d * drafts.attention.entry_bytes / cached)  # keys and values of the context, every layer's
    block = layers * (projections + mlp)
    head = 2 * MARKOV_RANK * model.vocabulary + d + MARKOV_RANK + 1 if kind == "dspark" else 0
    used = (
        MARKOV_RANK * model.vocabulary + d + MARKOV_RANK if kind == "dspark" else 0
    )  # of the other table a row is looked up
    return block + joined + head, joined + layers * kept, block + used


def _taps(kind: str, model: Model) -> int:
    """Hidden states of a token that the drafter reads: those of its taps that coincide in a shallow target are one."""
    layers = model.layers
    if KINDS[kind].one_pass:
        return min(model.drafters.taps, layers - 3 if layers > 4 else max(layers - 1, 1))
    deepest = max(layers - 2, 0)
    return len({min(max(tap, 0), deepest) for tap in (1, layers // 2 - 1, layers - 4)}) if kind == "eagle3" else 1


def _hours(flops: float, device: Device, gpus: int) -> tuple[float, float]:
    worst, best = EFFICIENCY
    return flops / (gpus * device.bf16_flops * best) / 3600, flops / (gpus * device.bf16_flops * worst) / 3600


def _answering(model: Model, device: Device, gpus: int, recipe: Recipe) -> tuple[float, float] | None:
    """Hours for the target to say as many tokens: steps of as many requests as fit, by the roofline, however the GPUs are
    shared out that gives most; None where none of that holds it."""
    rates = [_answered_per_s(model, device, 1 << i, recipe) * (gpus >> i) for i in range(gpus.bit_length())]
    if not (fastest := max(rates)):
        return None
    worst, best = ANSWERING
    hours = recipe.tokens / fastest / 3600
    return hours / best, hours / worst


def _answered_per_s(model: Model, device: Device, gpus: int, recipe: Recipe) -> float:
    """Tokens per second of a replica on so many GPUs; 0 where it does not fit them."""
    context, given = recipe.sequence_tokens / 2, Assumptions()
    together = min(ANSWERED_TOGETHER * gpus, int(kv_capacity_tokens(device, model, gpus, given) / context))
    if together < 1:
        return 0.0
    machine = Machine(device, gpus, given)
    read = together * sum(a.read_bytes(context) for a in model.attention) / gpus
    return together / (float(machine.verify(model, np.array([float(together)]))[0]) + read / machine.bandwidth)
