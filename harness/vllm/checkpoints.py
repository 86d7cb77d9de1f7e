"""Drafters in vLLM's layout, and what vLLM is told about them. Read in vLLM 0.32's source; EAGLE-3 run there, DSpark not."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from drafters.checkpoints import find_folder, folder_hash, read_tensors
from drafters.configs import read_config
from simulator.drafter_kinds import WEIGHTLESS
from simulator.errors import InputError
from simulator.records import Drafting
from simulator.serving.vllm import VLLM

_TABLES = {"embed_tokens.weight": "model.embed_tokens.weight", "lm_head.weight": "lm_head.weight"}
"""Names of a drafter's embedding and head, and the names of the same in a target's checkpoint."""


def speculative(
    drafter: Mapping[str, Any], target: str, folder: Path, temperature: float, drafting: Drafting
) -> dict[str, Any]:
    """vLLM's speculative configuration for a drafter.

    Args:
        drafter: of a run: kind, gamma, checkpoint.
        target: a folder or a hub id.
        folder: where converted checkpoints go, each to a folder of its own.
        temperature: at 0 both ways to draft are the same.
        drafting: as in the recordings it is compared with.

    Raises:
        InputError: vLLM has no such method.
    """
    names, served = VLLM.fields, VLLM.kinds.get(drafter["kind"])
    tokens = {names.tokens: int(drafter["gamma"])}
    if served is not None and drafter["kind"] in WEIGHTLESS:
        return {names.method: served.method, **tokens, **served.options}
    source = str(drafter["checkpoint"])
    made = folder / f"{drafter['kind']}-{folder_hash(find_folder(source))[:8]}"
    method = convert(source, target, made)
    drafts = {names.drafting: VLLM.drafting_option[drafting]} if temperature > 0 else {}
    return {names.method: method, names.checkpoint: str(made), **tokens, **drafts}


def convert(source: str, target: str, folder: Path) -> str:
    """Write a drafter's checkpoint as vLLM reads it, tables of the target included; returns vLLM's name of the method.

    Raises InputError where vLLM has nothing that computes what this drafter does.
    """
    found = find_folder(source)
    raw, tensors = read_config(found), read_tensors(found, source)
    architecture = (raw.get("architectures") or ["?"])[0]
    if architecture == "Qwen3DSparkModel":
        method, config = VLLM.kinds["dspark"].method, _dspark(raw, tensors, source)
    elif architecture == "Qwen3Eagle3Model":
        method, config = VLLM.kinds["eagle3"].method, _eagle3(raw)
    elif architecture == "Qwen3MTPModel":
        raise InputError(
            f"checkpoint {source}: vLLM reads MTP modules from a target's own checkpoint only, none of dense Qwen3"
        )
    else:
        raise InputError(f"checkpoint {source}: no conversion of {architecture} to vLLM's layout is known")
    layers = raw.get("num_target_layers")
    if layers is not None and layers - 1 in raw["target_layer_ids"]:
        raise InputError(
            f"checkpoint {source}: taps the target's last layer, which vLLM hands over normed and the drafter was trained "
            "without; it cannot be converted"
        )
    _add_tables(tensors, target)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / "partial", metadata={"format": "pt"})
    os.replace(folder / "partial", folder / "model.safetensors")
    return method


def _dspark(raw: Mapping[str, Any], tensors: dict[str, Tensor], source: str) -> dict[str, Any]:
    """DSpark stays as it is. DFlash becomes DSpark with a sequential head that adds nothing: what vLLM calls dflash has its
    mask slots at the positions they predict, and would draft shifted by one without a word."""
    head = raw.get("markov_head_type", "vanilla")
    if raw["markov_rank"]:
        if head != "vanilla":
            raise InputError(f"checkpoint {source}: has a {head} head; vLLM implements vanilla heads only")
        return dict(raw)
    dtype = tensors["norm.weight"].dtype
    for name in ("markov_w1", "markov_w2"):
        tensors[f"markov_head.{name}.weight"] = torch.zeros(raw["vocab_size"], 1, dtype=dtype)
    return {**raw, "markov_rank": 1, "markov_head_type": "vanilla", "enable_confidence_head": False}


def _eagle3(raw: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM taps what enters a layer, counted from 0; published checkpoints name the layer whose output is tapped."""
    return {
        **raw, "architectures": ["Eagle3Qwen3ForCausalLM"], "draft_vocab_size": raw["vocab_size"],
        "eagle_aux_hidden_state_layer_ids": [i + 1 for i in raw["target_layer_ids"]],
        "norm_before_residual": False, "norm_before_fc": False, "fc_norm": False, "norm_output": False,
    }  # fmt: skip


def _add_tables(tensors: dict[str, Tensor], target: str) -> None:
    """Embedding and head, where the drafter's checkpoint leaves them to its target."""
    if missing := {name: theirs for name, theirs in _TABLES.items() if name not in tensors}:
        found = read_tensors(find_folder(target), target, lambda name: name in _TABLES.values())
        embedding = found["model.embed_tokens.weight"]
        for name, theirs in missing.items():  # a tied head has no tensor of its own
            tensors[name] = found.get(theirs, embedding).clone()
