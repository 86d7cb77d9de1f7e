"""DeepSpec's checkpoints (deepseek-ai/dspark_qwen3_4b_block7 and its like, for Qwen3 and Gemma-4): the format ours are in.

`config.json` is the target's, with the draft's fields at the top level; source: deepspec/modeling of DeepSpec afdfa7c.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from drafters.families.registry import embedding_scale, read_shape
from drafters.formats.contract import (
    Declared,
    Fields,
    Format,
    TargetFacts,
    assumed,
    check_target,
    confidence_of,
    head_of,
    markov_of,
    mask_token,
)
from drafters.formats.dflash import LAYOUT_KEYS, layout_of
from drafters.formats.files import Checkpoint, bare, computes_nothing
from drafters.kinds.settings import BlockSettings, PairSettings


class Core(NamedTuple):
    """What an architecture is."""

    family: str
    """The family of its layers."""
    name: str
    """Which core builds it."""
    gamma: str
    """The field that holds γ."""
    default_gamma: int | None = None
    settings: Mapping[str, Any] = MappingProxyType({})
    """Conventions that are other than usual."""


CORES: Final[Mapping[str, Core]] = {
    "Qwen3DSparkModel": Core("qwen3", "block", "block_size"),  # also DFlash
    "Qwen3Eagle3Model": Core("qwen3", "eagle3", "ttt_length"),
    "Qwen3MTPModel": Core("qwen3", "mtp", "mtp_length", 1, {"order": "feature, embedding", "fused": False}),
    "Gemma4DSparkModel": Core("gemma4", "block", "block_size"),
    "Gemma4Eagle3Model": Core("gemma4", "eagle3", "ttt_length"),
}
"""By architecture."""
_REFUSED: Final = ("enable_moe_block", "hidden_size_per_layer_input")
"""What DeepSpec refuses itself."""


def _read(of: Checkpoint, target: TargetFacts) -> Declared:
    core = CORES[of.architecture]
    family = core.family
    fields = Fields(of, of.raw)
    check_target(of, fields, target, "vocab_size", "hidden_size", "num_target_layers")
    if not str(of.raw.get("model_type")).startswith(family):
        raise of.fail(f"model_type {of.raw.get('model_type')!r} is not supported for {of.architecture}; {family} is")
    if refused := next((name for name in _REFUSED if family == "gemma4" and of.raw.get(name)), None):
        raise of.fail(f"{refused} is not supported for drafters")
    shape = read_shape(of.raw if family == "gemma4" else {**of.raw, "model_type": family}, of.name)
    if "target_layer_ids" not in of.raw:
        raise of.fail("config.json lacks target_layer_ids")
    taps = fields.layers(["target_layer_ids"], offset=1, default=[], target=target)
    cap = fields.number("final_logit_softcapping") if family == "gemma4" else None
    settings: BlockSettings | PairSettings
    every: dict[str, Any] = {
        "shape": shape, "target_size": target.hidden_size, "vocabulary": target.vocab_size, "taps": taps,
        "draft_vocabulary": target.vocab_size, "softcap": cap, "head": head_of(fields, of),
        "embedding_scale": embedding_scale(shape),
    }  # fmt: skip
    gamma = fields.gamma(core.gamma, core.default_gamma)
    if core.name == "block":
        rank, head = markov_of(of, fields)
        # DeepSpec's own code knows one layout; what others have trained in its form says another by their readers' keys.
        layout = layout_of(fields, True) if any(of.raw.get(key) is not None for key in LAYOUT_KEYS) else "anchor-first"
        settings = BlockSettings(
            **every, layout=layout, block=gamma, mask_token=mask_token(of, fields, target), markov_rank=rank,
            markov_head=head,
            confidence=confidence_of(of, fields, rank, on=False, joined=False),
        )  # fmt: skip
        gamma = settings.most_drafted
    else:
        settings = PairSettings(**every, **core.settings)
    return Declared("DeepSpec", settings, core.name, gamma, _names, assumed=assumed(of.raw, fields))


def _names(name: str) -> str | None:
    return None if computes_nothing(name := bare(name)) else name


def _recognises(of: Checkpoint) -> bool:
    """By its architecture; copies of others' drafters that are renamed so keep their own fields."""
    others = isinstance(of.raw.get("dflash_config"), dict) or "dspark_target_layer_ids" in of.raw
    return of.architecture in CORES and ("target_layer_ids" in of.raw or not others)


DEEPSPEC: Final = Format("DeepSpec", _recognises, _read)
