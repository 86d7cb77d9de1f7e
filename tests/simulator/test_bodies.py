"""Bodies of requests and answers, whatever stands in them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from simulator.bodies import opened

WORDS = st.sampled_from(["choices", "delta", "content", "index", "message", "done", "type", "message_start", "usage", "text",
                         "content_block", "response", "message_delta", "content_block_delta", "finish_reason"])  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
EVENTS = st.lists(st.dictionaries(WORDS, ANYTHING, max_size=4), min_size=1, max_size=4)


@given(EVENTS, st.booleans())
def test_any_stream_is_opened_without_an_error(events: list[dict[str, Any]], whole: bool) -> None:
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ("data: [DONE]\n" if whole else "")
    assert isinstance(opened(text), dict)


@given(EVENTS)
def test_any_lines_of_json_are_opened_without_an_error(events: list[dict[str, Any]]) -> None:
    found = opened("".join(f"{json.dumps(event)}\n" for event in events))
    assert found is None or isinstance(found, dict)
