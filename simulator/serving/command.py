"""The command that serves a configuration, for what an engine runs as it was simulated; and why it cannot run the rest."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simulator.drafter_kinds import KINDS
from simulator.hardware.profile import may_be_one_model, same_model
from simulator.numbers import counted
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.policies.k_by_batch import WHOLE_BLOCK
from simulator.records import Drafting, Recording
from simulator.serving.engine import ServingEngine

_LONG = 131_072
"""Tokens of the longest context that models which are served mostly know."""
_WHOLE_PROMPTS = (
    "simulated without a prefix cache, and so it is served: prompts that begin alike are computed in whole, though engines "
    "keep what they have in common unless told"
)


@dataclass(frozen=True, slots=True)
class ServedWith:
    """How an engine drafted whose own files a run was made of."""

    name: str
    """The engine's; empty where no file says."""
    fields: Mapping[str, Any] | None
    """Its own of drafting, beside method, checkpoint and how much; None where no file says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models that were recorded, as a command names them, and the temperature that they answered at."""

    target: str = ""
    """Name or folder; empty where nobody knows."""
    named_after: str = ""
    """The file whose name stands for the target's; empty where the target has its own."""
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    """The drafters' by their names, as far as they are known."""
    temperature: float | None = None
    """None where nobody knows."""
    formats: Mapping[str, str] = field(default_factory=dict)
    """In which published format each checkpoint was read, and with which conventions, as far as that is known."""
    served: Mapping[str, ServedWith] = field(default_factory=dict)
    """How the drafters that were served were, by their names."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How to serve a configuration."""

    command: str
    """For a shell."""
    notes: tuple[str, ...]
    """What has to be done first."""
    speculative: dict[str, Any] | None
    """The configuration of drafting; None decodes plainly."""
    files: Mapping[str, str] = field(default_factory=dict)
    """What the files are to hold that the command names, by name."""

    @property
    def script(self) -> str:
        """The command below what writes its files, for a shell."""
        return script(self.files, self.command)

    @property
    def told(self) -> list[str]:
        """The notes, and what the files are to hold, beside a command that does not write them."""
        return [*self.notes, *files_told(self.files)]


def script(files: Mapping[str, str], command: str) -> str:
    """A command below what writes the files that it names, for a shell."""
    return "\n".join([*(f"cat > {shlex.quote(name)} <<'EOF'\n{text}\nEOF" for name, text in files.items()), command])


def writing(files: Mapping[str, str]) -> list[str]:
    """Lines for a shell that write files, for a screen: they may be indented, as the end of what `script` writes may not."""
    return [f"printf '%s\\n' {shlex.quote(text)} > {shlex.quote(name)}" for name, text in files.items()]


def files_told(files: Mapping[str, str]) -> list[str]:
    """What files are to hold, in words."""
    return [f"{name} is a file: {text}" for name, text in files.items()]


def files_of(engine: ServingEngine, speculative: Mapping[str, Any]) -> Mapping[str, str]:
    """What files are to hold that a command of this configuration of drafting names, by name."""
    return engine.files(speculative) if engine.files is not None and speculative else {}


def cannot_run(
    engine: ServingEngine, recording: Recording, policy: PolicySpec, request_cap: int, *, target: str = ""
) -> str:
    """Why an engine cannot run a policy over a recording as it was simulated; empty where it can.

    `target` is the model's name, as far as it is known: engines have drafters for some models only.
    """
    if engine.most_requests is not None and request_cap > engine.most_requests:
        return f"{engine.name} runs no more than {counted(engine.most_requests, 'request')} at a time"
    if policy == NO_DRAFTER:
        return ""
    kind = recording.kind
    if kind not in engine.kinds:
        return f"how {engine.name} runs {kind} is not known here"
    if _named(engine.kinds[kind].not_for, target):
        return f"{engine.name} has no {kind} for {target}"
    if policy.name not in engine.policies:
        return f"{engine.name} has no {policy.name}"
    if policy.name not in (engine.kinds[kind].policies or engine.policies):
        return f"{engine.name} has no {policy.name} with {kind}"
    if (policy.k or 0) > recording.gamma:
        return f"{policy}: only {recording.gamma} drafted tokens were recorded"
    if policy.k_by_batch is not None and engine.refuses_rows is not None:
        why = engine.refuses_rows(batch_rows(policy, recording.gamma, request_cap))
        if why:
            return f"{engine.name} {why}"
    if KINDS[kind].prefix:
        return ""
    counts = {policy.k} if policy.k is not None else set()
    if policy.k_by_batch is not None:
        counts = {k for _, _, k in batch_rows(policy, recording.gamma, request_cap)}
    if parts := sorted(k for k in counts if 0 < (k or 0) < recording.gamma):
        return f"{engine.name} drafts a block of {parts[0]} where {recording.gamma} were recorded: other drafts"
    return ""


