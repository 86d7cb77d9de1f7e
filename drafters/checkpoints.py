"""Loading drafters of every published format, and saving ours; every mismatch is named before a model is built."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import save_file
from torch import Tensor

from drafters.families.layers import RMSNorm
from drafters.formats.contract import Declared, TargetFacts
from drafters.formats.files import Checkpoint, bare, read_checkpoint, stored
from drafters.formats.registry import declare, make
from drafters.formats.writing import Draft, write
from drafters.gguf import plain_source
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.kinds.none import NoDrafter
from drafters.kinds.registry import OF_TEXT
from drafters.kinds.settings import BlockSettings, PairSettings, Settings
from drafters.loading import GENERATION_FILE
from drafters.target import Target
from simulator.drafter_kinds import KINDS
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
_SHARED = ("embed_tokens.weight", "lm_head.weight", "lm_head.bias")
"""Copies of the target's tables; a checkpoint may leave them out."""


def load_drafter(source: str, target: Target, *, gamma: int | None = None) -> Drafter:
    """Make a drafter for `target`.

    Args:
        source: a folder, a hub id, a kind without weights or `none`.
        gamma: γ; None takes the checkpoint's, or the kind's own. Block-parallel drafters cannot exceed their block.

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
    return load_declared(read_declared(folder, facts_of(target), source), folder, target, gamma=gamma, name=source)


def read_declared(folder: Path, target: TargetFacts, name: str) -> Declared:
    """What a checkpoint's files declare, without reading its weights. Raises InputError, naming field, tensor or format."""
    of = read_checkpoint(folder, name)
    declared = declare(of, target)
    of.check_types()
    return declared


def load_declared(
    declared: Declared,
    folder: Path,
    target: Target,
    *,
    name: str,
    gamma: int | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> LearnedDrafter:
    """The drafter of a folder's weights, read as `declared` says: its own declaration, or one with a convention replaced.

    Args:
        tensors: the folder's, where they have been read before.

    Raises:
        InputError: the tensors are not those that the declaration asks for.
    """
    try:
        with torch.device("meta"):  # a size that no memory holds is found out before there is memory for it
            shape = _with_tables(make(declared, _gamma(declared, gamma, name)), target)
    except InputError:
        raise
    except Exception as error:  # of many kinds, by what a field holds
        raise InputError(f"checkpoint {name}: config.json describes no drafter: {first_paragraph(error)}") from error
    check_shapes(shape, declared, folder, name)
    drafter = _with_tables(make(declared, _gamma(declared, gamma, name)), target)
    target.check_taps(drafter.tap_layers)
    _load_weights(drafter, declared, tensors or read_tensors(folder, name), name)
    _check_tables(drafter, target)
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
    declared = declare(Checkpoint(name, raw), facts_of(target))
    return fresh_drafter(replace(declared, gamma=_gamma(declared, gamma, name)), target)


def fresh_drafter(declared: Declared, target: Target) -> LearnedDrafter:
    """A drafter as it is declared, with fresh weights, and the target's tables unless its vocabulary is reduced."""
    drafter = _with_tables(make(declared, declared.gamma), target)
    if declared.settings.reduced:
        shape = declared.settings.shape
        drafter.lm_head = torch.nn.Linear(shape.hidden_size, declared.settings.draft_vocabulary, bias=False)
    target.check_taps(drafter.tap_layers)
    _check_tables(drafter, target)
    return drafter


def _check_tables(drafter: LearnedDrafter, target: Target) -> None:
    """Raise InputError where a table's rows are not as wide as the draft's states, as of targets that project between."""
    size = drafter.settings.shape.hidden_size
    for what, table in (("embedding", drafter.embed_tokens), ("output head", drafter.lm_head)):
        if (width := table.get_parameter("weight").shape[1]) != size:
            raise InputError(
                f"target {target.name}: rows of its {what} have {width} numbers and a draft's states {size}, so the draft "
                "needs tables of its own"
            )


def facts_of(target: Target) -> TargetFacts:
    """What formats need to know of a target."""
    named = getattr(target.model.config, "architectures", None) or [type(target.model).__name__]
    longest = getattr(target.config, "max_position_embeddings", None)
    scales = hasattr(target.embedding, "embed_scale")
    return TargetFacts(target.hidden_size, target.vocab_size, target.num_layers, str(named[0]), target.name, longest, scales)


def _with_tables(drafter: LearnedDrafter, target: Target) -> LearnedDrafter:
    """With the target's tables, bare: factors of its own that a target puts on embeddings or logits are not the draft's, as
    engines and the speculators library have it. What the draft's own are, its settings say."""
    embedding, head = target.embedding, target.lm_head
    rows, matrix = (module.get_parameter("weight").detach() for module in (embedding, head))
    if type(embedding) is not torch.nn.Embedding:
        embedding = torch.nn.Embedding(rows.shape[0], rows.shape[1], device="meta")
        embedding.weight = torch.nn.Parameter(rows, requires_grad=False)
    if {name for name, _ in head.named_parameters()} - {"weight", "bias"}:
        head = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, device="meta")
        head.weight = torch.nn.Parameter(matrix, requires_grad=False)
    drafter.embed_tokens, drafter.lm_head = embedding, head
    return drafter


