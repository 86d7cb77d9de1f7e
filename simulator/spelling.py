"""What is read of a gateway's line, called alike whatever its maker calls it, and wherever in the line that stands."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from simulator import durations
from simulator.fields import is_blank
from simulator.tabular import Row, folded
from simulator.usage import FLAT, bodies

STAMPS: Final = (
    "time", "timestamp", "@timestamp", "ts", "time_iso8601", "msec", "time_local", "created_at", "timeUnixNano", "datetime",
    "event_time", "log_time", "timestamp_utc", "_time", "timestamp_ms", "ts_ms", "created",
)  # fmt: skip
"""Fields that say when, the first that is there."""
STARTS: Final = (
    "startTime", "start_time", "started_at", "StartUTC", "startTimeUnixNano", "arrival_s", "arrival_time",
    "startTimestamp", "start_ts", "request_timestamp", "request_created_at", "request_start_time", "request_received_at",
    "request_creation_time",
)  # fmt: skip
"""Fields that say when a request came, whatever it took: LiteLLM's, Envoy's, Kong's, Traefik's, OpenTelemetry's, and
Helicone's."""
ENDS: Final = (
    "completed_at", "endTime", "end_time", "ended_at", "finished_at", "EndUTC", "endTimestamp", "response_timestamp",
    "response_created_at",
)  # fmt: skip
"""Fields that say when a request ended: a time beside one may be when it came."""
PATHS: Final = ("path", "x-envoy-origin-path", "request_uri", "uri", "url", "route", "request", "call_type")
STATUSES: Final = ("status", "response_code", "status_code", "response_status", "response_status_code")
MODELS: Final = ("model", "model_name", "genai_model_name", "gen_ai.request.model", "request_model")
OF_GATEWAYS: Final = {*PATHS[:-1], *STATUSES, "method", "upstream"}
"""Fields of which a gateway's lines have some, whether they have usage or not."""
IDS: Final = ("request_id", "requestId", "x_request_id", "x-request-id", "id", "span_id")
"""What a request is known by: lines of one are put together."""
_CLOCK: Final = re.compile(r"\s*\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?\s*(?:[AaPp][Mm])?")
"""A time of the day, whose date stands in a column of its own."""
_PARENTS: Final = (
    "parent_span_id", "parentSpanId", "parent_run_id", "parentObservationId", "parent_observation_id", "parent_id",
)  # fmt: skip
"""What a part of something greater, as an agent's run, names that by; the last of them beside a span's id alone."""
_TRACES: Final = ("trace_id", "traceId", "context.trace_id")
"""What holds all parts of something: their ids may count from 1 in each."""
_SPAN_IDS: Final = ("span_id", "spanId", "context.span_id", "run_id", "id")
SEVERAL: Final = (
    "num_model_requests", "num_requests", "n_requests", "request_count", "requests", "total_requests", "count", "cnt",
    "doc_count", "number_of_requests",
)  # fmt: skip
"""What a row of many requests says of how many they are."""
_CODES: Final = frozenset({*map(folded, STATUSES), "code", "httpstatus", "httpcode", "httpstatuscode"})
_METHODS: Final = frozenset({"method", "requestmethod", "httpmethod"})
_PLACES: Final = frozenset({"path", "uri", "url", "requesturi", "target", "route", "endpoint", "original", "full"})
"""Last names, as `folded` has them, of a request's status, method and path within objects."""
_ANSWERS: Final = frozenset({"http", "response", "resp", "res", "result", "upstream"})
_ASKED: Final = frozenset({"http", "request", "req", "url"})
_TIMED: Final = frozenset(
    {"http", "request", "response", "event", "timing", "timings", "latency", "latencies", "metrics", "properties"}
)
"""Objects, each within another of them, that are of the request itself: others have codes, paths and times of their own."""
_DEEPEST: Final = 3
NAMES: Final = frozenset(itertools.chain(
    *FLAT, STAMPS, STARTS, ENDS, durations.MAKERS, PATHS, STATUSES, MODELS, IDS, SEVERAL,
))  # fmt: skip
_KNOWN: Final = {folded(name): name for name in sorted(NAMES)}
"""What is read of a line, by what is the same of all spellings."""


