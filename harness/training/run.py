"""Train a drafter as planned, and write its checkpoint; stopped, it goes on where it was."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from transformers.utils import logging as transformers_logging

from drafters.conversion import TRAINED
from drafters.training.design import save_made
from drafters.training.held_out import Drafting
from drafters.training.loop import STATE, Evaluated, Processes, Trainer, Watch
from drafters.training.texts import known_by, opening_prompts
from harness import stops
from harness.cluster import Cluster
from harness.console import Watcher
from harness.parts import full
from harness.training.material import Prepared, prepare
from harness.training.plan import Given, TrainingPlan, folder_of, keep_plan
from results.figures.intervals import half_width
from results.store.provenance import git_revision, package_versions
from simulator.errors import InputError, is_full
from simulator.numbers import give_or_take

_SITTINGS: Final = "sittings.json"
"""Seconds of the sittings before, and when this one began."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out."""

    name: str
    checkpoint: Path
    kind: str
    steps: int
    """Taken."""
    best_step: int
    """Whose weights were kept."""
    tau: dict[str, float]
    """Accepted length on held-out answers, by domain."""
    half_width: dict[str, float | None]
    """Half the width of its 95 % interval, over prompts; None where there is one prompt."""
    prompts: dict[str, int]
    """Held-out prompts that it is of."""
    acceptance: dict[str, list[float | None]]
    """By position, by domain; None where nothing was accepted up to there."""
    evaluated: list[Evaluated]
    facts: dict[str, Any]


def train(plan: TrainingPlan, given: Given, out: Path, to: Path, cluster: Cluster, watcher: Watcher) -> Trained:
    """Train as planned and write the checkpoint to a folder, whole or not at all. Raises InputError."""
    folder = folder_of(out, plan.name)
    new = not folder.exists()
    if plan.design.kind == "mtp":
        watcher.say(
            "mtp: vLLM takes such a module from a target's own checkpoint alone; this one can be recorded and simulated"
        )
    try:
        keep_plan(plan, folder)
        sit_down(folder)
        if plan.processes > 1:
            from harness.training.together import train_together

            finished = train_together(plan, given, folder, to, cluster, watcher)
        else:
            finished = train_alone(plan, given, folder, to, watcher)
    except (InputError, OSError, KeyboardInterrupt) as error:
        if new and not (folder / STATE).exists():  # there is nothing to go on from
            _remove(folder)
        if isinstance(error, OSError) and is_full(error):
            raise full(out) from error
        raise
    result = _trained(plan, to, *finished)
    stops.finished("the training")
    _remove(folder)
    return result


def sit_down(folder: Path) -> None:
    """Note that a sitting begins, and how long those before were: to where they last kept what they had."""
    file, spent_s = folder / _SITTINGS, 0.0
    with suppress(OSError, ValueError, KeyError, TypeError):
        before = json.loads(file.read_text(encoding="utf-8"))
        spent_s = float(before["spent_s"]) + max(0.0, (folder / STATE).stat().st_mtime - float(before["began"]))
    file.write_text(json.dumps({"spent_s": spent_s, "began": time.time()}), encoding="utf-8")


def seconds_of(folder: Path) -> float:
    """Seconds of all sittings, up to now."""
    told = json.loads((folder / _SITTINGS).read_text(encoding="utf-8"))
    return float(told["spent_s"]) + max(0.0, time.time() - float(told["began"]))


def _remove(folder: Path) -> None:
    """What a training keeps, and the folder of all such where none is left."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


Finished = tuple[Sequence[Evaluated], int, int, dict[str, Any]]
"""Evaluations, steps taken, the best step, what was found on the way."""


def train_alone(plan: TrainingPlan, given: Given, folder: Path, to: Path, watcher: Watcher) -> Finished:
    """Train in this process."""
    transformers_logging.disable_progress_bar()  # its bars would stand among ours
    watcher.doing("loading the target")
    prepared = prepare(plan, given, folder, watcher.say, watcher.advance)
    watch = Watch(
        lambda done, total: watcher.advance("training", done, total), lambda e: watcher.say(told(e)),
        lambda: watcher.began(f"training {plan.name}", plan.name),
    )  # fmt: skip
    return fit(plan, prepared, folder, to, watch, Processes())


def fit(plan: TrainingPlan, prepared: Prepared, folder: Path, to: Path, watch: Watch, processes: Processes) -> Finished:
    """Run the loop to its end, and write the best weights."""
    trainer = Trainer(
        prepared.made, prepared.target, prepared.material, plan.recipe, prepared.dtype, folder, processes
    )  # fmt: skip
    trainer.run(watch)
    prepared.facts["seconds"] = seconds_of(folder)
    if processes.rank == 0:
        write_whole(lambda partial: _written(plan, prepared, trainer, partial), to)
    return trainer.evaluated, trainer.step, trainer.best.step, prepared.facts


def _written(plan: TrainingPlan, prepared: Prepared, trainer: Trainer, folder: Path) -> None:
    """The checkpoint, and beside it what it was made from, and how."""
    save_made(prepared.made, prepared.target, folder)
    made = {
        "version": 1, "git_revision": git_revision(), "packages": package_versions(), "plan": plan, "facts": prepared.facts,
        "steps": trainer.step, "best_step": trainer.best.step, "evaluated": trainer.evaluated,
        "trained_on": sorted({known_by(prompt) for prompt in opening_prompts(prepared.material.texts).values()}),
    }  # fmt: skip
    (folder / TRAINED).write_bytes(msgspec.json.format(msgspec.json.encode(made)))


def write_whole(write: Callable[[Path], None], to: Path) -> None:
    """Write a folder under another name, and give it its own when all is there."""
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        with suppress(OSError):
            to.rmdir()  # an empty one
        partial.rename(to)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            f"--to {to}: cannot be written ({error.strerror}); make room there, or name another --to beside --resume"
        ) from None


def told(evaluated: Evaluated) -> str:
    """An evaluation in a line."""
    drafting = evaluated.drafting
    lengths = " · ".join(f"{d.domain} {give_or_take(d.tau, half_width(d.error, d.prompts), '.2f')}" for d in drafting)
    means = (give_or_take(a, None, ".2f") for a in _mean_acceptance(drafting))
    positions = " ".join(a.removeprefix("0") for a in means)
    loss = "" if evaluated.loss != evaluated.loss else f", loss {evaluated.loss:.3f}"
    of = ", mean of domains" if len(drafting) > 1 else ""
    return f"step {evaluated.step}{loss}: τ {lengths}; accepted by position, of rounds that reach it{of} {positions}"


def _mean_acceptance(drafting: Sequence[Drafting]) -> list[float | None]:
    """Over the domains that have the position, each counted alike."""
    found = [[a for a in at if a is not None] for at in zip(*(d.acceptance for d in drafting), strict=True)]
    return [sum(at) / len(at) if at else None for at in found]


def _trained(
    plan: TrainingPlan, to: Path, evaluated: Sequence[Evaluated], steps: int, best: int, facts: dict[str, Any]
) -> Trained:
    drafting = {d.domain: d for d in next(e for e in evaluated if e.step == best).drafting}
    return Trained(
        name=plan.name, checkpoint=to.resolve(), kind=plan.design.kind, steps=steps, best_step=best,
        tau={name: d.tau for name, d in drafting.items()},
        half_width={name: half_width(d.error, d.prompts) for name, d in drafting.items()},
        prompts={name: d.prompts for name, d in drafting.items()},
        acceptance={name: list(d.acceptance) for name, d in drafting.items()}, evaluated=list(evaluated), facts=facts,
    )  # fmt: skip
