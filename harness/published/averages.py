"""A run made from one's own averages: what an engine logs or a model card states, as traces that have these averages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.published.run import MOST_TOKENS, SynthesizedRun, keep
from results.store.database import Store
from simulator.averages import ASSUMPTIONS, Averages, numbers, trace_of
from simulator.drafter_kinds import KINDS, kind_called
from simulator.errors import InputError
from simulator.hardware.architecture import named

ALL = "all"
"""The domain of averages that name none."""
_NAMED_KINDS = tuple(kind for kind in KINDS if kind != "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """Averages of one drafter, and how much to synthesise of them. Raises InputError for sizes that make no trace."""

    averages: Mapping[str, Averages]
    """By domain, all of one γ."""
    drafter: str
    kind: str
    target: str = ""
    """Name of the model that the drafter drafts for; empty where nobody says."""
    named_after: str = ""
    """The file whose own name that is; empty where an engine can load the model by its name."""
    config: str = ""
    """The config.json that says so; empty where the name was given."""
    responses_per_task: int = 200
    """In each domain: enough that the parts a study searches and confirms on have the same averages to about 1 %."""
    output_tokens: int = 512
    prompt_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"--seed must be 0 or more, got {self.seed}")
        if self.prompt_tokens > MOST_TOKENS:
            raise InputError(f"--prompt-tokens {self.prompt_tokens}: is more than {MOST_TOKENS:,}")
        tokens = self.responses_per_task * len(self.averages) * self.output_tokens
        if tokens > MOST_TOKENS:
            raise InputError(
                f"{tokens:,} tokens would be synthesised, and {MOST_TOKENS:,} are enough for anything: ask for fewer"
            )


def averages_of(
    survival: Sequence[str], conditional: Sequence[str], accepted_length: Sequence[str], gamma: int | None,
    *, look_up: bool = False,
) -> dict[str, Averages]:  # fmt: skip
    """Averages by domain, as users write them: .72,.53,.38 or math=.8,.6,.5, a length as 3.4, of a step where they are of a
    look-up. Raises InputError."""
    found: dict[str, Averages] = {}
    readers: tuple[tuple[str, Sequence[str], Callable[[str], Averages]], ...] = (
        ("--survival", survival, lambda text: Averages(numbers(text))),
        ("--conditional", conditional, lambda text: Averages.of_conditional(numbers(text))),
        ("--accepted-length", accepted_length, lambda text: _of_length(text, gamma, look_up=look_up)),
    )
    for option, texts, read in readers:
        for text in texts:
            domain, named, stated = text.rpartition("=")
            domain = domain.strip() if named else ALL
            if not domain:
                raise InputError(f"{option} {text}: names no domain; it is written math={stated}")
            if domain in found:
                raise InputError(f"{option} {text}: the acceptance in {domain} is given twice")
            try:
                found[domain] = read(stated)
            except ValueError as error:
                raise InputError(f"{option} {text}: {error}") from None
    if ALL in found and len(found) > 1:
        raise InputError(
            f"some averages name a domain ({', '.join(d for d in found if d != ALL)}) and others none: name all"
        )
    lengths = {domain: own.gamma for domain, own in found.items()}
    if len(set(lengths.values())) > 1:
        each = ", ".join(f"{gamma} in {domain}" for domain, gamma in lengths.items())
        raise InputError(f"acceptance must be given for as many positions in every domain, not for {each}")
    if gamma is not None and found and gamma not in lengths.values():
        raise InputError(f"--gamma {gamma}: acceptance is given for {next(iter(lengths.values()))} positions")
    return found


def _of_length(text: str, gamma: int | None, *, look_up: bool) -> Averages:
    if gamma is None:
        raise ValueError("needs --gamma, the tokens drafted each round")
    [tokens, *more] = numbers(text)
    if more:
        raise ValueError("is one number, tokens per round with the bonus token; acceptance by position is --survival")
    return Averages.of_look_up(tokens, gamma) if look_up else Averages.of_accepted_length(tokens, gamma)


def drafter_of(text: str) -> tuple[str, str]:
    """(name, kind) of a drafter as users write it, eagle3 or mine=eagle3. Raises InputError."""
    name, named, kind = text.partition("=")
    kind = kind_called(kind if named else name) or kind
    name = name if named else kind
    if kind not in _NAMED_KINDS:
        raise InputError(
            f"--drafter {text}: no such kind; there are {', '.join(_NAMED_KINDS)}, or NAME=KIND for a name of your own"
        )
    if not name or name == "none":
        raise InputError(f"--drafter {text}: needs a name that is not none")
    return name, kind


class Target(NamedTuple):
    """The model that a drafter drafts for."""

    name: str
    """Its name as it is given, or as a config.json has it."""
    named_after: str = ""
    """The file that it is only called after."""
    config: str = ""
    """The config.json that was given in place of a name."""


def target_of(text: str) -> Target:
    """The model that is named, or that a config.json, or the folder with it, is of.

    Raises InputError, OSError.
    """
    file = Path(text)
    if file.is_dir():
        file /= "config.json"
        text = str(file)
    if not file.is_file():
        if file.suffix.startswith(".j") or file.name == "config.json":  # no model's name ends so
            raise InputError(f"--target {text}: no such file")
        return Target(text)
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError:
        config = None
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(f"--target {text}: is no model's config.json: it has no model_type")
    return Target(named(file, config), "" if config.get("_name_or_path") else file.name, text)


def publish_averages(stated: Stated, store: Store, say: Callable[[str], None]) -> str:
    """Synthesise a trace that has the averages, and store it as a run; returns its id. Raises InputError."""
    called = stated.drafter if stated.drafter == stated.kind else f"{stated.drafter} ({stated.kind})"
    say(f"synthesising {called} from averages: no model runs")
    look_up = KINDS[stated.kind].looks_up
    trace = trace_of(
        stated.drafter, stated.averages, np.random.default_rng(stated.seed), responses=stated.responses_per_task,
        tokens=stated.output_tokens, prompt_tokens=stated.prompt_tokens, look_up=look_up,
    )  # fmt: skip
    survivals = {domain: list(own.survival) for domain, own in stated.averages.items()}
    sources = [
        f"{stated.drafter} in {domain}: accepted at positions 1 to {own.gamma} in "
        f"{', '.join(f'{share:.4g}' for share in own.survival)} of all {'steps' if look_up else 'drafts'}, "
        f"τ = {own.accepted_length:.3g}"
        for domain, own in stated.averages.items()
    ]
    sizes = [stated.responses_per_task, stated.output_tokens, stated.prompt_tokens]
    assumed = f"prompts of {stated.prompt_tokens} and answers of {stated.output_tokens} tokens, unless a load brings its own"
    shares = {domain: own.looked_up for domain, own in stated.averages.items() if look_up}
    found = [f"in {domain} a look-up has a draft in {share:.0%} of steps: assumed" for domain, share in shares.items()]
    assumptions = [*ASSUMPTIONS, *found, assumed]
    for line in (*sources, *assumptions):
        say(f"· {line}")
    told = SynthesizedRun(
        suite="averages",
        pair=f"{stated.drafter} from averages",
        target=stated.target,
        named_after=stated.named_after,
        config=stated.config,
        content=[survivals, stated.drafter, stated.kind, stated.seed, sizes, *([shares] if look_up else [])],
        sampling={"max_new_tokens": stated.output_tokens},
        seed=stated.seed,
        plan={
            "synthesised": "averages", "survival": survivals, "sources": sources, "assumptions": assumptions,
        },
    )  # fmt: skip
    return keep(told, [replace(trace, kind=stated.kind)], store, say)
