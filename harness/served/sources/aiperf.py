"""aiperf's `profile_export.jsonl`: a row a request, in order of completion, with what the engine said of its drafts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from harness.served.observed import Drafts, Observation, ServedRequest
from harness.served.sources.vllm_requests import gamma_of, observation_of, request_of
from harness.served.text import Text
from simulator.errors import InputError

_ENGINES: Final[Mapping[str, str]] = {
    "vllm": "vLLM", "sglang": "SGLang", "tensorrt_llm": "TensorRT-LLM", "llamacpp": "llama.cpp",
}  # fmt: skip
"""aiperf's words for engines, and their makers'."""


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
        found, gammas, longest, engines, without, unused = list[ServedRequest](), set[int](), 0, set[str](), 0, 0
        for text in texts:
            for row in text.documents():
                told = row.get("spec_decode_acceptance")
                if row.get("error") or _of(row, "metadata").get("was_cancelled"):
                    unused += 1
                elif not isinstance(told, dict) or "acceptance_histogram" not in told:
                    without += 1
                else:
                    engines.add(_ENGINES.get(str(told.get("engine") or "vllm"), str(told.get("engine"))))
                    found.append(_request(text.name, row, told))
                    longest = max(longest, gamma_of(told), len(found[-1].drafts.accepted_at))
                    gammas |= {size} if isinstance(size := told.get("num_spec_tokens"), int) and size > 0 else set()
        if not found:
            raise InputError(
                f"{texts[0].name}: no row has spec_decode_acceptance: serve with --per-request-spec-decode-metrics detailed"
            )
        if len(engines) > 1:
            raise InputError(f"{texts[0].name}: rows of {' and '.join(sorted(engines))}: give those of one server")
        [engine] = engines
        if longest > max(gammas, default=0):
            gammas.add(longest)
        notes = ["its summary's acceptance length is a mean over requests; here it is the ratio of sums"]
        notes += [f"{unused} rows that failed or were cancelled left out"] * bool(unused)
        counts = engine != _ENGINES["llamacpp"]
        if not counts:
            notes.append(
                "of llama.cpp it knows drafted and accepted tokens alone, and spreads them evenly: steps are worked out of "
                "answers' lengths, and its histograms are not read"
            )
        made = observation_of(
            self.name, texts, found, gammas if counts else {0}, set(), without, engine=engine, notes=notes,
        )  # fmt: skip
        return [made if counts else replace(made, drafts=None, settings=replace(made.settings, gamma=None))]


def _request(file: str, row: Mapping[str, Any], told: Mapping[str, Any]) -> ServedRequest:
    """Raises InputError for what cannot be right."""
    output, duration = told.get("completion_tokens"), _value(row, "decode_duration")
    if output is None and (length := _value(row, "output_sequence_length")) is not None:
        output = int(length)
    seconds = None if duration is None else float(duration) / 1e3
    one = request_of(file, told, output, _value(row, "input_sequence_length"), seconds)
    if told.get("engine") != "llamacpp":
        return one
    return replace(one, drafts=Drafts(drafts=0, drafted=one.drafts.drafted, accepted=one.drafts.accepted))


def _of(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = row.get(key)
    return found if isinstance(found, dict) else {}


def _value(row: Mapping[str, Any], name: str) -> Any:
    return _of(_of(row, "metrics"), name).get("value")
