"""llama.cpp accepts as many drafts of our checkpoints as we do, of the same text; where `tools/llama_cpp.sh` has fetched it.

Texts are greedy, in float32, and drafts are what its `--spec-type` is told. At an end of a text the two count differently:
what lies beyond a limit, we draft and it does not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.pretokens import PRE_TOKENS, TEXTS
from drafters.target import Target
from harness.cli.app import app
from harness.recording.suite import read_prompts
from simulator.records import Sampling
from tests.drafters.test_gguf import written
from tests.harness.targets import TINY
from tests.harness.test_training import PROMPTS

FETCHED = Path(os.environ.get("SPECYARD_LLAMA_CPP", "nowhere")).resolve()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (FETCHED / "llama.cpp").is_dir(), reason="SPECYARD_LLAMA_CPP: not what tools/llama_cpp.sh made"),
]
LENGTH, COUNT = 96, 6
CONVERT = """
import os, runpy, sys
os.chdir(sys.argv.pop(1))
sys.path[:0] = [os.getcwd(), "gguf-py"]
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"  # it knows tokenizers by what they are published with
runpy.run_path("convert_hf_to_gguf.py", run_name="__main__")
"""
SERVE = """
import json, sys
import xllamacpp
asked = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup = asked["target"], 1024, 1, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.speculative.types = [getattr(xllamacpp.common_speculative_type, "COMMON_SPECULATIVE_TYPE_" + asked["type"])]
draft = params.speculative.draft
draft.mparams.path, draft.n_max, draft.n_min, draft.p_min = asked["draft"], asked["k"], 0, 0.0
server, told = xllamacpp.Server(params), []
for prompt in asked["prompts"]:
    request = {"prompt": prompt, "n_predict": asked["length"], "temperature": 0, "samplers": ["temperature"]}
    answer = server.handle_completions({**request, "cache_prompt": False})
    answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
    times = answer["timings"]
    told.append([answer["choices"][0]["text"], times.get("draft_n", 0), times.get("draft_n_accepted", 0)])
print("TOLD" + json.dumps(told))
"""


TOKENIZE = """
import json, os, sys, urllib.request
import xllamacpp
asked = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup, params.port = asked["target"], 256, 1, False, 0
server, told = xllamacpp.Server(params), []
for text, around in asked["texts"]:
    body = json.dumps({"content": text, "add_special": around, "parse_special": True}).encode()
    request = urllib.request.Request(server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
    told.append(json.loads(urllib.request.urlopen(request, timeout=60).read())["tokens"])
print("TOLD" + json.dumps(told), flush=True)
os._exit(0)
"""


class Drafted(NamedTuple):
    """What became of a prompt."""

    text: str
    drafted: int
    accepted: int


def converted(folder: Path, to: Path, target: Path | None = None) -> Path:
    """A checkpoint as llama.cpp's own converter writes it."""
    options = [] if target is None else ["--target-model-dir", str(target)]
    command = [str(FETCHED / "llama.cpp"), str(folder), "--outtype", "f32", "--outfile", str(to), *options]
    environment = {**os.environ, "PYTHONPATH": str(FETCHED / "python")}
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, *command], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return to


def told(program: str, asked: dict[str, Any]) -> list[Any]:
    """What a program says that holds llama.cpp, in a process of its own: it ends the process where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(FETCHED / "python")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("TOLD")]
    return list(json.loads(line[4:]))


def theirs(target: Path, draft: Path, way: str, k: int, prompts: list[list[int]]) -> list[Drafted]:
    """By llama.cpp's server, `way` as its `--spec-type` says it."""
    asked = {
        "target": str(target), "draft": str(draft), "type": way.upper().replace("-", "_"), "k": k, "prompts": prompts,
        "length": LENGTH,
    }  # fmt: skip
    return [Drafted(*one) for one in told(SERVE, asked)]


def ours(target: Target, draft: Path, prompts: list[list[int]]) -> tuple[int, list[Drafted]]:
    """(tokens of a draft, what became of each prompt), by the loop that recordings and servers are held against."""
    drafter = load_drafter(str(draft), target)
    requests = [DecodeRequest(tuple(ids), LENGTH, (0, i)) for i, ids in enumerate(prompts)]
    found = dict(decode(target, drafter, requests, Sampling(temperature=0), max_batch=COUNT, drafting="greedy"))
    assert target.tokenizer is not None
    return drafter.gamma, [
        Drafted(
            target.tokenizer.decode([t for t in one.token_ids if t not in target.stop_tokens]),
            sum(r.drafted for r in one.rounds), sum(r.accepted for r in one.rounds),
        )
        for _, one in sorted(found.items())
    ]  # fmt: skip


