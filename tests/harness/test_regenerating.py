"""`harness regenerate`: the target's own answers, whatever the workers, stopped or not, as `--responses` reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.recording import regenerate
from harness.recording.pair import asked_pair, load_pair
from harness.recording.responses import read_responses
from harness.recording.suite import Generation, read_prompts
from harness.recording.worker import Recorder, RecorderOptions, Unit
from simulator.records import Sampling
from tests.documented import differences
from tests.harness.processes import called

PROMPTS = Path(__file__).parents[2] / "suites" / "math_code_chat" / "prompts"
FILES = ["--prompts", str(PROMPTS / "gsm8k.jsonl"), "--prompts", str(PROMPTS / "mt-bench.jsonl")]
OPTIONS = ["regenerate", "--target", "tiny", *FILES, "--limit", "3", "--max-new-tokens", "12", "--batch", "2", "--seed", "7"]


class Here:
    """A pool of one worker, in this process; `stop_after` calls it is interrupted."""

    size, stop_after = 1, 10**6

    def __init__(self, cluster: object, kind: type, arguments: tuple[Any, ...], say: Callable[[str], None]) -> None:
        self.worker = kind(*arguments)
        self.asked: list[str] = []

    def call(self, method: str, *arguments: object) -> Any:
        return getattr(self.worker, method)(*arguments)

    def map(self, method: str, work: Sequence[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        for done, item in enumerate(work):
            if method == "answer":
                if done == Here.stop_after:
                    raise KeyboardInterrupt
                ASKED.append(item[0][0].prompt_id)
            yield item, self.call(method, *item)


ASKED: list[str] = []


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextmanager
    def nothing(*_: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(regenerate, "joined", nothing)
    monkeypatch.setattr(regenerate, "Pool", Here)
    monkeypatch.setattr(Here, "stop_after", 10**6)
    monkeypatch.chdir(tmp_path)
    ASKED.clear()


def ran(*options: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*OPTIONS, *options])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout


def test_answers_are_those_that_a_recording_generates() -> None:
    """Prompt by prompt the same tokens, in the order of the prompts; and a recording reads the file."""
    told = ran("--to", "answers.jsonl", "--json")
    assert differences(told) == []
    files = [PROMPTS / "gsm8k.jsonl", PROMPTS / "mt-bench.jsonl"]
    prompts = read_prompts(files, 3)
    given = read_responses([Path("answers.jsonl")], prompts, Sampling(1.0, 1.0, 0))
    pair = load_pair(asked_pair("tiny", "tiny")[0])
    recorder = Recorder(RecorderOptions(pair, None, None, Generation(max_new_tokens=12), 7))
    rows = recorder.record(Unit(prompts))["responses"].to_pylist()
    assert len(rows) == 9
    for row in rows:
        [own] = [r for r in given.of_prompt[row["prompt_id"]] if r.turn == row["turn"]]
        assert (list(own.token_ids), own.finish) == (row["token_ids"], row["finish"])
    lines = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert lines[0] == {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    assert [(r["prompt_id"], r["turn"]) for r in lines[1:]] == [
        (p.prompt_id, i) for p in prompts for i in range(len(p.turns))
    ]
    made = json.loads(told)["regenerated"]
    assert (made["responses"], made["prompts"], made["tokens"]) == (9, 6, sum(len(r["token_ids"]) for r in lines[1:]))


def test_a_stopped_one_goes_on_to_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    ran("--to", "whole.jsonl", "--out", "other")
    every = list(ASKED)
    assert len(every) == 3
    monkeypatch.setattr(Here, "stop_after", 2)
    ran("--to", "answers.jsonl", code=130)
    assert not Path("answers.jsonl").exists()
    monkeypatch.setattr(Here, "stop_after", 10**6)
    ASKED.clear()
    ran("--to", "answers.jsonl")
    assert every[2:] == ASKED
    assert Path("answers.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert not Path("runs/unfinished").exists()


def test_a_full_disk_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if "unfinished" in self.parts:
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    done = CliRunner().invoke(app, [*OPTIONS, "--to", "answers.jsonl", "--out", "small"])
    assert done.exit_code == 2, done.output
    assert "--out small: there is no space left on its disk; make room, or choose another --out" in done.stderr
    assert not any(Path("small").glob("*"))


def test_answers_that_are_there_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "1 + 1?"}\n')
    (tmp_path / "a.jsonl").write_text("answers that something was trained on\n")
    refused = called(
        "regenerate", "--target", "tiny", "--prompts", str(tmp_path / "p.jsonl"), "--to", str(tmp_path / "a.jsonl")
    )
    assert refused.returncode == 2
    assert "is there, and is not written over" in refused.stderr
    assert (tmp_path / "a.jsonl").read_text().startswith("answers")


def test_prompts_of_about_one_length_are_answered_together() -> None:
    prompts = read_prompts([PROMPTS / "gsm8k.jsonl", PROMPTS / "mt-bench.jsonl"])
    units = regenerate.batches(prompts, 4)
    lengths = [[sum(map(len, p.turns)) for p in unit] for unit in units]
    assert sorted(p.prompt_id for unit in units for p in unit) == sorted(p.prompt_id for p in prompts)
    assert all(min(a) >= max(b) for a, b in pairwise(lengths))


def test_what_does_not_fit_is_refused_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_text(
        json.dumps({"id": "a", "prompt": "word " * 4000}) + '\n{"id": "b", "prompt": "Hi"}\n'
    )
    options = [*OPTIONS[:3], "--prompts", "long.jsonl", "--max-new-tokens", "8", "--to", "answers.jsonl"]
    refused = CliRunner().invoke(app, options)
    assert refused.exit_code == 2
    assert "prompt long/a" in refused.stderr
    assert "--skip-long-prompts" in refused.stderr
    assert not (tmp_path / "answers.jsonl").exists()
    done = CliRunner().invoke(app, [*options, "--skip-long-prompts"])
    assert done.exit_code == 0, done.output
    assert "long/a" in done.stdout
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"turns": ["a", "b"]}, ["a", "b"]),
        ({"prompt": "a"}, ["a"]),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}]}, ["a"]),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "x"}]}, ["a"]),
        ({"question_id": 3, "category": "c", "turns": ["a"]}, ["a"]),
        ({"domain": "math", "category": "c", "turns": ["a"]}, ["a"]),
    ],
)
def test_prompts_come_in_several_shapes(row: dict[str, Any], turns: list[str], tmp_path: Path) -> None:
    (tmp_path / "task.jsonl").write_text(json.dumps(row) + "\n")
    [prompt] = read_prompts([tmp_path / "task.jsonl"])
    assert prompt.turns == tuple(turns)
    assert prompt.domain == row.get("domain", row.get("category", "task"))
    assert prompt.prompt_id == f"task/{row.get('question_id', 0)}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "--batch 0"),
        (["--temperature", "nan"], "--temperature: 0 (greedy) or"),
        (["--temperature", "-1"], "--temperature: 0 (greedy) or"),
        (["--top-p", "2"], "--top-p 2.0: must be above 0"),
        (["--top-k", "-1"], "--top-k -1: must be 0"),
        (["--max-new-tokens", "1"], "--max-new-tokens 1: must be 2 or more"),
        (["--temperature", "0", "--top-p", "0.9"], "--top-p: is of no use beside --temperature"),
        (["--engine", "vllm", "--batch", "3"], "--batch: is of no use beside --engine"),
        (["--to", "."], "is a folder"),
        (FILES[:2], "rename one"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, [*OPTIONS, *options])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
