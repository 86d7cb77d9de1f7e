"""Muon (Jordan et al. 2024): momentum whose update is made orthogonal, in the type the processor is fast in.

PyTorch's own does so in bfloat16 alone, which processors without units for it are two to four times slower in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn

_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that makes singular values about 1, as Muon's author chose them."""
_ITERATIONS: Final = 5


class Muon(torch.optim.Optimizer):
    """For matrices of hidden layers; weights decay by `weight_decay` times the rate."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, dtype: torch.dtype, momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                held = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                held.lerp_(matrix.grad, 1 - group["momentum"])
                ahead = matrix.grad.lerp(held, group["momentum"])  # Nesterov's
                update = orthogonal(ahead, self._dtype) * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.to(matrix.dtype), alpha=-group["lr"])


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix with singular values of about 1 (0.7 to 1.2), by Newton and Schulz's iteration."""
    a, b, c = _COEFFICIENTS
    x = matrix.to(dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    whole: Tensor = x.mT if tall else x
    return whole
