"""Verification policies: how many drafted tokens of each request the target looks at in a step. One a file."""

from __future__ import annotations

from collections.abc import Callable

from simulator.errors import InputError
from simulator.hardware.cost import StepCost
from simulator.policies.batch_adaptive import BatchAdaptive
from simulator.policies.contract import CausalityError, Policy, StepView, verify_lengths
from simulator.policies.fixed import Fixed
from simulator.policies.k_by_batch import KByBatch
from simulator.policies.lagged_scheduler import LaggedScheduler, VllmAdaptive
from simulator.policies.oracle import Oracle
from simulator.policies.prefix_scheduler import PrefixScheduler
from simulator.policies.threshold import Threshold

__all__ = [
    "BatchAdaptive", "CausalityError", "Fixed", "KByBatch", "LaggedScheduler", "Oracle", "Policy", "PrefixScheduler",
    "StepView", "Threshold", "VllmAdaptive", "parse_policy", "verify_lengths",
]  # fmt: skip

VLLM_PROFILED_CONTEXT_TOKENS = 8192
"""The context vLLM 0.32 profiles its cost tables at."""

_PLAIN: dict[str, tuple[str, Callable[[str], Policy]]] = {
    "fixed": ("fixed:K", lambda k: Fixed(int(k))),
    "threshold": ("threshold:C", lambda c: Threshold(float(c))),
    "k_by_batch": ("k_by_batch:REQUESTS=K/REQUESTS=K…", KByBatch.parse),
    "cutoff": ("cutoff:REQUESTS", lambda n: KByBatch.cutoff(int(n))),
    "oracle": ("oracle", lambda _: Oracle()),
    "none": ("none", lambda _: Fixed(0)),
}
_COSTED: dict[str, tuple[str, Callable[[str, StepCost], Policy]]] = {
    "prefix_scheduler": ("prefix_scheduler", lambda _, cost: PrefixScheduler(cost)),
    "lagged_scheduler": ("lagged_scheduler[:LAG[/EMA]]", lambda text, cost: _lagged(text, cost)),
    "vllm_adaptive": (
        "vllm_adaptive",
        lambda _, cost: VllmAdaptive(cost._replace(assumed_context_tokens=VLLM_PROFILED_CONTEXT_TOKENS)),
    ),
    "batch_adaptive": ("batch_adaptive[:WEIGHT]", lambda w, cost: BatchAdaptive(cost, *([float(w)] if w else []))),
}
POLICIES = tuple(usage for usage, _ in (*_PLAIN.values(), *_COSTED.values()))
"""All policies, as users write them."""


def parse_policy(text: str, cost: StepCost | None = None) -> Policy:
    """A policy as users write it, `name` or `name:parameter`; some decide by what they believe a step costs.

    Raises InputError, naming the policies there are.
    """
    name, colon, parameter = text.partition(":")
    if name not in _PLAIN and name not in _COSTED:
        raise InputError(f"policy {text}: no such policy; there are {', '.join(POLICIES)}")
    usage = (_PLAIN.get(name) or _COSTED[name])[0]
    wrong = bool(colon) if ":" not in usage else not parameter and (bool(colon) or "[" not in usage)
    if wrong:
        raise InputError(f"policy {text}: is written {usage}")
    try:
        if name in _PLAIN:
            return _PLAIN[name][1](parameter)
        if cost is None:
            raise InputError(f"policy {text}: decides by what a step costs; name a hardware profile")
        return _COSTED[name][1](parameter, cost)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"policy {text}: {error}; it is written {usage}") from None


def _lagged(text: str, cost: StepCost) -> Policy:
    lag, _, ema = text.partition("/")
    return LaggedScheduler(cost, int(lag or 2), float(ema or 0))
