"""The interface all drafters sit behind, and what the learned ones share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import Qwen3Config

from drafters.cache import KVCache, Positions
from drafters.layers import KeyValue
from drafters.sampling import Draws, Proposal, Sampling, sample


class DraftState(Protocol):
    """What a drafter remembers of the running requests, one row each."""

    def move(self, sources: Tensor, holes: Tensor) -> None:
        """Copy rows `sources` over rows `holes` (int64, equally many, disjoint)."""


class Drafter(Protocol):
    """Proposes γ tokens after an anchor, given the target's taps for the committed context."""

    name: str
    gamma: int
    """γ: tokens drafted a round."""
    tap_layers: tuple[int, ...]
    """Target layers whose output the drafter reads, from 0; −1 is the embedding output."""

    def start(self, rows: int, capacity: int) -> DraftState:
        """An empty state for up to `rows` requests of up to `capacity` positions, drafts included."""

    def observe(self, state: Any, rows: slice, positions: Positions, taps: Tensor, tokens: Tensor, length: Tensor) -> None:
        """Take in newly committed context of `rows` (B of them); `state` is this drafter's own.

        Args:
            positions: where the new taps stand, N a row.
            taps: [B, N, m·d], of which the first `length` [B] of each row are real.
            tokens: int64 [B, N + 1], the text from there on: one token more than taps, the last one being the anchor.
        """

    def propose(
        self, state: Any, rows: slice, anchor: Tensor, position: Positions, sampling: Sampling, draws: Draws
    ) -> Proposal:
        """Draft from `anchor` tokens [B] at `position`, one a row."""


class Draft(NamedTuple):
    """A drafted or teacher-forced block, for A anchors of each of B texts."""

    logits: Tensor
    """U_k plus any head bias, [B, A, γ, V]."""
    confidence_logits: Tensor | None
    """c_k before the sigmoid, [B, A, γ]; None without a confidence head."""


@dataclass(frozen=True, slots=True)
class Context:
    """A learned drafter's view of B texts, from which blocks at A anchors each are drafted."""

    layers: list[KeyValue]
    """Per draft layer, keys and values [B, kv_heads, C, head_dim]; entry i belongs to text position i."""
    feature: Tensor
    """The projected tap of the position before each anchor, [B, A, d]; read by autoregressive drafters."""
    visible: Tensor
    """Context positions each anchor may see: the anchor's own position, int64 [B, A]."""


Choose = Callable[[int, Tensor], Tensor]
"""(k from 0, logits [B, A, V]) to the token at draft position k, [B, A]: a draw when live, given when teacher-forced."""


class ContextState:
    """State of a learned drafter: cached keys and values, and the last projected tap, per row."""

    def __init__(self, rows: int, capacity: int, like: Tensor) -> None:
        self.cache = KVCache(rows, capacity)
        self.feature = like.new_zeros(rows, like.shape[-1])

    def move(self, sources: Tensor, holes: Tensor) -> None:
        self.cache.move(sources, holes)
        self.feature[holes] = self.feature[sources]


class LearnedDrafter(nn.Module, ABC):
    """A drafter with weights. A subclass says how taps become context and how a block comes from it.

    The same two methods serve the live loop (one block a text), training and teacher forcing (many blocks a text).
    `embed_tokens` and `lm_head` are the target's, shared and frozen, unless a checkpoint brings its own.
    """

    name: str
    confident: bool = False
    """Whether it has a confidence head."""
    token_by_token: bool = False
    """Whether drafting fewer tokens takes less time: not where a block is drafted whole."""
    layers: nn.ModuleList
    embed_tokens: nn.Module
    lm_head: nn.Module

    def __init__(self, config: Qwen3Config, gamma: int, tap_layers: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.gamma, self.tap_layers = config, gamma, tap_layers

    @abstractmethod
    def project(self, taps: Tensor) -> Tensor:
        """Features [..., d] from concatenated taps [..., m·d]."""

    @abstractmethod
    def context_entries(self, features: Tensor, tokens: Tensor, positions: Tensor) -> list[KeyValue]:
        """Per layer, keys and values [B, N, kv_heads, head_dim] of text positions `positions` [B, N].

        `tokens` [B, N] are the text's tokens one position further on, which paired drafters combine with the features.
        """

    @abstractmethod
    def drafts(self, context: Context, anchor: Tensor, chooses: Sequence[Choose]) -> list[Draft]:
        """Blocks after each of the `anchor` tokens [B, A], one for each way to choose tokens; they share what they can."""

    def draft(self, context: Context, anchor: Tensor, choose: Choose) -> Draft:
        """A block after each of the `anchor` tokens [B, A]."""
        return self.drafts(context, anchor, [choose])[0]

    def read(self, taps: Tensor, tokens: Tensor, anchors: Tensor) -> Context:
        """The context of many anchors of whole texts.

        Args:
            taps: [B, N, m·d] of text positions 0..N−1.
            tokens: the texts, int64 [B, N].
            anchors: positions of the anchors, int64 [B, A], each at least 1.
        """
        features = self.project(taps)
        positions = torch.arange(taps.shape[1], device=taps.device).expand(taps.shape[:2])
        following = torch.cat([tokens[:, 1:], tokens[:, -1:]], 1)
        entries = self.context_entries(features, following, positions)
        layers = [KeyValue(k.transpose(1, 2), v.transpose(1, 2)) for k, v in entries]
        rows = torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
        return Context(layers, features[rows, anchors - 1], anchors)

    def teacher_forced(self, taps: Tensor, tokens: Tensor, anchors: Tensor, forced: Tensor) -> Draft:
        """Blocks at many anchors of whole texts in one pass, with given draft tokens.

        Arguments as of `read`, and `forced`, int64 [B, A, γ]: entry k is the token at draft position k + 1. The last one
        conditions nothing.
        """
        context = self.read(taps, tokens, anchors)
        return self.draft(context, tokens.gather(1, anchors), lambda k, _: forced[..., k])

    def start(self, rows: int, capacity: int) -> ContextState:
        return ContextState(rows, capacity, next(self.parameters()).new_zeros(self.config.hidden_size))

    def observe(
        self, state: ContextState, rows: slice, positions: Positions, taps: Tensor, tokens: Tensor, length: Tensor
    ) -> None:
        features = self.project(taps)
        for i, (keys, values) in enumerate(self.context_entries(features, tokens[:, 1:], positions.tensor)):
            state.cache.write(i, rows, positions, keys.transpose(1, 2), values.transpose(1, 2))
        state.feature[rows] = features[torch.arange(len(features), device=taps.device), length - 1]

    def propose(
        self, state: ContextState, rows: slice, anchor: Tensor, position: Positions, sampling: Sampling, draws: Draws
    ) -> Proposal:
        layers = [KeyValue(*state.cache.read(i, rows, position.longest)) for i in range(len(self.layers))]
        context = Context(layers, state.feature[rows].unsqueeze(1), position.tensor)
        tokens, probs = [], []

        def draw(k: int, logits: Tensor) -> Tensor:
            probs.append(sampling.probabilities(logits[:, 0]))
            tokens.append(sample(probs[k], draws.draft[:, k]))
            return tokens[k].unsqueeze(1)

        draft = self.draft(context, anchor.unsqueeze(1), draw)
        confidence = None if draft.confidence_logits is None else draft.confidence_logits[:, 0].float().sigmoid()
        drafted = torch.full_like(anchor, self.gamma)
        return Proposal(torch.stack(tokens, 1), drafted, torch.stack(probs, 1), confidence, draft.logits[:, 0])