def check_alike(target: Path, draft: Path, way: str, tmp_path: Path, *, least: int = COUNT - 1) -> float:
    """Both accept alike, of at least so many texts that are the same; returns the share of drafted tokens that was."""
    model = Target.load(str(target), dtype=torch.float32, device="cpu")
    asked = [prompt.turns[0] for prompt in read_prompts([PROMPTS / "gsm8k.jsonl"], COUNT)]
    prompts = [model.encode_chat([{"role": "user", "content": text}]) for text in asked]
    k, mine = ours(model, draft, prompts)
    its = converted(target, tmp_path / "target.gguf"), converted(draft, tmp_path / "draft.gguf", target)
    found = theirs(*its, way, k, prompts)
    alike = [(a, b) for a, b in zip(mine, found, strict=True) if a.text.strip() == b.text.strip()]
    assert len(alike) >= least, (mine, found)  # others go another way where two tokens are as probable
    for a, b in alike:
        assert abs(a.accepted - b.accepted) <= k
        assert abs(a.drafted - b.drafted) <= k * (k + 1) / 2  # it drafts no more than what may still be said
    return sum(a.accepted for a, _ in alike) / sum(a.drafted for a, _ in alike)


@pytest.mark.parametrize(
    ("drafter", "written", "way"),
    [("dspark", "", "draft-dspark"), ("dspark", "speculators", "draft-dspark"), ("dflash", "", "draft-dspark")],
)
def test_the_bundled_drafters(drafter: str, written: str, way: str, tmp_path: Path) -> None:
    folder = TINY / drafter
    if written:
        options = ["--to", written, "--target", str(TINY / "target")]
        done = CliRunner().invoke(app, ["convert", str(folder), str(tmp_path / "other"), *options])
        assert done.exit_code == 0, done.output
        folder = tmp_path / "other"
    assert check_alike(TINY / "target", folder, way, tmp_path) > 0.1


def test_a_dflash_whose_anchors_slot_drafts_is_drafted_as_dspark(tmp_path: Path) -> None:
    """Under its own name llama.cpp takes the first slot for the anchor's, and next to nothing is accepted."""
    with pytest.raises(AssertionError, match=r"abs\(\("):  # the counts, of texts that are the same
        check_alike(TINY / "target", TINY / "dflash", "draft-dflash", tmp_path)


@pytest.mark.ray
def test_what_is_trained_for_a_llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EAGLE-3 of Llama's layers in speculators' format: on its target's answers, which repeat themselves."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4, "head_dim": 32}
    own = {"num_key_value_heads": 2, "vocab_size": 4096, "max_position_embeddings": 512, "eos_token_id": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, **own, initializer_range=0.03)).save_pretrained("target")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / "target" / file, tmp_path / "target" / file)
    asked = ["--prompts", str(PROMPTS / "gsm8k.jsonl"), "--limit", "24", "--temperature", "0", "--max-new-tokens", "64"]
    steps = ["--steps", "120", "--batch", "8", "--anchors", "16", "--evaluations", "1", "--precision", "float32"]
    for command in (
        ["regenerate", "--target", "./target", *asked, "--to", "answers.jsonl", "--actors", "1"],
        ["train", "eagle3", "--target", "./target", "--responses", "answers.jsonl", *steps, "--to", "new"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    assert check_alike(tmp_path / "target", tmp_path / "new", "draft-eagle3", tmp_path, least=2) > 0.02


@pytest.mark.parametrize("pre", sorted({way: name for name, way in reversed(PRE_TOKENS.items())}.values()))
def test_texts_are_cut_as_it_cuts_them(pre: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file says of it, of a model whose class has a way of its own; and signs stand around a text as there."""
    monkeypatch.setenv("SPECYARD_CACHE", str(tmp_path / "cache"))
    written(tmp_path / "m.gguf", "qwen2", tokenizer_pre=pre, tokenizer__ggml__bos_token_id=0)
    read = Target.load(str(tmp_path / "m.gguf")).tokenizer
    assert read is not None
    asked = [[text, around] for text in (*TEXTS, "THE Http's DON'T 100000") for around in (False, True)]
    found = told(TOKENIZE, {"target": str(tmp_path / "m.gguf"), "texts": asked})
    for (text, around), ids in zip(asked, found, strict=True):
        assert list(read(text, add_special_tokens=around).input_ids) == ids, (text, around)
