"""The clock that steps are timed with."""

from __future__ import annotations

import time

import torch


def seconds_now(device: torch.device) -> float:
    """A clock to take differences of.

    On a CPU with one thread its time on the processor, which is the wall's time unless others keep it waiting.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.thread_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()
