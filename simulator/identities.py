"""Which lines of a log are of one request: by the id that each gives, where that is a request's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

COPIES: Final = "copies of others, with their ids"
GREW: Final = "earlier lines of answers that grew, with their ids"
FURTHER: Final = "further lines of requests, with their ids"
_LONGEST_S: Final = 3_600.0
"""No request takes longer whose beginning is in a line of its own."""
_PIECE_S: Final = 60.0
"""Seconds within which the next piece of an answer comes, and another line of its end."""
_BEFORE_S: Final = 5.0
"""By how much a line that a request begins with may be after when it came, as its duration has that."""
_NEARLY_ALL: Final = 0.9
"""Share of the ids at several lines from which on they are requests'."""


class Line(NamedTuple):
    """A line that is load."""

    known: object
    """What its request is known by; None where nothing says."""
    came_s: float
    prompt: int
    output: int
    says_when: bool
    """Whether it says when its request came: by a start, or by how long it took."""
    finished: bool = False
    """Whether it says that its request has ended: by a failure, or by how long it took."""


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

    An id that stands at requests of other times and lengths is a session's, a model's or a user's, and joins nothing: nor do
    those of tries that each ended, or of answers to one question at once.
    """
    found = Joined([line.came_s for line in lines])
    groups = defaultdict[object, list[int]](list)
    for i, line in enumerate(lines):
        if line.known is not None:
            groups[line.known].append(i)
    several = [group for group in groups.values() if len(group) > 1]
    copies = [group for group in several if len(_distinct(lines, group)) == 1]
    growing = [group for group in several if group not in copies and _grows(lines, list(_distinct(lines, group).values()))]
    one = len(copies) + len(growing)
    are_requests, mostly = one >= _NEARLY_ALL * len(several), 2 * one >= len(several)
    if not mostly and any(len(_distinct(lines, group)) < len(group) for group in several if group not in copies):
        found.note = (
            "its ids stand at requests of other times and lengths, and are no request's: lines that are alike are taken "
            "for requests of their own"
        )
    for group in several if mostly else copies:
        _one_request(lines, group, found, grows=are_requests)
    begun = [(quiet, own) for quiet in silent if len(own := _kept(groups, quiet, found)) == 1]
    near = [(quiet, own[0]) for quiet, own in begun if _is_near(quiet, lines[own[0]], found.came_s[own[0]])]
    if are_requests and len(near) >= _NEARLY_ALL * len(begun):
        for quiet, i in near:
            _begin(quiet, i, lines, found)
    if found.begun:
        found.note = (
            f"{len(found.begun):,} of its requests have a line that was written when they came, with their id: that is when "
            "they came"
        )
    return found


def _distinct(lines: Sequence[Line], group: Sequence[int]) -> dict[tuple[float, int, int], int]:
    """The lines of an id that say different things, in the order of their times, each once."""
    return {lines[i][1:4]: i for i in sorted(group, key=lambda i: lines[i].came_s)}


def _grows(lines: Sequence[Line], group: Sequence[int]) -> bool:
    """Whether lines are of one answer: of the same prompt, later and longer each time, and none but the last of an end."""
    return all(
        one.prompt == after.prompt and one.output < after.output and 0 < after.came_s - one.came_s < _PIECE_S
        and not one.finished
        for one, after in pairwise(lines[i] for i in group)
    )  # fmt: skip


def _one_request(lines: Sequence[Line], group: Sequence[int], found: Joined, *, grows: bool) -> None:
    distinct = list(_distinct(lines, group).values())
    found.left_out |= dict.fromkeys(set(group) - set(distinct), COPIES)
    if grows and len(distinct) > 1 and _grows(lines, distinct):
        *earlier, last = distinct
        found.left_out |= dict.fromkeys(earlier, GREW)
        found.came_s[last] = min(lines[i].came_s for i in group)


def _kept(groups: Mapping[object, list[int]], quiet: Silent, found: Joined) -> list[int]:
    """The requests that have a silent line's id."""
    own = groups.get(quiet.known, ()) if quiet.known is not None else ()
    return [i for i in own if i not in found.left_out]


def _is_near(quiet: Silent, line: Line, came_s: float) -> bool:
    """Whether a silent line may be of a request: written when it came, or, with a status, beside its end."""
    if not quiet.may_begin:
        return abs(came_s - quiet.came_s) < _PIECE_S
    return -(_BEFORE_S if line.says_when else 0.0) <= came_s - quiet.came_s < _LONGEST_S


def _begin(silent: Silent, i: int, lines: Sequence[Line], found: Joined) -> None:
    """Take a line without tokens for one of a request that is load, with its id, and for its beginning where that line does
    not say it."""
    found.further.append(silent.why)
    if silent.may_begin and not lines[i].says_when:
        found.came_s[i] = min(found.came_s[i], silent.came_s)
        found.begun.add(i)
