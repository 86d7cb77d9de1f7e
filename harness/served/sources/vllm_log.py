"""vLLM's log: every ten seconds a line of the load and, where something was drafted since, a line of acceptance."""

from __future__ import annotations

import ast
import itertools
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

from harness.served.observed import NOTHING, Drafts, Interval, Observation, Settings, pooled
from harness.served.sources.log_parts import Part, joined, servers, stamp
from harness.served.text import Text
from simulator.errors import InputError
from simulator.numbers import counted

_NUMBER = r"(-?[\d.]+(?:e[-+]?\d+)?|nan|inf)"
_LOAD: Final = re.compile(
    rf"(?:Engine (\d+)|(\d+) Engines Aggregated)?:?\s*Avg prompt throughput: {_NUMBER} tokens/s, .*?"
    rf"Avg generation throughput: {_NUMBER} tokens/s, Running: (\d+) reqs?, .*?Waiting: (\d+) reqs?"
)
_SPEC: Final = re.compile(r"SpecDecoding metrics: (.*)")
_LENGTH: Final = re.compile(rf"Mean acceptance length: {_NUMBER}")
_NEWER: Final = re.compile(r"acceptance length|Per-position")
_COUNTS: Final = re.compile(r"Accepted: (\d+) tokens, Drafted: (\d+) tokens")
_POSITIONS: Final = re.compile(r"Per-position acceptance rate: ([\d., ]*\d)(?=, [A-Z]|[\s\"]*$)")
_CONFIG: Final = re.compile(r"speculative_config=SpeculativeConfig\(([^)]*)\)|speculative_config=(None)")
_VERSION: Final = re.compile(r"Initializing a V1 LLM engine \(v([\w.+]+)\) with config: model='([^']*)'")
_SERVED_AS: Final = re.compile(r"\bserved_model_name='?([^',\s]+)")
_ARGUMENTS: Final = re.compile(r"non-default args: (\{.*\})")
_SAYS: Final = re.compile(
    r"\((?:API|Engine|Api)\w*(?: pid=\d+)?\)|\b(?:DEBUG|INFO|WARNING|ERROR)\b|Engine \d{3}|\d+ Engines|SpecDecoding metrics"
)
"""Where what the server itself writes begins; before it stands what a collector puts there."""
_PID: Final = re.compile(r"\(\w+ pid=(\d+)\)")
EVERY_S: Final = 10.0
_GAP: Final = 1.7
"""Stretches that are so many times as long as usual hold some of which nothing was written."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One line that counts."""

    at: datetime | None
    engine: str
    prompt_tok_s: float
    generated_tok_s: float
    running: int
    waiting: int
    drafts: Drafts | None


class VllmLog:
    """See the module."""

    name: ClassVar[str] = "vLLM's log"
    counts: ClassVar[str] = "Avg generation throughput: |SpecDecoding metrics: |non-default args: |V1 LLM engine "

    def recognises(self, text: Text) -> bool:
        """A line of load or of acceptance."""
        return text.whole is None and ("Avg generation throughput: " in text.text or "SpecDecoding metrics: " in text.text)

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """An observation a server; see `servers`."""
        logs = servers(texts, re.compile(self.counts), _SAYS, _starts, stamp)
        found = [_read(own) for own in logs if len(logs) == 1 or _generated(own)]
        if not found:
            raise InputError(f"{texts[0].name}: nothing was generated in what it holds")
        return found


def _generated(parts: Sequence[Part]) -> bool:
    return any("throughput: " in line for part in parts for line in part.lines)


def _read(parts: Sequence[Part]) -> Observation:
    files, notes = tuple(dict.fromkeys(part.file for part in parts)), list[str]()
    lines, settings = _last_server(joined(parts, stamp), notes)
    _check_one_server(lines, files[0])
    _check_new_enough(lines, files[0], settings.gamma)
    found, drafts, gamma = _of_one_k(list(_lines(lines, files[0], settings.gamma, notes)), files[0], notes)
    if not any(one.generated_tok_s or one.drafts for one in found):
        told = f" ({'; '.join(notes)})" if notes else ""
        raise InputError(f"{files[0]}: nothing was generated in what it holds{told}")
    return _observation(files, settings, drafts, gamma, _intervals(found, notes), notes)


