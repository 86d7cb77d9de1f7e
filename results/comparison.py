"""What changed between two runs, a baseline and a run, or two drafters of one run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import duckdb
import numpy as np
import polars as pl

from results.baseline import Answer, Baseline, BaselineRecording, baseline
from results.change import Change, Measured, Noise, judged, mean_of_ratios, noise_of_ratio
from results.figures import sweep as sweep_figure
from results.figures.intervals import Floats
from results.figures.speed import paired_cells
from results.figures.style import in_order
from results.speed_change import speed_change
from results.store.runs import TARGET_FILES, Provenance, provenance
from results.store.simulations import Simulation
from simulator.errors import InputError
from simulator.load import Load
from simulator.numbers import counted
from simulator.policies import PolicySpec
from simulator.records import Recording

_BATCHES: Final = 38
"""Degrees of freedom of the noise of two simulations, 20 batches each."""

OVERALL: Final = "overall"
"""Where a drafter's accepted length is the mean of all tasks, each weighing the same."""

GREEDY: Final = " (greedy drafts)"
"""After a drafter's name where its drafts were greedy: the two ways are compared apart."""

_KNOWN_IN_PART: Final = "an older run does not know its tokenizer, chat template and end tokens: they may not be the same"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was before, and what is now."""

    first: str
    second: str
    differences: tuple[str, ...]
    """What else differs: settings, checkpoints, versions, machines."""
    unfit: tuple[str, ...]
    """Why nothing may be decided by it: runs of another key, or not finished."""
    changes: tuple[Change, ...]
    about: str = ""
    """What was asked of whom, and when the run that is now was made."""

    def regressions(self, tolerance: float) -> list[Change]:
        """What got worse, clearly and by more than a share, or is gone."""
        return [change for change in self.changes if change.regressed(tolerance)]


class _Pair(NamedTuple):
    """A recording before and one now, under one name."""

    label: str
    gamma: int
    first: Recording
    second: Recording


def compare(con: duckdb.DuckDBPyConnection, first: str, second: str) -> Comparison:
    """Every quantity that either run has.

    Raises LookupError for an unknown run, and InputError where the two have nothing in common.
    """
    runs, sums = (provenance(con, first), provenance(con, second)), (baseline(con, first), baseline(con, second))
    pairs = _same_drafters(*sums)
    speeds = _timed(con, first), _timed(con, second)
    same_suite = sums[0].key.suite_hash == sums[1].key.suite_hash
    lengths, (throughputs, unlike) = _lengths(*sums, pairs), _throughputs(con, first, second, pairs)
    found = [
        *lengths,
        *_speeds(*speeds, _pairs([*speeds[0], *speeds[1]]), same_suite=same_suite),
        *with_prompts(throughputs, lengths),
    ]
    other = sums[0].key.differences(sums[1].key)
    unfit = [f"run {second} is of another key than run {first}: {', '.join(other)}"] if other else []
    unfit += [f"run {run.run_id} is not finished" for run in runs if run.finished_at is None]
    return Comparison(first, second, (*_differences(*runs), *unlike), tuple(unfit), tuple(judged(found)), _about(runs[1]))


def compare_with_baseline(con: duckdb.DuckDBPyConnection, file: str, before: Baseline, run_id: str) -> Comparison:
    """Accepted lengths of a run beside those of a baseline file.

    Raises LookupError for an unknown run, and InputError for one of another key, or with nothing in common.
    """
    run, now = provenance(con, run_id), baseline(con, run_id)
    other = before.key.differences(now.key)
    if other:
        raise InputError(f"{file} is of another key than run {run_id}, so they cannot be compared: {', '.join(other)}")
    both = [name for name in before.drafters if name in now.drafters]
    changed = [name for name in both if before.drafters[name] != now.drafters[name]]
    differences = [f"checkpoint of {name} differs" for name in changed]
    if before.key.target.keys() != now.key.target.keys():
        differences.append(_KNOWN_IN_PART)
    if _knows_no_turns(before) and any((answer.turns or 0) > 1 for one in now.recordings for answer in one.answers.values()):
        differences.append(
            f"{file} is of an earlier version and knows no turns: one without an answer now would not be seen"
        )
    unfit = () if run.finished_at else (f"run {run_id} is not finished",)
    return Comparison(file, run_id, tuple(differences), unfit, tuple(judged(compare_sums(before, now))), _about(run))


def _knows_no_turns(run: Baseline) -> bool:
    return all(answer.turns is None for one in run.recordings for answer in one.answers.values())


def compare_sums(first: Baseline, second: Baseline) -> list[Measured]:
    """Accepted lengths of two runs, not judged yet. Raises InputError where the two have nothing in common."""
    return _lengths(first, second, _same_drafters(first, second))


def compare_drafters(con: duckdb.DuckDBPyConnection, run_id: str, old: str, new: str) -> Comparison:
    """Two drafters of one run, prompt by prompt.

    Raises LookupError for an unknown run, and InputError where it lacks one of them, or they share no block size.
    """
    run, sums = provenance(con, run_id), baseline(con, run_id)
    pairs = _two_drafters(sums, run_id, old, new)
    speeds = _timed(con, run_id)
    lengths, (throughputs, _) = _lengths(sums, sums, pairs), _throughputs(con, run_id, run_id, pairs)
    found = [*lengths, *_speeds(speeds, speeds, pairs, same_run=True), *with_prompts(throughputs, lengths)]
    hashes = [next((d.checkpoint_hash for d in run.drafters if d.name == name), None) for name in (old, new)]
    same = (f"{old} and {new} are the same checkpoint",) if hashes[0] and hashes[0] == hashes[1] else ()
    unfit = () if run.finished_at else (f"run {run_id} is not finished",)
    return Comparison(f"{run_id} {old}", f"{run_id} {new}", same, unfit, tuple(judged(found)), _about(run))


def _about(run: Provenance) -> str:
    asked = f"{run.suite} v{run.suite_version}, {counted(run.prompts, 'prompt')}"
    pair = "" if run.pair == run.target_name else f"pair {run.pair}, "
    return f"{asked}, {pair}target {run.target_name}, {run.created_at:%Y-%m-%d}"


def _pairs(keys: Iterable[Recording]) -> list[_Pair]:
    """Each key beside itself, larger blocks first, and sampled drafts, which are what is decided by, before greedy ones."""
    order = sorted(set(keys), key=lambda key: (key.drafter, -key.gamma, key.drafting == "greedy"))
    return [_Pair(_label(key.drafter, key.drafting), key.gamma, key, key) for key in order]


def _same_drafters(first: Baseline, second: Baseline) -> list[_Pair]:
    keys = [{recorded.key for recorded in each.recordings} for each in (first, second)]
    if not keys[0] & keys[1]:
        told = (", ".join(sorted(f"{key.short} {key.drafting}" for key in each)) for each in keys)
        raise InputError("nothing is comparable: no drafter, block size and way to draft is in both ({} | {})".format(*told))
    return _pairs(keys[0] | keys[1])


def _two_drafters(sums: Baseline, run_id: str, old: str, new: str) -> list[_Pair]:
    """Recordings of two drafters at the same γ, drafting the same way; at different γ where each has only one."""
    sides = [[recorded.key for recorded in sums.recordings if recorded.drafter == name] for name in (old, new)]
    for name, side in zip((old, new), sides, strict=True):
        if not side:
            known = ", ".join(dict.fromkeys(recorded.drafter for recorded in sums.recordings))
            raise InputError(f"--drafters {old},{new}: run {run_id} has no recordings of {name}; it has {known}")
    gammas = [{key.gamma for key in side} for side in sides]
    alone = all(len(each) == 1 for each in gammas)
    pairs = []
    for one in sides[0]:
        for other in sides[1]:
            ways = {one.drafting, other.drafting} - {"either"}
            if len(ways) < 2 and (one.gamma == other.gamma or alone):
                before = old if one.gamma == other.gamma else f"{old} γ={one.gamma}"
                pairs.append(_Pair(_label(f"{before} → {new}", next(iter(ways), "either")), other.gamma, one, other))
    if not pairs:
        told = (", ".join(f"γ={key.gamma} {key.drafting}" for key in side) for side in sides)
        raise InputError("--drafters {},{}: were recorded at no common block size and way to draft ({} | {})".format(
            old, new, *told
        ))  # fmt: skip
    return sorted(pairs, key=lambda pair: (-pair.gamma, pair.second.drafting == "greedy"))


def _label(drafter: str, drafting: str) -> str:
    return drafter + (GREEDY if drafting == "greedy" else "")


# --- accepted length ------------------------------------------------------------------------------------------------------


def _lengths(first: Baseline, second: Baseline, pairs: Sequence[_Pair]) -> list[Measured]:
    """τ by drafter: over all tasks, then by domain and task; paired where prompts are the same."""
    return [row for pair in pairs for row in _lengths_of(pair, first, second)]


def chance_of_lead(run: Baseline, ahead: Recording, behind: Recording, domain: str) -> float | None:
    """Two-sided p-value of no difference in a domain's accepted length, by prompts that both answered; None of too few."""
    tasks, paired = _tasks(run, run.recorded(behind), run, run.recorded(ahead))
    both = [(t.first, t.second) for t in tasks if t.domain == domain and t.first is not None and t.second is not None]
    first, second = [one for one, _ in both], [other for _, other in both]
    noise, before, after = noise_of_ratio(first, second, paired=True), mean_of_ratios(first), mean_of_ratios(second)
    if not paired or noise is None or not before or not after:
        return None
    return noise.chance(math.log(after / before))


