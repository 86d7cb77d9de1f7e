"""Checkpoints written in publishers' formats: what is read back computes the same, and what has no place is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from drafters.checkpoints import load_drafter, publish, read_declared
from drafters.conversion import convert, drafted_by, read_target, write_read
from drafters.formats.writing import FORMATS
from drafters.kinds.learned import LearnedDrafter
from harness.cli.app import app
from simulator.errors import InputError
from tests.documented import differences
from tests.drafters.test_golden_formats import FOLDERS, GOLDEN, check_logits, of_each, reference, target_of

TINY = Path(__file__).parents[2] / "drafters" / "tiny"
HOLDS = {
    "deepspec_gemma4_dspark": "deepspec",
    "eagle3_1_specforge": "speculators vllm",
    "eagle3_nvidia": "speculators vllm",
    "eagle3_safeailab": "speculators vllm",
    "eagle3_specforge": "speculators vllm",
    "specforge_dspark": "deepspec speculators vllm",
    "speculators_dflash": "speculators zlab vllm",
    "speculators_dflash2": "speculators zlab vllm",
    "speculators_dspark_anchor_first": "speculators",
    "speculators_dspark_fill_in": "speculators vllm",
    "speculators_eagle3": "speculators vllm",
    "speculators_eagle3_residual": "speculators vllm",
    "speculators_mtp": "deepspec speculators",
    "zlab_dflash": "speculators zlab vllm",
}
"""Which formats have a place for each of the drafters that were published with their outputs."""


@pytest.mark.parametrize("to", list(FORMATS))
@of_each
def test_what_is_written_computes_the_same(folder: Path, to: str, tmp_path: Path) -> None:
    named = reference(folder)["target"]
    target = read_target(str(GOLDEN / named))
    if folder.name in HOLDS and to not in HOLDS[folder.name].split():
        with pytest.raises(InputError, match=r"cannot be (written|converted)|has a|reads MTP") as raised:
            convert(str(folder), to, tmp_path / "made", target)
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "made").exists()
        return
    try:
        convert(str(folder), to, tmp_path / "made", target)
    except InputError:
        if folder.name in HOLDS:
            raise
        return  # one of the vectors that are not known here, and a format that has no place for it
    made = load_drafter(str(tmp_path / "made"), target_of(named))
    assert isinstance(made, LearnedDrafter)
    assert made.gamma == reference(folder)["gamma"]
    check_logits(folder, target_of(named), made)
    publish(made, to, tmp_path / "published", target_of(named), torch.float32)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("made", "published"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.loads((tmp_path / "published" / "config.json").read_text()) == (
        json.loads((tmp_path / "made" / "config.json").read_text())
    )


def edited(name: str, folder: Path, **changes: Any) -> Path:
    """A golden checkpoint that says something else."""
    shutil.copytree(GOLDEN / name, folder)
    raw = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


golden = pytest.mark.skipif(not FOLDERS, reason="no golden vectors here")


@golden
def test_taps_in_another_order_are_written_as_engines_join_them(tmp_path: Path) -> None:
    """Read in reverse order: what is written has its columns where ids that rise put them."""
    tensors = load_file(GOLDEN / "eagle3_specforge" / "model.safetensors")
    turned = edited("eagle3_specforge", tmp_path / "turned")
    parts = tensors["fc.weight"].chunk(3, -1)
    save_file({**tensors, "fc.weight": torch.cat(parts[::-1], -1).contiguous()}, turned / "model.safetensors")
    target = read_target(str(GOLDEN / reference(GOLDEN / "eagle3_specforge")["target"]))
    declared = read_declared(turned, target.facts, "turned")
    reverse = replace(declared, settings=replace(declared.settings, taps=declared.settings.taps[::-1]))
    write_read(reverse, str(turned), "vllm", tmp_path / "made", target)
    made = load_drafter(str(tmp_path / "made"), target_of("target_llama"))
    check_logits(GOLDEN / "eagle3_specforge", target_of("target_llama"), made)


@golden
def test_tokens_drafted_of_a_longer_block_are_not_lost(tmp_path: Path) -> None:
    """A block of another length computes something else where its slots see each other."""
    ways = {"proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}], "default_proposal_method": "greedy"}
    raw = json.loads((GOLDEN / "speculators_dflash" / "config.json").read_text())
    folder = edited("speculators_dflash", tmp_path / "mine", speculators_config=raw["speculators_config"] | ways)
    target = read_target(str(GOLDEN / reference(GOLDEN / "speculators_dflash")["target"]))
    with pytest.raises(InputError, match=r"no drafts of fewer tokens than a block holds \(3 of "):
        convert(str(folder), "zlab", tmp_path / "zlab", target)
    convert(str(folder), "vllm", tmp_path / "vllm", target)
    assert read_declared(tmp_path / "vllm", target.facts, "made").gamma == 3


@golden
@pytest.mark.parametrize("ids", [[1, 3, 5, 8], [0, 3, 5, 7]])
def test_without_its_target_nobody_knows_what_the_last_layer_is(ids: list[int], tmp_path: Path) -> None:
    folder = edited("speculators_dflash", tmp_path / "mine", aux_hidden_state_layer_ids=ids)
    with pytest.raises(InputError, match="follows from the target; name the target"):
        convert(str(folder), "vllm", tmp_path / "made")
    target = read_target(str(GOLDEN / reference(GOLDEN / "speculators_dflash")["target"]))
    if 8 in ids:
        with pytest.raises(InputError, match="taps the target's last layer"):
            convert(str(folder), "vllm", tmp_path / "made", target)
    else:
        convert(str(folder), "vllm", tmp_path / "made", target)


@golden
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_tables_are_not_rounded_to_what_a_draft_is_written_in(kind: torch.dtype, tmp_path: Path) -> None:
    """A target in float32 whose draft is in 16 bits: its tables are the target's to the bit, or it drafts something else."""
    name, tensors = "eagle3_specforge", load_file(GOLDEN / "eagle3_specforge" / "model.safetensors")
    folder = edited(name, tmp_path / "mine")
    save_file({n: t.to(kind) if t.is_floating_point() else t for n, t in tensors.items()}, folder / "model.safetensors")
    target = read_target(str(GOLDEN / reference(GOLDEN / name)["target"]))
    convert(str(folder), "vllm", tmp_path / "made", target)
    made = load_file(tmp_path / "made" / "model.safetensors")
    assert torch.equal(made["embed_tokens.weight"], target.tables["embed_tokens.weight"])
    assert made["fc.weight"].dtype == kind
    assert json.loads((tmp_path / "made" / "config.json").read_text())["dtype"] == str(kind)[6:]


