"""TensorRT-LLM's `/prometheus/metrics` (`return_perf_metrics`): counters of requests that ended, since the server began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from harness.served.observed import NOTHING, Drafts, Observation, Settings
from harness.served.sources.prometheus import Counts, Scrape, begins, remarks, together, windows
from harness.served.text import Text
from simulator.errors import InputError

_SPEC: Final = "trtllm:spec_decode_"
_CONFIG: Final = "trtllm:speculative_config_info"
_COUNTERS: Final[Mapping[str, str]] = {
    "generated": "trtllm:generation_tokens", "prompt": "trtllm:prompt_tokens", "requests": "trtllm:request_success",
    "drafted": f"{_SPEC}num_draft_tokens", "accepted": f"{_SPEC}num_accepted_tokens",
}  # fmt: skip
_POSITION: Final = "token_position"


class TrtllmMetrics:
    """See the module."""

    name: ClassVar[str] = "TensorRT-LLM's /prometheus/metrics"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """Samples whose names begin with `trtllm_`."""
        return text.whole is None and any(begins(line, "trtllm") for line in text.lines)

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """One observation of all servers together. Raises InputError."""
        scrapes = Scrape.all_of(texts, "trtllm:")
        models = sorted({name for scrape in scrapes for name in scrape.labels("model_name")})
        if len(models) > 1:
            raise InputError(f"{texts[0].name}: metrics of {len(models)} models ({', '.join(models)}): give those of one")
        settings = _settings(scrapes, models[0] if models else "")
        found = windows(scrapes, _counts, "requests")
        grown = together(found)
        if not grown.get("generated") and not grown.get("tried 0"):
            raise InputError(
                f"{texts[0].name}: no request ended that counts its tokens: serve with return_perf_metrics, and give "
                "scrapes with requests between them"
            )
        notes = ["counters of requests that ended: those that run are not in them"]
        drafts = _drafts(texts[0], grown, settings.gamma, notes)
        requests, output = grown.get("requests"), grown.get("generated")
        steps = None if output is None or requests is None else max(output - requests - drafts.accepted, drafts.drafts)
        return [
            Observation(
                source=self.name, files=tuple(text.name for text in texts),
                settings=Settings(
                    gamma=len(drafts.accepted_at) or None, speculates=True if drafts.drafts else None
                ).beside(settings),
                drafts=drafts, requests=requests, generated=output, prompt_tokens=grown.get("prompt"),
                request_steps=steps or None, notes=(*notes, *remarks(found)),
            )
        ]  # fmt: skip


def _settings(scrapes: Sequence[Scrape], model: str) -> Settings:
    """What the server was started with: labels of gauges that are 1. A table by batch size has no K of its own there."""
    told = {name: value for one in scrapes for labels, _ in one.samples.get(_CONFIG, ()) for name, value in labels.items()}
    tokens, drafter = told.get("spec_num_tokens", ""), told.get("spec_draft_model", "")
    return Settings(
        engine="TensorRT-LLM", served_as=model, method=told.get("spec_method", ""),
        drafter="" if drafter in ("", "None", "none") else drafter,
        gamma=int(tokens) if tokens.isdigit() and int(tokens) else None,
    )  # fmt: skip


def _counts(scrape: Scrape) -> Counts:
    found = {name: value for name, counter in _COUNTERS.items() if (value := scrape.total(counter)) is not None}
    for word, counter in (("tried", "drafted_tokens"), ("at", "accepted_tokens")):
        of = scrape.by_label(f"{_SPEC}{counter}", _POSITION)
        found |= {f"{word} {int(position)}": value for position, value in of.items()}
    return found


def _drafts(text: Text, grown: Counts, gamma: int | None, notes: list[str]) -> Drafts:
    """By position, where it counts those; else of so many drafts as K goes into drafted tokens. Raises InputError."""
    size = max((int(name[6:]) + 1 for name in grown if name.startswith("tried ")), default=0)
    try:
        if size:
            notes.append(
                "a draft is a step in which a first token was proposed; positions are counted as they were accepted"
            )
            at = tuple(grown.get(f"at {k}", 0.0) for k in range(size))
            return Drafts(
                drafts=grown.get("tried 0", 0.0), drafted=sum(grown.get(f"tried {k}", 0.0) for k in range(size)),
                accepted=sum(at), accepted_at=at,
            )  # fmt: skip
        if not (drafted := grown.get("drafted", 0.0)):
            return NOTHING
        if not gamma:
            raise InputError(
                f"{text.name}: counts drafted and accepted tokens, and neither drafts nor K: an average length does not "
                "follow; give a server's answers with per_request_spec_decode_stats, or its JSON /metrics"
            )
        notes.append(f"it counts no drafts: there are as many as {gamma} goes into drafted tokens")
        return Drafts(drafts=round(drafted / gamma), drafted=drafted, accepted=grown.get("accepted", 0.0))
    except ValueError as error:
        raise InputError(f"{text.name}: {error}") from None
