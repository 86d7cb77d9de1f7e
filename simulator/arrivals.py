"""Recorded arrivals: when requests came to a real service and how long they were, as gateways and published traces write it.

A file is recognised by its first line, a gateway's log by any line with usage. Each form is a row of `_FORMS`: which
columns say so, and how a row is read.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from simulator.errors import InputError
from simulator.numbers import counted

Row = Mapping[str, Any]
_DURATIONS = {"duration_s": 1.0, "duration_ms": 1e-3, "latency_s": 1.0, "latency_ms": 1e-3, "request_time": 1.0,
              "response_time_ms": 1e-3, "elapsed_s": 1.0, "elapsed_ms": 1e-3}  # fmt: skip
"""Fields beside a time that say how long the request took, in seconds each; nginx's request_time is one."""
_BARE_DURATIONS = ("duration", "latency", "elapsed", "response_time")
"""Such fields without a unit: gateways write seconds, milliseconds or nanoseconds there."""
_EPOCHS = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3))
"""Numbers above the first are times since 1970 in units of so many seconds."""
_MOST_TOKENS = 10**9
"""No request has more."""
_NAMED = 4
"""Reasons and places that a line of counts names."""


@dataclass(frozen=True, slots=True)
class RecordedRequests:
    """When each request came, how long prompt and answer were."""

    arrival_s: npt.NDArray[np.float64]
    """Rising from 0 or later, [n]."""
    prompt_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    notes: tuple[str, ...] = ()
    """What a person should know of how the file was read: sentences."""

    def __post_init__(self) -> None:
        if len(self.arrival_s) == 0 or (np.diff(self.arrival_s) < 0).any() or self.arrival_s[0] < 0:
            raise ValueError("arrival_s must rise from 0 or later, and there must be a request")
        if min(self.prompt_tokens.min(), self.output_tokens.min()) < 1:
            raise ValueError("prompt_tokens and output_tokens must be 1 or more")

    @property
    def rate_per_s(self) -> float:
        """Mean requests a second; infinite where all came at once."""
        span = float(self.arrival_s[-1] - self.arrival_s[0])
        return (len(self.arrival_s) - 1) / span if span else math.inf

    def faster(self, factor: float) -> RecordedRequests:
        """The same requests, so many times as fast."""
        return replace(self, arrival_s=self.arrival_s / factor)

    @classmethod
    def read(cls, file: Path, speed: float = 1.0) -> RecordedRequests:
        """The requests of a file, `speed` times as fast as they came, the first of them at 0.

        Raises InputError with the line of what is wrong, OSError where the file cannot be read.
        """
        rows = list(_rows(file))
        if not rows:
            raise InputError(f"{file}: holds no requests")
        form = _form_of(file, [row for _, row in rows])
        taken: list[tuple[float, int, int]] = []
        load: list[Row] = []
        left_out: Counter[str] = Counter()
        for line, row in rows:
            try:
                found = form.read(row)
            except (KeyError, TypeError, ValueError) as error:
                what = f"misses {error}" if isinstance(error, KeyError) else str(error)
                raise InputError(f"{file}, line {line}: {what}") from None
            if isinstance(found, str):
                left_out[found] += 1
            else:
                taken.append(found)
                load.append(row)
        if not taken:
            raise InputError(f"{file}: none of its {len(rows):,} lines is a request with tokens ({_named(left_out)})")
        taken.sort(key=lambda request: request[0])  # logs are written as requests end
        arrival, prompt, output = (np.array(column) for column in zip(*taken, strict=True))
        said = [f"{file.name}: {form.name}, {counted(len(taken), 'request')}"]
        if form.note:
            said.append(form.note(load))
        if left_out:
            said.append(f"not load: {counted(left_out.total(), 'line')} ({_named(left_out)})")
        seconds = (arrival - arrival[0]).astype(np.float64) / speed
        return cls(seconds, prompt.astype(np.int64), output.astype(np.int64), tuple(said))


def _named(counts: Counter[str]) -> str:
    """Counts by reason, the most frequent first."""
    named = [f"{n:,} {why}" for why, n in counts.most_common(_NAMED)]
    return ", ".join([*named, f"{len(counts) - _NAMED} more reasons"] if len(counts) > _NAMED else named)


def _rows(file: Path) -> Iterator[tuple[int, Row]]:
    """(line, columns) of a CSV or of JSON lines. Raises InputError for what is neither."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not UTF-8 text") from None
    if text.lstrip().startswith("{"):
        for number, line in enumerate(text.split("\n"), 1):  # to splitlines, a line ends at U+2028 too
            if line.strip():
                yield number, _json(file, number, line)
        return
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        if None in row or None in row.values():
            raise InputError(
                f"{file}, line {reader.line_num}: has {'more' if None in row else 'fewer'} columns than the first"
            )
        yield reader.line_num, row


def _json(file: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{file}, line {number}: is no JSON ({error})") from None
    if not isinstance(row, dict):
        raise InputError(f"{file}, line {number}: is no JSON object")
    return row


Read = Callable[[Row], tuple[float, int, int] | str]
"""(seconds, prompt tokens, output tokens) of a row, or why it is no load. Raises KeyError, TypeError, ValueError."""


@dataclass(frozen=True, slots=True)
class _Form:
    """A way to write arrivals down."""

    name: str
    columns: frozenset[str]
    """Those that the first row must have."""
    read: Read
    note: Callable[[Sequence[Row]], str] | None = None
    """A sentence on how its columns were taken, by the rows that are load."""


def _form_of(file: Path, rows: Sequence[Row]) -> _Form:
    """By the first row; a gateway's log, of which any line may be no request, by any row with usage."""
    first = rows[0]
    for form in _FORMS:
        if form.columns <= set(first):
            return form
    if any({"time", "timestamp"} & set(row) and not isinstance(row.get("usage", 0), int) for row in rows):
        return _GATEWAY
    known = "; ".join(f"{form.name}: {', '.join(sorted(form.columns))}" for form in (*_FORMS, _GATEWAY))
    raise InputError(f"{file}: its columns ({', '.join(map(str, first))}) are of no form known here ({known})")


