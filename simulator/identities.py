"""Which lines of a log are of one request: by the id that each gives, where that is a request's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

COPIES: Final = "copies of others, with their ids"
GREW: Final = "earlier lines of answers that grew, with their ids"
FURTHER: Final = "further lines of requests, with their ids"
_LONGEST_S: Final = 86_400.0


class Line(NamedTuple):
    """A line that is load."""

    known: object
    """What its request is known by; None where nothing says."""
    came_s: float
    prompt: int
    output: int
    says_when: bool
    """Whether it says when its request came: by a start, or by how long it took."""


class Silent(NamedTuple):
    """A line that was left out since nothing says how many tokens its request had."""

    known: object
    came_s: float
    why: str
    may_begin: bool
    """Whether it may be written when a request came: it has no status."""


@dataclass(slots=True)
class Joined:
    """What became of the lines."""

    came_s: list[float]
    """When the request of each line came."""
    left_out: dict[int, str] = field(default_factory=dict)
    """Lines that are no request of their own, and why."""
    begun: set[int] = field(default_factory=set)
    """Lines whose request came when another line says."""
    further: list[str] = field(default_factory=list)
    """Why the silent lines were left out that are of requests that are load."""
    note: str = ""
    """What a person should know: a sentence."""


def joined(lines: Sequence[Line], silent: Sequence[Silent]) -> Joined:
    """Lines of one request, put together: copies; answers that grow, of which the last says how long they were; and the
    line that was written when a request came, of one that says only when it ended.

    An id that stands at requests of other times and lengths is a session's, a model's or a user's, and joins nothing.
    """
    found = Joined([line.came_s for line in lines])
    groups = defaultdict[object, list[int]](list)
    for i, line in enumerate(lines):
        if line.known is not None:
            groups[line.known].append(i)
    several = [group for group in groups.values() if len(group) > 1]
    others = sum(_are_others(lines, group) for group in several)
    if 2 * others > len(several):
        if any(len({lines[i][1:4] for i in group}) < len(group) for group in several):
            found.note = (
                "its ids stand at requests of other times and lengths, and are no request's: lines that are alike are taken "
                "for requests of their own"
            )
        return found
    for group in several:
        _one_request(lines, group, found)
    for quiet in silent:
        _begin(quiet, [i for i in groups.get(quiet.known, ()) if i not in found.left_out], lines, found)
    if found.begun:
        found.note = (
            f"{len(found.begun):,} of its requests have a line that was written when they came, with their id: that is when "
            "they came"
        )
    return found


def _distinct(lines: Sequence[Line], group: Sequence[int]) -> dict[tuple[float, int, int], int]:
    """The lines of an id that say different things, in the order of their times, each once."""
    return {lines[i][1:4]: i for i in sorted(group, key=lambda i: (lines[i].came_s, -i))}


def _grows(distinct: Sequence[tuple[float, int, int]]) -> bool:
    """Whether lines are of one answer: of the same prompt, and longer each time."""
    steps = pairwise(distinct)
    return all(one[1] == next_[1] and one[2] < next_[2] for one, next_ in steps)


def _are_others(lines: Sequence[Line], group: Sequence[int]) -> bool:
    return not _grows(list(_distinct(lines, group)))


def _one_request(lines: Sequence[Line], group: Sequence[int], found: Joined) -> None:
    distinct = _distinct(lines, group)
    found.left_out |= dict.fromkeys(set(group) - set(distinct.values()), COPIES)
    if len(distinct) > 1 and _grows(list(distinct)):
        *earlier, last = distinct.values()
        found.left_out |= dict.fromkeys(earlier, GREW)
        found.came_s[last] = min(lines[i].came_s for i in group)


def _begin(silent: Silent, own: Sequence[int], lines: Sequence[Line], found: Joined) -> None:
    """Take a line without tokens for one of a request that is load, with its id, and for its beginning where it can be."""
    if silent.known is None or not own:
        return
    found.further.append(silent.why)
    for i in own:
        if silent.may_begin and not lines[i].says_when and 0 <= found.came_s[i] - silent.came_s < _LONGEST_S:
            found.came_s[i] = silent.came_s
            found.begun.add(i)
