"""Suites: workloads as data. A folder with `suite.yaml` and `prompts/<task>.jsonl`; anywhere."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from glob import glob
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.recording.conversations import FORMS, Conversation, Unusable, conversation_of
from simulator.errors import InputError, first_paragraph
from simulator.records import Sampling
from simulator.tabular import NotCsv, rows

Source = Literal["bundled", "suite", "data-dir", "hub"]
"""Whose prompts they are: of a suite that comes with the package, or of a folder of one's own; of `--data-dir`, the hub."""
_ENDINGS = (".jsonl", ".json")
"""What names of files with prompts end in."""
BUNDLED_SUITES = Path(__file__).parents[2] / "suites"


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How responses are sampled."""

    temperature: float = 1.0
    """0 is greedy; else at least 0.001."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    max_new_tokens: int = 128
    """Length limit of one response."""
    thinking: bool = False
    """Whether the chat template opens a thinking section, where it knows one."""
    today: date = date(2024, 7, 26)
    """What chat templates that write today's date are told, so that a run says the same on any day."""

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn; a suite writes its fields among the others."""
        return Sampling(self.temperature, self.top_p, self.top_k)

    def __post_init__(self) -> None:
        _ = self.sampling  # refuses what cannot be sampled
        if self.max_new_tokens < 2:
            raise ValueError(f"max_new_tokens ≥ 2 is needed, got {self.max_new_tokens}")


class Hub(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the real benchmark lies and how its columns become turns."""

    file: str
    """A path polars reads: `hf://datasets/…`, or any local file; .parquet or .jsonl, `*` allowed."""
    turns: tuple[str, ...] = ()
    """One template a turn, `{column}` filled in."""
    turns_column: str | None = None
    """A column that holds the list of turns; instead of `turns`."""

    def __post_init__(self) -> None:
        if bool(self.turns) == (self.turns_column is not None):
            raise ValueError("give either turns or turns_column")


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One benchmark of a suite."""

    name: str
    """The name of a task, and of its file of prompts: it names one in the suite's folder, and none elsewhere."""
    domain: str
    hub: Hub | None = None

    def __post_init__(self) -> None:
        for field, text in (("name", self.name), ("domain", self.domain)):
            if not text.strip() or not text.isprintable():
                raise ValueError(f"{field} {text!r}: must be a word or more that can be printed")
        if self.name in (".", "..") or "/" in self.name or "\\" in self.name:
            raise ValueError(f"name {self.name!r}: must be the name of a file, without / and \\")


class SuiteFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `suite.yaml`."""

    name: str
    version: int
    tasks: tuple[Task, ...]
    description: str = ""
    generation: Generation = Generation()

    def __post_init__(self) -> None:
        names = [t.name for t in self.tasks]
        if not names or len(set(names)) < len(names):
            raise ValueError("tasks must have at least one entry and distinct names")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation to hold: user turns in order, each answered by the model itself."""

    task: str
    domain: str
    prompt_id: str
    turns: tuple[str, ...]
    system: str = ""
    """Instructions before the first turn; empty without any."""

    @property
    def opening(self) -> list[dict[str, str]]:
        """The messages before the first turn."""
        return [{"role": "system", "content": self.system}] if self.system else []


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite with the prompts of one run."""

    file: SuiteFile
    source: Source
    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = ()
    """What a person should know of how the prompts were read: sentences."""

    @property
    def content_hash(self) -> str:
        """SHA-256 over settings and prompts: equal hashes mean equal work."""
        source = "bundled" if self.source == "suite" else self.source  # as it was before the two were told apart
        content = {"suite": msgspec.to_builtins(self.file), "source": source}
        content["prompts"] = [
            [p.task, p.domain, p.prompt_id, list(p.turns), *([p.system] if p.system else [])] for p in self.prompts
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find_suite(name: str) -> Path:
    """The folder of a suite: a path, or the name of a bundled one (`suites/` in front allowed)."""
    bundled = BUNDLED_SUITES / name.removeprefix("suites/").rstrip("/")
    for folder in (Path(name), bundled):
        if (folder / "suite.yaml").is_file():
            return folder
    if Path(name).is_dir():
        raise InputError(f"suite {name}: the folder has no suite.yaml")
    known = ", ".join(sorted(f.parent.name for f in BUNDLED_SUITES.glob("*/suite.yaml")))
    raise InputError(f"suite {name}: no such folder, and no bundled suite of that name (bundled: {known})")


def load_suite(
    name: str, *, data_dir: Path | None = None, source: Literal["bundled", "hub"] = "bundled", limit: int | None = None
) -> Suite:
    """Read a suite and its prompts.

    Args:
        data_dir: folder with one `<task>.jsonl` (or .json, or .gz of either) a task, of rows as `conversation_of` reads
            them; with files of other names alone, a task a file. Takes precedence over `source`.
        limit: first prompts of each task to keep; None keeps all.

    Raises:
        InputError: naming the file, and the line or field, that is wrong.
    """
    folder = find_suite(name)
    file = read_suite_file(folder / "suite.yaml")
    own = folder.resolve().parent != BUNDLED_SUITES.resolve()
    chosen: Source = "data-dir" if data_dir is not None else "suite" if own and source == "bundled" else source
    if limit is not None and limit < 1:
        raise InputError(f"--limit must be at least 1, got {limit}")
    prompts: list[Prompt] = []
    left_out: Counter[str] = Counter()
    tasks = _tasks(file, data_dir)
    for task in tasks:
        if chosen == "hub":
            prompts += _hub_prompts(task, limit)
        else:
            stem = (data_dir or folder / "prompts") / task.name
            prompts += _file_prompts(task, _found(stem) or stem.with_name(f"{stem.name}.jsonl"), limit, left_out)
    notes = _said(left_out)
    if tasks != file.tasks:
        notes.append(
            f"{data_dir} has none of the suite's tasks: each of its files is one ({', '.join(t.name for t in tasks)})"
        )
    return Suite(msgspec.structs.replace(file, tasks=tasks), chosen, tuple(prompts), tuple(notes))


def read_suite_file(path: Path) -> SuiteFile:
    """Decode and check `suite.yaml`; unknown keys are errors."""
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=SuiteFile)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from None
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _tasks(file: SuiteFile, data_dir: Path | None) -> tuple[Task, ...]:
    """The suite's tasks; where a folder of prompts has files of none of them, a task a file. Raises InputError."""
    if data_dir is None or not data_dir.is_dir() or any(_found(data_dir / task.name) for task in file.tasks):
        return file.tasks
    names = sorted({path.name.removesuffix(".gz") for path in data_dir.iterdir() if path.is_file()})
    stems = [name.removesuffix(ending) for name in names for ending in _ENDINGS if name.endswith(ending)]
    try:
        return tuple(Task(name, name) for name in dict.fromkeys(stems)) or file.tasks
    except ValueError as error:
        raise InputError(f"{data_dir}: {error}") from None


def _found(stem: Path) -> Path | None:
    """The file of a task, whatever its ending; None without one."""
    names = (stem.with_name(f"{stem.name}{ending}{packed}") for ending in _ENDINGS for packed in ("", ".gz"))
    return next((path for path in names if os.path.isfile(path)), None)  # of a name that is too long it says no


def _said(left_out: Counter[str]) -> list[str]:
    """What is told of prompts that cannot be asked again."""
    return [f"prompts left out: {', '.join(f'{n:,} {why}' for why, n in left_out.most_common())}"] if left_out else []


def _file_prompts(task: Task, path: Path, limit: int | None, left_out: Counter[str]) -> list[Prompt]:
    """Prompts of a task's file; what cannot be asked again, or says the same as an earlier one, is counted in `left_out`.

    Intervals are over prompts, which must be independent; one that is asked twice would count as two. Raises InputError.
    """
    return [prompt for prompt, _ in _file_conversations(task, path, limit, left_out, distinct=True)]


def _file_conversations(
    task: Task, path: Path, limit: int | None, left_out: Counter[str], *, distinct: bool = False
) -> list[tuple[Prompt, Conversation]]:
    """`_file_prompts`, each with what was answered; of one prompt there may be several answers, unless `distinct`."""
    found: list[tuple[Prompt, Conversation]] = []
    seen: dict[str, tuple[int, bool]] = {}
    texts: set[tuple[str, ...]] = set()
    try:
        for number, row in rows(path):
            if limit is not None and len(found) == limit:
                break
            try:
                asked = conversation_of(row)
                prompt = _prompt(task, number, asked)
            except Unusable as reason:
                left_out[str(reason)] += 1
                continue
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
            text = (asked.system, *asked.turns)
            if distinct and text in texts:
                left_out["that say the same as an earlier one"] += 1
                continue
            texts.add(text)
            if (earlier := seen.get(prompt.prompt_id)) is not None:
                line, named = earlier
                raise InputError(
                    f"{path}, line {number}: id {prompt.prompt_id!r} stands in an earlier line too; rename "
                    "one of them, or take the field that names it out of all rows"
                    if named and asked.name
                    else f"{path}, line {number}: id {prompt.prompt_id!r} is that of line {line} too, for rows without one "
                    "are called by their place in the file; give every row an id, or none"
                )
            seen[prompt.prompt_id] = (number, bool(asked.name))
            found.append((prompt, asked))
    except NotCsv as error:
        told = f"prompts are lines of JSON, one JSON list, or CSV with a column prompt; a row has {FORMS}"
        raise InputError(f"{error}; {told}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: missing; a prompt folder has one <task>.jsonl for each task of the suite") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not found:
        told = "; ".join(_said(left_out))
        raise InputError(f"{path}: has no prompts{f' ({told})' if told else ''}")
    return found


