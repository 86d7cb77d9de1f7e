"""The winner on prompts and seeds the search has not seen, beside what one would run without a search.

Each of several draws takes the held-out prompts anew, with replacement, and a fresh seed, the same for every configuration.
A figure is the mean over draws ± Student's t times their standard deviation: the bootstrap's error, in which are both the
choice of prompts and the simulation's own noise. A gain is compared draw by draw, so what moves both alike cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from results.store.studies import OVER_NONE, StudyConfirmation
from simulator.capacity import SEEDS, crowded, enough, headroom, shorter
from simulator.configuration import Configuration
from simulator.decision import Draw, Range
from simulator.draws import holding
from simulator.load import Load
from simulator.metrics import student_t
from simulator.plan import Objective
from simulator.policies import NO_DRAFTER
from simulator.records import Drafting, kept_drafting
from simulator.replay import replays_exactly
from simulator.serving.engine import ServingEngine
from tuner.objective import WANTED, Figures, Scenario, TrialJob
from tuner.prompts import Part
from tuner.search import Run
from tuner.trial import Trial, best_of_kinds, front, ranked

FRESH = 1_000_003
"""Added to the study's seed: no search comes so far."""
CONTENDERS = 5
"""Configurations that may stand in when the one before breaks a bound on other prompts."""
NEXT_BEST = 2
"""Runners-up of another drafter or kind of policy that are shown."""
SHARE, SHORTEST_S = 1 / 3, 60.0
"""Share of a trial's simulated time for each draw, and the least seconds: prompts differ more than stretches of time do."""
PART: Part = "confirmation"
FRONT = 6
"""Points of a Pareto front that are confirmed."""


