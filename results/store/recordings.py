"""The dense recordings of a run, read once: traces to replay and simulate, and flat arrays for figures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from results.store.database import Store
from results.store.runs import drafting_of
from results.store.traces import all_sure, read_estimates, read_temperatures, read_trace
from simulator.errors import InputError
from simulator.policies import PolicySpec
from simulator.records import Confidences, Drafting, Recording
from simulator.traces import Trace, split_of


def not_fitted_on(trace: Trace) -> Trace:
    """The responses to prompts that nothing was fitted on."""
    return trace.select([split_of(r.prompt_id) != "calibration" for r in trace.responses])


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trace and what was fitted to its confidences. The one place that decides which confidences a policy may be shown."""

    raw: Trace
    """The trace as recorded."""
    temperatures: Sequence[float] = ()
    """T_1..T_γ; empty without calibration."""
    estimates: Sequence[tuple[float, float]] = ()
    """(intercept, slope) at each position; empty without."""

    @property
    def offered(self) -> tuple[Confidences, ...]:
        """What there is, the best last: raw ones of a head, calibrated ones, or estimated ones without a head."""
        if self.raw.anchors.confidence is None:
            return ("estimated",) if self.estimates else ()
        return ("raw", "calibrated") if self.temperatures else ("raw",)

    @property
    def weights(self) -> Mapping[Confidences, Sequence[Any]]:
        """What turns what a drafter gives into the confidences shown: temperatures or estimates."""
        return {"calibrated": self.temperatures, "estimated": self.estimates}

    def trace(self, confidences: Confidences) -> Trace:
        """With the confidences asked for; `none` leaves them as recorded, for policies that look at none."""
        if confidences == "calibrated":
            return self.raw.calibrated(self.temperatures)
        return self.raw.estimated(self.estimates) if confidences == "estimated" else self.raw

    def unseen(self) -> Fitted:
        """On the prompts that nothing was fitted on."""
        return replace(self, raw=not_fitted_on(self.raw))


class Recordings:
    """The dense recordings of a run, read once, ready to replay and to simulate."""

    def __init__(self, store: Store, run_id: str, drafting: Drafting | None) -> None:
        """All of drafts chosen one way; without, all there are. Raises InputError where the run has none of drafts so."""
        self._store, self._run_id = store, run_id
        self.keys = tuple(store.recordings(run_id) if drafting is None else store.traced(run_id, drafting))
        """One for each drafter, γ and, where all are asked for, drafting; showing no confidences."""
        self._fit_of = {key: (store.temperatures(run_id, key), store.estimates(run_id, key)) for key in self.keys}
        self.fitted = any(any(fits) for fits in self._fit_of.values())
        """Whether anything was fitted to confidences: then no trace has the prompts of that."""
        self._read: dict[Recording, Fitted] = {}

    def offered(self, recording: Recording) -> tuple[Confidences, ...]:
        """What policies may be shown of it, the best last; empty without any."""
        return self._fitted(recording).offered

    def best(self, recording: Recording, wanted: str | None = None) -> Recording:
        """With the confidences wanted, or the best there are: a drafter without a head has estimated ones or none.

        Raises InputError where calibration is asked for and there is none.
        """
        offered = self.offered(recording)
        if wanted == "calibrated" and offered == ("raw",):
            where = f"{recording.drafter} at γ = {recording.gamma}"
            raise InputError(f"run {self._run_id}: has no calibration of {where}; leave calibrated out")
        return recording.showing("raw" if wanted == "raw" and "raw" in offered else offered[-1] if offered else "none")

    def shown(self, recording: Recording, policy: PolicySpec, wanted: str | None = None) -> Recording:
        """The recording as `policy` is to see it: with the confidences wanted, or the best there are.

        A policy that ignores calibration has a head's own confidences, and where there is no head the estimated ones, which
        are all there is. Raises InputError where a policy needs confidences and there are none, or no calibration of them.
        """
        found = self.best(recording, wanted)
        if policy.reads_confidences and found.confidences == "none":
            raise InputError(f"policy {policy}: needs confidences, and {recording.drafter} has none")
        raw = policy.wants_raw_confidences and found.confidences == "calibrated"
        return found.showing("raw") if raw else found

    def trace(self, recording: Recording) -> Trace:
        """With its confidences, without the prompts that temperatures and estimates were fitted on, where there are any."""
        return self._fitted(recording).trace(recording.confidences)

    def weights(self, recording: Recording) -> Sequence[Any] | None:
        """Temperatures or estimates of its confidences; None where these are as the drafter gives them."""
        return self._fitted(recording).weights.get(recording.confidences)

    def keep_common(self, recordings: Collection[Recording]) -> int:
        """Leave of these recordings what was asked of all of them, so that all are compared on the same; how many responses
        some have and others lack. Raises InputError where they share none."""
        keys = list(dict.fromkeys(r.showing("none") for r in recordings if r.showing("none") in self._fit_of))
        asked = {key: {(r.prompt_id, r.turn) for r in self.trace(key).responses} for key in keys}
        every, common = set[tuple[str, int]]().union(*asked.values()), set.intersection(*asked.values()) if asked else set()
        if every and not common:
            raise InputError(f"run {self._run_id}: no prompt was recorded with all of {', '.join(k.short for k in keys)}")
        for key in keys if len(common) < len(every) else ():
            found = self._fitted(key)
            raw = found.raw.select([(r.prompt_id, r.turn) in common for r in found.raw.responses])
            self._read[key] = replace(found, raw=raw)
        return len(every) - len(common)

    def whole(self, recording: Recording) -> Trace:
        """The trace as it was recorded, of all prompts."""
        return self._store.trace(self._run_id, recording)

    def _fitted(self, recording: Recording) -> Fitted:
        key = recording.showing("none")
        if key not in self._read:
            found = Fitted(self.whole(key), *self._fit_of[key])
            self._read[key] = found.unseen() if self.fitted else found
        return self._read[key]


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


