"""The serving engines that are known, by the names that users give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from simulator.errors import InputError
from simulator.serving.engine import ServingEngine
from simulator.serving.llama_cpp import LLAMA_CPP
from simulator.serving.sglang import SGLANG
from simulator.serving.tensorrt_llm import TENSORRT_LLM
from simulator.serving.vllm import VLLM

DEFAULT_ENGINE: Final = VLLM
"""The one that is meant where nobody says."""
ENGINES: Final[Mapping[str, ServingEngine | None]] = {
    "vllm": VLLM,
    "sglang": SGLANG,
    "tensorrt-llm": TENSORRT_LLM,
    "llama.cpp": LLAMA_CPP,
    "any": None,
}
"""`any` is none in particular: everything that is lossless runs on it."""


def engine_of(name: str) -> ServingEngine | None:
    """The engine that users call so; None for `any`. Raises InputError."""
    if name not in ENGINES:
        raise InputError(f"--engine {name}: there are {', '.join(ENGINES)}")
    return ENGINES[name]


def engine_called(name: str) -> ServingEngine | None:
    """The engine of this name as its makers write it; None for `any`. Raises InputError."""
    known = {engine.name: engine for engine in ENGINES.values() if engine is not None}
    return known[name] if name in known else engine_of(name)


def name_of(engine: ServingEngine | None) -> str:
    """What users call an engine."""
    return next(name for name, known in ENGINES.items() if known == engine)
