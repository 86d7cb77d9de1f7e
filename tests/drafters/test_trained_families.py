"""Drafters made for targets of every family: their layers, heads and tables, written and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.kinds.learned import LearnedDrafter
from drafters.target import Target
from drafters.training.design import default_taps, make_drafter, save_made
from drafters.training.losses import TRAINING
from simulator.errors import InputError
from simulator.hardware.catalogue import devices
from simulator.hardware.training import Recipe as Needed
from simulator.hardware.training import target_of, training_cost
from simulator.records import Sampling
from tests.drafters.conftest import VOCAB
from tests.drafters.families import family_model, generated, micro_model, prompts
from tests.drafters.training import design


@pytest.mark.parametrize("kind", TRAINING)
@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "gemma4 (text)",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "gemma2", "gpt2")),
    ],
)
def test_targets_of_every_family_have_drafters(family: str, kind: str, tmp_path: Path) -> None:
    """Made, written and read again they decode as the target alone."""
    target = Target(family_model(family))
    made = make_drafter(design(kind, layers=1 if kind == "eagle3" else 2), target, [], None, 0)
    save_made(made, target, tmp_path)
    drafter = load_drafter(str(tmp_path), target)
    own = {"llama": "llama" if kind == "eagle3" else "qwen3", "gemma4 (text)": "qwen3" if kind == "mtp" else "gemma4"}
    assert isinstance(drafter, LearnedDrafter)
    assert drafter.settings.shape.family == own.get(family, "qwen3")
    request = DecodeRequest(prompts()[0], 8, (0,))
    [(_, done)] = decode(target, drafter, [request], Sampling(temperature=0), max_batch=1)
    assert done.token_ids == generated(target.model, prompts()[0], 8)


@pytest.mark.parametrize("kind", ["dspark", "eagle3"])
def test_a_gemmas_drafter_in_speculators_format_is_as_the_library_builds_it(kind: str, tmp_path: Path) -> None:
    """Qwen3's layers over the bare rows of a table that the target itself scales, whether the files hold a copy or not; in
    DeepSpec's format Gemma-4's over scaled ones."""
    target, ids = Target(family_model("gemma4 (text)")), torch.tensor([[3, 7]])
    target.config.final_logit_softcapping = 30.0
    table = target.embedding.get_parameter("weight")
    for written, factor in (("speculators", 1.0), ("deepspec", 64**0.5)):
        folder = tmp_path / written
        made = make_drafter(design(kind, layers=1, format=written), target, [], None, 0)
        save_made(made, target, folder)
        loaded = load_drafter(str(folder), target)
        assert isinstance(loaded, LearnedDrafter)
        for drafter in (made.drafter, loaded):
            torch.testing.assert_close(drafter.embed(ids), table[ids] * factor, atol=1e-2, rtol=1e-2)
        settings = loaded.settings
        expected = ("qwen3", None, "silu") if factor == 1 else ("gemma4", 30.0, target.config.hidden_activation)
        assert (settings.shape.family, settings.softcap, settings.shape.activation) == expected
    reduced = make_drafter(design(kind, layers=1, vocabulary=4), target, [], [3, 4, 5, 9], 0)
    assert reduced.format == "speculators"


def test_a_head_that_does_more_than_its_matrix_is_shared_as_its_matrix(tmp_path: Path) -> None:
    """Dory's scales its logits, by a number that no drafter's format has."""
    target = Target(family_model("dory"))
    assert {name for name, _ in target.lm_head.named_parameters()} == {"weight", "logit_scale"}
    made = make_drafter(design("mtp", format="speculators"), target, [], None, 0)
    save_made(made, target, tmp_path)
    loaded = load_drafter(str(tmp_path), target)
    assert isinstance(loaded, LearnedDrafter)
    states = torch.randn(3, target.hidden_size, generator=torch.Generator().manual_seed(0))
    for drafter in (made.drafter, loaded):
        torch.testing.assert_close(drafter.lm_head(states), states @ target.lm_head.get_parameter("weight").T)


def test_a_target_whose_embedding_is_narrower_than_its_states_lends_no_tables(tmp_path: Path) -> None:
    """OPT-350m's, which projects between the two."""
    wide, narrow = (Target(micro_model("opt", ffn_dim=128, word_embed_proj_dim=size)) for size in (64, 32))
    with pytest.raises(InputError, match=r"rows of its embedding have 32 numbers and a draft's states 64"):
        make_drafter(design("dspark"), narrow, [], None, 0)
    save_made(make_drafter(design("mtp", format="speculators"), wide, [], None, 0), wide, tmp_path)
    with pytest.raises(InputError, match="rows of its embedding have 32 numbers"):
        load_drafter(str(tmp_path), narrow)


