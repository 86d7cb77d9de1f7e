"""Loading and saving drafters in the published format, with every mismatch named before a model is built."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen3Config

from drafters.configs import declared_field, read_config
from drafters.gguf import plain_source
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.kinds.none import NoDrafter
from drafters.kinds.registry import OF_ARCHITECTURE, OF_TEXT
from drafters.loading import GENERATION_FILE
from drafters.target import Target
from simulator.errors import InputError, first_paragraph

WEIGHTS = ("config.json", "*.safetensors", "*.bin", "*.index.json")
"""Files of a checkpoint that say what a model computes."""
TEXT = (
    "tokenizer*", "vocab*", "merges.txt", "added_tokens.json", "special_tokens_map.json", "tekken.json", "*.model",
    "*.tiktoken", "*.spm", "*.codes", "chat_template*", "additional_chat_templates/*",
)  # fmt: skip
"""Files that say how a conversation becomes tokens, and tokens text."""
GENERATION = (GENERATION_FILE,)
"""Files that say how answers are generated, and end."""
_DOWNLOADED = ("*.json", "*.safetensors", *TEXT)
_MOST_LAYERS = 1000
"""The most layers of a drafter; what has more is none."""
_SHARED = ("embed_tokens.weight", "lm_head.weight", "lm_head.bias")
"""Copies of the target's tables; a checkpoint may leave them out."""


def load_drafter(source: str, target: Target, *, gamma: int | None = None) -> Drafter:
    """Make a drafter for `target`.

    Args:
        source: a folder, a hub id, a kind without weights or `none`.
        gamma: γ; None takes the checkpoint's, or the kind's own. Block-parallel drafters cannot exceed their block size.

    Raises:
        InputError: the source does not exist or does not fit the target; the message says which tensor or field.
    """
    if source == "none":
        if gamma:
            raise InputError(f"drafter none: drafts nothing, so its block size is 0, not {gamma}")
        return NoDrafter()
    if source in OF_TEXT:
        return OF_TEXT[source]() if gamma is None else OF_TEXT[source](gamma)
    folder = find_folder(source)
    raw = read_config(folder)
    try:
        with torch.device("meta"):  # a size that no memory holds is found out before there is memory for it
            shape = _module(raw, target, gamma, source)
    except InputError:
        raise
    except Exception as error:  # of many kinds, by what a field holds
        raise InputError(f"checkpoint {source}: config.json describes no drafter: {first_paragraph(error)}") from error
    _check_shapes(shape, folder, source)
    drafter = build_drafter(raw, target, gamma=gamma, name=source)
    _load_weights(drafter, folder, target, source)
    return drafter.to(device=target.device, dtype=target.dtype).eval().requires_grad_(False)


def find_folder(source: str) -> Path:
    """The local folder of a checkpoint: downloaded where `source` is the hub's, converted where it is a GGUF file."""
    source = plain_source(source)
    if Path(source).is_dir():
        return Path(source)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise InputError(f"checkpoint {source}: no such folder")
    try:
        return Path(snapshot_download(source, allow_patterns=list(_DOWNLOADED)))
    except Exception as error:  # the hub client has a dozen exception types; all mean that we have no files
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"checkpoint {source}: no such folder, and the hub did not give it: {reason}") from error


def build_drafter(raw: Mapping[str, Any], target: Target, *, gamma: int | None, name: str) -> LearnedDrafter:
    """A drafter of the architecture `raw` (a published `config.json`) describes, with fresh weights and shared tables."""
    drafter = _module(raw, target, gamma, name)
    target.check_taps(drafter.tap_layers)
    return drafter


def _module(raw: Mapping[str, Any], target: Target, gamma: int | None, name: str) -> LearnedDrafter:
    """The same, whatever `target` lets be tapped: on the meta device, it computes nothing and takes no memory."""
    if raw.get("model_type") != "qwen3":
        raise InputError(f"checkpoint {name}: model_type {raw.get('model_type')!r} is not supported; qwen3 is")
    named = raw.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else "?"
    made = OF_ARCHITECTURE.get(architecture)
    taps = _check_fields(raw, target, name)
    if raw.get("use_sliding_window"):
        raise InputError(f"checkpoint {name}: use_sliding_window is not supported for drafters")
    try:
        # `layer_types` may still be the target's, one entry for each of its layers.
        config = Qwen3Config.from_dict({k: v for k, v in raw.items() if k != "layer_types"})
    except Exception as error:  # transformers' validation has exception types of its own
        raise InputError(f"checkpoint {name}: config.json: {first_paragraph(error)}") from error
    if made is None:
        raise InputError(f"checkpoint {name}: architecture {architecture!r} is not one of {', '.join(OF_ARCHITECTURE)}")
    drafter = made.declared(raw, config, taps, gamma, name)
    drafter.embed_tokens, drafter.lm_head = target.embedding, target.lm_head
    return drafter


