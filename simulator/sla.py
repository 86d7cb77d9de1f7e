"""Service levels: what an operator promises, as `tps>=80` to 95 % of requests, or `mean_tps>=80` to users on average."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from simulator.errors import InputError
from simulator.numbers import as_share, written

Measure = Literal["tps", "ttft", "tpot", "e2e"]
MEASURES: tuple[Measure, ...] = ("tps", "ttft", "tpot", "e2e")
"""Tokens per second of one user, (n − 1)/(last − first); seconds to the first token; seconds per token after it; seconds
from arrival to the last token."""
SHARE = 0.95
"""Share of requests to which a promise is made, unless it says otherwise."""
USAGE = "tps>=80, ttft<=500ms or mean_tps>=80"
"""How bounds are written."""
_APART = re.compile(r"[,;&]+|\band\b", re.IGNORECASE)
"""What users write between bounds."""
_SPELLINGS = (
    (re.compile(r"\s+"), ""),
    (re.compile(r"≤|=<|<(?!=)"), "<="),
    (re.compile(r"≥|=>|>(?!=)"), ">="),
    (re.compile(r"^(mean|p\d{1,2}(?:\.\d+)?)_?(?=[a-z])"), r"\1_"),
    (re.compile(r"^([a-z0-9]+?)_?(mean|p\d{1,2}(?:\.\d+)?)(?=[<>])"), r"\2_\1"),
)
"""Other ways to write bounds, in small letters, and how they are written: `p95 ttft<500ms`, `ttft_p95 ≤ 500 ms`."""
_WRITTEN = re.compile(
    r"(?:(?P<mean>mean_)|p(?P<quantile>\d{1,2}(?:\.\d+)?)_)?(?P<measure>[a-z0-9]+)\s*(?P<sign>>=|<=)\s*"
    r"(?P<bound>\d[\d.]*(?:[eE][+-]?\d+)?|\.\d+)\s*(?P<unit>ms|s)?(?:@(?P<share>\d[\d.]*)%)?"
)
_UNITS = {"ms": 1e-3, "s": 1.0, None: 1.0}
_LONGEST_S = {"ttft": 60.0, "tpot": 5.0, "e2e": 600.0}
"""Longer times are hardly promised: written without a unit, they are milliseconds that lack theirs."""


@dataclass(frozen=True, slots=True)
class Sla:
    """A bound that a share of requests keeps, together with every other bound of that share; or that their mean keeps."""

    measure: Measure
    at_least: bool
    """Whether the bound is a lower one: for tps, and for nothing else."""
    bound: float
    """Tokens per second, or seconds."""
    share: float | None = SHARE
    """Share of requests that keep the bound; None bounds the mean over them."""

    def __post_init__(self) -> None:
        if not 0 < self.bound < float("inf"):
            raise ValueError("the bound must be above 0")
        if self.at_least != (self.measure == "tps"):
            raise ValueError("tps is bounded from below (>=), times from above (<=)")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError("a share of requests is more than 0 % and less than 100 %")

    @classmethod
    def parse(cls, text: str) -> Sla:
        """A bound as `str` writes it. Raises InputError."""
        found = _WRITTEN.fullmatch(text.strip())
        if not found or found["measure"] not in MEASURES or (found["measure"] == "tps" and found["unit"]):
            raise InputError(f"SLA {text}: is written {USAGE}; what can be bounded is {', '.join(MEASURES)}")
        at_least = found["sign"] == ">="
        try:
            share = None if found["mean"] else SHARE
            if found["quantile"]:  # p95 of times are kept by 95 % of requests, p5 of speeds as well
                share = float(found["quantile"]) / 100
                share = round(1 - share, 6) if at_least else share
            if found["share"]:
                share = round(float(found["share"]) / 100, 6)
            return cls(found["measure"], at_least, float(found["bound"]) * _UNITS[found["unit"]], share)
        except ValueError as error:
            raise InputError(f"SLA {text}: {error}") from None

    @classmethod
    def asked(cls, text: str, share: float = SHARE) -> Sla:
        """A bound as users write it, promised to `share` of requests where it names none itself.

        Raises InputError; also for what can hardly be meant: bounds that few requests keep, and milliseconds without a unit.
        """
        plainly = _spelled(text)
        found = _WRITTEN.fullmatch(plainly)
        if not found:
            raise InputError(f"SLA {text.strip()}: is written {USAGE}; what can be bounded is {', '.join(MEASURES)}")
        sla = cls.parse(plainly)
        if not found["unit"] and sla.bound > _LONGEST_S.get(sla.measure, math.inf):
            raise InputError(f"SLA {text}: is {sla.bound:g} seconds; write the unit, {found['measure']}<={sla.bound:g}ms")
        if sla.share is not None and sla.share < 0.5:
            plain = f"{sla.measure}{found['sign']}{found['bound']}{found['unit'] or ''}"
            raise InputError(
                f"SLA {text}: only {sla.share:.0%} of requests would keep it; a promise to {share:.0%} of them is {plain}, "
                f"one about their mean is mean_{plain}"
            )
        named = found["mean"] or found["quantile"] or found["share"]
        return sla if named else replace(sla, share=share)

    @property
    def doubt(self) -> str:
        """Why the bound is hardly what was meant, in words; empty of others."""
        if self.bound <= _LONGEST_S.get(self.measure, math.inf):
            return ""
        return (
            f"SLA {self}: is {self.bound:g} seconds, which nearly anything keeps; {self.measure}<={self.bound:g}ms is of "
            "milliseconds"
        )

    def __str__(self) -> str:
        mean = "mean_" if self.share is None else ""
        to = "" if self.share in (None, SHARE) else f"@{100 * self.share:.6g}%"
        return f"{mean}{self.measure}{'>=' if self.at_least else '<='}{self._bound}{to}"

    @property
    def _bound(self) -> str:
        """The bound with its unit, no digit lost."""
        if self.measure == "tps":
            return written(self.bound)
        brief = f"{self.bound * 1e3:g}"
        return f"{brief}ms" if self.bound < 1 and float(brief) * 1e-3 == self.bound else f"{written(self.bound)}s"

    def holds(self, value: float) -> bool:
        """Whether a request's own value, or the mean, keeps the bound."""
        return value >= self.bound if self.at_least else value <= self.bound


