"""From a plan to what the loop needs: the target, texts in its tokens, the split, the drafter, states kept."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from drafters.checkpoints import TEXT, find_folder, folder_hash
from drafters.dense import Reading
from drafters.precision import choose_dtype
from drafters.sharding import load_shared, shared_bytes
from drafters.target import Target
from drafters.training.design import Made, make_drafter, warm_drafter, widen_tables
from drafters.training.held_out import held_bytes
from drafters.training.held_out import prepare as read_held_out
from drafters.training.loop import Material
from drafters.training.numerics import fastest
from drafters.training.states import States
from drafters.training.texts import (
    LEAST_RESPONSE,
    Split,
    Text,
    by_domain,
    default_share,
    most_frequent,
    opening_prompts,
    overlap,
    split,
    usable,
)
from harness.recording.law import not_drawn, too_many_outside
from harness.recording.responses import GivenResponse
from harness.recording.worker import contexts
from harness.training.plan import Given, TrainingPlan, generation_of, is_bare
from simulator.errors import InputError, first_paragraph
from simulator.memory import MACHINE_BYTES
from simulator.numbers import abbreviated, counted


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
    every = texts_of(plan, given, target)
    texts = usable(every, most)
    if not texts:
        raise InputError(
            f"--responses: of {counted(len(given.responses), 'answer')} none has {LEAST_RESPONSE} tokens or more among the "
            f"first {most:,} of its text; give longer ones, or a larger --max-tokens"
        )
    share = plan.recipe.held_out or default_share(texts)
    parts = split(texts, share)
    facts = _told_texts(parts, share, say) | _told_left_out(every, texts, most, say)
    vocabulary = None
    if (count := plan.design.vocabulary) is not None:
        vocabulary, coverage = most_frequent(parts.train, count, target.vocab_size)
        facts |= {"vocabulary": count, "coverage": coverage}
        said = len({token for text in parts.train for token in text.response})
        more = f"; only {said:,} occur in them, the others are of the lowest ids" if said < count else ""
        say(f"vocabulary: the {count:,} most frequent of {target.vocab_size:,} tokens, {coverage:.2%} of the answers{more}")
    made = _made(plan, target, parts, vocabulary)
    dtype = precision(plan, folder, say)
    identity = identity_of(plan, target)
    check_identity(identity, folder)
    if dtype == torch.float32:
        widen_tables(made.drafter)
    _told_drafter(made, target.num_layers, facts, say)
    recipe, taps = plan.recipe, made.drafter.tap_layers
    states = States(target, taps, parts.train, folder / "cache" if recipe.cache_bytes else None, recipe.cache_bytes)
    _told_cache(states, len(parts.train), say)
    states.open(fill=fills, advance=lambda done, total: advance("reading texts", done, total))
    chosen = by_domain(parts.held_out, recipe.evaluated)
    if evaluates:
        _check_held(held_bytes(target, chosen, taps), len(chosen), say)
    held_out, readings = [], []
    if evaluates or plan.shard:  # of a target that is shared out all read, and only the first keeps
        for one in read_held_out(target, chosen, taps, given.sampling):
            readings.append((len(one.p), one.reading))
            held_out += [one] * evaluates
        facts["outside"] = check_law(readings, half=target.dtype.itemsize < 4)
    facts["cache_bytes"] = states.kept_bytes
    facts |= {
        "target_hash": identity["target"],
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


def identity_of(plan: TrainingPlan, target: Target) -> dict[str, str]:
    """What a training must find as it was when it is gone on with, beside its plan: its files' contents, and number type."""
    start = {} if plan.start is None else {"start": folder_hash(find_folder(plan.start))}
    folder = find_folder(plan.pair.target)
    files = {"target": folder_hash(folder), "text": folder_hash(folder, TEXT)}
    return {**files, "dtype": str(target.dtype)[6:], **start}


def check_identity(identity: Mapping[str, str], folder: Path) -> None:
    """Keep it in `folder` where a training begins. Raises InputError where that had another when it began: states that are
    kept, and steps that were taken, would be of another target."""
    kept, partial = folder / "identity.json", folder / f"identity.{os.getpid()}.partial"
    if kept.exists():
        before = msgspec.json.decode(kept.read_bytes(), type=dict[str, str])
        words = {"target": "the target's weights have changed", "text": "the target's tokenizer has changed",
                 "start": "the files of --from have changed",
                 "dtype": f"the target was {before.get('dtype')} and is {identity['dtype']} here"}  # fmt: skip
        if changed := next((words[name] for name in words if before.get(name) != identity.get(name)), None):
            raise InputError(f"{folder}: {changed} since this training began; begin anew, with another --seed or --to")
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(msgspec.json.encode(identity))
    os.replace(partial, kept)


def check_law(readings: Sequence[tuple[int, Reading]], *, half: bool) -> int:
    """Tokens of held-out answers that the target cannot say here, of (tokens, what it makes of them) an answer.

    Raises InputError where they are not its own: what is accepted of others is no acceptance.
    """
    tokens = sum(n for n, _ in readings)
    outside, surprise, variance = (sum(r[i] for _, r in readings) for i in range(3))
    way = "answers of another make are no evidence of what it accepts: let it answer itself, `harness regenerate`"
    if too_many_outside(int(outside), tokens, half=half):
        raise InputError(
            f"--responses: {int(outside)} of {tokens} held-out tokens cannot come from this target with these sampling "
            f"settings; {way}"
        )
    if told := not_drawn(tokens, surprise, variance):
        raise InputError(f"--responses: these {told}; {way}")
    return int(outside)


