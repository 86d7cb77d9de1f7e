"""Targets of many families, made here with random weights: what runs says what the model itself says, or it is refused."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from scipy.stats import chisquare
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from drafters.checkpoints import build_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.dense import DenseText, record_anchors
from drafters.generation import respond, rows_at_once
from drafters.kinds.ngram import NGram
from drafters.kinds.none import NoDrafter
from drafters.target import Target, typical_error
from simulator.errors import InputError
from simulator.records import Sampling
from tests.drafters.conftest import drafter_config
from tests.drafters.families import (
    FAMILIES,
    HALF_SLIDING,
    check_decoding,
    check_reading,
    check_recording,
    family_model,
    generated,
    micro_model,
    prompts,
)

DECODING = [
    "llama", "llama, llama3 rope", "mistral", "mistral, window", "qwen2", "qwen3", "qwen3, window", "qwen3_moe", "mixtral",
    "gemma", "gemma2", "gemma3", "gemma3 (text)", "gemma4, shared kv", "gemma4 (text)", "gemma4 (text), shared kv",
    "gpt_oss", "glm4", "glm4_moe", "deepseek_v3", "phi3", "olmo2", "granite", "cohere", "cohere2", "gpt2", "gpt_neox", "opt",
    "bloom", "falcon, alibi", "gpt_neo", "modernbert-decoder", "longcat_flash", "bert", "marian", "pegasus",
    "roformer",
]  # fmt: skip
BY_ROW = {"bloom", "falcon, alibi", "gpt_neo", "marian", "pegasus", "roformer"}
"""These make all masks themselves, so that rows of a ragged batch are read one after another."""
_LINEAR = "(linear attention|mamba|recurrent)"  # what older versions of transformers call it
STATE = {
    "bamba": _LINEAR, "deepseek_v32": "indexed attention", "deepseek_v4": "compressed sparse attention",
    "falcon_h1": "hybrid", "jamba": _LINEAR, "kimi_linear": _LINEAR, "lfm2": "convolution", "llama4": "chunked attention",
    "mamba": _LINEAR, "mamba2": _LINEAR, "minimax": _LINEAR, "qwen3_5": _LINEAR, "qwen3_next": _LINEAR,
    "recurrent_gemma": _LINEAR, "zamba2": "hybrid",
}  # fmt: skip
"""Families that only record, and what their layers are called."""
UNDECLARED = {"openai-gpt": "Block", "rwkv": "RwkvBlock", "xlstm": "xLSTMBlock"}
"""Those that do not say so in their configuration: it is tried out."""


def known(families: Any) -> list[str]:
    """Those that the installed transformers has, and has as causal models: before these versions, these are none."""
    causal_since = {"deepseek_v4": "5.9", "roformer": "5.18"}
    wrong = {family for family, since in causal_since.items() if Version(transformers.__version__) < Version(since)}
    return [family for family in families if FAMILIES[family][0] in CONFIG_MAPPING and family not in wrong]


@pytest.mark.parametrize("family", known(DECODING))
def test_greedy_decoding_is_the_models_own(family: str) -> None:
    """Token for token `generate`, in a ragged batch, with rejected drafts."""
    target = Target(family_model(family))
    assert target.cannot_decode is None
    assert target.decodes_together == (family not in BY_ROW)
    check_decoding(target)


@pytest.mark.parametrize("family", known([*STATE, *UNDECLARED]))
def test_what_keeps_a_state_records_and_is_refused_live(family: str) -> None:
    target = Target(family_model(family))
    layers = STATE.get(family, UNDECLARED.get(family, ""))
    with pytest.raises(
        InputError, match=rf"cannot decode live: its .*{layers}.* keep (a|no) state that can(not)? be rolled"
    ):
        next(decode(target, NoDrafter(), [DecodeRequest((3, 4), 4, (0,))], Sampling(), max_batch=1))
    if family == "xlstm":
        check_reading(target)
        with pytest.raises(InputError, match=r"its own `generate` cannot be used .* with --responses"):
            next(respond(target, [DecodeRequest((3, 4), 4, (0,))], Sampling(), max_batch=1))
    else:
        check_recording(target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_reads_otherwise_in_pieces_does_not_hide_behind_rounding(dtype: torch.dtype) -> None:
    """Some are off by 2 % of their states, of which bfloat16 may be off by itself."""
    model = micro_model("llama", scale=3.0).to(dtype)
    target = Target(model)
    before = [weight.clone() for weight in model.state_dict().values()]
    assert target.cannot_decode is None
    forward = model.model.layers[1].self_attn.forward
    model.model.layers[1].self_attn.forward = lambda *args, **named: _blurred(forward(*args, **named), **named)
    assert re.search("keep no state that can be rolled back", str(Target(model).cannot_decode))
    assert all(torch.equal(*both) for both in zip(before, model.state_dict().values(), strict=True))
    assert target.dtype == model.dtype == dtype


def _blurred(output: tuple[Tensor, Any], **named: Any) -> tuple[Tensor, Any]:
    """What attention gives, a little less where something was kept before."""
    cache = named.get("cache", named.get("past_key_values"))
    return output[0] * (1 if cache is None or cache.get_seq_length() == 0 else 0.95), output[1]


def test_a_batch_that_disturbs_its_rows_is_not_used() -> None:
    """RWKV in transformers mixes the states of a batch: texts are continued one at a time."""
    target = Target(family_model("rwkv"))
    assert rows_at_once(target) == 1
    requests = [DecodeRequest(prompt[:30], 8, (i,)) for i, prompt in enumerate(prompts())]
    done = dict(respond(target, requests, Sampling(temperature=0), max_batch=3))
    assert [done[i].token_ids for i in range(3)] == [generated(target.model, r.prompt, 8) for r in requests]


def test_a_declared_window_that_the_model_does_not_use_is_noticed() -> None:
    """Llama ignores a sliding window, however long: masks made by the configuration would hide what it sees."""
    target = Target(micro_model("llama", scale=3.0, sliding_window=4096))
    assert target.cannot_decode is None
    assert not target.decodes_together
    assert target.config.sliding_window == 4096
    assert Target(micro_model("mistral", scale=3.0, sliding_window=4096)).decodes_together


def test_an_encoder_that_counts_from_behind_its_padding_is_told_so() -> None:
    told = Target(family_model("roberta")).cannot_decode
    assert told == "it counts positions from behind its padding (RobertaModel), as encoders do, which read whole texts"


def test_an_encoder_is_no_target() -> None:
    with pytest.raises(InputError, match=r"depends on tokens that come later .* it is no causal language model"):
        Target(micro_model("bert", is_decoder=False))


@pytest.mark.parametrize("family", known(["llama", "gpt2", "granite", "nanochat", "mamba", "qwen3_next", "rwkv", "gemma3"]))
def test_taps_are_what_the_next_layer_reads(family: str) -> None:
    """−1 is what the first layer reads: the embeddings with all that the model does to them (positions, factors, norms)."""
    target, read = Target(family_model(family)), {}
    text = torch.tensor([prompts()[0]])

    def note(layer: int) -> Any:
        def hook(_module: nn.Module, inputs: Any, named: Any) -> None:
            read[layer] = (inputs[0] if inputs else named["hidden_states"]).clone()

        return hook

    layers = next(m for m in target.model.modules() if isinstance(m, nn.ModuleList) and len(m) == target.num_layers)
    handles = [module.register_forward_pre_hook(note(i), with_kwargs=True) for i, module in enumerate(layers)]
    with torch.no_grad():
        target.model(input_ids=text, use_cache=False)
    for handle in handles:
        handle.remove()
    taps = target.read(text, range(-1, target.num_layers - 1)).taps.split(target.hidden_size, -1)
    for layer, tap in enumerate(taps):
        assert torch.equal(tap, read[layer])


@pytest.mark.parametrize("family", known(["gemma3n (text)", "deepseek_v4"]))
def test_drafters_of_taps_that_are_no_single_states_are_refused(family: str) -> None:
    """Several streams for a token: nobody has said which of them a drafter reads."""
    target = Target(family_model(family))
    config = drafter_config("eagle3", Target(family_model("qwen3")))
    with pytest.raises(InputError, match="do not give one state of width 64 for every token"):
        build_drafter(config, target, gamma=None, name="d")


def test_the_page_has_every_family() -> None:
    page = (Path(__file__).parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")
    assert [line.split(" | ")[0][2:] for line in page.splitlines() if line.startswith("| ")][1:] == list(FAMILIES)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}),
        ("granite", {"logits_scaling": 4.0}),
        ("gemma2", {"head_dim": 16, "final_logit_softcapping": 5.0, **HALF_SLIDING}),
        ("cohere2", {"head_dim": 16, "logit_scale": 0.0625, **HALF_SLIDING}),
    ],
)
def test_first_tokens_follow_the_models_own_distribution(kind: str, settings: dict[str, Any]) -> None:
    """A greedy test cannot see a scale or a cap that the head leaves out; χ² at temperature 1 can."""
    model = micro_model(kind, **{**settings, "vocab_size": 40})
    prompt, count = tuple(range(5, 13)), 4000
    with torch.inference_mode():
        law = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1).numpy()
    requests = [DecodeRequest(prompt, 1, (i,)) for i in range(count)]
    seen = np.zeros(40)
    for _, done in decode(Target(model), NoDrafter(), requests, Sampling(), max_batch=1000):
        seen[done.token_ids[0]] += 1
    common = law * count >= 5
    observed, expected = np.append(seen[common], seen[~common].sum()), np.append(law[common], law[~common].sum()) * count
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    assert chisquare(observed, expected).pvalue > 1e-4
    assert len(observed) >= 5


@pytest.mark.parametrize(("kind", "room"), [("opt", 0), ("gpt2", 0), ("opt", 3), ("gpt2", 3)])
def test_drafts_are_not_read_beyond_the_context(kind: str, room: int) -> None:
    """Positions are learned up to the 80th: five drafts at the end of a text need as many more."""
    target = Target(micro_model(kind, max_position_embeddings=80, n_positions=80))
    request = DecodeRequest(tuple(range(3, 43)), 40 - room, (0,))
    for drafter in (NoDrafter(), NGram(3, min_match=1)):
        if drafter.gamma > room:
            with pytest.raises(InputError, match="and 3 drafted after them, but the target's context has 80"):
                list(decode(target, drafter, [request], Sampling(0), max_batch=1))
        else:
            [(_, done)] = decode(target, drafter, [request], Sampling(0), max_batch=1)
            assert len(done.token_ids) == 40 - room or done.finish == "stop"


def test_texts_read_together_are_not_padded_beyond_the_context() -> None:
    """50 and 25 tokens, and 25 and 50, fit in 80 each, and not side by side: prompts and responses are padded apart."""
    target = Target(micro_model("gpt2", n_positions=80))
    texts = [
        DenseText(tuple(range(3, 3 + long)), tuple(range(4, 4 + short)), (3, 4, 5), False, (i,))
        for i, (long, short) in enumerate([(50, 25), (25, 50)])
    ]
    together = record_anchors(target, [NGram(3, min_match=1)], texts, Sampling(), readings=[])[0]
    assert [len(anchors.accepted) for [found] in [together.values()] for anchors in found] == [24, 49]


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_a_state_that_is_not_finite_stops_the_answer(kind: str) -> None:
    model = micro_model(kind, **FAMILIES[kind][1])
    target = Target(model)
    with torch.no_grad():
        target.lm_head.weight[:, 0] = torch.nan
    with pytest.raises(InputError, match="a text: the target's logits after position 9 of the text are not finite"):
        list(respond(target, [DecodeRequest(tuple(range(3, 13)), 4, (0,), "a text")], Sampling(), max_batch=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["mamba", "mamba2", "falcon_mamba"])
def test_states_in_float32_of_weights_in_16_bits_have_a_head(kind: str, dtype: torch.dtype) -> None:
    """What these give their heads is float32, and cast there by the models themselves."""
    with tempfile.TemporaryDirectory() as folder:
        micro_model(kind, scale=1, **FAMILIES[kind][1]).save_pretrained(folder)
        target = Target(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype))
    assert target.head(target.read(target.some_texts(), []).hidden).isfinite().all()


def test_one_wrong_row_is_no_typical_error() -> None:
    """A model may be wrong about the rows that are behind, and right about all others."""
    own = torch.ones(3, 9, 4)
    ours = own.clone()
    ours[1] += 1
    assert typical_error(ours, own) == pytest.approx(1.0)
    ours[1, 4:] -= 1  # four states of nine: routers flip on last bits
    assert typical_error(ours, own) == 0.0
