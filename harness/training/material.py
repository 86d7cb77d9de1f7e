"""From a plan to what the loop needs: the target, texts in its tokens, the split, the drafter, states kept."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from drafters.checkpoints import find_folder, folder_hash
from drafters.precision import choose_dtype
from drafters.sharding import load_shared, shared_bytes
from drafters.target import Target
from drafters.training.design import Made, make_drafter, warm_drafter, widen_tables
from drafters.training.held_out import held_bytes
from drafters.training.held_out import prepare as read_held_out
from drafters.training.loop import Material
from drafters.training.numerics import fastest
from drafters.training.states import States
from drafters.training.texts import LEAST_RESPONSE, Split, Text, by_domain, most_frequent, overlap, split, usable
from harness.recording.responses import GivenResponse
from harness.recording.worker import contexts
from harness.training.plan import Given, TrainingPlan, generation_of
from simulator.errors import InputError, first_paragraph
from simulator.memory import MACHINE_BYTES
from simulator.numbers import counted


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that a training needs."""

    target: Target
    made: Made
    material: Material
    dtype: torch.dtype
    facts: dict[str, Any] = field(default_factory=dict)
    """What was found on the way, for people and for the database."""


def prepare(
    plan: TrainingPlan, given: Given, folder: Path, say: Callable[[str], None], advance: Callable[[str, int, int], None],
    *, fills: bool = True, evaluates: bool = True,
) -> Prepared:  # fmt: skip
    """Load the target, make its texts and the drafter, and keep states in `folder`. Raises InputError.

    `fills` says whether this process fills the cache, or finds it filled; `evaluates`, whether it keeps the target's
    states of held-out texts.
    """
    target = load_target(plan)
    if plan.shard:
        whole, own = shared_bytes(target)
        say(f"target: {whole / 1e9:.2f} GB, loaded by one process of a machine at a time; each keeps {own / 1e9:.2f} GB")
    for response in given.responses:
        response.check(target.stop_tokens, target.vocab_size)
    most = min(plan.recipe.max_tokens, target.max_positions)
    texts = usable(texts_of(plan, given, target), most)
    if not texts:
        raise InputError(
            f"--responses: of {counted(len(given.responses), 'answer')} none has {LEAST_RESPONSE} tokens or more among the "
            f"first {most:,} of its text; give longer ones, or a larger --max-tokens"
        )
    parts = split(texts, plan.recipe.held_out)
    facts = _told_texts(parts, say)
    vocabulary = None
    if (count := plan.design.vocabulary) is not None:
        vocabulary, coverage = most_frequent(parts.train, count, target.vocab_size)
        facts |= {"vocabulary": count, "coverage": coverage}
        said = len({token for text in parts.train for token in text.response})
        more = f"; only {said:,} occur in them, the others are of the lowest ids" if said < count else ""
        say(f"vocabulary: the {count:,} most frequent of {target.vocab_size:,} tokens, {coverage:.2%} of the answers{more}")
    made = _made(plan, target, parts, vocabulary)
    dtype = precision(plan, folder, say)
    if dtype == torch.float32:
        widen_tables(made.drafter)
    _told_drafter(made, facts, say)
    recipe, taps = plan.recipe, made.drafter.tap_layers
    states = States(target, taps, parts.train, folder / "cache" if recipe.cache_bytes else None, recipe.cache_bytes)
    _told_cache(states, len(parts.train), say)
    states.open(fill=fills, advance=lambda done, total: advance("reading texts", done, total))
    chosen = by_domain(parts.held_out, recipe.evaluated)
    if evaluates:
        _check_held(held_bytes(target, chosen, taps), len(chosen), say)
    held_out = []
    if evaluates or plan.shard:  # of a target that is shared out all read, and only the first keeps
        held_out = [one for one in read_held_out(target, chosen, taps, given.sampling) if evaluates]
    facts["cache_bytes"] = states.kept_bytes
    facts |= {
        "target_hash": folder_hash(find_folder(plan.pair.target)),
        "device": target.device.type,
        "precision": str(dtype)[6:],
    }
    return Prepared(target, made, Material(parts.train, states, held_out, given.sampling), dtype, facts)


def load_target(plan: TrainingPlan) -> Target:
    """The target, as recording loads it, or this process's share of it: then by all of them at once."""
    pair, device = plan.pair, device_of(plan)
    dtype = choose_dtype(pair.dtype, device.type)

    def loaded(device: str) -> Target:
        return Target.load(pair.target, dtype=dtype, device=device, chat_template=pair.chat_template or None)

    return load_shared(lambda: loaded("cpu"), device) if plan.shard else loaded(str(device))


def device_of(plan: TrainingPlan) -> torch.device:
    """Where this process computes. Raises InputError where that is not there."""
    kind = plan.pair.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=kind).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {kind}: not available here ({first_paragraph(error)})") from error


