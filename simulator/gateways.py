"""A gateway's log: when each request came and what it used, wherever gateways write that."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from simulator.fields import is_blank, number, span_s, time_s
from simulator.numbers import counted, written
from simulator.tabular import Row, folded
from simulator.usage import FLAT, USAGE, bodies, used

_DURATIONS: Final = {"request_time": 1.0, "upstream_response_time": 1.0, "upstream_service_time": 1e-3}
"""Fields beside a time that say how long the request took in a unit that only their makers say, in seconds each: nginx's,
and Envoy's."""
_DURATION: Final = re.compile(
    r"(?:total_|request_|response_|http_|e2e_|api_)*(?:duration|latency|elapsed|(?:request|response|total|processing)_time"
    r"|time_taken|took)(?:_total)?_(?P<unit>ns|nanos\w*|us|micros\w*|ms|millis\w*|s|sec|secs|seconds)"
)
"""Other such fields, in small letters with `_` between words, that end with their unit."""
_BARE_DURATIONS: Final = ("duration", "latency", "elapsed", "response_time", "total_time", "time_taken")
"""Such fields without a unit: gateways write seconds, milliseconds or nanoseconds there, or the unit behind the number."""
_LONGEST_S: Final = 86_400.0
"""No request takes a day."""
_STAMPS: Final = (
    "time", "timestamp", "@timestamp", "ts", "time_iso8601", "msec", "time_local", "created_at", "timeUnixNano",
)  # fmt: skip
"""Fields that say when, the first that is there."""
_STARTS: Final = ("startTime", "start_time", "started_at", "StartUTC", "startTimeUnixNano")
"""Fields that say when a request came, whatever it took: LiteLLM's, Envoy's, Kong's, Traefik's, OpenTelemetry's."""
_PATHS: Final = ("path", "x-envoy-origin-path", "request_uri", "uri", "url", "route", "request", "call_type")
_STATUSES: Final = ("status", "response_code", "status_code")
_MODELS: Final = ("model", "model_name", "genai_model_name", "gen_ai.request.model", "request_model")
_OF_GATEWAYS: Final = {*_PATHS[:-1], *_STATUSES, "method", "upstream"}
"""Fields of which a gateway's lines have some, whether they have usage or not."""
_IDS: Final = ("request_id", "requestId", "x_request_id", "x-request-id", "id", "span_id")
"""What a request is known by: two lines of one, that say the same, are copies."""
_SEVERAL: Final = ("num_model_requests", "num_requests", "n_requests", "request_count", "requests", "total_requests")
"""What a row of many requests says of how many they are."""
_NO_ANSWER: Final = re.compile(r"embed|rerank|score|classif|pooling|moderation", re.IGNORECASE)
"""What paths, calls and models are called of which nothing is decoded, though their usage may say 0 tokens of an answer."""
_ANSWERED: Final = frozenset({"", "200", "201", "success"})
_GENERATES: Final = re.compile(r"completion|/messages|/responses|generate|chat|invocations|predict", re.IGNORECASE)
"""What paths of requests that are answered with tokens have in them."""
_ASKS_NOTHING: Final = frozenset({"OPTIONS", "HEAD", "GET", "DELETE"})
_SPANS: Final = frozenset({"invoke_agent", "create_agent", "execute_tool"})
"""Operations of OpenTelemetry's whose calls of a model are spans of their own."""
_NAMED: Final = 4
"""Models that a note names."""
_WORTH_SAYING: Final = 0.05
"""Share of prompts' tokens from a cache from which on a note tells it."""


_UNITS: Final = (("n", 1e-9), ("u", 1e-6), ("mic", 1e-6), ("m", 1e-3), ("s", 1.0))
"""How units begin, in seconds."""
_NAMES: Final = frozenset(itertools.chain(
    *FLAT, _STAMPS, _STARTS, _DURATIONS, _BARE_DURATIONS, _PATHS, _STATUSES, _MODELS, _IDS, _SEVERAL,
))  # fmt: skip
_KNOWN: Final = {folded(name): name for name in sorted(_NAMES, key=lambda name: (name in _BARE_DURATIONS, name))}
"""What is read of a line, by what is the same of all spellings."""


class Unsaid(str):
    """Why a line is no load: it was answered, and nobody says with how many tokens."""


class Facts(NamedTuple):
    """What a line of load was read by."""

    time: str = ""
    """The field of its time."""
    took: str | None = None
    """The field that says how long it took."""
    path: str = ""
    model: str = ""


def spelled(row: Row) -> Row:
    """The row with what is read here called as it is here, whatever its case and signs; what a span says of itself beside
    its times, as OpenTelemetry keeps that, is a part of it."""
    said = row.get("attributes")
    if isinstance(said, list):  # as it is sent: [{"key": …, "value": {"intValue": …}}]
        said = {one["key"]: next(iter(one["value"].values()), None) for one in said if _is_attribute(one)}
    whole = {**said, **row} if isinstance(said, dict) else row
    return {name if name in _NAMES else _KNOWN.get(folded(name), name): value for name, value in whole.items()}


