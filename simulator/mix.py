"""What is asked: responses of a trace, by domain, with their lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.errors import InputError
from simulator.load import Load, RecordedArrivals
from simulator.numbers import counted
from simulator.traces import Trace


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
    output_cv: float = 0.0
    """Spread of the lengths of answers around those: standard deviation over mean."""
    times: npt.NDArray[np.int64] | None = None
    """How often each response counts, [S]: a bootstrap of the traffic; None counts each once."""

    def __post_init__(self) -> None:
        domains = {r.domain for r in self.trace.responses}
        if self.weights is not None:
            if unknown := sorted(set(self.weights) - domains):
                raise InputError(f"mix: no {', '.join(unknown)} in the trace; it has {', '.join(sorted(domains))}")
            if min(self.weights.values()) < 0 or not 0 < sum(self.weights.values()) < math.inf:
                raise InputError("mix: shares must be 0 or more and finite, and one above 0")
        for name in ("prompt_tokens", "output_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name}: must be 1 or more, got {value}")

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Each response's probability of being drawn for a request, [S]."""
        domain = np.array([r.domain for r in self.trace.responses])
        times = np.ones(len(domain)) if self.times is None else self.times.astype(np.float64)
        if self.weights is None:
            return np.asarray(times / times.sum())
        share = times * [self.weights.get(d, 0.0) for d in domain]
        names, place = np.unique(domain, return_inverse=True)
        counts = np.bincount(place, times, len(names))
        return np.asarray(share / counts[place] / share_sum(self.weights))

    def words(self, load: Load) -> str:
        """Lengths and domains of what is asked, and of a log how much of it, for people."""
        p, means, came = self.probabilities(), self.asked_lengths(load), ""
        if isinstance(load, RecordedArrivals):
            asked = load.requests
            last_s = float(asked.arrival_s[-1])
            came = f"; {counted(len(asked.arrival_s), 'request')}" + (
                f", {len(asked.arrival_s) / last_s:.3g} a second on average" if last_s > 0 else ""
            )
        names, place = np.unique([r.domain for r in self.trace.responses], return_inverse=True)
        shares = zip(names, np.bincount(place, p), strict=True)
        mix = "" if len(names) == 1 else "; " + ", ".join(f"{name} {share:.0%}" for name, share in shares if share)
        spread = f" (standard deviation {self.output_cv:.0%})" if self.output_cv else ""
        return f"prompts of {means[0]:,.0f} and answers of {means[1]:,.0f} tokens on average{spread}{came}{mix}"

    def mean_context(self, load: Load) -> float:
        """Tokens of a request's context while it is answered, on average."""
        prompt, output = self.asked_lengths(load)
        return prompt + output / 2

    def asked_lengths(self, load: Load) -> tuple[float, float]:
        """Prompt and output tokens of a request of a load, on average."""
        if isinstance(load, RecordedArrivals):
            return float(load.requests.prompt_tokens.mean()), float(load.requests.output_tokens.mean())
        return self.mean_lengths()

    def mean_lengths(self) -> tuple[float, float]:
        """Prompt and output tokens of a request, on average."""
        p, (prompt, output) = self.probabilities(), self.lengths()
        return float(p @ prompt), float(p @ output)

    def lengths(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Prompt and output tokens of each response, [S] each."""
        prompt = np.maximum([r.prompt_tokens for r in self.trace.responses], 1)
        output = np.diff(self.trace.offsets) + 1
        return (
            prompt if self.prompt_tokens is None else np.full_like(prompt, self.prompt_tokens),
            output if self.output_tokens is None else np.full_like(output, self.output_tokens),
        )


def spread_out(lengths: npt.NDArray[np.int64], cv: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Lengths that deviate from these by a factor each, gamma-distributed with mean 1 and standard deviation `cv`; whole
    tokens, 1 or more, whose mean is that of these wherever few come out below 1."""
    if not cv:
        return lengths
    exact = lengths * rng.gamma(cv**-2, cv**2, len(lengths))
    return np.maximum(np.floor(exact + rng.random(len(lengths))), 1).astype(np.int64)


def share_sum(weights: Mapping[str, float]) -> float:
    """The sum of the shares, which need not be 1."""
    return float(sum(weights.values()))
