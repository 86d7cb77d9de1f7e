"""Bodies of other APIs in the form of OpenAI's chats: Anthropic's messages, OpenAI's responses, and Ollama's chats.

What they say of an answer under names of their own is lost where only those of one API are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from simulator.bodies import opened

Body = Mapping[str, Any]
ELSEWHERE: Final = ("previous_response_id", "conversation", "prompt")
"""Fields of a request of the Responses API that stand for what is kept at the server."""
THOUGHTS: Final = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""Kinds of parts that are no part of what was said."""
_PATHS: Final = ("path", "url", "uri", "endpoint", "call_type")
_ENDS: Final = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "model_context_window_exceeded": "length",
    "max_output_tokens": "length", "completed": "stop",
}  # fmt: skip
"""How answers end, as OpenAI's chats call it; a server before Anthropic's API says `end_turn` of stop strings, too."""


def is_of_responses(row: Body, answered: Body | None) -> bool:
    """Whether a row is of OpenAI's Responses API: what it calls `input` may as well be texts to embed."""
    request = row.get("request")
    places = (holder.get(name) for holder in (row, request) if isinstance(holder, dict) for name in _PATHS)
    named = any(isinstance(at, str) and at.partition("?")[0].rstrip("/").endswith("responses") for at in places)
    return named or any(one is not None and one.get("object") == "response" for one in (row, answered))


def chat_of_responses(asked: Body) -> dict[str, Any]:
    """A request of the Responses API as one of a chat."""
    said = asked.get("input") or asked.get("messages")  # LiteLLM calls it so, whatever the API
    given = said if isinstance(said, list) else opened(said)
    messages = list(_messages(given)) if isinstance(given, list) else [{"role": "user", "content": said}]
    form = asked.get("text")
    shape = {"response_format": form.get("format")} if isinstance(form, dict) else {}
    return {**asked, **shape, "messages": messages, "system": asked.get("instructions")}


def chat(asked: Body) -> dict[str, Any]:
    """A request of a chat, with what Anthropic's API and Ollama's say of sampling where OpenAI's has it."""
    options = asked.get("options")
    own = {"stop": asked.get("stop_sequences"), "response_format": asked.get("format")}
    said = {name: value for name, value in own.items() if value}
    return {**said, **(options if isinstance(options, dict) else {}), **asked}


def answer(body: Body) -> Body:
    """An answer as a choice of a chat has it; what is of no form known here stays as it is."""
    if isinstance(body.get("choices"), list):
        return body
    if isinstance(items := body.get("output"), list):
        choice = _of_items(items) | ended(_status(body))
    elif isinstance(message := body.get("message"), dict):
        choice = {"message": message} | ended(body.get("done_reason"))
    elif "content" in body:
        choice = {"message": body} | ended(body.get("stop_reason"))
        if isinstance(body.get("stop_sequence"), str):
            choice["stop_reason"] = body["stop_sequence"]
    else:
        return body
    return {**body, "choices": [choice]}


def ended(reason: Any) -> dict[str, Any]:
    """How an answer ended. That a stop string ended it says Anthropic's API, though not always which."""
    said = {"stop_reason": "…"} if reason == "stop_sequence" else {}
    return {"finish_reason": _ENDS.get(reason, reason) if isinstance(reason, str) else None, **said}


def _messages(items: list[Any]) -> Iterator[Any]:
    """What was said before, as messages; thoughts belong to what is said next."""
    thought = False
    for item in items:
        if not isinstance(item, dict) or item.get("type", "message") == "message":
            yield {**item, "reasoning": "…"} if thought and isinstance(item, dict) else item
            thought = False
        elif item["type"] == "reasoning":
            thought = True
        else:
            yield {"role": "tool", "content": ""}


def _of_items(items: list[Any]) -> dict[str, Any]:
    kinds = {item.get("type") for item in items if isinstance(item, dict)}
    parts: list[Any] = []
    for item in items:
        if isinstance(item, dict) and item.get("type") == "message":
            said = item.get("content")
            parts += said if isinstance(said, list) else [{"text": said}]
    message: dict[str, Any] = {"content": parts}
    if "reasoning" in kinds:
        message["reasoning"] = "…"
    if kinds - {"message", "reasoning"}:
        message["tool_calls"] = ["…"]
    return {"message": message}


def _status(body: Body) -> Any:
    details = body.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    return reason or body.get("status")