OWN = {"deepspec_gemma4_dspark": "deepspec", "zlab_dflash": "zlab"}
"""Those that are written as they are; speculators' beside them, by name."""
FREE = {
    "attention_dropout", "auto_map", "bos_token_id", "dtype", "embed_requires_grad", "eos_token_id", "initializer_range",
    "max_window_layers", "pad_token_id", "pretraining_tp", "target_hidden_size", "transformers_version", "use_cache",
}  # fmt: skip
"""Fields that say nothing of what a drafter computes."""
GEMMAS = {
    "head_dim", "layer_types", "moe_intermediate_size", "num_anchors", "num_experts", "num_key_value_heads",
    "num_kv_shared_layers", "rope_parameters", "sliding_window", "target_model_type", "target_text_model_type",
    "top_k_experts", "use_bidirectional_attention", "use_double_wide_mlp", "vocab_size_per_layer_input",
}  # fmt: skip
"""And of Gemma-4's, which has other sliding layers than its drafts."""


def own_format(folder: Path) -> str | None:
    """The format that a checkpoint is in, where it can be written."""
    return "speculators" if folder.name.startswith("speculators_") else OWN.get(folder.name)


@pytest.mark.parametrize("folder", [f for f in FOLDERS if own_format(f)], ids=lambda folder: folder.name)
def test_tensors_and_fields_are_named_as_their_publisher_does(folder: Path, tmp_path: Path) -> None:
    to = own_format(folder)
    assert to is not None
    convert(str(folder), to, tmp_path / "made", read_target(str(GOLDEN / reference(folder)["target"])))
    theirs, ours = load_file(folder / "model.safetensors"), load_file(tmp_path / "made" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    said, written = (json.loads((at / "config.json").read_text()) for at in (folder, tmp_path / "made"))
    named = said.get("speculators_config", {}).get("verifier", {})
    named |= {"name_or_path": str(GOLDEN / reference(folder)["target"])} if named else {}
    for one, other in (
        (said, written),
        (said.get("transformer_layer_config", {}), written.get("transformer_layer_config", {})),
    ):
        free = FREE | (GEMMAS if to == "deepspec" else set()) | {"transformer_layer_config"}
        kept = {name: value for name, value in one.items() if name not in free}
        assert {name: other.get(name, "nothing") for name in kept} == kept


@pytest.mark.slow
@pytest.mark.parametrize("folder", [f for f in FOLDERS if f.name in HOLDS], ids=lambda folder: folder.name)
def test_there_and_back_is_the_same_file(folder: Path, tmp_path: Path) -> None:
    """Of every pair of formats that have a place for a drafter, in both directions."""
    target = read_target(str(GOLDEN / reference(folder)["target"]))
    formats = HOLDS[folder.name].split()
    for to in formats:
        convert(str(folder), to, tmp_path / to, target)
    for to in formats:
        for other in formats:
            convert(str(tmp_path / other), to, tmp_path / f"{other} to {to}", target)
            first, second = (load_file(tmp_path / name / "model.safetensors") for name in (to, f"{other} to {to}"))
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name], second[name]) for name in first)
            configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in (to, f"{other} to {to}")]
            assert configs[0] == configs[1]


