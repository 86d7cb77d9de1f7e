"""Logs whose tokens or times stand under names that nobody knows here: what these are, by all of their rows.

One row alone tells too little: beside its failures' limits and plans a log has fields that are called as tokens are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from simulator.bodies import REQUESTS, opened
from simulator.durations import words_of
from simulator.moments import is_dated
from simulator.spelling import ENDS, has_time, leaves, spelled
from simulator.tabular import Row, folded
from simulator.usage import is_known, says_tokens, whole

_ENDINGS: Final = tuple(
    (f"{asked}{token}", f"{given}{token}")
    for asked, given in (("prompt", "completion"), ("input", "output"), ("prompt", "output"), ("prompt", "candidates"))
    for token in ("tokens", "tokencount", "token")
) + tuple(
    (f"{token}{asked}", f"{token}{given}")
    for asked, given in (("prompt", "completion"), ("input", "output"))
    for token in ("tokencount", "tokens")
)
"""How names end, as `folded` has them, of (prompt, answer)."""
_NO_REQUESTS: Final = re.compile(
    r"(?:^|_)(?:totals?|sum|cumulative|accumulated|lifetime|today|hourly|daily|days?|monthly|month|sessions?|previous"
    r"|budgets?|(?:rate)?limits?|quotas?|allow\w*|remaining|reserved|requested|estimated?|avg|mean|average|min|max|thresholds?"
    r"|prices?|pricing|costs?|plans?|teams?|organi[sz]ations?|batch|per|tpm|windows?|config|info)(?=_)"
)
"""Words in names of tokens that are no single request's."""
_TIME: Final = re.compile(r"(?:^|_)(?:time|timestamp|datetime|date|ts|at)(?:_|$)|^time")
"""What a time is called, in small letters with `_` between words."""
_NO_ARRIVAL: Final = re.compile(
    r"expir|updat|delet|modif|releas|birth|deploy|first|last|reset|cutoff|version|build|user|account|trained|retr|cancel|next"
)
"""Words in names of times at which no request came."""
_ANTHROPICS: Final = re.compile(r"anthropic|claude", re.IGNORECASE)
"""Providers and models that count what a cache gave beside a prompt."""
_MAKER: Final = re.compile(r"(?:^|_)(?:provider|vendor|system|model)(?:_|$)")
_TEXTS: Final = frozenset({*REQUESTS, "prompt", "messages", "content", "text", "query", "question"})
"""Fields whose texts are somebody's words, whatever they look like."""
_DEEPEST: Final = 4
_MOSTLY: Final = 0.9
"""Share of the rows with tokens that must have a time."""
_LOOKED_AT: Final = 5_000
"""Rows that tell what all are."""
_FEW: Final = 3
"""Rows of which a field may be the same by chance."""


class Pair(NamedTuple):
    """Where the tokens of prompt and answer stand: names from the outermost, with dots between."""

    asked: str
    given: str


class Fields(NamedTuple):
    """What a log calls what is read of it; None for what has a name that is known."""

    pair: Pair | None
    time: str | None

    def spelled(self, row: Row) -> Row:
        """A row with these called as they are here."""
        named = dict(spelled(row))
        if self.pair is not None and (usage := _usage(row, self.pair)):
            named["usage"] = usage
        return named if self.time is None else named | {"time": row.get(self.time)}

    @property
    def note(self) -> str:
        """What to know of it: a sentence."""
        told = (
            []
            if self.pair is None
            else [f"tokens of prompt and answer are taken from {self.pair.asked} and {self.pair.given}"]
        )
        told += [] if self.time is None else [f"times from {self.time}"]
        return f"{', and '.join(told)}: nothing else in the file is called so"


def fields_of(rows: Sequence[Row]) -> Fields | None:
    """The only fields of a log that can be tokens and times; None where there is none, or more than one."""
    rows = rows[:_LOOKED_AT]
    named = [spelled(row) for row in rows]
    known = any(says_tokens(row) for row in named)
    pair = None if known else _only_pair(rows)
    if not known and pair is None:
        return None
    if any(map(has_time, named)):
        return Fields(pair, None)
    asked = [row for row, one in zip(rows, named, strict=True) if (says_tokens(one) if pair is None else _usage(row, pair))]
    time = _only_time(asked)
    return None if time is None else Fields(pair, time)


