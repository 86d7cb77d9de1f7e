"""Ways to read a checkpoint: each convention as it is not declared, as far as its tensors allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final, get_args

from drafters.formats.contract import Declared
from drafters.kinds.settings import (
    BlockSettings,
    FedBack,
    HeadType,
    InBlock,
    Layout,
    NormWeight,
    Order,
    PairSettings,
    Residual,
    TapNorm,
    VocabularyMap,
    WindowFrom,
)
from drafters.target import Target
from simulator.errors import InputError

_FLIPPED: Final[Mapping[str, tuple[str, ...]]] = {
    "order": get_args(Order), "residual": get_args(Residual), "fed_back": get_args(FedBack), "tap_norm": get_args(TapNorm),
    "layout": get_args(Layout), "in_block": get_args(InBlock), "window_from": get_args(WindowFrom),
    "norm_weight": get_args(NormWeight), "vocabulary_map": get_args(VocabularyMap),
}  # fmt: skip
"""Conventions by field, and what each can be."""
DECISIVE: Final = {
    "taps", "layout", "order", "residual", "tap_norm", "norm_weight", "vocabulary_map", "markov_rank", "mask_token",
}  # fmt: skip
"""Fields of which a wrong one may leave a drafter nothing."""
_BASES: Final = (1e4, 5e5, 1e6)
"""Bases of rotary angles that most models have."""
THEIRS: Final = "rotary the target's"
_MASKS: Final = 2
"""Tokens with "mask" in their names that are tried as such."""
_HEADS: Final = ("markov_head.", "confidence_head.")
"""Tensors of a sequential head, and of confidences that read it."""
_KINDS: Final[Mapping[str, HeadType]] = {"gate_proj": "gated", "joint_proj": "rnn"}
"""Kinds of sequential heads, by the tensor that no other has."""
_WORDS: Final = {
    "order": "order", "residual": "residual", "fed_back": "fed back", "tap_norm": "norm of taps", "layout": "layout",
    "in_block": "inside the block", "window_from": "windows from the", "norm_weight": "norms ×", "vocabulary_map": "d2t",
    "taps": "taps", "shape": "rotary", "softcap": "softcap",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to read a checkpoint: fields that are other than declared, and what they are, in words."""

    changes: Mapping[str, Any]
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """In a table."""
        return " and ".join(self.words) or "as declared"


def merged(one: Variant, other: Variant) -> Variant:
    """Both at once; of a field that both change, the other's."""
    return Variant({**one.changes, **other.changes}, (*one.words, *other.words))


def read_otherwise(declared: Declared, variant: Variant) -> Declared:
    """The declaration with a variant's conventions in place of its own."""
    settings = replace(declared.settings, **variant.changes)
    names = declared.names
    if isinstance(settings, BlockSettings) and not settings.markov_rank and "markov_rank" in variant.changes:
        names = lambda name: None if (o := declared.names(name)) is None or o.startswith(_HEADS) else o  # noqa: E731
    left = declared.assumed if not variant.changes else frozenset()
    return replace(declared, settings=settings, gamma=own_gamma(declared, settings), names=names, assumed=left)


def own_gamma(declared: Declared, settings: PairSettings | BlockSettings) -> int:
    """γ of a reading: a block is drafted whole where it was, since its length changes what is computed."""
    if isinstance(settings, BlockSettings) and isinstance(declared.settings, BlockSettings):
        whole = declared.gamma == declared.settings.most_drafted
        return settings.most_drafted if whole else min(declared.gamma, settings.most_drafted)
    return declared.gamma


def gammas(declared: Declared, singles: Sequence[Variant]) -> list[int]:
    """γ of every reading: layout and length of a block change it, also both at once."""
    pairs = (merged(one, other) for one, other in combinations(singles, 2))
    both = [pair for pair in pairs if pair.changes.keys() == {"layout", "block"}]
    return [own_gamma(declared, replace(declared.settings, **one.changes)) for one in [Variant({}, ()), *singles, *both]]


def check_taps(taps: tuple[int, ...], declared: Declared, target: Target, name: str) -> None:
    """Raise InputError for layers that the target has not: such may be declared where they are counted otherwise."""
    fused = not isinstance(declared.settings, PairSettings) or declared.settings.fused
    if min(taps) < -1 or max(taps) > target.num_layers - fused:
        raise InputError(
            f"checkpoint {name}: taps {' '.join(f'h[{tap + 1}]' for tap in taps)}, and the target has h[0] to "
            f"h[{target.num_layers}]"
        )


def flips(declared: Declared, target: Target, tensors: Mapping[str, Sequence[int]]) -> Iterator[Variant]:
    """Every convention by itself, as it is not declared; `tensors` are shapes of those there are, by our names."""
    settings = declared.settings
    yield from _of_taps(settings, target)
    for field, values in _FLIPPED.items():
        own = getattr(settings, field, None)
        if own is None or field in _moot(declared):
            continue
        if field == "in_block" and not any(settings.shape.windows):  # all layers are alike
            values = ("bidirectional",) if own == "causal" else ("causal",)
        for value in values:
            if value != own:
                yield Variant({field: value}, (f"{_WORDS[field]} {value}",))
    seen = [dict(settings.shape.rotary)]
    for words, rotary in _rotaries(target, settings):
        if rotary not in seen:
            seen.append(rotary)
            yield Variant({"shape": replace(settings.shape, rotary=rotary)}, (f"rotary {words}",))
    if any(settings.shape.windows):
        yield Variant({"shape": replace(settings.shape, windows=(None,) * settings.shape.layers)}, ("no windows",))
    caps = {settings.softcap, getattr(target.config, "final_logit_softcapping", None), None} - {settings.softcap}
    for cap in sorted(caps, key=str):
        yield Variant({"softcap": cap}, ("no softcap" if cap is None else f"softcap {cap:g}, as the target",))
    if getattr(settings, "logit_scale", None):
        yield Variant({"logit_scale": None}, ("logits unscaled",))
    if "embed_tokens.weight" in tensors and "lm_head.weight" not in tensors and not settings.reduced:
        other = "target" if settings.head == "own embedding" else "own embedding"
        yield Variant({"head": other}, (f"the head of {'its target' if other == 'target' else 'its own embedding'}",))
    if isinstance(settings, BlockSettings):
        yield from _of_blocks(settings, tensors)
        yield from _of_masks(settings, target)


