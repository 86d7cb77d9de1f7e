"""Rotary position embeddings of drafters, in the ways published checkpoints scale them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simulator.errors import InputError


class Rotation(NamedTuple):
    """The rotation at some positions: cosines and sines, each [..., 1, r], one for all heads; r ≤ head_dim is rotated."""

    cos: Tensor
    sin: Tensor
    interleaved: bool = False
    """Whether neighbouring dimensions are a pair, as GPT-J has it; else those half a head apart."""

    def of(self, x: Tensor) -> Tensor:
        """Rotate `x` [..., heads, head_dim]."""
        width = self.cos.shape[-1]
        turned, rest = (x, None) if width == x.shape[-1] else (x[..., :width], x[..., width:])
        if self.interleaved:
            first, second = turned[..., ::2], turned[..., 1::2]
            across = torch.stack([-second, first], -1).flatten(-2)
        else:
            first, second = turned.chunk(2, -1)
            across = torch.cat([-second, first], -1)
        turned = turned * self.cos + across * self.sin
        return turned if rest is None else torch.cat([turned, rest], -1)


class Rotary:
    """Angles by position.

    No module with buffers: rounded to a model's bfloat16, frequencies would be radians off after some hundred tokens.
    """

    def __init__(self, head_dim: int, parameters: Mapping[str, Any]) -> None:
        """Angles for heads of `head_dim`; `parameters` as in the `rope_parameters` of a configuration.

        Raises InputError for a kind of scaling that is not default, linear, llama3, yarn or proportional.
        """
        self._frequencies, self._scale = frequencies(head_dim, parameters)
        self._interleaved = bool(parameters.get("interleaved"))
        self._on: dict[torch.device, Tensor] = {}

    def at(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """The rotation at `positions` [...], computed in float32 and given in `dtype`."""
        device = positions.device
        if device not in self._on:
            self._on[device] = torch.tensor(self._frequencies, dtype=torch.float32, device=device)
        angles = positions.unsqueeze(-1).unsqueeze(-1).float() * self._on[device]
        angles = angles.repeat_interleave(2, -1) if self._interleaved else torch.cat([angles, angles], -1)
        cos, sin = angles.cos(), angles.sin()
        if self._scale != 1:
            cos, sin = cos * self._scale, sin * self._scale
        return Rotation(cos.to(dtype), sin.to(dtype), self._interleaved)


def frequencies(head_dim: int, parameters: Mapping[str, Any]) -> tuple[list[float], float]:
    """Radians a position for each pair of a head's dimensions, and the factor on cosines and sines.

    default: θ^(−2i/d) (Su et al. 2021). linear: divided by `factor`. llama3: long waves divided, short ones kept, a ramp
    between (Llama 3.1's configuration). yarn: the same by rotations within the trained context, and a temperature of
    attention (Peng et al. 2023). proportional: the first `partial_rotary_factor` of the pairs turn, at the frequencies they
    have in the whole head, the others not at all (Gemma-4's full layers). In all other kinds that factor narrows what is
    rotated.
    """
    kind, base = parameters.get("rope_type", "default"), float(parameters["rope_theta"])
    share = float(parameters.get("partial_rotary_factor") or 1.0)
    if kind == "proportional":
        turning = int(share * head_dim // 2)
        factor = float(parameters.get("factor") or 1.0)
        return [base ** (-2 * i / head_dim) / factor if i < turning else 0.0 for i in range(head_dim // 2)], 1.0
    head_dim = int(head_dim * share)
    plain = [base ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    if kind == "default":
        return plain, 1.0
    if kind == "linear":
        return [f / parameters["factor"] for f in plain], 1.0
    if kind == "llama3":
        return [_llama3(f, parameters) for f in plain], 1.0
    if kind == "yarn":
        return _yarn(plain, base, head_dim, parameters)
    raise InputError(f"rope_type {kind!r} is not supported for drafters; default, linear, llama3, yarn and proportional are")


def _llama3(frequency: float, parameters: Mapping[str, Any]) -> float:
    fields = ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    factor, trained, low, high = (float(parameters[field]) for field in fields)
    waves = trained * frequency / (2 * math.pi)  # in the trained context
    keep = min(max((waves - low) / (high - low), 0.0), 1.0) if high != low else float(waves >= high)
    return frequency * (keep + (1 - keep) / factor)


def _yarn(plain: list[float], base: float, head_dim: int, parameters: Mapping[str, Any]) -> tuple[list[float], float]:
    factor, trained = parameters["factor"], parameters["original_max_position_embeddings"]

    def dimension(rotations: float) -> float:
        """The pair of dimensions that turns so often within the trained context."""
        return head_dim * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(parameters.get("beta_fast") or 32), dimension(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = max(high - low, 1e-3)
    scaled = []
    for i, frequency in enumerate(plain):
        divided = min(max((i - low) / width, 0.0), 1.0)
        scaled.append(frequency * (1 - divided + divided / factor))
    return scaled, _attention_scale(factor, parameters)


def _attention_scale(factor: float, parameters: Mapping[str, Any]) -> float:
    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    own, every = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return scale(own) / scale(every) if own and every else scale(1.0)
