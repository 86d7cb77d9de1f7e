"""What a user has measured of a server: a CSV, a row a point, as `harness hardware fit` and `harness predict` read it.

A blank cell is unknown. Lines that begin with # are for people; of them only captured sizes are read, and settings by which
a server verifies trees, or not losslessly, are told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from harness.hardware.table import METRICS, Metric, read_table
from harness.hardware.terms import CAPTURED_SIZES
from simulator.averages import Averages, numbers
from simulator.drafter_kinds import KINDS, kind_called
from simulator.errors import InputError
from simulator.hardware.catalogue import Asked, find_profile
from simulator.hardware.profile import Profile
from simulator.load import Arrivals, Load, Users
from simulator.numbers import as_share, counted, real, whole
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.policies.k_by_batch import WHOLE_BLOCK
from simulator.serving.verification import departures

_LENGTHS: Final[Mapping[str, int]] = {"prompt_tokens": 512, "output_tokens": 256}
"""Columns of means, and what is taken where nobody says."""
_MOST: Final[Mapping[str, int]] = {
    "concurrency": 8192, "requests": 100_000, "drafted_tokens": 64, "prompt_tokens": 1_000_000, "output_tokens": 1_000_000,
    "context": 10_000_000,
}  # fmt: skip
"""No count in a row is larger: nobody would wait."""
_BY_REQUESTS: Final = re.compile(r"\b(?:sglang|tensorrt-llm|trt-llm|trtllm|atom)\b", re.IGNORECASE)
"""Engines that capture passes by their requests, however many tokens each has."""
_BY_TOKENS: Final = re.compile(r"\bvllm\b", re.IGNORECASE)
MOST_CAPTURED: Final = 65_536
_CAPTURED: Final = re.compile(r"captured\s+(?:sizes\s+)?(?:up\s+)?to\s+([\d,]+)", re.IGNORECASE)
_MOST_ADDED: Final = 24
"""Rows that are added to a file's own."""
_APART: Final = 0.05
"""An accepted length and the survivals beside it are one number, as far as people round them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPoint:
    """One row: what was asked of a server, and what came of it."""

    line: int
    """In the file, from 1; negative of what is no line of it."""
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
    remarks: tuple[str, ...] = ()
    """The lines for people."""

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
    try:
        profile = find_profile(name, asked)
    except InputError as error:
        said = str(error).partition("; as replicas")[0]
        raise InputError(said.replace("--tp", "--gpus")) from None  # who measured says it so
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


def completed(points: Sequence[MeasuredPoint]) -> tuple[MeasuredPoint, ...]:
    """The points, and to be predicted every way to draft, and none, at every load of the file where no row is of it, as far
    as is told in good time: what drafting gives at all of them is what a table is read for, and what to measure next may be
    at any. Steps that were timed are no loads."""
    loops = [point for point in points if set(point.values) != {"step_ms"}]
    there = {(point.traffic, point.what) for point in loops}
    ways = {point.what: point for point in loops if point.kind != "none"}
    added = list[MeasuredPoint]()
    for what in ("none", *ways):
        own = [point for point in loops if point.what == what]
        for place in dict.fromkeys(point.traffic for point in loops if (what != "none" or point.kind != "none")):
            if (place, what) in there or len(added) == _MOST_ADDED:
                continue
            at = next(point for point in loops if point.traffic == place)
            like = min(own, key=lambda point: _doublings(point.load, at.load), default=None)
            way = like or replace(at, kind="none", policy=NO_DRAFTER, averages=None, gamma=0)
            added.append(
                replace(
                    at, line=-1 - len(added), kind=way.kind, policy=way.policy, averages=way.averages, gamma=way.gamma,
                    values={}, given=False, idle=way.idle,
                )
            )  # fmt: skip
    return (*points, *added)


def _doublings(one: Load, other: Load) -> float:
    """How far two loads are apart; users and rates further than any."""
    if (one.users is None) != (other.users is None):
        return math.inf
    return abs(math.log2((one.size or 1) / (other.size or 1)))


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
    table = read_table(file, say)
    points, remarks = list[MeasuredPoint](), dict[str, list[str]]()
    for number, row in table.rows:
        heard = list[str]()
        try:
            points.append(_point(number, row, heard.append))
        except ValueError as error:
            raise InputError(f"{file}, line {number}: {error}") from None
        for remark in heard:
            remarks.setdefault(remark, []).append(str(number))
    for remark, lines in remarks.items():
        say(f"note: {file}, {'line' if len(lines) == 1 else 'lines'} {', '.join(lines)}: {remark}")
    for name, length in _LENGTHS.items():
        if name not in table.heads:
            say(f"note: no column of {file} is {name}: {length} are taken")
    points = _known_of_others(_told_apart(points, file, say), say)
    if any(point.given and not point.values for point in points):
        say("note: given rows without anything measured say nothing")
    for shown in departures("\n".join(table.told)):
        say(f"note: {file} names {shown}; its rows are taken as a lossless chain's")
    return Measured(tuple(points), _captured(table.told, file, say), table.told)


def _captured(told: Sequence[str], file: Path, say: Callable[[str], None]) -> int | None:
    """The largest captured size, by lines for people; None where they do not say. Raises InputError."""
    sizes = [match[1].replace(",", "").lstrip("0") for line in told for match in _CAPTURED.finditer(line)]
    if wrong := [size for size in sizes if not 0 < len(size) <= 5 or int(size) > MOST_CAPTURED]:
        raise InputError(f"{file}: captured sizes to {wrong[0] or 0}: must be from 1 to {MOST_CAPTURED:,}")
    named = [line for line in told if _BY_REQUESTS.search(line)]
    if sizes or not named or any(_BY_TOKENS.search(line) for line in told):
        return int(sizes[-1]) if sizes else None
    engine = next(match[0] for line in named if (match := _BY_REQUESTS.search(line)))
    say(f"note: {file} names {engine}, which captures passes by requests: none is taken to be outside of captured sizes")
    return max(CAPTURED_SIZES)


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
            nearest = min(like, key=lambda one: _doublings(one.load, point.load))
            lines.append(str(point.line))
            point = replace(point, averages=nearest.averages)
        filled.append(point)
    if lines:
        say(f"note: lines {', '.join(lines)} say no acceptance: that of their drafter's other lines is taken")
    return filled


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
    kind = kind_called(called)
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
    row = _with_length(row, kind, policy, drafted, say)
    length = _of_column("accepted_length", lambda: _of_length(row, kind, policy, drafted), row)
    if KINDS[kind].looks_up and length is not None:
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


def _with_length(
    row: Mapping[str, str], kind: str, policy: PolicySpec | None, drafted: int, say: Callable[[str], None]
) -> Mapping[str, str]:
    """The row with an accepted length where it has but the share of draft tokens that are accepted. Raises ValueError."""
    if "acceptance_rate" not in row or {"accepted_length", "survival"} & row.keys():
        return row
    if KINDS[kind].looks_up:
        say("acceptance_rate of ngram says nothing of how often there is a draft, and is not read; accepted_length is")
        return row
    try:
        written = row["acceptance_rate"]
        share = as_share(written if written.endswith("%") or real(written) <= 1 else f"{written}%")
    except ValueError as error:
        raise ValueError(f"acceptance_rate: {error}") from None
    if not 0 <= share <= 1:
        raise ValueError(f"acceptance_rate: must be from 0 to 1, or to 100%, got {written}")
    return {**row, "accepted_length": repr(1 + share * _of_load(row, policy, drafted))}


def _of_load(row: Mapping[str, str], policy: PolicySpec | None, drafted: int) -> int:
    """The drafted tokens that averages of a row are of. Raises ValueError where they are of several numbers."""
    if policy is None or policy.k_by_batch is None:
        return drafted
    if "concurrency" not in row:
        raise ValueError("is of several numbers of drafted tokens; give survival")
    return min(policy.k_by_batch.at(_count(row, "concurrency", 1) or 1), drafted) or drafted  # of none it says nothing


def _of_length(row: Mapping[str, str], kind: str, policy: PolicySpec | None, drafted: int) -> Averages:
    """Acceptance by tokens a round, which are of as many drafted tokens as the policy has at the row's load; alike at all
    positions, or as of a look-up. Raises ValueError."""
    k, of = _of_load(row, policy, drafted), Averages.of_look_up if KINDS[kind].looks_up else Averages.of_accepted_length
    some = of(_number(row, "accepted_length"), k).conditional
    return Averages.of_conditional([*some, *some[-1:] * (drafted - k)])


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
