"""One training loop for the target and every drafter: Muon for matrices, AdamW for the rest, resumable."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn


class Movable(Protocol):
    """A batch: a tensor of token ids, or anything else that moves to a device."""

    def to(self, device: torch.device) -> Self: ...


B = TypeVar("B", bound=Movable)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Length and learning rates of one training run."""

    steps: int
    """Optimiser steps in all."""
    muon_lr: float = 0.02
    """Peak learning rate of the hidden matrices (Muon)."""
    adam_lr: float = 3e-3
    """Peak learning rate of embeddings, norms, heads and biases (AdamW)."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    decay_fraction: float = 0.4
    """Last part of the run, in which both rates fall linearly to a fiftieth."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup_steps < 0 or not 0 < self.decay_fraction <= 1:
            raise ValueError(f"schedule: steps ≥ 1, warmup_steps ≥ 0 and 0 < decay_fraction ≤ 1 needed, got {self}")

    def scale(self, step: int) -> float:
        """Factor on the peak rates at `step` (from 0)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = (self.steps - step) / (self.decay_fraction * self.steps)
        return warm * max(0.02, min(1.0, left))


class Trainer(Generic[B]):
    """Trains `module`'s parameters that require a gradient; state lives in `folder` and survives a kill.

    `loss` maps a batch and the step's own generator to the loss and figures to log.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[B, torch.Generator], tuple[Tensor, dict[str, float]]],
        schedule: Schedule,
        folder: Path,
        seed: int,
    ) -> None:
        self.module, self.loss, self.schedule, self.folder, self.seed = module, loss, schedule, folder, seed
        self.step = 0
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if p.ndim == 2 and _is_hidden_matrix(n)]
        rest = [p for n, p in named if not (p.ndim == 2 and _is_hidden_matrix(n))]
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.Muon(matrices, lr=schedule.muon_lr, weight_decay=0.01), schedule.muon_lr),
            (torch.optim.AdamW(rest, lr=schedule.adam_lr, betas=(0.9, 0.95), weight_decay=0.0), schedule.adam_lr),
        ]
        self._state_file = folder / "training_state.pt"
        folder.mkdir(parents=True, exist_ok=True)
        if self._state_file.exists():
            self._restore()

    def run(self, batches: Iterator[B], *, save_every_s: float = 120.0, log_every: int = 50) -> None:
        """Train to the schedule's end. `batches` must start at `self.step`."""
        device = next(self.module.parameters()).device
        self.module.train()
        saved = logged = time.monotonic()
        figures: dict[str, float] = {}
        while self.step < self.schedule.steps:
            batch = next(batches).to(device)
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss, figures = self.loss(batch, generator)
            loss.backward()  # type: ignore[no-untyped-call]
            self._update()
            self.step += 1
            now = time.monotonic()
            if self.step % log_every == 0 or self.step == self.schedule.steps:
                self._log(figures, log_every / (now - logged))
                logged = now
            if now - saved > save_every_s:
                self._save()
                saved = time.monotonic()
        self._save()
        self.module.eval()

    def _update(self) -> None:
        nn.utils.clip_grad_norm_([p for p in self.module.parameters() if p.grad is not None], 1.0)
        for optimizer, peak in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * self.schedule.scale(self.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _log(self, figures: dict[str, float], steps_per_s: float) -> None:
        row = {"step": self.step, **{k: round(v, 4) for k, v in figures.items()}, "steps_per_s": round(steps_per_s, 2)}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(f"{self.folder.name}  {row}", flush=True)

    def _trained(self) -> dict[str, Tensor]:
        return {n: p.data for n, p in self.module.named_parameters() if p.requires_grad}

    def _save(self) -> None:
        state = {
            "step": self.step,
            "parameters": self._trained(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
        }
        partial = self._state_file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self._state_file)

    def _restore(self) -> None:
        state = torch.load(self._state_file, map_location="cpu", weights_only=True)
        own = self._trained()
        for name, value in state["parameters"].items():
            own[name].copy_(value)
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]


def _is_hidden_matrix(name: str) -> bool:
    """Embedding-like tables and output heads stay with AdamW, as Muon's authors advise."""
    return not any(part in name for part in ("embed", "lm_head", "markov_w", "confidence"))
