"""Loads: how requests come. A closed loop of users, an open loop at a rate, or the recorded arrivals of a real service.

A load is parsed once, where users write it or where it was stored, and prints itself back.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from simulator.arrivals import WHOLE, RecordedRequests, Window
from simulator.errors import InputError
from simulator.memory import check_memory, jobs_of
from simulator.numbers import counted, written

USAGE = "users:N[/THINK_S][#REQUESTS[+staggered]], rate:R[/CV], file:PATH[@SPEED[/FROM..TO]] or several:LOAD=WEIGHT,…"
"""How loads are written."""
_MOST_REQUESTS = 100_000_000
"""That users ask in all."""
_MOST_PER_S = 10_000_000
"""Requests a second that users may ask for: beyond, a queue fills any memory within a simulated second."""
_DIGITS = 16
"""Hexadecimal ones by which a file is known again."""


class Load(ABC):
    """How requests come: `Users`, `Arrivals` or `RecordedArrivals`; or several of them, `SeveralLoads`."""

    __slots__ = ()

    users: int | None
    """Users of a closed loop; None in an open one."""
    rate_per_s: float | None
    """Requests a second of an open loop; None where there is no such rate."""

    @property
    def ends(self) -> bool:
        """Whether it ends by itself, when all that was asked is answered; else it is simulated as long as somebody says."""
        return False

    @property
    def shares_prefixes(self) -> bool:
        """Whether it says that prompts begin alike, so that it matters whether that is kept."""
        return False

    @staticmethod
    def parse(text: str) -> Load:
        """A load as users write it: users:64, users:64/2.5 (mean think seconds), users:64#880 (requests in all), rate:5,
        rate:5/2 (cv), file:PATH[@SPEED].

        No file is read yet. Raises InputError.
        """
        kind, _, rest = text.partition(":")
        first, _, second = rest.partition("/")
        try:
            if kind == "users":
                return _users(rest)
            if kind == "rate":
                return Arrivals(float(first), float(second or 1))
            if kind == "file" and rest:
                return _recorded(rest)
            if kind == "several":
                parts = (part.rpartition("=") for part in rest.split(","))
                return SeveralLoads(tuple((Load.parse(load), float(weight)) for load, _, weight in parts))
        except ValueError as error:
            raise InputError(f"load {text}: {error}") from None
        raise InputError(f"load {text}: is written {USAGE}")

    @abstractmethod
    def __str__(self) -> str:
        """The load as users write it; `parse` reads it back equal."""

    @property
    def size(self) -> float | None:
        """Users, or requests per second; None where there is neither."""
        return self.rate_per_s if self.users is None else float(self.users)

    @property
    @abstractmethod
    def label(self) -> str:
        """The load for people."""

    @abstractmethod
    def times(self, factor: float) -> Load:
        """So many times this load: users, a rate, the speed of what was recorded. `factor` is above 0."""

    @property
    def parts(self) -> tuple[tuple[Load, float], ...]:
        """Single loads with their weights, whose sum is 1."""
        return ((self, 1.0),)

    def most_running(self, request_cap: int, replicas: int) -> int:
        """No more requests than this ever run on a replica; a router to the least loaded shares users out evenly."""
        users = [part.users for part, _ in self.parts]
        return min(request_cap, max(request_cap if n is None else -(-n // replicas) for n in users))


@dataclass(frozen=True, slots=True)
class Users(Load):
    """A closed loop: each user waits for the answer, thinks, and asks again."""

    rate_per_s = None
    users: int
    think_s: float = 0.0
    """Mean of the exponential pause between an answer and the next request."""
    requests_in_all: int | None = None
    """What they ask together, as a benchmark's client does, until the last answer; None asks without end."""
    staggered: bool = False
    """Whether they begin spread over the time of an answer without speculation, where they come to an end; else at once."""

    def __post_init__(self) -> None:
        if self.users < 1 or not 0 <= self.think_s < float("inf"):
            raise ValueError("users must be 1 or more, think_s 0 or more")
        if self.requests_in_all is not None and not 1 <= self.requests_in_all <= _MOST_REQUESTS:
            raise ValueError(f"requests in all must be from 1 to {_MOST_REQUESTS:,}")
        if self.staggered and self.requests_in_all is None:
            raise ValueError("users who ask without end begin one after the other anyway")

    @property
    def ends(self) -> bool:
        return self.requests_in_all is not None

    def __str__(self) -> str:
        asked = "" if self.requests_in_all is None else f"#{self.requests_in_all}{'+staggered' if self.staggered else ''}"
        return f"users:{self.users}/{written(self.think_s)}{asked}"

    @property
    def label(self) -> str:
        thinking = f" thinking {written(self.think_s)} s" if self.think_s else ""
        asked = "" if self.requests_in_all is None else f", {counted(self.requests_in_all, 'request')} in all"
        return f"{counted(self.users, 'user')}{thinking}{asked}"

    def times(self, factor: float) -> Users:
        return replace(self, users=max(1, round(self.users * factor)))


