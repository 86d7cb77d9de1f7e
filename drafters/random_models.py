"""Targets and drafters of a published shape with random weights: what a forward takes does not depend on them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config

from drafters.checkpoints import build_drafter, fresh_drafter
from drafters.configs import folded_state, read_architecture
from drafters.formats.contract import Declared
from drafters.kinds.contract import Drafter
from drafters.kinds.registry import OF_TEXT
from drafters.loading import check_config
from drafters.target import Target
from drafters.training.design import GAMMA, LAYERS, RANK, Sizes, declared_by, default_taps
from simulator.drafter_kinds import KINDS, LEARNED
from simulator.errors import InputError, first_paragraph

_QUANTISED = "quantization_config"
"""What a configuration says of weights of fewer bits."""


def random_target(source: str, *, dtype: torch.dtype, device: str, seed: int) -> Target:
    """A target with random weights.

    Args:
        source: a known name, a Hugging Face `config.json`, or a folder with one.

    Raises:
        InputError: no such configuration, or not of a causal language model that can decode live with plain weights.
    """
    raw = dict(read_architecture(source))
    if raw["model_type"] not in _known_types():
        raise InputError(
            f"architecture {source}: transformers {transformers.__version__} knows no model_type {raw['model_type']!r}"
        )
    try:
        config = AutoConfig.for_model(raw.pop("model_type"), **raw)
        check_config(config, source)
        if folded := folded_state(config.get_text_config()):
            raise InputError(f"architecture {source}: cannot decode live: {folded}")
        if any(getattr(of, _QUANTISED, None) for of in (config, config.get_text_config())):
            raise InputError(
                f"architecture {source}: its {_QUANTISED} asks for other weights than random ones, which are plain: profile "
                f"a pair with the checkpoint itself, or take {_QUANTISED} out to measure plain weights"
            )
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=None)
        return Target(model.to(device))
    except InputError as error:
        raise InputError(str(error) if source in str(error) else f"architecture {source}: {error}") from None
    except torch.OutOfMemoryError:
        raise InputError(f"architecture {source}: its weights do not fit into the memory of {device}") from None
    except Exception as error:  # transformers and torch have many exception types for what a configuration can be
        raise InputError(f"architecture {source}: {first_paragraph(error)}") from None


def random_drafters(target: Target, configs: Mapping[str, str], *, seed: int) -> dict[str, Drafter]:
    """Drafters of `target` with random weights, by name.

    Args:
        configs: name → a drafter's `config.json` or a folder with one, `ngram`, or one of dspark, dflash, eagle3, mtp for
            the shape the published drafters have over a target of this width.
    """
    drafters: dict[str, Drafter] = {}
    for name, source in configs.items():
        if source in OF_TEXT:
            drafters[name] = OF_TEXT[source](GAMMA)
            continue
        standard = _standard(source, target) if source in LEARNED else None
        with torch.random.fork_rng(), torch.device(target.device):
            torch.manual_seed(seed)
            if standard is not None:
                drafter = fresh_drafter(standard, target)
            else:
                drafter = build_drafter(read_architecture(source), target, gamma=None, name=source)
        drafters[name] = drafter.to(device=target.device, dtype=target.dtype).eval().requires_grad_(False)
    return drafters


def _known_types() -> frozenset[str]:
    """Models that transformers makes of a configuration."""
    return frozenset(transformers.CONFIG_MAPPING)


def _standard(kind: str, target: Target) -> Declared:
    """What the published drafters of the Qwen3 family look like, over this target."""
    if not isinstance(target.config, Qwen3Config):
        raise InputError(f"drafter {kind}: published shapes are known for Qwen3 targets; name a config.json instead")
    layers, block = LAYERS if KINDS[kind].one_pass else 1, KINDS[kind].default_tokens or GAMMA
    taps = default_taps(kind, target.num_layers)
    return declared_by(Sizes(kind, layers, taps, block, RANK, target.vocab_size - 1), target, "deepspec")
