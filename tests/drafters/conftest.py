"""A micro pair: random weights, six tokens, two layers. Small enough to compute its law exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from drafters.checkpoints import build_drafter
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.kinds.ngram import NGram
from drafters.kinds.none import NoDrafter
from drafters.kinds.registry import OF_TEXT
from drafters.target import Target

torch.set_num_threads(1)  # these tensors are tiny; more threads only wait for each other

Make = Callable[..., Drafter]
VOCAB, HIDDEN, GAMMA, END, MASK = 6, 16, 3, 2, 5

LEARNED: dict[str, dict[str, Any]] = {
    "dspark": {"architectures": ["Qwen3DSparkModel"], "markov_rank": 4, "markov_head_type": "vanilla"},
    "dspark-gated": {"architectures": ["Qwen3DSparkModel"], "markov_rank": 4, "markov_head_type": "gated"},
    "dspark-rnn": {"architectures": ["Qwen3DSparkModel"], "markov_rank": 4, "markov_head_type": "rnn"},
    "dflash": {"architectures": ["Qwen3DSparkModel"], "markov_rank": 0},
    "eagle3": {"architectures": ["Qwen3Eagle3Model"], "ttt_length": GAMMA},
    "mtp": {"architectures": ["Qwen3MTPModel"], "mtp_length": GAMMA, "target_layer_ids": [2]},
}
ALL = [*LEARNED, *OF_TEXT, "none"]


def micro_config(**changes: Any) -> Qwen3Config:
    settings: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
        "tie_word_embeddings": False, "eos_token_id": END, "pad_token_id": 0, "bos_token_id": None,
    }  # fmt: skip
    return Qwen3Config(**(settings | changes))


def drafter_config(name: str, target: Target, **changes: Any) -> dict[str, Any]:
    """A published-format `config.json`, as a dictionary."""
    config = {**target.config.to_dict(), "num_target_layers": target.num_layers, "target_layer_ids": [-1, 0, 1]}
    kind = LEARNED[name]
    config |= {"num_hidden_layers": 2 if "markov_rank" in kind else 1}
    if "markov_rank" in kind:
        config |= {"block_size": GAMMA, "mask_token_id": MASK, "enable_confidence_head": kind["markov_rank"] > 0}
        config |= {"confidence_head_with_markov": kind["markov_rank"] > 0}
    config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    return {**config, **kind, **changes}


def randomise(module: torch.nn.Module, seed: int, scale: float) -> None:
    """Weights large enough that distributions are far from uniform and q far from p."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        if parameter.ndim >= 2:
            parameter.data.normal_(0, scale, generator=generator)
        elif "bias" in name:
            parameter.data.normal_(0, 0.3, generator=generator)


@pytest.fixture(scope="session")
def target() -> Target:
    model = Qwen3ForCausalLM(micro_config())
    randomise(model, 1, 0.35)
    model.generation_config.eos_token_id = END
    return Target(model)


@pytest.fixture(scope="session")
def make(target: Target) -> Make:
    return build_micro(target)


def build_micro(target: Target) -> Make:
    """Drafters of a micro target by name."""

    def build(name: str) -> Drafter:
        if name == "none":
            return NoDrafter()
        if name == "ngram":
            return NGram(GAMMA, min_match=1, max_match=3)
        if name in OF_TEXT:
            return OF_TEXT[name](GAMMA)
        drafter: LearnedDrafter = build_drafter(drafter_config(name, target), target, gamma=None, name=name)
        own = torch.nn.ModuleDict({n: m for n, m in drafter.named_children() if n not in ("embed_tokens", "lm_head")})
        randomise(own, 7, 0.3)
        return drafter.to(target.device, target.dtype).eval().requires_grad_(False)

    return build
