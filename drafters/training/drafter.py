"""Training a learned drafter against a frozen target: the losses, and the configuration a checkpoint declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from drafters.checkpoints import build_drafter, save_drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.target import Target
from drafters.training.onpolicy import Example, TextBatch, text_batches
from drafters.training.trainer import Schedule, Trainer

CE_WEIGHT, L1_WEIGHT, CONFIDENCE_WEIGHT = 0.1, 0.9, 1.0
"""DSpark's loss weights (DSpark paper, 2026)."""
POSITION_DECAY = 4.0
"""DSpark/DFlash weigh position k by exp(−(k − 1) / this)."""
EAGLE3_STEP_DECAY = 0.8
"""Eagle3 weighs unrolled step k (from 0) by this to the k."""


class Drafted(NamedTuple):
    """What a drafter says of one position of the blocks at A anchors of each of B texts."""

    k: int
    """The position in its block, from 0."""
    p: Tensor
    """The target's distribution, [B, A, V]."""
    log_q: Tensor
    """The drafter's, its logarithm."""
    token: Tensor
    """What the text goes on with, [B, A]."""
    l1: Tensor
    """‖q − p‖₁, [B, A]."""
    confidence: Tensor | None
    """Before the sigmoid, [B, A]; None without a confidence head."""

    @property
    def cross_entropy(self) -> Tensor:
        """−log q of the token, [B, A]."""
        return F.nll_loss(self.log_q.flatten(0, 1), self.token.flatten(), reduction="none").view_as(self.token)

    @property
    def decay(self) -> Tensor:
        """The weight of the position."""
        return torch.exp(torch.tensor(-self.k / POSITION_DECAY))


class Shape(NamedTuple):
    """Sizes of a drafter; those of one layer or without a sequential head take what they need."""

    layers: int
    block: int
    rank: int
    target_layers: int


@dataclass(frozen=True, slots=True)
class Training:
    """How drafters of a kind are made, one row each."""

    steps: int
    """How many the recipe of the shipped pair takes."""
    declared: Callable[[Shape], dict[str, Any]]
    """What `config.json` says of one, beside what it has of the target."""
    loss: Callable[[Drafted], Tensor]
    """The loss of one position, [B, A]."""
    told: str
    """The loss in words."""


def _of_block(shape: Shape) -> dict[str, Any]:
    said = {"architectures": ["Qwen3DSparkModel"], "num_hidden_layers": shape.layers, "block_size": shape.block}
    return said | {"mask_token_id": 3, "markov_rank": 0, "enable_confidence_head": False}


def _of_dspark(shape: Shape) -> dict[str, Any]:
    own = {"markov_rank": shape.rank, "enable_confidence_head": True, "markov_head_type": "vanilla"}
    return _of_block(shape) | own | {"confidence_head_with_markov": True}


def _block_loss(at: Drafted) -> Tensor:
    loss = CE_WEIGHT * at.cross_entropy + L1_WEIGHT * at.l1
    if at.confidence is not None:
        overlap = 1 - 0.5 * at.l1.detach()
        loss = loss + CONFIDENCE_WEIGHT * F.binary_cross_entropy_with_logits(at.confidence, overlap, reduction="none")
    return loss * at.decay


_DECAYING = f"position k weighted exp(−(k − 1)/{POSITION_DECAY:g})"
_BLOCK_TOLD = f"{CE_WEIGHT} CE + {L1_WEIGHT} ‖q − p‖₁"
TRAINING: Final[Mapping[str, Training]] = {
    "dspark": Training(
        2600, _of_dspark, _block_loss, f"{_BLOCK_TOLD} + {CONFIDENCE_WEIGHT} BCE(c, 1 − ½‖q − p‖₁), {_DECAYING}"
    ),
    "dflash": Training(2600, _of_block, _block_loss, f"{_BLOCK_TOLD}, {_DECAYING}"),
    "eagle3": Training(
        1400,
        lambda shape: {"architectures": ["Qwen3Eagle3Model"], "num_hidden_layers": 1, "ttt_length": shape.block},
        lambda at: EAGLE3_STEP_DECAY**at.k * -(at.p * at.log_q).sum(-1),
        f"cross-entropy against the target's distribution, unrolled step k weighted {EAGLE3_STEP_DECAY}^(k − 1)",
    ),
    "mtp": Training(
        1400,
        lambda shape: {
            "architectures": ["Qwen3MTPModel"], "num_hidden_layers": 1, "mtp_length": 1,
            "target_layer_ids": [shape.target_layers - 1],
        },
        lambda at: (at.cross_entropy + at.l1) * at.decay,
        "CE + ‖q − p‖₁",
    ),
}  # fmt: skip
"""Every kind that has weights."""


