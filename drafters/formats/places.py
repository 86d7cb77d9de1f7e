"""What the published formats have places for, and what of a drafter its files tell without a library that takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from drafters.formats.files import Checkpoint
from simulator.errors import InputError

DEEPSPEC: Final = "eagle3, mtp, block, qwen3, gemma4, tables, anchor-first, head, confidence, fed back"
"""Features, by the keys that `writing` has for them; `softcap` beside them for layers as Gemma-4's."""
SPECULATORS: Final = (
    "eagle3, mtp, block, layers, qwen3, width, reduced, tables, tap norms, normed residual, fed back normed, anchor-first, "
    "fill-in, short, head, confidence, dflash2, windows of anchors, open windows"
)
"""EAGLE-3 files have `fed back` and `llama` too."""
ZLAB: Final = "block, qwen3, softcap, scales, fill-in, dflash2, causal, windows of slots, open windows"
VLLM_PAIRS: Final = (
    "eagle3, layers, qwen3, llama, width, reduced, tables, tap norms, normed residual, fed back normed, fed back"
)
VLLM_HAS_NO_MTP: Final = "vLLM reads MTP modules from a target's own checkpoint only, none of dense Qwen3"
WORDS: Final[Mapping[str, str]] = {
    "eagle3": "EAGLE-3", "mtp": "MTP", "reduced": "reduced vocabulary", "head": "sequential head",
}  # fmt: skip
"""What features are called that files tell by themselves."""
_FEW: Final = {"deepspec": ("DeepSpec's", DEEPSPEC), "zlab": ("z-lab's", ZLAB)}
"""Formats of few features, by the word users say: what messages call them."""


def check_features(name: str, features: Mapping[str, str], to: str, has: str) -> None:
    """Raise InputError for a drafter's features, words by key, that a format has no place for; `has` are those it has."""
    known = {key.strip() for key in has.split(",")}
    if lacking := [f"no {words}" for key, words in features.items() if key not in known]:
        raise InputError(f"checkpoint {name}: cannot be written as {to}, which has {', '.join(lacking)}")


def check_files(of: Checkpoint, to: str) -> None:
    """Raise InputError where files alone tell that a drafter cannot be written in a format; `writing` judges the rest."""
    told = _told(of)
    if to == "vllm" and "mtp" in told:
        raise of.fail(VLLM_HAS_NO_MTP)
    if to in _FEW:
        name, has = _FEW[to]
        check_features(of.name, {key: WORDS[key] for key in told}, name, has)


def _told(of: Checkpoint) -> list[str]:
    """Keys of features that the names of an architecture, sizes of vocabularies and tensors leave no doubt of."""
    kind = f"{of.architecture} {of.raw.get('speculators_model_type', '')}".lower()
    core = next((core for core in ("eagle3", "mtp") if core in kind), None)
    layer = of.raw.get("transformer_layer_config")
    places: list[Mapping[str, Any]] = [of.raw, *([layer] if isinstance(layer, dict) else [])]
    whole = next((size for place in places if type(size := place.get("vocab_size")) is int), 0)
    part = of.raw.get("draft_vocab_size")
    reduced = type(part) is int and part < whole and bool(of.shape("d2t"))
    said_rank = of.raw.get("markov_rank")
    head = core is None and "dspark" in kind and type(said_rank) is int and said_rank > 0 and of.has("markov_head.")
    return [*([core] if core else []), *(["reduced"] if reduced else []), *(["head"] if head else [])]
