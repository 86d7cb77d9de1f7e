"""How long a gateway's line says that its request took, whatever the field is called."""

from __future__ import annotations

import re
from collections.abc import Set
from functools import lru_cache
from typing import Final, NamedTuple

from simulator.fields import is_blank, number
from simulator.moments import is_dated, span_s
from simulator.tabular import Row

MAKERS: Final = {
    "request_time": 1.0, "upstream_response_time": 1.0, "upstream_service_time": 1e-3, "use_time": 1.0,
    "event.duration": 1e-9, "properties.$ai_latency": 1.0,
}  # fmt: skip
"""Fields that say how long the request took in a unit that only their makers say, in seconds each: nginx's, Envoy's, New
API's, Elastic's and PostHog's."""
_ELASTICS: Final = "event.duration"
_LEAST_S: Final = 1e-3
"""Less than this no request takes."""
_IN_MS: Final = (
    ("duration", frozenset({"upstream_service_time"})), ("duration", frozenset({"tokens_in", "cached"})),
    ("response_time", frozenset({"req_units"})), ("elapsed_time", frozenset({"quota"})),
    ("latency", frozenset({"llm_summary"})),
)  # fmt: skip
"""Names without a unit that are in milliseconds beside such fields: Envoy's, Cloudflare's, Portkey's, One API's and
APISIX's."""
_UNITS: Final = (
    (re.compile(r"ns|nanos\w*"), 1e-9), (re.compile(r"us|micros\w*"), 1e-6), (re.compile(r"ms|msecs?|millis\w*"), 1e-3),
    (re.compile(r"s|secs?|seconds"), 1.0),
)  # fmt: skip
"""Units, as the last word of a name, in seconds each."""
_CORE: Final = re.compile(
    r"duration|latency|elapsed(?:_time)?|took|time_taken|time_to_last_token|ttlt|runtime"
    r"|(?:request|response|total|processing|inference|generation|execution|round_trip)_time|time_total|dauer"
)
"""What a duration of a whole request is called, in small letters with `_` between words and without its unit."""
_WORDS: Final = re.compile(
    r"(?:x|total|overall|full|request|req|response|resp|http|e2e|end_to_end|api|llm|model|target|server|client"
    r"|call|query|completion|upstream|generation|inference)_"
)
"""What may stand before that."""
_BARE_NOT: Final = frozenset({"request_time", "runtime"})
"""Such names that, without a unit, may be something else."""
_PART: Final = re.compile(
    r"gateway|proxy|overhead|first|ttft|tpot|itl|inter|queue|wait|prefill|prompt|decode|connect|per_|avg|mean|p\d\d|budget|limit|timeout"
)
"""Words of times that are a part of a request's, or of none."""
_LIKE: Final = re.compile(r"latenc|duration|elapsed|took|delay|dauer|time|_(?:ns|us|ms|s|secs?|seconds)$")
"""Words of names that may be a duration's."""
_ALIKE: Final = 1.5
"""Times as long as another that a duration without a unit is at least, where it cannot be left aside."""
_LONGEST_S: Final = 86_400.0
"""No request takes a day."""


class Took(NamedTuple):
    """How long a request took."""

    field: str
    seconds: float


def took(row: Row) -> Took | None:
    """The longest that a line says its request took; None where it does not say. Raises ValueError where it has no unit."""
    found = [one for name in row if (one := _said(row, str(name))) is not None]
    for name in row:
        try:
            found += [one for one in [_without_a_unit(row, str(name))] if one is not None]
        except ValueError:  # a number that may be the longest, whatever its unit, has to say it
            longest_s = max((one.seconds for one in found), default=0.0)
            if not found or _least_s(row[name]) > _ALIKE * longest_s:
                raise
    if not found:
        return None
    longest = max(found, key=lambda one: one.seconds)
    if longest.seconds > _LONGEST_S:
        raise ValueError(
            f"{longest.field} {row[longest.field]}: no request takes a day; where it says when the request came, call it "
            "start_time"
        )
    return longest


@lru_cache(maxsize=4096)
def is_one(field: str) -> bool:
    """Whether a field is called as a request's duration is, with its unit or without."""
    return field in MAKERS or _unit(field) is not None or _is_bare(field)


def is_plausible(field: str, value: object) -> bool:
    """Whether a field that is called as a duration is can be a request's: an uptime is none."""
    try:
        return took({field: value}) is not None
    except ValueError:
        return False


