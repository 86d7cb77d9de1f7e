"""Plain decoding, the baseline `none`: it uses no drafter, walks whatever was recorded, and pays for no draft."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.hardware.cost import StepCost
from simulator.hardware.profile import Profile
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import NO_RECORDING, Recording
from simulator.traces import Trace


def used(recording: Recording, policy: PolicySpec) -> Recording:
    """What a policy uses of a recording: nothing where it drafts nothing, and no confidences where it reads none."""
    if policy == NO_DRAFTER:
        return NO_RECORDING
    return recording if policy.reads_confidences else recording.showing("none")


def walked(recording: Recording, recorded: Sequence[Recording]) -> Recording:
    """What simulations walk that use a recording: itself, or the first there is where nothing is drafted."""
    return recorded[0] if recording == NO_RECORDING else recording


def capacity_of(profile: Profile, policy: PolicySpec, trace: Recording | Trace) -> int:
    """Context tokens that fit under a policy that walks a trace. Raises InputError where its drafter does not fit."""
    return profile.kv_capacity_tokens if policy == NO_DRAFTER else profile.capacity(trace.drafter, trace.kind)


def cost_of(profile: Profile, policy: PolicySpec, trace: Recording | Trace, requests: int, tokens: int) -> StepCost:
    """A profile's tables for steps under a policy that walks a trace. Raises InputError; see `Profile.cost`."""
    drafter = NO_RECORDING.drafter if policy == NO_DRAFTER else trace.drafter
    return profile.cost(drafter, trace.gamma, requests, tokens, kind=trace.kind, decides=policy.reads_confidences)