def _named(pattern: str, target: str) -> bool:
    """Whether a target's name has what a regular expression looks for."""
    return bool(pattern) and re.search(pattern, target, re.IGNORECASE) is not None


def serve(
    engine: ServingEngine,
    models: Models,
    recording: Recording,
    policy: PolicySpec,
    *,
    modelled: str,
    request_cap: int,
    step_tokens: int,
    gpus: int,
    replicas: int,
    drafting: Drafting,
    captured: int = 0,
    formats: Mapping[str, str] | None = None,
    checkpoint: Mapping[str, str] | None = None,
    cache_tokens: int = 0,
    most_running: int | None = None,
    fields: Mapping[str, Any] | None = None,
    prefix_cache: bool = True,
) -> Serving:
    """The command of a configuration that the engine runs as simulated.

    Args:
        modelled: the model that the hardware's profile is of: where that is another than was recorded, it is a note.
        gpus: that share a replica.
        replicas: copies of the engine behind a router.
        drafting: how drafts were chosen; at temperature 0 it makes no difference.
        captured: tokens of the largest pass that is captured; 0 is whatever the engine does.
        formats: number formats of weights and cache that are not the checkpoint's own.
        checkpoint: its own, where they are not bf16: weights that are quantised are served as they are.
        cache_tokens: context tokens that fit on a replica; 0 is as many as any model knows.
        most_running: requests on a replica in what was simulated; None is the request cap.
        fields: the engine's own for a policy that it only comes close to; None for one that it runs.
        prefix_cache: whether what prompts have in common was kept, or nobody knows of anything.
    """
    flags, speculative = engine.flags, dict[str, Any]()
    notes = [*_of_models(models, modelled), *engine.notes]
    parts = [f"{engine.serve} {shlex.quote(models.target or 'MODEL')}"]
    if policy != NO_DRAFTER:
        most = request_cap if most_running is None else most_running
        if fields is None:
            fields = speculative_fields(engine, recording.gamma, policy, request_cap, most)
        speculative, said = _drafting(engine, models, recording, fields, request_cap, drafting)
        notes += said
    parts += _configured(engine, speculative, prefix_cache=prefix_cache)
    parts += [f"{flags.request_cap} {request_cap}", *engine.options, f"{flags.step_tokens} {step_tokens}"]
    parts += [f"{flags.pass_tokens} {step_tokens}"] if flags.pass_tokens else []
    fits = _fitting(engine, cache_tokens)
    for words, said in (_formatted(engine, formats or {}, checkpoint or {}), _captured(engine, captured), ([], fits)):
        parts, notes = parts + words, notes + said
    if gpus > 1:
        parts += [f"{flags.gpus} {gpus}", *([flags.shared] if flags.shared else [])]
        notes += [engine.shared_note] if engine.shared_note else []
    words, said = copies(engine, speculative, replicas)
    parts, notes = parts + words, notes + said
    notes += [] if prefix_cache else [_WHOLE_PROMPTS]
    if by_hand := [part for part in parts[1:] if not part.startswith("-")]:  # a comment, so at the end
        parts = [*(part for part in parts if part not in by_hand), f"# {' '.join(by_hand)} by hand"]
    return Serving(" \\\n  ".join(parts), tuple(notes), speculative or None, files_of(engine, speculative))


