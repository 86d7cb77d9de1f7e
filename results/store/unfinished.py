"""What becomes of a run, sweep or study that ends early: nothing stays of one without results, others can go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import duckdb

from results.store.connection import StoreError
from results.store.database import Store
from results.store.lease import held
from results.store.subjects import Subject, has_results, remove
from simulator.errors import InputError

_SETTLE_S = 5.0
"""Seconds for which somebody who holds the file is waited for, when a command ends."""


@contextmanager
def kept(store: Store, subject: Subject, subject_id: str, resume: str | None) -> Iterator[None]:
    """While work goes on: when it ends early, remove what nothing was recorded of, or say how to go on.

    `resume` is the command that goes on; None for work that cannot, of which nothing is kept. What was refused for its own
    sake, and would be again, is marked as failed in place of being told how to go on.
    """
    try:
        yield
    except BaseException as error:
        refused = isinstance(error, InputError) and not isinstance(error, StoreError)
        left = True
        with suppress(InputError, duckdb.Error), store.writing(patience_s=_SETTLE_S) as con:
            left = has_results(con, subject, subject_id) and resume is not None
            if not left:
                remove(con, subject, subject_id)
            elif refused:
                sql = f"UPDATE {subject.table} SET failure = ? WHERE {subject.key} = ?"
                con.execute(sql, [str(error), subject_id])
        if left and resume is not None and not refused:
            store.say(f"what is recorded is kept; go on with: {resume}")
        elif not left:
            store.say(f"nothing was recorded: {subject.word} {subject_id} is not kept")
        raise


@contextmanager
def begun(store: Store, subject: Subject, subject_id: str, resume: str | None) -> Iterator[None]:
    """A new run, sweep or study: `held` and `kept`."""
    with held(store, subject, subject_id), kept(store, subject, subject_id, resume):
        yield
