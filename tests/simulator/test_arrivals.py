"""Arrivals as gateways and published traces write them: what is load, when it came, and what is said of the rest."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulator.arrivals import RecordedRequests, Window
from simulator.errors import InputError

Write = Callable[[str, str], Path]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


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
    found = RecordedRequests.read(written(name, FORMS[name]))
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
    found = RecordedRequests.read(written("access.jsonl", text))
    assert found.arrival_s == pytest.approx([0, 1, 3.5])
    assert found.output_tokens.tolist() == [3, 1, 3]
    assert any("arrival" in note for note in found.notes)
    assert found.notes[-1] == "not load: 3 lines (2 /v1/models 200, 1 /v1/chat/completions 503)"


def test_beside_a_duration_a_time_is_the_end(written: Write) -> None:
    text = gateway(duration_ms=2000) + gateway(time="2026-11-03T09:00:05Z", duration_ms=500)
    found = RecordedRequests.read(written("access.jsonl", text))
    assert found.arrival_s == pytest.approx([0, 2.0])  # 2.5 and 4.5 s past nine
    assert any("duration_ms" in note for note in found.notes)


MODELS = '{"time": "2026-11-03T09:00:00Z", "path": "/v1/models", "status": 200}\n'
"""A line of a log that is no request, and names neither usage nor a duration."""


def test_what_is_no_request_decides_nothing_of_a_log(written: Write) -> None:
    """A log that begins with a listing of models is a gateway's log, and its durations are durations."""
    text = MODELS + gateway(duration_ms=2000) + gateway(time="2026-11-03T09:00:05Z", duration_ms=500)
    found = RecordedRequests.read(written("access.jsonl", text))
    assert found.arrival_s == pytest.approx([0, 2.0])
    [note] = [note for note in found.notes if "taken for" in note]
    assert "duration_ms" in note
    assert "arrival" not in note


def test_lines_with_and_without_a_duration_are_taken_each_by_itself_and_counted(written: Write) -> None:
    text = gateway(duration_ms=None) * 3 + gateway(duration_ms=2000) + gateway(duration_ms=None, latency_s=1)
    found = RecordedRequests.read(written("access.jsonl", MODELS + text))
    assert found.arrival_s == pytest.approx([0, 1, 2, 2, 2])
    [note] = [note for note in found.notes if "taken for" in note]
    assert "end of 2 requests" in note
    assert "arrival of 3 requests" in note
    assert "duration_ms or latency_s" in note


@pytest.mark.parametrize("stamp", [1762160404.5, 1762160404500, 1762160404500000, 1762160404500000000, "1762160404.5"])
def test_times_in_any_unit_since_1970(stamp: object, written: Write) -> None:
    text = gateway(time="2025-11-03T09:00:00Z") + gateway(time=stamp)
    found = RecordedRequests.read(written("access.jsonl", text))
    assert found.arrival_s == pytest.approx([0, 4.5], abs=1e-3)


def test_a_line_ends_where_json_lines_end(written: Write) -> None:
    """U+2028 is a line's end to `str.splitlines`, and a character like others within a JSON string."""
    found = RecordedRequests.read(written("access.jsonl", gateway(user="a_b").replace("_b", "\u2028b") + gateway()))
    assert len(found.arrival_s) == 2


def test_a_file_is_sped_up(written: Write) -> None:
    file = written("own.csv", FORMS["own.csv"])
    assert RecordedRequests.read(file, 4.0).arrival_s == pytest.approx([0, 0.5])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('# HELP vllm:x Requests.\n# TYPE vllm:x counter\nvllm:x{engine="0"} 5.0\n', "scrape of metrics"),
        ('vllm:generation_tokens_total{engine="0",model_name="m"} 5.0\n' * 3, "scrape of metrics"),
        ("INFO 11-26 [x.py:1] Engine 000: Avg prompt throughput: 0.0 tokens/s, Running: 1 reqs\n" * 2, "engine's log"),
        (MODELS * 3, "token usage"),
    ],
)
def test_what_a_server_or_a_gateway_without_usage_wrote_is_called_by_its_name(text: str, what: str, written: Write) -> None:
    with pytest.raises(InputError, match=what):
        RecordedRequests.read(written("given", text))


