"""What is published and not read here, refused by name: better no number than one of a drafter misread."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from drafters.formats.files import Checkpoint


class _Unsupported(NamedTuple):
    name: str
    """What it is called, and why it is not read."""
    found: Callable[[Checkpoint], Any]


def _kind(of: Checkpoint) -> str:
    return str(of.raw.get("speculators_model_type"))


def _dflash(of: Checkpoint) -> Any:
    own = of.raw.get("dflash_config")
    return own if isinstance(own, dict) else {}


def _model(of: Checkpoint) -> bool:
    """Whether its architecture is a language model's."""
    return of.architecture.endswith("ForCausalLM") and "Eagle3" not in of.architecture


def _any(of: Checkpoint, pattern: str) -> bool:
    return any(re.search(pattern, name) for name in of.tensors or ())


_V4: Final = r"^(model\.)?mtp\.\d+\.(main_proj|main_norm|hc_head)"
_UNSUPPORTED: Final = (
    _Unsupported(
        "P-EAGLE (drafts all tokens in one parallel pass)",
        lambda of: _kind(of) == "peagle" or re.match(r"P[Ee]agle", of.architecture) or of.has("mask_hidden"),
    ),
    _Unsupported(
        "Domino (a recurrent head over the drafted prefix)",
        lambda of: of.architecture == "DominoDraftModel" or _dflash(of).get("projector_type") == "domino"
        or _any(of, r"(^|\.)prefix_gru\."),
    ),
    _Unsupported(
        "XPress (refines its block in several passes)",
        lambda of: _kind(of) == "xpress" or of.architecture == "Qwen3XPressModel" or of.has("xpress_head."),
    ),
    _Unsupported(
        "LiLiCorr (a lattice head)",
        lambda of: of.architecture.lower().startswith("lilicorr") or _dflash(of).get("lilicorr_enabled")
        or of.has("lilicorr."),
    ),
    _Unsupported(
        "DeepSeek-V4's DSpark (its blocks are the target's own)",
        lambda of: str(of.raw.get("model_type")).startswith("deepseek_v4") or _any(of, _V4)
        or (of.raw.get("model_type") not in ("qwen3", "llama") and any(f"dspark_{name}" in of.raw for name in
            ("target_layer_ids", "block_size"))),
    ),
    _Unsupported(
        "EAGLE with multi-head latent attention (MLA)",
        lambda of: re.search(r"Eagle\w*(Deepseek|Kimi)|(Deepseek|Kimi)\w*Eagle", of.architecture)
        or (_any(of, r"kv_a_proj|q_a_proj|fused_qkv_a_proj") and any(of.has(n) for n in ("midlayer.", "d2t", "fc."))),
    ),
    _Unsupported(
        "native MTP (layers of the target's own checkpoint that predict further tokens)",
        lambda of: _any(of, r"^(model\.)?mtp\.|^model\.mtp_layers\.|^model\.layers\.\d+\.(eh_proj|enorm|hnorm)")
        or re.search(r"(?<!Qwen3)MTP(Model|ForCausalLM)?$", of.architecture) or "assistant" in str(of.raw.get("model_type")),
    ),
    _Unsupported(
        "EAGLE-1 or EAGLE-2 (another drafter than EAGLE-3)",
        lambda of: _kind(of) == "eagle" or of.raw.get("model_type") == "eagle"
        or (re.fullmatch(r"\w+ForCausalLMEagle|Eagle\w+ForCausalLM|EAGLEModel", of.architecture)
        and not of.architecture.startswith("Eagle3"))
        or (_model(of) and of.has("fc.") and not any(of.has(n) for n in ("midlayer.", "d2t", "hidden_norm."))
        and "draft_vocab_size" not in of.raw),
    ),
    _Unsupported(
        "Medusa (heads that each predict a token of their own)",
        lambda of: of.raw.get("model_type") == "medusa" or of.architecture == "MedusaModel"
        or "medusa_num_heads" in of.raw,
    ),
    _Unsupported(
        "an MLP or LSTM speculator",
        lambda of: of.raw.get("model_type") == "mlp_speculator"
        or re.match(r"(MLP|ArcticMLP\w*|ArcticLSTM\w*)Speculator", of.architecture),
    ),
    _Unsupported(
        "MiMo's DFlash (attention sinks, a mask of its own)",
        lambda of: _any(of, r"\.(sinks?|attention_sink_bias)$") or of.has("mask_embedding"),
    ),
    _Unsupported("Laguna's DFlash (gated attention)", lambda of: _any(of, r"\.self_attn\.g_proj\.")),
    _Unsupported("Muse-Glimmer's DFlash (an encoder of taps)", lambda of: of.has("encoder.")),
    _Unsupported(
        "compressed-tensors and its like (quantised weights)",
        lambda of: _any(of, r"\.(weight_scale(_inv|_2)?|weight_packed|qweight|absmax)$"),
    ),
    _Unsupported(
        "a language model by itself (draft_model), which reads nothing of its target",
        lambda of: _model(of) and of.has("layers.0.") and of.has("embed_tokens.")
        and not any(of.has(name) for name in ("fc.", "midlayer.", "d2t")) and "dflash_config" not in of.raw,
    ),
)  # fmt: skip


def refuse(of: Checkpoint) -> None:
    """Raise InputError where the files are of a format that is known by name, and not read."""
    for one in _UNSUPPORTED:
        if one.found(of):
            raise of.fail(f"is of a format that is not read here: {one.name}")
