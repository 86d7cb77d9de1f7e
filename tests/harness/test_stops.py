"""Commands that are stopped: what they say, their exit codes, and that the resumed content is the unstopped one's."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from tests.harness.processes import killed_after, query, wait_until
from tests.harness.test_run import descendants

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
MOMENTS = 8
"""At which each kind is stopped; the fast suite has the first ones."""


def moments(few: int) -> list[object]:
    """Numbers of moments, all but the first few marked as slow."""
    return [*range(few), *(pytest.param(i, marks=pytest.mark.slow) for i in range(few, MOMENTS))]


RUN = "harness run suites/math_code_chat --limit 1 --max-new-tokens 24 --batch 2 --drafter ngram --actors 1 --speed-passes 0"
SEARCH = (
    "tuner search --hardware h100/qwen3-4b --concurrency 8 --trials 12 --seconds 20 --confirmation-draws 5 "
    "--decision-draws 10 --actors 0 --policy fixed"
)


def start(command: str, *options: str) -> subprocess.Popen[str]:
    """A command as a user types it, in a session of its own, as a terminal's."""
    program, *words = [*shlex.split(command), *options]
    return subprocess.Popen(
        [sys.executable, "-m", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def finished(command: str, *options: str) -> float:
    """Run to the end; returns the seconds it took."""
    began = time.monotonic()
    process = start(command, *options)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return time.monotonic() - began


def stop_and_go_on(command: str, out: Path, moment: int, whole_s: float) -> None:
    """Stop a command at a moment of its time that the number decides, and go on as it says until it is done."""
    rng = random.Random(moment)
    process = start(command, "--out", str(out))
    how = SIGNALS[moment % len(SIGNALS)]
    time.sleep(rng.uniform(0.05, 1.0) * whole_s)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    if how != signal.SIGKILL and process.returncode == -how and (ends := ends_of(command, out)):
        assert None not in ends  # all was stored, and Python was about to end: it takes its handlers away before
        return
    if how != signal.SIGKILL and process.returncode != 0:  # 0: it was done before
        assert process.returncode == 128 + how, stderr
        assert "Traceback" not in stderr
        last = stderr.strip().splitlines()[-1]
        program = command.split()[0]
        assert last.startswith(f"{program}: stopped")
        if "go on with: " in last:
            finished(last.split("go on with: ")[1])
            return
        for way in ("see it with: ", "begin again with: "):
            if way in last:
                finished(last.split(way)[1])
                return
        assert last == f"{program}: stopped"
    if how == signal.SIGKILL and (ends := ends_of(command, out)):
        if None in ends:
            finished(f"{' '.join(command.split()[:2])} --resume latest", "--out", str(out))
        return  # else all was stored, and the process was about to end
    if process.returncode != 0:
        finished(command, "--out", str(out))


def ends_of(command: str, out: Path) -> list[object]:
    """When the runs with responses of a command, or studies with trials, were finished, None for what is not; nothing before
    the tables are there."""
    if not (out / "specyard.duckdb").exists():
        return []
    searched = command.startswith("tuner")
    tables = "studies JOIN trials USING (study_id)" if searched else "runs JOIN responses USING (run_id)"
    try:
        return [finished_at for (finished_at,) in query(out, f"SELECT DISTINCT finished_at FROM {tables}")]
    except duckdb.CatalogException:
        return []


def digest(out: Path, **tables: str) -> str:
    """A hash of all rows of tables, but for the columns named."""
    content = [query(out, f"SELECT * EXCLUDE ({columns}) FROM {table} ORDER BY ALL") for table, columns in tables.items()]
    return hashlib.sha256(repr(content).encode()).hexdigest()


RECORDED = {
    "responses": "run_id", "rounds": "run_id, draft_s, verify_s", "recordings": "run_id", "anchors": "run_id",
}  # fmt: skip
SEARCHED = {
    "trials": "study_id, wall_s", "confirmations": "study_id", "sensitivities": "study_id", "decisions": "subject",
}  # fmt: skip


@pytest.fixture(scope="module")
def unstopped_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """Hash and seconds of a run that nobody stops."""
    out = tmp_path_factory.mktemp("run")
    seconds = finished(RUN, "--out", str(out))
    return digest(out, **RECORDED), seconds


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a run to search."""
    out = tmp_path_factory.mktemp("traces")
    how = "--survival .72,.53,.38 --drafter 'my head=eagle3' --target mine/Own-4B"  # a name that tells no kind
    finished(f"harness synthesize {how} --responses-per-task 12 --output-tokens 64", "--out", str(out))
    return out / "specyard.duckdb"


@pytest.fixture(scope="module")
def unstopped_search(traces: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """Hash and seconds of a search that nobody stops."""
    out = tmp_path_factory.mktemp("search")
    (out / traces.name).write_bytes(traces.read_bytes())
    seconds = finished(SEARCH, "--out", str(out))
    return digest(out, **SEARCHED), seconds


@pytest.mark.ray
@pytest.mark.parametrize("moment", moments(0))
def test_a_driver_goes_on(moment: int, unstopped_run: tuple[str, float], tmp_path: Path) -> None:
    out = tmp_path / "out with spaces"
    stop_and_go_on(RUN, out, moment, unstopped_run[1])
    assert digest(out, **RECORDED) == unstopped_run[0]


@pytest.mark.ray
@pytest.mark.parametrize("moment", moments(0))
def test_an_actor_is_replaced(moment: int, unstopped_run: tuple[str, float], tmp_path: Path) -> None:
    process = start(RUN, "--out", str(tmp_path))
    rng, killed = random.Random(moment), 0
    deadline = time.monotonic() + 240
    while process.poll() is None and not killed and time.monotonic() < deadline:
        time.sleep(0.1)
        found = workers(process.pid)
        if found:
            time.sleep(rng.uniform(0.0, 0.5) * unstopped_run[1])
            killed = found[0]
            try:
                os.kill(killed, signal.SIGKILL)
            except ProcessLookupError:  # done before
                break
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert digest(tmp_path, **RECORDED) == unstopped_run[0]


@pytest.mark.parametrize("moment", moments(1))
def test_a_search_goes_on(moment: int, traces: Path, unstopped_search: tuple[str, float], tmp_path: Path) -> None:
    out = tmp_path / "out with spaces"
    out.mkdir()
    (out / traces.name).write_bytes(traces.read_bytes())
    stop_and_go_on(SEARCH, out, moment, unstopped_search[1])
    assert digest(out, **SEARCHED) == unstopped_search[0]


def stopped_after_a_part(command: str, out: Path, how: signal.Signals) -> str:
    """Stop a command that stores only a whole once it has kept a part; returns the command that it says goes on."""
    process = start(command, "--out", str(out))
    wait_until(lambda: process.poll() is not None or list(out.rglob("unfinished/*/*.part")), 400, every_s=0.01)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + how, stderr
    assert "Traceback" not in stderr
    last = stderr.strip().splitlines()[-1]
    words = shlex.split(command)
    assert last.startswith(f"{words[0]}: stopped; ")
    _, _, go_on = last.partition(" keeps what it has, go on with: ")
    assert shlex.split(go_on) == [*words, "--out", str(out)], stderr
    return go_on


def gone_on(command: str) -> str:
    """What the command that goes on says on stderr."""
    process = start(command)
    _, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stderr
    return stderr


STOPS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.slow
@pytest.mark.parametrize("how", STOPS)
def test_sensitivity_goes_on(how: signal.Signals, traces: Path, tmp_path: Path) -> None:
    command = "harness sensitivity --hardware h100/qwen3-4b --concurrency 4 --seconds 1 --drafter 'my head'"
    out, whole = tmp_path / "out with spaces", tmp_path / "whole"
    for folder in (out, whole):
        folder.mkdir()
        (folder / traces.name).write_bytes(traces.read_bytes())
    finished(command, "--out", str(whole))
    go_on = stopped_after_a_part(command, out, how)
    assert query(out, "SELECT count(*) FROM tolerances") == [(0,)]
    assert "goes on after " in gone_on(go_on)
    same = {"tolerances": "tolerance_id, created_at, command"}
    assert digest(out, **same) == digest(whole, **same)
    assert not (out / "unfinished").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("how", STOPS)
def test_a_validation_goes_on_after_what_was_measured(how: signal.Signals, recorded: Path, tmp_path: Path) -> None:
    """What was served live is kept, and is what the resumed validation stores: it cannot be measured the same twice."""
    command = (
        "harness validate --time-limit 4 --concurrency 1,2,4 --hardware h100/qwen3-4b --drafter none --max-new-tokens 8"
    )
    out = tmp_path / "out with spaces"
    out.mkdir()
    (out / recorded.name).write_bytes(recorded.read_bytes())
    go_on = stopped_after_a_part(command, out, how)
    ran = [
        sorted(one["figures"].items())
        for part in out.rglob("*.part")
        if isinstance(kept := msgspec.msgpack.decode(part.read_bytes()), dict)
        for one in kept.get("ran", ())
    ]
    assert len(ran) == 3
    assert query(out, "SELECT count(*) FROM validations") == [(0,)]
    said = gone_on(go_on)
    assert "goes on after " in said
    assert "live for about" not in said
    measured = query(out, "SELECT measured FROM validations ORDER BY point")
    assert [sorted(json.loads(one).items()) for (one,) in measured] == ran
    assert not (out / "unfinished").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("measured", [False, True])
def test_live_servers_go_on_in_the_middle(how: signal.Signals, measured: bool, recorded: Path, tmp_path: Path) -> None:
    """With a profile that is given, and with one that is measured by turns with them."""
    hardware = "" if measured else "--hardware h100/qwen3-4b "
    command = (
        f"harness validate --time-limit 24 --concurrency 2 {hardware}--drafter none --max-new-tokens 8 --out {tmp_path}"
    )
    (tmp_path / recorded.name).write_bytes(recorded.read_bytes())
    process = start(command)
    with killed_after(120, process):
        while not live_states(tmp_path):
            assert process.poll() is None, "it ended before"
            time.sleep(0.1)
        process.send_signal(how)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + how, stderr
    [last] = live_states(tmp_path)
    said = gone_on(stderr.strip().splitlines()[-1].split("go on with: ")[1])
    assert "goes on after " in said
    [(seconds, steps)] = query(tmp_path, "SELECT seconds, steps FROM validations")
    [server] = last["servers"]
    assert seconds > server["clock_s"] > 0
    assert steps > len(server["steps"]) > 0
    if not measured:  # else there are three sweeps at least, however long they take
        assert seconds < 24.5  # of both sittings and one slice more; not of another whole one after the first
    assert not (tmp_path / "unfinished").exists()


def live_states(out: Path) -> list[Any]:
    """What is kept of live servers, if anything is."""
    parts = [msgspec.msgpack.decode(file.read_bytes()) for file in out.rglob("*.part")]
    return [part for part in parts if isinstance(part, dict) and "live_s" in part]


@pytest.mark.slow
@pytest.mark.parametrize("how", STOPS)
def test_a_profile_goes_on(how: signal.Signals, tmp_path: Path) -> None:
    """Whole sweeps over all shapes are kept; the profile says that it was measured in two sittings."""
    out = tmp_path / "out with spaces"
    command = "harness profile --time-limit 8 --max-requests 2 --context-tokens 64 --memory-gb 1 --drafter ngram"
    go_on = stopped_after_a_part(command, out, how)
    assert not (out / "hardware").exists()
    assert "goes on after " in gone_on(go_on)
    profile = json.loads((out / "hardware/cpu/tiny.json").read_text())
    assert " in 2 sittings" in profile["provenance"]["grid"]
    assert not (out / "unfinished").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", STOPS)
def test_a_reproduction_goes_on(how: signal.Signals, reproduced: str, tmp_path: Path) -> None:
    out = tmp_path / "out with spaces"
    go_on = stopped_after_a_part("harness reproduce paper --json", out, how)
    process = start(go_on)
    stdout, stderr = process.communicate(timeout=900)
    assert process.returncode == 0, stderr
    assert "goes on after " in stderr
    assert stdout == reproduced
    assert not (out / "unfinished").exists()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a run that can be served live."""
    out = tmp_path_factory.mktemp("recorded")
    finished(
        "harness record suites/math_code_chat --limit 2 --max-new-tokens 12 --drafter mtp --actors 1", "--out", str(out)
    )
    return out / "specyard.duckdb"


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `reproduce` prints where nobody stops it."""
    process = start("harness reproduce paper --json", "--out", str(tmp_path_factory.mktemp("reproduced")))
    stdout, stderr = process.communicate(timeout=900)
    assert process.returncode == 0, stderr
    return stdout


@pytest.mark.slow
@pytest.mark.ray
def test_a_frozen_raylet_is_noticed(tmp_path: Path) -> None:
    """Ray itself would wait for ever, or end the process without a word."""
    process = start(RUN, "--out", str(tmp_path))
    wait_until(lambda: process.poll() is not None or workers(process.pid))
    assert process.poll() is None
    raylets = [pid for pid in descendants(process.pid) if name(pid).endswith("/raylet")]
    os.kill(raylets[0], signal.SIGSTOP)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 70, stderr
    assert "does not answer any more" in stderr.strip().splitlines()[-1]


def workers(driver: int) -> list[int]:
    """Processes of a driver's workers."""
    return [pid for pid in descendants(driver) if name(pid).startswith("ray::Recorder")]


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    except OSError:
        return ""
