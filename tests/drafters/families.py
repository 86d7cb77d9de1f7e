"""Micro models of every family of causal language models that transformers has: small configurations, random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from drafters.decoding import DecodeRequest, decode
from drafters.generation import respond
from drafters.kinds.ngram import NGram
from drafters.kinds.none import NoDrafter
from drafters.target import Target
from simulator.records import Sampling

VOCAB, END = 300, 2
_SMALL: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": END, "pad_token_id": 0,
}  # fmt: skip
_HEAD: dict[str, Any] = {"head_dim": 16}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_local_experts": 4, "n_routed_experts": 4,
    "n_group": 1, "topk_group": 1,
}  # fmt: skip
HALF_SLIDING: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_MLA: dict[str, Any] = {
    **_EXPERTS, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12,
    "first_k_dense_replace": 1, "num_key_value_heads": 4, "moe_layer_freq": 1,
}  # fmt: skip
_INDEXED = {**_MLA, "index_topk": 8, "index_n_heads": 16, "index_head_dim": 16}  # fewer heads often tie at a score of 0
_GPT2 = {"n_inner": 128}
_DELTA_NET = {
    **_HEAD, **_EXPERTS, "shared_expert_intermediate_size": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"] * 2,
}  # fmt: skip
_MAMBA2 = {
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_n_groups": 1,
}  # fmt: skip
_GEMMA4 = {**_HEAD, **HALF_SLIDING, "global_head_dim": 16, "hidden_size_per_layer_input": 0}
_GEMMA4_SHARED = {
    **_GEMMA4, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB, "num_kv_shared_layers": 2,
}  # fmt: skip
_LLAMA4 = {**_HEAD, **_EXPERTS, "attention_chunk_size": 8, "intermediate_size_mlp": 64}
_VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_INKLING = {
    **_HEAD, **_EXPERTS, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 16, "rel_extent": 32,
    "sliding_window_size": 8,
}  # fmt: skip
_DECODER = {
    "d_model": 64, "decoder_layers": 4, "decoder_attention_heads": 4, "decoder_ffn_dim": 128, "decoder_vocab_size": VOCAB,
    "forced_eos_token_id": None,
}  # fmt: skip
"""Of what is the decoder of an encoder-decoder elsewhere."""
_MIXED = {"layer_types": ["linear_attention", "full_attention"] * 2}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "afmoe": ("afmoe", {**_HEAD, **_EXPERTS, **HALF_SLIDING}),
    "apertus": ("apertus", {}),
    "apertus1p5 (text)": ("apertus1p5_text", {}),
    "arcee": ("arcee", {}),
    "aria (text)": ("aria_text", {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1}),
    "axk1": ("axk1", _MLA),
    "axk2": ("axk2", _INDEXED),
    "bailing_hybrid": ("bailing_hybrid", {**_MLA, **_MIXED, "head_dim": 8}),
    "bamba": ("bamba", {**_MAMBA2, "attn_layer_indices": [1, 3]}),
    "bart": ("bart", _DECODER),
    "beam": ("beam", {**_HEAD, **_EXPERTS, **HALF_SLIDING}),
    "bert": ("bert", {"is_decoder": True}),
    "bert-generation": ("bert-generation", {"is_decoder": True}),
    "big_bird": ("big_bird", {"is_decoder": True, "attention_type": "original_full"}),
    "bigbird_pegasus": ("bigbird_pegasus", _DECODER),
    "biogpt": ("biogpt", {}),
    "bitnet": ("bitnet", {}),
    "blenderbot": ("blenderbot", _DECODER),
    "blenderbot-small": ("blenderbot-small", _DECODER),
    "bloom": ("bloom", {}),
    "camembert": ("camembert", {"is_decoder": True}),
    "codegen": ("codegen", {"rotary_dim": 8, **_GPT2}),
    "cohere": ("cohere", {}),
    "cohere2": ("cohere2", {**_HEAD, **HALF_SLIDING}),
    "cohere2_moe": ("cohere2_moe", {**_HEAD, **_EXPERTS, **HALF_SLIDING}),
    "cohere_compass (text)": (
        "cohere_compass_text", {**HALF_SLIDING, "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE}}
    ),
    "cpmant": ("cpmant", {"dim_head": 16, "dim_ff": 128, "prompt_types": 4, "prompt_length": 4, "segment_types": 4}),
    "ctrl": ("ctrl", {"dff": 128}),
    "cwm": ("cwm", {**_HEAD, "bos_token_id": 1}),
    "data2vec-text": ("data2vec-text", {"is_decoder": True}),
    "dbrx": (
        "dbrx", {
            "d_model": 64, "n_heads": 4, "n_layers": 4, "max_seq_len": 512,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
            "ffn_config": {"ffn_hidden_size": 64, "hidden_size": 64},
        },
    ),
    "deepseek_v2": ("deepseek_v2", _MLA),
    "deepseek_v3": ("deepseek_v3", _MLA),
    "deepseek_v32": ("deepseek_v32", _INDEXED),
    "deepseek_v4": ("deepseek_v4", {**_HEAD, **_EXPERTS, "q_lora_rank": 16, "o_lora_rank": 16, "index_topk": 8}),
    "diffllama": ("diffllama", {}),
    "doge": ("doge", {}),
    "dory": ("dory", {**_HEAD, **HALF_SLIDING}),
    "dots1": ("dots1", {**_HEAD, **_EXPERTS, "n_shared_experts": 1}),
    "dots3_note (text)": ("dots3_note_text", {**_INDEXED, **_HEAD, "shared_experts_intermediate_size": 32}),
    "electra": ("electra", {"is_decoder": True, "embedding_size": 64}),
    "emu3": (
        "emu3", {
            "text_config": {"bos_token_id": 1},
            "vq_config": {"base_channels": 8, "channel_multiplier": [1], "num_res_blocks": 1, "codebook_size": 16},
        },
    ),
    "ernie": ("ernie", {"is_decoder": True}),
    "ernie4_5": ("ernie4_5", _HEAD),
    "ernie4_5_moe": ("ernie4_5_moe", {**_EXPERTS, "moe_num_experts": 4, "moe_k": 2}),
    "exaone": ("exaone", {}),
    "exaone4": ("exaone4", HALF_SLIDING),
    "exaone_moe": ("exaone_moe", {**_EXPERTS, **HALF_SLIDING}),
    "falcon": ("falcon", {"alibi": False}),
    "falcon, alibi": ("falcon", {"alibi": True}),
    "falcon_h1": ("falcon_h1", {**_MAMBA2, "mamba_d_ssm": 128}),
    "falcon_mamba": ("falcon_mamba", {"state_size": 8}),
    "flex_olmo": ("flex_olmo", _EXPERTS),
    "flint": ("flint", {**_HEAD, **_EXPERTS}),
    "fuyu": ("fuyu", {"text_config": {"model_type": "persimmon"}, "image_size": 30, "patch_size": 10}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {**_HEAD, **HALF_SLIDING}),
    "gemma3": ("gemma3", {"text_config": {**_HEAD, **HALF_SLIDING}, "vision_config": _VISION}),
    "gemma3 (text)": ("gemma3_text", {**_HEAD, **HALF_SLIDING}),
    "gemma3n (text)": (
        "gemma3n_text", {
            **_HEAD, **HALF_SLIDING, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB,
            "num_kv_shared_layers": 0, "laurel_rank": 8, "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
    "gemma4, shared kv": ("gemma4", {"text_config": _GEMMA4_SHARED, "vision_config": _VISION}),
    "gemma4 (text)": ("gemma4_text", _GEMMA4),
    "gemma4 (text), shared kv": ("gemma4_text", _GEMMA4_SHARED),
    "gemma4_assistant": ("gemma4_assistant", {"text_config": {**_GEMMA4, "vocab_size_per_layer_input": 0}}),
    "gemma4_unified": ("gemma4_unified", {"text_config": _GEMMA4}),
    "gemma4_unified (text)": ("gemma4_unified_text", _GEMMA4),
    "gemma4_unified_assistant": ("gemma4_unified_assistant", {"text_config": _GEMMA4}),
    "git": ("git", {"vision_config": _VISION}),
    "glm": ("glm", _HEAD),
    "glm4": ("glm4", _HEAD),
    "glm4_moe": ("glm4_moe", {**_HEAD, **_EXPERTS}),
    "glm4_moe_lite": ("glm4_moe_lite", _MLA),
    "glm_moe_dsa": ("glm_moe_dsa", _INDEXED),
    "got_ocr2": ("got_ocr2", {"text_config": {}, "vision_config": _VISION}),
    "gpt2": ("gpt2", _GPT2),
    "gpt_bigcode": ("gpt_bigcode", _GPT2),
    "gpt_neo": ("gpt_neo", {"attention_types": [[["global", "local"], 2]], "window_size": 8}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox_japanese": ("gpt_neox_japanese", {"intermediate_multiple_size": 2}),
    "gpt_oss": ("gpt_oss", {**_HEAD, **_EXPERTS, **HALF_SLIDING}),
    "gpt-sw3": ("gpt-sw3", _GPT2),
    "gptj": ("gptj", {"rotary_dim": 8, **_GPT2}),
    "granite": ("granite", {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0}),
    "granite_swa": ("granite_swa", HALF_SLIDING),
    "granitemoe": ("granitemoe", _EXPERTS),
    "granitemoe_swa": ("granitemoe_swa", {**_EXPERTS, **HALF_SLIDING}),
    "granitemoehybrid": ("granitemoehybrid", {**_EXPERTS, **_MAMBA2, **_MIXED, "shared_intermediate_size": 64}),
    "granitemoeshared": ("granitemoeshared", _EXPERTS),
    "helium": ("helium", _HEAD),
    "hrm (text)": ("hrm_text", {}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", _HEAD),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", {**_HEAD, **_EXPERTS, "moe_topk": 2}),
    "hy_v3": ("hy_v3", {**_HEAD, **_EXPERTS}),
    "hy_v4": ("hy_v4", _INDEXED),
    "hyperclovax": ("hyperclovax", {}),
    "inkling (text)": ("inkling_text", {**_INKLING}),
    "inkling2 (text)": ("inkling2_text", {**_INKLING, "unpadded_vocab_size": VOCAB}),
    "inkling2_loop (text)": ("inkling2_loop_text", {**_INKLING, "unpadded_vocab_size": VOCAB}),
    "internlm3": ("internlm3", _HEAD),
    "iquestcoder": ("iquestcoder", _HEAD),
    "jais2": ("jais2", {}),
    "jamba": ("jamba", {**_EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8}),
    "jetmoe": ("jetmoe", {"kv_channels": 16, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "kimi_linear": ("kimi_linear", {**_MLA, **_MIXED, "linear_head_dim": 16, "linear_num_heads": 4}),
    "kolibri1": ("kolibri1", {**_HEAD, **_EXPERTS, **HALF_SLIDING}),
    "laguna": ("laguna", {**_HEAD, **_EXPERTS}),
    "lara_mini": ("lara_mini", _DELTA_NET),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"] * 2}),
    "lfm2_moe": ("lfm2_moe", {**_EXPERTS, "layer_types": ["conv", "full_attention"] * 2}),
    "lfm3": ("lfm3", {}),
    "llama": ("llama", {}),
    "llama, llama3 rope": ("llama", {"rope_parameters": _LLAMA3}),
    "llama4": ("llama4", {"text_config": _LLAMA4, "vision_config": _VISION}),
    "llama4 (text)": ("llama4_text", _LLAMA4),
    "longcat_flash": (
        "longcat_flash", {
            **_MLA, "head_dim": 8, "num_layers": 2, "zero_expert_num": 1, "moe_topk": 2, "expert_ffn_hidden_size": 32,
            "ffn_hidden_size": 64,
        },
    ),
    "mamba": ("mamba", {"state_size": 8}),
    "mamba2": ("mamba2", {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "chunk_size": 8}),
    "mellum": ("mellum", {**_HEAD, **_EXPERTS, **HALF_SLIDING}),
    "mimo_v2_flash": ("mimo_v2_flash", {**_HEAD, **_EXPERTS, **HALF_SLIDING}),
    "minicpm3": ("minicpm3", {k: v for k, v in _MLA.items() if k not in _EXPERTS}),
    "marian": ("marian", _DECODER),
    "mbart": ("mbart", _DECODER),
    "megatron-bert": ("megatron-bert", {"is_decoder": True}),
    "minimax": ("minimax", {**_HEAD, **_EXPERTS, **_MIXED}),
    "minimax_m2": ("minimax_m2", {**_HEAD, **_EXPERTS}),
    "minimax_m3_vl (text)": ("minimax_m3_vl_text", {**_HEAD, **_EXPERTS}),
    "minimax_m3_vl (text), sparse": (
        "minimax_m3_vl_text", {
            **_HEAD, **_EXPERTS, "layer_types": ["full_attention", "minimax_m3_sparse"] * 2, "index_block_size": 4,
            "index_topk_blocks": 2, "index_head_dim": 16,
        },
    ),
    "ministral": ("ministral", {**_HEAD, **HALF_SLIDING}),
    "ministral3": ("ministral3", _HEAD),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, window": ("mistral", {"sliding_window": 8}),
    "mixtral": ("mixtral", _EXPERTS),
    "mllama": (
        "mllama", {
            "text_config": {"cross_attention_layers": [], "bos_token_id": 1},
            "vision_config": {**_VISION, "num_global_layers": 1, "attention_heads": 2, "intermediate_layers_indices": [0]},
        },
    ),
    "modernbert-decoder": ("modernbert-decoder", {"bos_token_id": 1, "local_attention": 16}),
    "moshi": ("moshi", {"ffn_dim": 128}),
    "moss_transcribe_diarize": ("moss_transcribe_diarize", {"text_config": {}, "audio_config": _VISION}),
    "mpt": ("mpt", {"d_model": 64, "n_heads": 4, "n_layers": 4, "max_seq_len": 512}),
    "mvp": ("mvp", _DECODER),
    "nanochat": ("nanochat", {}),
    "nemotron": ("nemotron", {}),
    "nemotron_h": (
        "nemotron_h", {
            **_HEAD, "layer_types": ["linear_attention", "mlp", "full_attention", "mlp"], "mamba_num_heads": 8,
            "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 1,
        },
    ),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", HALF_SLIDING),
    "olmo_hybrid": ("olmo_hybrid", _MIXED),
    "olmoe": ("olmoe", _EXPERTS),
    "openai-gpt": ("openai-gpt", {}),
    "opt": ("opt", {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "persimmon": ("persimmon", {}),
    "pegasus": ("pegasus", _DECODER),
    "phi": ("phi", {}),
    "phi3": ("phi3", {}),
    "phi4_multimodal": (
        "phi4_multimodal", {
            "vision_config": _VISION, "audio_config": {
                **_VISION, "num_blocks": 1, "ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32,
                "nemo_conv_channels": 32,
            },
        },
    ),
    "phimoe": ("phimoe", _EXPERTS),
    "plbart": ("plbart", _DECODER),
    "prophetnet": (
        "prophetnet", {
            "num_hidden_layers": ..., "num_encoder_layers": 1, "num_decoder_layers": 4, "num_decoder_attention_heads": 4,
            "decoder_ffn_dim": 128,
        },
    ),
    "qwen2": ("qwen2", {}),
    "qwen2_moe": ("qwen2_moe", {**_EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3": ("qwen3", _HEAD),
    "qwen3, window": ("qwen3", {**_HEAD, "use_sliding_window": True, **HALF_SLIDING}),
    "qwen3_5": ("qwen3_5", {"text_config": _DELTA_NET}),
    "qwen3_5 (text)": ("qwen3_5_text", _DELTA_NET),
    "qwen3_5_moe": ("qwen3_5_moe", {"text_config": _DELTA_NET}),
    "qwen3_5_moe (text)": ("qwen3_5_moe_text", _DELTA_NET),
    "qwen3_moe": ("qwen3_moe", {**_HEAD, **_EXPERTS}),
    "qwen3_next": ("qwen3_next", _DELTA_NET),
    "qwen4_exp (text)": (
        "qwen4_exp_text", {
            **_DELTA_NET, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 16,
            "indexer_compress_ratio": 4, "ngram_vocab_size_base": 500, "split_ngram_parts": 1, "ple_embed_dim": 16,
            "hc_lowrank": 8,
        },
    ),
    "recurrent_gemma": ("recurrent_gemma", {"lru_width": 64, "attention_window_size": 8}),
    "reformer": (
        "reformer", {
            "is_decoder": True, "axial_pos_embds": False, "attention_head_size": 16, "feed_forward_size": 128,
            "attn_layers": ["local"] * 4,
        },
    ),
    "rembert": ("rembert", {"is_decoder": True, "input_embedding_size": 64, "output_embedding_size": 64}),
    "roberta": ("roberta", {"is_decoder": True}),
    "roberta-prelayernorm": ("roberta-prelayernorm", {"is_decoder": True}),
    "roc_bert": ("roc_bert", {"is_decoder": True, "enable_pronunciation": False, "enable_shape": False}),
    "roformer": ("roformer", {"is_decoder": True, "embedding_size": 64}),
    "rwkv": ("rwkv", {"attention_hidden_size": 64}),
    "sarvam_mla": ("sarvam_mla", _MLA),
    "sarvam_moe": ("sarvam_moe", {**_HEAD, **_EXPERTS}),
    "seed_oss": ("seed_oss", _HEAD),
    "smollm3": ("smollm3", {}),
    "solar_open": ("solar_open", {**_HEAD, **_EXPERTS}),
    "stablelm": ("stablelm", {}),
    "starcoder2": ("starcoder2", {}),
    "trocr": ("trocr", _DECODER),
    "vaultgemma": ("vaultgemma", {**_HEAD, **HALF_SLIDING}),
    "whisper": (
        "whisper", {**_DECODER, "max_target_positions": 512, "suppress_tokens": None, "begin_suppress_tokens": None}
    ),
    "xglm": ("xglm", {"d_model": 64, "ffn_dim": 128, "attention_heads": 4, "num_layers": 4}),
    "xlm": ("xlm", {"emb_dim": 64, "n_layers": 4, "n_heads": 4}),
    "xlm-roberta": ("xlm-roberta", {"is_decoder": True}),
    "xlm-roberta-xl": ("xlm-roberta-xl", {"is_decoder": True}),
    "xlnet": (
        "xlnet", {
            "max_position_embeddings": ..., "d_model": 64, "n_layer": 4, "n_head": 4, "d_inner": 128, "hidden_size": ...,
            "num_hidden_layers": ..., "num_attention_heads": ...,
        },
    ),
    "xlstm": ("xlstm", {"num_heads": 4, "num_blocks": 4}),
    "xmod": ("xmod", {"is_decoder": True, "languages": ["en_XX"], "default_language": "en_XX"}),
    "youtu": ("youtu", _MLA),
    "zamba": (
        "zamba", {
            "layers_block_type": ["linear_attention", "hybrid"] * 2, "mamba_d_state": 8, "attention_hidden_size": 128,
            "attention_head_dim": 32,
        },
    ),
    "zamba2": (
        "zamba2", {
            "layer_types": ["linear_attention", "hybrid"] * 2, "n_mamba_heads": 8, "mamba_headdim": 16, "mamba_d_state": 16,
            "mamba_ngroups": 1, "num_mem_blocks": 1, "hybrid_layer_ids": [1, 3],
        },
    ),
    "zaya": ("zaya", {**_HEAD, **_EXPERTS, "num_experts_per_tok": 1}),
}  # fmt: skip


_SCALES = {
    "axk1": 1, "bart": 6, "bert-generation": 6, "big_bird": 6, "biogpt": 20, "blenderbot-small": 6, "bloom": 6, "ctrl": 1,
    "ernie4_5_moe": 4, "falcon": 1.5, "git": 6, "got_ocr2": 6, "jetmoe": 6, "mbart": 6, "moshi": 6, "mvp": 6, "plbart": 10,
    "qwen2_moe": 4, "roc_bert": 6, "sarvam_mla": 1, "trocr": 6, "vaultgemma": 6, "xglm": 1, "youtu": 1,
}  # fmt: skip
"""Factors of the matrices where 3, the usual one, gives texts whose look-ups are never rejected, or always."""


def family_model(family: str) -> PreTrainedModel:
    """The micro model of one of `FAMILIES`."""
    kind, settings = FAMILIES[family]
    return micro_model(kind, scale=_SCALES.get(family, 3.0), **settings)


def micro_model(kind: str, *, scale: float = 6.0, **settings: Any) -> PreTrainedModel:
    """A model with random weights, its matrices scaled up so that what it says depends on what it reads."""
    torch.manual_seed(0)
    if "text_config" in settings:
        settings["text_config"] = _SMALL | settings["text_config"]
    else:
        settings = {name: value for name, value in (_SMALL | settings).items() if value is not ...}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(scale)
    return model


def prompts() -> list[tuple[int, ...]]:
    """Three of different lengths, of text that repeats itself with a change, so that lookups draft and are rejected."""
    random = np.random.default_rng(5)
    once = [int(i) for i in random.integers(3, VOCAB, 24)]
    changed = [*once[:6], 7, *once[7:13], 9, *once[14:]]
    return [tuple(once + changed), tuple(once[3:] + once[3:17]), tuple([*once, *changed, *once][5:60])]


def generated(model: PreTrainedModel, prompt: tuple[int, ...], count: int) -> list[int]:
    """The model's own greedy continuation of `prompt` by at most `count` tokens."""
    ids = torch.tensor([prompt], device=model.device)
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0)
    tokens: list[int] = whole[0, len(prompt) :].tolist()
    return tokens


