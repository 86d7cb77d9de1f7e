"""DSpark and DFlash: one parallel pass drafts the whole block; DSpark adds a light sequential head and confidences.

After *DSpark: Confidence-Scheduled Speculative Decoding with Semi-Autoregressive Generation* (DeepSeek-AI and Peking
University, 2026) and the published checkpoint format. DFlash is the case of no sequential head (`markov_rank` 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from transformers import Qwen3Config

from drafters.configs import block_size, declared_field
from drafters.families.qwen3 import DraftLayer, KeyValue, RMSNorm
from drafters.kinds.learned import Choose, Context, Draft, LearnedDrafter
from drafters.rotary import Rotary
from simulator.errors import InputError

HeadType = Literal["vanilla", "gated", "rnn"]


class MarkovHead(nn.Module):
    """Adds to the logits of position k a low-rank bias that depends on the tokens drafted before it."""

    def __init__(self, kind: HeadType, vocab_size: int, rank: int, hidden_size: int) -> None:
        super().__init__()
        self.kind, self.rank = kind, rank
        self.markov_w1 = nn.Embedding(vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, vocab_size, bias=False)
        if kind == "gated":
            self.gate_proj = nn.Linear(hidden_size + rank, rank)
        elif kind == "rnn":
            self.joint_proj = nn.Linear(2 * rank + hidden_size, 3 * rank)

    def step(self, embedded: Tensor, hidden: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(bias [..., V], next state [..., r]) from W1[x_{k−1}] [..., r], h_k [..., d] and the state [..., r]."""
        if self.kind == "gated":
            embedded = torch.sigmoid(self.gate_proj(torch.cat([hidden, embedded], -1))) * embedded
        elif self.kind == "rnn":
            gate, candidate, output = self.joint_proj(torch.cat([state, embedded, hidden], -1)).chunk(3, -1)
            keep = torch.sigmoid(gate)
            state = keep * state + (1 - keep) * torch.tanh(candidate)
            embedded = torch.tanh(output)
        return self.markov_w2(embedded), state


class ConfidenceHead(nn.Module):
    """A linear read-out of c_k, before the sigmoid."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(input_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[..., input_size] to [...]."""
        logit: Tensor = self.proj(x).squeeze(-1)
        return logit


class DSpark(LearnedDrafter):
    """Block-parallel drafter. Anchor and mask tokens in, γ hidden states out; the anchor's slot predicts draft token 1."""

    def __init__(self, config: Qwen3Config, gamma: int, tap_layers: tuple[int, ...], mask_token: int) -> None:
        super().__init__(config, gamma, tap_layers)
        size, rank = config.hidden_size, int(config.markov_rank)
        self.kind = "dspark" if rank else "dflash"
        self.mask_token = mask_token
        self.fc = nn.Linear(len(tap_layers) * size, size, bias=False)
        self.hidden_norm = RMSNorm(size, eps=config.rms_norm_eps)
        self.layers = nn.ModuleList([DraftLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(size, eps=config.rms_norm_eps)
        self.rotary = Rotary(config.head_dim, config.rope_parameters)
        kind = cast(HeadType, getattr(config, "markov_head_type", "vanilla"))
        self.markov_head = MarkovHead(kind, config.vocab_size, rank, size) if rank else None
        self.confidence_reads_markov = bool(rank) and bool(getattr(config, "confidence_head_with_markov", False))
        self.confident = bool(getattr(config, "enable_confidence_head", False))
        self.confidence_head = ConfidenceHead(size + rank * self.confidence_reads_markov) if self.confident else None

    @classmethod
    def declared(
        cls, raw: Mapping[str, Any], config: Qwen3Config, taps: tuple[int, ...], gamma: int | None, name: str
    ) -> DSpark:
        block = block_size(raw, "block_size", name)
        if gamma is not None and not 1 <= gamma <= block:
            raise InputError(f"checkpoint {name}: was trained with block_size {block}; a block size of {gamma} does not fit")
        mask, head = declared_field(raw, "mask_token_id", name), raw.get("markov_head_type", "vanilla")
        if not isinstance(mask, int) or not 0 <= mask < config.vocab_size:
            raise InputError(f"checkpoint {name}: mask_token_id {mask!r} is outside the vocabulary of {config.vocab_size}")
        rank = declared_field(raw, "markov_rank", name)
        if not isinstance(rank, int) or rank < 0:
            raise InputError(f"checkpoint {name}: markov_rank must be 0 (DFlash) or more, got {rank!r}")
        if rank and head not in get_args(HeadType):
            raise InputError(f"checkpoint {name}: markov_head_type {head!r} is not one of {', '.join(get_args(HeadType))}")
        return cls(config, gamma or block, taps, mask)

    def project(self, taps: Tensor) -> Tensor:
        features: Tensor = self.hidden_norm(self.fc(taps))
        return features

    def context_entries(self, features: Tensor, tokens: Tensor, positions: Tensor) -> list[KeyValue]:
        rotation = self.rotary.at(positions, features.dtype)
        return [layer.self_attn.project(features, rotation) for layer in self._layers()]

    def drafts(self, context: Context, anchor: Tensor, chooses: Sequence[Choose]) -> list[Draft]:
        hidden = self._block(context, anchor)
        base = self.lm_head(hidden)
        return [self._read_out(hidden, base, anchor, choose) for choose in chooses]

    def _read_out(self, hidden: Tensor, base: Tensor, anchor: Tensor, choose: Choose) -> Draft:
        """The sequential part: from hidden states [B, A, γ, d] and their logits, token by token."""
        token, rank = anchor, self.markov_head.rank if self.markov_head else 0
        state = hidden.new_zeros(*anchor.shape, rank)
        logits, confidence = [], []
        for k in range(self.gamma):
            step_logits, read = base[:, :, k], hidden[:, :, k]
            if self.markov_head is not None:
                embedded = self.markov_head.markov_w1(token)
                bias, state = self.markov_head.step(embedded, read, state)
                step_logits = step_logits + bias
                if self.confidence_reads_markov:
                    read = torch.cat([read, embedded], -1)
            if self.confidence_head is not None:
                confidence.append(self.confidence_head(read))
            logits.append(step_logits)
            token = choose(k, step_logits)
        return Draft(torch.stack(logits, 2), torch.stack(confidence, 2) if confidence else None)

    def _block(self, context: Context, anchor: Tensor) -> Tensor:
        """h_1..h_γ [B, A, γ, d]: bidirectional attention within the block, which starts at the anchor's position."""
        positions = context.visible.unsqueeze(-1) + torch.arange(self.gamma, device=anchor.device)
        masks = torch.full((*anchor.shape, self.gamma - 1), self.mask_token, device=anchor.device)
        x: Tensor = self.embed_tokens(torch.cat([anchor.unsqueeze(-1), masks], -1))
        rotation, unseen = self.rotary.at(positions, x.dtype), context.unseen()
        for layer, entries in zip(self._layers(), context.layers, strict=True):
            normed = layer.input_layernorm(x)
            own = layer.self_attn.project(normed, rotation)
            x = layer.feed_forward(x + layer.self_attn(normed, rotation, entries, unseen, own))
        hidden: Tensor = self.norm(x)
        return hidden

    def _layers(self) -> list[DraftLayer]:
        return cast(list[DraftLayer], list(self.layers))
