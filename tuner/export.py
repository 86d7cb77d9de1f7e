"""A study's winner as a configuration to serve with: a vLLM command, JSON, or Optuna's own file.

Names and fields are those of vLLM 0.32. What vLLM cannot do as simulated is said in a comment, with what comes closest.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_type_hints

import msgspec

from results.store.database import Store
from results.store.decisions import serving_of
from results.store.rows import read_plan
from results.store.studies import Studies
from simulator.configuration import Configuration
from simulator.decision import Decision, refused, sentences
from simulator.drafter_kinds import KINDS, kind_of
from simulator.errors import InputError
from simulator.load import Load
from simulator.numbers import counted
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.serving.command import Serving, batch_rows, speculative_fields
from simulator.serving.vllm import VLLM
from tuner.by_load import ByLoad, by_load, whole_blocks
from tuner.confirmation import OVER_NONE
from tuner.display import capacity, describe, load_label, replicated
from tuner.plan import StudyPlan
from tuner.samplers import study_of
from tuner.trial import Trial, ranked

WORTH_SAYING = 0.01
"""What a table over loads loses against the best of a load, as a share, before that is said."""
_DRAFTING_NOTES = {
    "sampled": "draft_sample_method: the numbers are of drafts drawn from the draft distribution; vLLM's default is greedy, "
    "whose acceptance is another",
    "greedy": "draft_sample_method: the numbers are of greedy drafts, vLLM's default",
}


def export_study(store: Store, study_id: str, form: Literal["vllm", "optuna"], users: int | None) -> str:
    """The winner at a load, as text. Raises InputError where there is none."""
    study = describe(store, study_id)
    if form == "optuna":
        return _optuna(store, study_id, study)
    if users is None and (text := _over_loads(store, study_id, study)):
        return text
    loads = _loads(study, users)
    load = loads[-1]
    found = study["loads"][load]
    decision = found["decision"]
    reason = "" if decision is None else decision["reason"]
    if decision is not None and decision["command"] and decision["engine"] == VLLM.name:
        told = sentences(msgspec.convert(decision, Decision))
        head = [f"specyard study {study_id}", *told, *capacity(load, study), *decision["notes"], check(decision["settings"])]
        return _commented(head, decision["command"])
    run = store.run(study["study"]["run_id"])
    winner = _read(found["winner"], study, run)
    if reason and refused(VLLM, winner):
        raise InputError(f"study {study_id}: no recommendation for {load_label(load)}: {reason}")
    made = serving(winner, found, study, run)
    checked = check(made.speculative)
    where = " and for ".join(map(load_label, loads))
    expected = "; ".join(_expected(study["loads"][each]["winner"]) for each in loads)
    head = [
        f"specyard study {study_id}: {winner.in_full}",
        f"for {where} on {replicated(study)} ({study['profile']['source']}); simulated: {expected}",
        *([f"no recommendation: {reason}"] if reason else []), *capacity(load, study), *made.notes, checked,
    ]  # fmt: skip
    return _commented(head, made.command)


def export_content(store: Store, study_id: str, users: int | None) -> dict[str, Any]:
    """The winners of all loads, or at one, ready for JSON. Raises InputError where no load that was asked for has one."""
    study = describe(store, study_id)
    run, plan = store.run(study["study"]["run_id"]), study["plan"]
    won = {load for load, found in study["loads"].items() if found["winner"] is not None}
    asked = _chosen(study, users)
    if not won & set(asked):
        raise InputError(_no_winner(study, asked))
    return {
        "study": study_id, "hardware": study["profile"], "target": study["target"] or "MODEL",
        "replicas": plan["replicas"], "drafting": plan["drafting"], "step_tokens": plan["step_tokens"],
        "winners": [_winner(load, study, run) for load in asked if load in won],
        "without_winner": [load for load in asked if load not in won],
    }  # fmt: skip


def _commented(head: Sequence[str], command: str) -> str:
    """The command below its comments, which are broken between words where they are longer than a terminal is wide."""
    wrapped = [
        part for line in head for part in (textwrap.wrap(line, 76, subsequent_indent="  ") if len(line) > 78 else [line])
    ]
    return "\n".join([*(f"# {line}" for line in wrapped), command])


def serving(winner: Configuration, found: Mapping[str, Any], study: Mapping[str, Any], run: Mapping[str, Any]) -> Serving:
    """vLLM's closest to a configuration, its models called as the row of `runs` calls them. Raises InputError."""
    plan = study["plan"]
    kind, notes, fields = winner.recording.kind, list[str](), dict[str, Any]()
    if winner.policy != NO_DRAFTER:
        if kind not in VLLM.kinds:
            raise InputError(f"drafter {winner.recording.drafter}: vLLM has no method for {kind}; export with --format json")
        fields, notes = _closest(winner, found, searched(study))
        if not KINDS[kind].one_hot and (run["sampling"].get("temperature") or 0) > 0:
            notes.append(_DRAFTING_NOTES[plan["drafting"]])
    if plan["kv_capacity_tokens"]:
        notes.append(f"context capacity: simulated with {plan['kv_capacity_tokens']} tokens; vLLM takes what memory is left")
    made = serving_of(
        run, VLLM, winner, model=study["profile"]["model"], drafting=plan["drafting"],
        step_tokens=plan["step_tokens"], gpus=study["profile"]["gpus"],
        replicas=plan["replicas"], most_running=searched(study), fields=fields,
    )  # fmt: skip
    return dataclasses.replace(made, notes=(*made.notes, *notes))


