"""A target for the roofline, from the configuration that comes with its checkpoint (Hugging Face's `config.json`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from simulator.errors import InputError
from simulator.hardware.roofline import FORMAT_BYTES, Attention, Drafters, Format, Model

_LARGEST: Final = 10**9
"""No size in a configuration is larger."""
_PLAIN_MLP: Final = ("gpt2", "gpt_neox", "opt", "phi", "falcon", "starcoder2", "gptj", "bloom", "mpt")
"""Families whose MLP has two matrices; all others have a gate beside."""
_STATEFUL: Final = ("mamba_", "ssm_", "conv_", "linear_", "rwkv", "lru_", "time_step_")
"""How fields begin that only layers have whose state is no cache of tokens."""
_WINDOWED: Final = ("sliding_attention", "local", "local_attention")
_WHOLE: Final = ("full_attention", "attention", "global", "global_attention")
_DRAFT_LAYERS: Final = 5
"""Layers of DSpark and DFlash, as published for Qwen3; and the layers that they tap."""
_INSTEAD: Final = "modelled; time it with `harness profile`, or write a profile of your own (docs/hardware.md)"
_QUANTISED: Final[Mapping[str, Format]] = {"fp8": "fp8", "fbgemm_fp8": "fp8", "finegrained_fp8": "fp8", "mxfp4": "fp4"}
"""What a configuration calls its weights' format."""


def named(file: Path, config: Mapping[str, Any]) -> str:
    """What a model is called: as its configuration says, or as the file is, or its folder."""
    stem = file.name.removesuffix(".json").removesuffix("config").rstrip(".-_ ")
    return str(config.get("_name_or_path") or "") or stem or file.resolve().parent.name


def model_of(
    config: Mapping[str, Any], name: str, source: str, *, weights: Format | None = None, cache: Format | None = None
) -> Model:
    """The model that a configuration describes.

    Args:
        weights: the number format of all matrices but the head; by default what the configuration says, else bf16.
        cache: the number format of keys and values; by default bf16.

    Raises InputError, naming `source` and the field, for what is missing, makes no sense, or keeps a state that is no cache.
    """
    inner = config.get("text_config") or {}
    if not isinstance(inner, Mapping):
        raise InputError(f"model {source}: text_config must be an object")
    fields = _Fields({**config, **inner}, source)
    _check_decoder(fields)
    if stateful := sorted(name for name in fields.raw if name.startswith(_STATEFUL)):
        raise InputError(f"model {source}: has {stateful[0]}: layers that keep a state beside a cache are not {_INSTEAD}")
    width, layers = fields.size("hidden_size", "n_embd", "d_model"), fields.size("num_hidden_layers", "n_layer", "n_layers")
    heads = fields.size("num_attention_heads", "n_head", "n_heads")
    attention = _attention(fields, width, layers, heads, FORMAT_BYTES[cache or "bf16"])
    mlp, experts, active, each = _mlp(fields, width, layers)
    dense, routed = _formats(fields, weights)
    full = max(attention, key=lambda one: (one.ratio, one.layers))
    mlp_width = fields.size("intermediate_size", "n_inner", "moe_intermediate_size", default=4 * width)
    entry = fields.entry(heads)
    return Model(
        name=name, width=width, vocabulary=fields.size("vocab_size"), tied_head=bool(fields.raw.get("tie_word_embeddings")),
        attention=tuple(attention), mlp_parameters=mlp, experts=experts, active_experts=active, expert_parameters=each,
        dense_format=dense, expert_format=routed, kv_shards=1 if fields.latent else entry.kv_heads,
        drafters=Drafters(
            attention=_of_draft(full), taps=min(_DRAFT_LAYERS, layers),
            eagle_parameters=2 * width * (heads + 2 * entry.kv_heads) * entry.head_dim + heads * entry.head_dim * width
            + 3 * width * mlp_width,
            eagle_entry_bytes=2 * entry.kv_heads * entry.head_dim * FORMAT_BYTES["bf16"],
        ),
        source=f"{source}; drafters of the published shapes over a target of this width are assumed",
    )  # fmt: skip


