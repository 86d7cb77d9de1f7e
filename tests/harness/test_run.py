"""`harness run` as a user runs it: real processes, the bundled pair, workers and drivers killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.documented import differences
from tests.harness.processes import harness, query

pytestmark = pytest.mark.ray

SMALL = ["suites/math_code_chat", "--limit", "2", "--max-new-tokens", "48", "--batch", "4", "--drafter", "dspark",
         "--drafter", "ngram"]  # fmt: skip


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def recorded(out: Path) -> list[tuple[Any, ...]]:
    """All that a run decides: everything but run ids and clocks."""
    tables = ("responses", "rounds", "recordings", "anchors", "calibrations")
    clocks = "EXCLUDE (run_id, draft_s, verify_s)"
    columns = {t: f"* {clocks if t == 'rounds' else 'EXCLUDE (run_id)'}" for t in tables}
    return [row for table in tables for row in query(out, f"SELECT {columns[table]} FROM {table} ORDER BY ALL")]


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        queue += (new := children.get(queue.pop(), []))
        found += new
    return found


def recorders(driver: int) -> list[int]:
    """Worker processes of a driver that hold a recorder."""
    found = []
    for pid in descendants(driver):
        try:
            if b"ray::Recorder" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(f"waited {timeout_s} s for {what}")


def something_recorded(out: Path) -> bool:
    try:
        return bool(query(out, "SELECT 1 FROM responses LIMIT 1"))
    except duckdb.Error:  # not there yet, or held by the writer
        return False


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed run on one worker."""
    out = tmp_path_factory.mktemp("reference")
    done = harness("run", *SMALL, "--actors", "1", "--speed-passes", "1", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    assert differences(done.stdout) == []
    result = json.loads(done.stdout)
    assert Path(result["run"]["report"]).exists()
    assert {row["drafter"] for row in result["speed"]} == {"none", "dspark", "ngram"}
    return out


def test_a_run_records_every_prompt_with_every_drafter(reference: Path) -> None:
    columns = "drafter, gamma, drafting, count(*), count(DISTINCT task)"
    counts = query(reference, f"SELECT {columns} FROM recorded_responses GROUP BY ALL ORDER BY ALL")
    ways = [("dspark", 7, "greedy"), ("dspark", 7, "sampled"), ("ngram", 7, "either"), ("none", 0, "either")]
    assert counts == [(*way, 20, 9) for way in ways]  # mt-bench has two turns
    assert query(reference, "SELECT count(*) FROM responses WHERE turn = 1 AND task <> 'mt-bench'") == [(0,)]
    [(tau_none,)] = query(reference, "SELECT sum(committed) / count(*) FROM rounds WHERE drafter = 'none'")
    assert tau_none == 1
    dspark = "drafter = 'dspark' AND drafting = 'sampled'"
    [(tau_dspark,)] = query(reference, f"SELECT sum(committed) / count(*) FROM rounds WHERE {dspark}")
    assert tau_dspark > 1.3
    [(lengths,)] = query(reference, "SELECT list(DISTINCT len(confidence)) FROM rounds WHERE drafter = 'dspark'")
    assert lengths == [7]
    # An anchor for every response token but the last, and the rounds are their replay.
    assert query(reference, "SELECT count(*) FROM responses") == [(20,)]
    [(tokens, anchors)] = query(
        reference,
        f"SELECT (SELECT sum(output_tokens - 1) FROM responses), (SELECT count(*) FROM anchors WHERE {dspark})",
    )
    assert tokens == anchors
    assert query(reference, "SELECT count(*) FROM rounds WHERE drafter <> 'none' AND draft_s IS NOT NULL") == [(0,)]
    cut = "SELECT DISTINCT len(beyond) FROM responses WHERE finish = 'length'"
    assert max(n for (n,) in query(reference, cut)) == 7
    assert query(reference, "SELECT count(*) FROM speed_samples WHERE seconds <= 0 OR tokens < 1") == [(0,)]
    assert query(reference, "SELECT count(DISTINCT prompt_id) FROM speed_samples") == [(9,)]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers(reference: Path, tmp_path: Path) -> None:
    done = harness("run", *SMALL, "--actors", "2", "--speed-passes", "0", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "accepted length τ" in done.stdout
    assert "not measured" in done.stdout
    assert recorded(tmp_path) == recorded(reference)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_prompts_redone(reference: Path, tmp_path: Path) -> None:
    run = start("run", *SMALL, "--actors", "2", "--speed-passes", "0", "--out", str(tmp_path))
    wait_for(lambda: something_recorded(tmp_path), "the first recorded unit")
    victims = recorders(run.pid)
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    _, stderr = run.communicate(timeout=240)
    assert run.returncode == 0, stderr
    assert "a worker died; it is replaced" in stderr
    assert recorded(tmp_path) == recorded(reference)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_stopped_driver_resumes(how: signal.Signals, reference: Path, tmp_path: Path) -> None:
    run = start("run", *SMALL, "--actors", "2", "--speed-passes", "0", "--out", str(tmp_path))
    wait_for(lambda: something_recorded(tmp_path), "the first recorded unit")
    run.send_signal(how)
    _, stderr = run.communicate(timeout=60)
    if how == signal.SIGINT:
        assert run.returncode == 130
        assert "go on with: harness run --resume" in stderr
        assert "Traceback" not in stderr
    before = query(tmp_path, "SELECT drafter, prompt_id, turn, token_ids FROM responses ORDER BY ALL")
    assert 0 < len(before) < 20
    done = harness("run", "--resume", "latest", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert recorded(tmp_path) == recorded(reference)
    assert query(tmp_path, "SELECT count(*) FROM runs WHERE finished_at IS NOT NULL") == [(1,)]


@pytest.mark.slow
def test_a_cluster_is_joined_and_left_running(reference: Path, tmp_path: Path) -> None:
    code = (
        "import ray, time; context = ray.init(num_cpus=2, include_dashboard=False, logging_level='ERROR'); "
        "print(context.address_info['gcs_address'], flush=True); time.sleep(600)"
    )
    # Recent Ray clusters ask for a token; both sides are given one the way Ray documents it.
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) as cluster:
        try:
            assert cluster.stdout is not None
            address = cluster.stdout.readline().strip()
            options = ["--ray-address", address, "--speed-passes", "0", "--out", str(tmp_path)]
            done = harness("run", *SMALL, *options, env=env)
            assert done.returncode == 0, done.stderr
            assert recorded(tmp_path) == recorded(reference)
            refused = harness("run", *SMALL, *options, "--actors", "3", env=env)
            assert refused.returncode == 2, refused.stderr
            assert "which is enough for 2 workers" in refused.stderr
            assert cluster.poll() is None
        finally:
            cluster.terminate()


@pytest.mark.slow
def test_a_run_whose_pair_or_prompts_changed_does_not_resume(reference: Path, tmp_path: Path) -> None:
    shutil.copy(reference / "specyard.duckdb", tmp_path)
    resume = ["run", "--resume", "latest", "--out", str(tmp_path)]
    done = harness(*resume)
    assert done.returncode == 0
    assert "is already finished" in done.stderr

    def change(sql: str) -> None:
        with duckdb.connect(str(tmp_path / "specyard.duckdb")) as connection:
            connection.execute(sql)

    change("""UPDATE runs SET finished_at = NULL, target = '{"hash": "another", "dtype": "float32"}'""")
    done = harness(*resume)
    assert done.returncode == 2
    assert "target of the pair has changed since" in done.stderr
    change("UPDATE runs SET suite_hash = 'another'")
    done = harness(*resume)
    assert done.returncode == 2
    assert "its prompts have changed since" in done.stderr


def test_commands_print_json_alone(reference: Path) -> None:
    out = ["--out", str(reference)]
    [row] = json.loads(harness("runs", *out, "--json").stdout)["runs"]
    assert row["finished"] is True
    shown = json.loads(harness("show", "latest", *out, "--json").stdout)
    assert shown["run"]["run_id"] == row["run"]
    assert shown["run"]["packages"]["torch"]
    assert len(shown["run"]["drafters"]["dspark"]["checkpoint_hash"]) == 64
    assert json.loads(harness("report", row["run"][:4], *out, "--json").stdout)["report"].endswith("report.html")
    plain = harness("show", *out)
    assert plain.returncode == 0
    assert "suite: " in plain.stdout


@pytest.mark.slow
def test_an_environment_in_a_folder_with_a_blank_has_workers(tmp_path: Path) -> None:
    """Ray hands a worker's program to a shell: `/my env/bin/python` was `/my`, and no worker ever began."""
    own, project = tmp_path / "my env", Path(__file__).parents[2]
    venv.create(own, symlinks=True)
    paths = os.pathsep.join(path for path in (str(project), *sys.path) if path)
    done = subprocess.run(
        [str(own / "bin" / "python"), "-m", "harness", "record", *SMALL, "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": paths}, cwd=project, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "worker hangs" not in done.stderr
