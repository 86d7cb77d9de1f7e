"""A study's winner as a configuration to serve with: an engine's command, JSON, or Optuna's own file.

Names and fields are those of `simulator.serving`. What an engine cannot do as simulated is said in a comment, with what
comes closest.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.vllm.speculative import check
from results.store.commands import typed
from results.store.database import Store
from results.store.decisions import models_of
from results.store.studies import K_BY_BATCH, OVER_NONE, Studies, StudyConfirmation
from simulator.configuration import Configuration
from simulator.decision import refused
from simulator.drafter_kinds import KINDS
from simulator.errors import AnswerIsNo, InputError
from simulator.load import Load
from simulator.plan import serving_of
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.sentences import sentences
from simulator.serving.command import (
    Models,
    Serving,
    batch_rows,
    cannot_run,
    files_of,
    files_told,
    known_until,
    script,
    speculative_fields,
)
from simulator.serving.engine import ServingEngine
from simulator.serving.engines import engine_of
from simulator.serving.sglang import SGLANG
from simulator.serving.vllm import VLLM
from tuner.acceptance import answers_of, drafted, golden_yaml, synthetic_fields
from tuner.by_load import OF_THE_TABLE, ByLoad, bars, by_load, no_row, whole_blocks
from tuner.confirmation import in_engine
from tuner.display import capacity, replicated
from tuner.samplers import study_of
from tuner.sglang_tables import with_tables
from tuner.stored import AtLoad, StoredStudy, read_study
from tuner.to_run import as_decided, expected, loses, lost, otherwise, to_run
from tuner.trial import Trial, read_trials

WORTH_SAYING = 0.01
"""What a table over loads loses against the best of a load, as a share, before that is said."""
_DRAFTING_NOTES = {
    "sampled": f"{VLLM.fields.drafting}: the numbers are of drafts drawn from the draft distribution; vLLM's default is "
    "greedy, whose acceptance is another",
    "greedy": f"{VLLM.fields.drafting}: the numbers are of greedy drafts, vLLM's default",
}


def export_study(store: Store, study_id: str, form: str, users: int | None) -> str:
    """The winner at a load, as text, for an engine by its name or for `optuna`.

    Raises AnswerIsNo where there is none, InputError where a load is to be chosen.
    """
    study = read_study(store, study_id)
    if form == "optuna":
        return _optuna(store, study)
    if form in ("synthetic", "inferencex"):
        return _acceptance(store, study, form, users)
    engine = engine_of(form) or VLLM
    if users is None and (text := _command_for_all(store, study, engine)):
        return text
    won = _winners(study, users, engine, store.file.parent)
    load = list(won)[-1]
    found = study.loads[load]
    decision = found.decision
    reason = "" if decision is None else decision.reason
    if decision is not None and decision.candidate is not None and decision.command and decision.engine == engine:
        told = sentences(decision)
        elsewhere = gains_by_load({each: study.loads[each] for each in won}, decision.candidate)
        files = files_of(engine, decision.settings)
        notes = [note for note in decision.notes if note not in files_told(files)]  # they are written
        head = [
            f"specyard study {study_id}", *_unfinished(study, store), *told, *elsewhere, *capacity(load, study),
            *notes, checked_by(engine, decision.settings),
        ]  # fmt: skip
        return _commented(head, script(files, decision.command))
    run = to_run(found, engine, study) or won[load].configuration
    if reason and refused(engine, run, study.target or ""):
        raise InputError(f"study {study_id}: no recommendation for {load.label}: {reason}")
    models = models_of(store.run(study.run_id))
    made = serving(run, found, study, models, engine)
    if engine == SGLANG:
        made = _with_tables(store, study, won[load].configuration, run, found, made)
    head = [
        f"specyard study {study_id}: {run.in_full}", *_unfinished(study, store),
        *_numbers(study, list(won), run, engine, models),
        *([f"no recommendation: {reason}"] if reason else []),
        *(note for each in won for note in otherwise(each, study, run, engine)),
        *gains_by_load({each: study.loads[each] for each in won}, run),
        *capacity(load, study), *made.notes, checked_by(engine, made.speculative),
    ]  # fmt: skip
    return _commented(head, made.script)


def _numbers(
    study: StoredStudy, loads: Sequence[Load], run: Configuration, engine: ServingEngine, models: Models
) -> list[str]:
    """What is known of a configuration that an engine is to run at these loads: all that was decided, where that is it."""
    decision, plan = study.loads[loads[-1]].decision, study.plan
    why = refused(engine, run, study.target or "")
    if decision is not None and decision.candidate == run and decision.value is not None and not why:
        theirs = () if decision.engine is None else serving_of(plan, decision.engine, models, run).told
        return as_decided(decision, engine, theirs)
    where = " and for ".join(load.label for load in loads)
    numbers = "; ".join(expected(study.loads[load], run) for load in loads)
    simulated = "simulated, which the command below is not" if why else "simulated"
    off = plan.profile.relative_errors
    return [
        f"for {where} on {replicated(plan)} ({plan.profile.source}); {simulated}: {numbers}",
        f"the profile's own errors come on top: verify {off.verify:.0%}, draft {off.draft:.0%}, host {off.host:.0%}",
    ]


def _with_tables(
    store: Store, study: StoredStudy, winner: Configuration, run: Configuration, found: AtLoad, made: Serving
) -> Serving:
    """The command with the files of SGLang's own scheduler, where a winner that has one drafts so; see `with_tables`."""
    decided = found.decision is not None and found.decision.candidate == run
    alike = winner.recording.showing("none") == run.recording.showing("none")
    return with_tables(store, study, winner, made) if alike and not decided else made


