"""What a run's drafters got of each prompt: a few numbers a prompt, small enough for a file that lives in git."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import duckdb
import msgspec

from results.store.commands import DEFAULT_OUT, typed
from results.store.queries import query
from results.store.runs import TARGET_FILES, Provenance, provenance
from simulator.errors import InputError
from simulator.records import KeptDrafting, Recording

FORMAT: Final = "specyard baseline 2"
"""What is written. The first knew no turns."""


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one drafter got of one prompt, over all turns."""

    committed: int
    """Tokens of all rounds, bonus tokens included."""
    rounds: int
    turns: int | None = None
    """Turns that have an answer; None in a file of the first format."""

    def __post_init__(self) -> None:
        if self.turns is not None and self.turns < 1:
            raise ValueError(f"an answer has at least one turn, not {self.turns}")
        if not 0 <= self.rounds <= self.committed:
            raise ValueError(
                f"a round commits at least one token: {self.committed} tokens in {self.rounds} rounds cannot be"
            )


class Prompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt, known by its hash."""

    task: str
    domain: str
    hash: str
    """Hash of the suite's content hash, which covers every prompt's text and all settings, and the prompt's id."""


class Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A drafter as its run declared it: for people to read, never compared."""

    kind: str
    checkpoint_hash: str | None


class BaselineRecording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One drafter at one block size, drafting one way."""

    drafter: str
    gamma: int
    drafting: KeptDrafting
    answers: dict[str, Answer]
    """By prompt id."""

    @property
    def key(self) -> Recording:
        """What tells it from the others of its run."""
        return Recording(self.drafter, self.gamma, drafting=self.drafting)


class RunKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that shapes a run's prompts and answers, drafters apart."""

    suite: str
    suite_hash: str
    target: dict[str, Any]
    """Hashes of what decides its answers, end tokens and numeric type, as far as the run knows them; without, its name."""
    sampling: dict[str, Any]
    seed: int
    mode: str
    """'dense', 'live' or 'synthesised'."""
    responses_hash: str | None
    """Hash of the file of responses that another engine gave; None where the target answered."""

    def differences(self, other: RunKey) -> list[str]:
        """What differs from another key, in words. What only one of two targets knows of itself is not held against it."""
        found = [
            f"{name.replace('_', ' ')} ({_short(getattr(self, name))} → {_short(getattr(other, name))})"
            for name in ("suite", "suite_hash", "seed", "mode", "responses_hash")
            if getattr(self, name) != getattr(other, name)
        ]
        both = [name for name in self.target if name in other.target]
        found += [
            f"{TARGET_FILES.get(name, 'name')} of the target ({_short(self.target[name])} → {_short(other.target[name])})"
            for name in both
            if self.target[name] != other.target[name]
        ]
        if not both:
            found.append("target (one is known by its files, the other by its name)")
        names = dict.fromkeys([*self.sampling, *other.sampling])
        found += [
            f"{name} ({self.sampling.get(name)} → {other.sampling.get(name)})"
            for name in names
            if self.sampling.get(name) != other.sampling.get(name)
        ]
        return found


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run as comparisons of accepted length see it."""

    format: Literal["specyard baseline 1", "specyard baseline 2"]
    key: RunKey
    drafters: dict[str, Declared]
    """By name."""
    prompts: dict[str, Prompt]
    """By id."""
    recordings: tuple[BaselineRecording, ...]

    def __post_init__(self) -> None:
        keys = [recorded.key for recorded in self.recordings]
        if len(set(keys)) < len(keys):
            raise ValueError("recordings must differ in drafter, gamma or drafting")
        for recorded in self.recordings:
            unknown = [prompt for prompt in recorded.answers if prompt not in self.prompts]
            if unknown:
                raise ValueError(f"{recorded.drafter} has an answer to {unknown[0]}, which is none of the prompts")
            if recorded.gamma < 1:
                raise ValueError(f"{recorded.drafter} drafts gamma = {recorded.gamma} tokens; at least 1 is needed")

    def recorded(self, key: Recording) -> BaselineRecording | None:
        """What was recorded under a key; None where nothing was."""
        return next((recorded for recorded in self.recordings if recorded.key == key), None)


def baseline(con: duckdb.DuckDBPyConnection, run_id: str) -> Baseline:
    """A run's sums, drafters without a round left out.

    Raises LookupError for an unknown run, and InputError for one without a round of any drafter.
    """
    run = provenance(con, run_id)
    rows = query(
        con,
        """
        SELECT s.drafter, s.gamma, s.drafting, s.prompt_id, any_value(s.task), any_value(s.domain),
               coalesce(sum(r.committed), 0)::BIGINT, count(r.round), count(DISTINCT s.turn)
        FROM recorded_responses s LEFT JOIN rounds r USING (run_id, drafter, gamma, drafting, prompt_id, turn)
        WHERE s.run_id = $run AND s.gamma > 0 GROUP BY s.drafter, s.gamma, s.drafting, s.prompt_id ORDER BY ALL
        """,
        run_id,
    )
    prompts: dict[str, Prompt] = {}
    sums: dict[Recording, dict[str, Answer]] = {}
    for drafter, gamma, drafting, prompt, task, domain, *sizes in rows.rows():
        prompts[prompt] = Prompt(task, domain, _prompt_hash(run.suite_hash, prompt))
        sums.setdefault(Recording(drafter, gamma, drafting=drafting), {})[prompt] = Answer(*sizes)
    recordings = [
        BaselineRecording(key.drafter, key.gamma, key.drafting, answers)
        for key, answers in sums.items()
        if any(a.rounds for a in answers.values())
    ]
    if not recordings:
        raise InputError(f"run {run_id}: has no rounds of any drafter, so there is nothing to compare")
    return Baseline(
        FORMAT, run_key(con, run), {d.name: Declared(d.kind, d.checkpoint_hash) for d in run.drafters if d.gamma},
        prompts, tuple(recordings),
    )  # fmt: skip


def run_key(con: duckdb.DuckDBPyConnection, run: Provenance) -> RunKey:
    """Everything that shapes a run's prompts and answers."""
    plan = json.loads(query(con, "SELECT plan FROM runs WHERE run_id = $run", run.run_id).item())
    target = dict(run.target_files) if "hash" in run.target_files else dict(run.target_files) | {"source": run.target}
    return RunKey(
        run.suite, run.suite_hash, target, dict(run.sampling), run.seed,
        plan.get("mode", run.prompt_source), plan.get("responses_hash"),
    )  # fmt: skip


