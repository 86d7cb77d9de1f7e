"""May it merge: one answer from all changes, and what another answer would take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from results.change import Change, can_be_judged
from results.comparison import OVERALL, Comparison
from simulator.errors import InputError

Outcome = Literal["pass", "worse", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Judged:
    """One change, judged by a tolerance."""

    change: Change
    outcome: Outcome
    """`pass`: its interval excludes a loss of the tolerance or more."""
    decides: bool
    """Whether the gate is inconclusive where this is: a drafter's accepted length over all tasks."""
    prompts_needed: int | None
    """Prompts a task, for accepted lengths, with which a loss of the tolerance would be called clear in 4 of 5 cases; None
    where nobody can tell."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A comparison, judged."""

    tolerance: float
    """The loss, a share, from which on something is worse."""
    outcome: Outcome
    rows: tuple[Judged, ...]

    def of(self, outcome: Outcome) -> list[Judged]:
        """Rows of one outcome; of those that are inconclusive only the ones that decide."""
        return [row for row in self.rows if row.outcome == outcome and (row.decides or outcome != "inconclusive")]

    def failing(self, *, allow_inconclusive: bool) -> list[Judged]:
        """Rows by which it does not pass: what is worse, or else what makes it inconclusive, unless that will do."""
        passes = self.outcome == "pass" or (self.outcome == "inconclusive" and allow_inconclusive)
        return [] if passes else self.of(self.outcome)

    @property
    def undecided(self) -> list[Judged]:
        """Rows that hold nothing up, but could not exclude a loss of the tolerance."""
        return [row for row in self.rows if row.outcome == "inconclusive" and not row.decides]


def judge(found: Comparison, tolerance: float) -> Gate:
    """Worse where anything got clearly worse by more than the tolerance, or is gone; else a pass where every drafter's
    accepted length over all tasks excludes a loss of the tolerance or more; else inconclusive.

    Raises InputError where the comparison is not one to decide by.
    """
    if found.unfit:
        raise InputError(f"no gate without a fair comparison: {'; '.join(found.unfit)}")
    tests = sum(can_be_judged(change) for change in found.changes)
    rows = tuple(_judged(change, tolerance, tests) for change in found.changes)
    outcome: Outcome = "pass"
    if any(row.outcome == "worse" for row in rows):
        outcome = "worse"
    elif any(row.outcome == "inconclusive" and row.decides for row in rows):
        outcome = "inconclusive"
    return Gate(tolerance, outcome, rows)


def _judged(change: Change, tolerance: float, tests: int) -> Judged:
    outcome: Outcome = "inconclusive"
    if change.regressed(tolerance):
        outcome = "worse"
    elif change.verdict == "only in the second" or (change.low is not None and change.low > -tolerance):
        outcome = "pass"
    length = change.quantity == "accepted length"
    needed = change.noise.needed(tolerance, tests) if length and change.noise is not None and tests else None
    return Judged(change, outcome, length and change.where == OVERALL and change.verdict != "only in the second", needed)
