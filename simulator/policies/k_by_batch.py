"""One k for every request, from a table over running requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.hardware.cost import StepLoad
from simulator.numbers import whole
from simulator.policies.contract import Policy, StepView

WHOLE_BLOCK = 255
"""A k no block reaches."""
BEYOND = 2**31 - 1
"""More requests than ever run."""


@dataclass(frozen=True, slots=True)
class KByBatch(Policy):
    """The row with the smallest `requests` that covers the batch; more requests than any row go on with the last.

    vLLM's num_speculative_tokens_per_batch_size is such a table.
    """

    rows: tuple[tuple[int, int], ...]
    """(requests, k): up to so many decoding requests draft k tokens; requests rise."""

    def __post_init__(self) -> None:
        if not self.rows or any(a >= b for (a, _), (b, _) in zip(((0, 0), *self.rows), self.rows, strict=False)):
            raise ValueError("the numbers of requests must rise from 1 or more")
        if any(not 0 <= k <= WHOLE_BLOCK for _, k in self.rows):
            raise ValueError(f"k must be from 0 to {WHOLE_BLOCK}")

    @classmethod
    def parse(cls, text: str) -> KByBatch:
        """Rows as users write them: 8=7/32=3."""
        rows = [row.split("=") for row in text.split("/")]
        if wrong := ["=".join(row) for row in rows if len(row) != 2]:
            raise ValueError(f"{wrong[0] or 'nothing'} is no row REQUESTS=K")
        return cls(tuple((whole(requests), whole(k)) for requests, k in rows))

    @property
    def joined(self) -> KByBatch:
        """The same with neighbouring rows of one k made one."""
        following = (*(k for _, k in self.rows[1:]), None)
        return KByBatch(tuple(row for row, after in zip(self.rows, following, strict=True) if row[1] != after))

    @classmethod
    def cutoff(cls, requests: int) -> KByBatch:
        """The whole block up to so many requests, nothing beyond."""
        return cls(((requests, WHOLE_BLOCK), (BEYOND, 0)))

    @staticmethod
    def spelling(rows: Sequence[tuple[int, int]]) -> str:
        """The policy as users write it."""
        if len(rows) == 2 and rows[0][1] == WHOLE_BLOCK and tuple(rows[1]) == (BEYOND, 0):
            return f"cutoff:{rows[0][0]}"
        return "k_by_batch:" + "/".join(f"{requests}={k}" for requests, k in rows)

    @property
    def name(self) -> str:
        return self.spelling(self.rows)

    def draft(self, load: StepLoad, gamma: int) -> int:
        return min(gamma, self.at(load.decoding))

    def at(self, running: int) -> int:
        """k at so many running requests."""
        return next((k for requests, k in self.rows if running <= requests), self.rows[-1][1])

    def admit(self, step: StepView) -> None:
        k = self.draft(step.load, step.longest_draft)
        for request in range(step.running):
            step.admit(request, min(k, step.drafted(request)))
