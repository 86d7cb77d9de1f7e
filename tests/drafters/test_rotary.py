"""Rotary frequencies against transformers' own, for every scaling that published checkpoints use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from drafters.rotary import Rotary, frequencies
from simulator.errors import InputError

_TRAINED = {"original_max_position_embeddings": 4096}
SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **_TRAINED},
    {"rope_type": "yarn", "factor": 4.0, **_TRAINED},
    {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False, **_TRAINED},
    {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.7, **_TRAINED},
    {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.5, **_TRAINED},
]


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: "-".join(str(v) for v in s.values()))
@pytest.mark.parametrize("head_dim", [64, 128])
def test_frequencies_are_those_of_transformers(scaling: dict[str, Any], head_dim: int) -> None:
    parameters = {"rope_theta": 1e6, **scaling}
    config = Qwen3Config(
        hidden_size=256, num_attention_heads=4, head_dim=head_dim, max_position_embeddings=131072, rope_parameters=parameters
    )
    theirs, their_scale = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
    ours, scale = frequencies(head_dim, parameters)
    torch.testing.assert_close(torch.tensor(ours), theirs, rtol=1e-5, atol=1e-9)
    assert scale == pytest.approx(their_scale)


def test_rotation_turns_each_pair_by_position_times_frequency() -> None:
    """By complex numbers: (x1 + i x2) e^{i p f}."""
    x = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([0, 5, 700])
    f = torch.tensor(frequencies(8, {"rope_theta": 1e4})[0])
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(1j * positions[:, None, None] * f)
    rotated = Rotary(8, {"rope_theta": 1e4}).at(positions, torch.float32).of(x)
    torch.testing.assert_close(rotated, torch.cat([turned.real, turned.imag], -1), rtol=1e-4, atol=1e-4)


def test_other_scalings_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="rope_type 'longrope' is not supported"):
        frequencies(64, {"rope_theta": 1e4, "rope_type": "longrope"})