def _acceptance(store: Store, study: StoredStudy, form: str, users: int | None) -> str:
    """The acceptance of the winner's recording, for benches. Raises as `export_study`, InputError where nothing drafts."""
    won = _winners(study, users, VLLM, store.file.parent)
    load = list(won)[-1]
    winner, run = won[load].configuration, store.run(study.run_id)
    if winner.policy == NO_DRAFTER:
        raise InputError(f"study {study.study_id}: drafts nothing at {load.label}: there is no acceptance to export")
    trace = store.trace(study.run_id, winner.recording.showing("none"))
    models = models_of(run)
    if form == "inferencex":
        thinking = bool(run["sampling"].get("thinking"))
        golden = golden_yaml(
            trace, winner.recording.kind, models.target or "MODEL", answers_of(run, trace), thinking=thinking
        )
        return f"# specyard study {study.study_id}, run {study.run_id}\n{golden}"
    own, notes = drafted(study, models, winner)
    made = serving_of(study.plan, VLLM, models, winner, own | synthetic_fields(trace, own[VLLM.fields.tokens]))
    head = [
        f"specyard study {study.study_id}: {winner.in_full}",
        f"it accepts drafts of any text at random, as often as of {winner.recording.short}",
        "for benches alone: what it answers is no model's, and requests do not differ in acceptance as real ones do",
        *notes, *made.notes, check(made.speculative),
    ]  # fmt: skip
    return _commented(head, made.script)


def export_content(store: Store, study_id: str, users: int | None) -> dict[str, Any]:
    """The winners of all loads, or at one, ready for JSON. Raises AnswerIsNo where no load that was asked for has one."""
    study = read_study(store, study_id)
    models, plan = models_of(store.run(study.run_id)), study.plan
    asked = [(load, study.loads[load], study.loads[load].winner) for load in _chosen(study, users)]
    if all(winner is None for *_, winner in asked):
        raise AnswerIsNo(_no_winner(study, [load for load, *_ in asked], store.file.parent))
    return {
        "study": study_id, "finished": study.finished, "hardware": study.hardware, "target": study.target or "MODEL",
        "replicas": plan.replicas, "drafting": plan.drafting, "step_tokens": plan.step_tokens,
        "winners": [_exported(load, found, winner, study, models) for load, found, winner in asked if winner is not None],
        "without_winner": [str(load) for load, _, winner in asked if winner is None],
    }  # fmt: skip