def finished_baseline(con: duckdb.DuckDBPyConnection, run_id: str, out: Path = DEFAULT_OUT) -> Baseline:
    """The sums of a run, of the database in the folder `out`, that others may be judged by.

    Raises LookupError for an unknown run, and InputError for one that is not finished, or has a drafter without a round.
    """
    made = baseline(con, run_id)
    if provenance(con, run_id).finished_at is None:
        resume = typed("harness", "run", "--resume", run_id, out=out)
        raise InputError(f"run {run_id}: is not finished; go on with `{resume}`")
    recorded = {recording.drafter for recording in made.recordings}
    without = [name for name in made.drafters if name not in recorded]
    if without:
        raise InputError(f"run {run_id}: has no rounds of {', '.join(without)}; record it again, or leave the drafter out")
    return made


def write_baseline(made: Baseline, file: Path) -> None:
    """Write a baseline, whole or not at all: sorted, a line a prompt, the same for the same results.

    Raises OSError where it cannot be written.
    """
    beside = file.with_name(f".{file.name}.part")
    try:
        beside.write_text(_lines(msgspec.to_builtins(made, order="deterministic")) + "\n", encoding="utf-8")
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)


def read_baseline(file: Path) -> Baseline:
    """Read a baseline. Raises InputError for a file that is none, is damaged or is empty."""
    try:
        found = msgspec.json.decode(file.read_bytes().removeprefix(codecs.BOM_UTF8), type=Baseline)
    except msgspec.ValidationError as error:
        raise InputError(f"{file}: is no baseline of this version: {error}; `harness baseline` makes one") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: is damaged, or no JSON: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); `harness baseline` makes one") from None
    if not any(answer.rounds for recorded in found.recordings for answer in recorded.answers.values()):
        raise InputError(f"{file}: is empty: it has no rounds of any drafter; make it anew with `harness baseline`")
    return found


def _prompt_hash(suite_hash: str, prompt_id: str) -> str:
    return hashlib.sha256(f"{suite_hash}\n{prompt_id}".encode()).hexdigest()[:16]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}…"


def _lines(value: Any, indent: str = "") -> str:
    """JSON whose innermost objects and lists take one line each, so that a diff shows which prompts changed."""
    inner = indent + " "
    parts = list(value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ())
    if not any(isinstance(part, Mapping | list | tuple) for part in parts):
        return json.dumps(value, ensure_ascii=False)
    names = (
        [f"{json.dumps(name, ensure_ascii=False)}: " for name in value] if isinstance(value, Mapping) else [""] * len(parts)
    )
    rows = ",\n".join(inner + name + _lines(part, inner) for name, part in zip(names, parts, strict=True))
    return f"{{\n{rows}\n{indent}}}" if isinstance(value, Mapping) else f"[\n{rows}\n{indent}]"
