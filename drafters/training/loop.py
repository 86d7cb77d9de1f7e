"""The training loop, one for every kind and any number of processes; what it keeps, it goes on from to the same bits."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drafters.target import Target
from drafters.training.design import Made, trained_parameters
from drafters.training.held_out import Drafting, HeldOut, drafting_on
from drafters.training.losses import draft_loss, random_anchors, real_positions
from drafters.training.muon import Muon
from drafters.training.recipe import Recipe
from drafters.training.states import States
from drafters.training.texts import BATCHES, Text, TextBatch, batches
from simulator.errors import InputError, first_paragraph, is_full
from simulator.records import Sampling

_RISE: Final = 0.002
"""By how much the accepted length must be longer to be called so."""
_TABLES: Final = ("embed", "lm_head", "markov_w", "confidence", "codebook")
"""Embedding-like tables and output heads stay with AdamW, as Muon's author advises."""
STATE = "state.pt"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What the held-out answers say after so many steps."""

    step: int
    loss: float
    """Mean over the steps since the last one, a drafted position."""
    drafting: tuple[Drafting, ...]
    """By domain."""

    @property
    def tau(self) -> float:
        """The mean of the domains' accepted lengths, by which the best weights are chosen."""
        return sum(d.tau for d in self.drafting) / len(self.drafting)


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told how it goes on."""

    advance: Callable[[int, int], None] = lambda done, total: None
    """(steps done, in all)."""
    evaluated: Callable[[Evaluated], None] = lambda evaluated: None
    kept: Callable[[], None] = lambda: None
    """A checkpoint is there."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Which of how many processes this is."""

    rank: int = 0
    count: int = 1


@dataclass(slots=True)
class _Course:
    """How far training is, and the best of it."""

    step: int = 0
    evaluated: list[Evaluated] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Since the last evaluation."""
    best_step: int = -1
    best_tau: float = 0.0

    def better(self, evaluated: Evaluated) -> bool:
        """Take in an evaluation, and say whether it is the best."""
        self.evaluated.append(evaluated)
        self.losses.clear()
        if self.best_step >= 0 and evaluated.tau <= self.best_tau + _RISE:
            return False
        self.best_step, self.best_tau = evaluated.step, evaluated.tau
        return True

    def no_longer_rises(self, patience: int, since: int = 0) -> bool:
        """Whether so many evaluations brought nothing better, of those after step `since`."""
        return sum(e.step > max(self.best_step, since) for e in self.evaluated) >= patience


@dataclass(frozen=True, slots=True)
class Material:
    """What is trained on."""

    texts: Sequence[Text]
    states: States
    held_out: Sequence[HeldOut]
    sampling: Sampling
    """By which the answers were drawn."""


class _Loss(nn.Module):
    """The loss as a module, which is what DistributedDataParallel takes; the drafter is its only child."""

    def __init__(self, made: Made, target: Target) -> None:
        super().__init__()
        self.drafter, self._kind = made.drafter, made.kind
        self._target = [target]  # in a list: no child, whose weights would be shared between processes

    def forward(self, batch: Any, seen: Any, at: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of losses, sum of survivals) of blocks at anchors."""
        return draft_loss(self._kind, self._target[0], self.drafter, batch, seen, at)


