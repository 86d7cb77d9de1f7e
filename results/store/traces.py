"""Dense recordings out of the database: a trace, and what was fitted to its confidences."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np

from results.store.rows import TARGET, matrix
from results.store.runs import kinds_in
from simulator.errors import InputError
from simulator.records import Anchors, Recording
from simulator.traces import Trace, TracedResponse

_MINE = "run_id = ? AND drafter = ? AND gamma = ? AND drafting IN (?, 'either')"


def _key(run_id: str, recording: Recording) -> list[Any]:
    """The values of `_MINE`."""
    return [run_id, recording.drafter, recording.gamma, recording.drafting]


def read_first_turns(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, tuple[list[int], list[int], str]]:
    """The target's own responses to first turns, by prompt id: tokens, what it said beyond them, how they ended."""
    sql = """
        SELECT prompt_id, token_ids, beyond, finish FROM responses
        WHERE run_id = ? AND drafter = ? AND turn = 0
    """
    rows = con.execute(sql, [run_id, TARGET.drafter]).fetchall()
    return {prompt: (tokens, beyond or [], finish) for prompt, tokens, beyond, finish in rows}


def read_trace(con: duckdb.DuckDBPyConnection, run_id: str, recording: Recording) -> Trace:
    """A dense record as it was made, responses in order of prompt and turn. Raises InputError where there is none."""
    key, drafter, gamma = _key(run_id, recording), recording.drafter, recording.gamma
    responses = con.execute(
        f"""
        SELECT s.task, s.domain, s.prompt_id, s.turn, s.prompt_tokens, d.anchors, d.drafting
        FROM recordings d JOIN recorded_responses s USING (run_id, drafter, gamma, drafting, prompt_id, turn)
        WHERE {_MINE} ORDER BY prompt_id, turn
        """,
        key,
    ).fetchall()
    if not sum(r[5] for r in responses):
        raise InputError(
            f"run {run_id}: has no dense record of {drafter} at γ = {gamma}, {recording.drafting}; "
            "`harness record` makes one"
        )
    table = con.sql(
        f"""
        SELECT drafted, accepted, accept_prob, confidence, fresh_confidence, certainty FROM anchors
        WHERE {_MINE} ORDER BY prompt_id, turn, anchor
        """,
        params=key,
    ).to_arrow_table()
    offsets = np.cumsum([0, *(r[5] for r in responses)], dtype=np.int64)
    optional = [matrix(table, name, gamma) for name in ("confidence", "fresh_confidence", "certainty")]
    accept_prob = matrix(table, "accept_prob", gamma)
    assert accept_prob is not None
    anchors = Anchors(table["drafted"].to_numpy(), table["accepted"].to_numpy(), accept_prob, *optional)
    told = tuple(TracedResponse(*r[:5]) for r in responses)
    return Trace(drafter, told, offsets, anchors, responses[0][6], kinds_in(con, run_id).get(drafter, drafter))


def all_sure(con: duckdb.DuckDBPyConnection, run_id: str, recording: Recording) -> bool:
    """Whether every anchor there should be has confidences, or certainties to estimate them from."""
    key = _key(run_id, recording)
    [(noted,)] = con.execute(
        f"""
        SELECT sum(anchors) FROM recordings JOIN recorded_responses USING (run_id, drafter, gamma, drafting, prompt_id, turn)
        WHERE {_MINE}
        """,
        key,
    ).fetchall()
    [found] = con.execute(f"SELECT count(confidence), count(certainty) FROM anchors WHERE {_MINE}", key).fetchall()
    return bool(noted) and noted in found


def read_temperatures(con: duckdb.DuckDBPyConnection, run_id: str, recording: Recording) -> list[float]:
    """T_1..T_γ of a drafter's confidences; empty where the run has no calibration of them."""
    rows = _fitted(con, "temperature FROM calibrations", run_id, recording)
    return [float(row[0]) for row in rows]


def read_estimates(con: duckdb.DuckDBPyConnection, run_id: str, recording: Recording) -> list[tuple[float, float]]:
    """(intercept, slope) at each position of a drafter's estimated confidences; empty where the run has none."""
    rows = _fitted(con, "intercept, slope FROM estimates", run_id, recording)
    return [(float(row[0]), float(row[1])) for row in rows]


def _fitted(con: duckdb.DuckDBPyConnection, columns: str, run_id: str, recording: Recording) -> list[tuple[Any, ...]]:
    sql = f"SELECT {columns} WHERE {_MINE} ORDER BY position"
    rows: list[tuple[Any, ...]] = con.execute(sql, _key(run_id, recording)).fetchall()
    return rows
