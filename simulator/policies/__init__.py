"""Verification policies: how many drafted tokens of each request the target looks at in a step. One a file."""

from __future__ import annotations

from collections.abc import Callable

from simulator.errors import InputError
from simulator.policies.contract import CausalityError, Policy, Step, verify_lengths
from simulator.policies.fixed import Fixed
from simulator.policies.oracle import Oracle
from simulator.policies.threshold import Threshold

__all__ = ["CausalityError", "Fixed", "Oracle", "Policy", "Step", "Threshold", "parse_policy", "verify_lengths"]

_KNOWN: dict[str, tuple[str, Callable[[str], Policy]]] = {
    "fixed": ("fixed:K", lambda k: Fixed(int(k))),
    "threshold": ("threshold:C", lambda c: Threshold(float(c))),
    "oracle": ("oracle", lambda _: Oracle()),
    "none": ("none", lambda _: Fixed(0)),
}


def parse_policy(text: str) -> Policy:
    """A policy as users write it, `name` or `name:parameter`. Raises InputError, naming the policies there are."""
    name, _, parameter = text.partition(":")
    known = ", ".join(usage for usage, _ in _KNOWN.values())
    if name not in _KNOWN:
        raise InputError(f"policy {text}: no such policy; there are {known}")
    usage, make = _KNOWN[name]
    if bool(parameter) != (":" in usage):
        raise InputError(f"policy {text}: is written {usage}")
    try:
        return make(parameter)
    except ValueError as error:
        raise InputError(f"policy {text}: {error}; it is written {usage}") from None
