"""Recording targets from folders: those that decode live, and those whose state cannot be rolled back."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest
from transformers import ByT5Tokenizer

import harness.recording.run
from harness.console import Watcher
from harness.hardware.effort import Effort
from harness.hardware.measure import loaded_pair, profile_architecture
from harness.recording.plan import RecordingPlan
from harness.recording.run import estimate, start_run
from harness.recording.suite import Generation
from harness.sweeps.replay import replay_run
from results.store.database import Store
from simulator.errors import InputError
from simulator.policies import PolicySpec
from tests.drafters.families import FAMILIES, micro_model
from tests.harness.test_recording import CLUSTER, OneRecorder

TOKENIZER = Path(__file__).parents[2] / "drafters" / "tiny" / "target"
SAMPLED = Generation(temperature=0.8, top_p=0.9, max_new_tokens=16)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.recording.run, "Pool", OneRecorder)
    monkeypatch.setattr(harness.recording.run, "joined", lambda cluster, doing: nullcontext())


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watcher(said: list[str]) -> Watcher:
    return Watcher(said.append, lambda stage, done, total: None)


def saved(family: str, folder: Path) -> Path:
    """A micro target in a folder, with the bundled tokenizer and generation settings that would change the law."""
    kind, settings = FAMILIES[family]
    model = micro_model(kind, scale=2.0, **{**settings, "vocab_size": 4096})
    model.generation_config.update(eos_token_id=2, repetition_penalty=5.0, do_sample=True, top_k=3)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    return folder


def plan(family: str, folder: Path, **changes: object) -> RecordingPlan:
    """A suite of two prompts, one of two turns, and a pair of the target with look-up."""
    saved(family, folder / "target")
    (folder / "pair.yaml").write_text("target: ./target\ndrafters: {ngram: ngram}\ndtype: float32\ndevice: cpu\n")
    (folder / "suite" / "prompts").mkdir(parents=True)
    (folder / "suite" / "suite.yaml").write_text("name: s\nversion: 1\ntasks: [{name: t, domain: math}]\n")
    rows = [{"turns": ["1 + 1?", "And 2?"]}, {"turns": ["Name a colour."]}]
    (folder / "suite" / "prompts" / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    whole = RecordingPlan(str(folder / "suite"), str(folder / "pair.yaml"), generation=SAMPLED, speed_passes=1)
    return msgspec.structs.replace(whole, **changes)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_target_that_decodes_is_recorded_and_timed(family: str, tmp_path: Path, watcher: Watcher, said: list[str]) -> None:
    store = Store(tmp_path / "runs" / "specyard.duckdb")
    run_id = start_run(plan(family, tmp_path), store, CLUSTER, watcher)
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM responses WHERE drafter = 'none'").fetchone() == (3,)
        assert connection.execute("SELECT count(*) > 0 FROM anchors").fetchone() == (True,)
    assert store.timed(run_id)
    assert not any("no live speed pass" in line for line in said)


def test_a_target_with_a_state_is_recorded_but_not_timed(tmp_path: Path, watcher: Watcher, said: list[str]) -> None:
    """Answers of the whole recorder, batch and order aside, are the target's own under the plan's settings alone."""
    store, asked = Store(tmp_path / "runs" / "specyard.duckdb"), plan("qwen3_next", tmp_path)
    costs = estimate(asked, CLUSTER, watcher)
    assert costs.responses == 3
    run_id = start_run(asked, store, CLUSTER, watcher)
    alone = start_run(msgspec.structs.replace(asked, batch=1), store, CLUSTER, watcher)
    answers = "SELECT prompt_id, turn, token_ids, finish, beyond FROM responses WHERE run_id = ? ORDER BY ALL"
    with store.reading() as connection:
        found = connection.execute(answers, [run_id]).fetchall()
        assert connection.execute(answers, [alone]).fetchall() == found
        counts = connection.execute("SELECT count(*) FROM anchors WHERE run_id = ?", [run_id]).fetchone()
    assert counts == (sum(len(ids) - 1 for _, _, ids, _, _ in found),)
    assert len({tuple(ids) for _, _, ids, _, _ in found}) == 3
    assert not store.timed(run_id)
    [left_out] = {line for line in said if line.startswith("no live speed pass")}
    assert "cannot decode live: its linear attention layers keep a state that cannot be rolled back" in left_out
    assert replay_run(store, run_id, [PolicySpec.fixed(3)], None, calibrated=False, say=said.append)


def test_tokens_that_a_tokenizer_in_python_does_not_know_read_as_nothing(tmp_path: Path, watcher: Watcher) -> None:
    """ByT5's knows 384 tokens and fails on others: a model whose vocabulary is padded may say one."""
    store, asked = Store(tmp_path / "runs" / "specyard.duckdb"), plan("llama", tmp_path)
    for file in (tmp_path / "target").glob("tokenizer*"):
        file.unlink()
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "target")
    start_run(asked, store, CLUSTER, watcher)
    with store.reading() as connection:
        found = connection.execute("SELECT token_ids, text FROM responses").fetchall()
    assert any(max(ids) >= len(tokenizer) for ids, _ in found)
    for ids, text in found:
        assert text == tokenizer.decode([i for i in ids if i < len(tokenizer)], skip_special_tokens=True)


