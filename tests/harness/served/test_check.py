"""What becomes of advice: `harness advise --check`, against servers that were changed, or not."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.served.server import together
from harness.served.sources.registry import read_files
from tests.harness.served.advising import HEAVY, LOADS, POOR, advised, run
from tests.harness.served.writing import Truth, vllm_log, vllm_metrics


@pytest.mark.parametrize(
    ("later", "code", "told"),
    [
        (Truth(survival=POOR.survival[:2]), 0, "held"),
        (POOR, 1, "K is 5"),
        (Truth(survival=(0.4, 0.1)), 1, "position 1"),
        (Truth(survival=POOR.survival[:2], base_s=0.0125), 1, "steps did not become"),
    ],
)  # fmt: skip
def test_what_became_of_a_change(later: Truth, code: int, told: str, tmp_path: Path) -> None:
    (tmp_path / "before").write_text(vllm_log(POOR, LOADS, clumped=0.1))
    (tmp_path / "after").write_text(vllm_log(later, LOADS, seed=9, clumped=0.1))
    done = run("advise", tmp_path / "before", "--check", tmp_path / "after")
    assert (done.exit_code, told in done.stdout) == (code, True), done.output


def test_what_was_served_before_is_no_check(tmp_path: Path) -> None:
    right = Truth(survival=(0.8, 0.7, 0.6))
    for name in ("before", "copy"):
        (tmp_path / name).write_text(vllm_log(right, LOADS))
    done = run("advise", tmp_path / "before", "--check", tmp_path / "copy")
    assert done.exit_code == 3, done.output
    assert "nothing was served since" in done.stdout


def test_a_shortfall_that_may_be_chance_is_not_held(tmp_path: Path) -> None:
    """Forty drafts each: a ninth less, and not surely."""
    (tmp_path / "before").write_text(vllm_metrics(40, (28, 20), 40, 2))
    (tmp_path / "after").write_text(vllm_metrics(41, (24, 14), 41, 2))
    done = run("advise", tmp_path / "before", "--check", tmp_path / "after")
    assert (done.exit_code, "may be chance" in done.stdout) == (3, True), done.output


def test_another_k_is_no_change_where_none_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "before").write_text(vllm_log(Truth(survival=(0.8, 0.7, 0.6)), LOADS))
    (tmp_path / "after").write_text(vllm_log(Truth(survival=(0.8, 0.7)), LOADS))
    done = run("advise", tmp_path / "before", "--check", tmp_path / "after")
    assert done.exit_code == 1
    assert "K is 2 in the later files, and 3 was to be kept" in done.stdout


def test_too_early_to_say(tmp_path: Path) -> None:
    (tmp_path / "before").write_text(vllm_log(POOR, LOADS, clumped=0.1))
    (tmp_path / "after").write_text(vllm_metrics(12, (7, 2), 12, 1, model="Org/Model-8B"))
    done = run("advise", tmp_path / "before", "--check", tmp_path / "after")
    assert done.exit_code == 3, done.output


def test_the_command_that_checks_asks_what_was_asked(tmp_path: Path) -> None:
    (tmp_path / "a b").write_text(vllm_log(POOR, LOADS))
    asked = ["--drafter", "eagle3", "--hardware", "h100/qwen3-8b", "--kv", "fp8"]
    printed = run("advise", tmp_path / "a b", *asked).stdout.splitlines()
    [again] = [line for line in printed if "--check" in line]
    assert shlex.split(again) == ["harness", "advise", str(tmp_path / "a b"), *asked, "--check", "LATER.log"]


def test_what_a_table_should_show_is_what_a_log_under_it_shows(tmp_path: Path) -> None:
    """Drafts are as long as their load has them: fewer tokens than drafts of K, and fewer at late positions."""
    loads = [int(n) for n in np.clip(np.round(24 * np.exp(1.2 * np.sin(np.arange(240) / 27))), 1, 128)]
    told = advised(tmp_path, vllm_log(HEAVY, loads, k=lambda n: 3 if n <= 40 else 0, clumped=0.1))
    rows, expected = told["rows"], told["expected"]
    assert isinstance(rows, list)
    assert isinstance(expected, dict)
    table = f"'num_speculative_tokens': 3, 'num_speculative_tokens_per_batch_size': {rows}"
    later = vllm_log(HEAVY, loads, k=lambda n: next(k for first, last, k in [*rows, (1, 10**6, 0)] if first <= n <= last))
    (tmp_path / "later.log").write_text(later.replace("'num_speculative_tokens': 3", table))
    server = together(*read_files([tmp_path / "later.log"]))
    assert expected["tokens_per_draft"]["value"] == pytest.approx(server.length, rel=0.02)
    assert [one["value"] for one in expected["positions"]] == pytest.approx(list(server.drafts.survival), abs=0.02)
    kept = " ".join(run("advise", tmp_path / "later.log").stdout.split())
    assert f"keep K by batch size as it is: {rows[0][0]} to {rows[0][1]} running: {rows[0][2]}" in kept
    checked = run("advise", tmp_path / "file.log", "--check", tmp_path / "later.log")
    assert f"{server.length:.2f}" in checked.stdout
    assert checked.exit_code == 0
    (tmp_path / "flat.log").write_text(vllm_log(replace(HEAVY, survival=HEAVY.survival[:2]), loads))
    undone = run("advise", tmp_path / "file.log", "--check", tmp_path / "flat.log")
    assert "K by batch size was advised" in " ".join(undone.stdout.split())


def test_what_cannot_be_checked_afterwards_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own words for SGLang's K by batch size change K while it runs, which its log does not say."""
    (tmp_path / "f").write_text(vllm_log(HEAVY, sorted(LOADS), k=lambda n: 3 if n <= 16 else 0))
    monkeypatch.setattr("harness.cli.advise.flags_of", lambda advice: "--speculative-adaptive")
    told = " ".join(run("advise", tmp_path / "f").stdout.split())
    assert ("--check cannot read it" in told, "--check LATER.log" in told) == (True, False)
