"""What a user has measured of a server: a CSV, a row a point, as `harness hardware fit` and `harness predict` read it.

A blank cell is unknown. Commas, semicolons or tabs set columns apart; where semicolons or tabs do, a comma in a number is
its decimal point. Heads may name units, and be called as load generators call them. Lines that begin with # are for people;
of them only captured sizes are read, and settings by which a server verifies trees, or not losslessly, are told.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal

from harness.hardware.terms import CAPTURED_SIZES
from simulator.averages import Averages, numbers
from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.hardware.catalogue import Asked, find_profile
from simulator.hardware.profile import Profile
from simulator.load import Arrivals, Load, Users
from simulator.numbers import counted, real, whole
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.policies.k_by_batch import WHOLE_BLOCK
from simulator.serving.verification import departures

Metric = Literal["output_tok_s", "output_tok_s_per_gpu", "tpot_ms", "tpot_mean_ms", "step_ms"]
METRICS: Final[Mapping[Metric, str]] = {
    "output_tok_s": "tokens/s", "output_tok_s_per_gpu": "tokens/s/GPU", "tpot_ms": "ms a token, median",
    "tpot_mean_ms": "ms a token, mean", "step_ms": "ms a step",
}  # fmt: skip
"""What may be measured, and what it is in words."""
_COLUMNS: Final = (
    "concurrency", "rate", "requests", "drafter", "drafted_tokens", "policy", "accepted_length", "survival",
    "prompt_tokens", "output_tokens", *METRICS, "context", "role",
)  # fmt: skip
_ALSO: Final[Mapping[str, str]] = {
    "users": "concurrency", "max_concurrency": "concurrency", "request_rate": "rate", "num_prompts": "requests",
    "method": "drafter", "k": "drafted_tokens", "drafted": "drafted_tokens", "num_speculative_tokens": "drafted_tokens",
    "acceptance_length": "accepted_length", "spec_decode_acceptance_length": "accepted_length",
    "mean_acceptance_length": "accepted_length", "accept_length": "accepted_length",
    "spec_accept_length": "accepted_length", "isl": "prompt_tokens", "input_tokens": "prompt_tokens",
    "input_len": "prompt_tokens", "input_length": "prompt_tokens", "random_input_len": "prompt_tokens",
    "osl": "output_tokens", "output_len": "output_tokens", "output_length": "output_tokens",
    "random_output_len": "output_tokens", "output_throughput": "output_tok_s",
    "output_token_throughput": "output_tok_s", "output_tok/s": "output_tok_s", "output_tok/s/gpu": "output_tok_s_per_gpu",
    "tpot": "tpot_ms", "median_tpot": "tpot_ms", "median_tpot_ms": "tpot_ms", "mean_tpot": "tpot_mean_ms",
    "mean_tpot_ms": "tpot_mean_ms", "step": "step_ms",
}  # fmt: skip
"""Names of columns elsewhere, as heads are compared."""
_OTHERS: Final = re.compile(r"total_|p\d+_|std_|max_output|(request|total_token|input)_throughput|.*_(?:per_)?user$")
"""What columns of load generators are called that are not read, and are near to the names of those that are."""
_NOTHING: Final = frozenset({"-", "–", "—", "n/a", "na", "nan", "null", "oom", "#n/a"})
"""What stands in cells of which nobody knows the number."""
_LENGTHS: Final[Mapping[str, int]] = {"prompt_tokens": 512, "output_tokens": 256}
"""Columns of means, and what is taken where nobody says."""
_UNITS: Final[Mapping[str, tuple[str, ...]]] = {
    "concurrency": ("users", "requests"), "rate": ("1/s", "req/s", "requests/s"), "requests": ("requests",),
    "drafted_tokens": ("tokens",), "accepted_length": ("tokens",), "prompt_tokens": ("tokens",),
    "output_tokens": ("tokens",), "output_tok_s": ("tokens/s", "tok/s"), "context": ("tokens",), "tpot_ms": ("ms",),
    "output_tok_s_per_gpu": ("tokens/s/gpu", "tok/s/gpu"), "tpot_mean_ms": ("ms",), "step_ms": ("ms",),
}  # fmt: skip
"""Units that a head may name."""
_UNIT: Final = re.compile(r"[(\[]([^)\]]*)[)\]]")
_THOUSANDS: Final = re.compile(r"[1-9]\d{0,2}(?:[.,]\d{3})+")
"""Numbers whose marks may stand between thousands."""
_MOST: Final[Mapping[str, int]] = {
    "concurrency": 8192, "requests": 100_000, "drafted_tokens": 64, "prompt_tokens": 1_000_000, "output_tokens": 1_000_000,
    "context": 10_000_000,
}  # fmt: skip
"""No count in a row is larger: nobody would wait."""
_CALLED: Final = {
    "eagle3": "eagle3", "eagle": "eagle3", "nextn": "mtp", "ngram": "ngram", "promptlookup": "ngram",
    **dict.fromkeys(("baseline", "base", "off", "no", "vanilla", "plain", "nospec", "nospeculation"), "none"),
}  # fmt: skip
"""How engines and tables call drafters, without what stands between the words, and what they are called here."""
_BY_REQUESTS: Final = re.compile(r"\b(?:sglang|tensorrt-llm|trt-llm|trtllm|atom)\b", re.IGNORECASE)
"""Engines that capture passes by their requests, however many tokens each has."""
_BY_TOKENS: Final = re.compile(r"\bvllm\b", re.IGNORECASE)
MOST_CAPTURED: Final = 65_536
_CAPTURED: Final = re.compile(r"captured\s+(?:sizes\s+)?(?:up\s+)?to\s+([\d,]+)", re.IGNORECASE)
_APART: Final = 0.05
"""An accepted length and the survivals beside it are one number, as far as people round them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPoint:
    """One row: what was asked of a server, and what came of it."""

    line: int
    """In the file, from 1."""
    load: Load
    requests: int | None = None
    """Requests of a finite client, which asks for so many and leaves; None is a load without end."""
    kind: str = "none"
    """What drafted, one of `KINDS`."""
    policy: PolicySpec = NO_DRAFTER
    averages: Averages | None = None
    """How often drafts are accepted; None without a drafter, and where nobody knows."""
    gamma: int = 0
    prompt_tokens: int
    output_tokens: int
    values: Mapping[Metric, float]
    """What was measured."""
    context: int | None = None
    """Context of each request, where steps were timed at one."""
    given: bool
    """Whether a profile may be fitted to it; else it is to be predicted."""
    idle: bool = False
    """Whether a drafter is there, and drafts nothing."""

    @property
    def what(self) -> str:
        """What drafts, in words."""
        return "none" if self.kind == "none" else f"{self.kind} {self.policy}"

    @property
    def closed(self) -> bool:
        """Whether it is a closed loop: no arrivals at random, and no step that was timed."""
        return self.load.users is not None and set(self.values) != {"step_ms"}

    @property
    def traffic(self) -> tuple[Load, int, int, int | None, int | None]:
        """What is asked: rows of the same may be compared."""
        return self.load, self.prompt_tokens, self.output_tokens, self.requests, self.context

    @property
    def name(self) -> str:
        """The row in words."""
        asked = "" if self.requests is None else f", {counted(self.requests, 'request')}"
        return f"{self.what} at {self.load.label}{asked}"


