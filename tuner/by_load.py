"""One table of k by batch size from a study over several loads: what one server can run at all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulator.configuration import Configuration
from simulator.drafter_kinds import KINDS
from simulator.load import Load
from simulator.numbers import counted
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import Recording
from simulator.serving.engine import ServingEngine
from tuner.trial import Trial

_BAR = 32
"""Characters of the longest bar."""
OF_THE_TABLE = (
    "`tuner show STUDY` has, by load, what is best there alone, from other draws of the prompts and with the profile's "
    "errors in its interval: other numbers than the table's, though it be the same configuration"
)
"""Why the gains of a table are not those that stand beside each load."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is best at a number of users."""

    users: int
    running: int
    """Requests on a replica then: what a server counts."""
    k: int
    """Tokens to draft; 0 for none."""
    value: float
    """What it gives of the figure that was made large."""
    gain: float
    """Over no speculation at that load, as a share; of the search's own prompts."""


@dataclass(frozen=True, slots=True)
class ByLoad:
    """A drafter, and how much of its draft is worth it at each load that was searched."""

    recording: Recording
    """Its drafter and block."""
    rows: tuple[Row, ...]
    """Rising."""

    @property
    def policy(self) -> PolicySpec:
        """The same as a policy; rows of the same k are one, and of loads that put as many on a replica the larger counts."""
        return PolicySpec.table(list({row.running: row.k for row in self.rows}.items()))

    @property
    def configuration(self) -> Configuration:
        """The same as one server runs it, under a request cap that lets the users of every load run."""
        return Configuration(self.recording, self.policy, max(row.running for row in self.rows))

    def bars(self, confirmed: Mapping[int, tuple[float, float]]) -> list[str]:
        """A line a load: users, k, the gain over no speculation, and a bar of it.

        `confirmed` has, by users, the gain on prompts that the search has not seen and half of its 95 % interval's width;
        without, it is the search's own.
        """
        return bars(
            {f"{counted(row.users, 'user')}  k={row.k}": confirmed.get(row.users, (row.gain, math.nan)) for row in self.rows}
        )


def no_row(load: Load) -> str:
    """That a table has nothing for a load, and why."""
    return f"no row for {load.label}: nothing that a table may hold keeps the promise there"


def bars(gains: Mapping[str, tuple[float, float]]) -> list[str]:
    """A line a name: its gain, half of the interval's width where that is a number, and a bar beside those of the others."""
    most, longest = max((gain for gain, _ in gains.values()), default=0.0), max(map(len, gains), default=0)
    lines = []
    for name, (gain, half) in gains.items():
        bar = "█" * round(_BAR * gain / most) if most > 0 and gain > 0 else ""
        width = "" if math.isnan(half) else f" ± {half:5.1%}"
        lines.append(f"{name:>{longest}}  {gain:+7.1%}{width}  {bar}".rstrip())
    return lines


def whole_blocks(engine: ServingEngine, kinds: Mapping[str, str]) -> dict[str, bool]:
    """Whether an engine drafts a block whole or not at all, by names of the drafters that it runs; `kinds` are theirs."""
    return {name: not KINDS[kind].prefix for name, kind in kinds.items() if kind in engine.kinds}


def by_load(trials: Mapping[int, Sequence[Trial]], whole: Mapping[str, bool], replicas: int = 1) -> ByLoad | None:
    """The drafter and block with the largest gains over all loads, the k of each load the best that keeps the promise.

    Args:
        trials: of each number of users.
        whole: as `whole_blocks` says.
        replicas: that share the users evenly.

    One server has one request cap: at each load only trials count whose cap let all users run. A load at which nothing keeps
    the promise has no row. None where no drafter has a k within the promise at every other load, or none drafts at any.
    """
    found: list[ByLoad] = []
    for key in dict.fromkeys(t.configuration.recording.showing("none") for some in trials.values() for t in some):
        if key.drafter not in whole:
            continue
        rows = [_row(users, -(-users // replicas), key, some, whole[key.drafter]) for users, some in sorted(trials.items())]
        found.append(ByLoad(key, tuple(row for row in rows if row is not None)))
    most = max((len(one.rows) for one in found), default=0)
    able = [one for one in found if len(one.rows) == most and any(row.k for row in one.rows)]
    return max(able, key=lambda one: sum(math.log1p(row.gain) for row in one.rows), default=None)


def _row(users: int, running: int, key: Recording, trials: Sequence[Trial], whole: bool) -> Row | None:
    values: dict[int, float] = {}
    able = [t for t in trials if t.rungs and t.configuration.request_cap >= running]
    plain = [t.last.values[0] for t in able if t.configuration.policy == NO_DRAFTER]
    for t in able:
        c, k = t.configuration, t.configuration.policy.k
        own = c.recording.showing("none") == key and k is not None and (not whole or k == key.gamma)
        if t.last.feasible and (own or c.policy == NO_DRAFTER):
            drafted = 0 if c.policy == NO_DRAFTER else int(k or 0)
            values[drafted] = max(values.get(drafted, 0.0), t.last.values[0])
    if not values or not plain:
        return None
    best = max(values, key=lambda k: values[k])
    return Row(users, running, best, values[best], values[best] / max(plain) - 1)
