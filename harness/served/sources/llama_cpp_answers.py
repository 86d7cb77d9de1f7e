"""llama.cpp's answers: the `timings` of each, with drafted and accepted tokens where something was drafted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from harness.served.observed import NOTHING, Drafts, Observation, ServedRequest, Settings, pooled
from harness.served.text import Text
from simulator.errors import InputError


class LlamaCppAnswers:
    """See the module. A file holds answers, or their `timings` alone, one or one a line."""

    name: ClassVar[str] = "llama.cpp's answers"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """`predicted_n` and `prompt_n`."""
        return any(_timings(one) is not None for one in text.documents())

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """All answers together; how many drafts there were, none of them says."""
        found, method, most, model = list[ServedRequest](), "", 0, ""
        for text in texts:
            for one in text.documents():
                timings = _timings(one)
                if timings is None or _goes_on(one):
                    continue
                found.append(_request(text, timings))
                settings = one.get("generation_settings")
                if isinstance(settings, dict):
                    types = str(settings.get("speculative.types") or settings.get("speculative.type") or "")
                    method = next((t for t in types.split(",") if t and t != "none"), method)
                    most = max(most, int(settings.get("speculative.n_max") or 0))
                model = str(one.get("model") or model)
        drafted = [one for one in found if one.drafts.drafted]
        notes = [
            "answers say what was drafted and accepted, not in how many drafts: steps are worked out of their lengths, and "
            "a step is taken to hold a draft"
        ]
        total = pooled([one.drafts for one in found])
        return [
            Observation(
                source=self.name, files=tuple(text.name for text in texts),
                settings=Settings(
                    engine="llama.cpp", method=method, gamma=most or None, model=model, speculates=True if drafted else None
                ),
                drafts=None if total.drafted else NOTHING, requests=len(found),
                generated=sum(one.output_tokens for one in found), prompt_tokens=sum(o.prompt_tokens or 0 for o in found),
                request_steps=sum(one.steps for one in found),
                told_apart=tuple(found), notes=tuple(notes),
            )
        ]  # fmt: skip


def _goes_on(one: Mapping[str, Any]) -> bool:
    """Whether it is a piece of a stream that more follow: its timings count from the beginning up to there."""
    choices = one.get("choices")
    pieces = [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []
    chat = any("delta" in each or one.get("object") == "text_completion" for each in pieces)
    return one.get("stop") is False or (chat and all(each.get("finish_reason") is None for each in pieces))


def _timings(one: Mapping[str, Any]) -> Mapping[str, Any] | None:
    own = one.get("timings", one)
    return own if isinstance(own, dict) and {"predicted_n", "prompt_n"} <= own.keys() else None


def _request(text: Text, timings: Mapping[str, Any]) -> ServedRequest:
    try:
        output, drafted, accepted = (int(timings.get(n) or 0) for n in ("predicted_n", "draft_n", "draft_n_accepted"))
        return ServedRequest(
            prompt_tokens=int(timings["prompt_n"]) + int(timings.get("cache_n") or 0), output_tokens=output,
            drafts=Drafts(drafts=0, drafted=drafted, accepted=accepted),
            output_s=float(timings.get("predicted_ms") or 0) / 1e3 or None,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise InputError(f"{text.name}: timings: {error}") from None
