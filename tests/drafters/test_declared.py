"""What checkpoints declare of taps, blocks and layers, and what is told where they do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from drafters.checkpoints import facts_of, read_declared
from drafters.target import Target
from simulator.errors import InputError
from tests.drafters.conftest import GAMMA, MASK
from tests.drafters.test_dialects import (
    AUX,
    BLOCK_TENSORS,
    DFLASH,
    EAGLE_TAPS,
    HEADS,
    Raw,
    written,
)
from tests.drafters.test_formats import NESTED, PUBLISHED


def facts(raw: Raw, tensors: Mapping[str, tuple[int, ...]], target: Target, tmp_path: Path) -> Any:
    folder = tmp_path / "files"
    tmp_path.mkdir(exist_ok=True)
    made = {name: torch.ones(shape) for name, shape in tensors.items()}
    return read_declared(written(folder, raw, made), facts_of(target), "mine")


@pytest.mark.parametrize(
    ("changes", "taps"),
    [
        ({}, [2, 1, 0]),  # nobody says: h[2], h[L//2], h[L−3] of three layers are h[2], h[1], h[0]
        ({"eagle_config": {AUX: []}}, [2, 1, 0]),  # so does what is left empty
        ({AUX: [1, 2, 3]}, [1, 2, 3]),
        ({"eagle_config": {AUX: [0, 1, 2]}}, [1, 2, 3]),
        ({"eagle_config": {AUX: [1, 2, 3]}}, [1, 2, 3]),  # no layer has output L: what enters layers is counted
        ({"target_layer_ids": [-1, 0, 2]}, [0, 1, 3]),
        ({AUX: [0, 1, 2], "eagle_config": {AUX: [0, 1, 2]}}, [0, 1, 2]),
        ({"eagle_config": {"layer_ids": [0, 1, 3]}}, [0, 1, 3]),
        ({AUX: [3, 1, 2]}, [1, 2, 3]),
    ],
)
def test_taps_of_eagle_are_counted_as_their_field_counts(
    changes: Raw, taps: list[int], target: Target, tmp_path: Path
) -> None:
    raw = {**PUBLISHED["EAGLE-3 (SafeAILab)"], "draft_vocab_size": None, **changes}
    declared = facts(raw, EAGLE_TAPS, target, tmp_path)
    assert [tap + 1 for tap in declared.settings.taps] == sorted(taps)
    assert ("taps" in declared.assumed) == (changes in ({}, {"eagle_config": {AUX: []}}))


@pytest.mark.parametrize(("ids", "offset"), [([0, 1, 4], 0), ([1, 1, 2], 0), ([True, 1], 0), ([-2, 0, 1], 1), ("all", 0)])
def test_taps_that_are_no_layers_are_refused(ids: Any, offset: int, target: Target, tmp_path: Path) -> None:
    places = {"eagle_config": {AUX: ids}} if offset else {AUX: ids}
    raw = {**PUBLISHED["EAGLE-3 (SafeAILab)"], "draft_vocab_size": None, **places}
    with pytest.raises(InputError, match=f"{AUX} .* must be layers of the target") as raised:
        facts(raw, EAGLE_TAPS, target, tmp_path)
    assert "\n" not in str(raised.value)


def test_usual_taps_that_a_target_has_not_are_told_as_such(target: Target, tmp_path: Path) -> None:
    raw = {**PUBLISHED["EAGLE-3 (SafeAILab)"], "draft_vocab_size": None}
    folder = written(tmp_path / "files", raw, {name: torch.ones(shape) for name, shape in EAGLE_TAPS.items()})
    with pytest.raises(
        InputError, match=r"names no taps, and those usual then, \[2, 3, 3\], are not layers of a target of 6"
    ):
        read_declared(folder, facts_of(target)._replace(num_layers=6), "mine")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"eagle_config": {"target_layer_ids": [0, 1, 2]}}, "eagle_config.target_layer_ids"),
        ({"eagle_config": {"aux_hidden_state_layer_ids": [0, 1, 2]}}, "eagle_config.aux_hidden_state_layer_ids"),
        ({"tapped_layer_ids": [0, 1, 2]}, "tapped_layer_ids"),
        ({"speculators_model_type": "eagle3", "transformer_layer_config": NESTED, "target_layer_ids": [0, 1, 2]},
         "target_layer_ids"),
        ({"architectures": ["DFlashDraftModel"], "mask_token_id": 3, "eagle_config": {"target_layer_ids": [0, 1]}},
         "eagle_config.target_layer_ids"),
    ],
)  # fmt: skip
def test_taps_of_a_field_that_is_not_read_are_no_defaults(changes: Raw, named: str, target: Target, tmp_path: Path) -> None:
    raw = {**PUBLISHED["EAGLE-3 (SafeAILab)"], "draft_vocab_size": None, **changes}
    with pytest.raises(InputError, match=rf"{named} seems to say the taps \[.*, and is not read in this format; ") as raised:
        facts(raw, EAGLE_TAPS, target, tmp_path)
    assert "\n" not in str(raised.value)


def test_an_inherited_factor_of_rotation_is_told_to_be_assumed(target: Target, tmp_path: Path) -> None:
    raw = {**PUBLISHED["EAGLE-3 (SafeAILab)"], "draft_vocab_size": None, "partial_rotary_factor": 0.25}
    declared = facts(raw, EAGLE_TAPS, target, tmp_path)
    assert declared.conventions["rotary"] == "plain, base 1000 (assumed)"


@pytest.mark.parametrize(
    ("changes", "own", "tensors", "expected"),
    [
        ({}, {}, {}, {"layout": "fill-in", "markov_rank": 0, "confidence": "none", "in_block": "causal where sliding"}),
        ({}, {"sample_from_anchor": True}, {}, {"layout": "anchor-first"}),
        ({}, {"query_zero_predicts_next": True}, {}, {"layout": "anchor-first"}),
        ({}, {"projector_type": "dspark"}, HEADS, {"layout": "anchor-first", "markov_rank": 4,
                                                    "confidence": "hidden and token"}),
        ({}, {"projector_type": "dspark"}, HEADS | {"confidence_head.proj.weight": (1, 16)}, {"confidence": "hidden"}),
        ({"architectures": ["DSparkDraftModel"]}, {"dspark_bonus_anchor": True}, HEADS, {"layout": "fill-in"}),
        ({"architectures": ["Qwen3DSparkModel"]}, {}, HEADS, {"layout": "anchor-first", "markov_rank": 4}),
        ({}, {"causal": True}, {}, {"in_block": "causal"}),
        ({"is_causal": False}, {"causal": True}, {}, {"in_block": "bidirectional"}),
        ({"architectures": ["DFlash2DraftModel"]}, {}, {}, {"convolution": (2, 16), "selector": (256, 16)}),
        ({}, {"conv_kernel_size": 3, "conv_group_size": 4}, {}, {"convolution": (3, 4), "selector": None}),
        ({"input_embedding_scale": 4.0}, {"output_multiplier": 2.0, "final_logit_softcapping": 30.0}, {},
         {"embedding_scale": 4.0, "logit_scale": 2.0, "softcap": 30.0}),
        ({}, {"final_logit_softcapping": 0}, {}, {"softcap": None}),
        ({"is_neox_style": False}, {}, {}, {}),
        ({"block_size": None}, {}, {}, {"block": 16}),
        ({"block_size": None}, {"projector_type": "dspark"}, HEADS, {"block": 7}),
        ({"block_size": None, "num_speculative_tokens": 5}, {}, {}, {"block": 6}),
        ({"block_size": None}, {"projector_type": "dspark", "num_speculative_tokens": 5}, HEADS, {"block": 5}),
        ({"rope_is_neox_style": False}, {}, {}, {}),
    ],
)  # fmt: skip
def test_what_blocks_declare(changes: Raw, own: Raw, tensors: Raw, expected: Raw, target: Target, tmp_path: Path) -> None:
    raw = {
        **NESTED,
        "architectures": ["DFlashDraftModel"],
        "block_size": GAMMA + 1,
        "dflash_config": {**DFLASH, **own},
        **changes,
    }
    declared = facts(raw, BLOCK_TENSORS | tensors, target, tmp_path)
    assert {field: getattr(declared.settings, field) for field in expected} == expected
    assert declared.gamma == expected.get("block", GAMMA + 1) - (declared.settings.layout == "fill-in")
    assert ("γ" in declared.assumed) == (declared.settings.block in (7, 16))
    assert bool(declared.settings.shape.rotary.get("interleaved")) == any("is_neox_style" in name for name in changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"residual": "feature", "fed_back": "before the norm", "tap_norm": "none"}),
        ({"norm_before_residual": True}, {"residual": "normed feature"}),
        ({"norm_output": True}, {"fed_back": "after the norm"}),
        ({"fc_norm": True}, {"tap_norm": "each"}),
        ({"use_aux_norm": True}, {"tap_norm": "each"}),
        ({"eagle_config": {"norm_before_fc": True}}, {"tap_norm": "joined"}),
    ],
)
def test_what_eagle_declares(changes: Raw, expected: Raw, target: Target, tmp_path: Path) -> None:
    raw = {**PUBLISHED["EAGLE-3 (SpecForge, SGLang)"], "eagle_config": {}, **changes}
    declared = facts(raw, EAGLE_TAPS, target, tmp_path)
    assert {field: getattr(declared.settings, field) for field in expected} == expected


def proposing(tokens: int) -> Raw:
    """How many tokens speculators' files say that their author drafts."""
    ways = [{"proposal_type": "greedy", "speculative_tokens": tokens}]
    return {"speculators_config": {"default_proposal_method": "greedy", "proposal_methods": ways}}


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("dflash", {}, {"layout": "fill-in", "in_block": "causal where sliding", "block": 8}),
        ("dflash2", {}, {"in_block": "bidirectional", "selector": (256, 16)}),
        (
            "dspark",
            {"markov_rank": 4},
            {"layout": "anchor-first", "markov_head": "vanilla", "confidence": "hidden and token"},
        ),
        ("dspark", {"markov_rank": 0}, {"markov_rank": 0, "confidence": "hidden"}),
        ("dspark", {"markov_rank": 4, "sample_from_anchor": False}, {"layout": "fill-in"}),
        ("dflash", {"sliding_window_non_causal": True}, {"in_block": "bidirectional"}),
        ("dspark", {"markov_rank": 4, **proposing(7)}, {"layout": "fill-in"}),
        ("dspark", {"markov_rank": 4, **proposing(8)}, {"layout": "anchor-first"}),
        ("dspark", {"markov_rank": 4, **proposing(7), "sample_from_anchor": True}, {"layout": "anchor-first"}),
        ("dflash", proposing(7), {"layout": "fill-in"}),
    ],
)
def test_what_speculators_blocks_declare(kind: str, changes: Raw, expected: Raw, target: Target, tmp_path: Path) -> None:
    raw = {
        "speculators_model_type": kind, "transformer_layer_config": NESTED, "aux_hidden_state_layer_ids": [1, 3],
        "mask_token_id": MASK, **changes,
    }  # fmt: skip
    folder = tmp_path / "files"
    tensors = BLOCK_TENSORS | ({"confidence_head.proj.bias": (1,)} if kind == "dspark" else {})
    declared = read_declared(written(folder, raw, {n: torch.ones(s) for n, s in tensors.items()}), facts_of(target), "mine")
    assert {field: getattr(declared.settings, field) for field in expected} == expected
    assert declared.settings.taps == (0, 2)
    assert declared.settings.window_from == "anchor"
    assert declared.gamma == min(7 if proposing(7).items() <= changes.items() else 8, declared.settings.most_drafted)
    assert ("layout" in declared.assumed) == ("sample_from_anchor" not in changes)