def _users(text: str) -> Users:
    """Users as they write themselves, from behind the colon. Raises ValueError."""
    who, many, asked = text.partition("#")
    count, _, think = who.partition("/")
    number, _, how = asked.partition("+")
    if how not in ("", "staggered"):
        raise ValueError(f"{how}: users begin all at once, or staggered")
    return Users(int(count), float(think or 0), int(number) if many else None, bool(how))


@dataclass(frozen=True, slots=True)
class Arrivals(Load):
    """An open loop: requests arrive at a rate, whatever becomes of them."""

    users = None
    rate_per_s: float
    cv: float = 1.0
    """Standard deviation over mean of the gamma-distributed gaps: 1 is Poisson, 0 a constant rate."""

    def __post_init__(self) -> None:
        if not 0 < self.rate_per_s < float("inf") or not 0 <= self.cv < float("inf"):
            raise ValueError("rate_per_s must be above 0, cv 0 or more")

    def __str__(self) -> str:
        return f"rate:{written(self.rate_per_s)}/{written(self.cv)}"

    @property
    def label(self) -> str:
        return f"{counted(self.rate_per_s, 'request')}/s"

    def times(self, factor: float) -> Arrivals:
        return Arrivals(self.rate_per_s * factor, self.cv)


@dataclass(frozen=True)
class RecordedArrivals(Load):
    """Requests of a real service, once, as a file of theirs has them; see `simulator.arrivals`.

    The file is read the first time its requests are asked for; they then travel with the load to wherever it is simulated.
    """

    users = rate_per_s = None
    file: Path
    speed: float = 1.0
    """How many times as fast as they were recorded."""
    digest: str = ""
    """Digest of the file's content, by which a plan knows that it is still the same; empty in plans of older versions."""
    window: Window = WHOLE
    """The stretch of the file that is replayed."""

    @classmethod
    def of(cls, file: Path, speed: float = 1.0, window: Window = WHOLE) -> RecordedArrivals:
        """The arrivals of a file as it is now. Raises ValueError for a wrong speed, OSError without a file."""
        return cls(file.resolve(), speed, _digest(file), window)

    @property
    def ends(self) -> bool:
        return True

    def __post_init__(self) -> None:
        if not 0 < self.speed < float("inf"):
            raise ValueError(f"the speed must be above 0, got {self.speed:g}")

    def __str__(self) -> str:
        stretch = "" if self.window.whole else f"/{self.window}"
        return f"file:{self.file}@{written(self.speed)}{stretch}" + (f"#{self.digest}" if self.digest else "")

    @property
    def label(self) -> str:
        faster = f", {written(self.speed)} times as fast" if self.speed != 1 else ""
        stretch = "" if self.window.whole else f", {self.window} s"
        return f"recorded arrivals ({self.file.name}{stretch}{faster})"

    @property
    def name(self) -> str:
        """The file's name with speed and window, without its folder."""
        return f"{self.file.name}@{written(self.speed)}" + ("" if self.window.whole else f"/{self.window}")

    @cached_property
    def requests(self) -> RecordedRequests:
        """When requests came and how long they were.

        Raises InputError for a wrong file, or another one than was planned with; OSError without one.
        """
        if self.digest and _digest(self.file) != self.digest:
            raise InputError(
                f"{self.file}: has changed since it was planned with, so its arrivals are another load; "
                "bring the old file back, or begin anew"
            )
        return RecordedRequests.read(self.file, self.speed, self.window)

    @property
    def shares_prefixes(self) -> bool:
        try:
            blocks = self.requests.blocks
        except (InputError, OSError):  # gone, or changed, since it was simulated: what may matter is told
            return True
        return blocks is not None and blocks.in_common

    def times(self, factor: float) -> RecordedArrivals:
        return _asking(replace(self, speed=self.speed * factor), self.requests.faster(factor))

    def over_again(self, times: int) -> RecordedArrivals:
        """So many times what was recorded, one after the other. It prints itself as once."""
        return _asking(replace(self), self.requests.over_again(times))


