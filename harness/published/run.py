"""Runs that no model made: synthesised traces, stored like recorded ones, and labelled as what they are everywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from harness.published.synthesis import ASSUMPTIONS, SOURCES, TASKS, synthesize
from harness.recording.calibrate import calibrate
from results.store.database import Store
from results.store.provenance import command_line, git_revision, package_versions
from results.store.rows import RESPONSE_COLUMNS, TARGET, dense_tables, key_columns, round_table
from results.store.runs import RunInfo
from results.store.subjects import RUN
from results.store.unfinished import begun
from simulator.errors import InputError
from simulator.numbers import counted
from simulator.records import Round
from simulator.traces import Trace

PUBLISHED = ("paper:qwen3-4b",)
MOST_TOKENS = 100_000_000
"""Tokens that are synthesised at most: an anchor takes some dozens of bytes."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much to synthesise. Raises InputError for more than is good for anything."""

    responses_per_task: int = 40
    output_tokens: int = 512

    def __post_init__(self) -> None:
        if self.responses_per_task * self.output_tokens > MOST_TOKENS:
            raise InputError(f"{self.responses_per_task * self.output_tokens:,} tokens a task are more than {MOST_TOKENS:,}")


def publish(name: str, seed: int, size: Size, store: Store, say: Callable[[str], None]) -> str:
    """Synthesise traces from the curves called `name` and store them as a run; returns its id."""
    if name not in PUBLISHED:
        raise InputError(f"{name}: no such published curves; there are {', '.join(PUBLISHED)}")
    if seed < 0:
        raise InputError(f"--seed must be 0 or more, got {seed}")
    say(f"synthesising {name}: no model runs; what comes is fitted to published averages")
    traces = synthesize(seed, responses_per_task=size.responses_per_task, output_tokens=size.output_tokens)
    content = [name, seed, size.responses_per_task, size.output_tokens, [list(task) for task in TASKS.values()]]
    told = SynthesizedRun(
        suite="published",
        pair=name,
        target="Qwen/Qwen3-4B",
        content=content,
        sampling={"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": size.output_tokens},
        seed=seed,
        plan={"synthesised": name, "sources": list(SOURCES), "assumptions": list(ASSUMPTIONS)},
    )
    return keep(told, traces, store, say)


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesizedRun:
    """What is told of a run that no model made."""

    suite: str
    pair: str
    target: str
    """Name of the model whose answers these would be; empty where nobody says."""
    named_after: str = ""
    """The file whose own name that is; empty where an engine can load the model by its name."""
    config: str = ""
    """The config.json that was given in place of a name; empty without."""
    content: Any
    """What the traces were made from; its hash is the suite's."""
    sampling: dict[str, Any]
    seed: int
    plan: dict[str, Any]
    """synthesised, sources and assumptions."""
    prompt_source: Literal["synthesised", "served"] = "synthesised"
    """What it was made of: averages, or an engine's own logs."""
    checkpoint: str = ""
    """What drafted, as an engine's own log names it; empty where nothing does."""
    served_with: Mapping[str, Any] | None = None
    """The engine that served, and its own fields of drafting where they are known: name, fields; None if none served."""

    def run_info(self, traces: Sequence[Trace]) -> RunInfo:
        """The row of `runs`."""
        none = {"kind": "none", "gamma": 0, "gammas": [0], "checkpoint": "none", "checkpoint_hash": None}
        drafters = {
            t.drafter: {
                "kind": t.recording.kind, "gamma": t.gamma, "gammas": [t.gamma],
                "checkpoint": self.checkpoint or self.pair, "checkpoint_hash": None, "served_with": self.served_with,
            }
            for t in traces
        }  # fmt: skip
        return RunInfo(
            command=command_line(),
            suite=self.suite,
            suite_version=1,
            suite_hash=hashlib.sha256(json.dumps(self.content).encode()).hexdigest(),
            prompt_source=self.prompt_source,
            pair=self.pair,
            target={
                "source": self.target,
                "named_after": self.named_after,
                "config": self.config,
                "hash": None,
                "dtype": None,
                "device": None,
                "synthesised": True,
                "served": self.prompt_source == "served",
            },
            drafters={"none": none, **drafters},
            sampling=self.sampling,
            seed=self.seed,
            plan=self.plan,
            git_revision=git_revision(),
            packages=package_versions(),
            host={},
        )


def keep(told: SynthesizedRun, traces: Sequence[Trace], store: Store, say: Callable[[str], None]) -> str:
    """Store synthesised traces, all of the same responses, as a dense recording is stored; returns the run's id."""
    run_id = store.create_run(told.run_info(traces))
    with begun(store, RUN, run_id, None):
        store.add(run_id, {"responses": _responses(traces[0]), "rounds": _plain_rounds(traces[0])})
        for trace in traces:
            say(f"storing {trace.drafter}: {counted(len(trace.anchors), 'anchor')}")
            dense = ((r.prompt_id, r.turn, anchors) for r, anchors in trace)
            store.add(run_id, dense_tables(trace.recording, dense))
        calibrate(run_id, store, say)
        store.finish_run(run_id)
    return run_id


def _responses(trace: Trace) -> pa.Table:
    """Responses of the target that never was: lengths, and no words."""
    rows = [
        {
            **key_columns(TARGET), "task": r.task, "domain": r.domain,
            "prompt_id": r.prompt_id, "turn": r.turn,
            "prompt_tokens": r.prompt_tokens, "output_tokens": len(anchors) + 1, "finish": "length",
            "token_ids": [], "text": "", "beyond": [],
        }
        for r, anchors in trace
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, RESPONSE_COLUMNS)


def _plain_rounds(trace: Trace) -> pa.Table:
    """Plain decoding: a token a round."""
    return pa.concat_tables(
        round_table(TARGET, r.prompt_id, r.turn, [Round(0, 0, 0, 1, (), running=1)] * len(anchors)) for r, anchors in trace
    )
