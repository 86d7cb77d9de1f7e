"""Policies of a sweep against one of them, load by load: simulated again in draws that all of them see alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from harness.console import Watcher
from harness.sweeps.plan import SweepPoint
from results.store.contrasts import Contrast
from results.store.recordings import Recordings
from results.store.simulations import Simulation
from simulator.configuration import Configuration
from simulator.decision import Figure, gain_of
from simulator.draws import sample
from simulator.errors import InputError
from simulator.load import Load
from simulator.mix import Mix
from simulator.plan import SweepPlan
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.recommendation import draws_at_load
from simulator.records import Recording
from simulator.setup import Setup
from simulator.simulation import Prepared, prepare

MOST_DRAWS = 60
"""Draws of a contrast: there is one a load and policy, where a decision is one."""
Rows = Sequence[tuple[SweepPoint, Simulation]]


def contrasts(
    plan: SweepPlan,
    against: PolicySpec,
    rows: Rows,
    recordings: Recordings,
    watcher: Watcher,
    known: Sequence[Contrast] = (),
) -> Iterator[Sequence[Contrast]]:
    """Every configuration against the same recording under `against`, load by load; `rows` are points and what came of them.

    What gave nothing, or has no such twin, is left out. `known` are those of an earlier end: loads that lack none of theirs
    are not simulated again.
    """
    found = [
        (point, row)
        for point, row in rows
        if getattr(row, figure_of_load(point.setup.load)) is not None and point.setup.seed == plan.seed
    ]
    loads = dict.fromkeys(point.setup.load for point, _ in found)
    prepared: dict[Recording, Prepared] = {}
    groups = [(load, pairs) for load in loads if (pairs := _pairs([p for p, _ in found if p.setup.load == load], against))]
    for number, (load, pairs) in enumerate(groups):
        kept = {one.candidate: one for one in known if one.load == load and one.against == against}
        if all(one.configuration in kept for one, _ in pairs):
            yield [kept[one.configuration] for one, _ in pairs]
            continue
        points = list({point.number: point for pair in pairs for point in pair}.values())
        for recording in dict.fromkeys(point.recording for point in points):
            prepared.setdefault(recording, prepare(recordings.trace(recording)))
        figure = figure_of_load(load)
        trace = prepared[points[0].recording].trace
        _, answer = Mix(trace, plan.weights, plan.prompt_tokens, plan.output_tokens).mean_lengths()
        gpus = plan.profile.gpus * plan.replicas
        rates = [gpus * row.throughput for point, row in found if point.setup.load == load and row.throughput]
        seconds, draws = draws_at_load(
            load, answer, rates, seconds=plan.seconds, count=min(plan.decision_draws or MOST_DRAWS, MOST_DRAWS)
        )
        tasks: Mapping[Configuration, tuple[Setup, Prepared]] = {
            p.configuration: (dataclasses.replace(p.setup, seconds=seconds), prepared[p.recording]) for p in points
        }

        def advance(done: int, total: int, before: int = number) -> None:
            watcher.advance("comparing", before * total + done, len(groups) * total)

        try:
            sampled = sample(tasks, draws, figure, advance)
        except InputError as error:  # of one policy, at one load
            watcher.say(f"{load.label}: nothing is compared: {error}")
            continue
        yield [
            Contrast(
                load=load, candidate=one.configuration, against=against, figure=figure, draws=sum(d.off for d in draws),
                gain=gain_of(str(against), sampled[one.configuration], sampled[twin.configuration], draws),
            )
            for one, twin in pairs
        ]  # fmt: skip


def figure_of_load(load: Load) -> Figure:
    """What a contrast at a load is about: where arrivals are given, what keeps up has one throughput."""
    return "tps" if load.users is None else "throughput"


def _pairs(points: Sequence[SweepPoint], against: PolicySpec) -> list[tuple[SweepPoint, SweepPoint]]:
    """Points at one load beside the one that `against` makes of the same recording; no speculation is the twin of all."""
    twins = [point for point in points if point.setup.policy == against]

    def twin(point: SweepPoint) -> SweepPoint | None:
        if against == NO_DRAFTER:
            return twins[0] if twins else None
        key = point.recording.showing("none")
        return next((one for one in twins if one.recording.showing("none") == key), None)

    pairs = [(point, twin(point)) for point in points if point.setup.policy not in (against, NO_DRAFTER)]
    return [(point, other) for point, other in pairs if other is not None]
