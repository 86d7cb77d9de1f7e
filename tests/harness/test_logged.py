"""Conversations as gateways log them, and the answers in them as responses to record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drafters.target import Target
from harness.cli.app import app
from harness.recording.conversations import Conversation, Reply, Unusable, conversation_of, merged
from harness.recording.logged import responses_of
from harness.recording.pair import load_pair
from harness.recording.responses import read_responses
from harness.recording.suite import Generation, Prompt, load_suite, read_conversations
from harness.recording.worker import Recorder, RecorderOptions
from simulator.records import Sampling


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


ASKED = {"model": "m", "messages": [user("Hello?")], "temperature": 0.7, "top_p": 0.9}
ANSWERED = {
    "id": "x", "model": "m", "choices": [{"index": 0, "message": said("Hi there."), "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
}  # fmt: skip
EVENTS = "\n\n".join(
    [
        *(
            "data: " + json.dumps({"model": "m", "choices": [{"delta": {"content": part}, "finish_reason": None}]})
            for part in ("Hi ", "there.")
        ),
        "data: " + json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
        "data: " + json.dumps({"choices": [], "usage": {"completion_tokens": 4}}),
        "data: [DONE]",
    ]
)
ROWS: dict[str, dict[str, Any]] = {
    "objects": {"time": "…", "path": "/v1/chat/completions", "status": 200, "request": ASKED, "response": ANSWERED},
    "bodies": {"request": {"body": ASKED}, "response": {"status_code": 200, "body": ANSWERED}},
    "texts": {"request_body": json.dumps(ASKED), "response_body": json.dumps(ANSWERED)},
    "a stream": {"request": {"method": "POST", "body": json.dumps(ASKED)}, "response": {"status": 200, "body": EVENTS}},
    "OpenPipe": {"input": ASKED, "output": ANSWERED},
    "LiteLLM": {
        "status": "success", "model": "m", "messages": ASKED["messages"], "response": ANSWERED, "completion_tokens": 4,
        "model_parameters": {"temperature": 0.7, "top_p": 0.9, "stream": False},
    },
    "side by side": {**ASKED, "choices": ANSWERED["choices"], "usage": ANSWERED["usage"]},
}  # fmt: skip


@pytest.mark.parametrize("form", ROWS)
def test_a_gateways_row_says_the_same_in_any_form(form: str) -> None:
    found = conversation_of(ROWS[form])
    assert found.turns == ("Hello?",)
    [reply] = found.replies
    assert reply == Reply("Hi there.", "stop", 4, {"temperature": 0.7, "top_p": 0.9}, "", "m")


@pytest.mark.parametrize(
    ("row", "turn", "reply"),
    [
        ({"prompt": "a", "response": "b"}, "a", Reply("b")),
        ({"domain": "math", "source": "s", "prompt": "a", "response": '{"b": 3}'}, "a", Reply('{"b": 3}')),
        ({"prompt": "a", "completion": " b"}, "a", Reply(" b")),
        ({"instruction": "a", "input": "", "output": "b"}, "a", Reply("b")),
        ({"instruction": "a", "input": "x", "output": "b"}, "a\n\nx", Reply("b")),
        ({"instruction": "a"}, "a", None),
        ({"question": "a", "answer": "It is 3. #### 3"}, "a", None),
        ({"problem": "a", "solution": "b", "answer": "3"}, "a", None),
        ({"question_title": "b", "question_content": "a"}, "a", None),
        ({"task_id": "b", "instruct_prompt": "a", "complete_prompt": "c"}, "a", None),
        ({"messages": [user("a")], "response": "b", "usage": {"completion_tokens": 2}}, "a", Reply("b", tokens=2)),
        ({"messages": [user("a"), said("b")], "output": "b"}, "a", Reply("b")),
        ({"prompt": "a", "response": "b", "temperature": 0.5}, "a", Reply("b", sampling={"temperature": 0.5})),
        (
            {"prompt": "a", "response": "<think>c</think>b"},
            "a",
            Reply("<think>c</think>b", otherwise="with reasoning in them"),
        ),
    ],
)
def test_a_row_of_a_data_set_is_what_was_asked_and_answered(row: dict[str, Any], turn: str, reply: Reply | None) -> None:
    found = conversation_of(row)
    assert found.turns == (turn,)
    assert found.replies == (reply,)


@pytest.mark.parametrize(
    ("request_", "response", "why"),
    [
        ({"tools": [{"type": "function"}]}, {}, "with tools"),
        ({"messages": [user("a"), said(None, tool_calls=[{}]), {"role": "tool", "content": "3"}]}, {}, "with tools"),
        ({}, {"choices": [{"message": said(None, tool_calls=[{}]), "finish_reason": "tool_calls"}]}, "with tools"),
        ({"messages": [user([{"type": "text", "text": "a"}, {"type": "image_url"}])]}, {}, "images"),
        ({"messages": [user("a"), said("Beg")]}, {}, "begun before"),
        ({"messages": [said("a")]}, {}, "without a user"),
    ],
)
def test_what_cannot_be_held_again_says_why(request_: dict[str, Any], response: dict[str, Any], why: str) -> None:
    with pytest.raises(Unusable, match=why):
        conversation_of({"request": {**ASKED, **request_}, "response": {**ANSWERED, **response}})


@pytest.mark.parametrize(
    "row",
    [
        {"path": "/v1/models", "status": 200},
        {"request": ASKED, "response": ANSWERED, "status": 500},
        {"request": ASKED, "response": {"error": {"message": "no"}}},
        {"request": {"input": ["a"]}, "response": {"data": []}},
        {"request": {"prompt": "a"}, "response": {"choices": [{"text": "b"}]}},
    ],
)
def test_rows_of_other_kinds_are_counted_and_stop_nothing(row: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        conversation_of(row)


@pytest.mark.parametrize(
    ("request_", "choice", "finish", "otherwise"),
    [
        ({"response_format": {"type": "json_object"}}, {}, "stop", "form"),
        ({"response_format": {"type": "text"}}, {}, "stop", ""),
        ({"presence_penalty": 0.5}, {}, "stop", "penalties"),
        ({"presence_penalty": 0, "repetition_penalty": 1.0}, {}, "stop", ""),
        ({"min_p": 0.1}, {}, "stop", "min-p"),
        ({}, {"finish_reason": "length"}, "length", ""),
        ({}, {"finish_reason": "content_filter"}, "length", "content_filter"),
        ({"stop": ["\n"]}, {}, "length", ""),
        ({"stop": ["\n"]}, {"stop_reason": None}, "stop", ""),
        ({"stop": ["\n"]}, {"stop_reason": "\n"}, "length", ""),
        ({}, {"message": said("Hi", reasoning_content="Hm.")}, "stop", "reasoning"),
        ({}, {"message": said("<think>Hm.</think>Hi")}, "stop", "reasoning"),
    ],
)
def test_how_an_answer_came_to_be(request_: dict[str, Any], choice: dict[str, Any], finish: str, otherwise: str) -> None:
    row = {"request": {**ASKED, **request_}, "response": {"choices": [{**ANSWERED["choices"][0], **choice}]}}  # type: ignore[dict-item]
    [reply] = conversation_of(row).replies
    assert reply is not None
    assert reply.finish == finish
    assert otherwise in reply.otherwise
    assert bool(otherwise) == bool(reply.otherwise)


def test_a_conversation_logged_turn_by_turn_counts_once() -> None:
    first, second = Reply("a", "stop", 2), Reply("b", "length", 3)
    rows = [
        Conversation(("x",), (first,), "s"),
        Conversation(("x", "y"), (Reply("a"), second), "s"),
        Conversation(("x",), (first,), "other"),
        Conversation(("x", "y"), (Reply("a"), second), "s"),
        Conversation(("x", "z"), (Reply("a"), None), "s"),
    ]
    found = merged(rows)
    assert found[0] is None
    assert found[1] == Conversation(("x", "y"), (first, second), "s")
    assert found[2] == rows[2]
    assert found[3] is None
    assert found[4] == Conversation(("x", "z"), (first, None), "s")


@pytest.fixture(scope="module")
def generated() -> tuple[Target, list[tuple[Prompt, tuple[int, ...], str]]]:
    """What the bundled target says to some prompts, in tokens, and how each answer ended."""
    prompts = load_suite("math_code_chat", limit=1).prompts[:5]
    recorder = Recorder(RecorderOptions(load_pair("tiny"), None, None, Generation(max_new_tokens=24), 3))
    by_id = {p.prompt_id: p for p in prompts}
    return recorder.target, [(by_id[r.prompt_id], r.token_ids, r.finish) for r in recorder.answer(prompts) if r.turn == 0]


def logged_rows(target: Target, said_: list[tuple[Prompt, tuple[int, ...], str]]) -> list[dict[str, Any]]:
    rows = []
    for prompt, ids, finish in said_:
        choice = {"message": said(target.text(ids)), "finish_reason": finish}
        answered = {"choices": [choice], "usage": {"completion_tokens": len(ids)}, "model": "m"}
        request_ = {"messages": [*prompt.opening, user(prompt.turns[0])], "temperature": 1.0}
        rows.append({"id": prompt.prompt_id, "request": request_, "response": answered})
    return rows


def test_texts_become_the_tokens_that_were_said_or_are_counted_out(
    generated: tuple[Target, list[tuple[Prompt, tuple[int, ...], str]]], tmp_path: Path
) -> None:
    target, answers = generated
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged_rows(target, answers)))
    found = read_conversations([tmp_path / "chat.jsonl"])
    told = responses_of(found, target, Sampling(), lambda done, total: None)
    drawn = {f"chat/{p.prompt_id}": (ids, finish) for p, ids, finish in answers}
    assert told.responses
    for one in told.responses:
        ids, finish = drawn[one.prompt_id]
        one.check(target.stop_tokens, target.vocab_size)
        assert (target.text(one.token_ids), one.finish) == (target.text(ids), finish)
        assert abs(len(one.token_ids) - len(ids)) <= 1
    missing = len(answers) - len(told.responses)
    assert missing == 0 or any("left out" in note for note in told.notes)


def test_the_command_writes_what_a_recording_reads(
    generated: tuple[Target, list[tuple[Prompt, tuple[int, ...], str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged_rows(*generated)))
    command = ["regenerate", "--target", "tiny", "--prompts", "chat.jsonl", "--engine", "logged"]
    done = CliRunner().invoke(app, [*command, "--to", "answers.jsonl", "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    told = json.loads(done.stdout)["regenerated"]
    suite = load_suite("math_code_chat", data_dir=Path(told["data_dir"]))
    given = read_responses([Path("answers.jsonl")], suite.prompts, Sampling())
    assert sum(map(len, given.of_prompt.values())) == told["responses"] > 0
    refused = CliRunner().invoke(app, [*command, "--batch", "3"])
    assert (refused.exit_code, "--batch" in refused.stderr) == (2, True)
    Path("chat.jsonl").write_text(json.dumps({"messages": [user("a"), said("b")]}) + "\n")
    refused = CliRunner().invoke(app, command)
    assert (refused.exit_code, "--temperature" in refused.stderr) == (2, True)
