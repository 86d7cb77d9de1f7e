"""The interface all drafters sit behind."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from drafters.cache import Positions
from drafters.sampling import Draws, Proposal
from simulator.records import Sampling


class DraftState(Protocol):
    """What a drafter remembers of the running requests, one row each."""

    def move(self, sources: Tensor, holes: Tensor) -> None:
        """Copy rows `sources` over rows `holes` (int64, equally many, disjoint)."""


class Drafter(Protocol):
    """Proposes γ tokens after an anchor, given the target's taps for the committed context."""

    kind: str
    """Which of `simulator.drafter_kinds` it is."""
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
        self, state: Any, rows: slice, anchor: Tensor, position: Positions, sampling: Sampling, draws: Draws | None
    ) -> Proposal:
        """Draft from `anchor` tokens [B] at `position`, one a row; `sampling` is how draft tokens are drawn, with `draws`
        above temperature 0."""
