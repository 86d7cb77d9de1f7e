"""Policies against one of them in the database: what each gives more at a load, in the same draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import msgspec

from results.store.database import Store, decoded_rows, insert_row
from results.store.queries import has_table
from simulator.configuration import Configuration
from simulator.decision import Figure, Gain
from simulator.load import Load
from simulator.policies import PolicySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One configuration against the same recording under another policy, at a load."""

    load: Load
    candidate: Configuration
    against: PolicySpec
    figure: Figure
    draws: int
    """How many draws of prompts, seeds and the profile's errors, the same for both."""
    gain: Gain | None
    """None where the other gives nothing."""

    def row(self) -> dict[str, Any]:
        """The contrast as the database and JSON hold it."""
        return {
            "load": str(self.load), "candidate": self.candidate.whole_row(), "against": str(self.against),
            "figure": self.figure, "draws": self.draws,
            "gain": None if self.gain is None else msgspec.to_builtins(self.gain),
        }  # fmt: skip


def keep_contrasts(store: Store, sweep_id: str, found: Sequence[Contrast]) -> None:
    """Keep a sweep's contrasts, in place of those of an earlier end of it."""
    with store.writing() as connection:
        connection.execute("DELETE FROM contrasts WHERE sweep_id = ?", [sweep_id])
        for number, one in enumerate(found):
            insert_row(connection, "INSERT INTO contrasts", {"sweep_id": sweep_id, "number": number, **one.row()})


def read_contrasts(con: duckdb.DuckDBPyConnection, sweep_id: str) -> list[Contrast]:
    """A sweep's contrasts, in their order; none of sweeps that were asked for none."""
    if not has_table(con, "contrasts"):
        return []
    rows = decoded_rows(con.execute("SELECT * FROM contrasts WHERE sweep_id = ? ORDER BY number", [sweep_id]))
    return [
        Contrast(
            load=Load.parse(row["load"]), candidate=Configuration.read(row["candidate"]),
            against=PolicySpec.parse(row["against"]), figure=row["figure"], draws=row["draws"],
            gain=None if row["gain"] is None else msgspec.convert(row["gain"], Gain),
        )
        for row in rows
    ]  # fmt: skip
