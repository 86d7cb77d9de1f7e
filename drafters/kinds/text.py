"""What drafters without weights share: they read nothing but the text, and draft what it suggests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from drafters.cache import Positions
from drafters.sampling import Draws, Proposal
from simulator.records import Sampling


class GrowingText(Protocol):
    """The text of a request so far, and what a drafter remembers of it."""

    tokens: list[int]

    def append(self, token: int) -> None:
        """One token more, which also goes to the end of `tokens`."""

    def follow(self, gamma: int) -> list[int]:
        """The draft after the last token: at most γ tokens, or none."""


class TextState:
    """The text of each row so far, anchor included."""

    def __init__(self, rows: int, new_text: Callable[[], GrowingText]) -> None:
        self.texts = [new_text() for _ in range(rows)]

    def move(self, sources: Tensor, holes: Tensor) -> None:
        for source, hole in zip(sources.tolist(), holes.tolist(), strict=True):
            self.texts[hole] = self.texts[source]


class TextDrafter(ABC):
    """A drafter without weights. A subclass says what it remembers of a text, and what it drafts after it.

    The draft distribution is one-hot. A draft may be shorter than γ, or empty.
    """

    kind: str
    tap_layers: tuple[int, ...] = ()

    def __init__(self, gamma: int = 7) -> None:
        if gamma < 1:
            raise ValueError(f"{self.kind}: γ ≥ 1 needed, got {gamma}")
        self.gamma = gamma

    @abstractmethod
    def new_text(self) -> GrowingText:
        """An empty text."""

    def start(self, rows: int, capacity: int) -> TextState:
        return TextState(rows, self.new_text)

    def observe(
        self, state: TextState, rows: slice, positions: Positions, taps: Tensor, tokens: Tensor, length: Tensor
    ) -> None:
        new = zip(range(rows.start, rows.stop), positions.starts, tokens.tolist(), length.tolist(), strict=True)
        for row, first, ids, count in new:
            if first == 0:
                state.texts[row] = self.new_text()
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
        growing, drafts = self.new_text(), []
        for position, token in enumerate(text):
            growing.append(token)
            if position >= first:
                drafts.append(growing.follow(self.gamma))
        return drafts
