"""DFlash and DFlash2 of z-lab, DFlash and DSpark of SpecForge: what drafts blocks, with its fields in `dflash_config`.

Sources: z-lab/dflash dflash/model.py; specforge 0.2.0 modeling/draft/{dflash,dspark}.py and
algorithms/common/dflash_family_model.py; vllm 0.33.0 qwen3_dflash.py and qwen3_dflash2.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from drafters.formats.contract import (
    Declared,
    Fields,
    Format,
    TargetFacts,
    assumed,
    check_target,
    confidence_of,
    draft_vocabulary,
    fused_size,
    head_of,
    markov_of,
    mask_token,
    nested_in,
    no_other_taps,
    shape_of,
)
from drafters.formats.files import Checkpoint, bare, computes_nothing
from drafters.kinds.settings import BlockSettings, InBlock, Layout
from simulator.records import MAX_GAMMA

_ARCHITECTURES: Final = ("DFlashDraftModel", "DFlash2DraftModel", "DSparkDraftModel")
_REFUSED: Final = ("use_swa", "attention_sink_bias", "attention_value_scale")
"""Fields of variants (MiMo's) whose attention is another."""
_PREFIXED: Final = {
    "dspark_block_size": "block_size", "dspark_markov_rank": "markov_rank", "dspark_noise_token_id": "mask_token_id",
    "dspark_target_layer_ids": "target_layer_ids",
}  # fmt: skip
"""DeepSeek-V4's names of fields, in the configurations of dense drafters too (SGLang's reader), and the usual ones."""
_NESTED: Final = ("dspark_config", "dflash_config")


_TAPS: Final = (
    ("eagle_aux_hidden_state_layer_ids", 0), ("target_layer_ids", 1), ("aux_hidden_state_layer_ids", 0), ("layer_ids", 0),
)  # fmt: skip
"""Fields that say the taps, in the order in which they are looked for, and whether they count layers' outputs."""


LAYOUT_KEYS: Final = {"sample_from_anchor": True, "query_zero_predicts_next": True, "dspark_bonus_anchor": False}
"""Keys that say the layout, and what each says where the anchor's slot predicts the first token."""


def default_taps(target_layers: int, draft_layers: int) -> list[int]:
    """Layers whose outputs are tapped where no ids are given: evenly spaced from 1 to L − 3."""
    if draft_layers == 1:
        return [target_layers // 2]
    return [round(1 + i * (target_layers - 4) / (draft_layers - 1)) for i in range(draft_layers)]


def layout_of(fields: Fields, anchor_first: bool) -> Layout:
    """Which slot predicts which token, by any of the keys that say so, else as `anchor_first` tells."""
    for key, means in LAYOUT_KEYS.items():
        if fields.get(key) is not None:
            anchor_first = fields.flag(key, means) is means
            break
    else:
        fields.missing.add("sample_from_anchor")
    return "anchor-first" if anchor_first else "fill-in"


def block_names(name: str) -> str | None:
    """Tensors by ours; early checkpoints have their heads in a `logit_head`."""
    name = bare(name).removeprefix("logit_head.")
    return None if computes_nothing(name) else name


def convolution_of(fields: Fields) -> tuple[int, int]:
    """Taps and channels a group of DFlash2's convolutions."""
    return fields.whole("conv_kernel_size", 2, most=64), fields.whole("conv_group_size", 16, most=1 << 16)


def selector_of(fields: Fields) -> tuple[int, int]:
    """Rank and candidates of DFlash2's selector."""
    return fields.whole("selector_rank", 256, most=1 << 16), fields.whole("selector_top_k", 16, most=1 << 16)


def _recognises(of: Checkpoint) -> bool:
    nested = any(isinstance(of.raw.get(name), dict) for name in _NESTED)
    return of.architecture in _ARCHITECTURES or nested or any(name in of.raw for name in _PREFIXED)


def _fields(of: Checkpoint) -> tuple[Fields, Mapping[str, Any]]:
    """Fields of the drafter, and the configuration of its layers; the more special place comes first (SGLang's reader)."""
    places = [nested_in(of, name) for name in (*_NESTED, "text_config")]
    prefixed = {ours: of.raw[name] for name, ours in _PREFIXED.items() if name in of.raw}
    layer = {**of.raw, **places[-1]}
    if str(layer.get("model_type")).startswith("qwen3_"):  # z-lab's and SpecForge's layers are Qwen3's, whatever target's
        layer["model_type"] = "qwen3"  # configuration they are kept in
    return Fields(of, prefixed, *places, of.raw), layer


def _read(of: Checkpoint, target: TargetFacts) -> Declared:
    fields, layer = _fields(of)
    check_target(of, fields, target, "vocab_size", "num_target_layers")
    if refused := next((name for name in _REFUSED if fields.get(name)), None):
        raise of.fail(f"{refused} is not supported for drafters")
    kind = fields.choice("projector_type", ("dflash", "dspark"), "dspark" if "DSpark" in of.architecture else "dflash")
    fields.choice("attention_mode", ("gqa", "mha"), "gqa")
    shape, taps = shape_of(of, layer), _taps(of, fields, layer, target)
    named = "DFlash2" in of.architecture
    convolved = named or bool(fields.get("conv_kernel_size")) or bool(of.has("layers.0.attention_conv."))
    chosen = named or bool(fields.get("selector_rank")) or bool(of.has("candidate_selector."))
    rank, head = markov_of(of, fields, 256 if kind == "dspark" and of.tensors is None else 0)
    layout = layout_of(fields, kind == "dspark")
    drafted = fields.get("num_speculative_tokens")
    settings = BlockSettings(
        shape=shape, vocabulary=target.vocab_size, draft_vocabulary=draft_vocabulary(of, fields, target), taps=taps,
        target_size=fused_size(of, len(taps), shape.hidden_size, target), head=head_of(fields, of),
        softcap=_softcap(fields), block=_block(fields, kind, layout),
        mask_token=mask_token(of, fields, target), layout=layout, in_block=_in_block(fields),
        markov_rank=rank, markov_head=head, confidence=confidence_of(of, fields, rank, on=False, joined=False),
        convolution=convolution_of(fields) if convolved else None, selector=selector_of(fields) if chosen else None,
        embedding_scale=fields.number("input_embedding_scale") or 1.0, logit_scale=fields.number("output_multiplier"),
    )  # fmt: skip
    spark = "DSpark (SpecForge)" if kind == "dspark" else "DFlash (z-lab, SpecForge)"
    left_out = assumed(layer, fields)
    if not target.scales:
        left_out -= {"embeddings"}
    if drafted is not None:
        left_out -= {"γ"}
    if not rank or (kind == "dspark" and of.architecture in _ARCHITECTURES):
        left_out -= {"layout"}  # z-lab's and SpecForge's code has one each, and no field for it
    name = "DFlash2 (z-lab)" if convolved or chosen else spark
    return Declared(name, settings, "block", settings.most_drafted, block_names, assumed=left_out)


def _taps(of: Checkpoint, fields: Fields, layer: Mapping[str, Any], target: TargetFacts) -> tuple[int, ...]:
    """Taps by the first of the fields that tell which vLLM's reader looks for; ids of layers' outputs but in two of them."""
    for key, offset in _TAPS:
        if fields.get(key) is not None:
            return fields.layers([key], offset=offset, default=[], target=target)
    no_other_taps(of, "dflash_config.target_layer_ids")
    layers = layer.get("num_hidden_layers")
    spaced = default_taps(target.num_layers, layers if type(layers) is int else 1)
    return fields.layers(["target_layer_ids"], offset=1, default=spaced, target=target)


def _block(fields: Fields, kind: str, layout: Layout) -> int:
    """B, by its own field or γ's; else what published drafters of a kind mostly have."""
    drafted = fields.whole("num_speculative_tokens", 0, least=0, most=MAX_GAMMA)
    usual = {"dspark": 7, "dflash": 16}[kind]
    return fields.gamma("block_size", drafted + (layout == "fill-in") if drafted else usual)


def _softcap(fields: Fields) -> float | None:
    """z-lab's code takes a cap that is not positive for none."""
    cap = fields.get("final_logit_softcapping")
    none = isinstance(cap, (int, float)) and not isinstance(cap, bool) and cap <= 0
    return None if none else fields.number("final_logit_softcapping")


def _in_block(fields: Fields) -> InBlock:
    for key in ("is_causal", "causal"):
        if fields.get(key) is not None:
            return "causal" if fields.flag(key, False) else "bidirectional"
    return "causal where sliding"


DFLASH: Final = Format("DFlash", _recognises, _read)