def _check_one_server(lines: Sequence[str], file: str) -> None:
    """Raise InputError where processes of two servers write side by side, or of one whose lines were not told apart."""
    pids = [pid[1] for line in lines if _LOAD.search(line) and (pid := _PID.search(line))]
    changes = sum(a != b for a, b in itertools.pairwise(pids))
    if changes >= max(len(set(pids)), 1):
        raise InputError(
            f"{file}: {len(set(pids))} processes write their loads in turns ({', '.join(sorted(set(pids)))}): logs of "
            "several servers; give each its own file"
        )


def _check_new_enough(lines: Sequence[str], file: str, gamma: int | None) -> None:
    """Raise InputError for lines of versions that do not say what is needed."""
    if any("throughput: " in line and "Pending: " in line for line in lines) and not any(map(_LOAD.search, lines)):
        raise InputError(
            f"{file}: is a log of vLLM's V0 engine, whose lines are not read: it was removed in vLLM 0.11; serve with a "
            "later one"
        )
    acceptance = [told[1] for line in lines if (told := _SPEC.search(line))]
    if gamma is None and any(_COUNTS.search(told) and not _NEWER.search(told) for told in acceptance):
        raise InputError(
            f"{file}: its lines of acceptance say neither a mean length nor positions, as before vLLM 0.9.1, and no line "
            "says how many tokens a draft has: give the log from where the server starts"
        )


def _starts(line: str) -> bool:
    return "non-default args: " in line or "V1 LLM engine " in line


def _last_server(lines: Sequence[str], notes: list[str]) -> tuple[list[str], Settings]:
    """The lines since the server was last started, and how it was set."""
    starts = [i for i, line in enumerate(lines) if _ARGUMENTS.search(line)] or [
        i for i, line in enumerate(lines) if _VERSION.search(line)
    ]
    begin = starts[-1] if starts else 0
    if len(starts) > 1:
        notes.append(f"the server was started {counted(len(starts), 'time')} in this log: what came after the last counts")
    if len(starts) > 1 and not any(_LOAD.search(line) for line in lines[begin:]):
        begin = starts[-2]
    settings = Settings(engine="vLLM")
    for line in lines[begin:]:
        if (match := _ARGUMENTS.search(line)) is not None:
            settings = _of_arguments(match[1]).beside(settings)
        if (match := _VERSION.search(line)) is not None:
            named = _SERVED_AS.search(line)
            settings = settings.beside(Settings(version=match[1], model=match[2], served_as=named[1] if named else ""))
        if (match := _CONFIG.search(line)) is not None:
            settings = settings.beside(_of_config(match[1] or ""))
    return list(lines[begin:]), settings


def _of_arguments(text: str) -> Settings:
    """From what the server was started with."""
    try:
        given: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return Settings(engine="vLLM")
    config = given.get("speculative_config") if isinstance(given, dict) else None
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except ValueError:
            config = None
    given = given if isinstance(given, dict) else {}
    cap, model, names = given.get("max_num_seqs"), str(given.get("model", "")), given.get("served_model_name")
    told = Settings(
        engine="vLLM", model=model, served_as=str(names[0] if isinstance(names, list) and names else names or model),
        request_cap=cap if isinstance(cap, int) else None, speculates=config is not None,
    )  # fmt: skip
    return of_speculative(config).beside(told) if isinstance(config, dict) else told


def of_speculative(config: dict[str, Any]) -> Settings:
    """From vLLM's speculative configuration."""
    tokens, table = config.get("num_speculative_tokens"), config.get("num_speculative_tokens_per_batch_size")
    method = config.get("draft_sample_method")
    rows = tuple((int(a), int(b), int(k)) for a, b, k in table or ()) if _is_table(table) else ()
    return Settings(
        engine="vLLM", method=str(config.get("method") or ""), drafter=str(config.get("model") or ""),
        gamma=tokens if isinstance(tokens, int) and tokens > 0 else None, table=rows,
        drafting={"greedy": "greedy", "probabilistic": "sampled"}.get(method) if isinstance(method, str) else None,  # type: ignore[arg-type]
        adaptive=bool(config.get("enable_adaptive_verification")), speculates=True,
    )  # fmt: skip


