"""Layers of the learned drafters in the Qwen3 family, named as on disk, around one attention that serves them all."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3Config

from drafters.rotary import Rotation


class KeyValue(NamedTuple):
    """Keys and values, each [B, …, kv_heads, …, head_dim] as the user of them says."""

    keys: Tensor
    values: Tensor


class RMSNorm(nn.Module):
    """Division by the root mean square, computed in float32, then a weight per channel (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to the same shape and type."""
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class MLP(nn.Module):
    """The gated feed-forward half of a layer (SwiGLU)."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(size, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to the same shape."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class ContextAttention(nn.Module):
    """Attention of A blocks per text over the text's context and over their own slots.

    Block a of text b has Q queries. Each sees what is not `unseen` of the context and every slot it is given of its own
    block; blocks do not see each other. A live round is the case A = 1; training and teacher forcing put many
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
        self.q_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)

    def project(self, x: Tensor, rotation: Rotation) -> KeyValue:
        """Keys and values [..., kv_heads, head_dim] of inputs `x` [..., input_size], rotated to their positions."""
        shape = (*x.shape[:-1], self.kv_heads, self.head_dim)
        return KeyValue(rotation.of(self.k_norm(self.k_proj(x).view(shape))), self.v_proj(x).view(shape))

    def forward(
        self, x: Tensor, rotation: Rotation, context: KeyValue, unseen: Tensor | None, own: KeyValue | None
    ) -> Tensor:
        """Attend.

        Args:
            x: inputs of the queries, [B, A, Q, input_size].
            rotation: to their positions, [B, A, Q].
            context: keys and values [B, kv_heads, C, head_dim] of the text, rotated.
            unseen: context positions each block may not see, bool [B, 1, A, 1, C]; None where it sees all.
            own: keys and values [B, A, J, kv_heads, head_dim] of the block's own slots, or None.

        Returns:
            [B, A, Q, d].
        """
        B, A, Q, _ = x.shape
        H, D = self.kv_heads, self.head_dim
        queries = rotation.of(self.q_norm(self.q_proj(x).view(B, A, Q, self.heads, D)))
        # Heads that share keys and values side by side: [B, A, H, G·Q, D] and, for the context, [B, H, A·G·Q, D].
        per_block = queries.view(B, A, Q, H, -1, D).permute(0, 1, 3, 4, 2, 5).reshape(B, A, H, -1, D) * D**-0.5
        per_text = per_block.transpose(1, 2).reshape(B, H, -1, D)

        scores = (per_text @ context.keys.transpose(-1, -2)).view(B, H, A, -1, context.keys.shape[2]).float()
        if unseen is not None:
            scores = scores.masked_fill(unseen, -torch.inf)
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
        self.mlp = MLP(size, config.intermediate_size)
        self.input_layernorm = RMSNorm(size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(size, eps=config.rms_norm_eps)
        if paired_input:
            self.hidden_norm = RMSNorm(size, eps=config.rms_norm_eps)

    def feed_forward(self, residual: Tensor) -> Tensor:
        """The second half of the layer."""
        out: Tensor = residual + self.mlp(self.post_attention_layernorm(residual))
        return out
