"""`harness train`: from answers to a checkpoint that a recording takes, stopped or not, on targets of several families."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen3Config
from typer.testing import CliRunner

from drafters.training.held_out import ratio
from drafters.training.loop import STATE, Trainer
from harness.cli.app import app
from harness.recording.pair import as_typed, asked_pair, load_pair
from harness.recording.suite import Generation, read_prompts
from harness.recording.worker import Recorder, RecorderOptions, Unit
from harness.training.material import load_target, precision, prepare, texts_of
from harness.training.plan import PLAN, TrainingPlan, folder_of, read_given
from harness.training.run import seconds_of, sit_down
from results.figures.intervals import half_width
from tests.documented import differences
from tests.drafters.families import FAMILIES
from tests.harness.targets import TINY
from tests.selection import few

SHORT = ["--steps", "4", "--batch", "4", "--anchors", "4", "--evaluations", "2", "--held-out", "0.2"]
PROMPTS = Path(__file__).parents[2] / "suites" / "math_code_chat" / "prompts"


def micro(family: str, folder: Path) -> Path:
    """A target of random weights with the bundled one's tokenizer."""
    sizes: dict[str, Any] = {
        "vocab_size": 4096, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "eos_token_id": 2, "pad_token_id": 0,
        "bos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    if family == "gemma4":
        own = {**FAMILIES["gemma4 (text)"][1], "layer_types": ["sliding_attention", "full_attention"] * 3}
        config = AutoConfig.for_model(FAMILIES["gemma4 (text)"][0], **{**own, **sizes, "global_head_dim": 8})
    else:
        config = {"llama": LlamaConfig, "qwen3": Qwen3Config}[family](**sizes)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / "target" / file, folder / file)
    return folder


def answers(file: Path, *, count: int = 40, said: bool = True) -> Path:
    """Random answers to the suite's prompts, as if cut by the length limit; `said` with what was asked."""
    rng = np.random.default_rng(0)
    prompts = read_prompts([PROMPTS / "gsm8k.jsonl", PROMPTS / "humaneval.jsonl", PROMPTS / "mbpp.jsonl"])
    lines: list[dict[str, Any]] = [{"temperature": 1.0}]
    for i in range(count):
        prompt, more = prompts[i % len(prompts)], {}
        if said:
            more = {"prompt_token_ids": rng.integers(4, 4096, 8).tolist(), "domain": prompt.domain}
        name = prompt.prompt_id if i < len(prompts) else f"{prompt.prompt_id}/{i}"
        ids = rng.integers(4, 40, 12).tolist()
        lines.append({"prompt_id": name, "token_ids": ids, "finish": "length", "turn": 0, **more})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    answers(tmp_path / "a.jsonl")
    return tmp_path


def ran(*options: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["train", *options])
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.mark.parametrize(
    ("family", "kind", "options"),
    [
        ("llama", "dspark", ["--vocabulary", "64", "--rank", "4", "--layers", "1", "--cache", "1MB"]),
        ("gemma4", "dspark", ["--rank", "4", "--layers", "1", "--precision", "bfloat16", "--accumulate", "2"]),
        pytest.param("llama", "eagle3", [], marks=pytest.mark.slow),
        pytest.param("qwen3", "mtp", ["--precision", "float32"], marks=pytest.mark.slow),
        pytest.param(
            "qwen3", "dflash", ["--layers", "1", "--format", "speculators", "--vocabulary", "32"], marks=pytest.mark.slow
        ),
    ],
)
def test_what_is_trained_is_recorded_at_once(family: str, kind: str, options: list[str], here: Path) -> None:
    target = micro(family, here / "target")
    ran(kind, "--target", "target", "--responses", "a.jsonl", "--to", "new", *SHORT, *options)
    assert not (here / "runs" / "unfinished").exists()
    pair, chosen = asked_pair("tiny", str(target), ["new=new"])
    recorder = Recorder(RecorderOptions(load_pair(pair), chosen, None, Generation(max_new_tokens=6), 0))
    [declared] = [d for name, d in recorder.check([], {}).drafters.items() if name == "new"]
    assert declared["kind"] == kind
    assert declared["training"]["steps"] == 4
    prompts = read_prompts([PROMPTS / "gsm8k.jsonl"], 1)
    rows = recorder.record(Unit(prompts))["anchors"].to_pylist()
    assert {row["drafter"] for row in rows} == {"new"}


