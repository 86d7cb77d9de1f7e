"""EAGLE-3: drafts token by token, from a feature of the target."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drafters.families.layers import RMSNorm
from drafters.kinds.learned import AutoregressiveDrafter
from drafters.kinds.settings import PairSettings


class Eagle3(AutoregressiveDrafter):
    """Attention of the first layer reads [norm(embedding) ; norm(feature)] (EAGLE-3, Li et al. 2025); dialects are flags."""

    kind = "eagle3"

    def __init__(self, settings: PairSettings, gamma: int) -> None:
        super().__init__(settings, gamma, paired_input=True)
        taps, size, eps = len(settings.taps), settings.target_size, settings.shape.norm_eps
        if settings.fused:
            self.fc = nn.Linear(taps * size, settings.shape.hidden_size, bias=False)
        if settings.tap_norm == "each":
            self.fc_norm = nn.ModuleList([RMSNorm(size, eps) for _ in range(taps)])
        if settings.tap_norm == "joined":
            self.input_norm = RMSNorm(taps * size, eps)

    def project(self, taps: Tensor) -> Tensor:
        if self.settings.tap_norm == "each":
            each = torch.split(taps, self.settings.target_size, -1)
            taps = torch.cat([norm(tap) for norm, tap in zip(self.fc_norm, each, strict=True)], -1)
        if self.settings.tap_norm == "joined":
            taps = self.input_norm(taps)
        return self.fc(taps) if self.settings.fused else taps

    def pair(self, feature: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        first = self.draft_layers()[0]
        normed, embedded = first.hidden_norm(feature), first.input_layernorm(embedded)
        both = [embedded, normed] if self.settings.order == "embedding, feature" else [normed, embedded]
        return normed if self.settings.residual == "normed feature" else feature, torch.cat(both, -1)
