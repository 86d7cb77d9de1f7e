"""Logs of gateways as people have them: other spellings, wrappers and units. What is right is known by how they are made."""

from __future__ import annotations

import bz2
import json
import lzma
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.arrivals import RecordedRequests
from simulator.errors import InputError
from simulator.moments import has_zone
from tests.simulator.logs import ROUTE, USED, at, lines, requests_of


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., RecordedRequests]:
    return partial(requests_of, tmp_path)


Read = Callable[..., RecordedRequests]
TWO = lines(at(0), at(2))
"""Two requests, two seconds apart."""
WRAPPED: dict[str, str] = {
    "CRI, split": "".join(
        f"2026-11-03T09:00:00.1Z stdout {mark} {part}\n"
        for line in TWO.splitlines() for mark, part in (("P", line[:40]), ("F", line[40:]))
    ),
    "Docker, split": "".join(
        json.dumps({"log": part, "stream": "stdout", "time": "2026-11-03T10:00:00Z"}) + "\n"
        for line in TWO.splitlines(keepends=True) for part in (line[:40], line[40:])
    ),
    "Filebeat": lines(*({"@timestamp": "2026-11-03T10:00:00Z", "message": line} for line in TWO.splitlines())),
    "Filebeat, whose time it is": lines(
        *({"@timestamp": f"2026-11-03T10:00:0{i}Z", "message": json.dumps(ROUTE | {"usage": USED})} for i in (0, 2))
    ),
    "OpenTelemetry's spans": lines({"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": [
        {"name": "chat m", "spanId": f"s{i}", "startTimeUnixNano": str(1_793_000_000_000_000_000 + i * 10**9),
         "endTimeUnixNano": str(1_793_000_009_000_000_000), "attributes": [
             {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}},
             {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "5"}},
             {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "3"}},
         ]} for i in (0, 2)
    ]}]}]}),
    "kubectl --prefix": "".join(f"[pod/gateway-0/proxy] {line}\n" for line in TWO.splitlines()),
    "compose": "".join(f"gateway-1  | {line}\n" for line in TWO.splitlines()),
    "CloudWatch": "".join(f"2026-11-03T10:00:00.000Z {line}\n" for line in TWO.splitlines()),
    "indented, one behind the other": "".join(json.dumps(json.loads(line), indent=2) + "\n" for line in TWO.splitlines()),
    "one behind the other on one line": "".join(TWO.splitlines()),
    "Cloudflare's answer": json.dumps(
        {"success": True, "result": [json.loads(line) for line in TWO.splitlines()], "result_info": {"page": 1}}
    ),
    "an answer's page": json.dumps(
        {"success": True, "data": {"page": 1, "total": 2, "items": [json.loads(line) for line in TWO.splitlines()]}}
    ),
    "an answer a line": lines(*({"data": json.loads(line)} for line in TWO.splitlines())),
    "vLLM's spans": lines(*(
        {"name": "llm_request", "startTimeUnixNano": str(1_793_000_000_000_000_000 + i * 10**9), "attributes": [
            {"key": "gen_ai.usage.prompt_tokens", "value": {"intValue": "5"}},
            {"key": "gen_ai.usage.completion_tokens", "value": {"intValue": "3"}},
        ]} for i in (0, 2)
    )),
    "Tempo's": json.dumps({"batches": [{"scopeSpans": [{"spans": [
        {"name": "chat m", "startTimeUnixNano": str(1_793_000_000_000_000_000 + i * 10**9), "attributes": [
            {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "5"}},
            {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "3"}},
        ]} for i in (0, 2)
    ]}]}]}),
    "Tempo's answer": json.dumps({"trace": {"resourceSpans": [{"scopeSpans": [{"spans": [
        {"name": "chat m", "startTimeUnixNano": str(1_793_000_000_000_000_000 + i * 10**9), "attributes": [
            {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "5"}},
            {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "3"}},
        ]} for i in (0, 2)
    ]}]}]}}),
    "Jaeger's": json.dumps({"data": [
        {"traceID": f"t{i}", "spans": [
            {"traceID": f"t{i}", "spanID": f"a{i}", "operationName": "agent", "startTime": 1_793_000_000_000_000 + i * 10**6,
             "duration": 9_000_000, "references": [], "tags": [{"key": "gen_ai.operation.name", "value": "invoke_agent"}]},
            {"traceID": f"t{i}", "spanID": f"s{i}", "operationName": "chat", "startTime": 1_793_000_000_000_000 + i * 10**6,
             "duration": 5_000_000, "references": [{"refType": "CHILD_OF", "traceID": f"t{i}", "spanID": f"a{i}"}], "tags": [
                 {"key": "gen_ai.usage.input_tokens", "type": "int64", "value": 5},
                 {"key": "gen_ai.usage.output_tokens", "type": "int64", "value": 3},
             ]},
        ]} for i in (0, 2)
    ]}),
    "a stray line": "null\n" + TWO + "42\n",
    "an API's answer": json.dumps({"object": "list", "data": [json.loads(line) for line in TWO.splitlines()]}, indent=1),
    "an API's answer, on one line": json.dumps({"logs": [json.loads(line) for line in TWO.splitlines()]}),
    "Elasticsearch": lines(*({"_id": "0", "_source": json.loads(line)} for line in TWO.splitlines())),
    "Elasticsearch's answer": json.dumps(
        {"took": 3, "hits": {"hits": [{"_id": "0", "_source": {"message": line}} for line in TWO.splitlines()]}}
    ),
    "Google's": json.dumps([
        {"timestamp": f"2026-11-03T09:00:0{i}Z", "jsonPayload": {"usage": USED}} for i in (0, 2)
    ]),
    "Splunk": lines(
        *({"preview": False, "result": {"_time": "2026-11-03T10:00:00Z", "_raw": line}} for line in TWO.splitlines())
    ),
    "CloudWatch's answer": json.dumps(
        {"events": [{"timestamp": 1764500000288, "message": line} for line in TWO.splitlines()]}
    ),
    "nginx's signs": TWO.replace("}}", '}, "agent": "a\\x22b\\\\x22"}'),
}  # fmt: skip


