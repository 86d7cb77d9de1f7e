"""What becomes of a run, sweep or study that ends early: nothing stays of one without results, others can go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import duckdb

from results.store.connection import StoreError
from results.store.database import Store
from results.store.lease import leased
from results.store.subjects import Subject, has_results, remove
from simulator.errors import InputError

Began = Callable[[str, str | None], None]
"""Takes the name of what is under way, such as "run 3f9c", and the id to resume; empty and None: nothing is."""
_SETTLE_S = 5.0
"""Seconds for which somebody who holds the file is waited for, when a command ends."""


@contextmanager
def keeping(store: Store, subject: Subject, subject_id: str, began: Began | None) -> Iterator[None]:
    """While work goes on: when it ends early, remove what nothing was recorded of.

    `began` is told that there is something to go on with, and takes it back where there is not: None for work that cannot
    go on, of which nothing is kept. What was refused for its own sake, and would be again, is marked as failed.
    """
    if began is not None:
        began(f"{subject.word} {subject_id}", subject_id)
    try:
        yield
    except BaseException as error:
        refused = isinstance(error, InputError) and not isinstance(error, StoreError)
        left = True
        with suppress(InputError, duckdb.Error), store.writing(patience_s=_SETTLE_S) as con:
            left = has_results(con, subject, subject_id) and began is not None
            if not left:
                remove(con, subject, subject_id)
            elif refused:
                sql = f"UPDATE {subject.table} SET failure = ? WHERE {subject.key} = ?"
                con.execute(sql, [str(error), subject_id])
        if began is not None and (refused or not left):
            began("", None)
        if not left:
            store.say(f"nothing was recorded: {subject.word} {subject_id} is not kept")
        raise


@contextmanager
def begun(store: Store, subject: Subject, subject_id: str, began: Began | None) -> Iterator[None]:
    """A new run, sweep or study: `held` and `kept`."""
    with leased(store, subject, subject_id), keeping(store, subject, subject_id, began):
        yield
