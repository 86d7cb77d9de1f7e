"""Targets from folders: what is not all there, or not of one piece, is refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

import drafters
from drafters.checkpoints import folder_hash
from drafters.loading import check_weights
from drafters.target import Target
from simulator.errors import InputError
from tests.drafters.families import family_model, micro_model

TINY = Path(drafters.__file__).parent / "tiny" / "target"
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama with an untied head, and a tokenizer that fits it."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, vocab_size=4096, max_position_embeddings=256, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    for file in TINY.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for file in TINY.glob("chat_template*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("lost", ["lm_head.weight", "model.layers.1.mlp.up_proj.weight"])
def test_random_numbers_do_not_stand_in_for_weights(folder: Path, lost: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[lost]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"its weights lack {lost}"):
        Target.load(str(folder))


@pytest.mark.parametrize("field", ["vocab_size", "intermediate_size"])
def test_weights_of_another_shape_are_named(folder: Path, field: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: 40}))
    named = {"vocab_size": "lm_head.weight, model.embed_tokens.weight", "intermediate_size": r"\S+mlp.down_proj.weight, .*"}
    with pytest.raises(InputError, match=f"its weights lack {named[field]}, in the shape its configuration asks for"):
        Target.load(str(folder))


@pytest.mark.parametrize("thing", ["bias", "weight_scale", "lora_A.default.weight"])
@pytest.mark.parametrize("prefix", ["model.", ""])
def test_weights_of_a_module_that_does_not_use_them_are_not_left_out(folder: Path, prefix: str, thing: str) -> None:
    """Of quantisations it does not know, transformers casts the numbers and leaves out what they are to be scaled by.

    Checkpoints of the decoder alone, which leave out its prefix, load as well.
    """
    module = f"{prefix}layers.1.mlp.up_proj"
    config = LlamaConfig(**SHAPE, vocab_size=4096, max_position_embeddings=256, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    weights = {name.replace("model.", prefix, 1): value for name, value in load_file(folder / "model.safetensors").items()}
    weights[f"{module}.{thing}"] = torch.ones(48)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"its weights hold {module}.{thing}, for which"):
        Target.load(str(folder))


def test_towers_and_layers_for_further_tokens_are_none_of_its_concern(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights |= {"visual.norm.weight": torch.ones(3), "mtp.layers.0.mlp.up_proj.weight": torch.ones(48, 32)}
    weights |= {"model.layers.2.mlp.up_proj.weight": torch.ones(48, 32), "model.layers.2.eh_proj.weight": torch.ones(32, 64)}
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    weights["model.layers.0.self_attn.k_scale"] = torch.ones(())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert Target.load(str(folder)).num_layers == 2


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_layers_that_the_configuration_does_not_count_are_not_left_out(folder: Path, prefix: str) -> None:
    """Nor where there are others behind them, for further tokens."""
    weights = load_file(folder / "model.safetensors")
    if not prefix:
        del weights["lm_head.weight"]
    weights = {name.replace("model.", prefix, 1): value for name, value in weights.items()}
    weights[f"{prefix}layers.2.eh_proj.weight"] = torch.ones(32, 64)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "tie_word_embeddings": not prefix}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"its weights hold {prefix}layers\.1\.\S+, {prefix}layers\.1\..* and 6 more, for"):
        Target.load(str(folder))


def test_weights_of_another_family_are_not_left_out(folder: Path) -> None:
    """A Qwen3 under the name of Llama is one without the norms of its queries and keys."""
    micro_model("qwen3", head_dim=16).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(InputError, match=r"its weights hold model\.layers\.0\.self_attn\.k_norm\.weight"):
        Target.load(str(folder))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "gptj", "gpt_neox", "mixtral", "deepseek_v3", "doge"])
def test_layers_of_other_makes_are_counted_too(tmp_path: Path, family: str) -> None:
    """Whatever their list is called, and however experts are stored. Masks that old checkpoints hold are no weights."""
    model = family_model(family)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if family == "gpt_neo":
        weights["transformer.h.0.attn.attention.bias"] = torch.ones(1, 1, 4, 4)
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})

    def load(**changes: Any) -> None:
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        made = AutoConfig.from_pretrained(tmp_path)
        loaded, told = AutoModelForCausalLM.from_pretrained(tmp_path, config=made, output_loading_info=True)
        check_weights(loaded, told, "t")

    load()
    fewer = dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers"), 3)
    fewer |= {"attention_types": [[["global"], 3]], "attention_layers": ["global"] * 3, "layer_types": None}
    with pytest.raises(InputError, match=r"its weights hold .*\.3\."):
        load(**{name: value for name, value in fewer.items() if name in model.config.to_dict()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"quant_method": "nonesuch", "bits": 4}}, "transformers has no quantisation 'nonesuch'"),
        ({"tie_word_embeddings": True}, r"ties lm_head\.weight to model\.embed_tokens\.weight, .* hold two that differ"),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "is a LlamaForSequenceClassification: its weights answer by",
        ),
    ],
)
def test_weights_that_are_not_what_the_configuration_says_are_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match=message):
        Target.load(str(folder))


def test_whole_numbers_are_not_taken_for_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = torch.ones(48, 32, dtype=torch.int8)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        InputError, match=r"model\.safetensors: model.layers.1.mlp.up_proj.weight holds whole numbers \(I8\)"
    ):
        Target.load(str(folder))


def test_a_configuration_that_asks_for_tuples_is_asked_for_names(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"return_dict": False}))
    assert Target.load(str(folder)).cannot_decode is None


def test_an_adapter_that_would_not_be_applied_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"adapter_config\.json: adapters are not applied"):
        Target.load(str(folder))


def test_what_is_no_causal_language_model_is_told_in_few_words(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))
    with pytest.raises(InputError, match="no causal language model of model_type 't5'") as refused:
        Target.load(str(folder))
    assert len(str(refused.value)) < 300 + len(str(folder))


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("chosen", ["flash_attention_2", "flex_attention"])
def test_attention_is_computed_as_suits_this_machine(folder: Path, field: str, chosen: str) -> None:
    """What a checkpoint was saved with may not be here, or be compiled for minutes."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: chosen}))
    assert Target.load(str(folder)).cannot_decode is None


