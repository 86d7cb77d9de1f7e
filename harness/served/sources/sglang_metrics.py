"""SGLang's `/metrics`: an average acceptance and no positions, by counters of newer versions, else by gauges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from harness.served.observed import NOTHING, Drafts, Interval, Observation, Settings
from harness.served.sources.prometheus import Counts, Scrape, Window, begins, remarks, together, windows
from harness.served.sources.sglang_log import drafted_tokens, k_changes
from harness.served.text import Text
from simulator.errors import InputError

_OF_DRAFTS = "accepted drafts / proposed drafts"
"""How newer versions explain their rate."""
_COUNTERS = {
    "generated": "sglang:generation_tokens", "prompt": "sglang:prompt_tokens", "requests": "sglang:num_requests",
    "steps": "sglang:spec_verify_calls",
}  # fmt: skip
"""Each grows when a request ends, by what it was in all."""
_ABOVE = 1.1
"""What an average since the start may be above those of moments."""


class SglangMetrics:
    """See the module."""

    name: ClassVar[str] = "SGLang's /metrics"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """Samples whose names begin with `sglang:`."""
        return text.whole is None and any(begins(line, "sglang") for line in text.lines)

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """One observation of the scrapes of a server that drafts, and one of those that were taken at work and know no
        drafts beside them."""
        scrapes = [one.without("engine_type", "draft") for one in Scrape.all_of(texts, "sglang:")]
        plain = [one for one in scrapes if _is_plain(one)]
        drafting = [one for one in scrapes if one.positive("sglang:spec_accept_length") is not None]
        if not plain or not drafting:
            return [self._of(scrapes, texts)]
        rest = [one for one in scrapes if one not in plain]
        return [self._of(own, list({id(one.text): one.text for one in own}.values())) for own in (rest, plain)]

    def _of(self, scrapes: Sequence[Scrape], texts: Sequence[Text]) -> Observation:
        """A gauge is a moment's, and its mean over scrapes that of those moments."""
        models = sorted({name for scrape in scrapes for name in scrape.labels("model_name")})
        if len(models) > 1:
            raise InputError(f"{texts[0].name}: metrics of {len(models)} models ({', '.join(models)}): give those of one")
        # 0 is a gauge that was never set: no batch was drafted for.
        lengths = [v for s in scrapes if (v := s.positive("sglang:spec_accept_length")) is not None]
        length = sum(lengths) / len(lengths) if lengths else None
        if length is not None and length < 1:
            raise InputError(f"{texts[0].name}: sglang:spec_accept_length {length:g}: a step gives 1 token at least")
        gamma = _gamma(scrapes)
        found = windows(scrapes, _counts, "generated") if all("steps" in _counts(s) for s in scrapes) else []
        notes = list[str]()
        if (ended := _ended(texts[0], found, gamma, length, notes)) is not None and not any(
            scrape.samples.get("sglang:spec_cap_length") for scrape in scrapes
        ):
            return _counted(texts, ended, models, gamma, tuple(_intervals(scrapes, length)), found)
        notes += ["gauges: each scrape is of the last batches alone; the accepted length holds the bonus token"]
        whole = [v for s in scrapes if (v := s.positive("sglang:spec_block_accept_length")) is not None]
        caps = [v for s in scrapes if (v := s.positive("sglang:spec_cap_length")) is not None]
        if whole and length:
            notes.append(f"drafts were cut by confidence: whole blocks would have given {sum(whole) / len(whole):.2f}")
            length = sum(whole) / len(whole)
        elif caps and gamma and sum(caps) / len(caps) < gamma + 0.99:
            notes.append(f"drafts were cut by confidence to {sum(caps) / len(caps) - 1:.1f} tokens on average")
        return Observation(
            source=self.name, files=tuple(text.name for text in texts),
            settings=Settings(
                engine="SGLang", model=models[0] if models else "", gamma=gamma, adaptive=bool(caps),
                speculates=True if length or gamma else None,
            ),
            drafts=None if length or gamma else NOTHING, length=length, intervals=tuple(_intervals(scrapes, length)),
            notes=tuple(notes),
        )  # fmt: skip


