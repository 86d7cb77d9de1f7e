"""What training refuses or tells before it begins."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.training.material import load_target
from results.store.connection import check_written
from simulator.errors import InputError
from tests.harness.targets import TINY
from tests.harness.test_training import PROMPTS, SHORT, answers, micro, planned, ran


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in, with answers to train on."""
    monkeypatch.chdir(tmp_path)
    answers(tmp_path / "a.jsonl")
    return tmp_path


@pytest.mark.parametrize(("temperature", "said"), [(1.0, "nats more surprising than its own"), (0.0, "cannot come from")])
def test_answers_of_another_are_no_evidence(temperature: float, said: str, here: Path) -> None:
    """Random tokens under the bundled target: what a drafter is accepted of them is nothing that the target would accept."""
    lines = [json.loads(line) for line in (here / "a.jsonl").read_text().splitlines()]
    lines[0]["temperature"] = temperature
    (here / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = ran("mtp", "--target", "tiny", "--responses", "b.jsonl", "--to", "new", *SHORT, code=2)
    assert said in " ".join(done.stderr.split())
    assert "harness regenerate" in done.stderr
    assert not (here / "new").exists()
    assert not (here / "runs" / "unfinished").exists()


def test_what_is_left_out_is_told(here: Path) -> None:
    lines = [json.loads(line) for line in (here / "a.jsonl").read_text().splitlines()]
    for line in lines[1:6]:
        line["prompt_token_ids"] = [5] * 30
    lines[6]["token_ids"] = lines[6]["token_ids"][:2]
    lines[7]["domain"] = "rare"
    (here / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    target = str(micro("llama", here / "target"))
    done = ran("mtp", "--target", target, "--responses", "b.jsonl", "--to", "new", *SHORT, "--max-tokens", "18", "--json")
    facts = json.loads(done.stdout)["trained"]["facts"]
    assert (facts["left_out_long"], facts["left_out_short"], facts["cut"]) == (5, 1, 34)
    told = " ".join(done.stderr.split())
    for words in ("left out: 5 answers whose prompt fills", "left out: 1 answer of fewer", "no prompt of humaneval, rare"):
        assert words in told


def test_files_of_two_samplings_are_refused_in_words_of_training(here: Path) -> None:
    (here / "b.jsonl").write_text((here / "a.jsonl").read_text().replace('"temperature": 1.0', '"temperature": 0.5', 1))
    done = ran("mtp", "--target", "tiny", "--responses", "a.jsonl", "--responses", "b.jsonl", code=2)
    assert "a drafter is trained on files of one sampling" in " ".join(done.stderr.split())


def test_taps_of_the_last_layer_are_told(here: Path) -> None:
    target = str(micro("llama", here / "target"))
    base = ["eagle3", "--target", target, "--responses", "a.jsonl", *SHORT]
    told = " ".join(ran(*base, "--taps", "1,3,5", "--to", "a").stderr.split())
    assert "hands over after the last norm" in told
    assert "`harness convert --to vllm` will refuse it; leave it out of --taps" in told
    assert "last norm" not in ran(*base, "--taps", "1,2,3", "--to", "b").stderr


def test_what_vllm_has_no_layers_for_is_told(here: Path) -> None:
    target = str(micro("gemma4", here / "target"))
    base = ["eagle3", "--target", target, "--responses", "a.jsonl", *SHORT]
    told = " ".join(ran(*base, "--to", "a").stderr.split())
    assert "vLLM has no drafters with layers as Gemma-4's, so `harness convert --to vllm` will refuse it" in told
    assert "Gemma-4's" not in ran(*base, "--to", "b", "--format", "speculators").stderr
    for name, code in (("a", 2), ("b", 0)):
        converted = CliRunner().invoke(app, ["convert", name, "--to", "vllm", "--target", target, f"{name}-vllm"])
        assert converted.exit_code == code, converted.output


def test_a_folder_that_cannot_be_written_is_refused_first_and_leaves_nothing(here: Path) -> None:
    for to in ("/proc/new", "/proc/new/er", "a.jsonl/new"):
        done = ran("mtp", "--target", "tiny", "--responses", "a.jsonl", "--to", to, code=2)
        assert re.search("cannot be written|is no folder", done.stderr), done.stderr
        assert "choose another --to" in done.stderr
    check_written(here / "some" / "where" / "new", "--to")
    assert sorted(file.name for file in here.iterdir()) == ["a.jsonl"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["mtp"], "--target: name the model"),
        (
            ["eagle3", "--target", "tiny", "--responses", "a.jsonl", "--taps", "1,99"],
            "--taps 99: the target has layers 0 to",
        ),
        (["tree", "--target", "tiny"], "KIND tree: must be one of dspark"),
        (["mtp", "--target", "tiny"], "--responses: name the target's answers"),
        (["mtp", "--target", "tiny", "--responses", "no.jsonl"], "no.jsonl: cannot be read"),
        (["mtp", "--target", "tiny", "--responses", "a.jsonl", "--rank", "3"], "--rank 3"),
        (["mtp", "--target", "tiny", "--responses", "a.jsonl", "--hardware", "h200"], "--hardware: is of no use beside"),
        (["mtp", "--target", "tiny", "--responses", "a.jsonl", "--batch", "6", "--accumulate", "4"], "--batch 6"),
        (["mtp", "--target", "tiny", "--responses", "a.jsonl", "--shard"], "--shard: shares the target out over several"),
        (["mtp", "--target", "tiny", "--responses", "a.jsonl", "--to", "a.jsonl"], "is there, and is not written over"),
        (["mtp", "--target", "qwen3-4b", "--dry-run", "--steps", "3"], "--steps: is of no use beside --dry-run"),
        (
            ["mtp", "--target", "tiny", "--responses", "a.jsonl", "--steps", "3", "--epochs", "2"],
            "--epochs: is of no use beside --steps",
        ),
        (
            ["mtp", "--target", "tiny", "--responses", "a.jsonl", "--prompts", str(PROMPTS / "gsm8k.jsonl")],
            "--prompts: is of no use beside --responses that say themselves what was asked",
        ),
        (["mtp", "--target", "tiny", "--responses", "a.jsonl", "--thinking"], "--thinking: is of no use beside --responses"),
        (["mtp", "--target", "tiny", "--responses", "a.jsonl", "--cache", "20"], "--cache 20: is written as 20GB"),
        (
            ["mtp", "--target", "tiny", "--responses", "a.jsonl", "--max-tokens", "5"],
            "--max-tokens 5: must be from 8 to 1,048,576",
        ),
        (
            ["mtp", "--target", "tiny", "--responses", "a.jsonl", "--from", "nowhere"],
            "--from nowhere: no such folder",
        ),
        (
            ["mtp", "--target", "tiny", "--responses", "a.jsonl", "--held-out", "0.0001"],
            "none is held out; give more prompts, or a larger share",
        ),
        (["--resume", "ffff"], "--resume ffff: is not the start of one training"),
        (["--resume", "ffff", "--steps", "3"], "--steps: cannot stand beside --resume"),
        (
            ["dspark", "--target", "tiny", "--responses", "a.jsonl", "--vocabulary", "99999"],
            "--vocabulary 99999: the target",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(options: list[str], message: str, here: Path) -> None:
    done = ran(*options, code=2)
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not (here / "runs" / "drafters").exists()
    assert not (here / "runs" / "unfinished").exists()


def test_short_answers_have_no_acceptance_where_nothing_is_drafted_and_shorter_ones_are_refused(here: Path) -> None:
    lines = [json.loads(line) for line in (here / "a.jsonl").read_text().splitlines()]

    def cut(tokens: int) -> list[str]:
        text = "".join(
            json.dumps({**e, "token_ids": e["token_ids"][:tokens]} if "token_ids" in e else e) + "\n" for e in lines
        )
        (here / "s.jsonl").write_text(text)
        return ["dflash", "--target", str(here / "target"), "--responses", "s.jsonl", "--layers", "1", *SHORT]

    micro("llama", here / "target")
    done = ran(*cut(3), "--to", "new", "--json")
    for positions in json.loads(done.stdout)["trained"]["acceptance"].values():
        assert [a is None for a in positions] == [False, False, *[True] * 5]
    assert re.search(
        r"accepted\s+by\s+position,\s+of\s+rounds\s+that\s+reach\s+it,\s+mean\s+of\s+domains \S+ \S+ – – – – –", done.stderr
    )
    refused = ran(*cut(2), "--to", "newer", code=2)
    assert "of 40 answers none has 3 tokens or more" in refused.stderr.replace("\n", " ")


def test_bad_input_is_refused_before_torch_is_there(here: Path) -> None:
    """Each of these before anything that takes seconds."""
    bare, hollow = here / "bare", here / "hollow"
    for folder, files in ((bare, ()), (hollow, ("tokenizer.json", "tokenizer_config.json"))):
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "llama", "vocab_size": 500, "max_position_embeddings": 512}')
        for file in files:
            shutil.copy(TINY / "target" / file, folder / file)
    base = ["--responses", "a.jsonl", "--target"]
    asked: list[tuple[list[str], str]] = [
        (["train", "mtp", "--target", "tiny", "--responses", "b.jsonl"], "b.jsonl"),
        (["train", "dspark", *base, "hollow", "--vocabulary", "5000"], "--vocabulary 5000: the target has 500 tokens"),
        (["train", "mtp", *base, "bare"], "has no tokenizer.json"),
        (["train", "mtp", *base, "hollow"], "has no weights (*.safetensors)"),
        (["regenerate", "--prompts", "p.jsonl", "--max-new-tokens", "600", "--target", "hollow"],
         "--max-new-tokens 600: the target's context is 512 tokens"),
        (["regenerate", "--prompts", "p.jsonl", "--max-new-tokens", "60", "--target", "bare"], "has no tokenizer.json"),
        (["regenerate", "--prompts", "p.jsonl", "--max-new-tokens", "60", "--target", "hollow"], "has no weights"),
    ]  # fmt: skip
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom harness.cli.app import app\n"
        f"for words, said in {asked!r}:\n"
        "    done = CliRunner().invoke(app, words)\n"
        "    assert done.exit_code == 2 and said in done.stderr, (words, done.output)\n"
        "    assert not {'torch', 'ray', 'transformers'} & {*sys.modules}, words\n"
    )
    (here / "p.jsonl").write_text('{"prompt": "1 + 1?"}\n')
    (here / "b.jsonl").write_text('{"temperature": 1}\n{"prompt_id": 3}\n')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shard", [False, True])
def test_a_device_that_is_not_there_is_told_before_the_target_is_loaded(shard: bool) -> None:
    plan = planned(shard=shard)
    plan = msgspec.structs.replace(plan, pair=msgspec.structs.replace(plan.pair, device="cuda:99", target="nowhere"))
    with pytest.raises(InputError, match="device cuda:99: not available here"):
        load_target(plan)
