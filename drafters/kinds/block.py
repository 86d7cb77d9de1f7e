"""DSpark and DFlash: one parallel pass drafts the whole block; DSpark adds a light sequential head and confidences.

After *DSpark: Confidence-Scheduled Speculative Decoding with Semi-Autoregressive Generation* (DeepSeek-AI and Peking
University, 2026) and the published checkpoint formats. DFlash is the case of no sequential head (`markov_rank` 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from drafters.families.layers import ContextAttention, DraftLayer, KeyValue, Masks, RMSNorm
from drafters.families.registry import make_layer
from drafters.kinds.dflash2 import ConvolvedLayer, Selector
from drafters.kinds.learned import Choose, Context, Draft, Extend, LearnedDrafter
from drafters.kinds.settings import BlockSettings, HeadType


class MarkovHead(nn.Module):
    """Adds to the logits of position k a low-rank bias that depends on the tokens drafted before it."""

    def __init__(
        self, kind: HeadType, vocab_size: int, rank: int, hidden_size: int, draft_vocabulary: int | None = None
    ) -> None:
        """W1 is indexed by the target's `vocab_size` ids; W2 gives a bias over the draft's, by default the same."""
        super().__init__()
        self.kind, self.rank = kind, rank
        self.markov_w1 = nn.Embedding(vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, draft_vocabulary or vocab_size, bias=False)
        if kind == "gated":
            self.gate_proj = nn.Linear(hidden_size + rank, rank)
        elif kind == "rnn":
            self.joint_proj = nn.Linear(2 * rank + hidden_size, 3 * rank)

    def step(self, embedded: Tensor, hidden: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(bias [..., V_d], next state [..., r]) from W1[x_{k−1}] [..., r], h_k [..., d] and the state [..., r]."""
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
    """Block-parallel drafter. Anchor and mask tokens in, γ hidden states out.

    Anchor-first, the anchor's slot predicts draft token 1. Filled in, a slot predicts the token at its own position, and the
    anchor's none.
    """

    settings: BlockSettings

    def __init__(self, settings: BlockSettings, gamma: int) -> None:
        super().__init__(settings, gamma)
        shape, rank = settings.shape, settings.markov_rank
        size = shape.hidden_size
        self.kind = "dspark" if rank else "dflash"
        self.fc = nn.Linear(len(settings.taps) * settings.target_size, size, bias=False)
        self.hidden_norm, self.norm = (RMSNorm(size, shape.norm_eps) for _ in range(2))
        make = make_layer if settings.convolution is None else partial(ConvolvedLayer, *settings.convolution)
        self.layers = nn.ModuleList([make(shape) for _ in range(shape.layers)])
        kind, vocabulary = settings.markov_head, settings.vocabulary
        self.markov_head = MarkovHead(kind, vocabulary, rank, size, settings.draft_vocabulary) if rank else None
        self.confident = settings.confidence != "none"
        wide = size + rank * (settings.confidence == "hidden and token")
        self.confidence_head = ConfidenceHead(wide) if self.confident else None
        self.candidate_selector = Selector(*settings.selector, vocabulary, size) if settings.selector else None

    def project(self, taps: Tensor) -> Tensor:
        features: Tensor = self.hidden_norm(self.fc(taps))
        return features

    def take_in(self, features: Tensor, tokens: Tensor, positions: Tensor, extend: Extend) -> None:
        rotation = self.rotary.at(positions, features.dtype)
        for i, layer in enumerate(self.draft_layers()):
            extend(i, layer.self_attn.project(features, rotation))

    def drafts(self, context: Context, anchor: Tensor, chooses: Sequence[Choose]) -> list[Draft]:
        hidden = self._block(context, anchor)
        state = hidden.new_zeros(*anchor.shape, self.markov_head.rank if self.markov_head else 0)
        if self.settings.layout == "fill-in":
            if self.markov_head is not None:  # the anchor's slot drafts nothing, and moves a state on all the same
                _, state = self.markov_head.step(self.markov_head.markov_w1(anchor), hidden[:, :, 0], state)
            hidden = hidden[:, :, 1:]
        base = self.head(hidden)
        return [self._read_out(hidden, base, anchor, state, choose) for choose in chooses]

    def head(self, hidden: Tensor) -> Tensor:
        scale = self.settings.logit_scale
        return super().head(hidden) if scale is None else super().head(hidden * scale)

    def _read_out(self, hidden: Tensor, base: Tensor, anchor: Tensor, state: Tensor, choose: Choose) -> Draft:
        """The sequential part: from hidden states [B, A, γ, d], their logits and the state before them [B, A, r], token by
        token."""
        token = anchor
        logits, confidence = [], []
        for k in range(self.gamma):
            step_logits, read = base[:, :, k], hidden[:, :, k]
            if self.markov_head is not None:
                embedded = self.markov_head.markov_w1(token)
                bias, state = self.markov_head.step(embedded, read, state)
                step_logits = step_logits + bias
                if self.settings.confidence == "hidden and token":
                    read = torch.cat([read, embedded], -1)
            if self.confidence_head is not None:
                confidence.append(self.confidence_head(read))
            if self.candidate_selector is not None:
                step_logits = self.candidate_selector(step_logits, read, token)
            logits.append(self.over_target(step_logits))
            token = choose(k, logits[k])
        return Draft(torch.stack(logits, 2), torch.stack(confidence, 2) if confidence else None)

    def _block(self, context: Context, anchor: Tensor) -> Tensor:
        """Hidden states of all slots [B, A, γ, d], filled in one more: one pass over the block, which starts at the anchor's
        position."""
        unread = self.settings.layout == "fill-in"
        slots = torch.arange(self.gamma + unread, device=anchor.device)
        positions = context.visible.unsqueeze(-1) + slots
        masks = torch.full((*anchor.shape, len(slots) - 1), self.settings.mask_token, device=anchor.device)
        x = self.embed(torch.cat([anchor.unsqueeze(-1), masks], -1))
        rotation = self.rotary.at(positions, x.dtype)
        seen = {window: self._masks(context, positions, window) for window in set(self.settings.shape.windows)}
        for layer, entries, window in zip(self.draft_layers(), context.layers, self.settings.shape.windows, strict=True):

            def attend(
                x: Tensor, at: ContextAttention = layer.self_attn, entries: KeyValue = entries, unseen: Masks = seen[window]
            ) -> Tensor:
                out: Tensor = at(x, rotation, entries, unseen, at.project(x, rotation))
                return out

            x = layer(x, attend)
        hidden: Tensor = self.norm(x)
        return hidden

    def _masks(self, context: Context, positions: Tensor, window: int | None) -> Masks:
        """What slots at `positions` [B, A, Q] may not see in a layer of a window, None for all."""
        ways, first = self.settings, None
        if window is not None:
            slot = ways.window_from == "slot"
            first = positions + 1 - window if slot else context.visible.unsqueeze(-1) - window
        causal = ways.in_block == "causal" or (ways.in_block == "causal where sliding" and window is not None)
        count = positions.shape[2]
        later = torch.ones(count, count, dtype=torch.bool, device=positions.device).triu(1) if causal else None
        return Masks(context.unseen(first), later)

    def draft_layers(self) -> list[DraftLayer]:
        return cast(list[DraftLayer], list(self.layers))
