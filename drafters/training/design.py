"""From a design to a drafter: what a checkpoint of it would declare, and fresh weights; formats write it as any other."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from torch import nn

from drafters.checkpoints import fresh_drafter, load_drafter, publish
from drafters.families.registry import embedding_scale, read_shape
from drafters.formats.contract import Declared
from drafters.formats.deepspec import CORES
from drafters.formats.eagle3 import default_taps as default_pair_taps
from drafters.formats.writing import FORMATS
from drafters.kinds.learned import LearnedDrafter
from drafters.kinds.settings import BlockSettings, PairSettings
from drafters.target import Target
from drafters.training.recipe import Design, check_taps
from drafters.training.texts import Text
from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.heads import whole_heads

LAYERS, TAPS, RANK, GAMMA = 5, 5, 256, 7
"""What the published DSpark and DFlash drafters have; Eagle3 has one layer and three taps, MTP one of each and γ = 1."""
_SIZES: Final = (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps",
    "max_position_embeddings",
)  # fmt: skip
"""What a draft's layers take of the target's configuration; not its activation: vLLM's drafts know SiLU alone."""
_TURNED: Final = ("default", "linear", "llama3", "yarn")
"""Rotary scalings that drafts share with their targets; of any other they take the base."""
_FRESH_STD = 0.02


@dataclass(frozen=True, slots=True)
class Made:
    """A drafter to train, and what its checkpoint will say of it."""

    drafter: LearnedDrafter
    kind: str
    format: str
    """One of `formats.writing.FORMATS`, in which it is written."""


