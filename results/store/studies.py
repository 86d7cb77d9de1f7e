"""Studies in the database: what the tuner tried, confirmed and found, read and written in one place as values."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import duckdb
import msgspec

from results.store.database import Store, decoded_rows, insert_row, utc_now
from results.store.decisions import decisions, insert_decision
from results.store.queries import Origin, first_row, has_table, origin
from results.store.rows import plan_row, profile_row, read_plan
from results.store.runs import kinds_in
from results.store.subjects import STUDY
from simulator.capacity import FEWEST
from simulator.configuration import Configuration
from simulator.decision import Decision
from simulator.load import Load
from simulator.plan import StudyPlan

Row = Mapping[str, Any]
State = Literal["complete", "cut", "failed"]
Kind = Literal["choice", "load", "mix", "verify", "elsewhere", "importance"]
"""`choice`: a knob set otherwise; the next four: something is off. Studies of before 0.4 have `importance`, which decides
nothing."""
TABLES: Final = ("studies", "trials", "confirmations", "sensitivities")
OFF: Final[Sequence[Kind]] = ("load", "mix", "verify", "elsewhere")
"""Kinds of `sensitivities` in which something is not what was assumed."""


K_BY_BATCH: Final = "k by batch"
"""The role of a table of k by batch size."""
OVER_NONE: Final = "over none"
"""The figure that is the gain over no speculation on the same draws, as a share."""


class StudyTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `trials`, as far as it is of what was tried and what came of it: the search's own part is the tuner's."""

    load: Load
    number: int
    origin: str
    state: State
    """Cut: clearly worse than another one, and therefore simulated shortly; its figures are estimates all the same."""
    configuration: Configuration
    figures: Mapping[str, float | None] | None
    """None of a failed trial."""
    feasible: bool | None
    error: str | None

    def of(self, figure: str) -> float | None:
        """A figure; None where there is none."""
        return (self.figures or {}).get(figure)


