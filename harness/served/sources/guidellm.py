"""guidellm's report: its requests, with what vLLM said of their drafts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from harness.served.observed import Observation, Point
from harness.served.sources.vllm_requests import gamma_of, observation_of, request_of
from harness.served.text import Text
from simulator.errors import InputError


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
        found, gammas, without, points = [], set[int](), 0, list[Point]()
        for text in texts:
            for benchmark in text.whole["benchmarks"]:
                own = [one for one in _of(benchmark, "requests").get("successful") or () if isinstance(one, dict)]
                for one in own:
                    told = _of(_of(one, "response_metrics"), "speculative_decoding")
                    if "acceptance_histogram" not in told:
                        without += 1
                        continue
                    output, each = one.get("output_tokens"), one.get("inter_token_latency_ms")
                    seconds = (
                        each * (output - 1) / 1e3 if isinstance(each, int | float) and isinstance(output, int) else None
                    )
                    found.append(request_of(text.name, told, output, one.get("prompt_tokens"), seconds))
                    gammas.add(gamma_of(told))
                points += _points(benchmark, own)
        if not found:
            raise InputError(
                f"{texts[0].name}: no request has response_metrics.speculative_decoding: serve with "
                "--per-request-spec-decode-metrics detailed"
            )
        made = observation_of(self.name, texts, found, gammas, set(), without)
        return [replace(made, points=tuple(points))]


def _points(benchmark: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The load and its throughput, of a closed loop."""
    streams = _of(_of(benchmark, "config"), "strategy").get("streams")
    seconds, tokens = benchmark.get("duration"), sum(one.get("output_tokens") or 0 for one in own)
    if not isinstance(streams, int) or not isinstance(seconds, int | float) or seconds <= 0:
        return []
    return [Point(concurrency=streams, output_tok_s=tokens / seconds, what="speculating")]


def _of(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = row.get(key)
    return found if isinstance(found, dict) else {}
