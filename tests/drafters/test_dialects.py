"""One drafter in all the ways that publishers' code writes it: fields and tensors elsewhere, left out or renamed."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3ForCausalLM

from drafters.checkpoints import load_drafter
from drafters.checkpoints import publish as write_as
from drafters.families.layers import LayerShape
from drafters.families.registry import FAMILIES, make_layer, read_shape, shape_config
from drafters.kinds.block import DSpark
from drafters.kinds.learned import LearnedDrafter
from drafters.rotary import frequencies
from drafters.target import Target
from simulator.errors import InputError
from tests.drafters.conftest import HIDDEN, MASK, VOCAB, micro_config
from tests.drafters.test_formats import LAYER, NESTED, PUBLISHED, TEXT, Build, build, drafted, publish

__all__ = ["build"]
Raw = dict[str, Any]
Tensors = dict[str, Tensor]
Change = Callable[[Raw, Tensors], None]
TOKENS = torch.tensor([[1, 3, 5, 1, 3], [5, 1, 1, 3, 0]])


def renamed(tensors: Tensors, old: str, new: str) -> None:
    for name in [name for name in tensors if old in name]:
        tensors[name.replace(old, new)] = tensors.pop(name)


def moved(raw: Raw, field: str, *places: str) -> None:
    """Take a field from wherever it is to the nested object `places`, or to the top where there is none."""
    found = [of for of in (raw, *(v for v in raw.values() if isinstance(v, dict))) if field in of]
    if found:
        value = found[0].pop(field)
        for place in places:
            raw = raw.setdefault(place, {})
        raw[field] = value


def to(field: str, *places: str) -> Change:
    return lambda raw, _: moved(raw, field, *places)


def without(*fields: str) -> Change:
    def change(raw: Raw, _: Tensors) -> None:
        for of in (raw, *(v for v in raw.values() if isinstance(v, dict))):
            for field in fields:
                of.pop(field, None)

    return change


def in_a_model(_: Raw, tensors: Tensors) -> None:
    for name in [name for name in tensors if name.partition(".")[0] not in ("lm_head", "d2t", "t2d")]:
        tensors[f"model.{name}"] = tensors.pop(name)


def midlayer(_: Raw, tensors: Tensors) -> None:
    renamed(tensors, "layers.0.", "midlayer.")


def layers(_: Raw, tensors: Tensors) -> None:
    renamed(tensors, "midlayer.", "layers.0.")


def sglangs_norms(_: Raw, tensors: Tensors) -> None:
    for i, name in enumerate(("low", "mid", "high")):
        renamed(tensors, f"fc_norm.{i}.", f"aux_norm_{name}.")
    for i in (1, 2):
        renamed(tensors, f"layers.{i}.input_layernorm.", f"layers.{i}.hidden_norm.")


def extras(_: Raw, tensors: Tensors) -> None:
    tensors["rotary_emb.inv_freq"] = torch.ones(4)


def verifiers(_: Raw, tensors: Tensors) -> None:
    tensors["verifier_norm.weight"], tensors["verifier_lm_head.weight"] = torch.ones(16), torch.ones(VOCAB, 16)


def narrow_table(_: Raw, tensors: Tensors) -> None:
    if "d2t" in tensors:
        tensors["d2t"] = tensors["d2t"].int()
        tensors.pop("t2d", None)


def rope_scaling(raw: Raw, _: Tensors) -> None:
    """As configurations of transformers 4 say what nobody scales."""
    raw["rope_scaling"] = None


def rope_parameters(raw: Raw, _: Tensors) -> None:
    for of in (raw, *(v for v in raw.values() if isinstance(v, dict))):
        if "rope_theta" in of:
            of["rope_parameters"] = {"rope_type": "default", "rope_theta": of.pop("rope_theta")}


def rope_by_kind(raw: Raw, _: Tensors) -> None:
    of = raw["transformer_layer_config"]
    if "rope_theta" in of:
        theta = {"rope_type": "default", "rope_theta": of.pop("rope_theta")}
        of["rope_parameters"] = {"sliding_attention": theta, "full_attention": {"rope_type": "default", "rope_theta": 77.0}}


def taps_at(key: str, *places: str, offset: int) -> Change:
    """Say the taps by another field, which counts from another layer."""

    def change(raw: Raw, _: Tensors) -> None:
        for of, counted in ((raw, 0), (raw.get("eagle_config", {}), 1), (raw.get("dflash_config", {}), 1)):
            for field in ("eagle_aux_hidden_state_layer_ids", "target_layer_ids"):
                if field in of:
                    ids = [i + (counted or field == "target_layer_ids") - offset for i in of.pop(field)]
                    for place in places:
                        raw = raw.setdefault(place, {})
                    raw[key] = ids
                    return

    return change


def architecture(name: str) -> Change:
    return lambda raw, _: raw.update(architectures=[name])


def unsorted(raw: Raw, _: Tensors) -> None:
    for of in (raw, *(v for v in raw.values() if isinstance(v, dict))):
        for field in of:
            if field.endswith("layer_ids"):
                of[field] = of[field][::-1]


def algorithm(raw: Raw, _: Tensors) -> None:
    raw["speculators_config"] = {"algorithm": raw.pop("speculators_model_type")}


def of_layer(raw: Raw) -> Raw:
    """Where a configuration says its layers."""
    found: Raw = raw.get("transformer_layer_config", raw)
    return found


def inherited_factor(raw: Raw, _: Tensors) -> None:
    """As copied from a target that turns a part of its heads; Llama's and Qwen3's code does not look at it."""
    of_layer(raw)["partial_rotary_factor"] = 0.5


def sections(raw: Raw, _: Tensors) -> None:
    """As copied from a target that reads pictures too."""
    of = of_layer(raw)
    if "rope_parameters" in of:
        return
    of["rope_scaling"] = {"type": "mrope", "mrope_section": [1, 1, 2]}


def marks_alone(_: Raw, tensors: Tensors) -> None:
    if "t2d" in tensors:
        tensors.pop("d2t", None)


def vllms_table(_: Raw, tensors: Tensors) -> None:
    renamed(tensors, "d2t", "draft_id_to_target_id")


def biases_of_queries(_: Raw, tensors: Tensors) -> None:
    """As Qwen2's layers have them, without one of what attention puts out; here they add nothing."""
    named = [n for n in tensors if n.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]
    tensors |= {n.replace("weight", "bias"): torch.zeros(len(tensors[n])) for n in named}


