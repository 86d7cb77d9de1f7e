"""Replaying a run's dense recordings under policies, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.calibration import Confidences, not_fitted_on
from results.store import Store
from simulator.errors import InputError
from simulator.policies import Policy, parse_policy
from simulator.records import Round
from simulator.replay import replay
from simulator.traces import Trace, TracedResponse


@dataclass(frozen=True, slots=True)
class Replayed:
    """A policy over a drafter's responses in one domain."""

    drafter: str
    gamma: int
    policy: str
    confidences: Confidences
    """What the policy decided from; `none` if it looks at none."""
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
    """Every policy on every dense recording of a run, by domain. Raises InputError for what is not there.

    `calibrated` stands for estimated where a drafter has no confidence head.
    """
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
        confidences: Confidences = "raw"
        if calibrated:
            fitted = _fitted(store, run_id, trace)
            if fitted is None:
                say(f"{drafter} γ={gamma}: left out, the run has no calibration of its confidences")
                continue
            trace, confidences = fitted
        for policy in parsed or [parse_policy(f"fixed:{gamma}")]:
            try:
                rows += _replay_trace(trace, policy, confidences)
            except InputError as error:
                if drafters:
                    raise
                say(f"{drafter} γ={gamma}: left out: {error}")
    if not rows:
        raise InputError(f"run {run_id}: nothing to replay with these options")
    return rows


def _fitted(store: Store, run_id: str, trace: Trace) -> tuple[Trace, Confidences] | None:
    """A trace with calibrated or estimated confidences, without the prompts these were fitted on; None where it has none."""
    if temperatures := store.temperatures(run_id, trace.drafter, trace.gamma):
        return not_fitted_on(trace.calibrated(temperatures)), "calibrated"
    if weights := store.estimates(run_id, trace.drafter, trace.gamma):
        return not_fitted_on(trace.estimated(weights)), "estimated"
    return None


def _replay_trace(trace: Trace, policy: Policy, confidences: Confidences) -> list[Replayed]:
    replayed = [(response, replay(anchors, policy)) for response, anchors in trace]
    replayed.sort(key=lambda pair: pair[0].domain)
    return [
        _of_domain(trace, policy, confidences if policy.reads_confidences else "none", domain, list(group))
        for domain, group in groupby(replayed, key=lambda pair: pair[0].domain)
    ]


def _of_domain(
    trace: Trace,
    policy: Policy,
    confidences: Confidences,
    domain: str,
    replayed: list[tuple[TracedResponse, list[Round]]],
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
        trace.drafter, trace.gamma, policy.name, confidences, domain, len({r.prompt_id for r, _ in replayed}), len(every),
        sum(taus) / max(len(taus), 1), sum(budgets) / max(len(budgets), 1),
        sum(r.verified for r in every), sum(r.accepted for r in every),
        policy.lossless and policy.replays_exactly,
    )  # fmt: skip
