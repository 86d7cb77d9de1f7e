"""Logs in other words: what general rules take for tokens, times, wholes and durations, and what they must leave alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from simulator.arrivals import RecordedRequests
from simulator.errors import InputError
from tests.simulator.logs import USED, at, lines, requests_of, told

Read = Callable[..., RecordedRequests]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return partial(requests_of, tmp_path)


def rows(n: int, **more: Any) -> list[dict[str, Any]]:
    """So many lines, a second apart, without a word of tokens that is known."""
    return [
        {"time": f"2026-11-03T09:00:{i:02}Z", **{k: v(i) if callable(v) else v for k, v in more.items()}} for i in range(n)
    ]


LIMITS: dict[str, dict[str, Any]] = {
    "limits": {"limits": {"input_tokens": 100_000, "output_tokens": 8000}},
    "a rate's limits": {"headers": {"x-ratelimit-input-tokens": 9000, "x-ratelimit-output-tokens": 900}},
    "plans": {"plan": {"included": {"prompt_tokens": 10**6, "completion_tokens": 10**5}}},
    "what is left": {"remaining": {"input_tokens": 7, "output_tokens": 8}},
    "a prompt's own words": {"prompt": '{"a_prompt_tokens": 7, "a_completion_tokens": 8}'},
    "another's": {"judge": {"prompt_tokens": 7, "completion_tokens": 8}},
}  # fmt: skip


@pytest.mark.parametrize("what", LIMITS)
def test_failures_beside_known_usage_have_none(what: str, read: Read) -> None:
    failed = [at(i, status=429, usage=None, **LIMITS[what]) for i in (3, 4)]
    assert read(lines(at(0), at(1), *failed)).prompt_tokens.tolist() == [5, 5]


@pytest.mark.parametrize("what", LIMITS)
def test_limits_and_what_is_alike_in_all_rows_are_no_tokens_of_a_request(what: str, read: Read) -> None:
    with pytest.raises(InputError, match="what lacks is tokens"):
        read(lines(*rows(4, **LIMITS[what])))


@pytest.mark.parametrize(
    ("usage", "prompt", "answer"),
    [
        ({"input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 3}, 12, 3),
        ({"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 4}, 5, 7),
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 12,
          "completion_tokens_details": {"reasoning_tokens": 4}}, 5, 7),
    ],
    ids=["Anthropic's", "Gemini's", "OpenAI's"],
)  # fmt: skip
def test_usage_in_other_words_has_its_caches_and_thought(
    usage: dict[str, Any], prompt: int, answer: int, read: Read
) -> None:
    found = read(lines(*rows(1, data={"inner": usage})))
    assert (found.prompt_tokens.tolist(), found.output_tokens.tolist()) == ([prompt], [answer])


@pytest.mark.parametrize(
    ("said", "prompt"),
    [({"$ai_provider": "openai"}, 10), ({"$ai_provider": "anthropic"}, 14), ({"$ai_cache_reporting_exclusive": True}, 14)],
    ids=["openai", "anthropic", "exclusive"],
)
def test_posthogs_caches_are_a_part_of_prompts_but_anthropics(said: dict[str, Any], prompt: int, read: Read) -> None:
    own = {"$ai_input_tokens": 10, "$ai_output_tokens": 3, "$ai_cache_read_input_tokens": 4, "$ai_latency": 2.5}
    found = read(lines(*rows(2, event="$ai_generation", properties={**own, **said})))
    assert found.prompt_tokens.tolist() == [prompt] * 2
    assert "properties.$ai_latency stands beside it" in told(found)


TIMES: dict[str, tuple[dict[str, Any], bool]] = {
    "asked, and first token of some": ({"requested_at": True, "first_token_at": False}, True),
    "a word for it": ({"requested_at": True, "ratelimit_reset_at": True}, True),
    "a limit's reset": ({"ratelimit_reset_at": True}, False),
    "the user's": ({"user_created_at": True}, False),
    "two": ({"requested_at": True, "queued_at": True}, False),
}  # fmt: skip


@pytest.mark.parametrize("what", TIMES)
def test_the_only_time_is_one_for_the_whole_file(what: str, read: Read) -> None:
    fields, is_read = TIMES[what]

    def row(i: int) -> dict[str, Any]:
        return {name: f"2026-11-03T09:00:{i:02}Z" for name, always in fields.items() if always or i % 2}

    text = lines(*({**row(i), "usage": USED} for i in range(6)))
    if is_read:
        found = read(text)
        assert len(found.arrival_s) == 6
        assert "times from requested_at: nothing else in the file is called so" in found.notes
    else:
        with pytest.raises(InputError, match="what lacks is a time"):
            read(text)


OTHERS: dict[str, dict[str, Any]] = {
    "an objective": {"target": {"latency_ms": 9000}},
    "an uptime": {"server": {"runtime_s": 90_000}},
    "a model's average": {"model": {"inference": {"latency_ms": 9000}}},
    "a country": {"geo": {"country": {"code": "404"}}},
    "a tool's": {"tool": {"status_code": 404}},
    "an image's": {"image": {"url": "https://x/score.png"}},
    "a file's": {"file": {"path": "/srv/embeddings/x"}},
    "an id that is an object": {"_id": {"$oid": "ab"}, "id": {"a": 1}, "parent_span_id": [1]},
    "tracing that is off": {"span_id": "0000000000000000", "parent_span_id": "0000000000000000"},
    "a span that is its own": {"span_id": "a", "parent_id": "a"},
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_requests_own_changes_nothing(what: str, read: Read) -> None:
    """Requests that broke off without a token count, whatever else has a code, a path or a time of its own."""
    broken = {"prompt_tokens": 5, "completion_tokens": 0}
    found = read(lines(*rows(4, usage=lambda i: broken if i == 3 else USED, **OTHERS[what])))
    assert found.arrival_s.tolist() == [0, 1, 2, 3]
    assert found.output_tokens.tolist() == [3, 3, 3, 1]


def test_calls_below_calls_with_tokens_of_their_own_count(read: Read) -> None:
    """A guard below a chat, a chat below another by way of a tool, ids that count from 1 in every trace."""
    small = {"prompt_tokens": 2, "completion_tokens": 1}
    traced = [
        at(10 * t + i, trace_id=f"t{t}", span_id=i, parent_span_id=i - 1 or None, usage=small if i == 2 else USED)
        for t in range(3) for i in (1, 2)
    ]  # fmt: skip
    assert read(lines(*traced)).prompt_tokens.tolist() == [5, 2] * 3


def test_dates_that_may_be_day_first_are_told(read: Read) -> None:
    row = {"prompt_tokens": 5, "completion_tokens": 3}
    told = " ".join(read(lines({"time": "5/11/2026 11:59:00 PM", **row}, {"time": "5/11/2026 11:59:09 PM", **row})).notes)
    assert "taken for month/day/year" in told
    assert "month/day" not in " ".join(read(lines({"time": "11/13/2026 9:00:00 AM", **row})).notes)
