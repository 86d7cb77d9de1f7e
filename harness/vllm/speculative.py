"""What vLLM's own configuration class says to a configuration of drafting, where vLLM is installed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from simulator.serving.verification import departures
from simulator.serving.vllm import VLLM


def check(speculative: Mapping[str, Any] | None) -> str:
    """Whether vLLM knows the fields and takes their values, and verifies losslessly, in words; None is plain decoding."""
    if not speculative:
        return f"plain decoding: nothing to check against {VLLM.name}"
    if shown := departures(speculative):
        return f"not lossless chains: {shown[0]}"
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
    return f"fields and types checked against {installed}"
