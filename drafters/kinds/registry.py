"""The drafters without weights, a line each, by the word users write; those with weights are in `formats.registry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drafters.kinds.ngram import NGram
from drafters.kinds.text import TextDrafter

OF_TEXT: Final[Mapping[str, type[TextDrafter]]] = {
    "ngram": NGram,
}
"""Those without weights, by their kinds."""
