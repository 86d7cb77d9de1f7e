"""A gateway's log: when each request came and what it used, wherever gateways write that."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from simulator import durations
from simulator.identities import Silent
from simulator.moments import SINCE_1970, has_zone, is_dated, may_be_day_first, time_s
from simulator.numbers import counted, written
from simulator.spelling import (
    ENDS,
    IDS,
    MODELS,
    NAMES,
    OF_GATEWAYS,
    PATHS,
    SEVERAL,
    STAMPS,
    STARTS,
    STATUSES,
    first,
    has_time,
)
from simulator.tabular import Row
from simulator.usage import USAGE, bodies, says_tokens, used

_IN_MS: Final = frozenset({"timestamp_ms", "ts_ms"})
"""Times whose small numbers are milliseconds."""
_DATABRICKS: Final = ("timestamp_ms", "execution_time_ms")
"""A time, and the duration beside which it is when a request came."""
_MADE: Final = frozenset({"created_at", "created"})
_OF_ANSWERS: Final = frozenset({"chat.completion", "text_completion", "chat.completion.chunk", "response"})
_NO_ANSWER: Final = re.compile(r"embed|rerank|score|classif|pooling|moderation", re.IGNORECASE)
"""What paths, calls and models are called of which nothing is decoded, though their usage may say 0 tokens of an answer."""
_ANSWERED: Final = frozenset({"", "200", "201", "success"})
_REFUSED: Final = frozenset({"400", "401", "402", "403", "404", "405", "413", "415", "422", "429"})
"""Statuses of what no engine saw: without a token of an answer, its prompt is what a gateway has counted."""
_GENERATES: Final = re.compile(r"completion|/messages|/responses|generate|chat|invocations|predict", re.IGNORECASE)
"""What paths of requests that are answered with tokens have in them."""
_ASKS_NOTHING: Final = frozenset({"OPTIONS", "HEAD", "GET", "DELETE"})
_SPANS: Final = frozenset({"invoke_agent", "create_agent", "execute_tool"})
"""Operations of OpenTelemetry's whose calls of a model are spans of their own."""
_BEGINS: Final = "of a request's start"
_NAMED: Final = 4
"""Models that a note names."""
_WORTH_SAYING: Final = 0.05
"""Share of prompts' tokens from a cache from which on a note tells it."""


class Unsaid(str):
    """Why a line is no load: it was answered, and nobody says with how many tokens."""


class Unclear(Unsaid):
    """The same of a line that does not say whether it was answered."""


class _When(NamedTuple):
    """When a request came, and by what that is known."""

    field: str
    came_s: float
    took: str | None
    """The field of the duration that was taken from the time."""
    starts: bool
    """Whether the time is when it came, whatever it took."""
    took_s: float = 0.0


class Facts(NamedTuple):
    """What a line of load was read by."""

    time: str = ""
    """The field of its time."""
    took: str | None = None
    """The field that says how long it took."""
    path: str = ""
    model: str = ""
    starts: bool = False
    """Whether that is when it came, whatever it took."""
    zone: bool | None = None
    """Whether its time says a zone; None for numbers."""
    alike: tuple[str, ...] = ()
    """Fields that may be a duration, where none is known to be one."""
    finished: bool = False
    """Whether it says that its request has ended."""
    day_first: bool = False
    """Whether its time may be written day first, and is taken for one with the month first."""


class Asked(NamedTuple):
    """A line that is load: what was asked, and by what that was read."""

    came_s: float
    prompt: int
    output: int
    facts: Facts = Facts()
    cached: int = 0
    """Tokens of the prompt that came from a cache."""
    known: object = None
    """What its request is known by: lines of one are put together; None where nothing says."""
    unexplained: int = 0
    """Tokens that its total has besides prompt and answer, of nothing that is known here."""
    took_s: float = 0.0
    """Seconds that were taken from its time, which was its end."""


