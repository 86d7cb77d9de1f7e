"""A run made from published curves: stored like a recorded one, and labelled as what it is everywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from harness.published.synthesis import ASSUMPTIONS, SOURCES, TASKS, synthesize
from harness.recording.calibrate import calibrate
from results.store.database import Store
from results.store.provenance import command_line, git_revision, package_versions
from results.store.rows import RESPONSE_COLUMNS, dense_tables, round_table
from results.store.runs import RunInfo
from simulator.errors import InputError
from simulator.records import Round
from simulator.traces import Trace

PUBLISHED = ("paper:qwen3-4b",)


@dataclass(frozen=True, slots=True)
class Size:
    """How much to synthesise."""

    responses_per_task: int = 40
    output_tokens: int = 512


def publish(name: str, seed: int, size: Size, store: Store, say: Callable[[str], None]) -> str:
    """Synthesise traces from the curves called `name` and store them as a run; returns its id."""
    if name not in PUBLISHED:
        raise InputError(f"{name}: no such published curves; there are {', '.join(PUBLISHED)}")
    if seed < 0:
        raise InputError(f"--seed must be 0 or more, got {seed}")
    say(f"synthesising {name}: no model runs; what comes is fitted to published averages")
    traces = synthesize(seed, responses_per_task=size.responses_per_task, output_tokens=size.output_tokens)
    run_id = store.create_run(_run_info(name, seed, size, traces))
    store.add(run_id, {"responses": _responses(traces[0], size), "rounds": _plain_rounds(traces[0])})
    for trace in traces:
        say(f"storing {trace.drafter}: {len(trace.anchors):,} anchors")
        dense = ((r.prompt_id, r.turn, anchors) for r, anchors in trace)
        store.add(run_id, dense_tables(trace.drafter, trace.gamma, dense))
    calibrate(run_id, store, say)
    store.finish_run(run_id)
    return run_id


def _run_info(name: str, seed: int, size: Size, traces: list[Trace]) -> RunInfo:
    content = [name, seed, size.responses_per_task, size.output_tokens, [list(task) for task in TASKS.values()]]
    none = {"kind": "none", "gamma": 0, "gammas": [0], "checkpoint": "none", "checkpoint_hash": None}
    drafters = {
        t.drafter: {"kind": t.drafter, "gamma": t.gamma, "gammas": [t.gamma], "checkpoint": name, "checkpoint_hash": None}
        for t in traces
    }
    return RunInfo(
        command=command_line(),
        suite="published",
        suite_version=1,
        suite_hash=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        prompt_source="synthesised",
        pair=name,
        target={"source": "Qwen/Qwen3-4B", "hash": None, "dtype": None, "device": None, "synthesised": True},
        drafters={"none": none, **drafters},
        sampling={"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": size.output_tokens},
        seed=seed,
        plan={"synthesised": name, "sources": list(SOURCES), "assumptions": list(ASSUMPTIONS)},
        git_revision=git_revision(),
        packages=package_versions(),
        host={},
    )


def _responses(trace: Trace, size: Size) -> pa.Table:
    """Responses of the target that never was: lengths, and no words."""
    rows = [
        {
            "drafter": "none", "gamma": 0, "drafting": "either", "task": r.task, "domain": r.domain,
            "prompt_id": r.prompt_id, "turn": r.turn,
            "prompt_tokens": r.prompt_tokens, "output_tokens": size.output_tokens, "finish": "length",
            "token_ids": [], "text": "", "beyond": [],
        }
        for r in trace.responses
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, RESPONSE_COLUMNS)


def _plain_rounds(trace: Trace) -> pa.Table:
    """Plain decoding: a token a round."""
    return pa.concat_tables(
        round_table("none", 0, r.prompt_id, r.turn, [Round(0, 0, 0, 1, (), running=1)] * len(anchors), "either")
        for r, anchors in trace
    )
