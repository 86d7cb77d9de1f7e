"""TensorRT-LLM's answers with `per_request_spec_decode_stats`: how many tokens of each request's drafts were accepted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from harness.served.observed import Observation, ServedRequest
from harness.served.sources.vllm_requests import answers_of, gamma_of, observation_of, request_of
from harness.served.text import Text


class TrtllmAnswers:
    """See the module. It stands with each choice, of a stream with the one that ends it."""

    name: ClassVar[str] = "TensorRT-LLM's answers"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """`speculative_decoding` of a choice."""
        return any(_choices(one) for one in answers_of(text))

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """All answers together."""
        found, gammas, longest, models, without = list[ServedRequest](), set[int](), 0, set[str](), 0
        for text in texts:
            for one, told in _answers(text):
                if not told:
                    without += 1
                    continue
                usage = own if isinstance(own := one.get("usage"), dict) else {}
                for choice in told:  # usage is of all choices together
                    output = (
                        usage.get("completion_tokens")
                        if len(told) == 1 and usage.get("completion_tokens") is not None
                        else 1 + sum((k + 1) * n for k, n in enumerate(choice["acceptance_histogram"]))
                    )
                    whole = {**choice, "num_draft_tokens": choice.get("total_draft_tokens")}
                    found.append(request_of(text.name, whole, output, usage.get("prompt_tokens")))
                    longest = max(longest, gamma_of(choice))
                    gammas |= {size} if isinstance(size := choice.get("num_spec_tokens"), int) else set()
                models.add(str(one.get("model") or ""))
        note = "requests with a choice that never drafted do not say so: they count as answers without metrics"
        return [
            observation_of(
                self.name, texts, found, gammas or {longest}, models, without, engine="TensorRT-LLM",
                notes=[note] if without else [],
            )
        ]  # fmt: skip


def _choices(one: Mapping[str, Any]) -> dict[Any, Mapping[str, Any]]:
    """What an answer says of its choices' drafts, by the choice's index."""
    found = dict[Any, Mapping[str, Any]]()
    for place, choice in enumerate(own if isinstance(own := one.get("choices"), list) else ()):
        told = choice.get("speculative_decoding") if isinstance(choice, dict) else None
        if isinstance(told, dict) and isinstance(told.get("acceptance_histogram"), list):
            found[choice.get("index", place)] = told
    return found


def _answers(text: Text) -> Iterator[tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
    """(answer, what it says of each choice's drafts); events of a stream of one answer together, and copies once."""
    apart = dict[Any, tuple[dict[str, Any], dict[Any, Mapping[str, Any]]]]()
    for number, one in enumerate(answers_of(text)):
        if "choices" not in one:
            continue
        merged, told = apart.setdefault(one.get("id") or number, ({}, {}))
        merged.update({name: one[name] for name in ("usage", "model") if one.get(name)})
        told |= _choices(one)
    yield from ((merged, list(told.values())) for merged, told in apart.values())
