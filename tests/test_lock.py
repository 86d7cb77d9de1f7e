"""The lock holds what pyproject.toml asks for, on every Python and system, and nothing of where it was made."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
TORCH = (ROOT / "tools" / "torch.txt").read_text(encoding="utf-8").strip()
SYSTEMS = {("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64")}


@cache
def entries() -> list[tuple[Requirement, int]]:
    """Every locked package, and how many hashes it has."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", LOCK)).splitlines()
    return [(Requirement(line.partition(" --hash")[0]), line.count("--hash=sha256:")) for line in lines]


def asked() -> Iterator[Requirement]:
    """What pyproject.toml asks for, torch apart."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    texts = [*project["project"]["dependencies"], *extras["dev"], *extras["gguf"]]
    texts += [*project["build-system"]["requires"], *project["dependency-groups"]["setup"]]
    yield from (r for r in map(Requirement, texts) if r.name != "torch")


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_every_requirement_is_met_by_one_version(python: str) -> None:
    for platform, system, machine in SYSTEMS:
        here = dict(default_environment()) | {"python_version": python, "python_full_version": f"{python}.1"}
        here |= {"sys_platform": platform, "platform_system": system, "platform_machine": machine}
        locked: dict[str, str] = {}
        for entry, _ in entries():
            if entry.marker is None or entry.marker.evaluate(here):
                [pin] = entry.specifier
                assert pin.operator == "=="
                assert canonicalize_name(entry.name) not in locked
                locked[canonicalize_name(entry.name)] = pin.version
        for requirement in asked():
            version = locked[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement}: {version} is locked; `make lock`"


def test_everything_is_hashed_and_nothing_says_where_it_came_from() -> None:
    assert len(entries()) > 50
    assert all(hashes for _, hashes in entries())
    assert "://" not in LOCK
    assert not re.search(r"^\s*--(?!hash)|-index|find-links", LOCK, re.MULTILINE)


def test_torch_and_its_cuda_are_not_in_the_lock() -> None:
    assert not [e.name for e, _ in entries() if re.match(r"torch|triton|nvidia|cuda", e.name)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [bound] = [r for r in map(Requirement, project["project"]["dependencies"]) if r.name == "torch"]
    [pin] = Requirement(TORCH).specifier
    assert bound.specifier.contains(pin.version)
    assert f"pip install {TORCH}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command", [["bash", "tools/setup.sh", "{venv}", "no.lock"], ["make", "run", "VENV={venv}", "LOCK=no.lock"]]
)
def test_a_missing_lock_is_told_in_one_sentence(command: list[str], tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    done = subprocess.run([word.format(venv=venv) for word in command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert line.startswith("setup: no.lock is missing: ")
    assert not venv.exists()


def test_a_missing_lock_stops_an_environment_made_before(tmp_path: Path) -> None:
    (tmp_path / "ready-no.lock").touch()
    done = subprocess.run(["make", "setup", f"VENV={tmp_path}", "LOCK=no.lock"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "setup: no.lock is missing" in done.stderr
