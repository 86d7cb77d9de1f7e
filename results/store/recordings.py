"""The dense recordings of a run, read once: traces to replay and simulate, and flat arrays for figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from results.store.database import Store
from results.store.rows import matrix
from results.store.runs import drafting_of
from simulator.confidence import Confidences, calibrated, estimated
from simulator.errors import InputError
from simulator.records import Drafting
from simulator.traces import Trace, split_of


def not_fitted_on(trace: Trace) -> Trace:
    """The responses to prompts that nothing was fitted on."""
    return trace.select([split_of(r.prompt_id) != "calibration" for r in trace.responses])


class Traces:
    """The traces of a run, read once, ready to simulate; all of drafts chosen one way."""

    def __init__(self, store: Store, run_id: str, drafting: Drafting) -> None:
        """Raises InputError where the run has no recordings of drafts chosen so."""
        self._store, self._run_id, self.drafting = store, run_id, drafting
        self.recorded = store.traced(run_id, drafting)
        self.temperatures = {key: store.temperatures(run_id, *key, drafting) for key in self.recorded}
        self.estimates = {key: store.estimates(run_id, *key, drafting) for key in self.recorded}
        self._raw: dict[tuple[str, int], Trace] = {}

    def confidences(self, drafter: str, gamma: int, wanted: str | None) -> Confidences:
        """What a trace offers a policy. Raises InputError where calibration is asked for and there is none."""
        if self.raw(drafter, gamma).anchors.confidence is None:
            return "estimated" if self.estimates[drafter, gamma] else "none"
        if wanted == "calibrated" and not self.temperatures[drafter, gamma]:
            raise InputError(f"run {self._run_id}: has no calibration of {drafter} at γ = {gamma}; leave calibrated out")
        return "raw" if wanted == "raw" or not self.temperatures[drafter, gamma] else "calibrated"

    def raw(self, drafter: str, gamma: int) -> Trace:
        """As recorded, without the prompts that temperatures and estimates were fitted on, where there are any."""
        if (drafter, gamma) not in self._raw:
            trace = self._store.trace(self._run_id, drafter, gamma, self.drafting)
            fitted = any(self.temperatures.values()) or any(self.estimates.values())
            self._raw[drafter, gamma] = not_fitted_on(trace) if fitted else trace
        return self._raw[drafter, gamma]

    def trace(self, drafter: str, gamma: int, confidences: Confidences) -> Trace:
        """With the confidences asked for."""
        trace = self.raw(drafter, gamma)
        if confidences == "calibrated":
            return trace.calibrated(self.temperatures[drafter, gamma])
        if confidences == "estimated":
            return trace.estimated(self.estimates[drafter, gamma])
        return trace


def choose_drafting(
    store: Store, run_id: str, asked: Drafting | None, say: Callable[[str], None], *, engine: Drafting = "sampled"
) -> Drafting:
    """The way to draft that is simulated: as asked, or as the engine does that numbers are for; the papers' is sampled.

    Where nothing was asked and the run has recordings of the other way alone, that is taken, and said.
    """
    there = store.draftings(run_id)
    if asked is not None or engine in there or not there:
        return asked or engine
    say(f"note: run {run_id} has no recordings of {engine} drafts: what follows is of {there[0]} ones")
    return there[0]


Ints = npt.NDArray[np.int64]
Singles = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Recording:
    """One drafter's anchors with what they are sure of, flat, responses in order."""

    drafter: str
    gamma: int
    tasks: tuple[str, ...]
    """Of each of S responses, as the next two."""
    domains: tuple[str, ...]
    prompts: tuple[str, ...]
    offsets: Ints
    """[S + 1]."""
    drafted: Ints
    """[A]."""
    accepted: Ints
    """[A]."""
    confidence: Singles
    """Raw c_1..c_γ, or estimated ones, [A, γ]."""
    calibrated: Singles | None
    """The same after temperatures; None where there are none."""
    estimated: bool
    """Whether `confidence` is estimated, for want of a head."""


def recordings(con: duckdb.DuckDBPyConnection, run_id: str) -> list[Recording]:
    """The run's drafters that have confidences, at their largest γ; estimated ones where weights of estimates are kept.

    Drafts are chosen as `drafting_of` says.
    """
    sql = """
        SELECT drafter, max(gamma) FROM recordings WHERE run_id = ? AND drafting IN (?, 'either')
        GROUP BY drafter ORDER BY drafter
    """
    drafting = drafting_of(con, run_id)
    rows = con.execute(sql, [run_id, drafting]).fetchall()
    found = [_recording(con, run_id, drafter, int(gamma), drafting) for drafter, gamma in rows]
    return [recording for recording in found if recording is not None]


def _recording(
    con: duckdb.DuckDBPyConnection, run_id: str, drafter: str, gamma: int, drafting: Drafting
) -> Recording | None:
    key = {"run": run_id, "drafter": drafter, "gamma": gamma, "drafting": drafting}
    mine = "run_id = $run AND drafter = $drafter AND gamma = $gamma AND drafting IN ($drafting, 'either')"
    sql = f"SELECT count(confidence), count(certainty) FROM anchors WHERE {mine}"
    [(given, certain)] = con.execute(sql, key).fetchall()
    weights = con.execute(f"SELECT intercept, slope FROM estimates WHERE {mine} ORDER BY position", key).fetchall()
    if not given and not (certain and weights):
        return None
    column = "confidence" if given else "certainty"
    sql = f"""
        SELECT drafted, accepted, {column} FROM anchors WHERE {mine} ORDER BY prompt_id, turn, anchor
    """
    table = con.sql(sql, params=key).to_arrow_table()
    sure = matrix(table, column, gamma)
    responses = con.execute(
        f"""
        SELECT s.task, s.domain, s.prompt_id, d.anchors
        FROM recordings d JOIN recorded_responses s USING (run_id, drafter, gamma, drafting, prompt_id, turn)
        WHERE {mine} AND d.anchors > 0 ORDER BY prompt_id, turn
        """,
        key,
    ).fetchall()
    offsets = np.cumsum([0, *(r[3] for r in responses)], dtype=np.int64)
    if sure is None or not len(sure) or offsets[-1] != len(sure):  # some anchors without: not to be made sense of
        return None
    temperatures = con.execute(f"SELECT temperature FROM calibrations WHERE {mine} ORDER BY position", key).fetchall()
    scaled = calibrated(sure, [t[0] for t in temperatures]) if given and temperatures else None
    tasks, domains, prompts = (tuple(r[i] for r in responses) for i in range(3))
    return Recording(
        drafter, gamma, tasks, domains, prompts, offsets,
        table["drafted"].to_numpy().astype(np.int64), table["accepted"].to_numpy().astype(np.int64),
        sure if given else estimated(sure, weights), scaled, not given,
    )  # fmt: skip