def is_line(row: Row) -> bool:
    """Whether a row is a gateway's line of a request with its tokens, or with none of them yet."""
    return bool(has_time(row)) and has_usage(row)


def has_usage(row: Row) -> bool:
    """Whether a row says what tokens a request had, or that it does not say so yet."""
    return says_tokens(row) or row.get("usage", 0) is None


def lacks_usage(row: Row) -> bool:
    """Whether a row is a gateway's line of any kind."""
    return bool(has_time(row)) and bool(OF_GATEWAYS & set(row))


def usage_names() -> str:
    """What says how many tokens a request had, in words."""
    return " or ".join(" and ".join(f"usage.{name}" for name in names) for names in USAGE)


def read(row: Row) -> Asked | str:
    """What a line asked, in seconds since 1970, or why it is no load. Raises KeyError, ValueError.

    Whatever has usage is load, whatever its status: the engine has worked for it.
    """
    if from_a_cache(row):
        return "answered by the gateway's own cache"
    if (operation := row.get("gen_ai.operation.name")) in _SPANS:
        return f"spans of {operation}, whose calls are spans of their own"
    found = used(row)
    if found is None:
        return _without_usage(row)
    if found.answer is None:
        return f"{_path(row)} without {found.answer_field}".strip()  # as of embeddings
    if not found.answer and _NO_ANSWER.search(" ".join(str(row.get(name, "")) for name in (*PATHS, *MODELS))):
        return f"{_path(row)} without an answer".strip()
    if not found.answer and str(row.get(first(row, STATUSES) or "", "")) in _REFUSED:
        return f"{place(row)} without an answer"
    if not has_time(row):
        return "without a time"
    when, answer = _when(row), max(1, found.answer)  # a prefill gives one, wherever it went
    facts, known = _facts(row, when), identity(row)
    return Asked(when.came_s, found.prompt, answer, facts, found.cached, known, found.unexplained, when.took_s)


def _when(row: Row) -> _When:
    """When a line's request came, and by what. Raises KeyError, ValueError."""
    if (start := first(row, STARTS)) is not None:
        return _When(start, time_s(row[start]), None, starts=True)
    stamp = _stamp(row)
    at, took = _stamped(row, stamp), durations.took(row)
    if took is None:
        return _When(stamp, at, None, starts=_is_of_an_answer(row, stamp))
    end = first(row, ENDS)
    if stamp in _MADE and end is not None and is_dated(row[end]) and at > time_s(row[end]):  # put down once it had ended
        return _When(end, time_s(row[end]) - took.seconds, took.field, starts=False, took_s=took.seconds)
    if _is_of_an_answer(row, stamp) or _is_arrival(row, stamp, at, took.seconds):
        return _When(stamp, at, None, starts=True)
    return _When(stamp, at - took.seconds, took.field, starts=False, took_s=took.seconds)


def _is_of_an_answer(row: Row, stamp: str) -> bool:
    """Whether a time is an answer's own, as OpenAI's API gives it: when that was begun."""
    return stamp == "created" and any(str(one.get("object", "")) in _OF_ANSWERS for one in bodies(row))


def _is_arrival(row: Row, stamp: str, at: float, took_s: float) -> bool:
    """Whether a time is when a request came though a duration stands beside it: where an end stands there too, and is as
    much later."""
    if stamp == _DATABRICKS[0] and _DATABRICKS[1] in row:
        return True
    end = first(row, ENDS)
    if end is None or not is_dated(row[end]):
        return False
    return stamp in _MADE or abs(at + took_s - time_s(row[end])) < abs(at - time_s(row[end]))


def _stamped(row: Row, stamp: str) -> float:
    at = time_s(row[stamp])
    return at * 1e-3 if stamp in _IN_MS and at < SINCE_1970 else at


