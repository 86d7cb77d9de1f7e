"""Planning, estimating and resuming, with one recorder in this process instead of Ray's workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import duckdb
import pytest

import harness.recorder
import harness.recording
from drafters.generation import respond
from harness.recorder import Recorder, RecorderOptions
from harness.recording import Plan, estimate, resume_run, start_run
from harness.suites import Generation, Prompt
from harness.watcher import Watcher
from harness.workers import Cluster
from results.store import Store
from simulator.errors import InputError

CLUSTER, SILENT = Cluster(), Watcher(lambda text: None, lambda stage, done, total: None)
GREEDY = Generation(temperature=0.0, max_new_tokens=12)


class OneRecorder:
    """What a pool of one worker does."""

    size = 1

    def __init__(self, cluster: Cluster, kind: type, arguments: tuple[Any, ...], say: Callable[[str], None]) -> None:
        self.recorder = kind(*arguments)

    def call(self, method: str, *arguments: object) -> Any:
        return getattr(self.recorder, method)(*arguments)

    def map(self, method: str, work: Sequence[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        return ((item, self.call(method, *item)) for item in work)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.recording, "Pool", OneRecorder)
    monkeypatch.setattr(harness.recording, "joined", lambda cluster: nullcontext())


@pytest.fixture
def suite(tmp_path: Path) -> str:
    (tmp_path / "suite" / "prompts").mkdir(parents=True)
    (tmp_path / "suite" / "suite.yaml").write_text("name: s\nversion: 1\ntasks: [{name: t, domain: math}]\n")
    rows = [{"turns": ["1 + 1?", "And 2?"]}, {"turns": ["Name a colour."]}]
    (tmp_path / "suite" / "prompts" / "t.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    return str(tmp_path / "suite")


def plan(suite: str, generation: Generation, **changes: Any) -> Plan:
    return Plan(suite, "tiny", drafters=["ngram"], generation=generation, speed_passes=0, **changes)


@pytest.fixture
def given(suite: str, tmp_path: Path) -> Path:
    """The target's own greedy responses, as another engine would give them."""
    store = Store(tmp_path / "own" / "specyard.duckdb")
    start_run(plan(suite, GREEDY), store, CLUSTER, SILENT)
    with store.reading() as connection:
        rows = connection.execute("SELECT prompt_id, turn, token_ids, finish FROM responses ORDER BY ALL").fetchall()
    lines = [{"prompt_id": p, "turn": t, "token_ids": list(ids), "finish": f} for p, t, ids, f in rows]
    file = tmp_path / "responses.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in [{"temperature": 0}, *lines]))
    return file


def lengths(given: Path) -> list[int]:
    return [len(json.loads(line)["token_ids"]) for line in given.read_text().splitlines()[1:]]


def test_given_responses_are_as_long_as_they_are(suite: str, given: Path, tmp_path: Path) -> None:
    """A length limit beyond the target's context says nothing of responses that are there already."""
    boundless = Generation(temperature=0.0, max_new_tokens=5000)
    store = Store(tmp_path / "specyard.duckdb")
    with pytest.raises(InputError, match="prompt t/0: needs up to 10"):
        start_run(plan(suite, boundless), store, CLUSTER, SILENT)
    run_id = start_run(plan(suite, boundless, responses=str(given)), store, CLUSTER, SILENT)
    assert store.run(run_id)["sampling"]["max_new_tokens"] == max(lengths(given))

    costs = estimate(plan(suite, boundless, responses=str(given)), CLUSTER, SILENT)
    anchors = sum(lengths(given)) - len(lengths(given))
    assert (costs.responses, costs.anchors, costs.given) == (3, anchors, True)
    assert costs.seconds == pytest.approx(sum(lengths(given)) * costs.probe.record_s)  # nothing is left to generate
    own = estimate(plan(suite, GREEDY), CLUSTER, SILENT)
    assert own.seconds == pytest.approx(3 * 12 * (own.probe.generate_s + own.probe.record_s))


def test_a_run_whose_responses_changed_does_not_resume(
    suite: str, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, read_bytes = [], Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    store = Store(tmp_path / "specyard.duckdb")
    run_id = start_run(plan(suite, GREEDY, responses=str(given)), store, CLUSTER, SILENT)
    assert reads.count(given) == 1

    with duckdb.connect(str(store.file)) as connection:
        connection.execute("UPDATE runs SET finished_at = NULL")
    resume_run(run_id, store, CLUSTER, SILENT)
    assert store.run(run_id)["finished_at"] is not None
    with duckdb.connect(str(store.file)) as connection:
        connection.execute("UPDATE runs SET finished_at = NULL")
    header, first, *others = given.read_text().splitlines()
    given.write_text("\n".join([header, *others, first]))
    with pytest.raises(InputError, match=r"responses\.jsonl: has changed since .* start a new run"):
        resume_run(run_id, store, CLUSTER, SILENT)


def test_a_probe_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(RecorderOptions("tiny", ["ngram"], None, GREEDY, 0))
    seen: list[int] = []

    def watched(target: Any, requests: Any, *rest: Any, **options: Any) -> Any:
        seen.extend(r.max_new_tokens for r in requests)
        assert recorder.generation is GREEDY
        return respond(target, requests, *rest, **options)

    monkeypatch.setattr(harness.recorder, "respond", watched)
    probe = recorder.probe([Prompt("t", "math", "t/0", ("1 + 1?",))], 5)
    assert seen == [5, 5 + 7]  # a warm-up, and a response with what acceptances need beyond it
    assert probe.generate_s > 0