def says_one(row: Row) -> bool:
    """Whether a line says how long its request took, in any unit or none."""
    try:
        return took(row) is not None
    except ValueError:
        return True


def _least_s(value: object) -> float:
    """Seconds of a number of which nobody says the unit, in milliseconds; 0 of what is none."""
    try:
        return float(value) * 1e-3  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return 0.0


def alike(row: Row, but: Set[str]) -> tuple[str, ...]:
    """Fields with numbers that may be a duration, of which nothing here knows, `but` those of another meaning."""
    return tuple(
        str(name) for name, value in row.items() if name not in but and _may_be_one(str(name)) and _is_number(value)
    )


def _said(row: Row, field: str) -> Took | None:
    """A duration in the unit that its name says, or its maker."""
    unit = MAKERS.get(field) or _unit(field)
    if unit is None or is_blank(row[field]):
        return None
    if field == "request_time" and isinstance(row[field], str) and is_dated(row[field]):
        raise ValueError(f"{field} {row[field]}: is a time; where it says when the request came, call it start_time")
    if field == "upstream_response_time":
        parts = [part for part in re.split(r"[,:\s]+", str(row[field])) if part not in ("", "-")]
        seconds = sum(number({field: part}, field) for part in parts)  # of each server that was asked, one after the other
    else:
        seconds = number(row, field) * unit
    if seconds == -unit:  # as gateways write what they do not know
        return None
    if field == _ELASTICS and seconds < _LEAST_S:  # written in ms, or in s, by whoever did not know
        return None
    if seconds < 0:
        raise ValueError(f"{field} {row[field]}: must be 0 or more")
    return Took(field, seconds)


def _without_a_unit(row: Row, field: str) -> Took | None:
    """A duration whose name has no unit: gateways write seconds, milliseconds or nanoseconds there, or one behind the
    number; Ollama's is in nanoseconds, OpenRouter's in milliseconds."""
    value = row[field]
    if not _is_bare(field) or not isinstance(value, int | float | str) or isinstance(value, bool) or is_blank(value):
        return None
    if any(field == name and beside <= row.keys() for name, beside in _IN_MS):
        return Took(field, number(row, field) * 1e-3)
    if "eval_count" in row and field == "total_duration":
        return Took(field, number(row, field) * 1e-9)
    if "tokens_prompt" in row and "native_tokens_prompt" in row:
        return Took(field, number(row, field) * 1e-3)
    if (seconds := span_s(str(value))) is None:
        if (isinstance(value, str) and is_dated(value)) or "." in field:  # within an object it may be anything
            return None
        raise ValueError(f"{field} {value}: has no unit; call the field {field}_s or {field}_ms")
    return Took(field, seconds)


@lru_cache(maxsize=4096)
def words_of(field: str) -> str:
    """A name in small letters, with `_` between its words: `Latency (ms)` and `latencyMs` are latency_ms."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", field).lower()
    return re.sub(r"[\W_]+", "_", apart).strip("_")


@lru_cache(maxsize=4096)
def _unit(field: str) -> float | None:
    """Seconds of the unit at a duration's end; None for what is no such name."""
    before, _, last = words_of(field).rpartition("_")
    unit = next((seconds for name, seconds in _UNITS if name.fullmatch(last)), None)
    core = before.removesuffix("_in")
    core = core.removesuffix("_total") if core.endswith(("duration_total", "latency_total")) else core
    return unit if unit is not None and (core in ("rt", "e2e") or _is_core(core)) else None


def _is_core(words: str) -> bool:
    while not _CORE.fullmatch(words):
        found = _WORDS.match(words)
        if found is None:
            return False
        words = words[found.end() :]
    return True


@lru_cache(maxsize=4096)
def _is_bare(field: str) -> bool:
    words = words_of(field)
    return field not in MAKERS and words not in _BARE_NOT and _is_core(words)


@lru_cache(maxsize=4096)
def _may_be_one(field: str) -> bool:
    words = words_of(field)
    known = field in MAKERS or _unit(field) is not None or (_is_bare(field) and "." not in field)
    return not known and _LIKE.search(words) is not None and "stamp" not in words and not _PART.search(words)


def _is_number(value: object) -> bool:
    try:
        return not isinstance(value, bool) and 0 < float(value) < _LONGEST_S * 1e3  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
