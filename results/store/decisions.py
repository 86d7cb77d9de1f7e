"""Decisions in the database: what a study or a sweep says to run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import duckdb
import msgspec

from results.store.database import Store, insert_row
from results.store.queries import has_table
from simulator.configuration import Configuration
from simulator.decision import Decision
from simulator.hardware.profile import same_model
from simulator.records import Drafting
from simulator.serving.command import Serving, serve
from simulator.serving.engine import ServingEngine


def keep_decision(store: Store, subject: str, decision: Decision) -> None:
    """Keep what a study or a sweep, `subject` its id, says to run at a load, in place of what it said before."""
    row = {"subject": subject, "load": decision.load, "decision": msgspec.to_builtins(decision)}
    with store.writing() as connection:
        insert_row(connection, "INSERT OR REPLACE INTO decisions", row)


def serving_of(
    run: Mapping[str, Any], engine: ServingEngine, candidate: Configuration, *, model: str, drafting: Drafting,
    step_tokens: int, gpus: int, replicas: int, most_running: int | None = None, fields: Mapping[str, Any] | None = None,
) -> Serving:  # fmt: skip
    """The command that serves a candidate, its models called as the row of `runs` calls them; see `serve`.

    `model` is what the hardware's profile is of: where that is another than was recorded, it is a note.
    """
    target, drafter = run["target"], run["drafters"].get(candidate.recording.drafter, {})
    serving = serve(
        engine, str(target.get("source") or "MODEL"), candidate.recording, candidate.policy,
        checkpoint="CHECKPOINT" if target.get("synthesised") else str(drafter.get("checkpoint") or "CHECKPOINT"),
        request_cap=candidate.request_cap, step_tokens=step_tokens, gpus=gpus, replicas=replicas,
        temperature=float(run["sampling"].get("temperature") or 0), drafting=drafting,
        most_running=most_running, fields=fields,
    )  # fmt: skip
    notes = []
    if not same_model(model, str(target.get("source") or "")):
        notes.append(
            f"the profile is of {model}, the traces are of {target['source']}: no such system was measured or modelled"
        )
    if target.get("named_after"):
        note = f"{target['source']} is the name of {target['named_after']}: put the model's folder or hub name in its place"
        notes.append(note)
    return dataclasses.replace(serving, notes=(*notes, *serving.notes))


def served(decision: Decision, serving: Serving) -> Decision:
    """A decision with the command that serves it."""
    notes = [*serving.notes, *decision.notes]
    return msgspec.structs.replace(decision, command=serving.command, settings=serving.speculative or {}, notes=notes)


def decisions(con: duckdb.DuckDBPyConnection, subject: str) -> dict[str, Decision]:
    """What a study or a sweep says to run, by load; nothing of those that were made before decisions were kept."""
    if not has_table(con, "decisions"):
        return {}
    rows = con.execute("SELECT load, decision FROM decisions WHERE subject = ?", [subject]).fetchall()
    return {load: msgspec.json.decode(decision, type=Decision) for load, decision in rows}
