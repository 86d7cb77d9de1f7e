"""Replaying a run's dense recordings under policies, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from results.figures.intervals import Floats, bootstrap_ratio, divide, interval
from results.store.database import Store
from results.store.recordings import Recordings
from simulator.errors import InputError
from simulator.numbers import counted
from simulator.policies import PolicySpec
from simulator.records import Confidences, Drafting, KeptDrafting, Recording, Round
from simulator.replay import EVEN_STEPS, replay, replays_exactly
from simulator.traces import Trace, TracedResponse


@dataclass(frozen=True, slots=True)
class Change:
    """What τ of greedy drafts is over τ of sampled ones on the same responses, less 1: −0.1 is 10 % less."""

    change: float
    low: float | None
    """95 % interval, the same prompts drawn for both."""
    high: float | None


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
    """Draft tokens accepted, over all rounds."""
    exact: bool
    """Whether a live run has this law; false for bounds and where unverified old confidences matter."""
    drafting: KeptDrafting
    """How the replayed drafts were chosen."""
    low: float | None
    """95 % interval of τ: a bootstrap over the prompts of each task; None where every task has fewer than two."""
    high: float | None
    change: Change | None = None
    """Change of τ from sampled drafts to these greedy ones, all else equal; None where there are not both."""
    held_out: bool = False
    """Whether only the prompts were walked that nothing was fitted on."""


Drawn = tuple[Replayed, Floats]
"""A replay and the bootstrap's draws of its τ."""


def replay_run(
    store: Store,
    run_id: str,
    policies: Sequence[PolicySpec] | None,
    drafters: Sequence[str] | None,
    *,
    drafting: Drafting | None = None,
    calibrated: bool,
    say: Callable[[str], None],
) -> list[Replayed]:
    """Every policy on every dense recording of a run, by domain. Raises InputError for what is not there.

    `drafting` chooses among recordings of sampled and of greedy drafts; None takes both. `calibrated` stands for estimated
    where a drafter has no confidence head.
    """
    recordings = Recordings(store, run_id, drafting)
    chosen = [key for key in recordings.keys if not drafters or key.drafter in drafters]
    there = list(dict.fromkeys(key.drafter for key in recordings.keys))
    if not chosen or (unknown := [name for name in drafters or [] if name not in there]):
        asked = ", ".join(unknown if chosen else drafters or ["any drafter"])
        raise InputError(f"run {run_id}: has no dense recording of {asked}; there are: {', '.join(there) or 'none'}")
    for spec in policies or []:  # refused before anything is read
        spec.bind(None if spec.lossless else EVEN_STEPS)
    walked, lacking = _walks(recordings, chosen, policies, calibrated)
    if refused := [text for name, text in lacking if not any(shown.drafter == name for shown, _ in walked) and drafters]:
        raise InputError(f"run {run_id}: nothing to replay of {refused[0]}")
    if not walked:
        raise InputError(f"run {run_id}: nothing to replay with these options: {lacking[0][1]}")
    for _, text in lacking:
        say(text)
    rows: list[Drawn] = []
    if calibrated and not recordings.fitted:
        say(f"run {run_id} has no calibration: every prompt is walked")
    elif calibrated:
        left, every = (len({r.prompt_id for r in of(chosen[0]).responses}) for of in (recordings.trace, recordings.whole))
        if left < every:
            say(f"{left} of {counted(every, 'prompt')}, for every policy: those that no calibration was fitted on")
    for shown, of_shown in groupby(walked, key=lambda pair: pair[0]):
        trace = recordings.trace(shown) if calibrated else recordings.whole(shown.showing("none"))
        for _, policy in of_shown:
            try:
                rows += _replay_trace(trace, policy, shown.confidences)
            except InputError as error:
                if drafters:
                    raise
                say(f"{shown.showing('none')}: left out: {error}")
    if not rows:
        raise InputError(f"run {run_id}: nothing to replay with these options")
    return [replace(row, held_out=calibrated and recordings.fitted) for row in _compared(rows)]


