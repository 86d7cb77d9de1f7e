"""The k-by-batch table: for engines that know how many requests run, and nothing of confidences."""

from __future__ import annotations

import numpy as np

from simulator.hardware.cost import StepCost, StepLoad
from simulator.policies import PolicySpec
from simulator.requests import Mix
from simulator.traces import Trace


def k_by_batch(trace: Trace, mix: Mix, cost: StepCost, largest: int, *, whole: bool = False) -> PolicySpec:
    """The policy that drafts and verifies the k with the most expected tokens a second, for every number of requests.

    With `whole`, k is γ or 0.

    Expected over all anchors of the trace, each response weighted as the mix asks; contexts are half-way through their
    responses. One row for each power of two of requests, up to `largest`; rows of the same k are joined.
    """
    weight = np.repeat(mix.probabilities() / np.maximum(np.diff(trace.offsets), 1), np.diff(trace.offsets))
    accepted = np.minimum(trace.anchors.accepted[:, None], np.arange(trace.gamma + 1))
    tokens = 1 + weight @ accepted / weight.sum()
    prompt, output = mix.lengths()
    context = int(mix.probabilities() @ (prompt + output / 2))
    rows: list[tuple[int, int]] = []
    for last in _ends(largest):
        requests = max(1, round(last * 0.75))  # the middle of the row
        load = StepLoad(requests, context_tokens=requests * context)
        counts = [0, trace.gamma] if whole else list(range(trace.gamma + 1))
        seconds = np.array([cost.seconds(load, k, requests * k) for k in counts])
        k = counts[int(np.argmax(tokens[counts] / seconds))]
        if rows and rows[-1][1] == k:
            rows.pop()
        rows.append((last, k))
    return PolicySpec("k_by_batch", "/".join(f"{last}={k}" for last, k in rows))


def _ends(largest: int) -> list[int]:
    """The largest number of requests of each row."""
    return [*(2**i for i in range(31) if 2**i < largest), largest]
