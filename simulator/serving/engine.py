"""What is worth knowing of a serving engine without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simulator.drafter_kinds import KINDS
from simulator.records import Drafting


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedKind:
    """How an engine runs a kind of drafter."""

    method: str
    """The engine's own word for it."""
    checkpoint: bool = True
    """Whether it is given a checkpoint of the drafter's."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields beside the method, always the same."""
    gpu_only: bool = False
    """Whether the engine has no code for it on a CPU."""
    note: str = ""
    """What has to be done to the checkpoint first, or cannot be done."""
    note_of: str = ""
    """Regular expression of the targets' names that the note is about; empty for all."""
    not_for: str = ""
    """Regular expression of the names of targets that the engine has no such drafter for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """Options of the engine's command."""

    request_cap: str
    """Requests running at once."""
    step_tokens: str
    """Tokens of one step."""
    gpus: str
    """GPUs that share a model."""
    replicas: str
    """Copies of the model, each with its own GPUs and limits, behind the engine's own router."""
    speculative: str
    """The configuration of drafting, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Names of fields in the engine's configuration of drafting."""

    method: str
    """How it drafts, as `ServedKind.method`."""
    checkpoint: str
    """The drafter's."""
    tokens: str
    """Tokens drafted in a round."""
    batch_rows: str
    """k by running requests."""
    adaptive: str
    """Whether its own policy by confidences decides."""
    drafting: str
    """How drafts are chosen, as `ServingEngine.drafting_option`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingEngine:
    """One engine, at one version. Raises ValueError for kinds of drafters that do not exist."""

    name: str
    """The engine's name as its makers write it."""
    serve: str
    """The command that serves a model, before the model's name."""
    version: str
    """That these facts were read in."""
    kinds: Mapping[str, ServedKind]
    """What it can draft with, by kind of drafter."""
    policies: tuple[str, ...]
    """Kinds of policies that it runs as simulated; others it can come close to, or not."""
    adaptive: str
    """Its own policy, one of those, that reads confidences."""
    drafting: Drafting
    """How it chooses drafts unless told."""
    drafting_option: Mapping[Drafting, str]
    """What it is told, above temperature 0."""
    flags: Flags
    fields: Fields

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.kinds) - set(KINDS)):
            raise ValueError(f"{self.name}: no such kinds of drafters: {', '.join(unknown)}")
        if self.adaptive not in self.policies:
            raise ValueError(f"{self.name}: does not run {self.adaptive}, its own policy")
