"""What drafters without weights share: they read nothing but the text, and draft what it suggests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from drafters.cache import Positions
from drafters.sampling import Draws, Proposal
from simulator.errors import InputError
from simulator.records import Sampling


class GrowingText(Protocol):
    """What a drafter remembers of the text of a request so far."""

    def append(self, token: int) -> None:
        """One token more."""

    def follow(self, gamma: int) -> list[int]:
        """The draft after the last token: at most γ tokens, or an empty list."""


class TextState:
    """The text of each row so far, anchor included."""

    def __init__(self, rows: int, new_text: Callable[[], GrowingText]) -> None:
        self.texts = [new_text() for _ in range(rows)]
        self.lengths = [0] * rows

    def move(self, sources: Tensor, holes: Tensor) -> None:
        for source, hole in zip(sources.tolist(), holes.tolist(), strict=True):
            self.texts[hole], self.lengths[hole] = self.texts[source], self.lengths[source]


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
                state.texts[row], state.lengths[row] = self.new_text(), 0
            more = ids[state.lengths[row] - first : count + 1]
            for token in more:
                state.texts[row].append(token)
            state.lengths[row] += len(more)

    def propose(
        self, state: TextState, rows: slice, anchor: Tensor, position: Positions, sampling: Sampling, draws: Draws | None
    ) -> Proposal:
        found = [self._draft(text) for text in state.texts[rows]]
        tokens = torch.tensor([f + [0] * (self.gamma - len(f)) for f in found], device=anchor.device)
        return Proposal(tokens, tuple(map(len, found)), None)

    def drafts_along(self, text: Sequence[int], first: int) -> list[list[int]]:
        """What would be drafted from each of the anchors at positions `first` to the end of `text`, at most γ tokens."""
        growing, drafts = self.new_text(), []
        for position, token in enumerate(text):
            growing.append(token)
            if position >= first:
                drafts.append(self._draft(growing))
        return drafts

    def _draft(self, text: GrowingText) -> list[int]:
        draft = text.follow(self.gamma)
        if not isinstance(draft, list) or not all(type(token) is int for token in draft):
            raise InputError(
                f"drafter {self.kind}: its text drafts {draft!r:.60}; a list of token ids, or an empty one, is needed"
            )
        if len(draft) > self.gamma:
            raise InputError(
                f"drafter {self.kind}: its text drafts {len(draft)} tokens where at most {self.gamma} are asked for"
            )
        return draft