@pytest.mark.parametrize("how", WRAPPED)
def test_lines_are_read_as_collectors_keep_them(how: str, read: Read) -> None:
    found = read(WRAPPED[how])
    assert found.arrival_s.tolist() == [0, 2]
    assert found.prompt_tokens.tolist() == [5, 5]


@pytest.mark.parametrize(
    "packed", [bz2.compress, lzma.compress, lambda text: text.decode().encode("utf-16")], ids=["bz2", "xz", "UTF-16"]
)
def test_files_are_read_however_they_are_packed(packed: Callable[[bytes], bytes], read: Read) -> None:
    assert read(packed(TWO.encode())).arrival_s.tolist() == [0, 2]


CELLS = "time,path,status,prompt_tokens,completion_tokens\n"
TABLES = {
    "blanks": CELLS + "2026-11-03T09:00:00Z,/v1/chat/completions,200,5,3\n2026-11-03T09:00:01Z,/v1/embeddings,200,9,\n"
    "2026-11-03T09:00:02Z,/v1/chat/completions,200,5,3\n2026-11-03T09:00:03Z,/v1/chat/completions,499,NaN,-\n",
    "another head": (CELLS + "2026-11-03T09:00:00Z,/p,200,5,3\n") + (CELLS + "2026-11-03T09:00:02Z,/p,200,5,3\n"),
    "other spellings": "Timestamp,Prompt Tokens,Completion Tokens\n"
    "2026-11-03 09:00:00 UTC,5,3\n2026-11-03 09:00:02 UTC,5,3\n",
    "bars and a comment": "# exported\ntime|prompt_tokens|completion_tokens\n1793696400|5|3\n1793696402|5|3\n",
    "what Excel is told": "sep=;\ntime;prompt_tokens;completion_tokens\n1793696400;5;3\n1793696402;5;3\n",
    "usage as text": 'time,usage\n1793696400,"{""prompt_tokens"": 5, ""completion_tokens"": 3}"\n'
    '1793696402,"{""prompt_tokens"": 5, ""completion_tokens"": 3}"\n',
    "a title": "Usage report for November\n\n" + CELLS
    + "2026-11-03T09:00:00Z,/p,200,5,3\n2026-11-03T09:00:02Z,/p,200,5,3\n",
    "a separator at the end": CELLS + "2026-11-03T09:00:00Z,/p,200,5,3,\n2026-11-03T09:00:02Z,/p,200,5,3\n",
    "cut": CELLS + "2026-11-03T09:00:00Z,/p,200,5,3\n2026-11-03T09:00:02Z,/p,200,5,3\n2026-11-03T09:00:0",
    "points as commas": "time;prompt_tokens;completion_tokens;duration_s\n1793696402,5;5;3;2,5\n1793696402,0;5;3;0\n",
    "drawn": " time | prompt_tokens | completion_tokens\n------+-----+---\n 1793696400 | 5 | 3\n 1793696402 | 5 | 3\n"
    "(2 rows)\n",
    "Markdown": "| time | prompt_tokens | completion_tokens |\n|---|:--|--:|\n| 1793696400 | 5 | 3 |\n"
    "| 1793696402 | 5 | 3 |\n",
    "long texts, and an engine's words": "time,messages,prompt_tokens,completion_tokens\n"
    f'1793696400,"what is Avg prompt throughput: 3? {"x" * 200_000}",5,3\n1793696402,,5,3\n',
}  # fmt: skip


