"""What a run records, shared by every package: a response and the rounds that made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Round:
    """One propose → verify → commit of one request."""

    drafted: int
    """Tokens the drafter proposed; at most γ."""
    verified: int
    """ℓ: drafted tokens sent to the target; at most `drafted`."""
    accepted: int
    """a: draft tokens kept. Stops at an end token; not cut by the length limit."""
    committed: int
    """Tokens that entered the response: a + 1, less what an end token or the length limit cut off."""
    confidence: tuple[float, ...]
    """c_1..c_drafted, raw; empty where the drafter has no confidence head."""
    running: int
    """R: requests in the batch of this round."""
    draft_s: float
    """Wall-clock seconds the whole batch spent drafting, taking in the verified tokens included."""
    verify_s: float
    """Wall-clock seconds the whole batch spent in the target pass and the acceptance rule."""

    def __post_init__(self) -> None:
        if not 0 <= self.accepted <= self.verified <= self.drafted:
            raise ValueError(f"round: accepted ≤ verified ≤ drafted needed, got {self}")
        if not 1 <= self.committed <= self.accepted + 1:
            raise ValueError(f"round: 1 ≤ committed ≤ accepted + 1 needed, got {self}")
        if len(self.confidence) not in (0, self.drafted):
            raise ValueError(f"round: one confidence per drafted token or none, got {self}")


@dataclass(frozen=True, slots=True)
class Response:
    """What the target said to one prompt turn, and how it got there."""

    task: str
    domain: str
    prompt_id: str
    turn: int
    """Which of the prompt's turns this answers, from 0."""
    prompt_tokens: int
    """Tokens in the context before the response, earlier turns included."""
    token_ids: tuple[int, ...]
    """The response; token 1 comes from the prefill, the others from rounds."""
    text: str
    finish: FinishReason
    rounds: tuple[Round, ...]

    def __post_init__(self) -> None:
        committed = sum(r.committed for r in self.rounds)
        if len(self.token_ids) != committed + 1:
            raise ValueError(
                f"response {self.prompt_id}[{self.turn}]: {len(self.token_ids)} tokens, "
                f"but the prefill and its rounds committed {committed + 1}"
            )
