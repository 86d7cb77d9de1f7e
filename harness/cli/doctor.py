"""`harness doctor`: whether a checkpoint was read as it was meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.console import Watcher, plain_console, print_json, print_table, say, user_errors, watching
from harness.options import AsJson, ChatTemplate
from simulator.drafter_kinds import WEIGHTLESS
from simulator.errors import AnswerIsNo, InputError, first_paragraph
from simulator.numbers import counted

if TYPE_CHECKING:
    from drafters.doctor import Diagnosis, Reading
    from drafters.formats.contract import Declared
    from drafters.target import Target
    from harness.recording.pair import Pair

_LEAST = 4
"""Prompts without which nothing is judged."""
_POSITIONS = 8
"""Positions of a draft whose acceptance is printed: more have no room in a line."""


def doctor(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A drafter's folder, or its id on the hub.")],
    target: Annotated[
        str, typer.Option(metavar="MODEL", help="Its target: a folder, a hub id, a GGUF file, tiny or smollm2.")
    ],
    prompts: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Files of prompts (repeatable); by default the bundled suite's."),
    ] = None,
    chat_template: ChatTemplate = None,
    texts: Annotated[int, typer.Option(min=4, max=10_000, help="Answers of the target to judge by.")] = 24,
    max_new_tokens: Annotated[int, typer.Option(min=8, max=4096, help="Tokens of an answer at most.")] = 64,
    corrected: Annotated[
        Path | None, typer.Option(help="Where another reading is clearly better: write the checkpoint so, to this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say in which format a drafter's checkpoint is, and whether it drafts better when read under other conventions: exit 0
    where the declared ones fit, 1 where none beats chance or another is clearly better."""
    with user_errors("harness"):
        from msgspec.structs import replace

        from harness.recording.pair import asked_pair, check_hub, load_pair
        from harness.recording.sources import check_sources
        from harness.recording.suite import load_suite, read_prompts
        from results.store.connection import check_new_folder

        with watching() as watcher:
            asked = read_prompts(prompts, None, watcher.say) if prompts else load_suite("math_code_chat").prompts
            if len(asked) < _LEAST:
                raise InputError(f"--prompts: at least {_LEAST} prompts are needed")
            if corrected is not None:
                check_new_folder(corrected, "--corrected")
            pair = load_pair(asked_pair("tiny", target, chat_template=chat_template)[0])
            if checkpoint in ("none", *WEIGHTLESS):
                raise InputError(f"checkpoint {checkpoint}: has no weights that could be read in another way")
            judged = replace(pair, drafters={"CHECKPOINT": checkpoint})
            check_sources(judged, asked=False)
            check_hub(judged, say=watcher.say)
            if texts > len(asked):
                watcher.say(f"--texts {texts}: there are {counted(len(asked), 'prompt')}; --prompts takes others")
            seen = _examined(checkpoint, pair, [one.turns[0] for one in asked], texts, max_new_tokens, watcher)
            found, written, refused = seen.found, None, ""
            if corrected is not None:
                written, refused = _corrected(seen, checkpoint, corrected)
        if as_json:
            told = {"corrected": written and str(corrected), "chat_template": seen.chat_template}
            print_json("doctor", {"doctor": {**_row(found, checkpoint, target), **told}})
        else:
            _print(seen, checkpoint)
            if refused:
                say(plain_console(), f"--corrected: {refused}")
            elif written is not None:
                say(plain_console(), f"{corrected}: the same drafter, declared so, as {written} writes it")
            if found.beats_chance and found.unsure is None and (found.better is None or not refused):
                _print_next(seen, checkpoint, target, None if written is None else corrected, chat_template)
        judge(found, checkpoint)


@dataclass(frozen=True, slots=True)
class _Examined:
    """A checkpoint that was read in all ways beside its target."""

    found: Diagnosis
    declared: Declared
    target: Target
    chat_template: str | None
    """What the target was asked with in place of a template of its own."""
    left_out: int
    """Answers by which nothing is judged."""


