"""Signals: what a stop says, once, and that nothing changes after the end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness.processes import wait_until
from tests.harness.test_stops import start


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