class Trainer:
    """Trains a drafter; `folder` keeps what it goes on from."""

    def __init__(
        self, made: Made, target: Target, material: Material, recipe: Recipe, dtype: torch.dtype, folder: Path,
        processes: Processes | None = None, *, save_every_s: float = 60.0,
    ) -> None:  # fmt: skip
        self.made, self.target, self.material, self.recipe = made, target, material, recipe
        self.folder, self.processes, self._dtype = folder, processes or Processes(), dtype
        self.parts = self.processes.count * recipe.accumulate
        if recipe.batch % self.parts:
            raise InputError(f"--batch {recipe.batch}: must be a multiple of processes × --accumulate, {self.parts}")
        each = max(1, len(material.texts) // recipe.batch)
        self.steps = self._planned = recipe.steps or max(1, round(recipe.epochs * each))
        self._save_every_s = save_every_s
        loss = _Loss(made, target)
        self._loss: nn.Module = (
            DistributedDataParallel(loss, gradient_as_bucket_view=True) if self.processes.count > 1 else loss
        )
        self._parameters = trained_parameters(made.drafter)
        self._optimizers = self._made_optimizers()
        self._best = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._course, self._consistent = _Course(), True
        if (folder / STATE).exists():
            self._restore()
        if self.processes.count > 1:
            torch.distributed.barrier()  # none begins while another looks for what was kept

    @property
    def step(self) -> int:
        """Steps done."""
        return self._course.step

    @property
    def evaluated(self) -> Sequence[Evaluated]:
        """All evaluations, in order."""
        return self._course.evaluated

    @property
    def best(self) -> Evaluated:
        """The evaluation whose weights are kept in the end."""
        return next(e for e in self._course.evaluated if e.step == self._course.best_step)

    def run(self, watch: Watch | None = None) -> None:
        """Train to the end of the schedule, or until the accepted length no longer rises; the best weights stay.

        Stopped, what was done last is kept. Raises InputError where a loss is not finite, naming the batch.
        """
        watch = watch or Watch()
        drawn = batches(self.material.texts, self.recipe.batch, self.recipe.seed, self.step)
        saved = time.monotonic()
        if self.step:  # gone on from
            watch.kept()
        try:
            while True:
                if due := self._due():
                    self._evaluate(watch)
                if due or time.monotonic() - saved > self._save_every_s:
                    self._save()
                    watch.kept()
                    saved = time.monotonic()
                self._fall_early()
                if self.step >= self.steps or self._course.no_longer_rises(self.recipe.patience, self._falls_from):
                    break
                self._take_step(next(drawn))
                watch.advance(self.step, self.steps)
        except KeyboardInterrupt:
            if self._consistent and self.step:
                self._save()
            raise
        for name, parameter in self._parameters.items():
            parameter.data.copy_(self._best[name])
        self.made.drafter.eval()

    @property
    def _falls_from(self) -> int:
        """The step from which rates fall."""
        return round((1 - self.recipe.decay) * self.steps)

    def _fall_early(self) -> None:
        """Where the accepted length no longer rises at full rates, let them fall now: then it mostly does once more."""
        if self.step < self._falls_from and self._course.no_longer_rises(self.recipe.patience):
            self.steps = min(self.steps, max(self.step + 1, round(self.step / max(1 - self.recipe.decay, 1e-9))))

    def _due(self) -> bool:
        """Whether the held-out answers are to be drafted on now: once at a step, stopped or not."""
        last = self._course.evaluated[-1].step if self._course.evaluated else -1
        times = self.recipe.evaluations
        nearest = round(round(self.step * times / self._planned) * self._planned / times)
        return last != self.step and self.step in (nearest, self.steps)

    def _take_step(self, indices: Sequence[int]) -> None:
        """One optimiser step on a batch, whose parts the processes share: their gradients add up to the whole's."""
        texts, recipe, rank = self.material.texts, self.recipe, self.processes.rank
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        whole = _lengths([texts[i] for i in indices])
        at = random_anchors(whole, recipe.anchors, generator)
        total = float(real_positions(whole, at, self.made.drafter.gamma).sum())
        loss = 0.0
        for part in range(recipe.accumulate):
            own = slice(rank * recipe.accumulate + part, None, self.parts)
            last = part == recipe.accumulate - 1
            with self._apart(last):
                loss += self._backward(indices[own], at[own], total)
        self._consistent = False
        self._update(indices)
        self._course.step += 1
        self._course.losses.append(self._summed(loss))
        self._consistent = True

    def _backward(self, indices: Sequence[int], at: Tensor, total: float) -> float:
        """Add a part's gradient of the mean over `total` positions; the part's share of it."""
        device = self.target.device
        batch, seen = self.material.states.read(indices)
        with torch.autocast(device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            loss, _ = self._loss(batch, seen, at.to(device))
        loss = loss / total
        if not bool(loss.isfinite()):
            raise self._not_finite("loss", indices)
        (loss * self.processes.count).backward()  # DistributedDataParallel takes the mean of the processes
        return float(loss.detach())

    def _apart(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged with the last part alone."""
        if isinstance(self._loss, DistributedDataParallel) and not last:
            apart: AbstractContextManager[None] = self._loss.no_sync()
            return apart
        return nullcontext()

    def _summed(self, value: float) -> float:
        """Over all processes."""
        if self.processes.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.target.device)
        torch.distributed.all_reduce(total)
        return float(total)

    def _not_finite(self, what: str, indices: Sequence[int]) -> InputError:
        names = ", ".join(self.material.texts[i].name for i in indices[:3])
        more = f" and {len(indices) - 3} more" if len(indices) > 3 else ""
        return InputError(
            f"step {self.step + 1}: the {what} of the batch of {names}{more} is not finite; lower --learning-rate and "
            "--matrix-rate, give --precision float32, or leave these answers out"
        )

    def _update(self, indices: Sequence[int]) -> None:
        norm = nn.utils.clip_grad_norm_(list(self._parameters.values()), 1.0)
        if not bool(norm.isfinite()):
            self._consistent = True
            raise self._not_finite("gradient", indices)
        scale = self.recipe.rate(self.step, self.steps)
        for optimizer, peak in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _made_optimizers(self) -> list[tuple[torch.optim.Optimizer, float]]:
        named = self._parameters.items()
        hidden = [p for name, p in named if p.ndim == 2 and not any(table in name for table in _TABLES)]
        rest = [p for name, p in named if p.ndim != 2 or any(table in name for table in _TABLES)]
        rates = self.recipe.matrix_rate, self.recipe.learning_rate
        return [
            (Muon(hidden, lr=rates[0], dtype=self._dtype), rates[0]),
            (torch.optim.AdamW(rest, lr=rates[1], betas=(0.9, 0.95), weight_decay=0.0), rates[1]),
        ]

    def _evaluate(self, watch: Watch) -> None:
        """Draft on the held-out answers: the first process does, and the others take its word."""
        material, losses = self.material, self._course.losses
        found: list[Drafting] = []
        if self.processes.rank == 0:
            found = drafting_on(self.made.drafter, material.held_out, material.sampling, self._dtype)
        if self.processes.count > 1:
            told: list[Any] = [found]
            torch.distributed.broadcast_object_list(told)
            [found] = told
        evaluated = Evaluated(self.step, sum(losses) / len(losses) if losses else float("nan"), tuple(found))
        self._consistent = False
        if self._course.better(evaluated):
            for name, parameter in self._parameters.items():
                self._best[name].copy_(parameter.detach())
        self._consistent = True
        watch.evaluated(evaluated)

    def _save(self) -> None:
        """Keep everything that decides what follows, whole or not at all."""
        if self.processes.rank:
            return
        course = self._course
        state = {
            "batches": BATCHES, "steps": self.steps, "step": course.step, "losses": course.losses,
            "best_step": course.best_step, "best_tau": course.best_tau,
            "evaluated": [asdict(e) for e in course.evaluated], "best": self._best,
            "parameters": {name: p.detach() for name, p in self._parameters.items()},
            "optimizers": [optimizer.state_dict() for optimizer, _ in self._optimizers],
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{STATE}.partial"
        try:
            with partial.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.folder / STATE)
        except (OSError, RuntimeError) as error:  # torch's own, where the disk is full
            partial.unlink(missing_ok=True)
            before = "what was kept before is there" if (self.folder / STATE).exists() else "nothing was kept before"
            if is_full(error):
                why = "there is no space left on the disk of --out; make room, or choose another --out"
                raise InputError(f"{self.folder}: step {course.step} cannot be kept: {why}; {before}") from error
            why = first_paragraph(error)
            raise InputError(f"{self.folder}: step {course.step} cannot be kept ({why}); {before}") from error

    def _restore(self) -> None:
        file = self.folder / STATE
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            if state.get("batches") != BATCHES:
                raise ValueError("it was begun by another version, whose batches were others")
            self.steps = state["steps"]
            for name, parameter in self._parameters.items():
                parameter.data.copy_(state["parameters"][name])
                self._best[name].copy_(state["best"][name])
            for (optimizer, _), saved in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            evaluated = [
                Evaluated(
                    e["step"],
                    e["loss"],
                    tuple(Drafting(**{**d, "acceptance": tuple(d["acceptance"])}) for d in e["drafting"]),
                )
                for e in state["evaluated"]
            ]
            self._course = _Course(state["step"], evaluated, state["losses"], state["best_step"], state["best_tau"])
        except Exception as error:  # of torch's own types too, where the file is no longer whole
            passing = isinstance(error, (OSError, MemoryError, torch.OutOfMemoryError))
            if passing and getattr(error, "errno", None) != errno.EINVAL:
                what, way = "cannot be read now", "it stays there to be gone on from"
            else:
                what, way = "cannot be gone on from", "remove it to begin anew"
            raise InputError(f"{file}: {what} ({first_paragraph(error)}); {way}") from error


def _lengths(texts: Sequence[Text]) -> TextBatch:
    """Where answers lie, on the host and without their tokens: what random anchors are drawn from."""
    prompts, lengths = torch.tensor([len(t.prompt) for t in texts]), torch.tensor([len(t) for t in texts])
    return TextBatch(torch.zeros(len(texts), 0, dtype=torch.long), prompts, lengths)
