"""How long work tells its user what it is doing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Watcher:
    """How a run tells the user what it is doing."""

    say: Callable[[str], None]
    """A line of text."""
    advance: Callable[[str, int, int], None]
    """(stage, done, total)."""
