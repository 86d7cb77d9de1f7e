"""Values of a row's fields, typed once: numbers, tokens, times and how long something took."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Literal

from simulator.tabular import Row

EPOCHS: Final = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3))
"""Numbers above the first are times since 1970 in units of so many seconds."""
_MOST_TOKENS: Final = 10**9
"""No request has more."""
SINCE_2100: Final = 4.1e9
"""Seconds since 1970 of which no log has any yet: such numbers count from elsewhere, as from when a machine was started."""
_WRITTEN: Final = ("%d/%b/%Y:%H:%M:%S %z", "%b %d, %Y @ %H:%M:%S.%f", "%b %d, %Y @ %H:%M:%S")
"""How web servers write the time of day, and Kibana."""
_BLANK: Final = (None, "", "-")
"""Where a value would stand, and none does."""
_BLANK_WORDS: Final = frozenset({"nan", "null", "none", "n/a", "na"})
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SPAN: Final = r"(\d+(?:\.\d+)?)\s*(ns|us|µs|μs|ms|s|m|h)"


def number(row: Row, name: str) -> float:
    """A finite number. Raises KeyError where it is not there, ValueError where it is none."""
    try:
        value = math.nan if isinstance(row[name], bool) else float(row[name])
    except OverflowError:
        value = math.inf
    except (TypeError, ValueError):
        raise ValueError(f"{name} {row[name]!r}: is no number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} {row[name]}: is no finite number")
    return value


def tokens(row: Row, name: str, *, least: Literal[0, 1] = 1) -> int:
    """A whole number of tokens. Raises KeyError, ValueError."""
    value = number(row, name)
    if not least <= value <= _MOST_TOKENS or value != int(value):
        raise ValueError(f"{name} {row[name]}: a whole number of tokens, {least} to {_MOST_TOKENS:,}, is needed")
    return int(value)


def is_blank(value: object) -> bool:
    """Whether no value stands there, as tables and gateways write that: empty, a dash, a word for nothing, no number."""
    if isinstance(value, str):
        return value.strip() in _BLANK or value.strip().casefold() in _BLANK_WORDS
    return value is None or (isinstance(value, float) and math.isnan(value))


def time_s(text: object) -> float:
    """Seconds since 1970: of ISO 8601 (without a zone as UTC), of a web server's time of day, or of a number in s, ms, µs or
    ns. Raises ValueError."""
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        moment = _moment(str(text).strip().strip("[]"))
        if moment is None:
            raise ValueError(f"time {text!r}: is neither ISO 8601 nor a number") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(value):
        raise ValueError(f"time {text}: is not finite")
    seconds = value * next((unit for above, unit in EPOCHS if value > above), 1.0)
    if seconds > SINCE_2100:
        raise ValueError(f"time {text}: is neither ISO 8601 nor a time since 1970 in s, ms, µs or ns")
    return seconds


def _moment(text: str) -> datetime | None:
    """A time of day as it is written, with its zone where one stands there; a leap second is the second after it."""
    plain = re.sub(r"(?i)\s*(?<=[\d\s])(?:utc|gmt|z)$", "+00:00", text.replace("/", "-") if text[:4].isdigit() else text)
    plain = re.sub(r"([+-]\d\d):?(\d\d)\+00:00$", r"\1:\2", plain)  # Go writes both
    plain = re.sub(r"\s+(?=[+-]\d\d:?\d\d$)", "", plain)
    leap = re.sub(r"(?<=:\d\d):60(?=\D|$)", ":59", plain)
    try:
        moment = datetime.fromisoformat(leap)
    except ValueError:
        return _in_words(text)
    return moment if leap == plain else moment + timedelta(seconds=1)


def _in_words(text: str) -> datetime | None:
    for form in _WRITTEN:
        try:
            return datetime.strptime(text, form)  # one without a zone is as any other without
        except ValueError:
            continue
    try:
        return parsedate_to_datetime(text)  # as mail and HTTP have it
    except ValueError:
        return None


def span_s(text: str) -> float | None:
    """Seconds of a span that is written with its unit, as 8.53s, 250ms or 1m3.5s, by a clock, as 0:00:08.5, or as ISO 8601
    has it, as PT8.5S; None where it has none."""
    if (clock := re.fullmatch(r"\s*(\d+):(\d\d):(\d\d(?:\.\d+)?)\s*", text)) is not None:
        return 3600.0 * float(clock[1]) + 60.0 * float(clock[2]) + float(clock[3])
    if text.strip().upper().startswith("PT"):
        text = text.strip()[2:].lower()
    parts = re.findall(_SPAN, text)
    if not parts or re.fullmatch(rf"\s*(?:{_SPAN}\s*)+", text) is None:
        return None
    return float(sum(float(value) * _UNITS[unit] for value, unit in parts))
