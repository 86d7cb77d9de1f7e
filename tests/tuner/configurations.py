"""Configurations as tests write them."""

from __future__ import annotations

from simulator.configuration import Configuration
from simulator.policies import PolicySpec
from simulator.records import Confidences, Drafting, Recording


def configuration(
    drafter: str,
    gamma: int,
    policy: str,
    confidences: Confidences = "none",
    cap: int = 64,
    *,
    drafting: Drafting = "sampled",
    kind: str | None = None,
) -> Configuration:
    """Of a drafter of the kind of its name."""
    recording = Recording(drafter, gamma, confidences, drafting, drafter if kind is None else kind)
    return Configuration(recording, PolicySpec.parse(policy), cap)


plain = Configuration.plain
