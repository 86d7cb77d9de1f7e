"""What of a simulation this machine's memory holds: told without a compiler, so before one is imported."""

from __future__ import annotations

import os

from simulator.errors import InputError

MACHINE_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
"""This machine's memory."""
MOST_BYTES = MACHINE_BYTES // 4
"""The share of this machine's memory that the requests of one simulation may take: others run beside it."""
JOB_BYTES = 176
"""What a request in the system takes."""


def jobs_of(users: int) -> int:
    """Requests that a simulation begins with room for; of no users, in an open loop, it is made larger as they come."""
    return max(2 * users, 64)


def check_memory(jobs: int, what: str) -> None:
    """Raise InputError where so many requests at once are more than this machine holds."""
    if (needed := jobs * JOB_BYTES) > MOST_BYTES:
        raise InputError(
            f"{what} would take {needed / 1e9:,.0f} GB of memory, and a simulation has {MOST_BYTES / 1e9:,.0f} GB here; "
            "simulate a smaller load"
        )