def _moot(declared: Declared) -> set[str]:
    """Conventions that make no difference to a drafter."""
    settings = declared.settings
    found = set() if settings.reduced else {"vocabulary_map"}
    found |= set() if any(settings.shape.windows) else {"window_from"}
    if declared.core == "mtp":
        found |= {"residual", "tap_norm"} | ({"fed_back"} if declared.gamma == 1 else set())
    return found


def _of_taps(settings: PairSettings | BlockSettings, target: Target) -> Iterator[Variant]:
    """Layers counted otherwise and, where the last one's output is the feature, with the target's last norm or without."""
    last, direct = target.num_layers, isinstance(settings, PairSettings) and not settings.fused
    for step, words in ((-1, "one lower"), (1, "one higher")):
        taps = tuple(tap + step for tap in settings.taps)
        if direct and max(taps) >= last - 1 and max(settings.taps) >= last - 1:
            words = f"the last, {'after' if taps[-1] == last else 'before'} the target's last norm"
        if taps and min(taps) >= -1 and max(taps) < last + direct:
            yield Variant({"taps": taps}, (f"taps {words}",))
    if len(settings.taps) > 1:
        yield Variant({"taps": settings.taps[::-1]}, ("taps joined in reverse order",))


def neighbours(settings: PairSettings | BlockSettings, target: Target) -> Iterator[Variant]:
    """One layer of several that is a neighbour of the one declared."""
    taps = settings.taps if len(settings.taps) > 1 else ()
    for i, tap in enumerate(taps):
        for other in (tap - 1, tap + 1):
            if -1 <= other < target.num_layers and other not in taps:
                yield Variant({"taps": (*taps[:i], other, *taps[i + 1 :])}, (f"tap h[{other + 1}] for h[{tap + 1}]",))


def _of_blocks(settings: BlockSettings, tensors: Mapping[str, Sequence[int]]) -> Iterator[Variant]:
    """What only blocks have: their length, the anchor's slot counted in or not, the sequential head, and embeddings that are
    not normed before they are read."""
    root = settings.shape.hidden_size**0.5
    for scale, words in ((1.0, "embeddings unscaled"), (root, "embeddings × √d")):
        if scale != settings.embedding_scale:
            yield Variant({"embedding_scale": scale}, (words,))
    yield Variant({"block": settings.block + 1}, ("block one longer",))
    if settings.most_drafted > 1 and settings.block > 2:
        yield Variant({"block": settings.block - 1}, ("block one shorter",))
    if settings.markov_rank:
        yield Variant({"markov_rank": 0, "confidence": "none"}, ("no sequential head",))
    elif table := tensors.get("markov_head.markov_w1.weight"):
        read = tensors.get("confidence_head.proj.weight", (1, 0))[1] - settings.shape.hidden_size
        kind = next((kind for part, kind in _KINDS.items() if f"markov_head.{part}.weight" in tensors), "vanilla")
        confidence = "none" if read < 0 else "hidden and token" if read else "hidden"
        yield Variant({"markov_rank": table[1], "markov_head": kind, "confidence": confidence}, ("the sequential head",))


def _of_masks(settings: BlockSettings, target: Target) -> Iterator[Variant]:
    """What else may stand in slots that are drafted: a token of that name, what pads or ends, the first unused."""
    tokenizer = target.tokenizer
    if tokenizer is None:
        return
    named = [i for text, i in tokenizer.get_added_vocab().items() if "mask" in text.lower()]
    others = [
        tokenizer.mask_token_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
        tokenizer.eos_token_id,
        len(tokenizer),
    ]
    for token in dict.fromkeys([*sorted(named)[:_MASKS], *others]):
        if token is not None and token != settings.mask_token and token < settings.vocabulary:
            yield Variant({"mask_token": token}, (f"mask token {token} for {settings.mask_token}",))


def _rotaries(target: Target, settings: PairSettings | BlockSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Angles by words: every scaling there is, of draft and target, with every base that is usual or one of theirs."""
    declared = dict(settings.shape.rotary)
    turned = {key: value for key, value in declared.items() if key != "interleaved"}
    yield from (
        [("not interleaved", turned)] if declared.get("interleaved") else [("interleaved", {**turned, "interleaved": True})]
    )
    own = getattr(target.config, "rope_parameters", None) or {}
    theirs = dict(own.get("full_attention") or own)  # by kinds of layers, or of all
    bases = sorted({*_BASES, *(float(base) for of in (turned, theirs) if (base := of.get("rope_theta")))})
    for base in bases:
        yield f"plain, base {base:g}", {"rope_type": "default", "rope_theta": base}
    if "rope_theta" in theirs:
        yield THEIRS.removeprefix("rotary "), theirs
        for base in bases if theirs.get("rope_type", "default") != "default" else ():
            yield f"scaled as the target's, base {base:g}", {**theirs, "rope_theta": base}
    if turned.get("rope_type", "default") != "default":
        for base in bases:
            yield f"scaled as declared, base {base:g}", {**turned, "rope_theta": base}
