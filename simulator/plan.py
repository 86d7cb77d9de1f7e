"""What every plan of many simulations says: what is simulated, on what, under which limits, and what is promised."""

from __future__ import annotations

import msgspec

from simulator.capacity import check_costs
from simulator.hardware.profile import Profile
from simulator.load import Load
from simulator.records import Drafting
from simulator.serving.engine import ServingEngine
from simulator.serving.engines import DEFAULT_ENGINE
from simulator.setup import EngineLimits, check_seconds
from simulator.sla import Sla


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
    request_cap: int = 256
    """The largest there is."""
    step_tokens: int = 8192
    kv_capacity_tokens: int | None = None
    replicas: int = 1
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
    def limits(self) -> EngineLimits:
        """What the engine allows; its copies are behind a router to the least loaded."""
        return EngineLimits(
            request_cap=self.request_cap, step_tokens=self.step_tokens, kv_capacity_tokens=self.kv_capacity_tokens,
            replicas=self.replicas,
        )  # fmt: skip
