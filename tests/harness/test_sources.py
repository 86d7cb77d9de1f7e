"""What files tell against a pair before anything is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.recording.pair import Pair, check_hub, load_pair
from harness.recording.sources import check_sources
from simulator.errors import InputError

TARGET = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512}


def folder(of: Path, config: dict[str, Any], template: str | None = None) -> str:
    of.mkdir()
    (of / "config.json").write_text(json.dumps(config))
    (of / "tokenizer_config.json").write_text(json.dumps({} if template is None else {"chat_template": template}))
    return str(of)


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["Qwen3DSparkModel"], "vocab_size": 512},
        {"architectures": ["LlamaForCausalLM"], "vocab_size": 512, "draft_vocab_size": 64},
        {"architectures": ["DFlashDraftModel"], "dflash_config": {"vocab_size": 512}, "vocab_size": 7},
        {"speculators_model_type": "eagle3", "transformer_layer_config": {"vocab_size": 512}},
        {"speculators_model_type": "eagle3"},
    ],
)
def test_a_drafter_is_no_target_and_goes_with_the_vocabulary_that_it_names(config: dict[str, Any], tmp_path: Path) -> None:
    draft = folder(tmp_path / "drafter", config)
    save_file({"fc.weight": np.zeros((1, 3), np.float32)}, tmp_path / "drafter" / "model.safetensors")
    own, other = (
        folder(tmp_path / name, {**TARGET, "vocab_size": size}, "{{ 1 }}") for name, size in (("a", 512), ("b", 513))
    )
    check_sources(Pair(own, {"mine": draft, "ngram": "ngram", "far": "owner/model"}))
    with pytest.raises(InputError, match=r"^target .*drafter: is a drafter's checkpoint"):
        check_sources(Pair(draft, {}))
    with pytest.raises(InputError, match=r"^checkpoint .*: is the target itself"):
        check_sources(Pair(own, {"mine": own}))
    if "512" in json.dumps(config):
        with pytest.raises(InputError, match=r"^checkpoint .*drafter: vocab_size is 512, but the target has 513"):
            check_sources(Pair(other, {"mine": draft}))
        check_sources(Pair(other, {"mine": draft}), [])  # it is not asked for
    check_sources(Pair("owner/model", {"mine": draft}))  # of which nothing is known yet


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    own = folder(tmp_path / "target", TARGET, "{{ 1 }}")
    with pytest.raises(InputError, match=r"^target .*nowhere: no such folder"):
        check_sources(Pair(str(tmp_path / "nowhere"), {}))
    with pytest.raises(InputError, match=r"^checkpoint .*nowhere: no such folder"):
        check_sources(Pair(own, {"mine": str(tmp_path / "nowhere")}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty/config.json: missing"):
        check_sources(Pair(own, {"mine": str(tmp_path / "empty")}))


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        (TARGET, {"model.layers.0.mlp.up_proj.weight": "f4", "model.embed_tokens.weight": "f4"}, "language model by itself"),
        ({"architectures": ["MedusaModel"]}, {"0.linear.weight": "f4"}, "Medusa"),
        ({"architectures": ["DFlashDraftModel"]}, {"fc.weight": "i1", "fc.weight_scale": "f4"}, "quantised weights"),
        ({"architectures": ["DFlashDraftModel"]}, {"fc.weight": "i1"}, "fc.weight holds numbers of the type I8"),
        ({"architectures": ["DFlashDraftModel"]}, {}, "no \\*.safetensors"),
        ({"architectures": ["LlamaForCausalLMEagle3"]}, {"fc.weight": "f4", "d2t": "i8", "t2d": "?"}, None),
    ],
)  # fmt: skip
def test_a_drafter_that_is_not_read_is_told_before_its_target_is(
    config: dict[str, Any], tensors: dict[str, str], said: str | None, tmp_path: Path
) -> None:
    own, draft = folder(tmp_path / "target", TARGET, "{{ 1 }}"), folder(tmp_path / "drafter", config)
    if tensors:
        save_file({n: np.zeros((1, 3), kind) for n, kind in tensors.items()}, tmp_path / "drafter" / "model.safetensors")
    if said is None:
        check_sources(Pair(own, {"mine": draft}))
        return
    with pytest.raises(InputError, match=rf"^checkpoint .*drafter: .*{said}"):
        check_sources(Pair(own, {"mine": draft}))


def test_a_drafter_of_a_target_with_other_layers_is_told_before_its_target_is(tmp_path: Path) -> None:
    for name, layers in (("same", 8), ("other", 7)):
        draft = folder(tmp_path / name, {"architectures": ["DFlashDraftModel"], "num_target_layers": layers})
        save_file({"fc.weight": np.zeros((1, 3), np.float32)}, Path(draft) / "model.safetensors")
    own = folder(tmp_path / "target", {**TARGET, "num_hidden_layers": 8}, "{{ 1 }}")
    check_sources(Pair(own, {"mine": str(tmp_path / "same")}))
    with pytest.raises(InputError, match=r"^checkpoint .*other: num_target_layers is 7, but the target has 8"):
        check_sources(Pair(own, {"mine": str(tmp_path / "other")}))


def test_a_target_without_a_template_is_told_where_it_is_asked(tmp_path: Path) -> None:
    bare = folder(tmp_path / "target", TARGET)
    with pytest.raises(InputError, match=r"--chat-template plain"):
        check_sources(Pair(bare, {}))
    check_sources(Pair(bare, {}), asked=False)
    check_sources(Pair(bare, {}, chat_template="plain"))
    (tmp_path / "target" / "chat_template.jinja").write_text("{{ 1 }}")
    check_sources(Pair(bare, {}))
    (tmp_path / "target" / "chat_template.jinja").unlink()
    (tmp_path / "target" / "tokenizer_config.json").unlink()
    check_sources(Pair(bare, {}))  # only loading tells


def test_offline_what_is_not_in_the_cache_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pair = Pair("owner/model", {"mine": str(tmp_path)})
    with pytest.raises(InputError, match=r"^owner/model: .*HF_HUB_OFFLINE"):
        check_hub(pair)
    cached = tmp_path / "models--owner--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "snapshots" / "abc" / "config.json").write_text("{}")
    check_hub(pair)


def test_bundled_pairs_pass_and_no_library_is_loaded_for_it() -> None:
    check_sources(load_pair("tiny"))
    code = "import sys, harness.recording.sources; print(*{'torch', 'ray', 'transformers'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
