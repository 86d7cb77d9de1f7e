"""What a target's checkpoint must be beside loadable: transformers leaves out what it does not know, and only warns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from drafters.configs import read_config
from simulator.errors import InputError

GENERATION_FILE = "generation_config.json"
"""How answers are generated, and end."""
_ADAPTER = "adapter_config.json"


def check_config(config: Any, source: str) -> None:
    """Raise InputError where transformers has no causal language model of a configuration's kind."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            f"target {source}: transformers has no causal language model of model_type {config.model_type!r}; where it is "
            "built around one, give that alone"
        )


def check_files(folder: Path, source: str) -> None:
    """Raise InputError where files beside a target's weights say something that transformers would leave out in silence."""
    if (folder / _ADAPTER).exists():
        raise InputError(
            f"target {source}: {_ADAPTER}: adapters are not applied; merge it into the weights, and remove the file"
        )
    if (folder / GENERATION_FILE).exists():
        read_config(folder, GENERATION_FILE)  # transformers takes a broken one for none


def check_weights(model: PreTrainedModel, loaded: Mapping[str, Any], source: str) -> None:
    """Raise InputError where weights are lacking, or some of a module that the model has are not used.

    Such are scales of quantised weights, adapters and biases: without them that module computes something else. Layers and
    towers that the model does not have are none of its concern. `loaded` is what transformers tells of loading.
    """
    if lacking := sorted({*_names(loaded, "missing_keys"), *_names(loaded, "mismatched_keys")}):
        raise InputError(
            f"target {source}: its weights lack {_some(lacking)}, in the shape its configuration asks for, and random "
            "numbers would stand there"
        )
    computing = {path for path, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))}
    inner = f"{model.base_model_prefix}."  # a checkpoint of the decoder alone leaves it out
    unused = [
        name for name in _names(loaded, "unexpected_keys") if computing & {*_paths_above(name), *_paths_above(inner + name)}
    ]
    if unused:
        raise InputError(
            f"target {source}: its weights hold {_some(sorted(unused))}, of modules that by its configuration have no such "
            "thing, and would say something else without; give it as plain weights, or correct its config.json"
        )


def _names(loaded: Mapping[str, Any], kind: str) -> list[str]:
    """Tensors of a kind in what transformers tells of loading; of mismatched ones it tells the shapes as well."""
    return [str(found if isinstance(found, str) else found[0]) for found in loaded.get(kind, ())]


def _paths_above(tensor: str) -> set[str]:
    """Paths of the modules that a tensor may belong to: `a.b` and `a` of `a.b.weight`."""
    parts = tensor.split(".")
    return {".".join(parts[:i]) for i in range(1, len(parts))}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