def _gamma(declared: Declared, gamma: int | None, name: str) -> int:
    settings = declared.settings
    if gamma is not None and isinstance(settings, BlockSettings) and not 1 <= gamma <= settings.most_drafted:
        slots = "" if settings.most_drafted == settings.block else f", which drafts {settings.most_drafted}"
        raise InputError(
            f"checkpoint {name}: was trained with block_size {settings.block}{slots}; a block size of {gamma} does not fit"
        )
    return declared.gamma if gamma is None else gamma


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
    shutil.copymode(folder / "config.json", folder / "partial")  # safetensors lets nobody else read
    os.replace(folder / "partial", folder / "model.safetensors")


def publish(drafter: LearnedDrafter, to: str, folder: Path, target: Target, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write `drafter` to `folder` in a published format, one of `formats.writing.FORMATS`.

    Raises InputError where the format cannot express it.
    """
    tensors = {name: value.detach().to(dtype) for name, value in drafter.state_dict().items()}
    if drafter.draft_ids is not None:
        tensors["d2t"] = (drafter.draft_ids - torch.arange(len(drafter.draft_ids), device=drafter.draft_ids.device)).cpu()
    tables = {"embed_tokens.weight": target.embedding, "lm_head.weight": target.lm_head}
    theirs = {name: module.get_parameter("weight").detach() for name, module in tables.items()}
    core, settings = "block" if KINDS[drafter.kind].one_pass else drafter.kind, drafter.settings
    assert isinstance(settings, BlockSettings | PairSettings)
    write(Draft(drafter.kind, core, settings, drafter.gamma, tensors, facts_of(target), theirs), to, folder)


def folder_hash(folder: Path, patterns: Collection[str] = WEIGHTS) -> str:
    """SHA-256 over files of a checkpoint, by default its configuration and weights: its identity, whatever its path."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                digest.update(chunk)
    return digest.hexdigest()


def check_shapes(drafter: LearnedDrafter, declared: Declared, folder: Path, name: str) -> None:
    """Raise InputError unless the tensors in every *.safetensors of `folder` are those of `drafter`, by their shapes."""
    settings, found, marked = declared.settings, {}, False
    for stream, key in stored(folder, name, "pt"):
        marked |= bare(key) == "t2d"
        if (ours := declared.names(key)) is not None:
            found[ours] = (key, list(stream.get_slice(key).get_shape()))
    wanted = {n: list(value.shape) for n, value in drafter.state_dict().items() if n not in _SHARED}
    size, draft = settings.shape.hidden_size, settings.draft_vocabulary
    needed = {**wanted}
    if settings.reduced:
        needed |= {"lm_head.weight": [draft, size]}
        if not marked:
            needed |= {"d2t": [draft]}
    if size != settings.target_size:  # the target's tables are of another width
        needed |= {"embed_tokens.weight": [settings.vocabulary, size], "lm_head.weight": [draft, size]}
    optional = {"embed_tokens.weight": [settings.vocabulary, size], "lm_head.weight": [draft, size], "lm_head.bias": [draft],
                "d2t": [draft]}  # fmt: skip
    if "norm.weight" in found and found["norm.weight"][1] != [size]:
        raise InputError(f"checkpoint {name}: hidden_size is {size}, and its norm.weight is {found['norm.weight'][1]}")
    problems = [f"has no tensor {n}" for n in needed if n not in found]
    problems += [f"has an unknown tensor {key}" for n, (key, _) in found.items() if n not in needed | optional]
    problems += [
        f"{found[n][0]} has shape {found[n][1]}, but the target and config.json need {shape}"
        for n, shape in (optional | needed).items()
        if n in found and found[n][1] != shape
    ]
    _raise_first(problems, name)


def _raise_first(problems: Sequence[str], name: str) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"checkpoint {name}: {problems[0]}{more}")


