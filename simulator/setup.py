"""Everything about a simulation but the trace. Needs no compiler: what cannot be is refused before one is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from simulator.hardware.cost import StepCost
from simulator.hardware.profile import Profile
from simulator.load import Load, RecordedArrivals
from simulator.plain import cost_of
from simulator.policies import PolicySpec
from simulator.prefixes import PrefixBlocks
from simulator.sla import Sla
from simulator.traces import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What the serving engine allows."""

    request_cap: int = 256
    """Requests running at once on a replica."""
    step_tokens: int = 8192
    """Tokens of one target pass, prompts included."""
    kv_capacity_tokens: int | None = None
    """Context tokens that fit on a replica; None takes the hardware profile's."""
    replicas: int = 1
    router: Literal["round_robin", "least_loaded"] = "least_loaded"
    prefix_cache: bool = True
    """Whether blocks of prompts are kept for prompts that begin alike, where a load says which do."""

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"--{name.replace('_', '-')} {value}: must be from 1 to {most:,}")


_MOST = {"request_cap": 100_000, "step_tokens": 10_000_000, "kv_capacity_tokens": 10**15, "replicas": 10_000}
"""Limits of an engine that memory here holds the tables of."""


def check_seconds(seconds: float) -> None:
    """Raises ValueError for simulated seconds that are none, or that nobody would wait for."""
    if not _SHORTEST_S <= seconds <= LONGEST_S:
        raise ValueError(f"--seconds {seconds:g}: must be from {_SHORTEST_S:g} to {LONGEST_S:,.0f}")


def check_spread(cv: float) -> None:
    """Raises ValueError for a spread of the lengths of answers that no traffic has."""
    if cv != 0 and not _LEAST_SPREAD <= cv <= _MOST_SPREAD:
        raise ValueError(f"--output-cv {cv:g}: must be 0, or from {_LEAST_SPREAD:g} to {_MOST_SPREAD:g}")


_LEAST_SPREAD, _MOST_SPREAD = 0.01, 2.0
_SHORTEST_S, LONGEST_S = 1e-3, 10_000_000.0

ANSWERS = 4
"""How many answers a user of a closed loop gets in a draw, at least."""
RAMP = 1 / ANSWERS
"""Share of a draw in which its users begin, the time of one answer, and which its warm-up takes: of users that began
together, answers of like lengths would end together for long, and their prompts wait for each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Everything about a simulation but the trace: what is asked, what serves it, and who decides."""

    load: Load
    policy: PolicySpec
    profile: Profile
    """What a step takes."""
    believed: Profile | None = None
    """What the policy thinks a step takes; None knows the truth."""
    limits: EngineLimits = EngineLimits()
    weights: Mapping[str, float] | None = None
    """Share of requests by domain; None takes responses as often as they were recorded."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    """Lengths in place of the recorded ones."""
    output_cv: float = 0.0
    """Spread of the lengths of answers around those; see `Mix`."""
    seconds: float = 600.0
    """Seconds of simulated time; loads that end run until all are served."""
    ramp: float = 0.05
    """Share of them in which the users of a closed loop begin, each at a random moment: all at once, answers of one length
    would stay in lockstep for ever."""
    seed: int = 0
    slas: tuple[Sla, ...] = ()

    def __post_init__(self) -> None:
        check_seconds(self.seconds)
        check_spread(self.output_cv)
        if not 0 <= self.ramp <= 0.5:
            raise ValueError("users begin within the first half of a simulation")

    @property
    def blocks(self) -> PrefixBlocks | None:
        """What the prefix cache keeps; None without one, or where nobody says which prompts begin alike."""
        if not self.limits.prefix_cache or not isinstance(self.load, RecordedArrivals):
            return None
        return self.load.requests.blocks

    def cost(self, trace: Trace, *, believed: bool = False) -> StepCost:
        """The profile's tables for a trace, or those the policy believes in. Raises InputError; see `Profile.cost`."""
        profile = self.believed if believed and self.believed else self.profile
        return cost_of(profile, self.policy, trace, self.limits.request_cap, self.limits.step_tokens)
