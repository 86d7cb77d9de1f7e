"""Bodies of requests and answers, as gateways keep them: objects, or the text that went over the wire."""

from __future__ import annotations

import json
import re
from typing import Any, Final

REQUESTS: Final = ("request", "request_body", "requestBody", "request_payload", "input", "body", "kwargs", "payload")
RESPONSES: Final = ("response", "response_body", "responseBody", "response_payload", "output", "completion", "result")
"""Under which gateways keep what was asked, and what was answered."""
_EVENTS: Final = re.compile(r"(?:data|event|id|retry)?:")
"""How the text of a stream begins; with a colon alone where its first line is a comment."""


def opened(value: Any) -> Any:
    """A body, which may be kept as text: JSON, the events of a stream, or lines of objects as Ollama streams them. None for
    other text."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if _EVENTS.match(text) and "data:" in text:
        return _streamed(text)
    if text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return _lines(text)
    return None


def _lines(text: str) -> dict[str, Any] | None:
    """The answer of a stream of Ollama's, put together; None for other lines."""
    try:
        parts = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(one, dict) and isinstance(one.get("message"), dict) and "done" in one for one in parts):
        return None
    said = [one["message"] for one in parts]
    message = {name: value for one in said for name, value in one.items() if value}
    cut = {} if parts[-1]["done"] else {"done_reason": "length"}
    return {**parts[-1], **cut, "message": {**message, "content": "".join(_words(one.get("content")) for one in said)}}


def _streamed(text: str) -> dict[str, Any]:
    """The answer of a stream's events, put together: the first one's, where there are several."""
    last, usage = dict[str, Any](), dict[str, Any]()
    events = list[dict[str, Any]]()
    for line in text.splitlines():
        event = opened(line.removeprefix("data:").strip()) if line.startswith("data:") else None
        if not isinstance(event, dict):
            continue
        events.append(event)
        last |= {name: value for name, value in event.items() if value}
        for one in (event, event.get("message"), event.get("response")):  # Anthropic's, and of the Responses API
            own = one.get("usage") if isinstance(one, dict) else None
            usage |= {name: value for name, value in own.items() if value is not None} if isinstance(own, dict) else {}
    if usage:
        last["usage"] = usage
    if isinstance(whole := last.get("response"), dict):  # its last event has all of it
        return {**last, **whole, "usage": usage or whole.get("usage")}
    if any(event.get("type") == "message_start" for event in events):
        last.pop("message", None)  # as it began, without what was said
        return {**last, **_message(events)}
    return {**last, **_choices(events, whole="[DONE]" in text)}


def _message(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What was said in events of Anthropic's API."""
    said, kinds, began = list[str](), dict[str, None](), dict[str, Any]()
    ended = "max_tokens"  # a stream that breaks off
    for event in events:
        delta = _object(event.get("delta"))
        if event.get("type") == "message_start":
            began = _object(event.get("message"))
        elif event.get("type") == "content_block_start":
            kinds[str(_object(event.get("content_block")).get("type"))] = None
        elif event.get("type") == "content_block_delta":
            said.append(_words(delta.get("text")))
            if "thinking" in delta:
                kinds["thinking"] = None
        ended = delta.get("stop_reason") or ended
    parts = [{"type": kind} for kind in kinds if kind != "text"]
    content = [*parts, {"type": "text", "text": "".join(said)}]
    kept = {"usage", "content", "stop_reason"}
    return {**{name: value for name, value in began.items() if name not in kept}, "content": content, "stop_reason": ended}


def _choices(events: list[dict[str, Any]], *, whole: bool) -> dict[str, Any]:
    """What was said in events of chats; one that breaks off is cut, though nothing in it says so."""
    said, choice = list[str](), dict[str, Any]()
    told = [one for event in events for one in _objects(event.get("choices"))]
    for one in (one for one in told if not one.get("index")):
        delta = _object(one.get("delta"))
        said.append(_words(delta.get("content")))
        choice |= {name: value for name, value in one.items() if value is not None}
        if delta.get("tool_calls") or delta.get("reasoning_content") or delta.get("reasoning"):
            choice["besides"] = "with tools" if delta.get("tool_calls") else "with reasoning"
    if any(said) and not whole:
        choice.setdefault("finish_reason", "length")
    message = {"role": "assistant", "content": "".join(said)}
    if choice.get("besides"):
        message["tool_calls" if choice["besides"] == "with tools" else "reasoning"] = "…"
    several = {index for one in told if isinstance(index := one.get("index"), int) and index}
    return {"choices": [{**choice, "message": message}, *({"index": index} for index in sorted(several))]}


def _object(value: Any) -> dict[str, Any]:
    """An object; an empty one for whatever is none."""
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; none for whatever is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _words(value: Any) -> str:
    """A text; an empty one for whatever is none."""
    return value if isinstance(value, str) else ""
