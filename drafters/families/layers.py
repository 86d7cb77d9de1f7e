"""Layers of the learned drafters, named as on disk, around one attention that serves them all; families are its cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from drafters.rotary import Rotation

WIDEST: Final = 1 << 20
"""More than any size of a layer: a larger one is a mistake, and would take all memory before a tensor denies it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """What the layers of a draft are. Raises ValueError for sizes that are none."""

    family: str
    """Which of the families in this folder builds them."""
    hidden_size: int
    """d: width of the draft's states."""
    inner_size: int
    """Width of the feed-forward half."""
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    layers: int
    rotary: Mapping[str, Any]
    """`rope_parameters` of a configuration, the draft's own."""
    windows: tuple[int | None, ...]
    """Positions that each layer sees, in a sliding one; None for all."""
    activation: str = "silu"
    attention_bias: bool = False
    """Whether queries, keys and values have one."""
    output_bias: bool = False
    """Whether the projection of what attention puts out has one."""
    mlp_bias: bool = False
    values_are_keys: bool = False
    """Whether values are projected by the keys' matrix (Gemma-4's full layers)."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "inner_size", "heads", "kv_heads", "head_dim", "layers"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= WIDEST:
                raise ValueError(f"{name} must be a whole number from 1 to {WIDEST}, got {value!r}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} of keys and values")
        if len(self.windows) != self.layers or any(w is not None and w < 1 for w in self.windows):
            raise ValueError(f"{self.layers} layers need as many windows of 1 position or more, got {list(self.windows)}")
        if self.activation not in ACT2FN:
            raise ValueError(f"unknown activation {self.activation!r}")


class KeyValue(NamedTuple):
    """Keys and values, each [B, …, kv_heads, …, head_dim] as the user of them says."""

    keys: Tensor
    values: Tensor


class Masks(NamedTuple):
    """What queries may not see, bool; None where they see all."""

    context: Tensor | None
    """What is hidden of the context, [B, 1, A, Q or 1, C]."""
    own: Tensor | None = None
    """What is hidden of the block's own slots, [Q, J]."""


class RMSNorm(nn.Module):
    """Division by the root mean square, computed in float32, then a weight per channel (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, eps: float, *, weighted: bool = True) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)) if weighted else None, eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to the same shape and type."""
        wide = x.float()
        normed = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)
        return normed if self.weight is None else self.weight * normed


class MLP(nn.Module):
    """The gated feed-forward half of a layer (SwiGLU and its like)."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        size, inner, bias = shape.hidden_size, shape.inner_size, shape.mlp_bias
        self.gate_proj, self.up_proj = (nn.Linear(size, inner, bias=bias) for _ in range(2))
        self.down_proj = nn.Linear(inner, size, bias=bias)
        self.activation = ACT2FN[shape.activation]

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to the same shape."""
        out: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return out


class ContextAttention(nn.Module):
    """Attention of A blocks per text over the text's context and over their own slots.

    Block a of text b has Q queries. Each sees of the context and of the slots it is given of its own block what masks
    leave; blocks do not see each other. A live round is the case A = 1; training and teacher forcing put many
    blocks of one text into one pass. (For a causal drafter a block's earlier steps are handed in as its own slots.)

    As it stands it is Llama's; families whose queries and keys are normed say so.
    """

    def __init__(self, shape: LayerShape, input_size: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = shape.heads, shape.kv_heads, shape.head_dim
        self.scale, bias = shape.head_dim**-0.5, shape.attention_bias
        self.q_proj = nn.Linear(input_size, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(input_size, self.kv_heads * self.head_dim, bias=bias)
        if not shape.values_are_keys:
            self.v_proj = nn.Linear(input_size, self.kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, shape.hidden_size, bias=shape.output_bias)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()

    def project(self, x: Tensor, rotation: Rotation) -> KeyValue:
        """Keys and values [..., kv_heads, head_dim] of inputs `x` [..., input_size], rotated to their positions."""
        shape = (*x.shape[:-1], self.kv_heads, self.head_dim)
        return KeyValue(rotation.of(self.k_norm(self.k_proj(x).view(shape))), self.v_proj(x).view(shape))

    def forward(self, x: Tensor, rotation: Rotation, context: KeyValue, masks: Masks, own: KeyValue | None) -> Tensor:
        """Attend.

        Args:
            x: inputs of the queries, [B, A, Q, input_size].
            rotation: to their positions, [B, A, Q].
            context: keys and values [B, kv_heads, C, head_dim] of the text, rotated.
            own: keys and values [B, A, J, kv_heads, head_dim] of the block's own slots, or None.

        Returns:
            [B, A, Q, d].
        """
        B, A, Q, _ = x.shape
        H, D, G = self.kv_heads, self.head_dim, self.heads // self.kv_heads
        queries = rotation.of(self.q_norm(self.q_proj(x).view(B, A, Q, self.heads, D)))
        # Heads that share keys and values side by side: [B, A, H, G·Q, D] and, for the context, [B, H, A·G·Q, D].
        per_block = queries.view(B, A, Q, H, -1, D).permute(0, 1, 3, 4, 2, 5).reshape(B, A, H, -1, D) * self.scale
        per_text = per_block.transpose(1, 2).reshape(B, H, -1, D)

        scores = (per_text @ context.keys.transpose(-1, -2)).view(B, H, A, -1, context.keys.shape[2]).float()
        if masks.context is not None:
            unseen = masks.context if masks.context.shape[3] == 1 else masks.context.repeat(1, 1, 1, G, 1)
            scores = scores.masked_fill(unseen, -torch.inf)
        if own is not None:
            keys = own.keys.permute(0, 1, 3, 4, 2)
            inside = (per_block @ keys).transpose(1, 2).float()
            if masks.own is not None:
                inside = inside.masked_fill(masks.own.repeat(G, 1), -torch.inf)
            scores = torch.cat([scores, inside], -1)
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
    """A decoder layer whose attention sees a context; `hidden_norm` only where inputs are pairs. As it stands, Llama's."""

    attention: type[ContextAttention] = ContextAttention

    def __init__(self, shape: LayerShape, *, paired_input: bool = False) -> None:
        super().__init__()
        size, eps = shape.hidden_size, shape.norm_eps
        self.self_attn = self.attention(shape, 2 * size if paired_input else size)
        self.mlp = MLP(shape)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(size, eps), RMSNorm(size, eps)
        if paired_input:
            self.hidden_norm = RMSNorm(size, eps)

    def enter(self, x: Tensor) -> Tensor:
        """What attention reads of the layer's input [..., d]."""
        normed: Tensor = self.input_layernorm(x)
        return normed

    def leave(self, residual: Tensor, attended: Tensor) -> Tensor:
        """The layer's output from its residual and what attention gave, each [..., d]."""
        x = residual + attended
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out

    def forward(self, residual: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """The layer's output from its input [..., d]; `attend` is given what attention reads."""
        return self.leave(residual, attend(self.enter(residual)))