@pytest.mark.slow
@pytest.mark.ray
def test_answers_then_a_drafter_then_what_it_is_worth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three commands, each with what the one before printed, on a Llama in a folder as people name them."""
    monkeypatch.chdir(tmp_path)
    micro("llama", tmp_path / "My Llama v2")
    rows = [{"domain": ("math", "chat")[i % 2], "prompt": f"What is {i} + {i * 3}?"} for i in range(24)]
    Path("my prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def typed(line: str, *more: str) -> str:
        done = CliRunner().invoke(app, [*shlex.split(line)[1:], *more])
        assert done.exit_code == 0, (line, done.output, done.exception)
        return done.stdout

    printed = typed(
        "harness regenerate --target 'My Llama v2' --prompts 'my prompts.jsonl' --max-new-tokens 12 --actors 1 --to a.jsonl"
    )
    [train] = [line for line in printed.splitlines() if line.startswith("  harness train")]
    printed = typed(train, "--to", "new drafter", "--layers", "1", "--rank", "4", *SHORT)
    [record] = [line for line in printed.splitlines() if line.startswith("  harness record")]
    printed = typed(record, "--limit", "1", "--max-new-tokens", "8", "--actors", "1")
    assert "new" in printed
    page = Path(typed("harness report").strip()).read_text(encoding="utf-8")
    assert "chat" in page
    config = json.loads(Path("new drafter", "config.json").read_text())
    assert config["speculators_config"]["verifier"]["name_or_path"].endswith("My Llama v2")


def test_its_json_is_documented_and_its_lines_say_what_was_found(here: Path) -> None:
    done = ran(
        "mtp", "--target", str(micro("qwen3", here / "target")), "--responses", "a.jsonl", "--to", "new", *SHORT, "--json",
        "--precision", "auto",
    )  # fmt: skip
    assert differences(done.stdout) == []
    trained = json.loads(done.stdout)["trained"]
    assert trained["tau"].keys()
    assert trained["tau"].keys() <= {"gsm8k", "humaneval", "mbpp"}
    kept = json.loads((here / "new" / "training.json").read_text())
    assert kept["plan"]["design"]["kind"] == "mtp"
    assert [e["step"] for e in kept["evaluated"]] == [0, 2, 4]
    assert kept["facts"]["seconds"] == trained["facts"]["seconds"] > 0
    assert len(kept["trained_on"]) > 0
    assert all(re.fullmatch("[0-9a-f]{12}", one) for one in kept["trained_on"])
    modes = {(here / "new" / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1  # a server of another user reads both or none
    assert trained["best_step"] in {e["step"] for e in trained["evaluated"]}
    for said in ("held out by prompt", "runs of 13 tokens", "precision:", "cache: none", r"step 4, loss [\d.]+: τ gsm8k"):
        assert re.search(said, done.stderr), said


def test_stopped_it_says_how_to_go_on_and_ends_with_the_same_weights(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed by name, or by the same command."""
    micro("llama", here / "target")
    options = ["dspark", "--target", "target", "--responses", "a.jsonl", "--rank", "4", "--layers", "1", *SHORT]
    ran(*options, "--to", "whole", "--out", "other")
    update, names = Trainer._update, []
    monkeypatch.setattr(Trainer, "__init__", _keeping_every_step(Trainer.__init__))

    def interrupted(self: Trainer, indices: Any) -> None:
        if self.step == 3:
            raise KeyboardInterrupt
        update(self, indices)

    for again in ("resume", "same"):
        monkeypatch.setattr(Trainer, "_update", interrupted)
        to = here / again
        kept: list[str] = []
        monkeypatch.setattr("harness.stops.keep", lambda name, resume, kept=kept: kept.append(resume))
        ran(*options, "--to", str(to), code=130)
        assert not to.exists()
        [name] = {*kept}
        names.append(name)
        assert (folder_of(here / "runs", name) / PLAN).exists()
        monkeypatch.setattr(Trainer, "_update", update)
        ran(*(["--resume", name[:6]] if again == "resume" else [*options, "--to", str(to)]))
        assert (to / "model.safetensors").read_bytes() == (here / "whole" / "model.safetensors").read_bytes()
        assert json.loads((to / "training.json").read_text())["facts"]["seconds"] > 0
        assert not (here / "runs" / "unfinished").exists()
    assert len({*names}) == 2