class _Task(NamedTuple):
    """A task's [n, 2] sums, committed and rounds a prompt, before and now; None where it is not there."""

    task: str
    domain: str
    first: Floats | None
    second: Floats | None
    gone: int
    turns_gone: int


def _lengths_of(pair: _Pair, first: Baseline, second: Baseline) -> list[Measured]:
    tasks, paired = _tasks(first, first.recorded(pair.first), second, second.recorded(pair.second))
    groups = [(OVERALL, tasks)]
    domains = in_order(task.domain for task in tasks)
    for domain in domains:
        own = [task for task in tasks if task.domain == domain]
        if len(own) > 1 and len(domains) > 1:
            groups.append((f"{domain} mean", own))
        if len(tasks) > 1:
            groups += [(task.task, [task]) for task in own]
    found = []
    for where, members in groups:
        both = [t for t in members if t.first is not None and t.second is not None]
        one = [t.first for t in both or members if t.first is not None]
        other = [t.second for t in both or members if t.second is not None]
        noise = noise_of_ratio(one, other, paired=paired) if both else None
        before, after = mean_of_ratios(one), mean_of_ratios(other)
        alone = members[0] if len(members) == 1 else None  # a mean does not repeat what its tasks say
        gone = (0, 0) if alone is None else (alone.gone, alone.turns_gone)
        found.append(Measured("accepted length", pair.label, pair.gamma, where, before, after, noise, paired, *gone))
    return found


