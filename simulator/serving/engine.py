"""What is worth knowing of a serving engine without running it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
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
    policies: tuple[str, ...] | None = None
    """Kinds of policies that the engine runs with it; None is all that it runs."""
    drafting: Drafting | None = None
    """How drafts are chosen with it, where nobody can choose; None is as with the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """Options of the engine's command. What it has no option for has a word without dashes: it stands in a comment."""

    request_cap: str
    """Requests running at once."""
    step_tokens: str
    """Tokens of one step."""
    pass_tokens: str = ""
    """Tokens of one pass, of an engine that computes a step in several unless told; empty where a step is one."""
    gpus: str
    """GPUs that share a model."""
    shared: str = ""
    """That GPUs share every layer, of an engine that gives each some of the layers unless told."""
    replicas: str
    """Copies of the model, each with its own GPUs and limits, behind the engine's own router."""
    weights: str = ""
    """Number format of weights, of a checkpoint in another; empty where it cannot be set."""
    cache: str = ""
    """Number format of keys and values; empty where it cannot be set."""
    captured: str = ""
    """Tokens of the largest pass that is captured as a graph; empty where that cannot be set."""
    context: str = ""
    """Tokens of the longest context, of an engine that does not start where the cache holds fewer than the model's own."""
    no_prefix_cache: str = ""
    """That nothing of prompts is kept for others that begin alike; empty where that is no option, see `ServingEngine`."""
    speculative: str = ""
    """The configuration of drafting, as JSON; empty where it is spelled otherwise, see `ServingEngine.spell`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Names of fields in the engine's configuration of drafting."""

    method: str
    """How it drafts, as `ServedKind.method`."""
    checkpoint: str
    """The drafter's."""
    tokens: str
    """Tokens drafted in a round."""
    batch_rows: str = ""
    """k by running requests; empty where there is no such table."""
    adaptive: str = ""
    """Whether its own policy by confidences decides; empty where it has none."""
    drafting: str = ""
    """How drafts are chosen, as `ServingEngine.drafting_option`; empty where nobody can choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingEngine:
    """One engine, at one version. Raises ValueError for facts that contradict, and kinds of drafters that do not exist."""

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
    adaptive: str = ""
    """Its own policy, one of those, that reads confidences; empty where it has none."""
    drafting: Drafting
    """How it chooses drafts unless told."""
    drafting_option: Mapping[Drafting, str | bool] = field(default_factory=dict)
    """What it is told, above temperature 0; empty where nobody can choose."""
    flags: Flags
    options: tuple[str, ...] = ()
    """Words of every command beside those, always the same."""
    notes: tuple[str, ...] = ()
    """What has to be done before any command, whatever drafts, or is to be known of its options."""
    shared_note: str = ""
    """What is to be known of GPUs that share a model; empty is nothing."""
    fields: Fields
    captured: int = 0
    """Tokens of the largest pass that it captures unless told; 0 where it captures none, or nobody knows."""
    spell: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
    """The words of the command that say how it drafts, from the fields; None is one word after `Flags.speculative`."""
    spelled_notes: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
    """What is to be known of those words, from the fields; None is nothing."""
    written: Callable[[Mapping[str, Any]], str] = json.dumps
    """That word."""
    no_prefix_cache: Mapping[str, Any] = field(default_factory=dict)
    """Fields beside those of drafting that say that nothing of prompts is kept; empty where that is an option."""
    files: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None
    """Files that the command names, by name, from the fields; None needs none."""
    refuses_rows: Callable[[list[tuple[int, int, int]]], str] | None = None
    """Why rows (first, last, k) of k by batch size cannot be written; None writes all."""
    most_requests: int | None = None
    """Requests that it can run at once; None where nothing but memory limits them."""
    longest_row: bool = False
    """Whether `Fields.tokens` has to be the largest k of such rows; else it is the block that was recorded."""
    rows_notes: Callable[[list[tuple[int, int, int]]], Sequence[str]] | None = None
    """What is to be known of a command that has such rows; None is nothing."""
    above: str = "goes on with the last row"
    """What it does above the last of such rows."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.kinds) - set(KINDS)):
            raise ValueError(f"{self.name}: no such kinds of drafters: {', '.join(unknown)}")
        if self.adaptive and self.adaptive not in self.policies:
            raise ValueError(f"{self.name}: does not run {self.adaptive}, its own policy")
        if bool(self.adaptive) != bool(self.fields.adaptive) or bool(self.drafting_option) != bool(self.fields.drafting):
            raise ValueError(f"{self.name}: what can be set has a field, and what has a field can be set")
        if bool({"k_by_batch", "cutoff"} & set(self.policies)) != bool(self.fields.batch_rows):
            raise ValueError(f"{self.name}: a table of k by batch size has a field, and its field a policy")
        if bool(self.flags.speculative) == (self.spell is not None):
            raise ValueError(f"{self.name}: how it drafts is spelled in one way")
        if bool(self.flags.no_prefix_cache) == bool(self.no_prefix_cache):
            raise ValueError(f"{self.name}: that it keeps nothing of prompts is told in one way")

    def spelled(self, fields: Mapping[str, Any]) -> list[str]:
        """The words of the command that say how it drafts, quoted for a shell."""
        if self.spell is None:
            return [f"{self.flags.speculative} {shlex.quote(self.written(fields))}"]
        return [" ".join(map(shlex.quote, word.split(" ", 1))) for word in self.spell(fields)]