def _asking(load: RecordedArrivals, requests: RecordedRequests) -> RecordedArrivals:
    """The load, with requests at hand that were made of its file's: that is not read again."""
    load.__dict__["requests"] = requests
    return load


@dataclass(frozen=True, slots=True)
class SeveralLoads(Load):
    """Loads of one service at different hours, each simulated by itself: figures are their weighted mean."""

    users = rate_per_s = None
    weighted: tuple[tuple[Load, float], ...]
    """Weights need not add up to 1."""

    def __post_init__(self) -> None:
        if len({load for load, _ in self.weighted}) != len(self.weighted) or len(self.weighted) < 2:
            raise ValueError("several loads, each once, are needed")
        if any(isinstance(load, SeveralLoads | RecordedArrivals) for load, _ in self.weighted):
            raise ValueError("users and rates can be weighted, recorded arrivals cannot")
        if not all(0 < weight < float("inf") for _, weight in self.weighted):
            raise ValueError("weights must be above 0")

    def __str__(self) -> str:
        return "several:" + ",".join(f"{load}={written(weight)}" for load, weight in self.weighted)

    @property
    def label(self) -> str:
        return " and ".join(f"{load.label} ({weight:.0%})" for load, weight in self.parts)

    @property
    def parts(self) -> tuple[tuple[Load, float], ...]:
        whole = sum(weight for _, weight in self.weighted)
        return tuple((load, weight / whole) for load, weight in self.weighted)

    def times(self, factor: float) -> SeveralLoads:
        return SeveralLoads(tuple((load.times(factor), weight) for load, weight in self.weighted))


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:_DIGITS]


def _recorded(text: str) -> RecordedArrivals:
    """The arrivals that PATH[@SPEED[/WINDOW][#DIGEST]] names.

    What follows the last @ is a speed if it is a number. Raises ValueError.
    """
    digest = rf"(?:#(?P<digest>[0-9a-f]{{{_DIGITS}}}))?"
    found = re.fullmatch(rf"(?P<path>.+)@(?P<speed>[^@#/]+)(?:/(?P<window>[^@#/]+))?{digest}", text, re.DOTALL)
    try:
        speed = float(found["speed"]) if found else 1.0
        window = Window.parse(found["window"]) if found and found["window"] else WHOLE
    except (ValueError, InputError):  # a path with an @ in it
        return RecordedArrivals(Path(text))
    if not found:
        return RecordedArrivals(Path(text))
    return RecordedArrivals(Path(found["path"]), speed, found["digest"] or "", window)


def counts(option: str, text: str | None) -> list[int]:
    """Numbers as users write them: 8, 1,8,64, or 1..256 for every power of two in between and the ends."""
    found: list[int] = []
    for part in text.split(",") if text else []:
        if not re.fullmatch(r"\d+(\.\.\d+)?", part.strip()):
            raise InputError(f"{option} {text}: is written as 64, as 1,8,64 or as 1..256")
        low, *high = (int(n) for n in part.split(".."))
        if high and high[0] < low:
            raise InputError(f"{option} {text}: {part.strip()} falls; a range rises, as {high[0]}..{low}")
        powers = [2**i for i in range(31) if high and low <= 2**i <= high[0]]
        found += sorted({low, *powers, *high})
    if found and min(found) < 1:
        raise InputError(f"{option} {text}: must be 1 or more")
    _check_users(option, max(found, default=0))
    return sorted(set(found))