def _commented(head: Sequence[str], command: str) -> str:
    """The command below its comments, which are broken between words where they are longer than a terminal is wide."""
    wrapped = [
        part for line in head for part in (textwrap.wrap(line, 76, subsequent_indent="  ") if len(line) > 78 else [line])
    ]
    return "\n".join([*(f"# {line}" for line in wrapped), command])


def serving(
    winner: Configuration, found: AtLoad, study: StoredStudy, models: Models, engine: ServingEngine = VLLM
) -> Serving:
    """An engine's closest to a configuration. Raises InputError."""
    plan = study.plan
    kind, notes, fields = winner.recording.kind, list[str](), dict[str, Any]()
    if winner.policy != NO_DRAFTER:
        if lacks := _no_method(winner, engine):
            raise InputError(lacks)
        fields, notes = (_closest if engine == VLLM else _nearest)(winner, found, study.plan.most_running, engine)
        if engine == VLLM and not KINDS[kind].one_hot and models.temperature:
            notes.append(_DRAFTING_NOTES[plan.drafting])
    if plan.kv_capacity_tokens:
        taken = f"{engine.name} takes what memory is left"
        notes.append(f"context capacity: simulated with {plan.kv_capacity_tokens} tokens; {taken}")
    made = serving_of(plan, engine, models, winner, fields)
    return dataclasses.replace(made, notes=(*made.notes, *notes))


def _no_method(run: Configuration, engine: ServingEngine) -> str:
    """That an engine has nothing to draft with as a configuration does; empty where it has, or nothing is drafted."""
    drafter, kind = run.recording.drafter, run.recording.kind
    if run.policy == NO_DRAFTER or kind in engine.kinds:
        return ""
    return f"drafter {drafter}: how {engine.name} runs {kind} is not known here; export with --format json"


def checked_by(engine: ServingEngine, fields: Mapping[str, Any] | None) -> str:
    """What is known of whether an engine takes these fields, in words."""
    if engine == VLLM:
        return check(fields)
    return f"not checked: written for {engine.name} {engine.version}, as it is documented"


def _nearest(winner: Configuration, found: AtLoad, most: int, engine: ServingEngine) -> tuple[dict[str, Any], list[str]]:
    """An engine's fields for a policy, and what to know of them: drafts of one length where it does not run the policy."""
    recording, cap = winner.recording, winner.request_cap
    why = cannot_run(engine, recording, winner.policy, cap)
    if not why:
        return speculative_fields(engine, recording.gamma, winner.policy, cap, most), []
    table, loss = _in_place(found, K_BY_BATCH, winner)
    if table is not None and not cannot_run(engine, recording, table, cap):
        return speculative_fields(engine, recording.gamma, table, cap, most), [
            f"{why}; instead a table of k by batch size{loss}"
        ]
    note = f"{why}: every batch drafts {recording.gamma}, and what that loses was not simulated"
    return speculative_fields(engine, recording.gamma, PolicySpec.fixed(recording.gamma), cap, most), [note]


