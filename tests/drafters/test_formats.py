"""Published formats on drafters small enough to know their law: recognised, read back, exact; and those refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from drafters.checkpoints import build_drafter, facts_of, load_drafter
from drafters.formats.files import Checkpoint
from drafters.formats.registry import declare
from drafters.kinds.learned import LearnedDrafter
from drafters.sampling import probabilities
from drafters.target import Target
from simulator.errors import InputError
from simulator.policies import PolicySpec
from simulator.records import Sampling
from simulator.replay import replay
from tests.drafters.conftest import GAMMA, HIDDEN, MASK, VOCAB, randomise
from tests.drafters.test_dense import NEW_TOKENS, PROMPT, live_rounds, record_of, smallest_p_value, texts
from tests.drafters.test_drafters import TEXT, propose
from tests.drafters.test_lossless import p_value

REJECT = 1e-4
SAID = [0, 1, 3, 5]
"""Tokens of the reduced vocabularies: neither the end token, 2, nor 4 can be drafted."""
LAYER: dict[str, Any] = {
    "hidden_size": HIDDEN, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "vocab_size": VOCAB, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1000.0,
}  # fmt: skip
EAGLE = {**LAYER, "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "num_hidden_layers": 1}
NESTED = {**LAYER, "model_type": "qwen3", "num_hidden_layers": 2}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3, "use_sliding_window": True}
BLOCK = {"aux_hidden_state_layer_ids": [0, 2, 3], "mask_token_id": MASK}
REDUCED = {"draft_vocab_size": len(SAID)}
PUBLISHED: dict[str, dict[str, Any]] = {
    "EAGLE-3 (SafeAILab)": {**EAGLE, "architectures": ["LlamaForCausalLM"], **REDUCED},
    "EAGLE-3 (SpecForge, SGLang)": {
        **EAGLE, "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 2]}, "num_hidden_layers": 2, **SLIDING,
    },
    "EAGLE-3 (NVIDIA)": {**EAGLE, "eagle_config": {"norm_before_fc": True}, **REDUCED},
    "EAGLE-3.1": {**EAGLE, "fc_norm": True, "norm_output": True, "num_hidden_layers": 3, **REDUCED},
    "speculators eagle3": {
        "speculators_model_type": "eagle3", "transformer_layer_config": NESTED, "norm_before_residual": True, **REDUCED,
    },
    "speculators dspark": {
        "speculators_model_type": "dspark", "transformer_layer_config": {**NESTED, **SLIDING}, "markov_rank": 4,
        "markov_head_type": "rnn", "block_size": GAMMA + 1, "sample_from_anchor": False, **BLOCK, **REDUCED,
    },
    "speculators dflash2": {
        "speculators_model_type": "dflash2", "transformer_layer_config": NESTED, "draft_vocab_size": VOCAB,
        "block_size": GAMMA + 1, "conv_group_size": 4, "selector_rank": 4, "selector_top_k": 3, **BLOCK,
    },
    "speculators mtp": {"speculators_model_type": "mtp", "transformer_layer_config": NESTED},
    "DSpark (SpecForge)": {
        **NESTED, "architectures": ["DSparkDraftModel"], "block_size": GAMMA,
        "dflash_config": {"target_layer_ids": [-1, 1], "mask_token_id": MASK, "markov_rank": 4},
    },
    "DFlash (z-lab, SpecForge)": {
        **NESTED, **SLIDING, "architectures": ["DFlashDraftModel"], "block_size": GAMMA + 1,
        "dflash_config": {"target_layer_ids": [0, 2], "mask_token_id": MASK},
    },
}  # fmt: skip
of_each = pytest.mark.parametrize("name", list(PUBLISHED))
Build = Callable[[str], LearnedDrafter]


@pytest.fixture(scope="module")
def build(target: Target) -> Build:
    @cache
    def made(name: str) -> LearnedDrafter:
        drafter = build_drafter(PUBLISHED[name], target, gamma=None, name=name)
        own = torch.nn.ModuleDict({
            part: module for part, module in drafter.named_children()
            if part != "embed_tokens" and not (part == "lm_head" and drafter.draft_ids is None)
        })  # fmt: skip
        randomise(own, 7, 0.3)
        for table in [value for part, value in drafter.named_parameters() if part.endswith("codebook")]:
            table.data.normal_(0, 1, generator=torch.Generator().manual_seed(3))  # sharper than the likeliest candidates
        if drafter.draft_ids is not None:
            drafter.set_vocabulary(torch.tensor(SAID))
        return drafter.to(target.device, target.dtype).eval().requires_grad_(False)

    return made


def publish(drafter: LearnedDrafter, raw: dict[str, Any], folder: Path) -> Path:
    """Write a drafter as its format has it."""
    folder.mkdir()
    tensors = {n: t.contiguous().clone() for n, t in drafter.state_dict().items() if not n.startswith("embed_tokens")}
    if drafter.draft_ids is None:
        tensors = {n: t for n, t in tensors.items() if not n.startswith("lm_head")}
    else:
        tensors["d2t"] = drafter.draft_ids - torch.arange(len(drafter.draft_ids))
        assert drafter.outside is not None
        tensors["t2d"] = ~drafter.outside
    if drafter.kind == "mtp":
        theirs = {
            "hnorm": "hidden_layernorm",
            "enorm": "token_layernorm",
            "eh_proj": "input_proj",
            "norm": "final_layernorm",
        }
        parts = {n: n.removeprefix("layers.0.").split(".", 1) for n in tensors}
        tensors = {
            f"mtp_layers.0.{first if n.startswith('layers.') else theirs[first]}.{rest}": tensors[n]
            for n, (first, rest) in parts.items()
        }
    elif "eagle_config" in raw or drafter.format.endswith("SafeAILab)"):
        tensors = {n.replace("layers.0.", "midlayer."): t for n, t in tensors.items()}
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder


def drafted(drafter: LearnedDrafter, target: Target, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        taps = target.read(TEXT, drafter.tap_layers).taps
        return drafter.teacher_forced(taps, TEXT, torch.tensor([[5], [8]]), tokens.unsqueeze(1)).logits[:, 0]


@of_each
def test_a_published_checkpoint_is_recognised_and_read_back(name: str, build: Build, target: Target, tmp_path: Path) -> None:
    drafter = build(name)
    loaded = load_drafter(str(publish(drafter, PUBLISHED[name], tmp_path / "checkpoint")), target)
    assert isinstance(loaded, LearnedDrafter)
    assert loaded.format == name
    assert loaded.conventions == drafter.conventions
    assert loaded.gamma == drafter.gamma
    tokens = torch.tensor([[1, 3, 5, 1, 3], [5, 1, 1, 3, 0]])[:, : drafter.gamma]
    assert torch.equal(drafted(loaded, target, tokens), drafted(drafter, target, tokens))


@of_each
def test_live_pieces_and_teacher_forcing_agree(name: str, build: Build, target: Target) -> None:
    """A context that comes in pieces, rows at different positions; several layers attend to it causally."""
    drafter = build(name)
    whole, pieces = propose(drafter, target, TEXT, [5, 8], []), propose(drafter, target, TEXT, [5, 8], [3, 1])
    assert torch.equal(whole.tokens, pieces.tokens)
    forced = drafted(drafter, target, whole.tokens).softmax(-1)
    for live in (whole, pieces):
        assert live.probs is not None
        torch.testing.assert_close(live.probs, forced, atol=1e-5, rtol=0)
    if drafter.draft_ids is not None:
        assert drafter.outside is not None
        assert not forced[..., drafter.outside].any()


@pytest.mark.parametrize("drafting", ["sampled", "greedy"])
@pytest.mark.parametrize("name", ["EAGLE-3 (SpecForge, SGLang)", "EAGLE-3.1", "speculators dspark", "speculators dflash2"])
def test_responses_follow_the_targets_law(name: str, drafting: Any, build: Build, target: Target) -> None:
    """q is 0 on tokens outside a reduced vocabulary, or that are no candidates; the target says them all the same."""
    assert p_value(target, build(name), Sampling(), samples=6000, drafting=drafting) > REJECT


@pytest.mark.parametrize(
    ("name", "drafting"),
    [
        ("speculators dspark", "sampled"), ("speculators dspark", "greedy"),
        *(pytest.param(name, way, marks=pytest.mark.slow) for name in ("EAGLE-3.1", "speculators dflash2")
          for way in ("sampled", "greedy")),
    ],
)  # fmt: skip
def test_dense_records_replay_as_live(name: str, drafting: Any, build: Build, target: Target) -> None:
    drafter = build(name)
    policy, sampling = PolicySpec.parse(f"fixed:{drafter.gamma}").bind(), Sampling()
    said = texts(target, [PROMPT] * 4000, NEW_TOKENS, sampling, 21, drafter.gamma)
    dense = [replay(a, policy) for a in record_of(target, drafter, said, sampling, drafting=(drafting,))]
    assert smallest_p_value(dense, live_rounds(target, drafter, policy, sampling, drafting)) > REJECT


def test_gamma_is_what_is_drafted(build: Build, target: Target, tmp_path: Path) -> None:
    name = "DFlash (z-lab, SpecForge)"
    folder = str(publish(build(name), PUBLISHED[name], tmp_path / "checkpoint"))
    assert load_drafter(folder, target).gamma == GAMMA
    with pytest.raises(InputError, match=f"block_size {GAMMA + 1}, which drafts {GAMMA}"):
        load_drafter(folder, target, gamma=GAMMA + 1)


@pytest.mark.parametrize(
    ("changes", "tensors", "message"),
    [
        ({"speculators_model_type": "peagle"}, {}, "P-EAGLE"),
        ({"architectures": ["PEagleDraftModel"]}, {}, "P-EAGLE"),
        ({}, {"mask_hidden": (1, 1, 48)}, "P-EAGLE"),
        ({"architectures": ["DominoDraftModel"]}, {}, "Domino"),
        ({"dflash_config": {"projector_type": "domino"}}, {}, "Domino"),
        ({"speculators_model_type": "xpress"}, {}, "XPress"),
        ({"architectures": ["Qwen3XPressModel"]}, {}, "XPress"),
        ({"dflash_config": {"lilicorr_enabled": True}}, {}, "LiLiCorr"),
        ({"architectures": ["LiLiCorrDraftModel"]}, {}, "LiLiCorr"),
        ({"architectures": ["Eagle3DeepseekV2ForCausalLM"]}, {}, "MLA"),
        ({}, {"midlayer.self_attn.kv_a_proj_with_mqa.weight": (4, 4)}, "MLA"),
        ({"architectures": ["DSparkDraftModel"], "model_type": "deepseek_v4"}, {}, "DeepSeek-V4"),
        ({}, {"mtp.0.main_proj.weight": (4, 4)}, "DeepSeek-V4"),
        ({}, {"mtp.fc.weight": (16, 32)}, "native MTP"),
        ({}, {"model.layers.3.eh_proj.weight": (16, 32)}, "native MTP"),
        ({}, {"model.mtp_layers.0.input_proj.weight": (16, 32)}, "native MTP"),
        ({"speculators_model_type": "eagle"}, {}, "EAGLE-1"),
        ({"architectures": ["LlamaForCausalLM"]}, {"fc.weight": (16, 32), "layers.0.mlp.up_proj.weight": (4, 4)}, "EAGLE-1"),
        ({"architectures": ["LlamaForCausalLMEagle"]}, {}, "EAGLE-1"),
        ({"architectures": ["EagleLlama4ForCausalLM"]}, {}, "EAGLE-1"),
        ({"architectures": ["MedusaModel"], "model_type": "medusa"}, {}, "Medusa"),
        ({"architectures": None, "medusa_num_heads": 3}, {}, "Medusa"),
        ({"architectures": ["MLPSpeculatorPreTrainedModel"], "model_type": "mlp_speculator"}, {}, "MLP or LSTM"),
        ({"architectures": ["ArcticLSTMSpeculatorPreTrainedModel"]}, {}, "MLP or LSTM"),
        ({"architectures": ["Qwen3ForCausalLM"]},
         {"model.embed_tokens.weight": (4, 4), "model.layers.0.mlp.up_proj.weight": (4, 4)}, "a language model by itself"),
        ({}, {"model.layers.0.self_attn.sinks": (4,)}, "MiMo"),
        ({}, {"layers.0.self_attn.g_proj.weight": (4, 4)}, "Laguna"),
        ({}, {"encoder.fc.weight": (4, 4)}, "Muse-Glimmer"),
        ({}, {"midlayer.mlp.up_proj.weight_scale": (4, 1)}, "quantised weights"),
        ({"dflash_config": {"use_swa": True, "mask_token_id": 5}}, {}, "use_swa"),
        ({"architectures": ["MyModel"], "auto_map": {"AutoModel": "mine.MyModel"}}, {}, "its own code"),
        ({"speculators_model_type": "mtp", "transformer_layer_config": {**LAYER, "model_type": "qwen3_next"}}, {},
         "'qwen3_next' is not supported"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_name(
    changes: dict[str, Any], tensors: dict[str, tuple[int, ...]], message: str, target: Target, tmp_path: Path
) -> None:
    raw = {**NESTED, "architectures": ["LlamaModel"], **changes}
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    save_file(
        {"norm.weight": torch.ones(16), **{n: torch.ones(s) for n, s in tensors.items()}}, tmp_path / "model.safetensors"
    )
    with pytest.raises(InputError, match=message) as raised:
        load_drafter(str(tmp_path), target)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "medusa_lm_head.pt"])
def test_pickled_weights_are_not_read(file: str, target: Target, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(EAGLE), encoding="utf-8")
    (tmp_path / file).write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="pickled"):
        load_drafter(str(tmp_path), target)


@pytest.mark.parametrize(
    ("table", "message"), [([6, 6, 6, 6], "does not name 4 different"), ([0, -1, 0, 0], "does not name 4 different")]
)
def test_a_vocabulary_that_is_none_is_told(
    table: list[int], message: str, build: Build, target: Target, tmp_path: Path
) -> None:
    name = "EAGLE-3 (SafeAILab)"
    folder = publish(build(name), PUBLISHED[name], tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors") | {"d2t": torch.tensor(table)}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=message):
        load_drafter(str(folder), target)


def test_two_tables_that_name_different_tokens_are_told(build: Build, target: Target, tmp_path: Path) -> None:
    """What was trained is known by `t2d`; drafts are said by `d2t`. A mask that was never filled says nothing."""
    name = "EAGLE-3 (SafeAILab)"
    folder = publish(build(name), PUBLISHED[name], tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors")
    ids = tensors["d2t"] + torch.arange(len(tensors["d2t"]))
    marked = torch.zeros(VOCAB, dtype=torch.bool)
    for mask in (marked, marked.scatter(0, ids, torch.ones(len(ids), dtype=torch.bool))):
        save_file({**tensors, "t2d": mask}, folder / "model.safetensors")
        load_drafter(str(folder), target)
    for wrong in (~mask, mask.roll(1), mask[:3]):
        save_file({**tensors, "t2d": wrong.contiguous()}, folder / "model.safetensors")
        with pytest.raises(InputError, match="t2d marks other tokens than d2t"):
            load_drafter(str(folder), target)


def test_a_draft_of_another_target_is_told(build: Build, target: Target, tmp_path: Path) -> None:
    name = "speculators eagle3"
    verifier = {"speculators_config": {"verifier": {"architectures": ["LlamaForCausalLM"]}}}
    folder = publish(build(name), {**PUBLISHED[name], **verifier}, tmp_path / "checkpoint")
    with pytest.raises(InputError, match="was trained for a LlamaForCausalLM"):
        load_drafter(str(folder), target)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0)])
def test_what_a_reduced_vocabulary_lacks_is_recorded(sampling: Sampling, build: Build, target: Target) -> None:
    drafter = build("EAGLE-3.1")
    said = texts(target, [PROMPT] * 40, NEW_TOKENS, sampling, 5, drafter.gamma)
    recorded = record_of(target, drafter, said, sampling)
    missing = [v for v in range(VOCAB) if v not in SAID]
    for text, anchors in zip(said, recorded, strict=True):
        assert anchors.outside is not None
        p = probabilities(sampling, target.head(target.read(torch.tensor([text.ids]), ()).hidden)[0])
        expected = p[:, missing].sum(-1)[len(text.prompt) :]
        for i, found in enumerate(anchors.outside):
            there = min(len(expected) - i - 1, drafter.gamma)  # after the last token nothing is judged
            torch.testing.assert_close(torch.tensor(found[:there]), expected[i : i + there], atol=1e-5, rtol=0)
            assert bool(torch.tensor(found[there:]).isnan().all())
    beta, outside = (np.concatenate([getattr(a, name)[:, 0] for a in recorded]) for name in ("accept_prob", "outside"))
    assert beta.mean() <= 1 - outside.mean() + 3 * beta.std() / np.sqrt(len(beta))
    [whole] = {a.outside is None for a in record_of(target, build("speculators mtp"), said, sampling)}
    assert whole


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("speculators")])
def test_the_target_that_a_draft_names_is_known(name: str, target: Target) -> None:
    """Of another size it loads for the same architecture: a person has to be told."""
    asked = PUBLISHED[name].get("speculators_config", {})
    named = {**asked, "verifier": {**asked.get("verifier", {}), "name_or_path": "someone/their-8b"}}
    declared = declare(Checkpoint("mine", {**PUBLISHED[name], "speculators_config": named}), facts_of(target))
    assert declared.verifier == "someone/their-8b"
    unnamed = {**asked, "verifier": {}}
    assert not declare(Checkpoint("mine", {**PUBLISHED[name], "speculators_config": unnamed}), facts_of(target)).verifier
