"""Loads: what users write, and who asks for what, and when: closed loops, open loops, recorded arrivals; requests drawn
from a trace's responses."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simulator.engine.state import REQUEST, Records
from simulator.errors import InputError
from simulator.traces import Trace

CHUNK = 8192
"""Requests made at a time."""


@dataclass(frozen=True, slots=True)
class Users:
    """A closed loop: each user waits for the answer, thinks, and asks again."""

    users: int
    think_s: float = 0.0
    """Mean of the exponential pause between an answer and the next request."""

    def __post_init__(self) -> None:
        if self.users < 1 or not self.think_s >= 0:
            raise ValueError("users must be 1 or more, think_s 0 or more")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """An open loop: requests arrive at a rate, whatever becomes of them."""

    rate_per_s: float
    cv: float = 1.0
    """Standard deviation over mean of the gamma-distributed gaps: 1 is Poisson, 0 a constant rate."""

    def __post_init__(self) -> None:
        if not self.rate_per_s > 0 or not self.cv >= 0:
            raise ValueError("rate_per_s must be above 0, cv 0 or more")


@dataclass(frozen=True, slots=True)
class RecordedArrivals:
    """Requests of a real service, once: when they came, how long prompt and answer were."""

    arrival_s: npt.NDArray[np.float64]
    """Rising, [n]."""
    prompt_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.arrival_s) == 0 or (np.diff(self.arrival_s) < 0).any() or self.arrival_s[0] < 0:
            raise ValueError("arrival_s must rise from 0 or later, and there must be a request")
        if min(self.prompt_tokens.min(), self.output_tokens.min()) < 1:
            raise ValueError("prompt_tokens and output_tokens must be 1 or more")

    @classmethod
    def read(cls, file: Path, speed: float = 1.0) -> RecordedArrivals:
        """A CSV with the columns arrival_s, prompt_tokens, output_tokens; `speed` times as fast. Raises InputError."""
        if not speed > 0:
            raise InputError(f"{file}: the speed must be above 0, got {speed:g}")
        columns = ("arrival_s", "prompt_tokens", "output_tokens")
        try:
            with file.open(newline="") as lines:
                rows = [[float(row[c]) for c in columns] for row in csv.DictReader(lines)]
            arrival, prompt, output = np.array(rows).reshape(-1, 3).T
            kept = output >= 1  # a request that was answered with nothing occupied nobody
            counts = (np.maximum(prompt[kept], 1).astype(np.int64), output[kept].astype(np.int64))
            return cls((arrival[kept] - arrival[kept].min(initial=np.inf)) / speed, *counts)
        except (KeyError, TypeError, ValueError) as error:
            what = f"misses the column {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{file}: {what}; it needs the columns {', '.join(columns)}") from None


Load = Users | Arrivals | RecordedArrivals


@dataclass(frozen=True, slots=True)
class Mix:
    """What is asked: responses of a trace, by domain."""

    trace: Trace
    weights: Mapping[str, float] | None = None
    """Share of requests by domain; None takes responses as often as they were recorded."""
    prompt_tokens: int | None = None
    """Overrides the recorded prompts' lengths."""
    output_tokens: int | None = None
    """Overrides the recorded responses' lengths: shorter ones are cut, longer ones go on with others of their domain."""

    def __post_init__(self) -> None:
        domains = {r.domain for r in self.trace.responses}
        if self.weights is not None:
            if unknown := sorted(set(self.weights) - domains):
                raise InputError(f"mix: no {', '.join(unknown)} in the trace; it has {', '.join(sorted(domains))}")
            if min(self.weights.values()) < 0 or not sum(self.weights.values()) > 0:
                raise InputError("mix: shares must be 0 or more, and one above 0")
        for name in ("prompt_tokens", "output_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name}: must be 1 or more, got {value}")

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Of each response, [S]."""
        domain = np.array([r.domain for r in self.trace.responses])
        if self.weights is None:
            return np.full(len(domain), 1 / len(domain))
        share = np.array([self.weights.get(d, 0.0) for d in domain])
        names, counts = np.unique(domain, return_counts=True)
        return np.asarray(share / counts[np.searchsorted(names, domain)] / share_sum(self.weights))

    def lengths(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Prompt and output tokens of each response, [S] each."""
        prompt = np.maximum([r.prompt_tokens for r in self.trace.responses], 1)
        output = np.diff(self.trace.offsets) + 1
        return (
            prompt if self.prompt_tokens is None else np.full_like(prompt, self.prompt_tokens),
            output if self.output_tokens is None else np.full_like(output, self.output_tokens),
        )


