"""What a database keeps under an id of its own: runs, sweeps and studies; how they are found, and what hangs on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import duckdb

from simulator.errors import InputError

Word = Literal["run", "sweep", "study"]
_NAMED = 5
"""Ids that a sentence names."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A kind of thing with an id."""

    word: Word
    table: str
    recorded: str
    """SQL, of a row `o` of its table: whether anything came of it."""
    tables: tuple[str, ...]
    """Tables with rows under its id, its own last."""
    made_by: str
    """The command that makes one."""

    @property
    def key(self) -> str:
        """The column of its id."""
        return f"{self.word}_id"


RUN: Final = Subject(
    "run",
    "runs",
    "EXISTS (SELECT 1 FROM responses r WHERE r.run_id = o.run_id)",
    (
        "responses", "rounds", "recordings", "anchors", "readings", "calibrations", "estimates", "speed_samples",
        "validations", "tolerances", "runs",
    ),
    "harness run",
)  # fmt: skip
SWEEP: Final = Subject(
    "sweep",
    "sweeps",
    "EXISTS (SELECT 1 FROM simulations s WHERE s.sweep_id = o.sweep_id AND s.error IS NULL)",
    ("simulations", "contrasts", "sweeps"),
    "harness simulate",
)
STUDY: Final = Subject(
    "study",
    "studies",
    "EXISTS (SELECT 1 FROM trials t WHERE t.study_id = o.study_id AND t.state != 'failed')",
    ("trials", "confirmations", "sensitivities", "studies"),
    "tuner search",
)
SUBJECTS: Final = {subject.word: subject for subject in (RUN, SWEEP, STUDY)}
_SWEEPS, _STUDIES = (f"SELECT {s.key} FROM {s.table} WHERE run_id = $run" for s in (SWEEP, STUDY))
_SIMULATIONS = f"SELECT profile_hash, believed_hash FROM simulations WHERE sweep_id IN ({_SWEEPS})"
OF_A_RUN: Final = {
    **dict.fromkeys(reversed(RUN.tables), "run_id = $run"),
    "profiles": f"""profile_hash IN (
        SELECT unnest([profile_hash, believed_hash]) FROM ({_SIMULATIONS})
        UNION SELECT profile_hash FROM studies WHERE run_id = $run
        UNION SELECT profile_hash FROM tolerances WHERE run_id = $run
        UNION SELECT unnest([profile_hash, believed_hash]) FROM validations WHERE run_id = $run
    )""",
    "own_policies": """EXISTS (
        SELECT plan FROM sweeps WHERE run_id = $run AND contains(plan::VARCHAR, policy)
        UNION ALL SELECT plan FROM studies WHERE run_id = $run AND contains(plan::VARCHAR, policy)
        UNION ALL SELECT v.policy FROM validations v WHERE v.run_id = $run AND contains(v.policy, own_policies.policy)
    )""",
    **dict.fromkeys(reversed(SWEEP.tables), f"sweep_id IN ({_SWEEPS})"),
    **dict.fromkeys(reversed(STUDY.tables), f"study_id IN ({_STUDIES})"),
    "decisions": f"subject IN ({_SWEEPS} UNION {_STUDIES})",
}
"""Tables with rows of a run and of what stands on it, the run's own first, and which rows: SQL, of `$run`."""


def find(con: duckdb.DuckDBPyConnection, subject: Subject, name: str, file: Path) -> str:
    """The id from an id, the start of one, or `latest`: the newest that anything came of and that did not fail.

    Raises InputError.
    """
    word, key = subject.word, subject.key
    sql = f"SELECT {key}, failure IS NULL AND {subject.recorded} FROM {subject.table} o ORDER BY created_at DESC"
    found: dict[str, Any] = dict(con.execute(sql).fetchall())
    if name == "latest":
        sound = next((each for each, good in found.items() if good), None)
        if sound is not None:
            return sound
        if not found:
            raise InputError(f"{file}: has no {word} yet; `{subject.made_by}` makes one")
        raise InputError(
            f"{file}: has no {word} with results yet; {', '.join(list(found)[:_NAMED])} ended before there were any"
        )
    matches = [name] if name in found else [each for each in found if name and each.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    for other in (RUN, SWEEP, STUDY):
        if name and con.execute(f"SELECT 1 FROM {other.table} WHERE {other.key} = ?", [name]).fetchone():
            raise InputError(f"{word} {name}: is a {other.word}, of which `harness show {name}` tells all")
    problem = f"fits several {subject.table}" if matches else f"no such {word}"
    latest = f"; the latest are {', '.join(list(found)[:_NAMED])}" if found else f"; `{subject.made_by}` makes one"
    raise InputError(f"{word} {name or repr(name)}: {problem} in {file}{latest}")


def has_results(con: duckdb.DuckDBPyConnection, subject: Subject, name: str) -> bool:
    """Whether anything came of what has this id."""
    sql = f"SELECT {subject.recorded} FROM {subject.table} o WHERE {subject.key} = ?"
    return any(recorded for (recorded,) in con.execute(sql, [name]).fetchall())


def remove(con: duckdb.DuckDBPyConnection, subject: Subject, name: str) -> None:
    """Remove what has this id, with the sweeps and studies of a run, and the profiles that nothing stands on any more."""
    if subject is RUN:
        for other in (SWEEP, STUDY):
            for (each,) in con.execute(f"SELECT {other.key} FROM {other.table} WHERE run_id = ?", [name]).fetchall():
                remove(con, other, each)
    for table in subject.tables:
        con.execute(f"DELETE FROM {table} WHERE {subject.key} = ?", [name])
    con.execute("DELETE FROM decisions WHERE subject = ?", [name])
    con.execute(
        """
        DELETE FROM own_policies o WHERE NOT EXISTS (
            SELECT plan FROM sweeps WHERE contains(plan::VARCHAR, o.policy)
            UNION ALL SELECT plan FROM studies WHERE contains(plan::VARCHAR, o.policy)
            UNION ALL SELECT policy FROM validations WHERE contains(policy, o.policy)
        )
        """
    )
    con.execute("DELETE FROM leases WHERE subject = ?", [name])
    con.execute(
        """
        DELETE FROM profiles WHERE profile_hash NOT IN (
            SELECT profile_hash FROM simulations UNION SELECT believed_hash FROM simulations WHERE believed_hash IS NOT NULL
            UNION SELECT profile_hash FROM studies UNION SELECT profile_hash FROM tolerances
            UNION SELECT profile_hash FROM validations UNION SELECT believed_hash FROM validations
            WHERE believed_hash IS NOT NULL
        )
        """
    )
