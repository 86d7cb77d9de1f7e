"""Drafters without weights: prompt lookup, and none at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from drafters.cache import Positions
from drafters.sampling import Draws, Proposal
from simulator.records import Sampling


class IndexedText:
    """A growing text that knows where each of its short stretches stood last."""

    def __init__(self, sizes: range) -> None:
        self.tokens: list[int] = []
        self._sizes = sizes
        self._ends: dict[tuple[int, ...], int] = {}

    def append(self, token: int) -> None:
        """One token more. Stretches up to the token before it become earlier places."""
        end = len(self.tokens)
        for size in self._sizes:
            if size <= end:
                self._ends[tuple(self.tokens[end - size :])] = end
        self.tokens.append(token)

    def follow(self, gamma: int) -> list[int]:
        """At most γ tokens that followed the latest earlier place of the longest suffix found."""
        for size in reversed(self._sizes):
            if size < len(self.tokens):
                end = self._ends.get(tuple(self.tokens[-size:]))
                if end is not None:
                    return self.tokens[end : end + gamma]
        return []


class TextState:
    """The text of each row so far, anchor included."""

    def __init__(self, rows: int, sizes: range = range(0)) -> None:
        self.sizes = sizes
        self.texts = [IndexedText(sizes) for _ in range(rows)]

    def move(self, sources: Tensor, holes: Tensor) -> None:
        for source, hole in zip(sources.tolist(), holes.tolist(), strict=True):
            self.texts[hole] = self.texts[source]


class NGram:
    """Prompt lookup: finds the latest earlier place where the context's longest suffix stands, proposes what followed it.

    Suffixes of `max_match` down to `min_match` tokens are tried. No match, or a match near the end of the context,
    drafts fewer than γ tokens or none. The draft distribution is one-hot.
    """

    kind = "ngram"
    tap_layers: tuple[int, ...] = ()

    def __init__(self, gamma: int, *, min_match: int = 2, max_match: int = 4) -> None:
        if gamma < 1 or not 1 <= min_match <= max_match:
            raise ValueError(f"ngram: γ ≥ 1 and 1 ≤ min_match ≤ max_match needed, got {gamma}, {min_match}, {max_match}")
        self.gamma, self._sizes = gamma, range(min_match, max_match + 1)

    def start(self, rows: int, capacity: int) -> TextState:
        return TextState(rows, self._sizes)

    def observe(
        self, state: TextState, rows: slice, positions: Positions, taps: Tensor, tokens: Tensor, length: Tensor
    ) -> None:
        new = zip(range(rows.start, rows.stop), positions.starts, tokens.tolist(), length.tolist(), strict=True)
        for row, first, ids, count in new:
            if first == 0:
                state.texts[row] = IndexedText(self._sizes)
            text = state.texts[row]
            for token in ids[len(text.tokens) - first : count + 1]:
                text.append(token)

    def propose(
        self, state: TextState, rows: slice, anchor: Tensor, position: Positions, sampling: Sampling, draws: Draws | None
    ) -> Proposal:
        found = [text.follow(self.gamma) for text in state.texts[rows]]
        tokens = torch.tensor([f + [0] * (self.gamma - len(f)) for f in found], device=anchor.device)
        return Proposal(tokens, tuple(map(len, found)), None)

    def drafts_along(self, text: Sequence[int], first: int) -> list[list[int]]:
        """What would be drafted from each of the anchors at positions `first` to the end of `text`, at most γ tokens."""
        indexed, drafts = IndexedText(self._sizes), []
        for position, token in enumerate(text):
            indexed.append(token)
            if position >= first:
                drafts.append(indexed.follow(self.gamma))
        return drafts


class NoDrafter:
    """γ = 0: plain autoregressive decoding through the same code path. The baseline."""

    kind = "none"
    gamma = 0
    tap_layers: tuple[int, ...] = ()

    def start(self, rows: int, capacity: int) -> TextState:
        return TextState(rows)

    def observe(
        self, state: TextState, rows: slice, positions: Positions, taps: Tensor, tokens: Tensor, length: Tensor
    ) -> None:
        pass

    def propose(
        self, state: TextState, rows: slice, anchor: Tensor, position: Positions, sampling: Sampling, draws: Draws | None
    ) -> Proposal:
        return Proposal(anchor.new_zeros(len(anchor), 0), (0,) * len(anchor), None)
