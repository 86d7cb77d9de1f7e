"""Recorded arrivals: when requests came to a real service and how long they were, as gateways and published traces write it.

A file is recognised by its first row, a gateway's log by any row with usage. Each form is a row of `_FORMS`: which
columns say so, and how a row is read. `simulator.tabular` has the rows; `simulator.prefixes` what prompts have in common.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from simulator import gateways
from simulator.errors import InputError
from simulator.fields import EPOCHS, SINCE_2100, number, time_s, tokens
from simulator.gateways import Facts
from simulator.numbers import counted, written
from simulator.prefixes import PrefixBlocks, blocks_of, hashes_of
from simulator.tabular import Row, folded, rows, text_of

_HEAD = 1 << 16
"""Characters that show who wrote a file."""
_OF_SERVERS = (
    (
        "a scrape of metrics", "counts requests and does not say when each came",
        re.compile(r"^# (?:HELP|TYPE) \w|^(?:vllm|sglang|llamacpp|trtllm)[:_]\w+(?:\{[^}\n]*\})? [-+\d]", re.MULTILINE),
    ),
    (
        "an engine's log", "says neither when each request came nor how long it was",
        re.compile(
            r"SpecDecoding metrics: |Avg prompt throughput: |Decode batch[,.] |print_timings?: id |llama_model_loader: "
        ),
    ),
)  # fmt: skip
"""Files of servers that are taken for arrivals: what each is, what it lacks, and how it is known."""
_SINCE_1970 = 1e9
"""Where all times are above they are since 1970 in any unit, also where a form counts from its own beginning."""
_PLAUSIBLE_PER_S = (0.05, 100.0)
"""Requests a second: a service outside of these may be one whose times have another unit."""
_GRAINS_S = (3600, 1800, 900, 600, 300, 120, 60, 30, 20, 15, 10, 5, 3, 2, 1, 0.5, 0.25, 0.2, 0.1)
"""What times are rounded to; to less, they are as good as exact."""
_TIED = 0.1
"""Share of requests at the moment of another from which on times are rounded."""
_AN_HOUR_S = (1800.0, 3660.0)
"""By how much times jump back where clocks are put back."""
_FEW = 20
"""Requests of which a rate is not judged."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NAMED = 4
"""Reasons and places that a line of counts names."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a log, in seconds since its first request and before it is sped up: from the first to before the last."""

    from_s: float = 0.0
    to_s: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.from_s < self.to_s or math.isnan(self.to_s):
            raise ValueError("a window begins at 0 or later, and ends later than it begins")

    @classmethod
    def parse(cls, text: str) -> Self:
        """A window as users write it: 600..1200, 10m..20m, ..1h, 2d.. (seconds unless said). Raises InputError."""
        number = r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)([smhd]?)"
        found = re.fullmatch(rf"(?:{number})?\.\.(?:{number})?", text.strip())
        try:
            if found is None or not (found[1] or found[3]):
                raise ValueError("is written FROM..TO, as 10m..20m, 600..1200, ..1h or 2d..")
            ends = ((found[1], found[2], 0.0), (found[3], found[4], math.inf))
            return cls(*(float(n) * _UNITS[unit or "s"] if n else default for n, unit, default in ends))
        except ValueError as error:
            raise InputError(f"window {text}: {error}") from None

    def __str__(self) -> str:
        """The window as `parse` reads it back equal, in seconds."""
        return f"{written(self.from_s)}.." + ("" if self.to_s == math.inf else written(self.to_s))

    @property
    def whole(self) -> bool:
        """Whether it leaves nothing out."""
        return self == WHOLE


WHOLE: Final = Window()
"""Leaves nothing out."""


