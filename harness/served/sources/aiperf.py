"""aiperf's `profile_export.jsonl`: a row a request, in order of completion, with what the engine said of its drafts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from harness.served.observed import Drafts, Observation, Point, ServedRequest
from harness.served.sources.lengths import of_lengths
from harness.served.sources.vllm_requests import gamma_of, observation_of, request_of
from harness.served.text import Text
from simulator.errors import InputError
from simulator.numbers import counted

_TOLD: Final = "spec_decode_acceptance"
"""Under which a row has what the engine said of its drafts."""
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
        every = [(text.name, row) for text in texts for row in text.documents()]
        rows = [(file, row) for file, row in every if _of(row, "metadata").get("benchmark_phase") != "warmup"]
        warm = len(every) - len(rows)
        answered = [
            (file, row) for file, row in rows if not row.get("error") and not _of(row, "metadata").get("was_cancelled")
        ]
        told = [(file, row) for file, row in answered if "acceptance_histogram" in _of(row, _TOLD)]
        known = [(file, row) for file, row in told if _output(row) is not None]
        unused, without = len(rows) - len(answered), len(told) - len(known)
        notes = [f"{unused} rows that failed or were cancelled left out"] * bool(unused)
        notes += [f"{counted(warm, 'row')} of the warm-up left out"] * bool(warm)
        notes += [f"{counted(without, 'answer')} without a length left out"] * bool(without)
        if known:
            if points := _points(answered):
                inside = " and ".join(f"{point.concurrency:,.3g}" for point in points)
                notes.append(f"{inside} requests were inside at a time on average, by their begins and ends (Little's law)")
            return [replace(_observation(texts, known, len(answered) - len(told), notes), points=points)]
        if not told:
            notes.append(
                f"no row has {_TOLD}, which vLLM's have where it is served with --per-request-spec-decode-metrics detailed"
            )
        return [of_lengths(self.name, texts, [(_input(row), _output(row)) for _, row in answered], "; ".join(notes))]


def _observation(
    texts: Sequence[Text], rows: Sequence[tuple[str, Mapping[str, Any]]], silent: int, notes: Sequence[str]
) -> Observation:
    """What rows that say their drafts come to; so many beside them do not. Raises InputError."""
    found, gammas, longest, engines = list[ServedRequest](), set[int](), 0, set[str]()
    for file, row in rows:
        told = _of(row, _TOLD)
        engines.add(_ENGINES.get(str(told.get("engine") or "vllm"), str(told.get("engine"))))
        found.append(_request(file, row, told))
        longest = max(longest, gamma_of(told), len(found[-1].drafts.accepted_at))
        gammas |= {size} if isinstance(size := told.get("num_spec_tokens"), int) and size > 0 else set()
    if len(engines) > 1:
        raise InputError(f"{texts[0].name}: rows of {' and '.join(sorted(engines))}: give those of one server")
    [engine] = engines
    if longest > max(gammas, default=0):
        gammas.add(longest)
    notes = ["its summary's acceptance length is a mean over requests; here it is the ratio of sums", *notes]
    counts = engine != _ENGINES["llamacpp"]
    if not counts:
        notes.append(
            "of llama.cpp it knows drafted and accepted tokens alone, and spreads them evenly: steps are worked out of "
            "answers' lengths, and its histograms are not read"
        )
    made = observation_of(
        Aiperf.name, texts, found, gammas if counts else {0}, set(), silent, engine=engine, notes=notes,
    )  # fmt: skip
    return made if counts else replace(made, drafts=None, settings=replace(made.settings, gamma=None))


def _points(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[Point, ...]:
    """The load of each phase of each file, on average of its time, and its throughput; nothing where times are missing."""
    phases: dict[tuple[str, Any], list[tuple[float, float, int]]] = {}
    for file, row in rows:
        told = _of(row, "metadata")
        began, ended = told.get("request_start_ns"), told.get("request_end_ns")
        if not isinstance(began, int) or not isinstance(ended, int) or ended <= began:
            return ()
        own = phases.setdefault((file, told.get("phase_index")), [])
        own.append((began / 1e9, ended / 1e9, _output(row) or 0))
    found = []
    for own in phases.values():
        began_s, ended_s, tokens = zip(*own, strict=True)
        seconds = max(ended_s) - min(began_s)
        inside = (sum(ended_s) - sum(began_s)) / seconds
        found.append(Point(concurrency=max(1.0, inside), output_tok_s=sum(tokens) / seconds, what="speculating"))
    return tuple(found)


def _request(file: str, row: Mapping[str, Any], told: Mapping[str, Any]) -> ServedRequest:
    """Raises InputError for what cannot be right."""
    duration = _value(row, "decode_duration")
    seconds = None if duration is None else float(duration) / 1e3
    one = request_of(file, told, _output(row), _input(row), seconds)
    if told.get("engine") != "llamacpp":
        return one
    return replace(one, drafts=Drafts(drafts=0, drafted=one.drafts.drafted, accepted=one.drafts.accepted))


def _output(row: Mapping[str, Any]) -> int | None:
    """Tokens of the answer, as the engine counts them before aiperf does; None where neither says."""
    told = _of(row, _TOLD).get("completion_tokens")
    return told if isinstance(told, int) else _tokens(row, "output_sequence_length")


def _input(row: Mapping[str, Any]) -> int | None:
    return _tokens(row, "input_sequence_length")


def _tokens(row: Mapping[str, Any], name: str) -> int | None:
    value = _value(row, name)
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _of(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = row.get(key)
    return found if isinstance(found, dict) else {}


def _value(row: Mapping[str, Any], name: str) -> Any:
    return _of(_of(row, "metrics"), name).get("value")
