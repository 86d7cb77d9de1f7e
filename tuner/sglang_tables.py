"""The files by which SGLang's DSpark decides how much of a block to verify: temperatures, and what a step takes."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from results.store.database import Store
from simulator.configuration import Configuration
from simulator.hardware.cost import Longest, StepLoad
from simulator.plain import cost_of
from simulator.serving.command import Serving
from simulator.serving.sglang import sps_json, sts_json
from tuner.stored import StoredStudy

_STS, _SPS = "sts.json", "sps.json"
_ROWS: Final = 32
"""Rows of its table, at whole blocks of more and more requests."""
_RAGGED: Final = "its scheduler is on with SGLANG_RAGGED_VERIFY_MODE=compact in the environment; it is not the one simulated"


def with_tables(store: Store, study: StoredStudy, winner: Configuration, made: Serving) -> Serving:
    """The command with these files, for a winner that reads a DSpark head's confidences; as it was for others."""
    recording, plan = winner.recording.showing("none"), study.plan
    if not winner.policy.reads_confidences or recording.kind != "dspark":
        return made
    trace = store.trace(study.run_id, recording)
    cost = cost_of(plan.profile, winner.policy, trace, winner.request_cap, plan.step_tokens)
    responses = len(trace.responses)
    context = (sum(r.prompt_tokens for r in trace.responses) + len(trace.anchors.accepted) // 2) // responses
    seconds: dict[int, float] = {}
    # It reads the row at or below: rows far apart would make tokens between them free.
    whole = [(r, r * trace.gamma) for r in np.unique(np.geomspace(1, winner.request_cap, _ROWS).astype(int)).tolist()]
    for running, verified in [*((1, v) for v in range(trace.gamma)), *whole]:
        load = StepLoad.of(running)._replace(context_tokens=running * context)
        step = cost.step(load, trace.gamma, verified, Longest(trace.gamma, context))
        seconds[running + verified] = step.seconds
    words = [f"--speculative-dspark-sps-table-path {_SPS}"]
    files = {**made.files, _SPS: sps_json(seconds)}
    notes = [_RAGGED, f"{_SPS}: simulated at {context:,} tokens of context a request"]
    if temperatures := store.temperatures(study.run_id, recording):
        words.append(f"--speculative-dspark-confidence-sts-path {_STS}")
        files[_STS] = sts_json(temperatures, f"run {study.run_id}", responses)
    command = " \\\n  ".join([made.command, *words])
    return dataclasses.replace(made, command=command, notes=(*made.notes, *notes), files=files)
