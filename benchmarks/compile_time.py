"""What the first simulation on a machine waits for, and later ones: `python benchmarks/compile_time.py` prints it.

Three times `harness simulate`, of three policies at 8 users: nothing compiled yet, compiled before, and with no folder that
could be written. Seconds of processor time are what a machine with nothing else to do would take.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import simulator
from simulator.simulation import COMPILING, NOT_KEPT

LATER = 5
"""Runs, of which the quickest counts."""
ASKED = ["simulate", "--hardware", "h100/qwen3-4b", "--drafter", "dspark", "--concurrency", "8", "--seconds", "60"]


def harness(*arguments: str, folder: Path, **environment: str) -> tuple[float, float, str]:
    """(wall-clock seconds, processor seconds, what was said) of a command."""
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments, "--out", str(folder / "runs")],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, cpu_s, done.stderr


def main() -> None:
    """Measure, check what was said, print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        harness("synthesize", "--responses-per-task", "6", "--output-tokens", "96", folder=folder)
        cache = str(folder / "cache")
        wall_s, cpu_s, said = harness(*ASKED, folder=folder, NUMBA_CACHE_DIR=cache)
        assert said.count(COMPILING) == 1, said
        print(f"first start: {wall_s:.1f} s, {cpu_s:.1f} s of processor time")
        later = [harness(*ASKED, folder=folder, NUMBA_CACHE_DIR=cache) for _ in range(LATER)]
        assert not any("compil" in said for _, _, said in later), later
        print(f"later starts: {min(wall_s for wall_s, _, _ in later):.1f} s, {min(cpu_s for _, cpu_s, _ in later):.1f} s")
        # A copy whose folders cannot be made, not even by root: a file is where each would have to be.
        copy = folder / "copy" / "simulator"
        shutil.copytree(Path(simulator.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
        blocked = copy / "engine" / "__pycache__"
        blocked.touch()
        nowhere = dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME"), str(blocked / "folder"))
        path = os.pathsep.join([str(copy.parent), *filter(None, sys.path)])
        wall_s, cpu_s, said = harness(*ASKED, folder=folder, PYTHONPATH=path, **nowhere)
        assert said.count(NOT_KEPT) == 1, said
        print(f"every start where nothing can be kept: {wall_s:.1f} s, {cpu_s:.1f} s")


if __name__ == "__main__":
    main()
