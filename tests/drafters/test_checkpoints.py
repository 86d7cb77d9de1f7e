"""Checkpoints in the published format: round trips, missing tables, shards, and every mismatch named in one sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import drafters.checkpoints as checkpoints
from drafters.checkpoints import build_drafter, folder_hash, load_drafter, save_drafter
from drafters.kinds.block import DSpark
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import AutoregressiveDrafter, LearnedDrafter
from drafters.target import Target
from simulator.errors import InputError
from tests.drafters.conftest import GAMMA, LEARNED, drafter_config
from tests.drafters.families import micro_model

TEXT = torch.tensor([[1, 3, 4, 1, 3, 5, 4, 1, 3, 4]])


def logits(drafter: Drafter, target: Target) -> torch.Tensor:
    assert isinstance(drafter, LearnedDrafter)
    forced = torch.ones(1, 1, drafter.gamma, dtype=torch.int64)
    with torch.inference_mode():
        return drafter.teacher_forced(target.read(TEXT, drafter.tap_layers).taps, TEXT, torch.tensor([[5]]), forced).logits


@pytest.fixture
def saved(tmp_path: Path, make: Callable[[str], Drafter], target: Target) -> Callable[..., Path]:
    """A checkpoint folder of a drafter of the micro target."""

    def save(name: str, with_tables: bool = False, **changes: Any) -> Path:
        drafter = make(name)
        assert isinstance(drafter, LearnedDrafter)
        save_drafter(drafter, drafter_config(name, target) | changes, tmp_path / name, with_tables=with_tables)
        return tmp_path / name

    return save


@pytest.mark.parametrize("name", list(LEARNED))
def test_round_trip(name: str, saved: Callable[..., Path], make: Callable[[str], Drafter], target: Target) -> None:
    loaded = load_drafter(str(saved(name)), target)
    assert loaded.kind == name.split("-")[0]
    assert loaded.gamma == GAMMA
    original = make(name)
    assert isinstance(original, LearnedDrafter)
    original.load_state_dict(
        {k: v.bfloat16().float() for k, v in original.state_dict().items() if "embed" not in k and "lm_head" not in k},
        strict=False,
    )
    torch.testing.assert_close(logits(loaded, target), logits(original, target))


def test_tables_are_the_targets_unless_the_checkpoint_brings_its_own(saved: Callable[..., Path], target: Target) -> None:
    folder = saved("dspark")
    assert "embed_tokens.weight" not in load_file(folder / "model.safetensors")
    shared = load_drafter(str(folder), target)
    assert isinstance(shared, LearnedDrafter)
    assert shared.lm_head is target.lm_head
    tensors = load_file(saved("dspark", with_tables=True) / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"] * 2
    save_file(tensors, folder / "model.safetensors")
    before = target.lm_head.weight.clone()
    own = load_drafter(str(folder), target)
    assert not torch.allclose(logits(own, target), logits(shared, target))
    assert torch.equal(before, target.lm_head.weight)


def test_rotary_frequencies_stay_exact_in_bfloat16(saved: Callable[..., Path], target: Target) -> None:
    """Rounded to bfloat16 they would be off by radians after some hundred tokens, and only τ would show it."""
    half = Target(copy.deepcopy(target.model).to(torch.bfloat16))
    for name in ("dspark", "eagle3", "mtp"):
        drafter = load_drafter(str(saved(name)), half)
        assert isinstance(drafter, DSpark | AutoregressiveDrafter)
        assert next(drafter.layers.parameters()).dtype == torch.bfloat16
        far = torch.tensor([100_000])
        exact = load_drafter(str(saved(name)), target)
        assert isinstance(exact, DSpark | AutoregressiveDrafter)
        rounded, precise = (d.rotary.at(far, torch.float32) for d in (drafter, exact))
        assert torch.equal(rounded.cos, precise.cos)


def test_a_head_with_a_bias_is_shared_and_never_written_to(tmp_path: Path) -> None:
    """Phi's head has one. Checkpoints leave it out with the matrix; a copy of it alone, rounded, is not the target's."""
    target = Target(micro_model("phi"))
    bias = target.lm_head.get_parameter("bias").normal_()
    before, config = bias.clone(), drafter_config("dspark", Target(micro_model("qwen3")))
    drafter = build_drafter(config, target, gamma=None, name="dspark")
    save_drafter(drafter, config, tmp_path)
    file = tmp_path / "model.safetensors"
    alone = load_file(file)
    assert "lm_head.bias" not in alone
    tables = {f"lm_head.{name}": value.clone() for name, value in target.lm_head.named_parameters()}
    for brought, shared in (
        ({}, True),
        ({"lm_head.bias": bias + 1}, True),
        (tables, True),
        (tables | {"lm_head.bias": bias + 1}, False),
        ({"lm_head.weight": tables["lm_head.weight"]}, False),
    ):
        save_file(alone | brought, file)
        loaded = load_drafter(str(tmp_path), target)
        assert isinstance(loaded, LearnedDrafter)
        assert (loaded.lm_head is target.lm_head) == shared
        assert torch.equal(target.lm_head.get_parameter("bias"), before)


def test_copies_of_the_targets_tables_are_not_kept(saved: Callable[..., Path], target: Target) -> None:
    folder = saved("eagle3", with_tables=True)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = target.lm_head.weight.detach().clone()
    save_file(tensors, folder / "model.safetensors")
    drafter = load_drafter(str(folder), target)
    assert isinstance(drafter, LearnedDrafter)
    assert drafter.lm_head is target.lm_head


def test_shards_are_read_together(saved: Callable[..., Path], target: Target) -> None:
    folder = saved("eagle3")
    expected = logits(load_drafter(str(folder), target), target)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    save_file({n: tensors[n] for n in names[::2]}, folder / "model-00001-of-00002.safetensors")
    save_file({n: tensors[n] for n in names[1::2]}, folder / "model-00002-of-00002.safetensors")
    torch.testing.assert_close(logits(load_drafter(str(folder), target), target), expected)


def test_a_hub_id_is_downloaded(saved: Callable[..., Path], target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = saved("dflash"), []
    monkeypatch.setattr(checkpoints, "snapshot_download", lambda repo, **_: asked.append(repo) or str(folder))
    assert load_drafter("deepseek-ai/dflash_micro_block3", target).gamma == GAMMA
    assert asked == ["deepseek-ai/dflash_micro_block3"]


def test_gamma_may_be_smaller_than_the_block(saved: Callable[..., Path], target: Target) -> None:
    assert load_drafter(str(saved("dspark")), target, gamma=2).gamma == 2
    assert load_drafter(str(saved("eagle3")), target, gamma=9).gamma == 9
    with pytest.raises(InputError, match="block_size 3; a block size of 4"):
        load_drafter(str(saved("dspark")), target, gamma=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 7}, "vocab_size is 7, but the target has 6"),
        ({"hidden_size": 8}, "hidden_size is 8, but the target has 16"),
        ({"num_target_layers": 36}, "num_target_layers is 36, but the target has 3"),
        ({"target_layer_ids": [0, 1, 3]}, r"target_layer_ids \[0, 1, 3\] must be layers of the target, -1 to 2"),
        ({"target_layer_ids": [0, 1]}, r"fc.weight has shape \[16, 48\]"),
        ({"mask_token_id": 6}, "mask_token_id 6 is outside the vocabulary of 6"),
        ({"markov_head_type": "linear"}, "markov_head_type 'linear' is not one of"),
        ({"markov_head_type": "gated"}, "has no tensor markov_head.gate_proj"),
        ({"enable_confidence_head": False}, "has an unknown tensor confidence_head.proj"),
        ({"block_size": 0}, "block_size must be a whole number from 1 to 254, got 0"),
        ({"block_size": None}, "block_size must be a whole number"),
        ({"markov_rank": None}, "markov_rank must be a whole number from 0"),
        ({"use_sliding_window": True, "layer_types": None}, "use_sliding_window is not supported without layer_types"),
        ({"layer_types": ["sliding_attention"] * 2, "sliding_window": 8}, "neither sliding_window nor use_sliding_window"),
        ({"architectures": ["LlamaForCausalLM"]}, "architecture .LlamaForCausalLM. is not one of"),
        ({"model_type": "gemma4_text"}, "model_type 'gemma4_text' is not supported"),
    ],
)
def test_what_does_not_fit_is_named(
    changes: dict[str, Any], message: str, saved: Callable[..., Path], target: Target
) -> None:
    with pytest.raises(InputError, match=message):
        load_drafter(str(saved("dspark", **changes)), target)


def test_broken_folders_are_named(saved: Callable[..., Path], target: Target, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_drafter(str(tmp_path / "nowhere"), target)
    folder = saved("dspark")
    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_drafter(str(folder), target)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        load_drafter(str(folder), target)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not JSON"):
        load_drafter(str(folder), target)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: missing"):
        load_drafter(str(folder), target)


def test_quantised_weights_and_adapters_are_not_taken_for_plain_ones(saved: Callable[..., Path], target: Target) -> None:
    folder = saved("dspark")
    tensors = load_file(folder / "model.safetensors")
    for kind in (torch.float8_e4m3fn, torch.int8):
        save_file({**tensors, "fc.weight": tensors["fc.weight"].to(kind)}, folder / "model.safetensors")
        with pytest.raises(InputError, match=r"fc\.weight holds numbers of the type (F8_E4M3|I8): quantised"):
            load_drafter(str(folder), target)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="adapters are not applied"):
        load_drafter(str(folder), target)


def test_a_part_of_the_weights_that_is_not_there_is_named(saved: Callable[..., Path], target: Target) -> None:
    folder = saved("dspark")
    parts = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(InputError, match=r"index\.json names model-00002-of-00002\.safetensors, which is not there"):
        load_drafter(str(folder), target)


def test_required_fields_are_named(saved: Callable[..., Path], target: Target) -> None:
    folder = saved("dspark")
    config = json.loads((folder / "config.json").read_text())
    for field in ("block_size", "markov_rank", "mask_token_id", "target_layer_ids"):
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != field}))
        with pytest.raises(InputError, match=f"lacks {field}"):
            load_drafter(str(folder), target)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(saved: Callable[..., Path], target: Target, value: float) -> None:
    """A confidence head of nan says of every draft that it is not below the threshold."""
    folder = saved("dspark")
    tensors = load_file(folder / "model.safetensors")
    tensors["confidence_head.proj.weight"][0, 0] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"confidence_head\.proj\.weight holds numbers that are not finite"):
        load_drafter(str(folder), target)


def test_tokenizer_and_generation_settings_have_hashes_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    names = ("config.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "merges.txt",
             "additional_chat_templates/rag.jinja", "README.md")  # fmt: skip
    for name in names:
        (tmp_path / name).write_text("a")

    kinds = (checkpoints.WEIGHTS, checkpoints.TEXT, checkpoints.GENERATION)

    def hashes() -> list[str]:
        return [folder_hash(tmp_path, patterns) for patterns in kinds]

    moved = {}
    for name in names:
        before = hashes()
        (tmp_path / name).write_text("b")
        moved[name] = [now != then for now, then in zip(hashes(), before, strict=True)]
    text = [False, True, False]
    expected = [[True, False, False], text, text, [False, False, True], text, text, [False] * 3]
    assert moved == dict(zip(names, expected, strict=True))


def test_the_hash_is_of_content_not_of_path(saved: Callable[..., Path]) -> None:
    folder = saved("mtp")
    before = folder_hash(folder)
    moved = folder.rename(folder.with_name("elsewhere"))
    assert folder_hash(moved) == before
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert folder_hash(moved) != before
