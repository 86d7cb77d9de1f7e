"""Drafters that extend their own hidden state token by token: Eagle3 and multi-token prediction (MTP)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import Qwen3Config

from drafters.drafter import Choose, Context, Draft, LearnedDrafter
from drafters.layers import DraftLayer, KeyValue, RMSNorm
from drafters.rotary import Rotary


class AutoregressiveDrafter(LearnedDrafter):
    """One decoder layer over pairs (feature of position i, token i + 1), at rotary position i.

    The pair before the anchor is the first step of a draft; later steps pair the layer's own output with the token just
    drafted. Their keys and values live for one block only: after verification the context is extended from taps.
    """

    token_by_token = True

    def __init__(self, config: Qwen3Config, gamma: int, tap_layers: tuple[int, ...], *, paired_input: bool) -> None:
        super().__init__(config, gamma, tap_layers)
        self.layers = nn.ModuleList([DraftLayer(config, paired_input=paired_input)])
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary = Rotary(config.head_dim, config.rope_parameters)

    @property
    def layer(self) -> DraftLayer:
        """The one decoder layer."""
        return cast(DraftLayer, self.layers[0])

    @abstractmethod
    def pair(self, feature: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """(residual [..., d], attention input [..., input_size]) from a feature and a token embedding, each [..., d]."""

    def context_entries(self, features: Tensor, tokens: Tensor, positions: Tensor) -> list[KeyValue]:
        _, x = self.pair(features, self.embed_tokens(tokens))
        return [self.layer.self_attn.project(x, self.rotary.at(positions, x.dtype))]

    def drafts(self, context: Context, anchor: Tensor, chooses: Sequence[Choose]) -> list[Draft]:
        return [self._unroll(context, anchor, choose) for choose in chooses]

    def _unroll(self, context: Context, anchor: Tensor, choose: Choose) -> Draft:
        token, hidden, own = anchor, context.feature, None
        logits = []
        for k in range(self.gamma):
            residual, x = (t.unsqueeze(2) for t in self.pair(hidden, self.embed_tokens(token)))
            rotation = self.rotary.at((context.visible + k - 1).unsqueeze(-1), x.dtype)
            if k > 0:  # the first step's entry already stands in the context
                new = self.layer.self_attn.project(x, rotation)
                own = new if own is None else KeyValue(*(torch.cat(both, 2) for both in zip(own, new, strict=True)))
            attended = self.layer.self_attn(x, rotation, context.layers[0], context.visible, own)
            hidden = self.layer.feed_forward(residual + attended).squeeze(2)
            logits.append(self.lm_head(self.norm(hidden)))
            token = choose(k, logits[k])
        return Draft(torch.stack(logits, 2), None)


class Eagle3(AutoregressiveDrafter):
    """EAGLE-3 as published: attention reads [norm(embedding) ; norm(feature)], the residual is the raw feature."""

    name = "eagle3"

    def __init__(self, config: Qwen3Config, gamma: int, tap_layers: tuple[int, ...]) -> None:
        super().__init__(config, gamma, tap_layers, paired_input=True)
        self.fc = nn.Linear(len(tap_layers) * config.hidden_size, config.hidden_size, bias=False)

    def project(self, taps: Tensor) -> Tensor:
        features: Tensor = self.fc(taps)
        return features

    def pair(self, feature: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        return feature, torch.cat([self.layer.input_layernorm(embedded), self.layer.hidden_norm(feature)], -1)


class MTP(AutoregressiveDrafter):
    """DeepSeek-V3's multi-token prediction module over the target's last layer (its output before the final norm).

    x = W[hnorm(h_t) ; enorm(emb(x_{t+1}))] enters one decoder layer; the head is shared with the target. γ = 1 is MTP-1;
    a larger γ feeds the layer's output back as h.
    """

    name = "mtp"

    def __init__(self, config: Qwen3Config, gamma: int, tap_layers: tuple[int, ...]) -> None:
        super().__init__(config, gamma, tap_layers, paired_input=False)
        self.hnorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.enorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)

    def project(self, taps: Tensor) -> Tensor:
        return taps

    def pair(self, feature: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        x = self.eh_proj(torch.cat([self.hnorm(feature), self.enorm(embedded)], -1))
        return x, self.layer.input_layernorm(x)
