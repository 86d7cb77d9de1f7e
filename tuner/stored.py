"""A study as the database has it, in types: what `tuner show` prints and `tuner export` serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from results.store.database import Store
from results.store.decisions import decisions
from results.store.rows import plan_row, read_plan
from results.store.runs import kinds_of
from results.store.studies import Studies
from simulator.configuration import Configuration
from simulator.decision import Decision
from simulator.load import Load
from simulator.records import KeptDrafting
from tuner.plan import StudyPlan
from tuner.trial import Trial, closest


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `confirmations`, as `Confirmation.row` makes it."""

    load: Load
    place: int
    role: str
    error: str | None
    configuration: Configuration
    exact: bool
    prompts: int
    draws: int
    figures: dict[str, Any] | None
    """None where it came to none, for which there is an error; a figure that is not finite is None."""
    half_widths: dict[str, Any] | None
    gain: float | None
    """The gain of the winner over this one, as a share; None of the winner itself."""
    gain_half_width: float | None
    violations: dict[str, Any] | None
    feasible: bool | None

    def of(self, figure: str) -> tuple[float | None, float | None]:
        """A figure and half the width of its interval; None each where there is none."""
        return (self.figures or {}).get(figure), (self.half_widths or {}).get(figure)

    @classmethod
    def read(cls, row: Mapping[str, Any], drafting: KeptDrafting, kinds: Mapping[str, str]) -> Row:
        """From the database; see `Configuration.read`."""
        values = {"load": Load.parse(row["load"]), "configuration": Configuration.read(row, drafting, kinds)}
        return msgspec.convert({**row, **values}, cls)

    def row(self) -> dict[str, Any]:
        """The row as the database and JSON hold it."""
        found: dict[str, Any] = {}
        for name, value in msgspec.structs.asdict(self).items():
            found |= self.configuration.row() if name == "configuration" else {name: value}
        return found | {"load": str(self.load)}


class Closest(msgspec.Struct, frozen=True):
    """What came closest to keeping the bounds."""

    configuration: str
    violations: dict[str, float]
    figures: dict[str, Any] | None


class AtLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a study found at one load."""

    trials: dict[str, int]
    """How many there are, by state."""
    errors: list[str]
    decision: Decision | None
    """None where none was made, as by the first versions."""
    winner: Row | None
    """None where nothing keeps the promise, or the study is not finished."""
    beside: list[Row]
    """What the winner is compared with."""
    closest: Closest | None
    sensitivities: list[dict[str, Any]]
    """Rows of `sensitivities`."""

    def content(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            **msgspec.structs.asdict(self),
            "decision": None if self.decision is None else self.decision.row(),
            "winner": None if self.winner is None else self.winner.row(),
            "beside": [row.row() for row in self.beside],
        }

    def confirmed(self, role: str) -> Row | None:
        """The first row that was confirmed in a role, beside the winner."""
        return next((row for row in self.beside if row.role == role), None)


class StoredStudy(msgspec.Struct, frozen=True, kw_only=True):
    """A study, and what it found at each of its loads."""

    study_id: str
    run_id: str
    finished: bool
    plan: StudyPlan
    target: str | None
    """The model that was recorded, where anybody knows."""
    synthesised: bool
    kinds: dict[str, str]
    """Kinds of the run's drafters, by name."""
    loads: dict[Load, AtLoad]
    row: dict[str, Any]
    """The row of `studies` without its plan."""

    @property
    def hardware(self) -> dict[str, Any]:
        """Its profile, as far as JSON has it."""
        profile = self.plan.profile
        return {"name": profile.name, "model": profile.model, "source": profile.source, "gpus": profile.gpus}

    def content(self) -> dict[str, Any]:
        """The study, its plan and all that was found, ready for JSON."""
        return {
            "study": self.row,
            "plan": {**plan_row(self.plan), "profile": self.plan.profile.name},
            "profile": self.hardware,
            "target": self.target,
            "synthesised": self.synthesised,
            "loads": {str(load): found.content() for load, found in self.loads.items()},
        }


def read_study(store: Store, name: str) -> StoredStudy:
    """A study by its id, the start of one, or `latest`. Raises InputError."""
    studies = Studies(store)
    row = studies.find(name)
    plan, study_id = read_plan(row.pop("plan"), StudyPlan), str(row["study_id"])
    run = store.run(row["run_id"])
    target, kinds = run["target"], kinds_of(run)
    confirmed = [Row.read(found, plan.drafting, kinds) for found in studies.confirmations(study_id)]
    sensitivities = studies.sensitivities(study_id)
    with store.reading() as connection:
        decided = decisions(connection, study_id)
    loads = {}
    for load in plan.loads:
        text = str(load)
        trials = [Trial.read(r, plan.drafting, kinds) for r in studies.trials(study_id, text)]
        own, near = [found for found in confirmed if found.load == load], closest(trials)
        loads[load] = AtLoad(
            trials={state: sum(t.state == state for t in trials) for state in ("complete", "cut", "failed")},
            errors=sorted({t.error for t in trials if t.error}),
            decision=decided.get(load),
            winner=own[0] if own else None,
            beside=own[1:],
            closest=None if near is None else Closest(near.configuration.in_full, dict(near.last.violations), near.figures),
            sensitivities=[s for s in sensitivities if s["load"] == text],
        )
    return StoredStudy(
        study_id=study_id, run_id=str(row["run_id"]), finished=row["finished_at"] is not None, plan=plan,
        target=target.get("source"), synthesised=bool(target.get("synthesised")), kinds=kinds, loads=loads, row=row,
    )  # fmt: skip
