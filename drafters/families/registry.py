"""The families that layers of a draft may be of, and how a configuration says their shape."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from drafters.families import gemma4, llama, qwen3
from drafters.families.layers import WIDEST, DraftLayer, LayerShape
from simulator.errors import InputError, first_paragraph
from simulator.heads import whole_heads

FAMILIES: Final[Mapping[str, ModuleType]] = {"llama": llama, "qwen3": qwen3, "gemma4": gemma4}
"""A family's `MODEL_TYPES`, as configurations name them and transformers reads these, and its `Layer`."""
_OF_MODEL_TYPE: Final = {model_type: name for name, of in FAMILIES.items() for model_type in of.MODEL_TYPES}
MOST_LAYERS: Final = 1000
"""The most layers of a drafter; what has more is none."""


def make_layer(shape: LayerShape, *, paired_input: bool = False) -> DraftLayer:
    """A layer of the family that `shape` names; with `paired_input` attention reads two states side by side."""
    layer: DraftLayer = FAMILIES[shape.family].Layer(shape, paired_input=paired_input)
    return layer


def embedding_scale(shape: LayerShape) -> float:
    """Factor on the rows of the embedding's table in models of the family: √d in Gemma's."""
    return float(shape.hidden_size**0.5) if shape.family == "gemma4" else 1.0


def read_shape(config: Mapping[str, Any], name: str) -> LayerShape:
    """The shape that a configuration declares; what it leaves out is its family's default in transformers.

    Raises InputError, naming the field, where it is of no family here, or of sizes that are none.
    """
    model_type = config.get("model_type")
    family = _OF_MODEL_TYPE.get(str(model_type))
    if family is None:
        raise InputError(f"checkpoint {name}: model_type {model_type!r} is not supported; {', '.join(_OF_MODEL_TYPE)} are")
    layers = 1 if config.get("num_hidden_layers") is None else config["num_hidden_layers"]
    if not isinstance(layers, int) or not 1 <= layers <= MOST_LAYERS:
        raise InputError(
            f"checkpoint {name}: num_hidden_layers must be a whole number from 1 to {MOST_LAYERS}, got {layers!r}"
        )
    config = _without_sections(config)
    kinds = _layer_kinds(config, layers, name)
    if "sliding_attention" in kinds and config.get("sliding_window") and config.get("use_sliding_window") is None:
        config = {**config, "use_sliding_window": True}  # its layers say so; Qwen3's drops the window otherwise
    try:
        # `layer_types` may still be the target's, one entry for each of its layers. What is given is written to.
        own = copy.deepcopy({**config, "num_hidden_layers": layers, "layer_types": list(kinds)})
        read = FAMILIES[family].MODEL_TYPES[model_type].from_dict(own)
    except Exception as error:  # transformers' validation has exception types of its own
        raise InputError(f"checkpoint {name}: config.json: {first_paragraph(error)}") from error
    full = family == "gemma4"
    whole = whole_heads(config) if full else {}
    if full and set(kinds) != {"full_attention"}:
        raise InputError(f"checkpoint {name}: sliding layers of a Gemma-4 draft are not supported")
    if "sliding_attention" in kinds and getattr(read, "sliding_window", None) is None:  # Qwen3's drops an unused one
        raise InputError(
            f"checkpoint {name}: layer_types has sliding layers, and neither sliding_window nor use_sliding_window says how "
            "far they see"
        )
    shared = full and bool(read.attention_k_eq_v)
    try:
        return LayerShape(
            family=family, hidden_size=_size(config, read, "hidden_size"), inner_size=read.intermediate_size,
            heads=read.num_attention_heads,
            kv_heads=(whole.get("num_global_key_value_heads") if shared else None) or read.num_key_value_heads,
            head_dim=whole.get("global_head_dim", 512) if full
            else read.head_dim or read.hidden_size // read.num_attention_heads,
            norm_eps=float(read.rms_norm_eps), layers=layers, rotary=_rotary(family, read, kinds),
            windows=tuple(getattr(read, "sliding_window", None) if k == "sliding_attention" else None for k in kinds),
            activation=read.hidden_activation if full else read.hidden_act, attention_bias=bool(read.attention_bias),
            output_bias=bool(read.attention_bias), mlp_bias=bool(getattr(read, "mlp_bias", False)), values_are_keys=shared,
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"checkpoint {name}: config.json: {first_paragraph(error)}") from error


