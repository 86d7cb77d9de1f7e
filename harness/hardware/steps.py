"""What the steps of a closed loop hold: the same whatever they take, so that one simulation serves every profile.

Nobody in a closed loop waits for a clock: who comes next, and what is in a step with whom, depends on counts alone. The loop
is simulated once with steps of a second; what any profile makes of it is a sum over its steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.engine.state import Records
from simulator.hardware.cost import Longest, StepCost, StepLoad
from simulator.policies import Policy
from simulator.requests import CHUNK
from simulator.setup import EngineLimits
from simulator.simulation import Prepared, Simulator

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_AT_ONCE: Final = 1 << 16
"""Steps that are logged before they are put away."""
_KIND: Final = ("decoding", "prefilling", "finishing_prefill", "prefill_tokens", "drafted", "verified", "longest")
"""What a step's time depends on but for contexts and prompts' attention, which it is linear in."""
_CONTEXT: Final = 1 << 20


class Walk(NamedTuple):
    """When requests had their first and their last token, by request."""

    first_s: Floats
    finish_s: Floats


@dataclass(frozen=True, slots=True)
class Steps:
    """All steps of a closed loop."""

    kinds: Ints
    """Different ones, columns as in `_KIND`: [kinds, 7]."""
    kind: Ints
    """The kind of each step."""
    context_tokens: Ints
    padded_context_tokens: Ints
    """Where contexts are padded to the longest."""
    pairs: Ints
    """Pairs of prompts' tokens with those before them."""
    first: Ints
    """Steps until each request had its first token, its step included."""
    finish: Ints
    """The same until its last."""

    def walk(self, cost: StepCost) -> Walk:
        """When requests had their tokens, at a cost."""
        held_s, each_s = np.empty(len(self.kinds)), np.zeros(len(self.kinds))
        reads = bool(cost.context_s_per_token or cost.draft_context_s_per_token.any() or cost.widening_s.any())
        for i, (decoding, prefilling, finishing, tokens, drafted, verified, longest) in enumerate(self.kinds.tolist()):
            load = StepLoad(decoding, prefilling, finishing, tokens)
            held_s[i] = cost.step(load, drafted, verified, Longest(longest, 0)).seconds
            if not reads:
                continue
            read = load._replace(context_tokens=_CONTEXT)
            each = Longest(longest, _CONTEXT)
            count = decoding * _CONTEXT if cost.padded else _CONTEXT
            each_s[i] = (cost.step(read, drafted, verified, each).seconds - held_s[i]) / max(count, 1)
        context = self.padded_context_tokens if cost.padded else self.context_tokens
        seconds = held_s[self.kind] + each_s[self.kind] * context + cost.prefill_s_per_pair * self.pairs
        return self.at(seconds)

    def larger_than(self, captured: int) -> float:
        """The share of steps of more tokens than a size."""
        decoding, prompts, verified = (self.kinds[:, _KIND.index(n)] for n in ("decoding", "prefill_tokens", "verified"))
        return float((decoding + prompts + verified > captured)[self.kind].mean())

    def at(self, seconds: Floats) -> Walk:
        """When requests had their tokens, where each step takes so long."""
        clock_s = np.concatenate([[0.0], np.cumsum(seconds)])
        return Walk(clock_s[self.first], clock_s[self.finish])


def stepped(
    recorded: Prepared, policy: Policy, asked: Records, users: int, limits: EngineLimits, kv_tokens: int, seed: int
) -> Steps:
    """Simulate a closed loop. Raises InputError where it cannot be served."""
    gamma, sizes = recorded.trace.gamma, limits.step_tokens + 1
    second = StepCost(np.ones(sizes), np.ones(sizes), np.zeros((gamma + 1, users + 1)), np.zeros(gamma + 1))
    rows, logs, more = list[Records](), list[Records](), True
    simulator = Simulator(
        recorded, policy, second, limits, kv_tokens, _in_chunks(asked), users=users, seed=seed,
        on_rows=lambda some: rows.append(some.copy()), logged=_AT_ONCE,
    )  # fmt: skip
    while more:
        more = simulator.run_until(float(sum(map(len, logs)) + _AT_ONCE) - 0.5)
        logs.append(simulator.log())
    simulator.flush()
    done, held = np.concatenate(rows), np.concatenate(logs)
    done = done[np.argsort(done["request"])]
    kinds, kind = _kinds(np.stack([held[name] for name in _KIND]))
    first, finish = (done[name].round().astype(np.int64) for name in ("first_s", "finish_s"))
    return Steps(
        kinds, kind, held["context_tokens"].copy(), held["decoding"] * held["longest_context"],
        held["prefill_pairs"].copy(), first, finish,
    )  # fmt: skip


def _kinds(columns: Ints) -> tuple[Ints, Ints]:
    """(different ones among the columns of a table, which of them each is), columns numbered one after the other."""
    code = np.zeros(columns.shape[1], np.int64)
    for column in columns:  # a sort of whole columns takes ten times as long
        values, place = np.unique(column, return_inverse=True)
        _, code = np.unique(code * len(values) + place, return_inverse=True)
    _, first = np.unique(code, return_index=True)
    return np.ascontiguousarray(columns[:, first].T), code


def _in_chunks(asked: Records) -> Iterator[Records]:
    """Parts of what is asked, each as many as a simulation takes at a time."""
    for begin in range(0, len(asked), CHUNK):
        yield asked[begin : begin + CHUNK]
