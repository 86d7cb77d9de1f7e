"""A study as the database has it, in types: what `tuner show` prints and `tuner export` serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from results.store import studies as studies_store
from results.store.database import Store
from results.store.decisions import decisions
from results.store.rows import plan_row
from results.store.runs import drafts_of, kinds_of
from results.store.studies import Studies, StudyConfirmation, StudySensitivity
from simulator.configuration import Configuration
from simulator.decision import Decision
from simulator.load import Load
from simulator.plan import StudyPlan
from simulator.policies import NO_DRAFTER
from simulator.records import SERVED, Recording
from tuner.trial import closest, read_trials


class Closest(msgspec.Struct, frozen=True):
    """What came closest to keeping the bounds."""

    configuration: Configuration
    violations: Mapping[str, float]
    figures: Mapping[str, float] | None


class AtLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a study found at one load."""

    trials: dict[str, int]
    """How many there are, by state."""
    errors: list[str]
    decision: Decision | None
    """None where none was made, as by the first versions."""
    winner: StudyConfirmation | None
    """None where nothing keeps the promise, or the study is not finished."""
    beside: list[StudyConfirmation]
    """What the winner is compared with."""
    closest: Closest | None
    sensitivities: list[StudySensitivity]

    def content(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            **msgspec.structs.asdict(self),
            "decision": None if self.decision is None else self.decision.row(),
            "winner": None if self.winner is None else self.winner.row(),
            "beside": [row.row() for row in self.beside],
            "closest": self.closest
            and {**msgspec.structs.asdict(self.closest), "configuration": self.closest.configuration.in_full},
            "sensitivities": [one.row() for one in self.sensitivities],
        }

    def confirmed(self, role: str, recording: Recording) -> StudyConfirmation | None:
        """The first row that was confirmed in a role beside the winner, of a recording, whichever confidences it shows."""
        walked = recording.showing("none")
        return next((r for r in self.beside if r.role == role and r.configuration.recording.showing("none") == walked), None)

    def of(self, configuration: Configuration) -> StudyConfirmation | None:
        """What was confirmed of a configuration, the winner's or beside it; None where that came to no figures."""
        rows = (self.winner, *self.beside)
        return next((r for r in rows if r is not None and r.configuration == configuration and r.figures is not None), None)

    def other_cap(self, run: Configuration) -> str:
        """What to say where no speculation, over which gains are told, does best with fewer or more requests at a time than
        `run` and not all users are served at once; empty where it makes no difference."""
        rows = [r for r in (self.winner, *self.beside) if r is not None and r.configuration.policy == NO_DRAFTER]
        told = [(value, r.configuration.request_cap) for r in rows if (value := r.of("throughput")[0]) is not None]
        cap = max(told)[1] if told else run.request_cap
        users = max((r.load.users or 0 for r in rows), default=0)
        apart = cap != run.request_cap and users > min(cap, run.request_cap)
        return f" (which does best with {cap} at a time)" if apart else ""


class StoredStudy(msgspec.Struct, frozen=True, kw_only=True):
    """A study, and what it found at each of its loads."""

    study_id: str
    run_id: str
    finished: bool
    plan: StudyPlan
    target: str | None
    """The model that was recorded, where anybody knows."""
    synthesised: bool
    drafts: str = ""
    """How its drafts were chosen, in words; empty where nothing hangs on it."""
    served: bool = False
    """Whether its run is of an engine's own logs."""
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
            "label": SERVED if self.served else None,
            "loads": {str(load): found.content() for load, found in self.loads.items()},
        }


def read_study(store: Store, name: str) -> StoredStudy:
    """A study by its id, the start of one, or `latest`. Raises InputError."""
    studies = Studies(store)
    row = studies.find(name)
    del row["plan"]
    study_id, run = str(row["study_id"]), store.run(row["run_id"])
    target, kinds = run["target"], kinds_of(run)
    with store.reading() as connection:
        study, decided = studies_store.read_study(connection, study_id), decisions(connection, study_id)
    plan = study.plan
    loads = {}
    for load in plan.loads:
        trials = read_trials(studies, study_id, load, plan, kinds)
        own, near = [found for found in study.confirmations if found.load == load], closest(trials)
        loads[load] = AtLoad(
            trials={state: sum(t.state == state for t in trials) for state in ("complete", "cut", "failed")},
            errors=sorted({t.error for t in trials if t.error}),
            decision=decided.get(load),
            winner=own[0] if own else None,
            beside=own[1:],
            closest=None if near is None else Closest(near.configuration, near.last.violations, near.figures),
            sensitivities=[one for one in study.sensitivities if one.load == load],
        )
    return StoredStudy(
        study_id=study_id, run_id=str(row["run_id"]), finished=row["finished_at"] is not None, plan=plan,
        target=target.get("source"), synthesised=bool(target.get("synthesised")),
        drafts=drafts_of(run, plan.drafting),
        served=bool(target.get("served")), kinds=kinds, loads=loads, row=row,
    )  # fmt: skip
