"""What a source of served rounds is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from harness.served.observed import Observation
from harness.served.text import Text


class Source(Protocol):
    """One kind of file. It is known by what is in it, never by its name."""

    name: ClassVar[str]
    """In words, as `vLLM's log`."""
    counts: ClassVar[str]
    """Regular expression of the lines that it reads, of a log; empty for what is read whole."""

    def recognises(self, text: Text) -> bool:
        """Whether a file is of this kind; cheap, and sure: no file is of two."""
        ...

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """What files of this kind say, all that were given: scrapes and parts of a log belong together.

        Raises InputError, naming the file and what is wrong with it, for what cannot be right.
        """
        ...