def _closest(winner: Configuration, found: Mapping[str, Any], most: int) -> tuple[dict[str, Any], list[str]]:
    """vLLM's fields for a policy, and what to know of them; `most` requests ran on a replica in what was searched."""
    gamma, policy, most = winner.recording.gamma, winner.policy, min(winner.request_cap, most)
    if policy.name in VLLM.policies:
        notes = []
        if policy.k is not None and policy.k < gamma and not KINDS[winner.recording.kind].prefix:
            notes.append(
                f"num_speculative_tokens: simulated as verifying {policy.k} of {gamma} drafted tokens. vLLM drafts a block "
                f"of {policy.k}, which a block-parallel drafter computes differently; some checkpoints refuse shorter ones"
            )
        return speculative_fields(gamma, policy, most), notes
    if policy.name == "batch_adaptive":
        table, lost = _beside(found, "k by batch")
        if table is None:
            note = "batch_adaptive: vLLM has no moving average of acceptance, and no table of k by batch size was confirmed"
            return speculative_fields(gamma, PolicySpec.fixed(gamma), most), [f"{note}: every batch drafts {gamma}"]
        note = "batch_adaptive: vLLM has no moving average of acceptance; instead a table of k by batch size"
        return speculative_fields(gamma, table, most), [note + lost]
    assert policy.reads_confidences, winner
    _, lost = _beside(found, "in vLLM")
    what = (
        "vLLM's adaptive verification sets its budget from raw confidences two steps old"
        if winner.recording.confidences != "estimated"
        else "vLLM's adaptive verification estimates acceptance online, by features of its own"
    )
    adaptive = speculative_fields(gamma, PolicySpec("vllm_adaptive"), most)
    return adaptive, [f"{policy} on {winner.recording.confidences} confidences: {what}" + lost]


def _beside(found: Mapping[str, Any], role: str) -> tuple[PolicySpec | None, str]:
    """The policy confirmed in a role, and what it loses against the winner, in words."""
    row = next((r for r in found["beside"] if r["role"] == role and r["gain"] is not None), None)
    if row is None:
        return None, ""
    lost = 1 - 1 / (1 + row["gain"])
    width = "" if row["gain_half_width"] is None else f" ± {row['gain_half_width']:.1%}"
    return PolicySpec.parse(row["policy"]), f"; simulated, it loses {lost:.1%}{width}"


def searched(study: Mapping[str, Any]) -> int:
    """The most requests that ran on a replica in any load of a study."""
    plan = study["plan"]
    return max(Load.parse(text).most_running(plan["request_cap"], plan["replicas"]) for text in study["loads"])


