"""Which prompts are used for what: searched on, and, never seen by the search, confirmed on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from results.store.recordings import Recordings
from simulator.errors import InputError
from simulator.records import Recording
from simulator.traces import Trace, split_of

Part = Literal["search", "confirmation"]


class TraceKey(NamedTuple):
    """Which trace: a part of the prompts, of a recording."""

    part: Part
    recording: Recording


class Traffic:
    """A run's recordings on the prompts that all of them have, so that every configuration is asked the same."""

    def __init__(self, recordings: Recordings, asked_of: Sequence[Recording]) -> None:
        """Raises InputError where there is nothing to search on, or nothing to confirm on."""
        self._recordings = recordings
        asked = [{(r.prompt_id, r.turn) for r in recordings.trace(key).responses} for key in asked_of]
        self._asked = set.intersection(*asked) if asked else set()
        for part in ("search", "confirmation"):
            if not any(split_of(prompt) == part for prompt, _ in self._asked):
                raise InputError(f"too few prompts: none of those recorded with every drafter is for {part}; record more")

    def trace(self, key: TraceKey) -> Trace:
        """A recording's responses in one part."""
        trace = self._recordings.trace(key.recording)
        return trace.select(
            [(r.prompt_id, r.turn) in self._asked and split_of(r.prompt_id) == key.part for r in trace.responses]
        )

    def prompts(self, part: Part) -> int:
        """How many there are."""
        return len({prompt for prompt, _ in self._asked if split_of(prompt) == part})

    def shares(self, recording: Recording, weights: Mapping[str, float] | None) -> dict[str, float]:
        """Share of requests by domain: as given, or as often as recorded, the same for both parts. Raises InputError."""
        responses = [r for r in self._recordings.trace(recording).responses if (r.prompt_id, r.turn) in self._asked]
        counts = Counter(r.domain for r in responses)
        chosen = {d: n / len(responses) for d, n in counts.items()} if weights is None else dict(weights)
        if unknown := sorted(set(chosen) - set(counts)):
            raise InputError(f"mix: no {', '.join(unknown)} in the recording; it has {', '.join(sorted(counts))}")
        if min(chosen.values()) < 0 or not sum(chosen.values()) > 0:
            raise InputError("mix: shares must be 0 or more, and one above 0")
        for domain in (d for d, share in chosen.items() if share):
            parts = {split_of(r.prompt_id) for r in responses if r.domain == domain}
            if missing := sorted({"search", "confirmation"} - parts):
                raise InputError(f"too few prompts of {domain}: none is for {' or '.join(missing)}; record more")
        return chosen
