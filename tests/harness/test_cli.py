"""The command line: quick to answer, and bad input gets one sentence, exit code 2 and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
import typer
from typer.testing import CliRunner

from harness.cli.app import app as harness_app
from harness.cli.doctor import _fitting
from harness.cluster import Cluster
from harness.recording.pair import BUNDLED_PAIRS
from results.store.database import Store
from results.store.rows import response_tables
from simulator.errors import InputError
from simulator.records import Recording
from tests.harness.processes import refusal
from tests.harness.test_run import harness
from tests.results.test_store import INFO, RESPONSE
from tuner.cli.app import app as tuner_app

TINY = BUNDLED_PAIRS.parents[2] / "drafters" / "tiny"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, harness.cli.app; heavy = {'torch', 'ray', 'transformers', 'plotly', 'polars', 'duckdb', 'numpy'}; "
        "sys.exit(f'imported {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", [harness_app, tuner_app], ids=["harness", "tuner"])
def test_help_names_every_command_and_option_whole(program: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    commands: Any = typer.main.get_command(program)
    listed = CliRunner().invoke(program, ["--help"], terminal_width=80).stdout
    for name, command in commands.commands.items():
        assert command.get_short_help_str(limit=1000) in " ".join(listed.split())
        shown = CliRunner().invoke(program, [*name.split(), "--help"], terminal_width=80).stdout
        assert max(map(len, shown.splitlines())) <= 80
        for parameter in command.params:
            assert parameter.param_type_name != "option" or parameter.hidden or parameter.opts[0] in shown


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["runs"], "torch,ray,transformers,plotly"),
        (["show"], "torch,ray,transformers,plotly"),
        (["replay"], "torch,ray,transformers,plotly"),
        (["synthesize", "--responses-per-task", "1", "--output-tokens", "16"], "torch,ray,transformers"),
    ],
)
def test_commands_that_run_no_model_import_none(arguments: list[str], heavy: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "specyard.duckdb")
    store.add(store.create_run(INFO), response_tables(Recording("dspark", 2), [RESPONSE]))
    code = (
        "import sys; from harness.cli.app import app; app(sys.argv[2:], standalone_mode=False); "
        "found = set(sys.argv[1].split(',')) & set(sys.modules); sys.exit(f'imported {found}' if found else 0)"
    )
    command = [sys.executable, "-c", code, heavy, *arguments, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("run suites/nothing", "suites/nothing"),
        ("run math_code_chat --pair nothing", "pair nothing"),
        ("run math_code_chat --drafter medusa", "medusa"),
        ("run math_code_chat --block-sizes 99", "block size of 99"),
        ("run math_code_chat --data-dir nowhere", "gsm8k.jsonl"),
        ("run math_code_chat --responses nowhere.jsonl", "nowhere.jsonl"),
        ("run math_code_chat --temperature 0.0001", "temperature"),
        ("run math_code_chat --temperature nan", "temperature"),
        ("run math_code_chat --speed-passes -1", "--speed-passes -1: must be 0 or more"),
        ("record --resume gone", "gone"),
        ("profile --pair nothing", "pair nothing"),
        ("profile --drafter medusa", "medusa"),
        ("profile --architecture nothing", "architecture nothing"),
        ("profile --time-limit 0", "--time-limit"),
        ("validate gone", "run gone"),
        ("validate latest", "pair"),
        ("validate --drafter none --policy fixed:1", "--policy: is of no use beside --drafter none"),
        ("validate --drafter none --drafting greedy", "--drafting: is of no use beside --drafter none"),
        ("validate --drafter mtp --policy none", "--drafter: is of no use with --policy none"),
        ("validate latest --time-limit 0", "--time-limit"),
        ("simulate gone --hardware h100/qwen3-4b --concurrency 4", "run gone"),
        ("simulate --hardware h100/nothing --concurrency 4", "h100/nothing"),
        ("simulate --hardware h100/qwen3-4b --concurrency 4 --policy fixed:99", "fixed:99"),
        ("simulate --hardware h100/qwen3-4b --concurrency 4 --drafter medusa", "medusa"),
        ("simulate --policy none --drafter mtp", "--drafter: is of no use with --policy none"),
        ("simulate --policy fixed:1,none --confidences raw", "--confidences: is of no use with --policy fixed:1,none"),
        ("simulate --policy vllm_adaptive --confidences raw", "--confidences: is of no use with --policy vllm_adaptive"),
        ("simulate --policy threshold:0.5 --believed-hardware x", "--believed-hardware: is of no use with --policy thr"),
        ("simulate --hardware h100/qwen3-4b --concurrency 4 --cv 1", "--cv: is of no use without --rate"),
        ("simulate --hardware h100/qwen3-4b --rate 2 --think-s 1", "--think-s: is of no use without --concurrency"),
        ("simulate --hardware h100/qwen3-4b --rate 2 --speed 2", "--speed: is of no use without --arrivals"),
        ("simulate --hardware h100/qwen3-4b --rate 2 --share 99%", "--share: is of no use without --sla"),
        ("simulate --hardware h100/qwen3-4b --rate 2 --router round_robin", "--router: is of no use without --replicas"),
        (
            "simulate --hardware h100/qwen3-4b --arrivals x.csv --output-tokens 9",
            "--output-tokens: is of no use beside --arr",
        ),
        (
            "simulate --hardware h100/qwen3-4b --rate 2 --decision-draws 0 --engine any",
            "--engine: is of no use beside --dec",
        ),
        ("simulate --hardware h100/qwen3-4b --rate 2 --replications 99999999", "--replications 99999999: must be from 1"),
        ("simulate --hardware h100/qwen3-4b --concurrency 4,99999999999", "--concurrency: 99,999,999,999 users would take"),
        ("sensitivity --hardware h100/qwen3-4b --concurrency 99999999999", "--concurrency: 99,999,999,999 users would take"),
        ("validate --concurrency 99999999999", "--concurrency: 99,999,999,999 users would take"),
        ("simulate --hardware h100/qwen3-4b --rate 2 --mix math=0", "one above 0"),
        ("simulate --hardware h100/qwen3-4b --rate 2 --mix law=1", "--mix: no law in run"),
        ("simulate --hardware h100/qwen3-4b --rate 2 --actors 99999999999", "--actors 99,999,999,999: would take"),
        ("simulate --hardware h100/qwen3-4b --rate 2 --mix math=inf", "--mix math=inf: shares must be"),
        ("simulate --hardware h100/qwen3-4b --rate 2 --mix math=1,math=2", "names a domain twice"),
        ("simulate --hardware h100/qwen3-4b --concurrency 4 --captured 0", "--captured 0: must be from 1"),
        ("simulate --hardware h100/qwen3-4b --rate 2 --requests 9", "--requests: is of no use without --concurrency"),
        ("simulate --hardware h100/qwen3-4b --concurrency 4 --staggered", "--staggered: is of no use without --requests"),
        ("simulate --hardware h100/qwen3-4b --concurrency 4 --requests 0", "--requests 0: must be from 1"),
        ("simulate --hardware h100/qwen3-4b --concurrency 4 --gpus 0", "--gpus 0: must be 1 or more"),
        ("simulate --hardware h100/qwen3-4b --concurrency 4 --gpus 3 --tp 2", "--gpus 3: is no multiple of --tp 2"),
        ("simulate --hardware h100/qwen3-4b --concurrency 4 --gpus 3 --tp 1,2", "--gpus 3: is no multiple of --tp 2"),
        (
            "simulate --hardware h100/qwen3-4b --concurrency 4 --tp 1,2",
            "--tp 1,2: compares ways to share out GPUs; say with --gpus",
        ),
        ("simulate --hardware h100/qwen3-4b --concurrency 4 --gpus 2 --tp 1,x", "--tp 1,x: must be a whole number"),
        (
            "simulate --hardware h100/qwen3-4b --concurrency 4 --gpus 2 --tp 1,2 --replicas 2",
            "--replicas: follows from --gpus",
        ),
        (
            "simulate --hardware h100/qwen3-4b --concurrency 4 --gpus 2 --tp 1,2 --decision-draws 0",
            "--decision-draws 0: decides nothing, and layouts are compared by what is decided",
        ),
        (
            "simulate --hardware h100/qwen3-4b --concurrency 4 --gpus 2 --tp 2 --replicas 2",
            "--gpus 2: cannot be --replicas 2 of --tp 2 each",
        ),
        ("simulate --hardware h100/qwen3-4b --rate 1e12", "--rate 1e12: requests a second must be above 0, and no more"),
        ("simulate --resume latest --rate 2", "--rate: cannot stand beside --resume"),
        ("record suites/x --seed 99999999999999999999", "--seed 99999999999999999999: is larger"),
        ("record --resume latest --seed 3", "--seed: cannot stand beside --resume"),
        ("run math_code_chat --data-dir . --source hub", "--source: is of no use beside --data-dir"),
        ("run math_code_chat --responses r.jsonl --max-new-tokens 8", "--max-new-tokens: is of no use beside --responses"),
        ("profile --pair tiny --architecture qwen3-4b", "--pair: is of no use beside --architecture"),
        ("profile --pair tiny --target tiny", "--pair: is of no use beside --target"),
        ("run math_code_chat --target nowhere", "--target nowhere: no such folder"),
        ("run math_code_chat --target tiny --drafter mine=nowhere", "--drafter mine=nowhere: no such folder"),
        ("run math_code_chat --temperature 0 --top-p 0.9", "--top-p: is of no use beside --temperature"),
        ("run math_code_chat --actors 99999999999", "--actors 99,999,999,999: would take"),
        ("profile --device cpu --no-graphs", "--graphs: is of no use on a CPU"),
        ("run math_code_chat --dry-run --engine vllm", "--engine: is of no use beside --dry-run"),
        ("profile --dtype float32", "--dtype: is of no use without --architecture"),
        ("simulate --resume gone", "sweep gone"),
        ("sensitivity --hardware h100/qwen3-4b --drafter medusa", "medusa"),
        ("sensitivity --policy none --drafting greedy", "--drafting: is of no use with --policy none"),
        ("sensitivity --hardware h100/qwen3-4b --seconds nan", "--seconds nan"),
        ("sensitivity --hardware h100/qwen3-4b --policy fixed:99", "fixed:99"),
        ("replay --drafter medusa", "medusa"),
        ("report gone", "gone"),
        ("compare gone latest", "gone"),
        ("compare latest --drafters old,new", "--drafters old,new"),
        ("synthesize nothing", "nothing"),
        ("reproduce nothing", "nothing"),
        ("reproduce field --alternatives", "--alternatives: is of the paper"),
        ("--bogus", "No such option: --bogus; see `harness -h`"),
        ("--bogus runs", "No such option: --bogus; see `harness -h`"),
        ("--version=3", "'--version' does not take a value; see `harness -h`"),
        ("hardware fti m.csv", "did you mean `harness hardware fit`?"),
        ("nosuchcommand", "No such command 'nosuchcommand'; see `harness -h`"),
        ("runs --bogus", "see `harness runs -h`"),
    ],
)
def test_what_is_wrong_is_said_before_anything_heavy_is_imported(line: str, named: str, tmp_path: Path) -> None:
    """What options and files tell, and what the store does: a wrong --pair took 20 s before, a block size 58 s."""
    store = Store(tmp_path / "specyard.duckdb")
    store.add(store.create_run(INFO), response_tables(Recording("dspark", 2), [RESPONSE]))
    done = refusal(*line.split(), "--out", str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert named in done.stderr.splitlines()[-1]
    assert "Usage:" not in done.stderr


def refused(*arguments: str, run: Callable[..., Any] = refusal) -> str:
    """Run, expect a refusal of one sentence; returns it."""
    done = run(*arguments)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    [sentence] = [line for line in done.stderr.splitlines() if line.startswith("harness: ")]
    return sentence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "suites/nothing"], "suite suites/nothing: no such folder"),
        (["run"], "name a suite"),
        (["run", "math_code_chat", "--pair", "nothing"], "pair nothing: no such file"),
        (["run", "math_code_chat", "--drafter", "medusa"], "drafter medusa: not in this pair"),
        (["run", "math_code_chat", "--data-dir", "nowhere"], "gsm8k.jsonl: missing"),
        (["run", "math_code_chat", "--limit", "0"], "--limit must be at least 1"),
        (["run", "math_code_chat", "--actors", "0"], "--actors must be at least 1"),
        (["run", "math_code_chat", "--top-p", "2"], "0 < top_p ≤ 1"),
        (["run", "math_code_chat", "--batch", "0"], "--batch 0: must be 1 or more"),
        (["run", "--resume", "latest"], "no such database"),
        (["run", "math_code_chat", "--resume", "latest"], "leave the suite and --dry-run out"),
        (["run", "math_code_chat", "--dry-run", "--mode", "live"], "estimates dense recordings; leave --mode live out"),
        (["run", "math_code_chat", "--block-sizes", "3,300"], "block sizes must be from 1 to 254"),
        (["record", "math_code_chat", "--block-sizes", "3;5"], "must be whole numbers with commas between"),
        (["record", "math_code_chat", "--block-sizes", "5,5"], "block sizes must differ"),
        (["record", "math_code_chat", "--mode", "live", "--fresh-tails"], "are for dense recording"),
        (["record", "math_code_chat", "--responses", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["replay", "latest"], "no such database"),
        (["synthesize", "paper:qwen3-4b", "--seed", "-1"], "--seed must be 0 or more"),
        (["report", "latest"], "no such database"),
        (["runs"], "no such database"),
        (["show", "latest"], "no such database"),
        (["advise", ""], "a value is empty"),
        (["doctor", "", "--target", "tiny"], "a value is empty"),
        (["replay", "--target", ""], "after --target: a value is empty"),
        (["simulate", "--arrivals="], "--arrivals: a value is empty"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, tmp_path: Path) -> None:
    assert message in refused(*arguments, "--out", str(tmp_path / "runs"))
    assert not (tmp_path / "runs" / "specyard.duckdb").exists()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("simulate --nonsense", "--nonsense"), ("simulate --router foo", "--router"), ("simulate --seconds", "--seconds"),
        ("simulate --seconds many", "--seconds"), ("show one two", "two"), ("nothing", "nothing"),
    ],
)  # fmt: skip
def test_what_is_no_option_or_command_is_one_sentence(line: str, named: str, tmp_path: Path) -> None:
    done = refusal(*line.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("harness: ")
    assert named in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_there_is_missed_before_a_cluster_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cluster.may_have_gpu", lambda: False)
    with pytest.raises(InputError, match=r"--gpus-per-actor 0.5: this machine has no GPU"):
        Cluster(gpus_per_actor=0.5).check()
    Cluster(gpus_per_actor=0).check()


def test_a_hub_that_does_not_answer_is_told_at_once(tmp_path: Path) -> None:
    """Its client alone would try again for half a minute and more, after everything is imported and a cluster started."""
    (tmp_path / "pair.yaml").write_text("target: nobody/nothing\ndrafters: {mine: ngram}\n")
    proxies = dict.fromkeys(("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"), "")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hubs = [f"http://127.0.0.1:{port}" for port in (9, mute.getsockname()[1])]
        for hub, command in zip(hubs, (["run", "math_code_chat"], ["profile"]), strict=True):
            environment = {**os.environ, **proxies, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)}
            began = time.monotonic()
            options = ["--pair", str(tmp_path / "pair.yaml"), "--out", str(tmp_path / "runs")]
            done = harness(*command, *options, env=environment)
            assert done.returncode == 2
            first, *_, last = done.stderr.splitlines()
            assert first == "looking for nobody/nothing on the hub"
            assert f"nobody/nothing: no such folder, not in the hub's cache, and {hub} does not answer" in last
            assert time.monotonic() - began < 20  # others use this machine
            assert not (tmp_path / "runs").exists()


def test_a_terminal_without_the_characters(tmp_path: Path) -> None:
    """They are replaced, and escaped where they are data; the work is done by then."""
    made = ["synthesize", "--survival", ".7,.5", "--drafter", "mtp", "--responses-per-task", "4", "--output-tokens", "16"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = harness(*made, "--out", str(tmp_path / "größe"), env=environment)
    assert done.returncode == 0, done.stderr
    assert "accepted length ?" in done.stdout
    assert "gr??e" in done.stdout
    done = harness("runs", "--json", "--out", str(tmp_path / "größe"), env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"]
    done = harness("show", "--out", str(tmp_path / "größe"), env=environment)
    assert done.returncode == 0, done.stderr


def test_unwritable_and_foreign_databases(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is no folder" in refused("run", "math_code_chat", "--out", str(tmp_path / "file" / "runs"))
    with duckdb.connect(str(tmp_path / "specyard.duckdb")) as connection:
        connection.execute("CREATE TABLE mine (i INTEGER)")
    assert "not one of Specyard's" in refused("run", "math_code_chat", "--limit", "1", "--out", str(tmp_path))


def test_no_disk_space(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(small)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small file system here")
    try:
        assert "8 MB free, at least 64 MB are needed" in refused("run", "math_code_chat", "--out", str(small), run=harness)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def suite_with_a_long_prompt(folder: Path) -> Path:
    suite = folder / "suite"
    (suite / "prompts").mkdir(parents=True)
    (suite / "suite.yaml").write_text("name: s\nversion: 1\ntasks: [{name: t, domain: math}]\n")
    rows = [{"turns": ["word " * 3000]}, {"turns": ["1 + 1?"]}]
    (suite / "prompts" / "t.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    return suite


@pytest.mark.slow
@pytest.mark.ray
def test_a_checkpoint_that_does_not_fit_and_a_prompt_that_is_too_long(tmp_path: Path) -> None:
    """Found before anything is recorded, in one sentence that names the culprit."""
    shutil.copytree(TINY / "dspark", tmp_path / "dspark")
    config = json.loads((tmp_path / "dspark" / "config.json").read_text())
    (tmp_path / "dspark" / "config.json").write_text(json.dumps(config | {"target_layer_ids": [0, 2, 4, 99]}))
    (tmp_path / "pair.yaml").write_text(f"target: {TINY / 'target'}\ndtype: float32\ndrafters: {{mine: ./dspark}}\n")
    out = ["--out", str(tmp_path / "runs"), "--actors", "1"]
    sentence = refused("run", "math_code_chat", "--pair", str(tmp_path / "pair.yaml"), *out, run=harness)
    assert "target_layer_ids [0, 2, 4, 99] must be layers of the target" in sentence

    suite = suite_with_a_long_prompt(tmp_path)
    sentence = refused("run", str(suite), "--drafter", "ngram", *out, run=harness)
    assert "prompt t/0: needs up to" in sentence
    assert "--skip-long-prompts" in sentence
    assert not (tmp_path / "runs" / "specyard.duckdb").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_prompts_that_are_too_long_are_left_out_on_request(tmp_path: Path) -> None:
    suite = suite_with_a_long_prompt(tmp_path)
    out = ["--out", str(tmp_path / "runs"), "--actors", "1"]
    done = harness("run", str(suite), "--drafter", "ngram", "--skip-long-prompts", "--max-new-tokens", "8", *out)
    assert done.returncode == 0, done.stderr
    assert "left out as too long for the target's context: t/0" in done.stderr


def test_doctor_asks_what_fits_into_a_short_context() -> None:
    """Evenly of those that fit; where hardly any does, the option and the fix."""
    prompts = [[0] * length for length in (5, 900, 6, 7, 800, 8, 9)]
    assert [len(ids) for ids in _fitting(prompts, 500, 3)] == [5, 6, 8]
    assert len(_fitting(prompts, 500, 99)) == 5
    with pytest.raises(InputError, match=r"^--prompts: of 7 prompts 3 fit .* smaller --max-new-tokens$"):
        _fitting(prompts, 7, 3)
