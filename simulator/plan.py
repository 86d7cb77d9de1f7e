"""Plans of many simulations, as users ask for them and as they are stored: of sweeps and of studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

from simulator.capacity import check_costs
from simulator.configuration import Configuration
from simulator.decision import DRAWS
from simulator.hardware.profile import Profile
from simulator.load import Load, SeveralLoads
from simulator.policies import NO_DRAFTER, PolicyKind, PolicySpec
from simulator.records import Drafting
from simulator.serving.command import Models, Serving, serve
from simulator.serving.engine import ServingEngine
from simulator.serving.engines import DEFAULT_ENGINE
from simulator.setup import EngineLimits, check_seconds, check_spread
from simulator.sla import Sla

Objective = Literal["throughput", "tps", "goodput", "pareto"]
SAMPLERS = ("tpe", "gp", "nsga2", "random", "qmc", "grid")
MOST_REPLICATIONS, MOST_DRAWS = 10_000, 10_000
"""The most of a point, and of the held-out prompts: an interval is no narrower for more."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a sweep and a study are both asked. Raises ValueError or InputError for what makes no sense."""

    profile: Profile
    """What a step takes."""
    loads: list[Load]
    """In the order in which they are simulated, or searched."""
    slas: list[Sla] = []
    weights: dict[str, float] | None = None
    """Share of requests by domain; None takes responses as often as they were recorded."""
    drafters: list[str] | None = None
    """None: all."""
    drafting: Drafting = "sampled"
    """How the drafts were chosen that are replayed."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    """Lengths in place of the recorded ones."""
    output_cv: float = 0.0
    """Spread of the lengths of answers around those; see `Mix`."""
    request_cap: int = 256
    """The largest there is."""
    step_tokens: int = 8192
    kv_capacity_tokens: int | None = None
    replicas: int = 1
    prefix_cache: bool = True
    """Whether what prompts of recorded arrivals have in common is kept; see `EngineLimits`."""
    seconds: float = 600.0
    """Seconds of simulated time, of every simulation in full length."""
    seed: int = 0
    engine: ServingEngine | None = DEFAULT_ENGINE
    """That is to run what is recommended; None for all policies."""
    gpu_hour: float | None = None
    """Dollars for an hour of a GPU."""
    users: int | None = None
    """Users of a whole service, whose GPUs are counted; None counts none."""

    def __post_init__(self) -> None:
        check_seconds(self.seconds)
        check_spread(self.output_cv)
        _ = self.limits
        check_costs(self.loads, self.slas, users=self.users, gpu_hour=self.gpu_hour)

    @property
    def served_by(self) -> ServingEngine:
        """The engine whose defaults are meant, the usual one where all policies are allowed."""
        return self.engine or DEFAULT_ENGINE

    @property
    def most_running(self) -> int:
        """Requests that run on a replica at most, at any load."""
        return max(load.most_running(self.request_cap, self.replicas) for load in self.loads)

    @property
    def whole_prompts(self) -> bool:
        """Whether prompts have something in common and were computed in whole nevertheless: `prefix_cache` said so."""
        return not self.prefix_cache and any(load.shares_prefixes for load in self.loads)

    @property
    def limits(self) -> EngineLimits:
        """What the engine allows; its copies are behind a router to the least loaded."""
        return EngineLimits(
            request_cap=self.request_cap, step_tokens=self.step_tokens, kv_capacity_tokens=self.kv_capacity_tokens,
            replicas=self.replicas, prefix_cache=self.prefix_cache,
        )  # fmt: skip


class SweepPlan(Plan, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A sweep as the user asked for it. Raises ValueError or InputError for what makes no sense."""

    believed: Profile | None = None
    """What the policies think a step takes; None is the truth."""
    policies: list[PolicySpec] | None = None
    """None: none, fixed at γ, and prefix_scheduler, or shorter drafts where the only drafter has no confidences."""
    confidences: Literal["raw", "calibrated"] | None = None
    """None: calibrated where the run has temperatures. Of drafters with a confidence head; others have estimated ones."""
    router: Literal["round_robin", "least_loaded"] = "least_loaded"
    replications: int = 1
    decision_draws: int = msgspec.field(default=DRAWS, name="draws")  # as it is stored
    """Draws of prompts, seeds and the profile's errors, for the intervals of the decision; 0 decides nothing."""
    against: PolicySpec | None = None
    """The policy that all others are compared with, paired, on the same recordings; None compares none."""
    others: list[Profile] = []
    """The same GPUs shared out otherwise: what a step takes in each layout that is still to be simulated, and compared."""
    beside: list[str] = []
    """Sweeps of the same question in the layouts that were simulated already."""
    headroom: bool | None = None
    """Whether to search how many times each load is held within the promises; None does so for open loads, where few."""

    def __post_init__(self) -> None:
        if not self.loads or self.seed < 0:
            raise ValueError("a load and a seed ≥ 0 are needed")
        if not 1 <= self.replications <= MOST_REPLICATIONS:
            raise ValueError(f"--replications {self.replications}: must be from 1 to {MOST_REPLICATIONS:,}")
        if self.decision_draws < 0 or 0 < self.decision_draws < 10:
            raise ValueError(f"--decision-draws {self.decision_draws}: an interval needs 10 or more; 0 decides nothing")
        if self.others and not self.decision_draws:
            raise ValueError(
                "--decision-draws 0: decides nothing, and layouts are compared by what is decided; leave it out"
            )
        if any(isinstance(load, SeveralLoads) for load in self.loads):
            raise ValueError("loads with weights are for `tuner search`; here each has a row of its own: --concurrency 8,64")
        if self.headroom and not self.slas:
            raise ValueError("--headroom: is how much is held within a promise; give one with --sla")
        super().__post_init__()


