"""aiperf's `profile_export.jsonl`: a row a request, in order of completion, with what vLLM said of its drafts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from harness.served.observed import Observation
from harness.served.sources.vllm_requests import gamma_of, observation_of, request_of
from harness.served.text import Text
from simulator.errors import InputError


class Aiperf:
    """See the module."""

    name: ClassVar[str] = "aiperf's rows"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """Rows of `metadata` and `metrics` whose values have units."""
        rows = text.documents()[:50] if not isinstance(text.whole, dict) else [text.whole]
        return any({"metadata", "metrics"} <= row.keys() and "credit_issued_ns" in _of(row, "metadata") for row in rows)

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """All rows that were answered together."""
        found, gammas, without, unused = [], set[int](), 0, 0
        for text in texts:
            for row in text.documents():
                told = row.get("spec_decode_acceptance")
                if row.get("error") or _of(row, "metadata").get("was_cancelled"):
                    unused += 1
                elif not isinstance(told, dict) or "acceptance_histogram" not in told:
                    without += 1
                else:
                    output = told.get("completion_tokens", _value(row, "output_sequence_length"))
                    duration = _value(row, "decode_duration")
                    found.append(
                        request_of(
                            text.name, told, None if output is None else int(output), _value(row, "input_sequence_length"),
                            None if duration is None else float(duration) / 1e3,
                        )
                    )  # fmt: skip
                    gammas.add(max(gamma_of(told), len(found[-1].drafts.accepted_at)))
        if not found:
            raise InputError(
                f"{texts[0].name}: no row has spec_decode_acceptance: serve with --per-request-spec-decode-metrics detailed"
            )
        known = {gamma for gamma in gammas if gamma > 0}
        made = observation_of(self.name, texts, found, known if len(known) == 1 else {max(known, default=0)}, set(), without)
        lost = (f"{unused} rows that failed or were cancelled left out",) if unused else ()
        note = "its summary's acceptance length is a mean over requests; here it is the ratio of sums"
        return [_with(made, (*made.notes, note, *lost))]


def _with(made: Observation, notes: tuple[str, ...]) -> Observation:
    from dataclasses import replace

    return replace(made, notes=notes)


def _of(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = row.get(key)
    return found if isinstance(found, dict) else {}


def _value(row: Mapping[str, Any], name: str) -> Any:
    return _of(_of(row, "metrics"), name).get("value")
