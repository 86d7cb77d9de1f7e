"""Arrivals as gateways and published traces write them: what is load, when it came, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simulator.arrivals import RecordedRequests
from simulator.errors import InputError


@pytest.fixture
def written(tmp_path: Path) -> object:
    def write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


Write = object
FORMS = {
    "own.csv": "arrival_s,prompt_tokens,output_tokens\n10,5,3\n12,7,2\n",
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,5,3\n"
    "2023-11-16 18:15:48.6805900,7,2\n",
    "burst.csv": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,GPT-4,5,3,8,Conversation log\n"
    "7,GPT-4,7,2,9,API log\n8,GPT-4,7,0,7,API log\n",
    "mooncake.jsonl": '{"timestamp": 1000, "input_length": 5, "output_length": 3, "hash_ids": [0]}\n'
    '{"timestamp": 3000, "input_length": 7, "output_length": 2, "hash_ids": [0, 1]}\n',
    "bailian.jsonl": '{"chat_id": 1, "parent_chat_id": -1, "timestamp": 1.5, "input_length": 5, "output_length": 3, '
    '"type": "text", "turn": 1, "hash_ids": [1]}\n{"chat_id": 2, "parent_chat_id": -1, "timestamp": 3.5, "input_length": 7, '
    '"output_length": 2, "type": "text", "turn": 1, "hash_ids": [1]}\n',
    "weka.jsonl": '{"t": 0.25, "in": 5, "out": 3, "id": "a", "hash_ids": []}\n{"t": 2.25, "in": 7, "out": 2, "id": "b"}\n',
    "bom.csv": "\ufeffarrival_s,prompt_tokens,output_tokens\n0,5,3\n2,7,2\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_says_the_same(name: str, written: Write) -> None:
    found = RecordedRequests.read(written(name, FORMS[name]))  # type: ignore[operator]
    assert found.arrival_s == pytest.approx([0, 2])
    assert (found.prompt_tokens.tolist(), found.output_tokens.tolist()) == ([5, 7], [3, 2])
    assert found.notes[0].startswith(name)


def gateway(**more: object) -> str:
    line = {"time": "2026-11-03T09:00:04.500Z", "path": "/v1/chat/completions", "status": 200}
    return json.dumps(line | {"usage": {"prompt_tokens": 5, "completion_tokens": 3}} | more) + "\n"


def test_of_a_gateways_log_whatever_has_usage_is_load(written: Write) -> None:
    """Sorted by time; a client that went away has had its prompt read; other paths are counted and named."""
    text = (
        gateway() + gateway(time="2026-11-03T09:00:01.000Z", status=499)
        + gateway(usage={"prompt_tokens": 9, "completion_tokens": 0}, time="2026-11-03T09:00:02+00:00")
        + gateway(usage=None, path="/v1/models") * 2 + gateway(usage=None, status=503)
    )  # fmt: skip
    found = RecordedRequests.read(written("access.jsonl", text))  # type: ignore[operator]
    assert found.arrival_s == pytest.approx([0, 1, 3.5])
    assert found.output_tokens.tolist() == [3, 1, 3]
    assert any("arrival" in note for note in found.notes)
    assert found.notes[-1] == "not load: 3 lines (2 /v1/models 200, 1 /v1/chat/completions 503)"


def test_beside_a_duration_a_time_is_the_end(written: Write) -> None:
    text = gateway(duration_ms=2000) + gateway(time="2026-11-03T09:00:05Z", duration_ms=500)
    found = RecordedRequests.read(written("access.jsonl", text))  # type: ignore[operator]
    assert found.arrival_s == pytest.approx([0, 2.0])  # 2.5 and 4.5 s past nine
    assert any("duration_ms" in note for note in found.notes)


MODELS = '{"time": "2026-11-03T09:00:00Z", "path": "/v1/models", "status": 200}\n'
"""A line of a log that is no request, and names neither usage nor a duration."""


def test_what_is_no_request_decides_nothing_of_a_log(written: Write) -> None:
    """A log that begins with a listing of models is a gateway's log, and its durations are durations."""
    text = MODELS + gateway(duration_ms=2000) + gateway(time="2026-11-03T09:00:05Z", duration_ms=500)
    found = RecordedRequests.read(written("access.jsonl", text))  # type: ignore[operator]
    assert found.arrival_s == pytest.approx([0, 2.0])
    [note] = [note for note in found.notes if "taken for" in note]
    assert "duration_ms" in note
    assert "arrival" not in note


