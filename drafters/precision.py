"""Numeric types of weights, and how far apart two ways to compute the same may be in them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What processors that multiply bfloat16 by themselves call it; others are slower with it than with float32."""


def choose_dtype(name: str, device: str) -> torch.dtype:
    """The numeric type of weights: by name, or for `auto` bfloat16 where `device` computes in it by itself, else float32."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.startswith("cuda"):
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device == "cpu":
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every version
        able = any(capabilities.get(unit) for unit in _BFLOAT16_UNITS)
    else:
        able = False
    return torch.bfloat16 if able else torch.float32


def tolerance(dtype: torch.dtype) -> float:
    """How far two ways to compute the same may be apart, as a share."""
    return max(1e-4, 8 * torch.finfo(dtype).eps)


def typical_error(ours: Tensor, own: Tensor) -> float:
    """Distance of states [B, N, d] as a share of their size: each row's median, since a mixture's router may flip on a last
    bit, and of these the largest, since a model may be wrong about the rows that are behind alone.

    States of their own that are not finite cannot be judged: who draws from such is stopped there.
    """
    size = own.float().norm(dim=-1)
    errors = ((ours - own).float().norm(dim=-1) / size.clamp(min=1e-12)).nan_to_num(nan=torch.inf)
    return max(
        (float(row[fine].median()) for row, fine in zip(errors, size.isfinite(), strict=True) if fine.any()), default=0.0
    )
