"""One run from start to end: plan the work, hand it to the workers, store what comes back, time the drafters."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import torch
from transformers.utils import logging as transformers_logging

from drafters.conversion import TRAINED
from harness.cluster import Cluster, Pool, joined
from harness.console import Watcher
from harness.recording.calibrate import calibrate
from harness.recording.inputs import read_inputs, without
from harness.recording.law import not_drawn, too_many_outside
from harness.recording.plan import RecordingPlan
from harness.recording.responses import GivenResponse, GivenResponses
from harness.recording.suite import Suite
from harness.recording.worker import Checked, Probe, Recorder, RecorderOptions, Unit
from results.store.database import Store
from results.store.lease import leased
from results.store.provenance import command_line, git_revision, package_versions
from results.store.rows import TARGET
from results.store.runs import RunInfo, asked_with
from results.store.subjects import RUN
from results.store.unfinished import begun, keeping
from simulator.errors import InputError
from simulator.numbers import counted
from simulator.records import Recording, kept_drafting

_MIN_FREE_BYTES = 64 << 20
_PROBED_PROMPTS, _PROBED_TOKENS = 12, 24
_TIMED_S = 180.0
"""Seconds after which no prompt is timed live any more."""
_BYTES_BESIDE = 4
"""Bytes of an anchor's row, beside its lists of floats."""


@dataclass(frozen=True, slots=True)
class RecordingEstimate:
    """The cost of a dense recording: of the given responses, or if every response runs to the length limit."""

    given: bool
    """Whether the responses are there already: nothing is generated, and the counts are exact."""
    responses: int
    anchors: int
    """Over all drafters, block sizes and ways to draft."""
    anchor_bytes: int
    """On disk, before compression."""
    hidden_state_bytes: int
    """What the target's tapped hidden states of the same text would take, which are not kept."""
    seconds: float
    workers: int
    probe: Probe


def start_run(plan: RecordingPlan, store: Store, cluster: Cluster, watcher: Watcher, *, skip_long: bool = False) -> str:
    """Record a new run; returns its id. Nothing is stored unless suite, pair, checkpoints and prompts are all sound."""
    suite, given = read_inputs(plan)
    plan = msgspec.structs.replace(plan, responses_hash=given.file_hash if given else None)
    _check_space(store)
    with joined(cluster, watcher.doing):
        pool = _pool(plan, suite, cluster, watcher)
        watcher.say("loading the pair and checking it")
        if skip_long:
            plan = msgspec.structs.replace(plan, skipped=pool.call("too_long", list(suite.prompts), _of_prompt(given)))
            suite = without(suite, plan.skipped)
        checked = pool.call("check", list(suite.prompts), _of_prompt(given))
        _check_answers(plan, given, checked)
        run_id = store.create_run(_run_info(plan, suite, checked))
        with begun(store, RUN, run_id, watcher.began):
            _say_run(suite, plan, run_id, checked, watcher)
            _work(run_id, plan, suite, given, checked, store, pool, watcher)
    return run_id


def resume_run(run_id: str, store: Store, cluster: Cluster, watcher: Watcher) -> None:
    """Do what an interrupted run has left to do.

    Raises InputError where suite or pair are no longer the same, or another process is at work on it.
    """
    if store.run(run_id)["finished_at"] is not None:
        watcher.say(f"run {run_id} is already finished")
        return
    _check_space(store)
    with leased(store, RUN, run_id):
        _resume(run_id, store, cluster, watcher)


def _resume(run_id: str, store: Store, cluster: Cluster, watcher: Watcher) -> None:
    row = store.run(run_id)
    if row["finished_at"] is not None:
        watcher.say(f"run {run_id} is already finished")
        return
    try:
        plan = msgspec.convert(row["plan"], RecordingPlan)
    except msgspec.ValidationError:
        raise InputError(f"run {run_id}: was planned by an older Specyard; start a new run") from None
    suite, given = read_inputs(plan)
    if suite.content_hash != row["suite_hash"]:
        raise InputError(f"run {run_id}: suite {plan.suite} or its prompts have changed since; start a new run")
    with joined(cluster, watcher.doing):
        pool = _pool(plan, suite, cluster, watcher)
        watcher.say("loading the pair and checking it")
        checked = pool.call("check", list(suite.prompts), _of_prompt(given))
        before = Checked(row["target"], row["drafters"], row["host"]).identity
        now, noted = checked.identity, {*before, *checked.drafters}  # an older Specyard noted less of a target
        changed = [name for name, value in now.items() if name in noted and value != before.get(name)]
        if changed:
            raise InputError(f"run {run_id}: {', '.join(changed)} of the pair has changed since; start a new run")
        _say_run(suite, plan, run_id, checked, watcher)
        with keeping(store, RUN, run_id, watcher.began):
            _work(run_id, plan, suite, given, checked, store, pool, watcher)


