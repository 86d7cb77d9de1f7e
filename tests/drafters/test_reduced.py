"""Drafters that can say a part of the target's vocabulary alone: what comes out is the target's all the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from drafters.checkpoints import build_drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.target import Target
from simulator.records import Drafting, Sampling
from tests.drafters.conftest import GAMMA, HIDDEN, VOCAB, randomise
from tests.drafters.test_lossless import REJECT, p_value

SAID = torch.tensor([0, 1, 3, 4])
"""Tokens that the drafter knows; the end token, 2, is none of them."""


@pytest.fixture(scope="module")
def drafter(target: Target) -> LearnedDrafter:
    """EAGLE-3 as SpecForge writes it, with four of six tokens."""
    raw: dict[str, Any] = {
        "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "draft_vocab_size": len(SAID), "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6, "max_position_embeddings": 256,
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 1, 2]}, "hidden_act": "silu",
    }  # fmt: skip
    made = build_drafter(raw, target, gamma=GAMMA, name="reduced")
    randomise(torch.nn.ModuleDict({n: m for n, m in made.named_children() if n != "embed_tokens"}), 7, 0.3)
    made.set_vocabulary(SAID)
    return made.to(target.device, target.dtype).eval().requires_grad_(False)


@pytest.mark.parametrize("drafting", ["sampled", "greedy"])
def test_responses_follow_the_targets_law(drafting: Drafting, drafter: LearnedDrafter, target: Target) -> None:
    assert p_value(target, drafter, Sampling(), drafting=drafting) > REJECT


def test_other_tokens_are_never_drafted(drafter: LearnedDrafter, target: Target) -> None:
    text = torch.tensor([[0, 3, 1, 4, 2, 5, 0, 1]])
    forced = torch.ones(1, 1, GAMMA, dtype=torch.int64)
    draft = drafter.teacher_forced(target.read(text, drafter.tap_layers).taps, text, torch.tensor([[5]]), forced)
    others = [token for token in range(VOCAB) if token not in SAID]
    assert bool(draft.logits[..., others].isneginf().all())
    assert bool(draft.logits[..., SAID].isfinite().all())
