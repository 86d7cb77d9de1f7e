"""Numbers as people write them."""

from __future__ import annotations


def written(number: float) -> str:
    """A number as briefly as people write it, no digit lost."""
    return brief if float(brief := f"{number:g}") == number else repr(float(number))
