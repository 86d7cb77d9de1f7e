"""How a run's drafters were trained, where their checkpoints say so: kept with the drafter that was recorded."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import msgspec


class HeldOutDrafting(msgspec.Struct, frozen=True):
    """What a drafter did on the held-out answers of a domain."""

    domain: str
    tau: float
    """Expected accepted length."""
    acceptance: tuple[float | None, ...]
    """By position; None where nothing was accepted up to there."""
    prompts: int = 0
    """Prompts that it is of; 0 where a checkpoint does not say."""
    error: float | None = None
    """Standard error of τ, between prompts."""


class Evaluation(msgspec.Struct, frozen=True):
    """What held-out answers said after so many steps."""

    step: int
    drafting: tuple[HeldOutDrafting, ...]
    loss: float | None = None
    """Mean over the steps since the one before; None at the start."""


class DrafterTraining(msgspec.Struct, frozen=True):
    """A training, as far as its checkpoint tells."""

    steps: int
    """Taken."""
    best_step: int
    """Whose weights were kept."""
    evaluated: tuple[Evaluation, ...]
    facts: dict[str, Any] = {}
    """Texts, tokens, trained parameters and the like."""


def read_trainings(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, DrafterTraining]:
    """Trainings of a run's drafters, by name; a file of that name that somebody else wrote says nothing."""
    rows = con.execute("SELECT drafters FROM runs WHERE run_id = ?", [run_id]).fetchall()
    found = {}
    for name, declared in (json.loads(rows[0][0]) if rows else {}).items():
        if told := declared.get("training"):
            try:
                found[name] = msgspec.convert(told, DrafterTraining)
            except msgspec.ValidationError:
                continue
    return found
