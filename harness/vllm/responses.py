"""`harness record --engine vllm`: the target's responses from vLLM, in the form of any other engine's."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import msgspec

from drafters.gguf import plain_source
from drafters.target import Target
from harness.console import Watcher
from harness.recording.pair import Pair, choose_drafters, load_pair
from harness.recording.plan import RecordingPlan
from harness.recording.responses import GivenResponse, responses_file
from harness.recording.suite import Generation, Prompt, load_suite
from harness.recording.worker import conversation_tokens
from harness.vllm.engine import VllmEngine, require, running, version
from simulator.errors import InputError
from simulator.numbers import counted

_REQUESTS = 64
"""Conversations held at once, at most."""


def generate_responses(plan: RecordingPlan, folder: Path, watcher: Watcher) -> RecordingPlan:
    """Let vLLM answer a plan's suite, the target alone; returns the plan that records these responses.

    They are written to a file in `folder`, named by what they are of. Raises InputError.
    """
    if plan.responses is not None or plan.mode == "live":
        raise InputError("--engine vllm: makes the responses itself, for dense recording; leave --responses and --mode out")
    require()
    pair = load_pair(plan.pair)
    choose_drafters(pair, plan.drafters)
    data_dir = Path(plan.data_dir) if plan.data_dir else None
    suite = load_suite(plan.suite, data_dir=data_dir, source=plan.source, limit=plan.limit)
    generation = plan.generation or suite.file.generation
    given = answers(pair, suite.prompts, generation, plan.seed, watcher)
    content = responses_file(generation.sampling, given)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"vllm-{suite.file.name}-{hashlib.sha256(content).hexdigest()[:8]}.jsonl"
    file.write_bytes(content)
    watcher.say(f"{counted(len(given), 'response')} of {version()}: {file}")
    return msgspec.structs.replace(plan, responses=str(file.resolve()))


def answers(
    pair: Pair, prompts: tuple[Prompt, ...], generation: Generation, seed: int, watcher: Watcher
) -> list[GivenResponse]:
    """What the pair's target says to every turn of the prompts, by vLLM. Raises InputError."""
    require()
    source = plain_source(pair.target, watcher.say)
    target = Target.outline(source, pair.dtype, pair.chat_template or None)
    longest = _longest(target, prompts, generation)
    watcher.say(f"starting {version()}")

    async def ask() -> list[GivenResponse]:
        requests = min(_REQUESTS, len(prompts))
        async with running(source, target, requests=requests, longest=longest, seed=seed) as engine:
            return await _converse(engine, target, prompts, generation, seed, watcher)

    return asyncio.run(ask())


async def _converse(
    engine: VllmEngine, target: Target, prompts: tuple[Prompt, ...], generation: Generation, seed: int, watcher: Watcher
) -> list[GivenResponse]:
    """Responses to every turn of every prompt, conversations side by side."""
    said: list[GivenResponse] = []

    async def converse(prompt: Prompt) -> None:
        history = prompt.opening
        for turn, asked in enumerate(prompt.turns):
            history.append({"role": "user", "content": asked})
            ids = target.encode_chat(history, thinking=generation.thinking, today=generation.today)
            answer = await engine.answer(
                ids, generation.sampling, generation.max_new_tokens, _seed(seed, prompt.prompt_id, turn)
            )
            said.append(GivenResponse(prompt.prompt_id, answer.token_ids, answer.finish, turn))
            history.append({"role": "assistant", "content": target.text(answer.token_ids)})
        watcher.advance("responses of vLLM", len({r.prompt_id for r in said}), len(prompts))

    await asyncio.gather(*map(converse, prompts))
    order = {p.prompt_id: i for i, p in enumerate(prompts)}
    return sorted(said, key=lambda r: (order[r.prompt_id], r.turn))


def _longest(target: Target, prompts: tuple[Prompt, ...], generation: Generation) -> int:
    """Tokens of the longest conversation, replies at the length limit. Raises InputError if the target cannot hold it."""
    found = 0
    for prompt in prompts:
        tokens = conversation_tokens(target, prompt, generation)
        if tokens > target.max_positions:
            raise InputError(
                f"prompt {prompt.prompt_id}: needs up to {tokens} tokens with its replies, but the target's context has "
                f"{target.max_positions}; lower --max-new-tokens, or leave it out of --data-dir"
            )
        found = max(found, tokens)
    return found


def _seed(seed: int, prompt_id: str, turn: int) -> int:
    """The seed of one response, made from the run's seed, its prompt and its turn."""
    digest = hashlib.sha256(f"{seed}\n{prompt_id}\n{turn}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
