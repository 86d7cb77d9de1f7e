"""Moments and spans as logs write them: dates of any form, times since 1970, and how long something took."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

EPOCHS: Final = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3))
"""Numbers above the first are times since 1970 in units of so many seconds."""
SINCE_1970: Final = 1e9
"""Seconds since 1970, in 2001, before which no log was written: smaller numbers count from elsewhere."""
SINCE_2100: Final = 4.1e9
"""Seconds since 1970 of which no log has any yet: such numbers count from elsewhere, as from when a machine was started."""
_WRITTEN: Final = (
    "%d/%b/%Y:%H:%M:%S %z", "%d/%b/%Y:%H:%M:%S", "%b %d, %Y @ %H:%M:%S.%f", "%b %d, %Y @ %H:%M:%S",
    "%b %d, %Y %I:%M:%S %p", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M:%S.%f", "%Y.%m.%d %H:%M:%S", "%Y-%m-%d %I:%M:%S %p",
    "%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y, %I:%M:%S %p", "%m/%d/%Y, %I:%M:%S.%f %p", "%m/%d/%Y %I:%M:%S.%f %p",
)  # fmt: skip
"""How web servers write the time of day, Kibana, spreadsheets and databases, where it can be read in one way."""
_SLASHED: Final = re.compile(r"(\d\d?)([/-])(\d\d?)\2(\d{4})([ T]\d\d?:\d\d(?::\d\d(?:\.\d+)?)?)")
"""A date whose month may be its first number or its second."""
_AMERICAN: Final = re.compile(r"\s*(\d\d?)/(\d\d?)/\d{4},? .*[AP]M\s*$", re.IGNORECASE)
_ZONES: Final = {
    "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3, "MSK": 3, "SGT": 8, "HKT": 8, "JST": 9, "KST": 9,
    "AEST": 10, "AEDT": 11, "NZST": 12, "NZDT": 13, "EST": -5, "EDT": -4, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8,
    "PDT": -7,
}  # fmt: skip
"""Hours of zones that have one meaning each; CST, IST and BST have several."""
_ZONE: Final = re.compile(
    r"(?:[+-]\d\d(?::?\d\d)?(?!\d)|[zZ]|UTC|GMT)(?=[\s\[(\]]|$)|\s(?!AM$|PM$)[A-Z]{3,5}$|\[[A-Za-z]+/\w+\]$"
)
_BEHIND: Final = re.compile(r"\s+m=[+-][\d.]+$|\s*(?:\[[A-Za-z][\w/+-]*\]|\([^()]*\))$")
"""What stands behind a time and says nothing more: Go's clock, Java's name of a zone, JavaScript's."""
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SPAN: Final = r"(\d+(?:\.\d+)?)\s*(ns|us|µs|μs|ms|s|m|h)"


def time_s(given: object) -> float:
    """Seconds since 1970: of ISO 8601 (without a zone as UTC), of a web server's time of day, or of a number in s, ms, µs or
    ns. Raises ValueError."""
    given = given["$date"] if isinstance(given, dict) and "$date" in given else given  # MongoDB's
    given = given["$numberLong"] if isinstance(given, dict) and "$numberLong" in given else given
    try:
        value = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        moment = _moment(_bare(str(given)))
        if moment is None:
            raise ValueError(f"time {given!r}: is neither ISO 8601 nor a number") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(value):
        raise ValueError(f"time {given}: is not finite")
    seconds = value * next((unit for above, unit in EPOCHS if value > above), 1.0)
    if seconds > SINCE_2100:
        raise ValueError(f"time {given}: is neither ISO 8601 nor a time since 1970 in s, ms, µs or ns")
    return seconds


def is_dated(given: object) -> bool:
    """Whether a value is a moment of some day, and no small number."""
    try:
        return time_s(given) >= SINCE_1970
    except ValueError:
        return False


def has_zone(given: object) -> bool | None:
    """Whether a time that is written as text says its zone; None for numbers, which need none."""
    if not isinstance(given, str) or re.fullmatch(r"\s*[-+\d.eE]+\s*", given):
        return None
    return _ZONE.search(given.strip(), 10) is not None


def may_be_day_first(given: object) -> bool:
    """Whether a date with AM or PM, which is taken for an American one, may be written day first, as in Australia."""
    found = _AMERICAN.match(given) if isinstance(given, str) else None
    return found is not None and int(found[1]) <= 12 and int(found[2]) <= 12 and found[1] != found[2]


def _bare(text: str) -> str:
    """A time without brackets around it, and without what says nothing more behind it."""
    text = text.strip()
    return _BEHIND.sub("", text[1:-1] if text.startswith("[") and text.endswith("]") else text)


def _moment(text: str) -> datetime | None:
    """A time of day as it is written, with its zone where one stands there; a leap second is the second after it.

    Raises ValueError for what can be read in two ways.
    """
    if (named := re.search(r"\s([A-Z]{3,4})$", text)) is not None and named[1] in _ZONES:
        text = f"{text[: named.start()]} {_ZONES[named[1]]:+03d}00"
    plain = re.sub(r"(?i)\s*(?<=[\d\s])(?:utc|gmt|z)$", "+00:00", text.replace("/", "-") if text[:4].isdigit() else text)
    plain = re.sub(r"([+-]\d\d):?(\d\d)\+00:00$", r"\1:\2", plain)  # Go writes both
    plain = re.sub(r"\s+(?=[+-]\d\d:?\d\d$)", "", plain)
    leap = re.sub(r"(?<=:\d\d):60(?=\D|$)", ":59", plain)
    try:
        moment = datetime.fromisoformat(leap)
    except ValueError:
        return _in_words(text)
    try:
        return moment if leap == plain else moment + timedelta(seconds=1)
    except OverflowError:
        return None


def _in_words(text: str) -> datetime | None:
    for form in _WRITTEN:
        try:
            return datetime.strptime(text, form)  # one without a zone is as any other without
        except ValueError:
            continue
    if (slashed := _SLASHED.fullmatch(text)) is not None:
        return _slashed(text, slashed)
    try:
        moment = parsedate_to_datetime(text)  # as mail and HTTP have it
    except ValueError:
        return None
    if moment.tzinfo is None and (named := re.search(r"\s([A-Z]{3,5})$", text)) is not None and named[1] not in ("AM", "PM"):
        raise ValueError(f"time {text!r}: the zone {named[1]} is not known here; write it as +01:00")
    return moment


def _slashed(text: str, found: re.Match[str]) -> datetime | None:
    """A date whose one number is no month."""
    first, second = int(found[1]), int(found[3])
    if first <= 12 and second <= 12 and first != second:
        raise ValueError(f"time {text!r}: its month may be {first} or {second}; write ISO 8601, as 2026-11-03 09:00:00")
    month, day = (first, second) if first <= 12 else (second, first)
    clock = found[5][1:]
    try:
        return datetime.fromisoformat(f"{found[4]}-{month:02}-{day:02}T{clock.zfill(len(clock) + (clock[1] == ':'))}")
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
