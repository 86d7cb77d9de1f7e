"""Targets of many families, made here with random weights: what runs says what the model itself says, or it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from drafters.decoding import DecodeRequest, decode
from drafters.ngram import NGram, NoDrafter
from drafters.sampling import Sampling
from drafters.target import Target

VOCAB, END = 300, 2
_SMALL: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": END, "pad_token_id": 0,
}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_local_experts": 4}
_HALF_SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_MLA = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12,
    "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, llama3 rope": ("llama", {"rope_parameters": _LLAMA3}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, window": ("mistral", {"sliding_window": 8}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3, window": ("qwen3", {"head_dim": 16, "use_sliding_window": True, **_HALF_SLIDING}),
    "qwen3_moe": ("qwen3_moe", _EXPERTS),
    "mixtral": ("mixtral", _EXPERTS),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"head_dim": 16, **_HALF_SLIDING}),
    "gemma3": ("gemma3_text", {"head_dim": 16, **_HALF_SLIDING}),
    "gemma4": ("gemma4_text", {"head_dim": 16, "global_head_dim": 16, "hidden_size_per_layer_input": 0, **_HALF_SLIDING}),
    "gemma4, shared kv": (
        "gemma4_text",
        {
            "head_dim": 16, "global_head_dim": 16, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB,
            "num_kv_shared_layers": 2, **_HALF_SLIDING,
        },
    ),
    "gpt_oss": ("gpt_oss", {"head_dim": 16, **_EXPERTS, **_HALF_SLIDING}),
    "glm4": ("glm4", {"head_dim": 16}),
    "glm4_moe": ("glm4_moe", {"head_dim": 16, **_EXPERTS, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}),
    "deepseek_v3": ("deepseek_v3", _MLA),
    "phi3": ("phi3", {}),
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0}),
    "cohere": ("cohere", {}),
    "cohere2": ("cohere2", {"head_dim": 16, **_HALF_SLIDING}),
    "gpt2": ("gpt2", {"n_inner": 128}),
    "gpt_neox": ("gpt_neox", {}),
    "opt": ("opt", {"ffn_dim": 128, "word_embed_proj_dim": 64}),
}  # fmt: skip


def micro_model(kind: str, *, scale: float = 6.0, **settings: Any) -> PreTrainedModel:
    """A model with random weights, its matrices scaled up so that what it says depends on what it reads."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(_SMALL | settings))
    model = AutoModelForCausalLM.from_config(config).eval()
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
    ids = torch.tensor([prompt])
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0)
    tokens: list[int] = whole[0, len(prompt) :].tolist()
    return tokens


@pytest.mark.parametrize("family", list(FAMILIES))
def test_greedy_decoding_is_the_models_own(family: str) -> None:
    """Token for token `generate`, in a ragged batch, with rejected drafts."""
    kind, settings = FAMILIES[family]
    model = micro_model(kind, scale=3.0, **settings)
    target = Target(model)
    assert target.cannot_decode is None
    requests = [DecodeRequest(prompt, 24, (i,)) for i, prompt in enumerate(prompts())]
    expected = [generated(model, prompt, 24) for prompt in prompts()]
    for drafter in (NoDrafter(), NGram(5, min_match=1)):
        done = dict(decode(target, drafter, requests, Sampling(temperature=0), max_batch=3))
        assert [done[i].token_ids for i in range(3)] == expected
        if drafter.gamma:
            rounds = [r for d in done.values() for r in d.rounds]
            assert any(r.drafted > r.accepted for r in rounds)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}),
        ("granite", {"logits_scaling": 4.0}),
        ("gemma2", {"head_dim": 16, "final_logit_softcapping": 5.0, **_HALF_SLIDING}),
        ("cohere2", {"head_dim": 16, "logit_scale": 0.0625, **_HALF_SLIDING}),
    ],
)
def test_first_tokens_follow_the_models_own_distribution(kind: str, settings: dict[str, Any]) -> None:
    """A greedy test cannot see a scale or a cap that the head leaves out; χ² at temperature 1 can."""
    model = micro_model(kind, **{**settings, "vocab_size": 40})
    prompt, count = tuple(range(5, 13)), 4000
    with torch.inference_mode():
        law = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1).numpy()
    requests = [DecodeRequest(prompt, 1, (i,)) for i in range(count)]
    seen = np.zeros(40)
    for _, done in decode(Target(model), NoDrafter(), requests, Sampling(), max_batch=1000):
        seen[done.token_ids[0]] += 1
    common = law * count >= 5
    observed, expected = np.append(seen[common], seen[~common].sum()), np.append(law[common], law[~common].sum()) * count
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    assert chisquare(observed, expected).pvalue > 1e-4
    assert len(observed) >= 5