def save_drafter(drafter: LearnedDrafter, config: Mapping[str, Any], folder: Path, *, with_tables: bool = False) -> None:
    """Write `drafter` in the published format, bfloat16; `with_tables` adds the embedding and head other engines expect."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().to(torch.bfloat16).contiguous().clone()
        for name, value in drafter.state_dict().items()
        if with_tables or name not in _SHARED
    }
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    # Weights last and at once: where they are, the checkpoint is whole.
    save_file(tensors, folder / "partial", metadata={"format": "pt"})
    os.replace(folder / "partial", folder / "model.safetensors")


def folder_hash(folder: Path, patterns: Collection[str] = WEIGHTS) -> str:
    """SHA-256 over files of a checkpoint, by default its configuration and weights: its identity, whatever its path."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                digest.update(chunk)
    return digest.hexdigest()


def _check_fields(raw: Mapping[str, Any], target: Target, name: str) -> tuple[int, ...]:
    """Compare with the target what configuration alone can tell; returns the tapped layers."""
    for field, own in (
        ("vocab_size", target.vocab_size),
        ("hidden_size", target.hidden_size),
        ("num_target_layers", target.num_layers),
    ):
        if field in raw and raw[field] != own:
            raise InputError(
                f"checkpoint {name}: {field} is {raw[field]!r}, but the target has {own}; it was trained for another target"
            )
    layers = raw.get("num_hidden_layers", 1)
    if not isinstance(layers, int) or not 1 <= layers <= _MOST_LAYERS:
        raise InputError(
            f"checkpoint {name}: num_hidden_layers must be a whole number from 1 to {_MOST_LAYERS}, got {layers!r}"
        )
    taps = declared_field(raw, "target_layer_ids", name)
    if not isinstance(taps, list) or not taps or not all(isinstance(i, int) and -1 <= i < target.num_layers for i in taps):
        raise InputError(
            f"checkpoint {name}: target_layer_ids {taps!r} must be layers of the target, -1 to {target.num_layers - 1}"
        )
    return tuple(taps)


def _check_shapes(drafter: LearnedDrafter, folder: Path, name: str) -> None:
    """Raise InputError unless the tensors in every *.safetensors of `folder` are those of `drafter`, by their shapes."""
    found = {key: list(stream.get_slice(key).get_shape()) for stream, key in _stored(folder, name)}
    wanted = {n: list(value.shape) for n, value in drafter.state_dict().items()}
    problems = [f"has no tensor {n}" for n in wanted if n not in found and n not in _SHARED]
    problems += [f"has an unknown tensor {n}" for n in found if n not in wanted]
    problems += [
        f"{n} has shape {found[n]}, but the target and config.json need {wanted[n]}"
        for n in wanted
        if n in found and found[n] != wanted[n]
    ]
    _raise_first(problems, name)


def _raise_first(problems: Sequence[str], name: str) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"checkpoint {name}: {problems[0]}{more}")


def _load_weights(drafter: LearnedDrafter, folder: Path, target: Target, name: str) -> None:
    """Fill `drafter` from every *.safetensors of `folder`, whose shapes fit. Raises InputError for what is not finite."""
    found = read_tensors(folder, name)
    # The checkpoint's own copies get modules of their own: never write through to the target's.
    if "embed_tokens.weight" in found:
        drafter.embed_tokens = torch.nn.Embedding(target.vocab_size, target.hidden_size)
    if "lm_head.weight" in found:
        drafter.lm_head = torch.nn.Linear(target.hidden_size, target.vocab_size, bias="lm_head.bias" in found)
    else:
        found.pop("lm_head.bias", None)  # without its matrix it is a copy
    _raise_first([f"{n} holds numbers that are not finite" for n, value in found.items() if not _finite(value)], name)
    drafter.load_state_dict(found, strict=False)
    # Most checkpoints bring exact copies; over a large vocabulary these are gigabytes.
    for table, own in (("embed_tokens", target.embedding), ("lm_head", target.lm_head)):
        parts = {f"{table}.{name}": value for name, value in own.named_parameters(recurse=False)}
        if all(name in found and torch.equal(found[name].to(value), value) for name, value in parts.items()):
            setattr(drafter, table, own)


def _finite(tensor: Tensor) -> bool:
    if tensor.dtype.itemsize == 1:  # of eight bits: not everything is defined
        tensor = tensor.float()
    return bool(tensor.isfinite().all())


def read_tensors(folder: Path, name: str, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint's *.safetensors, by name; `wanted` None takes all. Raises InputError, naming the file."""
    return {key: stream.get_tensor(key) for stream, key in _stored(folder, name) if wanted is None or key in wanted}


def _stored(folder: Path, name: str) -> Iterator[tuple[Any, str]]:
    """(open file, name of a tensor in it) of every tensor of a checkpoint. Raises InputError, naming the file."""
    files = sorted(folder.glob("*.safetensors"))
    files = [f for f in files if f.name.startswith("model")] or files
    if not files:
        raise InputError(f"checkpoint {name}: no *.safetensors in the folder")
    for file in files:
        try:
            with safe_open(file, framework="pt") as stream:
                for key in stream.keys():  # noqa: SIM118 - not a mapping
                    yield stream, key
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a readable safetensors file ({first_paragraph(error)})") from error
