"""A trial: a configuration, simulated longer and longer while it is promising."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from results.store.studies import State, Studies
from simulator.configuration import Configuration
from simulator.load import Load
from simulator.plan import Objective, StudyPlan
from simulator.records import KeptDrafting
from tuner.objective import WANTED, Figures, Scenario
from tuner.space import Leaf

SLACK = 0.05
"""By how much more a configuration must break a bound than another to be clearly worse."""
CLEAR = 0.005
"""How much less of the objective is clearly less, beyond the noise."""


@dataclass(frozen=True, slots=True)
class TrialRung:
    """What a configuration came to in so much simulation."""

    seconds: float
    """Simulated, over all seeds."""
    values: tuple[float, ...]
    """The figures that the objective wants large, in the order of `WANTED`."""
    half_widths: tuple[float, ...]
    """Half the widths of the 95 % intervals of `values`; nan where unknown."""
    violations: Mapping[str, float]
    """By constraint; above 0 is broken."""

    @classmethod
    def of(cls, figures: Figures, objective: Objective, scenario: Scenario, seconds: float) -> TrialRung:
        wanted = WANTED[objective]
        values, noise = tuple(figures[w] for w in wanted), tuple(figures[f"{w} ±"] for w in wanted)
        return cls(seconds, values, noise, scenario.violations(figures))

    @property
    def feasible(self) -> bool:
        """Whether it keeps every bound, and enough finished to tell what it gives."""
        return all(v <= 0 for v in self.violations.values()) and all(map(math.isfinite, self.values))

    @property
    def broken(self) -> float:
        """By how much bounds are broken, added up."""
        return sum(max(v, 0.0) for v in self.violations.values())

    def clearly_worse(self, other: TrialRung) -> bool:
        """Than another of the same length, beyond what noise explains: infeasible by far, or less in everything wanted."""
        if self.broken > other.broken + SLACK:
            return True
        if not other.feasible:
            return False
        pairs = zip(self.values, self.half_widths, other.values, other.half_widths, strict=True)
        return all(v + CLEAR * abs(v) + _noise(h) < w - _noise(i) for v, h, w, i in pairs)


def _noise(half_width: float) -> float:
    return math.inf if math.isnan(half_width) else half_width


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One row of `trials`."""

    number: int
    batch: int
    """Trials of a batch were proposed together."""
    origin: str
    """start, neighbour, random, or the sampler."""
    leaf: Leaf
    attributes: Mapping[str, Any]
    """What the sampler noted."""
    rungs: tuple[TrialRung, ...] = ()
    state: State = "failed"
    """Cut: clearly worse than another one, and therefore simulated shortly; its figures are estimates all the same."""
    error: str | None = None
    figures: Figures | None = None
    """The figures of the last rung; None of a failed trial."""
    wall_s: float = 0.0

    @property
    def configuration(self) -> Configuration:
        return self.leaf.configuration

    @property
    def last(self) -> TrialRung:
        """The longest look at it; not of a failed trial."""
        return self.rungs[-1]

    def row(self) -> dict[str, Any]:
        """The trial as the database keeps it: a row of `trials`."""
        c, done = self.configuration, bool(self.rungs)
        rungs = [
            {"seconds": r.seconds, "values": r.values, "half_widths": r.half_widths, "violations": r.violations}
            for r in self.rungs
        ]
        domains = {k: list(v) if isinstance(v, tuple) else v for k, v in self.leaf.domains.items()}
        return {
            "number": self.number, "batch": self.batch, "origin": self.origin, "state": self.state, "error": self.error,
            **c.row(), "params": self.leaf.choices, "distributions": domains,
            "attributes": dict(self.attributes), "rungs": rungs or [{}],
            "objectives": list(self.last.values) if done else None,
            "violations": dict(self.last.violations) if done else None,
            "feasible": self.last.feasible if done else None, "figures": self.figures, "wall_s": self.wall_s,
        }  # fmt: skip

    @classmethod
    def read(cls, row: Mapping[str, Any], drafting: KeptDrafting, kinds: Mapping[str, str]) -> Trial:
        """From the database; how drafts were chosen is the study's, and of which kinds drafters are is the run's."""
        domains = {k: tuple(v) if isinstance(v, list) else v for k, v in row["distributions"].items()}
        rungs = tuple(
            TrialRung(r["seconds"], _floats(r["values"]), _floats(r["half_widths"]), r["violations"])
            for r in row["rungs"]
            if r
        )
        figures = row["figures"] and {k: math.nan if v is None else v for k, v in row["figures"].items()}
        return cls(
            number=row["number"], batch=row["batch"], origin=row["origin"],
            leaf=Leaf(Configuration.read(row, kinds, drafting), row["params"], domains), attributes=row["attributes"],
            rungs=rungs, state=row["state"], error=row["error"], figures=figures, wall_s=row["wall_s"],
        )  # fmt: skip


def read_trials(studies: Studies, study_id: str, load: Load, plan: StudyPlan, kinds: Mapping[str, str]) -> list[Trial]:
    """What a study has tried at a load; `kinds` are those of the run's drafters."""
    return [Trial.read(row, plan.drafting, kinds) for row in studies.trials(study_id, load)]


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Trials simulated in full that keep every bound, the best first."""
    kept = [t for t in trials if t.state == "complete" and t.last.feasible]
    return sorted(kept, key=lambda t: (tuple(-v for v in t.last.values), t.number))


def ordered(trials: Sequence[Trial]) -> list[Trial]:
    """All that keep every bound as far as they were simulated, in full or shortly, the best first."""
    kept = [t for t in trials if t.rungs and t.last.feasible]
    return sorted(kept, key=lambda t: (t.state != "complete", tuple(-v for v in t.last.values), t.number))


def best_of_kinds(trials: Sequence[Trial]) -> list[Configuration]:
    """The best of every recording and kind of policy, the best first."""
    found: dict[tuple[str, int, str], Configuration] = {}
    for c in (t.configuration for t in ordered(trials)):
        found.setdefault((c.recording.drafter, c.recording.gamma, c.policy.name), c)
    return list(found.values())


def closest(trials: Sequence[Trial]) -> Trial | None:
    """The trial that breaks bounds least; of several that no request keeps, the one whose slowest users are fastest.

    Of those that were simulated longest: short ones hide how long requests come to wait.
    """
    longest = max((t.last.seconds for t in trials if t.rungs), default=0.0)
    done = [t for t in trials if t.rungs and t.last.seconds == longest]

    def order(t: Trial) -> tuple[float, float, tuple[float, ...], int]:
        slowest = (t.figures or {}).get("p5_tps", math.nan)
        return t.last.broken, -slowest if slowest > 0 else 0.0, tuple(-v for v in t.last.values), t.number

    return min(done, key=order, default=None)


def front(trials: Sequence[Trial]) -> list[Trial]:
    """The Pareto front: those of the ranked that no other one beats in everything wanted."""
    best = ranked(trials)
    return [
        t
        for t in best
        if not any(
            all(a >= b for a, b in zip(o.last.values, t.last.values, strict=True)) and o.last.values != t.last.values
            for o in best
        )
    ]


def _floats(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(math.nan if v is None else float(v) for v in values)
