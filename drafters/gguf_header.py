"""What a GGUF file says of itself, and what of that libraries leave out of a model's configuration.

Every field of its architecture is read by the library, put into the configuration here, or known to change nothing; a file
with any other is refused: what it says would be computed otherwise, and nobody would be told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from simulator.errors import InputError

LLAMA3: Final = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""How Llama 3's rotary angles are stretched; a file has the factors alone."""
_SET: Final[Mapping[str, tuple[str, ...]]] = {
    "context_length": ("max_position_embeddings",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "layer_norm_epsilon", "norm_eps"),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "use_parallel_residual": ("use_parallel_residual",),
}
"""Fields that are put into a configuration, and what configurations call them, the first that one has."""
_ROTARY: Final = (
    "rope.freq_base", "rope.freq_base_swa", "rope.dimension_count", "rope.scale_linear", "rope.scaling.type",
    "rope.scaling.factor",
)  # fmt: skip
_HEADS: Final = ("attention.key_length", "attention.value_length")
_WINDOW, _PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
_READ: Final = (
    "block_count", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
    "vocab_size", "expert_count", "expert_used_count", "shortconv.l_cache", "ssm.conv_kernel", "ssm.state_size",
    "ssm.time_step_rank", "ssm.inner_size",
)  # fmt: skip
"""Fields that the library reads."""
_IDLE: Final = (
    "tensor_data_layout", "pooling_type", "attention.causal", "attention.max_alibi_bias",
    "rope.scaling.original_context_length", "rope.scaling.finetuned",
)  # fmt: skip
"""Fields that say how the file is laid out, what its family always does, or what is of a stretch that is refused as one."""
_NEUTRAL: Final[Mapping[str, float]] = {"rope.scaling.attn_factor": 1, "expert_weights_scale": 1}
"""Fields that change nothing at such a value; any that is 0 changes nothing, either."""
_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}
"""Families whose scale of attention no file has: by the width of heads or, of the model of so many layers, by its own width
over its heads, as llama.cpp knows them."""
_UNREAD = {"gemma4": "Gemma-4's layers differ in width"}
"""Architectures that libraries take from GGUF without what their files say of single layers."""
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""What files call tokens that end an answer."""
_ENDING: Final = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>",
})  # fmt: skip
"""Tokens that end an answer whatever a file says of them, for many name but one end: those by which llama.cpp's servers stop
(src/llama-vocab.cpp, `special_eog_ids`), but for what stands between files and where code is to be filled in."""
_PARTS: Final = frozenset({"<|return|>", "<|call|>"})
"""Where both are there, as in gpt-oss, `<|end|>` ends a part of an answer alone."""
_FUSED: Final = frozenset({"phi3"})
"""Architectures whose queries, keys and values are one tensor, so that no order of heads is undone."""
_FOLDER: Final = "give the folder of the model in place of its GGUF file"


class Header:
    """What a GGUF file says of itself. Raises InputError for what is not known here."""

    def __init__(self, reader: Any, source: str) -> None:
        self._source = source
        self._fields = dict(reader.fields)
        self._architecture = architecture = str(self._value("general.architecture"))
        if (kind := self._value("general.type", "model")) != "model":
            raise InputError(f"target {source}: is a GGUF file of the type {kind!r}, and a whole model is needed")
        if architecture in _UNREAD:
            raise InputError(f"target {source}: {_UNREAD[architecture]}, which is not read from GGUF; give its folder")
        if int(self._value("split.count", 1)) > 1:
            raise InputError(f"target {source}: is one of several files; make one of them: llama-gguf-split --merge")
        self._factors = next((t.data.tolist() for t in reader.tensors if t.name == "rope_freqs.weight"), None)
        self.name = str(self._value("general.name", ""))
        self.weights = sum(int(t.n_elements) for t in reader.tensors if not t.name.startswith("rope_"))
        self.kinds: dict[str, int] = {}
        for tensor in reader.tensors:
            kind = tensor.tensor_type.name
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if any(t.name.startswith("rope_factors") for t in reader.tensors):
            raise InputError(
                f"target {source}: has factors for long contexts (LongRoPE), which are not read; give its folder"
            )

    def _value(self, name: str, otherwise: Any = None) -> Any:
        return self._fields[name].contents() if name in self._fields else otherwise

    def _own(self, name: str, otherwise: Any = None) -> Any:
        """A field of its architecture."""
        return self._value(f"{self._architecture}.{name}", otherwise)

    @property
    def tokenizer(self) -> Mapping[str, Any]:
        """What it says of its tokenizer."""
        start = "tokenizer.ggml."
        return {name.removeprefix(start): self._value(name) for name in self._fields if name.startswith(start)}

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        found = {self._value(f"tokenizer.ggml.{name}") for name in _ENDS} - {None}
        tokens = list(self._value("tokenizer.ggml.tokens", ()))
        parts = {"<|end|>"} if set(tokens) >= _PARTS else set()
        ends = {*map(int, found), *(i for i, token in enumerate(tokens) if token in _ENDING)}
        return sorted(i for i in ends if not (i < len(tokens) and tokens[i] in parts))

    def complete(self, config: Any) -> None:
        """Put into a model's configuration what the library leaves out of it. Raises InputError where that is not known."""
        self._check_said(config)
        for name, fields in _SET.items():
            value = self._own(name)
            has = next((field for field in fields if hasattr(config, field)), None)
            if value is None or (has is None and not value):
                continue
            if has is not None:
                setattr(config, has, value)
            elif "softcapping" in name or name.startswith("expert"):
                raise self._unread(name, value)
        if not self._own("attention.causal", True):
            raise self._unread("attention.causal", False)
        self._set_heads(config)
        self._set_window(config)
        self._set_angles(config)
        known = {*_SET, *_ROTARY, *_HEADS, _WINDOW, _PATTERN, *_READ, *_IDLE}
        for field in self._fields:
            name = field.removeprefix(f"{self._architecture}.")
            if name != field and name not in known and (value := self._value(field)) not in (0, "", _NEUTRAL.get(name)):
                raise self._unread(name, value)

    def _check_said(self, config: Any) -> None:
        """Raise InputError for a file without a field in whose place the library takes a number of its own."""
        heads = hasattr(config, "num_key_value_heads") and self._architecture not in _FUSED
        for name, needed in (
            ("attention.head_count_kv", heads),  # without it the order of heads in queries and keys is not undone
            ("attention.layer_norm_rms_epsilon", hasattr(config, "rms_norm_eps")),
            ("expert_used_count", bool(self._own("expert_count"))),
        ):
            if needed and self._own(name) is None:
                said = f"{self._architecture}.{name}"
                raise InputError(f"target {self._source}: its file does not say {said}; convert it anew, or {_FOLDER}")

    def _unread(self, name: str, value: Any) -> InputError:
        said = f"{self._architecture}.{name}"
        return InputError(f"target {self._source}: its file says {said} {value}, which is not read from GGUF; {_FOLDER}")

    def _set_heads(self, config: Any) -> None:
        """How wide heads are, and how attention is scaled."""
        key, value = (self._own(name) for name in _HEADS)
        heads = getattr(config, "num_attention_heads", None)
        if key is not None and vars(config).get("head_dim") is not None:  # not one that is made from others
            config.head_dim = key
        elif key is not None and heads and key * heads != config.hidden_size:
            raise self._unread(_HEADS[0], key)
        if None not in (key, value) and key != value:
            raise self._unread(_HEADS[1], value)
        if self._architecture in _SCALED_BY_WIDTH:
            wide = int(self._own("block_count")) == _SCALED_BY_WIDTH[self._architecture]
            config.query_pre_attn_scalar = config.hidden_size // heads if wide else config.head_dim

    def _set_window(self, config: Any) -> None:
        """How far back windows of attention reach, and whose layers have one."""
        window, kinds = self._own(_WINDOW), getattr(config, "layer_types", None)
        if pattern := self._own(_PATTERN):
            every = isinstance(pattern, int)
            slides = [(i + 1) % pattern > 0 for i in range(len(kinds or ()))] if every else [bool(one) for one in pattern]
            if kinds is None or len(slides) != len(kinds):
                raise self._unread(_PATTERN, pattern)
            kinds = config.layer_types = ["sliding_attention" if one else "full_attention" for one in slides]
        if not window:
            return
        if "sliding_window" in vars(config) and (kinds is None or "sliding_attention" in kinds):
            config.sliding_window = window
        elif window < int(self._own("context_length", window)):
            raise self._unread(_WINDOW, window)

    def _set_angles(self, config: Any) -> None:
        """What rotary angles are made of. Raises InputError where they are stretched as is not known here."""
        rotary = getattr(config, "rope_parameters", None)
        if not rotary:
            return
        own = rotary.get("full_attention", rotary)  # where layers differ, the file speaks of the global ones
        own["rope_theta"] = float(self._own("rope.freq_base", own.get("rope_theta", 10_000.0)))
        if (swa := self._own("rope.freq_base_swa")) is not None:
            if "sliding_attention" not in rotary:
                raise self._unread("rope.freq_base_swa", swa)
            rotary["sliding_attention"]["rope_theta"] = float(swa)
        self._set_turned(config, own)
        if self._factors is None:
            self._stretch(own)
        else:
            made = {"rope_type": "llama3", "rope_theta": own["rope_theta"], "factor": max(self._factors), **LLAMA3}
            right = zip(self._factors, _llama3_factors(made, len(self._factors)), strict=True)
            if any(abs(a / b - 1) > 1e-3 for a, b in right):
                raise InputError(
                    f"target {self._source}: stretches its rotary angles otherwise than Llama 3; give its folder"
                )
            rotary = made
        config.rope_parameters = rotary

    def _set_turned(self, config: Any, own: dict[str, Any]) -> None:
        """How much of a head is turned."""
        turned = self._own("rope.dimension_count")
        heads = getattr(config, "num_attention_heads", None)
        if not turned or not heads or hasattr(config, "rotary_dim"):
            return
        share = turned / (getattr(config, "head_dim", None) or config.hidden_size // heads)
        if "partial_rotary_factor" in own:
            own["partial_rotary_factor"] = share
        elif share != 1:
            raise self._unread("rope.dimension_count", turned)

    def _stretch(self, own: dict[str, Any]) -> None:
        """Put a linear stretch of all angles into rotary parameters."""
        linear = float(self._own("rope.scaling.factor", self._own("rope.scale_linear", 0.0)))  # the latter of 2023
        kind = self._own("rope.scaling.type", "linear" if linear not in (0, 1) else "none")
        if kind in ("none", own.get("rope_type")):
            return
        if kind != "linear":
            raise InputError(
                f"target {self._source}: stretches its rotary angles ({kind}), which is not read from GGUF; give its folder"
            )
        own |= {"rope_type": "linear", "factor": linear or 1.0}


def _llama3_factors(parameters: Mapping[str, Any], count: int) -> list[float]:
    """By what Llama 3 divides each of its `count` frequencies (transformers' `llama3` rotary type)."""
    factor, low, high = (float(parameters[n]) for n in ("factor", "low_freq_factor", "high_freq_factor"))
    found = []
    for i in range(count):
        turns = parameters["original_max_position_embeddings"] / (2 * math.pi * parameters["rope_theta"] ** (i / count))
        share = min(max((turns - low) / (high - low), 0.0), 1.0)
        found.append(1 / ((1 - share) / factor + share))
    return found
