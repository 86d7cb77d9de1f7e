"""A roofline's model from a configuration: parameters as published, and what cannot be modelled is refused by name."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from drafters.configs import known_architectures
from simulator.errors import InputError
from simulator.hardware.architecture import LEFT_OUT, model_of, named
from simulator.hardware.catalogue import Asked, devices, find_profile, measured_on, models
from simulator.hardware.model import Format, Model
from simulator.hardware.profile import dump_profile, formats_told, load_profile
from simulator.hardware.roofline import Assumptions, cache_bytes_per_token, gpus_needed
from simulator.policies import NO_DRAFTER
from simulator.records import NO_RECORDING
from simulator.serving.command import Models, serve
from simulator.serving.sglang import SGLANG
from simulator.serving.vllm import VLLM

WEIGHTS: tuple[Format, ...] = ("bf16", "fp8", "fp4", "int4")
LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip


def of(config: dict[str, Any], **formats: Any) -> Model:
    return model_of(config, "some", "config.json", **formats)


@pytest.mark.parametrize("name", ["qwen3-4b", "qwen3-8b", "qwen3-14b"])
def test_bundled_models_are_what_their_configurations_say(name: str) -> None:
    bundled = models()[name]
    assert replace(model_of(known_architectures()[name], bundled.name, "x"), source=bundled.source, widths=()) == bundled


@pytest.mark.parametrize(
    ("config", "billions", "active"),
    [
        (LLAMA, 8.03, 7.50),  # 8.03 B on the card; active without the embedding
        (CONFIG_MAPPING["mixtral"]().to_dict(), 46.7, 12.7),  # 46.7 B and 12.9 B
        (CONFIG_MAPPING["deepseek_v3"]().to_dict(), 671, 36.6),  # 671 B and 37 B
        (CONFIG_MAPPING["gpt_oss"]().to_dict(), 116.8, 5.1),  # 116.8 B and 5.1 B
    ],
)
def test_parameters_are_those_of_the_model_cards(config: dict[str, Any], billions: float, active: float) -> None:
    model = of(config)
    assert model.parameters / 1e9 == pytest.approx(billions, rel=0.005)
    assert model.active_parameters / 1e9 == pytest.approx(active, rel=0.02)


def test_what_a_token_keeps() -> None:
    """Llama: 8 heads of 128, twice, in two bytes. DeepSeek-V3: a vector of 512 and 64. Half as much in eight bits."""
    assert [a.entry_bytes for a in of(LLAMA).attention] == [2 * 8 * 128 * 2]
    assert [a.entry_bytes for a in of(LLAMA, cache="fp8").attention] == [2 * 8 * 128]
    latent = of(CONFIG_MAPPING["deepseek_v3"]().to_dict())
    assert [a.entry_bytes for a in latent.attention] == [576 * 2]
    assert latent.kv_shards == 1
    windows = {a.window: a.layers for a in of(CONFIG_MAPPING["gpt_oss"]().to_dict()).attention}
    assert windows == {0: 18, 128: 18}


def test_formats_are_the_configurations_unless_said() -> None:
    assert of({**LLAMA, "quantization_config": {"quant_method": "fp8"}}).dense_format == "fp8"
    mixed = of({**CONFIG_MAPPING["gpt_oss"]().to_dict(), "quantization_config": {"quant_method": "mxfp4"}})
    assert (mixed.dense_format, mixed.expert_format) == ("bf16", "fp4")
    assert of(LLAMA, weights="fp8").dense_format == "fp8"
    for four in ({"quant_method": "awq", "bits": 4}, {"quant_method": "gptq", "bits": 4}, packed("int", 4)):
        assert of({**LLAMA, "quantization_config": four}).dense_format == "int4"
    for eight in (packed("float", 8), {"quant_method": "modelopt", "quant_algo": "FP8"}):
        assert of({**LLAMA, "quantization_config": eight}).dense_format == "fp8"
    for unknown in ({"quant_method": "awq"}, packed("int", 8), {"quant_method": "bitsandbytes", "load_in_4bit": True}):
        with pytest.raises(InputError, match=rf"{unknown['quant_method']}.*--weights"):
            of({**LLAMA, "quantization_config": unknown})


def packed(kind: str, bits: int) -> dict[str, Any]:
    """What compressed-tensors writes."""
    group = {"weights": {"type": kind, "num_bits": bits}, "targets": ["Linear"]}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


def test_weights_of_four_bits_are_multiplied_as_bf16() -> None:
    """Half as long to read as in eight, and no faster where many tokens are multiplied."""
    times = {kind: find_profile("h100/qwen3-8b", Asked(weights=kind)).verify.at([1, 16384]) for kind in WEIGHTS}
    assert times["int4"][0] < 0.75 * times["fp8"][0]
    assert times["int4"][1] == pytest.approx(times["bf16"][1], rel=0.02)
    assert times["fp4"][1] == pytest.approx(times["fp8"][1], rel=0.02)


@pytest.mark.parametrize(
    ("config", "bf16_gb", "token_bytes"),
    [
        (  # zai-org/glm-4-9b-chat: 9.4 B, 2 heads
            {"model_type": "chatglm", "hidden_size": 4096, "ffn_hidden_size": 13696, "num_hidden_layers": 40,
             "num_attention_heads": 32, "multi_query_attention": True, "multi_query_group_num": 2, "kv_channels": 128,
             "vocab_size": 151552, "tie_word_embeddings": False}, 18.8, 40 * 2 * 2 * 128 * 2,
        ),
        (  # baidu/ERNIE-4.5-21B-A3B: 21 B, tied, as transformers has it where nothing is said
            {"model_type": "ernie4_5_moe", "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 28,
             "num_attention_heads": 20, "num_key_value_heads": 4, "moe_num_experts": 64, "moe_k": 6,
             "moe_intermediate_size": 1536, "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "vocab_size": 103424},
            43.7, 28 * 2 * 4 * 128 * 2,
        ),
        (  # tencent/Hunyuan-A13B: 80 B, a list for each layer
            {"model_type": "hunyuan_v1_moe", "hidden_size": 4096, "intermediate_size": 3072, "num_hidden_layers": 32,
             "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "num_experts": 64, "moe_topk": [8] * 32,
             "moe_intermediate_size": [3072] * 32, "num_shared_expert": [1] * 32, "vocab_size": 128167,
             "tie_word_embeddings": True}, 160.8, 32 * 2 * 8 * 128 * 2,
        ),
        (  # google/gemma-2-9b: 9.24 B, its configuration names neither layers nor a tied head
            {"model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42,
             "num_attention_heads": 16, "num_key_value_heads": 8, "sliding_window": 4096, "vocab_size": 256000},
            18.5, 42 * 2 * 8 * 256 * 2,
        ),
    ],
)  # fmt: skip
def test_families_that_call_things_otherwise(config: dict[str, Any], bf16_gb: float, token_bytes: int) -> None:
    """Weights as published, and what a token within all windows keeps."""
    model = of(config)
    assert model.weight_bytes / 1e9 == pytest.approx(bf16_gb, rel=0.015)
    assert cache_bytes_per_token(model, 100) == pytest.approx(token_bytes)


@pytest.mark.parametrize("family", LEFT_OUT)
def test_what_configurations_leave_out_is_as_transformers_has_it(family: str) -> None:
    outer = CONFIG_MAPPING[family]()
    known = getattr(outer, "text_config", outer).to_dict()
    layers = known.get("layer_types") or []
    for name, value in LEFT_OUT[family].items():
        if name == "sliding_window_pattern":
            assert layers[value - 1] == "full_attention"
            assert layers[: value - 1] == ["sliding_attention"] * (value - 1)
        else:
            assert known[name] == value


def test_windows_where_no_layer_is_named() -> None:
    """Every second of Gemma 2, every sixth of Gemma 3; the first so many of Qwen2 are whole."""
    gemma = {**CONFIG_MAPPING["gemma2"]().to_dict(), "layer_types": None}
    assert {a.window: a.layers for a in of(gemma).attention} == {4096: 13, 0: 13}
    nested = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560,
              "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}}  # fmt: skip
    model = of(nested)  # as gemma-3-4b has it
    assert {a.window: a.layers for a in model.attention} == {1024: 29, 0: 5}
    assert model.parameters / 1e9 == pytest.approx(3.88, rel=0.01)
    qwen = {**LLAMA, "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 28}
    assert {a.window: a.layers for a in of(qwen).attention} == {0: 28, 4096: 4}


def test_an_index_chooses_what_is_read() -> None:
    """DeepSeek-V3.2 reads 2,048 entries at most, and its index as a whole, 128 numbers in eight bits and a scale."""
    base = CONFIG_MAPPING["deepseek_v3"]().to_dict()
    sparse = of({**base, "index_topk": 2048, "index_n_heads": 64, "index_head_dim": 128})
    [layers] = sparse.attention
    assert layers.read_bytes(100_000) == 61 * (2048 * 576 * 2 + 100_000 * 132)
    assert layers.held_bytes(1000) == 61 * 1000 * (576 * 2 + 132)
    assert sparse.parameters - of(base).parameters == 61 * (7168 * 128 + 1536 * 64 * 128 + 7168 * 64)


def test_block_drafters_of_a_mixture_are_dense() -> None:
    """As published: 6 of 7 GB less than with the target's experts; MTP has one layer of the target's shape."""
    config = {
        "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
        "moe_intermediate_size": 768, "vocab_size": 151936, "tie_word_embeddings": False,
    }  # fmt: skip
    model = of(config)
    layer = 2048 * (32 + 8) * 128 + 32 * 128 * 2048 + 3 * 2048 * 6144
    assert model.drafter_bytes("dflash") == 2 * 5 * (layer + 2048**2)
    assert model.drafter_bytes("mtp") > 2 * 128 * 3 * 2048 * 768
    assert gpus_needed(devices()["h100"], model, Assumptions()) == 1
    assert models()["deepseek-v4-flash"].drafters.mlp_parameters is None  # its own has mixture layers


@pytest.mark.parametrize(
    "changes",
    [{"block_configs": [{}]}, {"attn_type_list": [0, 1]}, {"num_kv_shared_layers": 18}, {"hidden_size_per_layer_input": 256},
     {"ffn_config": {"moe_num_experts": 16}}, {"attn_config": {"kv_n_heads": 8}}, {"hybrid_layer_pattern": [0, 1]},
     {"cross_attention_layers": [3]}, {"decoder_sparse_step": 2}],
)  # fmt: skip
def test_layers_that_are_not_modelled_are_refused_by_their_field(changes: dict[str, Any]) -> None:
    [(field, inner)] = changes.items()
    with pytest.raises(InputError, match=f"has {next(iter(inner)) if isinstance(inner, dict) else '.*' + field}"):
        of({**LLAMA, **changes})


@pytest.mark.parametrize(
    ("kind", "named"),
    [("mamba", "state"), ("jamba", "mamba_"), ("bamba", "mamba_"), ("lfm2", "conv_"), ("qwen3_next", "linear"),
     ("llama4_text", "chunked")],
)  # fmt: skip
def test_states_that_are_no_cache_are_refused(kind: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        of(CONFIG_MAPPING[kind]().to_dict())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number from 1, got 0"),
        ({"vocab_size": "many"}, "vocab_size must be a whole number from 1, got 'many'"),
        ({"layer_types": ["full_attention"]}, "layer_types names 1 layers of 32"),
        ({"num_experts": 4, "num_experts_per_tok": 9}, "9 of 4 experts"),
    ],
)
def test_what_makes_no_sense_names_the_field(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        of({**LLAMA, **changes})


def test_a_name_comes_from_the_configuration_or_the_file() -> None:
    assert named(Path("llama-3.1-8b.config.json"), {}) == "llama-3.1-8b"
    assert named(Path("My model/config.json"), {}) == "My model"
    assert named(Path("x.json"), {"_name_or_path": "meta/Llama"}) == "meta/Llama"


def test_a_profile_is_made_of_a_device_and_a_model(tmp_path: Path) -> None:
    """Half of the weights a GPU, and half of their bytes in eight bits, and the rest of the memory for contexts."""
    file = tmp_path / "llama 8b.config.json"
    file.write_text(json.dumps(LLAMA))
    one, two = (find_profile("l40s", Asked(model=file, gpus=count)) for count in (1, 2))
    assert one.name == "l40s/llama 8b,tp1"
    assert one.model == "llama 8b"
    assert one.verify.at([1])[0] / two.verify.at([1])[0] == pytest.approx(2, rel=0.1)
    small = find_profile("l40s", Asked(model=file, gpus=1, weights="fp8", cache="fp8"))
    assert small.name == "l40s/llama 8b,fp8,kv-fp8,tp1"
    assert one.verify.at([1])[0] / small.verify.at([1])[0] == pytest.approx(2, rel=0.15)
    assert small.kv_capacity_tokens > 2 * one.kv_capacity_tokens
    assert small.context_s_per_token == pytest.approx(one.context_s_per_token / 2)


MIXTURE: dict[str, Any] = {
    "model_type": "qwen3_moe", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 94,
    "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
    "moe_intermediate_size": 1536, "vocab_size": 151936, "tie_word_embeddings": False,
}  # fmt: skip
"""Qwen3-235B-A22B."""
BLOCKS = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
PHI = {**LLAMA, "num_attention_heads": 40, "num_key_value_heads": 10, "intermediate_size": 17920, "hidden_size": 5120}
"""Phi-4, as far as it matters."""
AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
LATENT: dict[str, Any] = {**CONFIG_MAPPING["deepseek_v3"]().to_dict(), "num_attention_heads": 20, "num_key_value_heads": 20}


@pytest.mark.parametrize(
    ("config", "even", "uneven", "said"),
    [
        (PHI, (1, 2, 5, 10, 20), 4, "neither divides the 10 key-value heads of some nor is a multiple of them"),
        (PHI, (), 3, "does not divide the 40 heads of some"),
        (LLAMA, (8, 16, 32), 64, "does not divide the 32 heads of some"),
        (LATENT, (4,), 8, "does not divide the 20 heads of some"),
        (MIXTURE, (4, 8, 16), 128, "does not divide the 64 heads of some"),
        (MIXTURE | BLOCKS, (1, 2, 4), 8, "divide the 1,536 columns of the experts of some into whole blocks of 128"),
        # vllm#13640: Qwen2.5-72B in AWQ does not start on two GPUs
        ({**LLAMA, "intermediate_size": 29568} | AWQ, (1,), 2, "29,568 columns of the MLPs of some into whole"),
        ({**LLAMA, "intermediate_size": 29568}, (2, 8), 64, "does not divide the 32 heads"),
        ({**LLAMA, "intermediate_size": 11000}, (8,), 16, "does not divide the 11,000 columns of the MLPs of some$"),
    ],
)  # fmt: skip
def test_what_gpus_cannot_share_out_is_named(config: dict[str, Any], even: tuple[int, ...], uneven: int, said: str) -> None:
    """As vLLM's assertions have it."""
    model = of(config)
    assert [gpus for gpus in even if model.uneven(gpus)] == []
    assert re.search(said, model.uneven(uneven))


