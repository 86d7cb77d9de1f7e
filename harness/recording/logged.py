"""Answers that a server gave before, from logs of its conversations, as responses to record: tokenised as the target reads
them.

A log has texts, and a recording needs tokens. What cannot have been the target's own tokens is left out and counted; what
stays may still have been said in other tokens of the same text, which no log tells.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from drafters.target import Target
from harness.recording.conversations import Conversation, Reply, merged
from harness.recording.responses import GivenResponse
from harness.recording.suite import Prompt
from simulator.errors import InputError
from simulator.numbers import counted
from simulator.records import Sampling

_ALIKE = 1
"""Tokens by which a count may be off: engines count the end token or not."""


@dataclass(frozen=True, slots=True)
class Logged:
    """Conversations with their answers."""

    prompts: tuple[Prompt, ...]
    """With as many turns as have an answer."""
    responses: tuple[GivenResponse, ...]
    notes: tuple[str, ...]
    """What is not exact, and what was left out: sentences."""


def sampling_of(conversations: Sequence[Conversation], asked: Sampling | None) -> Sampling:
    """How answers were sampled: as `asked`, or as most requests say. Raises InputError where none does."""
    if asked is not None:
        return asked
    said = Counter(
        _sampling(reply)
        for one in conversations
        for reply in one.replies
        if reply is not None and reply.sampling is not None
    )
    if not said:
        raise InputError("--temperature: no request in these files says at which temperature it was answered; give it")
    return said.most_common(1)[0][0]


def responses_of(
    found: Sequence[tuple[Prompt, Conversation]], target: Target, sampling: Sampling, progress: Callable[[int, int], None]
) -> Logged:
    """The answers in conversations as the target's tokens; `progress` hears how many are done, and of how many.

    Raises InputError where none is left, or they are of several models.
    """
    whole = merged([one for _, one in found])
    models = sorted({r.model for one in whole if one is not None for r in one.replies if r is not None and r.model})
    if len(models) > 1:
        raise InputError(f"--prompts: answers of {len(models)} models ({', '.join(models)}); give those of the target alone")
    prompts, said = list[Prompt](), list[GivenResponse]()
    left_out, seen = Counter[str](), Counter[str]()
    for i, ((prompt, _), one) in enumerate(zip(found, whole, strict=True)):
        if i % 100 == 0:
            progress(i, len(found))
        if one is None:
            seen["merged"] += 1
            continue
        own = list[GivenResponse]()
        for turn, reply in enumerate(one.replies):
            made = "without an answer" if reply is None else _response(reply, prompt.prompt_id, turn, target, sampling)
            if isinstance(made, str):
                left_out[made] += len(one.replies) - turn
                break
            assert reply is not None
            own.append(made)
            seen.update(_unsure(reply))
        if own:
            prompts.append(replace(prompt, turns=prompt.turns[: len(own)]))
            said += own
    if not said:
        told = ", ".join(f"{n:,} {why}" for why, n in left_out.most_common())
        raise InputError(f"--prompts: no answer in these files can be recorded (left out: {told})")
    return Logged(tuple(prompts), tuple(said), tuple(_notes(seen, left_out, len(said))))


def write_prompts(prompts: Sequence[Prompt], folder: Path) -> None:
    """A file a task, as `--data-dir` reads them. Raises InputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for task in dict.fromkeys(prompt.task for prompt in prompts):
            lines = [
                {
                    "id": p.prompt_id, "messages": [*p.opening, *({"role": "user", "content": turn} for turn in p.turns)],
                    **({"domain": p.domain} if p.domain != task else {}),
                }
                for p in prompts
                if p.task == task
            ]  # fmt: skip
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (folder / f"{task}.jsonl").write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


def _sampling(reply: Reply) -> Sampling:
    """What a request asked for. Raises InputError for what nothing can be sampled with."""
    said = reply.sampling or {}
    temperature = float(said["temperature"])
    try:
        if not temperature:
            return Sampling(0.0)
        return Sampling(temperature, float(said.get("top_p", 1.0)), max(int(said.get("top_k", 0)), 0))
    except ValueError as error:
        raise InputError(f"--prompts: a request was sampled with {dict(said)}: {error}") from None


def _response(reply: Reply, prompt_id: str, turn: int, target: Target, sampling: Sampling) -> GivenResponse | str:
    """A reply in the target's tokens, or why it cannot be."""
    if reply.otherwise:
        return reply.otherwise
    if reply.sampling is not None and _sampling(reply) != sampling:
        return "sampled with other settings"
    ids = target.tokens(reply.text)
    if not ids or target.text(ids) != reply.text or set(ids) & target.stop_tokens:
        return "whose text the tokenizer does not give back"
    if reply.finish != "length" and target.reply_end is not None:
        ids.append(target.reply_end)
    if reply.tokens is not None and abs(len(ids) - reply.tokens) > _ALIKE:
        return "of another number of tokens than the server counted"
    stops = bool(set(ids) & target.stop_tokens)
    return GivenResponse(prompt_id, tuple(ids), "stop" if stops else "length", turn)


def _unsure(reply: Reply) -> list[str]:
    """What nobody says of a reply that is kept."""
    return [
        what
        for what, missing in (
            ("tokens", reply.tokens is None), ("finish", reply.finish is None), ("sampling", reply.sampling is None),
        )
        if missing
    ]  # fmt: skip


def _notes(seen: Counter[str], left_out: Counter[str], kept: int) -> list[str]:
    notes = [
        "texts are tokenised by the target's tokenizer: the same text may have been said in other tokens, and white space "
        "that a server strips is lost"
    ]
    if seen["tokens"]:
        notes.append(f"how many tokens the server counted is not known of {seen['tokens']:,} of {kept:,}: no check of them")
    if seen["finish"]:
        notes.append(f"{seen['finish']:,} of {kept:,} do not say how they ended: taken to have ended by an end token")
    if seen["sampling"]:
        notes.append(f"{seen['sampling']:,} of {kept:,} do not say how they were sampled: taken to be as the others")
    if seen["merged"]:
        notes.append(f"{counted(seen['merged'], 'row')} of which others are a later turn, or the same, counted once")
    if left_out:
        told = ", ".join(f"{n:,} {why}" for why, n in left_out.most_common())
        notes.append(f"answers left out, and the turns after them: {told}")
    return notes