def make_drafter(design: Design, target: Target, texts: Sequence[Text], vocabulary: Sequence[int] | None, seed: int) -> Made:
    """A drafter with fresh weights; `vocabulary` holds the target ids of a reduced one. Raises InputError."""
    block = KINDS[design.kind].one_pass
    if vocabulary is not None and len(vocabulary) == target.vocab_size:
        vocabulary = None  # all of them
    layers = design.layers or (LAYERS if block else 1)
    taps = design.taps or default_taps(design.kind, target.num_layers)
    check_taps(taps, target.num_layers)
    if vocabulary is None and "bias" in dict(target.lm_head.named_parameters()):
        raise InputError(
            f"target {target.name}: its output head has a bias, for which no format of drafters has a place; give "
            "--vocabulary, whose head is the draft's own"
        )
    gamma = design.gamma or KINDS[design.kind].default_tokens or GAMMA
    written = written_as(design, family_of(target), layers)
    sizes = Sizes(
        design.kind, layers, tuple(taps), gamma, design.rank or RANK, mask_token(target, texts),
        None if vocabulary is None else len(vocabulary),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drafter = fresh_drafter(declared_by(sizes, target, written), target)
        _initialise(drafter)
    if vocabulary is not None:
        drafter.set_vocabulary(torch.tensor(vocabulary))
        rows = target.lm_head.get_parameter("weight").detach()[torch.tensor(vocabulary, device=target.device)]
        drafter.lm_head.get_parameter("weight").data = rows.clone()
    return Made(_trainable(drafter, target), design.kind, written)


def warm_drafter(source: str, kind: str, target: Target) -> Made:
    """A drafter that goes on from a checkpoint of any format that loads, and is written in that where it can be.

    Raises InputError.
    """
    drafter = load_drafter(source, target)
    if not isinstance(drafter, LearnedDrafter) or drafter.kind != kind:
        raise InputError(f"--from {source}: is of kind {drafter.kind}, and {kind} is to be trained")
    if getattr(drafter.settings, "selector", None) is not None:
        raise InputError(f"--from {source}: drafts candidates of a selector (DFlash2), which are not trained here")
    trained, refused = _trainable(drafter, target), None
    for written in sorted(FORMATS, key=lambda name: name not in drafter.format.lower().replace("-", "")):
        made = Made(trained, kind, written)
        try:
            with TemporaryDirectory() as folder:
                save_made(made, target, Path(folder))
        except InputError as error:
            refused = refused or error
            continue
        return made
    raise InputError(f"--from {source}: what is trained could not be written: {refused}")


def written_as(design: Design, family: str, layers: int) -> str:
    """The format of a design for a target of a family. Raises InputError where it has no place for it."""
    several = design.kind == "eagle3" and layers > 1
    if several and design.format == "deepspec":
        raise InputError(f"--layers {layers}: DeepSpec's eagle3 has one; leave it out, or --format")
    if design.format != "auto":
        return design.format
    return "speculators" if family == "llama" or design.vocabulary is not None or several else "deepspec"


def family_of(target: Target) -> str:
    """The family of the draft's layers: the target's where there is one, else Qwen3's."""
    model_type = str(target.config.model_type)
    return next(
        (family for family in ("llama", "gemma4") if model_type.startswith(family) and model_type != "llama4"), "qwen3"
    )


def _fuses(kind: str) -> bool:
    """Whether a kind reads several layers of the target, or what its last one puts out."""
    return all(core.settings.get("fused", True) for core in CORES.values() if core.name == kind)


def default_taps(kind: str, target_layers: int) -> tuple[int, ...]:
    """Layers of the target that a draft reads where nobody says: as published, for a target of any depth."""
    if not _fuses(kind):
        return (target_layers - 1,)
    deepest = max(0, target_layers - 2)  # of the last layer vLLM has what comes after the last norm alone
    if not KINDS[kind].one_pass:
        of_all = [index - 1 for index in default_pair_taps(target_layers)]
        return tuple(sorted({min(max(tap, 0), deepest) for tap in of_all}))
    first, last = (1, target_layers - 3) if target_layers > 4 else (0, deepest)
    count = min(TAPS, last - first + 1)
    return tuple(int(i) for i in torch.linspace(first, last, count).round().tolist())


def mask_token(target: Target, texts: Sequence[Text]) -> int:
    """The token that stands for what is to be drafted: the tokenizer's mask, a row of the embedding beyond it, a special
    token that no text has, or else the last one that none has."""
    tokenizer, size = target.tokenizer, target.vocab_size
    own = getattr(tokenizer, "mask_token_id", None)
    if own is not None and own < size:
        return int(own)
    if tokenizer is not None and len(tokenizer) < size:
        return len(tokenizer)
    said = {token for text in texts for token in text.ids} | target.stop_tokens
    special = [i for i in getattr(tokenizer, "all_special_ids", None) or [] if i < size]
    added = [i for i in getattr(tokenizer, "added_tokens_decoder", None) or {} if i < size]
    unsaid = [token for token in (*special, *added) if token not in said]
    return max(unsaid, default=next((t for t in range(size - 1, -1, -1) if t not in said), size - 1))


@dataclass(frozen=True, slots=True)
class Sizes:
    """A design with nothing left open."""

    kind: str
    layers: int
    taps: tuple[int, ...]
    gamma: int
    rank: int
    """The sequential head's rank; dspark's alone."""
    mask: int
    """The token that stands for what is to be drafted."""
    vocabulary: int | None = None
    """Tokens of a reduced vocabulary."""


def declared_by(sizes: Sizes, target: Target, written: str) -> Declared:
    """What a checkpoint of a design declares, in a format of `formats.writing.FORMATS`, some of which differ."""
    kind, theirs = sizes.kind, written == "speculators"
    shape = read_shape(_layer(target, _layers_of(kind, target, written), sizes.layers), f"of {kind}")
    every: dict[str, Any] = {
        "shape": shape, "target_size": target.hidden_size, "vocabulary": target.vocab_size, "taps": sizes.taps,
        "draft_vocabulary": sizes.vocabulary or target.vocab_size,
        "embedding_scale": embedding_scale(shape),
        "softcap": getattr(target.config, "final_logit_softcapping", None) if shape.family == "gemma4" else None,
    }  # fmt: skip
    settings: BlockSettings | PairSettings
    if KINDS[kind].one_pass:
        filled, headed = kind == "dflash" and theirs, kind == "dspark"
        settings = BlockSettings(
            **every, block=sizes.gamma + filled, mask_token=sizes.mask, layout="fill-in" if filled else "anchor-first",
            markov_rank=sizes.rank if headed else 0, confidence="hidden and token" if headed else "none",
        )  # fmt: skip
    else:
        after = kind == "mtp" and theirs
        settings = PairSettings(**every, fused=_fuses(kind), fed_back="after the norm" if after else "before the norm")
    return Declared(written, settings, "block" if KINDS[kind].one_pass else kind, sizes.gamma, str)


def _layers_of(kind: str, target: Target, written: str) -> str:
    """The family of a draft's layers: the target's where the format has them, else Qwen3's, which all have.

    Llama's are in speculators' eagle3 alone: its block drafters norm queries and keys whatever the target, and its mtp and
    DeepSpec know no Llama. Gemma-4's are in DeepSpec's alone, but for mtp.
    """
    own, theirs = family_of(target), written == "speculators"
    has = {"qwen3": True, "gemma4": kind != "mtp" and not theirs, "llama": kind == "eagle3" and theirs}
    return own if has[own] else "qwen3"


def _layer(target: Target, family: str, layers: int) -> dict[str, Any]:
    """What a draft's layers are over a target, in the words of a family's configuration."""
    size = target.hidden_size
    own = {"hidden_size": size, "num_hidden_layers": layers, "layer_types": ["full_attention"] * layers}
    if family == "gemma4":
        of_target = target.config.to_dict()
        alike = {name: value for name, value in of_target.items() if name != "per_layer_config"}
        return alike | whole_heads(of_target) | own
    said = target.config.to_dict()  # of layers that differ it has what is common; as attributes that is an error
    found = {
        name: value
        for name in _SIZES
        if (value := said[name] if name in said else getattr(target.config, name, None)) is not None
    }
    heads = int(found.setdefault("num_attention_heads", max(1, size // 64)))
    found.setdefault("num_key_value_heads", heads)
    found.setdefault("head_dim", max(2, size // heads))
    found.setdefault("intermediate_size", 4 * size)
    return found | own | {"model_type": family, "attention_bias": False} | _rotary_of(target)


def _rotary_of(target: Target) -> dict[str, Any]:
    """The target's rotary parameters as the speculators library takes them: of sliding layers where kinds of layers differ,
    and for all of a head. Empty where it has none."""
    own: Any = getattr(target.config, "rope_parameters", None) or {}
    if "rope_theta" not in own:
        own = own.get("sliding_attention") or next((part for part in own.values() if isinstance(part, Mapping)), {})
    if "rope_theta" not in own:
        return {}
    kept = {k: v for k, v in own.items() if k not in ("partial_rotary_factor", "type") and "mrope" not in k}
    plain = {"rope_type": "default", "rope_theta": own["rope_theta"]}
    return {"rope_parameters": kept if own.get("rope_type", "default") in _TURNED else plain}


def save_made(made: Made, target: Target, folder: Path) -> None:
    """Write a drafter in the format that it was made for. Raises InputError where that cannot express it."""
    publish(made.drafter, made.format, folder, target)


def _trainable(drafter: LearnedDrafter, target: Target) -> LearnedDrafter:
    """Its own weights in float32 on the target's device, to be trained; tables stay as they are."""
    for name, module in drafter.named_children():
        if name not in ("embed_tokens", "lm_head"):
            module.to(device=target.device, dtype=torch.float32).requires_grad_(True)
    for table in (drafter.embed_tokens, drafter.lm_head):
        table.to(device=target.device).requires_grad_(False)
    for name, buffer in drafter.named_buffers(recurse=False):
        setattr(drafter, name, buffer.to(target.device))
    return drafter.train()


def widen_tables(drafter: LearnedDrafter) -> None:
    """Give it copies in float32 of a target's tables of 16 bits, to be trained in float32 throughout."""
    for name in ("embed_tokens", "lm_head"):
        table = getattr(drafter, name)
        if table.get_parameter("weight").dtype != torch.float32:
            setattr(drafter, name, copy.deepcopy(table).float())


def trained_parameters(drafter: LearnedDrafter) -> dict[str, nn.Parameter]:
    """By name; without the tables that it shares."""
    return {name: value for name, value in drafter.named_parameters() if value.requires_grad}


def _initialise(drafter: LearnedDrafter) -> None:
    """Small normal matrices; the sequential head starts as no bias at all."""
    for name, parameter in drafter.named_parameters():
        if name in ("embed_tokens.weight", "lm_head.weight"):
            continue
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=_FRESH_STD)
        if "markov_w2" in name or "confidence_head" in name:
            torch.nn.init.zeros_(parameter)
