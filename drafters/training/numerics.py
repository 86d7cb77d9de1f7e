"""The numeric type in which a device multiplies matrices fastest, measured."""

from __future__ import annotations

import time
from typing import Final

import torch

_ROWS, _WIDTH, _REPEATS = 512, 768, 5
_WORTH: Final = 1.1
"""How many times as fast bfloat16 must be to be worth its rounding."""


def fastest(device: torch.device) -> tuple[torch.dtype, float]:
    """(float32 or bfloat16, how many times as fast bfloat16 is) for products of the size that training has."""
    seconds = {dtype: _seconds(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    return (torch.bfloat16 if ratio > _WORTH else torch.float32), ratio


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of a product, the least of several; on a processor those that it worked, whatever else runs there."""
    x, w = torch.ones(_ROWS, _WIDTH, device=device, dtype=dtype), torch.ones(_WIDTH, _WIDTH, device=device, dtype=dtype)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    found = []
    for _ in range(_REPEATS):
        started = clock()
        total = (x @ w).sum()
        float(total)  # waits for the device
        found.append(clock() - started)
    return max(min(found), 1e-9)
