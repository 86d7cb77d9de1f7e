"""Gemma-4's layers: values normed too, scores unscaled, norms after each half, and a factor on the layer's output."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Gemma4TextConfig

from drafters.families.layers import DraftLayer, KeyValue, LayerShape, RMSNorm
from drafters.families.qwen3 import Attention as NormedAttention
from drafters.rotary import Rotation

MODEL_TYPES = {"gemma4_text": Gemma4TextConfig, "gemma4_unified_text": Gemma4TextConfig}


class Attention(NormedAttention):
    """Values are normed without a weight; full layers may have them from the keys' matrix, before norm and rotation."""

    def __init__(self, shape: LayerShape, input_size: int) -> None:
        super().__init__(shape, input_size)
        self.scale = 1.0
        self.v_norm = RMSNorm(shape.head_dim, shape.norm_eps, weighted=False)

    def project(self, x: Tensor, rotation: Rotation) -> KeyValue:
        shape = (*x.shape[:-1], self.kv_heads, self.head_dim)
        keys = self.k_proj(x).view(shape)
        values = self.v_proj(x).view(shape) if hasattr(self, "v_proj") else keys
        return KeyValue(rotation.of(self.k_norm(keys)), self.v_norm(values))


class Layer(DraftLayer):
    """Four norms, around either half, and `layer_scalar`."""

    attention = Attention

    def __init__(self, shape: LayerShape, *, paired_input: bool = False) -> None:
        super().__init__(shape, paired_input=paired_input)
        size, eps = shape.hidden_size, shape.norm_eps
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = (RMSNorm(size, eps) for _ in range(2))
        self.layer_scalar = nn.Buffer(torch.ones(1))

    def leave(self, residual: Tensor, attended: Tensor) -> Tensor:
        x = residual + self.post_attention_layernorm(attended)
        out: Tensor = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return out * self.layer_scalar
