"""Qwen3's layers: Llama's with queries and keys normed per head."""

from __future__ import annotations

from transformers import Qwen3Config

from drafters.families.layers import ContextAttention, DraftLayer, LayerShape, RMSNorm

MODEL_TYPES = {"qwen3": Qwen3Config}


class Attention(ContextAttention):
    """Queries and keys of each head normed before they are rotated."""

    def __init__(self, shape: LayerShape, input_size: int) -> None:
        super().__init__(shape, input_size)
        self.q_norm, self.k_norm = (RMSNorm(shape.head_dim, shape.norm_eps) for _ in range(2))


class Layer(DraftLayer):
    """A layer with normed queries and keys."""

    attention = Attention
