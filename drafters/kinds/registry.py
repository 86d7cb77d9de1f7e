"""The drafters that can be made, a line each: by the word users write, or by what a checkpoint's `config.json` declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drafters.kinds.block import DSpark
from drafters.kinds.eagle3 import Eagle3
from drafters.kinds.learned import LearnedDrafter
from drafters.kinds.mtp import MTP
from drafters.kinds.ngram import NGram
from drafters.kinds.text import TextDrafter

OF_TEXT: Final[Mapping[str, type[TextDrafter]]] = {
    "ngram": NGram,
}
"""Those without weights, by their kinds."""
OF_ARCHITECTURE: Final[Mapping[str, type[LearnedDrafter]]] = {
    "Qwen3DSparkModel": DSpark,  # also DFlash
    "Qwen3Eagle3Model": Eagle3,
    "Qwen3MTPModel": MTP,
}
"""Those with weights, by the first of `architectures`."""
