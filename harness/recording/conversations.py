"""Conversations as people publish and log them: a row, whatever its form, as the turns of a user and what was answered.

Forms, told apart by their fields: `turns` (FastChat's questions, SPEED-Bench), `messages` (OpenAI's chats), `conversations`
(ShareGPT) and `prompt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FORMS = '"turns" (texts), "messages" (role and content), "conversations" (from and value) or "prompt" (a text)'
"""What a row must have one of."""
_USERS = {"user", "human"}
_SYSTEMS = {"system", "developer"}
_TOOLS = {"tool", "function", "observation"}
_NAMES = ("id", "question_id", "prompt_id")
"""Fields that name a row, the first of them that is there."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a user asked, turn by turn."""

    turns: tuple[str, ...]
    replies: tuple[str | None, ...]
    """What was answered to each turn; None where the row does not say."""
    system: str = ""
    """Instructions before the first turn; empty without any."""
    category: str = ""
    name: str = ""
    """Its own; empty without one."""


class Unusable(ValueError):
    """A conversation that is right as it is, and cannot be held again; says why."""


def conversation_of(row: Mapping[str, Any]) -> Conversation:
    """The conversation in a row.

    Raises:
        Unusable: it has no turn of a user, or others speak in it.
        ValueError: the row is of no form known here, or holds no text where there must be one.
    """
    named = next((str(row[name]) for name in _NAMES if row.get(name) not in (None, "")), "")
    category = row.get("category")
    system, turns, replies = "", list[str](), list[str | None]()
    for speaker, said in _spoken(row):
        if speaker in _TOOLS or (speaker in _SYSTEMS and turns):
            raise Unusable("with tools" if speaker in _TOOLS else "with instructions between turns")
        if speaker in _SYSTEMS:
            system = f"{system}\n\n{said}" if system else said
        elif speaker in _USERS:
            turns.append(said)
            replies.append(None)
        elif turns:  # whoever speaks first but the user is quoted from before
            replies[-1] = said if replies[-1] is None else f"{replies[-1]}\n\n{said}"
    if not turns:
        raise Unusable("without a user's turn")
    return Conversation(tuple(turns), tuple(replies), system, str(category).strip() if category else "", named)


def _spoken(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(speaker, text) in order. Raises ValueError."""
    if (turns := row.get("turns")) is not None:
        if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t for t in turns):
            raise ValueError('"turns" must be a list of at least one non-empty string')
        yield from (("user", turn) for turn in turns)
    elif (said := row.get("messages")) is not None:
        yield from _messages("messages", said, "role", "content")
    elif (said := row.get("conversations")) is not None:
        yield from _messages("conversations", said, "from", "value")
    elif isinstance(prompt := row.get("prompt"), list):
        yield from _messages("prompt", prompt, "role", "content")
    elif isinstance(prompt, str) and prompt:
        yield "user", prompt
    else:
        raise ValueError(f'"turns" must be there, or another form of a prompt: {FORMS}')


def _messages(field: str, said: Any, who: str, what: str) -> Iterator[tuple[str, str]]:
    if not isinstance(said, list):
        raise ValueError(f'"{field}" must be a list of messages')
    for number, message in enumerate(said, 1):
        if not isinstance(message, dict) or not isinstance(message.get(who), str):
            raise ValueError(f'"{field}", message {number}: must be an object with "{who}" and "{what}"')
        if message.get("tool_calls"):
            raise Unusable("with tools")
        speaker, text = message[who].casefold(), _text(message.get(what))
        if text is None:
            raise ValueError(f'"{field}", message {number}: "{what}" must be a text')
        if text or speaker in _TOOLS:
            yield speaker, text


def _text(content: Any) -> str | None:
    """A message's text, which may come in parts; None for what is none, as images are."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "".join(part["text"] for part in content)
    return None
