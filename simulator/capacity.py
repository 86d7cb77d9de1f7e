"""How much of a load a machine holds within its promises, and what that comes to in machines and money."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from simulator.load import Load, Users
from simulator.metrics import Outcome
from simulator.simulation import Prepared, Setup, simulate
from simulator.sla import SHARE as SLA_SHARE
from simulator.sla import Sla

MOST = 64.0
"""Times a load that are tried; the least is one part in as many."""
WITHIN = 0.05
"""To how much the largest is found."""
SHARE, SHORTEST_S = 0.2, 60.0
"""Simulated time of each load tried: a share of the whole, and the least seconds of it where the whole is longer."""
SEEDS = 2
"""Simulations of each load that is tried, all of which must keep the promises."""
BREAKERS = 5
"""Requests that may break a promise while it is kept: with fewer of them, chance decides whether it is."""


def headroom(load: Load, holds: Callable[[Load], bool], *, at_one: bool | None = None) -> float:
    """How many times a load still holds, to 5 %, between 1/64 and 64; 64 stands for as many or more, 0 for less than 1/64.

    What holds is taken to hold at every smaller load. `at_one` is known of the load itself. Users are counted whole, so what
    is returned is a number of users over those of the load.
    """
    known: dict[str, bool] = {} if at_one is None else {str(load): at_one}

    def held(factor: float) -> bool:
        times = load.times(factor)
        if str(times) not in known:
            known[str(times)] = holds(times)
        return known[str(times)]

    low = high = 1.0
    if held(1.0):
        while held(high := min(2 * low, MOST)):
            low = high
            if low == MOST:
                return MOST
    else:
        while not held(low := high / 2):
            high = low
            if low <= 1 / MOST or load.times(low) == load.times(low / 2):  # less than one user is none
                return 0.0
    while high / low > 1 + WITHIN and load.times(low) != load.times(high):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if held(middle) else (low, middle)
    times = load.times(low)
    return times.users / load.users if isinstance(times, Users) and isinstance(load, Users) else low


def crowded(load: Load, request_cap: int, replicas: int) -> bool:
    """Whether users who do not pause are more than can run at once, so that some always wait."""
    return any(
        isinstance(part, Users) and not part.think_s and part.users > request_cap * replicas for part, _ in load.parts
    )


def headroom_of(setup: Setup, recorded: Prepared, outcome: Outcome) -> float:
    """How many times its load a setup holds, given what came of it, in shorter simulations: with its seed and with the next,
    for near the end of what is held it is chance whether one of them keeps a promise.

    nan where too few requests finished to tell.
    """
    if not enough(outcome.finished, setup.slas):
        return math.nan
    engine, seconds = setup.engine, shorter(setup.seconds)

    def fits(load: Load) -> bool:
        return not crowded(load, engine.request_cap, engine.replicas)

    def holds(load: Load) -> bool:
        setups = (replace(setup, load=load, seconds=seconds, seed=setup.seed + n) for n in range(SEEDS))
        return fits(load) and all(simulate(one, recorded).kept for one in setups)

    return headroom(setup.load, holds, at_one=fits(setup.load) and outcome.kept)


def enough(finished: float, slas: Sequence[Sla]) -> bool:
    """Whether so many requests can tell whether a promise is kept: 100 of one to 95 % of them, or of a mean."""
    return finished * min(1 - (SLA_SHARE if sla.share is None else sla.share) for sla in slas) >= BREAKERS - 1e-9


def shorter(seconds: float) -> float:
    """Simulated time of each load that is tried: none needs to be known as well as the one that was asked for."""
    return max(SHARE * seconds, min(seconds, SHORTEST_S))


def gpus_for(users: int, load: Users, times: float, *, replicas: int, gpus: int) -> int | None:
    """GPUs that serve so many users, where `replicas` of `gpus` each hold `times` the load; None where they hold nobody."""
    each = round(load.users * times) / replicas
    return math.ceil(users / each) * gpus if each else None


def dollars_per_million(throughput: float, gpu_hour: float) -> float:
    """Dollars for a million output tokens at tokens per second and GPU, and dollars per GPU-hour."""
    return 1e6 * gpu_hour / 3600 / throughput if throughput else math.inf


def held(times: float | None) -> str:
    """How many times a load is held, for people."""
    if times is None or math.isnan(times):
        return "–"
    if times >= MOST:
        return f"{MOST:g} × or more"
    if not times:
        return f"not 1/{MOST:g}"
    digits = 1 - math.floor(math.log10(times))  # two that count, never rounded up
    return f"{math.floor(times * 10**digits + 1e-9) / 10**digits:g} ×"


def check_costs(loads: Sequence[Load], slas: Sequence[Sla], *, users: int | None, gpu_hour: float | None) -> None:
    """Raises ValueError where machines or money are asked for and there is nothing to count them by."""
    if gpu_hour is not None and not 0 < gpu_hour < math.inf:
        raise ValueError(f"--gpu-hour {gpu_hour:g}: must be above 0")
    if users is None:
        return
    if users < 1 or not slas:
        raise ValueError(f"--users {users}: the GPUs of one user or more are counted within a promise; give one with --sla")
    if not any(isinstance(load, Users) for load in loads):
        raise ValueError(
            f"--users {users}: name how many users to begin with on one machine, since users are of a closed loop"
        )