def _drafting(
    engine: ServingEngine,
    models: Models,
    recording: Recording,
    fields: Mapping[str, Any],
    request_cap: int,
    drafting: Drafting,
) -> tuple[dict[str, Any], list[str]]:
    """(The configuration of drafting, notes) of a policy that has these fields."""
    names, kind, notes = engine.fields, recording.kind, list[str]()
    served = engine.kinds[kind]
    options, said = _own(engine, kind, models.served.get(recording.drafter))
    speculative, notes = {names.method: served.method, **options}, [*notes, *said]
    if served.checkpoint:
        speculative[names.checkpoint] = models.checkpoints.get(recording.drafter, "CHECKPOINT")
        if recording.drafter not in models.checkpoints:
            notes.append(f"CHECKPOINT is the checkpoint of {recording.drafter}, which nothing recorded here names")
    if told := models.formats.get(recording.drafter):
        notes.append(f"{recording.drafter} was {told}: an engine that reads it otherwise drafts worse in silence")
    if served.note and (not served.note_of or _named(served.note_of, models.target)):
        notes.append(served.note)
    speculative |= fields
    rows = speculative.get(names.batch_rows) if names.batch_rows else None
    if rows:
        notes += _of_rows(engine, rows, request_cap)
    if models.temperature and not KINDS[kind].one_hot:
        chosen, said = _chosen(engine, kind, drafting)
        speculative, notes = speculative | chosen, notes + said
    notes += engine.spelled_notes(speculative) if engine.spelled_notes else ()
    return speculative, notes


def _own(engine: ServingEngine, kind: str, served: ServedWith | None) -> tuple[Mapping[str, Any], list[str]]:
    """(The fields of drafting beside method, checkpoint, how much and the policy's, notes): of what was served its own, as
    far as this engine has them."""
    options = engine.kinds[kind].options
    if served is None:
        return options, []
    if served.name == engine.name and served.fields is not None:
        return {name: value for name, value in served.fields.items() if name != engine.fields.adaptive}, []
    if not options:
        return {}, []
    return {}, [f"{' and '.join(options)}: left out, for what was served had its own; give the same"]


def _configured(engine: ServingEngine, speculative: Mapping[str, Any], *, prefix_cache: bool) -> list[str]:
    """Words of the command that say how it drafts, and that it keeps nothing of prompts where it is to keep nothing."""
    without = {} if prefix_cache else engine.no_prefix_cache
    words = engine.spelled({**speculative, **without}) if speculative or without else []
    return words if prefix_cache or not engine.flags.no_prefix_cache else [*words, engine.flags.no_prefix_cache]


def _chosen(engine: ServingEngine, kind: str, drafting: Drafting) -> tuple[dict[str, Any], list[str]]:
    """(The option, notes) of how drafts are chosen above temperature 0."""
    served = engine.kinds[kind]
    if served.drafting is not None:
        if drafting == served.drafting:
            return {}, []
        return {}, [f"{engine.name}: the numbers are of {drafting} drafts; its {kind} has {served.drafting} ones"]
    if engine.fields.drafting:  # said though it be the default: that may change
        return {engine.fields.drafting: engine.drafting_option[drafting]}, []
    if drafting == engine.drafting:
        return {}, []
    return {}, [f"{engine.name}: the numbers are of {drafting} drafts; by default it has {engine.drafting} ones"]


