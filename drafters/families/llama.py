"""Llama's layers: neither queries nor keys are normed."""

from __future__ import annotations

from transformers import LlamaConfig

from drafters.families.layers import DraftLayer

MODEL_TYPES = {"llama": LlamaConfig}
Layer = DraftLayer
