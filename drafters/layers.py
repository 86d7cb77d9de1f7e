"""Building blocks of the learned drafters, named as on disk: Qwen3 modules around one attention that serves them all."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm, Qwen3RotaryEmbedding, rotate_half


class KeyValue(NamedTuple):
    """Keys and values, each [B, …, kv_heads, …, head_dim] as the user of them says."""

    keys: Tensor
    values: Tensor


class Rotary(nn.Module):
    """Rotary position embedding of the target family, YaRN and the like included."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        # In a list, out of reach of `Module.to`: frequencies rounded to bfloat16 would be radians off after some hundred
        # tokens. The embedding computes in float32 and moves to the device of its input by itself.
        self._embedding = [Qwen3RotaryEmbedding(config)]

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate `x` [..., heads, head_dim] at `positions` [...]."""
        cos, sin = self._embedding[0](x, positions.reshape(1, -1))
        shape = (*positions.shape, 1, x.shape[-1])
        rotated: Tensor = x * cos.view(shape) + rotate_half(x) * sin.view(shape)
        return rotated


class ContextAttention(nn.Module):
    """Attention of A blocks per text over the text's context and over their own slots.

    Block a of text b has Q queries. Each sees the first `visible[b, a]` context positions and every slot it is given of
    its own block; blocks do not see each other. A live round is the case A = 1; training and teacher forcing put many
    blocks of one text into one pass. (For a causal drafter a block's earlier steps are handed in as its own slots.)
    """

    def __init__(self, config: Qwen3Config, input_size: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        bias = config.attention_bias
        self.q_proj = nn.Linear(input_size, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(input_size, self.kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(input_size, self.kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=bias)
        self.q_norm = Qwen3RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.k_norm = Qwen3RMSNorm(self.head_dim, eps=config.rms_norm_eps)

    def project(self, x: Tensor, positions: Tensor, rotary: Rotary) -> KeyValue:
        """Keys and values [..., kv_heads, head_dim] of inputs `x` [..., input_size] at `positions` [...]."""
        shape = (*x.shape[:-1], self.kv_heads, self.head_dim)
        keys = rotary(self.k_norm(self.k_proj(x).view(shape)), positions)
        return KeyValue(keys, self.v_proj(x).view(shape))

    def forward(
        self, x: Tensor, positions: Tensor, rotary: Rotary, context: KeyValue, visible: Tensor, own: KeyValue | None
    ) -> Tensor:
        """Attend.

        Args:
            x: inputs of the queries, [B, A, Q, input_size], at `positions` [B, A, Q].
            context: keys and values [B, kv_heads, C, head_dim] of the text, rotated.
            visible: context positions each block may see, [B, A].
            own: keys and values [B, A, J, kv_heads, head_dim] of the block's own slots, or None.

        Returns:
            [B, A, Q, d].
        """
        B, A, Q, _ = x.shape
        H, D = self.kv_heads, self.head_dim
        queries = rotary(self.q_norm(self.q_proj(x).view(B, A, Q, self.heads, D)), positions)
        # Heads that share keys and values side by side: [B, A, H, G·Q, D] and, for the context, [B, H, A·G·Q, D].
        per_block = queries.view(B, A, Q, H, -1, D).permute(0, 1, 3, 4, 2, 5).reshape(B, A, H, -1, D) * D**-0.5
        per_text = per_block.transpose(1, 2).reshape(B, H, -1, D)

        scores = (per_text @ context.keys.transpose(-1, -2)).view(B, H, A, -1, context.keys.shape[2]).float()
        seen = torch.arange(scores.shape[-1], device=x.device) < visible[:, None, :, None, None]
        scores = scores.masked_fill(~seen, -torch.inf)
        if own is not None:
            keys = own.keys.permute(0, 1, 3, 4, 2)
            scores = torch.cat([scores, (per_block @ keys).transpose(1, 2).float()], -1)
        weights = scores.softmax(-1).to(x.dtype)
        context_weights = weights[..., : context.keys.shape[2]]
        mixed = (context_weights.reshape(B, H, -1, context.keys.shape[2]) @ context.values).view(B, H, A, -1, D)
        if own is not None:
            own_weights = weights[..., context.keys.shape[2] :].transpose(1, 2)
            mixed = mixed + (own_weights @ own.values.transpose(2, 3)).transpose(1, 2)
        merged = mixed.view(B, H, A, -1, Q, D).permute(0, 2, 4, 1, 3, 5).reshape(B, A, Q, -1)
        out: Tensor = self.o_proj(merged)
        return out


class DraftLayer(nn.Module):
    """A decoder layer of the target family whose attention sees a context; `hidden_norm` only where inputs are pairs."""

    def __init__(self, config: Qwen3Config, *, paired_input: bool = False) -> None:
        super().__init__()
        size = config.hidden_size
        self.self_attn = ContextAttention(config, 2 * size if paired_input else size)
        self.mlp = Qwen3MLP(config)
        self.input_layernorm = Qwen3RMSNorm(size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = Qwen3RMSNorm(size, eps=config.rms_norm_eps)
        if paired_input:
            self.hidden_norm = Qwen3RMSNorm(size, eps=config.rms_norm_eps)

    def feed_forward(self, residual: Tensor) -> Tensor:
        """The second half of the layer."""
        out: Tensor = residual + self.mlp(self.post_attention_layernorm(residual))
        return out