def _is_table(table: Any) -> bool:
    return isinstance(table, list | tuple) and all(
        isinstance(row, list | tuple) and len(row) == 3 and all(isinstance(n, int) for n in row) for row in table
    )


def _of_config(text: str) -> Settings:
    """From the line that the engine's core writes when it begins."""
    if not text:
        return Settings(engine="vLLM", speculates=False)
    found = dict(re.findall(r"(\w+)=('[^']*'|[\w.]+)", text))
    tokens = found.get("num_spec_tokens", "")
    return Settings(
        engine="vLLM", method=found.get("method", "").strip("'"),
        drafter="" if (model := found.get("model", "None").strip("'")) == "None" else model,
        gamma=int(tokens) if tokens.isdigit() and int(tokens) else None, speculates=True,
    )  # fmt: skip


def _lines(lines: Sequence[str], file: str, gamma: int | None, notes: list[str]) -> Iterator[_Line]:
    """Each line of load with the line of acceptance that belongs to it: the engine writes it right after."""
    waiting: _Line | None = None
    cut, old = 0, False
    for line in lines:
        if (load := _LOAD.search(line)) is not None:
            if waiting is not None:
                yield waiting
            rates = [float(load[i]) for i in (3, 4)]
            if not all(0 <= rate < float("inf") for rate in rates):
                cut, waiting = cut + 1, None
                continue
            engine = load[1] or ("all" if load[2] else "0")
            waiting = _Line(stamp(line), engine, rates[0], rates[1], int(load[5]), int(load[6]), None)
        elif "SpecDecoding metrics: " in line:
            drafts = _drafts(line, file, gamma)
            if drafts is None:
                cut, waiting = cut + 1, None  # something was drafted, and nobody knows what
                continue
            old = old or not drafts.accepted_at
            if waiting is not None and waiting.drafts is None:
                yield _Line(
                    waiting.at, waiting.engine, waiting.prompt_tok_s, waiting.generated_tok_s, waiting.running,
                    waiting.waiting, drafts,
                )  # fmt: skip
                waiting = None
            else:  # its line of load is not in the file
                yield _Line(stamp(line), "", 0.0, 0.0, 0, 0, drafts)
    if waiting is not None:
        yield waiting
    if old:
        notes.append(
            f"lines of an older vLLM say no positions: there are as many drafts as {gamma} goes into drafted tokens"
        )
    if cut:
        notes.append(
            f"{counted(cut, 'line')} of metrics could not be read whole, and {'is' if cut == 1 else 'are'} left out"
        )


def _drafts(line: str, file: str, gamma: int | None) -> Drafts | None:
    """A line of acceptance, in counts; None where it was cut. Raises InputError for what cannot be right."""
    told = _SPEC.search(line)
    length, counts, at = (pattern.search(told[1]) if told else None for pattern in (_LENGTH, _COUNTS, _POSITIONS))
    if told and counts is not None and gamma and not _NEWER.search(told[1]):
        drafted = int(counts[2])
        return Drafts(drafts=round(drafted / gamma), drafted=drafted, accepted=int(counts[1])) if drafted >= gamma else None
    if length is None or counts is None or at is None:
        return None
    try:
        rates = [float(word) for word in at[1].split(",")]
        accepted, drafted = int(counts[1]), int(counts[2])
        drafts = _rounds(accepted, drafted, float(length[1]), rates)
        return None if drafts is None else Drafts(
            drafts=drafts, drafted=drafted, accepted=accepted, accepted_at=_counts_at(rates, drafts, accepted)
        )  # fmt: skip
    except ValueError as error:
        raise InputError(f"{file}: {line.strip()[:100]}…: {error}") from None


def _rounds(accepted: int, drafted: int, length: float, rates: Sequence[float]) -> float | None:
    """How many drafts a line is of, which it does not say: drafted over K where every draft had K tokens, and that is so
    where it agrees with the mean length; else by the length, and finer by the sum of the rates."""
    full = drafted / len(rates)
    if not accepted:
        return float(round(full)) if drafted else None
    if not 1 < length <= len(rates) + 1.005:
        raise ValueError(f"a mean length of {length:g} with {accepted} accepted tokens and {len(rates)} positions")
    low, high = accepted / (length - 1 + 0.006), accepted / max(length - 1 - 0.006, 1e-9)
    if full == round(full) and low - 0.5 <= full <= high + 0.5:
        return full
    by_rates = accepted / sum(rates) if sum(rates) else accepted / (length - 1)
    return float(round(min(max(by_rates, low), high)))