def texts_of(plan: TrainingPlan, given: Given, target: Target) -> list[Text]:
    """Answers with what stood before them, in the order of the files."""
    turns: Mapping[str, list[GivenResponse]] = defaultdict(list)
    for response in given.responses:
        turns[response.prompt_id].append(response)
    found = []
    for prompt_id, said in turns.items():
        said = sorted(said, key=lambda r: r.turn)
        prompt = given.prompts.get(prompt_id)
        last = max((r.turn for r in said if is_bare(r)), default=-1)
        rebuilt: Sequence[Sequence[int]] = ()
        if prompt is not None and last >= 0:  # of these all turns are there, from the first
            asked = replace(prompt, turns=prompt.turns[: last + 1])
            rebuilt = contexts(target, asked, said[: last + 1], generation_of(plan, given))
        for response in said:
            context = rebuilt[response.turn] if is_bare(response) else response.prompt_token_ids or ()
            own = prompt.domain if prompt else response.domain
            domain = own if isinstance(own, str) else prompt_id.partition("/")[0]
            wrong = [token for token in context if not 0 <= token < target.vocab_size]
            if not context or wrong:
                what = f"token {wrong[0]} is outside the target's vocabulary" if wrong else "it is empty"
                raise InputError(f"--responses: {prompt_id}, turn {response.turn}: prompt_token_ids: {what}")
            name = f"{prompt_id}, turn {response.turn}" if len(said) > 1 else prompt_id
            found.append(Text(name, domain, tuple(context), response.token_ids, prompt_id))
    opening = opening_prompts(found)
    return [replace(text, opening=opening[text.group]) for text in found]


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
        faster = f"{ratio:.1f} times as fast as" if ratio >= 1 else f"{1 / max(ratio, 1e-9):.1f} times slower than"
        say(f"precision: {name}; bfloat16 is {faster} float32 here")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _told_texts(parts: Split, share: float, say: Callable[[str], None]) -> dict[str, Any]:
    """What there is to train on."""
    tokens = [sum(len(t.response) for t in part) for part in parts]
    domains = Counter(t.domain for t in parts.train)
    of_prompts, of_answers = overlap(parts)
    say(
        f"texts: {counted(len(parts.train), 'answer')}, {tokens[0]:,} tokens "
        f"({', '.join(f'{name} {n}' for name, n in sorted(domains.items()))}); held out by prompt, {share:.2g}: "
        f"{len(parts.held_out)}, {tokens[1]:,} tokens"
    )
    if alone := sorted(domains.keys() - {t.domain for t in parts.held_out}):
        say(f"held out: no prompt of {', '.join(alone)}, so that τ says nothing of it; more prompts, or --held-out")
    say(
        f"overlap: {of_prompts:.1%} of the held-out prompts' runs of 13 tokens are in what is trained on, {of_answers:.1%} "
        "of the answers'"
    )
    return {
        "train_texts": len(parts.train), "train_tokens": tokens[0], "held_out_texts": len(parts.held_out),
        "held_out_tokens": tokens[1], "prompt_overlap": of_prompts, "answer_overlap": of_answers,
    }  # fmt: skip


def _told_left_out(every: Sequence[Text], used: Sequence[Text], most: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Answers that are not trained on, or not whole."""
    whole = {text.name: len(text) for text in every}
    filled = sum(len(text.prompt) + LEAST_RESPONSE > most for text in every)
    short, cut = len(every) - len(used) - filled, sum(len(text) < whole[text.name] for text in used)
    told = [
        f"left out: {counted(filled, 'answer')} whose prompt fills --max-tokens, {most:,}" if filled else "",
        f"left out: {counted(short, 'answer')} of fewer than {LEAST_RESPONSE} tokens" if short > 0 else "",
        f"cut at --max-tokens, {most:,}: {counted(cut, 'answer')}" if cut else "",
    ]
    for line in filter(None, told):
        say(line)
    return {"left_out_long": filled, "left_out_short": max(short, 0), "cut": cut}


def _told_drafter(made: Made, layers: int, facts: dict[str, Any], say: Callable[[str], None]) -> None:
    trained = sum(p.numel() for p in made.drafter.parameters() if p.requires_grad)
    shape = made.drafter.settings.shape
    taps = " ".join(str(tap) for tap in made.drafter.tap_layers)
    say(
        f"drafter: {made.kind}, {counted(shape.layers, 'layer')} as {shape.family}'s, taps {taps}, "
        f"γ = {made.drafter.gamma}, {abbreviated(trained)} parameters to train; written as {made.format}"
    )
    if made.kind != "mtp" and layers - 1 in made.drafter.tap_layers:
        say(
            f"taps hold the target's last layer, {layers - 1}, whose output vLLM hands over after the last norm, so that "
            "`harness convert --to vllm` will refuse it; leave it out of --taps for vLLM"
        )
    elif shape.family == "gemma4":
        say(
            f"{made.kind}: vLLM has no drafters with layers as Gemma-4's, so `harness convert --to vllm` will refuse it; "
            "one of --format speculators, whose layers are Qwen3's, it takes"
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