def _tasks(
    first: Baseline, before: BaselineRecording | None, second: Baseline, now: BaselineRecording | None
) -> tuple[list[_Task], bool]:
    """Sums by task, and whether they are paired: of the prompts that both have, in one order, if there are any."""
    one, other = _by_task(first, before), _by_task(second, now)
    paired = any(one[task].keys() & other[task].keys() for task in one.keys() & other.keys())
    found = []
    for task in sorted(one.keys() | other.keys()):
        old, new = one.get(task, {}), other.get(task, {})
        gone = turns_gone = 0
        if paired and old:  # what is new in a task is left out, what is gone from it is counted
            common = old.keys() & new.keys()
            gone, turns_gone = len(old) - len(common), sum(_turns_gone(old[p], new[p]) for p in common)
            old, new = ({p: s[p] for p in common} for s in (old, new)) if common else (old, {})
        found.append(_Task(*task, _sums(old), _sums(new), gone, turns_gone))
    return found, paired


def _turns_gone(old: Answer, new: Answer) -> int:
    """Turns of a prompt that have no answer any more, as far as both know how many they had."""
    return 0 if old.turns is None or new.turns is None else max(old.turns - new.turns, 0)


def _sums(answers: Mapping[str, Answer]) -> Floats | None:
    """Committed and rounds, a row a prompt in order of their names; None where there is none."""
    rows = [(answers[p].committed, answers[p].rounds) for p in sorted(answers)]
    return np.array(rows, np.float64) if rows else None


def _by_task(run: Baseline, recorded: BaselineRecording | None) -> dict[tuple[str, str], dict[str, Answer]]:
    """(Task, domain) → hash of the prompt → what was got of it."""
    found: dict[tuple[str, str], dict[str, Answer]] = {}
    for name, answer in ({} if recorded is None else recorded.answers).items():
        prompt = run.prompts[name]
        found.setdefault((prompt.task, prompt.domain), {})[prompt.hash] = answer
    return found


# --- speed and throughput -------------------------------------------------------------------------------------------------


