"""A gateway's log: when each request came and what it used, wherever gateways write that."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from simulator.bodies import RESPONSES, opened
from simulator.fields import number, span_s, time_s, tokens
from simulator.numbers import counted, written
from simulator.tabular import Row

_DURATIONS: Final = {
    "duration_s": 1.0, "duration_ms": 1e-3, "latency_s": 1.0, "latency_ms": 1e-3, "request_time": 1.0,
    "response_time_ms": 1e-3, "elapsed_s": 1.0, "elapsed_ms": 1e-3, "upstream_response_time": 1.0,
}  # fmt: skip
"""Fields beside a time that say how long the request took, in seconds each; two are nginx's."""
_BARE_DURATIONS: Final = ("duration", "latency", "elapsed", "response_time")
"""Such fields without a unit: gateways write seconds, milliseconds or nanoseconds there, or the unit behind the number."""
_STAMPS: Final = ("time", "timestamp", "@timestamp", "ts", "time_iso8601", "msec", "time_local")
"""Fields that say when, the first that is there."""
_STARTS: Final = ("startTime", "start_time", "started_at")
"""Fields that say when a request came, whatever it took: LiteLLM's, Envoy's, Kong's."""
_USAGE: Final = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
"""Fields of usage as APIs have them: (prompt, answer)."""
_FLAT: Final = (
    *_USAGE, ("prompt_tokens", "output_tokens"), ("genai_tokens_input", "genai_tokens_output"),
    ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"),
)  # fmt: skip
"""The same among a line's own fields; Envoy's, and OpenTelemetry's names."""
_CACHED: Final = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""What Anthropic's usage counts beside `input_tokens`: a prompt is all three."""
_NOTHING: Final = (None, "", "-", 0, "0", 0.0)
_PATHS: Final = ("path", "x-envoy-origin-path", "request_uri", "uri", "url", "route", "request", "call_type")
_STATUSES: Final = ("status", "response_code", "status_code")
_MODELS: Final = ("model", "model_name", "genai_model_name", "gen_ai.request.model")
_OF_GATEWAYS: Final = {*_PATHS[:-1], *_STATUSES, "method", "upstream"}
"""Fields of which a gateway's lines have some, whether they have usage or not."""
_NO_ANSWER: Final = re.compile(r"embedding|rerank|score|classif|pooling|moderation", re.IGNORECASE)
"""What paths and calls are called of which nothing is decoded, though their usage may say 0 tokens of an answer."""
_NAMED: Final = 4
"""Models that a note names."""


class Facts(NamedTuple):
    """What a line of load was read by."""

    time: str = ""
    """The field of its time."""
    took: str | None = None
    """The field that says how long it took."""
    path: str = ""
    model: str = ""


def is_line(row: Row) -> bool:
    """Whether a row is a gateway's line of a request with its tokens, or with none of them yet."""
    return _has_time(row) and bool(_used(row) or row.get("usage", 0) is None)


def lacks_usage(row: Row) -> bool:
    """Whether a row is a gateway's line of any kind."""
    return _has_time(row) and bool(_OF_GATEWAYS & set(row))


def usage_names() -> str:
    """What says how many tokens a request had, in words."""
    return " or ".join(" and ".join(f"usage.{name}" for name in names) for names in _USAGE)


def read(row: Row) -> tuple[float, int, int] | str:
    """(seconds since 1970, prompt tokens, output tokens), or why it is no load. Raises KeyError, ValueError.

    Whatever has usage is load, whatever its status: the engine has worked for it.
    """
    if str(row.get("cache_hit")).casefold() == "true":
        return "answered by the gateway's own cache"
    if (found := _used(row)) is None:
        return place(row) or "without usage"
    prompt, usage, answer = found
    if usage.get(answer) is None:
        return f"{_path(row)} without {answer}".strip()  # as of embeddings
    output = tokens(usage, answer, least=0)
    if not output and _NO_ANSWER.search(" ".join(str(row.get(name, "")) for name in _PATHS)):
        return f"{_path(row)} without an answer"
    output = max(1, output)  # a prefill gives one, wherever it went
    if (start := next((name for name in _STARTS if name in row), None)) is not None:
        return time_s(row[start]), prompt, output
    took = _took(row)
    return time_s(row[_stamp(row)]) - (0.0 if took is None else took[1]), prompt, output