def _load_weights(drafter: LearnedDrafter, declared: Declared, tensors: Mapping[str, Tensor], name: str) -> None:
    """Fill `drafter` with tensors, whose shapes fit. Raises InputError as `plain_tensors`."""
    found = plain_tensors(drafter, declared, tensors, name)
    settings, shape = declared.settings, declared.settings.shape
    shared = {"embed_tokens": drafter.embed_tokens, "lm_head": drafter.lm_head}
    table = found.pop("d2t", None)
    if settings.reduced and table is not None:
        drafter.set_vocabulary(table + torch.arange(len(table)))
    # The checkpoint's own copies get modules of their own: never write through to the target's.
    if "embed_tokens.weight" in found:
        drafter.embed_tokens = torch.nn.Embedding(settings.vocabulary, shape.hidden_size)
    if "lm_head.weight" in found:
        drafter.lm_head = torch.nn.Linear(shape.hidden_size, settings.draft_vocabulary, bias="lm_head.bias" in found)
    else:
        found.pop("lm_head.bias", None)  # without its matrix it is a copy
    drafter.load_state_dict(found, strict=False)
    if settings.head == "own embedding" and "lm_head.weight" not in found:
        drafter.lm_head = torch.nn.Linear(shape.hidden_size, settings.vocabulary, bias=False)
        drafter.lm_head.weight = drafter.embed_tokens.get_parameter("weight")
    # Most checkpoints bring exact copies; over a large vocabulary these are gigabytes.
    for module, own in shared.items():
        parts = {f"{module}.{name}": value for name, value in own.named_parameters(recurse=False)}
        if all(name in found and torch.equal(found[name].to(value), value) for name, value in parts.items()):
            setattr(drafter, module, own)


def plain_tensors(
    drafter: LearnedDrafter, declared: Declared, tensors: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """A checkpoint's tensors by our names and conventions: norms multiply by w, and `d2t` holds offsets.

    Raises InputError for what is not finite, or no vocabulary.
    """
    named = {declared.names(key): value for key, value in tensors.items()}
    found = {key: value for key, value in named.items() if key is not None}
    for theirs, value in tensors.items():
        if (key := declared.names(theirs)) is not None and found[key] is not value and not torch.equal(value, found[key]):
            raise InputError(f"checkpoint {name}: has {key} under two names, of which {theirs} is one, with other numbers")
    table = found.get("d2t")
    renames = table is not None and bool(table.any()) and not torch.equal(table.long(), torch.arange(len(table)))
    if renames and not declared.settings.reduced:
        raise InputError(f"checkpoint {name}: d2t renames tokens, and its config says that it drafts all: one is wrong")
    mask = next((value for key, value in tensors.items() if bare(key) == "t2d"), None)
    marks = [] if mask is None else mask.flatten().nonzero().flatten().tolist()
    if declared.settings.reduced and "d2t" not in found:
        if len(marks) != declared.settings.draft_vocabulary or marks[-1] >= declared.settings.vocabulary:
            raise InputError(
                f"checkpoint {name}: has no tensor d2t, and t2d marks {len(marks)} tokens, not the "
                f"{declared.settings.draft_vocabulary} that it drafts"
            )
        found["d2t"] = torch.tensor(marks) - torch.arange(len(marks))
    elif declared.settings.reduced:
        ids = _vocabulary(found["d2t"], declared.settings, name)
        if marks and marks != sorted(ids.tolist()):
            raise InputError(
                f"checkpoint {name}: t2d marks other tokens than d2t, read as {declared.settings.vocabulary_map}, names; "
                "leave t2d out where d2t is right"
            )
        found["d2t"] = ids - torch.arange(len(ids))
    _raise_first([f"{n} holds numbers that are not finite" for n, value in found.items() if not _finite(value)], name)
    if declared.settings.norm_weight == "1 + w":
        norms = {f"{path}.weight" for path, module in drafter.named_modules() if isinstance(module, RMSNorm)}
        found = {n: value + 1 if n in norms else value for n, value in found.items()}
    return found


def _vocabulary(table: Tensor, settings: Settings, name: str) -> Tensor:
    """Target ids of a reduced vocabulary, from `d2t` [V_d]. Raises InputError where they are none, or repeat."""
    if table.is_floating_point():
        raise InputError(f"checkpoint {name}: d2t must hold whole numbers")
    ids = table.long() + (torch.arange(len(table)) if settings.vocabulary_map == "offsets" else 0)
    if int(ids.min()) < 0 or int(ids.max()) >= settings.vocabulary or len(set(ids.tolist())) < len(ids):
        raise InputError(
            f"checkpoint {name}: d2t, read as {settings.vocabulary_map}, does not name {len(ids)} different tokens of the "
            f"target's {settings.vocabulary}"
        )
    return ids


def _finite(tensor: Tensor) -> bool:
    if tensor.dtype.itemsize == 1:  # of eight bits: not everything is defined
        tensor = tensor.float()
    return bool(tensor.isfinite().all())


def read_tensors(folder: Path, name: str, wanted: Callable[[str], bool] = lambda key: True) -> dict[str, Tensor]:
    """The tensors of a checkpoint's *.safetensors, by name: those `wanted`. Raises InputError, naming the file."""
    return {key: stream.get_tensor(key) for stream, key in stored(folder, name, "pt") if wanted(key)}
