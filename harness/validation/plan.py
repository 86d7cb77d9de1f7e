"""What a validation runs: settings of the live engine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from harness.recording.pair import Pair
from results.store.recordings import Recordings
from simulator.configuration import System
from simulator.errors import InputError
from simulator.plain import used
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import NO_RECORDING, Drafting, Recording


def pair_of(run: Mapping[str, Any]) -> str | Pair:
    """The pair a stored run was recorded with. Raises InputError where it had none, which nothing can run live."""
    pair = msgspec.convert(run["plan"].get("pair"), str | Pair | None)
    if pair is None:
        raise InputError(f"run {run['run_id']}: was not recorded with a pair; nothing can run live")
    return pair


@dataclass(frozen=True, slots=True)
class LivePoint:
    """One setting of the live engine."""

    recording: Recording
    """What drafts, and the confidences the policy is shown; `NO_RECORDING` for `none`."""
    policy: PolicySpec
    users: int

    def row(self) -> dict[str, Any]:
        """The point's part of a row of `validations`."""
        return {**System(self.recording, self.policy).row(), "users": self.users}

    @property
    def key(self) -> bytes:
        """What the point's random streams are made from: the same for the same point, whatever version runs it."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.row().items())
        return hashlib.sha256(f"LivePoint({fields})".encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPlan:
    """What to validate. Raises InputError for what makes no sense."""

    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Users of closed loops."""
    drafters: tuple[str, ...] | None = None
    """None: all that were recorded, and `none`."""
    policies: tuple[PolicySpec, ...] | None = None
    """None: fixed at γ, and prefix_scheduler where there are confidences."""
    time_limit_s: float = 420.0
    """Seconds of measuring, profile and live points together, roughly."""
    max_new_tokens: int = 48
    """Length limit of an answer: short ones give more prompts in the time."""
    drafting: Drafting | None = None
    """How drafts are chosen, live and simulated; None: as the engine does by default, this project's own samples them."""
    replicates: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.concurrency or min(self.concurrency) < 1:
            raise InputError("--concurrency: at least one number of users, 1 or more, is needed")
        if self.drafters == (NO_DRAFTER.name,):
            for option, value in {"--policy": self.policies, "--drafting": self.drafting}.items():
                if value is not None:
                    raise InputError(f"{option}: is of no use beside --drafter none; leave one of them out")
        if not 0 < self.time_limit_s < float("inf") or self.max_new_tokens < 2 or self.replicates < 4 or self.seed < 0:
            raise InputError("--time-limit above 0, --max-new-tokens ≥ 2, --replicates ≥ 4 and --seed ≥ 0 are needed")
        for policy in self.policies or ():
            if not policy.lossless:
                raise InputError(f"policy {policy}: looks at what no engine knows, and cannot run live; leave it out")


def choose_points(
    plan: ValidationPlan, recordings: Recordings, say: Callable[[str], None] = lambda text: None
) -> list[LivePoint]:
    """Every setting to run: each drafter at the largest γ recorded. A policy that was asked for is left out, and that said,
    under drafters that do not have what it reads.

    Raises InputError for drafters there are not, and where a policy that was asked for runs under none.
    """
    largest: dict[str, Recording] = {}
    for key in recordings.keys:
        largest[key.drafter] = max(key, largest.get(key.drafter, key), key=lambda r: r.gamma)
    if not largest:
        raise InputError("the run has no dense recording to simulate from")
    if unknown := [d for d in plan.drafters or () if d not in (*largest, NO_RECORDING.drafter)]:
        raise InputError(f"no dense recording of {', '.join(unknown)}; there are: {', '.join(largest)}")
    chosen = dict[tuple[Recording, PolicySpec], None]()
    for name, key in {NO_RECORDING.drafter: NO_RECORDING, **largest}.items():
        if plan.drafters is not None and name not in plan.drafters:
            continue
        default = (PolicySpec.fixed(key.gamma), PolicySpec("prefix_scheduler"))
        for policy in (NO_DRAFTER,) if key == NO_RECORDING else plan.policies or default:
            try:
                shown = recordings.shown(key, policy) if policy.reads_confidences else key
            except InputError as error:
                if plan.policies:
                    say(f"{key.short} {policy}: left out: {error}")
                continue
            chosen[used(shown, policy), policy] = None
    if idle := [str(policy) for policy in plan.policies or () if policy not in [ran for _, ran in chosen]]:
        raise InputError(f"policy {idle[0]}: needs confidences, which none of these drafters has; leave it out")
    return [LivePoint(recording, policy, users) for recording, policy in chosen for users in plan.concurrency]
