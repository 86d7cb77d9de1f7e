"""What training takes, against closed forms, the shapes that are built, and what DeepSpec states of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from drafters.random_models import random_drafters, random_target
from drafters.training.design import default_taps
from simulator.errors import InputError
from simulator.hardware.catalogue import configs, devices
from simulator.hardware.training import EFFICIENCY, PUBLISHED, Recipe, target_of, training_cost

H100 = devices()["h100"]
SMALL = Recipe(tokens=1e6, epochs=2)


@pytest.mark.parametrize("kind", ["dspark", "dflash", "eagle3", "mtp"])
def test_trained_parameters_are_those_of_the_shapes_that_are_built(kind: str) -> None:
    """Norms apart, which are some thousand."""
    target = random_target("qwen3-4b", dtype=torch.bfloat16, device="meta", seed=0)
    drafter = random_drafters(target, {"one": kind}, seed=0)["one"]
    assert isinstance(drafter, torch.nn.Module)
    shared = {"embed_tokens.weight", "lm_head.weight"}
    built = sum(p.numel() for name, p in drafter.named_parameters() if name not in shared)
    assert training_cost(kind, target_of("qwen3-4b"), H100, 1, SMALL).parameters == pytest.approx(built, rel=5e-4)


def test_the_published_cache_is_the_one_that_is_stated() -> None:
    """Five taps and the last state, 2,560 numbers of two bytes: 30,720 bytes a token, 38 TB in all."""
    cost = training_cost("dspark", target_of("qwen3-4b"), H100, 8, PUBLISHED)
    assert cost.hidden_state_bytes == pytest.approx(38e12)
    assert cost.hidden_state_bytes / cost.tokens == pytest.approx(6 * 2560 * 2)


@pytest.mark.parametrize("layers", [1, 2, 4, 5, 6, 7, 8, 12, 30])
@pytest.mark.parametrize("kind", ["dspark", "dflash", "eagle3", "mtp"])
def test_of_a_shallow_target_as_many_states_are_kept_as_are_read(kind: str, layers: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(configs()["smollm2"] | {"num_hidden_layers": layers}))
    model = target_of(str(tmp_path))
    kept = training_cost(kind, model, H100, 1, SMALL).hidden_state_bytes / (SMALL.tokens * model.width * 2)
    assert kept == pytest.approx(len(default_taps(kind, layers)) + 1)


@pytest.mark.parametrize(("name", "billions"), [("llama-3.1-8b", 8.03), ("gpt-oss-20b", 20.9), ("smollm2", 0.1345)])
def test_targets_have_the_parameters_of_their_cards(name: str, billions: float) -> None:
    assert name in configs()
    assert target_of(name).parameters / 1e9 == pytest.approx(billions, rel=0.005)


@pytest.mark.parametrize(
    ("hub", "short"), [("Qwen/Qwen3-8B", "qwen3-8b"), ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b")]
)
def test_a_hub_id_is_a_target_that_is_known(hub: str, short: str) -> None:
    assert target_of(hub) == target_of(short)


def test_what_is_twice_takes_twice() -> None:
    model = target_of("qwen3-8b")
    one, texts, epochs, gpus = (
        training_cost("dspark", model, H100, n, r)
        for n, r in (
            (1, SMALL), (1, Recipe(tokens=2e6, epochs=2)), (1, Recipe(tokens=1e6, epochs=4)), (2, SMALL)
        )
    )  # fmt: skip
    assert texts.hours == pytest.approx([2 * h for h in one.hours])
    assert epochs.hours == pytest.approx([2 * h for h in one.hours])
    assert gpus.hours == pytest.approx([h / 2 for h in one.hours])
    assert epochs.target_flops_kept == one.target_flops_kept == one.target_flops / 2
    assert epochs.hidden_state_bytes == one.hidden_state_bytes
    assert one.hours[1] / one.hours[0] == pytest.approx(EFFICIENCY[1] / EFFICIENCY[0])
    assert one.hours_kept[0] < one.hours[0]


def test_a_pass_of_the_target_is_two_operations_a_parameter_and_its_attention() -> None:
    """Qwen3-4B reads a token behind 2,048 others: 36 layers, 4 · 32 heads · 128 for each of them."""
    model = target_of("qwen3-4b")
    attention = 36 * 4 * 32 * 128 * 2048
    assert training_cost("mtp", model, H100, 1, SMALL).target_flops_kept == pytest.approx(
        1e6 * (2 * model.active_parameters + attention)
    )


def test_a_gpu_holds_the_target_or_its_share_of_the_layers_and_what_is_trained() -> None:
    """Llama-3.1-8B in bf16: 8.03 G weights, of which embedding and head are 1.05 G and each of 32 layers 218 M."""
    model, recipe = target_of("llama-3.1-8b"), Recipe(tokens=1e6, epochs=1, sequence_tokens=2048, anchors=64)
    one, eight = (training_cost("dspark", model, H100, gpus, recipe) for gpus in (1, 8))
    states, logits = 6 * 4096 * 2 * 2048, 4 * 4 * 64 * 7 * 128_256
    assert one.memory_bytes == eight.memory_bytes == one.memory_shared_bytes
    assert one.memory_bytes == pytest.approx(2 * 8.03e9 + 20 * one.parameters + states + logits, rel=1e-3)
    assert one.main_memory_bytes == eight.main_memory_bytes == pytest.approx(2 * 8.03e9 + 48 * states * 5 / 6, rel=1e-3)
    layer = 2 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14_336)
    assert one.memory_bytes - eight.memory_shared_bytes == pytest.approx((32 - 4 - 2) * layer, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 0}, "--tokens 0"), ({"tokens": float("nan")}, "--tokens nan"), ({"epochs": 0}, "--epochs"),
        ({"gamma": 65}, "--gamma 65"), ({"anchors": -1}, "--anchors -1"), ({"sequence_tokens": 0}, "--sequence-tokens 0"),
    ],
)  # fmt: skip
def test_recipes_that_cannot_be_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe(**({"tokens": 1e6, "epochs": 1} | change))  # type: ignore[arg-type]


def test_kinds_and_targets_that_are_not_known_are_refused() -> None:
    with pytest.raises(InputError, match="must be one of dspark"):
        training_cost("ngram", target_of("qwen3-4b"), H100, 1, SMALL)
    with pytest.raises(InputError, match="no such file"):
        target_of("nobody/nothing")
    with pytest.raises(InputError, match="--gpus 0"):
        training_cost("dspark", target_of("qwen3-4b"), H100, 0, SMALL)


def test_a_gguf_file_is_refused_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x80")
    with pytest.raises(InputError, match=r"read from a config.json, not from a GGUF file"):
        target_of(str(tmp_path / "m.gguf"))


def test_what_fits_no_gpu_takes_no_hours() -> None:
    """A drafter's state is on each of them, however many share the target; a target may answer on several, or on none."""
    card, recipe = devices()["rtx4090"], Recipe(tokens=1e6, epochs=1)
    target = target_of("qwen3-14b")
    alone, eight = (training_cost("dspark", target, card, gpus, recipe) for gpus in (1, 8))
    assert (alone.answer_hours, alone.hours, eight.hours) == (None, None, None)
    assert eight.answer_hours is not None
    assert eight.least_memory_bytes > card.memory_bytes
    assert training_cost("dspark", target_of("qwen3-4b"), H100, 1, recipe).hours is not None