def _check_decoder(fields: _Fields) -> None:
    """Raise InputError for what is no decoder of text, or has layers that are not modelled."""
    raw = fields.raw
    if raw.get("is_encoder_decoder") or raw.get("type_vocab_size") is not None:
        raise InputError(f"model {fields.source}: is no causal language model ({raw.get('model_type', 'no model_type')})")
    beyond = {"attention_chunk_size": "chunked attention", "interleave_moe_layer_step": "experts in every other layer"}
    for field, what in beyond.items():
        if raw.get(field) not in (None, 1):
            raise InputError(f"model {fields.source}: has {field}: {what} is not {_INSTEAD}")


def _of_draft(full: Attention) -> Attention:
    return Attention(
        layers=_DRAFT_LAYERS, heads=full.heads, head_dim=full.head_dim, projection_parameters=full.projection_parameters,
        entry_bytes=full.entry_bytes, window=full.window, ratio=full.ratio,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Heads:
    """What a token keeps in a layer."""

    kv_heads: int
    head_dim: int
    shared: bool = False
    """Whether one projection serves as key and value."""

    def projections(self, width: int, heads: int) -> int:
        """Parameters of a layer's projections."""
        kept = self.kv_heads * (1 if self.shared else 2)
        return width * (heads + kept) * self.head_dim + heads * self.head_dim * width


class _Fields:
    """A configuration whose fields are checked as they are read."""

    def __init__(self, raw: Mapping[str, Any], source: str) -> None:
        self.raw, self.source = raw, source

    @property
    def latent(self) -> bool:
        """Whether keys and values are cached as one compressed vector (MLA)."""
        return self.raw.get("kv_lora_rank") is not None

    def size(self, *names: str, default: int | None = None) -> int:
        """The first of several fields that is there, a whole number from 1."""
        name = next((name for name in names if self.raw.get(name) is not None), None)
        if name is None:
            if default is None:
                raise InputError(f"model {self.source}: lacks {names[0]}")
            return default
        value = self.raw[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
            raise InputError(f"model {self.source}: {name} must be a whole number from 1, got {value!r}")
        return value

    def count(self, name: str, most: int) -> int:
        """A whole number from 0, 0 where it is not there."""
        value = self.raw.get(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise InputError(f"model {self.source}: {name} must be a whole number from 0 to {most:,}, got {value!r}")
        return value

    def entry(self, heads: int, *, whole: bool = False) -> _Heads:
        """What a layer keeps of a token; `whole` of a layer that sees everything, where such have a shape of their own."""
        width = self.size("hidden_size", "n_embd", "d_model")
        head_dim = self.size("head_dim", default=max(1, width // heads))
        alone = self.raw.get("multi_query") and not self.raw.get("new_decoder_architecture")  # as falcon says it
        kv_heads = 1 if alone else self.size("num_key_value_heads", "num_kv_heads", default=heads)
        if heads % kv_heads:
            raise InputError(f"model {self.source}: {kv_heads} key-value heads do not divide {heads} heads")
        if not whole:
            return _Heads(kv_heads, head_dim)
        return _Heads(
            self.size("num_global_key_value_heads", default=kv_heads), self.size("global_head_dim", default=head_dim),
            bool(self.raw.get("attention_k_eq_v")),
        )  # fmt: skip


def _attention(fields: _Fields, width: int, layers: int, heads: int, cached_bytes: float) -> list[Attention]:
    """Layers by what they see."""
    if fields.latent:
        return [_latent(fields, width, layers, heads, cached_bytes)]
    declared = fields.raw.get("layer_types")
    kinds = Counter(map(str, declared) if isinstance(declared, list) else _undeclared(fields, layers))
    if kinds.total() != layers:
        raise InputError(f"model {fields.source}: layer_types names {kinds.total()} layers of {layers}")
    found = []
    for kind, count in kinds.items():
        if kind not in _WINDOWED + _WHOLE:
            raise InputError(f"model {fields.source}: its {str(kind).replace('_', ' ')} layers are not {_INSTEAD}")
        entry = fields.entry(heads, whole=kind in _WHOLE and len(kinds) > 1)
        window = fields.size("sliding_window", "attention_window_size") if kind in _WINDOWED else 0
        found.append(
            Attention(
                layers=count, heads=heads, head_dim=entry.head_dim, projection_parameters=entry.projections(width, heads),
                entry_bytes=2 * entry.kv_heads * entry.head_dim * cached_bytes, window=window, ratio=0 if window else 1,
            )
        )  # fmt: skip
    return found


def _undeclared(fields: _Fields, layers: int) -> list[str]:
    """The kinds of layers where none is named: all alike, or every so many-th sees everything."""
    if fields.raw.get("sliding_window") is None or not fields.raw.get("use_sliding_window", True):
        return ["full_attention"] * layers
    every = fields.count("sliding_window_pattern", _LARGEST)
    return ["full_attention" if every and i % every == 0 else "sliding_attention" for i in range(1, layers + 1)]


def _latent(fields: _Fields, width: int, layers: int, heads: int, cached_bytes: float) -> Attention:
    """Multi-head latent attention (DeepSeek-V2): keys and values are one vector of rank r and a rotary part."""
    rank, rotary = fields.size("kv_lora_rank"), fields.size("qk_rope_head_dim")
    plain, value = fields.size("qk_nope_head_dim"), fields.size("v_head_dim")
    query = width * heads * (plain + rotary)
    if fields.raw.get("q_lora_rank") is not None:
        query_rank = fields.size("q_lora_rank")
        query = width * query_rank + query_rank * heads * (plain + rotary)
    kept = width * (rank + rotary) + rank * heads * (plain + value)
    return Attention(
        layers=layers, heads=heads, head_dim=rank + rotary // 2, projection_parameters=query + kept + heads * value * width,
        entry_bytes=(rank + rotary) * cached_bytes,
    )  # fmt: skip


def _mlp(fields: _Fields, width: int, layers: int) -> tuple[int, int, int, int]:
    """Parameters of a layer's dense part, experts, those active, parameters of one: averages over all layers."""
    matrices = 2 if fields.raw.get("model_type") in _PLAIN_MLP else 3
    experts = fields.size("num_experts", "num_local_experts", "n_routed_experts", default=_LARGEST)
    if experts == _LARGEST:
        return matrices * width * fields.size("intermediate_size", "n_inner", default=4 * width), 0, 0, 0
    inner = fields.size("moe_intermediate_size", "intermediate_size")
    active = fields.size("num_experts_per_tok", "moe_topk", "top_k")
    if active > experts:
        raise InputError(f"model {fields.source}: {active} of {experts} experts cannot be active")
    shared = (fields.count("n_shared_experts", experts) or fields.count("num_shared_experts", experts)) * inner
    shared += fields.count("shared_expert_intermediate_size", _LARGEST)
    dense_layers = fields.count("first_k_dense_replace", layers)
    routed = 1 - dense_layers / layers
    dense = matrices * width * fields.size("intermediate_size", default=inner)
    of_routed = matrices * width * shared + width * experts
    return round(routed * of_routed + (1 - routed) * dense), experts, active, round(routed * matrices * width * inner)


def _formats(fields: _Fields, weights: Format | None) -> tuple[Format, Format]:
    """Number formats of dense matrices and of experts."""
    if weights is not None:
        return weights, weights
    how = fields.raw.get("quantization_config")
    if not how:
        return "bf16", "bf16"
    method = str(how.get("quant_method", "")) if isinstance(how, dict) else str(how)
    found = _QUANTISED.get(method)
    if found is None:
        known = ", ".join(get_args(Format))
        raise InputError(f"model {fields.source}: weights of {method or 'unknown'} format; say --weights, one of {known}")
    return ("bf16", "fp4") if found == "fp4" else (found, found)
