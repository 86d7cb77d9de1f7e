"""What gateways' logs say beside when a request came: whose tokens, for how long, of which model, and what is no load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.arrivals import RecordedRequests
from simulator.errors import InputError
from tests.simulator.test_arrivals import FORMS, Write, gateway, written

__all__ = ["written"]


def test_a_prompt_of_anthropics_usage_is_all_that_was_read(written: Write) -> None:
    """Most of it from a cache, and all of it at times."""
    cached = {"cache_creation_input_tokens": 1200, "cache_read_input_tokens": 18000, "output_tokens": 150}
    text = gateway(usage={"input_tokens": 3, **cached}) + gateway(usage={"input_tokens": 0, **cached})
    found = RecordedRequests.read(written("a.jsonl", text))
    assert found.prompt_tokens.tolist() == [19203, 19200]


def test_what_no_engine_decoded_is_no_load(written: Write) -> None:
    """Embeddings, though they count 0 tokens of an answer, and what a gateway had in its own cache."""
    embedded = {"prompt_tokens": 512, "total_tokens": 512, "completion_tokens": 0}
    text = (
        gateway() + gateway(usage=embedded, path="/v1/embeddings") * 2 + gateway(cache_hit="True") + gateway(cache_hit=False)
    )
    text += gateway(usage=embedded, call_type="aembedding", path=None) + gateway(usage=embedded)  # a client that went away
    found = RecordedRequests.read(written("a.jsonl", text))
    assert found.output_tokens.tolist() == [3, 3, 1]
    assert "4 lines" in found.notes[-1]


def test_requests_of_several_models_are_told(written: Write) -> None:
    text = gateway(model="8b") * 3 + gateway(model="70b") + gateway(response=json.dumps({"model": "8b"}))
    found = RecordedRequests.read(written("a.jsonl", text))
    [note] = [note for note in found.notes if "models" in note]
    assert "4 8b, 1 70b" in note
    assert not any("models" in note for note in RecordedRequests.read(written("b.jsonl", gateway(model="8b") * 2)).notes)
    burst = RecordedRequests.read(written("burst.csv", FORMS["burst.csv"].replace("5,GPT-4", "5,ChatGPT")))
    assert any("2 models" in note for note in burst.notes)


def test_answers_of_unknown_length_make_the_load_less_than_it_was(written: Write) -> None:
    """Streams say their usage only where they are asked to."""
    text = gateway() * 10 + gateway(usage=None) * 30 + gateway(usage=None, path="/health") + gateway(usage=None, status=503)
    found = RecordedRequests.read(written("a.jsonl", text))
    [note] = [note for note in found.notes if "include_usage" in note]
    assert "30 of 40" in note
    assert "--speed 4 " in note


@pytest.mark.parametrize(
    ("fields", "came"),
    [
        ({"latency": "8.53s"}, -8.53),
        ({"latency": "250ms"}, -0.25),
        ({"duration": "1m3.5s"}, -63.5),
        ({"duration": "0:00:08.5"}, -8.5),
        ({"duration": "PT8.5S"}, -8.5),
        ({"elapsed": "PT1M1.5S"}, -61.5),
        ({"upstream_response_time": "0.5, 8.0"}, -8.5),
        ({"upstream_response_time": "-"}, 0.0),
        ({"request_time": "8.531", "upstream_response_time": "8.5"}, -8.531),
        ({"latency": "soon"}, None),
        ({"latency": "8.53"}, None),
    ],
)
def test_durations_as_text(fields: dict[str, str], came: float | None, written: Write) -> None:
    text = gateway(time="2026-11-03T09:02:00Z", **fields) + gateway(time="2026-11-03T09:02:00Z", duration_s=100)
    file = written("a.jsonl", text)
    if came is None:
        with pytest.raises(InputError, match="has no unit"):
            RecordedRequests.read(file)
        return
    assert RecordedRequests.read(file).arrival_s == pytest.approx([0, 100 + came])


@pytest.mark.parametrize("wrapped", ["cut", "banner", "brackets", "warnings", "docker", "kubernetes"])
def test_a_log_as_it_is_copied_off_a_machine(wrapped: str, written: Write) -> None:
    """What a program says beside is counted; the last line may be cut; runtimes wrap each line."""
    lines = [gateway(time=f"2026-11-03T09:00:0{i}Z") for i in range(4)]
    text = {
        "cut": "".join(lines) + gateway()[:50],
        "banner": "INFO starting gateway on :8080\n" + "".join(lines),
        "brackets": "[2026-11-03 09:00] INFO starting\n" + "".join(lines),
        "warnings": lines[0] + "WARN slow upstream\n" + "".join(lines[1:]),
        "docker": "".join(
            json.dumps({"log": line, "stream": "stdout", "time": "2026-11-03T10:00:00Z"}) + "\n" for line in lines
        ),
        "kubernetes": "".join(f"2026-11-03T10:00:00.1Z stdout F {line}" for line in lines),
    }[wrapped]
    found = RecordedRequests.read(written("a.log", text))
    assert found.arrival_s.tolist() == [0, 1, 2, 3]
    noise = {"docker": 0, "kubernetes": 0}.get(wrapped, 1)
    assert any("not load: 1 line" in note for note in found.notes) == bool(noise)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        RecordedRequests.read(tmp_path)


STREAM = 'data: {"choices": []}\n\ndata: {"usage": {"prompt_tokens": 100, "completion_tokens": 20}}\n\ndata: [DONE]\n'
LITELLM = {
    "call_type": "acompletion",
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "response_time": 1.5,
    "status": "success",
}
GATEWAYS: dict[str, Callable[[int], dict[str, Any]]] = {
    "LiteLLM": lambda i: {**LITELLM, "startTime": 1764150000.5 + 2 * i, "endTime": 1764150009.0 + 2 * i},
    "LiteLLM's spend": lambda i: {**LITELLM, "startTime": f"2026-11-26T10:00:0{2 * i}.000Z", "endTime": "2026-11-26"},
    "Kong": lambda i: {
        "started_at": 1764150000000 + 2000 * i, "latencies": {"request": 1500},
        "ai": {"ai-proxy": {"usage": {"prompt_tokens": 100, "completion_tokens": 20}}},
    },
    "the answer whole": lambda i: {
        "timestamp": 1764150000 + 2 * i, "response": {"usage": {"prompt_tokens": 100, "completion_tokens": 20}},
    },
    "Envoy": lambda i: {
        "start_time": f"2026-11-26T10:00:0{2 * i}.000Z", "duration": 1500,
        "usage": {"prompt_tokens": "100", "completion_tokens": "20"},
    },
    "Envoy's AI": lambda i: {
        "start_time": f"2026-11-26T10:00:0{2 * i}.000Z", "duration": 1526, "genai_model_name": "m", "response_code": 200,
        "genai_tokens_input": 100, "genai_tokens_output": 20, "x-envoy-origin-path": "/v1/chat/completions",
    },
    "OpenTelemetry's names": lambda i: {
        "time": f"2026-11-26T10:00:0{2 * i}Z", "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 20,
    },
    "the body as text": lambda i: {
        "time": f"2026-11-26T10:00:0{2 * i}Z", "response_body": '{"usage": {"prompt_tokens": 100, "completion_tokens": 20}}',
    },
    "a stream": lambda i: {"time": f"2026-11-26T10:00:0{2 * i}Z", "request": "POST /v1/completions", "response": STREAM},
    "nginx": lambda i: {
        "time_iso8601": f"2026-11-26T10:00:0{2 * i}+00:00", "prompt_tokens": "100", "completion_tokens": "20",
        "request": "POST /v1/chat/completions HTTP/1.1", "status": "200",
    },
    "nginx's local time": lambda i: {
        "time": f"26/Nov/2026:11:00:0{2 * i} +0100", "usage": {"prompt_tokens": 100, "completion_tokens": 20},
    },
    "nginx's msec": lambda i: {"msec": f"{1764150000.25 + 2 * i}", "input_tokens": "100", "output_tokens": "20"},
}  # fmt: skip


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_gateways_that_say_when_a_request_came(gateway: str, written: Write) -> None:
    """Whatever it took, and wherever its usage stands."""
    text = "".join(json.dumps(GATEWAYS[gateway](i)) + "\n" for i in range(3))
    found = RecordedRequests.read(written("a.jsonl", text))
    assert found.arrival_s == pytest.approx([0, 2, 4])
    assert (found.prompt_tokens.tolist(), found.output_tokens.tolist()) == ([100] * 3, [20] * 3)
