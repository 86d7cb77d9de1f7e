"""Acceptance from a run, where a table of measurements does not say it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from harness.hardware.measured import MeasuredPoint
from results.store.database import Store
from results.store.recordings import Recordings, choose_drafting
from simulator.averages import Averages
from simulator.errors import InputError
from simulator.policies import PolicySpec
from simulator.records import Recording
from simulator.replay import replay
from simulator.traces import Trace


class RunAcceptance(NamedTuple):
    """How drafts of a recording are accepted where all of them are verified."""

    averages: Averages
    half_width: float
    """Half of the 95 % interval of the tokens a round, by how prompts differ; nan of one prompt."""


def acceptance_in(trace: Trace, gamma: int) -> RunAcceptance:
    """The acceptance of rounds of γ drafted tokens, all responses pooled, as `fixed:γ` replays them."""
    policy = PolicySpec.fixed(gamma).bind()
    counts = np.zeros(gamma + 1)
    of_prompt: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for response, anchors in trace:
        rounds = replay(anchors, policy)
        counts += np.bincount([r.accepted for r in rounds], minlength=gamma + 1)
        own = of_prompt[response.prompt_id]
        own[0] += len(rounds)
        own[1] += sum(r.accepted for r in rounds)
    shares = counts[::-1].cumsum()[::-1][1:] / counts.sum()
    averages = Averages(tuple(shares.tolist()))
    sums = np.array(list(of_prompt.values()), np.float64)
    off = sums[:, 1] - (averages.accepted_length - 1) * sums[:, 0]  # the ratio's residuals
    n = len(sums)
    error = float(np.sqrt((off**2).sum() / (n - 1) / n) / sums[:, 0].mean()) if n > 1 else float("nan")
    return RunAcceptance(averages, 1.96 * error)


def accepted_as_in(
    points: Sequence[MeasuredPoint], store: Store, run_id: str, say: Callable[[str], None]
) -> tuple[MeasuredPoint, ...]:
    """The points, those that draft and do not say how it is accepted with a run's acceptance of the same kind of drafter.

    Raises InputError where no point needs it, or the run has no recording of such a drafter of as many tokens.
    """
    if not any(point.gamma and point.averages is None for point in points):
        raise InputError(f"--run {run_id}: is of no use: every row that drafts says how it is accepted; leave it out")
    recordings = Recordings(store, run_id, choose_drafting(store, run_id, None, say))
    deepest: dict[str, Recording] = {}
    for key in recordings.keys:
        deepest[key.kind] = max(key, deepest.get(key.kind, key), key=lambda r: r.gamma)
    found: dict[tuple[str, int], RunAcceptance] = {}
    made = []
    for point in points:
        if not point.gamma or point.averages is not None:
            made.append(point)
            continue
        its = deepest.get(point.kind)
        if its is None or its.gamma < point.gamma:
            there = ", ".join(f"{kind} of {key.gamma}" for kind, key in deepest.items()) or "none"
            raise InputError(
                f"line {point.line}: {point.kind} drafts {point.gamma} tokens, of which run {run_id} has no recording "
                f"(it has {there}); give accepted_length or survival"
            )
        what = (point.kind, point.gamma)
        if what not in found:
            found[what] = acceptance_in(recordings.whole(its), point.gamma)
            length, half = found[what].averages.accepted_length, found[what].half_width
            say(
                f"{point.kind} of {point.gamma}: {length:.2f} ± {half:.2f} tokens a round, as run {run_id} has them over "
                "its prompts; taken as known"
            )
        made.append(replace(point, averages=found[what].averages))
    return tuple(made)