def drafter_config(
    kind: str, target: Target, taps: tuple[int, ...], *, layers: int, block: int, rank: int
) -> dict[str, Any]:
    """A published-format `config.json` for a drafter of `target`: the target's configuration with the drafter's fields.

    Drafters are built as Qwen3's layers are, whatever family the target is of.
    """
    config: dict[str, Any] = {**target.config.to_dict(), "tie_word_embeddings": False, "dtype": "bfloat16"}
    config.pop("_name_or_path", None)  # a path of the machine that trained it
    config |= {"model_type": "qwen3", "vocab_size": target.vocab_size, "hidden_size": target.hidden_size}
    config |= {"num_target_layers": target.num_layers, "target_layer_ids": list(taps)}
    config |= TRAINING[kind].declared(Shape(layers, block, rank, target.num_layers))
    config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    return config


def train_drafter(
    kind: str,
    target: Target,
    examples: Sequence[Example],
    config: dict[str, Any],
    folder: Path,
    schedule: Schedule,
    seed: int,
    *,
    rows: int = 16,
    anchors: int = 32,
) -> None:
    """Train a drafter on the target's own responses; writes a checkpoint to `folder`, resumes a run it finds there."""
    torch.manual_seed(seed)
    drafter = build_drafter(config, target, gamma=None, name=kind)
    _initialise(drafter)
    drafter.to(target.device)
    drafter.embed_tokens.requires_grad_(False)
    drafter.lm_head.requires_grad_(False)

    def loss(batch: TextBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return draft_loss(kind, target, drafter, batch, anchors, generator)

    trainer = Trainer(drafter, loss, schedule, folder / "training", seed)
    trainer.run(text_batches(examples, rows, seed, trainer.step))
    save_drafter(drafter, config, folder)


def draft_loss(
    kind: str, target: Target, drafter: LearnedDrafter, batch: TextBatch, anchors: int, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The loss of blocks drafted at random anchors of the responses, and figures to log.

    `tau` is 1 + Σ_k Π_{j≤k} (1 − ½‖q_j − p_j‖₁): the accepted length expected at temperature 1.
    """
    gamma = drafter.gamma
    at = _random_anchors(batch, anchors, generator)
    offset = torch.arange(gamma, device=at.device)
    before = (at.unsqueeze(-1) + offset).clamp(max=batch.ids.shape[1] - 1)
    following = (before + 1).clamp(max=batch.ids.shape[1] - 1)
    real = (at.unsqueeze(-1) + offset + 1 < batch.length[:, None, None]).float()
    rows = torch.arange(len(at), device=at.device)[:, None, None]
    forced = batch.ids[rows, following]

    seen = target.read(batch.ids, drafter.tap_layers)
    with torch.no_grad():
        target_probs = target.head(seen.hidden).float().softmax(-1)
    draft = drafter.teacher_forced(seen.taps, batch.ids, at, forced)

    losses, overlaps = [], []
    for k in range(gamma):
        confidence = None if draft.confidence_logits is None else draft.confidence_logits[..., k].float()
        p, log_q = target_probs[rows[..., 0], before[..., k]], draft.logits[:, :, k].float().log_softmax(-1)
        l1 = (log_q.exp() - p).abs().sum(-1)
        losses.append(TRAINING[kind].loss(Drafted(k, p, log_q, forced[..., k], l1, confidence)))
        overlaps.append(1 - 0.5 * l1.detach())
    loss = (torch.stack(losses, -1) * real).sum() / real.sum()
    survival = (torch.stack(overlaps, -1) * real).cumprod(-1).sum(-1)
    return loss, {"loss": loss.item(), "tau": 1 + survival.mean().item()}


def _random_anchors(batch: TextBatch, anchors: int, generator: torch.Generator) -> Tensor:
    """Anchor positions [B, A]: response tokens that have at least one token after them."""
    first, last = batch.prompt_tokens.unsqueeze(1), batch.length.unsqueeze(1) - 2
    uniform = torch.rand(len(batch.ids), anchors, generator=generator).to(batch.ids.device)
    return first + (uniform * (last - first + 1)).long()


def _initialise(drafter: LearnedDrafter) -> None:
    """Small normal matrices; the sequential head starts as no bias at all."""
    for name, parameter in drafter.named_parameters():
        if name in ("embed_tokens.weight", "lm_head.weight"):
            continue
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.02)
        if "markov_w2" in name or "confidence_head" in name:
            torch.nn.init.zeros_(parameter)
