"""Drafters without weights: prompt lookup, and none at all."""

from __future__ import annotations

import torch
from torch import Tensor

from drafters.sampling import Draws, Proposal, Sampling


class TextState:
    """The text of each row so far, anchor included."""

    def __init__(self, rows: int) -> None:
        self.texts: list[list[int]] = [[] for _ in range(rows)]

    def move(self, sources: Tensor, holes: Tensor) -> None:
        for source, hole in zip(sources.tolist(), holes.tolist(), strict=True):
            self.texts[hole] = self.texts[source]


class NGram:
    """Prompt lookup: finds the latest earlier place where the context's longest suffix stands, proposes what followed it.

    Suffixes of `max_match` down to `min_match` tokens are tried. No match, or a match near the end of the context,
    drafts fewer than γ tokens or none. The draft distribution is one-hot.
    """

    name = "ngram"
    tap_layers: tuple[int, ...] = ()

    def __init__(self, gamma: int, *, min_match: int = 2, max_match: int = 4) -> None:
        if gamma < 1 or not 1 <= min_match <= max_match:
            raise ValueError(f"ngram: γ ≥ 1 and 1 ≤ min_match ≤ max_match needed, got {gamma}, {min_match}, {max_match}")
        self.gamma, self.min_match, self.max_match = gamma, min_match, max_match

    def start(self, rows: int, capacity: int) -> TextState:
        return TextState(rows)

    def observe(self, state: TextState, rows: slice, start: Tensor, taps: Tensor, tokens: Tensor, length: Tensor) -> None:
        new = zip(range(rows.start, rows.stop), start.tolist(), tokens.tolist(), length.tolist(), strict=True)
        for row, first, ids, count in new:
            state.texts[row] = state.texts[row][:first] + ids[: count + 1]

    def propose(
        self, state: TextState, rows: slice, anchor: Tensor, position: Tensor, sampling: Sampling, draws: Draws
    ) -> Proposal:
        found = [self.lookup(text) for text in state.texts[rows]]
        tokens = torch.tensor([f + [0] * (self.gamma - len(f)) for f in found], device=anchor.device)
        return Proposal(tokens, torch.tensor([len(f) for f in found], device=anchor.device), None)

    def lookup(self, text: list[int]) -> list[int]:
        """At most γ tokens to follow `text`."""
        for size in range(min(self.max_match, len(text) - 1), self.min_match - 1, -1):
            suffix, last = text[-size:], text[-1]
            for end in range(len(text) - 1, size - 1, -1):
                if text[end - 1] == last and text[end - size : end] == suffix:
                    return text[end : end + self.gamma]
        return []


class NoDrafter:
    """γ = 0: plain autoregressive decoding through the same code path. The baseline."""

    name = "none"
    gamma = 0
    tap_layers: tuple[int, ...] = ()

    def start(self, rows: int, capacity: int) -> TextState:
        return TextState(rows)

    def observe(self, state: TextState, rows: slice, start: Tensor, taps: Tensor, tokens: Tensor, length: Tensor) -> None:
        pass

    def propose(
        self, state: TextState, rows: slice, anchor: Tensor, position: Tensor, sampling: Sampling, draws: Draws
    ) -> Proposal:
        empty = anchor.new_zeros(len(anchor), 0)
        return Proposal(empty, torch.zeros_like(anchor), None)