@dataclass(frozen=True, slots=True)
class Measured:
    """A file of points."""

    points: tuple[MeasuredPoint, ...]
    captured: int | None
    """Largest captured size, where a line for people names it, or an engine that captures all."""

    @property
    def given(self) -> list[MeasuredPoint]:
        """What a profile is fitted to."""
        return [point for point in self.points if point.given]

    @property
    def asked(self) -> list[MeasuredPoint]:
        """What is to be predicted."""
        return [point for point in self.points if not point.given]


def base_profile(name: str, asked: Asked, points: Sequence[MeasuredPoint]) -> Profile:
    """The profile to fit to points; one that averages caches over a context does so over theirs. Raises InputError."""
    profile = find_profile(name, asked)
    if not profile.mean_context_tokens or (asked.model is None and Path(name).is_file()):
        return profile
    contexts = [
        point.prompt_tokens + point.output_tokens / 2 if point.context is None else point.context for point in points
    ]
    return find_profile(name, replace(asked, mean_context=max(round(sum(contexts) / len(contexts)), 1)))


def with_room(profile: Profile, points: Sequence[MeasuredPoint], say: Callable[[str], None]) -> Profile:
    """The profile with room for the requests of drafters that were measured though by the profile they have none: devices
    have a little more memory than data sheets round it to, and engines reserve less."""
    rooms = dict(profile.kv_capacity_by_drafter)
    for kind in dict.fromkeys(point.kind for point in points if point.values and point.kind != "none"):
        own = [point for point in points if point.kind == kind]
        longest = max(point.prompt_tokens + point.output_tokens + point.gamma + 1 for point in own)
        if rooms.get(kind, profile.kv_capacity_tokens) < longest:
            rooms[kind] = max((p.load.users or 1) * (p.prompt_tokens + p.output_tokens + p.gamma + 1) for p in own)
            say(
                f"note: by {profile.name} {kind} does not fit beside {profile.model} on {counted(profile.gpus, 'GPU')}; "
                f"since it was measured, {rooms[kind]:,} tokens of cache are taken, as many as its rows have"
            )
    return replace(profile, kv_capacity_by_drafter=rooms)


