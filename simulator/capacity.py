"""How much of a load a machine holds within its promises, and what that comes to in machines and money."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from statistics import NormalDist

from simulator.load import Load, RecordedArrivals, SeveralLoads, Users
from simulator.numbers import counted, written
from simulator.sla import SHARE as SLA_SHARE
from simulator.sla import Sla

MOST = 64.0
"""Times a load that are tried; the least is one part in as many."""
WITHIN = 0.05
"""To how much the largest is found."""
MOST_TRIED = 12
"""Loads that are tried for that, at most."""
SHARE, SHORTEST_S = 0.2, 60.0
"""Simulated time of each load tried: a share of the whole, and the least seconds of it where the whole is longer."""
SEEDS = 2
"""Simulations of each load that is tried, all of which must keep the promises."""
BREAKERS = 5
"""Requests that may break a promise while it is kept: with fewer of them, chance decides whether it is."""
FEWEST = 20
"""Finished requests without which nothing is recommended, where nothing is promised."""


def headroom(load: Load, holds: Callable[[Load], bool], *, at_one: bool | None = None) -> float:
    """How many times a load still holds, to 5 %, between 1/64 and 64; 64 stands for as many or more, 0 for less than 1/64.

    What holds is taken to hold at every smaller load. `at_one` is known of the load itself. Users are counted whole, so what
    is returned is a number of users over those of the load.
    """
    [found] = headrooms(load, lambda asked: [holds(one) for _, one in asked], 1, at_one=at_one)
    return found


def headrooms(
    load: Load, hold: Callable[[Sequence[tuple[int, Load]]], Sequence[bool]], count: int, *, at_one: bool | None = None
) -> list[float]:
    """`headroom` of each of `count` machines. `hold` is asked about several at a time, as (number of the machine, load)."""
    searches = [_search(load, at_one) for _ in range(count)]
    found = [0.0] * count
    asked: list[tuple[int, Load]] = []

    def go_on(number: int, answer: bool | None) -> None:
        try:
            asked.append((number, searches[number].send(answer)))
        except StopIteration as end:
            found[number] = end.value

    for number in range(count):
        go_on(number, None)
    while asked:
        answers, numbers = hold(asked), [number for number, _ in asked]
        asked = []
        for number, answer in zip(numbers, answers, strict=True):
            go_on(number, answer)
    return found


def _search(load: Load, at_one: bool | None) -> Generator[Load, bool | None, float]:
    """Yields loads, is sent whether each is held, and returns how many times `load` is."""
    known: dict[str, bool] = {} if at_one is None else {str(load): at_one}

    def held(factor: float) -> Generator[Load, bool | None, bool]:
        times = load.times(factor)
        if str(times) not in known:
            known[str(times)] = bool((yield times))
        return known[str(times)]

    low = high = 1.0
    if (yield from held(1.0)):
        while (yield from held(high := min(2 * low, MOST))):
            low = high
            if low == MOST:
                return MOST
    else:
        while not (yield from held(low := high / 2)):
            high = low
            if low <= 1 / MOST or load.times(low) == load.times(low / 2):  # less than one user is none
                return 0.0
    while high / low > 1 + WITHIN and load.times(low) != load.times(high):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if (yield from held(middle)) else (low, middle)
    return factor_of(load.times(low), load, low)


def factor_of(times: Load, load: Load, factor: float) -> float:
    """How many times `load` a load is that was made of it as `factor` times as much: users are whole."""
    return times.users / load.users if isinstance(times, Users) and isinstance(load, Users) else factor


def crowded(load: Load, request_cap: int, replicas: int) -> bool:
    """Whether users who do not pause are more than can run at once, so that some always wait."""
    return any(
        isinstance(part, Users) and not part.think_s and part.users > request_cap * replicas for part, _ in load.parts
    )


def needed(slas: Sequence[Sla]) -> int:
    """Finished requests that can tell whether promises are kept: 100 of one to 95 % of them, or of a mean; 20 of none."""
    broken = min((1 - (SLA_SHARE if sla.share is None else sla.share) for sla in slas), default=math.inf)
    return max(FEWEST, math.ceil(BREAKERS / broken - 1e-9))


def enough(finished: float, slas: Sequence[Sla]) -> bool:
    """Whether so many finished requests can tell whether promises are kept; see `needed`."""
    return finished >= needed(slas)


def too_few(finished: int, slas: Sequence[Sla], load: Load, seconds: float) -> str:
    """That so many requests of a load, finished in so many simulated seconds, tell nothing, and what would."""
    wanted = needed(slas)
    few = f"only {counted(finished, 'request')}" if finished else "no request"
    said = f"{few} finished, and it takes {wanted} to tell"
    if load.users is not None and load.ends:
        return f"{said}: give --requests {wanted} or more"
    if isinstance(load, RecordedArrivals):
        return f"{said}: give a log of {wanted} requests or more"
    if not finished:
        return f"{said}: give more --seconds than {written(seconds)}"
    least = 1.2 * seconds * wanted / finished  # chance, and what is dropped at the start, ask for a little more
    unit = 10.0 ** (math.floor(math.log10(least)) - 1)
    return f"{said}: give --seconds {written(math.ceil(least / unit) * unit)} or more"


def share_low(kept: float, count: float) -> float:
    """The lower end of the 95 % interval of a share of so many requests (Wilson 1927): 82 % where all of 17 kept it."""
    z = NormalDist().inv_cdf(0.975)
    z2 = z**2
    spread = z * math.sqrt(kept * (1 - kept) / count + z2 / (4 * count**2))
    return max(0.0, (kept + z2 / (2 * count) - spread) / (1 + z2 / count))


def shorter(seconds: float) -> float:
    """Simulated time of each load that is tried: none needs to be known as well as the one that was asked for."""
    return max(SHARE * seconds, min(seconds, SHORTEST_S))


def gpus_for(users: int, load: Users, times: float, *, replicas: int, gpus: int) -> int | None:
    """GPUs that serve so many users, where `replicas` of `gpus` each hold `times` the load; None where they hold nobody."""
    each = round(load.users * times) / replicas
    return math.ceil(users / each) * gpus if each else None


def gpus_told(users: int, load: Users, times: float, low: float, high: float, *, replicas: int, gpus: int) -> str:
    """The GPUs that so many users need, as a sentence.

    `replicas` of `gpus` each hold so many times the load, at the ends of the 95 % interval `low` and `high` times.
    """
    fewest, value, most = (gpus_for(users, load, held, replicas=replicas, gpus=gpus) for held in (high, times, low))
    if value is None:
        return "a replica holds not one user"
    on_each = float(f"{round(load.users * times) / replicas:.4g}")
    least = value if fewest is None else fewest
    who = f"{counted(users, 'user')} need{'s' * (users == 1)}"
    room = f"up to {counted(on_each, 'user')} on a replica"
    if times >= MOST:
        more = f"{counted(on_each, 'user')} on a replica or more; simulate more users to know"
        return f"{who} at most {counted(value, 'GPU')}: {more}"
    if most is None:
        worst = "at the worst of the draws a replica holds not one user"
        return f"{who} {counted(value, 'GPU')} (95 %: {counted(least, 'GPU')} or more; {worst}): {room}"
    return f"{who} {counted(value, 'GPU')} (95 %: {least:,} to {most:,}): {room}"


def falls_short(
    who: str, shares: Sequence[str], times: float | None, replicas: int, ends: tuple[float, float] | None = None
) -> str:
    """What comes closest to a promise that nothing keeps.

    Args:
        who: the configuration.
        shares: what becomes of each promise, as `sla.attained` writes it.
        times: how many times the load it holds within them; None or nan where nobody knows.
        replicas: under that load.
        ends: of the 95 % interval of `times`; None where nobody drew it.
    """
    said = f"closest is {who} ({', '.join(shares)})"
    if times is None or math.isnan(times) or times >= 1:
        return said
    one = "one replica holds" if replicas == 1 else f"{replicas} replicas hold"
    held = "" if ends is None else f" (95 %: {times_of(ends[0])} to {times_of(ends[1])})"
    wanted, most = (math.ceil(replicas / t - 1e-9) if t else None for t in (times, ends[0] if ends else times))
    more = "no number of --replicas helps" if wanted is None else f"try --replicas {wanted}"
    if wanted is None and ends is not None and ends[1]:
        more += " where this is right, and in some of the draws it does"
    elif wanted is not None and most is None:
        more += "; in some of the draws no number helps"
    elif wanted is not None and most != wanted:
        more += f", {most} to be surer"
    return f"{said}; {one} {times_of(times)}{held} this load within the promise: {more}"


def dollars_per_million(throughput: float, gpu_hour: float) -> float:
    """Dollars for a million output tokens at tokens per second and GPU, and dollars per GPU-hour."""
    return 1e6 * gpu_hour / 3600 / throughput if throughput else math.inf


def times_of(times: float | None) -> str:
    """How many times a load is held, for people."""
    if times is None or math.isnan(times):
        return "–"
    if times >= MOST:
        return f"{MOST:g} × or more"
    if not times:
        return f"below 1/{MOST:g} ×"
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
    if weighted := [load for load in loads if isinstance(load, SeveralLoads)]:
        most = max((part.users or 0 for part, _ in weighted[0].parts), default=0)
        raise ValueError(
            f"--users {users}: GPUs are counted at one load, not over several with weights; ask at the one they are to hold"
            + (f", --concurrency {most}" if most else "")
        )
    if not any(isinstance(load, Users) for load in loads):
        raise ValueError(
            f"--users {users}: name how many users to begin with on one machine, since users are of a closed loop"
        )
