"""Acceptance that a recording has, in forms that benches take: vLLM's synthetic acceptance, and InferenceX's golden YAML.

Both are means over all rounds: what differs between requests, and from one round to the next, is in neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.configuration import Configuration
from simulator.decision import refused
from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.numbers import counted
from simulator.plan import serving_of
from simulator.records import SERVED
from simulator.serving.command import Models
from simulator.serving.vllm import VLLM
from simulator.traces import Trace
from tuner.stored import StoredStudy


def synthetic_fields(trace: Trace, drafted: int) -> dict[str, object]:
    """vLLM's fields by which a bench on any text accepts as this recording does; see `SpeculativeConfig` of 0.32."""
    rates = [round(rate, 6) for rate in trace.kept_by_position(drafted)]
    return {VLLM.fields.tokens: drafted, "rejection_sample_method": "synthetic", "synthetic_acceptance_rates": rates}


def drafted(study: StoredStudy, models: Models, winner: Configuration) -> tuple[dict[str, Any], list[str]]:
    """(vLLM's fields of how much is drafted, notes) where drafts are accepted at random. Raises InputError of a look-up."""
    if KINDS[winner.recording.kind].one_hot:
        raise InputError(
            f"study {study.study_id}: {winner.recording.drafter} drafts where a text repeats itself, as a bench's does not: "
            "no share of drafts kept makes up for it; bench with prompts of yours, as --format vllm has it"
        )
    names = VLLM.fields
    whole = {names.tokens: winner.policy.k or winner.recording.gamma}
    if why := refused(VLLM, winner, study.target or ""):
        return whole, [f"{why}: this drafts {whole[names.tokens]} tokens at every load, which was not decided"]
    decided = serving_of(study.plan, VLLM, models, winner).speculative or {}
    if names.adaptive in decided:
        return whole, [
            f"{names.adaptive} is left out, and its numbers are not of this: it goes by what the drafter is sure of, which "
            "is nothing where drafts are kept at random"
        ]
    return {name: decided[name] for name in (names.tokens, names.batch_rows) if name in decided}, []


def answers_of(run: Mapping[str, Any], trace: Trace) -> str:
    """What a run's traces are of, in words; `run` is its row."""
    if run["prompt_source"] == "served":
        of = "averages" if run["plan"].get("averaged") else counted(len(trace.responses), "request")
        return f"{of}, {SERVED}"
    kind = "synthesised" if run["prompt_source"] == "synthesised" else "recorded"
    return counted(len(trace.responses), f"{kind} response")


def golden_yaml(trace: Trace, kind: str, model: str, of: str, *, thinking: bool) -> str:
    """Mean acceptance length, bonus token included, by tokens drafted, as `golden_al_distribution/*.yaml` of InferenceX.

    `of` says of what it is. Of drafters that compute a block at once only the block that was recorded: a shorter one has
    other drafts.
    """
    gamma = trace.gamma
    lengths = {k: 1 + sum(trace.kept_by_position(k)) for k in (range(1, gamma + 1) if KINDS[kind].prefix else (gamma,))}
    by_position = ", ".join(f"{rate:.3f}" for rate in trace.kept_by_position(gamma))
    return "\n".join([
        f"# acceptance of {trace.drafter}, {of}; by position, of {gamma} drafted: {by_position}",
        "# key = num_speculative_tokens; value = mean acceptance length, bonus token included",
        f"{model}:",
        f"  thinking_{'on' if thinking else 'off'}:",
        *(f"    {k}: {length:.2f}" for k, length in lengths.items()),
    ])  # fmt: skip
