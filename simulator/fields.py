"""Values of a row's fields, typed once: numbers, tokens, times and how long something took."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final, Literal

from simulator.tabular import Row

EPOCHS: Final = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3))
"""Numbers above the first are times since 1970 in units of so many seconds."""
_MOST_TOKENS: Final = 10**9
"""No request has more."""
_LOCAL: Final = "%d/%b/%Y:%H:%M:%S %z"
"""How web servers write the time of day."""
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
    return value * next((unit for above, unit in EPOCHS if value > above), 1.0)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.strptime(text, _LOCAL)  # with a zone: %z
        except ValueError:
            return None


def span_s(text: str) -> float | None:
    """Seconds of a span that is written with its unit, as 8.53s, 250ms or 1m3.5s; None where it has none."""
    parts = re.findall(_SPAN, text)
    if not parts or re.fullmatch(rf"\s*(?:{_SPAN}\s*)+", text) is None:
        return None
    return float(sum(float(value) * _UNITS[unit] for value, unit in parts))
