"""Prompt lookup."""

from __future__ import annotations

from drafters.kinds.text import TextDrafter


class IndexedText:
    """A growing text that knows where each of its short stretches stood last."""

    def __init__(self, sizes: range) -> None:
        self.tokens: list[int] = []
        self.sizes = sizes
        self.ends: dict[tuple[int, ...], int] = {}

    def append(self, token: int) -> None:
        """One token more. Stretches up to the token before it become earlier places."""
        end = len(self.tokens)
        for size in self.sizes:
            if size <= end:
                self.ends[tuple(self.tokens[end - size :])] = end
        self.tokens.append(token)

    def follow(self, gamma: int) -> list[int]:
        """At most γ tokens that followed the latest earlier place of the longest suffix found."""
        for size in reversed(self.sizes):
            if size < len(self.tokens):
                end = self.ends.get(tuple(self.tokens[-size:]))
                if end is not None:
                    return self.tokens[end : end + gamma]
        return []


class NGram(TextDrafter):
    """Prompt lookup: finds the latest earlier place where the context's longest suffix stands, proposes what followed it.

    Suffixes of `max_match` down to `min_match` tokens are tried. No match, or a match near the end of the context,
    drafts fewer than γ tokens or none.
    """

    kind = "ngram"

    def __init__(self, gamma: int = 7, *, min_match: int = 2, max_match: int = 4) -> None:
        super().__init__(gamma)
        if not 1 <= min_match <= max_match:
            raise ValueError(f"ngram: 1 ≤ min_match ≤ max_match needed, got {min_match}, {max_match}")
        self.sizes = range(min_match, max_match + 1)

    def new_text(self) -> IndexedText:
        return IndexedText(self.sizes)
