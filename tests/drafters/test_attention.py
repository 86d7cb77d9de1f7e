"""Attention without masks says what the model's own says, to the rounding of either."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from drafters.cache import Positions
from drafters.target import Target
from harness.hardware.attention import _of_block, reads_once
from tests.drafters.conftest import micro_config


@pytest.fixture
def device() -> str:
    return "cpu"


def relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("rows", "block", "context"), [(1, 8, 16), (1, 8, 2048), (4, 2, 512), (3, 8, 700)])
def test_attention_of_a_block_is_as_near_to_the_exact_as_pytorchs(rows: int, block: int, context: int, device: str) -> None:
    """Against float64, beside what takes a mask and copies of keys and values: 0.2 % off in bfloat16."""
    generator = torch.Generator(device).manual_seed(0)

    def drawn(heads: int, tokens: int) -> Tensor:
        return torch.randn(rows, heads, tokens, 128, generator=generator, device=device).bfloat16()

    query, key, value = drawn(32, block), drawn(8, context + block), drawn(8, context + block)
    ours = _of_block(query, key, value, context, 128**-0.5)
    seen = torch.ones(block, context + block, dtype=torch.bool, device=device).tril(context)
    wide = (query, *(x.repeat_interleave(4, 1) for x in (key, value)))
    theirs = torch.nn.functional.scaled_dot_product_attention(*wide, attn_mask=seen)
    exact = []
    for q, k, v in zip(*wide, strict=True):
        scores = (q.double() @ k.double().transpose(-1, -2) * 128**-0.5).masked_fill(~seen, -torch.inf)
        exact.append(scores.softmax(-1) @ v.double())
    errors = [relative(x, torch.stack(exact)) for x in (ours, theirs)]
    assert errors[0] < 1.5 * errors[1] < 0.02


def test_the_private_kernel_is_still_what_it_is_called_as() -> None:
    """Nothing public gives the sums of an attention's exponentials away; the next torch may change what does."""
    called = torch.ops.aten._scaled_dot_product_flash_attention.default._schema
    taken = ["query", "key", "value", "dropout_p", "is_causal", "return_debug_mask", "scale"]
    assert [argument.name for argument in called.arguments] == taken
    assert [value.name for value in called.returns[:2]] == ["output", "logsumexp"]


@pytest.mark.parametrize("heads", [(4, 2), (4, 4)])
@torch.inference_mode()
def test_attention_without_masks_is_the_models_own(heads: tuple[int, int]) -> None:
    config = micro_config(num_attention_heads=heads[0], num_key_value_heads=heads[1])
    target = Target(Qwen3ForCausalLM(config))
    own = target.model.config._attn_implementation
    some = _passes(target)
    with reads_once(target) as attention:
        assert attention is not None
        assert target.model.config._attn_implementation != own
        assert torch.allclose(_passes(target), some, atol=1e-5)
    assert target.model.config._attn_implementation == own


def test_attention_with_windows_is_left_alone() -> None:
    config = micro_config(use_sliding_window=True, sliding_window=8, max_window_layers=0)
    with reads_once(Target(Qwen3ForCausalLM(config))) as attention:
        assert attention is None


def _passes(target: Target) -> Tensor:
    """Hidden states of a prompt, of a block after it, and of a block of rows that do not stand abreast."""
    ids = torch.arange(2 * 40).view(2, 40) % target.vocab_size
    cache, seen = target.new_cache(2, 40), []
    for starts, count in (((0, 0), 20), ((20, 20), 8), ((28, 25), 5)):
        positions = Positions.of(starts, count, target.device)
        seen.append(target.forward(ids[:, starts[0] : starts[0] + count], positions, cache, slice(0, 2), []).hidden)
    return torch.cat(seen, 1)
