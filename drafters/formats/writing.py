"""Writing a drafter in the format of a publisher: configuration and tensors as his own code writes them.

What a format has no place for is refused by name: a convention left out would not crash, but draft something else.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from drafters.families.layers import LayerShape
from drafters.families.registry import embedding_scale, shape_config
from drafters.formats import places
from drafters.formats.contract import TargetFacts
from drafters.formats.deepspec import CORES
from drafters.formats.places import WORDS, check_features
from drafters.formats.speculators import MTP_NAMES
from drafters.kinds.settings import BlockSettings, PairSettings
from simulator.errors import InputError, first_paragraph

_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Draft:
    """A drafter to write."""

    name: str
    """What messages call it."""
    core: str
    """Which of `formats.registry` it is."""
    settings: PairSettings | BlockSettings
    gamma: int
    """Tokens that it drafts where nobody says."""
    tensors: Mapping[str, Tensor]
    """By our names, with `d2t` as offsets where its vocabulary is reduced, and tables where it has its own."""
    target: TargetFacts
    tables: Mapping[str, Tensor]
    """The target's `embed_tokens.weight` and `lm_head.weight`, as far as they are known."""

    def own(self, table: str) -> bool:
        """Whether it has a table that is not the target's."""
        theirs, ours = self.tables.get(table), self.tensors.get(table)
        return ours is not None and not (theirs is not None and torch.equal(ours, theirs.to(ours)))

    def with_tables(self, to: str) -> dict[str, Tensor]:
        """Its tensors and both tables. Raises InputError where these are nowhere."""
        own = {name: self.tensors.get(name, self.tables.get(name)) for name in (_EMBEDDING, _HEAD)}
        found = {name: table for name, table in own.items() if table is not None}
        if len(found) < len(own):
            raise self.fail(f"leaves its tables to the target, and {to} holds copies of them; name the target")
        exact = {name: small if torch.equal((small := table.to(self.dtype)).to(table), table) else table
                 for name, table in found.items()}  # fmt: skip
        return {**exact, **self.tensors}

    @property
    def dtype(self) -> torch.dtype:
        """The type of most of its numbers, which is what its tables are written in unless they would be rounded."""
        counts = Counter[torch.dtype]()
        for tensor in self.tensors.values():
            counts[tensor.dtype] += tensor.numel() * tensor.is_floating_point()
        return counts.most_common(1)[0][0]

    def without_tables(self) -> dict[str, Tensor]:
        """Its tensors but for tables that are the target's."""
        return {n: t for n, t in self.tensors.items() if n not in (_EMBEDDING, _HEAD) or self.own(n)}

    def fail(self, what: str) -> InputError:
        """The error to raise."""
        return InputError(f"checkpoint {self.name}: {what}")


Written = tuple[dict[str, Any], dict[str, Tensor]]
"""`config.json`, and tensors by the names that they have on disk."""


