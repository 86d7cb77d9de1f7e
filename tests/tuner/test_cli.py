"""The command: quick to answer, one sentence for bad input, JSON alone when asked for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import optuna
import pytest

from tests.harness.processes import called, refusal
from tuner.cli.export import export

QUICK = ["--hardware", "h100/qwen3-4b", "--seconds", "4", "--trials", "16", "--confirmation-draws", "5",
         "--decision-draws", "10", "--request-cap", "32",
         "--drafter", "dspark"]  # fmt: skip

FORMS = get_args(get_args(get_type_hints(export, include_extras=True)["form"])[0])


def tuner(*arguments: str, out: Path) -> subprocess.CompletedProcess[str]:
    return called(*arguments, "--out", str(out), program="tuner")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, tuner.cli.app; heavy = {'torch', 'ray', 'optuna', 'plotly', 'polars', 'duckdb', 'numpy', 'numba'}; "
        "sys.exit(f'imported {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def searched(out: Path) -> dict[str, Any]:
    done = tuner(
        "search", *QUICK, "--concurrency", "8,16", "--sla", "tps>=50", "--mix", "math=0.5,code=0.5", "--json", out=out
    )
    assert done.returncode == 0, done.stderr
    study: dict[str, Any] = json.loads(done.stdout)
    return study


def test_search_show_export(searched: dict[str, Any], out: Path) -> None:
    name = searched["study"]["study_id"]
    assert searched["plan"]["weights"] == {"math": 0.5, "code": 0.5}
    winner = searched["loads"]["users:16/0"]["winner"]
    shown = tuner("show", name[:5], out=out)
    assert shown.returncode == 0
    texts = (name, "h100/qwen3-4b (roofline)", "(synthesised)", "16 users", winner["policy"], "bound", "off by 20 %")
    for text in (*texts, "gain over none", "prompts the search has not seen"):
        assert text in shown.stdout
    assert json.loads(tuner("show", name, "--json", out=out).stdout) == searched
    every = tuner("export", name, out=out)  # of one winner, or a table of k by batch size
    assert every.returncode == 0, every.stderr
    assert "vllm serve Qwen/Qwen3-4B" in every.stdout
    ranged = tuner("export", name, "--concurrency", "8..16", out=out)
    assert ranged.returncode == 2
    assert "--concurrency 8..16: is one of the study's loads" in ranged.stderr
    refused = tuner("export", name, "--concurrency", "5", out=out)
    assert refused.returncode == 2
    assert "is of 8 users, 16 users; choose one with --concurrency" in refused.stderr
    command = tuner("export", name, "--concurrency", "16", out=out).stdout
    decision = searched["loads"]["users:16/0"]["decision"]
    assert decision["command"] in command
    assert command.startswith(f"# specyard study {name}\n# Run {decision['run']}")
    every = json.loads(tuner("export", name, "--format", "json", out=out).stdout)
    assert [w["load"] for w in every["winners"]] == ["users:8/0", "users:16/0"]
    one = json.loads(tuner("export", name, "--concurrency", "16", "--format", "json", out=out).stdout)
    assert one["winners"] == every["winners"][1:]
    [content] = one["winners"]
    assert content["configuration"]["policy"] == winner["policy"]
    assert content["k_by_batch"]["rows"][0][0] == 1
    assert content["k_by_batch"]["loss"] < 1


@pytest.mark.parametrize("form", FORMS)
class TestEveryExport:
    """What holds of every form that a study is exported in."""

    def test_it_names_what_it_is_of_and_changes_nothing(self, form: str, searched: dict[str, Any], out: Path) -> None:
        name = searched["study"]["study_id"]
        done = tuner("export", name[:5], "--format", form, out=out)
        if done.returncode == 2:  # an engine that has no such drafter
            assert "runs dspark is not known here" in done.stderr
            return
        assert done.returncode == 0, done.stderr
        assert name in done.stdout
        assert tuner("export", name, "--format", form, out=out).stdout == done.stdout
        assert json.loads(tuner("show", name, "--json", out=out).stdout) == searched

    def test_what_is_not_there_is_one_sentence(self, form: str, searched: dict[str, Any], out: Path) -> None:
        done = tuner("export", "gone", "--format", form, out=out)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1


def test_a_finished_study_stays_finished(searched: dict[str, Any], out: Path) -> None:
    again = tuner("search", "--resume", searched["study"]["study_id"], "--json", out=out)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == searched


def test_optuna_reads_the_journal(searched: dict[str, Any], out: Path) -> None:
    name = searched["study"]["study_id"]
    file = tuner("export", name, "--format", "optuna", out=out).stdout.strip()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(file))
    study = optuna.load_study(study_name=f"{name} users:16/0", storage=storage)
    assert len(study.trials) == 16
    assert study.best_trial.constraints.keys() == {"tps>=50"}


def test_a_bound_nobody_meets_shows_the_closest(out: Path) -> None:
    done = tuner("search", *QUICK, "--concurrency", "16", "--sla", "tps>=90000", "--policy", "fixed", out=out)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "at 16 users nothing that was simulated keeps the promise; closest is dspark γ=7 fixed:7" in done.stderr
    assert "tps>=90000: 0 %" in done.stderr
    [tried] = re.findall(r"(\d+) configurations tried", done.stderr)
    assert int(tried) >= 8  # every K of the drafter, and caps of what could run
    assert "go on with" not in done.stderr  # it is finished
    shown = tuner("show", "latest", "--json", out=out)
    assert shown.returncode == 1
    [at] = json.loads(shown.stdout)["loads"].values()
    assert "closest is dspark γ=7 fixed:7" in at["decision"]["reason"]


@pytest.mark.slow
def test_overload_names_the_replicas_that_hold(out: Path) -> None:
    """A thousand requests a second: the share of them that one replica holds, and so many replicas keep up and promise."""
    asked = ("search", *QUICK, "--request-cap", "256", "--rate", "1000", "--sla", "tps>=50", "--policy", "fixed")
    done = tuner(*asked, out=out)
    assert done.returncode == 1
    found = re.search(r"one replica holds (0\.\d+) × this load within the promise: try --replicas (\d+)", done.stderr)
    assert found, done.stderr
    assert float(found[1]) * int(found[2]) >= 0.95
    held = tuner(*asked, "--replicas", found[2], out=out)
    assert held.returncode == 0, held.stderr


def test_a_profile_of_another_model_is_said(out: Path) -> None:
    done = tuner(
        "search", *QUICK, "--hardware", "h100/qwen3-8b", "--concurrency", "4", "--policy", "fixed", "--seconds", "1", out=out
    )
    assert done.returncode == 0, done.stderr
    assert "note: profile h100/qwen3-8b is of Qwen/Qwen3-8B, the traces are of Qwen/Qwen3-4B" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "4"], "name a hardware profile with --hardware"),
        ([*QUICK], "name a load: --concurrency, --rate or --arrivals"),
        ([*QUICK, "--concurrency", "4", "--share", "95"], "--share: is of no use without --sla"),
        (["--hardware", "h100/gpt-2", "--arrivals", "/nowhere.csv"], "known here is gpt-2: there are qwen3-4b"),
        ([*QUICK, "--arrivals", "/nowhere.csv", "--mix", "law=1"], "no law in run"),
        ([*QUICK, "--concurrency", "many"], "--concurrency many: is written as 64"),
        ([*QUICK, "--rate", "x"], "--rate x: is written as 2,4,8"),
        ([*QUICK, "--concurrency", "4", "--sla", "speed>=1"], "is written tps>=80"),
        ([*QUICK, "--concurrency", "4", "--policy", "best"], "--policy best: cannot be searched; those that can are fixed"),
        ([*QUICK, "--concurrency", "4", "--drafter", "medusa"], "no dense recording of medusa; there are: dspark"),
        ([*QUICK, "--concurrency", "4", "--mix", "law=1"], "; it has chat, code, math"),
        ([*QUICK, "--concurrency", "4", "--sampler", "cma"], "--sampler cma: there are tpe, gp"),
        ([*QUICK, "--concurrency", "4", "--engine", "triton"], "--engine triton: there are vllm, sglang"),
        ([*QUICK, "--concurrency", "4", "--objective", "goodput"], "counts what keeps a bound; give one with --sla"),
        ([*QUICK, "--concurrency", "4", "--confirmation-draws", "2"], "needs 5 draws"),
        ([*QUICK, "--concurrency", "4", "--request-cap", "2000"], "step_tokens 8192: must be more than"),
        ([*QUICK, "--concurrency", "4", "--hardware", "h100/gpt-2"], "known here is gpt-2: there are qwen3-4b"),
        ([*QUICK, "--concurrency", "4", "--cv", "2"], "--cv: is of no use without --rate"),
        ([*QUICK, "--concurrency", "4", "--mix", "math=inf"], "--mix math=inf: shares must be 0 or more and finite"),
        (["--resume", "zzz"], "study zzz: no such study"),
        (["--resume", "latest", "--concurrency", "4"], "--concurrency: cannot stand beside --resume"),
    ],
)
def test_bad_input_is_refused(searched: dict[str, Any], out: Path, arguments: list[str], message: str) -> None:
    done = tuner("search", *arguments, out=out)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    [sentence] = [line for line in done.stderr.splitlines() if line.startswith("tuner: ")]
    assert message in sentence


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("search gone --hardware h100/qwen3-4b --concurrency 4", "run gone"),
        ("search --hardware h100/qwen3-4b --concurrency 4 --drafter medusa", "medusa"),
        ("search --hardware h100/qwen3-4b --concurrency 4 --drafter dspark --policy fixed:99", "--policy fixed:99"),
        ("search --hardware h100/qwen3-4b --concurrency 4 --sampler cma", "--sampler cma"),
        ("search --hardware h100/gpt-2 --concurrency 4", "h100/gpt-2"),
        ("search --hardware h100/qwen3-4b --concurrency 4 --mix law=1", "--mix: no law in run"),
        ("search --hardware h100/qwen3-4b --concurrency 99999999999", "--concurrency: 99,999,999,999 users would take"),
        (
            "search --hardware h100/qwen3-4b --concurrency 8=0.5,99999999999=1",
            "--concurrency: 99,999,999,999 users would take",
        ),
        ("search --hardware h100/qwen3-4b --concurrency 4 --confirmation-draws 99999999", "no more than 10,000"),
        ("search --hardware h100/qwen3-4b --concurrency 4 --actors 99999999999", "--actors 99,999,999,999: would take"),
        ("search --hardware h100/qwen3-4b --arrivals x.csv --prompt-tokens 9", "--prompt-tokens: is of no use beside --arr"),
        ("--bogus", "No such option: --bogus; see `tuner -h`"),
        ("search --resume gone", "study gone"),
        ("show gone", "study gone"),
        ("export gone", "study gone"),
    ],
)
def test_what_is_wrong_is_said_before_anything_heavy_is_imported(line: str, named: str, out: Path) -> None:
    """What options and files tell, and what the store does."""
    done = refusal(*line.split(), "--out", str(out), program="tuner")
    assert done.returncode == 2, done.stderr
    assert named in done.stderr.splitlines()[-1]


def test_commands_without_studies(tmp_path: Path) -> None:
    done = tuner("show", out=tmp_path)
    assert done.returncode == 2
    assert "no such database" in done.stderr
