"""Every text file that is read may begin with the mark that some editors put there, UTF-8's byte order mark.

Baselines are in tests/results/test_gate.py."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from drafters.configs import read_config
from drafters.random_models import random_target
from harness.published.averages import target_of
from harness.recording.pair import load_pair, read_template
from harness.recording.responses import read_responses
from harness.recording.suite import Prompt, load_suite
from harness.served.acceptance import acceptance_of
from harness.served.kept import traces_of
from harness.served.server import together
from harness.served.sources.registry import read_files
from harness.training.plan import read_given
from simulator.arrivals import RecordedRequests
from simulator.hardware.catalogue import find_profile
from simulator.hardware.profile import dump_profile, load_profile
from simulator.records import Sampling
from tests.drafters.conftest import micro_config
from tests.harness.served.writing import Truth, answers, dspark_dump, vllm_log, vllm_metrics

SUITE = "name: s\nversion: 1\ntasks: [{name: t, domain: math, hub: {file: HUB, turns: ['{q}']}}]\n"
CONFIG = json.dumps({"model_type": "qwen3", "_name_or_path": "mine"})


def suite(file: Path, source: Any = "bundled") -> Any:
    """The prompts of the suite in whose folder the file is."""
    folder = file if (file / "suite.yaml").exists() else file.parent
    folder = folder if (folder / "suite.yaml").exists() else folder.parent
    return load_suite(str(folder), source=source).prompts


def server_of(file: Path) -> Any:
    """What a server was seen to do, as a trace of it."""
    server = together(*read_files([file]))
    trace, _ = traces_of(server, acceptance_of(server), "mine", "eagle3", 0)
    return trace.anchors.accepted.tolist()


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "suite.yaml": (SUITE, suite),
    "prompts/t.jsonl": ('{"turns": ["1 + 1?"]}\n', suite),
    "hub.jsonl": ('{"q": "2 + 2?"}\n', lambda file: suite(file, "hub")),
    "pair.yaml": ("target: ./target\ndrafters: {mine: ./mine}\n", lambda file: load_pair(str(file))),
    "own.jinja": ("{{ messages[0].content }}", lambda file: read_template(str(file), "--chat-template")),
    "responses.jsonl": (
        '{"temperature": 0}\n{"prompt_id": "t/0", "token_ids": [1, 2], "finish": "length"}\n',
        lambda file: read_responses([file], [Prompt("t", "math", "t/0", ("?",))], Sampling(0)).of_prompt,
    ),
    "profile.json": (dump_profile(find_profile("h100/qwen3-4b")), load_profile),
    "arrivals.csv": (
        "arrival_s,prompt_tokens,output_tokens\n0.0,3,4\n1.0,5,6\n",
        lambda file: RecordedRequests.read(file, 1.0).arrival_s.tolist(),
    ),
    "arrivals.jsonl": (
        '{"t": 0.0, "in": 3, "out": 4}\n{"t": 1.0, "in": 5, "out": 6}\n',
        lambda file: RecordedRequests.read(file, 1.0).arrival_s.tolist(),
    ),
    "target/config.json": (CONFIG, lambda file: target_of(str(file))),
    "drafter/config.json": (CONFIG, lambda file: read_config(file.parent)),
    "mini.json": (
        json.dumps(micro_config(vocab_size=64).to_dict()),
        lambda file: random_target(str(file), device="cpu", dtype=torch.float32, seed=0).num_layers,
    ),
    "served.log": (vllm_log(Truth(), [4] * 12), server_of),
    "served.prom": (vllm_metrics(100, (80, 60, 30), 400, 20), server_of),
    "served.jsonl": (answers(12), server_of),
    "dump.json": (dspark_dump(), server_of),
    "answers.jsonl": (
        '{"temperature": 0}\n{"prompt_id": "t/0", "token_ids": [1, 2], "finish": "length", "prompt_token_ids": [3]}\n',
        lambda file: read_given([file], []).responses,
    ),
}  # fmt: skip
"""By file: what it holds, and what reads it."""


@pytest.mark.parametrize("name", READERS)
def test_a_mark_at_the_start_changes_nothing(name: str, tmp_path: Path) -> None:
    for other, (content, _) in READERS.items():
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_text(content.replace("HUB", str(tmp_path / "hub.jsonl")), encoding="utf-8")
    file, read = tmp_path / name, READERS[name][1]
    plain = read(file)
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert read(file) == plain
    assert plain
