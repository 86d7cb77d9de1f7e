"""Loads: how requests come. A closed loop of users, an open loop at a rate, or the recorded arrivals of a real service.

A load is parsed once, where users write it or where it was stored, and prints itself back.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from simulator.arrivals import RecordedRequests
from simulator.errors import InputError

USAGE = "users:N[/THINK_S], rate:R[/CV] or file:PATH[@SPEED]"
"""How loads are written."""


class Load(ABC):
    """How requests come: `Users`, `Arrivals` or `RecordedArrivals`."""

    __slots__ = ()

    users: int | None
    """Users of a closed loop; None in an open one."""
    rate_per_s: float | None
    """Requests a second of an open loop; None where there is no such rate."""

    @staticmethod
    def parse(text: str) -> Load:
        """A load as users write it: users:64, users:64/2.5 (mean think seconds), rate:5, rate:5/2 (cv), file:PATH[@SPEED].

        No file is read yet. Raises InputError.
        """
        kind, _, rest = text.partition(":")
        first, _, second = rest.partition("/")
        try:
            if kind == "users":
                return Users(int(first), float(second or 0))
            if kind == "rate":
                return Arrivals(float(first), float(second or 1))
            if kind == "file" and rest:
                return RecordedArrivals(*_path_and_speed(rest))
        except ValueError as error:
            raise InputError(f"load {text}: {error}") from None
        raise InputError(f"load {text}: is written {USAGE}")

    @abstractmethod
    def __str__(self) -> str:
        """The load as users write it; `parse` reads it back equal."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The load for people."""


@dataclass(frozen=True, slots=True)
class Users(Load):
    """A closed loop: each user waits for the answer, thinks, and asks again."""

    rate_per_s = None
    users: int
    think_s: float = 0.0
    """Mean of the exponential pause between an answer and the next request."""

    def __post_init__(self) -> None:
        if self.users < 1 or not 0 <= self.think_s < float("inf"):
            raise ValueError("users must be 1 or more, think_s 0 or more")

    def __str__(self) -> str:
        return f"users:{self.users}/{_written(self.think_s)}"

    @property
    def label(self) -> str:
        thinking = f" thinking {_written(self.think_s)} s" if self.think_s else ""
        return f"{self.users} user{'s' * (self.users != 1)}{thinking}"


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
        return f"rate:{_written(self.rate_per_s)}/{_written(self.cv)}"

    @property
    def label(self) -> str:
        return f"{_written(self.rate_per_s)} requests/s"


@dataclass(frozen=True)
class RecordedArrivals(Load):
    """Requests of a real service, once, as a file of theirs has them; see `simulator.arrivals`.

    The file is read the first time its requests are asked for; they then travel with the load to wherever it is simulated.
    """

    users = rate_per_s = None
    file: Path
    speed: float = 1.0
    """How many times as fast as they were recorded."""

    def __post_init__(self) -> None:
        if not 0 < self.speed < float("inf"):
            raise ValueError(f"the speed must be above 0, got {self.speed:g}")

    def __str__(self) -> str:
        return f"file:{self.file}@{_written(self.speed)}"

    @property
    def label(self) -> str:
        faster = f", {_written(self.speed)} times as fast" if self.speed != 1 else ""
        return f"recorded arrivals ({self.file.name}{faster})"

    @property
    def name(self) -> str:
        """The file's name with the speed, without its folder."""
        return f"{self.file.name}@{_written(self.speed)}"

    @cached_property
    def requests(self) -> RecordedRequests:
        """When requests came and how long they were. Raises InputError for a wrong file, OSError without one."""
        return RecordedRequests.read(self.file, self.speed)


def _path_and_speed(text: str) -> tuple[Path, float]:
    """The path and the speed of PATH[@SPEED]; what follows the last @ is a speed if it is a number."""
    path, _, speed = text.rpartition("@")
    try:
        return (Path(path), float(speed)) if path else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0


def _written(number: float) -> str:
    """A number as briefly as people write it, no digit lost."""
    return brief if float(brief := f"{number:g}") == number else repr(float(number))


def counts(option: str, text: str | None) -> list[int]:
    """Numbers as users write them: 8, 1,8,64, or 1..256 for every power of two in between and the ends."""
    found: list[int] = []
    for part in text.split(",") if text else []:
        if not re.fullmatch(r"\d+(\.\.\d+)?", part.strip()):
            raise InputError(f"{option} {text}: is written as 64, as 1,8,64 or as 1..256")
        low, *high = (int(n) for n in part.split(".."))
        powers = [2**i for i in range(31) if high and low <= 2**i <= high[0]]
        found += sorted({low, *powers, *high})
    if found and min(found) < 1:
        raise InputError(f"{option} {text}: must be 1 or more")
    return sorted(set(found))


def loads(
    option: str,
    users: str | None,
    think_s: float,
    rate: str | None,
    cv: float,
    arrivals: Path | None = None,
    speed: float = 1.0,
    say: Callable[[str], None] = lambda _: None,
) -> list[Load]:
    """The loads of a command line: users, of the option called `option`, rates, recorded arrivals. Raises InputError.

    `say` hears how a file of arrivals was read.
    """
    texts = [f"users:{n}/{think_s:g}" for n in counts(option, users)]
    try:
        texts += [f"rate:{float(r):g}/{cv:g}" for r in rate.split(",")] if rate else []
    except ValueError:
        raise InputError(f"--rate {rate}: is written as 2,4,8") from None
    found = [Load.parse(text) for text in texts]
    if arrivals:
        try:
            recorded = RecordedArrivals(arrivals.resolve(), speed)
        except ValueError as error:
            raise InputError(f"{arrivals}: {error}") from None
        for line in recorded.requests.notes:  # what is wrong with the file is said before anything runs
            say(line)
        found.append(recorded)
    return found
