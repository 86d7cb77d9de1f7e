"""vLLM's answers with `--per-request-spec-decode-metrics`: what became of every draft of a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from harness.served.observed import (
    Drafts,
    Observation,
    ServedRequest,
    Settings,
    check_gamma,
    of_histogram,
    of_rounds,
    pooled,
)
from harness.served.text import Text
from simulator.errors import InputError
from simulator.numbers import counted
from simulator.usage import bodies

_LEAST: Final = 8
"""Characters of an id that no other answer has."""


class VllmRequests:
    """See the module. A file holds an answer, a list of them, one a line, or the events of a stream."""

    name: ClassVar[str] = "vLLM's answers"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """`metrics.speculative_decoding` in what an OpenAI server answers."""
        return any(_told(one) is not None for one in answers_of(text))

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """All answers together."""
        found, gammas, models, endless = list[ServedRequest](), set[int](), set[str](), 0
        seen, silent, without = set[str](), set[str](), 0
        for text in texts:
            for one in answers_of(text):
                told, name = _told(one), _id(one)
                if told is None:  # a stream's pieces have the id of the last, which tells
                    silent |= {name} - {""} if "usage" in one else set()
                    without += "usage" in one and not name
                    continue
                if name in seen:
                    continue  # an answer that is there again
                seen |= {name} - {""}
                usage = one.get("usage") or {}  # of /v1/responses, output and input
                output, prompt = (
                    usage.get(name, usage.get(other))
                    for name, other in (("completion_tokens", "output_tokens"), ("prompt_tokens", "input_tokens"))
                )
                endless += output is None
                if output is not None:
                    found.append(request_of(text.name, told, output, prompt))
                    gammas.add(gamma_of(told))
                    models.add(str(one.get("model") or ""))
        if not found:
            raise InputError(
                f"{texts[0].name}: no answer says its completion_tokens; streams do with stream_options "
                '{"include_usage": true}'
            )
        without += len(silent - seen)
        notes = [f"{counted(endless, 'answer')} without completion_tokens left out"] * bool(endless)
        return [observation_of(self.name, texts, found, gammas, models, without, notes=notes)]


def _id(one: Mapping[str, Any]) -> str:
    """What an engine calls an answer, as `chatcmpl-a101bb65`; empty for what may be another's too."""
    name = str(one.get("id") or "")
    return name if len(name) >= _LEAST else ""


def answers_of(text: Text) -> Iterator[Mapping[str, Any]]:
    """Answers, as they are or as batches and gateways keep them: in `response` and its like, or its `body`, also as text."""
    for one in text.documents():
        found = list(bodies(one))
        yield next((each for each in found if _told(each) is not None), found[-1])


def _told(one: Mapping[str, Any]) -> Mapping[str, Any] | None:
    metrics = one.get("metrics")
    told = metrics.get("speculative_decoding") if isinstance(metrics, dict) else None
    return told if isinstance(told, dict) and "acceptance_histogram" in told else None


def gamma_of(told: Mapping[str, Any]) -> int:
    """K; 0 where an answer does not say."""
    size = told.get("num_spec_tokens")
    return size if isinstance(size, int) and size > 0 else max(len(told.get("acceptance_histogram") or ()) - 1, 0)


def request_of(file: str, told: Mapping[str, Any], output: Any, prompt: Any, output_s: float | None = None) -> ServedRequest:
    """A request from vLLM's `speculative_decoding`, wherever it was kept. Raises InputError for what cannot be right."""
    try:
        if not isinstance(output, int) or output < 0:
            raise ValueError(f"completion_tokens are needed, got {output!r}")
        gamma = gamma_of(told)
        rounds, drafted = told.get("per_step_accepted"), told.get("per_step_drafted")
        walked, sizes = tuple[int, ...](), tuple[int, ...]()
        if rounds is not None and drafted is not None:
            drafts = of_rounds(rounds, drafted, gamma)
            walked = tuple(int(a) for a, d in zip(rounds, drafted, strict=True) if d > 0)
            sizes = tuple(int(d) for d in drafted if d > 0)
        else:
            drafts = _of_histogram(told)
        return ServedRequest(
            prompt_tokens=prompt if isinstance(prompt, int) else None, output_tokens=output, drafts=drafts, rounds=walked,
            verified=sizes if any(size < gamma for size in sizes) else (), output_s=output_s,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise InputError(f"{file}: speculative_decoding: {error}") from None


def _of_histogram(told: Mapping[str, Any]) -> Drafts:
    """Counts by accepted tokens: a list, or an object whose keys are strings and that leaves zeros out."""
    steps = told.get("acceptance_histogram")
    size = gamma_of(told)
    if isinstance(steps, Mapping):
        size = max([size, *(int(k) for k in steps)])
        check_gamma(size)
        steps = [steps.get(str(k), 0) for k in range(size + 1)]
    drafted = float(told.get("num_draft_tokens") or 0)
    if drafted and not steps:
        raise ValueError(f"num_draft_tokens is {drafted:g}, and acceptance_histogram is not there")
    return of_histogram([float(n) for n in steps or ()], drafted)


def observation_of(
    source: str,
    texts: Sequence[Text],
    found: Sequence[ServedRequest],
    gammas: set[int],
    models: set[str],
    without: int,
    *,
    engine: str = "vLLM",
    adaptive: bool = False,
    notes: Sequence[str] = (),
) -> Observation:
    """What requests told apart come to. Raises InputError where they are of several servers."""
    gammas = gammas - {0} or {0}
    if len(gammas) > 1 or len(models - {""}) > 1:
        apart = f"K = {', '.join(map(str, sorted(gammas)))}" if len(gammas) > 1 else ", ".join(sorted(models))
        raise InputError(f"{texts[0].name}: requests of servers set otherwise ({apart}): give those of one")
    drafts = pooled([one.drafts for one in found])
    told = [
        "steps without a draft are worked out of answers' lengths: drafts that an end cuts make them a little few",
        *notes,
    ]
    if without:
        told.append(f"{counted(without, 'answer')} without speculative metrics left out")
    return Observation(
        source=source, files=tuple(text.name for text in texts),
        settings=Settings(
            engine=engine, served_as=next(iter(models - {""}), ""), gamma=next(iter(gammas)) or None, speculates=True,
            adaptive=adaptive,
        ),
        drafts=drafts, requests=len(found), generated=sum(one.output_tokens for one in found),
        prompt_tokens=sum(one.prompt_tokens or 0 for one in found) or None, request_steps=sum(one.steps for one in found),
        told_apart=tuple(found), notes=tuple(told),
    )  # fmt: skip