def _closest(
    winner: Configuration, found: AtLoad, most: int, engine: ServingEngine = VLLM
) -> tuple[dict[str, Any], list[str]]:
    """vLLM's fields for a policy, and what to know of them; `most` requests ran on a replica in what was searched."""
    gamma, policy, cap = winner.recording.gamma, winner.policy, winner.request_cap
    if policy.name in VLLM.policies:
        notes = []
        if policy.k is not None and policy.k < gamma and not KINDS[winner.recording.kind].prefix:
            notes.append(
                f"{VLLM.fields.tokens}: simulated as verifying {policy.k} of {gamma} drafted tokens. vLLM drafts a block "
                f"of {policy.k}, which a block-parallel drafter computes differently; some checkpoints refuse shorter ones"
            )
        return speculative_fields(VLLM, gamma, policy, cap, most), notes
    if not policy.reads_confidences:
        average = policy.name == "batch_adaptive"
        note = f"{policy.name}: vLLM has no {'moving average of acceptance' if average else 'such policy'}"
        table, loss = _in_place(found, K_BY_BATCH, winner)
        if table is None:
            note += f", and no table of k by batch size was confirmed for its drafter: every batch drafts {gamma}"
            return speculative_fields(VLLM, gamma, PolicySpec.fixed(gamma), cap, most), [note]
        return speculative_fields(VLLM, gamma, table, cap, most), [f"{note}; instead a table of k by batch size{loss}"]
    _, loss = _in_place(found, in_engine(VLLM), winner)
    what = (
        "vLLM's adaptive verification sets its budget from raw confidences two steps old"
        if winner.recording.confidences != "estimated"
        else "vLLM's adaptive verification estimates acceptance online, by features of its own"
    )
    adaptive = speculative_fields(VLLM, gamma, PolicySpec(VLLM.adaptive), cap, most)
    return adaptive, [f"{policy} on {winner.recording.confidences} confidences: {what}" + loss]


def _in_place(found: AtLoad, role: str, winner: Configuration) -> tuple[PolicySpec | None, str]:
    """The policy confirmed in a role over the winner's recording, and what it loses against the winner, in words, where it
    was confirmed under the same request cap."""
    row = found.confirmed(role, winner.recording)
    if row is None or row.gain is None:
        return None, ""
    if row.configuration.request_cap != winner.request_cap:
        return row.configuration.policy, ""
    width = "" if row.gain_half_width is None else f" ± {row.gain_half_width:.1%}"
    return row.configuration.policy, f"; simulated, it {loses(row.gain)}{width}"


def _exported(load: Load, found: AtLoad, row: StudyConfirmation, study: StoredStudy, models: Models) -> dict[str, Any]:
    """The winner at a load, what it came to, and what vLLM is to run there: what was decided, where it can, else what is
    closest to the winner; null where vLLM has no such drafter."""
    winner = row.configuration
    run = to_run(found, VLLM, study) or winner
    table = found.confirmed(K_BY_BATCH, winner.recording)
    closest: dict[str, Any] | None
    try:
        made = serving(run, found, study, models)
    except InputError as error:
        closest, notes = None, [str(error)]
    else:
        speculative = made.speculative
        closest = {
            "configuration": run.row(), "speculative_config": speculative, "command": made.command,
            "checked": check(speculative),
        }  # fmt: skip
        notes = list(made.notes)
    notes += otherwise(load, study, run, VLLM)
    return {
        "load": str(load), "configuration": winner.row(), "exact": row.exact,
        "decision": None if found.decision is None else found.decision.row(),
        "simulated": row.figures, "half_widths": row.half_widths, "vllm": closest,
        "k_by_batch": None if table is None or table.gain is None else _table(table, table.gain, study.plan.most_running),
        "notes": notes,
    }  # fmt: skip


def _table(row: StudyConfirmation, gain: float, most: int) -> dict[str, Any]:
    """A table of k by batch size as it was confirmed, under its own request cap, and what it loses against a winner that has
    this gain over it."""
    table = row.configuration
    return {
        "rows": batch_rows(table.policy, table.recording.gamma, known_until(table.policy, table.request_cap, most)),
        "request_cap": table.request_cap, "loss": lost(gain), "half_width": row.gain_half_width,
    }  # fmt: skip