def prefixed(raw: Raw, _: Tensors) -> None:
    """With the names of DeepSeek-V4's fields."""
    own = raw["dflash_config"]
    names = {"block_size": "block_size", "mask_token_id": "noise_token_id", "markov_rank": "markov_rank",
             "target_layer_ids": "target_layer_ids"}  # fmt: skip
    for name, theirs in names.items():
        of = raw if name in raw else own
        if name in of:
            raw[f"dspark_{theirs}"] = of.pop(name)


def model_type(name: str) -> Change:
    return lambda raw, _: raw.update(model_type=name)


AUX = "eagle_aux_hidden_state_layer_ids"
ANY: list[Change] = [
    in_a_model, extras, rope_parameters, rope_scaling, narrow_table, without("num_hidden_layers"), without("head_dim"),
    inherited_factor, sections, marks_alone, vllms_table, biases_of_queries, without("use_sliding_window"),
]  # fmt: skip
PAIRS: list[Change] = [
    *ANY, midlayer, layers, sglangs_norms, taps_at(AUX, offset=0), taps_at(AUX, "eagle_config", offset=1),
    taps_at("target_layer_ids", offset=1), taps_at("layer_ids", "eagle_config", offset=0), unsorted,
    without("draft_vocab_size"), without("fc_norm", "norm_before_fc"), to("fc_norm", "eagle_config"),
    to("norm_output", "eagle_config"), to("norm_before_fc"), to("hidden_size", "text_config"),
    to("rope_theta", "text_config"), architecture("Eagle3LlamaForCausalLM"), model_type("qwen2"), model_type("mistral"),
    taps_at("aux_hidden_state_layer_ids", offset=0),
]  # fmt: skip
BLOCKS: list[Change] = [
    *ANY, taps_at(AUX, offset=0), taps_at("layer_ids", "dflash_config", offset=0), taps_at("target_layer_ids", offset=1),
    unsorted, to("block_size", "dflash_config"), to("mask_token_id"), to("markov_rank"), to("markov_rank", "dspark_config"),
    to("mask_token_id", "dspark_config"), without("markov_rank"), to("hidden_size", "text_config"),
    to("rope_theta", "text_config"), to("layer_types", "text_config"), model_type("qwen3_5_text"), prefixed,
    taps_at("aux_hidden_state_layer_ids", "dflash_config", offset=0),
]  # fmt: skip
SPECULATORS: list[Change] = [
    *ANY, verifiers, algorithm, rope_by_kind, without("markov_rank", "confidence_head_with_markov"), unsorted,
    without("draft_vocab_size"),
]  # fmt: skip