@dataclass(frozen=True, slots=True)
class RecordedRequests:
    """When each request came, how long prompt and answer were."""

    arrival_s: npt.NDArray[np.float64]
    """Rising from 0 or later, [n]."""
    prompt_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    notes: tuple[str, ...] = ()
    """What a person should know of how the file was read: sentences."""
    blocks: PrefixBlocks | None = None
    """What prompts have in common, where the file says so."""

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
    def read(cls, file: Path, speed: float = 1.0, window: Window = WHOLE) -> RecordedRequests:
        """The requests of a stretch of a file, `speed` times as fast as they came, the first of them at 0.

        Raises InputError with the line of what is wrong, OSError where the file cannot be read.
        """
        left_out = Counter[str]()
        try:
            form, read = _recognised(file, rows(file, left_out))
        except InputError:
            _check_is_no_servers(file)
            raise
        arrival, prompt, output = array("d"), array("q"), array("q")
        hashes: list[Sequence[object]] = []
        block_sizes: Counter[int | None] = Counter()
        load, began, seen, from_a_cache = Counter[Facts](), dict[object, float](), set[int](), 0
        for line, row in read:
            try:
                found = form.read(row)
                if not isinstance(found, str) and (known := form.identity(row)) is not None:
                    if (copy := hash((known, *found))) in seen:
                        found = "copies of others, with their ids"
                    seen.add(copy)
                if isinstance(found, str):
                    left_out[found] += 1
                    continue
                ids, block_tokens = hashes_of(row)
                load[form.facts(row)] += 1
                from_a_cache += form.cached(row)
            except (KeyError, TypeError, ValueError) as error:
                what = f"misses {error}" if isinstance(error, KeyError) else str(error)
                raise InputError(f"{file}, line {line}: {what}") from None
            if "session" in row:  # a document with its requests
                began[row["session"]] = min(found[0], began.get(row["session"], found[0]))
            arrival.append(found[0])
            prompt.append(found[1])
            output.append(found[2])
            hashes.append(ids)
            block_sizes[block_tokens] += 1
        if not arrival:
            raise InputError(
                f"{file}: none of its {left_out.total():,} lines is a request with tokens ({_named(left_out)})"
                if left_out else f"{file}: holds no requests"
            )  # fmt: skip
        came = _seconds(np.asarray(arrival), form.unit) if form.unit else np.asarray(arrival)
        back, (came, spread) = _back_an_hour(came), _spread(came)
        order = np.argsort(came, kind="stable")  # logs are written as requests end
        seconds = came[order] - came[order[0]]
        kept = (seconds >= window.from_s) & (seconds < window.to_s)
        if not kept.any():
            raise InputError(f"{file}: no request came within {window}; the last came after {seconds[-1]:,.0f} s")
        order, seconds = order[kept], seconds[kept]
        prompts, outputs = np.asarray(prompt, np.int64)[order], np.asarray(output, np.int64)[order]
        blocks, of_blocks = blocks_of([hashes[i] for i in order], prompts, block_sizes, form.block_tokens)
        said = [f"{file.name}: {form.name}, {counted(len(came), 'request')}"]
        if not window.whole:
            said.append(f"window {window} (seconds since the first request): {counted(len(seconds), 'request')} of these")
        told = (
            *form.notes(load, left_out), gateways.cached_note(from_a_cache, sum(prompt)), _unit_note(form, came), spread,
            back, _clocks(began), of_blocks,
        )  # fmt: skip
        said += [note for note in told if note]
        if left_out:
            said.append(f"not load: {counted(left_out.total(), 'line')} ({_named(left_out)})")
        return cls((seconds - seconds[0]) / speed, prompts, outputs, tuple(said), blocks)


