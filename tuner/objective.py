"""What a configuration is worth: simulations of it, what is wanted of them, and by how far they break a bound."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from simulator.configuration import Configuration
from simulator.decision import Draw, Figure
from simulator.draws import drawn
from simulator.hardware.profile import Profile
from simulator.load import Load
from simulator.metrics import Outcome
from simulator.plain import walked
from simulator.records import Recording
from simulator.setup import RAMP, EngineLimits, Setup
from simulator.simulation import Prepared, prepare, redrawn, settled, simulate
from simulator.sla import Sla, promises
from simulator.traces import Trace
from tuner.prompts import Part, TraceKey

WANTED: dict[str, tuple[Figure, ...]] = {
    "throughput": ("throughput",), "tps": ("tps",), "goodput": ("goodput",), "pareto": ("throughput", "tps"),
}  # fmt: skip
"""Figures to make as large as can be; decisions are about the first."""
KEEPS_UP = "keeps up"
"""The figure that is 0 under overload, where ever more requests wait; and the constraint that it be 1."""
KNOWN = "keeping up is known"
"""The figure that is 0 where a simulation was too short to tell: nobody knows then whether a promise is kept."""
_NOBODY = 1.0
"""Violation where a bound cannot be judged, because nobody was served."""

Figures = dict[str, float]
"""throughput, tps, goodput, tau, budget, p95_ttft, …, what each bound attained by the bound, and half widths as `tps ±`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What every configuration is put to."""

    load: Load
    profile: Profile
    weights: Mapping[str, float]
    """Share of requests by domain."""
    slas: tuple[Sla, ...] = ()
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    output_cv: float = 0.0
    limits: EngineLimits
    """What the engine allows, whatever request cap a configuration has."""

    def setups(self, configuration: Configuration, seconds: float, seed: int) -> list[tuple[Setup, float]]:
        """A simulation for each single load, and the weight of its figures."""
        limits = replace(self.limits, request_cap=configuration.request_cap)
        common = Setup(
            load=self.load, policy=configuration.policy, profile=self.profile, limits=limits, weights=self.weights,
            prompt_tokens=self.prompt_tokens, output_tokens=self.output_tokens, output_cv=self.output_cv,
            seconds=seconds, seed=seed, slas=self.slas,
        )  # fmt: skip
        return [(replace(common, load=load), weight) for load, weight in self.load.parts]

    def violations(self, figures: Figures) -> dict[str, float]:
        """By how much each promise is broken, 0 or less where it is kept: means by a share of the bound, others by the share
        of requests that is missing, bounds that hold together as one."""
        found = {}
        for promise in promises(self.slas):
            value, sla = figures[promise.name], promise.slas[0]
            if promise.share is None:
                off = (sla.bound - value) / sla.bound * (1 if sla.at_least else -1)
            else:
                off = promise.share - value
            found[promise.name] = _NOBODY if math.isnan(off) else off
        if figures[KEEPS_UP] < 1:
            found[KEEPS_UP] = 1 - figures[KEEPS_UP]
        return found


class TrialJob(NamedTuple):
    """One simulation to run."""

    configuration: Configuration
    scenario: Scenario
    seconds: float
    seed: int
    part: Part = "search"
    draw: int | None = None
    """Number of the bootstrap of the prompts; None takes the prompts as they are."""
    vary: Draw | None = None
    """A draw of a decision: other prompts, another seed, a profile that is off."""


class TrialWorker:
    """Runs jobs; as a Ray actor or here. The same seed asks every configuration for the same."""

    def __init__(self, traces: dict[TraceKey, Any], plain: Recording) -> None:
        """Traces, or references to them in Ray's object store; `plain` is the recording that plain decoding walks."""
        self._traces, self._plain = traces, plain
        self._prepared: dict[tuple[TraceKey, int | None], Prepared] = {}

    def run_all(self, jobs: Sequence[TrialJob], first: int) -> list[tuple[Figures | str, float]]:
        """What came of each; `first` is the number of the first one among the caller's."""
        return [self.run(job) for job in jobs]

    def run(self, job: TrialJob) -> tuple[Figures | str, float]:
        """What came of it, or why nothing did; and the seconds it took."""
        started = time.perf_counter()
        try:
            setups, recorded = job.scenario.setups(job.configuration, job.seconds, job.seed), self._recorded(job)
            each = [(figures_of(self._simulate(setup, recorded, job), job.scenario), weight) for setup, weight in setups]
            return weighted(each, job.scenario.slas), time.perf_counter() - started
        except Exception as error:  # a trial that cannot be simulated is a row that says why
            return f"{type(error).__name__}: {error}", time.perf_counter() - started

    def _simulate(self, setup: Setup, recorded: Prepared, job: TrialJob) -> Outcome:
        if job.vary is not None:
            return drawn(setup, recorded, job.vary)
        if job.draw is not None:
            return simulate(replace(setup, ramp=RAMP), recorded)
        return settled(setup, recorded, simulate(setup, recorded))

    def _recorded(self, job: TrialJob) -> Prepared:
        key = TraceKey(job.part, walked(job.configuration.recording, [self._plain]))
        if (key, job.draw) not in self._prepared:
            if (key, None) not in self._prepared:
                self._prepared[key, None] = prepare(self._trace(key))
            if job.draw is not None:  # jobs come draw by draw: older ones are not needed again
                self._prepared = {k: v for k, v in self._prepared.items() if k[1] in (None, job.draw)}
                again = redrawn(self._prepared[key, None], np.random.default_rng([job.seed, job.draw]))
                self._prepared[key, job.draw] = again
        return self._prepared[key, job.draw]

    def _trace(self, key: TraceKey) -> Trace:
        found = self._traces[key]
        if not isinstance(found, Trace):
            import ray

            found = self._traces[key] = ray.get(found)
        trace: Trace = found
        return trace


