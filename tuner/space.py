"""What can be chosen: configurations of what was recorded, as one small program that asks for a choice at a time.

The same program is walked by Optuna's samplers, by quasi-random points and exhaustively, so all see the same finite space.
A choice that depends on another is asked only where it matters, under a name that says in which branch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from simulator.configuration import Configuration
from simulator.errors import InputError
from simulator.policies import PolicyKind, PolicySpec
from simulator.records import NO_RECORDING, Confidences, Recording

T = TypeVar("T")

POLICIES = (
    "fixed", "cutoff", "k_by_batch", "batch_adaptive", "threshold", "prefix_scheduler", "lagged_scheduler", "vllm_adaptive",
)  # fmt: skip
"""Names of the policies that are tried; all lossless. `none` is always tried."""
SEARCHED = tuple(map(PolicyKind, POLICIES))
"""The same as kinds."""
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
WEIGHTS = (0.02, 0.05, 0.1, 0.3)
LAGS = (1, 2, 3, 4)
EMAS = (0.0, 0.5, 0.8)


class Chooser(Protocol):
    """Somebody who chooses."""

    def category(self, name: str, choices: Sequence[str]) -> str:
        """One of several that have no order."""

    def level(self, name: str, levels: Sequence[T]) -> T:
        """One of several that have."""


@dataclass(frozen=True, slots=True)
class OfferedRecording:
    """A recording that can be chosen."""

    recording: Recording
    """Its key, showing no confidences."""
    confidences: tuple[Confidences, ...]
    """What its policies may read; empty without any."""
    whole: bool = False
    """Whether an engine verifies all of a draft or none: it would draft a shorter block otherwise than was recorded."""

    def __str__(self) -> str:
        return self.recording.short


@dataclass(frozen=True, slots=True)
class Leaf:
    """One configuration, and the choices that lead to it."""

    configuration: Configuration
    choices: dict[str, str | int]
    """By name: a category, or the index of a level."""
    domains: dict[str, tuple[str, ...] | int]
    """The domain of each choice, by name: the categories, or how many levels there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Every configuration that a study may try."""

    recorded: tuple[OfferedRecording, ...]
    request_caps: tuple[int, ...]
    """Rising."""
    binding: int
    """No more requests than this ever run: the users of a closed loop, or the largest cap."""
    tables: Mapping[Recording, PolicySpec] = field(default_factory=dict)
    """By recording, showing no confidences, the k-by-batch policy worked out for it; see `tuner.k_by_batch`."""
    policies: tuple[PolicyKind, ...] = SEARCHED

    def __post_init__(self) -> None:
        if unknown := sorted(kind.name for kind in self.policies if kind.own is None and kind.name not in POLICIES):
            those = f"{', '.join(POLICIES)}, and FILE.py:CLASS of your own"
            raise InputError(f"--policy {', '.join(unknown)}: cannot be searched; those that can are {those}")
        if bounds := [kind for kind in self.policies if not kind.says.lossless]:
            raise InputError(f"--policy {bounds[0]}: is a bound, as it says of itself: nothing could run what was found")
        if not self.request_caps or min(self.request_caps) < 1 or list(self.request_caps) != sorted(set(self.request_caps)):
            raise ValueError("request caps must rise from 1 or more")

    def configuration(self, choose: Chooser) -> Configuration:
        """Ask for one choice after the other."""
        by_name = {str(r): r for r in self.recorded if self.policies_of(r)}
        who = choose.category("drafter", [NO_RECORDING.drafter, *by_name])
        cap = choose.level("request cap", self.request_caps)
        if who == NO_RECORDING.drafter:
            return Configuration.plain(cap)
        chosen = by_name[who]
        running = min(cap, self.binding)
        kinds = [kind for kind in self.policies_of(chosen) if self._is_itself(kind, chosen, running)]
        branch = ", ".join(chosen.confidences) or "no confidences"
        gone = "".join(f", no {kind}" for kind in self.policies_of(chosen) if kind not in kinds)
        by_kind = {kind.name: kind for kind in kinds}
        kind = by_kind[choose.category(f"policy ({branch}{gone})", list(by_kind))]
        read: Confidences = "none"
        if kind.says.wants_raw_confidences:
            read = "raw"
        elif kind.says.reads_confidences:
            read = choose.category(f"confidences ({branch})", chosen.confidences)  # type: ignore[assignment]
        return Configuration(chosen.recording.showing(read), self._policy(kind, chosen, choose, running), cap)

    def policies_of(self, recorded: OfferedRecording) -> list[PolicyKind]:
        """Kinds of policies that a recording allows."""
        return [
            kind
            for kind in self.policies
            if (not kind.says.reads_confidences or recorded.confidences)
            and (not kind.says.wants_raw_confidences or "raw" in recorded.confidences)
            and (kind.name != "k_by_batch" or recorded.recording in self.tables)
        ]

    def _is_itself(self, kind: PolicyKind, chosen: OfferedRecording, running: int) -> bool:
        """Whether a kind of policy is no fixed block, or none, under another name while so many requests run at most."""
        if PolicyKind("fixed") not in self.policies:
            return True
        if kind.name == "cutoff":
            return running > 1
        return kind.name != "k_by_batch" or self.tables[chosen.recording].within(running, chosen.recording.gamma).k is None

    def _policy(self, kind: PolicyKind, chosen: OfferedRecording, choose: Chooser, running: int) -> PolicySpec:
        name, gamma = kind.name, chosen.recording.gamma
        if kind.own is not None:
            levels = () if kind.own.parameter or kind.own.own is None else kind.own.own.searched
            return PolicySpec(name, choose.level(f"parameter of {name}", levels)) if levels else kind.own
        if name == "fixed" and chosen.whole:
            return PolicySpec.fixed(gamma)
        if name == "fixed":
            return PolicySpec.fixed(choose.level(f"k of {gamma}", range(1, gamma + 1)))
        if name == "cutoff":
            return PolicySpec(name, str(choose.level(f"cutoff below {running}", _powers(1, running - 1) or (1,))))
        if name == "k_by_batch":
            return self.tables[chosen.recording]
        if name == "batch_adaptive":
            return PolicySpec(name, f"{choose.level('weight', WEIGHTS):g}")
        if name == "threshold":
            return PolicySpec(name, f"{choose.level('threshold', THRESHOLDS):g}")
        if name == "lagged_scheduler":
            lag, ema = choose.level("lag", LAGS), choose.level("moving average", EMAS)
            return PolicySpec(name, f"{lag}" + (f"/{ema:g}" if ema else ""))
        return PolicySpec(name)

    def nearest(self, configuration: Configuration) -> Configuration:
        """The same with the closest request cap there is here."""
        cap = min(self.request_caps, key=lambda c: abs(c - configuration.request_cap))
        return replace(configuration, request_cap=cap)

    def leaves(self) -> Iterator[Leaf]:
        """Every configuration once."""
        todo: list[list[int]] = [[]]
        while todo:
            path = todo.pop()
            walk = _Path(path)
            configuration = self.configuration(walk)
            yield Leaf(configuration, walk.choices, walk.domains)
            for depth in range(len(walk.taken) - 1, len(path) - 1, -1):
                todo += [[*walk.taken[:depth], other] for other in range(walk.sizes[depth] - 1, 0, -1)]


def request_caps(binding: int, largest: int) -> tuple[int, ...]:
    """Caps worth trying: the largest allowed, powers of two that bind, down to an eighth of what could run, and five to
    seven eighths of it: where a promise breaks close to what could run, half of it would give up too much."""
    near = {most for eighths in (5, 6, 7) if 0 < (most := binding * eighths // 8) < binding}
    return (*sorted({*_powers(max(1, -(-binding // 8)), binding - 1), *near}), largest)


def _powers(low: int, high: int) -> tuple[int, ...]:
    return tuple(2**i for i in range(31) if low <= 2**i <= high)


class _Walk(ABC):
    """Keeps what was chosen; single choices are none."""

    def __init__(self) -> None:
        self.choices: dict[str, str | int] = {}
        self.domains: dict[str, tuple[str, ...] | int] = {}
        self.taken: list[int] = []
        self.sizes: list[int] = []

    @abstractmethod
    def _index(self, name: str, size: int) -> int:
        """Which of `size` is chosen."""

    def _chosen(self, name: str, size: int) -> int:
        index = self._index(name, size)
        self.taken.append(index)
        self.sizes.append(size)
        return index

    def category(self, name: str, choices: Sequence[str]) -> str:
        if len(choices) == 1:
            return choices[0]
        self.domains[name] = tuple(choices)
        self.choices[name] = choice = choices[self._chosen(name, len(choices))]
        return choice

    def level(self, name: str, levels: Sequence[T]) -> T:
        if len(levels) == 1:
            return levels[0]
        self.domains[name] = len(levels)
        self.choices[name] = index = self._chosen(name, len(levels))
        return levels[index]


class _Path(_Walk):
    """Follows a path, then always takes the first choice."""

    def __init__(self, path: Sequence[int]) -> None:
        super().__init__()
        self._path = path

    def _index(self, name: str, size: int) -> int:
        return self._path[len(self.taken)] if len(self.taken) < len(self._path) else 0


class PointChooser(_Walk):
    """Chooses by the coordinates of a point, all in [0, 1): one a choice, in the order they are asked."""

    def __init__(self, coordinates: Sequence[float]) -> None:
        super().__init__()
        self._coordinates = coordinates

    def _index(self, name: str, size: int) -> int:
        return int(self._coordinates[len(self.taken)] * size)


COORDINATES = 6
"""Choices on the longest way to a configuration."""


class SuggestedChooser(_Walk):
    """Chooses as an Optuna trial suggests."""

    def __init__(self, trial: Any) -> None:
        super().__init__()
        self._trial = trial

    def _index(self, name: str, size: int) -> int:
        domain = self.domains[name]
        if isinstance(domain, int):
            return int(self._trial.suggest_int(name, 0, size - 1))
        return domain.index(self._trial.suggest_categorical(name, domain))


def leaf(space: Space, walk: _Walk) -> Leaf:
    """The configuration a chooser arrives at."""
    return Leaf(space.configuration(walk), walk.choices, walk.domains)
