"""What is recorded, shared by every package: responses, the rounds that made them, and dense anchor records."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from simulator.drafter_kinds import KINDS

FinishReason = Literal["stop", "length"]
Drafting = Literal["sampled", "greedy"]
"""How draft tokens are chosen: `sampled` draws them from q, as the papers do; `greedy` takes argmax q at every temperature,
as vLLM by default, z-lab's loop and llama.cpp do. A greedy draft is one-hot: it is accepted with probability p(argmax q)."""
SERVED = "estimated from served rounds"
"""What everything is called that comes of an engine's own logs: rounds at the anchors that it visited, under one policy."""
DRAFTINGS: tuple[Drafting, ...] = get_args(Drafting)
KeptDrafting = Literal["sampled", "greedy", "either"]
"""What a recording holds for. `either` where both ways draft the same: it is recorded and kept once, and serves both."""
Confidences = Literal["raw", "calibrated", "estimated", "none"]
"""What a policy decides from: a drafter with a confidence head has the first two, one without may have estimated ones."""
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

MIN_TEMPERATURE = 0.001
"""The smallest temperature above 0: divided by less, logits overflow; 0 itself is greedy."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn: asked for by suites, stated by files of responses, done by engines.

    Applied to target and drafter alike, but to a drafter that drafts greedily. Raises ValueError for what cannot be sampled.
    """

    temperature: float = 1.0
    """0 is greedy; else at least 0.001."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches this."""
    top_k: int = 0
    """Keep the k most probable tokens; 0 keeps all."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.temperature) or (self.temperature != 0 and self.temperature < MIN_TEMPERATURE):
            raise ValueError(f"temperature: 0 (greedy) or at least {MIN_TEMPERATURE} is needed, got {self.temperature:g}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"0 < top_p ≤ 1 is needed, got {self.top_p:g}")
        if self.top_k < 0:
            raise ValueError(f"top_k ≥ 0 is needed (0 keeps all tokens), got {self.top_k}")

    def __str__(self) -> str:
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}, top_k {self.top_k}"

    def of_drafts(self, drafting: Drafting) -> Sampling:
        """How a drafter draws its tokens beside a target that samples so."""
        return Sampling(temperature=0) if drafting == "greedy" else self


def kept_drafting(drafting: KeptDrafting, kind: str, temperature: float | None) -> KeptDrafting:
    """What a recording of a drafter of this kind holds for: at temperature 0, and where q is one-hot anyway, for either.

    A temperature that nobody knows, as of averages, is None.
    """
    return "either" if temperature == 0 or (kind in KINDS and KINDS[kind].one_hot) else drafting


@dataclass(frozen=True, slots=True, order=True)
class Recording:
    """The key of a dense recording and of what a policy is shown of it. Raises ValueError for what makes no sense."""

    drafter: str
    """The drafter's name, as the run's pair gives it."""
    gamma: int
    """Tokens drafted in each round."""
    confidences: Confidences = "none"
    """What policies are shown."""
    drafting: KeptDrafting = "sampled"
    """How drafts were chosen, as asked for."""
    kind: str = field(default="", compare=False)
    """The drafter's kind, which goes with its name; where none is declared it is the name: see `kind_of`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self.kind or self.drafter)
        if self.gamma < 0 or self.confidences not in get_args(Confidences) or self.drafting not in get_args(KeptDrafting):
            raise ValueError(f"recording: γ of 0 or more, known confidences and a known drafting needed, got {self!r}")

    def showing(self, confidences: Confidences) -> Recording:
        """The same recording with other confidences."""
        return replace(self, confidences=confidences)

    def drafted_by(self, drafting: KeptDrafting) -> Recording:
        """The recording of the same drafter whose drafts were chosen so."""
        return replace(self, drafting=drafting)

    def holds_for(self, drafting: Drafting) -> bool:
        """Whether it serves where drafts are chosen so."""
        return self.drafting in (drafting, "either")

    @property
    def short(self) -> str:
        """The drafter and its block."""
        return f"{self.drafter} γ={self.gamma}"

    def __str__(self) -> str:
        basis = "" if self.confidences == "none" else f" ({self.confidences})"
        return f"{self.short}{basis}" + (" (greedy drafts)" if self.drafting == "greedy" else "")


NO_RECORDING = Recording("none", 0)
"""The recording of plain decoding: nothing is drafted."""


MAX_GAMMA = 254
"""Counts of a round are stored in one byte."""


