"""Commands and their database: refused before anything is started, nothing left of what failed, nobody's work done twice."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import harness.recording.run
import harness.sweeps.work
import tuner.course
import tuner.study
from harness.cli.app import app
from harness.cluster import Cluster
from harness.console import Watcher
from harness.published.run import Size, publish
from harness.recording.plan import RecordingPlan
from harness.recording.run import resume_run, start_run
from harness.recording.worker import Checked
from results.store.database import Store
from results.store.rows import response_tables
from results.store.subjects import RUN, STUDY, SUBJECTS, SWEEP, Subject
from simulator.errors import InputError
from simulator.records import Recording
from tests.results.test_store import INFO, RESPONSE
from tests.results.test_store_leases import WORKER, other
from tuner.cli.app import app as tuner_app

SIMULATE = ("simulate", "--hardware", "h100/qwen3-4b", "--seconds", "5", "--decision-draws", "0", "--concurrency", "2,4")
SEARCH = ("search", "--hardware", "h100/qwen3-4b", "--seconds", "5", "--trials", "1", "--concurrency", "4", "--actors", "0")
SILENT = Watcher(lambda text: None, lambda stage, done, total: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with one synthesised run."""
    file = tmp_path_factory.mktemp("made") / "specyard.duckdb"
    publish("paper:qwen3-4b", 0, Size(4, 24), Store(file), lambda text: None)
    return file.read_bytes()


@pytest.fixture
def store(made: bytes, tmp_path: Path) -> Store:
    file = tmp_path / "specyard.duckdb"
    file.write_bytes(made)
    return Store(file)


