"""The times of recorded requests: their unit, what they are rounded to, and what to know of the clocks that gave them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from simulator.moments import EPOCHS, SINCE_1970, SINCE_2100
from simulator.numbers import written

Times = npt.NDArray[np.float64]
FEW: Final = 20
"""Requests of which a rate is not judged."""
_PLAUSIBLE_PER_S: Final = (0.05, 100.0)
"""Requests a second: a service outside of these may be one whose times have another unit."""
_GRAINS_S: Final = (3600, 1800, 900, 600, 300, 120, 60, 30, 20, 15, 10, 5, 3, 2, 1, 0.5, 0.25, 0.2, 0.1)
"""What times are rounded to; to less, they are as good as exact."""
_TIED: Final = 0.1
"""Share of requests at the moment of another from which on times are rounded."""
_OFF_S: Final = 2e-3
"""By how much rounded times may miss the multiples of what they are rounded to."""
_AN_HOUR_S: Final = (1800.0, 3660.0)
"""By how much times jump back where clocks are put back."""
_BACK_LINES: Final = 2
"""Lines after such a jump that are earlier, too, where it is the clock's."""
_SMOOTHED: Final = (1, 5, 21, 101, 501, 2001)
"""Lines whose middle time stands for them where lines are not in the order of their times."""
_SPREADSHEET_DAYS: Final = (36_526, 73_050)
"""The years 2000 to 2100 in days, as spreadsheets count them."""
_STRAY: Final = 0.1
"""Share of requests with times of another kind from which on they are no mistake."""
_APART_S: Final = 86_400.0


def in_seconds(came: Times, unit: str) -> Times:
    """Times that count from a trace's beginning in such units, in seconds; since 1970 where all can only be such times."""
    if came.min() < SINCE_1970 or SINCE_2100 < came.max() < EPOCHS[-1][0]:
        return came * (1e-3 if unit == "milliseconds" else 1.0)
    units = np.select([came > above for above, _ in EPOCHS], [in_s for _, in_s in EPOCHS], 1.0)
    return np.asarray(came * units, np.float64)


def dated(came: Times) -> npt.NDArray[np.bool_]:
    """Which times can be since 1970, of the years 2001 to 2099."""
    return (came >= SINCE_1970) & (came <= SINCE_2100)


def are_strays(others: int, requests: int) -> bool:
    """Whether so few of the times are of another kind that they are mistakes, as a zero in place of a time is."""
    return 0 < others < requests - others and (others == 1 or others <= _STRAY * requests)


def spread(came: Times) -> tuple[Times, str]:
    """Times that are rounded so much that many requests share one, as whole seconds, each somewhere within what it was
    rounded to; and what to know of it. Bunches that a clock made would wait for each other as no service sees it."""
    moments, sharing = np.unique(came, return_counts=True)
    if len(came) < FEW or 1 - len(moments) / len(came) < _TIED:
        return came, ""
    if len(moments) == 1:
        return came, "all its requests have the same time, and come at once: where it is rounded, give times to the ms"
    since = moments - moments[0]
    if (found := next((grain for grain in _GRAINS_S if _rounded(since, grain)), None)) is None:
        return came, ""
    later, order = np.random.default_rng(0).random(len(came)) * found, np.argsort(came, kind="stable")
    apart = came.copy()
    apart[order] += later[np.lexsort((later, came))]  # in the file's order, for later turns follow earlier ones
    return apart, (
        f"its times are rounded to {written(float(found))} s, and up to {sharing.max():,} requests share one: each is taken "
        "to have come at random within that; times to the ms would tell"
    )


def _rounded(since: Times, grain: float) -> bool:
    """Whether different moments are different multiples of a grain: a burst that is shorter than that is one of them."""
    multiples = np.round(since / grain)
    return bool(np.abs(since - multiples * grain).max() <= _OFF_S and len(np.unique(multiples)) == len(since))