HEAD = "arrival_s,prompt_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no requests"),
        (HEAD, "holds no requests"),
        ("a,b\n1,2\n", r"columns \(a, b\) are of no form known here"),
        (HEAD + "0,1,1\nnan,1,1\n", "line 3: arrival_s nan: is no finite number"),
        (HEAD + "-1,1,1\n", "line 2: arrival_s -1"),
        (HEAD + "0,0,1\n", "none of its 1 lines .* without a prompt"),
        (HEAD + "0,1,-3\n", "line 2: output_tokens -3"),
        (HEAD + "0,1,1.5\n", "line 2: output_tokens 1.5"),
        (HEAD + "0,1\n", "line 2: has fewer columns"),
        (HEAD + "0,1,1,1\n", "line 2: has more columns"),
        (HEAD + "x,1,1\n", "line 2: arrival_s 'x': is no number"),
        (gateway() + "{]\n", "line 2: is no JSON"),
        (gateway(time="yesterday"), "line 1: time 'yesterday'"),
        (gateway(duration=12), "line 1: duration 12: has no unit; call the field duration_s or duration_ms"),
        ('{"t": 0, "in": 1, "out": 1, "hash_ids": 3}\n', "line 1: hash_ids: must be a list"),
        ('{"t": 0, "in": 1, "out": 1, "hash_ids": [1], "block_size": 0}\n', "line 1: block_size 0"),
        ("[1, 2]", "line 1: is no JSON object"),
        ("[{", "is no JSON"),
        ("[]", "holds no requests"),
        ("[" * 100000, "is no JSON"),
        (HEAD + "0,1,1\n" + "9" * 200000 + ",1,1\n", "is no CSV|no finite"),
        (gateway(usage=None), "none of its 1 lines is a request with tokens"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, written: Write) -> None:
    with pytest.raises(InputError, match=message):
        RecordedRequests.read(written("some.txt", text))


def test_a_broken_archive(tmp_path: Path) -> None:
    for content in (b"\x1f\x8b", b"\x1f\x8bnoise", gzip.compress(HEAD.encode() * 99)[:-9]):
        (tmp_path / "a.csv.gz").write_bytes(content)
        with pytest.raises(InputError, match="is compressed, and broken or cut off"):
            RecordedRequests.read(tmp_path / "a.csv.gz")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "noise.csv"
    file.write_bytes(np.random.default_rng(0).bytes(200) + b"\xff")
    with pytest.raises(InputError, match=r"is not UTF-8 text|holds no requests|columns"):
        RecordedRequests.read(file)


SHARED = Path(os.environ.get("SPECYARD_SERVED", Path(__file__).parents[2] / "../shared/served"))
"""Files that programs wrote."""


@pytest.mark.parametrize("file", sorted(SHARED.glob("traces/*")) or [Path("none")], ids=lambda file: file.name)
def test_real_excerpts_are_read(file: Path) -> None:
    if not file.exists():
        pytest.skip("no captured files here")
    found = RecordedRequests.read(file)
    with file.open() as lines:
        assert len(found.arrival_s) == sum(1 for _ in lines)


@pytest.mark.parametrize("name", [name for name in FORMS if name != "bom.csv"])
@pytest.mark.parametrize("how", ["gz", "crlf", "bom", "reversed", "spelled", "array"])
def test_files_as_they_are_downloaded(name: str, how: str, tmp_path: Path) -> None:
    """Compressed, with other ends of lines, a mark at the start, other orders and spellings of columns, as one document."""
    text, file = FORMS[name], tmp_path / name
    as_json = name.endswith("jsonl")
    if how == "reversed" and not as_json:
        text = "\n".join(",".join(reversed(line.split(","))) for line in text.splitlines()) + "\n"
    if how == "spelled":
        head, rest = text.split("\n", 1)
        text = (
            text
            if as_json
            else head.upper().replace(" ", "_").replace(",", ", ") + "\n" + rest + "," * head.count(",") + "\n"
        )
    if how == "array" and as_json:
        text = json.dumps([json.loads(line) for line in text.splitlines()], indent=1)
    content = (text.replace("\n", "\r\n") if how == "crlf" else text).encode("utf-8-sig" if how == "bom" else "utf-8")
    file.write_bytes(gzip.compress(content) if how == "gz" else content)
    found = RecordedRequests.read(file)
    assert found.arrival_s == pytest.approx([0, 2])
    assert (found.prompt_tokens.tolist(), found.output_tokens.tolist()) == ([5, 7], [3, 2])


