"""What stands before the lines of a log: which of it are names of those that wrote them."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

_NUMBER: Final = re.compile(r"\s*(?!\W*\d\d:\d\d(?!\d))([^\d\s]\S*?[:-])?(\d{1,12})[:\-\s]")
"""What `grep -n` and `cat -n` put before a line: the file's name, where there are several, and the line's number."""
_RISING: Final = 0.9
"""Share of lines whose number is above the one before, where lines are numbered."""
_FEWEST: Final = 3
"""Lines before which the same stands where it is a name."""
_LOST: Final = 0.25
"""Share of lines without a name beyond which nothing that stands before lines is one."""


def unnumbered(lines: list[str]) -> list[str]:
    """Lines without their numbers, where most have one that rises."""
    found = [_NUMBER.match(line) for line in lines]
    numbers: dict[str, list[int]] = {}
    for match in found:
        if match is not None:
            numbers.setdefault(match[1] or "", []).append(int(match[2]))
    rises = sum(a < b for own in numbers.values() for a, b in itertools.pairwise(own))
    if rises < max(2, _RISING * (len(lines) - len(numbers))):
        return lines
    return [line if m is None else (m[1] or "") + line[m.end() :] for m, line in zip(found, lines, strict=True)]


def by_name(named: Sequence[tuple[str, str, bool]]) -> tuple[dict[str, list[str]], int]:
    """(lines by the name that stands before them, how many are left out), of (name, line, whether that may be more or less
    than the name).

    What stands before fewer than three lines is none: it changes from line to line. Such a line, beside several names, is
    left out unless it has a part of one; where there are many such lines, or no two names, all lines are one writer's.
    """
    often = Counter(name for name, _, _ in named)
    sure = Counter(name for name, _, vague in named if not vague) or often
    names = sorted((name for name, n in sure.items() if n >= _FEWEST or len(often) == 1), key=len, reverse=True)
    homes = {name: name if name in names else _home(name, names) for name in often}
    lost = sum(n for name, n in often.items() if homes[name] is None)
    if len(names) < 2 or lost > _LOST * len(named):
        return {names[0] if len(names) == 1 else "": [line for _, line, _ in named]}, 0
    found: dict[str, list[str]] = {}
    for name, line, _ in named:
        if (home := homes[name]) is not None:
            found.setdefault(home, []).append(line)
    return found, lost


def _home(name: str, names: Sequence[str]) -> str | None:
    """The one of some names of which this is a part, as where a line's beginning is cut, or that this begins with; None
    where there is none."""
    wholes = [one for one in names if name and (one.endswith(name) or one.startswith(name))]
    begins = [one for one in names if one and name.startswith(one) and not name[len(one)].isalnum()]
    return wholes[0] if len(wholes) == 1 else next(iter(begins), "" if "" in names else None)