def facts(row: Row) -> Facts:
    """What a line that is load was read by."""
    model = next((str(one[name]) for one in _bodies(row) for name in _MODELS if one.get(name)), "")
    start = next((name for name in _STARTS if name in row), None)
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


def _unknown(load: Counter[Facts], left_out: Counter[str]) -> str:
    """What to know of requests that were answered, of tokens that nobody says."""
    paths = {one.path for one in load if one.path}
    unknown = sum(left_out[place({}, path, status)] for path in paths for status in (200, 201))
    if not unknown:
        return ""
    known = sum(n for one, n in load.items() if one.path)
    return (
        f"{unknown:,} of {known + unknown:,} answered requests do not say how many tokens they had, and are left out: the "
        "load is less than what was served; let the gateway ask streams for their usage (stream_options.include_usage), or "
        f"give --speed {written(float(f'{1 + unknown / known:.3g}'))} if those were alike"
    )


def _has_time(row: Row) -> bool:
    return bool({*_STARTS, *_STAMPS} & set(row))


def _stamp(row: Row) -> str:
    return next(name for name in _STAMPS if name in row)


def _path(row: Row) -> str:
    """A request's path, as it is or within `POST /v1/completions HTTP/1.1`, without what was asked of it."""
    found = (row[name] for name in _PATHS if isinstance(row.get(name), str))
    text = next((text for text in found if not text.startswith("{")), "")  # `request` may be what was asked
    words = text.split(" ")
    return str(words[1] if len(words) > 1 and words[0].isupper() else text).partition("?")[0]


def _used(row: Row) -> tuple[int, Row, str] | None:
    """(prompt tokens, usage, the field of the answer's tokens) of a line; None where it says nothing of a prompt."""
    usage, names = _usage_of(row)
    for asked, answer in sorted(names, key=lambda pair: usage.get(pair[1]) is None):
        given = [name for name in (asked, *(_CACHED if asked == "input_tokens" else ())) if usage.get(name) not in _NOTHING]
        if given:
            return sum(tokens(usage, name) for name in given), usage, answer
    return None


def _usage_of(row: Row) -> tuple[Row, tuple[tuple[str, str], ...]]:
    """Where a line keeps what its request used, and what that may be called: `usage`, in what was answered, or in a plugin
    of Kong's; else among its own fields."""
    for one in _bodies(row):
        if isinstance(usage := one.get("usage"), dict):
            return usage, _USAGE
    return row, _FLAT


def _bodies(row: Row) -> Iterator[dict[str, Any]]:
    plugins = row.get("ai")
    held = (opened(row.get(name)) for name in RESPONSES)
    for one in itertools.chain([row], held, plugins.values() if isinstance(plugins, dict) else ()):
        if isinstance(one, dict):
            yield one


def _took(row: Row) -> tuple[str, float] | None:
    """(field, seconds) that a line's request took; None where it does not say. Raises ValueError where that has no unit."""
    field = next((name for name in _DURATIONS if row.get(name) not in (None, "", "-")), None)
    if field is None:
        field = next((name for name in _BARE_DURATIONS if isinstance(row.get(name), int | float | str)), None)
        if field is None or row[field] in ("", "-"):
            return None
        if (seconds := span_s(str(row[field]))) is None:
            raise ValueError(f"{field} {row[field]}: has no unit; call the field {field}_s or {field}_ms")
        return field, seconds
    if field == "upstream_response_time":  # of each server that was asked, one after the other
        parts = [part for part in re.split(r"[,:\s]+", str(row[field])) if part not in ("", "-")]
        seconds = sum(number({field: part}, field) for part in parts)
    else:
        seconds = number(row, field) * _DURATIONS[field]
    if seconds < 0:
        raise ValueError(f"{field} {row[field]}: must be 0 or more")
    return field, seconds


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
