"""Multi-token prediction (MTP), as DeepSeek-V3 has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drafters.families.layers import RMSNorm
from drafters.kinds.learned import AutoregressiveDrafter
from drafters.kinds.settings import PairSettings


class MTP(AutoregressiveDrafter):
    """DeepSeek-V3's multi-token prediction module over the target's last layer.

    x = W[hnorm(h_t) ; enorm(emb(x_{t+1}))], in either order, enters one decoder layer; the head is shared with the target.
    γ = 1 is MTP-1; a larger γ feeds the layer's output back as h.
    """

    kind = "mtp"

    def __init__(self, settings: PairSettings, gamma: int) -> None:
        super().__init__(settings, gamma, paired_input=False)
        size, eps = settings.shape.hidden_size, settings.shape.norm_eps
        self.hnorm, self.enorm = RMSNorm(size, eps), RMSNorm(size, eps)
        self.eh_proj = nn.Linear(2 * size, size, bias=False)

    def project(self, taps: Tensor) -> Tensor:
        return taps

    def pair(self, feature: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        both = [self.enorm(embedded), self.hnorm(feature)]
        x = self.eh_proj(torch.cat(both if self.settings.order == "embedding, feature" else both[::-1], -1))
        return x, self.draft_layers()[0].enter(x)