def _is_plain(scrape: Scrape) -> bool:
    """Whether it was taken at work, and nothing was drafted: a gauge of drafts is set with the first of them."""
    at_work = scrape.positive("sglang:num_running_reqs") and scrape.positive("sglang:gen_throughput")
    of_drafts = ("spec_accept_length", "spec_verify_calls_total", "spec_verify_calls", "spec_num_draft_tokens")
    return bool(at_work) and not any(scrape.positive(f"sglang:{name}") for name in of_drafts)


def _counts(scrape: Scrape) -> Counts:
    return {name: value for name, counter in _COUNTERS.items() if (value := scrape.total(counter)) is not None}


def _ended(
    text: Text, found: Sequence[Window], gamma: int | None, length: float | None, notes: list[str]
) -> tuple[Drafts, Counts] | None:
    """(drafts, counts) of the requests that ended; None where none did, where nothing counts them, or where gauges show by
    their `length` that steps without a verification would be taken for accepted tokens. Raises InputError."""
    grown = together(found)
    steps = grown.get("steps", 0.0)
    if not steps or not {"generated", "requests"} <= grown.keys():
        return None
    accepted = grown["generated"] - grown["requests"] - steps
    beyond = bool(gamma and accepted > gamma * steps * 1.01)
    if length is not None and (beyond or 1 + accepted / steps > _ABOVE * length):
        notes.append(
            f"its counters would give {1 + accepted / steps:.2f} tokens a step, its gauges {length:.2f}: there were steps "
            "without a verification, and gauges are read"
        )
        return None
    if accepted < -0.01 * steps or beyond:
        raise InputError(
            f"{text.name}: {grown['generated']:,.0f} tokens of {grown['requests']:,.0f} requests do not come of "
            f"{steps:,.0f} verifications{f' of {gamma} drafted tokens' if gamma else ''}: it was cut, or filtered"
        )
    accepted = min(max(accepted, 0.0), gamma * steps if gamma else accepted)
    return Drafts(drafts=steps, drafted=(gamma or 0) * steps, accepted=accepted), grown


def _counted(
    texts: Sequence[Text], ended: tuple[Drafts, Counts], models: Sequence[str], gamma: int | None,
    intervals: tuple[Interval, ...], found: Sequence[Window],
) -> Observation:  # fmt: skip
    drafts, grown = ended
    notes = [
        "counters of requests that ended: a token of its prompt, one of each verification, the others were accepted, as "
        "every step is taken to verify a draft"
    ]
    return Observation(
        source=SglangMetrics.name, files=tuple(text.name for text in texts),
        settings=Settings(engine="SGLang", model=models[0] if models else "", gamma=gamma, speculates=True),
        drafts=drafts, requests=grown["requests"], generated=grown["generated"], prompt_tokens=grown.get("prompt"),
        request_steps=drafts.drafts, intervals=intervals, notes=(*notes, *remarks(found)),
    )  # fmt: skip


def _gamma(scrapes: Sequence[Scrape]) -> int | None:
    """K: one less than the tokens of a verified block, the anchor among them; else by length and rate."""
    blocks = [v for s in scrapes if (v := s.positive("sglang:spec_num_draft_tokens")) is not None]
    if len(set(blocks)) > 1:
        raise k_changes(scrapes[0].text.name)
    if blocks:
        return max(1, round(max(blocks)) - 1)
    return drafted_tokens(
        [
            (length, rate)
            for s in scrapes
            for length, rate in [(s.positive("sglang:spec_accept_length"), s.positive("sglang:spec_accept_rate"))]
            if length and rate
        ],
        1e-4,
        (0,) if any(_OF_DRAFTS in scrape.text.text for scrape in scrapes) else (0, 1),
    )


def _intervals(scrapes: Sequence[Scrape], length: float | None) -> list[Interval]:
    """What a step took, from the throughput of the last batches."""
    found = []
    for scrape in scrapes:
        running, rate = scrape.positive("sglang:num_running_reqs"), scrape.positive("sglang:gen_throughput")
        if running and rate:
            plain = _is_plain(scrape)
            own = 1.0 if plain else scrape.positive("sglang:spec_accept_length") or length or 1.0
            found.append(
                Interval(
                    seconds=1.0, running=running, steady=True, generated_tok_s=rate, step_s=running * own / rate,
                    plain=plain, kv_used=scrape.positive("sglang:token_usage"),
                )
            )  # fmt: skip
    return found
