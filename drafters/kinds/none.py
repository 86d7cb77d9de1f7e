"""No drafter."""

from __future__ import annotations

from torch import Tensor

from drafters.cache import Positions
from drafters.sampling import Draws, Proposal
from simulator.records import Sampling


class NoState:
    """What a drafter remembers that remembers nothing."""

    def move(self, sources: Tensor, holes: Tensor) -> None:
        pass


class NoDrafter:
    """γ = 0: plain autoregressive decoding through the same code path. The baseline."""

    kind = "none"
    gamma = 0
    tap_layers: tuple[int, ...] = ()

    def start(self, rows: int, capacity: int) -> NoState:
        return NoState()

    def observe(
        self, state: NoState, rows: slice, positions: Positions, taps: Tensor, tokens: Tensor, length: Tensor
    ) -> None:
        pass

    def propose(
        self, state: NoState, rows: slice, anchor: Tensor, position: Positions, sampling: Sampling, draws: Draws | None
    ) -> Proposal:
        return Proposal(anchor.new_zeros(len(anchor), 0), (0,) * len(anchor), None)
