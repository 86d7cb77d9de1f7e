"""The k-by-batch table: for engines that know how many requests run, and nothing of confidences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from simulator.hardware.cost import StepCost, StepLoad
from simulator.load import Load, Users
from simulator.mix import Mix
from simulator.policies import PolicySpec
from simulator.traces import Trace


def k_by_batch(trace: Trace, mix: Mix, cost: StepCost, ends: Sequence[int], *, whole: bool = False) -> PolicySpec:
    """The policy that drafts and verifies the k with the most expected tokens a second, for every number of requests.

    With `whole`, k is γ or 0.

    Expected over all anchors of the trace, each response weighted as the mix asks; contexts are half-way through their
    responses. A row ends at each of `ends`, numbers of running requests, and is worked out there; rows of the same k are
    joined.
    """
    weight = np.repeat(mix.probabilities() / np.maximum(np.diff(trace.offsets), 1), np.diff(trace.offsets))
    accepted = np.minimum(trace.anchors.accepted[:, None], np.arange(trace.gamma + 1))
    tokens = 1 + weight @ accepted / weight.sum()
    prompt, output = mix.lengths()
    context = int(mix.probabilities() @ (prompt + output / 2))
    rows: list[tuple[int, int]] = []
    for last in ends:
        load = StepLoad(last, context_tokens=last * context)
        counts = [0, trace.gamma] if whole else list(range(trace.gamma + 1))
        seconds = np.array([cost.seconds(load, k, last * k) for k in counts])
        rows.append((last, counts[int(np.argmax(tokens[counts] / seconds))]))
    return PolicySpec.table(rows)


def row_ends(loads: Iterable[Load], request_cap: int, replicas: int) -> list[int]:
    """Where rows of a table end: at numbers of requests that are simulated, and nowhere above them.

    Users who do not pause are always there: a row for each number of them. Users who pause and open loops run in any
    number up to a most: a row for each power of two below it.
    """
    ends: set[int] = set()
    for load, _ in (part for several in loads for part in several.parts):
        most = load.most_running(request_cap, replicas)
        steady = isinstance(load, Users) and not load.think_s
        ends |= {most} if steady else {*(2**i for i in range(31) if 2**i < most), most}
    return sorted(ends)