def check(speculative: dict[str, Any] | None) -> str:
    """What vLLM's own configuration class says to the fields, where vLLM is installed."""
    if not speculative:
        return "plain decoding: nothing to check against vLLM"
    try:
        import vllm  # type: ignore[import-not-found, unused-ignore]
        from pydantic import TypeAdapter, ValidationError
        from vllm.config import SpeculativeConfig  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return "not checked: vLLM is not installed here; written for vLLM 0.32"
    fields = {f.name for f in dataclasses.fields(SpeculativeConfig)}
    hints = get_type_hints(SpeculativeConfig, include_extras=True)
    for name, value in speculative.items():
        if name not in fields:
            return f"vLLM {vllm.__version__} does not know {name}: adapt it by hand"
        try:
            TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            return f"vLLM {vllm.__version__} refuses {name}: {error.errors()[0]['msg']}"
    return f"fields and types checked against vLLM {vllm.__version__}"


def _winner(load: str, study: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """The winner at a load: what it is, what it came to, and vLLM's closest, null where vLLM has no such drafter."""
    found = study["loads"][load]
    winner = _read(found["winner"], study, run)
    table, _ = _beside(found, "k by batch")
    row = next((r for r in found["beside"] if r["role"] == "k by batch"), None)
    closest: dict[str, Any] | None
    try:
        made = serving(winner, found, study, run)
    except InputError as error:
        closest, notes = None, [str(error)]
    else:
        speculative = made.speculative
        closest = {"speculative_config": speculative, "command": made.command, "checked": check(speculative)}
        notes = list(made.notes)
    return {
        "load": load, "configuration": winner.row(), "exact": found["winner"]["exact"],
        "simulated": found["winner"]["figures"], "half_widths": found["winner"]["half_widths"], "vllm": closest,
        "k_by_batch": None if table is None or row is None else {
            "rows": batch_rows(table, winner.recording.gamma, min(winner.request_cap, searched(study))),
            "loss": 1 - 1 / (1 + row["gain"]), "half_width": row["gain_half_width"],
        },
        "notes": notes,
    }  # fmt: skip


def _expected(winner: dict[str, Any]) -> str:
    """What the simulation says of a winner."""
    figures, half = winner["figures"], winner["half_widths"]
    return f"{figures['throughput']:,.0f} ± {half['throughput'] or 0:,.0f} tok/s/GPU, {figures['tps']:.0f} tok/s of a user"


def _over_loads(store: Store, study_id: str, study: dict[str, Any]) -> str:
    """One command for all loads of a study whose winners differ: a table of k by batch size. Empty where there is none."""
    loads, drafting = {load: Load.parse(load) for load in study["loads"]}, study["plan"]["drafting"]
    winners = [found["winner"] for found in study["loads"].values()]
    same = None not in winners and len({Configuration.read(winner, drafting) for winner in winners}) == 1
    if len(loads) < 2 or same or any(at.users is None for at in loads.values()):
        return ""
    run = store.run(study["study"]["run_id"])
    kinds = _kinds(run)
    studies = Studies(store)
    trials = {
        int(at.users or 0): [Trial.read(r, drafting, kinds) for r in studies.trials(study_id, load)]
        for load, at in loads.items()
    }
    found = by_load(trials, whole_blocks(kinds), study["plan"]["replicas"])
    if found is None:
        return ""
    plan, cap = study["plan"], max(row.running for row in found.rows)
    recording = found.recording
    made = serving_of(
        run, VLLM, Configuration(recording, found.policy, cap),
        model=study["profile"]["model"], drafting=plan["drafting"],
        step_tokens=plan["step_tokens"], gpus=study["profile"]["gpus"], replicas=plan["replicas"],
    )  # fmt: skip
    confirmed = confirmed_gains(study, found.policy)
    whose = "prompts the search has not seen" if len(confirmed) == len(loads) else "the search's own prompts"
    head = [
        f"specyard study {study_id}: {recording.drafter} γ={recording.gamma}, k by batch size, at the loads searched",
        f"on {replicated(study)} ({study['profile']['source']}); gains over no speculation on {whose}:",
        *found.bars(confirmed), *better(found, trials), *made.notes, check(made.speculative),
    ]  # fmt: skip
    return _commented(head, made.command)


def confirmed_gains(study: Mapping[str, Any], table: PolicySpec) -> dict[int, tuple[float, float]]:
    """By users, the gain of a table over no speculation on the held-out prompts, and half of its interval's width."""
    found = {}
    for load, result in study["loads"].items():
        for row in result["beside"]:
            users, figures = Load.parse(load).users, row["figures"] or {}
            if users is not None and PolicySpec.parse(row["policy"]) == table and figures.get(OVER_NONE) is not None:
                found[users] = (figures[OVER_NONE], row["half_widths"][OVER_NONE] or math.nan)
    return found


def better(found: ByLoad, trials: Mapping[int, Sequence[Trial]]) -> Iterator[str]:
    """The loads at which vLLM can run something that gives at least 1 % more than the table."""
    for row in found.rows:
        best = ranked(trials[row.users])
        able = [t for t in best if not refused(VLLM, t.configuration)]
        more = able[0].last.values[0] / row.value - 1 if able else 0.0
        if more >= WORTH_SAYING:
            at = f"at {counted(row.users, 'user')} {able[0].configuration.in_full} gives {more:.1%} more"
            yield f"{at}: --concurrency {row.users} exports it"


def _read(row: Mapping[str, Any], study: Mapping[str, Any], run: Mapping[str, Any]) -> Configuration:
    """The configuration of a row of `confirmations`."""
    return Configuration.read(row, study["plan"]["drafting"], _kinds(run))


def _kinds(run: Mapping[str, Any]) -> dict[str, str]:
    """By name, the kinds of a run's drafters."""
    return {name: kind_of(name, drafter) for name, drafter in run["drafters"].items()}


def _chosen(study: Mapping[str, Any], users: int | None) -> list[str]:
    """The load that was asked for; all of them where none was. Raises InputError for what the study is not of."""
    known = list(study["loads"])
    chosen = known if users is None else [load for load in known if Load.parse(load).users == users]
    if not chosen:
        raise InputError(_choose(study))
    return chosen


def _loads(study: dict[str, Any], users: int | None) -> list[str]:
    """The load that was chosen; without a choice all of them, where one winner serves all. Raises InputError."""
    chosen = _chosen(study, users)
    winners = {load: study["loads"][load]["winner"] for load in chosen}
    if lost := [load for load, winner in winners.items() if winner is None]:
        raise InputError(_no_winner(study, lost))
    if len({Configuration.read(winner, study["plan"]["drafting"]) for winner in winners.values()}) > 1:
        raise InputError(_choose(study))
    return chosen


def _no_winner(study: Mapping[str, Any], lost: Sequence[str]) -> str:
    where = ", ".join(map(load_label, lost))
    return f"study {study['study']['study_id']}: has no winner at {where}: nothing kept the bounds, or it is not finished"


def _choose(study: Mapping[str, Any]) -> str:
    known = ", ".join(map(load_label, study["loads"]))
    return f"study {study['study']['study_id']}: is of {known}; choose one with --concurrency"


def _optuna(store: Store, study_id: str, study: dict[str, Any]) -> str:
    """Write the trials as an Optuna journal, one study a load, for Optuna's own tools."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    file = store.file.parent / f"study_{study_id}.optuna"
    file.unlink(missing_ok=True)
    storage = JournalStorage(JournalFileBackend(str(file)))
    studies = Studies(store)
    plan = read_plan(studies.find(study_id)["plan"], StudyPlan)
    for load in study["loads"]:
        trials = [Trial.read(row, plan.drafting) for row in studies.trials(study_id, load)]
        study_of(trials, plan.objective, storage=storage, study_name=f"{study_id} {load}")
    return str(file)
