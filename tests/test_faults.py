"""Planted faults: the tool that plants them, on a project of a few lines; and that all of ours can still be planted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.faults import FAULTS, ROOT, Fault, FaultError, judge, kills

DOUBLED = Fault("a sum that is a product", "sums.py", "a + b", "a * b", "test_sums.py::test_of_three")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one function, and two tests of which one notices little."""
    files = {
        "sums.py": "def added(a, b):\n    return a + b\n",
        "test_sums.py": "from sums import added\n\n\ndef test_of_three():\n    assert added(1, 2) == 3\n\n\n"
        "def test_of_two():\n    assert added(2, 2) == 4\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_can_be_planted(fault: Fault, tmp_path: Path) -> None:
    (tmp_path / fault.file).parent.mkdir(parents=True)
    (tmp_path / fault.file).write_text((ROOT / fault.file).read_text(encoding="utf-8"), encoding="utf-8")
    fault.plant(tmp_path)
    compile((tmp_path / fault.file).read_text(encoding="utf-8"), fault.file, "exec")


@pytest.mark.slow
def test_every_fault_names_a_test_that_is_there() -> None:
    """With its parameters: a test that gained one is another, and its fault would fail at nothing."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", *(fault.test for fault in FAULTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_what_is_noticed_is_killed_and_what_is_not_survives(project: Path) -> None:
    said: list[str] = []
    assert judge([DOUBLED], project, said.append)
    assert not judge([DOUBLED, replace(DOUBLED, name="another", test="test_sums.py::test_of_two")], project, said.append)
    assert [line.split()[0] for line in said] == ["killed", "killed", "killed", "SURVIVED", "killed"]
    assert [said[1], said[-1]] == ["killed 1 of 1", "killed 1 of 2"]
    assert "another" in said[3]
    assert (project / "sums.py").read_text().endswith("a + b\n")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"right": "a - b"}, r"a sum that is a product: sums\.py has 0 times, not once: a - b"),
        ({"right": "a"}, r"sums\.py has \d times, not once: a$"),
        ({"wrong": "a +"}, "did not run to the end"),
        ({"wrong": "nothing"}, "fails at what it does not assert: NameError"),
        ({"test": "test_sums.py::test_of_four"}, "did not run to the end"),
    ],
)
def test_what_proves_nothing_is_said(change: dict[str, str], why: str, project: Path) -> None:
    with pytest.raises(FaultError, match=why):
        kills(replace(DOUBLED, **change), project)


def test_tests_must_pass_without_a_fault(project: Path) -> None:
    (project / "test_sums.py").write_text("def test_of_three():\n    assert False\n")
    with pytest.raises(FaultError, match="fails without a fault: test_of_three"):
        judge([DOUBLED], project, print)
