"""What a recording is made of, as far as files tell it: suite, prompts, given responses, pair. Needs no model library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from harness.recording.pair import choose_drafters, load_pair
from harness.recording.plan import RecordingPlan
from harness.recording.responses import GivenResponses, read_responses
from harness.recording.suite import Suite, load_suite
from simulator.errors import InputError


def read_inputs(plan: RecordingPlan) -> tuple[Suite, GivenResponses | None]:
    """The suite with the plan's prompts and settings, and given responses, which set the length limit; looks at the pair.

    Raises InputError for what is wrong with any of these files.
    """
    check_blocks(choose_drafters(load_pair(plan.pair), plan.drafters), plan.block_sizes)
    data_dir = Path(plan.data_dir) if plan.data_dir else None
    suite = load_suite(plan.suite, data_dir=data_dir, source=plan.source, limit=plan.limit)
    generation, given = plan.generation or suite.file.generation, None
    if files := plan.responses_files:
        given = read_responses(files, suite.prompts, generation.sampling, file_hash=plan.responses_hash)
        generation = msgspec.structs.replace(generation, max_new_tokens=given.longest)
    suite = replace(suite, file=msgspec.structs.replace(suite.file, generation=generation))
    return without(suite, plan.skipped), given


def without(suite: Suite, skipped: Sequence[str]) -> Suite:
    """The suite less some prompts. Raises InputError where none is left."""
    prompts = tuple(p for p in suite.prompts if p.prompt_id not in set(skipped))
    if not prompts:
        raise InputError("every prompt is too long for the target's context; lower --max-new-tokens")
    return replace(suite, prompts=prompts)


def check_blocks(sources: Mapping[str, str], sizes: Sequence[int] | None) -> None:
    """Raise InputError where a drafter's folder says that it drafts no such block.

    Drafters of the hub, and files that are not as they should be, are judged when they are loaded.
    """
    for source in sources.values():
        file = Path(source) / "config.json"
        try:
            block = json.loads(file.read_text(encoding="utf-8-sig"))["block_size"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(block, int) and (beyond := [size for size in sizes or () if size > block]):
            raise InputError(
                f"checkpoint {source}: was trained with block_size {block}; a block size of {beyond[0]} does not fit"
            )