def _only_pair(rows: Sequence[Row]) -> Pair | None:
    """The pair that stands in most rows, differs from row to row, and has no other beside it that says something else."""
    found = defaultdict[Pair, dict[int, tuple[int, int]]](dict)
    for i, row in enumerate(rows):
        for pair, value in _pairs(row):
            found[pair][i] = value
    varying = {pair: own for pair, own in found.items() if len(own) < _FEW or len(set(own.values())) > 1}
    most = max(map(len, varying.values()), default=0)
    often = [pair for pair, own in varying.items() if 2 * len(own) >= most]
    if not often or any(varying[pair] != varying[often[0]] for pair in often):
        return None
    return often[0]


def _pairs(row: Row) -> Iterator[tuple[Pair, tuple[int, int]]]:
    """Fields anywhere in a row that end as (prompt, answer) do, with a prompt, and their values."""
    found = {folded(path): (path, value) for path, value in leaves(row, _DEEPEST, _inside)}
    for name, (path, value) in found.items():
        for asked, given in _ENDINGS:
            before = name.removesuffix(asked)
            if before == name or _NO_REQUESTS.search(words_of(path)):
                continue
            answer = next((b + given for b in (before, before.replace("input", "output")) if b + given in found), None)
            prompt = whole(value)
            if answer is not None and prompt and (output := whole(found[answer][1])) is not None:
                yield Pair(path, found[answer][0]), (prompt, output)


def _inside(name: str, value: Any) -> Any:
    """What a field holds: a text that is JSON is an object, unless it is somebody's words."""
    return opened(value) if isinstance(value, dict) or name not in _TEXTS else None


def _usage(row: Row, pair: Pair) -> dict[str, Any]:
    """The pair as usage, with what stands beside it; empty where it does not stand in a row."""
    said = dict(leaves(row, _DEEPEST, _inside))
    if pair.asked not in said:
        return {}
    ends = _ends(pair.asked, pair.given)
    beside = dict[str, Any]()
    for path, value in said.items() if ends else ():
        outer, _, inner = path.removeprefix(ends).partition(".")
        if path.startswith(ends) and inner and isinstance(beside.setdefault(outer, {}), dict):
            beside[outer][inner] = value
        elif path.startswith(ends):
            beside[outer] = value
    asked, given = pair.asked.removeprefix(ends), pair.given.removeprefix(ends)
    if is_known(asked, given) and (ends.endswith(".") or not ends or _counts_caches_beside(said)):
        return beside or {asked: said[pair.asked], given: said.get(pair.given)}
    return {**beside, "prompt_tokens": said[pair.asked], "completion_tokens": said.get(pair.given)}


def _counts_caches_beside(said: Mapping[str, Any]) -> bool:
    """Whether a row whose maker calls tokens by words of his own says that caches are beside a prompt: Anthropic's are."""
    return any(
        (isinstance(value, str) and _ANTHROPICS.search(value) is not None and _MAKER.search(words_of(name)) is not None)
        or (folded(name).endswith("exclusive") and str(value).casefold() == "true")
        for name, value in said.items()
    )


def _ends(asked: str, given: str) -> str:
    """What both names begin with, up to a dot or a line between words."""
    same = next((i for i, (a, b) in enumerate(zip(asked, given, strict=False)) if a != b), 0)
    return asked[: max(asked.rfind(".", 0, same), asked.rfind("_", 0, same)) + 1]


def _only_time(rows: Sequence[Row]) -> str | None:
    """The field of a time that nearly all rows have, and that differs."""
    names = dict.fromkeys(str(name) for row in rows for name in row)
    found = [
        name
        for name in names
        if name not in ENDS
        and not _NO_ARRIVAL.search(words_of(name))
        and sum(_is_moment(name, row.get(name)) for row in rows) >= _MOSTLY * len(rows)
        and (len(rows) < _FEW or len({str(row.get(name)) for row in rows}) > 1)
    ]
    return found[0] if len(found) == 1 else None


def _is_moment(name: str, value: object) -> bool:
    """Whether a value is a date with the time of the day, or a number that can be one where it is called a time."""
    called = _TIME.search(words_of(name)) is not None
    return (called or (isinstance(value, str) and ":" in value)) and is_dated(value)