def test_a_sequential_head_makes_the_layout_of_dflash_a_guess(target: Target, tmp_path: Path) -> None:
    """Its architecture says fill-in, its head DSpark; DSpark's own name says anchor-first."""
    raw = {**NESTED, "block_size": 4, "dflash_config": DFLASH}
    for architecture, guessed in (("DFlashDraftModel", True), ("DSparkDraftModel", False)):
        made = {**raw, "architectures": [architecture]}
        declared = facts(made, BLOCK_TENSORS | HEADS, target, tmp_path / architecture)
        assert declared.conventions["layout"] == ("fill-in (assumed)" if guessed else "anchor-first")


def test_sliding_layers_of_speculators_may_be_said_outside(target: Target, tmp_path: Path) -> None:
    """Where earlier versions wrote them, and engines look first."""
    raw = {
        "speculators_model_type": "dflash", "transformer_layer_config": NESTED, "aux_hidden_state_layer_ids": [1, 3],
        "mask_token_id": MASK, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5,
    }  # fmt: skip
    declared = facts(raw, BLOCK_TENSORS, target, tmp_path)
    assert declared.settings.shape.windows == (5, None)


def test_a_flag_that_the_tensors_deny_is_told(target: Target, tmp_path: Path) -> None:
    raw = {**PUBLISHED["EAGLE-3 (NVIDIA)"], "draft_vocab_size": None, "eagle_config": {"use_aux_hidden_state": False}}
    with pytest.raises(InputError, match=r"use_aux_hidden_state is false, and fc\.weight"):
        facts(raw, EAGLE_TAPS, target, tmp_path)
