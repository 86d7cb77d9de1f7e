"""Parts of a command's work: whoever is stopped around keeping one is told what is so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.console import Watcher
from harness.parts import Parts

QUIET = Watcher(say=lambda text: None, advance=lambda stage, done, total: None)


def test_how_to_go_on_is_known_before_a_part_lies_there(tmp_path: Path) -> None:
    """A stop right after the first part lay there, and before it was said, told people to begin again."""
    there: list[bool] = []
    told = replace(QUIET, began=lambda name, resume: there.append(bool(list(tmp_path.rglob("*.part")))))
    Parts(tmp_path, "profile", "a", told).keep("first", 1)
    assert there == [False]
    assert [Parts(tmp_path, "profile", "a", QUIET).kept("first", int)] == [1]


def test_who_stops_while_a_part_is_kept_leaves_nothing_half(tmp_path: Path) -> None:
    def stop(name: str, resume: str | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Parts(tmp_path, "profile", "a", replace(QUIET, began=stop)).keep("first", 1)
    assert not list(tmp_path.iterdir())
