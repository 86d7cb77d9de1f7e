"""A target for the roofline, from the configuration that comes with its checkpoint (Hugging Face's `config.json`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

from simulator.errors import InputError
from simulator.hardware.model import FORMAT_BYTES, Attention, Drafters, Format, Model, Width
from simulator.heads import whole_heads

_LARGEST: Final = 10**9
"""No size in a configuration is larger."""
_PLAIN_MLP: Final = (
    "apertus", "arcee", "bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "jais2", "mpt",
    "nemotron", "opt", "phi", "starcoder2",
)  # fmt: skip
"""Families whose MLP has two matrices; all others have a gate beside."""
_TIED: Final[Mapping[str, Any]] = {"tie_word_embeddings": True}
_GEMMA: Final[Mapping[str, Any]] = {**_TIED, "head_dim": 256}
_GEMMA_3: Final[Mapping[str, Any]] = {
    **_GEMMA, "sliding_window_pattern": 6, "sliding_window": 4096, "num_attention_heads": 8, "num_key_value_heads": 4,
    "vocab_size": 262208,
}  # fmt: skip
LEFT_OUT: Final[Mapping[str, Mapping[str, Any]]] = {
    **dict.fromkeys(
        ("bloom", "cohere", "cohere2_moe", "ernie4_5", "ernie4_5_moe", "falcon", "gemma4_text", "gpt2", "gpt_bigcode",
         "gpt_neo", "mpt", "opt", "smollm3", "starcoder2"), _TIED,
    ),
    "cohere2": {**_TIED, "sliding_window_pattern": 4}, "gemma": _GEMMA,
    "gemma2": {**_GEMMA, "sliding_window_pattern": 2, "sliding_window": 4096}, "gemma3": _GEMMA_3, "gemma3_text": _GEMMA_3,
}  # fmt: skip
"""What published configurations of a family leave out: what transformers has for it, where that is not what others have."""
_STATEFUL: Final = ("mamba_", "ssm_", "conv_", "linear_", "rwkv", "lru_", "time_step_")
"""How fields begin that only layers have whose state is no cache of tokens."""
_WINDOWED: Final = ("sliding_attention", "local", "local_attention")
_WHOLE: Final = ("full_attention", "attention", "global", "global_attention")
_DRAFT_LAYERS: Final = 5
"""Layers of DSpark and DFlash, as published for Qwen3; and the layers that they tap."""
_INSTEAD: Final = "modelled; time it with `harness profile`, or write a profile of your own (docs/hardware.md)"
_QUANTISED: Final[Mapping[str, Format]] = {
    "fp8": "fp8", "fbgemm_fp8": "fp8", "finegrained_fp8": "fp8", "mxfp4": "fp4", "awq 4": "int4", "gptq 4": "int4",
    "compressed-tensors float 8": "fp8", "compressed-tensors float 4": "fp4", "compressed-tensors int 4": "int4",
    "modelopt FP8": "fp8", "modelopt NVFP4": "fp4",
}  # fmt: skip
"""What a configuration calls its weights' format, with the bits where it says them."""
_BEYOND: Final[Mapping[str, str]] = {
    "attention_chunk_size": "chunked attention", "interleave_moe_layer_step": "experts in every other layer",
    "decoder_sparse_step": "experts in every other layer", "moe_layer_interval": "experts in every other layer",
    "block_configs": "layers that differ from each other", "hybrid_layer_pattern": "layers that differ from each other",
    "cross_attention_layers": "cross attention", "num_kv_shared_layers": "sharing keys and values between layers",
    "hidden_size_per_layer_input": "an embedding for each layer", "zero_expert_num": "experts that do nothing",
}  # fmt: skip
"""Fields that only what is not modelled has, where they are set to more than 1."""


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
        cache: the number format of keys and values; by default fp8 where the configuration says so, else bf16.

    Raises InputError, naming `source` and the field, for what is missing, makes no sense, or keeps a state that is no cache.
    """
    inner = config.get("text_config") or {}
    if not isinstance(inner, Mapping):
        raise InputError(f"model {source}: text_config must be an object")
    fields = _Fields({**config, **inner}, source)
    gemma = str(fields.raw.get("model_type")).startswith("gemma4")
    if gemma:
        fields.fill(whole_heads(fields.raw))
    fields.fill(LEFT_OUT.get(str(fields.raw.get("model_type")), {}))
    _check_decoder(fields)
    if stateful := sorted(name for name in fields.raw if name.startswith(_STATEFUL)):
        raise InputError(f"model {source}: has {stateful[0]}: layers that keep a state beside a cache are not {_INSTEAD}")
    width, layers = fields.size("hidden_size", "n_embd", "d_model"), fields.size("num_hidden_layers", "n_layer", "n_layers")
    heads = fields.size("num_attention_heads", "n_head", "n_heads")
    own = _own_cache(_object(fields.raw, "quantization_config"))
    attention = _attention(fields, width, layers, heads, FORMAT_BYTES[cache or own])
    mlp, experts, active, each = _mlp(fields, width, layers)
    dense, routed = _formats(fields, weights)
    full = max(attention, key=lambda one: (one.ratio, one.layers))
    mlp_width = fields.size(*_MLP_WIDTH, "moe_intermediate_size", default=4 * width)
    entry = fields.entry(heads)
    eagle = fields.entry(heads, whole=True) if gemma else entry
    return Model(
        name=name, width=width, vocabulary=fields.size("vocab_size"), tied_head=bool(fields.raw.get("tie_word_embeddings")),
        attention=tuple(attention), mlp_parameters=mlp, experts=experts, active_experts=active, expert_parameters=each,
        dense_format=dense, expert_format=routed, kv_shards=1 if fields.latent else entry.kv_heads,
        widths=_widths(fields, width, layers, weights),
        cache_format=cache or own, quantised=_method(fields.raw.get("quantization_config")),
        drafters=Drafters(
            attention=_of_draft(full), taps=min(_DRAFT_LAYERS, layers),
            mlp_parameters=3 * width * mlp_width if experts else None,
            eagle_parameters=eagle.projections(width, heads, twice=True) + 3 * width * mlp_width,
            eagle_entry_bytes=2 * eagle.kv_heads * eagle.head_dim * FORMAT_BYTES["bf16"],
        ),
        source=f"{source}; drafters of the published shapes over a target of this width are assumed"
        + (", DSpark and DFlash with dense layers" if experts else "")
        + ("" if cache or own == "bf16" else f"; keys and values in {own}, as the checkpoint has scales for them"),
    )  # fmt: skip


def _check_decoder(fields: _Fields) -> None:
    """Raise InputError for what is no decoder of text, or has layers that are not modelled."""
    raw = fields.raw
    if raw.get("is_encoder_decoder") or raw.get("type_vocab_size") is not None:
        raise InputError(f"model {fields.source}: is no causal language model ({raw.get('model_type', 'no model_type')})")
    nested = {**_object(raw, "ffn_config"), **_object(raw, "attn_config")}
    if strange := next((name for name in ("moe_num_experts", "kv_n_heads") if nested.get(name) is not None), None):
        raise InputError(
            f"model {fields.source}: has {strange} within another field: such configurations are not {_INSTEAD}"
        )
    if any(kind == 0 for kind in _listed(raw, "attn_type_list")):
        raise InputError(
            f"model {fields.source}: has linear layers in attn_type_list: a state beside a cache is not {_INSTEAD}"
        )
    for field, what in _BEYOND.items():
        if raw.get(field) not in (None, False, 0, 1, []):
            raise InputError(f"model {fields.source}: has {field}: {what} is not {_INSTEAD}")


def _object(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = raw.get(name)
    return found if isinstance(found, Mapping) else {}


def _listed(raw: Mapping[str, Any], name: str) -> list[Any]:
    found = raw.get(name)
    return found if isinstance(found, list) else []


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

    def projections(self, width: int, heads: int, *, twice: bool = False) -> int:
        """Parameters of a layer's projections; `twice` of one that reads two states side by side."""
        kept = self.kv_heads * (1 if self.shared else 2)
        return (1 + twice) * width * (heads + kept) * self.head_dim + heads * self.head_dim * width


