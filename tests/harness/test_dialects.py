"""What rows of several APIs and data sets say of an answer and of what stood before it: none of it is dropped unsaid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.recording.conversations import Conversation, Reply, Unusable, conversation_of, merged
from harness.recording.suite import read_conversations
from simulator.gateways import from_a_cache
from tests.harness.test_logged import ANSWERED, ASKED, said, user

S = {"temperature": 0.5}
TEXT = {"type": "text", "text": "b"}


def anthropic(ended: str | None = "end_turn", content: Any = "b", **request: Any) -> dict[str, Any]:
    asked = {"model": "m", "messages": [user("a")], **S, **request}
    answered = {"type": "message", "role": "assistant", "content": content, "usage": {"input_tokens": 3, "output_tokens": 2}}
    return {"request": asked, "response": {**answered, "stop_reason": ended}}


def responses(request: dict[str, Any], output: Any = None, **more: Any) -> dict[str, Any]:
    output = output or [{"type": "message", "content": [{"type": "output_text", "text": "b"}]}]
    answered = {"object": "response", "output": output, "status": "completed", "usage": {"output_tokens": 2}, **more}
    return {"request": {"model": "m", "input": "a", **S, **request}, "response": answered}


def ollama(done: str = "stop", **request: Any) -> dict[str, Any]:
    answered = {"model": "m", "message": said("b"), "done": True, "done_reason": done, "eval_count": 2}
    return {"request": {"model": "m", "messages": [user("a")], "options": S, **request}, "response": answered}


def generated(done: str = "stop", **request: Any) -> dict[str, Any]:
    answered = {"model": "m", "response": "b", "done": True, "done_reason": done, "eval_count": 2}
    return {"request": {"model": "m", "prompt": "a", "options": S, **request}, "response": answered}


def events(*of: dict[str, Any]) -> str:
    return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in of)


def streamed(body: str, **request: Any) -> dict[str, Any]:
    return {"request_body": json.dumps({"model": "m", "messages": [user("a")], **S, **request}), "response_body": body}


BEGAN = {"type": "message_start", "message": {"model": "m", "content": [], "usage": {"output_tokens": 1}}}
PARTS = [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}} for text in ("", "b")]
ENDED = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}
THOUGHT = {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "c"}}
CALLED = {"type": "content_block_start", "content_block": {"type": "tool_use"}}
WHOLE = {"type": "response.completed", "response": responses({})["response"]}
NDJSON = "\n".join(
    json.dumps({"model": "m", "message": said(text), "done": False} | more)
    for text, more in (("b", {}), ("", {"done": True, "done_reason": "length", "eval_count": 2}))
)


def chunk(text: str, index: int = 0, **more: Any) -> str:
    return "data: " + json.dumps({"model": "m", "choices": [{"index": index, "delta": {"content": text}, **more}]}) + "\n\n"


@pytest.mark.parametrize(
    ("row", "finish", "tokens"),
    [
        (anthropic(), "stop", 2),
        (anthropic(content=[TEXT]), "stop", 2),
        (anthropic("max_tokens"), "length", 2),
        (anthropic("stop_sequence"), "length", 2),
        (anthropic("end_turn", stop_sequences=["\n"]), "length", 2),  # servers say it of these, too
        (anthropic(None), None, 2),
        ({**anthropic(None), "stop_reason": "max_tokens"}, "length", 2),
        (responses({}), "stop", 2),
        (responses({"input": [user("a")]}), "stop", 2),
        (responses({"input": [user([{"type": "input_text", "text": "a"}])]}), "stop", 2),
        (responses({}, status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "length", 2),
        ({**responses({})["request"], **responses({})["response"]}, "stop", 2),
        ({"path": "/v1/responses", **responses({}, object=None)}, "stop", 2),
        (ollama(), "stop", 2),
        (ollama("length"), "length", 2),
        (generated("length"), "length", 2),
        ({**generated()["request"], **generated()["response"], "path": "/api/generate"}, "stop", 2),
        *(({**one["request"], **one["response"]}, "stop", 2) for one in (ollama(), anthropic(), anthropic(content=[TEXT]))),
        (ollama(options={**S, "stop": ["\n"]}), "length", 2),
        (streamed(events(BEGAN, *PARTS, ENDED)), "stop", 2),
        (streamed(events(BEGAN, *PARTS)), "length", 1),
        (streamed(events(WHOLE), input="a"), "stop", 2),
        (streamed(NDJSON), "length", 2),
        (streamed(chunk("b") + chunk("", finish_reason="stop")), "stop", None),
        (streamed(chunk("b")), "length", None),  # broken off
        (streamed(chunk("b") + "data: [DONE]"), None, None),
        (streamed(chunk("b") + chunk("c", 1) + chunk("", finish_reason="stop")), "stop", None),
    ],
)
def test_how_an_answer_ended_is_read_of_every_api(row: dict[str, Any], finish: Any, tokens: int | None) -> None:
    found = conversation_of(row)
    assert (found.turns, found.replies) == (("a",), (Reply("b", finish, tokens, S, "", "m"),))


@pytest.mark.parametrize(
    ("row", "system"),
    [
        (anthropic(system="s"), "s"),
        (anthropic(system=[{"type": "text", "text": "s"}]), "s"),
        (responses({"instructions": "s"}), "s"),
        ({"messages": [user("a")], "response": ANSWERED, "optional_params": {"system": "s"}}, "s"),
        (responses({"input": [{"role": "developer", "content": "s"}, user("a")]}), "s"),
        ({"system": "s", "conversations": [{"from": "human", "value": "a"}]}, "s"),
        ({"system_prompt": "s", "question": "a", "response": "b"}, "s"),
        ({"system": "s", "messages": [{"role": "system", "content": "t"}, user("a")]}, "s\n\nt"),
        ({"system": "s", "messages": [{"role": "system", "content": "s"}, user("a")]}, "s"),
        ({"input": [user("a")], "output": "b", "system_prompt": "s"}, "s"),
        ({"input": [user("a")], "output": "b", "instructions": "s"}, "s"),
        (generated(system="s"), "s"),
    ],
)
def test_instructions_beside_what_is_said_are_the_systems(row: dict[str, Any], system: str) -> None:
    assert conversation_of(row).system == system
    assert conversation_of(row).turns == ("a",)


def completed(request: dict[str, Any] | None = None, row: dict[str, Any] | None = None, **choice: Any) -> dict[str, Any]:
    message = {"message": said("Hi there."), "finish_reason": "stop", **choice}
    answered = {**ANSWERED, "choices": [message]}
    return {"request": {**ASKED, **(request or {})}, "response": answered, **(row or {})}


LANGFUSE = {"input": [user("a")], "output": said("b")}
BY_7 = {"finish_reason": "stop", "stop_reason": 7}
FAILED: list[dict[str, Any]] = [
    {"status": 500}, {"status": "Error"}, {"response_status": "503"}, {"response_code": 429}, {"status": "errored"},
]  # fmt: skip
GREETED = [said("Hello."), user("a")]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (anthropic(content=[{"type": "thinking", "thinking": "c"}, TEXT]), "reasoning apart"),
        (anthropic(content=[{"type": "redacted_thinking", "data": "c"}, TEXT]), "reasoning apart"),
        (streamed(events(BEGAN, THOUGHT, *PARTS, ENDED)), "reasoning apart"),
        (responses({}, [{"type": "reasoning"}, *responses({})["response"]["output"]]), "reasoning apart"),
        (ollama() | {"response": {"message": said("b", thinking="c"), "done_reason": "stop"}}, "reasoning apart"),
        ({"prompt": "a", "response": "b", "reasoning_content": "c"}, "reasoning apart"),
        ({"prompt": "a", "response": "b", "reasoning": "Off we go."}, "reasoning apart"),
        ({"prompt": "a", "response": "b", "thinking": {"thinking": "c"}}, "reasoning apart"),
        ({"messages": [user("a"), said("b", reasoning_content="c")], "output": "b"}, "reasoning apart"),
        (completed(row={"usage": {"completion_tokens_details": {"reasoning_tokens": 5}}}), "reasoning apart"),
        (anthropic("refusal"), "refusal"),
        (anthropic("pause_turn"), "pause_turn"),
        (responses({"text": {"format": {"type": "json_schema"}}}), "form"),
        (ollama(format="json"), "form"),
        (ollama(options={**S, "repeat_penalty": 1.1}), "penalties"),
        (completed({"ignore_eos": True}), "form"),
        (completed({"presence_penalty": "0.5"}), "penalties"),
        (completed(row={"params": {"presence_penalty": 1}}), "penalties"),
        (completed({"response_format": {"type": "json_object"}}, {"params": {"temperature": 1}}), "form"),
        (completed({"temperature": None, "top_p": 0.5}), "nobody says at which temperature"),
        (completed({"documents": [{"text": "d"}]}), "more than their messages"),
        (completed({"chat_template_kwargs": {"enable_thinking": True}}), "more than their messages"),
        (completed({"truncate_prompt_tokens": 9}), "more than their messages"),
        (completed({"messages": GREETED}), "begin with the model's own words"),
        ({"messages": [*GREETED, said("b")]}, "begin with the model's own words"),
        ({"conversation": [user("a"), said("b")], "redacted": True}, "words taken out"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "critic", "value": "b"}]}, "said by critic"),
        *(
            (completed(row=row), "the gateway's own cache")
            for row in ({"cache_hit": True}, {"cache_status": "SEMANTIC HIT"}, {"cached": True}, {"cached": "true"})
        ),
    ],
)
def test_answers_that_are_no_fresh_words_on_the_prompt_say_why(row: dict[str, Any], why: str) -> None:
    [reply] = conversation_of(row).replies
    assert reply is not None
    assert why in reply.otherwise


@pytest.mark.parametrize(
    "row",
    [
        completed({"chat_template_kwargs": {"enable_thinking": False}, "documents": []}),
        completed({"temperature": None, "top_p": 1.0, "top_k": -1}),
        completed({"tools": []}),
        completed({"tools": "[]"}),
        completed(row={"cached": 0, "cache_status": "MISS", "cache_hit": "False"}),
        responses({"text": {"format": {"type": "text"}}, "previous_response_id": None}),
        *({"input": [user("a")], "output": "b", "reasoning": how} for how in ("off", "High", True, {"effort": None}, [])),
        {"messages": [user("a"), said("b", reasoning="")], "reasoning": {"effort": "low", "summary": "auto"}},
    ],
)
def test_settings_that_change_nothing_leave_nothing_out(row: dict[str, Any]) -> None:
    [reply] = conversation_of(row).replies
    assert reply is not None
    assert reply.otherwise == ""


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (anthropic(content=[TEXT, {"type": "tool_use"}]), "with tools"),
        (anthropic("tool_use"), "with tools"),
        (anthropic(messages=[user([{"type": "tool_result", "content": "3"}])]), "with tools"),
        (anthropic(messages=[user([{"type": "image"}])]), "with images"),
        (streamed(events(BEGAN, CALLED, *PARTS, ENDED)), "with tools"),
        (responses({}, [{"type": "function_call"}]), "with tools"),
        (responses({"input": [user("a"), {"type": "function_call_output"}]}), "with tools"),
        (responses({"input": [user([{"type": "input_image"}])]}), "with images"),
        (responses({"previous_response_id": "r"}), "kept elsewhere"),
        (responses({"conversation": "c"}), "kept elsewhere"),
        (responses({}, status="failed"), "that failed"),
        ({"request": ASKED, "response": ANSWERED, "status": "500"}, "that failed"),
        (completed(row={"model_parameters": {"tools": [{}]}}), "with tools"),
        ({"path": "/v1/embeddings", "request": {"input": ["a"]}, "response": {"object": "list"}}, "no chats"),
        ({"instruction": "a", "history": ["b"]}, "of no form known here"),
        ({"input": [user("a")], "output": "b", "tools": [{"type": "function"}]}, "with tools"),
        (generated(raw=True), "no chats"),
        ({"prompt": "a", "response": json.dumps({"object": "text_completion", "choices": [{"text": "b"}]})}, "no chats"),
        *(
            ({"prompt": "a", "response": "b", field: at}, "no chats")
            for field, at in (
                ("path", "/v1/completions"), ("url", "https://api.openai.com/v1/completions"), ("method", "POST"),
                ("uri", "POST /generate?x=1 HTTP/1.1"), ("endpoint", "completions"), ("call_type", "atext_completion"),
            )
        ),
        *(({"url": at, "method": "GET"}, "no chats") for at in ("/v1/models", "/health", "/x")),
        *(({"prompt": "a", "response": "b", **failed}, "that failed") for failed in FAILED),
        *(({"request": ASKED, "response": "Internal Server Error", **failed}, "that failed") for failed in FAILED),
    ],
)  # fmt: skip
def test_what_cannot_be_held_again_says_why(row: dict[str, Any], why: str) -> None:
    with pytest.raises(Unusable, match=why):
        conversation_of(row)


@pytest.mark.parametrize(
    ("row", "turns", "replies"),
    [
        ({"conversations": [user("a"), said("b")]}, ["a"], [Reply("b")]),
        ({"conversation": [user("a"), said("b")], "model": "m"}, ["a"], [Reply("b", model="m")]),
        ({"instruction": "a", "context": "c", "response": "b"}, ["a\n\nc"], [Reply("b")]),
        ({"instruction": "a", "history": [["x", "y"]], "output": "b"}, ["x", "a"], [Reply("y"), Reply("b")]),
        ({"prompt": "a", "response": "b", "finish_reason": "length"}, ["a"], [Reply("b", "length")]),
        ({"prompt": [user("a")], "completion": [said("b")]}, ["a"], [Reply("b")]),
        ({"prompt": "a", "completion": [said("b")]}, ["a"], [None]),
        ({"prompt": "a", "response": "b", "status": 200}, ["a"], [Reply("b")]),
        ({"question": "a", "choices": ["b", "c"], "answer": 1}, ["a"], [None]),
        ({"custom_id": "x", "params": ASKED}, ["Hello?"], [None]),
        (LANGFUSE | {"modelParameters": {"temperature": "0.5"}}, ["a"], [Reply("b", None, None, S)]),
        (LANGFUSE | {"usageDetails": {"output": 2}}, ["a"], [Reply("b", None, 2)]),
        ({"messages": [user("a")], "response": "b", "completion_tokens": "2"}, ["a"], [Reply("b", None, 2)]),
        (
            {"messages": [user("a")], "choices": [{"message": said("b")}] * 2, "usage": {"completion_tokens": 9}},
            ["a"], [Reply("b")],  # its tokens are those of both
        ),
        (
            {"messages": [user("a")], "stop_token_ids": [7], "choices": [{"message": said("b"), **BY_7}]},
            ["a"], [Reply("b", "length")],
        ),
    ],
)  # fmt: skip
def test_rows_of_data_sets_and_logs_are_read_whole(row: dict[str, Any], turns: list[str], replies: list[Reply]) -> None:
    found = conversation_of(row)
    assert (list(found.turns), list(found.replies)) == (turns, replies)


@pytest.mark.parametrize(
    "more",
    [
        {"url": "https://stackexchange.com/questions/1/v1/chat"}, {"url": "https://en.wikipedia.org/wiki/Messages"},
        {"uri": "x"}, {"endpoint": "x"}, {"endpoint": None}, {"method": "cot"}, {"path": "repo/1.py"},
        {"path": "/src/generate.py"}, {"path": "api/v1/users.py"}, {"path": "v2/chat.md"}, {"path": "v1"},
    ],
)  # fmt: skip
def test_where_a_data_set_has_a_text_from_makes_no_request_of_it(more: dict[str, Any]) -> None:
    assert conversation_of({"instruction": "a", "output": "b", **more}).replies == (Reply("b"),)
    assert conversation_of({"prompt": [user("a")], "completion": "b", **more}).replies == (Reply("b"),)


@pytest.mark.parametrize(
    "text",
    [
        '{"model": "VW"}', '{"content": "y"}', '{"choices": ["b"]}', '{"error": "e"}', '{"message": {"content": "x"}}',
        '{"messages": [{"role": "user", "content": "x"}]}', '[{"role": "assistant", "content": "x"}]', '[{"x": 1}]',
        '{"cached": true}', 'data: {"choices": ["b"]}',
    ],
)  # fmt: skip
def test_a_data_sets_texts_are_what_was_said_though_they_are_json(text: str) -> None:
    for asked, answered in (("prompt", "response"), ("question", "completion"), ("instruction", "output")):
        assert conversation_of({asked: "a", answered: text, "model": "m"}).replies == (Reply(text, model="m"),)
    found = conversation_of({"instruction": "a", "input": text, "output": "b"})
    assert (found.turns, found.replies) == ((f"a\n\n{text}",), (Reply("b"),))


def test_what_a_cache_repeats_is_known_by_the_answer_that_was_made() -> None:
    made, again = Reply("b", "stop", 2), Reply("b", "stop", 2, otherwise="answered by the gateway's own cache")
    for order in ([made, again], [again, made]):
        found = merged([Conversation(("a",), (reply,)) for reply in order])
        assert found == [Conversation(("a",), (made,)), None]


def test_a_conversations_id_names_a_row_of_a_data_set_alone() -> None:
    """A gateway writes one at each of its turns."""
    row = {"conversation_id": "c", "conversation": [user("a")]}
    assert conversation_of(row).name == "c"
    assert conversation_of({"conversation_id": "c", **completed()}).name == ""


@pytest.mark.parametrize("said_", [{"cached": 12}, {"cached": 1}, {"usage": {"cached": True}}, {"cache_status": "DISABLED"}])
def test_a_prompts_tokens_from_a_cache_are_no_answer_of_one(said_: dict[str, Any]) -> None:
    assert not from_a_cache(said_)
    assert from_a_cache({"response": {"cached": True}, **said_})


def test_of_an_id_that_stands_twice_it_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": "x", "prompt": "a"}) + "\n" + json.dumps({"id": "x", "prompt": "b"}))
    with pytest.raises(ValueError, match="too; rename one of them, or take the field that names it out of all rows"):
        read_conversations([tmp_path / "t.jsonl"])