def losing(points: Iterable[MeasuredPoint]) -> frozenset[str]:
    """Drafters that were slower than no speculation wherever both were measured of the same traffic."""
    points = [point for point in points if point.given]
    plain = {point.traffic: point.values for point in points if point.policy == NO_DRAFTER}
    gains: dict[str, list[float]] = {}
    for point in points:
        for metric in point.values.keys() & plain.get(point.traffic, {}).keys() - {"step_ms"}:
            gain = point.values[metric] / plain[point.traffic][metric]
            if point.policy != NO_DRAFTER:
                gains.setdefault(point.kind, []).append(1 / gain if metric.endswith("_ms") else gain)
    return frozenset(kind for kind, its in gains.items() if max(its) < 1)


def read_measured(file: Path, say: Callable[[str], None] = lambda text: None) -> Measured:
    """The points of a file. Raises InputError, naming line, column and fix; `say` hears how unclear cells were read."""
    lines = _lines(file)
    told = [line for line in lines if line.lstrip().startswith("#")]
    rows = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    if len(rows) < 2:
        raise InputError(f"{file}: has no rows; a head and a row a point are needed (docs/hardware.md)")
    apart = max(",;\t", key=rows[0][1].count)
    heads = _heads(_cells(rows[0][1], apart), file, say)
    table = {number: _cells(line, apart) for number, line in rows[1:]}
    if wide := [number for number, cells in table.items() if len(cells) > len(heads)]:
        raise InputError(f"{file}, line {wide[0]}: has {len(table[wide[0]])} cells under {len(heads)} heads")
    mark = _decimal_mark(
        (
            number
            for cells in table.values()
            for head, cell in zip(heads, cells, strict=False)
            for number in _numbers(head, cell)
        ),
        apart,
        file,
    )
    points, seen, remarks = list[MeasuredPoint](), dict[tuple[str, ...], int](), dict[str, list[str]]()
    for number, cells in table.items():
        row = {head: cell for head, cell in zip(heads, cells, strict=False) if cell and head}
        row = {head: cell for head, cell in row.items() if head not in _UNITS or cell.lower() not in _NOTHING}
        if not row:
            continue
        first = seen.setdefault(tuple(cells), number)
        if first != number:
            say(f"note: line {number} of {file} is line {first} again, and counts once")
            continue
        try:
            row = {head: _with_points(head, cell, mark) for head, cell in row.items()}
            heard = list[str]()
            points.append(_point(number, row, heard.append))
        except ValueError as error:
            raise InputError(f"{file}, line {number}: {error}") from None
        for remark in heard:
            remarks.setdefault(remark, []).append(str(number))
    for remark, lines in remarks.items():
        say(f"note: {file}, {'line' if len(lines) == 1 else 'lines'} {', '.join(lines)}: {remark}")
    for name, length in _LENGTHS.items():
        if name not in heads:
            say(f"note: no column of {file} is {name}: {length} are taken")
    points = _known_of_others(_told_apart(points, file, say), say)
    if any(point.given and not point.values for point in points):
        say("note: given rows without anything measured say nothing")
    for shown in departures("\n".join(told)):
        say(f"note: {file} names {shown}; its rows are taken as a lossless chain's")
    sizes = [match[1].replace(",", "").lstrip("0") for line in told for match in _CAPTURED.finditer(line)]
    if wrong := [size for size in sizes if not 0 < len(size) <= 5 or int(size) > MOST_CAPTURED]:
        raise InputError(f"{file}: captured sizes to {wrong[0] or 0}: must be from 1 to {MOST_CAPTURED:,}")
    named = [line for line in told if _BY_REQUESTS.search(line)]
    if not sizes and named and not any(_BY_TOKENS.search(line) for line in told):
        engine = next(match[0] for line in named if (match := _BY_REQUESTS.search(line)))
        say(f"note: {file} names {engine}, which captures passes by requests: none is taken to be outside of captured sizes")
        return Measured(tuple(points), max(CAPTURED_SIZES))
    return Measured(tuple(points), int(sizes[-1]) if sizes else None)


