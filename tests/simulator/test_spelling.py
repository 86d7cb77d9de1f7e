"""Where gateways write what a request used, its status and its duration: every place and name is read alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from simulator.arrivals import RecordedRequests
from simulator.errors import InputError
from tests.simulator.logs import USED, at, lines, requests_of

Read = Callable[..., RecordedRequests]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return partial(requests_of, tmp_path)


BARE = {"time": "2026-11-03T09:00:00Z"}


SAID = {
    "an object without tokens before": at(0, usage={"cost": 0.1}, response={"usage": USED}),
    "the body within a batch's answer": at(0, usage=None, response={"status_code": 200, "body": {"usage": USED}}),
    "the body as text": at(0, usage=None, response={"body": json.dumps({"usage": USED})}),
    "a stream with comments": at(0, usage=None, response=': OPENROUTER\n\ndata: {"choices": []}\n\ndata: '
                                 + json.dumps({"choices": [], "usage": USED}) + "\n\ndata: [DONE]\n"),
    "Anthropic's stream": at(0, usage=None, response="event: message_start\ndata: "
        '{"type": "message_start", "message": {"usage": {"input_tokens": 5, "output_tokens": 1}}}\n\n'
        'event: message_delta\ndata: {"type": "message_delta", "usage": {"output_tokens": 3}}\n'),
    "the Responses API's": at(0, usage=None, response="event: response.completed\ndata: "
        '{"type": "response.completed", "response": {"usage": {"input_tokens": 5, "output_tokens": 3}}}\n'),
    "Langfuse": {"startTime": "2026-11-03T09:00:00Z", "usage": {"input": 5, "output": 3, "unit": "TOKENS"}},
    "Langfuse, as it was": {"startTime": "2026-11-03T09:00:00Z", "usage": {"promptTokens": 5, "completionTokens": 3}},
    "OpenRouter": {"created_at": "2026-11-03T09:00:00Z", "tokens_prompt": 5, "tokens_completion": 3},
    "a span": {"start_time": "2026-11-03T09:00:00Z", "attributes": {"gen_ai.usage.input_tokens": 5,
                                                                    "gen_ai.usage.output_tokens": 3}},
    "Kong's second plugin": {"started_at": 1793696400000, "ai": {
        "ai-request-transformer": {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}, "proxy": {"usage": USED}}},
    "Langfuse, as it is": {"startTime": "2026-11-03T09:00:00Z", "usageDetails": {"input": 5, "output": 3, "total": 8}},
    "Langfuse's table": {"start_time": "2026-11-03T09:00:00Z", "usage_details": '{"input": 5, "output": 3}'},
    "OpenAI's answer": {"object": "chat.completion", "created": 1793696400, "usage": USED},
    "OpenAI's batch": {"id": "b", "response": {"status_code": 200, "body": {"created": 1793696400, "usage": USED}}},
    "Ollama": {"created_at": "2026-11-03T09:00:00Z", "total_duration": 2000000000, "prompt_eval_count": 5, "eval_count": 3},
    "Gemini": {**BARE, "response": {"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 3}}},
    "Bedrock": {**BARE, "input": {"inputTokenCount": 5}, "output": {"outputTokenCount": 3}},
    "Bedrock's API": {**BARE, "usage": {"inputTokens": 5, "outputTokens": 3}},
    "Portkey": {"created_at": "2026-11-03T09:00:00Z", "response_time_ms": 2300, "req_units": 5, "res_units": 3},
    "Envoy's metadata": {"start_time": "2026-11-03T09:00:00Z", "llm_input_token": 5, "llm_output_token": 3},
    "in and out": {"datetime": "2026-11-03T09:00:00Z", "in_tokens": 5, "out_tokens": 3},
    "numbers": {**BARE, "num_prompt_tokens": 5, "num_completion_tokens": 3},
    "MongoDB": {**BARE, "usage": {"prompt_tokens": {"$numberInt": "5"}, "completion_tokens": {"$numberLong": "3"}}},
    "arrivals in others' words": {"arrival_s": 3.5, "prompt_tokens": 5, "completion_tokens": 3},
    "OpenRouter, with its times": {"created_at": "2026-11-03T09:00:00Z", "tokens_prompt": 6, "tokens_completion": 4,
                                   "native_tokens_prompt": 5, "native_tokens_completion": 3, "latency": 200},
    "another's name for usage": {"ts": 1793696400.5, "resp": {"used": USED}},
    "Bedrock with a cache": {**BARE, "output": {"outputTokenCount": 3}, "input": {
        "inputTokenCount": 2, "cacheReadInputTokenCount": 2, "cacheWriteInputTokenCount": 1}},
    "Bedrock's API with a cache": {**BARE, "usage": {"inputTokens": 1, "outputTokens": 3, "cacheReadInputTokens": 4,
                                                     "totalTokens": 8}},
    "Langfuse of Anthropic": {**BARE, "usageDetails": {"input": 2, "output": 3, "cache_read_input_tokens": 3, "total": 8}},
    "Langfuse by kinds": {**BARE, "usage_details": {"input": 2, "input_cached_tokens": 3, "output": 1,
                                                    "output_reasoning_tokens": 2, "total": 8}},
    "Langfuse by kinds, without a total": {**BARE, "usage_details": {"input": 2, "input_audio_tokens": 3, "output": 3,
                                                                     "inputCost": 7}},
    "a total that has the cache": {**BARE, "prompt_tokens": 2, "prompt_cache_read_tokens": 3, "completion_tokens": 3,
                                   "total_tokens": 8},
    "a total that has no more": {**BARE, "usage": {"inputTokens": 5, "cachedInputTokens": 3, "outputTokens": 3,
                                                   "reasoningTokens": 2, "totalTokens": 8}},
    "a prompt with what was cached": {**BARE, "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8,
                                                        "cache_read_input_tokens": 4}},
    "Gemini's thought": {**BARE, "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 1, "thoughtsTokenCount": 2,
                                                   "cachedContentTokenCount": 4}},
    "Vertex": {"logging_time": "2026-11-03T09:00:00Z", "full_response": {"usageMetadata": {
        "promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8}}},
    "APISIX": {"time_iso8601": "2026-11-03T09:00:00+00:00", "llm_prompt_tokens": "5", "llm_completion_tokens": "3"},
    "APISIX's logger": {"start_time": 1793696400000, "latency": 40.0, "llm_summary": {
        "prompt_tokens": 5, "completion_tokens": 3}},
    "Higress": {**BARE, "ai_log": '{"input_token": "5", "output_token": "3"}'},
    "Azure's portal": {"TimeGenerated [UTC]": "10/12/2026, 9:00:00.782 AM", "PromptTokens": 5, "CompletionTokens": 3},
    "Azure's log": {**BARE, "properties": {"promptTokens": 5, "completionTokens": 3, "totalTokens": 8}},
    "CloudWatch": {"@timestamp": "2026-11-03 09:00:00.782", "input.inputTokenCount": 5, "output.outputTokenCount": 3},
    "CloudWatch, as text": {"@timestamp": "2026-11-03 09:00:00.782",
                            "@message": '{"input": {"inputTokenCount": 5}, "output": {"outputTokenCount": 3}}'},
    "Phoenix": {"start_time": "2026-11-03T09:00:00Z", "attributes.llm.token_count.prompt": 5,
                "attributes.llm.token_count.completion": 3},
    "an older span": {"start_time": "2026-11-03T09:00:00Z", "attributes": {"gen_ai.usage.prompt_tokens": 5,
                                                                           "gen_ai.usage.completion_tokens": 3}},
    "a day of its own": {"Date": "2026-11-03", "time": "09:00:00", "prompt_tokens": 5, "completion_tokens": 3},
    "thought beside the answer": at(0, usage={"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 8,
                                              "completion_tokens_details": {"reasoning_tokens": 2}}),
    "thought within the answer": at(0, usage={"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8,
                                              "completion_tokens_details": {"reasoning_tokens": 2}}),
}  # fmt: skip


@pytest.mark.parametrize("how", SAID)
def test_usage_is_found_wherever_it_stands(how: str, read: Read) -> None:
    found = read(lines(SAID[how]))
    assert (found.prompt_tokens.tolist(), found.output_tokens.tolist()) == ([5], [3])


def test_a_run_is_none_of_its_calls(read: Read) -> None:
    """An agent's run has the tokens of its calls, directly or through a step that has none."""
    run, step, call = ({"span_id": name, "parent_span_id": parent} for name, parent in [("r", None), ("s", "r"), ("c", "s")])
    found = read(
        lines(at(0, **run), at(0, **step, usage=None), at(1, **call), at(2, span_id="alone", parent_span_id="elsewhere"))
    )
    assert len(found.arrival_s) == 2
    assert "of what calls other lines are" in " ".join(found.notes)