@pytest.mark.parametrize(
    ("window", "arrivals"),
    [("..", None), ("1..", [0, 2, 4]), ("..5", [0, 2, 4]), ("2..6", [0, 2]), ("0.05m..0.1m", [0]), ("9..", None)],
)  # fmt: skip
def test_a_stretch_of_a_log(window: str, arrivals: list[float] | None, written: Write) -> None:
    """Whoever came from its beginning to before its end, in seconds since the first request of the file."""
    rows = "".join(f"{10 + 2 * i},{i + 1},1\n" for i in range(4))
    file = written("own.csv", "arrival_s,prompt_tokens,output_tokens\n" + rows)
    if arrivals is None:
        with pytest.raises(InputError, match=r"window|within"):
            RecordedRequests.read(file, 1.0, Window.parse(window))
        return
    found = RecordedRequests.read(file, 2.0, Window.parse(window))
    assert found.arrival_s == pytest.approx([a / 2 for a in arrivals])
    assert Window.parse(str(Window.parse(window))) == Window.parse(window)


REAL = {
    "AzureLLMInferenceTrace_conv.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n"
    "2023-11-16 18:15:50.9951690,396,109\r\n",
    "AzureLLMInferenceTrace_code_1week.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2024-05-10 00:00:00.009930+00:00,374,44\n2024-05-10 02:00:04.324509+02:00,396,109\n2024-05-10 00:00:05+00:00,0,7\n",
    "azure by pandas.csv": ",TIMESTAMP,ContextTokens,GeneratedTokens\n1,2023-11-16T18:15:50.9951690,396.0,109.0\n"
    "0,2023-11-16T18:15:46.6805900,374.0,44.0\n",
    "BurstGPT_1.csv": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,374,44,418,Conversation log\n9.314579,GPT-4,396,109,505,API log\n"
    "9,GPT-4,50,0,50,API log\n10,GPT-4,0,0,0,API log\n",
    "BurstGPT_3.csv": "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5.0,a,1.5,ChatGPT,374,44,418,Conversation log\n9.314579,b,2,GPT-4,396,109,505,API log\n",
    "toolagent_trace.jsonl": '{"timestamp": 0, "input_length": 374, "output_length": 44, "hash_ids": [0]}\n'
    '{"timestamp": 4314.579, "input_length": 396, "output_length": 109, "hash_ids": [0]}\n',
    "qwen_traceA_blksz_16.jsonl": '{"chat_id": 159, "parent_chat_id": 55, "timestamp": 61.0, "input_length": 374, '
    '"output_length": 44, "type": "text", "turn": 2, "hash_ids": [1089, 1090]}\n{"chat_id": 160, "parent_chat_id": -1, '
    '"timestamp": 65.314579, "input_length": 396, "output_length": 109, "type": "file", "turn": 1, "hash_ids": [7]}\n',
    "access.jsonl": '{"@timestamp": "2026-11-03T09:00:00+01:00", "usage": {"input_tokens": 374, "output_tokens": 44}}\n'
    '{"@timestamp": "2026-11-03T08:00:02Z", "path": "/v1/embeddings", "usage": {"prompt_tokens": 8, "total_tokens": 8}}\n'
    '{"@timestamp": "2026-11-03 08:00:04.314579Z", "usage": {"prompt_tokens": 396, "completion_tokens": 109}}\n',
}
"""The first requests of Azure's trace, as each publisher writes its own: header, stamps and failures."""


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("packed", [False, True])
def test_published_headers_stamps_and_failures(name: str, packed: bool, tmp_path: Path) -> None:
    file = tmp_path / (name + ".gz" * packed)
    file.write_bytes(gzip.compress(REAL[name].encode()) if packed else REAL[name].encode())
    found = RecordedRequests.read(file)
    assert found.arrival_s == pytest.approx([0, 4.314579], abs=2e-6)
    assert (found.prompt_tokens.tolist(), found.output_tokens.tolist()) == ([374, 396], [44, 109])


def test_a_few_lengths_that_fit_no_blocks_leave_the_others_theirs(written: Write) -> None:
    rows = [mooncake(hash_ids=[0, 7, 8 + i]) for i in range(99)]
    found = RecordedRequests.read(written("mooncake.jsonl", "".join([*rows, mooncake(hash_ids=[0])])))
    assert found.blocks is not None
    assert found.blocks.tokens == 512


def mooncake(**more: object) -> str:
    return json.dumps({"timestamp": 0, "input_length": 1030, "output_length": 2, "hash_ids": [0, 1, 2]} | more) + "\n"


