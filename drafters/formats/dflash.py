"""DFlash and DFlash2 of z-lab, DFlash and DSpark of SpecForge: what drafts blocks, with its fields in `dflash_config`.

Sources: z-lab/dflash dflash/model.py; specforge 0.2.0 modeling/draft/{dflash,dspark}.py and
algorithms/common/dflash_family_model.py; vllm 0.33.0 qwen3_dflash.py and qwen3_dflash2.py.
"""

from __future__ import annotations

from typing import Final

from drafters.formats.contract import (
    Checkpoint,
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
    shape_of,
)  # fmt: skip
from drafters.kinds.settings import BlockSettings, InBlock, Layout

_ARCHITECTURES: Final = ("DFlashDraftModel", "DFlash2DraftModel", "DSparkDraftModel")
_REFUSED: Final = ("use_swa", "attention_sink_bias", "attention_value_scale")
"""Fields of variants (MiMo's) whose attention is another."""


def default_taps(target_layers: int, draft_layers: int) -> list[int]:
    """Layers whose outputs are tapped where no ids are given: evenly spaced from 1 to L − 3."""
    if draft_layers == 1:
        return [target_layers // 2]
    return [round(1 + i * (target_layers - 4) / (draft_layers - 1)) for i in range(draft_layers)]


def layout_of(fields: Fields, anchor_first: bool) -> Layout:
    """Which slot predicts which token, by any of the keys that say so, else as `anchor_first` tells."""
    for key, means in (("sample_from_anchor", True), ("query_zero_predicts_next", True), ("dspark_bonus_anchor", False)):
        if fields.get(key) is not None:
            anchor_first = fields.flag(key, means) is means
            break
    else:
        fields.missing.add("sample_from_anchor")
    return "anchor-first" if anchor_first else "fill-in"


def block_names(name: str) -> str | None:
    """Tensors by ours; early checkpoints have their heads in a `logit_head`."""
    name = name.removeprefix("model.").removeprefix("logit_head.")
    return None if name == "t2d" or name.startswith("verifier_") or name.endswith("rotary_emb.inv_freq") else name


def convolution_of(fields: Fields) -> tuple[int, int]:
    """Taps and channels a group of DFlash2's convolutions."""
    return fields.whole("conv_kernel_size", 2, most=64), fields.whole("conv_group_size", 16, most=1 << 16)


def selector_of(fields: Fields) -> tuple[int, int]:
    """Rank and candidates of DFlash2's selector."""
    return fields.whole("selector_rank", 256, most=1 << 16), fields.whole("selector_top_k", 16, most=1 << 16)


def _recognises(of: Checkpoint) -> bool:
    return of.architecture in _ARCHITECTURES or isinstance(of.raw.get("dflash_config"), dict)


def _read(of: Checkpoint, target: TargetFacts) -> Declared:
    own = of.raw.get("dflash_config") or {}
    if not isinstance(own, dict):
        raise of.fail("dflash_config must be an object")
    fields = Fields(of, own, of.raw)
    check_target(of, fields, target, "vocab_size", "num_target_layers")
    if refused := next((name for name in _REFUSED if fields.get(name)), None):
        raise of.fail(f"{refused} is not supported for drafters")
    shape = shape_of(of, of.raw)
    if fields.get("target_layer_ids") is None and fields.get("layer_ids") is not None:
        taps = fields.layers(["layer_ids"], offset=0, default=[], target=target)
    else:
        spaced = default_taps(target.num_layers, shape.layers)
        taps = fields.layers(["target_layer_ids"], offset=1, default=spaced, target=target)
    second = of.architecture == "DFlash2DraftModel"
    spark = of.architecture == "DSparkDraftModel" or fields.get("projector_type") == "dspark"
    rank, head = markov_of(fields, 256 if spark else 0)
    settings = BlockSettings(
        shape=shape, vocabulary=target.vocab_size, draft_vocabulary=draft_vocabulary(of, fields, target), taps=taps,
        target_size=fused_size(of, len(taps), shape.hidden_size, target), head=head_of(fields, of),
        softcap=fields.number("final_logit_softcapping"), block=fields.gamma("block_size", 16),
        mask_token=mask_token(of, fields, target), layout=layout_of(fields, spark), in_block=_in_block(fields),
        markov_rank=rank, markov_head=head, confidence=confidence_of(fields, rank, on=bool(of.has("confidence_head.")),
        joined=False), convolution=convolution_of(fields) if second else None,
        selector=selector_of(fields) if second else None, embedding_scale=fields.number("input_embedding_scale"),
        logit_scale=fields.number("output_multiplier"),
    )  # fmt: skip
    name = "DFlash2 (z-lab)" if second else "DSpark (SpecForge)" if spark else "DFlash (z-lab, SpecForge)"
    left_out = assumed(of.raw, fields) - {"layout"}  # z-lab's and SpecForge's code has one each, and no field for it
    return Declared(name, settings, "block", settings.most_drafted, block_names, assumed=left_out)


def _in_block(fields: Fields) -> InBlock:
    for key in ("is_causal", "causal"):
        if fields.get(key) is not None:
            return "causal" if fields.flag(key, False) else "bidirectional"
    return "causal where sliding"


DFLASH: Final = Format("DFlash", _recognises, _read)
