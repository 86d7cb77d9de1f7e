"""Eagle3: drafts token by token, from a feature of the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3Config

from drafters.configs import block_size
from drafters.kinds.learned import AutoregressiveDrafter


class Eagle3(AutoregressiveDrafter):
    """EAGLE-3 as published: attention reads [norm(embedding) ; norm(feature)], the residual is the raw feature."""

    kind = "eagle3"

    def __init__(self, config: Qwen3Config, gamma: int, tap_layers: tuple[int, ...]) -> None:
        super().__init__(config, gamma, tap_layers, paired_input=True)
        self.fc = nn.Linear(len(tap_layers) * config.hidden_size, config.hidden_size, bias=False)

    @classmethod
    def declared(
        cls, raw: Mapping[str, Any], config: Qwen3Config, taps: tuple[int, ...], gamma: int | None, name: str
    ) -> Eagle3:
        return cls(config, gamma or block_size(raw, "ttt_length", name), taps)

    def project(self, taps: Tensor) -> Tensor:
        features: Tensor = self.fc(taps)
        return features

    def pair(self, feature: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        return feature, torch.cat([self.layer.input_layernorm(embedded), self.layer.hidden_norm(feature)], -1)
