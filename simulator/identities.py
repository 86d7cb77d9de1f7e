"""Which lines of a log are of one request: by the id that each gives, where that is a request's."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

COPIES: Final = "copies of others, with their ids"
GREW: Final = "earlier lines of answers that grew, with their ids"
FURTHER: Final = "further lines of requests, with their ids"
WHOLES: Final = "of what calls other lines are, with the same tokens"
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


class _Group(NamedTuple):
    """The lines of one id."""

    all: list[int]
    distinct: list[int]
    """Those that say different things, in the order of their times."""
    grows: bool
    """Whether these are of one answer: of the same prompt, later and longer each time, and none but the last of an end."""

    @property
    def is_one(self) -> bool:
        """Whether all may be of one request."""
        return len(self.distinct) == 1 or self.grows


def joined(lines: Sequence[Line], silent: Sequence[Silent]) -> Joined:
    """Lines of one request, put together: copies; answers that grow, of which the last says how long they were; and the
    line that was written when a request came, of one that says only when it ended.

    An id that stands at requests of other times and lengths is a session's, a model's or a user's, and joins nothing: nor do
    those of tries that each ended, or of answers to one question at once.
    """
    found = Joined([line.came_s for line in lines])
    own = defaultdict[object, list[int]](list)
    for i, line in enumerate(lines):
        if line.known is not None:
            own[line.known].append(i)
    several = [_group(lines, some) for some in own.values() if len(some) > 1]
    ones = sum(group.is_one for group in several)
    are_requests, mostly = ones >= _NEARLY_ALL * len(several), 2 * ones >= len(several)
    for group in several:
        if mostly or len(group.distinct) == 1:
            _one_request(lines, group, found, grows=are_requests)
    if not mostly and any(1 < len(group.distinct) < len(group.all) for group in several):
        found.note = (
            "its ids stand at requests of other times and lengths, and are no request's: lines that are alike are taken "
            "for requests of their own"
        )
    if are_requests:
        _begin(lines, silent, own, found)
    return found


class Part(NamedTuple):
    """A line with tokens, as a part of something."""

    known: object
    """What it is known by so; None where nothing says."""
    prompt: int
    output: int


def wholes(parts: Sequence[Part], part_of: Mapping[object, object]) -> set[int]:
    """Which lines are something that others of them are parts of, and have the tokens of these again: an agent's run is no
    call itself. A call that another call stands below, with tokens of its own, is one.

    Args:
        part_of: what each part, whether it has tokens or not, is a part of.
    """
    times = Counter(part.known for part in parts)
    at = {part.known: i for i, part in enumerate(parts) if part.known is not None and times[part.known] == 1}
    below = defaultdict[int, list[Part]](list)
    for part in parts:
        seen, above = {part.known}, part_of.get(part.known)
        while above is not None and above not in seen and above not in at:
            seen.add(above)
            above = part_of.get(above)
        if above in at and above not in seen:
            below[at[above]].append(part)
    return {i for i, calls in below.items() if _has_again(parts[i], calls)}


def _has_again(whole: Part, calls: Sequence[Part]) -> bool:
    """Whether something has the tokens of one of its parts, or of all."""
    said = [call[1:] for call in calls]
    return whole[1:] in (*said, (sum(prompt for prompt, _ in said), sum(output for _, output in said)))


def _group(lines: Sequence[Line], own: list[int]) -> _Group:
    in_time = sorted(own, key=lambda i: lines[i].came_s)
    distinct = list({(lines[i].came_s, lines[i].prompt, lines[i].output): i for i in in_time}.values())
    grows = len(distinct) > 1 and all(
        one.prompt == after.prompt and one.output < after.output and 0 < after.came_s - one.came_s < _PIECE_S
        and not one.finished
        for one, after in pairwise(lines[i] for i in distinct)
    )  # fmt: skip
    return _Group(own, distinct, grows)


def _one_request(lines: Sequence[Line], group: _Group, found: Joined, *, grows: bool) -> None:
    found.left_out |= dict.fromkeys(set(group.all) - set(group.distinct), COPIES)
    if grows and group.grows:
        *earlier, last = group.distinct
        found.left_out |= dict.fromkeys(earlier, GREW)
        found.came_s[last] = lines[earlier[0]].came_s


def _begin(lines: Sequence[Line], silent: Sequence[Silent], own: Mapping[object, Sequence[int]], found: Joined) -> None:
    """Take lines without tokens for those of requests that are load, with their ids, and for the beginnings of those that do
    not say it themselves; unless some of them are far off, as where ids are users'."""
    pairs = list[tuple[Silent, int]]()
    for quiet in silent:
        kept = [i for i in own.get(quiet.known, ()) if i not in found.left_out] if quiet.known is not None else []
        pairs += [(quiet, kept[0])] if len(kept) == 1 else []
    near = [(quiet, i) for quiet, i in pairs if _is_near(quiet, lines[i], found.came_s[i])]
    if len(near) < _NEARLY_ALL * len(pairs):
        return
    for quiet, i in near:
        found.further.append(quiet.why)
        if quiet.may_begin and not lines[i].says_when:
            found.came_s[i] = min(found.came_s[i], quiet.came_s)
            found.begun.add(i)
    if found.begun:
        found.note = (
            f"{len(found.begun):,} of its requests have a line that was written when they came, with their id: that is when "
            "they came"
        )


def _is_near(quiet: Silent, line: Line, came_s: float) -> bool:
    """Whether a silent line may be of a request: written when it came, or, with a status, beside its end."""
    if not quiet.may_begin:
        return abs(came_s - quiet.came_s) < _PIECE_S
    return -(_BEFORE_S if line.says_when else 0.0) <= came_s - quiet.came_s < _LONGEST_S
