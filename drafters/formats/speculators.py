"""The speculators format (RedHatAI): the layer's configuration nested, the target named. Source: speculators 0.9.0."""

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
from drafters.formats.dflash import block_names, convolution_of, layout_of, selector_of
from drafters.formats.eagle3 import USUAL_GAMMA, default_taps, pair_names, tap_norm_of
from drafters.formats.files import Checkpoint, bare, computes_nothing
from drafters.kinds.settings import BlockSettings, PairSettings

_SLIDING: Final = ("layer_types", "use_sliding_window", "sliding_window", "max_window_layers")
MTP_NAMES: Final = {
    "hidden_layernorm": "hnorm", "token_layernorm": "enorm", "input_proj": "eh_proj", "final_layernorm": "norm",
}  # fmt: skip
"""Tensors of an MTP module beside its layer, and what ours are called."""


def _read(of: Checkpoint, target: TargetFacts) -> Declared:
    kind = of.raw.get("speculators_model_type") or nested_in(of, "speculators_config").get("algorithm")
    read = {"eagle3": _eagle3, "dflash": _block, "dflash2": _block, "dspark": _block, "mtp": _mtp}.get(str(kind))
    if read is None:
        raise of.fail(f"speculators_model_type {kind!r} is not one of eagle3, dflash, dflash2, dspark, mtp")
    layer = dict(nested_in(of, "transformer_layer_config"))
    layer.setdefault("model_type", "qwen3")
    rotary = layer.get("rope_parameters")
    if isinstance(rotary, Mapping) and isinstance(rotary.get("sliding_attention"), Mapping):
        layer["rope_parameters"] = dict(rotary["sliding_attention"])  # the one that the library takes
    if read is _block:  # vLLM's reader looks for them outside first, where earlier versions wrote them
        layer |= {name: of.raw[name] for name in _SLIDING if of.raw.get(name) is not None}
    check_target(of, Fields(of, layer), target, "vocab_size")
    return read(of, layer, str(kind), target)


def _proposed(of: Checkpoint) -> int | None:
    """The author's γ, of the default way to propose."""
    said = nested_in(of, "speculators_config")
    ways = [way for way in said.get("proposal_methods") or [] if isinstance(way, Mapping)]
    first = [way for way in ways if way.get("proposal_type") == said.get("default_proposal_method")] or ways
    return Fields(of, first[0]).gamma("speculative_tokens") if first and "speculative_tokens" in first[0] else None


def _assumed(of: Checkpoint, layer: Mapping[str, Any], fields: Fields) -> frozenset[str]:
    return assumed(layer, fields) - {"γ"} | (frozenset() if _proposed(of) else {"γ"})


def _verifier(of: Checkpoint) -> str:
    return str(nested_in(of, "verifier", nested_in(of, "speculators_config")).get("name_or_path") or "")


def _trained_for(of: Checkpoint) -> str | None:
    verifier = nested_in(of, "verifier", nested_in(of, "speculators_config"))
    named = verifier.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else None


def _eagle3(of: Checkpoint, layer: Mapping[str, Any], _: str, target: TargetFacts) -> Declared:
    fields, shape = Fields(of, of.raw), shape_of(of, layer)
    own = ["eagle_aux_hidden_state_layer_ids", "aux_hidden_state_layer_ids"]
    if all(fields.get(name) is None for name in own):
        no_other_taps(of, own[0])
    taps = fields.layers(own, offset=0, default=default_taps(target.num_layers), target=target)
    declared = fields.whole("target_hidden_size", shape.hidden_size)
    settings = PairSettings(
        shape=shape, target_size=fused_size(of, len(taps), declared, target), vocabulary=target.vocab_size,
        draft_vocabulary=draft_vocabulary(of, fields, target), taps=taps, tap_norm=tap_norm_of(of, fields),
        residual="normed feature" if fields.flag("norm_before_residual", False) else "feature",
        fed_back="after the norm" if fields.flag("norm_output", False) else "before the norm", head=head_of(fields, of),
        window_from="anchor",
    )  # fmt: skip
    return Declared(
        "speculators eagle3", settings, "eagle3", _proposed(of) or USUAL_GAMMA, lambda name: pair_names(of, name),
        _trained_for(of), _assumed(of, layer, fields), _verifier(of),
    )  # fmt: skip


