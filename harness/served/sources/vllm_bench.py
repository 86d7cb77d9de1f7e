"""`vllm bench serve --save-result`: one measured point under load, with its acceptance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from harness.served.observed import NOTHING, Drafts, Observation, Point, Settings
from harness.served.text import Text
from simulator.errors import InputError


class VllmBench:
    """See the module."""

    name: ClassVar[str] = "vllm bench serve"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """Its totals and throughputs; a file holds one result, or one a line where they were appended."""
        return any({"output_throughput", "total_output_tokens", "num_prompts"} <= one.keys() for one in text.documents())

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """An observation a result: loads are not pooled."""
        return [_observation(text, one) for text in texts for one in text.documents() if "output_throughput" in one]


def _observation(text: Text, one: Mapping[str, Any]) -> Observation:
    def count(name: str) -> float:
        value = one.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e15:
            raise InputError(f"{text.name}: {name}: a number is needed, got {value!r}")
        return float(value)

    speculates = "spec_decode_num_drafts" in one
    drafts, notes = NOTHING, list[str]()
    if speculates:
        shares = one.get("spec_decode_per_position_acceptance_rates") or []
        number = count("spec_decode_num_drafts")
        try:
            drafts = Drafts(
                drafts=number, drafted=count("spec_decode_draft_tokens"), accepted=count("spec_decode_accepted_tokens"),
                accepted_at=tuple(round(float(share) * number, 6) for share in shares),
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise InputError(f"{text.name}: spec_decode: {error}") from None
        notes.append("its acceptance rate is in percent, its rates by position are shares of drafts")
    users, model = one.get("max_concurrency"), str(one.get("model_id") or "")
    output, requests = count("total_output_tokens"), count("completed")
    points: tuple[Point, ...] = ()
    if isinstance(users, int | float) and users > 0:
        points = (
            Point(
                concurrency=float(users),
                output_tok_s=count("output_throughput"),
                what="speculating" if speculates else "none",
            ),
        )
    return Observation(
        source=VllmBench.name, files=(text.name,),
        settings=Settings(
            engine="vLLM", model=model, gamma=len(drafts.accepted_at) or None, speculates=speculates or None,
        ),
        drafts=drafts, requests=requests, prompt_tokens=count("total_input_tokens"), generated=output,
        request_steps=max(output - requests - drafts.accepted, drafts.drafts) or None, points=points, notes=tuple(notes),
    )  # fmt: skip
