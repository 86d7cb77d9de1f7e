"""EAGLE-3 as SafeAILab, SpecForge and SGLang, and NVIDIA publish it, EAGLE-3.1 included: dialects of one format.

Sources: SafeAILab/EAGLE eagle/model/cnets.py; specforge 0.2.0 modeling/draft/llama3_eagle.py; sglang 0.5.23
srt/models/llama_eagle3.py; vllm 0.33.0 llama_eagle3.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from drafters.formats.contract import (
    Declared,
    Fields,
    Format,
    TargetFacts,
    assumed,
    check_target,
    draft_vocabulary,
    fused_size,
    head_of,
    nested_in,
    no_other_taps,
    shape_of,
)
from drafters.formats.files import Checkpoint, bare, computes_nothing
from drafters.kinds.settings import PairSettings, TapNorm

USUAL_GAMMA: Final = 5
"""Tokens of a chain where the files say none, as in most: what engines are usually started with."""
_LLAMAS: Final = ("LlamaForCausalLM", "LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM")
_LIKE_LLAMA: Final = ("qwen2", "qwen2_5", "mistral", "qwen3_moe", "llama4_text")
"""Models whose configurations say a layer's shape in Llama's fields."""
_LEGACY: Final = {"aux_norm_low.": "fc_norm.0.", "aux_norm_mid.": "fc_norm.1.", "aux_norm_high.": "fc_norm.2."}


def default_taps(layers: int) -> list[int]:
    """The states that are tapped where no ids are given, by every publisher's code: h[2], h[L//2], h[L−3]."""
    return [2, layers // 2, layers - 3]


def tap_norm_of(of: Checkpoint, fields: Fields) -> TapNorm:
    """Norms before the projection; where no key tells, tensors do."""
    each = fields.flag("fc_norm", fields.flag("use_aux_norm", bool(of.has("fc_norm.") or of.has("aux_norm_"))))
    joined = fields.flag("norm_before_fc", bool(of.has("input_norm.")))
    if each and joined:
        raise of.fail("fc_norm and norm_before_fc exclude each other")
    return "each" if each else "joined" if joined else "none"


def pair_names(of: Checkpoint, name: str) -> str | None:
    """Tensors of all dialects by ours."""
    name = bare(name).replace("midlayer.", "layers.0.")
    for legacy, ours in _LEGACY.items():
        name = name.replace(legacy, ours)
    later = re.match(r"layers\.([1-9]\d*)\.hidden_norm\.", name)
    if later:  # SGLang calls so what norms the stream in later layers; where both are there, vLLM reads the other
        return None if of.has(f"layers.{later[1]}.input_layernorm.") else name.replace("hidden_norm", "input_layernorm")
    return None if computes_nothing(name) else name


def _recognises(of: Checkpoint) -> bool:
    reduced = of.architecture == "LlamaForCausalLM" and "draft_vocab_size" in of.raw
    return "Eagle3" in of.architecture or reduced or any(of.has(name) for name in ("midlayer.", "d2t"))


def _taps(of: Checkpoint, fields: Fields, nested: Fields, target: TargetFacts) -> tuple[int, ...]:
    """Ids at the top level count what enters layers, those in `eagle_config` layers' outputs (vLLM's and SGLang's readers).

    The latter count what enters layers too where their largest is L, which no layer's output has (NVIDIA's gpt-oss v3).
    """
    key, default = "eagle_aux_hidden_state_layer_ids", default_taps(target.num_layers)
    if fields.get(key) is not None:
        return fields.layers([key], offset=0, default=default, target=target)
    if (ids := nested.get(key)) is not None:
        beyond = isinstance(ids, list) and target.num_layers in ids
        return nested.layers([key], offset=0 if beyond else 1, default=default, target=target)
    for other, offset in (("target_layer_ids", 1), ("aux_hidden_state_layer_ids", 0)):
        if fields.get(other) is not None:
            return fields.layers([other], offset=offset, default=default, target=target)
    if nested.get("layer_ids") is None:
        no_other_taps(of, key)
    return nested.layers(["layer_ids"], offset=0, default=default, target=target)


def _layer(of: Checkpoint) -> Mapping[str, Any]:
    """The configuration of its layers: Llama's where the architecture is, whatever model its file was copied from."""
    layer = {**of.raw, **nested_in(of, "text_config")}
    copied = of.architecture in _LLAMAS and layer.get("model_type") in _LIKE_LLAMA
    return {**layer, "model_type": "llama"} if copied else layer


def _read(of: Checkpoint, target: TargetFacts) -> Declared:
    own, layer = nested_in(of, "eagle_config"), _layer(of)
    top, nested = Fields(of, layer), Fields(of, own)
    fields = Fields(of, own, layer)
    check_target(of, top, target, "vocab_size", "num_target_layers")
    shape = shape_of(of, layer)
    fused = fields.flag("use_aux_hidden_state", True)
    if not fused and of.has("fc."):
        raise of.fail("use_aux_hidden_state is false, and fc.weight, which projects taps, is there: one of them is wrong")
    taps = _taps(of, top, nested, target) if fused else (target.num_layers,)
    declared = top.whole("target_hidden_size", shape.hidden_size)
    size = fused_size(of, len(taps), declared, target) if fused else target.hidden_size
    if not fused and size != shape.hidden_size:
        raise of.fail(f"reads the target's state unprojected: it is {size} wide, and the draft's are {shape.hidden_size}")
    norm = tap_norm_of(of, fields) if fused else "none"
    after = fields.flag("norm_output", False)
    settings = PairSettings(
        shape=shape, target_size=size, vocabulary=target.vocab_size, draft_vocabulary=draft_vocabulary(of, top, target),
        taps=taps, fused=fused, tap_norm=norm, fed_back="after the norm" if after else "before the norm",
        residual="normed feature" if fields.flag("norm_before_residual", False) else "feature", head=head_of(top, of),
    )  # fmt: skip
    if after or norm == "each":
        dialect = "EAGLE-3.1"
    elif not fused or norm == "joined":
        dialect = "EAGLE-3 (NVIDIA)"
    else:
        dialect = "EAGLE-3 (SafeAILab)" if of.architecture == "LlamaForCausalLM" else "EAGLE-3 (SpecForge, SGLang)"
    # Without their keys, what norms do is as it was before there were any; taps differ between trainings.
    left_out = assumed(layer, top, nested) - {"residual", "fed back"} | {"γ"}
    return Declared(dialect, settings, "eagle3", USUAL_GAMMA, lambda name: pair_names(of, name), assumed=left_out)


EAGLE3: Final = Format("EAGLE-3", _recognises, _read)
