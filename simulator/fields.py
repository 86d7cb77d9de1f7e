"""Values of a row's fields, typed once: numbers, and tokens."""

from __future__ import annotations

import math
import re
from typing import Final, Literal

from simulator.tabular import Row

_MOST_TOKENS: Final = 10**9
"""No request has more."""
_BLANK: Final = (None, "", "-")
"""Where a value would stand, and none does."""
_BLANK_WORDS: Final = frozenset({"nan", "null", "none", "n/a", "na", "undefined", "unknown"})
_GROUPED: Final = re.compile(r"\s*\d{1,3}(?:,\d{3})+\s*")
"""A whole number whose thousands are set apart."""


def number(row: Row, name: str) -> float:
    """A finite number. Raises KeyError where it is not there, ValueError where it is none."""
    given = _of_a_database(row[name])
    try:
        value = math.nan if isinstance(given, bool) else float(given)  # type: ignore[arg-type]
    except OverflowError:
        value = math.inf
    except (TypeError, ValueError):
        raise ValueError(f"{name} {given!r}: is no number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} {given}: is no finite number")
    return value


def tokens(row: Row, name: str, *, least: Literal[0, 1] = 1) -> int:
    """A whole number of tokens, whose thousands may be set apart by commas. Raises KeyError, ValueError."""
    given = row[name]
    if isinstance(given, str) and _GROUPED.fullmatch(given):
        row = {name: given.replace(",", "")}
    value = number(row, name)
    if not least <= value <= _MOST_TOKENS or value != int(value):
        raise ValueError(f"{name} {given}: a whole number of tokens, {least} to {_MOST_TOKENS:,}, is needed")
    return int(value)


def is_blank(value: object) -> bool:
    """Whether no value stands there, as tables and gateways write that: empty, a dash, a word for nothing, no number."""
    if isinstance(value, str):
        return value.strip() in _BLANK or value.strip().casefold() in _BLANK_WORDS
    return value is None or (isinstance(value, float) and math.isnan(value))


def _of_a_database(value: object) -> object:
    """A number as MongoDB exports it, `{"$numberInt": "5"}`, is what it says."""
    if isinstance(value, dict) and len(value) == 1:
        [(name, inner)] = value.items()
        return inner if str(name).startswith("$number") else value
    return value
