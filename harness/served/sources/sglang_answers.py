"""SGLang's answers: what became of each request's drafts, in `meta_info` or, of its OpenAI server, in `sglext`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from harness.served.observed import NOTHING, Drafts, Observation, ServedRequest, check_gamma, of_histogram
from harness.served.sources.vllm_requests import answers_of, observation_of
from harness.served.text import Text
from simulator.errors import InputError

_STEPS: Final = "spec_verify_ct"
_HISTOGRAMS: Final = ("spec_correct_drafts_histogram", "spec_accept_histogram")
_ACCEPTED: Final = ("spec_num_correct_drafts", "spec_accepted_drafts", "spec_accept_token_num")
_DRAFTED: Final = ("spec_num_proposed_drafts", "spec_proposed_drafts", "spec_draft_token_num")
"""What versions have called them, the newest first."""


class _Told(NamedTuple):
    """What an answer says of its drafts."""

    output_tokens: int
    prompt_tokens: int | None
    steps: int
    """Verifications, each of a draft."""
    drafted: int
    accepted: int
    histogram: tuple[int, ...]
    """Steps that accepted 0, 1, … tokens; empty where it does not say."""
    capped: bool
    """Whether less than was drafted was verified."""


class SglangAnswers:
    """See the module. A file holds an answer, a list of them, one a line, or the events of a stream."""

    name: ClassVar[str] = "SGLang's answers"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """`spec_verify_ct` in what it says of a request."""
        return any(_STEPS in meta for one in answers_of(text) for _, meta, _ in _metas(one))

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """All answers together. Raises InputError for what cannot be right."""
        found, models, without = list[_Told](), set[str](), 0
        for text in texts:
            for model, usage, meta in _requests(text):
                if meta is None:
                    without += 1
                else:
                    found.append(_told(text, meta, usage))
                    models.add(model)
        bonus = _holds_bonus(found)
        most = max((len(one.histogram) - 1 - bonus for one in found), default=0)
        gamma = max(most, round(max((one.drafted / one.steps for one in found if one.steps), default=0.0)))
        try:
            check_gamma(gamma)
            requests = [_request(one, gamma, bonus=bonus) for one in found]
        except ValueError as error:
            raise InputError(f"{texts[0].name}: meta_info: {error}") from None
        notes = ["its histogram holds the bonus token, which is taken off"] if bonus else []
        if 0 < most < gamma / 2:
            notes.append(f"no draft of {gamma} was accepted beyond {most}: of trees of drafts this would say nothing")
        return [
            observation_of(
                self.name, texts, requests, {gamma}, models, without, engine="SGLang", notes=notes,
                adaptive=any(one.capped for one in found),
            )
        ]  # fmt: skip


def _metas(one: Mapping[str, Any]) -> Iterator[tuple[Any, Mapping[str, Any], Mapping[str, Any]]]:
    """(which request, what it says of it, its usage): of the native server, of each choice, of an OpenAI answer."""
    usage = own if isinstance(own := one.get("usage"), dict) else {}
    if isinstance(meta := one.get("meta_info"), dict):
        yield (meta.get("id") or one.get("id"), 0), meta, meta
    if "request_parameters" in one:  # what the server itself writes into files
        yield (one.get("id"), 0), one, one
    for choice in own if isinstance(own := one.get("choices"), list) else ():
        if isinstance(choice, dict) and isinstance(meta := choice.get("meta_info"), dict):
            yield (one.get("id"), choice.get("index", 0)), meta, {**usage, **meta}
    extra = one.get("sglext")
    if isinstance(extra, dict) and isinstance(meta := extra.get("spec_tokens_details"), dict):
        yield (one.get("id"), 0), meta, usage


def _requests(text: Text) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any] | None]]:
    """(model, usage, what is said of drafts) of each request; of a stream's events the last that say it."""
    usages, told = dict[Any, Mapping[str, Any]](), dict[Any, tuple[str, Mapping[str, Any] | None]]()
    for number, one in enumerate(answers_of(text)):
        model = str(one.get("model") or "")
        named = (one.get("id"), 0) if one.get("id") else (number, 0)
        if isinstance(usage := one.get("usage"), dict):
            usages[named] = usage
            told.setdefault(named, (model, None))
        for key, meta, usage in _metas(one):
            own = key if key[0] else (number, key[1])
            if _STEPS in meta:
                told[own] = (model, meta)
            if usage.get("completion_tokens") is not None or own not in usages:
                usages[own] = usage
    for key, (model, spoken) in told.items():
        yield model, usages.get(key, {}), spoken


def _told(text: Text, meta: Mapping[str, Any], usage: Mapping[str, Any]) -> _Told:
    def count(*names: str) -> int | None:
        value = next((meta[name] for name in names if meta.get(name) is not None), None)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise InputError(f"{text.name}: {names[0]} must be a whole number, got {value!r}")
        return value

    output, prompt, steps = usage.get("completion_tokens"), usage.get("prompt_tokens"), count(_STEPS) or 0
    if not isinstance(output, int) or isinstance(output, bool) or output < 0:
        raise InputError(f"{text.name}: completion_tokens are needed, got {output!r}")
    histogram = next((meta[name] for name in _HISTOGRAMS if meta.get(name)), ())
    accepted = count(*_ACCEPTED)
    return _Told(
        output, prompt if isinstance(prompt, int) else None, steps, count(*_DRAFTED) or 0,
        max(output - 1 - steps, 0) if accepted is None else accepted, tuple(int(n) for n in histogram),
        bool(meta.get("spec_cap_length")),
    )  # fmt: skip


def _holds_bonus(found: Sequence[_Told]) -> bool:
    """Whether histograms count the bonus token: some versions' did. An answer has a token of its prompt, one of each step,
    and those accepted."""
    some = [one for one in found if one.histogram]
    if not some or any(one.histogram[0] for one in some):
        return False
    told = sum(k * n for one in some for k, n in enumerate(one.histogram))
    emitted, steps = sum(max(one.output_tokens - 1 - one.steps, 0) for one in some), sum(one.steps for one in some)
    return abs(told - steps - emitted) < abs(told - emitted)


def _request(told: _Told, gamma: int, *, bonus: bool) -> ServedRequest:
    """Raises ValueError where counts contradict each other."""
    steps = told.histogram[1:] if bonus else told.histogram
    if not told.steps:
        drafts = NOTHING
    elif steps:
        if sum(steps) != told.steps:
            raise ValueError(f"{sum(steps)} steps in its histogram, and spec_verify_ct is {told.steps}")
        drafts = of_histogram([float(n) for n in (*steps, *(0,) * (gamma + 1 - len(steps)))], told.drafted)
    else:
        drafts = Drafts(drafts=told.steps, drafted=told.drafted, accepted=told.accepted)
    return ServedRequest(prompt_tokens=told.prompt_tokens, output_tokens=told.output_tokens, drafts=drafts)