def spelled(row: Row) -> Row:
    """The row with what is read here called as it is here, whatever its case and signs; what a span says of itself beside
    its times, as OpenTelemetry keeps that, is a part of it, and so are a status, a path and durations within objects."""
    said = row.get("attributes")
    if isinstance(said, list):  # as it is sent: [{"key": …, "value": {"intValue": …}}]
        said = {one["key"]: next(iter(one["value"].values()), None) for one in said if _is_attribute(one)}
    whole = {**said, **row} if isinstance(said, dict) else row
    named = {_called(name): value for name, value in whole.items()}
    clock = named.get("time")
    if isinstance(clock, str) and _CLOCK.fullmatch(clock):
        named |= next(({"time": f"{day} {clock}"} for name, day in row.items() if folded(name) == "date"), {})
    if not has_time(named):  # an answer as OpenAI's API gives it says when it was begun
        named |= next(({"created": one["created"]} for one in bodies(named) if not is_blank(one.get("created"))), {})
    return named | _within(row, named)


@lru_cache(maxsize=4096)
def _called(name: str) -> str:
    return name if name in NAMES else _KNOWN.get(folded(name), name)


def _is_attribute(one: object) -> bool:
    return isinstance(one, dict) and isinstance(one.get("key"), str) and isinstance(one.get("value"), dict)


def _within(row: Row, named: Row) -> dict[str, Any]:
    """What objects of a request, or of the answer to it, say of its status, path and duration, where the row does not."""
    lacks_status, lacks_path = first(named, STATUSES) is None, not any(isinstance(named.get(name), str) for name in PATHS)
    lacks_took = first(named, STARTS) is None and not any(map(durations.is_one, named))
    found = dict[str, Any]()
    for name, value in leaves(row, _DEEPEST) if lacks_status or lacks_path or lacks_took else ():
        *objects, own = map(folded, name.split("."))
        of_answers, of_requests = set(objects) <= _ANSWERS, set(objects) <= _ASKED
        if lacks_status and own in _CODES and _is_code(value) and (objects or isinstance(value, int)) and of_answers:
            found.setdefault("status", value)
        elif own in _METHODS and objects and of_requests:
            found.setdefault("method", value)
        elif lacks_path and own in _PLACES and _is_place(value) and of_requests:
            found.setdefault("path", value)
        elif (
            lacks_took
            and objects
            and set(objects) <= _TIMED
            and durations.is_one(name)
            and durations.is_plausible(name, value)
        ):
            found[name] = value
    return found


def _is_place(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("/", "http"))


def leaves(
    row: Mapping[str, Any], deep: int, inside: Callable[[str, Any], Any] = lambda name, value: value, path: str = ""
) -> Iterator[tuple[str, Any]]:
    """(names from the outermost, with dots between; number or text) within an object, so many objects deep.

    Args:
        inside: what a field holds, by its own name: what is JSON as text may be an object.
    """
    for name, value in row.items():
        inner = inside(name, value) if deep else None
        if isinstance(inner, dict):
            yield from leaves(inner, deep - 1, inside, f"{path}{name}.")
        elif isinstance(value, int | float | str):
            yield f"{path}{name}", value


def _is_code(value: object) -> bool:
    """Whether a value can be a status of HTTP."""
    return not isinstance(value, bool) and re.fullmatch(r"[1-5]\d\d", str(value)) is not None


def has_time(row: Row) -> str:
    """The field of a row's time; empty where it has none that is known."""
    return first(row, (*STARTS, *STAMPS)) or ""


def first(row: Row, names: Iterable[str]) -> str | None:
    """The first of some fields that says something."""
    return next((name for name in names if name in row and not is_blank(row[name])), None)


def span(row: Row) -> tuple[object, object]:
    """(what a row is known by as a part of something, or as a whole; what it is a part of); None where nothing says."""
    trace = next((row[name] for name in _TRACES if isinstance(row.get(name), str | int)), None)
    own = next((row[name] for name in _SPAN_IDS if _is_id(row.get(name))), None)
    parents = _PARENTS if any(_is_id(row.get(name)) for name in _SPAN_IDS[:3]) else _PARENTS[:-1]
    parent = next((row[name] for name in parents if _is_id(row.get(name))), None)
    return None if own is None else (trace, own), None if parent is None else (trace, parent)


def _is_id(value: object) -> bool:
    """Whether a value can be an id: zeros are what tracers write that are off."""
    return isinstance(value, str | int) and not is_blank(value) and not re.fullmatch(r"[0-]*", str(value))
