"""Studies to export: what they found, and what an export makes of it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

import msgspec

from results.store.decisions import models_of
from results.store.studies import StudyConfirmation
from simulator.configuration import Configuration
from simulator.decision import Decision, Range
from simulator.hardware.catalogue import find_profile
from simulator.load import Users
from simulator.plan import StudyPlan
from simulator.serving.command import Models
from simulator.serving.engine import ServingEngine
from tests.tuner.configurations import configuration
from tuner.export import serving
from tuner.stored import AtLoad, StoredStudy


def row_of(
    role: str, policy: str, gain: float, gain_half_width: float | None, *, drafter: str = "dspark", gamma: int = 7
) -> StudyConfirmation:
    """What was confirmed beside a winner, as far as an export reads it."""
    return StudyConfirmation(
        load=Users(64), place=1, role=role, error=None, configuration=configuration(drafter, gamma, policy), exact=True,
        prompts=10, draws=5, figures=None, half_widths=None, gain=gain,
        gain_half_width=gain_half_width, violations=None, feasible=None,
    )  # fmt: skip


def found_with(*beside: StudyConfirmation) -> AtLoad:
    """What was found at a load, with nothing but this beside the winner."""
    return AtLoad(trials={}, errors=[], decision=None, winner=None, beside=list(beside), closest=None, sensitivities=[])


FOUND = found_with(
    row_of("k by batch", "k_by_batch:8=7/32=3/64=0", 0.25, 0.01), row_of("in vLLM", "vllm_adaptive", 0.1, None)
)
FOUND_MTP = found_with(row_of("k by batch", "k_by_batch:8=7/32=3/64=0", 0.25, 0.01, drafter="mtp", gamma=3))
PLAN = StudyPlan(
    profile=dataclasses.replace(find_profile("h100/qwen3-4b"), gpus=2), loads=[Users(64)], objective="throughput",
    request_cap=64,
)  # fmt: skip


def study_of(**options: Any) -> StoredStudy:
    """A study of this plan, with some of it otherwise."""
    plan = msgspec.structs.replace(PLAN, **options)
    return StoredStudy(
        study_id="abc", run_id="def", finished=True, plan=plan, target="Qwen/Qwen3-4B", synthesised=False,
        kinds={"dspark": "dspark"},
        loads=dict.fromkeys(plan.loads, FOUND), row={},
    )  # fmt: skip


STUDY = study_of()


def models(drafter: str, kind: str, temperature: float, **target: Any) -> Models:
    """What an export reads of a row of `runs`."""
    declared = {"kind": kind, "checkpoint": f"org/{drafter}"}
    target = {"source": "Qwen/Qwen3-4B", **target}
    return models_of({"target": target, "drafters": {drafter: declared}, "sampling": {"temperature": temperature}})


def exported(
    drafter: str, gamma: int, policy: str, confidences: Any = "none", kind: str | None = None, found: AtLoad = FOUND
) -> tuple[Any, str]:
    """(speculative configuration, notes) of a configuration, the configuration read back from the command."""
    winner = configuration(drafter, gamma, policy, confidences, kind=kind)
    made = serving(winner, found, STUDY, models(drafter, kind or drafter, 0.7))
    words = shlex.split(made.command.replace("\\\n", " "))
    assert words[:3] == ["vllm", "serve", "Qwen/Qwen3-4B"]
    assert words[words.index("--max-num-seqs") + 1] == "64"
    assert words[words.index("--tensor-parallel-size") + 1] == "2"
    speculative = json.loads(words[words.index("--speculative-config") + 1]) if "--speculative-config" in words else None
    return speculative, "\n".join(made.notes)


def decided(candidate: Configuration, engine: ServingEngine | None, command: str = "") -> Decision:
    """A decision, as far as an export reads it."""
    sure = Range(100, 90, 110)
    return Decision(
        engine=engine, profile="h100/toy", source="roofline", load=Users(64), promise=(), traffic="toys",
        figure="throughput", candidate=candidate, command=command, value=sure, tps=Range(20, 19, 21), p95_ttft=sure,
    )  # fmt: skip


FIGURES = {"throughput": 4321.0, "tps": 77.0}
WON = msgspec.structs.replace(
    row_of("winner", "fixed:7", 0, None, drafter="eagle3"), figures=FIGURES, half_widths={"throughput": 5.0}
)