def silent_line(row: Row, why: str) -> Silent | None:
    """A line of a request that nothing says the tokens of; None where it has no id or no time, or is no such line."""
    known = identity(row)
    if known is None or not (isinstance(why, Unsaid) or why == _BEGINS) or not has_time(row):
        return None
    try:
        at = _when(row).came_s
    except ValueError:
        return None
    return Silent(known, at, why, may_begin=first(row, STATUSES) is None)


def several(row: Row) -> tuple[str, float] | None:
    """(field, number) of the requests that a row says it is of; None where it says none, or one."""
    name = next((name for name in SEVERAL if name in row and _count(row[name]) > 0), None)
    return None if name is None else (name, _count(row[name]))


def identity(row: Row) -> object:
    """What the request of a line is known by; None where nothing says."""
    name = first(row, IDS)
    return None if name is None or not isinstance(row[name], str | int) else row[name]


def _count(value: object) -> float:
    try:
        return float(value) if isinstance(value, int | float | str) else 0.0
    except ValueError:
        return 0.0


def from_a_cache(row: Row) -> bool:
    """Whether the gateway had the answer itself, as LiteLLM, nginx, Kong, Portkey and Cloudflare say so."""
    said = [row.get("upstream_cache_status")]
    for one in (*bodies(row), row.get("metadata")):
        if isinstance(one, dict):
            cache = one.get("cache")
            said += [one.get(name) for name in ("cache_hit", "cache_status", "cached")]  # which may be a number of tokens
            said.append(cache.get("cache_status") if isinstance(cache, dict) else None)
    return any(str(one).casefold() in ("true", "hit", "semantic hit") for one in said)


def _without_usage(row: Row) -> str:
    """Why a line without usage is no load: of one that was answered, nobody says with how many tokens."""
    words = _request_line(row)
    method = str(row.get("method") or row.get("request_method") or (words[0] if len(words) > 1 else "")).upper()
    if method in _ASKS_NOTHING:
        return f"{method} {place(row)}".strip()
    if "start" in str(row.get("event", "")).casefold():
        return _BEGINS
    path, status = _path(row), str(row.get(first(row, STATUSES) or "", "")).casefold()
    why = place(row) or "without usage"
    answered = status in _ANSWERED and (bool(status) or "usage" in row)
    asks = _GENERATES.search(path) if path else True
    if not answered or not asks or _NO_ANSWER.search(path):
        return why
    return Unsaid(why) if status else Unclear(why)


def _facts(row: Row, when: _When) -> Facts:
    """What a line that is load was read by."""
    told = itertools.chain.from_iterable((one, one.get("meta")) for one in bodies(row))
    held = (one for one in told if isinstance(one, dict))
    model = next((str(one[name]) for one in held for name in MODELS if isinstance(one.get(name), str)), "")
    alike = () if when.took or when.starts else durations.alike(row, NAMES)
    status = str(row.get(first(row, STATUSES) or "", "")).casefold()
    ended = when.took is not None or durations.says_one(row) or status not in _ANSWERED
    return Facts(
        when.field,
        when.took,
        _path(row),
        model,
        when.starts,
        has_zone(row[when.field]),
        alike,
        ended,
        may_be_day_first(row[when.field]),
    )


def place(row: Row, path: str | None = None, status: object = None) -> str:
    """Path and status of a line; empty where it has neither."""
    status = next((row[name] for name in STATUSES if name in row), "") if status is None else status
    return f"{_path(row) if path is None else path} {status}".strip()


def notes(load: Counter[Facts], left_out: Counter[str]) -> list[str]:
    """What to know of how lines were read, in sentences."""
    found = (_arrival_note(load), _dates_note(load), zones_note(load), models_note(load), _unknown(load, left_out))
    return [note for note in found if note]


def _dates_note(load: Counter[Facts]) -> str:
    """What to know of dates that can be read in two ways; empty where there are none."""
    if not any(one.day_first for one in load):
        return ""
    return "dates with AM or PM are taken for month/day/year; where the day is first, write them as 2026-11-03 09:00:00"


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


