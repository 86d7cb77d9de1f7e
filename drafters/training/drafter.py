"""Training a learned drafter against a frozen target: the losses, and the configuration a checkpoint declares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from drafters.checkpoints import build_drafter, save_drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.target import Target
from drafters.training.onpolicy import Example, TextBatch, text_batches
from drafters.training.trainer import Schedule, Trainer

Kind = Literal["dspark", "dflash", "eagle3", "mtp"]
TRAINABLE: tuple[Kind, ...] = get_args(Kind)

CE_WEIGHT, L1_WEIGHT, CONFIDENCE_WEIGHT = 0.1, 0.9, 1.0
"""DSpark's loss weights (DSpark paper, 2026)."""
POSITION_DECAY = 4.0
"""DSpark/DFlash weigh position k by exp(−(k − 1) / this)."""
EAGLE3_STEP_DECAY = 0.8
"""Eagle3 weighs unrolled step k (from 0) by this to the k."""


def drafter_config(
    kind: Kind, target: Target, taps: tuple[int, ...], *, layers: int, block: int, rank: int
) -> dict[str, Any]:
    """A published-format `config.json` for a drafter of `target`: the target's configuration with the drafter's fields."""
    config: dict[str, Any] = {**target.config.to_dict(), "tie_word_embeddings": False, "dtype": "bfloat16"}
    config.pop("_name_or_path", None)  # a path of the machine that trained it
    config |= {"num_target_layers": target.num_layers, "target_layer_ids": list(taps)}
    if kind in ("dspark", "dflash"):
        config |= {"architectures": ["Qwen3DSparkModel"], "num_hidden_layers": layers, "block_size": block}
        config |= {"mask_token_id": 3, "markov_rank": rank if kind == "dspark" else 0}
        config |= {"enable_confidence_head": kind == "dspark"}
        if kind == "dspark":
            config |= {"markov_head_type": "vanilla", "confidence_head_with_markov": True}
    elif kind == "eagle3":
        config |= {"architectures": ["Qwen3Eagle3Model"], "num_hidden_layers": 1, "ttt_length": block}
    else:
        config |= {"architectures": ["Qwen3MTPModel"], "num_hidden_layers": 1, "mtp_length": 1}
        config |= {"target_layer_ids": [target.num_layers - 1]}
    config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    return config


def train_drafter(
    kind: Kind,
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
    kind: Kind, target: Target, drafter: LearnedDrafter, batch: TextBatch, anchors: int, generator: torch.Generator
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
        p = target_probs[rows[..., 0], before[..., k]]
        log_q = draft.logits[:, :, k].float().log_softmax(-1)
        l1 = (log_q.exp() - p).abs().sum(-1)
        overlap = 1 - 0.5 * l1.detach()
        if kind == "eagle3":
            step = EAGLE3_STEP_DECAY**k * -(p * log_q).sum(-1)
        else:
            ce = F.nll_loss(log_q.flatten(0, 1), forced[..., k].flatten(), reduction="none").view_as(l1)
            step = (CE_WEIGHT * ce + L1_WEIGHT * l1) if kind != "mtp" else ce + l1
            if draft.confidence_logits is not None:
                logit = draft.confidence_logits[..., k].float()
                step = step + CONFIDENCE_WEIGHT * F.binary_cross_entropy_with_logits(logit, overlap, reduction="none")
            step = step * torch.exp(torch.tensor(-k / POSITION_DECAY))
        losses.append(step)
        overlaps.append(overlap)
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