def back_an_hour(came: Times) -> str:
    """What to know of times without a zone, in the file's order, that jump back by an hour once and rise else; of starts
    that were written as requests ended, the middle ones of so many lines do."""
    parts = (len(came) // lines * lines for lines in _SMOOTHED)
    middles = (
        np.median(came[:n].reshape(-1, lines), axis=1) for n, lines in zip(parts, _SMOOTHED, strict=True) if n >= 4 * lines
    )
    if not any(_jumps_back(middle) for middle in middles):
        return ""
    return (
        "its times have no zone, jump back by an hour and go on: where clocks were put back in that night, the hour holds "
        "the requests of two, and its rate is twice what it was; give times with their zone, or leave it out (--window). "
        "Logs of two servers, one behind the other, look alike"
    )


def _jumps_back(came: Times) -> bool:
    steps = np.diff(came)
    jumps = np.flatnonzero((-steps > _AN_HOUR_S[0]) & (-steps < _AN_HOUR_S[1]))
    stay = all(came[i + 1 : i + 2 + _BACK_LINES].max() < came[i] for i in jumps)  # one long request jumps back by itself
    return stay and 1 <= len(jumps) <= 2 and (steps < -60.0).sum() <= len(jumps) and 2 * (steps > 0).sum() >= len(steps)


def far_apart(seconds: Times) -> str:
    """What to know of a few requests that came days before all others, or after them; `seconds` rise from 0."""
    gaps = np.diff(seconds)
    if len(seconds) < FEW or (widest := float(gaps.max())) < max(_APART_S, 0.5 * seconds[-1]):
        return ""
    before = int(gaps.argmax()) + 1
    few = min(before, len(seconds) - before)
    if few > _STRAY * len(seconds):
        return ""
    where, window = (
        ("before", f"{seconds[before]:.0f}..") if few == before else ("after", f"..{seconds[before - 1] + 1:.0f}")
    )
    return (
        f"{few:,} of its requests came {widest / 86_400:,.3g} days {where} all others: where their times are wrong, leave "
        f"them out (--window {window})"
    )


def of_sessions(began: dict[object, float]) -> str:
    """What to know of sessions whose times count from their own beginnings."""
    first = min(began.values(), default=0.0)
    if len(began) < 2 or 2 * sum(own == first for own in began.values()) < len(began):
        return ""
    return (
        f"its {len(began):,} sessions have a clock each, and begin at once, as no service sees it: rates and promises "
        "are of so many users who come together; for another load, add to each session's times when it began"
    )


def unit_note(unit: str, whose: str, came: Times) -> str:
    """What to know where so many requests a second are hardly a service's."""
    if (other := _other_unit(came)) is None:
        return ""
    name, seconds = other
    if name == unit:
        return ""
    return (
        f"its times are taken for {unit}, as {whose} has them: {_rate(came)}; where they are {name}, give --speed {seconds}"
    )


def undated_note(came: Times, field: str, *, with_durations: bool) -> str:
    """What to know of a gateway's times that are no dates: what unit they are taken to have, for no form says it."""
    said = f"its times are no dates, and are taken for seconds since some beginning: {_rate(came)}"
    if field.endswith(("_s", "_ms")):  # as the field says itself
        return ""
    if (other := _other_unit(came)) is None:
        return said
    name, seconds = other
    if name == "seconds":
        return said
    if with_durations and name == "milliseconds":
        return f"{said}; where they are milliseconds, call the field {field}_ms, for a duration was taken from each"
    return f"{said}; where they are {name}, give --speed {seconds}"


def _other_unit(came: Times) -> tuple[str, str] | None:
    """What such times may be instead, and by how much faster they would have to be replayed for it."""
    span_s, (few, many) = float(came.max() - came.min()), _PLAUSIBLE_PER_S
    if len(came) < FEW or span_s == 0 or few <= len(came) / span_s <= many:
        return None
    if len(came) / span_s < few:
        return "milliseconds", "1000"
    days = _SPREADSHEET_DAYS[0] < came.min() and came.max() < _SPREADSHEET_DAYS[1]
    return ("days, as spreadsheets have them", "1.15741e-05") if days else ("seconds", "0.001")


def _rate(came: Times) -> str:
    span_s = float(came.max() - came.min())
    return f"{len(came) / span_s:,.3g} requests a second" if span_s else "all at once"