def _examined(
    checkpoint: str, pair: Pair, prompts: Sequence[str], texts: int, max_new_tokens: int, watcher: Watcher
) -> _Examined:
    """Let the target answer so many of the prompts, and read the checkpoint in all ways. Raises InputError."""
    watcher.doing("loading the target")
    import torch
    from transformers.utils import logging as transformers_logging

    from drafters.chat import PLAIN
    from drafters.checkpoints import facts_of, find_folder, read_declared
    from drafters.doctor import LONGER, diagnose, texts_of, threads_for
    from drafters.precision import choose_dtype
    from drafters.target import Target

    transformers_logging.disable_progress_bar()  # its bars would stand among ours
    folder = find_folder(checkpoint)
    device = "cuda" if pair.device == "auto" and torch.cuda.is_available() else pair.device.replace("auto", "cpu")
    dtype = torch.float32 if device == "cpu" else choose_dtype(pair.dtype, device)
    model = Target.load(pair.target, dtype=dtype, device=device, live=True, chat_template=pair.chat_template or None)
    if not model.has_template:  # what a drafter is judged by needs no conversations
        model.chat_template = PLAIN
    declared = read_declared(folder, facts_of(model)._replace(beyond=1), checkpoint)
    every = [model.encode_chat([{"role": "user", "content": prompt}]) for prompt in prompts]
    ids = _fitting(every, model.max_positions - max_new_tokens - declared.gamma - LONGER, texts)
    watcher.doing(f"letting the target answer {len(ids)} prompts")
    with threads_for(model):
        made = texts_of(model, ids, max_new_tokens, declared.gamma + LONGER)
        stage = f"reading {checkpoint} in other ways"
        found = diagnose(declared, folder, model, made, checkpoint, lambda d, t: watcher.advance(stage, d, t))
    return _Examined(found, declared, model, model.chat_template, len(ids) - len(made))


