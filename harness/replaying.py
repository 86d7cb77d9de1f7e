"""Replaying a run's dense recordings under policies, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from results.store import Store
from simulator.errors import InputError
from simulator.policies import Policy, parse_policy
from simulator.records import Round
from simulator.replay import replay
from simulator.traces import Trace, TracedResponse, split_of


@dataclass(frozen=True, slots=True)
class Replayed:
    """A policy over a drafter's responses in one domain."""

    drafter: str
    gamma: int
    policy: str
    calibrated: bool
    domain: str
    prompts: int
    rounds: int
    tau: float
    """Mean of the tasks' Σ committed / Σ rounds, bonus token included."""
    budget: float
    """Tokens verified a round, anchor included: mean of the tasks' Σ (ℓ + 1) / Σ rounds."""
    verified: int
    """Draft tokens verified, over all rounds."""
    accepted: int
    """Of them accepted."""
    exact: bool
    """Whether a live run has this law; false for bounds and where unverified old confidences matter."""


def replay_run(
    store: Store,
    run_id: str,
    policies: Sequence[str] | None,
    drafters: Sequence[str] | None,
    *,
    calibrated: bool,
    say: Callable[[str], None],
) -> list[Replayed]:
    """Every policy on every dense recording of a run, by domain. Raises InputError for what is not there."""
    traced = [(name, gamma) for name, gamma in store.traced(run_id) if not drafters or name in drafters]
    if not traced:
        there = ", ".join(dict.fromkeys(name for name, _ in store.traced(run_id))) or "none"
        raise InputError(
            f"run {run_id}: has no dense recording of {', '.join(drafters or ['any drafter'])}; there are: {there}"
        )
    parsed = [parse_policy(text) for text in policies or []]
    rows: list[Replayed] = []
    for drafter, gamma in traced:
        trace = store.trace(run_id, drafter, gamma)
        if calibrated:
            temperatures = store.temperatures(run_id, drafter, gamma)
            if not temperatures:
                say(f"{drafter} γ={gamma}: left out, the run has no calibration of its confidences")
                continue
            # Never on the prompts the temperatures were fitted on.
            trace = trace.calibrated(temperatures).select([split_of(r.prompt_id) != "calibration" for r in trace.responses])
        for policy in parsed or [parse_policy(f"fixed:{gamma}")]:
            try:
                rows += _replay_trace(trace, policy, calibrated)
            except InputError as error:
                if drafters:
                    raise
                say(f"{drafter} γ={gamma}: left out: {error}")
    if not rows:
        raise InputError(f"run {run_id}: nothing to replay with these options")
    return rows


def _replay_trace(trace: Trace, policy: Policy, calibrated: bool) -> list[Replayed]:
    replayed = [(response, replay(anchors, policy)) for response, anchors in trace]
    replayed.sort(key=lambda pair: pair[0].domain)
    return [
        _of_domain(trace, policy, calibrated, domain, list(group))
        for domain, group in groupby(replayed, key=lambda pair: pair[0].domain)
    ]


def _of_domain(
    trace: Trace, policy: Policy, calibrated: bool, domain: str, replayed: list[tuple[TracedResponse, list[Round]]]
) -> Replayed:
    """Tasks weigh the same, as in the report and the field's tables; tokens within a task do."""
    taus, budgets = [], []
    for task in sorted({response.task for response, _ in replayed}):
        rounds = [r for response, rs in replayed if response.task == task for r in rs]
        if rounds:
            taus.append(sum(r.committed for r in rounds) / len(rounds))
            budgets.append(sum(r.verified + 1 for r in rounds) / len(rounds))
    every = [r for _, rs in replayed for r in rs]
    return Replayed(
        trace.drafter, trace.gamma, policy.name, calibrated, domain, len({r.prompt_id for r, _ in replayed}), len(every),
        sum(taus) / max(len(taus), 1), sum(budgets) / max(len(budgets), 1),
        sum(r.verified for r in every), sum(r.accepted for r in every),
        policy.lossless and policy.replays_exactly,
    )  # fmt: skip
