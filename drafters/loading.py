"""What a target's checkpoint must be beside loadable: transformers leaves out what it does not know, and only warns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from drafters.anatomy import decoder_of
from drafters.configs import ADAPTER_FILE, read_config
from simulator.errors import InputError

GENERATION_FILE = "generation_config.json"
"""How answers are generated, and end."""
_COMPUTED = re.compile(
    r"\.((inv_freq|cos_cached|sin_cached|masked_bias|causal_mask|position_ids|[qkv]+_scale)|(attn|attention)\.bias)$"
)
"""Tensors in layers that models compute by themselves (angles, masks), or do without (scales of cached keys and values)."""


def check_config(config: Any, source: str) -> None:
    """Raise InputError where a configuration is not of a causal language model that transformers has."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            f"target {source}: transformers has no causal language model of model_type {config.model_type!r}; where it is "
            "built around one, give that alone"
        )
    if classifies := next((name for name in config.architectures or () if "Classification" in name), None):
        raise InputError(f"target {source}: is a {classifies}: its weights answer by classes, and say nothing of tokens")


def check_files(folder: Path, source: str) -> None:
    """Raise InputError where files beside a target's weights say something that transformers would leave out in silence."""
    if (folder / ADAPTER_FILE).exists():
        raise InputError(
            f"target {source}: {ADAPTER_FILE}: adapters are not applied; merge it into the weights, and remove the file"
        )
    if (folder / GENERATION_FILE).exists():
        read_config(folder, GENERATION_FILE)  # transformers takes a broken one for none
    if "quantization_config" in json.dumps(read_config(folder)):
        return
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as stream:
            kinds = {name: stream.get_slice(name).get_dtype() for name in stream.keys()}  # noqa: SIM118 - not a mapping
        if whole := next((name for name, kind in kinds.items() if name.endswith("weight") and kind[0] in "IU"), None):
            raise InputError(
                f"target {source}: {file.name}: {whole} holds whole numbers ({kinds[whole]}), and no quantization_config of "
                "its config.json says what they stand for; give it as plain weights"
            )


def check_weights(model: PreTrainedModel, loaded: Mapping[str, Any], source: str) -> None:
    """Raise InputError where weights are lacking, or some of the decoder or of a module that the model has are not used.

    Such are scales of quantised weights, adapters, biases, norms of another family, and layers that the configuration does
    not count: without them the model computes something else. Towers, and layers that predict further tokens, are none of
    its concern. `loaded` is what transformers tells of loading.
    """
    if lacking := sorted({*_names(loaded, "missing_keys"), *_names(loaded, "mismatched_keys")}):
        raise InputError(
            f"target {source}: its weights lack {_some(lacking)}, in the shape its configuration asks for, and random "
            "numbers would stand there"
        )
    _check_meaning(model, source)
    if unused := sorted(_unused(model, _names(loaded, "unexpected_keys"))):
        raise InputError(
            f"target {source}: its weights hold {_some(unused)}, for which its configuration has no place, and it would say "
            "something else without; correct its config.json (model_type, num_hidden_layers), or give it as plain weights"
        )


def _check_meaning(model: PreTrainedModel, source: str) -> None:
    """Raise InputError where transformers took weights for something else than the configuration says they are."""
    quantised = getattr(model.config, "quantization_config", None)
    if quantised and getattr(model, "hf_quantizer", None) is None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise InputError(
            f"target {source}: transformers has no quantisation {method!r}, as its quantization_config asks for, and takes "
            "weights as they are; give it as plain weights, or in a quantisation that transformers has"
        )
    declared = model.get_expanded_tied_weights_keys(all_submodels=True)
    if untied := sorted(declared.keys() - model.all_tied_weights_keys.keys()):
        raise InputError(
            f"target {source}: its config.json ties {untied[0]} to {declared[untied[0]]}, and its weights hold two that "
            "differ; set tie_word_embeddings to false, or leave the one out"
        )


def _unused(model: PreTrainedModel, unexpected: Sequence[str]) -> Iterator[str]:
    """Those of the tensors that transformers left out without which the model computes something else."""
    modules, decoder, parts = dict(model.named_modules()), decoder_of(model), {name for name, _ in model.named_children()}
    computing = {path for path, module in modules.items() if any(True for _ in module.parameters(recurse=False))}
    lists = {
        path: module for path, module in modules.items() if isinstance(module, nn.ModuleList) and module in decoder.modules()
    }
    own = {name.partition(".")[0] for layers in lists.values() for layer in layers for name in layer.state_dict()}
    left_out: dict[str, tuple[str, str]] = {}
    for name in unexpected:
        # A checkpoint of the decoder alone leaves its prefix out.
        whole = name if name.partition(".")[0] in parts else f"{model.base_model_prefix}.{name}"
        left_out[name] = whole, next((path for path in _paths_above(whole) if path.rpartition(".")[0] in lists), "")
    # A layer that predicts further tokens has parts, such as a projection of two inputs, that no other has.
    apart = {
        layer for whole, layer in left_out.values() if whole.removeprefix(f"{layer}.").partition(".")[0] not in own
    } - modules.keys()
    for name, (whole, layer) in left_out.items():
        if computing & {*_paths_above(whole)} or (layer and layer not in apart and not _COMPUTED.search(whole)):
            yield name


def _names(loaded: Mapping[str, Any], kind: str) -> list[str]:
    """Tensors of a kind in what transformers tells of loading; of mismatched ones it tells the shapes as well."""
    return [str(found if isinstance(found, str) else found[0]) for found in loaded.get(kind, ())]


def _paths_above(tensor: str) -> list[str]:
    """Paths of the modules that a tensor may belong to: `a` and `a.b` of `a.b.weight`."""
    parts = tensor.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
