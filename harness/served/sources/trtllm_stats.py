"""TensorRT-LLM's JSON `/metrics` (`enable_iter_perf_stats`): an object an iteration, with its load, time and drafts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from harness.served.observed import NOTHING, Drafts, Interval, Observation, Settings, pooled
from harness.served.text import Text
from simulator.errors import InputError
from simulator.numbers import counted

_WHOLE = 1e-6


class TrtllmStats:
    """See the module. Reading it empties it there: what was kept of several reads belongs together."""

    name: ClassVar[str] = "TensorRT-LLM's /metrics"
    counts: ClassVar[str] = ""

    def recognises(self, text: Text) -> bool:
        """The time of an iteration beside its requests."""
        return any({"iterLatencyMS", "numActiveRequests"} <= one.keys() for one in text.documents()[:50])

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """All iterations of a server that drafts, and those of one that does not. Raises InputError for what cannot be
        right."""
        rows = {text.name: [one for one in text.documents() if "iterLatencyMS" in one] for text in texts}
        plain = [text for text in texts if not any(_drafted(row) for row in rows[text.name])]
        drafting = [text for text in texts if text not in plain]
        most = max((_ran(row) for text in drafting for row in rows[text.name] if _drafted(row)), default=0.0)
        # Where nothing but more requests ran than were ever drafted for, a schedule by batch size may have switched it off.
        beside = [text for text in plain if any(0 < _ran(row) <= most for row in rows[text.name])]
        if not beside or not drafting:
            return [self._read(texts)]
        return [self._read([text for text in texts if text not in beside]), self._read(beside)]

    def _read(self, texts: Sequence[Text]) -> Observation:
        rows, ranks = _of_one_rank([one for text in texts for one in text.documents() if "iterLatencyMS" in one])
        try:
            steps = [step for row in rows if (step := _step(row)) is not None]
        except ValueError as error:
            raise InputError(f"{texts[0].name}: {error}") from None
        if not steps:
            raise InputError(f"{texts[0].name}: no iteration in it generated anything")
        sizes = Counter(_size(drafts) for _, _, drafts, _ in steps if drafts is not None)
        gamma = _gamma([(running, drafts) for running, _, drafts, _ in steps if drafts is not None])
        notes = ["an average of every iteration, the bonus token included; no positions"]
        if ranks > 1:
            notes.append(
                f"attention is shared by {ranks} ranks, whose rows repeat the first one's drafts: its own rows count"
            )
        shorter = sum(number for size, number in sizes.items() if size != gamma)
        if shorter:
            other = "other numbers of" if max(sizes) > gamma else f"less than {gamma}"
            notes.append(
                f"{counted(shorter, 'iteration')} drafted {other} tokens a request, by batch size or by what was found: "
                "what was accepted there is left out of the average"
            )
        kept = [drafts for _, _, drafts, _ in steps if drafts is not None and _size(drafts) == gamma]
        total = pooled(kept)
        generated = sum(running + (drafts.accepted if drafts else 0.0) for running, _, drafts, _ in steps)
        return Observation(
            source=self.name, files=tuple(text.name for text in texts),
            settings=Settings(
                engine="TensorRT-LLM", gamma=gamma or None, speculates=True if total.drafts else None,
                request_cap=next((n for row in rows if isinstance(n := row.get("maxBatchSizeRuntime"), int)), 0) or None,
            ),
            drafts=total if total.drafts else NOTHING, generated=generated,
            request_steps=sum(running for running, *_ in steps),
            intervals=tuple(
                _interval(running, seconds, drafts if drafts is None or _size(drafts) == gamma else None, drafts)
                for running, seconds, drafts, alone in steps
                if alone
            ),
            notes=tuple(notes),
        )  # fmt: skip


def _drafted(row: Mapping[str, Any]) -> bool:
    """Whether anything was drafted in an iteration."""
    told = row.get("specDecodingStats")
    return isinstance(told, dict) and bool(told.get("numDraftTokens"))


def _ran(row: Mapping[str, Any]) -> float:
    """Requests that generated in an iteration; 0 where that is no number, which `_step` refuses."""
    batch = row.get("inflightBatchingStats")
    value = batch.get("numGenRequests") if isinstance(batch, dict) and batch else row.get("numActiveRequests")
    return float(value) if isinstance(value, int | float) else 0.0


def _of_one_rank(rows: Sequence[dict[str, Any]]) -> tuple[Sequence[dict[str, Any]], int]:
    """(the rows of the first rank, how many ranks there are): with attention's data parallel an iteration has a row for each
    rank, its requests its own, its drafts the first one's."""
    ranks = {rank for row in rows if isinstance(rank := row.get("attentionDpRank"), int)}
    if len(ranks) < 2:
        return rows, len(ranks)
    return [row for row in rows if row.get("attentionDpRank", min(ranks)) == min(ranks)], len(ranks)


def _gamma(drafted: Sequence[tuple[float, Drafts]]) -> int:
    """K, of (running, drafts) of iterations: the longest drafts; where fewer tokens are drafted the more run, as a schedule
    by batch size has it, those that most requests had."""
    running, requests = dict[int, list[float]](), Counter[int]()
    for batch, drafts in drafted:
        size = _size(drafts)
        running.setdefault(size, []).append(batch)
        requests[size] += round(drafts.drafts)
    sizes = sorted(running, reverse=True)
    if len(sizes) > 1 and all(max(running[a]) < min(running[b]) for a, b in itertools.pairwise(sizes)):
        return requests.most_common(1)[0][0]
    return max(sizes, default=0)


def _step(row: Mapping[str, Any]) -> tuple[float, float, Drafts | None, bool] | None:
    """(requests that generate, seconds, drafts, whether no prompt ran beside them); None where nothing was generated.
    Raises ValueError."""

    def number(of: Mapping[str, Any], name: str) -> float:
        value = of.get(name) or 0
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e12:
            raise ValueError(f"{name} must be a number, got {value!r}")
        return float(value)

    batch, told = (
        own if isinstance(own := row.get(name), dict) else {} for name in ("inflightBatchingStats", "specDecodingStats")
    )
    running = number(batch, "numGenRequests") if batch else number(row, "numActiveRequests")
    if running < 1:
        return None
    drafts = None
    if drafted := number(told, "numDraftTokens"):
        rounds = number(told, "numRequestsWithDraftTokens")
        if not 1 <= rounds <= drafted:
            raise ValueError(f"numRequestsWithDraftTokens is {rounds:g} with {drafted:g} drafted tokens")
        drafts = Drafts(drafts=rounds, drafted=drafted, accepted=number(told, "numAcceptedTokens"))
    seconds = number(row, "iterLatencyMS") / 1e3
    return running, seconds, drafts, seconds > 0 and not number(batch, "numContextRequests")


def _size(drafts: Drafts) -> int:
    """Tokens of a draft, on average of an iteration, rounded up."""
    return int(-(-(drafts.drafted - _WHOLE) // drafts.drafts))


def _interval(running: float, seconds: float, of_k: Drafts | None, drafts: Drafts | None) -> Interval:
    generated = running + (drafts.accepted if drafts else 0.0)
    return Interval(
        seconds=seconds, running=running, steady=True, generated_tok_s=generated / seconds, drafts=of_k,
        plain=drafts is None, step_s=seconds,
    )  # fmt: skip