def changes_of(name: str) -> list[Change]:
    return SPECULATORS if name.startswith("speculators") else PAIRS if name.startswith("EAGLE") else BLOCKS


def written(folder: Path, raw: Mapping[str, Any], tensors: Tensors, shards: int = 1) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    names = sorted(tensors)
    parts = [names[i::shards] for i in range(shards)]
    files = ["model.safetensors"] if shards == 1 else [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    for part, file in zip(parts, files, strict=True):
        save_file({name: tensors[name].contiguous() for name in part}, folder / file)
    if shards > 1:
        index = {"weight_map": {name: file for part, file in zip(parts, files, strict=True) for name in part}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n != "speculators mtp"])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_other_spellings_of_one_drafter_compute_the_same(
    name: str, build: Build, target: Target, data: st.DataObject
) -> None:
    drafter = build(name)
    chosen = data.draw(st.lists(st.sampled_from(changes_of(name)), max_size=4, unique=True))
    shards = data.draw(st.integers(1, 3))
    with TemporaryDirectory() as place:
        folder = publish(drafter, PUBLISHED[name], Path(place) / "published")
        raw, tensors = copy.deepcopy(PUBLISHED[name]), load_file(folder / "model.safetensors")
        for change in chosen:
            change(raw, tensors)
        loaded = load_drafter(str(written(Path(place) / "other", raw, tensors, shards)), target, gamma=drafter.gamma)
        assert isinstance(loaded, LearnedDrafter)
        tokens = TOKENS[:, : drafter.gamma]
        assert torch.equal(drafted(loaded, target, tokens), drafted(drafter, target, tokens))


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    """Its layers, and the configuration that declares them."""

    @pytest.mark.parametrize("windows", [(None, None), (3, None), (3, 3)])
    @pytest.mark.parametrize("bias", [False, True])
    def test_a_shape_is_read_as_it_was_written(self, family: str, windows: tuple[int | None, ...], bias: bool) -> None:
        """Sliding layers of whatever kind and biases included, where the family has them."""
        shape = LayerShape(
            family=family, hidden_size=16, inner_size=32, heads=4, kv_heads=2, head_dim=8, norm_eps=1e-5, layers=2,
            rotary={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, windows=windows, attention_bias=bias,
            output_bias=bias, mlp_bias=bias,
        )  # fmt: skip
        if family == "gemma4" and any(windows):
            with pytest.raises(InputError, match="sliding layers of a Gemma-4 draft"):
                read_shape(shape_config(shape, VOCAB, 64), "x")
            return
        assert read_shape(shape_config(shape, VOCAB, 64), "x") == shape

    def test_a_layer_reads_one_state_or_two(self, family: str) -> None:
        shape = read_shape(
            {"model_type": next(iter(FAMILIES[family].MODEL_TYPES)), "hidden_size": 16, "intermediate_size": 32,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 8},
            "x",
        )  # fmt: skip
        for paired in (False, True):
            layer = make_layer(shape, paired_input=paired)
            assert layer.self_attn.q_proj.in_features == 16 * (1 + paired)
            assert layer.enter(torch.ones(3, 16)).shape == layer.leave(torch.ones(3, 16), torch.ones(3, 16)).shape == (3, 16)


SCALED = {"factor": 4.0, "original_max_position_embeddings": 16}
ROPES: dict[str, Raw] = {
    "llama3": {"rope_type": "llama3", **SCALED, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "linear": {"type": "linear", "factor": 2.0},
    "yarn": {"rope_type": "yarn", **SCALED},
    "half": {"rope_type": "linear", "factor": 1.0, "partial_rotary_factor": 0.5},
}


@pytest.mark.parametrize("scaling", list(ROPES))
def test_rotary_parameters_are_read_wherever_they_stand(scaling: str, target: Target) -> None:
    """Of transformers 4 (`rope_theta` and `rope_scaling`) and 5 (`rope_parameters`), and nested by kind of layer."""
    scaled = ROPES[scaling]
    theta, named = LAYER["rope_theta"], {"rope_type": scaled.get("type"), **scaled}
    plain = {field: value for field, value in NESTED.items() if field != "rope_theta"}
    at_top = {"rope_scaling": scaled}
    ways: list[Raw] = [
        {**plain, "rope_theta": theta, **at_top}, {**plain, "rope_parameters": {**named, "rope_theta": theta}},
        {**plain, "rope_parameters": {"full_attention": {**named, "rope_theta": theta}}},
    ]  # fmt: skip
    read = [frequencies(8, read_shape(copy.deepcopy(way), "x").rotary) for way in ways]
    assert read[0] == read[1] == read[2]
    assert read[0] != frequencies(8, {"rope_theta": theta})


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_what_turns_with_a_texts_length_is_refused_by_name(kind: str, build: Build, target: Target, tmp_path: Path) -> None:
    name = "EAGLE-3 (SafeAILab)"
    scaled = {"rope_type": kind, "factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    raw = {**PUBLISHED[name], "rope_scaling": scaled}
    with pytest.raises(InputError, match=f"rope_type '{kind}' is not supported"):
        load_drafter(str(publish(build(name), raw, tmp_path / "checkpoint")), target)


def test_biases_are_read_where_they_are(build: Build, target: Target, tmp_path: Path) -> None:
    """An EAGLE-3 whose `attention_bias` nobody writes; a bias of 0 changes nothing, another does."""
    name = "EAGLE-3.1"
    drafter, raw = build(name), PUBLISHED[name]
    tensors = load_file(publish(drafter, raw, tmp_path / "published") / "model.safetensors")
    sizes = {n: len(t) for n, t in tensors.items() if "self_attn" in n and n.endswith("_proj.weight")}
    found = {}
    for value in (0.0, 0.5):
        biased = tensors | {n.replace("weight", "bias"): torch.full((size,), value) for n, size in sizes.items()}
        loaded = load_drafter(str(written(tmp_path / str(value), raw, biased)), target)
        assert isinstance(loaded, LearnedDrafter)
        found[value] = drafted(loaded, target, TOKENS[:, : drafter.gamma])
    assert torch.equal(found[0.0], drafted(drafter, target, TOKENS[:, : drafter.gamma]))
    assert not torch.allclose(found[0.0], found[0.5])


def test_a_head_is_tied_to_what_the_files_say(build: Build, target: Target, tmp_path: Path) -> None:
    """A draft with an embedding of its own and no head: tied to it, or the target's."""
    name = "EAGLE-3 (SpecForge, SGLang)"
    raw = {**PUBLISHED[name]}
    tensors = load_file(publish(build(name), raw, tmp_path / "published") / "model.safetensors")
    own = {**tensors, "embed_tokens.weight": 2 * target.embedding.get_parameter("weight").detach()}
    heads = {}
    for tied in (False, True):
        loaded = load_drafter(str(written(tmp_path / str(tied), {**raw, "tie_word_embeddings": tied}, own)), target)
        assert isinstance(loaded, LearnedDrafter)
        assert torch.equal(loaded.embed_tokens.get_parameter("weight"), own["embed_tokens.weight"])
        heads[tied] = loaded.lm_head.get_parameter("weight")
    assert torch.equal(heads[False], target.lm_head.get_parameter("weight"))
    assert torch.equal(heads[True], own["embed_tokens.weight"])


def test_tensors_of_16_bits_are_read_in_the_targets_type(build: Build, target: Target, tmp_path: Path) -> None:
    name = "speculators dspark"
    tensors = load_file(publish(build(name), PUBLISHED[name], tmp_path / "published") / "model.safetensors")
    short = {n: t.bfloat16() if t.is_floating_point() else t for n, t in tensors.items()}
    found = []
    for way, these in (("short", short), ("long", {n: t.float() if n in short and t.is_floating_point() else t
                                                  for n, t in short.items()})):  # fmt: skip
        loaded = load_drafter(str(written(tmp_path / way, PUBLISHED[name], these)), target)
        assert isinstance(loaded, LearnedDrafter)
        found.append(drafted(loaded, target, TOKENS[:, : loaded.gamma]))
    assert torch.equal(*found)


EAGLE_TAPS = {"fc.weight": (16, 48), "midlayer.hidden_norm.weight": (16,)}


def test_marks_alone_must_be_as_many_as_are_drafted(build: Build, target: Target, tmp_path: Path) -> None:
    name = "EAGLE-3 (SafeAILab)"
    tensors = load_file(publish(build(name), PUBLISHED[name], tmp_path / "published") / "model.safetensors")
    tensors.pop("d2t")
    tensors["t2d"][:] = True
    with pytest.raises(InputError, match=f"has no tensor d2t, and t2d marks {VOCAB} tokens, not the 4 that it drafts"):
        load_drafter(str(written(tmp_path / "mine", PUBLISHED[name], tensors)), target)


def test_biases_of_queries_alone_can_be_written(build: Build, target: Target, tmp_path: Path) -> None:
    """Configurations have one field for all four of attention: what is not there is written as zeros."""
    name = "EAGLE-3.1"
    drafter, raw = build(name), PUBLISHED[name]
    tensors = load_file(publish(drafter, raw, tmp_path / "published") / "model.safetensors")
    biases_of_queries(raw, tensors)
    for bias in [n for n in tensors if n.endswith("q_proj.bias")]:
        tensors[bias] += 0.5
    loaded = load_drafter(str(written(tmp_path / "mine", raw, tensors)), target)
    assert isinstance(loaded, LearnedDrafter)
    write_as(loaded, "vllm", tmp_path / "again", target, torch.float32)
    again = load_drafter(str(tmp_path / "again"), target)
    assert isinstance(again, LearnedDrafter)
    assert again.settings.shape.output_bias
    tokens = TOKENS[:, : drafter.gamma]
    assert torch.equal(drafted(again, target, tokens), drafted(loaded, target, tokens))
    assert not torch.allclose(drafted(drafter, target, tokens), drafted(loaded, target, tokens))


def test_an_embedding_of_masks_beside_the_weights_is_refused(build: Build, target: Target, tmp_path: Path) -> None:
    name = "DFlash (z-lab, SpecForge)"
    folder = publish(build(name), PUBLISHED[name], tmp_path / "checkpoint")
    (folder / "mask_embedding.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"mask_embedding\.pt: a mask token's own embedding"):
        load_drafter(str(folder), target)


BLOCK_TENSORS = {"fc.weight": (16, 32), "norm.weight": (16,), "layers.0.self_attn.q_norm.weight": (8,)}
HEADS = {"markov_head.markov_w1.weight": (VOCAB, 4), "confidence_head.proj.weight": (1, 20)}
DFLASH = {"target_layer_ids": [0, 1], "mask_token_id": MASK}


class Scaled(torch.nn.Embedding):
    """Embeddings as Gemma's: its table's rows times a factor."""

    embed_scale = 8.0

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * self.embed_scale


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", ["DFlash (z-lab, SpecForge)", "speculators dflash2", "EAGLE-3 (SpecForge, SGLang)"])
def test_a_drafts_embeddings_are_the_tables_own(name: str, own: bool, build: Build, tmp_path: Path) -> None:
    """A target whose embeddings are scaled lends its drafts the table, not the factor; publishers' code reads it bare."""
    gemma = Target(Qwen3ForCausalLM(micro_config()))
    scaled = Scaled(VOCAB, HIDDEN)
    scaled.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    gemma.model.set_input_embeddings(scaled)
    raw = PUBLISHED[name]
    tensors = load_file(publish(build(name), raw, tmp_path / "published") / "model.safetensors")
    tensors |= {"embed_tokens.weight": scaled.weight.detach().clone()} if own else {}
    loaded = load_drafter(str(written(tmp_path / "mine", raw, tensors)), gemma)
    assert isinstance(loaded, LearnedDrafter)
    assert torch.equal(loaded.embed(TOKENS), scaled.weight[TOKENS])
    assert loaded.conventions.get("embeddings") == ("× 1 (assumed)" if name.startswith("DFlash") else None)
    if name.startswith("DFlash"):
        said = {**raw, "dflash_config": {**raw["dflash_config"], "input_embedding_scale": 4.0}}
        loaded = load_drafter(str(written(tmp_path / "said", said, tensors)), gemma)
        assert isinstance(loaded, LearnedDrafter)
        assert torch.equal(loaded.embed(TOKENS), 4 * scaled.weight[TOKENS])
        assert loaded.conventions["embeddings"] == "× 4"
        said["dflash_config"] |= {"input_embedding_scale": 4.01}  # bfloat16 would have it as 4
        loaded = load_drafter(str(written(tmp_path / "unrounded", said, tensors)), gemma).to(torch.bfloat16)
        rows = loaded.embed_tokens.get_parameter("weight")[TOKENS]
        assert torch.equal(loaded.embed(TOKENS), (rows.float() * 4.01).to(torch.bfloat16))


def test_a_filled_in_blocks_state_has_read_the_anchors_slot(build: Build, target: Target) -> None:
    """As speculators' head, which walks all slots from the anchor's on, and drafts from the second: with another hidden
    state of the anchor's slot alone, logits are others."""
    drafter = build("speculators dspark")
    assert isinstance(drafter, DSpark)
    assert drafter.markov_head is not None
    head, seeded = drafter.markov_head, torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 1, drafter.gamma + 1, HIDDEN, generator=seeded)
    tokens = TOKENS[:, : drafter.gamma]
    drafter_block = drafter._block
    drafter._block = lambda context, anchor: hidden  # type: ignore[method-assign, assignment]
    try:
        with torch.inference_mode():
            found = drafted(drafter, target, tokens)
    finally:
        drafter._block = drafter_block  # type: ignore[method-assign]
    for row, anchor in enumerate((5, 8)):
        first = int(TEXT[row, anchor])
        state, before = torch.zeros(head.rank), [first, first, *tokens[row].tolist()]
        for slot in range(drafter.gamma + 1):  # the first slot follows the anchor, which is read twice
            bias, state = head.step(head.markov_w1.weight[before[slot]], hidden[row, 0, slot], state)
            if slot:
                expected = drafter.over_target(drafter.head(hidden[row, 0, slot]) + bias)
                torch.testing.assert_close(found[row, slot - 1], expected)


@pytest.mark.parametrize("said", [{"sample_from_anchor": False}, {"dspark_bonus_anchor": True}])
def test_deepspecs_checkpoints_may_say_another_layout(said: Raw, make: Any, target: Target, tmp_path: Path) -> None:
    """By the keys of those that read them; DeepSpec's own code has none, and one layout."""
    write_as(make("dspark"), "deepspec", tmp_path / "as it is", target)
    shutil.copytree(tmp_path / "as it is", tmp_path / "filled in")
    config = json.loads((tmp_path / "filled in" / "config.json").read_text())
    (tmp_path / "filled in" / "config.json").write_text(json.dumps(config | said))
    own, other = (load_drafter(str(tmp_path / name), target) for name in ("as it is", "filled in"))
    assert isinstance(own, LearnedDrafter)
    assert isinstance(other, LearnedDrafter)
    assert (own.conventions["layout"], other.conventions["layout"]) == ("anchor-first", "fill-in")
    assert other.gamma == own.gamma - 1


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("EAGLE-3 (SafeAILab)", {"model.fc.weight": torch.ones(HIDDEN, 3 * HIDDEN)}, "under two names"),
        ("EAGLE-3 (SpecForge, SGLang)", {"d2t": torch.arange(VOCAB).flip(0) - torch.arange(VOCAB)}, "d2t renames"),
    ],
)
def test_tensors_that_contradict_are_refused(
    name: str, more: Tensors, told: str, build: Build, target: Target, tmp_path: Path
) -> None:
    folder = publish(build(name), PUBLISHED[name], tmp_path / "checkpoint")
    save_file({**load_file(folder / "model.safetensors"), **more}, folder / "model.safetensors")
    with pytest.raises(InputError, match=told):
        load_drafter(str(folder), target)