def _lines(file: Path) -> list[str]:
    """The lines of a file; one that tells spreadsheets what sets columns apart is for them. Raises InputError."""
    try:
        raw = file.read_bytes()
        wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        lines = raw.decode("utf-16" if wide else "utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{file}: not readable: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: not UTF-8 text; save it as CSV UTF-8") from None
    return ["" if re.fullmatch(r"(?i)sep=.", line.strip()) else line for line in lines]


def _told_apart(points: Sequence[MeasuredPoint], file: Path, say: Callable[[str], None]) -> list[MeasuredPoint]:
    """The points, without those of a drafter that idled where there are some without a drafter. Raises InputError where two
    drafters of one name are in one file: nobody could tell which a line is about."""
    plain = {point.traffic for point in points if point.kind == "none" and not point.idle}
    kept, seen = list[MeasuredPoint](), dict[object, MeasuredPoint]()
    for point in points:
        if point.idle and point.traffic in plain:
            say(f"note: line {point.line} of {file}: of a drafter that idles, and left out: others there have none")
            continue
        first = seen.setdefault((point.traffic, point.kind, str(point.policy)), point)
        if point.averages is not None and first.averages is not None and point.averages != first.averages:
            raise InputError(
                f"{file}, lines {first.line} and {point.line}: are of {point.what} at one load with two acceptances; give "
                "two drafters a file each, with the lines without speculation in both"
            )
        kept.append(point)
    return kept


def _known_of_others(points: Sequence[MeasuredPoint], say: Callable[[str], None]) -> list[MeasuredPoint]:
    """The points, with the acceptance that rows of the same drafter and as many drafted tokens say, of the nearest load."""
    filled, lines = list[MeasuredPoint](), list[str]()
    for point in points:
        like = [one for one in points if (one.kind, one.gamma) == (point.kind, point.gamma) and one.averages is not None]
        if point.gamma and point.averages is None and like:
            size = math.log(point.load.size or 1)
            nearest = min(like, key=lambda one: abs(math.log(one.load.size or 1) - size))
            lines.append(str(point.line))
            point = replace(point, averages=nearest.averages)
        filled.append(point)
    if lines:
        say(f"note: lines {', '.join(lines)} say no acceptance: that of their drafter's other lines is taken")
    return filled


