"""SGLang's `/server_info` as it is by itself, and what `sglang.bench_serving` writes: how the server is set, and an average
acceptance since it began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from harness.served.observed import NOTHING, Observation, Point, Settings
from harness.served.sources.sglang_log import k_changes
from harness.served.text import Text
from simulator.errors import InputError

_AVERAGE = "avg_spec_accept_length"


class SglangInfo:
    """See the module. Its accepted length holds the bonus token, and counts every step since the server began."""

    name: ClassVar[str] = "SGLang's /server_info"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """A server's arguments beside what its ranks say of themselves, or a bench's totals with `accept_length`."""
        return any(_is_info(one) or _is_bench(one) for one in text.documents())

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """An observation a document: each is of its own time."""
        return [_observation(text, one) for text in texts for one in text.documents() if _is_info(one) or _is_bench(one)]


def _is_info(one: Mapping[str, Any]) -> bool:
    states = states_of(one)
    if any("dspark_info_record" in state for state in states):
        return False
    return _AVERAGE in one or any({"last_gen_throughput", _AVERAGE} & state.keys() for state in states)


def _is_bench(one: Mapping[str, Any]) -> bool:
    return {"accept_length", "output_throughput", "completed", "total_output_tokens"} <= one.keys()


def states_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What each of the server's ranks says of itself."""
    states = document.get("internal_states")
    return [one for one in states if isinstance(one, dict)] if isinstance(states, list) else []


def capacity_of(document: Mapping[str, Any]) -> int | None:
    """Context tokens that fit, as the server says of itself."""
    memory = [usage for one in states_of(document) if isinstance(usage := one.get("memory_usage"), dict)]
    told = [document.get("max_total_num_tokens"), *(one.get("token_capacity") for one in memory)]
    return next((n for n in told if isinstance(n, int) and not isinstance(n, bool) and 0 < n < 1e12), None)


def _servers(info: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Where the server's arguments may stand: at the top, with each rank, or with each server that decodes."""
    yield info
    yield from states_of(info)
    for one in info.get("decode") or ():
        if isinstance(one, dict):
            yield from _servers(one)


def _settings(text: Text, info: Mapping[str, Any]) -> Settings:
    """What it says, as far as it is there. Raises InputError for drafts that are trees, or of lengths that change."""

    def told(name: str) -> Any:
        return next((value for one in _servers(info) if (value := one.get(name)) is not None), None)

    top, tokens, steps = (_count(told(f"speculative_{name}")) for name in ("eagle_topk", "num_draft_tokens", "num_steps"))
    if (top or 0) > 1:
        raise InputError(f"{text.name}: drafts are trees (speculative_eagle_topk {top}), and chains are what is read here")
    method = str(told("speculative_algorithm") or "").upper()
    if method and told("speculative_adaptive"):
        raise k_changes(text.name)
    gamma = steps if tokens is None or tokens == 1 else tokens - 1
    return Settings(
        engine="SGLang", version=str(told("version") or ""), model=str(told("model_path") or ""),
        served_as=str(told("served_model_name") or ""), method=method,
        drafter=str(told("speculative_draft_model_path") or ""), gamma=gamma,
        request_cap=_count(told("max_running_requests")),
        speculates=bool(method) if any("speculative_algorithm" in one for one in _servers(info)) else None,
    )  # fmt: skip


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _observation(text: Text, one: Mapping[str, Any]) -> Observation:
    bench = _is_bench(one)
    info = one.get("server_info") if bench else one
    info = info if isinstance(info, dict) else {}
    settings = _settings(text, info)
    if bench and not str(one.get("backend", "sglang")).startswith("sglang"):
        settings = Settings(engine="vLLM" if str(one["backend"]).startswith("vllm") else "")
    lengths = [one.get("accept_length")] if bench else [state.get(_AVERAGE) for state in (info, *states_of(info))]
    found = [float(n) for n in lengths if isinstance(n, int | float) and not isinstance(n, bool) and n > 0]
    length = sum(found) / len(found) if found else None
    if length is not None and not 1 <= length < 1e3:
        raise InputError(f"{text.name}: an accepted length of {length:g}: a step gives 1 token at least")
    notes = list[str]()
    if length:
        notes.append("an average of all steps since the server began, the bonus token included; no positions")
    if len(found) > 1:
        notes.append(f"the mean over {len(found)} ranks, each weighed alike: how much each of them served is not there")
    none = length is None and settings.speculates is False
    told = _totals(text, one, length, none=none) if bench else {}
    return Observation(
        source=SglangInfo.name, files=(text.name,),
        settings=Settings(speculates=True if length else None, gamma=settings.gamma).beside(settings),
        drafts=NOTHING if none else None, length=length, context_capacity=capacity_of(info),
        notes=tuple(notes), **told,
    )  # fmt: skip


def _totals(text: Text, one: Mapping[str, Any], length: float | None, *, none: bool) -> dict[str, Any]:
    """What a bench counted; a step of a request is a draft, or a token where `none` is drafted. Raises InputError.

    Without a length nobody knows whether a server drafts, unless its arguments say so: then it is a point of neither kind.
    """

    def count(name: str) -> float:
        value = one.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e15:
            raise InputError(f"{text.name}: {name}: a number is needed, got {value!r}")
        return float(value)

    output, requests, users = count("total_output_tokens"), count("completed"), one.get("max_concurrency")
    point = Point(
        concurrency=float(users or 0), output_tok_s=count("output_throughput"), what="none" if none else "speculating"
    )
    return {
        "requests": requests, "generated": output, "prompt_tokens": count("total_input_tokens"),
        "request_steps": max(output - requests, 0.0) / (length or 1.0) or None if length or none else None,
        "points": (point,) if isinstance(users, int | float) and users > 0 and (length or none) else (),
    }  # fmt: skip