def _block(of: Checkpoint, layer: Mapping[str, Any], kind: str, target: TargetFacts) -> Declared:
    fields, shape = Fields(of, of.raw), shape_of(of, layer)
    names = ["aux_hidden_state_layer_ids", "eagle_aux_hidden_state_layer_ids"]
    if all(fields.get(name) is None for name in names):
        raise of.fail("config.json lacks aux_hidden_state_layer_ids")
    taps = fields.layers(names, offset=0, default=[], target=target)
    spark, second = kind == "dspark", kind == "dflash2"
    block, drafted = fields.gamma("block_size", 8), _proposed(of)
    # Engines and the library differ in what they take for left out; how many tokens its author drafts tells.
    anchor_first = drafted == block if spark and drafted in (block, block - 1) else spark
    rank, head = markov_of(of, fields, 256) if spark else (0, "vanilla")
    together = fields.flag("sliding_window_non_causal", second)
    settings = BlockSettings(
        shape=shape, target_size=fused_size(of, len(taps), shape.hidden_size, target), vocabulary=target.vocab_size,
        draft_vocabulary=draft_vocabulary(of, fields, target), taps=taps, head=head_of(fields, of),
        block=block, mask_token=mask_token(of, fields, target), layout=layout_of(fields, anchor_first),
        in_block="bidirectional" if together else "causal where sliding", window_from="anchor", markov_rank=rank,
        markov_head=head, confidence=confidence_of(of, fields, rank, on=True, joined=True) if spark else "none",
        convolution=convolution_of(fields) if second else None, selector=selector_of(fields) if second else None,
    )  # fmt: skip
    if second and settings.reduced:
        raise of.fail("dflash2 drafts all of the target's tokens; draft_vocab_size says fewer")
    gamma = min(_proposed(of) or settings.most_drafted, settings.most_drafted)
    left_out = _assumed(of, layer, fields)
    return Declared(f"speculators {kind}", settings, "block", gamma, block_names, _trained_for(of), left_out, _verifier(of))


def _mtp(of: Checkpoint, layer: Mapping[str, Any], _: str, target: TargetFacts) -> Declared:
    fields = Fields(of, of.raw)
    if fields.whole("num_nextn_predict_layers", 1) != 1:
        raise of.fail("num_nextn_predict_layers must be 1: so many the library knows")
    shape = shape_of(of, {**layer, "num_hidden_layers": 1, "layer_types": None})  # the nested numbers are the target's
    check_target(of, Fields(of, layer), target, "hidden_size")
    settings = PairSettings(
        shape=shape, target_size=target.hidden_size, vocabulary=target.vocab_size, draft_vocabulary=target.vocab_size,
        taps=(target.num_layers - 1,), fused=False, fed_back="after the norm",
    )  # fmt: skip
    left_out = _assumed(of, layer, fields)
    gamma = _proposed(of) or 1
    return Declared("speculators mtp", settings, "mtp", gamma, _mtp_names, _trained_for(of), left_out, _verifier(of))


def _mtp_names(name: str) -> str | None:
    if computes_nothing(name := bare(name)):
        return None
    own = name.removeprefix("mtp_layers.0.")
    part, _, rest = own.partition(".")
    if own == name:
        return name
    return f"{MTP_NAMES[part]}.{rest}" if part in MTP_NAMES else f"layers.0.{own}"


SPECULATORS: Final = Format(
    "speculators", lambda of: "speculators_model_type" in of.raw or "speculators_config" in of.raw, _read
)