@pytest.mark.parametrize("how", TABLES)
def test_tables_are_read_as_they_are_exported(how: str, read: Read) -> None:
    found = read(TABLES[how], "own table.csv")
    assert found.arrival_s.tolist() == [0, 2]
    assert found.output_tokens.tolist() == [3, 3]


@pytest.mark.parametrize(
    "took",
    [
        {"duration_ns": 8530000000}, {"latency_us": 8530000}, {"durationMs": 8530}, {"duration_seconds": 8.53},
        {"Latency_ms": 8530}, {"total_latency_ms": 8530}, {"request_duration_ms": 8530}, {"request_time_ms": 8530},
        {"response_time_s": 8.53}, {"upstream_service_time": 8530}, {"total-time-ms": 8530}, {"elapsed": "8.53s"},
        {"Latency (ms)": 8530}, {"latency[ms]": "8530"}, {"duration (s)": 8.53}, {"end_to_end_latency_ms": 8530},
        {"latency_in_ms": 8530}, {"x_response_time_ms": 8530}, {"ElapsedTimeMs": 8530}, {"time_total_ms": 8530},
        {"rt_ms": 8530}, {"inference_time_ms": 8530}, {"generation_time_ms": 8530}, {"time_to_last_token_ms": 8530},
        {"e2eLatencyMs": 8530}, {"processing_time_us": 8530000}, {"request-duration-seconds": 8.53},
    ],
    ids=lambda took: next(iter(took)),
)  # fmt: skip
def test_a_duration_is_known_by_any_of_its_names(took: dict[str, Any], read: Read) -> None:
    """The first ended at 20 s after 8.53 s, the other at 21 s after no time."""
    found = read(lines(at(20, **took), at(21, **dict.fromkeys(took, "0s" if "elapsed" in took else 0))))
    assert found.arrival_s.tolist() == pytest.approx([0, 9.53])
    assert "came so much earlier" in " ".join(found.notes)


