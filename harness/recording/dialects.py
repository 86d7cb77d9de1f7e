"""Bodies of other APIs in the form of OpenAI's chats: Anthropic's messages, OpenAI's responses, and Ollama's chats.

What they say of an answer under names of their own is lost where only those of one API are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeGuard

from simulator.bodies import opened

Body = Mapping[str, Any]
ELSEWHERE: Final = ("previous_response_id", "conversation", "prompt")
"""Fields of a request of the Responses API that stand for what is kept at the server."""
THOUGHTS: Final = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""Kinds of parts that are no part of what was said."""
_PATHS: Final = ("path", "url", "uri", "endpoint", "call_type")
_METHODS: Final = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}
_API: Final = re.compile(
    r"^(?:https?://[^/]+)?/?(?:(?:openai|api)/)?v\d\w*/(?!.*\.[a-z]+$)|^/?(?:api/)?chat/?$"
    r"|(?:^|/)(?:completions?|messages|responses|generate\w*|invocations|predict|embeddings?|rerank|api/chat)/?$"
    r"|:\w*(?:[gG]enerate|[pP]redict)\w*$"
)
"""Paths of an API of models; where a data set found its texts, as files and pages, is none."""
_SETTINGS: Final = {
    "", "on", "off", "none", "auto", "minimal", "low", "medium", "high", "xhigh", "true", "false", "yes", "no", "enabled",
    "disabled",
}  # fmt: skip
"""Words that say how much is to be thought, and are no thoughts."""
_OBJECTS: Final = ("chat.completion", "text_completion", "response")
"""What bodies of OpenAI's APIs call themselves; a stream's begin alike."""
_UNLIKE_A_CHAT: Final = ("raw", "template", "suffix", "context", "images")
"""Fields of Ollama's generation that make something else of a prompt than a chat of one turn."""
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


def is_of_an_api(field: str, value: Any) -> bool:
    """Whether a field says that a row is a request: a method of HTTP's, or a path of an API's.

    Data sets call by the same names where, and how, they found their texts.
    """
    if not isinstance(value, str) or field in ("method", "call_type"):
        return field == "call_type" or value in _METHODS
    words = value.split(" ")  # `POST /v1/completions HTTP/1.1`
    at = words[1] if len(words) > 1 and words[0] in _METHODS else value
    return _API.search(at.partition("?")[0]) is not None


def is_of_the_wire(value: Any) -> bool:
    """Whether a text is a whole answer of an API, which no model writes by chance."""
    if not isinstance(value, str) or not ('"usage"' in value or '"object"' in value):
        return False
    found = opened(value)
    named = isinstance(found, dict) and str(found.get("object")).startswith(_OBJECTS)
    return named or (isinstance(found, dict) and isinstance(found.get("usage"), dict))


def is_thought(value: Any) -> bool:
    """Whether it is what was thought, and no setting of whether to think."""
    if isinstance(value, dict):
        return any(isinstance(text := value.get(name), str) and text for name in ("content", "text", "thinking"))
    return value.strip().casefold() not in _SETTINGS if isinstance(value, str) else isinstance(value, list) and bool(value)


def are_messages(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether it is a list of messages, and not of whatever else."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "role" in one for one in value)


def answers_itself(row: Body) -> bool:
    """Whether a row has the fields of an answer beside those of what was asked; choices may be those of a test, too."""
    choices = row.get("choices")
    chosen = isinstance(choices, list) and any(
        isinstance(one, dict) and ("message" in one or "finish_reason" in one) for one in choices
    )
    whole = isinstance(row.get("message"), dict) or (row.get("role") == "assistant" and "content" in row)
    generated = isinstance(row.get("prompt"), str) and is_generated(row)
    return chosen or generated or row.get("object") == "response" or ("messages" in row and whole)


def is_generated(body: Body) -> bool:
    """Whether a body is an answer of Ollama's to a prompt."""
    return isinstance(body.get("response"), str) and isinstance(body.get("done"), bool)


def chat_of_generated(asked: Body) -> Body:
    """A prompt that Ollama puts into the template as one of a chat; another, which is none, as it is."""
    prompt = asked.get("prompt")
    if not isinstance(prompt, str) or any(asked.get(name) for name in _UNLIKE_A_CHAT):
        return asked
    return {**asked, "messages": [{"role": "user", "content": prompt}]}


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
    elif is_generated(body):
        message = {"content": body["response"], "thinking": body.get("thinking")}
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
