"""Parts of engines' logs put together: which are of one server, in which order, and what they share."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from harness.served.text import Text, by_writer
from simulator.errors import InputError
from simulator.numbers import counted

_STAMP: Final = re.compile(r"\b(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)\b")
_ISO: Final = re.compile(r"\b(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)")
_COMMA: Final = re.compile(r"(?:length|len|rate|throughput(?: \(token/s\))?|Accepted|Drafted|Running): \d+,\d")
_LEAP_YEAR: Final = 2024
"""Stamps have no year; a leap year has all days."""
_BACK: Final = timedelta(minutes=1)
"""By which no server starts before what it wrote last."""
_YEAR: Final = timedelta(days=180)
"""Stamps that go back by more are of the next year."""


@dataclass(frozen=True, slots=True)
class Part:
    """The lines of one server in a file that count."""

    file: str
    lines: list[str]


def stamp(line: str) -> datetime | None:
    """When a line was written, in a year of no meaning where it has month and day alone."""
    match = _STAMP.search(line)
    try:
        if match is not None:
            month, day, hour, minute, second = map(int, match.groups())
            return datetime(_LEAP_YEAR, month, day, hour, minute, second)
        iso = _ISO.search(line)
        return None if iso is None else datetime.fromisoformat(iso[1])
    except ValueError:
        return None


def servers(
    texts: Sequence[Text], counts: re.Pattern[str], says: re.Pattern[str], starts: Callable[[str], bool],
    at: Callable[[str], datetime | None],
) -> tuple[list[list[Part]], list[str]]:  # fmt: skip
    """(the parts of each server's log, in order of their stamps; what is left out, in sentences). A file in which a server
    starts is the first part of another log; so are lines of another container or host, and what follows where a server
    starts before what was written last.

    Raises InputError for numbers that nobody can read.

    Args:
        counts: finds the lines that are kept.
        says: finds where in a line what the server itself writes begins; before it stands what a collector puts there.
        starts: whether a line is written where a server starts.
        at: when a line was written.
    """
    split = [by_writer((line for line in text.lines if counts.search(line)), says) for text in texts]
    files = [writers for writers, _ in split]
    notes = [f"{text.name}: {alone(lost)}" for text, (_, lost) in zip(texts, split, strict=True) if lost]
    several = any(len(writers) > 1 for writers in files)
    apart: dict[str, list[Part]] = {}
    for text, writers in zip(texts, files, strict=True):
        for whose, own in writers.items():
            if any(_COMMA.search(line) for line in own):
                raise InputError(
                    f"{text.name}: has commas within its numbers, which no engine writes: give it as it was written"
                )
            parts = [Part(text.name, lines) for lines in _split(own, starts, at)]
            apart.setdefault(whose if several else "", []).extend(parts)
    logs = list[list[Part]]()
    for parts in _each_once(apart, says, at):
        known = set[str]()
        for i, part in enumerate(sorted(parts, key=lambda one: (_first(one, at) or datetime.max, one.file))):
            started = {line for line in part.lines if starts(line)}
            if i and started <= known:
                logs[-1].append(part)
            else:
                logs.append([part])
                known.clear()
            known |= {line for line in started if at(line)}
    return logs, notes


def alone(lost: int) -> str:
    """What to say of so many lines whose writer is not known to be one."""
    return (
        f"{counted(lost, 'line')} left out: what stands before them stands before no third, and may be another server's name"
    )


def _each_once(
    apart: Mapping[str, list[Part]], says: re.Pattern[str], at: Callable[[str], datetime | None]
) -> list[list[Part]]:
    """The parts of each writer. A log without a name before its lines that one with a name holds, or that holds it, is the
    same one, saved twice."""
    said = {
        whose: {own_words(line, says, at) for part in parts for line in part.lines if at(line)}
        for whose, parts in apart.items()
    }
    bare = said.get("", set())
    held = {whose for whose, own in said.items() if whose and own and own <= bare}
    held |= {""} if bare and any(bare <= own for whose, own in said.items() if whose and whose not in held) else set()
    return [parts for whose, parts in apart.items() if whose not in held]


def own_words(line: str, says: re.Pattern[str], at: Callable[[str], datetime | None]) -> str:
    """What the server itself wrote of a line, its time too, without what a collector put before it."""
    found = says.search(line)
    own = line if found is None else line[found.start() :]
    return own if at(own) else line


def _split(lines: list[str], starts: Callable[[str], bool], at: Callable[[str], datetime | None]) -> Iterator[list[str]]:
    """Lines of logs that were put one behind the other, each by itself; in order."""
    stamps = [(line, at(line)) for line in lines]
    known = [when for _, when in stamps if when is not None]
    if sum(b < a for a, b in itertools.pairwise(known)) > sum(b > a for a, b in itertools.pairwise(known)):
        stamps.reverse()  # a collector's export begins with the latest
    own, last = list[str](), None
    for line, when in stamps:
        if when is not None:
            if own and last is not None and _BACK < last - when < _YEAR and starts(line):
                yield own
                own = []
            last = when
        own.append(line)
    yield own


def _first(part: Part, at: Callable[[str], datetime | None]) -> datetime | None:
    return next((when for line in part.lines if (when := at(line)) is not None), None)


def joined(parts: Sequence[Part], says: re.Pattern[str], at: Callable[[str], datetime | None]) -> list[str]:
    """All their lines; those that two parts share count once, where they say when they were written, whatever a collector
    has put before them."""
    lines, seen = list[str](), set[str]()
    for part in parts:
        told = [(own_words(line, says, at), line) for line in part.lines]
        fresh = [(own, line) for own, line in told if not (own in seen and at(own))]
        lines += [line for _, line in fresh]
        seen.update(own for own, _ in fresh)
    return lines