def _spread(came: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], str]:
    """Times that are rounded so much that many requests share one, as whole seconds, each somewhere within what it was
    rounded to; and what to know of it. Bunches that a clock made would wait for each other as no service sees it."""
    moments, sharing = np.unique(came, return_counts=True)
    if len(came) < _FEW or 1 - len(moments) / len(came) < _TIED:
        return came, ""
    if len(moments) == 1:
        return came, "all its requests have the same time, and come at once: where it is rounded, give times to the ms"
    since = moments - moments[0]
    off = {grain: float(np.abs(since - np.round(since / grain) * grain).max()) for grain in _GRAINS_S}
    if (found := next((grain for grain in _GRAINS_S if off[grain] <= 2e-3 * max(grain, 1)), None)) is None:
        return came, ""
    later, order = np.random.default_rng(0).random(len(came)) * found, np.argsort(came, kind="stable")
    apart = came.copy()
    apart[order] += later[np.lexsort((later, came))]  # in the file's order, for later turns follow earlier ones
    return apart, (
        f"its times are rounded to {written(float(found))} s, and up to {sharing.max():,} requests share one: each is taken "
        "to have come at random within that; times to the ms would tell"
    )


def _back_an_hour(came: npt.NDArray[np.float64]) -> str:
    """What to know of times, in the file's order, that jump back by an hour once and rise else."""
    steps = np.diff(came)
    jumps = int(((-steps > _AN_HOUR_S[0]) & (-steps < _AN_HOUR_S[1])).sum())
    if not 1 <= jumps <= 2 or (steps < -60.0).sum() > jumps or len(came) < 4 or (steps > 0).sum() < len(steps) / 2:
        return ""
    return (
        "its times jump back by an hour and go on: where clocks were put back in that night, the hour holds the requests of "
        "two, and its rate is twice what it was; give times with their zone, or leave it out (--window)"
    )


def _clocks(began: dict[object, float]) -> str:
    """What to know of sessions whose times count from their own beginnings."""
    first = min(began.values(), default=0.0)
    if len(began) < 2 or 2 * sum(own == first for own in began.values()) < len(began):
        return ""
    return (
        f"its {len(began):,} sessions have a clock each, and begin at once, as no service sees it: rates and promises "
        "are of so many users who come together; for another load, add to each session's times when it began"
    )


def _unit_note(form: _Form, came: npt.NDArray[np.float64]) -> str:
    """What to know where so many requests a second are hardly a service's."""
    span_s, (few, many) = float(came.max() - came.min()), _PLAUSIBLE_PER_S
    if not form.unit or len(came) < _FEW or span_s == 0 or few <= len(came) / span_s <= many:
        return ""
    fewer = len(came) / span_s < few
    unit, factor = ("milliseconds", "1000") if fewer else ("seconds", "0.001")
    return (
        f"its times are taken for {form.unit}, as {form.name} has them: {len(came) / span_s:,.3g} requests a second; "
        f"where they are {unit}, give --speed {factor}"
    )


def _named(counts: Counter[str]) -> str:
    """Counts by reason, the most frequent first."""
    named = [f"{n:,} {why}" for why, n in counts.most_common(_NAMED)]
    return ", ".join([*named, f"{len(counts) - _NAMED} more reasons"] if len(counts) > _NAMED else named)


Read = Callable[[Row], tuple[float, int, int] | str]
"""(seconds, prompt tokens, output tokens) of a row, or why it is no load. Raises KeyError, TypeError, ValueError."""


@cache
def _spellings(columns: frozenset[str]) -> dict[str, str]:
    """Columns by what is the same of their spellings."""
    return {folded(column): column for column in columns}


