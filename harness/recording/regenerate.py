"""The target's own answers to prompts: what drafters are trained on, and what `--responses` reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from drafters.target import Target
from harness.cluster import Cluster, Pool, joined
from harness.console import Watcher
from harness.parts import Parts
from harness.recording.conversations import Conversation
from harness.recording.logged import responses_of, sampling_of, write_prompts
from harness.recording.pair import Pair
from harness.recording.responses import GivenResponse, responses_file
from harness.recording.suite import Generation, Prompt
from harness.recording.worker import Checked, Recorder, RecorderOptions
from results.store.runs import asked_with
from simulator.errors import InputError
from simulator.numbers import counted
from simulator.records import Sampling

_MEASURED = 1000
"""Prompts whose length is looked at together, before any is answered."""


class RegenerationPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides what is said."""

    pair: Pair
    """The target, without drafters."""
    prompts: tuple[str, ...]
    """Files."""
    generation: Generation
    limit: int | None = None
    batch: int = 24
    """Conversations held together."""
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, least in (("--batch", self.batch, 1), ("--seed", self.seed, 0)):
            if value < least:
                raise ValueError(f"{option} {value}: must be {least} or more")


@dataclass(frozen=True, slots=True)
class Regenerated:
    """What a file of responses holds."""

    file: Path
    target: str
    generation: Generation
    prompts: int
    responses: int
    tokens: int
    cut: int
    """Responses that end at the length limit."""
    unreached: int
    """Turns that no conversation came to: it no longer fitted the target's context, or its chat template refused it."""
    left_out: tuple[str, ...]
    """Prompts that do not fit the target's context."""
    data_dir: Path | None = None
    """Folder of the prompts that have these responses, as they were logged; None where the files asked for are those."""
    notes: tuple[str, ...] = ()
    """What is not exact, of answers that were logged."""


def regenerate(
    plan: RegenerationPlan, prompts: Sequence[Prompt], file: Path | None, out: Path, cluster: Cluster, watcher: Watcher,
    *, skip_long: bool = False,
) -> Regenerated:  # fmt: skip
    """Let the target answer every prompt on the cluster's workers, and write `file`, or one in `out`/responses, as a whole.

    What is answered is kept beside the database until then, and the same command goes on with it. Raises InputError.
    """
    with joined(cluster, watcher.doing):
        options = RecorderOptions(plan.pair, None, None, plan.generation, plan.seed)
        pool = Pool(cluster, Recorder, (options,), watcher.say)
        watcher.say("loading the target and checking it")
        checked: Checked = pool.call("check", [], {})
        if checked.cannot_generate:
            raise InputError(checked.cannot_generate)
        _say_target(plan, checked, watcher)
        long = _too_long(pool, prompts, skip_long, watcher)
        asked = [prompt for prompt in prompts if prompt.prompt_id not in long]
        parts = Parts(out, "regeneration", [plan, checked.identity, [p.prompt_id for p in asked], _texts(asked)], watcher)
        given = _answers(pool, batches(asked, plan.batch), parts, watcher)
    made = written(plan, asked, given, long, file or file_in(out, plan, parts.name))
    parts.done()
    return made


def batches(prompts: Sequence[Prompt], size: int) -> list[tuple[Prompt, ...]]:
    """Prompts of about one length together, the longest first: a batch takes as long as its longest, and what begins last
    should be short."""
    ordered = sorted(prompts, key=lambda p: (-sum(map(len, p.turns)), p.prompt_id))
    return [tuple(ordered[i : i + size]) for i in range(0, len(ordered), size)]


def file_in(out: Path, plan: RegenerationPlan, name: str) -> Path:
    """Where responses are written that nobody has a file for."""
    return out / "responses" / f"{Path(plan.pair.target).name or 'target'}-{name.split()[-1]}.jsonl"


