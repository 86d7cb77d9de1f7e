"""Attention as serving engines run it, for targets that are timed: keys and values of grouped heads are read once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from drafters.cache import Positions
from drafters.target import Target, tolerance, typical_error

_NAME = "specyard_abreast"
_PROMPT, _BLOCK = 48, 8
"""Tokens of the prompt and of the block after it, on which the two ways are compared."""


@contextmanager
def reads_once(target: Target) -> Iterator[str | None]:
    """Let a target's passes over rows that stand abreast go without a mask, while the block runs; yields what it is, in words.

    Given a mask, PyTorch has no kernel that knows grouped heads, and transformers copies keys and values once for every query
    head: several times their bytes, which no engine moves. Where all rows of a pass end at one position there is a kernel
    without a mask (FlashAttention, causal from the lower right; on a CPU, the plain arithmetic). Yields None, and changes
    nothing, where a target has other than full attention, or where the two ways do not agree within rounding.
    """
    own = target.model.config._attn_implementation
    if target.layer_kinds != ("full_attention",):
        yield None
        return
    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, _no_mask)
    expected = _hidden(target)
    try:
        target.model.set_attn_implementation(_NAME)
        error = typical_error(_hidden(target), expected)
        if error > tolerance(target.dtype):
            target.model.set_attn_implementation(own)
            yield None
        else:
            yield f"without masks over rows abreast, grouped heads read once; hidden states {error:.1g} from the model's own"
    finally:
        target.model.set_attn_implementation(own)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """[B, H, N, D] over [B, kv_heads, L, D] to [B, N, H, D]: query i sees all but the last N − 1 − i keys."""
    if attention_mask is not None:  # rows at different positions
        given: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **rest
        )
        return given
    mask = causal_lower_right(query.shape[2], key.shape[2])
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)
    return mixed.transpose(1, 2).contiguous(), None


def _no_mask(*_: object, **__: object) -> None:
    """What transformers is to make where it is given no mask."""


@torch.inference_mode()
def _hidden(target: Target) -> Tensor:
    """Hidden states of a prompt of two rows, and of a block and a token after it."""
    total = _PROMPT + _BLOCK + 1
    ids = torch.arange(2 * total, device=target.device).view(2, total) * 7919 % target.vocab_size
    cache, start, seen = target.new_cache(2, total), 0, []
    for count in (_PROMPT, _BLOCK, 1):
        positions = Positions.of([start] * 2, count, target.device)
        seen.append(target.forward(ids[:, start : start + count], positions, cache, slice(0, 2), []).hidden)
        start += count
    return torch.cat(seen, 1).flatten(0, 1)