@dataclass(frozen=True, slots=True)
class _Form:
    """A way to write arrivals down."""

    name: str
    columns: frozenset[str]
    """Those that a row must have, in any order and spelling."""
    read: Read
    facts: Callable[[Row], Facts] = lambda row: Facts()
    """What a row that is load was read by."""
    identity: Callable[[Row], object] = lambda row: None
    """What a request is known by, None where nothing says: lines of one, that say the same, are copies."""
    cached: Callable[[Row], int] = lambda row: 0
    """Tokens of the prompt of a row that is load that came from a cache."""
    notes: Callable[[Counter[Facts], Counter[str]], list[str]] = lambda load, left_out: []
    """Sentences on how rows were read: those that are load, and those that are not, by the reason."""
    unit: str = ""
    """The unit of its times, where they count from the trace's own beginning."""
    block_tokens: int = 0
    """Tokens of a block whose hash it gives, unless the file says otherwise; 0 where it gives none."""
    others: frozenset[str] = frozenset()
    """Further columns that it reads."""

    def spelled(self, row: Row) -> Row:
        """The row with the columns that it reads called as it calls them."""
        known = _spellings(self.columns | self.others)
        return {known.get(folded(name), name): value for name, value in row.items()}


def form_of(file: Path) -> str:
    """How a file writes arrivals down, in words; empty where it holds none."""
    try:
        return _recognised(file, rows(file, Counter()))[0].name
    except (InputError, OSError):
        return ""


def _check_is_no_servers(file: Path) -> None:
    """Raise InputError for what an engine writes, in which no request has a time and lengths of its own."""
    with text_of(file, newline="\n") as stream:
        try:
            head = stream.read(_HEAD)
        except (EOFError, OSError, ValueError, zlib.error):
            return  # `rows` says what is wrong with it
    if head.lstrip()[:1] in ("{", "["):
        return
    for what, lacks, written_so in _OF_SERVERS:
        if written_so.search(head):
            raise InputError(
                f"{file}: is {what}, which {lacks}; --arrivals takes a gateway's log with token usage, or a trace of times "
                "and lengths (docs/loads.md); `harness advise` reads this"
            )


def _recognised(file: Path, read: Iterator[tuple[int, Row]]) -> tuple[_Form, Iterator[tuple[int, Row]]]:
    """By the first row that is of a form; of sessions and gateways, others may stand before it. Raises InputError."""
    before: list[tuple[int, Row]] = []
    names = frozenset[object]()
    for line, row in read:
        before.append((line, row))
        if frozenset(row) != names:
            names = frozenset(row)
            own = {folded(name) for name in row}
            for form in _FORMS:
                if {folded(column) for column in form.columns} <= own:
                    return form, ((at, form.spelled(each)) for at, each in itertools.chain(before, read))
        if gateways.is_line(gateways.spelled(row)):
            return _GATEWAY, ((at, gateways.spelled(each)) for at, each in itertools.chain(before, read))
    if not before:
        raise InputError(f"{file}: holds no requests")
    columns = ", ".join(map(str, before[0][1]))
    if any(gateways.lacks_usage(gateways.spelled(row)) for _, row in before):
        raise InputError(
            f"{file}: is a gateway's log, and no line of it has token usage ({gateways.usage_names()}): let the gateway log "
            f"what the engine answers with, call its fields so (they are {columns}), or give a trace with lengths"
        )
    known = "; ".join(f"{form.name}: {', '.join(sorted(form.columns))}" for form in (*_FORMS, _GATEWAY))
    raise InputError(f"{file}: its columns ({columns}) are of no form known here ({known})")


def _plain(row: Row) -> tuple[float, int, int]:
    seconds = number(row, "arrival_s")
    if seconds < 0:
        raise ValueError(f"arrival_s {seconds:g}: must be 0 or more")
    return seconds, tokens(row, "prompt_tokens"), tokens(row, "output_tokens")


def _azure(row: Row) -> tuple[float, int, int] | str:
    return _unless_empty(time_s(row["TIMESTAMP"]), row, "ContextTokens", "GeneratedTokens")


def _burst_gpt(row: Row) -> tuple[float, int, int] | str:
    return _unless_empty(_relative(row, "Timestamp"), row, "Request tokens", "Response tokens")


def _mooncake(row: Row) -> tuple[float, int, int] | str:
    """Newer ones name sessions whose later turns come so long after an answer, and requests by their text."""
    if row.get("timestamp") is None and "delay" in row:
        return "with a delay after an answer in place of a timestamp"
    if row.get("input_length") is None and {"text_input", "messages", "payload"} & set(row):
        return "with its text in place of input_length"
    return _unless_empty(_relative(row, "timestamp"), row, "input_length", "output_length")