def _is_attribute(one: object) -> bool:
    return isinstance(one, dict) and isinstance(one.get("key"), str) and isinstance(one.get("value"), dict)


def is_line(row: Row) -> bool:
    """Whether a row is a gateway's line of a request with its tokens, or with none of them yet. Raises ValueError."""
    return _has_time(row) and bool(used(row) or row.get("usage", 0) is None)


def lacks_usage(row: Row) -> bool:
    """Whether a row is a gateway's line of any kind."""
    return _has_time(row) and bool(_OF_GATEWAYS & set(row))


def usage_names() -> str:
    """What says how many tokens a request had, in words."""
    return " or ".join(" and ".join(f"usage.{name}" for name in names) for names in USAGE)


def read(row: Row) -> tuple[float, int, int] | str:
    """(seconds since 1970, prompt tokens, output tokens), or why it is no load. Raises KeyError, ValueError.

    Whatever has usage is load, whatever its status: the engine has worked for it.
    """
    if many := next((name for name in _SEVERAL if name in row and _count(row[name]) > 1), None):
        raise ValueError(f"{many} {row[many]}: the row is of many requests, and none says when each came: give a line each")
    if _from_a_cache(row):
        return "answered by the gateway's own cache"
    if (operation := row.get("gen_ai.operation.name")) in _SPANS:
        return f"spans of {operation}, whose calls are spans of their own"
    found = used(row)
    if found is None:
        return _without_usage(row)
    if found.answer is None:
        return f"{_path(row)} without {found.answer_field}".strip()  # as of embeddings
    if not found.answer and _NO_ANSWER.search(" ".join(str(row.get(name, "")) for name in (*_PATHS, *_MODELS))):
        return f"{_path(row)} without an answer".strip()
    output = max(1, found.answer)  # a prefill gives one, wherever it went
    if (start := _first(row, _STARTS)) is not None:
        return time_s(row[start]), found.prompt, output
    took = _took(row)
    return time_s(row[_stamp(row)]) - (0.0 if took is None else took[1]), found.prompt, output


def cached(row: Row) -> int:
    """Tokens of the prompt of a line that is load that came from a cache."""
    found = used(row)
    return 0 if found is None else found.cached


def identity(row: Row) -> object:
    """What the request of a line is known by; None where nothing says."""
    name = _first(row, _IDS)
    return None if name is None or not isinstance(row[name], str | int) else row[name]


def _count(value: object) -> float:
    try:
        return float(value) if isinstance(value, int | float | str) else 0.0
    except ValueError:
        return 0.0


def _from_a_cache(row: Row) -> bool:
    """Whether the gateway had the answer itself, as LiteLLM, nginx and Kong say so."""
    said = [row.get("cache_hit"), row.get("upstream_cache_status")]
    for one in bodies(row):
        cache = one.get("cache")
        said.append(cache.get("cache_status") if isinstance(cache, dict) else None)
    return any(str(one).casefold() in ("true", "hit") for one in said)


def _without_usage(row: Row) -> str:
    """Why a line without usage is no load: of one that was answered, nobody says with how many tokens."""
    words = _request_line(row)
    method = str(row.get("method") or row.get("request_method") or (words[0] if len(words) > 1 else "")).upper()
    if method in _ASKS_NOTHING:
        return f"{method} {place(row)}".strip()
    if "start" in str(row.get("event", "")).casefold():
        return "of a request's start"
    path, status = _path(row), str(row.get(_first(row, _STATUSES) or "", "")).casefold()
    why = place(row) or "without usage"
    answered = status in _ANSWERED and (bool(status) or "usage" in row)
    asks = _GENERATES.search(path) if path else True
    return Unsaid(why) if answered and asks and not _NO_ANSWER.search(path) else why


def facts(row: Row) -> Facts:
    """What a line that is load was read by."""
    told = itertools.chain.from_iterable((one, one.get("meta")) for one in bodies(row))
    held = (one for one in told if isinstance(one, dict))
    model = next((str(one[name]) for one in held for name in _MODELS if one.get(name)), "")
    start = _first(row, _STARTS)
    took = None if start else _took(row)
    return Facts(start or _stamp(row), None if took is None else took[0], _path(row), model)


def place(row: Row, path: str | None = None, status: object = None) -> str:
    """Path and status of a line; empty where it has neither."""
    status = next((row[name] for name in _STATUSES if name in row), "") if status is None else status
    return f"{_path(row) if path is None else path} {status}".strip()


def notes(load: Counter[Facts], left_out: Counter[str]) -> list[str]:
    """What to know of how lines were read, in sentences."""
    return [note for note in (_arrival_note(load), models_note(load), _unknown(load, left_out)) if note]


def models_note(load: Counter[Facts]) -> str:
    """What to know where requests are of several models; empty where they are not."""
    models = Counter[str]()
    for one, n in load.items():
        models[one.model] += n
    del models[""]
    if len(models) < 2:
        return ""
    more = [f"{len(models) - _NAMED} more"] if len(models) > _NAMED else []
    told = ", ".join([*(f"{n:,} {model}" for model, n in models.most_common(_NAMED)), *more])
    return (
        f"its requests are of {len(models)} models ({told}), and all are taken for one engine's: keep the lines of one "
        "where the others are served elsewhere"
    )


