"""What a published format says of a drafter, as typed values: its layers' shape, and the conventions formats differ in.

A misread convention does not crash: acceptance silently falls. So each is a field of its own, printed with every result,
and can be replaced by itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from drafters.families.layers import LayerShape

Layout = Literal["anchor-first", "fill-in"]
TapNorm = Literal["none", "each", "joined"]
Order = Literal["embedding, feature", "feature, embedding"]
Residual = Literal["feature", "normed feature"]
FedBack = Literal["before the norm", "after the norm"]
VocabularyMap = Literal["offsets", "ids"]
NormWeight = Literal["w", "1 + w"]
InBlock = Literal["bidirectional", "causal where sliding", "causal"]
WindowFrom = Literal["slot", "anchor"]
HeadType = Literal["vanilla", "gated", "rnn"]
ConfidenceInput = Literal["none", "hidden", "hidden and token"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What both cores read."""

    shape: LayerShape
    target_size: int
    """Width of the target's states."""
    vocabulary: int
    """V: the target's."""
    draft_vocabulary: int
    """V_d: tokens that the draft can say; fewer than V where it is reduced."""
    taps: tuple[int, ...]
    """Layers of the target whose output is read, from 0; −1 is the embedding output, L the last layer's after the norm."""
    vocabulary_map: VocabularyMap = "offsets"
    """What `d2t` holds: target id − draft id, or target ids."""
    norm_weight: NormWeight = "w"
    """By what norms multiply."""
    window_from: WindowFrom = "slot"
    """From where a sliding layer's window reaches back into the context: from the token that is drafted, or the first."""
    embedding_scale: float = 1.0
    """Factor on the rows of the embedding's table, its own or the target's, whose factor is not the draft's."""
    softcap: float | None = None
    """Cap c of logits x, c · tanh(x / c), before a head's bias."""
    head: Literal["own", "own embedding", "target"] = "target"
    """Whose output projection it has where the files hold none under that name; the embedding likewise is the target's."""

    @property
    def reduced(self) -> bool:
        """Whether the draft's vocabulary is a part of the target's."""
        return self.draft_vocabulary < self.vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings(Settings):
    """What drafters read that extend a state token by token: EAGLE-3 and MTP."""

    fused: bool = True
    """Whether taps are projected to a feature (`fc`); else the one tap is the feature."""
    tap_norm: TapNorm = "none"
    """Norms before that: of every tap (EAGLE-3.1), or of all side by side (NVIDIA)."""
    order: Order = "embedding, feature"
    """How a pair is joined."""
    residual: Residual = "feature"
    """What the first layer adds to; EAGLE-3 alone."""
    fed_back: FedBack = "before the norm"
    """The state that the next step reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSettings(Settings):
    """What drafters read that draft a block in one pass: DSpark and DFlash."""

    block: int
    """B: slots of a block, the anchor's included."""
    mask_token: int
    layout: Layout = "anchor-first"
    """Whether a slot predicts the token after its own position, the anchor's slot too, or the one at it."""
    in_block: InBlock = "causal where sliding"
    """Which slots see later ones of their block."""
    markov_rank: int = 0
    """Rank of the sequential head; 0 is none (DFlash)."""
    markov_head: HeadType = "vanilla"
    confidence: ConfidenceInput = "none"
    """What the confidence head reads."""
    convolution: tuple[int, int] | None = None
    """Taps and channels a group of the convolutions around each half layer (DFlash2)."""
    selector: tuple[int, int] | None = None
    """Rank and candidates of the selector (DFlash2)."""
    logit_scale: float | None = None
    """Factor on logits, before a cap."""

    @property
    def most_drafted(self) -> int:
        """γ of the whole block: B drafts B tokens anchor-first, B − 1 filled in."""
        return self.block if self.layout == "anchor-first" else self.block - 1


_SHOWN: Final = {
    "layout": "layout", "in_block": "inside the block", "window_from": "windows from the", "tap_norm": "norm of taps",
    "order": "order", "residual": "residual", "fed_back": "fed back", "vocabulary_map": "d2t", "norm_weight": "norms ×",
}  # fmt: skip
"""Conventions by field, and what they are called where they are shown."""


def marked(word: str, value: Any, assumed: Collection[str]) -> str:
    """A value, and whether nobody declares it."""
    return f"{value} (assumed)" if word in assumed else str(value)


def conventions(settings: Settings, assumed: Collection[str] = ()) -> dict[str, str]:
    """How a checkpoint was read, in words: what is moot for it (d2t without a reduced vocabulary) is left out.

    What stands in `assumed` is said to be.
    """
    told: dict[str, Any] = {"taps": " ".join(f"h[{tap + 1}]" for tap in settings.taps)}
    sliding = any(settings.shape.windows)
    causal = getattr(settings, "in_block", "") == "causal"
    moot = {"vocabulary_map": not settings.reduced, "window_from": not sliding, "in_block": not (sliding or causal),
            "norm_weight": settings.norm_weight == "w"}  # fmt: skip
    for field in fields(settings):
        if field.name in _SHOWN and not moot.get(field.name):
            told[_SHOWN[field.name]] = getattr(settings, field.name)
    turned = settings.shape.rotary
    kind, base = turned.get("rope_type", "default"), turned.get("rope_theta")
    if settings.embedding_scale != 1 or "embeddings" in assumed:
        told["embeddings"] = f"× {settings.embedding_scale:g}"
    told["rotary"] = f"{'plain' if kind == 'default' else kind}, base {base:g}" + (
        ", interleaved" if turned.get("interleaved") else ""
    )
    return {word: marked(word, value, assumed) for word, value in told.items()}
