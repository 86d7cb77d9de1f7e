"""Numbers as people write them."""

from __future__ import annotations


def written(number: float) -> str:
    """A number as briefly as people write it, no digit lost."""
    return brief if float(brief := f"{number:g}") == number else repr(float(number))


def as_share(text: str) -> float:
    """A share as people write it, 2% or 0.02. Raises ValueError for what is no number."""
    number = text.strip()
    return round(float(number.removesuffix("%")) / 100, 9) if number.endswith("%") else float(number)
