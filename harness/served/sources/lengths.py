"""Requests of which only the lengths are known: nobody says what became of their drafts."""

from __future__ import annotations

from collections.abc import Sequence

from harness.served.observed import MOST_TOKENS, Observation
from harness.served.text import Text


def of_lengths(
    source: str, texts: Sequence[Text], lengths: Sequence[tuple[int | None, int | None]], why: str
) -> Observation:
    """What requests say beside other files, that know their drafts: how many there were, and how long.

    Args:
        source: the source's name.
        texts: the files.
        lengths: prompt and output tokens of each request; one without its output, or with an impossible length, is left out.
        why: what is not there, and how it would be.
    """
    known = [
        (prompt or 0, output)
        for prompt, output in lengths
        if output is not None and max(prompt or 0, output) <= MOST_TOKENS and min(prompt or 0, output) >= 0
    ]
    return Observation(
        source=source, files=tuple(text.name for text in texts), requests=len(known) or None,
        prompt_tokens=sum(prompt for prompt, _ in known) or None, generated=sum(output for _, output in known) or None,
        notes=(why,),
    )  # fmt: skip
