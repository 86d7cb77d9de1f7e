"""One simulation: a trace, a profile, a policy and a load in; what users and the operator would have seen out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulator.admission import Rule, rule_of
from simulator.cost import StepCost
from simulator.engine import ALL_DONE, NEED_JOBS, NEED_REQUESTS, ROWS_FULL, advance
from simulator.errors import InputError
from simulator.policies import Policy
from simulator.state import Limits, Records, State, Tables, new_state, with_more_jobs
from simulator.traces import Trace, survival
from simulator.workload import CHUNK

ROWS = 8192
"""Finished requests handed over at a time, and as many more as may run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What the serving engine allows."""

    request_cap: int = 256
    """Requests running at once on a replica."""
    step_tokens: int = 8192
    """Tokens of one target pass, prompts included."""
    kv_capacity_tokens: int | None = None
    """Context tokens that fit on a replica; None takes the hardware profile's."""
    replicas: int = 1
    router: Literal["round_robin", "least_loaded"] = "least_loaded"

    def __post_init__(self) -> None:
        if min(self.request_cap, self.step_tokens, self.replicas, self.kv_capacity_tokens or 1) < 1:
            raise ValueError("engine: request_cap, step_tokens, kv_capacity_tokens and replicas must be 1 or more")


def tables_of(trace: Trace) -> Tables:
    """A trace as the compiled loop reads it."""
    anchors, gamma = trace.anchors, trace.gamma
    first, last = trace.offsets[:-1].copy(), trace.offsets[1:].copy()
    usable = last - gamma
    names = sorted({r.domain for r in trace.responses})
    domain = np.array([names.index(r.domain) for r in trace.responses], np.int64)
    members = [np.flatnonzero((domain == d) & (usable > first)) for d in range(len(names))]
    none = np.zeros((0, gamma), np.float32)
    confidence = none if anchors.confidence is None else np.ascontiguousarray(anchors.confidence, np.float32)
    fresh = none if anchors.fresh_confidence is None else np.ascontiguousarray(anchors.fresh_confidence, np.float32)
    survivals = survival(confidence)
    return Tables(
        first, last, usable, np.ascontiguousarray(anchors.drafted), np.ascontiguousarray(anchors.accepted),
        survivals, survivals.view(np.int32), confidence, fresh, domain,
        np.concatenate(members).astype(np.int64), np.cumsum([0, *map(len, members)], dtype=np.int64),
    )  # fmt: skip


class Simulator:
    """A running simulation. Raises InputError at once for what cannot be served."""

    def __init__(
        self,
        trace: Trace,
        policy: Policy,
        cost: StepCost,
        engine: Engine,
        kv_tokens: int,
        stream: Iterator[Records],
        *,
        users: int,
        seed: int,
        on_rows: Callable[[Records], None],
    ) -> None:
        """`users` is 0 in an open loop; `on_rows` takes finished requests, `simulator.state.ROW`, in order of finishing."""
        gamma = trace.gamma
        if policy.reads_confidences and trace.anchors.confidence is None:
            raise InputError(f"policy {policy.name}: needs confidences, and {trace.drafter} has none")
        if engine.step_tokens <= engine.request_cap * (gamma + 1):
            raise InputError(
                f"step_tokens {engine.step_tokens}: must be more than request_cap × (γ + 1) = "
                f"{engine.request_cap * (gamma + 1)}, or prompts would never get a turn"
            )
        self.tables = tables_of(trace)
        self.cost = typed(cost)
        self.rule: Rule = rule_of(policy, engine.request_cap, self.cost)
        self.rule = self.rule._replace(believed=typed(self.rule.believed))
        least_loaded = engine.router == "least_loaded"
        self.limits = Limits(engine.request_cap, engine.step_tokens, kv_tokens, gamma, users > 0, least_loaded, seed)
        self.state: State = new_state(self.limits, self.rule, engine.replicas, users, CHUNK, ROWS + engine.request_cap)
        self._stream, self._on_rows = stream, on_rows

    def run_until(self, until_s: float) -> bool:
        """Go on to a simulated time; False once nothing is left to do."""
        while True:
            why = advance(self.state, self.tables, self.limits, self.rule, self.cost, until_s)
            if why == NEED_REQUESTS:
                self._refill()
            elif why == NEED_JOBS:
                self.state = with_more_jobs(self.state, self.limits.gamma, self.rule)
            elif why == ROWS_FULL:
                self.flush()
            else:
                return bool(why != ALL_DONE)

    def flush(self) -> None:
        """Hand over the requests that have finished so far."""
        control = self.state.control[0]
        self._on_rows(self.state.rows[: control["rows"]].copy())
        control["rows"] = 0

    def _refill(self) -> None:
        control = self.state.control[0]
        chunk = next(self._stream, None)
        if chunk is None:
            control["last"] = 1
            return
        self._check(chunk)
        self.state.requests[: len(chunk)] = chunk
        control["next"], control["filled"] = 0, len(chunk)

    def _check(self, chunk: Records) -> None:
        """Whatever could never be admitted, or never end, is refused before it starts."""
        longest = int((chunk["prompt_tokens"] + chunk["output_tokens"]).max()) + self.limits.gamma + 1
        if longest > self.limits.kv_tokens:
            raise InputError(
                f"a request needs {longest} tokens of context, but the hardware holds {self.limits.kv_tokens}; "
                "shorten the requests or give kv_capacity_tokens"
            )
        t = self.tables
        response = chunk["response"]
        goes_on = chunk["output_tokens"] > t.last[response] - t.first[response] + 1
        domains = t.domain[response[goes_on]]
        if (t.member_first[domains + 1] == t.member_first[domains]).any():
            raise InputError(
                f"outputs are longer than the recorded responses, and a domain has none longer than γ + 1 = "
                f"{self.limits.gamma + 1} tokens to go on with; record longer responses or shorten the outputs"
            )


def typed(cost: StepCost) -> StepCost:
    """The same cost with the one set of types that the compiled loop was made for."""
    seconds = [np.ascontiguousarray(table, np.float64) for table in cost[:3]]
    return StepCost(*seconds, *(float(x) for x in cost[3:8]), int(cost.assumed_context_tokens))
