"""Traces: what one drafter would do at every anchor of many responses, as flat arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from simulator.confidence import calibrated, estimated, products
from simulator.records import Anchors, KeptDrafting, Recording

Split = Literal["calibration", "search", "confirmation"]


@dataclass(frozen=True, slots=True)
class TracedResponse:
    """Which response a stretch of a trace belongs to."""

    task: str
    domain: str
    prompt_id: str
    turn: int
    """From 0."""
    prompt_tokens: int
    """Tokens in the context before the response."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A drafter's dense record of S responses with A anchors in all."""

    drafter: str
    responses: tuple[TracedResponse, ...]
    offsets: npt.NDArray[np.int64]
    """Anchors of response s are offsets[s] to offsets[s + 1], [S + 1]; it has one token more than anchors."""
    anchors: Anchors
    """All of them, [A]."""
    drafting: KeptDrafting = "sampled"
    """How the recorded drafts were chosen."""
    kind: str = ""
    """The drafter's kind; empty where its name is all that is known of it."""

    def __post_init__(self) -> None:
        ends = len(self.offsets) == len(self.responses) + 1 and self.offsets[0] == 0
        if not ends or self.offsets[-1] != len(self.anchors) or (np.diff(self.offsets) < 0).any():
            raise ValueError(f"trace of {self.drafter}: offsets must run from 0 to the number of anchors, one a response")

    @classmethod
    def join(
        cls,
        drafter: str,
        parts: Sequence[tuple[TracedResponse, Anchors]],
        drafting: KeptDrafting = "sampled",
        kind: str = "",
    ) -> Trace:
        """A trace of single responses; all of one γ, at least one."""
        each = [anchors for _, anchors in parts]
        offsets = np.cumsum([0, *map(len, each)], dtype=np.int64)

        def whole(name: str) -> npt.NDArray[np.float32] | None:
            found = [getattr(a, name) for a in each]
            return None if any(f is None for f in found) else np.concatenate(found)

        anchors = Anchors(
            np.concatenate([a.drafted for a in each]),
            np.concatenate([a.accepted for a in each]),
            np.concatenate([a.accept_prob for a in each]),
            whole("confidence"),
            whole("fresh_confidence"),
            whole("certainty"),
        )
        return cls(drafter, tuple(response for response, _ in parts), offsets, anchors, drafting, kind)

    @property
    def gamma(self) -> int:
        """γ of the recording."""
        return self.anchors.gamma

    @property
    def recording(self) -> Recording:
        """What it is a trace of."""
        return Recording(self.drafter, self.gamma, drafting=self.drafting, kind=self.kind)

    def __str__(self) -> str:
        return str(self.recording)

    def __iter__(self) -> Iterator[tuple[TracedResponse, Anchors]]:
        for i, response in enumerate(self.responses):
            yield response, cut(self.anchors, slice(self.offsets[i], self.offsets[i + 1]))

    def kept_by_position(self, drafted: int) -> list[float]:
        """Share of rounds that keep every draft up to each position, [drafted], where each round drafts so many tokens.

        Unconditional and non-increasing, as vLLM counts acceptance by position: over all rounds that drafted, which are
        fewer where more is accepted, and not over all anchors.
        """
        accepted = np.minimum(self.anchors.accepted, drafted).astype(np.int64)
        at, ends = self.offsets[:-1].copy(), self.offsets[1:]
        rounds = np.zeros(drafted + 1, np.int64)
        while (live := at < ends).any():
            kept = accepted[at[live]]
            rounds += np.bincount(kept, minlength=drafted + 1)
            at[live] += kept + 1
        reached = rounds[::-1].cumsum()[::-1]
        return [float(share) for share in reached[1:] / max(rounds.sum(), 1)]

    def select(self, keep: Sequence[bool]) -> Trace:
        """The responses marked in `keep`, at least one."""
        parts = [part for part, kept in zip(self, keep, strict=True) if kept]
        return Trace.join(self.drafter, parts, self.drafting, self.kind)

    def calibrated(self, temperatures: npt.ArrayLike) -> Trace:
        """With every confidence at position k scaled by temperature k; see `simulator.confidence`."""

        def scaled(confidence: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
            return None if confidence is None else calibrated(confidence, temperatures)

        a = self.anchors
        anchors = replace(a, confidence=scaled(a.confidence), fresh_confidence=scaled(a.fresh_confidence))
        return replace(self, anchors=anchors)

    def estimated(self, weights: npt.ArrayLike) -> Trace:
        """With confidences estimated from certainties; see `simulator.confidence`. Raises ValueError if there are none."""
        if self.anchors.certainty is None:
            raise ValueError(f"trace of {self.drafter}: has no certainties to estimate confidences from")
        return replace(self, anchors=replace(self.anchors, confidence=estimated(self.anchors.certainty, weights)))


def cut(anchors: Anchors, where: slice) -> Anchors:
    """Views of some of the anchors."""
    optional = (anchors.confidence, anchors.fresh_confidence, anchors.certainty)
    parts = [None if c is None else c[where] for c in optional]
    return Anchors(anchors.drafted[where], anchors.accepted[where], anchors.accept_prob[where], *parts)


def survival(confidence: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """s_k = c_1···c_k, [..., γ], in multiples of 2⁻²⁴: sums of them are exact in float64, whatever their order."""
    rounded: npt.NDArray[np.float32] = (np.rint(products(confidence) * 2.0**24) / 2.0**24).astype(np.float32)
    return rounded


def rounded_survival(product: float) -> float:
    """One survival of its product of confidences: the same rounding without arrays, for live and for compiled code."""
    return round(product * 2.0**24) / 2.0**24


def split_of(prompt_id: str) -> Split:
    """Which purpose a prompt serves: a quarter calibrates, half is searched on, a quarter confirms. By hash of its id."""
    bucket = hashlib.sha256(prompt_id.encode()).digest()[0] % 4
    return "calibration" if bucket == 0 else "confirmation" if bucket == 3 else "search"


def strata(trace: Trace) -> list[list[str]]:
    """Prompts that are drawn among each other: those of a task, in order.

    A task of a single prompt says nothing of how its prompts differ, and is put together with others of its domain: with
    those of a single prompt too, or where it is alone, with the smallest task (collapsed strata; Cochran, 5A.12).
    """
    tasks: dict[str, dict[str, set[str]]] = {}
    for response in trace.responses:
        tasks.setdefault(response.domain, {}).setdefault(response.task, set()).add(response.prompt_id)
    found: list[list[str]] = []
    for _, of_domain in sorted(tasks.items()):
        several = [names for _, names in sorted(of_domain.items()) if len(names) > 1]
        single = set().union(*(names for names in of_domain.values() if len(names) == 1))
        if len(single) == 1 and several:
            smallest = min(several, key=len)
            several = [names | single if names is smallest else names for names in several]
            single = set()
        found += [sorted(names) for names in (*several, single) if names]
    return found