@pytest.mark.parametrize(
    ("text", "tokens", "ids"),
    [
        (mooncake() + mooncake(hash_ids=[0, 7, 8]), 512, [0, 1, 0, 2]),
        (mooncake(input_length=33) + mooncake(hash_ids=["a", "b"], input_length=31), 16, [0, 1, 2]),
        (mooncake(block_size=16) + mooncake(hash_ids=[], block_size=16), 16, [0, 1, 2]),
        (mooncake(input_length=3), None, []),
        (mooncake(block_size=16) + mooncake(block_size=32), None, []),
    ],
)
def test_blocks_that_prompts_have_in_common(text: str, tokens: int | None, ids: list[int], written: Write) -> None:
    """Whole blocks alone; of a size that the file says, its format has, or its numbers fit; else none, and that is said."""
    found = RecordedRequests.read(written("mooncake.jsonl", text))
    if tokens is None:
        assert found.blocks is None
        assert "left out" in found.notes[-1]
    else:
        assert found.blocks is not None
        assert (found.blocks.tokens, found.blocks.ids.tolist()) == (tokens, ids)


def test_sessions_of_weka_have_blocks_of_their_own(written: Write) -> None:
    """A document a session, whose hashes count from 1 in each; markers of subagents are counted."""
    asked = [{"t": 0.0, "type": "n", "in": 64, "out": 3, "hash_ids": [1]}, {"t": 2, "in": 70, "out": 2, "hash_ids": [1, 2]}]
    session = {"id": "a", "block_size": 64, "hash_id_scope": "local", "requests": [*asked, {"t": 3.0, "type": "subagent"}]}
    found = RecordedRequests.read(written("weka.jsonl", (json.dumps(session) + "\n") * 2))
    assert found.arrival_s.tolist() == [0, 0, 2, 2]
    assert found.blocks is not None
    assert (found.blocks.tokens, found.blocks.ids.tolist()) == (64, [0, 1, 0, 1])
    assert "2 marks of agents" in found.notes[-1]


@pytest.mark.parametrize("began", [0.0, 3.0])
@pytest.mark.parametrize("first", [False, True])
def test_what_agents_within_a_session_asked_is_load(began: float, first: bool, written: Write) -> None:
    """Their times are the session's, or count from where they take over; blocks are the session's."""
    deeper = {"t": 9.0, "type": "subagent", "requests": [{"t": 0.0 if began else 9.0, "in": 64, "out": 6, "hash_ids": [5]}]}
    inner = [{"t": 3.0 - began, "in": 192, "out": 40, "hash_ids": [5, 6, 7]}]
    inner += [{"t": 8.0 - began, "in": 320, "out": 60, "hash_ids": [5, 6, 7, 8, 9]}]
    agents: list[dict[str, object]] = [{"t": 3.0, "type": "subagent", "requests": inner}, deeper]
    own: list[dict[str, object]] = [{"t": 0.0, "in": 256, "out": 50, "hash_ids": [1, 2, 3, 4]}]
    last: list[dict[str, object]] = [{"t": 30.0, "in": 384, "out": 30, "hash_ids": [1, 2, 3, 4, 10, 11]}]
    rows = [*agents, *own, *last] if first else [*own, *agents, *last]
    session = {"id": "a", "block_size": 64, "hash_id_scope": "local", "requests": rows}
    found = RecordedRequests.read(written("weka.jsonl", json.dumps(session) + "\n"))
    assert found.arrival_s.tolist() == [0, 3, 8, 9, 30]
    assert found.output_tokens.tolist() == [50, 40, 60, 6, 30]
    assert found.blocks is not None
    sets = [set(found.blocks.of(i)) for i in range(5)]
    assert [len(own & set().union(*sets[:i])) for i, own in enumerate(sets)] == [0, 0, 3, 1, 4]


def test_one_session_that_begins_late_has_a_clock_of_its_own_too(written: Write) -> None:
    """Its first request came to nothing."""
    sessions = [{"requests": [{"t": 0.0, "in": 5, "out": int(i != 1)}, {"t": 2.5, "in": 5, "out": 3}]} for i in range(3)]
    found = RecordedRequests.read(written("weka.jsonl", "\n".join(map(json.dumps, sessions))))
    assert any("3 sessions" in note for note in found.notes)
    apart = [{"requests": [{"t": 60.0 * i, "in": 5, "out": 3}]} for i in range(3)]
    found = RecordedRequests.read(written("weka.jsonl", "\n".join(map(json.dumps, apart))))
    assert not any("sessions" in note for note in found.notes)


