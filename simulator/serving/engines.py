"""The serving engines that are known, by the names that users give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from simulator.serving.engine import ServingEngine
from simulator.serving.vllm import VLLM

DEFAULT_ENGINE: Final = "vllm"
"""The one that is meant where nobody says."""
ENGINES: Final[Mapping[str, ServingEngine | None]] = {DEFAULT_ENGINE: VLLM, "any": None}
"""`any` is none in particular: everything that is lossless runs on it."""