def _command_for_all(store: Store, study: StoredStudy, engine: ServingEngine) -> str:
    """One command for all loads of a study whose winners differ: a table of k by batch size. Empty where there is none."""
    plan = study.plan
    runs = {to_run(found, engine, study) for found in study.loads.values()}
    same = None not in runs and len(runs) == 1
    silent = any(found.winner is not None and not found.winner.tells for found in study.loads.values())
    if len(study.loads) < 2 or same or silent or any(load.users is None for load in study.loads):
        return ""
    studies = Studies(store)
    trials = {int(load.users or 0): read_trials(studies, study.study_id, load, plan, study.kinds) for load in study.loads}
    whole = whole_blocks(engine, study.kinds)
    found = by_load(trials, whole, plan.replicas)
    if found is None:
        return ""
    run = found.configuration
    if engine != VLLM and cannot_run(engine, run.recording, run.policy, run.request_cap):
        return ""
    made = serving_of(plan, engine, models_of(store.run(study.run_id)), run)
    confirmed = confirmed_gains(study, run)
    there = [row.users for row in found.rows]
    whose = "prompts the search has not seen" if confirmed.keys() >= set(there) else "the search's own prompts"
    head = [
        f"specyard study {study.study_id}: {found.recording.short}, k by batch size, at the loads searched",
        *_unfinished(study, store),
        f"on {replicated(plan)} ({plan.profile.source}); gains over no speculation, the profile held, on {whose}:",
        *found.bars(confirmed), *one_k(found, whole, engine), OF_THE_TABLE,
        *(no_row(load) for load in study.loads if load.users not in there),
        *unsettled(study.loads), *better(found, trials, study, engine),
        *made.notes, checked_by(engine, made.speculative),
    ]  # fmt: skip
    return _commented(head, made.script)


def one_k(found: ByLoad, whole: Mapping[str, bool], engine: ServingEngine) -> list[str]:
    """That a table is no choice of k, where it is none."""
    drafter = found.recording.drafter
    if not whole.get(drafter) or len({row.k for row in found.rows}) > 1:
        return []
    return [
        f"{engine.name} drafts a block of {drafter} whole or not at all, and here it does at every load: there is no K by "
        "batch size to choose, only another drafter or policy"
    ]


def gains_by_load(loads: Mapping[Load, AtLoad], run: Configuration) -> list[str]:
    """What a configuration gains over none at each of several loads; nothing for one load, which is told otherwise."""
    if len(loads) < 2 or run.policy == NO_DRAFTER:
        return []
    gains, missing = {}, []
    for load, found in loads.items():
        row = found.of(run)
        gain, half = (None, None) if row is None else row.of(OVER_NONE)
        if gain is None:
            missing.append(f"{load.label}: was not confirmed there")
        else:
            gains[load.label] = (gain, math.nan if half is None else half)
    return [
        "at each load its gain over no speculation, the profile held, on prompts the search has not seen:",
        *bars(gains),
        *missing,
    ]


def unsettled(loads: Mapping[Load, AtLoad]) -> list[str]:
    """The loads at which nothing is recommended, and why."""
    reasons = {load: found.decision.reason for load, found in loads.items() if found.decision is not None}
    return [f"no recommendation for {load.label}: {reason}" for load, reason in reasons.items() if reason]


def confirmed_gains(study: StoredStudy, table: Configuration) -> dict[int, tuple[float, float]]:
    """By users, the gain of a table over no speculation on the held-out prompts, and half of its interval's width."""
    found = {}
    for load, result in study.loads.items():
        for row in result.beside:
            gain, half = row.of(OVER_NONE)
            if load.users is not None and row.configuration == table and gain is not None:
                found[load.users] = (gain, half or math.nan)
    return found


