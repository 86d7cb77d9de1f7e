"""`harness sensitivity`: how wrong profile, acceptances or lengths may be before another configuration would have won.

Each of them is made wrong in turn, by up to 30 % either way, and every configuration is simulated again. Policies go on
believing the profile as it is: that is what being wrong about it means.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from harness.console import Watcher
from harness.parts import Parts
from harness.sweeps.plan import SweepPoint
from results.store.database import Store, utc_now
from results.store.provenance import command_line, git_revision, package_versions
from results.store.recordings import Recordings
from results.store.rows import plan_row
from results.store.sensitivities import BreakEven, Deviation, Sensitivity, keep_sensitivity
from simulator.configuration import System
from simulator.errors import InputError
from simulator.hardware.whatif import accepting, confident, slower
from simulator.load import Load
from simulator.plan import SweepPlan
from simulator.records import Recording
from simulator.setup import Setup
from simulator.simulation import Prepared, prepare, ready, simulate

OFF = (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3)
"""By how much things are off."""
CLEAR = 0.01
"""Another configuration wins where it has so much more of the objective: less is no reason to change."""
Objective = Literal["throughput", "tps"]
Change = Callable[[Setup, Prepared, float], tuple[Setup, Prepared]]


def _part(name: Literal["verify", "draft", "overhead"]) -> Change:
    def change(setup: Setup, recorded: Prepared, factor: float) -> tuple[Setup, Prepared]:
        believed = setup.believed or setup.profile
        return replace(setup, profile=slower(setup.profile, name, factor), believed=believed), recorded

    return change


def _acceptance(setup: Setup, recorded: Prepared, factor: float) -> tuple[Setup, Prepared]:
    return setup, prepare(accepting(recorded.trace, factor, setup.seed))


def _confidence(setup: Setup, recorded: Prepared, factor: float) -> tuple[Setup, Prepared]:
    return setup, prepare(confident(recorded.trace, factor))


def _lengths(setup: Setup, recorded: Prepared, factor: float) -> tuple[Setup, Prepared]:
    """Answers all of one length, which is so many times the mean."""
    anchors, responses = len(recorded.trace.anchors), len(recorded.trace.responses)
    mean = setup.output_tokens or 1 + anchors / responses
    return replace(setup, output_tokens=max(round(mean * factor), 2)), recorded


CHANGES: Mapping[str, Change] = {
    "seconds of verification": _part("verify"),
    "seconds of drafting": _part("draft"),
    "overhead": _part("overhead"),
    "acceptance": _acceptance,
    "confidences": _confidence,
    "length of answers": _lengths,
}


def break_evens(
    every: Sequence[SweepPoint],
    recorded: Mapping[Recording, Prepared],
    objective: Objective,
    watcher: Watcher,
    parts: Parts | None = None,
) -> list[BreakEven]:
    """How far each thing may be off at each load.

    `every` holds the configurations of all loads, of one seed; what is simulated is kept in `parts`.
    """
    by_load: dict[Load, list[SweepPoint]] = {}
    for point in every:
        by_load.setdefault(point.setup.load, []).append(point)
    looked_at = {load: _changes(some) for load, some in by_load.items()}
    total = sum(len(some) * (1 + len(looked_at[load]) * len(OFF)) for load, some in by_load.items())
    done = 0

    def values(load: Load, some: Sequence[SweepPoint], what: str, change: Change | None, off: float) -> dict[System, float]:
        nonlocal done

        def make() -> dict[str, float]:
            made = dict[str, float]()
            for point in some:
                setup, prepared = point.setup, recorded[point.recording]
                if change is not None:
                    setup, prepared = change(setup, prepared, 1 + off)
                made[_system(point).short] = getattr(simulate(setup, prepared), objective).value
                watcher.advance("simulating", done + len(made), total)
            return made

        found = make() if parts is None else parts.part(f"{load} {what} {off}", dict[str, float], make)
        done += len(some)
        return {system: found[system.short] for system in map(_system, some)}

    result = []
    for load, some in by_load.items():
        if len(some) < 2:
            raise InputError("sensitivity: there is nothing to choose from; two configurations are needed")
        now = values(load, some, "nothing", None, 0.0)
        for what, change in looked_at[load].items():
            result.append(judge(load, what, {0.0: now} | {off: values(load, some, what, change, off) for off in OFF}))
    return result


def _changes(some: Sequence[SweepPoint]) -> Mapping[str, Change]:
    """What can be off: confidences only where a policy looks at them."""
    read = any(point.setup.policy.reads_confidences for point in some)
    return {what: change for what, change in CHANGES.items() if read or what != "confidences"}


def judge(load: Load, what: str, values: Mapping[float, Mapping[System, float]]) -> BreakEven:
    """From the objective of every configuration where something is so much off; 0 is among them."""
    now = {system: v for system, v in values[0.0].items() if not math.isnan(v)}
    winner = max(now, key=lambda system: now[system])
    margin = now[winner] / max(v for system, v in now.items() if system != winner) - 1
    deviations = []
    leads: dict[float, float] = {}
    for off, found in sorted(values.items()):
        others = {system: v for system, v in found.items() if system != winner and not math.isnan(v)}
        leads[off] = found[winner] / max(others.values()) - 1 + CLEAR
        best = winner if leads[off] >= 0 else max(others, key=lambda system: others[system])
        deviations.append(Deviation(off, best, max(1 - found[winner] / max(found[winner], *others.values()), 0.0)))
    down, up = _break_even(leads, -1), _break_even(leads, 1)
    lost = [x for x in deviations if x.best != winner]
    instead = min(lost, key=lambda x: abs(x.off)).best if lost else None
    return BreakEven(load, what, winner, margin, down, up, instead, tuple(deviations))


def _break_even(leads: Mapping[float, float], sign: int) -> float | None:
    """Where the lead first falls below 0 on one side, straight between the points looked at."""
    offs = sorted((off for off in leads if off * sign >= 0), key=abs)
    for near, far in pairwise(offs):
        if leads[far] < 0:
            return near + (far - near) * max(leads[near], 0.0) / (max(leads[near], 0.0) - leads[far])
    return None


def _system(point: SweepPoint) -> System:
    """What competes; what its policy is shown goes without saying."""
    return System(point.configuration.recording.showing("none"), point.setup.policy)


def sensitivities(
    store: Store, run_id: str, plan: SweepPlan, recordings: Recordings, every: Sequence[SweepPoint], objective: Objective,
    watcher: Watcher,
) -> Sensitivity:  # fmt: skip
    """Break-evens of the points of a plan; stored too. Raises InputError."""
    recorded = {key: prepare(recordings.trace(key)) for key in dict.fromkeys(p.recording for p in every)}
    ready(watcher.say)
    parts = Parts(store.file.parent, "sensitivity", [run_id, plan_row(plan), objective], watcher)
    ends = tuple(break_evens([p for p in every if p.setup.seed == plan.seed], recorded, objective, watcher, parts))
    found = Sensitivity(
        sensitivity_id=secrets.token_hex(3), run_id=run_id, created_at=utc_now(), command=command_line(),
        git_revision=git_revision(), packages=package_versions(), profile=plan.profile, objective=objective,
        seconds=plan.seconds, seed=plan.seed, clear=CLEAR, drafting=plan.drafting,
        break_evens=ends,
    )  # fmt: skip
    keep_sensitivity(store, found)
    parts.done()
    return found