def figures_of(outcome: Outcome, scenario: Scenario) -> Figures:
    """The figures of a simulation that are compared, shown or bounded."""
    figures = {
        "throughput": outcome.throughput.value, "throughput ±": outcome.throughput.half_width,
        "tps": outcome.tps.value, "tps ±": outcome.tps.half_width,
        "goodput": outcome.goodput, "attainment": outcome.attainment,
        "tau": outcome.tau.value, "budget": outcome.budget.value, "running": outcome.running, "finished": outcome.finished,
        **{name: outcome.quantiles[name] for name in ("p5_tps", "p50_ttft", "p95_ttft")},
    }  # fmt: skip
    figures["goodput ±"] = outcome.throughput.half_width
    figures |= outcome.attained
    figures[KEEPS_UP] = float(outcome.keeps_up is not False)
    figures[KNOWN] = float(outcome.keeps_up is not None or all(part.users is not None for part, _ in scenario.load.parts))
    return figures


def weighted(each: Sequence[tuple[Figures, float]], slas: Sequence[Sla]) -> Figures:
    """Figures over several loads, by their weights; of what is promised, or is a quantile, the worst that any load has."""
    if len(each) == 1:
        return each[0][0]
    at_most = {str(sla) for sla in slas if sla.share is None and not sla.at_least} | {"p50_ttft", "p95_ttft"}
    at_least = {str(sla) for sla in slas if str(sla) not in at_most} | {KEEPS_UP, KNOWN, "p5_tps"}
    at_least |= {promise.name for promise in promises(slas) if promise.share is not None}

    def one(name: str) -> float:
        values, weights = np.array([figures[name] for figures, _ in each]), np.array([weight for _, weight in each])
        if name in at_least | at_most:
            return float(values.min() if name in at_least else values.max())
        if name == "finished":
            return float(values.sum())
        return float(np.sqrt(((weights * values) ** 2).sum()) if name.endswith("±") else (weights * values).sum())

    return {name: one(name) for name in each[0][0]}


def mean_of(many: Sequence[Figures]) -> Figures:
    """The figures averaged over several simulations; half widths shrink as those of independent figures do."""
    return {
        name: float(np.mean([f[name] for f in many]) / (math.sqrt(len(many)) if name.endswith("±") else 1))
        for name in many[0]
    }