def test_blocks_are_those_of_the_checkpoint_s_own_weights() -> None:
    assert not of(MIXTURE | BLOCKS, weights="bf16").uneven(8)
    assert of(MIXTURE | BLOCKS, weights="fp8").uneven(8)
    packed_blocks = packed("float", 8)
    packed_blocks["config_groups"]["group_0"]["weights"] |= {"strategy": "block", "block_structure": [128, 128]}
    assert of(MIXTURE | {"quantization_config": packed_blocks}).uneven(8)


def test_layouts_that_engines_refuse_are_neither_taken_nor_made(tmp_path: Path) -> None:
    """On cards of 12 GB the roofline would take 8 GPUs for 29 GB beside a drafter; 10 key-value heads do not go on them."""
    file, small = tmp_path / "phi.json", tmp_path / "small.json"
    file.write_text(json.dumps(PHI))
    with pytest.raises(InputError, match=r"^--tp 4: neither divides the 10 key-value heads of phi nor"):
        find_profile("h100", Asked(model=file, gpus=4))
    data = Path(find_profile.__code__.co_filename).parent / "data"
    device = json.loads((data / "devices.json").read_text())["h100"]
    small.write_text(json.dumps(device | {"name": "small", "memory_bytes": 12e9}))
    with pytest.raises(
        InputError, match=r"takes \d+ × small, and \d+ neither divides the 10 key-value heads of phi"
    ) as raised:
        find_profile(str(small), Asked(model=file))
    assert "\n" not in str(raised.value)