def cached_note(cached_tokens: int, prompt_tokens: int) -> str:
    """What to know where much of the prompts came from a cache; empty where it did not."""
    if cached_tokens < _WORTH_SAYING * prompt_tokens:
        return ""
    return (
        f"{cached_tokens / prompt_tokens:.0%} of its prompts' tokens came from a cache, and all are computed here, for a "
        "log does not say which prompts begin alike: first tokens come later here than they did, and less of the load is "
        "held; a trace with hash_ids, as Mooncake's, says it"
    )


def _unknown(load: Counter[Facts], left_out: Counter[str]) -> str:
    """What to know of requests that were answered, of tokens that nobody says."""
    unknown = sum(n for why, n in left_out.items() if isinstance(why, Unsaid))
    if not unknown:
        return ""
    known = load.total()
    return (
        f"{unknown:,} of {known + unknown:,} answered requests do not say how many tokens they had, and are left out: the "
        "load is less than what was served; let the gateway ask streams for their usage (stream_options.include_usage), or "
        f"give --speed {written(float(f'{1 + unknown / known:.3g}'))} if those were alike"
    )


def _first(row: Row, names: Iterable[str]) -> str | None:
    """The first of some fields that says something."""
    return next((name for name in names if name in row and not is_blank(row[name])), None)


def _has_time(row: Row) -> bool:
    return _first(row, (*_STARTS, *_STAMPS)) is not None


def _stamp(row: Row) -> str:
    name = _first(row, _STAMPS)
    if name is None:
        raise KeyError(next((name for name in (*_STARTS, *_STAMPS) if name in row), _STAMPS[0]))
    return name


def _request_line(row: Row) -> list[str]:
    """A request as HTTP begins it, in words; its path alone where that is all there is."""
    found = (row[name] for name in _PATHS if isinstance(row.get(name), str))
    text = next((text for text in found if not text.startswith("{")), "")  # `request` may be what was asked
    words = str(text).split(" ")
    return words if len(words) > 1 and words[0].isupper() else [str(text)]


def _path(row: Row) -> str:
    """A request's path, as it is or within `POST /v1/completions HTTP/1.1`, without what was asked of it."""
    words = _request_line(row)
    return words[min(1, len(words) - 1)].partition("?")[0]


def _took(row: Row) -> tuple[str, float] | None:
    """(field, seconds) that a line's request took; None where it does not say. Raises ValueError where that has no unit."""
    if (field := _first(row, _DURATIONS)) is not None:
        seconds = _in_turn(row, field) if field == "upstream_response_time" else number(row, field) * _DURATIONS[field]
    elif (found := _with_its_unit(row)) is not None:
        field, seconds = found[0], number(row, found[0]) * found[1]
    else:
        field = next((name for name in _BARE_DURATIONS if isinstance(row.get(name), int | float | str)), None)
        if field is None or is_blank(row[field]):
            return None
        if (spanned := span_s(str(row[field]))) is None:
            raise ValueError(f"{field} {row[field]}: has no unit; call the field {field}_s or {field}_ms")
        seconds = spanned
    if seconds < 0:
        raise ValueError(f"{field} {row[field]}: must be 0 or more")
    if seconds > _LONGEST_S:
        raise ValueError(
            f"{field} {row[field]}: no request takes a day; where it says when the request came, call it start_time"
        )
    return field, seconds


def _in_turn(row: Row, field: str) -> float:
    """Seconds of each server that was asked, one after the other."""
    parts = [part for part in re.split(r"[,:\s]+", str(row[field])) if part not in ("", "-")]
    return sum(number({field: part}, field) for part in parts)


def _with_its_unit(row: Row) -> tuple[str, float] | None:
    """(field, seconds of its unit) of a duration that ends with its unit."""
    for name in row:
        if (found := _duration_unit(str(name))) is not None and not is_blank(row[name]):
            return str(name), found
    return None


@lru_cache(maxsize=4096)
def _duration_unit(name: str) -> float | None:
    """Seconds of the unit at a duration's end; None for what is no such name."""
    small = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    found = _DURATION.fullmatch(re.sub(r"[\s.\-]+", "_", small))
    return None if found is None else next(s for begin, s in _UNITS if found["unit"].startswith(begin))


def _arrival_note(load: Counter[Facts]) -> str:
    """How the times of the lines that are load were taken: each by what stands beside it."""
    named = _either(one.time for one in load)
    fields = Counter[str]()
    for one, n in load.items():
        fields[one.took or ""] += n
    bare = fields.pop("", 0)
    if {one.time for one in load} <= set(_STARTS):
        return f"{named} is when a request came"
    if not fields:
        return f"{named} is taken for the arrival, since no duration stands beside it"
    beside = _either(fields)
    if not bare:
        return f"{named} is taken for the end of a request, since {beside} stands beside it: it came so much earlier"
    return (
        f"{named} is taken for the end of {counted(fields.total(), 'request')}, since {beside} stands beside it: they came "
        f"so much earlier; and for the arrival of {counted(bare, 'request')}, where no duration stands"
    )


def _either(names: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(names))
