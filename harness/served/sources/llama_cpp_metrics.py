"""llama.cpp's `/metrics`: counters since the server began, without labels but a position's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from harness.served.observed import NOTHING, Drafts, NothingServed, Observation, Settings
from harness.served.sources.prometheus import Counts, Scrape, begins, in_all, remarks, windows
from harness.served.text import Text
from simulator.errors import InputError

_SPEC = "llamacpp:spec_decode_num_"
_COUNTERS: Mapping[str, str] = {
    "generated": "llamacpp:tokens_predicted", "prompt": "llamacpp:prompt_tokens", "decodes": "llamacpp:n_decode",
    "drafts": f"{_SPEC}drafts", "drafted": f"{_SPEC}draft_tokens", "accepted": f"{_SPEC}accepted_tokens",
}  # fmt: skip


class LlamaCppMetrics:
    """See the module."""

    name: ClassVar[str] = "llama.cpp's /metrics"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """Samples whose names begin with `llamacpp:`."""
        return text.whole is None and any(begins(line, "llamacpp") for line in text.lines)

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """One observation of all scrapes."""
        scrapes = Scrape.all_of(texts, "llamacpp:")
        for scrape in scrapes:
            if scrape.total("llamacpp:tokens_predicted") is None:
                raise InputError(f"{scrape.text.name}: has no llamacpp:tokens_predicted_total: it was cut, or filtered")
        found = windows(scrapes, in_all(scrapes, _counts), "generated")
        if len(found) > 1:
            raise InputError(
                f"{texts[0].name}: scrapes of {len(found)} servers, or of one that began anew; give those of one"
            )
        [window] = found
        grown = window.grown
        if not grown.get("generated"):
            raise NothingServed(f"{texts[0].name}: nothing was generated {_when(window.since_start)}")
        notes = ["a draft is a step in which something was proposed; requests are not counted"]
        notes += remarks(found)
        drafts = _drafts(texts[0], grown)
        # One request at a time: a decode is a step of it. More at a time share one, and steps of requests are not known.
        alone = scrapes[-1].mean("llamacpp:n_busy_slots_per_decode")
        steps = grown.get("decodes") if alone is None or alone <= 1.01 else None
        return [
            Observation(
                source=self.name, files=tuple(text.name for text in texts),
                settings=Settings(
                    engine="llama.cpp", gamma=_gamma(drafts), speculates=True if drafts.drafts else None
                ),
                drafts=drafts, generated=grown["generated"], prompt_tokens=grown.get("prompt"), request_steps=steps,
                notes=tuple(notes),
            )
        ]  # fmt: skip


def _when(since_start: bool) -> str:
    return "since the server began" if since_start else "between the scrapes"


def _counts(scrape: Scrape) -> Counts:
    found = {name: value for name, counter in _COUNTERS.items() if (value := scrape.total(counter)) is not None}
    at = scrape.by_label(f"{_SPEC}accepted_tokens_per_pos", "position")
    return {**found, **{f"at {int(position)}": value for position, value in at.items()}}


def _drafts(text: Text, grown: Counts) -> Drafts:
    if not grown.get("drafts"):
        return NOTHING
    size = max((int(name[3:]) + 1 for name in grown if name.startswith("at ")), default=0)
    try:
        return Drafts(
            drafts=grown["drafts"], drafted=grown.get("drafted", 0.0), accepted=grown.get("accepted", 0.0),
            accepted_at=tuple(grown.get(f"at {k}", 0.0) for k in range(size)),
        )  # fmt: skip
    except ValueError as error:
        raise InputError(f"{text.name}: {error}") from None


def _gamma(drafts: Drafts) -> int | None:
    """Tokens of the longest draft, as far as they are told."""
    if not drafts.drafts:
        return None
    return max(len(drafts.accepted_at), round(drafts.drafted / drafts.drafts)) or None