def _cells(line: str, apart: str) -> list[str]:
    """Without blanks around them, and without empty ones at the end."""
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=apart, skipinitialspace=True))]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _numbers(head: str, cell: str) -> list[str]:
    """What of a cell are numbers: a share a drafted token of `survival`, set apart by commas where they have points."""
    if head != "survival":
        return [cell] if head in _UNITS else []
    return re.split(r"[,\s]+", cell) if "." in cell else cell.split()


def _decimal_mark(written: Iterable[str], apart: str, file: Path) -> str:
    """What stands before the decimals of a file's numbers: the last of two marks, or one that sets no thousands apart; where
    semicolons set columns apart, points may. Raises InputError where numbers differ in it, or none tells."""
    found, unclear = set[str](), ""
    for number in written:
        marks = re.findall(r"[.,]", number)
        if not marks:
            continue
        if len(set(marks)) == 1 and _THOUSANDS.fullmatch(number):
            if len(marks) > 1:
                found |= {".", ","} - {marks[-1]}
            elif marks == [","] or apart == ";":
                unclear = number
        else:
            found.add(marks[-1])
    if len(found) > 1:
        raise InputError(f"{file}: some numbers have decimal points, and some decimal commas; write all in one way")
    if unclear and not found:
        raise InputError(f"{file}: {unclear} may be a thousand times as much; write numbers without marks between thousands")
    return found.pop() if found else "."


def _with_points(head: str, cell: str, mark: str) -> str:
    """A cell whose numbers have decimal points, and nothing between thousands."""
    thousands = "," if mark == "." else "."
    numbers = [number.replace(thousands, "").replace(mark, ".") for number in _numbers(head, cell)]
    return " ".join(numbers) if numbers else cell


def _heads(written: Sequence[str], file: Path, say: Callable[[str], None]) -> list[str]:
    """The columns that heads name; empty for what is not read, which is told."""
    if len(written) < 2:
        raise InputError(f"{file}: its head has no commas; columns are set apart by them: {', '.join(_COLUMNS)}")
    heads, others = list[str](), list[str]()
    for head in written:
        plain = re.sub(r"[\s_-]+", "_", _UNIT.sub("", head).strip().lower())
        name = _ALSO.get(plain, plain)
        if name not in _COLUMNS and not _OTHERS.match(name) and (close := get_close_matches(name, _COLUMNS, 1, 0.8)):
            raise InputError(f"{file}: no column {head!r} is read; did you mean {close[0]}? (docs/hardware.md has all)")
        unit = _UNIT.search(head)
        if name in _COLUMNS and unit and unit[1].strip().lower() not in _UNITS.get(name, ()):
            raise InputError(f"{file}: column {head!r} is in {unit[1]}; {name} is in {_UNITS.get(name, ('no unit',))[0]}")
        heads.append(name if name in _COLUMNS else "")
        others += [head] if name not in _COLUMNS else []
    if twice := [head for head in heads if head and heads.count(head) > 1]:
        raise InputError(f"{file}: column {twice[0]!r} is there twice")
    if not {"concurrency", "rate"} & set(heads):
        raise InputError(f"{file}: a column concurrency, or rate, is needed; a line that begins with # is no head")
    if others:
        say(f"note: not read of {file}: {', '.join(others)}; what is read: {', '.join(_COLUMNS)}")
    return heads


def _point(line: int, row: Mapping[str, str], say: Callable[[str], None]) -> MeasuredPoint:
    """Raises ValueError, naming the column."""
    if row.get("rate", "").lower() in ("inf", "infinity"):  # vLLM's bench, where users of a closed loop ask at once
        row = {name: cell for name, cell in row.items() if name != "rate"}
    if {"requests", "rate"} <= row.keys() and "concurrency" not in row:
        row = {name: cell for name, cell in row.items() if name != "requests"}
        say("requests are of a closed loop, and not read beside a rate, which goes on")
    values = _values(row, say)
    role = row.get("role", "given" if values else "predict").lower()
    if role not in ("given", "predict"):
        raise ValueError(f"role {role!r} is not given or predict")
    if role == "given" and not values:
        raise ValueError(f"a given row needs one of {', '.join(METRICS)}")
    kind, policy, gamma, averages = _drafting(row, say)
    _check_together(row, values)
    idle = kind == "none" and row.get("drafter", "none").lower() != "none"
    lengths = {name: _count(row, name, otherwise) or otherwise for name, otherwise in _LENGTHS.items()}
    return MeasuredPoint(
        line=line, load=_load(row), requests=_count(row, "requests", None), kind=kind, policy=policy, gamma=gamma,
        averages=averages, values=values, context=_count(row, "context", None), given=role == "given", idle=idle, **lengths,
    )  # fmt: skip


