"""What is compiled is said, kept on disk, and found there; where nothing can be kept, everything runs all the same."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numba
import pytest

from simulator import simulation
from simulator.engine.compilation import Kept, heard
from simulator.simulation import COMPILING, NOT_KEPT, ready
from tests.simulator.test_engine import plain_case

IDLE = "def advance(state, tables, limits, rule, cost, until_s):\n    return 0\n"
"""A loop that does nothing and is soon compiled."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which numba keeps what is compiled."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def loop_of(file: Path) -> Kept:
    """A module's loop as another process would find it: on disk at most, not in memory."""
    spec = spec_from_file_location("small", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return Kept(module.advance)


def said(loop: Kept, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What users hear until the loop is ready."""
    lines: list[str] = []
    monkeypatch.setattr(simulation, "advance", loop)
    ready(lines.append)
    return lines


def test_compiling_is_said_and_loading_is_not(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "small.py"
    file.write_text(IDLE)
    assert said(loop_of(file), monkeypatch) == [COMPILING]
    assert said(loop_of(file), monkeypatch) == []
    file.write_text(IDLE.replace("return 0", "return 1 - 1"))
    assert said(loop_of(file), monkeypatch) == [COMPILING]


def test_a_changed_part_is_compiled_anew(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part's code is within the loop's: kept loops must not outlive what they are made of, in whatever file that is."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files of one second and size would look alike to Python too
    file = tmp_path / "small.py"
    file.write_text("from parts import answer\n" + IDLE.replace("return 0", "return answer()"))
    for answer in (0, 1, 1):
        monkeypatch.delitem(sys.modules, "parts", raising=False)
        part = "from simulator.engine.compilation import part\n\n@part\ndef answer():\n    return "
        (tmp_path / "parts.py").write_text(f"{part}{answer}\n")
        loop = loop_of(file)
        assert loop(0, 0, 0, 0, 0, 0) == answer
        assert loop.kept


def test_a_full_disk(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba finds out once it has compiled."""
    file = tmp_path / "small.py"
    file.write_text(IDLE)
    loop = loop_of(file)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        assert said(loop, monkeypatch) == [COMPILING, NOT_KEPT]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not loop.kept
    assert said(loop, monkeypatch) == [NOT_KEPT]
    assert loop(0, 0, 0, 0, 0, 0) == 0


def test_a_folder_that_cannot_be_read(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file has taken its place."""
    file = tmp_path / "small.py"
    file.write_text(IDLE)
    loop = loop_of(file)
    shutil.rmtree(cache)
    cache.touch()
    assert said(loop, monkeypatch) == [COMPILING, NOT_KEPT]
    assert loop(0, 0, 0, 0, 0, 0) == 0


def test_without_a_compiler_there_is_no_simulator(tmp_path: Path) -> None:
    """NUMBA_DISABLE_JIT, left over from measuring coverage, is named."""
    code = "from simulator.simulation import ready; ready(print)"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True
    )
    assert "InputError: NUMBA_DISABLE_JIT" in ended.stderr


def test_no_folder_at_all(tmp_path: Path) -> None:
    """The whole simulator, where neither its own folder nor the user's cache nor the one asked for can be written. Files
    stand where folders would have to be: that stops root as well."""
    package = Path(simulation.__file__).parent
    shutil.copytree(package, tmp_path / "simulator", ignore=shutil.ignore_patterns("__pycache__"))
    blocked = tmp_path / "simulator" / "engine" / "__pycache__"
    blocked.touch()
    within = str(blocked / "within")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment |= dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), within)
    asked = "from simulator.simulation import advance, ready; ready(print); print(advance.kept)"
    done = subprocess.run(
        [sys.executable, "-c", asked], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, [NOT_KEPT, "False"]), done.stderr


@pytest.mark.parametrize("policy", ["none", "prefix_scheduler", "lagged_scheduler:2"])
def test_ready_is_ready_for_any_simulation(policy: str) -> None:
    ready(lambda line: None)
    case = plain_case(policy, count=3, lengths=[5, 9], prompt_tokens=2, users=2, replicas=2)
    with heard(lambda: pytest.fail("something was compiled after all")):
        case.run()