class _Fields:
    """A configuration whose fields are checked as they are read."""

    def __init__(self, raw: dict[str, Any], source: str) -> None:
        self.raw, self.source = raw, source

    def fill(self, left_out: Mapping[str, Any]) -> None:
        """Take what the configuration says nothing of from what its family has."""
        self.raw |= {name: value for name, value in left_out.items() if self.raw.get(name) is None}

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
        value = self._of_layers(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
            raise InputError(f"model {self.source}: {name} must be a whole number from 1, got {value!r}")
        return value

    def _of_layers(self, name: str) -> Any:
        """A field's value; where it lists one for each layer and all are alike, that (Hunyuan)."""
        listed = _listed(self.raw, name)
        return listed[0] if listed and all(one == listed[0] for one in listed) else self.raw[name]

    def count(self, *names: str, most: int) -> int:
        """The first of several fields that is there, a whole number from 0; 0 where none is."""
        name = next((name for name in names if self.raw.get(name) is not None), None)
        if name is None:
            return 0
        value = self._of_layers(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise InputError(f"model {self.source}: {name} must be a whole number from 0 to {most:,}, got {value!r}")
        return value

    def entry(self, heads: int, *, whole: bool = False) -> _Heads:
        """What a layer keeps of a token; `whole` of a layer that sees everything, where such have a shape of their own."""
        width = self.size("hidden_size", "n_embd", "d_model")
        head_dim = self.size("head_dim", "kv_channels", default=max(1, width // heads))
        alone = self.raw.get("multi_query") and not self.raw.get("new_decoder_architecture")  # as falcon says it
        groups = ("multi_query_group_num",) if self.raw.get("multi_query_attention") else ()  # as ChatGLM does
        kv_heads = 1 if alone else self.size("num_key_value_heads", "num_kv_heads", *groups, default=heads)
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
    """The kinds of layers where none is named: all alike, the first so many whole, or every so many-th."""
    if fields.raw.get("sliding_window") is None or not fields.raw.get("use_sliding_window", True):
        return ["full_attention"] * layers
    every = fields.count("sliding_window_pattern", "_sliding_window_pattern", most=_LARGEST)
    whole = fields.count("max_window_layers", most=_LARGEST) if fields.raw.get("use_sliding_window") else 0  # as Qwen2 does
    return [
        "full_attention" if i <= whole or (every and i % every == 0) else "sliding_attention" for i in range(1, layers + 1)
    ]


def _latent(fields: _Fields, width: int, layers: int, heads: int, cached_bytes: float) -> Attention:
    """Multi-head latent attention (DeepSeek-V2): keys and values are one vector of rank r and a rotary part."""
    rank, rotary = fields.size("kv_lora_rank"), fields.size("qk_rope_head_dim")
    plain, value = fields.size("qk_nope_head_dim"), fields.size("v_head_dim")
    query = width * heads * (plain + rotary)
    if fields.raw.get("q_lora_rank") is not None:
        query_rank = fields.size("q_lora_rank")
        query = width * query_rank + query_rank * heads * (plain + rotary)
    kept = width * (rank + rotary) + rank * heads * (plain + value)
    projections = query + kept + heads * value * width
    made = Attention(
        layers=layers, heads=heads, head_dim=rank + rotary // 2, projection_parameters=projections,
        entry_bytes=(rank + rotary) * cached_bytes,
    )  # fmt: skip
    if fields.raw.get("index_topk") is None:
        return made
    scorers, scored = fields.size("index_n_heads"), fields.size("index_head_dim")  # DeepSeek-V3.2's: an index in FP8
    indexing = width * scored + fields.size("q_lora_rank") * scorers * scored + width * scorers
    return replace(
        made, projection_parameters=projections + indexing, selected=fields.size("index_topk"), index_bytes=scored + 4,
        index_flops=2 * scorers * scored,
    )  # fmt: skip


_MLP_WIDTH: Final = ("intermediate_size", "n_inner", "ffn_hidden_size")
_EXPERT_WIDTH: Final = ("moe_intermediate_size", "intermediate_size")
_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def _mlp(fields: _Fields, width: int, layers: int) -> tuple[int, int, int, int]:
    """Parameters of a layer's dense part, experts, those active, parameters of one: averages over all layers."""
    matrices = 2 if fields.raw.get("model_type") in _PLAIN_MLP else 3
    experts = fields.size(*_EXPERTS, default=_LARGEST)
    if experts == _LARGEST:
        return matrices * width * fields.size(*_MLP_WIDTH, default=4 * width), 0, 0, 0
    inner = fields.size(*_EXPERT_WIDTH)
    active = fields.size("num_experts_per_tok", "moe_topk", "top_k", "moe_k")
    if active > experts:
        raise InputError(f"model {fields.source}: {active} of {experts} experts cannot be active")
    shared = _shared(fields, inner, experts)
    routed = 1 - _dense_layers(fields, layers) / layers
    dense = matrices * width * fields.size(*_MLP_WIDTH, default=inner)
    of_routed = matrices * width * shared + width * experts
    return round(routed * of_routed + (1 - routed) * dense), experts, active, round(routed * matrices * width * inner)


def _shared(fields: _Fields, inner: int, experts: int) -> int:
    """Columns of the experts that every token passes."""
    names = ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")
    apart = fields.count("shared_expert_intermediate_size", "shared_intermediate_size", most=_LARGEST)
    return inner * fields.count(*names, most=experts) + apart


def _widths(fields: _Fields, width: int, layers: int, weights: Format | None) -> tuple[Width, ...]:
    """What GPUs share out beside heads, in blocks where the checkpoint's own weights are asked for."""
    how = _object(fields.raw, "quantization_config")
    own = bool(how) and weights in (None, _QUANTISED.get(_quantised(how)))
    block, of_experts = _blocks(how) if own else (1, 1)
    experts = fields.size(*_EXPERTS, default=_LARGEST)
    if experts == _LARGEST:
        return (Width("MLPs", fields.size(*_MLP_WIDTH, default=4 * width), block),)
    inner = fields.size(*_EXPERT_WIDTH)
    found = [Width("experts", inner, of_experts)]
    if shared := _shared(fields, inner, experts):
        found.append(Width("shared experts", shared, block))
    if _dense_layers(fields, layers):
        found.append(Width("MLPs", fields.size(*_MLP_WIDTH, default=inner), block))
    return tuple(found)


def _blocks(how: Mapping[str, Any]) -> tuple[int, int]:
    """Columns of MLPs, and of experts, that share a scale and that engines do not cut; of experts in groups they do."""
    said = {**how, **_scheme(how)}
    blocks = [one for name in ("weight_block_size", "block_structure") for one in _listed(said, name)]
    if blocks and all(isinstance(one, int) and one > 0 for one in blocks):
        return max(blocks), max(blocks)
    group = said.get("group_size", said.get("q_group_size"))
    if _QUANTISED.get(_quantised(how)) == "int4" and isinstance(group, int) and group > 0:
        return group, 1
    return 1, 1


def _dense_layers(fields: _Fields, layers: int) -> int:
    """Layers of a mixture whose MLP has no experts: the first so many, or those that are listed."""
    listed = len(_listed(fields.raw, "mlp_only_layers")) + sum(kind == 0 for kind in _listed(fields.raw, "moe_layer_freq"))
    return min(layers, listed) or fields.count("first_k_dense_replace", "moe_layer_start_index", most=layers)


def _formats(fields: _Fields, weights: Format | None) -> tuple[Format, Format]:
    """Number formats of dense matrices and of experts."""
    if weights is not None:
        return weights, weights
    how = fields.raw.get("quantization_config")
    if not how:
        return "bf16", "bf16"
    method = _quantised(how) if isinstance(how, dict) else str(how)
    found = _QUANTISED.get(method)
    if found is None:
        known = ", ".join(get_args(Format))
        raise InputError(f"model {fields.source}: weights of {method or 'unknown'} format; say --weights, one of {known}")
    return ("bf16", found) if method == "mxfp4" else (found, found)


def _own_cache(how: Mapping[str, Any]) -> Format:
    """The format of keys and values that a checkpoint has scales for: engines take it where they are told nothing."""
    scheme, said = _object(how, "kv_cache_scheme"), {**how, **_object(how, "quantization")}
    eight = scheme.get("num_bits") == 8 and scheme.get("type", "float") == "float"
    return "fp8" if eight or str(said.get("kv_cache_quant_algo")).upper() == "FP8" else "bf16"


def _method(how: Any) -> str:
    """What a configuration calls its quantisation; empty where there is none."""
    if not how:
        return ""
    return str(how.get("quant_method") or "unknown") if isinstance(how, Mapping) else str(how)


def _quantised(how: Mapping[str, Any]) -> str:
    """The method, and what it does where it can do several things: the bits, or its name for them."""
    method = str(how.get("quant_method", ""))
    if method == "compressed-tensors":
        said = [_scheme(how).get(name) for name in ("type", "num_bits")]
    else:
        said = [
            {"awq": how.get("bits", how.get("w_bit")), "gptq": how.get("bits"), "modelopt": how.get("quant_algo")}.get(
                method
            )
        ]
    return " ".join(str(one) for one in (method, *said) if one is not None)


def _scheme(how: Mapping[str, Any]) -> Mapping[str, Any]:
    """What compressed-tensors says of the first group's weights."""
    group = next((one for one in _object(how, "config_groups").values() if isinstance(one, Mapping)), {})
    return _object(group, "weights")
