"""Requests drawn from a trace's responses: who asks for what, and when, under a load."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from simulator.engine.state import REQUEST, Records
from simulator.load import Arrivals, Load, RecordedArrivals, Users
from simulator.mix import Mix, spread_out

CHUNK = 8192
"""Requests made at a time."""


def requests(mix: Mix, load: Load, rng: np.random.Generator) -> Iterator[Records]:
    """Requests in order of arrival, in chunks of `REQUEST` records: without end, or as many as were recorded or asked."""
    of_response, arrivals, thoughts, spread = rng.spawn(4)
    p, (prompt, output) = mix.probabilities(), mix.lengths()
    cumulative = np.cumsum(p)
    start_s, at = 0.0, 0
    recorded = load.requests if isinstance(load, RecordedArrivals) else None
    asked = load.requests_in_all if isinstance(load, Users) else None if recorded is None else len(recorded.arrival_s)
    while asked is None or at < asked:
        chunk = np.zeros(CHUNK, REQUEST)
        drawn = np.searchsorted(cumulative, of_response.random(CHUNK) * cumulative[-1], side="right")
        chunk["response"] = drawn
        chunk["prompt_tokens"], chunk["output_tokens"] = prompt[drawn], spread_out(output[drawn], mix.output_cv, spread)
        if isinstance(load, Users):
            chunk = chunk if asked is None else chunk[: asked - at]
            chunk["think_s"] = thoughts.exponential(load.think_s, CHUNK)[: len(chunk)] if load.think_s else 0.0
        elif isinstance(load, Arrivals):
            gaps = _gaps(load, arrivals)
            chunk["arrival_s"] = start_s + np.cumsum(gaps)
            start_s = float(chunk["arrival_s"][-1])
        elif recorded is not None:
            here = slice(at, at + CHUNK)
            chunk = chunk[: len(recorded.arrival_s[here])]
            chunk["arrival_s"] = recorded.arrival_s[here]
            chunk["prompt_tokens"], chunk["output_tokens"] = recorded.prompt_tokens[here], recorded.output_tokens[here]
        at += len(chunk)
        yield chunk


def _gaps(load: Arrivals, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    mean = 1 / load.rate_per_s
    return np.full(CHUNK, mean) if load.cv == 0 else rng.gamma(load.cv**-2, mean * load.cv**2, CHUNK)
