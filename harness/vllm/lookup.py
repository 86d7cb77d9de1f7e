"""What vLLM's n-gram method drafts: what follows the earliest place of the longest suffix; ours takes the latest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drafters.dense import DenseText, record_anchors
from drafters.kinds.ngram import IndexedText, NGram
from drafters.target import Target
from harness.validation.points import LiveRequest
from results.store.database import Store
from results.store.traces import read_first_turns
from simulator.records import Sampling
from simulator.traces import Trace, TracedResponse


class _EarliestText(IndexedText):
    """A growing text that knows where each of its short stretches stood first."""

    def append(self, token: int) -> None:
        end = len(self.tokens)
        for size in self.sizes:
            if size <= end:
                self.ends.setdefault(tuple(self.tokens[end - size :]), end)
        self.tokens.append(token)


class EarliestLookup(NGram):
    """Prompt lookup as in vLLM 0.32."""

    def new_text(self) -> IndexedText:
        return _EarliestText(self.sizes)


def lookup_trace(
    store: Store,
    run_id: str,
    responses: Sequence[TracedResponse],
    asked: Mapping[str, LiveRequest],
    target: Target,
    gamma: int,
) -> Trace:
    """Dense record of vLLM's n-gram drafts on the first turns of a run's prompts. `asked`: by prompt id."""
    with store.reading() as connection:
        said = read_first_turns(connection, run_id)
    kept = [r for r in responses if r.turn == 0 and r.prompt_id in asked]
    texts = []
    for r in kept:
        tokens, beyond, finish = said[r.prompt_id]
        texts.append(DenseText(asked[r.prompt_id].ids, tuple(tokens), tuple(beyond), finish == "stop", (0,)))
    [recorded] = record_anchors(target, [EarliestLookup(gamma)], texts, Sampling(0.0))
    return Trace.join("ngram", list(zip(kept, recorded["either"], strict=True)), "either")
