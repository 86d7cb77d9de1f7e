"""How much of a machine is measured; needs nothing that takes time to import."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured. Raises InputError where a limit makes no sense."""

    time_limit_s: float = 60.0
    """Time limit, roughly; loading comes on top. Capturing graphs of a large model takes minutes."""
    seed: int = 0
    max_requests: int | None = None
    """Largest R; None is 64 on a CPU and 256 on a GPU."""
    context_tokens: int | None = None
    """Longest context of a request; None is 1024 on a CPU and 4096 on a GPU; never more than half the target's."""
    memory_gb: float | None = None
    """For keys and values; None is half the free memory, or 0.9 of a GPU's less the weights."""
    graphs: bool = True
    """Capture passes as CUDA graphs on a GPU, as engines do; the project's own loop does not."""

    def __post_init__(self) -> None:
        for name in ("time_limit_s", "max_requests", "context_tokens", "memory_gb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"--{name.removesuffix('_s').replace('_', '-')} must be above 0, got {value}")
