"""Sensitivities in the database: how wrong something may be before another configuration would have won, as values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import duckdb

from results.store.database import Store, decoded_rows, insert_row
from results.store.queries import Origin, first_row, origin
from results.store.rows import profile_row
from simulator.configuration import System
from simulator.load import Load, Users
from simulator.records import Drafting


@dataclass(frozen=True, slots=True)
class Deviation:
    """What is best where something is off."""

    off: float
    """0.1: 10 % more than assumed."""
    best: System
    loss: float
    """Share of the objective lost by keeping the configuration that is best where nothing is off: 0.01 is 1 %."""


@dataclass(frozen=True, slots=True)
class BreakEven:
    """How far one thing may be off at one load before another configuration clearly wins."""

    load: Load
    what: str
    winner: System
    """Where nothing is off; systems show no confidences here."""
    margin: float
    """By how much it then beats the next: 0.01 is 1 %."""
    down: float | None
    up: float | None
    """Break-even, interpolated: −0.12 is 12 % less than assumed; None where the winner holds throughout."""
    instead: System | None
    """Who wins first beyond it."""
    deviations: tuple[Deviation, ...]

    @property
    def reach(self) -> float:
        """The largest that anything was off."""
        return max(abs(one.off) for one in self.deviations)

    @property
    def slack(self) -> float:
        """How far off the closest break-even is; infinite without one."""
        return min((abs(end) for end in (self.down, self.up) if end is not None), default=math.inf)

    def loss(self, off: float) -> float | None:
        """Share that keeping the winner loses there; None where that was not looked at."""
        return next((one.loss for one in self.deviations if one.off == off), None)

    def beyond(self, sign: Literal[-1, 1]) -> System | None:
        """Who wins first below or above; None where the winner holds."""
        lost = [one for one in self.deviations if one.best != self.winner and one.off * sign > 0]
        return min(lost, key=lambda one: abs(one.off)).best if lost else None

    @property
    def load_text(self) -> str:
        """The load as sensitivities have been stored from the first: of users who do not think, without the 0."""
        plain = isinstance(self.load, Users) and not self.load.think_s
        return f"users:{self.load.users}" if plain else str(self.load)

    def row(self) -> dict[str, Any]:
        """What JSON holds, and the database, where deviations have been called looks from the first."""
        return {
            "load": self.load_text, "what": self.what, "winner": self.winner.short, "margin": self.margin, "down": self.down,
            "up": self.up, "instead": self.instead and self.instead.short,
            "deviations": [
                {"what": self.what, "off": one.off, "best": one.best.short, "loss": one.loss} for one in self.deviations
            ],
        }  # fmt: skip

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> BreakEven:
        """From a row of `tolerances`, its JSON decoded. Raises InputError for a load or a policy unknown here."""

        def system(text: str) -> System:
            return System.parse(text, row["drafting"])

        return cls(
            load=Load.parse(row["load"]), what=row["what"], winner=system(row["winner"]), margin=row["margin"],
            down=row["down"], up=row["up"], instead=system(row["instead"]) if row["instead"] else None,
            deviations=tuple(Deviation(one["off"], system(one["best"]), one["loss"]) for one in row["looks"]),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity(Origin):
    """What one `harness sensitivity` found."""

    sensitivity_id: str
    objective: Literal["throughput", "tps"]
    """What the winner has most of."""
    seconds: float
    """Seconds of simulated time for each point."""
    seed: int
    clear: float
    """Another configuration wins with so much more of the objective: 0.01 is 1 %."""
    drafting: Drafting
    """How drafts were chosen."""
    break_evens: tuple[BreakEven, ...]

    @property
    def loads(self) -> list[Load]:
        """The loads that were looked at, in their order."""
        return list(dict.fromkeys(one.load for one in self.break_evens))

    def at(self, load: Load) -> list[BreakEven]:
        """What was made wrong at a load, the closest break-even first."""
        return sorted((one for one in self.break_evens if one.load == load), key=lambda one: one.slack)


_OWN = ("objective", "seconds", "seed", "clear", "drafting")


def keep_sensitivity(store: Store, found: Sensitivity) -> None:
    """Store a sensitivity, whole."""
    plain = ("run_id", "created_at", "command", "git_revision", "packages", *_OWN)
    common = {name: getattr(found, name) for name in plain}
    common |= {"tolerance_id": found.sensitivity_id, "profile_hash": found.profile.digest}
    with store.writing() as connection:
        insert_row(connection, "INSERT OR IGNORE INTO profiles", profile_row(found.profile))
        for number, one in enumerate(found.break_evens):
            row = one.row()
            row["looks"] = row.pop("deviations")
            insert_row(connection, "INSERT INTO tolerances", {**common, "number": number, **row})


def read_sensitivity(con: duckdb.DuckDBPyConnection, sensitivity_id: str) -> Sensitivity:
    """A sensitivity. Raises LookupError for one that is not there, and InputError for a load or a policy unknown here."""
    sql = "SELECT * FROM tolerances JOIN profiles USING (profile_hash) WHERE tolerance_id = ? ORDER BY number"
    row = first_row(con, sql, sensitivity_id)
    if row is None:
        raise LookupError(f"no sensitivity {sensitivity_id!r} in this database")
    rows = decoded_rows(con.execute(sql, [sensitivity_id]))
    return Sensitivity(
        sensitivity_id=sensitivity_id, **origin(row), **{name: row[name] for name in _OWN},
        break_evens=tuple(BreakEven.read(each) for each in rows),
    )  # fmt: skip
