"""Plain facts of every kind of drafter, one row each, in the order of reports; the drafters themselves are in `drafters`.

A drafter is looked up by its kind, which a run stores beside the name that its pair gives it: two drafters of one kind may
be called `old` and `new`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterKind:
    """What everybody may know of a kind without loading a drafter. Raises ValueError for facts that contradict."""

    name: str
    """The kind's name as runs store it, for instance dspark."""
    learned: bool
    """Whether it has weights, in a checkpoint."""
    one_pass: bool
    """Whether a block takes one pass, or none, however long it is; else each token takes a pass."""
    prefix: bool
    """Whether k drafted tokens are the first k of γ: where a whole block is computed at once, they are others."""
    one_hot: bool = False
    """Whether it has no distribution to draw from: drafts are the same however they are chosen."""
    default_tokens: int | None = None
    """What is drafted where nobody says; None is the checkpoint's own block."""

    @property
    def looks_up(self) -> bool:
        """Whether it drafts what it finds in the text so far, and nothing in steps in which it finds nothing."""
        return self.one_hot and self.name != "none"

    def __post_init__(self) -> None:
        if self.learned and self.one_hot:
            raise ValueError(f"drafter kind {self.name}: what is learned has a distribution")
        if not self.one_pass and not self.prefix:
            raise ValueError(f"drafter kind {self.name}: what is drafted token by token begins alike whatever follows")


KINDS: Final[Mapping[str, DrafterKind]] = {
    kind.name: kind
    for kind in (
        DrafterKind(name="dspark", learned=True, one_pass=True, prefix=False),
        DrafterKind(name="dflash", learned=True, one_pass=True, prefix=False),
        DrafterKind(name="eagle3", learned=True, one_pass=False, prefix=True),
        DrafterKind(name="mtp", learned=True, one_pass=False, prefix=True, default_tokens=1),
        DrafterKind(name="ngram", learned=False, one_pass=True, prefix=True, one_hot=True),
        DrafterKind(name="none", learned=False, one_pass=True, prefix=True, one_hot=True),
    )
}
"""By name, in the order of reports."""
LEARNED: Final = tuple(kind.name for kind in KINDS.values() if kind.learned)
WEIGHTLESS: Final = tuple(kind.name for kind in KINDS.values() if not kind.learned)
"""Those that need no checkpoint."""
FREE: Final = ("none", *(name for name in WEIGHTLESS if name != "none"))
"""Those that take no time of a GPU."""


_ALSO_CALLED: Final = {
    "eagle": "eagle3", "nextn": "mtp", "promptlookup": "ngram",
    **dict.fromkeys(("baseline", "base", "off", "no", "vanilla", "plain", "nospec", "nospeculation"), "none"),
}  # fmt: skip
"""How engines and tables call kinds, in small letters without what stands between the words."""


def kind_called(word: str) -> str:
    """The kind that people call so, as `EAGLE-3` or `prompt lookup`; empty where there is none."""
    plain = re.sub(r"[\s_-]", "", word.lower())
    return plain if plain in KINDS else _ALSO_CALLED.get(plain, "")


def kind_of(name: str, declared: Mapping[str, Any]) -> str:
    """The kind of a drafter that a run declared so; runs of the first versions named drafters by their kinds alone."""
    return str(declared.get("kind", name))