def unexplained_note(unexplained: int, tokens: int) -> str:
    """What to know where totals have much that neither prompt nor answer has; empty where they do not."""
    if unexplained < _WORTH_SAYING * tokens:
        return ""
    return (
        f"the totals of its requests have {unexplained / tokens:.0%} more tokens than prompts and answers, and nothing says "
        "of what these are: they are left out, and the load may be more"
    )


def _unknown(load: Counter[Facts], left_out: Counter[str]) -> str:
    """What to know of requests that were answered, of tokens that nobody says."""
    unclear = sum(n for why, n in left_out.items() if isinstance(why, Unclear))
    unknown = sum(n for why, n in left_out.items() if isinstance(why, Unsaid)) - unclear
    if unclear and not unknown:
        return (
            f"{unclear:,} of its lines say neither how many tokens they had nor whether they were answered (a status), and "
            "are left out: where they were, the load is less than what was served"
        )
    if not unknown:
        return ""
    known = load.total()
    return (
        f"{unknown:,} of {known + unknown:,} answered requests do not say how many tokens they had, and are left out: the "
        "load is less than what was served; let the gateway ask streams for their usage (stream_options.include_usage), or "
        f"give --speed {written(float(f'{1 + unknown / known:.3g}'))} if those were alike"
    )


def _stamp(row: Row) -> str:
    if "msec" in row and is_dated(row["msec"]):
        return "msec"  # nginx's other times are whole seconds
    name = first(row, STAMPS)
    if name is None:
        raise KeyError(next((name for name in (*STARTS, *STAMPS) if name in row), STAMPS[0]))
    return name


def _request_line(row: Row) -> list[str]:
    """A request as HTTP begins it, in words; its path alone where that is all there is."""
    found = (row[name] for name in PATHS if isinstance(row.get(name), str))
    text = next((text for text in found if not text.startswith("{")), "")  # `request` may be what was asked
    words = str(text).split(" ")
    return words if len(words) > 1 and words[0].isupper() else [str(text)]


def _path(row: Row) -> str:
    """A request's path, as it is or within `POST /v1/completions HTTP/1.1`, without what was asked of it."""
    words = _request_line(row)
    return words[min(1, len(words) - 1)].partition("?")[0]


def _arrival_note(load: Counter[Facts]) -> str:
    """How the times of the lines that are load were taken: each by what stands beside it."""
    named = _either(one.time for one in load)
    fields = Counter[str]()
    for one, n in load.items():
        fields[one.took or ""] += n
    bare = fields.pop("", 0)
    if all(one.starts for one in load):
        return f"{named} is when a request came"
    if not fields:
        alike = dict.fromkeys(itertools.chain.from_iterable(one.alike for one in load))
        if not alike:
            return f"{named} is taken for the arrival, since no duration stands beside it"
        return (
            f"{named} is taken for the arrival, since nothing beside it is known for the duration of a request; where "
            f"{_either(itertools.islice(alike, _NAMED))} is one, call it duration_s or duration_ms"
        )
    beside = _either(fields)
    if not bare:
        return f"{named} is taken for the end of a request, since {beside} stands beside it: it came so much earlier"
    return (
        f"{named} is taken for the end of {counted(fields.total(), 'request')}, since {beside} stands beside it: they came "
        f"so much earlier; and for the arrival of {counted(bare, 'request')}, where no duration stands"
    )


def zones_note(load: Counter[Facts]) -> str:
    """What to know where some times say their zone and others do not; empty where all are alike."""
    zones = Counter[bool | None]()
    for one, n in load.items():
        zones[one.zone] += n
    if not (zones[True] and zones[False]):
        return ""
    return (
        f"{zones[False]:,} of its times have no zone and are taken for UTC, beside {zones[True]:,} that have one: where "
        "they are of a clock elsewhere, give them theirs"
    )


def _either(names: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(names))