def test_a_block_is_found_only_behind_the_same_blocks(written: Write) -> None:
    """Bailian's hashes are of a block by itself: one that stands twice in a prompt is two blocks, and elsewhere another."""
    hashes = [[1, 10, 11], [2, 20, 21], [1, 20, 21], [1, 10, 10, 10]]
    rows = [
        {"chat_id": i, "timestamp": 30 * i, "input_length": 16 * len(own), "output_length": 1, "hash_ids": own}
        for i, own in enumerate(hashes)
    ]
    found = RecordedRequests.read(written("bailian.jsonl", "\n".join(map(json.dumps, rows))))
    assert found.blocks is not None
    seen, hits = set[tuple[int, ...]](), list[int]()
    for own in hashes:  # the slow and obvious twin
        prefixes = [tuple(own[: n + 1]) for n in range(len(own))]
        hits.append(sum(prefix in seen for prefix in prefixes))
        seen |= set(prefixes)
    sets = [set(found.blocks.of(i)) for i in range(4)]
    assert [len(own) for own in sets] == [3, 3, 3, 4]
    assert [len(own & set().union(*sets[:i])) for i, own in enumerate(sets)] == hits == [0, 0, 1, 2]


def test_sessions_with_clocks_of_their_own_are_told(written: Write) -> None:
    sessions = [{"id": i, "requests": [{"t": 0.0, "in": 5, "out": 3}, {"t": 9.0, "in": 5, "out": 3}]} for i in range(3)]
    text = "\n".join(map(json.dumps, sessions))
    found = RecordedRequests.read(written("weka.jsonl", text))
    assert any("3 sessions" in note and "at once" in note for note in found.notes)
    one = RecordedRequests.read(written("weka.jsonl", json.dumps(sessions[0]) + "\n"))
    assert not any("at once" in note for note in one.notes)


def test_a_trace_of_many_days_counts_from_its_beginning(written: Write) -> None:
    """12 days are 1.04 thousand million milliseconds, which since 1970 would be a time too; where all are such, they are."""
    day_ms = 86_400_000
    rows = [{"timestamp": day * day_ms, "input_length": 5, "output_length": 1} for day in (0, 11, 12)]
    found = RecordedRequests.read(written("m.jsonl", "\n".join(map(json.dumps, rows))))
    assert found.arrival_s.tolist() == [0, 11 * 86400, 12 * 86400]
    since = [row | {"timestamp": 1764150000000 + int(row["timestamp"])} for row in rows]
    again = RecordedRequests.read(written("m.jsonl", "\n".join(map(json.dumps, since))))
    assert again.arrival_s.tolist() == [0, 11 * 86400, 12 * 86400]


def test_failures_in_a_gateways_table_are_no_load(written: Write) -> None:
    head = "startTime,endTime,prompt_tokens,completion_tokens,status\n"
    rows = (
        "2026-11-26T10:00:00Z,2026-11-26T10:00:02Z,100,20,success\n2026-11-26T10:00:05Z,2026-11-26T10:00:05Z,0,0,failure\n"
    )
    found = RecordedRequests.read(written("spend.csv", head + rows))
    assert found.prompt_tokens.tolist() == [100]
    assert "1 line" in found.notes[-1]


def test_turns_that_come_after_an_answer_are_counted_not_guessed(written: Write) -> None:
    later = json.dumps({"session_id": "a", "delay": 500, "input_length": 9, "output_length": 1}) + "\n"
    found = RecordedRequests.read(written("mooncake.jsonl", mooncake() + later))
    assert len(found.arrival_s) == 1
    assert "delay" in found.notes[-1]


def test_times_in_another_unit_than_the_formats_are_noticed(written: Write) -> None:
    text = "".join(mooncake(timestamp=i / 2, hash_ids=[]) for i in range(40))
    found = RecordedRequests.read(written("mooncake.jsonl", text))
    assert any("milliseconds" in note and "--speed 0.001" in note for note in found.notes)


def test_over_again_is_the_same_rate_and_no_prompt_of_before(written: Write) -> None:
    once = RecordedRequests.read(
        written("mooncake.jsonl", FORMS["mooncake.jsonl"].replace("5,", "512,").replace("7,", "1024,"))
    )
    thrice = once.over_again(3)
    assert thrice.rate_per_s == pytest.approx(once.rate_per_s)
    assert thrice.arrival_s.tolist() == [0, 2, 4, 6, 8, 10]
    assert thrice.prompt_tokens.tolist() == once.prompt_tokens.tolist() * 3
    assert once.blocks is not None
    assert thrice.blocks is not None
    assert [thrice.blocks.of(i) for i in range(6)] == [(0,), (0, 1), (2,), (2, 3), (4,), (4, 5)]
