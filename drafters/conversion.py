"""A checkpoint of one published format into another, from files alone: no model is built."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig

from drafters.checkpoints import check_shapes, find_folder, plain_tensors, read_declared, read_tensors
from drafters.configs import read_config
from drafters.formats.contract import Declared, TargetFacts
from drafters.formats.registry import make
from drafters.formats.writing import FORMATS, Draft, write
from simulator.errors import InputError, first_paragraph

_TABLES = {"embed_tokens.weight": ("embed_tokens.weight", "wte.weight"), "lm_head.weight": ("lm_head.weight",)}
"""Names of a drafter's tables, and how those of the target's tensors end that are the same."""
_NEAREST = {"DeepSpec": "deepspec", "DSpark (SpecForge)": "deepspec", "DFlash": "zlab", "EAGLE": "vllm"}
"""How names of formats begin, and the format that is written that is nearest to it."""
TRAINED = "training.json"
"""What lies beside a checkpoint that `harness train` has made: its plan, what was found on the way, every evaluation."""
_UNKNOWN_LAYERS = (1000, 999)
"""Numbers of layers that a target may have whose number nobody says: what differs between the two depends on it."""


class TargetFiles(NamedTuple):
    """What a conversion needs of a target: read from its files, since its weights may be more than there is memory for."""

    facts: TargetFacts
    tables: Mapping[str, Tensor]


def read_target(source: str) -> TargetFiles:
    """Configuration and tables of a target: a folder, a hub id or a GGUF file. Raises InputError."""
    folder = find_folder(source)
    try:
        whole = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config = whole.get_text_config()
        facts = TargetFacts(
            int(config.hidden_size), int(config.vocab_size), int(config.num_hidden_layers),
            str((whole.architectures or ["?"])[0]), source, getattr(config, "max_position_embeddings", None),
        )  # fmt: skip
    except Exception as error:  # transformers has many exception types for what a configuration can be
        raise InputError(f"target {source}: config.json: {first_paragraph(error)}") from error
    ends = tuple(end for names in _TABLES.values() for end in names)
    found = read_tensors(folder, source, lambda name: name.endswith(ends))
    tables = {}
    for ours, names in _TABLES.items():
        if table := [value for name, value in found.items() if name.endswith(names)]:
            tables[ours] = table[0]
    if "embed_tokens.weight" in tables and "lm_head.weight" not in tables:  # a tied head has no tensor of its own
        tables["lm_head.weight"] = tables["embed_tokens.weight"]
    return TargetFiles(facts, tables)


def convert(source: str, to: str, folder: Path, target: TargetFiles | None = None) -> Declared:
    """Write a checkpoint to `folder` in one of `formats.writing.FORMATS`; returns what it declared.

    Raises InputError where the format cannot express it, or where its target, of which it leaves something to be known, is
    not given; nothing is written then.
    """
    declared, facts = _declared(find_folder(source), source, target)
    write_read(declared, source, to, folder, TargetFiles(facts, {} if target is None else target.tables))
    if (trained := find_folder(source) / TRAINED).exists():  # what a recording keeps of how it was trained
        shutil.copy2(trained, folder / TRAINED)
    return declared


def drafted_by(folder: Path, target: TargetFiles | None = None) -> int | None:
    """γ by a checkpoint's own files, as whoever reads it takes it; None where that follows from a target not given."""
    try:
        return _declared(folder, str(folder), target)[0].gamma
    except InputError:
        return None


def correct(declared: Declared, source: str, folder: Path, target: TargetFiles) -> str:
    """Write a checkpoint so that it declares how it is read in `declared`: in its own format or, where that has no place for
    it, in another; returns which. Raises InputError where none has."""
    own = next((to for start, to in _NEAREST.items() if declared.format.startswith(start)), "speculators")
    refused: InputError | None = None
    for to in (own, *(name for name in FORMATS if name != own)):
        try:
            write_read(declared, source, to, folder, target)
            return to
        except InputError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def write_read(declared: Declared, source: str, to: str, folder: Path, target: TargetFiles) -> None:
    """Write a checkpoint, read as `declared` says, to `folder`. Raises InputError as `convert`."""
    found = find_folder(source)
    with torch.device("meta"):
        shape = make(declared, declared.gamma)
    check_shapes(shape, declared, found, source)
    tensors = plain_tensors(shape, declared, read_tensors(found, source), source)
    write(Draft(source, declared.core, declared.settings, declared.gamma, tensors, *target), to, folder)


def _declared(folder: Path, source: str, target: TargetFiles | None) -> tuple[Declared, TargetFacts]:
    if target is not None:
        return read_declared(folder, target.facts, source), target.facts
    facts = _own_facts(read_config(folder), source)
    if facts.num_layers:
        return read_declared(folder, facts, source), facts
    ways = [read_declared(folder, facts._replace(num_layers=count), source) for count in _UNKNOWN_LAYERS]
    if ways[0].settings != ways[1].settings:
        raise InputError(f"checkpoint {source}: what it taps follows from its target's layers; name the target")
    return ways[0], facts


def _own_facts(raw: Mapping[str, Any], source: str) -> TargetFacts:
    """What a checkpoint says of its target."""
    layer = raw.get("transformer_layer_config")
    places = [raw, *([layer] if isinstance(layer, dict) else [])]

    def said(*fields: str) -> int:
        found = [place[f] for f in fields for place in places if type(place.get(f)) is int]
        return int(found[0]) if found else 0

    hidden, vocabulary = said("target_hidden_size", "hidden_size"), said("vocab_size")
    if not hidden or not vocabulary:
        raise InputError(f"checkpoint {source}: config.json does not say what its target is; name the target")
    verifier = raw.get("speculators_config", {})
    named = verifier.get("verifier", {}) if isinstance(verifier, dict) else {}
    named = named if isinstance(named, dict) else {}
    architectures = named.get("architectures") or ["?"]
    positions = said("max_position_embeddings") or None
    layers = said("num_target_layers")
    return TargetFacts(hidden, vocabulary, layers, str(architectures[0]), str(named.get("name_or_path") or ""), positions)
