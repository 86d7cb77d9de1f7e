"""aiperf's `server_metrics_export.json`: the server's own counters over a run, already as differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from harness.served.observed import NOTHING, Drafts, Interval, NothingServed, Observation, Settings
from harness.served.text import Text
from simulator.errors import InputError

_SPEC = "vllm:spec_decode_num_"


class AiperfServer:
    """See the module."""

    name: ClassVar[str] = "aiperf's server metrics"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """Metrics of vLLM's names, with series and stats."""
        whole = text.whole
        metrics = whole.get("metrics") if isinstance(whole, dict) else None
        return isinstance(metrics, dict) and any(
            name.startswith("vllm:") and isinstance(one, dict) and "series" in one for name, one in metrics.items()
        )

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """An observation a file: each is a run of its own."""
        return [_observation(text, text.whole["metrics"]) for text in texts]


def _observation(text: Text, metrics: Mapping[str, Any]) -> Observation:
    def total(name: str, stat: str = "total") -> float | None:
        series = _series(metrics, name)
        values = [value for one in series if isinstance(value := (one.get("stats") or {}).get(stat), int | float)]
        return sum(values) if values else None

    generated = total("vllm:generation_tokens")
    if not generated:
        raise NothingServed(f"{text.name}: nothing was generated while it was written")
    at: dict[int, float] = {}
    for one in _series(metrics, f"{_SPEC}accepted_tokens_per_pos"):
        position = int((one.get("labels") or {}).get("position", -1))
        at[position] = at.get(position, 0.0) + float((one.get("stats") or {}).get("total") or 0)
    drafts = NOTHING
    if (number := total(f"{_SPEC}drafts")) is not None:
        try:
            drafts = Drafts(
                drafts=number, drafted=total(f"{_SPEC}draft_tokens") or 0, accepted=total(f"{_SPEC}accepted_tokens") or 0,
                accepted_at=tuple(at.get(k, 0.0) for k in range(max(at, default=-1) + 1)),
            )  # fmt: skip
        except ValueError as error:
            raise InputError(f"{text.name}: {error}") from None
    models = {(one.get("labels") or {}).get("model_name", "") for one in _series(metrics, "vllm:generation_tokens")}
    if len(models) > 1:
        raise InputError(f"{text.name}: metrics of {len(models)} models ({', '.join(sorted(models))}): give those of one")
    slots, slots_s = total("vllm:inter_token_latency_seconds", "count"), total("vllm:inter_token_latency_seconds", "sum")
    steps = total("vllm:iteration_tokens_total", "count")
    return Observation(
        source=AiperfServer.name, files=(text.name,),
        settings=Settings(
            engine="vLLM", served_as=next(iter(models), ""), gamma=len(drafts.accepted_at) or None,
            speculates=True if drafts.drafts else None,
        ),
        drafts=drafts, requests=total("vllm:time_to_first_token_seconds", "count"), generated=generated,
        prompt_tokens=total("vllm:prompt_tokens"), request_steps=slots, engine_steps=steps,
        intervals=_interval(generated, drafts, slots, slots_s, steps),
        notes=("the server's counters over the run, named without _total",),
    )  # fmt: skip


def _series(metrics: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = metrics.get(name)
    return [one for one in (found or {}).get("series") or () if isinstance(one, dict)] if isinstance(found, dict) else []


def _interval(
    generated: float, drafts: Drafts, slots: float | None, slots_s: float | None, steps: float | None
) -> tuple[Interval, ...]:
    if not slots or not slots_s or not steps or slots < 20:
        return ()
    each_s = slots_s / slots
    return (
        Interval(
            seconds=each_s * steps, running=slots / steps, steady=True, generated_tok_s=generated / steps / each_s,
            drafts=drafts if drafts.drafts else None, plain=not drafts.drafts, step_s=each_s,
        ),
    )  # fmt: skip