def _values(row: Mapping[str, str], say: Callable[[str], None]) -> dict[Metric, float]:
    """What was measured, each once. Raises ValueError."""
    values = {name: _number(row, name) for name in METRICS if name in row}
    if {"output_tok_s", "output_tok_s_per_gpu"} <= values.keys():
        gpus = values["output_tok_s"] / values.pop("output_tok_s_per_gpu")
        if not round(gpus) or abs(gpus / round(gpus) - 1) > _APART:
            raise ValueError(f"output_tok_s is {gpus:.3g} times output_tok_s_per_gpu: of no whole number of GPUs")
    if "rate" in row and {"tpot_ms", "tpot_mean_ms"} & values.keys() and "output_tok_s" in values:
        del values["output_tok_s"]
        say("output_tok_s is what arrives at a rate, and not read beside how fast a token comes")
    return values


def _check_together(row: Mapping[str, str], values: Mapping[Metric, float]) -> None:
    """Raises ValueError for cells that make no sense beside each other."""
    requests, users = _count(row, "requests", None), _count(row, "concurrency", None)
    if requests is not None and users is not None and requests < users:
        raise ValueError(f"requests {requests} are fewer than the users of concurrency {users}: so many never run at once")
    if "rate" in row and "step_ms" in values:
        raise ValueError("step_ms: is of so many requests; give their concurrency in place of a rate")
    if "rate" in row and {"output_tok_s", "output_tok_s_per_gpu"} & values.keys():
        raise ValueError("output_tok_s: is what arrives, at a rate that is kept up with; give tpot_ms or tpot_mean_ms")
    if "step_ms" in values and len(values) > 1:
        raise ValueError("step_ms: is of one step, and what stands beside it of answers; give the step a row of its own")
    if "context" in row and "step_ms" not in values:
        raise ValueError("context: says something of a step_ms alone")
    if row.get("output_tokens") == "1" and {"tpot_ms", "tpot_mean_ms"} & set(values):
        raise ValueError("output_tokens 1: between the tokens of such answers there is no time")


def _load(row: Mapping[str, str]) -> Load:
    if ("concurrency" in row) == ("rate" in row):
        every = "; where all were sent at once, concurrency is how many" if "requests" in row else ""
        raise ValueError(f"needs a concurrency or a rate, and not both{every}")
    if "concurrency" in row:
        return Users(_count(row, "concurrency", None) or 1)
    return Arrivals(_number(row, "rate"))