def test_a_whole_target_loads_and_a_tied_one_lacks_nothing(folder: Path) -> None:
    assert Target.load(str(folder)).vocab_size == 4096
    LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=4096, tie_word_embeddings=True)).save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert Target.load(str(folder)).vocab_size == 4096


def test_a_tokenizer_that_says_more_than_the_model_knows(folder: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=64)).save_pretrained(folder)
    target = Target.load(str(folder))
    with pytest.raises(InputError, match="they do not belong together"):
        target.encode_chat([{"role": "user", "content": "Count to ten, slowly."}])


def test_weights_of_any_file_are_part_of_a_targets_identity(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"some")
    before = folder_hash(folder)
    (folder / "pytorch_model.bin").write_bytes(b"others")
    assert folder_hash(folder) != before


def test_rotary_angles_that_change_with_the_length_keep_texts_short() -> None:
    """LongRoPE turns all positions otherwise once a text is longer than 40: what was cached does not fit what comes."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 40, **factors}
    config = Phi3Config(
        **SHAPE, vocab_size=64, max_position_embeddings=512, original_max_position_embeddings=40, rope_parameters=rope,
        pad_token_id=0,
    )  # fmt: skip
    assert Target(Phi3ForCausalLM(config)).max_positions == 40
    plain = Phi3Config(**SHAPE, vocab_size=64, max_position_embeddings=512, pad_token_id=0)
    assert Target(Phi3ForCausalLM(plain)).max_positions == 512


def test_positions_that_count_from_behind_the_padding_are_fewer() -> None:
    """RoBERTa's table of 42 rows has two for padding: a text of 41 tokens would be read beyond its end."""
    target = Target(micro_model("roberta", is_decoder=True, max_position_embeddings=42, pad_token_id=1))
    assert target.max_positions == 40
    assert target.read(torch.arange(3, 43).unsqueeze(0), []).hidden.shape[1] == 40


def test_context_limits_under_other_names() -> None:
    config = LlamaConfig(**SHAPE, vocab_size=64, max_position_embeddings=512)
    config.max_seq_len = 128
    assert Target(LlamaForCausalLM(config)).max_positions == 128
    assert json.loads(config.to_json_string())["max_seq_len"] == 128
