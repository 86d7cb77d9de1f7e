"""The same GPUs shared out otherwise, one engine on all of them or several behind a router: what sweeps of one question say
to run in each layout, simulated again in the same draws of prompts, arrivals, seeds and the profile's errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from harness.console import Watcher
from harness.sweeps.plan import points, task_of
from results.store.database import Store
from results.store.decisions import decisions, keep_decision
from results.store.recordings import Recordings
from results.store.rows import read_plan
from simulator.capacity import needed
from simulator.decision import Decision, Draw, Rival, Sampled, gain_of, layout_of
from simulator.draws import FRESH, SLICES, sampled, varied
from simulator.hardware.whatif import slower
from simulator.metrics import Outcome
from simulator.mix import Mix
from simulator.plan import SweepPlan
from simulator.recommendation import draws_at_load
from simulator.setup import Setup
from simulator.simulation import Prepared, prepare, simulate

MOST_DRAWS = 60
"""Draws of a comparison of layouts, after those of each decision."""
APART = 0.1
"""How far a pass shared by several GPUs may be off beside one on a single GPU, beyond what both are off alike: a relative
standard error, assumed. What GPUs take to exchange is in the one and not in the other."""


def next_layout(plan: SweepPlan, sweep_id: str) -> SweepPlan:
    """The plan of the next layout, once that of `sweep_id` was simulated. The GPUs are as many in all."""
    profile, total = plan.others[0], plan.profile.gpus * plan.replicas
    return msgspec.structs.replace(
        plan, profile=profile, replicas=total // profile.gpus, others=plan.others[1:], beside=[*plan.beside, sweep_id]
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """A sweep of one layout, and what it says to run."""

    sweep_id: str
    run_id: str
    plan: SweepPlan
    decision: Decision

    @property
    def size(self) -> float:
        """The size of the load that is decided about; below 0 where nothing is recommended, whatever the load."""
        return -1.0 if self.decision.candidate is None else self.decision.load.size or 0.0


def compare_layouts(store: Store, sweep_ids: Sequence[str], watcher: Watcher) -> str:
    """Compare what sweeps say to run, and keep it with their decisions; returns the one whose layout is best.

    That is the one that keeps the promise at the highest load, and of those the one that gives most. It is marked as
    finished last, so that a report shows it.
    """
    layouts = [one for sweep_id in sweep_ids if (one := _layout(store, sweep_id)) is not None]
    if not layouts:
        return sweep_ids[-1]
    most = max(one.size for one in layouts)
    alike = [one for one in layouts if one.size == most and one.decision.candidate is not None]
    draws, found = _drawn(store, alike, watcher) if len(alike) > 1 else ([], {})

    def value(layout: Layout) -> float:
        """What a layout gives on average with the profile held."""
        held = [v for v, draw in zip(found[layout.sweep_id].value, draws, strict=True) if not draw.off]
        mean = float(np.mean(held))
        return mean if math.isfinite(mean) else -math.inf

    best = max(alike, key=value) if found else max(layouts, key=lambda one: one.size)
    for one in layouts:
        others = [other for other in layouts if other is not one] if one is best else [best]
        rivals = [_rival(one, other, found, draws) for other in others]
        keep_decision(store, one.sweep_id, msgspec.structs.replace(one.decision, rivals=rivals))
    store.finish_sweep(best.sweep_id)
    return best.sweep_id


def _layout(store: Store, sweep_id: str) -> Layout | None:
    """A sweep that has decided something; None of one that has not."""
    row = store.sweep(sweep_id)
    with store.reading() as connection:
        decided = list(decisions(connection, sweep_id).values())
    return Layout(sweep_id, row["run_id"], read_plan(row["plan"], SweepPlan), decided[0]) if decided else None


def _rival(one: Layout, other: Layout, found: dict[str, Sampled], draws: Sequence[Draw]) -> Rival:
    """Another layout, from where one stands."""
    d, gain, reason = other.decision, None, other.decision.reason
    if one.decision.candidate is not None and not reason:
        if one.sweep_id in found and other.sweep_id in found:
            words = layout_of(other.plan.profile.gpus, other.plan.replicas)
            gain = gain_of(words, found[one.sweep_id], found[other.sweep_id], draws)
        if d.load != one.decision.load:
            reason = f"the promise is kept up to {d.load.label} of what was simulated"
    return Rival(
        sweep=other.sweep_id, gpus=other.plan.profile.gpus, replicas=other.plan.replicas, run=d.run, reason=reason,
        command=d.command, attained=d.attained, holds=d.holds, sure=d.sure, gain=gain,
    )  # fmt: skip


def _drawn(store: Store, layouts: Sequence[Layout], watcher: Watcher) -> tuple[list[Draw], dict[str, Sampled]]:
    """What is run in each layout, in the same draws, by sweep."""
    first = layouts[0]
    load, figure = first.decision.load, first.decision.figure
    recordings = Recordings(store, first.run_id, first.plan.drafting)
    tasks: dict[str, tuple[Setup, Prepared]] = {}
    for one in layouts:
        among = [point for point in points(one.plan, recordings, lambda told: None) if point.setup.load == load]
        assert one.decision.candidate is not None
        setup, recording = task_of(one.decision.candidate, among, among[0])
        tasks[one.sweep_id] = (setup, prepare(recordings.trace(recording)))
    trace = next(iter(tasks.values()))[1].trace
    _, answer = Mix(trace, first.plan.weights, first.plan.prompt_tokens, first.plan.output_tokens).mean_lengths()
    seconds, draws = draws_at_load(
        load, answer, [_tokens_per_s(one, answer) for one in layouts], seconds=first.plan.seconds,
        count=min(first.plan.decision_draws, MOST_DRAWS), requests=needed(first.plan.slas),
    )  # fmt: skip
    outcomes: dict[str, list[Outcome]] = {sweep_id: [] for sweep_id in tasks}
    for done, draw in enumerate(draws, 1):
        for sweep_id, (setup, recorded) in tasks.items():
            there, asked = varied(dataclasses.replace(setup, seconds=seconds), recorded, draw)
            outcomes[sweep_id].append(simulate(_apart(there, draw), asked, slices=SLICES))
        watcher.advance("comparing layouts", done, len(draws))
    return draws, {sweep_id: sampled(own, figure) for sweep_id, own in outcomes.items()}


def _apart(setup: Setup, draw: Draw) -> Setup:
    """A draw in which passes that GPUs share are off by a factor of their own, where the profile is."""
    gpus = setup.profile.gpus
    if not draw.off or gpus == 1:
        return setup
    factor = math.exp(APART * np.random.default_rng([setup.seed, FRESH, gpus]).standard_normal())
    return dataclasses.replace(setup, profile=slower(setup.profile, "verify", factor))


def _tokens_per_s(layout: Layout, answer_tokens: float) -> float:
    """Output tokens a second on all GPUs: what arrives, where that is told, for what is run keeps up."""
    d, plan = layout.decision, layout.plan
    if d.load.users is None or d.value is None:
        return (d.load.rate_per_s or 0.0) * answer_tokens
    return d.value.value * plan.profile.gpus * plan.replicas
