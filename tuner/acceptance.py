"""Acceptance that a recording has, in forms that benches take: vLLM's synthetic acceptance, and InferenceX's golden YAML.

Both are means over all rounds: what differs between requests, and from one round to the next, is in neither.
"""

from __future__ import annotations

from simulator.drafter_kinds import KINDS
from simulator.numbers import counted
from simulator.serving.vllm import VLLM
from simulator.traces import Trace


def synthetic_fields(trace: Trace, drafted: int) -> dict[str, object]:
    """vLLM's fields by which a bench on any text accepts as this recording does; see `SpeculativeConfig` of 0.32."""
    rates = [round(rate, 6) for rate in trace.kept_by_position(drafted)]
    return {VLLM.fields.tokens: drafted, "rejection_sample_method": "synthetic", "synthetic_acceptance_rates": rates}


def golden_yaml(trace: Trace, kind: str, model: str, *, thinking: bool) -> str:
    """Mean acceptance length, bonus token included, by tokens drafted, as `golden_al_distribution/*.yaml` of InferenceX.

    Of drafters that compute a block at once only the block that was recorded: a shorter one has other drafts.
    """
    gamma = trace.gamma
    lengths = {k: 1 + sum(trace.kept_by_position(k)) for k in (range(1, gamma + 1) if KINDS[kind].prefix else (gamma,))}
    by_position = ", ".join(f"{rate:.3f}" for rate in trace.kept_by_position(gamma))
    return "\n".join([
        f"# acceptance of {trace.drafter}, {counted(len(trace.responses), 'recorded response')}; by position, of {gamma} "
        f"drafted: {by_position}",
        "# key = num_speculative_tokens; value = mean acceptance length, bonus token included",
        f"{model}:",
        f"  thinking_{'on' if thinking else 'off'}:",
        *(f"    {k}: {length:.2f}" for k, length in lengths.items()),
    ])  # fmt: skip