def texts_of(plan: TrainingPlan, given: Given, target: Target) -> list[Text]:
    """Answers with what stood before them, in the order of the files."""
    turns: Mapping[str, list[GivenResponse]] = defaultdict(list)
    for response in given.responses:
        turns[response.prompt_id].append(response)
    found = []
    for prompt_id, said in turns.items():
        said = sorted(said, key=lambda r: r.turn)
        prompt = given.prompts.get(prompt_id)
        if prompt is None:
            before = [() if r.prompt_token_ids is msgspec.UNSET else r.prompt_token_ids for r in said]
        else:
            before = contexts(target, replace(prompt, turns=prompt.turns[: len(said)]), said, generation_of(plan, given))
        for response, context in zip(said, before, strict=True):
            own = prompt.domain if prompt else response.domain
            domain = own if isinstance(own, str) else prompt_id.partition("/")[0]
            wrong = [token for token in context if not 0 <= token < target.vocab_size]
            if not context or wrong:
                what = f"token {wrong[0]} is outside the target's vocabulary" if wrong else "it is empty"
                raise InputError(f"--responses: {prompt_id}, turn {response.turn}: prompt_token_ids: {what}")
            name = f"{prompt_id}, turn {response.turn}" if len(said) > 1 else prompt_id
            found.append(Text(name, domain, tuple(context), response.token_ids, prompt_id))
    return found


def _made(plan: TrainingPlan, target: Target, parts: Split, vocabulary: list[int] | None) -> Made:
    texts = [*parts.train, *parts.held_out]
    if plan.start is not None:
        return warm_drafter(plan.start, plan.design.kind, target)
    return make_drafter(plan.design, target, texts, vocabulary, plan.recipe.seed)


def precision(plan: TrainingPlan, folder: Path, say: Callable[[str], None]) -> torch.dtype:
    """What products are computed in: as asked, or as measured when the training began, which `folder` keeps."""
    kept, partial = folder / "precision", folder / "precision.partial"
    name: str
    if plan.recipe.precision != "auto":
        name = plan.recipe.precision
    elif kept.exists() and (said := kept.read_text(errors="replace")) in ("bfloat16", "float32"):
        name = said
    else:
        measured, ratio = fastest(device_of(plan))
        name = "bfloat16" if measured == torch.bfloat16 else "float32"
        partial.write_text(name)
        os.replace(partial, kept)
        say(f"precision: {name}; bfloat16 is {ratio:.1f} times as fast as float32 here")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _told_texts(parts: Split, say: Callable[[str], None]) -> dict[str, Any]:
    """What there is to train on."""
    tokens = [sum(len(t.response) for t in part) for part in parts]
    domains = Counter(t.domain for t in parts.train)
    of_prompts, of_answers = overlap(parts)
    say(
        f"texts: {counted(len(parts.train), 'answer')}, {tokens[0]:,} tokens "
        f"({', '.join(f'{name} {n}' for name, n in sorted(domains.items()))}); held out by prompt: {len(parts.held_out)}, "
        f"{tokens[1]:,} tokens"
    )
    say(
        f"overlap: {of_prompts:.1%} of the held-out prompts' runs of 13 tokens are in what is trained on, {of_answers:.1%} "
        "of the answers'"
    )
    return {
        "train_texts": len(parts.train), "train_tokens": tokens[0], "held_out_texts": len(parts.held_out),
        "held_out_tokens": tokens[1], "prompt_overlap": of_prompts, "answer_overlap": of_answers,
    }  # fmt: skip


def _told_drafter(made: Made, facts: dict[str, Any], say: Callable[[str], None]) -> None:
    trained = sum(p.numel() for p in made.drafter.parameters() if p.requires_grad)
    shape = made.drafter.settings.shape
    taps = " ".join(str(tap) for tap in made.drafter.tap_layers)
    say(
        f"drafter: {made.kind}, {counted(shape.layers, 'layer')} as {shape.family}'s, taps {taps}, "
        f"γ = {made.drafter.gamma}, {trained / 1e6:.1f} M parameters to train; written as {made.format}"
    )
    facts |= {
        "trained_parameters": trained, "gamma": made.drafter.gamma, "format": made.format,
        "conventions": made.drafter.conventions,
    }  # fmt: skip


def _told_cache(states: States, texts: int, say: Callable[[str], None]) -> None:
    """What is kept of the target's states, and what it would take to keep all."""
    if states.kept:
        say(f"cache: states of {states.kept} of {texts} texts, {states.kept_bytes / 1e9:.2f} GB of disk until training ends")
    else:
        say(f"cache: none, the target reads every batch; all states would take {states.all_bytes / 1e9:.2f} GB (--cache)")


def _check_held(needed: int, texts: int, say: Callable[[str], None]) -> None:
    """Say what the states of held-out texts take of main memory. Raises InputError where that is more than there is."""
    if needed > 0.9 * MACHINE_BYTES:
        raise InputError(
            f"--evaluated: states of {counted(texts, 'held-out answer')} take {needed / 1e9:,.1f} GB of memory, and this "
            f"machine has {MACHINE_BYTES / 1e9:,.1f}; give fewer, or --max-tokens"
        )
    say(f"held out: states of {counted(texts, 'answer')} are drafted on, {needed / 1e9:.2f} GB of main memory")
