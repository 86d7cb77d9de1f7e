"""`vllm bench serve --save-result`: one measured point under load, with its acceptance."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from harness.served.observed import NOTHING, Drafts, Interval, Observation, Point, Settings
from harness.served.text import Text
from simulator.errors import InputError
from simulator.numbers import counted

_ALONE: Final = (0.9, 1.05)
"""Mean time between chunks over mean time per token, where a chunk holds one token: the one is over chunks, the other over
requests. A captured server without drafts gave 0.98 and 1.00, one whose look-up gave 1.3 tokens a step 1.32."""

_CHUNKS: Final = 0.3
"""By how much the time between chunks may be off that of a step, by tokens and steps: else a chunk is no step."""
_WARM_UP: Final = -1
"""Number of the run that `vllm bench sweep serve` makes before those that it measures."""
_ENGINES: Final = {"sglang": "SGLang", "tensorrt-llm": "TensorRT-LLM", "llama.cpp": "llama.cpp"}
"""Engines by what it calls them; it asks vLLM alone for drafts."""


class VllmBench:
    """See the module."""

    name: ClassVar[str] = "vllm bench serve"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """Its totals and throughputs; a file holds one result, or one a line where they were appended."""
        return any({"output_throughput", "total_output_tokens", "num_prompts"} <= one.keys() for one in text.documents())

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """An observation a result: loads are not pooled. One that stands in the files twice counts once."""
        rows = [(text, one) for text in texts for one in text.documents() if "output_throughput" in one]
        results = list({json.dumps(one, sort_keys=True): (text, one) for text, one in rows}.values())
        measured = [(text, one) for text, one in results if one.get("run_number") != _WARM_UP] or results
        twice, warm = len(rows) - len(results), len(results) - len(measured)
        notes = [f"{counted(twice, 'result')} that stood there before left out: each counts once"] * bool(twice)
        notes += [f"{counted(warm, 'warm-up')} of a sweep left out"] * bool(warm)
        first, *others = [_observation(text, one) for text, one in measured]
        return [replace(first, notes=(*first.notes, *notes)), *others]


def _observation(text: Text, one: Mapping[str, Any]) -> Observation:
    def count(name: str) -> float:
        value = one.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e15:
            raise InputError(f"{text.name}: {name}: a number is needed, got {value!r}")
        return float(value)

    speculates, none = "spec_decode_num_drafts" in one, _drafts_nothing(one)
    drafts, notes = NOTHING if none else None, list[str]()
    if speculates:
        drafts = _drafts(text, one, count("spec_decode_num_drafts"), count)
        notes.append("its acceptance rate is in percent, its rates by position are shares of drafts")
    users, model = one.get("max_concurrency"), str(one.get("model_id") or "")
    output, requests = count("total_output_tokens"), count("completed")
    if users is None and (inside := _inside(one, requests)) is not None:
        users = inside
        notes.append(f"about {inside:,.0f} requests were inside at a time, by their number and times (Little's law)")
    points: tuple[Point, ...] = ()
    if isinstance(users, int | float) and users > 0 and drafts is not None:
        what = "speculating" if speculates else "none"
        points = (Point(concurrency=float(users), output_tok_s=count("output_throughput"), what=what),)
    steps = None if drafts is None else max(output - requests - drafts.accepted, drafts.drafts) or None
    return Observation(
        source=VllmBench.name, files=(text.name,),
        settings=Settings(
            engine="vLLM" if speculates else _ENGINES.get(str(one.get("backend")), "vLLM"), model=model,
            gamma=(len(drafts.accepted_at) or None) if drafts else None,
            speculates=speculates or None,
        ),
        drafts=drafts, requests=requests, prompt_tokens=count("total_input_tokens"), generated=output,
        request_steps=steps, points=points, notes=tuple(notes),
        benched=() if not points or drafts is None or steps is None else _benched(one, points[0], drafts, steps),
    )  # fmt: skip


def _benched(one: Mapping[str, Any], point: Point, drafts: Drafts, steps: float) -> tuple[Interval, ...]:
    """Its load as a stretch, whose step is what passes between two chunks; nothing where chunks hold more."""
    chunk, token, seconds = (one.get(name) for name in ("mean_itl_ms", "mean_tpot_ms", "duration"))
    known = [x for x in (chunk, token, seconds) if isinstance(x, int | float) and not isinstance(x, bool) and x > 0]
    if len(known) < 3:
        return ()
    step_ms = known[1] * (1 + drafts.accepted / steps)
    if abs(known[0] / step_ms - 1) > _CHUNKS:
        return ()
    first, (requests, output) = one.get("mean_ttft_ms"), (float(one[name]) for name in ("completed", "total_output_tokens"))
    following = max(output / requests - 1, 1.0) if requests else 1.0
    return (
        Interval(
            wait_s=first / 1e3 / following if isinstance(first, int | float) and first > 0 else 0.0,
            seconds=known[2], running=point.concurrency, steady=True, generated_tok_s=point.output_tok_s,
            prompt_tok_s=float(one["total_input_tokens"]) / known[2], drafts=drafts if drafts.drafts else None,
            plain=not drafts.drafts, step_s=known[0] / 1e3,
        ),
    )  # fmt: skip


def _inside(one: Mapping[str, Any], requests: float) -> float | None:
    """Requests inside at a time on average, where nobody set how many: those that came, each for as long as it took."""
    first, token = one.get("mean_ttft_ms"), one.get("mean_tpot_ms")
    took, duration, output = one.get("mean_e2el_ms"), one.get("duration"), one.get("total_output_tokens")
    if not isinstance(took, int | float) and all(isinstance(x, int | float) for x in (first, token, output)) and requests:
        took = first + token * max(output / requests - 1, 0)  # type: ignore[operator]
    if not isinstance(took, int | float) or not isinstance(duration, int | float) or duration <= 0:
        return None
    return max(1.0, float(f"{requests * took / 1e3 / duration:.3g}"))


def _drafts(text: Text, one: Mapping[str, Any], number: float, count: Callable[[str], float]) -> Drafts:
    """What it counted. Raises InputError."""
    shares = one.get("spec_decode_per_position_acceptance_rates") or []
    try:
        return Drafts(
            drafts=number, drafted=count("spec_decode_draft_tokens"), accepted=count("spec_decode_accepted_tokens"),
            accepted_at=tuple(round(float(share) * number, 6) for share in shares),
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise InputError(f"{text.name}: spec_decode: {error}") from None


def _drafts_nothing(one: Mapping[str, Any]) -> bool:
    """Whether its tokens came one by one. That it counts no drafts does not say so: older versions never did, and others do
    only where they reach the server's `/metrics`."""
    chunk, token = one.get("mean_itl_ms"), one.get("mean_tpot_ms")
    if "spec_decode_num_drafts" in one or not isinstance(chunk, int | float) or not isinstance(token, int | float):
        return False
    least, most = _ALONE
    return 0 < least * token <= chunk <= most * token