def bounds(texts: Sequence[str]) -> list[str]:
    """Bounds as users write them, of texts that hold one or several: `ttft<=500ms and tpot<=40ms`, or with commas."""
    return [part.strip() for text in texts for part in _APART.split(text)]


def _spelled(text: str) -> str:
    """A bound in the one way that `parse` reads, where it can be; other texts are left much as they are."""
    found = text.lower()
    for other, way in _SPELLINGS:
        found = other.sub(way, found)
    return found


@dataclass(frozen=True, slots=True)
class Promise:
    """Bounds that are kept or broken as one: a bound of the mean, or all bounds of one share of requests."""

    slas: tuple[Sla, ...]

    @classmethod
    def parse(cls, name: str) -> Promise:
        """A promise by its name. Raises InputError."""
        return cls(tuple(map(Sla.parse, name.split(_AND))))

    @property
    def name(self) -> str:
        """What figures and tables call it."""
        return _AND.join(map(str, self.slas))

    @property
    def share(self) -> float | None:
        """The share of requests it is made to; None where their mean is bounded."""
        return self.slas[0].share

    def kept(self, value: float) -> bool:
        """Whether a share of requests, or their mean, keeps it; nan does not."""
        return self.slas[0].holds(value) if self.share is None else value >= self.share

    def attained(self, value: float | None, kept: bool | None) -> str:
        """What became of it, for a table: the share that keeps it, or the mean, and whether that is enough: `97 % ✓`,
        `310 ✗`, or `–` where nobody knows."""
        said = "" if kept is None else "✓" if kept else "✗"
        if value is None or math.isnan(value):
            return said or "–"
        if self.share is not None:
            # Never 95 % missed: what is rounded must not seem to keep the promise, nor 100 % that some break.
            shown = f"{math.floor(1000 * value) / 10:g} %"
        else:
            shown = f"{value:.3g}" if self.slas[0].measure == "tps" else f"{1e3 * value:.3g} ms"
        return f"{shown} {said}".strip()


_AND = " and "
"""Between the bounds of a promise's name."""


def promises(slas: Sequence[Sla]) -> list[Promise]:
    """What is promised: bounds of means one by one, then those of one share of requests together."""
    shares = dict.fromkeys(sla.share for sla in slas if sla.share is not None)
    means = [Promise((sla,)) for sla in slas if sla.share is None]
    return [*means, *(Promise(tuple(dict.fromkeys(sla for sla in slas if sla.share == share))) for share in shares)]


def canonical(name: str) -> str:
    """Bounds as they are written today, for names that older databases keep; other names stay as they are."""
    try:
        return Promise.parse(name).name
    except InputError:
        return name


def share_of(text: str) -> float:
    """A share of requests as users write it, 99% or 0.99. Raises InputError."""
    try:
        found = as_share(text)
    except ValueError:
        found = float("nan")
    if not 0.5 <= found < 1:
        raise InputError(f"--share {text}: is written 99% or 0.99, from 50 % to less than 100 %")
    return round(found, 6)