class StudyConfirmation(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `confirmations`: a configuration on the held-out prompts."""

    load: Load
    place: int
    """In the order in which they are shown: the winner has 0."""
    role: str
    error: str | None
    configuration: Configuration
    exact: bool
    """Whether replaying has the law of a live run."""
    prompts: int
    draws: int
    figures: Mapping[str, float | None] | None
    """None where it came to none, for which there is an error; a figure that is not finite is None."""
    half_widths: Mapping[str, float | None] | None
    gain: float | None
    """The gain of the winner over this one, as a share; None of the winner itself."""
    gain_half_width: float | None
    violations: Mapping[str, float] | None
    feasible: bool | None

    @property
    def tells(self) -> bool:
        """Whether enough requests finished to tell anything; studies of the first versions do not know how many."""
        finished = (self.figures or {}).get("finished")
        return finished is None or finished >= FEWEST

    def of(self, figure: str) -> tuple[float | None, float | None]:
        """A figure and half the width of its interval; None each where there is none."""
        return (self.figures or {}).get(figure), (self.half_widths or {}).get(figure)

    def row(self) -> dict[str, Any]:
        """The row as the database and JSON hold it."""
        found: dict[str, Any] = {}
        for name, value in msgspec.structs.asdict(self).items():
            found |= self.configuration.row() if name == "configuration" else {name: value}
        return found | {"load": str(self.load)}


class StudySensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `sensitivities`: what a knob decides, or how the winner stands where something is off."""

    load: Load
    kind: Kind
    what: str
    """The knob, or what is off; empty where that is another load."""
    elsewhere: Load | None = None
    """The other load at which the winner stands, of that kind."""
    share: float | None = None
    """The importance, of the objective's variance."""
    best: Configuration | None = None
    """The configuration that is best then, of those compared."""
    value: str | int | None = None
    """The value of a choice's knob in it."""
    state: State = "complete"
    """The state of its trial: a cut one's figures are estimates."""
    moved: bool | None = None
    """Whether another than the winner is best then."""
    loss: float | None = None
    """The share that is lost by setting the knob otherwise, or by keeping the winner."""
    keeps: bool | None = None
    """Whether bounds are kept then: of a choice by any, else by the winner."""

    def row(self) -> dict[str, Any]:
        """The row as the database and JSON hold it."""
        best: dict[str, Any] | None = None if self.best is None else self.best.row()
        if best is not None and self.kind == "choice":
            best |= {"value": self.value, "state": self.state}
        names = ("kind", "what", "share", "best", "moved", "loss", "keeps")
        what = self.what if self.elsewhere is None else str(self.elsewhere)
        return {"load": str(self.load), **{name: getattr(self, name) for name in names}, "what": what, "best": best}

    @property
    def words(self) -> str:
        """What a choice decides; estimates come of trials that were cut short."""
        if self.loss is None:
            return f"{self.what} (any other that was tried breaks a bound)"
        about = "" if self.state == "complete" else "about "
        return f"{self.what} ({about}{max(self.loss, 0):.1%} less with {self.value})"


def one_table(confirmed: Mapping[Load, Sequence[StudyConfirmation]]) -> dict[Load, StudyConfirmation]:
    """The table of k by batch size that one server can run at all these loads, as it was confirmed at each; empty where
    there is none, or at one of them too few requests finished. A load at which nothing was confirmed, as nothing keeps the
    promise there, has no row."""
    found: dict[Load, StudyConfirmation] = {}
    for load, rows in confirmed.items():
        table = next(
            (row for row in rows if row.role == K_BY_BATCH and row.tells and row.of(OVER_NONE)[0] is not None), None
        )
        if table is not None:
            found[load] = table
        elif rows:
            return {}
    one = len({row.configuration for row in found.values()}) == 1  # one server has one request cap
    return found if one else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Study(Origin):
    """A row of `studies`, with all that was found."""

    study_id: str
    finished_at: datetime | None
    plan: StudyPlan
    planned: tuple[str, ...]
    """The fields of the plan that are stored: older versions lack the newest, whose defaults nobody asked for."""
    trials: tuple[StudyTrial, ...]
    """Loads in their order, each in the order in which its trials were proposed."""
    confirmations: tuple[StudyConfirmation, ...]
    """Loads in their order, each with its winner first."""
    sensitivities: tuple[StudySensitivity, ...]


def read_study(con: duckdb.DuckDBPyConnection, study_id: str) -> Study:
    """A study. Raises LookupError for one that is not there, and InputError for a plan that is not of this version."""
    row = first_row(con, "SELECT * FROM studies WHERE study_id = ?", study_id) if has_table(con, *TABLES) else None
    if row is None:
        raise LookupError(f"no study {study_id!r} in this database")
    stored, kinds = json.loads(row["plan"]), kinds_in(con, row["run_id"])
    plan = read_plan(stored, StudyPlan)
    places = {load: place for place, load in enumerate(plan.loads)}
    tried = [_read(each, StudyTrial, plan, kinds) for each in _rows(con, study_id, "trials", "load, number")]
    confirmed = [
        _read(each, StudyConfirmation, plan, kinds) for each in _rows(con, study_id, "confirmations", "load, place")
    ]
    return Study(
        study_id=study_id, finished_at=row["finished_at"], plan=plan, planned=tuple(stored), **origin(row, plan.profile),
        trials=tuple(sorted(tried, key=lambda each: places.get(each.load, len(places)))),
        confirmations=tuple(sorted(confirmed, key=lambda each: places.get(each.load, len(places)))),
        sensitivities=tuple(_read_sensitivity(each, plan, kinds) for each in _rows(con, study_id, "sensitivities", "rowid")),
    )  # fmt: skip


def _read_sensitivity(row: Row, plan: StudyPlan, kinds: Mapping[str, str]) -> StudySensitivity:
    then = row["best"] or {}
    best = Configuration.read(then, kinds, plan.drafting) if then else None
    values = {"load": Load.parse(row["load"]), "best": best, **{n: then[n] for n in ("value", "state") if n in then}}
    if row["kind"] == "elsewhere":
        values |= {"what": "", "elsewhere": Load.parse(row["what"])}
    return msgspec.convert({**row, **values}, StudySensitivity)


def _read(row: Row, kind: type[Any], plan: StudyPlan, kinds: Mapping[str, str]) -> Any:
    """A row of what was run, its values parsed."""
    values = {"load": Load.parse(row["load"]), "configuration": Configuration.read(row, kinds, plan.drafting)}
    return msgspec.convert({**row, **values}, kind)


def _rows(
    con: duckdb.DuckDBPyConnection, study_id: str, table: str, order: str, load: Load | None = None
) -> list[dict[str, Any]]:
    """Rows of a study, their JSON decoded, of one load or of all."""
    where, values = ("", [study_id]) if load is None else (" AND load = ?", [study_id, str(load)])
    sql = f"SELECT * EXCLUDE (study_id) FROM {table} WHERE study_id = ?{where} ORDER BY {order}"
    return decoded_rows(con.execute(sql, values))


class Studies:
    """The studies of a database."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def create(
        self, run_id: str, command: str, plan: StudyPlan, git_revision: str | None, packages: Mapping[str, str]
    ) -> str:
        """Insert a study and its profile; returns the study's id."""
        study_id = secrets.token_hex(3)
        row = {
            "study_id": study_id, "run_id": run_id, "created_at": utc_now(), "command": command, "plan": plan_row(plan),
            "profile_hash": plan.profile.digest, "git_revision": git_revision, "packages": packages,
        }  # fmt: skip
        with self.store.writing() as connection:
            insert_row(connection, "INSERT OR IGNORE INTO profiles", profile_row(plan.profile))
            insert_row(connection, "INSERT INTO studies", row)
        return study_id

    def find(self, name: str) -> dict[str, Any]:
        """The row of `studies`, its JSON decoded, by id, the start of one, or `latest`. Raises InputError."""
        study_id = self.store.find(STUDY, name)
        with self.store.reading() as connection:
            [row] = decoded_rows(connection.execute("SELECT * FROM studies WHERE study_id = ?", [study_id]))
        return row

    def reopen(self, study_id: str, plan: StudyPlan) -> None:
        """Go on with a study under a plan that may ask for more trials."""
        with self.store.writing() as connection:
            sql = "UPDATE studies SET plan = ?, finished_at = NULL WHERE study_id = ?"
            connection.execute(sql, [json.dumps(plan_row(plan)), study_id])

    def add_trials(self, study_id: str, load: Load, rows: Sequence[Row]) -> None:
        """Insert a batch of trials, whole or not at all."""
        with self.store.writing() as connection:
            _insert(connection, "trials", [{"study_id": study_id, "load": str(load), **row} for row in rows])

    def trials(self, study_id: str, load: Load | None = None) -> list[dict[str, Any]]:
        """Rows of `trials` in the order they were proposed, of one load or of all."""
        with self.store.reading() as connection:
            return _rows(connection, study_id, "trials", "load, number", load)

    def conclude(
        self, study_id: str, decision: Decision, confirmations: Sequence[StudyConfirmation],
        sensitivities: Sequence[StudySensitivity],
    ) -> None:  # fmt: skip
        """Keep what was decided, confirmed and found at a load, in place of what an earlier end of the study found there."""
        load = str(decision.load)
        with self.store.writing() as connection:
            connection.execute("DELETE FROM confirmations WHERE study_id = ? AND load = ?", [study_id, load])
            sql = "DELETE FROM sensitivities WHERE study_id = ? AND load = ? AND kind <> 'elsewhere'"
            connection.execute(sql, [study_id, load])
            _insert(connection, "confirmations", [{"study_id": study_id, **one.row()} for one in confirmations])
            _insert(connection, "sensitivities", [{"study_id": study_id, **one.row()} for one in sensitivities])
            insert_decision(connection, study_id, decision)

    def concluded(self, study_id: str) -> dict[Load, tuple[Decision, StudyConfirmation | None]]:
        """What was decided under the trials that there are, and what was confirmed first, by load."""
        with self.store.reading() as connection:
            study, decided = read_study(connection, study_id), decisions(connection, study_id)
        first = {one.load: one for one in reversed(study.confirmations)}
        return {load: (one, first.get(load)) for load, one in decided.items() if one.tried == len(study.trials)}

    def finish(self, study_id: str, elsewhere: Sequence[StudySensitivity]) -> None:
        """Keep how what is run at one load does at the others: the study is at its end."""
        with self.store.writing() as connection:
            connection.execute("DELETE FROM sensitivities WHERE study_id = ? AND kind = 'elsewhere'", [study_id])
            _insert(connection, "sensitivities", [{"study_id": study_id, **one.row()} for one in elsewhere])
            connection.execute(
                "UPDATE studies SET finished_at = ?, failure = NULL WHERE study_id = ?", [utc_now(), study_id]
            )


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row]) -> None:
    for row in rows:
        insert_row(connection, f"INSERT INTO {table}", row)