class StudyPlan(Plan, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A study as the user asked for it. Raises ValueError or InputError for what makes no sense."""

    objective: Objective
    policies: list[PolicyKind] | None = msgspec.field(default=None, name="kinds")  # as it is stored
    """Kinds of policies to search; None: all."""
    sampler: str = "tpe"
    trials: int = 64
    """At each load."""
    confirmation_draws: int = msgspec.field(default=12, name="draws")  # as it is stored
    """Draws of the held-out prompts, to confirm on."""
    decision_draws: int = DRAWS
    """Draws of prompts, seeds and the profile's errors, for the intervals of the decision."""

    def __post_init__(self) -> None:
        if not self.loads or self.trials < 1 or self.seed < 0:
            raise ValueError("a load, --trials of 1 or more and a --seed of 0 or more are needed")
        if self.decision_draws < 10:
            raise ValueError(f"--decision-draws {self.decision_draws}: an interval needs 10 or more")
        if not 5 <= self.confirmation_draws <= MOST_DRAWS:
            raise ValueError(
                f"--confirmation-draws {self.confirmation_draws}: an interval needs 5 draws of the prompts or more, and no "
                f"more than {MOST_DRAWS:,}"
            )
        if self.objective not in get_args(Objective):
            raise ValueError(f"--objective {self.objective}: there are {', '.join(get_args(Objective))}")
        if self.objective == "goodput" and not self.slas:
            raise ValueError("--objective goodput: counts what keeps a bound; give one with --sla")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"--sampler {self.sampler}: there are {', '.join(SAMPLERS)}")
        super().__post_init__()


def _cache_tokens(plan: Plan, run: Configuration) -> int:
    """Context tokens that fit on a replica beside a drafter."""
    if plan.kv_capacity_tokens is not None:
        return plan.kv_capacity_tokens
    drafts = run.policy != NO_DRAFTER
    return plan.profile.capacity(run.recording.drafter, run.recording.kind) if drafts else plan.profile.capacity("none")


def serving_of(
    plan: Plan, engine: ServingEngine, models: Models, run: Configuration, fields: Mapping[str, Any] | None = None
) -> Serving:
    """The command by which an engine serves what a plan has found; see `serve` for `fields`."""
    return serve(
        engine, models, run.recording, run.policy, modelled=plan.profile.model, request_cap=run.request_cap,
        step_tokens=plan.step_tokens, gpus=plan.profile.gpus, replicas=plan.replicas, drafting=plan.drafting,
        captured=plan.profile.captured, formats=plan.profile.formats, checkpoint=plan.profile.checkpoint,
        most_running=plan.most_running, fields=fields, cache_tokens=_cache_tokens(plan, run),
        prefix_cache=not plan.whole_prompts,
    )  # fmt: skip
