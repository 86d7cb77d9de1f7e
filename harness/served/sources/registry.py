"""All sources, in the order in which a file is tried: it is of the first that knows it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from harness.served.observed import NothingServed, Observation
from harness.served.sources.aiperf import Aiperf
from harness.served.sources.aiperf_server import AiperfServer
from harness.served.sources.contract import Source
from harness.served.sources.guidellm import Guidellm
from harness.served.sources.llama_cpp_answers import LlamaCppAnswers
from harness.served.sources.llama_cpp_log import LlamaCppLog
from harness.served.sources.llama_cpp_metrics import LlamaCppMetrics
from harness.served.sources.sglang_answers import SglangAnswers
from harness.served.sources.sglang_dspark import SglangDspark
from harness.served.sources.sglang_info import SglangInfo
from harness.served.sources.sglang_log import SglangLog
from harness.served.sources.sglang_metrics import SglangMetrics
from harness.served.sources.trtllm_answers import TrtllmAnswers
from harness.served.sources.trtllm_metrics import TrtllmMetrics
from harness.served.sources.trtllm_stats import TrtllmStats
from harness.served.sources.vllm_bench import VllmBench
from harness.served.sources.vllm_log import VllmLog
from harness.served.sources.vllm_metrics import VllmMetrics
from harness.served.sources.vllm_requests import VllmRequests
from harness.served.text import DOCUMENT, NO_TEXT, Progress, Text, read_texts
from simulator.arrivals import form_of
from simulator.errors import InputError
from simulator.numbers import counted
from simulator.serving.verification import HINTS, departures

SOURCES: Final[tuple[Source, ...]] = (
    VllmMetrics(), SglangMetrics(), LlamaCppMetrics(), TrtllmMetrics(), VllmLog(), SglangLog(), LlamaCppLog(),
    SglangDspark(), SglangInfo(), TrtllmStats(), AiperfServer(), Guidellm(), VllmBench(), Aiperf(), VllmRequests(),
    SglangAnswers(), TrtllmAnswers(), LlamaCppAnswers(),
)  # fmt: skip
_NONE: Final = "none of what is read here"
_SCRAPES: Final = (VllmMetrics, SglangMetrics, LlamaCppMetrics, TrtllmMetrics)
"""Sources of which two that are alike say that nothing happened in between."""
_ROWS: Final = "aiperf's summary; profile_export.jsonl beside it has the requests, and is read"
_SUMMARIES: Final[Mapping[str, str]] = {
    r"Metric,avg,min,max,": _ROWS,
    r'\{\s*"schema_version": *"[^"]*",\s*"aiperf_version"': _ROWS,
    r"# AIPerf Server Metrics Export \(CSV\)": "aiperf's metrics of the server; the .json of this name beside it is read",
    r"Run Info,Run Info,": "guidellm's table; its report as JSON has the requests, and is read",
}
"""How summaries begin that benchmarks write beside what is read, and what to give in their place."""


def read_files(
    paths: Sequence[Path], progress: Progress = lambda file, done, total: None
) -> tuple[list[Observation], list[str]]:
    """What files, and files in folders, say; and what was left out. `progress` hears how far a long file is read.

    Raises InputError for a file that nothing here knows, unless it only lies in a folder beside others that are known.
    """
    by_source: dict[int, list[Text]] = {}
    unknown, notes = list[tuple[Text, bool]](), list[str]()
    counts = re.compile("|".join([*(source.counts for source in SOURCES if source.counts), HINTS]))
    seen: dict[tuple[str, int], Text] = {}
    for text, named in read_texts(list(dict.fromkeys(paths)), counts, progress):
        i = next((i for i, source in enumerate(SOURCES) if _knows(source, text)), None)
        if i is None:
            unknown.append((text, named))
            continue
        like = seen.setdefault((text.text, len(text.held or ())), text)
        twice = like is not text and like.held == text.held
        if twice and like.file.resolve() == text.file.resolve():
            continue
        if not twice or isinstance(SOURCES[i], _SCRAPES):
            by_source.setdefault(i, []).append(text)
            notes += [f"{text.name}: {note}" for note in (*text.notes, *filter(None, [text.broken]), *departures(text.text))]
        else:
            notes.append(f"{text.name}: holds what {like.name} does, and counts once")
    for text, named in unknown:
        if named and not (by_source and _is_summary(text)):
            raise InputError(_reason(text) or f"{text.name}: is {_NONE}: {_known()}")
        why = f" ({'; '.join(text.notes)})" if text.notes else ""
        notes.append(f"{_reason(text) if _is_summary(text) else f'{text.name}: is {_NONE}{why}'}: left out")
    if not by_source:
        own = [text for text, _ in unknown if DOCUMENT not in text.notes] or [text for text, _ in unknown]
        blamed = next(filter(None, map(_reason, own)), "")
        text, others = unknown[0][0], len(unknown) - 1
        if others:
            raise InputError(
                blamed or f"{text.file.parent}: none of its {others + 1} files is of what is read here: {_known()}"
            )
        raise InputError(blamed or f"{text.name}: is {_NONE}: {_known()}")
    for i, texts in by_source.items():
        if len(texts) > 1 and not SOURCES[i].counts and not isinstance(SOURCES[i], _SCRAPES):
            by_source[i], again = _once(texts)
            notes += again
    found, silent = list[Observation](), list[NothingServed]()
    for i in sorted(by_source):
        try:
            found += _read(SOURCES[i], by_source[i])
        except NothingServed as error:
            silent.append(error)
    if silent and not any(one.drafts is not None or one.length is not None or one.request_steps for one in found):
        raise silent[0]
    return found, [*notes, *(f"{error}, and is left out" for error in silent)]


def _is_summary(text: Text) -> bool:
    """Whether a benchmark wrote it beside what is read."""
    return any(re.match(begins, text.text) for begins in _SUMMARIES)


def _reason(text: Text) -> str:
    """What a file that nothing here reads is, and what to give in its place; empty where nobody knows."""
    if NO_TEXT not in text.notes and (form := form_of(text.file)):
        return (
            f"{text.name}: is arrivals ({form}), which say nothing of drafts; give what the server itself wrote: "
            "its log, its metrics or its answers. `harness simulate` and `tuner search` take these as --arrivals"
        )
    if beside := next((told for begins, told in _SUMMARIES.items() if re.match(begins, text.text)), None):
        return f"{text.name}: is {beside}"
    why = [*text.notes, *(["it is JSON that is cut, or damaged"] if text.broken else [])]
    return f"{text.name}: is {_NONE} ({'; '.join(why)}): {_known()}" if why else ""


def _known() -> str:
    return ", ".join(source.name for source in SOURCES)


def _once(texts: Sequence[Text]) -> tuple[list[Text], list[str]]:
    """(files without the JSON objects that a file before them holds too, what to say of those): a list of results may lie
    beside them, and rows be copied again later. Rows that are alike in one file may be of two requests, and stay."""
    kept, notes, known = list[Text](), list[str](), set[bytes]()
    for text in texts:
        keys = [(_digest(one), one) for one in text.documents()]
        fresh = [one for key, one in keys if key not in known]
        known |= {key for key, _ in keys}
        if len(fresh) == len(keys):
            kept.append(text)
        elif fresh:
            kept.append(replace(text, text="", held=fresh))
            told = f"{len(keys) - len(fresh):,} of its {counted(len(keys), 'value')}"
            notes.append(f"{text.name}: {told} stand in other files too, and count once")
        else:
            notes.append(f"{text.name}: all that it holds stands in other files too, and counts once")
    return kept, notes


def _digest(value: Mapping[str, Any]) -> bytes:
    """The same for objects that hold the same, however they are written."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).digest()


def _knows(source: Source, text: Text) -> bool:
    """Whether a file is of a source's kind; what holds values of other types than it writes is not."""
    try:
        return source.recognises(text)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _read(source: Source, texts: Sequence[Text]) -> list[Observation]:
    """What texts say. Raises InputError, also for values of another type than the source writes."""
    try:
        return source.read(texts)
    except InputError:
        raise
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        named = ", ".join(text.name for text in texts)
        raise InputError(f"{named}: is not as {source.name} has it: {' '.join(str(error).split())}") from None