def _check_users(option: str, users: int) -> None:
    """Raise InputError for more users than this machine's memory holds."""
    check_memory(jobs_of(users), f"{option}: {counted(users, 'user')}")


def loads(
    users: str | None,
    think_s: float,
    rate: str | None,
    cv: float,
    arrivals: Sequence[Path] = (),
    speed: float = 1.0,
    say: Callable[[str], None] = lambda _: None,
    window: str | None = None,
    *,
    requests: int | None = None,
    staggered: bool = False,
) -> list[Load]:
    """The loads of a command line: users, rates, recorded arrivals. Raises InputError.

    `say` hears how a file of arrivals was read, and weights that were not shares of 1. `requests` is what users ask in all,
    None without end.
    """
    if requests is not None and not 1 <= requests <= _MOST_REQUESTS:
        raise InputError(f"--requests {requests}: must be from 1 to {_MOST_REQUESTS:,}")
    for name, value in {"--think-s": think_s, "--cv": cv}.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{name} {value:g}: must be 0 or more")
    found: list[Load] = []
    if users and "=" in users:
        if requests is not None:
            raise InputError("--requests: is of users of one load, not of loads with weights; give them apart: 8,64")
        several = _weighted("--concurrency", users, lambda n: Users(int(n), think_s), say)
        _check_users("--concurrency", max(load.users or 0 for load, _ in several.parts))
        found = [several]
    else:
        found = [Users(n, think_s, requests, staggered) for n in counts("--concurrency", users)]
    if rate and "=" in rate:
        found.append(_weighted("--rate", rate, lambda r: _arriving(rate, r, cv), say))
    elif rate:
        found += [_arriving(rate, r, cv) for r in rate.split(",")]
    stretch = Window() if window is None else _window(window)
    for file in dict.fromkeys(arrivals):
        try:
            recorded = RecordedArrivals.of(file, speed, stretch)
        except ValueError as error:
            raise InputError(f"{file}: {error}") from None
        for line in recorded.requests.notes:  # what is wrong with the file is said before anything runs
            say(line)
        found.append(recorded)
    return found


def _window(text: str) -> Window:
    """What `--window` says. Raises InputError."""
    try:
        return Window.parse(text)
    except InputError as error:
        raise InputError(f"--{error}") from None


def _arriving(rate: str, one: str, cv: float) -> Arrivals:
    """One of the rates that `--rate` lists. Raises InputError."""
    try:
        per_s = float(one)
    except ValueError:
        raise InputError(f"--rate {rate}: is written as 2,4,8") from None
    if not 0 < per_s <= _MOST_PER_S:
        raise InputError(f"--rate {rate}: requests a second must be above 0, and no more than {_MOST_PER_S:,}")
    return Arrivals(per_s, cv)


def _weighted(option: str, text: str, make: Callable[[str], Load], say: Callable[[str], None]) -> SeveralLoads:
    """Loads with weights as users write them, 8=0.5,64=0.5; `say` hears where they are no shares. Raises InputError."""
    try:
        parts = [part.partition("=") for part in text.split(",")]
        several = SeveralLoads(tuple((make(load), float(weight)) for load, _, weight in parts))
    except InputError:
        raise
    except ValueError as error:
        said = f": {error}" if "needed" in str(error) or "must" in str(error) else ""
        raise InputError(f"{option} {text}: weights of loads are written 8=0.5,64=0.5{said}") from None
    whole = sum(weight for _, weight in several.weighted)
    if not math.isclose(whole, 1, abs_tol=1e-6):
        taken = ", ".join(f"{load.label} {weight:.1%}" for load, weight in several.parts)
        say(f"note: weights of {option} {text} add up to {whole:g}, not to 1; they are taken as {taken}")
    return several