def _fitting(every: Sequence[list[int]], room: int, texts: int) -> list[list[int]]:
    """So many of the prompts, evenly spaced, of those with so many tokens at most. Raises InputError where too few are."""
    some = [ids for ids in every if len(ids) <= room]
    if len(some) < _LEAST:
        raise InputError(
            f"--prompts: of {counted(len(every), 'prompt')} {len(some)} fit with answers into the target's context, and "
            f"at least {_LEAST} are needed: give shorter ones, or a smaller --max-new-tokens"
        )
    count = min(texts, len(some))
    return [some[i * len(some) // count] for i in range(count)]


def _corrected(seen: _Examined, checkpoint: str, folder: Path) -> tuple[str | None, str]:
    """Write the checkpoint as its best reading declares it: (in which format, why not)."""
    from drafters.conventions import read_otherwise

    better = seen.found.better if seen.found.beats_chance else None
    if better is None:
        why = "no other reading is clearly better" if seen.found.beats_chance else "that it drafts at all is not sure"
        why = "which reading is better is not sure" if seen.found.unsure is not None else why
        return None, f"nothing is written to {folder}, for {why}"
    try:
        return _correct(read_otherwise(seen.declared, better.variant), checkpoint, folder, seen.target), ""
    except (InputError, OSError) as error:  # the diagnosis is worth more
        return None, first_paragraph(error)


def _correct(declared: Declared, checkpoint: str, folder: Path, model: Target) -> str:
    """Write a checkpoint that declares what fits; returns in which format."""
    from drafters.checkpoints import facts_of
    from drafters.conversion import TargetFiles, correct

    tables = {"embed_tokens.weight": model.embedding, "lm_head.weight": model.lm_head}
    theirs = {name: module.get_parameter("weight").detach().cpu() for name, module in tables.items()}
    return correct(declared, checkpoint, folder, TargetFiles(facts_of(model), theirs))


def judge(found: Diagnosis, checkpoint: str) -> None:
    """Raise AnswerIsNo where the declared conventions are not those to draft with."""
    if found.unsure is not None:
        part, both = found.unsure
        more, low, high = found.gain(part)
        raise AnswerIsNo(
            f"{checkpoint}: cannot be told yet: {part.variant.name} may give {more:+.2f} tokens a draft ({low:+.2f} to "
            f"{high:+.2f}) over what it declares, and {both.variant.name}, which is clearly better, gives no more; take "
            f"more answers than {len(found.anchors)} with --texts N (and --prompts, where there are no more)"
        )
    if not found.beats_chance and found.may_beat_chance:
        answers, best = counted(len(found.anchors), "answer"), found.best
        raise AnswerIsNo(
            f"{checkpoint}: cannot be told yet: {best.variant.name}, {best.survival[0]:.0%} of first tokens are accepted, "
            f"and {found.chance:.0%} of the commonest token would be; over {answers} that may be chance; take more "
            "with --texts N (and --prompts, where there are no more)"
        )
    if not found.beats_chance:
        raise AnswerIsNo(
            f"{checkpoint}: drafts no better than the commonest token would ({found.chance:.0%}) however it is read: "
            "another target's, hardly trained, or of a convention that is not known here"
        )
    if found.better is not None:
        more, low, high = found.gain(found.better)
        alike = [reading.variant.name for reading in found.alike]
        ahead, apart = found.ahead(found.better)
        raise AnswerIsNo(
            f"{checkpoint}: drafts better with {found.better.variant.name}: {more:+.2f} tokens a draft "
            f"({low:+.2f} to {high:+.2f}) over what it declares, more in {ahead} of the {apart} answers that differ"
            + (f"; cannot be told apart from: {', '.join(alike)}" if alike else "")
        )


def _print(seen: _Examined, checkpoint: str) -> None:
    from results.store.runs import asked_with

    console, found = plain_console(), seen.found
    say(console, f"{checkpoint}: {found.format}{f', made for {found.verifier}' if found.verifier else ''}")
    say(console, "declared: " + "; ".join(f"{name} {value}" for name, value in found.conventions.items()))
    positions = min(found.gamma, _POSITIONS)
    heads = ["read with", "accepted", "more than declared", f"% at 1…{positions}" if positions > 1 else "% at 1"]
    lines = []
    shown = [reading for reading in found.readings if not found.parts(reading)]
    for reading in sorted(shown, key=lambda one: (one is not found.leading, -found.length(one))):
        more, low, high = found.gain(reading)
        change = f"{more:+.2f} ({low:+.2f} to {high:+.2f})" if reading.variant.changes else "–"
        shares = " ".join(f"{100 * share:.0f}" for share in reading.survival[:positions])
        lines.append([reading.variant.name, f"{found.length(reading):.2f}", change, shares])
    print_table(console, heads, lines, ())
    if len(shown) < len(found.readings):
        left = len(found.readings) - len(shown)
        told = "that accepts no more than a part of it" if left == 1 else "that accept no more than a part of them"
        say(console, f"left out: {counted(left, 'combination')} {told}")
    anchors, gamma = int(found.anchors.sum()), seen.declared.gamma
    kind = str(seen.target.dtype).removeprefix("torch.")
    first = (
        ""
        if found.gamma >= gamma
        else f", of the first {found.gamma} of its {gamma} positions, which it has however it is read"
    )
    say(
        console,
        f"accepted tokens of a draft at temperature 0, in {kind}{first}, at {anchors:,} positions of {len(found.anchors)} "
        "answers; intervals are between answers and hold for all rows together. Last column: per cent of drafts whose "
        f"position is accepted{'' if positions == found.gamma else f'; --json has all {found.gamma}'}.",
    )
    if alone := [name for name in found.impossible if " and " not in name]:
        say(console, f"its tensors cannot be read with {', '.join(alone)}")
    if found.dismissed:
        say(console, f"no better on a third of the answers, and not read on: {', '.join(found.dismissed)}")
    if found.beats_chance and found.better is None and found.unsure is None:
        alike = [reading.variant.name for reading in found.alike]
        told = f"; cannot be told apart from: {', '.join(alike)}" if alike else ""
        say(console, f"The declared conventions fit: none is clearly better{told}.")
        if (open_ := found.may_be_better) is not None:
            more, low, high = found.gain(open_)
            say(
                console,
                f"{open_.variant.name} may be better all the same, {more:+.2f} ({low:+.2f} to {high:+.2f}): more answers "
                f"than {len(found.anchors)} tell (--texts N, and --prompts where there are no more)",
            )
    if seen.left_out:
        say(console, f"left out: {counted(seen.left_out, 'answer')}, too short or mostly of one token")
    if told := asked_with({"chat_template": seen.chat_template}):
        say(console, told)


def _print_next(seen: _Examined, checkpoint: str, target: str, corrected: Path | None, chat_template: str | None) -> None:
    """The command that comes after a diagnosis of a drafter that drafts, with the option that its target was asked with."""
    from results.store.commands import typed

    template = chat_template or seen.chat_template
    asked = ["--target", target, *(("--chat-template", template) if template else ())]
    if seen.found.better is not None and corrected is None:
        why, words = "a checkpoint that declares what fits", ["doctor", checkpoint, *asked, "--corrected", "FOLDER"]
    else:
        drafter = f"new={corrected or checkpoint}"
        why = "what it is worth by domain, on answers sampled as the suite has them (--temperature 0: greedy, as here)"
        words = ["record", "math_code_chat", *asked, "--drafter", drafter]
    console = plain_console()
    say(console, f"next, {why}:")
    say(console, f"  {typed('harness', *words)}")


def _row(found: Diagnosis, checkpoint: str, target: str) -> dict[str, Any]:
    verdict = "other" if found.better is not None else "declared"
    if not found.beats_chance:
        verdict = "open" if found.may_beat_chance else "chance"
    if found.unsure is not None:
        verdict = "open"
    more, low, high = found.gain(found.leading)
    return {
        "checkpoint": checkpoint, "target": target, "format": found.format, "gamma": found.gamma,
        "made_for": found.verifier or None,
        "declared": dict(found.conventions), "verdict": verdict,
        "best": found.leading.variant.name, "gain": more, "interval": [low, high], "chance": found.chance,
        "positions": int(found.anchors.sum()), "texts": len(found.anchors),
        "alike": [reading.variant.name for reading in found.alike], "impossible": list(found.impossible),
        "dismissed": list(found.dismissed),
        "table": [_line(found, reading) for reading in found.readings],
    }  # fmt: skip


def _line(found: Diagnosis, reading: Reading) -> dict[str, Any]:
    more, low, high = found.gain(reading)
    return {
        "reading": reading.variant.name, "accepted": found.length(reading), "gain": more, "interval": [low, high],
        "survival": list(reading.survival),
    }  # fmt: skip
