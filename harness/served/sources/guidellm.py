"""guidellm's report: its requests, with what vLLM said of their drafts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from harness.served.observed import Observation, Point, ServedRequest
from harness.served.sources.lengths import of_lengths
from harness.served.sources.vllm_requests import gamma_of, observation_of, request_of
from harness.served.text import Text
from simulator.numbers import counted


class Guidellm:
    """See the module."""

    name: ClassVar[str] = "guidellm's report"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """Benchmarks of successful, errored and incomplete requests."""
        whole = text.whole
        if not isinstance(whole, dict) or not isinstance(whole.get("benchmarks"), list):
            return False
        return any("successful" in _of(one, "requests") for one in whole["benchmarks"] if isinstance(one, dict))

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """All requests that succeeded, of all its loads."""
        found, gammas, points = list[ServedRequest](), set[int](), list[Point]()
        silent, without = list[Mapping[str, Any]](), 0
        for text, benchmark, own in _benchmarks(texts):
            told = [one for one in own if "acceptance_histogram" in _told(one)]
            silent += [one for one in own if "acceptance_histogram" not in _told(one)]
            known = [one for one in told if _tokens(one, "output_tokens") is not None]
            without += len(told) - len(known)
            found += [_request(text, one) for one in known]
            gammas |= {gamma_of(_told(one)) for one in known}
            points += _points(benchmark, own) if known else ()
        notes = [f"{counted(without, 'answer')} without a length left out"] * bool(without)
        if not found:
            why = ", ".join(notes) or (
                "no request has response_metrics.speculative_decoding, which vLLM gives where it is served with "
                "--per-request-spec-decode-metrics detailed"
            )
            lengths = [(_tokens(one, "prompt_tokens"), _tokens(one, "output_tokens")) for one in silent]
            return [of_lengths(self.name, texts, lengths, why)]
        made = observation_of(self.name, texts, found, gammas, set(), len(silent), notes=notes)
        return [replace(made, points=tuple(points))]


def _benchmarks(texts: Sequence[Text]) -> Iterator[tuple[Text, Mapping[str, Any], list[Mapping[str, Any]]]]:
    """Each load with its requests that succeeded."""
    for text in texts:
        for benchmark in text.whole["benchmarks"]:
            own = _of(benchmark, "requests").get("successful") or ()
            yield text, benchmark, [one for one in own if isinstance(one, dict)]


def _told(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the engine said of a request's drafts; empty where it said nothing."""
    return _of(_of(request, "response_metrics"), "speculative_decoding")


def _tokens(request: Mapping[str, Any], name: str) -> int | None:
    """A length; None where it was not told."""
    value = request.get(name)
    return value if isinstance(value, int) else None


def _request(text: Text, one: Mapping[str, Any]) -> ServedRequest:
    """Raises InputError for what cannot be right."""
    output, each = _tokens(one, "output_tokens"), one.get("inter_token_latency_ms")
    seconds = each * (output - 1) / 1e3 if isinstance(each, int | float) and output is not None else None
    return request_of(text.name, _told(one), output, one.get("prompt_tokens"), seconds)


def _points(benchmark: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The load and its throughput, of a closed loop."""
    streams = _of(_of(benchmark, "config"), "strategy").get("streams")
    seconds, tokens = benchmark.get("duration"), sum(_tokens(one, "output_tokens") or 0 for one in own)
    if not isinstance(streams, int) or not isinstance(seconds, int | float) or seconds <= 0:
        return []
    return [Point(concurrency=streams, output_tok_s=tokens / seconds, what="speculating")]


def _of(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = row.get(key)
    return found if isinstance(found, dict) else {}
