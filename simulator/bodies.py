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
    """A body, which may be kept as text: JSON, or the events of a stream. None for other text."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if _EVENTS.match(text) and "data:" in text:
        return _streamed(text)
    if text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None
    return None


def _streamed(text: str) -> dict[str, Any]:
    """The answer of a stream's events, put together."""
    said, last = list[str](), dict[str, Any]()
    choice, usage = dict[str, Any](), dict[str, Any]()
    for line in text.splitlines():
        event = opened(line.removeprefix("data:").strip()) if line.startswith("data:") else None
        if not isinstance(event, dict):
            continue
        last |= {name: value for name, value in event.items() if value}
        for one in (event, event.get("message"), event.get("response")):  # Anthropic's, and of the Responses API
            own = one.get("usage") if isinstance(one, dict) else None
            usage |= {name: value for name, value in own.items() if value is not None} if isinstance(own, dict) else {}
        for one in event.get("choices") or ():
            delta = one.get("delta") or {}
            said.append(delta.get("content") or "")
            choice |= {name: value for name, value in one.items() if value is not None}
            if delta.get("tool_calls") or delta.get("reasoning_content") or delta.get("reasoning"):
                choice["besides"] = "with tools" if delta.get("tool_calls") else "with reasoning"
    message = {"role": "assistant", "content": "".join(said)}
    if choice.get("besides"):
        message["tool_calls" if choice["besides"] == "with tools" else "reasoning"] = "…"
    if usage:
        last["usage"] = usage
    return {**last, "choices": [{**choice, "message": message}]}