def acceptance_note(store: Store, run_id: str, drafting: Drafting) -> str:
    """What to know of the acceptance that a decision stands on; empty where there is nothing."""
    if store.run(run_id)["prompt_source"] == "synthesised":
        return (
            "acceptance is what was published or given, and was not measured on this traffic: the log of a server that "
            "drafts so says what it is there (`harness advise`)"
        )
    return accepted_otherwise(store, run_id, drafting)


def accepted_otherwise(store: Store, run_id: str, drafting: Drafting) -> str:
    """That drafts chosen the other way are accepted longer, of the drafter for which it makes most; empty where none is."""
    sql = "SELECT DISTINCT drafter, gamma, drafting FROM anchors WHERE run_id = ? ORDER BY ALL"
    with store.reading() as connection:
        rows = connection.execute(sql, [run_id]).fetchall()
    found = [Recording(name, gamma, drafting=way) for name, gamma, way in rows]
    other: Drafting = "greedy" if drafting == "sampled" else "sampled"
    both = {key: key.drafted_by(other) for key in found if key.drafting == drafting and key.drafted_by(other) in found}
    if not both:
        return ""
    asked = {one: store.trace(run_id, one) for pair in both.items() for one in pair}
    means = {one: 1 + sum(trace.kept_by_position(trace.gamma)) for one, trace in asked.items()}
    key = max(both, key=lambda key: means[both[key]] / means[key])
    there, here = means[both[key]], means[key]
    if there <= _LONGER * here:
        return ""
    return (
        f"drafts are {drafting} here; {other} ones of {key.short} are accepted {there:.2f} tokens long in this "
        f"recording, these {here:.2f}: --drafting {other} asks for them"
    )


_LONGER = 1.02
"""How many times as long is worth saying."""
Ints = npt.NDArray[np.int64]
Singles = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class ConfidenceRecord:
    """One drafter's anchors with what they are sure of, flat, responses in order: what figures of confidences draw."""

    drafter: str
    gamma: int
    tasks: tuple[str, ...]
    """The task of each response, [S]; `domains` and `prompts` are of each response too."""
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


def confidence_records(con: duckdb.DuckDBPyConnection, run_id: str) -> list[ConfidenceRecord]:
    """The run's drafters that have confidences, at their largest γ; estimated ones where weights of estimates are kept.

    Drafts are chosen as `drafting_of` says.
    """
    sql = """
        SELECT drafter, max(gamma) FROM recordings WHERE run_id = ? AND drafting IN (?, 'either')
        GROUP BY drafter ORDER BY drafter
    """
    drafting = drafting_of(con, run_id)
    found = []
    for drafter, gamma in con.execute(sql, [run_id, drafting]).fetchall():
        key = Recording(drafter, int(gamma), drafting=drafting)
        if not all_sure(con, run_id, key):  # of some anchors alone: not to be made sense of
            continue
        fits = read_temperatures(con, run_id, key), read_estimates(con, run_id, key)
        fitted = Fitted(read_trace(con, run_id, key), *fits)
        if fitted.offered:
            found.append(_confidence_record(fitted))
    return found


def _confidence_record(fitted: Fitted) -> ConfidenceRecord:
    trace, (first, *more) = fitted.raw, fitted.offered
    confidence = fitted.trace(first).anchors.confidence
    assert confidence is not None
    return ConfidenceRecord(
        trace.drafter, trace.gamma, tuple(r.task for r in trace.responses), tuple(r.domain for r in trace.responses),
        tuple(r.prompt_id for r in trace.responses), trace.offsets, trace.anchors.drafted.astype(np.int64),
        trace.anchors.accepted.astype(np.int64), confidence,
        fitted.trace("calibrated").anchors.confidence if more else None, first == "estimated",
    )  # fmt: skip