def _formatted(
    engine: ServingEngine, formats: Mapping[str, str], checkpoint: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """(Flags, notes) of number formats of weights and cache; engines quantise no weights that are already."""
    parts, notes = list[str](), list[str]()
    own = {what: kind for what, kind in checkpoint.items() if what == "cache"}  # not every engine looks for it
    for what, kind in (own | dict(formats)).items():
        flag = engine.flags.weights if what == "weights" else engine.flags.cache
        if kind == "fp8" and flag and (what != "weights" or "weights" not in checkpoint):
            parts.append(f"{flag} {kind}")
        else:
            notes.append(f"the numbers are of {kind} {what}: name a checkpoint that has them, or set the engine so")
    return parts, notes


def _captured(engine: ServingEngine, tokens: int) -> tuple[list[str], list[str]]:
    """(Flags, notes) of the largest pass that is captured; 0 is whatever the engine does."""
    if tokens and not engine.flags.captured:
        said = f"captured sizes to {tokens:,} tokens, as vLLM has them: {engine.name}'s own are not known here"
        return [], [f"simulated with {said}"]
    return ([f"{engine.flags.captured} {tokens}"] if tokens and tokens != engine.captured else []), []


def _fitting(engine: ServingEngine, cache_tokens: int) -> list[str]:
    """A note where an engine may not start, for want of room for a single request of the model's longest context."""
    if not engine.flags.context or not 0 < cache_tokens < _LONG:
        return []
    return [
        f"the cache holds about {cache_tokens:,} tokens: for a model that knows longer contexts add {engine.flags.context} "
        f"of no more, without which {engine.name} does not start"
    ]


def _of_models(models: Models, modelled: str) -> list[str]:
    """What has to be known of the models that a command names."""
    target, notes = models.target, list[str]()
    if not same_model(modelled, target):
        unlike = (
            "nothing tells that these are one model"
            if may_be_one_model(modelled, target)
            else "no such system was measured or modelled"
        )
        notes.append(f"the profile is of {modelled}, the traces are of {target}: {unlike}")
    if not target:
        notes.append(
            f"MODEL is the target, which nothing recorded here names{f'; the profile is of {modelled}' if modelled else ''}"
        )
    if models.named_after:
        notes.append(f"{target} is the name of {models.named_after}: put the model's folder or hub name in its place")
    return notes


def copies(engine: ServingEngine, fields: Mapping[str, Any], replicas: int) -> tuple[list[str], list[str]]:
    """Words of the command that start so many replicas, or a note where one command cannot."""
    if replicas == 1:
        return [], []
    alike = not engine.fields.batch_rows or engine.fields.batch_rows not in fields
    if alike or not engine.flags.replicas.startswith("-"):
        return [f"{engine.flags.replicas} {replicas}"], []
    note = (  # replicas of one command might choose another k each
        f"simulated as {replicas} replicas: start {replicas} such servers behind a router to the least loaded; "
        f"{engine.name} leaves {engine.fields.batch_rows} out under {engine.flags.replicas}"
    )
    return [], [note]


def _of_rows(engine: ServingEngine, rows: list[tuple[int, int, int]], request_cap: int) -> list[str]:
    """What has to be known of rows (first, last, k) of k by batch size in a command."""
    notes = list(engine.rows_notes(rows)) if engine.rows_notes else []
    return notes + ([unsearched(engine, rows[-1][1])] if rows[-1][1] < request_cap else [])


def unsearched(engine: ServingEngine, most: int) -> str:
    """What is to be known of a table of k by batch size that ends below the request cap."""
    above = f"no more than {counted(most, 'request')} ran in any load searched; above, {engine.name} {engine.above}"
    return f"{engine.fields.batch_rows}: {above}"


def speculative_fields(
    engine: ServingEngine, gamma: int, policy: PolicySpec, request_cap: int, most_running: int
) -> dict[str, Any]:
    """An engine's fields for a policy that it runs, where so many requests may run, and so many ran."""
    names = engine.fields
    if policy.k is not None:
        return {names.tokens: policy.k}
    if policy.k_by_batch is not None:
        rows = batch_rows(policy, gamma, known_until(policy, request_cap, most_running))
        return {names.tokens: max(k for *_, k in rows) if engine.longest_row else gamma, names.batch_rows: rows}
    assert policy.name == engine.adaptive, policy
    return {names.tokens: gamma, names.adaptive: True}


def known_until(policy: PolicySpec, request_cap: int, most_running: int) -> int:
    """Up to how many requests the rows of a k-by-batch policy are written, of which no more than so many ran.

    All rows that the policy names stand, up to the request cap; where only its last goes on above what ran, it ends there.
    """
    table = policy.k_by_batch
    assert table is not None, policy
    goes_on = sum(requests >= most_running for requests, _ in table.rows) <= 1
    return min(most_running, request_cap) if goes_on else request_cap


def batch_rows(policy: PolicySpec, gamma: int, most: int) -> list[tuple[int, int, int]]:
    """(first, last, k) of a k-by-batch policy, up to so many requests, as engines write them."""
    table = policy.k_by_batch
    assert table is not None, policy
    rows: list[tuple[int, int, int]] = []
    first = 1
    for last, k in (*table.rows, (most, table.rows[-1][1])):
        if first <= min(last, most):
            drafted = gamma if k == WHOLE_BLOCK else min(k, gamma)
            begins = rows.pop()[0] if rows and rows[-1][2] == drafted else first
            rows.append((begins, min(last, most), drafted))
            first = min(last, most) + 1
    return rows
