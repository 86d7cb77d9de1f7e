"""What the learned drafters share: a context to draft from, and, where they extend their own hidden state token by
token, one decoder layer over pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import Qwen3Config

from drafters.cache import KVCache, Positions
from drafters.families.qwen3 import DraftLayer, KeyValue, RMSNorm
from drafters.rotary import Rotary
from drafters.sampling import Draws, Proposal, probabilities, sample
from simulator.records import Sampling


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
    whole: bool = False
    """Whether every anchor sees all of the context, as the host knows of texts of one length."""

    def unseen(self) -> Tensor | None:
        """Which context positions an anchor may not see, bool [B, 1, A, 1, C]; None where it sees all."""
        if self.whole:
            return None
        position = torch.arange(self.layers[0].keys.shape[2], device=self.visible.device)
        return position >= self.visible[:, None, :, None, None]


Choose = Callable[[int, Tensor], Tensor]
"""(k from 0, logits [B, A, V]) to the token at draft position k, [B, A]: a draw when live, given when teacher-forced."""


class ContextState:
    """State of a learned drafter: cached keys and values, and the last projected tap, per row."""

    def __init__(self, rows: int, capacity: int, like: Tensor) -> None:
        self.cache = KVCache(rows, capacity)
        self.feature = like.new_zeros(rows, 1, like.shape[-1])

    def move(self, sources: Tensor, holes: Tensor) -> None:
        self.cache.move(sources, holes)
        self.feature[holes] = self.feature[sources]


class LearnedDrafter(nn.Module, ABC):
    """A drafter with weights. A subclass says how taps become context and how a block comes from it.

    The same two methods serve the live loop (one block a text), training and teacher forcing (many blocks a text).
    `embed_tokens` and `lm_head` are the target's, shared and frozen, unless a checkpoint brings its own.
    """

    kind: str
    confident: bool = False
    """Whether it has a confidence head."""
    layers: nn.ModuleList
    embed_tokens: nn.Module
    lm_head: nn.Module

    def __init__(self, config: Qwen3Config, gamma: int, tap_layers: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.gamma, self.tap_layers = config, gamma, tap_layers

    @classmethod
    @abstractmethod
    def declared(
        cls, raw: Mapping[str, Any], config: Qwen3Config, taps: tuple[int, ...], gamma: int | None, name: str
    ) -> LearnedDrafter:
        """The drafter that `config.json` declares, with fresh weights.

        Args:
            raw: the file's fields.
            config: what of them the layers read.
            taps: which layers of the target it taps.
            gamma: γ; None takes the file's.
            name: what messages call the checkpoint.

        Raises InputError, naming the field.
        """

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
        last = (length - 1).view(-1, 1, 1).expand(-1, 1, features.shape[2])
        state.feature[rows] = features.gather(1, last)

    def propose(
        self, state: ContextState, rows: slice, anchor: Tensor, position: Positions, sampling: Sampling, draws: Draws | None
    ) -> Proposal:
        layers = [KeyValue(*state.cache.read(i, rows, position.longest)) for i in range(len(self.layers))]
        context = Context(layers, state.feature[rows], position.tensor, whole=position.aligned)
        tokens: list[Tensor] = []
        probs: list[Tensor] = []

        def draw(k: int, logits: Tensor) -> Tensor:
            if sampling.temperature == 0 or draws is None:  # one-hot: nothing is drawn, and q need not be written out
                token = logits.argmax(-1)
            else:
                probs.append(probabilities(sampling, logits[:, 0]))
                token = sample(probs[k], draws.draft[:, k]).unsqueeze(1)
            tokens.append(token)
            return token

        draft = self.draft(context, anchor.unsqueeze(1), draw)
        confidence = None if draft.confidence_logits is None else draft.confidence_logits[:, 0].float().sigmoid()
        q = torch.stack(probs, 1) if probs else None
        return Proposal(torch.cat(tokens, 1), (self.gamma,) * len(anchor), q, confidence, draft.logits[:, 0])


class AutoregressiveDrafter(LearnedDrafter):
    """One decoder layer over pairs (feature of position i, token i + 1), at rotary position i.

    The pair before the anchor is the first step of a draft; later steps pair the layer's own output with the token just
    drafted. Their keys and values live for one block only: after verification the context is extended from taps.
    """

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
        token, hidden, own, unseen = anchor, context.feature, None, context.unseen()
        logits = []
        for k in range(self.gamma):
            residual, x = (t.unsqueeze(2) for t in self.pair(hidden, self.embed_tokens(token)))
            rotation = self.rotary.at((context.visible + k - 1).unsqueeze(-1), x.dtype)
            if k > 0:  # the first step's entry already stands in the context
                new = self.layer.self_attn.project(x, rotation)
                own = new if own is None else KeyValue(*(torch.cat(both, 2) for both in zip(own, new, strict=True)))
            attended = self.layer.self_attn(x, rotation, context.layers[0], unseen, own)
            hidden = self.layer.feed_forward(residual + attended).squeeze(2)
            logits.append(self.lm_head(self.norm(hidden)))
            token = choose(k, logits[k])
        return Draft(torch.stack(logits, 2), None)
