"""Drafters in vLLM's layout, and what vLLM is told about them. Read in vLLM 0.32's source; EAGLE-3 run there, DSpark not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drafters.checkpoints import find_folder, folder_hash
from drafters.configs import read_config
from drafters.conversion import convert as written
from drafters.conversion import read_target
from simulator.drafter_kinds import WEIGHTLESS
from simulator.records import Drafting
from simulator.serving.vllm import VLLM

_FILLED_IN = ("DFlashDraftModel", "DFlash2DraftModel")
"""Architectures that vLLM runs by its method `dflash`."""


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
    declared = written(source, "vllm", folder, read_target(target))
    if declared.core != "block":
        return str(VLLM.kinds[declared.core].method)
    # By layout: what drafts anchor-first is DSpark to vLLM, with or without a head; filled in, it is what its kind is.
    return "dflash" if read_config(folder)["architectures"][0] in _FILLED_IN else "dspark"
