"""What a sweep simulates: loads × drafters × policies × seeds, as points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from results.store.recordings import Recordings
from simulator.errors import InputError
from simulator.hardware.profile import Profile, parse_profile
from simulator.load import load_of
from simulator.policies import parse_policy
from simulator.records import Drafting, Recording
from simulator.simulation import EngineLimits, Setup
from simulator.sla import Sla


class SweepPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A sweep as the user asked for it. Raises ValueError or InputError for what makes no sense."""

    profile: str
    """JSON of what a step takes."""
    believed: str | None = None
    """JSON of what the policies think a step takes; None is the truth."""
    loads: list[str]
    """As `load_of` reads them."""
    policies: list[str] | None = None
    """None: fixed at γ, prefix_scheduler, and none."""
    drafters: list[str] | None = None
    confidences: Literal["raw", "calibrated"] | None = None
    """None: calibrated where the run has temperatures. Of drafters with a confidence head; others have estimated ones."""
    drafting: Drafting = "sampled"
    """How the drafts were chosen that are replayed."""
    weights: dict[str, float] | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    request_cap: int = 256
    step_tokens: int = 8192
    kv_capacity_tokens: int | None = None
    replicas: int = 1
    router: Literal["round_robin", "least_loaded"] = "least_loaded"
    seconds: float = 600.0
    seed: int = 0
    replications: int = 1
    slas: list[str] = []

    def __post_init__(self) -> None:
        if not self.loads or self.replications < 1 or self.seed < 0:
            raise ValueError("a load, replications ≥ 1 and a seed ≥ 0 are needed")
        for load in self.loads:
            load_of(load)


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One simulation of a sweep."""

    number: int
    drafter: str
    """`none` for the policy none, whatever the trace it walks."""
    recording: Recording
    """What it walks, and what its policy is shown."""
    load: str
    setup: Setup


def points(plan: SweepPlan, recordings: Recordings, say: Callable[[str], None]) -> list[SweepPoint]:
    """Every simulation of a sweep, in an order that depends on the plan alone. Raises InputError if there is none."""
    engine = EngineLimits(
        request_cap=plan.request_cap, step_tokens=plan.step_tokens, kv_capacity_tokens=plan.kv_capacity_tokens,
        replicas=plan.replicas, router=plan.router,
    )  # fmt: skip
    common: dict[str, Any] = {
        "profile": parse_profile(plan.profile), "believed": plan.believed and parse_profile(plan.believed), "engine": engine,
        "weights": plan.weights, "prompt_tokens": plan.prompt_tokens, "output_tokens": plan.output_tokens,
        "seconds": plan.seconds, "slas": tuple(Sla.parse(s) for s in plan.slas),
    }  # fmt: skip
    for policy in plan.policies or []:
        parse_policy(policy, common["profile"].cost("none", 0, 1, 2))
    found: list[SweepPoint] = []
    loads = {text: load_of(text) for text in plan.loads}
    for drafter, recording, policy in _who(plan, recordings, common["profile"], say):
        for text, load in loads.items():
            for seed in range(plan.seed, plan.seed + plan.replications):
                setup = Setup(load=load, policy=policy, seed=seed, **common)
                found.append(SweepPoint(len(found), drafter, recording, text, setup))
    if not found:
        raise InputError("nothing to simulate with these options")
    return found


def _who(
    plan: SweepPlan, recordings: Recordings, profile: Profile, say: Callable[[str], None]
) -> Iterator[tuple[str, Recording, str]]:
    """(drafter, recording, policy) of the sweep; what cannot be is left out and said, or refused if it was asked for."""
    known = list(dict.fromkeys(key.drafter for key in recordings.keys))
    if unknown := [d for d in plan.drafters or [] if d not in known]:
        raise InputError(f"no dense recording of {', '.join(unknown)}; there are: {', '.join(known) or 'none'}")
    bare = False
    for key in recordings.keys:
        name, gamma = key.drafter, key.gamma
        if plan.drafters and name not in plan.drafters:
            continue
        recording = recordings.best(key, plan.confidences)
        for policy in plan.policies or ["none", f"fixed:{gamma}", "prefix_scheduler"]:
            if policy == "none":
                if not bare:
                    yield "none", recording, policy
                bare = True
                continue
            try:
                cost = profile.cost(name, gamma, 1, gamma + 2, kind=key.kind)
                parsed = parse_policy(policy, cost)
                if parsed.reads_confidences and recording.confidences == "none":
                    raise InputError(f"policy {policy}: needs confidences, and {name} has none")
            except InputError as error:
                if plan.drafters and plan.policies:
                    raise
                say(f"{name} γ={gamma} {policy}: left out: {error}")
                continue
            # Calibration is what such a policy ignores; estimates are all that a drafter without a head has, there too.
            raw = parsed.wants_raw_confidences and recording.confidences == "calibrated"
            yield name, recording.showing("raw") if raw else recording, policy
