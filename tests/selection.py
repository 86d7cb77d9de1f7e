"""Which cases of a long list a fast run has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """All cases, those that are not `fast` marked as slow."""
    found = list(cases)
    assert all(case in found for case in fast), "a fast case that is none"
    return [
        case if case in fast else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in found
    ]
