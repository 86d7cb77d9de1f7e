"""Service levels: bounds an operator promises, as `tps>=80` or `p95_ttft<=0.5`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from simulator.errors import InputError

Measure = Literal["tps", "ttft", "tpot", "e2e"]
MEASURES: tuple[Measure, ...] = ("tps", "ttft", "tpot", "e2e")
"""Tokens per second of one user, (n − 1)/(last − first); seconds to the first token; seconds per token after it; seconds
from arrival to the last token."""
_WRITTEN = re.compile(
    r"(?:p(?P<quantile>\d{1,2}(?:\.\d+)?)_)?(?P<measure>[a-z0-9]+)\s*(?P<sign>>=|<=)\s*(?P<bound>[\d.eE+-]+)"
)


@dataclass(frozen=True, slots=True)
class Sla:
    """A bound on the mean over users, or on a quantile of them."""

    measure: Measure
    at_least: bool
    """Whether the bound is a lower one: for tps, and for nothing else."""
    bound: float
    quantile: float | None = None
    """In percent; None bounds the mean."""

    def __post_init__(self) -> None:
        if not self.bound > 0:
            raise ValueError("the bound must be above 0")
        if self.at_least != (self.measure == "tps"):
            raise ValueError("tps is bounded from below (>=), times from above (<=)")

    @classmethod
    def parse(cls, text: str) -> Sla:
        """A bound as users write it. Raises InputError."""
        found = _WRITTEN.fullmatch(text.strip())
        if not found or found["measure"] not in MEASURES:
            raise InputError(
                f"SLA {text}: is written tps>=80 or p95_ttft<=0.5; what can be bounded is {', '.join(MEASURES)}"
            )
        try:
            quantile = None if found["quantile"] is None else float(found["quantile"])
            return cls(found["measure"], found["sign"] == ">=", float(found["bound"]), quantile)
        except ValueError as error:
            raise InputError(f"SLA {text}: {error}") from None

    def __str__(self) -> str:
        quantile = "" if self.quantile is None else f"p{self.quantile:g}_"
        return f"{quantile}{self.measure}{'>=' if self.at_least else '<='}{self.bound:g}"

    def holds(self, value: float) -> bool:
        """Whether a value keeps the bound."""
        return value >= self.bound if self.at_least else value <= self.bound