def share_sum(weights: Mapping[str, float]) -> float:
    """Of a mix that need not add up to 1."""
    return float(sum(weights.values()))


def requests(mix: Mix, load: Load, rng: np.random.Generator) -> Iterator[Records]:
    """Requests in order of arrival, in chunks of `REQUEST` records: without end, or as many as were recorded."""
    of_response, arrivals, thoughts = rng.spawn(3)
    p, (prompt, output) = mix.probabilities(), mix.lengths()
    cumulative = np.cumsum(p)
    start_s, at = 0.0, 0
    while not isinstance(load, RecordedArrivals) or at < len(load.arrival_s):
        chunk = np.zeros(CHUNK, REQUEST)
        drawn = np.searchsorted(cumulative, of_response.random(CHUNK) * cumulative[-1], side="right")
        chunk["response"] = drawn
        chunk["prompt_tokens"], chunk["output_tokens"] = prompt[drawn], output[drawn]
        if isinstance(load, Users):
            chunk["think_s"] = thoughts.exponential(load.think_s, CHUNK) if load.think_s else 0.0
        elif isinstance(load, Arrivals):
            gaps = _gaps(load, arrivals)
            chunk["arrival_s"] = start_s + np.cumsum(gaps)
            start_s = float(chunk["arrival_s"][-1])
        else:
            here = slice(at, at + CHUNK)
            chunk = chunk[: len(load.arrival_s[here])]
            chunk["arrival_s"] = load.arrival_s[here]
            chunk["prompt_tokens"], chunk["output_tokens"] = load.prompt_tokens[here], load.output_tokens[here]
        at += len(chunk)
        yield chunk


def _gaps(load: Arrivals, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    mean = 1 / load.rate_per_s
    return np.full(CHUNK, mean) if load.cv == 0 else rng.gamma(load.cv**-2, mean * load.cv**2, CHUNK)


def load_of(text: str) -> Load:
    """A load as plans write it: users:64, users:64/2.5 (mean think seconds), rate:5, rate:5/2 (cv), file:PATH[@SPEED]."""
    kind, _, rest = text.partition(":")
    if kind == "file":
        path, _, speed = rest.partition("@")
        return RecordedArrivals.read(Path(path), float(speed or 1))
    first, _, second = rest.partition("/")
    try:
        if kind == "users":
            return Users(int(first), float(second or 0))
        if kind == "rate":
            return Arrivals(float(first), float(second or 1))
    except ValueError as error:
        raise InputError(f"load {text}: {error}") from None
    raise InputError(f"load {text}: is written users:N[/THINK_S], rate:R[/CV] or file:PATH[@SPEED]")


def counts(option: str, text: str | None) -> list[int]:
    """Numbers as users write them: 8, 1,8,64, or 1..256 for every power of two in between and the ends."""
    found: list[int] = []
    for part in text.split(",") if text else []:
        if not re.fullmatch(r"\d+(\.\.\d+)?", part.strip()):
            raise InputError(f"{option} {text}: is written as 64, as 1,8,64 or as 1..256")
        low, *high = (int(n) for n in part.split(".."))
        powers = [2**i for i in range(31) if high and low <= 2**i <= high[0]]
        found += sorted({low, *powers, *high})
    if found and min(found) < 1:
        raise InputError(f"{option} {text}: must be 1 or more")
    return sorted(set(found))


def loads(
    option: str,
    users: str | None,
    think_s: float,
    rate: str | None,
    cv: float,
    arrivals: Path | None = None,
    speed: float = 1.0,
) -> list[str]:
    """Loads as plans write them: users, of the option called `option`, rates, recorded arrivals. Raises InputError."""
    found = [f"users:{n}/{think_s:g}" for n in counts(option, users)]
    try:
        found += [f"rate:{float(r):g}/{cv:g}" for r in rate.split(",")] if rate else []
    except ValueError:
        raise InputError(f"--rate {rate}: is written as 2,4,8") from None
    return found + ([f"file:{arrivals.resolve()}@{speed:g}"] if arrivals else [])