def test_names_that_nobody_knows_are_told(read: Read) -> None:
    found = read(lines({**BARE, "properties": {"promptTokens": 5, "completionTokens": 3}}))
    told = "tokens of prompt and answer are taken from properties.promptTokens and properties.completionTokens"
    assert f"{told}: nothing else in the file is called so" in found.notes


def test_two_pairs_that_differ_are_none(read: Read) -> None:
    usage = {
        "gateway_prompt_tokens": 5,
        "gateway_completion_tokens": 3,
        "engine_prompt_tokens": 6,
        "engine_completion_tokens": 3,
    }
    with pytest.raises(InputError, match="what lacks is tokens"):
        read(lines({**BARE, **usage}))


def test_totals_that_nothing_explains_are_told(read: Read) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 10}
    assert "the totals of its requests have 25% more tokens" in " ".join(read(lines(at(0, usage=usage))).notes)


NESTED: dict[str, Callable[[int], dict[str, Any]]] = {
    "an object": lambda code: {"http": {"method": "POST", "path": "/v1/chat/completions", "status": code, "took_ms": 2500}},
    "Kong's": lambda code: {"request": {"method": "POST", "uri": "/v1/chat/completions"}, "response": {"status": code}},
    "Elastic's": lambda code: {"url": {"path": "/v1/chat/completions"}, "http": {"response": {"status_code": code}},
                               "event": {"duration": 2_500_000_000}},
    "with a dot": lambda code: {"http.path": "/v1/chat/completions", "http.status": code},
    "a code": lambda code: {"route": "/v1/chat/completions", "code": code},
}  # fmt: skip


@pytest.mark.parametrize("how", NESTED)
def test_a_status_is_found_wherever_it_stands(how: str, read: Read) -> None:
    """Requests that failed are no answered ones of unknown tokens."""
    said = NESTED[how]

    def row(second: int, code: int, usage: object) -> dict[str, Any]:
        return {"time": f"2026-11-03T09:00:{second:02}Z", "usage": usage, **said(code)}

    found = read(lines(row(0, 200, USED), row(9, 200, USED), row(10, 503, None), row(11, 429, None)))
    told = " ".join(found.notes)
    assert "1 /v1/chat/completions 503, 1 /v1/chat/completions 429" in told
    assert "answered requests do not say" not in told
    assert ("stands beside it: it came so much earlier" in told) == (how in ("an object", "Elastic's"))


def test_where_no_status_is_nobody_knows_what_was_answered(read: Read) -> None:
    told = " ".join(read(lines(*({**BARE, "usage": usage} for usage in (USED, USED, None)))).notes)
    assert "1 of its lines say neither how many tokens they had nor whether they were answered" in told
    assert "--speed" not in told