def check_decoding(target: Target) -> None:
    """Live greedy decoding in a ragged batch of three, with rejected drafts, is `generate` token for token."""
    requests = [DecodeRequest(prompt, 24, (i,)) for i, prompt in enumerate(prompts())]
    expected = [generated(target.model, prompt, 24) for prompt in prompts()]
    for drafter in (NoDrafter(), NGram(5, min_match=1)):
        done = dict(decode(target, drafter, requests, Sampling(temperature=0), max_batch=3))
        assert [done[i].token_ids for i in range(3)] == expected
        if drafter.gamma:
            rounds = [r for d in done.values() for r in d.rounds]
            assert any(r.drafted > r.accepted for r in rounds)
            assert any(r.accepted for r in rounds)


def check_recording(target: Target) -> None:
    """What a recording is made of: the target's own answers, and whole texts, which padding on the right leaves alone.

    Greedy answers are what the model says after each of their tokens when it reads the whole text; hidden states of three
    texts read together are those of each alone.
    """
    requests = [DecodeRequest(prompt, 12, (i,)) for i, prompt in enumerate(prompts())]
    done = dict(respond(target, requests, Sampling(temperature=0), max_batch=3))
    for i, request in enumerate(requests):
        text = torch.tensor([[*request.prompt, *done[i].token_ids]], device=target.device)
        with torch.no_grad():
            said = target.model(input_ids=text, use_cache=False).logits[0, len(request.prompt) - 1 : -1].argmax(-1)
        assert said.tolist() == done[i].token_ids
    check_reading(target)


def check_reading(target: Target) -> None:
    """Hidden states of three padded texts, read together, are those of each read alone."""
    rows = [torch.tensor(prompt, device=target.device) for prompt in prompts()]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    together = target.read(padded, []).hidden
    for row, ids in enumerate(rows):
        alone = target.read(ids[None], []).hidden[0]
        torch.testing.assert_close(together[row, : len(ids)], alone, atol=1e-4, rtol=1e-3)
