"""Recorded arrivals: when requests came to a real service and how long they were, as gateways and published traces write it.

A file is recognised by its first row, a gateway's log by any row with usage. Each form is a row of `_FORMS`: which
columns say so, and how a row is read. `simulator.tabular` has the rows; `simulator.prefixes` what prompts have in common.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from simulator import clocks, gateways, spelling
from simulator.errors import InputError
from simulator.fields import number, tokens
from simulator.foreign import fields_of
from simulator.gateways import Asked, Facts
from simulator.identities import FURTHER, WHOLES, Line, Part, Silent, joined, wholes
from simulator.moments import has_zone, time_s
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
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNKNOWN: Final = Facts()
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

    def over_again(self, times: int) -> RecordedRequests:
        """The same requests so many times, one after the other at the same mean rate. They must not all come at once."""
        period_s = len(self.arrival_s) / self.rate_per_s
        return replace(
            self,
            arrival_s=(self.arrival_s + period_s * np.arange(times)[:, None]).ravel(),
            prompt_tokens=np.tile(self.prompt_tokens, times),
            output_tokens=np.tile(self.output_tokens, times),
            blocks=None if self.blocks is None else self.blocks.over_again(times),
        )

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
        found = _gathered(file, form, read, left_out)
        found.keep(_of_one_kind(file, found, left_out) if not form.unit else None)
        came, notes = found.timed()
        order = np.argsort(came, kind="stable")  # logs are written as requests end
        seconds = came[order] - came[order[0]]
        kept = (seconds >= window.from_s) & (seconds < window.to_s)
        if not kept.any():
            raise InputError(f"{file}: no request came within {window}; the last came after {seconds[-1]:,.0f} s")
        far = clocks.far_apart(seconds)
        order, seconds = order[kept], seconds[kept]
        prompts, outputs = np.asarray(found.prompt, np.int64)[order], np.asarray(found.output, np.int64)[order]
        blocks, of_blocks = blocks_of([found.hashes[i] for i in order], prompts, found.block_sizes, form.block_tokens)
        said = [f"{file.name}: {form.name}, {counted(len(came), 'request')}"]
        if not window.whole:
            said.append(f"window {window} (seconds since the first request): {counted(len(seconds), 'request')} of these")
        cached = gateways.cached_note(sum(found.from_a_cache), sum(found.prompt))
        more = gateways.unexplained_note(sum(found.unexplained), sum(found.prompt) + sum(found.output))
        told = (*form.notes(Counter(found.facts), left_out), found.joined_note, cached, more, *notes, far, of_blocks)
        said += [note for note in told if note]
        if left_out:
            said.append(f"not load: {counted(left_out.total(), 'line')} ({_named(left_out)})")
        return cls((seconds - seconds[0]) / speed, prompts, outputs, tuple(said), blocks)


def _named(counts: Counter[str]) -> str:
    """Counts by reason, the most frequent first."""
    named = [f"{n:,} {why}" for why, n in counts.most_common(_NAMED)]
    return ", ".join([*named, counted(len(counts) - _NAMED, "more reason")] if len(counts) > _NAMED else named)


Read = Callable[[Row], Asked | str]
"""What a row asked, or why it is no load. Raises KeyError, TypeError, ValueError."""


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
    notes: Callable[[Counter[Facts], Counter[str]], list[str]] = lambda load, left_out: []
    """Sentences on how rows were read: those that are load, and those that are not, by the reason."""
    silent: Callable[[Row, str], Silent | None] = lambda row, why: None
    """A line of a request that nothing says the tokens of, and why that is no load."""
    several: Callable[[Row], tuple[str, float] | None] = lambda row: None
    """(field, number) of the requests that a row says it is of."""
    span: Callable[[Row], tuple[object, object]] = lambda row: (None, None)
    """(what a row is known by as a part of something, or as what has parts; what it is a part of)."""
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


@dataclass(slots=True)
class _Gathered:
    """The lines of a file that are load."""

    form: _Form
    came_s: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    took_s: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """What was taken from the time of each, which was its end; 0 of the others."""
    prompt: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    facts: list[Facts] = field(default_factory=list)
    hashes: list[Sequence[object]] = field(default_factory=list)
    block_sizes: Counter[int | None] = field(default_factory=Counter)
    from_a_cache: list[int] = field(default_factory=list)
    """Tokens of the prompt of each."""
    unexplained: list[int] = field(default_factory=list)
    """Tokens of each that its total has besides prompt and answer."""
    began: dict[object, float] = field(default_factory=dict)
    """When the first request of each session came."""
    joined_note: str = ""
    """What to know of lines that are of one request."""

    def keep(self, kept: npt.NDArray[np.bool_] | None) -> None:
        """Leave out all others."""
        if kept is not None and not kept.all():
            own = list(kept)
            self.came_s, self.took_s = self.came_s[kept], self.took_s[kept]
            for name in ("prompt", "output", "facts", "hashes", "from_a_cache", "unexplained"):
                setattr(self, name, list(itertools.compress(getattr(self, name), own)))

    def timed(self) -> tuple[npt.NDArray[np.float64], list[str]]:
        """When each request came, in seconds, and what to know of that, in sentences."""
        unit = self.form.unit
        raw = clocks.in_seconds(self.came_s, unit) if unit else self.came_s
        back = clocks.back_an_hour(raw) if any(one.zone is False for one in self.facts) else ""
        ends, spread = clocks.spread(raw + self.took_s)  # what is rounded is what was written
        came = ends - self.took_s if spread else raw
        if unit:
            units = clocks.unit_note(unit, self.form.name, came)
        elif clocks.dated(raw).any():
            units = ""
        else:
            durations = any(one.took for one in self.facts)
            units = clocks.undated_note(came, self.facts[0].time, with_durations=durations)
        return came, [units, spread, back, clocks.of_sessions(self.began)]


def _gathered(file: Path, form: _Form, read: Iterator[tuple[int, Row]], left_out: Counter[str]) -> _Gathered:
    """The requests of all rows, each once. Raises InputError with the line of what is wrong."""
    found, lines, took_s, silent = _Gathered(form), list[Line](), list[float](), list[Silent]()
    counts: list[tuple[int, str, float]] = []
    part_of, parts = dict[object, object](), list[Part]()
    for line, row in read:
        try:
            one = form.read(row)
            own, whole = form.span(row)
            part_of |= {own: whole} if own is not None and whole is not None else {}
            if (many := form.several(row)) is not None:
                counts.append((line, *many))
            if isinstance(one, str):
                left_out[one] += 1
                silent += [quiet] if (quiet := form.silent(row, one)) is not None else []
                continue
            ids, block_tokens = hashes_of(row)
        except (KeyError, TypeError, ValueError) as error:
            what = f"misses {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{file}, line {line}: {what}") from None
        if "session" in row:  # a document with its requests
            found.began[row["session"]] = min(one.came_s, found.began.get(row["session"], one.came_s))
        parts.append(Part(own, one.prompt, one.output))
        facts = one.facts
        says_when = facts.starts or facts.took is not None
        lines.append(Line(one.known, one.came_s, one.prompt, one.output, says_when, facts.finished))
        took_s.append(one.took_s)
        found.facts.append(facts)
        found.from_a_cache.append(one.cached)
        found.unexplained.append(one.unexplained)
        found.hashes.append(ids)
        found.block_sizes[block_tokens] += 1
    _check_each_is_one(file, counts)
    if not lines:
        raise InputError(
            f"{file}: none of its {left_out.total():,} lines is a request with tokens ({_named(left_out)})"
            if left_out else f"{file}: holds no requests"
        )  # fmt: skip
    _put_together(found, lines, took_s, silent, left_out, wholes(parts, part_of))
    return found


def _put_together(
    found: _Gathered,
    lines: list[Line],
    took_s: Sequence[float],
    silent: list[Silent],
    left_out: Counter[str],
    whole: set[int],
) -> None:
    """Make one request of the lines of one, and none of those that are a whole of others."""
    one = joined(lines, silent)
    one.left_out |= dict.fromkeys(whole, WHOLES)
    left_out.update(one.left_out.values())
    left_out.subtract(one.further)
    left_out[FURTHER] += len(one.further)
    for why in [why for why, n in left_out.items() if not n]:
        del left_out[why]
    found.came_s, found.joined_note = np.asarray(one.came_s), one.note
    written = found.came_s == np.array([line.came_s for line in lines])  # else it is of another line of the request
    found.took_s = np.where(written, took_s, 0.0)
    found.prompt, found.output = [line.prompt for line in lines], [line.output for line in lines]
    found.facts = [facts._replace(starts=True) if i in one.begun else facts for i, facts in enumerate(found.facts)]
    found.keep(np.asarray([i not in one.left_out for i in range(len(lines))]))


def _check_each_is_one(file: Path, counts: list[tuple[int, str, float]]) -> None:
    """Raise InputError where rows are of many requests each, and do not only number them on."""
    numbers = [number for _, _, number in counts]
    counts_on = len(numbers) > 2 and all(later - one == 1 for one, later in itertools.pairwise(numbers))
    many = next((one for one in counts if one[2] > 1), None)
    if many is not None and not counts_on:
        line, name, number = many
        raise InputError(
            f"{file}, line {line}: {name} {written(number)}: the row is of many requests, and none says when each came: "
            "give a line each, or leave that column out where it counts something else"
        )


def _of_one_kind(file: Path, found: _Gathered, left_out: Counter[str]) -> npt.NDArray[np.bool_]:
    """Which requests have a time as most have it: a zero among dates is none. Raises InputError where many have no such."""
    dated = clocks.dated(found.came_s)
    others = int((~dated).sum())
    if others in (0, len(dated)):
        return np.full(len(dated), True)
    if not clocks.are_strays(others, len(dated)):
        raise InputError(
            f"{file}: {others:,} of its {len(dated):,} requests have times before 2001 or after 2099, or no dates, beside "
            "the others' dates; give those of one kind"
        )
    left_out["with a time before 2001 or after 2099"] += others
    return dated


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
        if gateways.is_line(spelling.spelled(row)):
            return _GATEWAY, ((at, spelling.spelled(each)) for at, each in itertools.chain(before, read))
    if not before:
        raise InputError(f"{file}: holds no requests")
    if (foreign := fields_of([row for _, row in before])) is not None:
        note, read_as = foreign.note, foreign.spelled
        form = replace(_GATEWAY, notes=lambda load, left_out: [note, *gateways.notes(load, left_out)])
        return form, ((at, read_as(row)) for at, row in before)
    columns = ", ".join(map(str, before[0][1]))
    spelled = [spelling.spelled(row) for _, row in before]
    time = next((name for row in spelled if (name := spelling.has_time(row))), "")
    if any(gateways.lacks_usage(row) for row in spelled):
        raise InputError(
            f"{file}: is a gateway's log, and no line of it has token usage ({gateways.usage_names()}): let the gateway log "
            f"what the engine answers with, call its fields so (they are {columns}), or give a trace with lengths"
        )
    half = ""
    if time:
        half = f". {time} is known for a time; what lacks is tokens: call their columns prompt_tokens and completion_tokens"
    elif any(gateways.has_usage(row) for row in spelled):
        half = ". Their tokens are known; what lacks is a time: call its column timestamp"
    known = "; ".join(f"{form.name}: {', '.join(sorted(form.columns))}" for form in (*_FORMS, _GATEWAY))
    raise InputError(f"{file}: its columns ({columns}) are of no form known here ({known}){half}")


def _plain(row: Row) -> Asked | str:
    seconds = number(row, "arrival_s")
    if seconds < 0:
        raise ValueError(f"arrival_s {seconds:g}: must be 0 or more")
    return _unless_empty(seconds, row, "prompt_tokens", "output_tokens")


def _azure(row: Row) -> Asked | str:
    facts = Facts(zone=has_zone(row["TIMESTAMP"]))
    return _unless_empty(time_s(row["TIMESTAMP"]), row, "ContextTokens", "GeneratedTokens", facts)


def _burst_gpt(row: Row) -> Asked | str:
    facts = Facts(model=str(row.get("Model") or ""))
    return _unless_empty(_relative(row, "Timestamp"), row, "Request tokens", "Response tokens", facts)


def _mooncake(row: Row) -> Asked | str:
    """Newer ones name sessions whose later turns come so long after an answer, and requests by their text."""
    if row.get("timestamp") is None and "delay" in row:
        return "with a delay after an answer in place of a timestamp"
    if row.get("input_length") is None and {"text_input", "messages", "payload"} & set(row):
        return "with its text in place of input_length"
    return _unless_empty(_relative(row, "timestamp"), row, "input_length", "output_length")


def _bailian(row: Row) -> Asked | str:
    return _unless_empty(_relative(row, "timestamp"), row, "input_length", "output_length")


def _weka(row: Row) -> Asked | str:
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


def _unless_empty(seconds: float, row: Row, prompt: str, output: str, facts: Facts = _UNKNOWN) -> Asked | str:
    """Published traces keep failures, as requests without an answer, or without a prompt."""
    asked, given = tokens(row, prompt, least=0), tokens(row, output, least=0)
    return Asked(seconds, asked, given, facts) if asked and given else f"without {'an answer' if asked else 'a prompt'}"


def _relative(row: Row, name: str) -> float:
    """A time as a trace counts it from its beginning; or a date, as seconds since 1970."""
    try:
        return number(row, name)
    except ValueError:
        if isinstance(row[name], str) and "-" in row[name][1:]:
            return time_s(row[name])
        raise


_HASHED = frozenset({"hash_ids", "block_size"})
_MOONCAKE = frozenset({"timestamp", "delay"}) | _HASHED
_FORMS = (
    _Form("a CSV of arrivals", frozenset({"arrival_s", "prompt_tokens", "output_tokens"}), _plain, unit="seconds"),
    _Form(
        "an Azure trace", frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}), _azure,
        notes=lambda load, _: [gateways.zones_note(load)],
    ),
    _Form(
        "a BurstGPT trace", frozenset({"Timestamp", "Request tokens", "Response tokens"}), _burst_gpt,
        notes=lambda load, _: [gateways.models_note(load)],
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
    "a gateway's log", frozenset({"time", "usage"}), gateways.read, gateways.notes,
    silent=gateways.silent_line, several=gateways.several, span=spelling.span,
)  # fmt: skip