def test_devices_and_models_of_ones_own_have_the_form_of_the_bundled_ones(tmp_path: Path) -> None:
    data = Path(find_profile.__code__.co_filename).parent / "data"
    device, model = tmp_path / "my gpu.json", tmp_path / "my model.json"
    device.write_text(json.dumps(json.loads((data / "devices.json").read_text())["h100"]))
    model.write_text(json.dumps(json.loads((data / "models.json").read_text())["qwen3-8b"]))
    own = find_profile(str(device), Asked(model=model))
    assert own.name == "my gpu/qwen3-8b"
    assert own.verify == find_profile("h100/qwen3-8b").verify


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("h100", Asked(gpus=2), "--tp, --weights, --kv and --mean-context say how a roofline is made"),
        ("l40s/llama-3.1-8b", Asked(), "name l40s alone, and its config.json with --model"),
        ("l40s/llama-3.1-8b", Asked(gpus=2), "name l40s alone, and the model's config.json with --model"),
        ("b300/deepseek-v4-flash", Asked(gpus=8), "is measured on 4 GPUs .*--gpus 8 --tp 4"),
        ("b300/deepseek-v4-flash", Asked(gpus=3), "is measured on 4 GPUs .* gives? a profile of it$"),
        ("b300/deepseek-v4-flash", Asked(weights="fp8"), "is of what was measured: --weights"),
        ("b200/deepseek-v4-flash", Asked(cache="bf16"), "keeps its cache in fp8"),
        ("nothing", Asked(model=Path("config.json")), "with --model a device is named"),
        ("l40s", Asked(model=Path("nowhere.json")), "not readable"),
        ("l40s", Asked(model=Path(__file__)), "not JSON"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(name: str, asked: Asked, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        find_profile(name, asked)
    assert "\n" not in str(raised.value)


def test_a_device_may_stand_with_the_name_of_the_model_that_is_given(tmp_path: Path) -> None:
    data = Path(find_profile.__code__.co_filename).parent / "data"
    model = tmp_path / "mine.json"
    model.write_text(json.dumps(json.loads((data / "models.json").read_text())["qwen3-8b"]))
    assert find_profile("L40S/Qwen3-8B", Asked(model=model)) == find_profile("l40s", Asked(model=model))
    with pytest.raises(InputError, match="l40s/qwen3-4b: --model is qwen3-8b; name the device alone, l40s"):
        find_profile("l40s/qwen3-4b", Asked(model=model))


def test_gpus_of_what_was_measured_are_a_replicas(tmp_path: Path) -> None:
    """Of one's own file as of a bundled one; what is modelled takes as many as are asked for."""
    own = tmp_path / "my 4 gpus.json"
    fitted = find_profile("b300/deepseek-v4-flash")
    own.write_text(dump_profile(fitted))
    assert measured_on(str(own)) == measured_on("B300/deepseek-v4-flash") == fitted.gpus
    assert find_profile(str(own), Asked(gpus=fitted.gpus)) == find_profile(str(own))
    data = Path(find_profile.__code__.co_filename).parent / "data"
    device = tmp_path / "device.json"
    device.write_text(json.dumps(json.loads((data / "devices.json").read_text())["h100"]))
    assert [measured_on(name) for name in (None, "l40s", "h100/qwen3-4b", str(device), "nowhere")] == [None] * 5


@pytest.mark.parametrize("asked", [{"gpus": 0}, {"gpus": 10**9}, {"mean_context": 0}, {"mean_context": 10**12}])
def test_numbers_that_make_no_sense_name_their_option(asked: dict[str, int]) -> None:
    [(name, value)] = asked.items()
    with pytest.raises(InputError, match=f"^--{'tp' if name == 'gpus' else 'mean-context'} {value}: must be "):
        Asked(**asked)  # type: ignore[arg-type]


def test_number_formats_are_part_of_a_profile_and_of_what_serves_it(tmp_path: Path) -> None:
    """They are in its name, survive its file, and are flags of the engine; of the model's own nothing is said."""
    asked = find_profile("l40s/qwen3-8b", Asked(weights="fp8", cache="fp8"))
    assert asked.name == "l40s/qwen3-8b,fp8,kv-fp8"
    assert formats_told(asked) == "fp8 weights and fp8 keys and values"
    assert formats_told(find_profile("l40s/qwen3-8b")) == ""
    (tmp_path / "own.json").write_text(dump_profile(asked))
    assert load_profile(tmp_path / "own.json") == asked
    common: dict[str, Any] = {
        "modelled": "Qwen/Qwen3-8B", "request_cap": 8, "step_tokens": 64, "gpus": 1, "replicas": 1, "drafting": "greedy",
    }  # fmt: skip
    served = Models(target="Qwen/Qwen3-8B")
    told = serve(VLLM, served, NO_RECORDING, NO_DRAFTER, **common, formats=asked.formats, captured=1024)
    for flag in ("--quantization fp8", "--kv-cache-dtype fp8", "--max-cudagraph-capture-size 1024"):
        assert flag in told.command
    plain = serve(VLLM, served, NO_RECORDING, NO_DRAFTER, **common, captured=512)
    assert not any(flag in plain.command for flag in ("--quantization", "--kv-cache-dtype", "--max-cudagraph"))
    other = serve(VLLM, served, NO_RECORDING, NO_DRAFTER, **common, formats={"weights": "fp4"})
    assert any("fp4" in note for note in other.notes)
    elsewhere = serve(SGLANG, served, NO_RECORDING, NO_DRAFTER, **common, captured=512)
    assert any("captured sizes to 512 tokens, as vLLM has them" in note for note in elsewhere.notes)
    with pytest.raises(ValueError, match="formats: there are weights and cache, not scales"):
        replace(asked, formats={"scales": "fp8"})


MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8"}


def scaled(**said: Any) -> dict[str, Any]:
    """Llama whose checkpoint is in FP8 by compressed-tensors, and says something more."""
    return {**LLAMA, "quantization_config": {**packed("float", 8), **said}}


@pytest.mark.parametrize(
    ("config", "bytes_"),
    [
        (scaled(), 2),
        (scaled(kv_cache_scheme=None), 2),
        (scaled(kv_cache_scheme={"num_bits": 8, "type": "float", "dynamic": False}), 1),
        (scaled(kv_cache_scheme={"num_bits": 8, "type": "int"}), 2),
        ({**LLAMA, "quantization_config": MODELOPT | {"kv_cache_quant_algo": "FP8"}}, 1),
        ({**LLAMA, "quantization_config": MODELOPT | {"kv_cache_quant_algo": None}}, 2),
    ],
)  # fmt: skip
def test_a_cache_that_the_checkpoint_has_scales_for_is_in_eight_bits(config: dict[str, Any], bytes_: int) -> None:
    """vLLM takes it so where it is told nothing; what is said of it here stands above."""
    assert [a.entry_bytes for a in of(config).attention] == [2 * 8 * 128 * bytes_]
    assert of(config).cache_format == ("fp8" if bytes_ == 1 else "bf16")
    assert ("keys and values in fp8" in of(config).source) == (bytes_ == 1)
    assert [a.entry_bytes for a in of(config, cache="bf16").attention] == [2 * 8 * 128 * 2]


SERVED: dict[str, Any] = {
    "modelled": "some", "request_cap": 8, "step_tokens": 64, "gpus": 1, "replicas": 1, "drafting": "greedy",
}  # fmt: skip


@pytest.mark.parametrize(
    ("how", "asked", "flags", "formats"),
    [
        (None, "fp8", True, {"weights": "fp8"}),
        (None, "bf16", False, {}),
        ({"quant_method": "awq", "bits": 4}, "fp8", False, {"weights": "fp8"}),
        ({"quant_method": "mxfp4"}, "fp8", False, {"weights": "fp8"}),
        ({"quant_method": "fp8"}, "fp8", False, {}),
        (packed("float", 8), "fp8", False, {}),
        (packed("int", 8), "fp8", False, {"weights": "fp8"}),  # a format that nobody here knows
    ],
)
def test_engines_are_told_to_quantise_only_what_is_not(
    tmp_path: Path, how: dict[str, Any] | None, asked: Format, flags: bool, formats: dict[str, str]
) -> None:
    """vLLM does not start where its flag is another than the checkpoint's method; of weights that are so already none is."""
    file = tmp_path / "some.json"
    file.write_text(json.dumps({**LLAMA, "quantization_config": how}))
    profile = find_profile("h100", Asked(model=file, weights=asked))
    (tmp_path / "own.json").write_text(dump_profile(profile))
    assert load_profile(tmp_path / "own.json") == profile
    assert profile.formats == formats
    for engine in (VLLM, SGLANG):
        told = serve(
            engine, Models(target="some"), NO_RECORDING, NO_DRAFTER, **SERVED, formats=profile.formats,
            checkpoint=profile.checkpoint,
        )  # fmt: skip
        assert ("--quantization fp8" in told.command) == (flags and engine is VLLM)
        noted = any("the numbers are of fp8 weights: name a checkpoint" in note for note in told.notes)
        assert noted == bool(formats and not (flags and engine is VLLM))


def test_a_cache_in_eight_bits_is_told_though_nobody_asked_for_it(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    file.write_text(json.dumps(scaled(kv_cache_scheme={"num_bits": 8, "type": "float"})))
    profile = find_profile("h100", Asked(model=file))
    assert formats_told(profile) == "fp8 keys and values"
    told = serve(VLLM, Models(target="some"), NO_RECORDING, NO_DRAFTER, **SERVED, checkpoint=profile.checkpoint)
    assert "--kv-cache-dtype fp8" in told.command
    assert "--quantization" not in told.command
    plain = find_profile("h100", Asked(model=file, cache="bf16"))
    assert (plain.formats, formats_told(plain)) == ({"cache": "bf16"}, "bf16 keys and values")
    assert profile.context_s_per_token == pytest.approx(plain.context_s_per_token / 2)


def test_bundled_models_that_are_quantised_are_not_quantised_again() -> None:
    profile = find_profile("h200/deepseek-v4-flash", Asked(weights="fp8"))
    assert profile.checkpoint == {"weights": "fp4 and fp8"}
    assert find_profile("h200/qwen3-8b", Asked(weights="fp8")).checkpoint == {}
