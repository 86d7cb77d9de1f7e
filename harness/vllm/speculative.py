"""What vLLM's own configuration class says to a configuration of drafting, where vLLM is installed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, get_type_hints

from simulator.serving.verification import WORDS, departures
from simulator.serving.vllm import VLLM

_NUMBERS: Final = (
    VLLM.fields.tokens, VLLM.fields.batch_rows, "rejection_sample_method", "synthetic_acceptance_rates",
    "synthetic_acceptance_length",
)  # fmt: skip
"""Fields that mean the same whatever drafts, and are checked against each other."""


def check(speculative: Mapping[str, Any] | None) -> str:
    """Whether vLLM knows the fields and takes their values, and verifies losslessly, in words; None is plain decoding."""
    if not speculative:
        return f"plain decoding: nothing to check against {VLLM.name}"
    told = _checked(speculative)
    shown = departures(speculative)
    return f"{told}; {shown[0].setting} is not lossless: {WORDS[shown[0].departure]}" if shown else told


def _checked(speculative: Mapping[str, Any]) -> str:
    try:
        import vllm  # type: ignore[import-not-found, unused-ignore]
        from pydantic import TypeAdapter, ValidationError
        from vllm.config import SpeculativeConfig  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return f"not checked: {VLLM.name} is not installed here; written for {VLLM.name} {VLLM.version}"
    installed = f"{VLLM.name} {vllm.__version__}"
    fields = {f.name for f in dataclasses.fields(SpeculativeConfig)}
    hints = get_type_hints(SpeculativeConfig, include_extras=True)
    for name, value in speculative.items():
        if name not in fields:
            return f"{installed} does not know {name}: adapt it by hand"
        try:
            TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            return f"{installed} refuses {name}: {error.errors()[0]['msg']}"
    # Its class reads a drafter's checkpoint, which may be anywhere: look-up, which has none, is made with the same numbers.
    alone = {name: value for name, value in speculative.items() if name in _NUMBERS}
    try:
        SpeculativeConfig(**VLLM.kinds["ngram"].options, **alone, **{VLLM.fields.method: "ngram"})
    except ValueError as error:  # ValidationError too
        return f"{installed} refuses the numbers: {' '.join(str(error).split())[:200]}"
    return f"fields and types checked against {installed}, whose class takes the numbers"
