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
from drafters.precision import tolerance, typical_error
from drafters.target import Target

_NAME = "specyard_abreast"
_PROMPT, _BLOCK = 48, 8
"""Tokens of the prompt and of the block after it, on which the two ways are compared."""
_LONGEST_BLOCK = 32
"""Tokens of each row up to which a pass over a context is taken for a draft's: longer ones read no context again."""


@contextmanager
def reads_once(target: Target) -> Iterator[str | None]:
    """Let a target's passes over rows that stand abreast go without masks; yields what that is, in words.

    Given a mask, PyTorch has no kernel that knows grouped heads, and transformers copies keys and values once for every
    query head: several times their bytes, which no engine moves. Where all rows of a pass end at one position no mask is
    needed: FlashAttention, causal from the lower right, over prompts and single tokens; over a block first the context,
    which all its queries see, the query heads of a group side by side, then the block itself. Yields None, and changes
    nothing, where a target has other than full attention, or where the two ways do not agree within rounding.
    """
    own = target.model.get_correct_attn_implementation(None)  # what transformers chose as it loaded the target
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
            yield f"without masks over rows abreast, grouped heads read once; hidden states {error:.2g} from the model's own"
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
    tokens, context = query.shape[2], key.shape[2] - query.shape[2]
    if 1 < tokens <= _LONGEST_BLOCK and context > 0:
        mixed = _of_block(query, key, value, context, scaling or query.shape[-1] ** -0.5)
    else:
        mask = causal_lower_right(tokens, key.shape[2])
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)
    return mixed.transpose(1, 2).contiguous(), None


def _of_block(query: Tensor, key: Tensor, value: Tensor, context: int, scale: float) -> Tensor:
    """[B, H, N, D] of a block: two attentions, weighted by the mass of each (as FlashAttention joins its own parts)."""
    B, H, N, D = query.shape
    groups = query.reshape(B, key.shape[1], -1, D)  # one reading of keys and values serves all queries of a group
    far, far_log = _with_mass(groups, key[:, :, :context], value[:, :, :context], scale, causal=False)
    near, near_log = _with_mass(query, key[:, :, context:], value[:, :, context:], scale, causal=True)
    # Joined in float32: rounded to bfloat16, a share near 1 is off by more than the block's few large values can bear.
    share = torch.sigmoid(far_log.reshape(B, H, N) - near_log).unsqueeze(-1)
    return torch.lerp(near.float(), far.reshape(B, H, N, D).float(), share).to(query.dtype)


def _with_mass(query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention [B, H, N, D], and the logarithm of the sum of its exponentials, float32 [B, H, N]."""
    if query.device.type == "cuda":
        # Two attentions are joined by their sums, which scaled_dot_product_attention and torch.nn.attention.bias, that call
        # this, keep to themselves. Of what is public, varlen_attn (not in torch 2.9) takes a packed copy of the context, and
        # flex_attention is another kernel, which is compiled: neither takes the time that is measured here.
        found = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, False, scale=scale)
        mixed, log_sum = found[:2]
        return mixed, log_sum
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1).float() for x in (key, value))
    scores = query.float() @ key.transpose(-1, -2) * scale
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return (scores.softmax(-1) @ value).to(query.dtype), scores.logsumexp(-1)


def _no_mask(*_: object, **__: object) -> None:
    """What transformers is to make where it is given no mask."""


@torch.inference_mode()
def _hidden(target: Target) -> Tensor:
    """Hidden states of a block and of a token after it, behind a prompt of two rows: a prompt goes the same way as ever."""
    total = _PROMPT + _BLOCK + 1
    ids = torch.arange(2 * total, device=target.device).view(2, total) * 7919 % target.vocab_size
    cache, start, seen = target.new_cache(2, total), 0, []
    for count in (_PROMPT, _BLOCK, 1):
        positions = Positions.of([start] * 2, count, target.device)
        seen.append(target.forward(ids[:, start : start + count], positions, cache, slice(0, 2), []).hidden)
        start += count
    return torch.cat(seen[1:], 1).flatten(0, 1)