def _walks(
    recordings: Recordings, chosen: Sequence[Recording], policies: Sequence[PolicySpec] | None, calibrated: bool
) -> tuple[list[tuple[Recording, PolicySpec]], list[tuple[str, str]]]:
    """(recording, policy) to walk; and what cannot be: the drafter's name, and what it is and why in words."""
    walked, lacking = list[tuple[Recording, PolicySpec]](), list[tuple[str, str]]()
    for key in chosen:
        shown = recordings.best(key) if calibrated else key.showing("raw")
        fitted = not calibrated or shown.confidences in ("calibrated", "estimated")
        for policy in policies or [PolicySpec.fixed(key.gamma)]:
            if policy.reads_confidences and not fitted:
                lacking.append((key.drafter, f"{key} {policy}: left out, the run has no calibration of its confidences"))
            elif (policy.k or 0) > key.gamma:
                lacking.append((key.drafter, f"{key} {policy}: left out, verifies more than was drafted"))
            else:
                walked.append((shown, policy))
    return walked, lacking


def _compared(rows: Sequence[Drawn]) -> list[Replayed]:
    """The replays, those of greedy drafts beside their sampled twins."""

    def key(row: Replayed) -> tuple[object, ...]:
        return row.drafter, row.gamma, row.policy, row.confidences, row.domain

    sampled = {key(row): (row, draws) for row, draws in rows if row.drafting == "sampled"}
    found = []
    for row, draws in rows:
        if row.drafting == "greedy" and key(row) in sampled:
            twin, other = sampled[key(row)]
            low, high = interval(divide(draws, other) - 1)
            row = replace(row, change=Change(row.tau / twin.tau - 1, low, high))
        found.append(row)
    return found


def _replay_trace(trace: Trace, policy: PolicySpec, confidences: Confidences) -> list[Drawn]:
    cost = None if policy.lossless else EVEN_STEPS
    replayed = [(response, replay(anchors, policy.bind(cost))) for response, anchors in trace]
    replayed.sort(key=lambda pair: pair[0].domain)
    return [
        _of_domain(trace, policy, confidences if policy.reads_confidences else "none", domain, list(group))
        for domain, group in groupby(replayed, key=lambda pair: pair[0].domain)
    ]


def _of_domain(
    trace: Trace,
    policy: PolicySpec,
    confidences: Confidences,
    domain: str,
    replayed: list[tuple[TracedResponse, list[Round]]],
) -> Drawn:
    """Tasks weigh the same, as in the report and the field's tables; tokens within a task do."""
    taus, budgets, draws = [], [], []
    rng = np.random.default_rng(0)  # the same prompts drawn for every replay: they are compared
    for task in sorted({response.task for response, _ in replayed}):
        of_task = [(response.prompt_id, rs) for response, rs in replayed if response.task == task]
        rounds = [r for _, rs in of_task for r in rs]
        if rounds:
            taus.append(sum(r.committed for r in rounds) / len(rounds))
            budgets.append(sum(r.verified + 1 for r in rounds) / len(rounds))
            draws.append(_draws(of_task, rng))
    drawn = np.mean(draws, 0) if draws else np.empty(0)
    every = [r for _, rs in replayed for r in rs]
    row = Replayed(
        trace.drafter, trace.gamma, str(policy), confidences, domain, len({r.prompt_id for r, _ in replayed}), len(every),
        sum(taus) / max(len(taus), 1), sum(budgets) / max(len(budgets), 1),
        sum(r.verified for r in every), sum(r.accepted for r in every),
        replays_exactly(policy, trace.drafting), trace.drafting, *interval(drawn),
    )  # fmt: skip
    return row, drawn


def _draws(of_task: Sequence[tuple[str, list[Round]]], rng: np.random.Generator) -> Floats:
    """Bootstrap draws of a task's τ over its prompts, each with all its turns."""
    sums: dict[str, tuple[int, int]] = {}
    for prompt, rounds in of_task:
        committed, count = sums.get(prompt, (0, 0))
        sums[prompt] = committed + sum(r.committed for r in rounds), count + len(rounds)
    committed, counts = np.array([sums[prompt] for prompt in sorted(sums)]).T
    return bootstrap_ratio(committed, counts, rng)