def test_lines_with_and_without_a_duration_are_taken_each_by_itself_and_counted(written: Write) -> None:
    text = gateway(duration_ms=None) * 3 + gateway(duration_ms=2000) + gateway(duration_ms=None, latency_s=1)
    found = RecordedRequests.read(written("access.jsonl", MODELS + text))  # type: ignore[operator]
    assert found.arrival_s == pytest.approx([0, 1, 2, 2, 2])
    [note] = [note for note in found.notes if "taken for" in note]
    assert "end of 2 requests" in note
    assert "arrival of 3 requests" in note
    assert "duration_ms or latency_s" in note


@pytest.mark.parametrize("stamp", [1762160404.5, 1762160404500, 1762160404500000, 1762160404500000000, "1762160404.5"])
def test_times_in_any_unit_since_1970(stamp: object, written: Write) -> None:
    text = gateway(time="2025-11-03T09:00:00Z") + gateway(time=stamp)
    found = RecordedRequests.read(written("access.jsonl", text))  # type: ignore[operator]
    assert found.arrival_s == pytest.approx([0, 4.5], abs=1e-3)


def test_a_line_ends_where_json_lines_end(written: Write) -> None:
    """U+2028 is a line's end to `str.splitlines`, and a character like others within a JSON string."""
    found = RecordedRequests.read(written("access.jsonl", gateway(user="a_b").replace("_b", "\u2028b") + gateway()))  # type: ignore[operator]
    assert len(found.arrival_s) == 2


def test_a_file_is_sped_up(written: Write) -> None:
    file = written("own.csv", FORMS["own.csv"])  # type: ignore[operator]
    assert RecordedRequests.read(file, 4.0).arrival_s == pytest.approx([0, 0.5])


HEAD = "arrival_s,prompt_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no requests"),
        (HEAD, "holds no requests"),
        ("a,b\n1,2\n", r"columns \(a, b\) are of no form known here"),
        (HEAD + "0,1,1\nnan,1,1\n", "line 3: arrival_s nan: is no finite number"),
        (HEAD + "-1,1,1\n", "line 2: arrival_s -1"),
        (HEAD + "0,0,1\n", "line 2: prompt_tokens 0"),
        (HEAD + "0,1,-3\n", "line 2: output_tokens -3"),
        (HEAD + "0,1,1.5\n", "line 2: output_tokens 1.5"),
        (HEAD + "0,1\n", "line 2: has fewer columns"),
        (HEAD + "0,1,1,1\n", "line 2: has more columns"),
        (HEAD + "x,1,1\n", "line 2: arrival_s 'x': is no number"),
        (gateway() + "{]\n", "line 2: is no JSON"),
        (gateway() + "[1]\n", "line 2: is no JSON object"),
        (gateway(time="yesterday"), "line 1: time 'yesterday'"),
        (gateway(duration=12), "line 1: duration 12: has no unit; call the field duration_s or duration_ms"),
        (gateway(usage=None), "none of its 1 lines is a request with tokens"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, written: Write) -> None:
    with pytest.raises(InputError, match=message):
        RecordedRequests.read(written("some.txt", text))  # type: ignore[operator]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "noise.csv"
    file.write_bytes(np.random.default_rng(0).bytes(200) + b"\xff")
    with pytest.raises(InputError, match=r"is not UTF-8 text|holds no requests|columns"):
        RecordedRequests.read(file)
