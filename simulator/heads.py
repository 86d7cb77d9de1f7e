"""Heads of attention, as configurations of models have them: for drafters, and for what their passes take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def whole_heads(config: Mapping[str, Any]) -> dict[str, int]:
    """The heads of Gemma-4's full layers by a text configuration: by names of their own, as Google's files have them, or as
    what differs of each layer (`per_layer_config`), as transformers 5.24 writes them."""
    names = {"global_head_dim": "head_dim", "num_global_key_value_heads": "num_key_value_heads"}
    layers, kinds = config.get("per_layer_config"), config.get("layer_types")
    if not isinstance(layers, Mapping):
        return {name: config[name] for name in names if config.get(name) is not None}
    full = [str(i) for i, kind in enumerate(kinds if isinstance(kinds, list) else ()) if kind == "full_attention"]
    by_name = {str(layer): own for layer, own in layers.items() if isinstance(own, Mapping)}
    own = next((by_name[layer] for layer in full if layer in by_name), {})
    said = {name: own.get(theirs, config.get(theirs)) for name, theirs in names.items()}
    return {name: value for name, value in said.items() if value is not None}