def write(draft: Draft, to: str, folder: Path) -> None:
    """Write a drafter to `folder` in one of `FORMATS`, whole: a new folder is gone where it cannot be.

    Raises InputError where the format cannot express it, and OSError, of safetensors too.
    """
    config, tensors = FORMATS[to](_usual(draft))
    new = not folder.exists()
    config["dtype"] = str(draft.dtype).removeprefix("torch.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        # Weights last and at once: where they are, the checkpoint is whole.
        save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "partial", metadata={"format": "pt"})
        shutil.copymode(folder / "config.json", folder / "partial")  # safetensors lets nobody else read
        os.replace(folder / "partial", folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise OSError(errno.EIO, first_paragraph(error), str(folder)) from error


def _usual(draft: Draft) -> Draft:
    """The same drafter by the conventions that all formats share: pairs as [embedding ; feature], a head by its name."""
    tensors, settings = dict(draft.tensors), draft.settings
    if settings.head == "own embedding":
        tensors.setdefault(_HEAD, tensors[_EMBEDDING])
    if isinstance(settings, PairSettings) and settings.order == "feature, embedding":
        reading = (
            [f"layers.0.self_attn.{part}_proj.weight" for part in "qkv"] if draft.core == "eagle3" else ["eh_proj.weight"]
        )
        tensors |= {name: torch.cat(tensors[name].chunk(2, -1)[::-1], -1) for name in reading}
        settings = replace(settings, order="embedding, feature")
    if _HEAD not in tensors:
        tensors.pop("lm_head.bias", None)  # without its matrix it is a copy
    if list(settings.taps) != (order := sorted(settings.taps)):  # engines join them as the target passes them
        tensors = _joined_by(tensors, [settings.taps.index(tap) for tap in order])
        settings = replace(settings, taps=tuple(order))
    if settings.shape.attention_bias != settings.shape.output_bias:  # configurations have one field for both
        tensors = _zeros(tensors, settings.shape) | tensors
        settings = replace(settings, shape=replace(settings.shape, attention_bias=True, output_bias=True))
    return replace(draft, tensors=tensors, settings=settings)


def _joined_by(tensors: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    """What reads taps side by side, for taps in another order: where each was before."""

    def sorted_columns(joined: Tensor) -> Tensor:
        parts = joined.chunk(len(order), -1)
        return torch.cat([parts[i] for i in order], -1)

    changed = {name: sorted_columns(tensors[name]) for name in ("fc.weight", "input_norm.weight") if name in tensors}
    each = {f"fc_norm.{new}.weight": tensors.get(f"fc_norm.{old}.weight") for new, old in enumerate(order)}
    return {**tensors, **changed, **{name: norm for name, norm in each.items() if norm is not None}}


def _zeros(tensors: Mapping[str, Tensor], shape: LayerShape) -> dict[str, Tensor]:
    """Biases of attention that add nothing, for every projection."""
    parts = [f"layers.{i}.self_attn.{part}_proj" for i in range(shape.layers) for part in "qkvo"]
    return {f"{n}.bias": like.new_zeros(like.shape[0]) for n in parts if (like := tensors.get(f"{n}.weight")) is not None}


def _features(draft: Draft) -> dict[str, str]:
    """What a drafter has that not every format has a place for: its key, and what it is called."""
    s = draft.settings
    block, pair = isinstance(s, BlockSettings) and s, isinstance(s, PairSettings) and s
    chained = draft.core == "eagle3" or draft.gamma > 1
    causal = isinstance(s, BlockSettings) and s.in_block == "causal"
    sliding, scaled = any(s.shape.windows), s.embedding_scale != embedding_scale(s.shape)
    told = {
        "eagle3": (draft.core == "eagle3", WORDS["eagle3"]),
        "mtp": (draft.core == "mtp", WORDS["mtp"]),
        "block": (draft.core == "block", "drafts of whole blocks"),
        "layers": (pair and s.shape.layers > 1, "second layer of drafts token by token"),
        s.shape.family: (True, f"layers as {s.shape.family}'s"),
        "width": (s.shape.hidden_size != s.target_size, "states that are not as wide as the target's"),
        "after the norm": (0 < draft.target.num_layers == s.taps[-1], "a tap of the state after the target's last norm"),
        "reduced": (s.reduced, WORDS["reduced"]),
        "softcap": (s.softcap is not None, "cap on logits"),
        "scales": (scaled or (block and block.logit_scale), "factors on embeddings or logits"),
        "interleaved": (s.shape.rotary.get("interleaved"), "interleaved rotary dimensions"),
        "bias": ("lm_head.bias" in draft.tensors, "bias of the head"),
        "tables": (draft.own(_EMBEDDING) or draft.own(_HEAD), "embedding or head of the draft's own" if draft.tables else
                   "place for the tables that it holds, unless they are its target's: name the target"),
        "short": (block and draft.gamma < block.most_drafted, f"drafts of fewer tokens than a block holds ({draft.gamma} of "
                  f"{block.most_drafted if block else 0})"),
        "unfused": (draft.core == "eagle3" and pair and not pair.fused, "EAGLE-3 without a projection of taps"),
        "tap norms": (pair and pair.tap_norm != "none", "norm of taps"),
        "normed residual": (pair and pair.residual != "feature", "normed residual (norm_before_residual)"),
        "fed back normed": (pair and pair.fed_back == "after the norm" and chained, "state fed back after the norm"),
        "fed back": (pair and pair.fed_back == "before the norm" and chained, "state fed back before the norm"),
        "anchor-first": (block and block.layout == "anchor-first", "block whose anchor's slot drafts (anchor-first)"),
        "fill-in": (block and block.layout == "fill-in", "block whose slots predict their own tokens (fill-in)"),
        "head": (block and block.markov_rank > 0, WORDS["head"]),
        "confidence": (block and block.confidence != "none", "confidence head"),
        "dflash2": (block and (block.convolution or block.selector), "convolution and selector (DFlash2)"),
        "causal": (causal, "causal block"),
        "windows of slots": (sliding and s.window_from == "slot", "window that moves with the drafted token"),
        "windows of anchors": (sliding and s.window_from == "anchor", "window that stands at the anchor"),
        "open windows": (block and sliding and block.in_block == "bidirectional", "sliding layer that is not causal"),
    }  # fmt: skip
    return {key: words for key, (there, words) in told.items() if there}


def _check(draft: Draft, name: str, has: str) -> None:
    """Raise InputError for the features that a format has no place for; `has` are those it has."""
    check_features(draft.name, _features(draft), name, has)


def _of_target(draft: Draft) -> dict[str, Any]:
    layers = draft.target.num_layers
    return {"num_target_layers": layers} if layers else {}


def _layer(draft: Draft) -> dict[str, Any]:
    return shape_config(draft.settings.shape, draft.settings.vocabulary, draft.target.max_positions)


def _deepspec(draft: Draft) -> Written:
    s, family = draft.settings, draft.settings.shape.family
    _check(draft, "DeepSpec's", places.DEEPSPEC + (", softcap" if family == "gemma4" else ""))
    core = next((c for c in CORES.items() if (c[1].family, c[1].name) == (family, draft.core)), None)
    if core is None:
        raise draft.fail(f"cannot be written as DeepSpec's: the format has no MTP of the family {family}")
    config = _layer(draft) | {"architectures": [core[0]], core[1].gamma: draft.gamma, **_of_target(draft)}
    config["target_layer_ids"] = list(s.taps)
    if s.softcap is not None:
        config["final_logit_softcapping"] = s.softcap
    tensors = draft.with_tables("DeepSpec's format")
    if isinstance(s, BlockSettings):
        config |= {"block_size": s.block, "mask_token_id": s.mask_token} | _heads(s)
    elif draft.core == "mtp":  # ours joins its pairs the other way
        tensors["eh_proj.weight"] = torch.cat(tensors["eh_proj.weight"].chunk(2, -1)[::-1], -1)
    return config, tensors


def _heads(s: BlockSettings) -> dict[str, Any]:
    confidence = {"enable_confidence_head": s.confidence != "none", "confidence_head_with_markov": "token" in s.confidence}
    return {"markov_rank": s.markov_rank, "markov_head_type": s.markov_head} | confidence


def _speculators(draft: Draft) -> Written:
    s = draft.settings
    if not draft.target.name:
        raise draft.fail("speculators' format names the target; name it")
    _check(draft, "speculators'", places.SPECULATORS + (", fed back, llama" if draft.core == "eagle3" else ""))
    layer = _layer(draft)
    tensors = draft.without_tables()
    own: dict[str, Any] = {"draft_vocab_size": s.draft_vocabulary, "target_hidden_size": s.target_size}
    if isinstance(s, BlockSettings):
        kind, name = _block_kind(draft)
        own |= {
            "aux_hidden_state_layer_ids": [tap + 1 for tap in s.taps], "block_size": s.block, "mask_token_id": s.mask_token,
            "sample_from_anchor": s.layout == "anchor-first", "sliding_window_non_causal": s.in_block == "bidirectional",
        }  # fmt: skip
        own |= _heads(s) if kind == "dspark" else _second(s) if kind == "dflash2" else {}
    elif draft.core == "mtp":
        kind, name = "mtp", "MTPDraftModel"
        count = draft.target.num_layers
        layer |= {"num_hidden_layers": count} | (
            {"layer_types": ["full_attention"] * count} if "layer_types" in layer else {}
        )
        theirs = {ours: theirs for theirs, ours in MTP_NAMES.items()}
        parts = {n: n.removeprefix("layers.0.").partition(".") for n in tensors if n not in (_EMBEDDING, _HEAD)}
        named = {n: p[0] if n.startswith("layers.") else theirs[p[0]] for n, p in parts.items()}
        tensors = {f"mtp_layers.0.{named[n]}.{p[2]}": tensors[n] for n, p in parts.items()}
        own = {"num_nextn_predict_layers": 1}
        if draft.own(_EMBEDDING) or draft.own(_HEAD):
            raise draft.fail("cannot be written as speculators' mtp: it has no embedding or head but the target's")
    else:
        kind, name = "eagle3", "Eagle3DraftModel"
        own |= {"eagle_aux_hidden_state_layer_ids": [tap + 1 for tap in s.taps], **_norms(s), "embed_requires_grad": False}
        tensors = draft.with_tables("speculators' format")
    return {
        "architectures": [name], **own, "speculators_model_type": kind, "speculators_version": "0.9.0",
        "speculators_config": _proposals(draft, kind), "tie_word_embeddings": False, "transformer_layer_config": layer,
    }, _reduced(draft, tensors)  # fmt: skip


def _block_kind(draft: Draft) -> tuple[str, str]:
    s = draft.settings
    assert isinstance(s, BlockSettings)
    heads = bool(s.markov_rank) or s.confidence != "none"
    if s.convolution is None and s.selector is None:
        return ("dspark", "DSparkDraftModel") if heads else ("dflash", "DFlashDraftModel")
    if s.convolution is None or s.selector is None or heads or s.reduced:
        raise draft.fail(
            "cannot be written: DFlash2 is a convolution and a selector over the whole vocabulary, without a head"
        )
    return "dflash2", "DFlash2DraftModel"


def _second(s: BlockSettings) -> dict[str, Any]:
    assert s.convolution is not None
    assert s.selector is not None
    convolution = {"conv_kernel_size": s.convolution[0], "conv_group_size": s.convolution[1]}
    return convolution | {"selector_rank": s.selector[0], "selector_top_k": s.selector[1]}


def _norms(s: PairSettings) -> dict[str, Any]:
    return {
        "norm_before_residual": s.residual == "normed feature", "norm_before_fc": s.tap_norm == "joined",
        "fc_norm": s.tap_norm == "each", "norm_output": s.fed_back == "after the norm",
    }  # fmt: skip


def _proposals(draft: Draft, kind: str) -> dict[str, Any]:
    greedy = {"accept_tolerance": 0.0, "proposal_type": "greedy", "speculative_tokens": draft.gamma, "verifier_accept_k": 1}
    verifier = {"architectures": [draft.target.architecture], "name_or_path": draft.target.name}
    ways: dict[str, Any] = {"default_proposal_method": "greedy", "proposal_methods": [greedy]}
    return {"algorithm": kind, **ways, "verifier": verifier}


def _reduced(draft: Draft, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With both tables of a reduced vocabulary, where it is one."""
    if not draft.settings.reduced:
        return {n: t for n, t in tensors.items() if n not in ("d2t", "t2d")}
    offsets = draft.tensors["d2t"].long()
    said = torch.zeros(draft.settings.vocabulary, dtype=torch.bool)
    said[offsets + torch.arange(len(offsets))] = True
    return {**tensors, "d2t": offsets, "t2d": said}


def _zlab(draft: Draft) -> Written:
    s = draft.settings
    _check(draft, "z-lab's", places.ZLAB)
    assert isinstance(s, BlockSettings)
    own: dict[str, Any] = {"mask_token_id": s.mask_token, "target_layer_ids": list(s.taps)}
    kind, name = _block_kind(draft)
    config = _layer(draft)
    if s.in_block != "causal where sliding":
        config["is_causal"] = s.in_block == "causal"  # z-lab's code looks for it nowhere else
    rotary = dict(config.pop("rope_parameters"))
    config |= {"rope_theta": rotary.pop("rope_theta")}
    config["rope_scaling"] = None if rotary == {"rope_type": "default"} else rotary
    scale = None if s.embedding_scale == 1 else s.embedding_scale
    extra = {"final_logit_softcapping": s.softcap, "input_embedding_scale": scale, "output_multiplier": s.logit_scale}
    config |= {"architectures": [name], "block_size": s.block, **_of_target(draft)}
    config |= _second(s) if kind == "dflash2" else {}
    return config | {k: v for k, v in extra.items() if v is not None} | {"dflash_config": own}, draft.without_tables()


def _vllm(draft: Draft) -> Written:
    """vLLM taps what enters a layer, counted from 0, and hands over the last layer's output normed."""
    s = draft.settings
    if draft.core == "mtp":
        raise draft.fail(places.VLLM_HAS_NO_MTP)
    if not draft.target.num_layers:
        raise draft.fail(
            "whether it taps its target's last layer, which vLLM hands over normed, follows from the target; name the target"
        )
    if draft.target.num_layers - 1 in s.taps:
        raise draft.fail(
            "taps the target's last layer, which vLLM hands over normed and the drafter was trained without; it cannot be "
            "converted"
        )
    if s.shape.family == "gemma4":
        raise draft.fail("cannot be written as vLLM's: it has no drafters with layers of the family gemma4")
    if isinstance(s, BlockSettings):
        if s.markov_rank and s.markov_head != "vanilla":
            raise draft.fail(f"has a {s.markov_head} head; vLLM implements vanilla heads only")
        return _vllm_block(draft, s)
    _check(draft, "vLLM's", places.VLLM_PAIRS)
    config = _layer(draft) | {
        "architectures": ["LlamaForCausalLMEagle3" if s.shape.family == "llama" else "Eagle3Qwen3ForCausalLM"],
        "draft_vocab_size": s.draft_vocabulary, "target_hidden_size": s.target_size,
        "eagle_aux_hidden_state_layer_ids": [tap + 1 for tap in s.taps], **_norms(s),
    }  # fmt: skip
    return config, _reduced(draft, draft.with_tables("vLLM's layout"))


def _vllm_block(draft: Draft, s: BlockSettings) -> Written:
    """In whichever of the formats that vLLM reads there is a place for it.

    DFlash anchor-first becomes DSpark with a sequential head that adds nothing: what vLLM calls dflash has its mask slots at
    the positions they predict, and would draft shifted by one without a word.
    """
    if s.layout == "anchor-first" and not s.markov_rank:
        like = draft.tensors["norm.weight"]
        zeros = {"w1": s.vocabulary, "w2": s.draft_vocabulary}
        nothing = {f"markov_head.markov_{n}.weight": like.new_zeros(size, 1) for n, size in zeros.items()}
        s = replace(s, markov_rank=1, markov_head="vanilla")
        draft = replace(draft, settings=s, tensors={**draft.tensors, **nothing})
    refused: InputError | None = None
    for way in (_deepspec, _zlab, _speculators):
        try:
            return way(draft)
        except InputError as error:
            refused = error
    assert refused is not None
    raise refused


FORMATS: Final[Mapping[str, Callable[[Draft], Written]]] = {
    "deepspec": _deepspec,
    "speculators": _speculators,
    "zlab": _zlab,
    "vllm": _vllm,
}
"""The formats that can be written, by the word users say."""
