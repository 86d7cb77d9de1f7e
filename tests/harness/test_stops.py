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
    assert shlex.split(go_on) == [*words, "--out", str(out)]
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


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    code = """
import time
from harness.stops import keep, stoppable
with stoppable("harness"):
    keep("run 3f9c", "3f9c")
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(60)  # what hangs while it is put away
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert time.monotonic() - began < 1
    assert process.returncode == 143
    assert stderr.splitlines() == ["harness: stopped; run 3f9c keeps what it has, go on with: harness --resume 3f9c"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("", "; nothing new is kept, begin again with: harness profile --out 'my runs'"),
        (
            "keep('run 3f9c', '3f9c')",
            "; run 3f9c keeps what it has, go on with: harness profile --resume 3f9c --out 'my runs'",
        ),
        (
            "keep('run 3f9c', '3f9c'); keep('', None)",
            "; nothing new is kept, begin again with: harness profile --out 'my runs'",
        ),
        ("keep('run 3f9c', '3f9c'); finished('the profile')", "; the profile is finished"),
    ],
)
def test_what_a_stop_at_work_says(kept: str, said: str, how: signal.Signals) -> None:
    code = f"""
import os
from harness.stops import command_is, finished, keep, stoppable, working
with stoppable("harness"):
    command_is("profile", ["--out", "my runs"], {{"--out": True}})
    with working():
        {kept}
        os.kill(os.getpid(), {int(how)})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (128 + how, f"harness: stopped{said}\n")


def test_what_could_not_be_resumed_again_is_not_said() -> None:
    """A run of which nothing was recorded goes when it is stopped, and its id with it."""
    code = """
import os, signal
from harness.stops import command_is, keep, stoppable, working
with stoppable("harness"):
    command_is("run", ["--resume=3f9c"], {})
    with working():
        keep("run 3f9c", "3f9c")
        keep("", None)
        os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "harness: stopped\n"


def test_after_its_work_a_command_is_only_stopped() -> None:
    """Nothing is to be begun again then: what it found is stored, or was to be printed only."""
    code = """
import os, signal
from harness.stops import stoppable, working
with stoppable("harness"):
    with working():
        pass
    os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "harness: stopped\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_a_callback_swallows_comes_again(how: signal.Signals) -> None:
    """Compiled code calls back, and nothing can be raised through it: no traceback, and the command ends all the same."""
    code = f"""
import ctypes, os, time
from harness.stops import stoppable

@ctypes.CFUNCTYPE(None)
def callback():
    os.kill(os.getpid(), {int(how)})
    for _ in range(1000):
        pass

with stoppable("harness"):
    callback()
    time.sleep(30)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert time.monotonic() - began < 5
    assert (done.returncode, done.stderr) == (128 + how, "harness: stopped\n")


def test_what_comes_again_is_no_second_signal() -> None:
    """A callback that is slow to notice: the command has its time to put things away all the same."""
    code = """
import ctypes, os, signal, time
from harness.stops import stoppable

@ctypes.CFUNCTYPE(None)
def callback():
    until = time.monotonic() + 0.8
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    try:
        os.kill(os.getpid(), signal.SIGINT)
        while time.monotonic() < until:
            pass
    finally:
        while time.monotonic() < until:
            pass

with stoppable("harness"):
    try:
        callback()
        time.sleep(30)
    finally:
        time.sleep(1)
        print("put away", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "put away\n", "harness: stopped\n")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ending", ["time.sleep(2)", "atexit.register(time.sleep, 2)", "Slow.kept = Slow()"])
@pytest.mark.parametrize("code", [0, 3])
def test_a_signal_after_the_end_changes_nothing(ending: str, how: signal.Signals, code: int) -> None:
    """While threads, what libraries registered, or modules are put away, where the interpreter has no handlers any more."""
    program = f"""
import atexit, sys, time
from harness.stops import stoppable

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(2)

try:
    with stoppable("harness"):
        print("done", flush=True)
        raise SystemExit({code})
finally:
    {ending}
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=10)
    assert (process.returncode, stderr) == (code, "")


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1, 0.2, 0.4])
def test_a_stop_while_importing_is_one_line(delay_s: float, tmp_path: Path) -> None:
    process = start("harness simulate --hardware h100/qwen3-4b --concurrency 8", "--out", str(tmp_path))
    wait_until(lambda: b"harness" in Path(f"/proc/{process.pid}/cmdline").read_bytes(), every_s=0.001)
    time.sleep(0.15 + delay_s)  # the interpreter's own start is not ours
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    if "no such database" in stderr:  # it had ended by itself, or was about to
        assert process.returncode == 2
        assert stderr.count("\n") == 1
    else:
        assert (process.returncode, stderr) in {(143, "harness: stopped\n"), (-15, "")}


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    command = f"{sys.executable} -m harness hardware | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout[1:] in ("141\n", "0\n")
    unread = subprocess.Popen([sys.executable, "-m", "harness", "hardware"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert unread.stdout is not None
    assert unread.stderr is not None
    unread.stdout.close()
    assert unread.stderr.read() == b""
    assert unread.wait() == 141


def workers(driver: int) -> list[int]:
    """Processes of a driver's workers."""
    return [pid for pid in descendants(driver) if name(pid).startswith("ray::Recorder")]


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    except OSError:
        return ""