def test_what_a_target_cannot_do_is_refused_before_anything_is_stored(tmp_path: Path, watcher: Watcher) -> None:
    store = Store(tmp_path / "runs" / "specyard.duckdb")
    with pytest.raises(InputError, match=r"--mode live: target .*: cannot decode live: its linear attention layers"):
        start_run(plan("mamba2", tmp_path / "mamba2", mode="live"), store, CLUSTER, watcher)
    with pytest.raises(InputError, match=r"its own `generate` cannot be used .*with --responses"):
        start_run(plan("xlstm", tmp_path / "xlstm"), store, CLUSTER, watcher)
    assert not store.file.exists()


@pytest.mark.parametrize("family", ["qwen3_next", "lfm2"])
def test_what_needs_live_decoding_refuses_a_state_before_weights_are_read(family: str, tmp_path: Path) -> None:
    """As `harness profile` and `harness validate` load a pair: of this one there are no weights to read."""
    plan(family, tmp_path)
    for weights in (tmp_path / "target").glob("*.safetensors"):
        weights.unlink()
    layers = "its .*layers keep a state that cannot be rolled back"
    with (
        pytest.raises(InputError, match=f"^target .*: cannot decode live: {layers}"),
        loaded_pair(str(tmp_path / "pair.yaml")),
    ):
        pass
    with pytest.raises(InputError, match=f"^architecture .*: cannot decode live: {layers}"):
        profile_architecture(str(tmp_path / "target"), {}, Effort(), Watcher(print, lambda *_: None))


def test_given_responses_do_without_generating(tmp_path: Path, watcher: Watcher) -> None:
    """A target whose `generate` does not work here still reads: whole answers of another engine are recorded."""
    asked = plan("xlstm", tmp_path, generation=Generation(temperature=1.0, max_new_tokens=16))
    file = tmp_path / "responses.jsonl"
    with_end = [{"prompt_id": p, "turn": t, "token_ids": [9, 9, 7, 2], "finish": "stop"} for p, t in TURNS]
    file.write_text("\n".join(json.dumps(line) for line in [{"temperature": 1.0}, *with_end]))
    store = Store(tmp_path / "runs" / "specyard.duckdb")
    start_run(msgspec.structs.replace(asked, responses=str(file)), store, CLUSTER, watcher)
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM anchors").fetchone() == (9,)
    cut = [{**line, "token_ids": [9, 9, 7], "finish": "length"} for line in with_end]
    file.write_text("\n".join(json.dumps(line) for line in [{"temperature": 1.0}, *cut]))
    with pytest.raises(InputError, match="its own `generate` cannot be used"):
        start_run(msgspec.structs.replace(asked, responses=str(file)), store, CLUSTER, watcher)
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)


TURNS = [("t/0", 0), ("t/0", 1), ("t/1", 0)]