@dataclass(frozen=True, slots=True)
class Round:
    """One propose → verify → commit of one request: decoded live, replayed from a dense record, or simulated."""

    drafted: int
    """Tokens the drafter proposed; at most γ."""
    verified: int
    """ℓ: drafted tokens sent to the target; at most `drafted`."""
    accepted: int
    """a: draft tokens kept. Stops at an end token; not cut by the length limit."""
    committed: int
    """Tokens that entered the response: a + 1, less what an end token or the length limit cut off."""
    confidence: tuple[float, ...]
    """c_1..c_drafted as the drafter gave them, or as the policy was shown them where those differ; may be empty."""
    running: int
    """R: requests in the batch of this round."""
    draft_s: float | None = None
    """Wall-clock seconds the whole batch spent drafting, taking in the verified tokens included; None if replayed."""
    verify_s: float | None = None
    """Wall-clock seconds the whole batch spent in the target pass and the acceptance rule; None if replayed."""

    @property
    def seconds(self) -> float:
        """Wall-clock of the whole batch, of a round that a clock ran for."""
        if self.draft_s is None or self.verify_s is None:
            raise ValueError("round: was replayed; it has no wall-clock")
        return self.draft_s + self.verify_s

    def __post_init__(self) -> None:
        if not 0 <= self.accepted <= self.verified <= self.drafted:
            raise ValueError(f"round: accepted ≤ verified ≤ drafted needed, got {self}")
        if not 1 <= self.committed <= self.accepted + 1:
            raise ValueError(f"round: 1 ≤ committed ≤ accepted + 1 needed, got {self}")
        if len(self.confidence) not in (0, self.drafted):
            raise ValueError(f"round: one confidence per drafted token or none, got {self}")


@dataclass(frozen=True, slots=True)
class Anchors:
    """What a drafter would do at every anchor of one response, given the response.

    Entry i belongs to the anchor at response token i + 1 (counted from 1): a response of n tokens has n − 1 anchors, for
    its first token comes from the prefill. Draft position k of that anchor stands for response token i + 1 + k.
    """

    drafted: Bytes
    """Tokens proposed, [n − 1]."""
    accepted: Bytes
    """a ≤ drafted, [n − 1]: drafted tokens kept if all are verified, by the coupling draw. 0 beyond the end token."""
    accept_prob: Floats
    """β_k = min(1, q_k(y_k) / p_k(y_k)), [n − 1, γ]: P(position k accepted | response, positions before k accepted)."""
    confidence: Floats | None = None
    """c_1..c_γ of the coupled draft, [n − 1, γ]; None without a confidence head."""
    fresh_confidence: Floats | None = None
    """c_1..c_γ of a second draft that never looks at the response, [n − 1, γ]; None where not recorded."""
    certainty: Floats | None = None
    """max_v q_k(v) along the coupled draft, [n − 1, γ], q at temperature 1 with nothing cut off, whatever the sampling
    settings; what confidences are estimated from. None with a confidence head, or without distributions (n-gram)."""
    outside: Floats | None = None
    """Σ p_k(v) over tokens that a reduced vocabulary lacks, [n − 1, γ]: β_k averages at most what is left. NaN where the
    response is over; None where the drafter has all of the target's tokens. Kept for tables, no simulation reads it."""

    def __post_init__(self) -> None:
        count, gamma = self.accept_prob.shape
        shapes = [self.drafted.shape == (count,), self.accepted.shape == (count,)]
        optional = (self.confidence, self.fresh_confidence, self.certainty, self.outside)
        shapes += [c is None or c.shape == (count, gamma) for c in optional]
        if not all(shapes):
            raise ValueError(f"anchors: one entry for each of {count} anchors, γ = {gamma} wide, needed")
        if (self.accepted > self.drafted).any() or (self.drafted > gamma).any():
            raise ValueError("anchors: accepted ≤ drafted ≤ γ needed")

    def __len__(self) -> int:
        return len(self.accepted)

    @property
    def gamma(self) -> int:
        """γ of the recording."""
        return int(self.accept_prob.shape[1])


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
    beyond: tuple[int, ...] = ()
    """What the target would have said next, where the length limit cut it off: for acceptances near the end only."""

    def __post_init__(self) -> None:
        committed = sum(r.committed for r in self.rounds)
        if len(self.token_ids) != committed + 1:
            raise ValueError(
                f"response {self.prompt_id}[{self.turn}]: {len(self.token_ids)} tokens, "
                f"but the prefill and its rounds committed {committed + 1}"
            )
        if self.beyond and self.finish != "length":
            raise ValueError(f"response {self.prompt_id}[{self.turn}]: goes on beyond its end token")
