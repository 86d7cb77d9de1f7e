"""Multi-token prediction (MTP), as DeepSeek-V3 has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3Config

from drafters.configs import block_size
from drafters.families.qwen3 import RMSNorm
from drafters.kinds.learned import AutoregressiveDrafter


class MTP(AutoregressiveDrafter):
    """DeepSeek-V3's multi-token prediction module over the target's last layer (its output before the final norm).

    x = W[hnorm(h_t) ; enorm(emb(x_{t+1}))] enters one decoder layer; the head is shared with the target. γ = 1 is MTP-1;
    a larger γ feeds the layer's output back as h.
    """

    kind = "mtp"

    def __init__(self, config: Qwen3Config, gamma: int, tap_layers: tuple[int, ...]) -> None:
        super().__init__(config, gamma, tap_layers, paired_input=False)
        self.hnorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.enorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)

    @classmethod
    def declared(
        cls, raw: Mapping[str, Any], config: Qwen3Config, taps: tuple[int, ...], gamma: int | None, name: str
    ) -> MTP:
        return cls(config, gamma or block_size({"mtp_length": 1, **raw}, "mtp_length", name), taps)

    def project(self, taps: Tensor) -> Tensor:
        return taps

    def pair(self, feature: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        x = self.eh_proj(torch.cat([self.hnorm(feature), self.enorm(embedded)], -1))
        return x, self.layer.input_layernorm(x)