def estimate(plan: RecordingPlan, cluster: Cluster, watcher: Watcher, *, skip_long: bool = False) -> RecordingEstimate:
    """What a dense recording would cost, as it is planned, from a small sample; live timing comes on top. Stores nothing."""
    suite, given = read_inputs(plan)
    with ExitStack() as ends:
        pool: Pool | _Here
        if cluster.address is None:
            pool = _Here(cluster, _options(plan, suite))
        else:
            ends.enter_context(joined(cluster, watcher.doing))
            pool = _pool(plan, suite, cluster, watcher)
        if skip_long:
            suite = without(suite, pool.call("too_long", list(suite.prompts), _of_prompt(given)))
        watcher.say("loading the pair, checking it and recording a sample")
        _check_answers(plan, given, pool.call("check", list(suite.prompts), _of_prompt(given)))
        sample = suite.prompts[:: max(1, len(suite.prompts) // _PROBED_PROMPTS)][:_PROBED_PROMPTS]
        probe: Probe = pool.call("probe", list(sample), _PROBED_TOKENS)
    responses = sum(len(p.turns) for p in suite.prompts)
    tokens = responses * suite.file.generation.max_new_tokens
    if given:
        tokens = sum(len(r.token_ids) for p in suite.prompts for r in given.of_prompt[p.prompt_id])
    token_s = probe.record_s + (0 if given else probe.generate_s)
    anchors = [(tokens - responses, *variant) for variant in probe.variants]
    floats = sum(count * gamma * numbers for count, gamma, numbers in anchors)
    return RecordingEstimate(
        given=given is not None,
        responses=responses,
        anchors=sum(count for count, _, _ in anchors),
        anchor_bytes=4 * floats + sum(count for count, _, _ in anchors) * _BYTES_BESIDE,
        hidden_state_bytes=int((tokens + responses * probe.prompt_tokens) * probe.taps_bytes),
        seconds=tokens * token_s / min(pool.size, -(-len(suite.prompts) // plan.batch)),
        workers=pool.size,
        probe=probe,
    )


class _Here:
    """A recorder in this process: for a sample, starting Ray would take longer than it saves."""

    def __init__(self, cluster: Cluster, options: RecorderOptions) -> None:
        transformers_logging.disable_progress_bar()  # its bars would stand among ours
        self._recorder = Recorder(options)
        self.size = cluster.actors or torch.cuda.device_count() or len(os.sched_getaffinity(0))
        """Workers that a recording would have, about."""

    def call(self, method: str, *arguments: object) -> Any:
        """One call."""
        return getattr(self._recorder, method)(*arguments)


def units(plan: RecordingPlan, suite: Suite, given: GivenResponses | None, variants: Sequence[Recording]) -> list[Unit]:
    """The work of a run, `batch` prompts at a time in suite order: dense all drafters together, live one after another."""
    groups = [suite.prompts[i : i + plan.batch] for i in range(0, len(suite.prompts), plan.batch)]
    if plan.mode == "live":
        return [Unit(group, live=variant) for variant in variants for group in groups]
    of_prompt = given.of_prompt if given else {}
    return [Unit(group, given=tuple(r for p in group for r in of_prompt.get(p.prompt_id, ()))) for group in groups]


def _work(
    run_id: str,
    plan: RecordingPlan,
    suite: Suite,
    given: GivenResponses | None,
    checked: Checked,
    store: Store,
    pool: Pool,
    watcher: Watcher,
) -> None:
    temperature = suite.file.generation.temperature
    variants = list(dict.fromkeys(
        Recording(name, gamma, drafting=kept_drafting(way, d["kind"], temperature), kind=d["kind"])
        for name, d in checked.drafters.items() for gamma in d["gammas"] for way in plan.drafting
    ))  # fmt: skip
    recorded = store.recorded_prompts(run_id)
    todo = units(plan, suite, given, variants)
    total = sum(_responses(u) for u in todo)
    todo = [u for u in todo if (u.key, u.prompts[0].prompt_id) not in recorded]
    done = total - sum(_responses(u) for u in todo)
    stage = f"recording · {plan.mode} · {counted(len(checked.drafters), 'drafter')} · {counted(pool.size, 'actor')}"
    watcher.advance(stage, done, total)
    outside = _outside(run_id, store)[0]
    for (unit,), tables in pool.map("record", [(u,) for u in todo]):
        if given is not None:
            outside += _judged(given, plan.responses_option, outside, tables.get("readings"))
        store.add(run_id, tables)
        done += _responses(unit)
        watcher.advance(stage, done, total)
    _check_law(run_id, plan, store)
    _say_found(run_id, suite, variants if plan.mode == "live" else [TARGET], store, watcher)
    if not _rounds(run_id, store):
        watcher.say("every response is a single token, which a prefill gives: the run has no rounds")
    elif plan.mode == "dense":
        calibrate(run_id, store, watcher.say)

    first_of_task = {p.task: p for p in reversed(suite.prompts)}
    if plan.speed_passes and checked.cannot_decode:
        watcher.say(f"no live speed pass: {checked.cannot_decode}")
    passes = 0 if checked.cannot_decode else plan.speed_passes
    timed = [(sample, prompt) for sample in range(passes) for prompt in first_of_task.values()]
    taken = store.timed(run_id)
    if timed and len(taken) < len(timed):
        how_often = f"{counted(len(first_of_task), 'prompt')}, {counted(passes, 'time')}"
        watcher.say(f"timing drafters live on {how_often}, for {_TIMED_S:.0f} s at most")
    began_s = time.monotonic()
    for count, (sample, prompt) in enumerate(timed, 1):
        if (sample, prompt.prompt_id) not in taken:
            if count > 1 and time.monotonic() - began_s > _TIMED_S:
                watcher.say(f"timing ends after {_TIMED_S:.0f} s, with {count - 1} of {counted(len(timed), 'prompt')} timed")
                break
            store.add_speed(run_id, pool.call("time", sample, prompt))
        watcher.advance("timing drafters · one request at a time", count, len(timed))
    store.finish_run(run_id)


def _judged(given: GivenResponses, option: str, before: int, readings: pa.Table | None) -> int:
    """Tokens of some given responses that the target cannot say; `before` were found in others.

    Raises InputError where these are too many of the file's to be the target's.
    """
    rows = [r for r in ([] if readings is None else readings.to_pylist()) if r["outside"]]
    found = sum(int(r["outside"]) for r in rows)
    if rows:
        worst = max(rows, key=lambda r: r["outside"])
        given.judge(option, before + found, f"{worst['prompt_id']}, turn {worst['turn']}")
    return found


def _check_law(run_id: str, plan: RecordingPlan, store: Store) -> None:
    """Raise InputError where the target, reading a run's responses as a whole, would not have said them so.

    Its own responses can fail too: where a model computes a text in pieces otherwise than as a whole, neither is its law.
    """
    sql = "SELECT sum(outside), sum(tokens), sum(surprise), sum(variance) FROM readings WHERE run_id = ?"
    with store.reading() as connection:
        [(outside, read, surprise, variance)] = connection.execute(sql, [run_id]).fetchall()
    if not read:
        return
    whose = f"{plan.responses_option}: these" if plan.responses else "the target's own responses, read as a whole,"
    if told := not_drawn(read, surprise, variance):
        raise InputError(f"{whose} {told}")
    half = store.run(run_id)["target"].get("dtype") not in (None, "float32")
    if not plan.responses and too_many_outside(outside, read, least=2, half=half):
        raise InputError(
            f"{whose} have {outside} of {read} tokens that it would not have said: it computes a text in pieces "
            "otherwise than as a whole, and neither can be taken for its law"
        )


def _outside(run_id: str, store: Store) -> tuple[int, int]:
    """(tokens that the target, reading a run's responses again, could not say; tokens it read)."""
    sql = "SELECT sum(outside), sum(tokens) FROM readings WHERE run_id = ?"
    with store.reading() as connection:
        [(outside, read)] = connection.execute(sql, [run_id]).fetchall()
    return int(outside or 0), int(read or 0)


def _rounds(run_id: str, store: Store) -> int:
    """Rounds of a run, over all drafters."""
    with store.reading() as connection:
        [(rounds,)] = connection.execute("SELECT count(*) FROM rounds WHERE run_id = ?", [run_id]).fetchall()
    return int(rounds)


def _say_found(run_id: str, suite: Suite, decoded: Sequence[Recording], store: Store, watcher: Watcher) -> None:
    """Say how many tokens rounding decided otherwise, and which turns were left out of what was `decoded`."""
    outside, read = _outside(run_id, store)
    if read:
        watcher.say(f"{outside} of {read} response tokens ({outside / read:.2%}) round otherwise when read again")
    sql = """
        SELECT prompt_id, count(*) FROM responses
        WHERE run_id = ? AND drafter = ? AND gamma = ? AND drafting = ? GROUP BY ALL
    """
    for key in decoded:
        with store.reading() as connection:
            turns = dict(connection.execute(sql, [run_id, key.drafter, key.gamma, key.drafting]).fetchall())
        ended = {p.prompt_id: turns[p.prompt_id] for p in suite.prompts if turns[p.prompt_id] < len(p.turns)}
        if ended:
            where = ", ".join(f"{prompt} from turn {turn}" for prompt, turn in ended.items())
            why = "outgrew the target's context, or whose empty reply its chat template refuses,"
            watcher.say(f"{key.drafter}: conversations that {why} end early: {where}")


def _of_prompt(given: GivenResponses | None) -> dict[str, tuple[GivenResponse, ...]]:
    return {} if given is None else given.of_prompt


def _responses(unit: Unit) -> int:
    return sum(len(p.turns) for p in unit.prompts)


def _check_answers(plan: RecordingPlan, given: GivenResponses | None, checked: Checked) -> None:
    """Raise InputError where the plan needs the target to say what it cannot say by itself."""
    if plan.mode == "live" and checked.cannot_decode:
        raise InputError(f"--mode live: {checked.cannot_decode}; leave --mode live out")
    cut = given is None or any(r.finish == "length" for responses in given.of_prompt.values() for r in responses)
    if cut and checked.cannot_generate:
        raise InputError(checked.cannot_generate)


def _options(plan: RecordingPlan, suite: Suite) -> RecorderOptions:
    generation = suite.file.generation
    return RecorderOptions(
        plan.pair, plan.drafters, plan.block_sizes, generation, plan.seed, plan.fresh_tails, plan.drafting
    )


def _pool(plan: RecordingPlan, suite: Suite, cluster: Cluster, watcher: Watcher) -> Pool:
    return Pool(cluster, Recorder, (_options(plan, suite),), watcher.say)


def _say_run(suite: Suite, plan: RecordingPlan, run_id: str, checked: Checked, watcher: Watcher) -> None:
    source = {
        "bundled": "bundled prompts, not the benchmarks",
        "suite": f"prompts of {plan.suite}",
        "data-dir": f"prompts from {plan.data_dir}",
        "hub": "prompts from the hub",
    }[suite.source]
    name = f"{suite.file.name} v{suite.file.version}"
    target = f"{checked.target['dtype']} on {checked.target['device']}"
    watcher.say(f"suite {name} · {source} · pair {plan.pair_name} · {target} · seed {plan.seed} · run {run_id}")
    for note in suite.notes:
        watcher.say(note)
    if told := asked_with(checked.target):
        watcher.say(told)
    if checked.target["dated"]:
        watcher.say(f"the target's chat template asks for today's date: it is told {suite.file.generation.today} on any day")
    for drafter, of in checked.drafters.items():
        if seen := of.get("training", {}).get("prompts_seen"):
            watcher.say(
                f"{drafter} was trained on {seen:,} of these {counted(len(suite.prompts), 'prompt')}: what it accepts of "
                "them is more than of others"
            )
        own = of.get("training", {}).get("facts", {}).get("target_hash", checked.target["hash"])
        if own != checked.target["hash"]:
            watcher.say(
                f"{drafter} was trained for a target with other weights or settings, as {TRAINED} beside it says: what it "
                "accepts here is no measure of it there"
            )
    if asked := checked.target["left_out"]:
        watcher.say(
            f"the target's generation settings ask for {', '.join(asked)}: not done here, and a server that does it answers "
            "by another law"
        )
    if not checked.target["end_tokens"]:
        watcher.say("no end token of the target is named: answers end at --max-new-tokens alone")
    if plan.skipped:
        watcher.say(f"left out as too long for the target's context: {', '.join(plan.skipped)}")


def _run_info(plan: RecordingPlan, suite: Suite, checked: Checked) -> RunInfo:
    generation = suite.file.generation
    return RunInfo(
        command=command_line(),
        suite=suite.file.name,
        suite_version=suite.file.version,
        suite_hash=suite.content_hash,
        prompt_source=suite.source,
        pair=plan.pair_name,
        target=checked.target,
        drafters=checked.drafters,
        sampling=msgspec.to_builtins(generation),
        seed=plan.seed,
        plan=msgspec.to_builtins(plan),
        git_revision=git_revision(),
        packages=package_versions(),
        host=checked.host,
    )


def _check_space(store: Store) -> None:
    """Raise InputError where results could not be kept, before anything is made or started."""
    store.prepare()
    folder = next(parent for parent in store.file.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < _MIN_FREE_BYTES:
        raise InputError(f"--out {store.file.parent}: {free >> 20} MB free, at least {_MIN_FREE_BYTES >> 20} MB are needed")