def _plain(row: Row) -> tuple[float, int, int]:
    seconds = _number(row, "arrival_s")
    if seconds < 0:
        raise ValueError(f"arrival_s {seconds:g}: must be 0 or more")
    return seconds, _tokens(row, "prompt_tokens"), _tokens(row, "output_tokens")


def _azure(row: Row) -> tuple[float, int, int] | str:
    return _unless_empty(_time(row["TIMESTAMP"]), row, "ContextTokens", "GeneratedTokens")


def _burst_gpt(row: Row) -> tuple[float, int, int] | str:
    return _unless_empty(_number(row, "Timestamp"), row, "Request tokens", "Response tokens")


def _mooncake(row: Row) -> tuple[float, int, int] | str:
    return _unless_empty(_number(row, "timestamp") / 1000, row, "input_length", "output_length")


def _bailian(row: Row) -> tuple[float, int, int] | str:
    return _unless_empty(_number(row, "timestamp"), row, "input_length", "output_length")


def _weka(row: Row) -> tuple[float, int, int] | str:
    return _unless_empty(_number(row, "t"), row, "in", "out")


def _gateway(row: Row) -> tuple[float, int, int] | str:
    """Whatever has usage is load, whatever its status: the engine has worked for it."""
    usage = row.get("usage")
    if not isinstance(usage, dict) or not usage.get("prompt_tokens"):
        return " ".join(str(row[key]) for key in ("path", "status") if key in row) or "without usage"
    prompt = _tokens(usage, "prompt_tokens")
    output = max(1, _tokens(usage, "completion_tokens", least=0))  # a prefill gives one, wherever it went
    seconds = _time(row["time"] if "time" in row else row["timestamp"])
    field = _duration_of(row)
    took_s = 0.0 if field is None else _number(row, field) * _DURATIONS[field]
    if took_s < 0:
        raise ValueError(f"{field} {row[str(field)]}: must be 0 or more")
    return seconds - took_s, prompt, output


def _duration_of(row: Row) -> str | None:
    """The field of a line that says how long its request took; raises ValueError where that has no unit."""
    bare = [name for name in _BARE_DURATIONS if isinstance(row.get(name), int | float)]
    known = [name for name in _DURATIONS if row.get(name) is not None]
    if bare and not known:
        name = bare[0]
        raise ValueError(f"{name} {row[name]}: has no unit; call the field {name}_s or {name}_ms")
    return known[0] if known else None


def _arrival_note(load: Sequence[Row]) -> str:
    """How the times of the lines that are load were taken: each by what stands beside it."""
    named = _either("time" if "time" in row else "timestamp" for row in load)
    fields = Counter(_duration_of(row) for row in load)
    bare = fields.pop(None, 0)
    if not fields:
        return f"{named} is taken for the arrival, since no duration stands beside it"
    beside = _either(name for name in fields if name)
    if not bare:
        return f"{named} is taken for the end of a request, since {beside} stands beside it: it came so much earlier"
    return (
        f"{named} is taken for the end of {counted(fields.total(), 'request')}, since {beside} stands beside it: they came "
        f"so much earlier; and for the arrival of {counted(bare, 'request')}, where no duration stands"
    )


def _either(names: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(names))


def _unless_empty(seconds: float, row: Row, prompt: str, output: str) -> tuple[float, int, int] | str:
    """Published traces keep failures, as requests without an answer."""
    tokens = _tokens(row, output, least=0)
    return (seconds, _tokens(row, prompt), tokens) if tokens else "without an answer"


def _number(row: Row, name: str) -> float:
    try:
        value = math.nan if isinstance(row[name], bool) else float(row[name])
    except OverflowError:
        value = math.inf
    except (TypeError, ValueError):
        raise ValueError(f"{name} {row[name]!r}: is no number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} {row[name]}: is no finite number")
    return value


def _tokens(row: Row, name: str, *, least: Literal[0, 1] = 1) -> int:
    value = _number(row, name)
    if not least <= value <= _MOST_TOKENS or value != int(value):
        raise ValueError(f"{name} {row[name]}: a whole number of tokens, {least} to {_MOST_TOKENS:,}, is needed")
    return int(value)


def _time(text: object) -> float:
    """Seconds since 1970: of ISO 8601, without a zone as UTC, or of a number in s, ms, µs or ns."""
    try:
        number = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        try:
            moment = datetime.fromisoformat(str(text))
        except ValueError:
            raise ValueError(f"time {text!r}: is neither ISO 8601 nor a number") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(number):
        raise ValueError(f"time {text}: is not finite")
    return number * next((unit for above, unit in _EPOCHS if number > above), 1.0)


_FORMS = (
    _Form("a CSV of arrivals", frozenset({"arrival_s", "prompt_tokens", "output_tokens"}), _plain),
    _Form("an Azure trace", frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}), _azure),
    _Form("a BurstGPT trace", frozenset({"Timestamp", "Request tokens", "Response tokens"}), _burst_gpt),
    _Form("a Bailian trace", frozenset({"chat_id", "timestamp", "input_length", "output_length"}), _bailian),
    _Form("a Mooncake trace", frozenset({"timestamp", "input_length", "output_length"}), _mooncake),
    _Form("a weka trace", frozenset({"t", "in", "out"}), _weka),
)
_GATEWAY = _Form("a gateway's log", frozenset({"time", "usage"}), _gateway, _arrival_note)
