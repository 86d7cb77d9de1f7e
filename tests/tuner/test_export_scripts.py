"""Exports as scripts: what is printed writes the files that its command names, and serves as was simulated."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from simulator.load import RecordedArrivals
from simulator.plan import serving_of
from simulator.records import Anchors
from simulator.sentences import told
from simulator.serving.engine import ServingEngine
from simulator.serving.sglang import SGLANG
from simulator.serving.vllm import VLLM
from simulator.traces import Trace, TracedResponse
from tests.tuner.configurations import configuration
from tests.tuner.exports import FOUND, STUDY, WON, decided, models, row_of, study_of
from tuner.export import export_study
from tuner.stored import AtLoad, StoredStudy

TEMPERATURES = [1.5, 0.5]
RESPONSE = TracedResponse("gsm8k", "math", "p", 0, 10)


def printed(monkeypatch: pytest.MonkeyPatch, found: AtLoad, form: str, study: StoredStudy = STUDY) -> str:
    """The export of a study that has found this, in a database of one run."""
    study = msgspec.structs.replace(study, loads=dict.fromkeys(study.plan.loads, found))
    monkeypatch.setattr("tuner.export.read_study", lambda store, name: study)
    drafters = {name: {"kind": name, "checkpoint": f"org/{name}"} for name in ("dspark", "eagle3")}
    run = {"target": {"source": "Qwen/Qwen3-4B"}, "drafters": drafters, "sampling": {"temperature": 0.7}}
    ones = np.ones(30, np.uint8)

    def trace(run_id: str, recording: Any) -> Trace:
        return Trace("dspark", (RESPONSE,), np.array([0, 30]), Anchors(ones, ones, np.ones((30, 7), np.float32)))

    store: Any = SimpleNamespace(
        run=lambda name: run, file=Path("runs/specyard.duckdb"), trace=trace, temperatures=lambda *of: TEMPERATURES
    )
    return export_study(store, "abc", form, None)


def files_after(script: str, folder: Path) -> dict[str, Any]:
    """What a script leaves in a folder, where `python` is a server that starts and ends; and the words that it was given."""
    (folder / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" > words\n")
    (folder / "python").chmod(0o755)
    (folder / "serve.sh").write_text(script)
    subprocess.run(["sh", "serve.sh"], cwd=folder, env={"PATH": f"{folder}:/usr/bin:/bin"}, check=True)
    made = {file.name: json.loads(file.read_text()) for file in folder.glob("*.json")}
    return {**made, "words": (folder / "words").read_text().split("\n")}


@pytest.mark.parametrize("engine", [None, SGLANG])
def test_a_table_of_sglangs_is_written_before_it_is_read(
    engine: ServingEngine | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether the command was decided on, with its note of the file, or is made of what was."""
    run = configuration("eagle3", 7, "k_by_batch:8=7/64=3")
    made = serving_of(STUDY.plan, SGLANG, models("eagle3", "eagle3", 0.7), run)
    decision = msgspec.structs.replace(
        decided(run, engine, made.command if engine else ""), settings=made.speculative or {}, notes=made.told
    )
    found = msgspec.structs.replace(FOUND, winner=WON, decision=decision)
    text = printed(monkeypatch, found, "sglang")
    held = files_after(text, tmp_path)
    assert held["adaptive_steps.json"] == {"1": {"candidate_steps": [7]}, "9": {"candidate_steps": [3]}}
    assert held["words"][held["words"].index("--speculative-adaptive-config") + 1] == "adaptive_steps.json"
    if engine:
        assert text.count("candidate_steps") == 2  # once, in the file
        assert "is a file" not in text
        screen = told(decision)
        lines = [line for line in screen if "adaptive_steps.json" in line]
        assert [line.startswith("  ") for line in lines] == [True, True]  # what writes it, and what reads it
        (tmp_path / "adaptive_steps.json").unlink()
        shown = "\n".join(line for line in screen if line.startswith("  "))
        assert files_after(shown, tmp_path)["adaptive_steps.json"] == held["adaptive_steps.json"]


def test_tables_of_sglangs_scheduler_are_written_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = msgspec.structs.replace(
        row_of("winner", "prefix_scheduler", 0, None), configuration=configuration("dspark", 7, "prefix_scheduler", "raw")
    )
    text = printed(monkeypatch, msgspec.structs.replace(FOUND, winner=row), "sglang")
    held = files_after(text, tmp_path)
    assert held["sts.json"]["temperatures"] == TEMPERATURES
    assert len(held["sps.json"]["sample_batch_tokens"]) == len(held["sps.json"]["sample_steps_per_sec"]) > 7
    assert {"sps.json", "sts.json"} <= {*held["words"]}
    assert all(len(line) <= 80 for line in text.splitlines() if line.startswith("#"))
    assert "sample_batch_tokens" not in "".join(line for line in text.splitlines() if line.startswith("#"))


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("vllm", "--no-enable-prefix-caching"),
        ("sglang", "--disable-radix-cache"),
        ("tensorrt-llm", "{enable_block_reuse: false}"),
    ],
)
def test_what_was_searched_without_a_prefix_cache_is_served_without_one(
    form: str, words: str, keeps: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "mooncake.jsonl"
    rows = [{"timestamp": 1e3 * i, "input_length": 1024, "output_length": 4, "hash_ids": [1, 2 + i]} for i in range(4)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = study_of(loads=[RecordedArrivals.of(log)], prefix_cache=keeps)
    text = printed(monkeypatch, msgspec.structs.replace(FOUND, winner=WON), form, study)
    assert (words in text) != keeps
    assert ("simulated without a prefix cache" in " ".join(text.replace("\n#", "").split())) != keeps
    assert shlex.split(text, comments=True)[0] in (VLLM.serve.split()[0], "python", "trtllm-serve")