def read_prompts(
    paths: Sequence[Path], limit: int | None = None, say: Callable[[str], None] = lambda text: None
) -> tuple[Prompt, ...]:
    """The prompts of files, each a task by its name, as a suite would name them; `limit` keeps the first of each file.

    `say` hears what is left out. Raises InputError, naming file and line.
    """
    return tuple(prompt for prompt, _ in read_conversations(paths, limit, say))


def read_conversations(
    paths: Sequence[Path], limit: int | None = None, say: Callable[[str], None] = lambda text: None
) -> list[tuple[Prompt, Conversation]]:
    """`read_prompts`, each with what was answered."""
    found: list[tuple[Prompt, Conversation]] = []
    left_out: Counter[str] = Counter()
    for path in paths:
        if not os.path.exists(path):  # of a name that is too long it says no
            raise InputError(f"--prompts {path}: no such file")
        name = path.name.removesuffix(".gz")
        name = next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), name)
        if name in {p.task for p, _ in found}:
            raise InputError(f"--prompts {path}: another file is called {name} too, and prompts go by that; rename one")
        try:
            task = Task(name, name)
        except ValueError as error:
            raise InputError(f"--prompts {path}: {error}") from None
        found += _file_conversations(task, path, limit, left_out)
    for told in _said(left_out):
        say(told)
    return found


def _prompt(task: Task, number: int, asked: Conversation) -> Prompt:
    """What a row asks. Raises ValueError."""
    prompt_id = asked.name or str(number - 1)
    try:
        "".join([prompt_id, asked.domain, asked.system, *asked.turns]).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"holds {half!a}, one half of a character; cut text between whole characters") from None
    if not asked.domain.isprintable():
        raise ValueError(f"domain {asked.domain!r:.60}: must be words that can be printed")
    if not prompt_id.startswith(f"{task.name}/"):  # unique over the suite, whatever the file calls it
        prompt_id = f"{task.name}/{prompt_id}"
    return Prompt(task.name, asked.domain or task.domain, prompt_id, asked.turns, asked.system)


def _hub_prompts(task: Task, limit: int | None) -> list[Prompt]:
    if task.hub is None:
        raise InputError(f"task {task.name}: suite.yaml names no hub file for it; use --data-dir, or leave --source hub out")
    import polars as pl

    try:
        frame = (
            pl.scan_parquet(task.hub.file)
            if task.hub.file.endswith(".parquet")
            else pl.scan_ndjson(_json_lines(task.hub.file))
        )
        rows = (frame if limit is None else frame.head(limit)).collect().to_dicts()
    except Exception as error:  # polars and its network layer have no common base for "could not read this"
        reason = first_paragraph(error)
        raise InputError(f"task {task.name}: {task.hub.file} could not be read: {reason}") from error
    return [
        Prompt(task.name, task.domain, f"{task.name}/{i}", _turns(task.name, task.hub, row)) for i, row in enumerate(rows)
    ]


def _json_lines(file: str) -> Any:
    """What polars is to read: files of this machine without the mark that some editors put first, which it does not take."""
    here = sorted(glob(file, recursive=True))
    return [Path(name).read_bytes().removeprefix(codecs.BOM_UTF8) for name in here] or file


def _turns(task: str, hub: Hub, row: dict[str, object]) -> tuple[str, ...]:
    try:
        if hub.turns_column is not None:
            turns = row[hub.turns_column]
            if not isinstance(turns, list) or not turns:
                raise InputError(f"task {task}: column {hub.turns_column} of {hub.file} must hold lists of turns")
            return tuple(str(t) for t in turns)
        return tuple(template.format_map(row).strip() for template in hub.turns)
    except KeyError as error:
        raise InputError(f"task {task}: {hub.file} has no column {error}; it has {', '.join(row)}") from None