def command(store: Store, *arguments: str, program: Any = app) -> tuple[int, str, str]:
    done = CliRunner().invoke(program, [*arguments, "--out", str(store.file.parent)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def count(store: Store, subject: Subject) -> int:
    with store.reading() as connection:
        [(found,)] = connection.execute(f"SELECT count(*) FROM {subject.table}").fetchall()
    return int(found)


def interrupt(*arguments: Any, **named: Any) -> Any:
    raise KeyboardInterrupt


def test_a_sweep_that_is_stopped_before_its_first_result_leaves_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.sweeps.work, "ready", interrupt)
    code, _, told = command(store, *SIMULATE)
    assert code == 130
    assert "nothing was recorded" in told
    assert "--resume" not in told
    assert count(store, SWEEP) == 0
    assert "has no sweep yet" in command(store, "simulate", "--resume", "latest")[2]


def test_a_sweep_that_is_stopped_later_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is the latest before it has ended."""
    with monkeypatch.context() as patched:
        patched.setattr(harness.sweeps.work, "_while_slow", lambda w: None if count_simulations(store) < 2 else interrupt())
        code, _, _ = command(store, *SIMULATE)
    assert code == 130
    assert count_simulations(store) == 2
    code, told, _ = command(store, "simulate", "--resume", "latest", "--json")
    assert code == 0
    assert len(json.loads(told)["simulations"]) > 2


def count_simulations(store: Store) -> int:
    with store.reading() as connection:
        [(found,)] = connection.execute("SELECT count(*) FROM simulations").fetchall()
    return int(found)


def test_a_study_that_is_stopped_before_its_first_trial_leaves_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner.course, "search", interrupt)
    code, _, told = command(store, *SEARCH, program=tuner_app)
    assert code == 130
    assert "--resume" not in told
    assert count(store, STUDY) == 0


def test_a_study_whose_resumption_is_refused_stays_finished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner.course, "_finish", lambda studies, study_id, *rest: studies.finish(study_id, []))
    command(store, *SEARCH, program=tuner_app)  # finished, with nothing confirmed to print

    def refuse(*arguments: Any) -> Any:
        raise InputError("no longer")

    monkeypatch.setattr(tuner.study, "study_inputs", refuse)
    code, _, told = command(store, "search", "--resume", "latest", "--trials", "9", program=tuner_app)
    assert (code, told.splitlines()[-1]) == (2, "tuner: no longer")
    with store.reading() as connection:
        sql = "SELECT finished_at IS NOT NULL, plan->>'trials', failure FROM studies"
        assert connection.execute(sql).fetchall() == [(True, "1", None)]


def test_a_synthesised_run_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "specyard.duckdb")
    monkeypatch.setattr("harness.published.run.calibrate", interrupt)
    assert command(store, "synthesize", "--responses-per-task", "2", "--output-tokens", "8")[0] == 130
    assert count(store, RUN) == 0


@pytest.mark.parametrize("place", ["a file", "a folder in a file"])
def test_rows_that_cannot_be_written_leave_no_sweep(store: Store, place: str) -> None:
    file = store.file.with_name("rows")
    file.write_text("a file")
    rows = file if place == "a file" else file / "deeper"
    code, _, told = command(store, *SIMULATE, "--rows", str(rows))
    assert code == 2
    assert told.splitlines()[-1].startswith(f"harness: --rows {rows}: is no folder that can be written")
    assert count(store, SWEEP) == 0


def test_work_that_goes_on_elsewhere_is_not_resumed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run, a sweep and a study, each held by a real process."""
    monkeypatch.setattr(tuner.course, "_finish", interrupt)
    assert command(store, *SIMULATE)[0] == 0
    code, _, told = command(store, *SEARCH, program=tuner_app)
    assert code == 130
    assert "study" in told
    with store.writing() as connection:
        for subject in SUBJECTS.values():
            connection.execute(f"UPDATE {subject.table} SET finished_at = NULL")
    resumed = ((RUN, app, "run"), (RUN, app, "record"), (SWEEP, app, "simulate"), (STUDY, tuner_app, "search"))
    for subject, program, verb in resumed:
        name = store.find(subject, "latest")
        with other(WORKER, str(store.file), name) as worker:
            code, _, told = command(store, verb, "--resume", "latest", program=program)
        assert code == 2
        assert f"{subject.word} {name}: process {worker.pid} on " in told.splitlines()[-1]
        assert " is at work on it; let it finish, or stop it first" in told.splitlines()[-1]
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM runs WHERE failure IS NOT NULL").fetchall() == [(0,)]


class Checks:
    """Workers that find everything sound."""

    size = 1

    def call(self, method: str, *arguments: Any) -> Any:
        assert method == "check"
        target = {
            "source": "t",
            "hash": "h",
            "dtype": "float32",
            "device": "cpu",
            "dated": False,
            "left_out": (),
            "end_tokens": [2],
        }
        return Checked(target, {"none": {"kind": "none", "gamma": 0, "gammas": [0]}}, {})


@contextmanager
def no_cluster(cluster: Cluster, doing: Callable[[str], None]) -> Iterator[None]:
    yield


def recording(
    store: Store, monkeypatch: pytest.MonkeyPatch, work: Any, began: Callable[[str, str | None], None] = SILENT.began
) -> None:
    """Start a run whose work is `work`, without workers."""
    monkeypatch.setattr(harness.recording.run, "joined", no_cluster)
    monkeypatch.setattr(harness.recording.run, "_pool", lambda *arguments: Checks())
    monkeypatch.setattr(harness.recording.run, "_work", work)
    plan = RecordingPlan(suite="math_code_chat", pair="tiny", limit=1)
    start_run(plan, store, Cluster(None, 1, None), dataclasses.replace(SILENT, began=began))


def test_a_run_that_fails_at_its_first_unit_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    store = Store(tmp_path / "runs" / "specyard.duckdb", said.append)

    def refuse(*arguments: Any) -> None:
        raise InputError("--responses mine.jsonl: has token ids out of range")

    with pytest.raises(InputError, match="out of range"):
        recording(store, monkeypatch, refuse)
    assert count(store, RUN) == 0
    assert not any("--resume" in text for text in said)


def test_a_run_that_is_stopped_later_is_told_to_be_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends the command then knows what to go on with."""
    began: list[tuple[str, str | None]] = []
    store = Store(tmp_path / "my runs" / "specyard.duckdb")

    def stop(run_id: str, *arguments: Any) -> None:
        store.add(run_id, response_tables(Recording("dspark", 2), [RESPONSE]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recording(store, monkeypatch, stop, lambda name, resume: began.append((name, resume)))
    run_id = store.find_run("latest")
    assert began == [(f"run {run_id}", run_id)]


def test_a_database_that_cannot_be_written_is_noticed_before_workers_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "specyard.duckdb")
    run_id = store.create_run(INFO)
    content = store.file.read_bytes()

    def started(cluster: Cluster) -> Any:
        raise AssertionError("workers were started")

    monkeypatch.setattr(harness.recording.run, "joined", started)
    store.file.write_bytes(content[:20_000])
    plan = RecordingPlan(suite="math_code_chat", pair="tiny", limit=1)
    with pytest.raises(InputError, match="is damaged"):
        start_run(plan, store, Cluster(None, 1, None), SILENT)
    store.file.write_bytes(content)
    monkeypatch.setattr("results.store.connection.os.access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot be written"):
        resume_run(run_id, store, Cluster(None, 1, None), SILENT)
    with pytest.raises(InputError, match="cannot be written"):
        start_run(plan, Store(tmp_path / "new" / "specyard.duckdb"), Cluster(None, 1, None), SILENT)
    assert not (tmp_path / "new").exists()


def test_a_report_of_nothing_is_refused(store: Store) -> None:
    run_id = store.create_run(INFO)
    code, _, told = command(store, "report", run_id)
    assert code == 2
    assert told.startswith(f"harness: run {run_id}: has no results, so there is nothing to show")
    assert [f.name for f in store.file.parent.iterdir()] == ["specyard.duckdb"]


def test_a_report_goes_where_it_is_told_to(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "elsewhere" / "mine.html"
    code, told, _ = command(store, "report", "--to", str(page))
    assert (code, told.strip()) == (0, str(page))
    assert page.read_text(encoding="utf-8").startswith("<!")
    code, told, _ = command(store, "report", "--format", "csv", "--to", str(tmp_path / "tables"))
    assert code == 0
    assert all(Path(line).parent == tmp_path / "tables" for line in told.split())
    assert not (tmp_path / store.find_run("latest")).exists()  # nothing in the archive
    code, _, told = command(store, "report", "--to", str(tmp_path))
    assert (code, len(told.splitlines())) == (2, 1)
    assert "is a folder; name a file" in told
    (tmp_path / store.find_run("latest")).write_text("in the way")
    code, _, told = command(store, "report")
    assert code == 2
    assert told.strip().endswith("; write it elsewhere with --to")
