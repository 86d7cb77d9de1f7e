"""What can be run: a recording under a policy, and that with so many requests at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import NO_RECORDING, KeptDrafting, Recording


@dataclass(frozen=True, slots=True, order=True)
class System:
    """What can be served: a recording under a policy; `none` uses no recording, whichever it walks."""

    recording: Recording
    policy: PolicySpec

    def __post_init__(self) -> None:
        if self.policy == NO_DRAFTER:
            object.__setattr__(self, "recording", NO_RECORDING)

    @classmethod
    def parse(cls, text: str, drafting: KeptDrafting) -> System:
        """From what `short` gave; how drafts are chosen is told elsewhere. Raises InputError for a policy there is not."""
        drafter, _, rest = text.rpartition(" γ=")
        gamma, _, policy = rest.partition(" ")
        if not drafter:
            return cls(NO_RECORDING, PolicySpec.parse(text))
        return cls(Recording(drafter, int(gamma), drafting=drafting), PolicySpec.parse(policy))

    @classmethod
    def read(cls, row: Mapping[str, Any], kinds: Mapping[str, str], drafting: KeptDrafting = "sampled") -> System:
        """From what `row` made; of which kinds drafters are is told, and how drafts are chosen where the row does not say.

        Raises InputError for a policy there is not.
        """
        drafter, way = row["drafter"], row.get("drafting") or drafting
        recording = Recording(drafter, row["gamma"], row["confidences"], way, kinds.get(drafter, ""))
        return cls(recording, PolicySpec.parse(row["policy"]))

    def row(self) -> dict[str, Any]:
        """The system as the database, JSON and tables to take away hold it."""
        r = self.recording
        return {"drafter": r.drafter, "gamma": r.gamma, "policy": str(self.policy), "confidences": r.confidences}

    @property
    def drafter(self) -> str:
        """The drafter's name; `none` without."""
        return self.recording.drafter

    @property
    def short(self) -> str:
        """The system as people call it, without what its policy decides from."""
        return "none" if self.policy == NO_DRAFTER else f"{self.recording.short} {self.policy}"

    def __str__(self) -> str:
        """The system as people call it: the drafter, its block, the policy, and what it decides from."""
        shown = self.recording.confidences
        return self.short + ("" if shown == "none" else f" ({shown})")


@dataclass(frozen=True, slots=True, order=True)
class Configuration:
    """What to run. Raises ValueError for what makes no sense."""

    recording: Recording
    """Whose drafts, and the confidences the policy reads, `none` if nothing; `NO_RECORDING` for plain decoding."""
    policy: PolicySpec
    request_cap: int
    """Requests running at once, on a replica."""

    def __post_init__(self) -> None:
        if self.request_cap < 1 or (self.recording == NO_RECORDING) != (self.policy == NO_DRAFTER):
            raise ValueError(f"not a configuration: {self.in_full}")

    @classmethod
    def plain(cls, request_cap: int) -> Configuration:
        """Decoding without a drafter."""
        return cls(NO_RECORDING, NO_DRAFTER, request_cap)

    @classmethod
    def read(
        cls, row: Mapping[str, Any], kinds: Mapping[str, str] | None = None, drafting: KeptDrafting = "sampled"
    ) -> Configuration:
        """From what `row` made, see `System.read`, or `whole_row`, which has all there is to know."""
        system = System.read(row, {row["drafter"]: row["kind"]} if kinds is None else kinds, drafting)
        return cls(system.recording, system.policy, row["request_cap"])

    def row(self) -> dict[str, Any]:
        """The configuration as the database and JSON hold it."""
        return {**self.system.row(), "request_cap": self.request_cap}

    def whole_row(self) -> dict[str, Any]:
        """The configuration with what `row` leaves to be told elsewhere; no kind of drafter without a drafter."""
        kind = "" if self.policy == NO_DRAFTER else self.recording.kind
        return {**self.row(), "kind": kind, "drafting": self.recording.drafting}

    @property
    def system(self) -> System:
        """The same without its request cap."""
        return System(self.recording, self.policy)

    @property
    def in_full(self) -> str:
        """The configuration on one line, request cap included."""
        return f"{self.system} cap {self.request_cap}"

    @property
    def with_cap(self) -> str:
        """The configuration within a sentence where its request cap tells it from others."""
        return f"{self} with {self.request_cap} requests at a time"

    def told_beside(self, other: Configuration) -> str:
        """The configuration within a sentence that has named another: what tells the two apart is said."""
        alike = self.system.short == other.system.short and self.recording != other.recording
        told = f"{self} on raw confidences" if alike and self.recording.confidences == "raw" else str(self)
        return told if self.request_cap == other.request_cap else f"{told} with {self.request_cap} requests at a time"

    def while_running(self, most: int) -> tuple[Recording, PolicySpec | tuple[int, ...]]:
        """What drafts, and how, while no more than so many requests run: where two have the same they are one run.

        A table is its k at each number of requests up to there.
        """
        gamma = self.recording.gamma
        policy = self.policy.within(most, gamma)
        if (table := policy.k_by_batch) is None:
            return self.recording, policy
        return self.recording, tuple(min(table.at(n), gamma) for n in range(1, most + 1))

    def __str__(self) -> str:
        """The configuration within a sentence."""
        if self.policy == NO_DRAFTER:
            return "no speculation"
        basis = {"none": "", "raw": ""}.get(self.recording.confidences, f" on {self.recording.confidences} confidences")
        return f"{self.system.short}{basis}"