def in_engine(engine: ServingEngine) -> str:
    """The role of what an engine runs in place of a scheduler that it does not have."""
    return f"in {engine.name}"


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A configuration on the held-out prompts; one row of `confirmations`."""

    role: str
    """winner, front, refuted, next best, default, k by batch, bound."""
    configuration: Configuration
    draws: tuple[Figures, ...] = ()
    error: str | None = None

    def means(self) -> Figures:
        """Over draws, half widths of single simulations left out."""
        return {name: float(np.mean([d[name] for d in self.draws])) for name in self.draws[0] if not name.endswith("±")}

    def half_widths(self) -> Figures:
        """Half the widths of 95 % intervals around the means, by figure."""
        return {name: half_width([d[name] for d in self.draws]) for name in self.means()}


def half_width(values: Sequence[float]) -> float:
    """Half the width of a bootstrap's 95 % interval: the draws' standard deviation is the figure's error."""
    return float(student_t(len(values) - 1) * np.std(values, ddof=1)) if len(values) > 3 else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What is confirmed, and how."""

    scenario: Scenario
    objective: Objective
    seconds: float
    seed: int
    draws: int
    drafting: Drafting = "sampled"
    """How the drafts were chosen that are replayed."""
    temperature: float | None = None
    """What the responses were sampled at; None where nobody knows."""

    def run(self, entries: Sequence[tuple[str, Configuration]], run: Run) -> list[Confirmed]:
        """Every entry, a role and a configuration, on the same draws."""
        jobs = [
            TrialJob(
                c,
                self.scenario,
                max(SHARE * self.seconds, min(self.seconds, SHORTEST_S)),
                self.seed + FRESH + draw,
                PART,
                draw,
            )
            for draw in range(self.draws)
            for _, c in entries
        ]
        results = run(jobs)
        confirmed = []
        for i, (role, configuration) in enumerate(entries):
            own = [result for result, _ in results[i :: len(entries)]]
            error = next((r for r in own if isinstance(r, str)), None)
            figures = tuple(r for r in own if not isinstance(r, str))
            confirmed.append(Confirmed(role, configuration, () if error else figures, error))
        return confirmed

    def keeps(self, one: Confirmed) -> bool:
        """Whether it keeps every bound on the held-out prompts."""
        return bool(one.draws) and _kept(self.scenario, one.means())

    def best(self, several: Sequence[Confirmed]) -> Confirmed | None:
        """The one that gives most, of those that keep the bounds where any does; None of none that came to figures."""
        figure = WANTED[self.objective][0]
        return max(
            (one for one in several if one.draws), key=lambda one: (self.keeps(one), one.means()[figure]), default=None
        )

    def over(self, one: Confirmed, plain: Confirmed | None) -> Confirmed:
        """With the gain over no speculation among the figures of each draw, where that gave anything."""
        figure = WANTED[self.objective][0]
        if plain is None or not one.draws or not all(draw[figure] for draw in plain.draws):
            return one
        pairs = zip(one.draws, plain.draws, strict=True)
        return replace(one, draws=tuple({**own, OVER_NONE: own[figure] / none[figure] - 1} for own, none in pairs))

    def stored(self, one: Confirmed, place: int, winner: Confirmed, prompts: int) -> StudyConfirmation:
        """What was confirmed, as the database keeps it."""
        c = one.configuration
        kept = kept_drafting(self.drafting, c.recording.kind, self.temperature)
        gain = gain_width = violations = None
        if one.draws:
            figure, violations = WANTED[self.objective][0], self.scenario.violations(one.means())
            if winner.draws and one is not winner and all(draw[figure] for draw in one.draws):  # over nothing is no gain
                gains = [w[figure] / o[figure] - 1 for w, o in zip(winner.draws, one.draws, strict=True)]
                gain, gain_width = float(np.mean(gains)), half_width(gains)
        return StudyConfirmation(
            load=self.scenario.load, place=place, role=one.role, error=one.error, configuration=c,
            exact=replays_exactly(c.policy, kept), prompts=prompts, draws=len(one.draws),
            figures=one.means() if one.draws else None, half_widths=one.half_widths() if one.draws else None,
            gain=gain, gain_half_width=gain_width, violations=violations,
            feasible=None if violations is None else self.keeps(one),
        )  # fmt: skip


def confirm(
    what: Confirmation,
    trials: Sequence[Trial],
    beside: Sequence[tuple[str, Configuration]],
    run: Run,
) -> list[Confirmed]:
    """What was confirmed, the winner first; nothing where no trial keeps the bounds.

    A winner that breaks a bound on the held-out prompts is refuted, and the next in the search's order takes its place. That
    choice looks at bounds only, so the objective's interval stays honest.
    """
    best = ranked(trials)
    if not best:
        return []
    contenders = [t.configuration for t in best[:CONTENDERS]]
    roles = [("winner", contenders[0])]
    if what.objective == "pareto":
        points = front(trials)
        spread = sorted({round(i) for i in np.linspace(0, len(points) - 1, min(FRONT, len(points)))})
        roles = [("front" if n else "winner", points[n].configuration) for n in spread]
    roles += [("next best", c) for c in rivals(what.scenario, best_of_kinds(trials))[1 : 1 + NEXT_BEST]] + list(beside)
    found = what.run(roles, run)
    plain = what.best([one for one in found if one.configuration.policy == NO_DRAFTER])
    winner, refuted = found[0], list[Confirmed]()
    for other in contenders[1:] if what.objective != "pareto" else []:
        if what.keeps(winner):
            break
        refuted.append(Confirmed("refuted", winner.configuration, winner.draws, winner.error))
        [winner] = what.run([("winner", other)], run)
    if refuted and not what.keeps(winner):  # none holds: the first is shown for what it is
        winner, refuted = found[0], refuted[1:]
    others = [o for o in found[1:] if o.configuration != winner.configuration or o.role not in ("next best", "front")]
    return [what.over(one, plain) for one in (winner, *refuted, *others)]


def rivals(scenario: Scenario, ordered: Sequence[Configuration]) -> list[Configuration]:
    """Configurations without those that, at the load, are the same run as one before them."""
    found: dict[object, Configuration] = {}
    for c in ordered:
        running = scenario.load.most_running(c.request_cap, scenario.limits.replicas)
        found.setdefault((running, c.while_running(running)), c)
    return list(found.values())


def headroom_of(what: Confirmation, one: Confirmed, run: Run) -> float:
    """How many times its load a configuration holds within the promises, on the held-out prompts."""
    seeds = range(what.seed + FRESH, what.seed + FRESH + SEEDS)
    hold = _Holding(what, one.configuration, run)
    return headroom(
        what.scenario.load,
        lambda load: all(hold.kept([(load, seed, None) for seed in seeds])),
        at_one=hold.fits(what.scenario.load) and what.keeps(one),
    )


def times_held(what: Confirmation, one: Confirmed, run: Run) -> Range | None:
    """How many times its load a configuration holds within the promises, on the held-out prompts: with everything as it is,
    and over draws of prompts, seeds and the profile's errors.

    None where too few requests finished to tell; see `simulator.capacity`.
    """
    if not one.draws or not enough(one.means()["finished"], what.scenario.slas):
        return None
    hold = _Holding(what, one.configuration, run)
    return holding(
        what.scenario.load,
        headroom_of(what, one, run),
        lambda asked: hold.kept([(load, what.seed, draw) for draw, load in asked]),
    )


@dataclass(frozen=True, slots=True)
class _Holding:
    """Whether a configuration keeps the promises at other loads."""

    what: Confirmation
    configuration: Configuration
    run: Run

    def fits(self, load: Load) -> bool:
        """Whether nobody waits for a place."""
        return not crowded(load, self.configuration.request_cap, self.what.scenario.limits.replicas)

    def kept(self, asked: Sequence[tuple[Load, int, Draw | None]]) -> list[bool]:
        """Whether the promises are kept, at each load, seed and draw that is asked about."""
        what = self.what
        jobs = [
            TrialJob(
                self.configuration, replace(what.scenario, load=load), shorter(what.seconds), seed, PART, vary=draw
            )
            for load, seed, draw in asked
            if self.fits(load)
        ]  # fmt: skip
        results = iter(self.run(jobs))
        return [self.fits(load) and _kept(what.scenario, next(results)[0]) for load, _, _ in asked]


def _kept(scenario: Scenario, result: Figures | str) -> bool:
    return not isinstance(result, str) and all(v <= 0 for v in scenario.violations(result).values())