def test_what_it_took_is_counted_over_all_sittings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first of 40 s, up to where it last kept what it had; an hour in which nothing ran; a second of 5 s."""
    clock = [1_000.0]
    monkeypatch.setattr("harness.training.run.time.time", lambda: clock[0])
    sit_down(tmp_path)
    (tmp_path / STATE).touch()
    os.utime(tmp_path / STATE, (1_040.0, 1_040.0))
    clock[0] += 3_600
    sit_down(tmp_path)
    clock[0] += 5
    assert seconds_of(tmp_path) == pytest.approx(45.0)


def test_stopped_before_anything_was_kept_it_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    micro("qwen3", here / "target")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.training.run.prepare", interrupted)
    ran("mtp", "--target", "target", "--responses", "a.jsonl", "--to", "new", *SHORT, code=130)
    assert not (here / "runs" / "unfinished").exists()


def _keeping_every_step(made: Callable[..., None]) -> Callable[..., None]:
    def init(self: Trainer, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **{**options, "save_every_s": 0})

    return init


def test_contexts_are_those_of_a_recording_where_a_file_does_not_say_them(here: Path) -> None:
    answers(here / "bare.jsonl", count=6, said=False)
    refused = ran("mtp", "--target", "tiny", "--responses", "bare.jsonl", code=2)
    assert "name the prompts' file with --prompts" in refused.stderr.replace("\n", " ")
    files = [PROMPTS / "gsm8k.jsonl", PROMPTS / "humaneval.jsonl", PROMPTS / "mbpp.jsonl"]
    given = read_given([here / "bare.jsonl"], files)
    from drafters.training.recipe import Design, Recipe

    pair = load_pair(asked_pair("tiny", "tiny")[0])
    plan = TrainingPlan(pair=pair, design=Design(kind="mtp"), recipe=Recipe(), responses=(), responses_hash="")
    target = load_target(plan)
    texts = texts_of(plan, given, target)
    [first] = [text for text in texts if text.name == "gsm8k/b00"]
    [prompt] = [p for p in read_prompts(files) if p.prompt_id == "gsm8k/b00"]
    assert list(first.prompt) == target.encode_chat([{"role": "user", "content": prompt.turns[0]}])
    assert first.domain == "gsm8k"
    assert msgspec.json.decode(msgspec.json.encode(plan), type=TrainingPlan) == plan


def test_turns_that_say_what_stood_before_them_are_taken_at_their_word(here: Path) -> None:
    """Also beside --prompts, and where turns between are not there."""
    asked = {"prompt_id": "c", "domain": "chat", "turns": ["one?", "two?", "three?"]}
    (here / "p.jsonl").write_text(json.dumps(asked) + "\n")
    rows = [{"temperature": 1.0}, *({"prompt_id": "p/c", "turn": t, "token_ids": [9] * 4, "finish": "length",
                                     "prompt_token_ids": [7] * (t + 1)} for t in (0, 2))]  # fmt: skip
    (here / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = planned()
    texts = texts_of(plan, read_given([here / "r.jsonl"], [here / "p.jsonl"]), load_target(plan))
    assert [(t.prompt, t.opening, t.domain) for t in texts] == [((7,), (7,), "chat"), ((7, 7, 7), (7,), "chat")]


def stopped(monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    """What goes on with a training that is interrupted in its fourth step."""
    update, kept = Trainer._update, list[str]()

    def interrupted(self: Trainer, indices: Any) -> None:
        if self.step == 3:
            raise KeyboardInterrupt
        update(self, indices)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_update", interrupted)
        patched.setattr("harness.stops.keep", lambda name, resume: kept.append(resume))
        ran(*options, code=130)
    return kept[0]


@pytest.mark.parametrize("changed", few(["prompts", "target", "tokenizer", "drafter"], "prompts"))
def test_what_has_changed_since_it_began_is_not_gone_on_with(
    changed: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = micro("llama", here / "target")
    prompts = shutil.copy(PROMPTS / "gsm8k.jsonl", here / "gsm8k.jsonl")
    head, first, *rest = map(json.loads, (here / "a.jsonl").read_text().splitlines())
    del first["prompt_token_ids"]
    (here / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (head, first, *rest)))
    options = ["mtp", "--target", "target", "--responses", "a.jsonl", "--prompts", "gsm8k.jsonl", *SHORT]
    if changed == "drafter":
        ran(*options, "--to", "old")
        options += ["--from", "old"]
    resumed = stopped(monkeypatch, *options, "--to", "new")
    if changed == "prompts":
        Path(prompts).write_text(Path(prompts).read_text().replace("How many", "How few"))
    elif changed == "tokenizer":
        said = json.loads((target / "tokenizer_config.json").read_text())
        (target / "tokenizer_config.json").write_text(json.dumps(said | {"padding_side": "left"}))
    else:
        weights = (target if changed == "target" else here / "old") / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    done = ran("--resume", resumed, code=2)
    assert re.search("(has|have) changed since", done.stderr), done.stderr


def test_a_full_disk_is_told_and_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("harness.training.run.sit_down", full)
    done = ran("mtp", "--target", "tiny", "--responses", "a.jsonl", "--out", "small", "--to", "new", *SHORT, code=2)
    assert "--out small: there is no space left on its disk; make room, or choose another --out" in done.stderr
    assert not any(here.glob("small/*"))


def test_one_that_is_gone_on_with_is_written_elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    micro("llama", here / "target")
    resumed = stopped(monkeypatch, "mtp", "--target", "target", "--responses", "a.jsonl", "--to", "new", *SHORT)
    (here / "new").write_text("in the way")
    assert "is there, and is not written over" in ran("--resume", resumed, code=2).stderr
    ran("--resume", resumed, "--to", "newer")
    assert (here / "newer" / "model.safetensors").exists()
    assert not (here / "runs" / "unfinished").exists()


def test_part_of_an_epoch_costs_its_part() -> None:
    costs = [
        json.loads(ran("dspark", "--target", "qwen3-4b", "--dry-run", "--epochs", e, "--json").stdout) for e in ("0.5", "2")
    ]
    part, whole = (cost["asked"]["target_flops"] for cost in costs)
    assert part == pytest.approx(whole / 4)


@pytest.mark.slow
def test_an_old_drafter_is_gone_on_from(here: Path) -> None:
    """Its first evaluation is the old one's last."""
    target = str(micro("qwen3", here / "target"))
    base = ["--target", target, "--responses", "a.jsonl", *SHORT, "--json"]
    old = json.loads(ran("eagle3", *base, "--to", "old").stdout)["trained"]
    new = json.loads(ran("eagle3", *base, "--from", "old", "--to", "new").stdout)["trained"]
    [kept] = [e for e in old["evaluated"] if e["step"] == old["best_step"]]
    assert new["evaluated"][0]["drafting"][0]["tau"] == pytest.approx(kept["drafting"][0]["tau"], abs=5e-3)
    refused = ran("eagle3", *base[:-1], "--from", "old", "--gamma", "3", code=2)
    assert "--gamma: is of no use beside --from" in refused.stderr


