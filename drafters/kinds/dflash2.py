"""What DFlash2 adds to DFlash: convolutions along the block around each half layer, and a selector among candidates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drafters.families.layers import LayerShape
from drafters.families.qwen3 import Layer


class BlockConvolution(nn.Module):
    """Causal convolutions along a block before and after a half layer, their kernels drawn from its normed input.

    A coefficient is a learned base per channel plus a share per group of channels, projected from the input.
    """

    def __init__(self, taps: int, group: int, size: int) -> None:
        super().__init__()
        if size % group:
            raise ValueError(f"convolutions of groups of {group} channels do not fit a width of {size}")
        self.taps, self.group = taps, group
        self.base_kernel = nn.Parameter(torch.zeros(2, taps, size).index_fill_(1, torch.tensor([0]), 1.0))
        self.kernel_projection = nn.Linear(size, 2 * taps * (size // group), bias=False)

    def kernels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients [..., Q, taps, d] before and after, from inputs [..., Q, d]."""
        shares = self.kernel_projection(x).unflatten(-1, (2, self.taps, -1)).repeat_interleave(self.group, -1)
        before, after = (self.base_kernel + shares).unbind(-3)
        return before, after

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Each slot's state and those of the slots before it, [..., Q, d], weighted; before the block there are zeros."""
        shifted = [F.pad(x, (0, 0, tap, 0))[..., : x.shape[-2], :] for tap in range(self.taps)]
        return sum((one * kernel[..., tap, :] for tap, one in enumerate(shifted)), torch.zeros_like(x))


class ConvolvedLayer(Layer):
    """A Qwen3 layer with convolutions around attention and around the feed-forward half."""

    def __init__(self, taps: int, group: int, shape: LayerShape) -> None:
        super().__init__(shape)
        self.attention_conv, self.mlp_conv = (BlockConvolution(taps, group, shape.hidden_size) for _ in range(2))

    def forward(self, residual: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        normed = self.enter(residual)
        before, after = self.attention_conv.kernels(normed)
        x = residual + self.attention_conv(attend(self.attention_conv(normed, before)), after)
        normed = self.post_attention_layernorm(x)
        before, after = self.mlp_conv.kernels(normed)
        out: Tensor = x + self.mlp_conv(self.mlp(self.mlp_conv(normed, before)), after)
        return out


class Selector(nn.Module):
    """Chooses among the likeliest candidates of a position, given the token before: q is on these alone."""

    def __init__(self, rank: int, candidates: int, vocabulary: int, size: int) -> None:
        super().__init__()
        self.candidates = min(candidates, vocabulary)
        self.predecessor_codebook, self.successor_codebook = (nn.Parameter(torch.zeros(vocabulary, rank)) for _ in range(2))
        self.hidden_projection = nn.Linear(size, rank, bias=False)

    def forward(self, logits: Tensor, hidden: Tensor, token: Tensor) -> Tensor:
        """Scores [..., V] from logits [..., V], states [..., d] and the tokens before [...]; −∞ for all but candidates."""
        top = logits.topk(self.candidates, -1)
        context = self.predecessor_codebook[token] * self.hidden_projection(hidden)
        scores = top.values + (context.unsqueeze(-2) * self.successor_codebook[top.indices]).sum(-1)
        return torch.full_like(logits, -torch.inf).scatter(-1, top.indices, scores)
