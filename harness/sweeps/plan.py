"""What a sweep simulates: loads × drafters × policies × seeds, as points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from results.store.recordings import Recordings
from simulator.configuration import Configuration
from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.load import Load
from simulator.numbers import counted
from simulator.plain import used, walked
from simulator.plan import SweepPlan
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import NO_RECORDING, Recording
from simulator.setup import Setup

FEW = 8
"""Points of open loads up to which nobody has to ask how much of them is held."""
_FEW_LENGTHS = 4
"""Tokens of the longest draft up to which all shorter ones are simulated, too; of longer ones powers of two."""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One simulation of a sweep."""

    number: int
    recording: Recording
    """What it walks, and what its policy is shown."""
    setup: Setup
    headroom: bool = False
    """Whether to search how many times its load is held."""

    @property
    def configuration(self) -> Configuration:
        """What is run."""
        policy = self.setup.policy
        return Configuration(used(self.recording, policy), policy, self.setup.limits.request_cap)


def points(plan: SweepPlan, recordings: Recordings, say: Callable[[str], None]) -> list[SweepPoint]:
    """Every simulation of a sweep, in an order that depends on the plan alone. Raises InputError if there is none."""
    limits, found = replace(plan.limits, router=plan.router), list[SweepPoint]()
    for recording, policy in _who(plan, recordings, say):
        for load in dict.fromkeys(plan.loads):
            for seed in range(plan.seed, plan.seed + plan.replications):
                setup = Setup(
                    load=load, policy=policy, profile=plan.profile, believed=plan.believed, limits=limits,
                    weights=plan.weights, prompt_tokens=plan.prompt_tokens, output_tokens=plan.output_tokens,
                    output_cv=plan.output_cv, seconds=plan.seconds, seed=seed, slas=tuple(plan.slas),
                )  # fmt: skip
                found.append(SweepPoint(len(found), recording, setup))
    if not found:
        raise InputError("nothing to simulate with these options")
    if lacking := recordings.keep_common([point.recording for point in found]):
        say(f"note: {counted(lacking, 'response')} left out, which not all of these drafters were recorded on")
    if plan.against is not None and all(point.setup.policy != plan.against for point in found):
        raise InputError(f"--against {plan.against}: is not among the policies to simulate; add it to --policy")
    for own in dict.fromkeys(point.setup.policy.own for point in found):
        if own is not None and own.slow:
            say(f"note: {own.slow}")
    return [replace(point, headroom=_headroom(plan, found, point.setup.load)) for point in found]


def task_of(candidate: Configuration, among: Sequence[SweepPoint], like: SweepPoint) -> tuple[Setup, Recording]:
    """How a candidate is simulated, and what it walks: as it was, or where it was not, like a point under another policy."""
    point = {one.configuration: one for one in among}.get(candidate)
    if point is not None:
        return point.setup, point.recording
    return replace(like.setup, policy=candidate.policy), walked(candidate.recording, [like.recording])


def _headroom(plan: SweepPlan, every: Sequence[SweepPoint], load: Load) -> bool:
    """Whether to search how many times a load is held: as asked, or where it is what such a load is simulated for."""
    if plan.headroom is not None or not plan.slas:
        return bool(plan.headroom)
    if load.users is not None:
        return plan.users is not None
    return sum(point.setup.load.users is None for point in every) <= FEW


def _usual(key: Recording, recordings: Recordings, *, alone: bool) -> list[PolicySpec]:
    """What is simulated where nobody names policies: none, the whole draft, and Algorithm 1; or where the only drafter of a
    run has no confidences for that, and can draft less, shorter drafts."""
    usual, scheduled = [NO_DRAFTER, PolicySpec.fixed(key.gamma)], PolicySpec("prefix_scheduler")
    try:
        recordings.shown(key, scheduled, None)
    except InputError:
        if alone and KINDS[key.kind].prefix:
            shorter = [k for k in range(1, key.gamma) if key.gamma <= _FEW_LENGTHS or k & (k - 1) == 0]
            return [*usual, *map(PolicySpec.fixed, reversed(shorter)), scheduled]
    return [*usual, scheduled]


def _who(plan: SweepPlan, recordings: Recordings, say: Callable[[str], None]) -> Iterator[tuple[Recording, PolicySpec]]:
    """(recording, policy) of the sweep; what cannot be is left out and said, or refused if it was asked for."""
    known = list(dict.fromkeys(key.drafter for key in recordings.keys))
    if unknown := [d for d in plan.drafters or [] if d not in known]:
        raise InputError(f"no dense recording of {', '.join(unknown)}; there are: {', '.join(known) or 'none'}")
    longest = max((key.gamma for key in recordings.keys), default=0)
    if beyond := [str(policy) for policy in plan.policies or [] if (policy.k or 0) > longest]:
        raise InputError(f"policy {beyond[0]}: verifies more than was drafted; the longest block recorded has γ = {longest}")
    wanted = [key for key in recordings.keys if not plan.drafters or key.drafter in plan.drafters]
    chosen, plainly = [recordings.best(key, plan.confidences) for key in wanted], False
    for key in chosen:
        name, gamma = key.drafter, key.gamma
        for policy in plan.policies or _usual(key, recordings, alone=len(known) == 1):
            if policy == NO_DRAFTER:
                if not plainly:
                    yield walked(NO_RECORDING, chosen), policy
                plainly = True
                continue
            try:
                plan.profile.cost(name, gamma, 1, gamma + 2, kind=key.kind)
                if (policy.k or 0) > gamma:
                    raise InputError(f"policy {policy}: verifies more than the {gamma} tokens that were drafted")
                recording = recordings.shown(key, policy, plan.confidences)
            except InputError as error:
                if plan.drafters and plan.policies and (policy.k or 0) <= gamma:
                    raise
                say(f"{key.short} {policy}: left out: {error}")
                continue
            yield recording, policy