def _bailian(row: Row) -> tuple[float, int, int] | str:
    return _unless_empty(_relative(row, "timestamp"), row, "input_length", "output_length")


def _weka(row: Row) -> tuple[float, int, int] | str:
    """Another agent's requests stand within the mark of where it takes over. Their times are the session's, or count from
    that mark: then its first is before it."""
    if row.get("type") == "subagent" and "in" not in row:
        return "marks of agents without requests"
    seconds = _relative(row, "t")
    if (mark := row.get("within")) is not None and "t" in mark:
        began = _relative(mark, "t")
        inner = [_relative(one, "t") for one in mark["requests"] if one.get("t") is not None]
        seconds += began if min(inner, default=began) < began else 0.0
    return _unless_empty(seconds, row, "in", "out")


def _unless_empty(seconds: float, row: Row, prompt: str, output: str) -> tuple[float, int, int] | str:
    """Published traces keep failures, as requests without an answer, or without a prompt."""
    asked, given = tokens(row, prompt, least=0), tokens(row, output, least=0)
    return (seconds, asked, given) if asked and given else f"without {'an answer' if asked else 'a prompt'}"


def _relative(row: Row, name: str) -> float:
    """A time as a trace counts it from its beginning; or a date, as seconds since 1970."""
    try:
        return number(row, name)
    except ValueError:
        if isinstance(row[name], str) and "-" in row[name][1:]:
            return time_s(row[name])
        raise


def _seconds(came: npt.NDArray[np.float64], unit: str) -> npt.NDArray[np.float64]:
    """Times that count from a trace's beginning in such units, in seconds; since 1970 where all can only be such times."""
    if came.min() < _SINCE_1970 or SINCE_2100 < came.max() < EPOCHS[-1][0]:
        return came * (1e-3 if unit == "milliseconds" else 1.0)
    units = np.select([came > above for above, _ in EPOCHS], [in_s for _, in_s in EPOCHS], 1.0)
    return np.asarray(came * units, np.float64)


_HASHED = frozenset({"hash_ids", "block_size"})
_MOONCAKE = frozenset({"timestamp", "delay"}) | _HASHED
_FORMS = (
    _Form("a CSV of arrivals", frozenset({"arrival_s", "prompt_tokens", "output_tokens"}), _plain, unit="seconds"),
    _Form("an Azure trace", frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}), _azure),
    _Form(
        "a BurstGPT trace", frozenset({"Timestamp", "Request tokens", "Response tokens"}), _burst_gpt,
        facts=lambda row: Facts(model=str(row.get("Model") or "")), notes=lambda load, _: [gateways.models_note(load)],
        unit="seconds", others=frozenset({"Model"}),
    ),
    _Form(
        "a Bailian trace", frozenset({"chat_id", "timestamp", "input_length", "output_length"}), _bailian,
        unit="seconds", block_tokens=16, others=_HASHED,
    ),
    _Form(
        "a Mooncake trace", frozenset({"input_length", "output_length"}), _mooncake,
        unit="milliseconds", block_tokens=512, others=_MOONCAKE,
    ),
    _Form("a weka trace", frozenset({"t", "in", "out"}), _weka, unit="seconds", block_tokens=64, others=_HASHED),
)  # fmt: skip
"""Blocks are of so many tokens in Mooncake's paper (arXiv 2407.00079, §4), in the readme of Alibaba's traces of Bailian, and
in the `block_size` of the published weka traces."""
_GATEWAY = _Form(
    "a gateway's log", frozenset({"time", "usage"}), gateways.read, gateways.facts, gateways.identity, gateways.cached,
    gateways.notes,
)  # fmt: skip
