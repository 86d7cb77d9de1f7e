"""CUDA graphs: which sizes of a pass an engine captures, and a profile whose engine captures others."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from simulator.errors import InputError
from simulator.hardware.profile import Profile

CAPTURED: Final = 512
"""Tokens of the largest pass that vLLM captures unless told (0.32, `max_cudagraph_capture_size`)."""
MOST_CAPTURED: Final = 1_000_000
"""Tokens of a pass; no engine captures so many."""


def captured_sizes(largest: int) -> tuple[int, ...]:
    """Sizes that vLLM captures, up to the largest: 1, 2, 4, then every eighth, from 256 on every sixteenth."""
    sizes = (1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16))
    return tuple(sorted({size for size in sizes if size <= largest} | {largest}))


def capturing(profile: Profile, largest: int) -> Profile:
    """A profile whose engine captures sizes up to `largest`.

    Sizes that it has are kept as far as they go. Beyond what it knows of passes that are captured they go on straight, as
    curves do. Raises InputError for a number that makes no sense, and for a profile that does not know what a pass outside
    of captured sizes takes.
    """
    if not 1 <= largest <= MOST_CAPTURED:
        raise InputError(f"--captured {largest}: must be from 1 to {MOST_CAPTURED:,}")
    if largest == profile.captured:
        return profile
    if not profile.captured_tokens:
        raise InputError(
            f"--captured {largest}: hardware {profile.name} does not say what a pass takes that is not captured; "
            "leave it out"
        )
    kept = tuple(size for size in profile.captured_tokens if size <= largest)
    more = tuple(size for size in captured_sizes(largest) if size > profile.captured)
    return replace(profile, captured_tokens=(*kept, *more) if more else tuple(sorted({*kept, largest})))