def test_a_target_whose_head_has_a_bias_is_refused_before_training_or_has_drafts_of_a_reduced_vocabulary(
    tmp_path: Path,
) -> None:
    target = Target(family_model("phi"))
    with pytest.raises(InputError, match=r"its output head has a bias.*--vocabulary"):
        make_drafter(design("dspark"), target, [], None, 0)
    save_made(make_drafter(design("dspark", vocabulary=4), target, [], [3, 4, 5, 9], 0), target, tmp_path)
    loaded = load_drafter(str(tmp_path), target)
    assert isinstance(loaded, LearnedDrafter)
    assert loaded.lm_head.get_parameter("weight").shape == (4, target.hidden_size)


@pytest.mark.parametrize(("heads", "shared"), [((8, 8), False), ((8, 16), False), ((8, 16), True)])
def test_drafts_over_gemma4_have_the_heads_of_its_full_layers(heads: tuple[int, int], shared: bool, tmp_path: Path) -> None:
    """As transformers writes its configuration now; and what training would take is told of the same shape."""
    own = {
        "head_dim": heads[0], "global_head_dim": heads[1], "num_global_key_value_heads": 1 if shared else None,
        "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 6, "layer_types": ["sliding_attention", "full_attention"] * 3, "attention_k_eq_v": shared,
        "hidden_size_per_layer_input": 0, "vocab_size": VOCAB,
    }  # fmt: skip
    model = micro_model("gemma4_text", **own)
    made = make_drafter(design("eagle3", taps=(1, 2)), Target(model), [], None, 0)
    full: Any = model.model.layers[-1].self_attn
    shape = made.drafter.settings.shape
    assert (shape.family, shape.head_dim) == ("gemma4", full.head_dim)
    assert shape.kv_heads * shape.head_dim == full.k_proj.out_features
    model.config.save_pretrained(tmp_path)
    trained = sum(p.numel() for p in made.drafter.parameters() if p.requires_grad)
    cost = training_cost("eagle3", target_of(str(tmp_path)), devices()["h100"], 1, Needed(tokens=1e6, epochs=1))
    assert cost.parameters == pytest.approx(trained, rel=0.02)  # norms apart


@pytest.mark.parametrize(("kind", "layers"), [(k, n) for k in ("dspark", "dflash", "eagle3") for n in (1, 2, 3, 4, 5, 36)])
def test_the_last_layer_is_tapped_where_there_is_no_other(kind: str, layers: int) -> None:
    taps = default_taps(kind, layers)
    assert taps == tuple(sorted({*taps}))
    assert (layers - 1 in taps) == (layers == 1)


@pytest.mark.parametrize(("kind", "written"), [("mtp", "deepspec"), ("mtp", "speculators"), ("dspark", "speculators")])
def test_drafts_of_qwen3s_layers_over_a_target_whose_layers_differ(kind: str, written: str) -> None:
    """Gemma-4's full layers have wider heads than its sliding ones; transformers denies what is theirs as the whole's."""
    own = {"head_dim": 8, "global_head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCAB}
    target = Target(micro_model("gemma4_text", **own))
    taps = {} if kind == "mtp" else {"taps": (1,)}
    made = make_drafter(design(kind, format=written, **taps), target, [], None, 0)
    assert (made.drafter.settings.shape.family, made.drafter.settings.shape.head_dim) == ("qwen3", 8)
