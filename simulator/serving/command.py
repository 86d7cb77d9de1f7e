"""The command that serves a configuration, for what an engine runs as it was simulated; and why it cannot run the rest."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

from simulator.drafter_kinds import KINDS
from simulator.policies import PolicySpec
from simulator.policies.k_by_batch import WHOLE_BLOCK
from simulator.records import Drafting, Recording
from simulator.serving.engine import ServingEngine


@dataclass(frozen=True, slots=True)
class Serving:
    """How to serve a configuration."""

    command: str
    """For a shell."""
    notes: tuple[str, ...]
    """What has to be done first."""


def cannot_run(engine: ServingEngine, recording: Recording, policy: PolicySpec, request_cap: int) -> str:
    """Why an engine cannot run a policy over a recording as it was simulated; empty where it can."""
    if policy.name == "none":
        return ""
    kind = recording.kind or recording.drafter
    if kind not in engine.kinds:
        return f"{engine.name} has no method for {kind}"
    if policy.name not in engine.policies:
        return f"{engine.name} has no {policy.name}"
    if KINDS[kind].prefix:
        return ""
    counts = {policy.k} if policy.k is not None else set()
    if policy.k_by_batch is not None:
        counts = {k for _, _, k in batch_rows(policy, recording.gamma, request_cap)}
    if parts := sorted(k for k in counts if 0 < (k or 0) < recording.gamma):
        return f"{engine.name} drafts a block of {parts[0]} where {recording.gamma} were recorded: other drafts"
    return ""


def serve(
    engine: ServingEngine,
    target: str,
    recording: Recording,
    policy: PolicySpec,
    *,
    checkpoint: str,
    request_cap: int,
    step_tokens: int,
    gpus: int,
    temperature: float,
    drafting: Drafting,
) -> Serving:
    """The command of a configuration that the engine runs as simulated.

    Args:
        target: the model's name or folder.
        checkpoint: the drafter's; CHECKPOINT where nobody knows it.
        gpus: that share a replica.
        temperature: of the traffic; at 0 it makes no difference how drafts are chosen.
        drafting: how they were chosen.
    """
    flags, notes = engine.flags, list[str]()
    parts = [f"{engine.serve} {shlex.quote(target)}"]
    if policy.name != "none":
        kind = recording.kind or recording.drafter
        served = engine.kinds[kind]
        fields: dict[str, Any] = {"method": served.method, **served.options}
        if served.checkpoint:
            fields["model"] = checkpoint
            if checkpoint == "CHECKPOINT":
                notes.append(f"CHECKPOINT is the checkpoint of {recording.drafter}, which nothing recorded here names")
        if served.note:
            notes.append(served.note)
        fields |= speculative_fields(recording.gamma, policy, request_cap)
        if temperature > 0 and not KINDS[kind].one_hot and drafting != engine.drafting:
            fields["draft_sample_method"] = engine.drafting_option[drafting]
        parts.append(f"{flags.speculative} {shlex.quote(json.dumps(fields))}")
    parts += [f"{flags.request_cap} {request_cap}", f"{flags.step_tokens} {step_tokens}"]
    if gpus > 1:
        parts.append(f"{flags.gpus} {gpus}")
    return Serving(" \\\n  ".join(parts), tuple(notes))


def speculative_fields(gamma: int, policy: PolicySpec, cap: int) -> dict[str, Any]:
    """vLLM's fields for a policy that it runs."""
    if policy.k is not None:
        return {"num_speculative_tokens": policy.k}
    if policy.k_by_batch is not None:
        return {"num_speculative_tokens": gamma, "num_speculative_tokens_per_batch_size": batch_rows(policy, gamma, cap)}
    return {"num_speculative_tokens": gamma, "enable_adaptive_verification": True}


def batch_rows(policy: PolicySpec, gamma: int, cap: int) -> list[tuple[int, int, int]]:
    """(first, last, k) of a k-by-batch policy, up to the request cap, as vLLM writes them."""
    table = policy.k_by_batch
    assert table is not None, policy
    rows: list[tuple[int, int, int]] = []
    first = 1
    for last, k in (*table.rows, (cap, 0)):
        if first <= min(last, cap):
            rows.append((first, min(last, cap), gamma if k == WHOLE_BLOCK else min(k, gamma)))
            first = min(last, cap) + 1
    return rows