@pytest.mark.parametrize("ids", [[0, 2, 99], [0, -2], [0, 0], []])
def test_taps_that_the_target_has_not_are_told(ids: list[int], tmp_path: Path) -> None:
    shutil.copytree(TINY / "dspark", tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text()) | {"target_layer_ids": ids}
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    done = converted(str(tmp_path / "mine"), str(tmp_path / "made"), "--to", "speculators", "--target", "tiny")
    assert done.exit_code == 2
    [sentence] = done.stderr.splitlines()
    assert "target_layer_ids" in sentence
    assert not (tmp_path / "made").exists()


def converted(*options: str) -> Any:
    return CliRunner().invoke(app, ["convert", *options])


def test_the_bundled_drafter_in_another_format(tmp_path: Path) -> None:
    done = converted(str(TINY / "dspark"), str(tmp_path / "made"), "--to", "speculators", "--target", "tiny", "--json")
    assert done.exit_code == 0, done.output
    assert differences(done.stdout) == []
    written = json.loads((tmp_path / "made" / "config.json").read_text())
    assert (written["speculators_model_type"], written["sample_from_anchor"]) == ("dspark", True)
    tensors = load_file(tmp_path / "made" / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in tensors


def test_on_a_full_disk_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("drafters.formats.writing.save_file", full)
    done = converted(str(TINY / "dspark"), str(tmp_path / "made"), "--to", "speculators", "--target", "tiny")
    assert done.exit_code == 2
    [sentence] = done.stderr.splitlines()
    assert "No space left" in sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("drafter", "to", "message"),
    [
        ("dspark", "zlab", "no sequential head"), ("dspark", "speculators", "name the target|name it"),
        ("eagle3", "deepspec", "name the target"), ("eagle3", "zlab", "no EAGLE-3"), ("mtp", "vllm", "MTP modules"),
        ("nowhere", "vllm", "no such folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_told_and_nothing_is(drafter: str, to: str, message: str, tmp_path: Path) -> None:
    done = converted(str(TINY / drafter), str(tmp_path / "made"), "--to", to)
    assert done.exit_code == 2
    assert re.search(message, done.stderr)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("drafter", "to", "message"),
    [("eagle3", "zlab", "z-lab's, which has no EAGLE-3"), ("dspark", "zlab", "no sequential head"), ("mtp", "vllm", "MTP")],
)
def test_what_files_alone_tell_is_refused_before_a_library_is_loaded(
    drafter: str, to: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "drafters.conversion", None)  # which takes seconds to import
    done = converted(str(TINY / drafter), str(tmp_path / "made"), "--to", to, "--target", "tiny")
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_how_a_drafter_was_trained_goes_with_it(tmp_path: Path) -> None:
    shutil.copytree(TINY / "dspark", tmp_path / "mine")
    (tmp_path / "mine" / "training.json").write_text('{"steps": 4}')
    convert(str(tmp_path / "mine"), "speculators", tmp_path / "made", read_target(str(TINY / "target")))
    assert (tmp_path / "made" / "training.json").read_text() == '{"steps": 4}'
    modes = {file.stat().st_mode for file in (tmp_path / "made").iterdir() if file.name != "training.json"}
    assert len(modes) == 1


def test_tokens_that_a_format_has_no_place_for_are_told(tmp_path: Path) -> None:
    """vLLM's EAGLE-3 has no field for γ: the bundled drafter's 7 are read again as what published ones have."""
    done = converted(str(TINY / "eagle3"), str(tmp_path / "made"), "--to", "vllm", "--target", "tiny", "--json")
    assert done.exit_code == 0, done.output
    again = drafted_by(tmp_path / "made", read_target(str(TINY / "target")))
    assert again is not None
    assert ("no place for the 7 tokens" in done.stderr) == (again != 7)
    done = converted(str(TINY / "eagle3"), str(tmp_path / "other"), "--to", "speculators", "--target", "tiny")
    assert "no place for" not in done.stderr