def planned(**changes: Any) -> TrainingPlan:
    from drafters.training.recipe import Design, Recipe

    pair = load_pair(asked_pair("tiny", "tiny")[0])
    return TrainingPlan(pair=pair, design=Design(kind="mtp"), recipe=Recipe(), responses=(), responses_hash="", **changes)


def test_a_plan_of_before_targets_were_shared_out_keeps_its_name() -> None:
    before = msgspec.json.encode(planned()).replace(b'"shard":false,', b"").replace(b'"prompts_hash":"",', b"")
    assert b"shard" not in before
    assert b"prompts_hash" not in before
    assert planned().name == hashlib.sha256(before).hexdigest()[:8]
    shared = msgspec.json.encode(planned(shard=True)).replace(b'"prompts_hash":"",', b"")
    assert planned(shard=True).name == hashlib.sha256(shared).hexdigest()[:8]


def test_a_precision_that_was_kept_in_part_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.training.material.fastest", lambda _: (torch.bfloat16, 2.0))
    file, told = tmp_path / "precision", list[str]()
    for kept, expected in (("", "bfloat16"), ("float", "bfloat16"), ("float32", "float32"), ("bfloat16", "bfloat16")):
        file.write_text(kept)
        assert precision(planned(), tmp_path, told.append) == getattr(torch, expected)
        assert [f.read_text() for f in tmp_path.iterdir()] == [expected]
    assert len(told) == 2


