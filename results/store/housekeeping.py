"""What a database holds, and taking out of it what nobody needs any more."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import duckdb

from results.store.commands import typed
from results.store.database import Store, utc_now
from results.store.lease import Lease, check_free
from results.store.subjects import SUBJECTS, Subject, Word, remove
from simulator.errors import InputError

_REPORTED = ("report.html", "figures")
"""What a report leaves in a run's folder."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A run, sweep or study of a database."""

    word: Word
    id: str
    run_id: str
    """The run it is of; its own id for a run."""
    created_at: datetime
    used_at: datetime
    """When the newest of it, and of what stands on it, was made."""
    command: str
    results: bool
    """Whether anything came of it, and it did not fail."""
    at_work: bool
    """Whether a process that may still be there is at work on it, or on what stands on it."""

    @property
    def subject(self) -> Subject:
        """Its kind."""
        return SUBJECTS[self.word]


_MADE_OF_A_RUN: Final = """
    SELECT run_id, max(created_at) FROM validations GROUP BY run_id
    UNION ALL SELECT run_id, max(created_at) FROM tolerances GROUP BY run_id
"""
"""When the newest was made of what hangs in a run without an id that people name."""


def holdings(store: Store) -> list[Holding]:
    """Everything of a database that has an id, the newest first."""
    with store.reading() as con:
        found = [each for subject in SUBJECTS.values() for each in _of(con, subject)]
        made = con.execute(_MADE_OF_A_RUN).fetchall()
    whole = []
    for each in found:
        on_it = [other for other in found if each.word == "run" and other.run_id == each.id] or [each]
        also = [at for run_id, at in made if each.word == "run" and run_id == each.id]
        used_at, at_work = max([*(o.created_at for o in on_it), *also]), any(o.at_work for o in on_it)
        whole.append(Holding(each.word, each.id, each.run_id, each.created_at, used_at, each.command, each.results, at_work))
    return sorted(whole, key=lambda each: each.created_at, reverse=True)


def found(store: Store, name: str) -> Holding:
    """The run, sweep or study of an id, or the start of one. Raises InputError."""
    alike = [each for each in holdings(store) if name and each.id.startswith(name)]
    matches = [each for each in alike if each.id == name] or alike
    if len(matches) != 1:
        problem = f"fits {', '.join(e.id for e in matches)}" if matches else "no such run, sweep or study"
        runs, show = (typed("harness", *words, out=store.file.parent) for words in (["runs"], ["show", "RUN"]))
        raise InputError(
            f"{name or repr(name)}: {problem} in {store.file}; `{runs}` lists runs, `{show}` what stands on one of them"
        )
    return matches[0]


def named(store: Store, names: Sequence[str]) -> list[Holding]:
    """What has these ids, or starts of them, and what stands on it. Raises InputError, as for what is being worked on."""
    chosen = {each.id: each for each in (found(store, name) for name in names)}
    with store.reading() as con:
        for each in chosen.values():
            check_free(con, each.subject, each.id)
    for each in chosen.values():
        if each.at_work:
            raise InputError(
                f"{each.word} {each.id}: work on a sweep or study of it goes on; let it finish, or stop it first"
            )
    return _with_what_stands_on(list(chosen.values()), holdings(store))


def outdated(store: Store, *, older: timedelta | None, keep: int | None) -> list[Holding]:
    """What was not used for so long, but of each kind for the `keep` newest that anything came of.

    Without `older` all but those; without `keep` all that are so old. What nothing came of is not among those kept. A run
    stays while a sweep or study that stands on it does, and what is being worked on stays.
    """
    found = holdings(store)
    before = None if older is None else utc_now() - older
    stays: set[str] = set()
    for word in SUBJECTS:
        of_kind = [each for each in found if each.word == word]
        stays |= {each.id for each in [e for e in of_kind if e.results][: keep or 0]}
        stays |= {each.id for each in of_kind if each.at_work or (before is not None and each.used_at >= before)}
    stays |= {each.run_id for each in found if each.id in stays}
    return [each for each in found if each.id not in stays]


def take_out(store: Store, chosen: Sequence[Holding]) -> int:
    """Remove these and what stands on them, with the reports of runs, whole or not at all; returns the bytes made free."""
    before = store.file.stat().st_size
    with store.writing() as con:
        for each in chosen:
            check_free(con, each.subject, each.id)
        runs = {each.id for each in chosen if each.word == "run"}
        for other in (other for subject in SUBJECTS.values() for other in _of(con, subject) if other.run_id in runs):
            check_free(con, other.subject, other.id)  # begun since these were chosen
        for each in chosen:
            remove(con, each.subject, each.id)
    for each in chosen:
        if each.word == "run":
            _clear_reports(store.file.parent / each.id)
    store.compact(whatever=True)
    return before - store.file.stat().st_size


def _of(con: duckdb.DuckDBPyConnection, subject: Subject) -> list[Holding]:
    """All of a kind."""
    sql = f"""
        SELECT {subject.key}, run_id, created_at, command, failure IS NULL AND {subject.recorded} FROM {subject.table} o
    """
    found = []
    for name, run_id, created_at, command, results in con.execute(sql).fetchall():
        lease = Lease.of(con, name)
        at_work = lease is not None and not lease.gone
        found.append(Holding(subject.word, name, run_id, created_at, created_at, command, results, at_work))
    return found


def _with_what_stands_on(chosen: Sequence[Holding], found: Sequence[Holding]) -> list[Holding]:
    """What was chosen, each run with its sweeps and studies."""
    ids = {each.id for each in chosen}
    return [each for each in found if each.id in ids or each.run_id in ids]


def _clear_reports(folder: Path) -> None:
    """Remove what reports left in a run's folder, and the folder where that was all."""
    for name in _REPORTED:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