def shape_config(shape: LayerShape, vocabulary: int, max_positions: int | None = None) -> dict[str, Any]:
    """A configuration that declares a shape, as `read_shape` reads it."""
    family, gemma = FAMILIES[shape.family], shape.family == "gemma4"
    said: dict[str, Any] = {
        "model_type": next(iter(family.MODEL_TYPES)), "vocab_size": vocabulary, "hidden_size": shape.hidden_size,
        "intermediate_size": shape.inner_size, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "rms_norm_eps": shape.norm_eps,
        "attention_bias": shape.attention_bias, "tie_word_embeddings": False, "rope_parameters": dict(shape.rotary),
        "hidden_activation" if gemma else "hidden_act": shape.activation,
    }  # fmt: skip
    if max_positions is not None:
        said["max_position_embeddings"] = max_positions
    if shape.mlp_bias or shape.family == "llama":
        said["mlp_bias"] = shape.mlp_bias
    if shape.family == "llama" and not any(shape.windows):
        return said
    said["layer_types"] = ["full_attention" if window is None else "sliding_attention" for window in shape.windows]
    window = next((window for window in shape.windows if window is not None), None)
    if gemma:
        said |= {"global_head_dim": shape.head_dim, "attention_k_eq_v": shape.values_are_keys, "enable_moe_block": False}
        said |= {"rope_parameters": {"full_attention": dict(shape.rotary)}, "hidden_size_per_layer_input": 0}
        return said | ({"num_global_key_value_heads": shape.kv_heads} if shape.values_are_keys else {})
    return said | {"sliding_window": window, "use_sliding_window": window is not None}


def _size(config: Mapping[str, Any], read: Any, field: str) -> int:
    value = getattr(read, field)
    if field not in config:
        raise ValueError(f"lacks {field}")
    if not isinstance(value, int) or not 1 <= value <= WIDEST:
        raise ValueError(f"{field} must be a whole number from 1 to {WIDEST}, got {value!r}")
    return value


def _layer_kinds(config: Mapping[str, Any], layers: int, name: str) -> tuple[str, ...]:
    """What the draft's layers see, each `full_attention` or `sliding_attention`; what lists other layers is the target's."""
    declared = config.get("layer_types")
    if not isinstance(declared, list) or len(declared) != layers:
        if config.get("use_sliding_window"):
            raise InputError(f"checkpoint {name}: use_sliding_window is not supported without layer_types for each layer")
        return ("full_attention",) * layers
    if unknown := sorted({str(kind) for kind in declared} - {"full_attention", "sliding_attention"}):
        raise InputError(f"checkpoint {name}: layer_types {unknown[0]!r} is not supported for drafters")
    return tuple(declared)


def _without_sections(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration whose rotary sections of pictures (`mrope`) are left out: on text they are the plain angles."""
    changed = {}
    for field in ("rope_scaling", "rope_parameters"):
        said = config.get(field)
        if isinstance(said, Mapping) and "mrope" in (said.get("rope_type"), said.get("type")):
            kept = {k: v for k, v in said.items() if k not in ("type", "mrope_section", "mrope_interleaved")}
            changed[field] = {**kept, "rope_type": "default"} if kept.keys() - {"rope_type"} else None
    return {**config, **changed}


def _rotary(family: str, read: Any, kinds: tuple[str, ...]) -> Mapping[str, Any]:
    """One set of rotary parameters for all layers: nested ones are of a kind of layer (as speculators reads them).

    Llama's and Qwen3's code turns whole heads where nothing is scaled: a factor there is one inherited from a target's file.
    """
    parameters = read.rope_parameters
    nested = {kind: parameters[kind] for kind in ("sliding_attention", "full_attention") if kind in parameters}
    own = next((nested[kind] for kind in nested if kind in kinds), next(iter(nested.values()))) if nested else parameters
    whole = family != "gemma4" and own.get("rope_type", "default") == "default"
    return {name: value for name, value in own.items() if not (whole and name == "partial_rotary_factor")}