def _timed(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[Recording, pl.DataFrame]:
    """What was timed beside none, which is comparable between machines as far as anything is."""
    found = paired_cells(con, run_id).group_by("drafter", "gamma", "drafting", maintain_order=True)
    return {Recording(drafter, gamma, drafting=drafting): own for (drafter, gamma, drafting), own in found}


def _speeds(
    first: Mapping[Recording, pl.DataFrame],
    second: Mapping[Recording, pl.DataFrame],
    pairs: Sequence[_Pair],
    *,
    same_suite: bool = True,
    same_run: bool = False,
) -> Iterator[Measured]:
    """Speed against none; what was timed before and is not now is gone."""
    for pair in pairs:
        one, other = first.get(pair.first), second.get(pair.second)
        found = speed_change(one, other, same_suite=same_suite, same_run=same_run)
        if found.first is not None or found.second is not None:
            yield Measured("speed against none", pair.label, pair.gamma, "", *found[:4], judged=found.judged)


_SIMULATED_ALIKE: Final = (
    "profile", "drafting", "believed", "confidences", "weights", "prompt_tokens", "output_tokens", "output_cv",
    "request_cap", "step_tokens", "kv_capacity_tokens", "replicas", "prefix_cache", "router",
)  # fmt: skip
"""What of two sweeps' plans has to be equal for their throughputs to be of one thing."""


def _throughputs(
    con: duckdb.DuckDBPyConnection, first: str, second: str, pairs: Sequence[_Pair]
) -> tuple[list[Measured], tuple[str, ...]]:
    """Simulated throughput at equal policy and load, of each run's latest sweep; and why there is none, where those differ.

    The noise is the simulation's own. What was simulated before and is not now is gone; what is new is left out.
    """
    sweeps = [sweep_figure.find_sweep(con, [run]) for run in (first, second)]
    if sweeps[0] is None:
        return [], ()
    plans = [None if name is None else sweep_figure.sweep(con, name).plan for name in sweeps]
    one, other = plans[0], plans[1]
    assert one is not None
    if other is not None and (unlike := [n for n in _SIMULATED_ALIKE if getattr(one, n) != getattr(other, n)]):
        told = ", ".join(name.replace("_", " ") for name in unlike)
        return [], (f"simulated throughput is not compared: sweeps {sweeps[0]} and {sweeps[1]} differ in {told}",)
    both = [[] if name is None else sweep_figure.simulated(con, name) for name in sweeps]
    alike = [pair for pair in pairs if {pair.first.drafting, pair.second.drafting} <= {one.drafting, "either"}]
    return [row for pair in alike for row in _throughputs_of(pair, *both)], ()


def _throughputs_of(pair: _Pair, first: Sequence[Simulation], second: Sequence[Simulation]) -> Iterator[Measured]:
    """A drafter's; beside another drafter, with policies that were simulated of both: some are of one alone."""
    before, now = _points(first, pair.first), _points(second, pair.second)
    policies = {policy for policy, _ in (before if pair.first == pair.second else now)}
    for (policy, load), old in before.items():
        if old is None or policy not in policies:
            continue
        new, noise = now.get((policy, load)), None
        if new is not None:
            error = math.hypot(*(half / throughput / 1.96 for throughput, half in (old, new)))
            noise = None if math.isnan(error) else Noise((error**2,), (_BATCHES + 1,))
        after = None if new is None else new[0]
        where = f"{policy} at {load.label}"
        yield Measured("throughput", pair.label, pair.gamma, where, old[0], after, noise, False)


def with_prompts(throughputs: Sequence[Measured], lengths: Sequence[Measured]) -> Iterator[Measured]:
    """Throughputs whose noise is that of the prompts too: of accepted length over all tasks, of which no throughput moves by
    more. Without it a longer simulation of few prompts would be as sure as one likes."""
    prompts = {(row.drafter, row.gamma): row.noise for row in lengths if row.where == OVERALL}
    for row in throughputs:
        own, theirs, noise = row.noise, prompts.get((row.drafter, row.gamma)), None
        if own is not None and theirs is not None:
            noise = Noise(own.variances + theirs.variances, own.units + theirs.units)
        yield replace(row, noise=noise)


def _points(points: Sequence[Simulation], key: Recording) -> dict[tuple[PolicySpec, Load], tuple[float, float] | None]:
    """Throughput of a drafter at its γ, and half of its interval, by policy and load; None where a point failed."""
    return {
        (point.system.policy, point.load): (point.throughput, point.half_width("throughput")) if point.throughput else None
        for point in points
        if (point.system.recording.drafter, point.system.recording.gamma) == (key.drafter, key.gamma)
    }


def _differences(first: Provenance, second: Provenance) -> list[str]:
    """What else differs between two runs, in words."""
    plain = ("suite", "suite_version", "suite_hash", "prompt_source", "pair", "target_name", "seed", "git_revision")
    found = [
        f"{name.removesuffix('_name').replace('_', ' ')}: {getattr(first, name)} → {getattr(second, name)}"
        for name in plain
        if getattr(first, name) != getattr(second, name)
    ]
    for name, one, other in (
        ("sampling", first.sampling, second.sampling),
        ("version of", first.packages, second.packages),
        ("machine", first.host, second.host),
    ):
        keys = dict.fromkeys([*one, *other])
        found += [f"{name} {key}: {one.get(key)} → {other.get(key)}" for key in keys if one.get(key) != other.get(key)]
    files = first.target_files, second.target_files
    both = [name for name in TARGET_FILES if name in files[0] and name in files[1]]
    changed = [TARGET_FILES[name] for name in both if files[0][name] != files[1][name]]
    if changed:
        found.append(f"the target is not the same: {', '.join(changed)}; changes may be the target's, not the drafters'")
    if files[0].keys() != files[1].keys():
        found.append(_KNOWN_IN_PART)
    hashes = [{d.name: d.checkpoint_hash for d in run.drafters} for run in (first, second)]
    both = [name for name in hashes[0] if name in hashes[1]]
    found += [f"checkpoint of {name} differs" for name in both if hashes[0][name] != hashes[1][name]]
    return found
