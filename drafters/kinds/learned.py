"""What the learned drafters share: a context to draft from, and, where they extend their own hidden state token by
token, decoder layers over pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from drafters.cache import KVCache, Positions
from drafters.families.layers import DraftLayer, KeyValue, Masks, RMSNorm
from drafters.families.registry import make_layer
from drafters.kinds.settings import PairSettings, Settings, conventions
from drafters.rotary import Rotary, Rotation
from drafters.sampling import Draws, Proposal, probabilities, sample
from simulator.records import Sampling

_TAKEN_AT_ONCE = 256
"""Positions of a context at which a second layer's inputs are computed at once."""


class Draft(NamedTuple):
    """A drafted or teacher-forced block, for A anchors of each of B texts."""

    logits: Tensor
    """U_k plus any head bias, [B, A, γ, V]; −∞ for tokens outside a reduced vocabulary."""
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

    def unseen(self, first: Tensor | None = None) -> Tensor | None:
        """Which context positions an anchor may not see, bool [B, 1, A, Q or 1, C]; None where it sees all.

        A sliding layer sees none before `first` [B, A, Q or 1].
        """
        if self.whole and first is None:
            return None
        position = torch.arange(self.layers[0].keys.shape[2], device=self.visible.device)
        unseen = position >= self.visible[:, None, :, None, None]
        return unseen if first is None else unseen | (position < first[:, None, :, :, None])


