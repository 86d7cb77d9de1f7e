"""Verification policies: how many drafted tokens of each request the target looks at in a step. One a file."""

from __future__ import annotations

from simulator.policies.batch_adaptive import BatchAdaptive
from simulator.policies.contract import CausalityError, PeekError, Policy, StepView, verify_lengths
from simulator.policies.fixed import Fixed
from simulator.policies.k_by_batch import KByBatch
from simulator.policies.kind import PolicyKind
from simulator.policies.lagged_scheduler import LaggedScheduler, VllmAdaptive
from simulator.policies.oracle import Oracle
from simulator.policies.own import is_own, take_up
from simulator.policies.prefix_scheduler import PrefixScheduler
from simulator.policies.spec import NO_DRAFTER, POLICIES, PolicySpec, policies_of, policy_class
from simulator.policies.threshold import Threshold

__all__ = [
    "NO_DRAFTER", "POLICIES", "BatchAdaptive", "CausalityError", "Fixed", "KByBatch", "LaggedScheduler", "Oracle",
    "PeekError", "Policy",
    "PolicyKind", "PolicySpec", "PrefixScheduler", "StepView", "Threshold", "VllmAdaptive", "is_own", "policies_of",
    "policy_class", "take_up", "verify_lengths",
]  # fmt: skip