def better(
    found: ByLoad, trials: Mapping[int, Sequence[Trial]], study: StoredStudy, engine: ServingEngine = VLLM
) -> Iterator[str]:
    """The loads whose own export gives at least 1 % more than the table, and on which prompts."""
    for load, at in study.loads.items():
        row = next((row for row in found.rows if row.users == load.users), None)
        run = to_run(at, engine, study)
        if row is None or run is None or refused(engine, run, study.target or ""):
            continue
        more, where = _confirmed_more(at, run, found.configuration), "prompts the search has not seen, the profile held"
        if more is None:
            tried = next((t for t in trials[row.users] if t.rungs and t.configuration == run), None)
            if tried is None:
                continue
            more, where = (tried.last.values[0] / row.value - 1, math.nan), "the search's own prompts"
        gain, half = more
        if gain >= WORTH_SAYING:
            width = "" if math.isnan(half) else f" ± {half:.1%}"
            gives = f"{run.in_full} gives {gain:.1%}{width} more on {where}"
            yield f"at {load.label} {gives}: --concurrency {row.users} exports it"


def _confirmed_more(at: AtLoad, run: Configuration, table: Configuration) -> tuple[float, float] | None:
    """How much more than a table a winner gives on the same draws of the held-out prompts, as a share, and half of its
    interval's width; None of what is not the winner, or where the table was not confirmed."""
    row = at.of(table)
    if row is None or row.gain is None or at.winner is None or at.winner.configuration != run:
        return None
    return row.gain, math.nan if row.gain_half_width is None else row.gain_half_width


def _chosen(study: StoredStudy, users: int | None) -> list[Load]:
    """The load that was asked for; all of them where none was. Raises InputError for what the study is not of."""
    chosen = [load for load in study.loads if users is None or load.users == users]
    if not chosen:
        raise InputError(_choose(study))
    return chosen


def _winners(study: StoredStudy, users: int | None, engine: ServingEngine, out: Path) -> dict[Load, StudyConfirmation]:
    """The winner at the load that was chosen; without a choice at all of them, where one serves all. Raises as above."""
    chosen = _chosen(study, users)
    winners = {load: winner for load in chosen if (winner := study.loads[load].winner) is not None}
    if lost := [load for load in chosen if load not in winners]:
        told = _no_winner(study, lost, out)
        if winners:
            others = ", ".join(str(load.users) for load in winners if load.users is not None)
            told += f"; --concurrency exports what won at another load{f': {others}' if others else ''}"
        raise AnswerIsNo(told)
    runs = {to_run(study.loads[load], engine, study) or won.configuration for load, won in winners.items()}
    if len(runs) > 1:
        lacks = [_no_method(run, engine) for run in runs]
        raise InputError(lacks[0] if all(lacks) else _choose(study))
    return winners


def _unfinished(study: StoredStudy, store: Store) -> list[str]:
    """That a study may yet say something else, and how it goes on; nothing where it is finished."""
    return [] if study.finished else [f"NOT FINISHED: it may end otherwise; {_resumed(study, store.file.parent)}"]


def _resumed(study: StoredStudy, out: Path) -> str:
    return f"go on with: {typed('tuner', 'search', '--resume', study.study_id, out=out)}"


def _no_winner(study: StoredStudy, lost: Sequence[Load], out: Path) -> str:
    where = ", ".join(load.label for load in lost)
    if not study.finished:
        return f"study {study.study_id}: has no winner at {where} yet, for it is not finished; {_resumed(study, out)}"
    return f"study {study.study_id}: has no winner at {where}: nothing kept the bounds"


def _choose(study: StoredStudy) -> str:
    known = ", ".join(load.label for load in study.loads)
    return f"study {study.study_id}: is of {known}; choose one with --concurrency"


def _optuna(store: Store, study: StoredStudy) -> str:
    """Write the trials as an Optuna journal, one study a load, for Optuna's own tools."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    file = store.file.parent / f"study_{study.study_id}.optuna"
    file.unlink(missing_ok=True)
    storage = JournalStorage(JournalFileBackend(str(file)))
    studies = Studies(store)
    for load in study.loads:
        trials = read_trials(studies, study.study_id, load, study.plan, study.kinds)
        study_of(trials, study.plan.objective, storage=storage, study_name=f"{study.study_id} {load}")
    return str(file)