Extend = Callable[[int, KeyValue], KeyValue]
"""(layer, its keys and values [B, N, kv_heads, head_dim] of new positions) to those of all positions up to the newest."""
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
    draft_ids: Tensor | None
    """Target ids of the reduced vocabulary, int64 [V_d]; None where it has all of the target's tokens."""
    format: str = "DeepSpec"
    """The published format it was read from."""
    assumed: frozenset[str] = frozenset()
    """Conventions that its files leave out."""
    narrow: bool = False
    """Whether drafts have logits over the draft's own vocabulary alone, [..., V_d], as training reads them."""

    def __init__(self, settings: Settings, gamma: int) -> None:
        super().__init__()
        self.settings, self.gamma, self.tap_layers = settings, gamma, settings.taps
        self.rotary = Rotary(settings.shape.head_dim, settings.shape.rotary)
        ids = torch.arange(settings.draft_vocabulary) if settings.reduced else None
        self.register_buffer("draft_ids", ids, persistent=False)
        outside = None if ids is None else torch.ones(settings.vocabulary, dtype=torch.bool).index_fill_(0, ids, False)
        self.register_buffer("outside", outside, persistent=False)

    @property
    def conventions(self) -> dict[str, Any]:
        """How its checkpoint was read, in words."""
        return conventions(self.settings, self.assumed)

    def set_vocabulary(self, ids: Tensor) -> None:
        """Say which target ids [V_d] a reduced vocabulary holds."""
        assert self.draft_ids is not None
        self.draft_ids = ids.to(self.draft_ids.device)
        self.outside = torch.ones(self.settings.vocabulary, dtype=torch.bool).index_fill_(0, ids.cpu(), False).to(ids.device)

    @abstractmethod
    def project(self, taps: Tensor) -> Tensor:
        """Features [..., d] from concatenated taps [..., m·d_t]."""

    @abstractmethod
    def take_in(self, features: Tensor, tokens: Tensor, positions: Tensor, extend: Extend) -> None:
        """Extend each layer by its keys and values of text positions `positions` [B, N], in the order of layers.

        `tokens` [B, N] are the text's tokens one position further on, which paired drafters combine with the features.
        """

    @abstractmethod
    def drafts(self, context: Context, anchor: Tensor, chooses: Sequence[Choose]) -> list[Draft]:
        """Blocks after each of the `anchor` tokens [B, A], one for each way to choose tokens; they share what they can."""

    def draft(self, context: Context, anchor: Tensor, choose: Choose) -> Draft:
        """A block after each of the `anchor` tokens [B, A]."""
        return self.drafts(context, anchor, [choose])[0]

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [..., d] of tokens [...], from the table alone: a target's module may scale what its drafts do not."""
        table, scale = self.embed_tokens.get_parameter("weight"), self.settings.embedding_scale
        if self.settings.shape.family == "gemma4":  # whose model rounds its factor; z-lab's code does not
            scale = torch.tensor(scale, dtype=table.dtype).item()
        embedded = nn.functional.embedding(tokens, table)
        return embedded if scale == 1 else embedded * scale

    def head(self, hidden: Tensor) -> Tensor:
        """Logits over the draft's own vocabulary, [..., V_d], from normed states [..., d]."""
        logits: Tensor = self.lm_head(hidden)
        cap = self.settings.softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def over_target(self, logits: Tensor) -> Tensor:
        """Logits [..., V] over the target's vocabulary from [..., V_d]: −∞ for what the draft cannot say.

        So q is 0 there, and acceptance min(1, p / q) and residual (p − q)⁺ stay exact.
        """
        if self.draft_ids is None or self.narrow:
            return logits
        wide = logits.new_full((*logits.shape[:-1], self.settings.vocabulary), -torch.inf)
        return wide.index_copy_(-1, self.draft_ids, logits)

    def read(self, taps: Tensor, tokens: Tensor, anchors: Tensor) -> Context:
        """The context of many anchors of whole texts.

        Args:
            taps: [B, N, m·d_t] of text positions 0..N−1.
            tokens: the texts, int64 [B, N].
            anchors: positions of the anchors, int64 [B, A], each at least 1.
        """
        features = self.project(taps)
        positions = torch.arange(taps.shape[1], device=taps.device).expand(taps.shape[:2])
        following = torch.cat([tokens[:, 1:], tokens[:, -1:]], 1)
        layers: list[KeyValue] = []

        def extend(_: int, entries: KeyValue) -> KeyValue:
            layers.append(KeyValue(*(x.transpose(1, 2) for x in entries)))
            return layers[-1]

        self.take_in(features, following, positions, extend)
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
        return ContextState(rows, capacity, next(self.parameters()).new_zeros(self.settings.shape.hidden_size))

    def observe(
        self, state: ContextState, rows: slice, positions: Positions, taps: Tensor, tokens: Tensor, length: Tensor
    ) -> None:
        features = self.project(taps)

        def extend(i: int, entries: KeyValue) -> KeyValue:
            state.cache.write(i, rows, positions, *(x.transpose(1, 2) for x in entries))
            return KeyValue(*state.cache.read(i, rows, positions.length))

        self.take_in(features, tokens[:, 1:], positions.tensor, extend)
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
    """Decoder layers over pairs (feature of position i, token i + 1), at rotary position i.

    The pair before the anchor is the first step of a draft; later steps pair the layers' own output with the token just
    drafted. Their keys and values live for one block only: after verification the context is extended from taps.
    """

    settings: PairSettings

    def __init__(self, settings: PairSettings, gamma: int, *, paired_input: bool) -> None:
        super().__init__(settings, gamma)
        shape = settings.shape
        self.layers = nn.ModuleList([make_layer(shape, paired_input=paired_input and i == 0) for i in range(shape.layers)])
        self.norm = RMSNorm(shape.hidden_size, shape.norm_eps)

    @abstractmethod
    def pair(self, feature: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """(residual [..., d], attention input [..., input_size]) from a feature and a token embedding, each [..., d]."""

    def take_in(self, features: Tensor, tokens: Tensor, positions: Tensor, extend: Extend) -> None:
        residual, x = self.pair(features, self.embed(tokens))
        rotation, count = self.rotary.at(positions, x.dtype), positions.shape[1]
        layers = self.draft_layers()
        for i, layer in enumerate(layers):
            x = x if i == 0 else layer.enter(residual)
            entries = extend(i, layer.self_attn.project(x, rotation))
            if layer is layers[-1]:
                return
            # Causal attention is a block of one query at each position; some at a time, since scores are of all contexts.
            outputs = []
            for at in (slice(start, start + _TAKEN_AT_ONCE) for start in range(0, count, _TAKEN_AT_ONCE)):
                seen = Context([entries], residual[:, at], positions[:, at] + 1)
                queries = Rotation(rotation.cos[:, at].unsqueeze(2), rotation.sin[:, at].unsqueeze(2), rotation.interleaved)
                attended = layer.self_attn(x[:, at].unsqueeze(2), queries, entries, self._masks(i, seen, 0), None)
                outputs.append(layer.leave(residual[:, at].unsqueeze(2), attended).squeeze(2))
            residual = torch.cat(outputs, 1)

    def drafts(self, context: Context, anchor: Tensor, chooses: Sequence[Choose]) -> list[Draft]:
        return [self._unroll(context, anchor, choose) for choose in chooses]

    def _unroll(self, context: Context, anchor: Tensor, choose: Choose) -> Draft:
        token, state, logits = anchor, context.feature, []
        own: list[KeyValue | None] = [None] * len(self.layers)
        for k in range(self.gamma):
            residual, x = (t.unsqueeze(2) for t in self.pair(state, self.embed(token)))
            rotation = self.rotary.at((context.visible + k - 1).unsqueeze(-1), x.dtype)
            for i, layer in enumerate(self.draft_layers()):
                x = x if i == 0 else layer.enter(residual)
                kept = own[i]
                if k > 0:  # the first step's entry already stands in the context
                    new = layer.self_attn.project(x, rotation)
                    both = (new,) if kept is None else (kept, new)
                    kept = own[i] = KeyValue(*(torch.cat(parts, 2) for parts in zip(*both, strict=True)))
                attended = layer.self_attn(x, rotation, context.layers[i], self._masks(i, context, k), kept)
                residual = layer.leave(residual, attended)
            output = residual.squeeze(2)
            normed = self.norm(output)
            state = normed if self.settings.fed_back == "after the norm" else output
            logits.append(self.over_target(self.head(normed)))
            token = choose(k, logits[k])
        return Draft(torch.stack(logits, 2), None)

    def _masks(self, layer: int, context: Context, k: int) -> Masks:
        """What the query k steps after the last of the context may not see of it."""
        window = self.settings.shape.windows[layer]
        moved = k if self.settings.window_from == "slot" else 0
        return Masks(context.unseen(None if window is None else (context.visible + moved - window).unsqueeze(-1)))

    def draft_layers(self) -> list[DraftLayer]:
        return cast(list[DraftLayer], list(self.layers))