def _counts_at(rates: Sequence[float], drafts: float, accepted: int) -> tuple[float, ...]:
    """Whole counts by position, where rounding gives back the sum."""
    counts = [float(round(rate * drafts)) for rate in rates]
    if sum(counts) != accepted:
        counts = [rate * drafts for rate in rates]
    return tuple(min(counts[: k + 1]) for k in range(len(counts)))


def _of_one_k(found: Sequence[_Line], file: str, notes: list[str]) -> tuple[Sequence[_Line], Drafts, int | None]:
    """(lines, all their drafts, K): those since K was last changed. Raises InputError where lines of several alternate."""
    some = [one.drafts for one in found if one.drafts is not None]
    if not some:
        return found, NOTHING, None
    sizes = [len(one.accepted_at) for one in some]
    if len(set(sizes)) == 1:
        return found, pooled(some), sizes[0] or None
    changes = sum(a != b for a, b in itertools.pairwise(sizes))
    told = ", ".join(f"K = {k} in {counted(n, 'line')}" for k, n in Counter(sizes).most_common())
    if changes >= len(set(sizes)):
        raise InputError(f"{file}: lines of several K alternate ({told}): logs of two servers; give each its own file")
    notes.append(f"K was changed in this log ({told}): what it was last counts")
    others = [i for i, one in enumerate(found) if one.drafts is not None and len(one.drafts.accepted_at) != sizes[-1]]
    since = found[others[-1] + 1 :]
    return since, pooled([one.drafts for one in since if one.drafts is not None]), sizes[-1]


def _intervals(found: Sequence[_Line], notes: list[str]) -> list[Interval]:
    """Stretches that end at an engine's lines. An idle engine writes none, and yet begins each stretch anew: after a gap a
    stretch is as long as the others are."""
    intervals, before = list[Interval](), dict[str, _Line]()
    pairs = list[tuple[_Line | None, _Line]]()
    for one in found:
        if one.engine:
            pairs.append((before.get(one.engine), one))
            before[one.engine] = one
    gaps = [gap for last, one in pairs if (gap := _passed(last, one)) is not None]
    usual = statistics.median(gaps) if gaps else EVERY_S
    if not gaps:
        notes.append(f"lines without a time are taken to be {EVERY_S:.0f} s apart, as vLLM writes them")
    for last, one in pairs:
        gap = _passed(last, one)
        joined = last is not None and (gap is None or gap <= _GAP * usual)
        seconds = usual if gap is None or not joined else gap
        start = last.running if joined and last is not None else 0
        running = (start + one.running) / 2
        steady = start > 0 and one.running > 0 and abs(one.running - start) <= max(1, 0.25 * running)
        intervals.append(
            Interval(
                seconds=seconds, running=running, steady=steady, waiting=float(one.waiting),
                generated_tok_s=one.generated_tok_s, prompt_tok_s=one.prompt_tok_s, drafts=one.drafts,
                plain=one.drafts is None,
            )
        )  # fmt: skip
    return intervals


def _passed(last: _Line | None, one: _Line) -> float | None:
    """Seconds between two lines; None where they have no times."""
    if last is None or one.at is None or last.at is None:
        return None
    passed = one.at - last.at
    if passed < timedelta(0):  # the year has changed
        passed += timedelta(days=366)
    return passed.total_seconds() or None


def _observation(
    files: tuple[str, ...], settings: Settings, drafts: Drafts, gamma: int | None, intervals: Sequence[Interval],
    notes: Sequence[str],
) -> Observation:  # fmt: skip
    generated = sum(one.generated for one in intervals)
    told = [*notes, "a line of acceptance is written only where something was drafted since the last one"]
    return Observation(
        source=VllmLog.name, files=files,
        settings=Settings(gamma=gamma, speculates=True if drafts.drafts else None).beside(settings),
        drafts=drafts, generated=generated or None, prompt_tokens=sum(one.prompt_tok_s * one.seconds for one in intervals),
        request_steps=max(generated - drafts.accepted, drafts.drafts) or None if intervals else None,
        intervals=tuple(intervals), notes=tuple(told),
    )  # fmt: skip