@pytest.mark.parametrize(
    "time",
    ["2026-11-03 09:00:04 UTC", "2026-11-03 09:00:04 +0000 UTC", "2026-11-03 10:00:04.000 +01:00", "2026-11-03T09:00:04z",
     "Tue, 03 Nov 2026 09:00:04 GMT", "2026/11/03 09:00:04", "Nov 3, 2026 @ 09:00:04.000", "2026-11-03T09:00:03.60Z",
     "03/Nov/2026:09:00:04 +0000", 1793696404, 1793696404000, "1793696404000000"],
)  # fmt: skip
def test_times_are_read_as_they_are_written(time: object, read: Read) -> None:
    expected = 3.6 if time == "2026-11-03T09:00:03.60Z" else 4.0
    assert read(lines(at(0), at(0, time=time))).arrival_s.tolist() == pytest.approx([0, expected])


def test_a_leap_second_is_the_next_ones_beginning(read: Read) -> None:
    assert read(lines(at(0, time="2016-12-31T23:59:59Z"), at(0, time="2016-12-31T23:59:60Z"))).arrival_s.tolist() == [0, 1]


def test_ollamas_and_openrouters_durations_have_their_units(read: Read) -> None:
    ollama = {"usage": None, "prompt_eval_count": 5, "eval_count": 3}
    assert read(lines(at(9, **ollama, total_duration=8e9), at(9, **ollama, total_duration=0))).arrival_s.tolist() == [0, 8]
    router = {"usage": None, "tokens_prompt": 5, "tokens_completion": 3, "native_tokens_prompt": 5}
    rows = [at(9, **router, latency=300, generation_time=took) for took in (8000, 1000)]
    assert read(lines(*rows)).arrival_s.tolist() == [0, 7]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([at(0), at(1, time=None), at(2, time="")], "2 without a time"),
        ([at(0), at(1, request={"text": "caf\udce9"})], ""),
    ],
)
def test_one_bad_row_leaves_the_others(rows: list[dict[str, Any]], why: str, read: Read) -> None:
    """A blank time, and a letter in another encoding."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogateescape")
    found = read(text)
    assert len(found.arrival_s) == 1 + (not why)
    assert why in found.notes[-1]


@pytest.mark.parametrize(
    ("row", "half"),
    [
        ({"when": "2026-11-03", "usage": USED}, "Their tokens are known; what lacks is a time: call its column timestamp"),
        (
            {"ts": 1793696400.5, "daily_prompt_tokens": 5, "daily_completion_tokens": 3},
            "ts is known for a time; what lacks is tokens: .* prompt_tokens",
        ),
    ],
)
def test_what_is_known_of_columns_of_no_form_is_told(row: dict[str, Any], half: str, read: Read) -> None:
    with pytest.raises(InputError, match=f"of no form known here .*{half}"):
        read(lines(row))


@pytest.mark.parametrize(
    ("begins", "what"), [(b"PK\x03\x04", "zip archive or a spreadsheet"), (b"\x28\xb5\x2f\xfd", "compressed by zstd")]
)
def test_archives_are_called_by_their_names(begins: bytes, what: str, read: Read) -> None:
    with pytest.raises(InputError, match=f"is {'a ' * ('zip' in what)}{what}; unpack it first"):
        read(begins + b"\x00\xff" * 99)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"num_model_requests": 1200, **at(0)}, "num_model_requests 1200: the row is of many requests"),
        ({"requests": 40, **at(0)}, "requests 40: the row is of many requests"),
        (at(0, time=1793696405000, request_time=1793696400000), "no request takes a day.*start_time"),
        (at(0, time="20261103090004"), "is neither ISO 8601 nor a time since 1970"),
        (at(0, duration=8530), "has no unit"),
        *(
            (at(0, **{bare: 9.0}), f"{bare} 9.0: has no unit; call the field {bare}_s or {bare}_ms")
            for bare in (
                "e2e_latency",
                "request_latency",
                "request_duration",
                "total_latency",
                "target_processing_time",
                "took",
                "responseTime",
                "TotalTime",
            )
        ),
        ({"count": 50, **at(0)}, "count 50: the row is of many requests"),
    ],
)
def test_what_would_be_a_wrong_load_is_refused(row: dict[str, Any], why: str, read: Read) -> None:
    with pytest.raises(InputError, match=why):
        read(lines(row))


def test_of_several_durations_the_longest_is_the_requests(read: Read) -> None:
    """One to the first byte, one of a server behind, and of parts of it."""
    parts = {"response_time_ms": 200, "upstream_response_time": "0.2", "time_to_first_token_ms": 90, "queue_time_ms": 10_000}
    found = read(lines(at(20, **parts, total_duration_ms=8530), at(21, **parts, total_duration_ms=200)))
    assert found.arrival_s.tolist() == pytest.approx([0, 9.33])


def test_a_duration_that_is_not_known_is_none(read: Read) -> None:
    """-1, as gateways write it of requests that failed, beside one that is known."""
    found = read(lines(at(20, duration_ms=8530), at(21, duration_ms=-1)))
    assert found.arrival_s.tolist() == pytest.approx([0, 9.53])


def test_what_may_be_a_duration_is_named_where_none_is_known(read: Read) -> None:
    [note] = [note for note in read(lines(at(0, zeit_ms=9, wall_time=3.5, cost_s="-"), at(1))).notes if "taken for" in note]
    assert "where zeit_ms or wall_time is one, call it duration_s or duration_ms" in note
    assert "no duration stands beside it" in read(lines(at(0, n_tokens=3, ttft_ms=3), at(1))).notes[1]


@pytest.mark.parametrize("name", ["total_requests", "requests", "count"])
def test_a_counter_that_counts_on_is_no_number_of_requests(name: str, read: Read) -> None:
    assert read(lines(*(at(i, **{name: 7 + i}) for i in range(5)))).arrival_s.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match=f"line 1: {name} 7: the row is of many requests"):
        read(lines(*(at(i, **{name: 7 + i // 2}) for i in range(5))))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("unknown", [-1, "unknown", "-1", None])
def test_tokens_that_nobody_knows_are_counted_wherever_they_stand(first: bool, unknown: object, read: Read) -> None:
    lost = at(1, usage={"prompt_tokens": unknown, "completion_tokens": unknown}, status=500)
    found = read(lines(*([lost, at(0), at(2)] if first else [at(0), lost, at(2)])))
    assert found.arrival_s.tolist() == [0, 2]
    assert "1 /v1/chat/completions 500" in found.notes[-1]


@pytest.mark.parametrize("tokens", ["'5'", "---", [5], "-7", 5.5])
def test_tokens_that_are_no_number_are_refused_with_their_line(tokens: object, read: Read) -> None:
    """In the first line of a log too, by which it is recognised."""
    with pytest.raises(InputError, match="line 1: prompt_tokens"):
        read(lines(at(0, usage={"prompt_tokens": tokens, "completion_tokens": 3}), at(1)))


def test_thousands_may_be_set_apart(read: Read) -> None:
    found = read('time,prompt_tokens,completion_tokens\n1793696400,"1,004",3\n1793696402,"1,204,005",3\n', "own.csv")
    assert found.prompt_tokens.tolist() == [1004, 1204005]


@pytest.mark.parametrize("status", [401, "413", 429])
def test_what_was_turned_away_is_no_load(status: object, read: Read) -> None:
    """A gateway counts the prompt that no engine saw; a client that went away has had its prompt read."""
    asked = {"prompt_tokens": 900, "completion_tokens": 0}
    found = read(lines(at(0), at(1, status=status, usage=asked), at(2, status=499, usage=asked)))
    assert found.arrival_s.tolist() == [0, 2]
    assert f"1 /v1/chat/completions {status} without an answer" in found.notes[-1]


NONE = {
    "copies of others": at(0, request_id="a"),
    "answered by the gateway's own cache": at(1, upstream_cache_status="HIT"),
    "spans of invoke_agent": at(1, **{"gen_ai.operation.name": "invoke_agent"}),
    "OPTIONS /v1/chat/completions 200": at(1, method="OPTIONS", usage=None),
    "of a request's start": at(1, event="request_started", usage=None),
    "without an answer": at(1, usage={"prompt_tokens": 9, "completion_tokens": 0}, model="bge-embed", path=""),
}


@pytest.mark.parametrize("why", NONE)
def test_what_is_no_request_of_its_own_is_left_out_and_told(why: str, read: Read) -> None:
    """And does not make the load look less than it was."""
    found = read(lines(at(0, request_id="a"), NONE[why], at(2, request_id="b")))
    assert found.arrival_s.tolist() == [0, 2]
    told = " ".join(found.notes)
    assert why in told
    assert "answered requests do not say" not in told


@pytest.mark.parametrize("unsaid", [at(1, usage=None), {"time": "2026-11-03T09:00:01Z", "status": 200, "usage": None}])
def test_answers_without_tokens_are_told_whatever_path_the_others_have(unsaid: dict[str, Any], read: Read) -> None:
    found = read(lines(at(0, path="/v1/completions"), *[unsaid] * 3, at(2, path="/v1/completions")))
    assert "3 of 5 answered requests do not say how many tokens they had" in " ".join(found.notes)
    assert "--speed 2.5" in " ".join(found.notes)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 100, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 80}},
        {"input_tokens": 100, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 80}},
        {"input_tokens": 20, "output_tokens": 3, "cache_read_input_tokens": 80},
    ],
)
def test_what_came_from_a_cache_is_told(usage: dict[str, Any], read: Read) -> None:
    found = read(lines(at(0, usage=usage)))
    assert found.prompt_tokens.tolist() == [100]
    assert "80% of its prompts' tokens came from a cache" in " ".join(found.notes)


@pytest.mark.parametrize("grain_s", [1, 3, 60])
def test_rounded_times_are_spread_within_what_they_were_rounded_to(grain_s: int, read: Read) -> None:
    """Poisson arrivals stay such: as many of the gaps as before are below half of their mean."""
    exact = np.sort(np.random.default_rng(1).uniform(0, 2_000 * grain_s / 8, 2_000))
    rows = [at(0, time=float(1793696400 + t // grain_s * grain_s), request_id=i) for i, t in enumerate(exact)]
    found = read(lines(*rows))
    assert np.abs((found.arrival_s + exact[0]) - exact).max() < 2 * grain_s
    gaps = np.diff(found.arrival_s)
    assert np.mean(gaps < gaps.mean() / 2) == pytest.approx(1 - np.exp(-0.5), abs=0.04)
    [told] = [note for note in found.notes if "rounded" in note]
    assert f"rounded to {grain_s} s" in told


def test_times_that_are_not_rounded_stay_as_they_are(read: Read) -> None:
    """Requests that came in pairs, or one a second, or all at once."""
    for seconds in (np.repeat(np.cumsum(np.random.default_rng(2).uniform(0.1, 1, 30)), 2), np.arange(30.0), np.zeros(30)):
        rows = [at(0, time=1793696400 + float(f"{s:.4f}"), request_id=i) for i, s in enumerate(seconds)]
        found = read(lines(*rows))
        assert found.arrival_s == pytest.approx(seconds - seconds[0], abs=1e-3)
        assert ("the same time" in " ".join(found.notes)) == (not seconds.any())


def test_an_hour_that_comes_twice_is_told(read: Read) -> None:
    hours = [f"2026-11-01T01:{minute:02}:00" for minute in range(0, 60, 10)] * 2 + ["2026-11-01T02:00:00"]
    found = read(lines(*(at(0, time=hour, request_id=i) for i, hour in enumerate(hours))))
    assert "jump back by an hour" in " ".join(found.notes)
    assert "jump back" not in " ".join(read(lines(*(at(i) for i in range(9)))).notes)


@pytest.mark.parametrize(
    ("head", "scale", "rate", "said"),
    [
        ("arrival_s,prompt_tokens,output_tokens", 1793696400e3, 5.0, ""),
        ("arrival_s,prompt_tokens,output_tokens", 0.0, 0.005, "where they are milliseconds, give --speed 1000"),
        ("Timestamp,Request tokens,Response tokens", 0.0, 0.005, "where they are milliseconds, give --speed 1000"),
        ("timestamp,input_length,output_length", 5e9, 5.0, ""),
    ],
)
def test_units_of_a_thousand_are_seen(head: str, scale: float, rate: float, said: str, read: Read) -> None:
    """200 ms apart: since 1970, since a beginning, and in a trace of milliseconds since the machine was started."""
    found = read(head + "\n" + "".join(f"{scale + 200 * i:.0f},300,50\n" for i in range(50)), "own.csv")
    assert found.rate_per_s == pytest.approx(rate)
    assert ("taken for" in " ".join(found.notes)) == bool(said)
    assert said in " ".join(found.notes)


def test_blocks_of_two_sessions_are_not_shared_where_hashes_are_of_a_session(read: Read) -> None:
    rows = [
        {"timestamp": i * 1000, "session_id": i % 2, "input_length": 1024, "output_length": 5, "hash_ids": [0, 1],
         "hash_id_scope": "local"} for i in range(4)
    ]  # fmt: skip
    blocks = read(lines(*rows)).blocks
    assert blocks is not None
    assert (len(blocks.ids), blocks.distinct) == (8, 4)


@pytest.mark.parametrize(
    ("row", "came"),
    [
        ({"gateway_latency_ms": 12, "response_time": "50s"}, 50.0),  # its own work is no request's time
        ({"upstream_service_time": 40, "duration": 50_000}, 50.0),  # Envoy's, both in ms
        ({"created_at": "2025-11-30T10:00:02Z", "completed_at": "2025-11-30T10:00:00Z", "duration_ms": 5000}, 7.0),
    ],
    ids=["a gateway's own time", "Envoy's", "put down later"],
)
def test_how_long_before_its_line_a_request_came(row: dict[str, object], came: float, tmp_path: Path) -> None:
    """Seconds before its time."""
    usage = {"usage": {"prompt_tokens": 9, "completion_tokens": 9}}
    stamp = {} if "created_at" in row else {"time": "2025-11-30T10:00:02Z"}
    later = {"time": "2025-11-30T10:01:42Z", **usage, "duration_ms": 0}
    [at_s, last_s] = requests_of(tmp_path, lines({**stamp, **usage, **row}, later)).arrival_s
    assert last_s - at_s == pytest.approx(100 + came)


@pytest.mark.parametrize(
    "fields", [{"gateway_latency_ms": 12, "latency": 50_000}, {"proxy_latency_ms": 12, "total_time": 50}]
)
def test_a_gateways_own_time_is_no_requests(fields: dict[str, object], tmp_path: Path) -> None:
    row = {"time": "2025-11-30T10:00:02Z", "usage": {"prompt_tokens": 9, "completion_tokens": 9}, **fields}
    with pytest.raises(InputError, match="has no unit"):
        requests_of(tmp_path, lines(row, row))


@pytest.mark.parametrize(
    "row",
    [
        {"startTimeUnixNano": 1764496800000000000, "events": [{"name": "x", "timeUnixNano": 1}]},
        {"time_local": "30/Nov/2025:10:00:00 +0000", "data": [{"index": 0}]},
        {"log": {"offset": 7, "file": "a"}, "message": '{"time": "2025-11-30T10:00:00Z"}'},
    ],
    ids=["a span's events", "a line's data", "Filebeat's fields"],
)
def test_what_a_line_holds_beside_is_no_line_itself(row: dict[str, object], tmp_path: Path) -> None:
    usage = {"usage": {"prompt_tokens": 9, "completion_tokens": 9}}
    assert len(requests_of(tmp_path, lines({**row, **usage}, {**row, **usage})).arrival_s) == 2


@pytest.mark.parametrize("written", ["2025-10-26 02:30:00+01", "[26/Oct/2025:02:30:00 +0100]", "2025-10-26T02:30:00Z"])
def test_zones_are_seen_however_short(written: str) -> None:
    assert has_zone(written)
