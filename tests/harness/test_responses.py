"""Files of responses that another engine produced: what is wrong with one is said in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.recording.responses import GivenResponse, ResponsesHeader, read_responses
from harness.recording.suite import Prompt
from simulator.errors import InputError
from simulator.records import Sampling

PROMPTS = [Prompt("t", "math", "t/0", ("one", "two")), Prompt("t", "math", "t/1", ("one",))]
HEADER = {"temperature": 0.7, "top_p": 0.9}
SAMPLING = Sampling(temperature=0.7, top_p=0.9)
LINES: list[dict[str, Any]] = [
    {"prompt_id": "t/0", "turn": 0, "token_ids": [4, 5, 2], "finish": "stop"},
    {"prompt_id": "t/0", "turn": 1, "token_ids": [4], "finish": "length"},
    {"prompt_id": "t/1", "token_ids": [6, 7], "finish": "length"},
]


def write(folder: Path, *lines: object) -> Path:
    file = folder / "responses.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def test_the_first_line_is_the_sampling_itself() -> None:
    line = msgspec.json.encode(SAMPLING)
    assert msgspec.json.decode(line, type=ResponsesHeader).sampling == SAMPLING
    assert json.loads(line) == {**HEADER, "top_k": 0}


def test_every_turn_of_every_prompt_is_found(tmp_path: Path) -> None:
    file = write(tmp_path, HEADER, *LINES)
    responses = read_responses([file], PROMPTS, SAMPLING)
    found = responses.of_prompt
    assert [r.token_ids for r in found["t/0"]] == [(4, 5, 2), (4,)]
    assert [r.turn for r in found["t/1"]] == [0]
    assert responses.longest == 3
    assert read_responses([file], PROMPTS, SAMPLING, file_hash=responses.file_hash) == responses
    with pytest.raises(InputError, match="has changed since the run began"):
        read_responses([file], PROMPTS, SAMPLING, file_hash="0")


def test_several_files_are_one(tmp_path: Path) -> None:
    whole = read_responses([write(tmp_path, HEADER, *LINES)], PROMPTS, SAMPLING)
    files = []
    for name, lines in (("a", LINES[:1]), ("b", LINES[1:])):
        (tmp_path / name).mkdir()
        files.append(write(tmp_path / name, HEADER, *lines))
    parts = read_responses(files, PROMPTS, SAMPLING)
    assert parts.of_prompt == whole.of_prompt
    assert read_responses(files[::-1], PROMPTS, SAMPLING, file_hash=parts.file_hash) == parts
    with pytest.raises(InputError, match=r"b.responses.jsonl, line 2: a second response to t/0, turn 1"):
        read_responses([*files, files[1]], PROMPTS, SAMPLING)
    with pytest.raises(InputError, match=r"has none for t/0, turn 1"):
        read_responses(files[:1], PROMPTS, SAMPLING)
    write(tmp_path / "b", HEADER, *LINES[1:], {**LINES[0], "prompt_id": "other"})
    with pytest.raises(InputError, match=r"a.responses.jsonl, .*b.responses.jsonl: have changed since the run began"):
        read_responses(files, PROMPTS, SAMPLING, file_hash=parts.file_hash)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty"),
        (
            [{"temperature": 1.0}, *LINES],
            "sampled with temperature 1, top_p 1, top_k 0, the run has temperature 0.7, top_p 0.9",
        ),
        (LINES, "line 1: Object"),
        ([{"temperature": 1e-40}, *LINES], r"line 1: temperature: 0 \(greedy\) or at least 0.001 is needed, got 1e-40"),
        (
            [HEADER, *({**line, "token_ids": [2]} for line in LINES)],
            "every response is a single token, which a prefill gives; there is no round to record",
        ),
        ([HEADER, *LINES[1:]], "has none for t/0, turn 0"),
        ([HEADER, *LINES, "{"], "line 5: not JSON"),
        ([HEADER, {**LINES[0], "text": "?"}, *LINES], "line 2: Object contains unknown field `text`"),
        ([HEADER, {**LINES[0], "finish": "end"}, *LINES], "line 2: Invalid enum value 'end'"),
        ([HEADER, {**LINES[0], "token_ids": []}, *LINES], "line 2: token_ids is empty"),
        ([HEADER, "", {**LINES[0], "token_ids": []}, *LINES], "line 3: token_ids is empty"),
        ([HEADER, *LINES, LINES[1]], "line 5: a second response to t/0, turn 1; leave one out"),
    ],
)
def test_what_is_wrong_is_named(lines: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_responses([write(tmp_path, *lines)], PROMPTS, SAMPLING)


@pytest.mark.parametrize(
    ("token_ids", "finish", "message"),
    [
        ((4, 99), "length", "token 99 is outside the target's vocabulary of 10"),
        ((4, 5), "stop", "ends with its first end token"),
        ((4, 2, 2), "stop", "ends with its first end token"),
        ((4, 2), "length", "has none if 'length'"),
    ],
)
def test_the_target_must_be_able_to_say_it(token_ids: tuple[int, ...], finish: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        GivenResponse("t/0", token_ids, finish).check(frozenset([2]), 10)


@pytest.mark.parametrize(("length", "most"), [(3, 1), (41, 4), (1001, 46)])
def test_a_file_is_judged_as_a_whole(length: int, most: int, tmp_path: Path) -> None:
    """One token may always round otherwise, and 1 % of all that are anchors and what chance adds, wherever they are."""
    lines = [{**line, "token_ids": [4] * length, "finish": "length"} for line in LINES]
    given = read_responses([write(tmp_path, HEADER, *lines)], PROMPTS, SAMPLING)
    assert given.anchors == 3 * (length - 1)
    given.judge("--responses file", most, "t/0, turn 1")
    with pytest.raises(
        InputError, match=rf"{most + 1} of {given.anchors} tokens or more, some of them in t/0, turn 1, cannot"
    ):
        given.judge("--responses file", most + 1, "t/0, turn 1")


def test_prompts_in_place_of_answers_are_called_so(tmp_path: Path) -> None:
    file = tmp_path / "my prompts.jsonl"
    file.write_text('{"id": "a/1", "domain": "math", "prompt": "1 + 1?"}\n')
    with pytest.raises(InputError, match=r"line 1: are prompts, without answers; .* `harness regenerate --target"):
        read_responses([file], PROMPTS, SAMPLING)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_responses([tmp_path / "nowhere.jsonl"], PROMPTS, SAMPLING)
