"""How each kind of drafter is trained: the loss of its blocks against the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from drafters.kinds.learned import LearnedDrafter
from drafters.target import Target, TargetPass
from drafters.training.texts import TextBatch

CE_WEIGHT, L1_WEIGHT, CONFIDENCE_WEIGHT = 0.1, 0.9, 1.0
"""DSpark's loss weights (DSpark paper, 2026)."""
POSITION_DECAY = 4.0
"""DSpark/DFlash weigh position k by exp(−(k − 1) / this)."""
EAGLE3_STEP_DECAY = 0.8
"""Eagle3 weighs unrolled step k (from 0) by this to the k."""
_TABLE_NUMBERS: Final = 1 << 26
"""Logits of the target that are held at once."""


class Drafted(NamedTuple):
    """What a drafter says of one position of the blocks at A anchors of each of B texts, over its own V_d tokens."""

    k: int
    """The position in its block, from 0."""
    p: Tensor
    """The target's probabilities of these tokens, [B, A, V_d]: together 1, or less where the vocabulary is reduced."""
    log_q: Tensor
    """The drafter's, its logarithm."""
    token: Tensor
    """What the text goes on with, as an index into V_d, [B, A]; −1 where the draft cannot say it."""
    l1: Tensor
    """‖q − p‖₁ over all of the target's tokens, [B, A]."""
    confidence: Tensor | None
    """Before the sigmoid, [B, A]; None without a confidence head."""

    @property
    def cross_entropy(self) -> Tensor:
        """−log q of the token, [B, A]; 0 where the draft cannot say it."""
        of_all = F.nll_loss(self.log_q.flatten(0, 1), self.token.flatten(), reduction="none", ignore_index=-1)
        return of_all.view_as(self.token)

    @property
    def decay(self) -> Tensor:
        """The weight of the position."""
        return torch.exp(torch.tensor(-self.k / POSITION_DECAY))


@dataclass(frozen=True, slots=True)
class Training:
    """How drafters of a kind are trained, one row each."""

    loss: Callable[[Drafted], Tensor]
    """The loss of one position, [B, A]."""
    told: str
    """The loss in words."""


def _block_loss(at: Drafted) -> Tensor:
    loss = CE_WEIGHT * at.cross_entropy + L1_WEIGHT * at.l1
    if at.confidence is not None:
        overlap = 1 - 0.5 * at.l1.detach()
        loss = loss + CONFIDENCE_WEIGHT * F.binary_cross_entropy_with_logits(at.confidence, overlap, reduction="none")
    return loss * at.decay


_DECAYING = f"position k weighted exp(−(k − 1)/{POSITION_DECAY:g})"
_BLOCK_TOLD = f"{CE_WEIGHT} CE + {L1_WEIGHT} ‖q − p‖₁"
TRAINING: Final[Mapping[str, Training]] = {
    "dspark": Training(_block_loss, f"{_BLOCK_TOLD} + {CONFIDENCE_WEIGHT} BCE(c, 1 − ½‖q − p‖₁), {_DECAYING}"),
    "dflash": Training(_block_loss, f"{_BLOCK_TOLD}, {_DECAYING}"),
    "eagle3": Training(
        lambda at: EAGLE3_STEP_DECAY**at.k * -(at.p * at.log_q).sum(-1),
        f"cross-entropy against the target's distribution, unrolled step k weighted {EAGLE3_STEP_DECAY}^(k − 1)",
    ),
    "mtp": Training(lambda at: (at.cross_entropy + at.l1) * at.decay, "CE + ‖q − p‖₁"),
}  # fmt: skip
"""Every kind that has weights."""


def random_anchors(batch: TextBatch, anchors: int, generator: torch.Generator) -> Tensor:
    """Anchor positions [B, A]: response tokens that have at least one token after them."""
    first, last = batch.prompt_tokens.unsqueeze(1), batch.length.unsqueeze(1) - 2
    uniform = torch.rand(len(batch.ids), anchors, generator=generator).to(batch.ids.device)
    return first + (uniform * (last - first + 1)).long()


def real_positions(batch: TextBatch, at: Tensor, gamma: int) -> Tensor:
    """Which positions of blocks at anchors [B, A] the texts go on to, bool [B, A, γ]."""
    after = at.unsqueeze(-1) + torch.arange(1, gamma + 1, device=at.device)
    return after < batch.length[:, None, None]


def draft_loss(
    kind: str, target: Target, drafter: LearnedDrafter, batch: TextBatch, seen: TargetPass, at: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of blocks drafted at anchors [B, A] of texts, summed over the positions that texts go on to, and their
    Σ_k Π_{j≤k} (1 − ½‖q_j − p_j‖₁) summed over anchors, about the accepted length less one.

    `seen` is what the target makes of the texts. Both are sums, so that parts of a batch add up to the whole.
    """
    gamma, last = drafter.gamma, batch.ids.shape[1] - 1
    before = (at.unsqueeze(-1) + torch.arange(gamma, device=at.device)).clamp(max=last)
    real = real_positions(batch, at, gamma)
    rows = torch.arange(len(at), device=at.device)[:, None, None]
    forced = batch.ids[rows, (before + 1).clamp(max=last)]
    places, where = torch.unique(rows * (last + 1) + before, return_inverse=True)
    log_p = target_log_probs(target, seen.hidden.flatten(0, 1)[places], drafter.draft_ids)
    own = own_tokens(drafter, forced)

    drafter.narrow = True
    try:
        draft = drafter.teacher_forced(own_taps(drafter, seen.taps), batch.ids, at, forced)
    finally:
        drafter.narrow = False
    losses, overlaps = [], []
    for k in range(gamma):
        confidence = None if draft.confidence_logits is None else draft.confidence_logits[..., k].float()
        p, log_q = log_p[where[..., k]].exp(), draft.logits[:, :, k].float().log_softmax(-1)
        l1 = (log_q.exp() - p).abs().sum(-1) + (1 - p.sum(-1)).clamp(min=0) * (drafter.draft_ids is not None)
        losses.append(TRAINING[kind].loss(Drafted(k, p, log_q, own[..., k], l1, confidence)))
        overlaps.append(1 - 0.5 * l1.detach())
    survival = (torch.stack(overlaps, -1) * real).cumprod(-1).sum()
    return torch.where(real, torch.stack(losses, -1), 0.0).sum(), survival


def own_taps(drafter: LearnedDrafter, taps: Tensor) -> Tensor:
    """What it reads of the target, in the type of its tables: where they are wider than the target's, all is."""
    return taps.to(drafter.lm_head.get_parameter("weight").dtype)


def own_tokens(drafter: LearnedDrafter, tokens: Tensor) -> Tensor:
    """Tokens of the target as indices into the draft's own vocabulary; −1 for those that it cannot say."""
    if drafter.draft_ids is None:
        return tokens
    index = torch.full((drafter.settings.vocabulary,), -1, device=tokens.device)
    index[drafter.draft_ids] = torch.arange(len(drafter.draft_ids), device=tokens.device)
    return index[tokens]


@torch.no_grad()
def target_log_probs(target: Target, hidden: Tensor, ids: Tensor | None) -> Tensor:
    """log p [U, V_d] of the target's states [U, d] at temperature 1, of `ids` or of all tokens; some states at a time."""
    parts = []
    for some in torch.split(hidden, max(1, _TABLE_NUMBERS // target.vocab_size)):
        logits = target.head(some).float()
        whole = logits.logsumexp(-1, keepdim=True)
        parts.append((logits if ids is None else logits[:, ids]) - whole)
    return torch.cat(parts)