def test_a_process_that_does_not_evaluate_keeps_no_states_of_held_out_texts(here: Path) -> None:
    plan = planned()
    plan = msgspec.structs.replace(
        plan, pair=msgspec.structs.replace(plan.pair, target=str(micro("llama", here / "target")))
    )
    given = read_given([here / "a.jsonl"], [])
    (here / "precision").write_text("float32")
    for evaluates in (True, False):
        made = prepare(plan, given, here, lambda _: None, lambda *_: None, evaluates=evaluates)
        assert bool(made.material.held_out) == evaluates


def test_intervals_hold_the_true_ratio_as_often_as_they_say() -> None:
    """Nine prompts, of which each accepts in its own way; 95 % of 2,000 intervals, within what linearising costs."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        rounds = rng.integers(10, 40, 9)
        tokens = rounds * (1.7 + 0.3 * rng.standard_normal(9))
        found, error = ratio(tokens, rounds)
        assert error is not None
        held += abs(found - 1.7) <= (half_width(error, 9) or 0)
    assert 0.93 <= held / 2000 <= 0.97


@pytest.mark.slow
@pytest.mark.ray
def test_two_processes_have_the_loss_curve_of_one_whether_each_holds_the_target_or_half_of_its_layers(here: Path) -> None:
    pytest.importorskip("pandas", reason="Ray Train needs it: pip install 'specyard[train]'")
    target = str(micro("llama", here / "target"))
    base = ["dspark", "--target", target, "--responses", "a.jsonl", "--layers", "1", "--rank", "4", *SHORT, "--json"]
    curves = []
    for name, own in (("one", []), ("two", ["--processes", "2"]), ("halves", ["--processes", "2", "--shard"])):
        command = [sys.executable, "-m", "harness", "train", *base, *own, "--to", name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        curves.append([e["loss"] for e in json.loads(done.stdout)["trained"]["evaluated"]][1:])
    assert len(curves[0]) == 2
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
    assert curves[2] == pytest.approx(curves[0], rel=1e-3)


def test_what_comes_next_names_the_target_as_it_is_typed() -> None:
    assert as_typed(load_pair(asked_pair("tiny", "tiny")[0]).target) == "tiny"
    assert as_typed("smollm2") == "smollm2"
    assert as_typed("/some/folder") == "/some/folder"