def _drafting(row: Mapping[str, str], say: Callable[[str], None]) -> tuple[str, PolicySpec, int, Averages | None]:
    """(kind, policy, γ, acceptance). Raises ValueError."""
    called = row.get("drafter", "none")
    kind = called.lower() if called.lower() in KINDS else _CALLED.get(re.sub(r"[\s_-]", "", called.lower()), "")
    if not kind:
        raise ValueError(f"drafter {called!r}: write one of {', '.join(KINDS)}; of its tokens drafted_tokens says how many")
    drafted = _count(row, "drafted_tokens", None, least=0)
    if kind == "none" or drafted == 0:
        told = [name for name in ("policy", "accepted_length", "survival") if row.get(name, "none") != "none"]
        if told == ["accepted_length"] and _number(row, "accepted_length") == 1:
            told = []
        if told or drafted:
            way = "leave it blank" if kind != "none" else "name the drafter, or leave it blank"
            raise ValueError(f"{(told or ['drafted_tokens'])[0]}: nothing drafts here; {way}")
        if kind != "none":
            say(f"{kind} that drafts nothing is taken for no speculation; one that idles costs some 4 to 11 % of a step")
        return "none", NO_DRAFTER, 0, None
    survival = _of_column("survival", lambda: Averages(numbers(",".join(re.split(r"[,\s]+", row["survival"])))), row)
    try:
        policy = PolicySpec.parse(row["policy"]) if "policy" in row else None
    except InputError as error:
        raise ValueError(str(error)) from None
    most = None if policy is None else _most(policy)
    if drafted is None:
        drafted = survival.gamma if survival else most
    if not drafted:
        raise ValueError("drafted_tokens: how many tokens are drafted a round?")
    if survival is not None and survival.gamma < drafted:
        raise ValueError(f"survival has {survival.gamma} positions where {drafted} tokens are drafted")
    if survival is not None:
        survival = Averages(survival.survival[:drafted])
    length = _of_column("accepted_length", lambda: _of_length(row, policy, drafted), row)
    if kind == "ngram" and length is not None:
        say(
            "accepted_length of ngram is taken for tokens a step of a request; engines count those of a draft alone, and "
            "most steps have none: 1 + accepted tokens over steps (docs/served.md)"
        )
    if survival and length and abs(survival.accepted_length / length.accepted_length - 1) > _APART:
        raise ValueError(
            f"accepted_length {row['accepted_length']} and survival, which comes to {survival.accepted_length:.2f}, differ"
        )
    policy = policy or PolicySpec.fixed(drafted)
    if (most or 0) > drafted:
        raise ValueError(f"policy {policy}: verifies {most} tokens where {drafted} are drafted")
    if policy.reads_confidences:
        raise ValueError(f"policy {policy}: reads confidences, which a table of averages does not have")
    if not policy.lossless:
        raise ValueError(f"policy {policy}: is a bound, which nobody can have measured")
    return kind, policy, drafted, survival or length


def _of_length(row: Mapping[str, str], policy: PolicySpec | None, drafted: int) -> Averages:
    """Acceptance by tokens a round, which are of as many drafted tokens as the policy has at the row's load; alike at all
    positions. Raises ValueError."""
    tokens, k = _number(row, "accepted_length"), drafted
    if policy is not None and policy.k_by_batch is not None:
        if "concurrency" not in row:
            raise ValueError("is of several numbers of drafted tokens; give survival")
        k = min(policy.k_by_batch.at(_count(row, "concurrency", 1) or 1), drafted) or drafted  # of none it says nothing
    some = Averages.of_accepted_length(tokens, k)
    return Averages.of_conditional([some.conditional[0]] * drafted) if k < drafted else some


def _most(policy: PolicySpec) -> int | None:
    """The most tokens that a policy names; None where it takes a whole block, however long."""
    if policy.k_by_batch is None:
        return policy.k
    named = [k for _, k in policy.k_by_batch.rows]
    return None if WHOLE_BLOCK in named else max(named)


def _of_column(name: str, made: Callable[[], Averages], row: Mapping[str, str]) -> Averages | None:
    if name not in row:
        return None
    try:
        return made()
    except ValueError as error:
        told = str(error).replace("; numbers by position are written .72,.53,.38", "; shares are written .72 .53 .38")
        raise ValueError(f"{name}: {told.split('; survivals')[0].split(': survivals')[0]}") from None


def _number(row: Mapping[str, str], name: str) -> float:
    try:
        value = real(row[name])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {row[name]}")
    return value


def _count(row: Mapping[str, str], name: str, otherwise: Any, *, least: int = 1) -> int | None:
    if name not in row:
        return None if otherwise is None else int(otherwise)
    try:
        value = round(real(row[name])) if name in _LENGTHS else whole(re.sub(r"\.0+$", "", row[name]))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {error}") from None
    if not least <= value <= _MOST[name]:
        raise ValueError(f"{name} must be from {least} to {_MOST[name]:,}, got {value:,}")
    return value
