"""SGLang's `/metrics`: gauges of the last batches, an average acceptance and no positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from harness.served.observed import NOTHING, Interval, Observation, Settings
from harness.served.sources.prometheus import Scrape, begins
from harness.served.sources.sglang_log import drafted_tokens
from harness.served.text import Text
from simulator.errors import InputError

_OF_DRAFTS = "accepted drafts / proposed drafts"
"""How newer versions explain their rate."""


class SglangMetrics:
    """See the module."""

    name: ClassVar[str] = "SGLang's /metrics"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """Samples whose names begin with `sglang:`."""
        return text.whole is None and any(begins(line, "sglang") for line in text.lines)

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """One observation of all scrapes: a gauge is a moment's, and its mean over scrapes that of those moments."""
        scrapes = [one.without("engine_type", "draft") for one in Scrape.all_of(texts, "sglang:")]
        models = sorted({name for scrape in scrapes for name in scrape.labels("model_name")})
        if len(models) > 1:
            raise InputError(f"{texts[0].name}: metrics of {len(models)} models ({', '.join(models)}): give those of one")
        # 0 is a gauge that was never set: no batch was drafted for.
        lengths = [v for s in scrapes if (v := s.positive("sglang:spec_accept_length")) is not None]
        length = sum(lengths) / len(lengths) if lengths else None
        if length is not None and length < 1:
            raise InputError(f"{texts[0].name}: sglang:spec_accept_length {length:g}: a step gives 1 token at least")
        gamma = _gamma(scrapes)
        notes = ["gauges: each scrape is of the last batches alone; the accepted length holds the bonus token"]
        whole = [v for s in scrapes if (v := s.positive("sglang:spec_block_accept_length")) is not None]
        caps = [v for s in scrapes if (v := s.positive("sglang:spec_cap_length")) is not None]
        if whole and length:
            notes.append(f"drafts were cut by confidence: whole blocks would have given {sum(whole) / len(whole):.2f}")
            length = sum(whole) / len(whole)
        elif caps and gamma and sum(caps) / len(caps) < gamma + 0.99:
            notes.append(f"drafts were cut by confidence to {sum(caps) / len(caps) - 1:.1f} tokens on average")
        return [
            Observation(
                source=self.name, files=tuple(text.name for text in texts),
                settings=Settings(
                    engine="SGLang", model=models[0] if models else "", gamma=gamma, adaptive=bool(caps),
                    speculates=True if length else None,
                ),
                drafts=None if length else NOTHING, length=length, intervals=tuple(_intervals(scrapes, length)),
                notes=tuple(notes),
            )
        ]  # fmt: skip


def _gamma(scrapes: Sequence[Scrape]) -> int | None:
    """K: one less than the tokens of a verified block, the anchor among them; else by length and rate."""
    blocks = [v for s in scrapes if (v := s.positive("sglang:spec_num_draft_tokens")) is not None]
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
            own = scrape.positive("sglang:spec_accept_length") or length or 1.0
            found.append(
                Interval(seconds=1.0, running=running, steady=True, generated_tok_s=rate, step_s=running * own / rate)
            )
    return found
