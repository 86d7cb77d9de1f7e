"""What is said of a thing begins with what it is, never in the middle of a sentence."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("harness", "drafters", "simulator", "tuner", "results", "benchmarks")
FILES = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]


def test_docstrings_begin_with_what_a_thing_is() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {line}" for path in FILES for line in re.findall(r'"""((?:Of|As) .*)', path.read_text())
    ]
    assert not broken