def written(
    plan: RegenerationPlan, prompts: Sequence[Prompt], given: Sequence[GivenResponse], left_out: Sequence[str], file: Path
) -> Regenerated:
    """Write responses in the order of the prompts, whole or not at all. Raises InputError where that cannot be."""
    order = {prompt.prompt_id: i for i, prompt in enumerate(prompts)}
    said = sorted(given, key=lambda r: (order[r.prompt_id], r.turn))
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(responses_file(plan.generation.sampling, said))
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        way = "make room, or name another file with --to"
        raise InputError(f"{file}: cannot be written ({error.strerror}); {way}") from None
    return Regenerated(
        file.resolve(), plan.pair.target, plan.generation, len(prompts), len(said), sum(len(r.token_ids) for r in said),
        sum(r.finish == "length" for r in said), sum(len(p.turns) for p in prompts) - len(said), tuple(left_out),
    )  # fmt: skip


def logged(
    plan: RegenerationPlan, found: Sequence[tuple[Prompt, Conversation]], asked: Sampling | None, file: Path | None,
    out: Path, watcher: Watcher,
) -> Regenerated:  # fmt: skip
    """Write the answers that the plan's files hold, with the prompts to them beside. Raises InputError."""
    sampling = sampling_of([one for _, one in found], asked)
    watcher.say("reading the target's tokenizer")
    target = Target.outline(plan.pair.target, plan.pair.dtype, plan.pair.chat_template or None)
    told = responses_of(found, target, sampling, lambda done, total: watcher.advance("tokenising", done, total))
    generation = msgspec.structs.replace(
        plan.generation, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k,
        max_new_tokens=max(2, *(len(r.token_ids) for r in told.responses)),
    )  # fmt: skip
    plan = msgspec.structs.replace(plan, generation=generation)
    made = written(plan, told.prompts, told.responses, (), file or file_in(out, plan, "logged"))
    folder = made.file.with_suffix(".prompts")
    write_prompts(told.prompts, folder)
    return replace(made, data_dir=folder, notes=told.notes)


def _texts(prompts: Sequence[Prompt]) -> list[tuple[str, ...]]:
    return [(prompt.system, *prompt.turns) for prompt in prompts]


def _answers(pool: Pool, units: Sequence[tuple[Prompt, ...]], parts: Parts, watcher: Watcher) -> list[GivenResponse]:
    """Responses to all units, in any order; those that are kept are not asked for again."""
    name: Callable[[Sequence[Prompt]], str] = lambda unit: unit[0].prompt_id  # noqa: E731 - of one use
    total, found = sum(map(len, units)), list[GivenResponse]()
    todo, done = list[tuple[Prompt, ...]](), 0
    for unit in units:
        if (kept := parts.kept(name(unit), list[GivenResponse])) is None:
            todo.append(unit)
        else:
            found, done = [*found, *kept], done + len(unit)
    stage = f"answering · {counted(pool.size, 'actor')}"
    watcher.advance(stage, done, total)
    for (unit,), answers in pool.map("answer", [(unit,) for unit in todo]):
        parts.keep(name(unit), answers)
        found += answers
        done += len(unit)
        watcher.advance(stage, done, total)
    return found


def _too_long(pool: Pool, prompts: Sequence[Prompt], skip: bool, watcher: Watcher) -> list[str]:
    """Ids of prompts that do not fit the target's context with their replies. Raises InputError for them unless `skip`."""
    groups = [list(prompts[i : i + _MEASURED]) for i in range(0, len(prompts), _MEASURED)]
    found: list[str] = []
    done = 0
    for (group, _), long in pool.map("too_long", [(group, {}) for group in groups]):
        found += long
        done += len(group)
        if len(groups) > 1:
            watcher.advance("measuring prompts", done, len(prompts))
    if found and not skip:
        raise InputError(
            f"prompt {found[0]}: does not fit the target's context with its replies, nor do {len(found) - 1} others; leave "
            "them out with --skip-long-prompts, or lower --max-new-tokens"
        )
    if len(found) == len(prompts):
        raise InputError("every prompt is too long for the target's context; lower --max-new-tokens")
    return found


def _say_target(plan: RegenerationPlan, checked: Checked, watcher: Watcher) -> None:
    watcher.say(f"target {plan.pair.target} · {checked.target['dtype']} on {checked.target['device']} · seed {plan.seed}")
    if told := asked_with(checked.target):
        watcher.say(told)
    if asked := checked.target["left_out"]:
        watcher.say(f"the target's generation settings ask for {', '.join(asked)}: not done here")
    if not checked.target["end_tokens"]:
        watcher.say("no end token of the target is named: answers end at --max-new-tokens alone")
