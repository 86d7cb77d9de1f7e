"""What becomes of advice: `harness advise --check`, against servers that were changed, or not."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from harness.served.observed import Drafts, Interval
from harness.served.server import Server, together
from harness.served.sources.registry import read_files
from harness.served.speeds import _timed
from tests.harness.served.advising import HEAVY, LOADS, POOR, advised, run
from tests.harness.served.writing import Clients, Truth, clients_log, vllm_log, vllm_metrics, walked_log


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


def test_files_that_hold_nothing_new_are_no_check_whatever_was_advised(tmp_path: Path) -> None:
    """With a change to be made they had the old K; the baseline is of before, too, where drafts were to be turned off."""
    (tmp_path / "before").write_text(vllm_log(POOR, LOADS, clumped=0.1))
    loss = Truth(survival=(0.1, 0.02), draft_s=0.01)
    (tmp_path / "loss").write_text(vllm_log(loss, LOADS))
    (tmp_path / "plain").write_text(vllm_log(loss, LOADS, k=lambda _: 0, method=""))
    assert run("advise", tmp_path / "before").stdout.count("set K to 2")
    (tmp_path / "scrape").write_text(vllm_metrics(4000, (2400, 800, 160, 40, 8), 4000, 20, model="Org/Model-8B"))
    (tmp_path / "copy").write_text((tmp_path / "before").read_text())
    for later in ("scrape", "copy"):  # of two files one, by its name or by what it says
        done = run("advise", tmp_path / "before", tmp_path / "scrape", "--check", tmp_path / later)
        assert (done.exit_code, "nothing was served since" in done.stdout) == (3, True), done.output
    for words in (["before", "--check", "before"], ["loss", "plain", "--check", "plain"]):
        done = run("advise", *(word if word[0] == "-" else tmp_path / word for word in words))
        assert (done.exit_code, "nothing was served since" in done.stdout) == (3, True), done.output


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


FOUR = [n for _ in range(3) for n in (4, 16, 64) for _ in range(8)]
TURNS = Truth(survival=(0.8, 0.6, 0.45), base_s=0.008, token_s=0.0002, draft_s=0.001)
"""A server that should draft less above some load."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Its log, and one without drafts."""
    folder = tmp_path_factory.mktemp("both")
    (folder / "with").write_text(vllm_log(TURNS, FOUR))
    (folder / "without").write_text(vllm_log(TURNS, FOUR, seed=5, k=lambda _: 0, method=""))
    return [folder / "with", folder / "without"]


def test_two_runs_of_one_server_differ(both: list[Path], tmp_path: Path) -> None:
    """A percent slower than it was is no change that failed; a tenth is."""
    rows = json.loads(run("advise", *both, "--json").stdout)["rows"]
    assert rows
    table = f"'num_speculative_tokens': 3, 'num_speculative_tokens_per_batch_size': {rows}"

    def checked(slower: float, loads: list[int]) -> tuple[int, str]:
        truth = replace(TURNS, base_s=TURNS.base_s * slower, token_s=TURNS.token_s * slower, draft_s=TURNS.draft_s * slower)
        later = vllm_log(truth, loads, seed=9, k=lambda n: next(k for first, last, k in rows if first <= n <= last))
        (tmp_path / "later").write_text(later.replace("'num_speculative_tokens': 3", table))
        done = run("advise", *both, "--check", tmp_path / "later")
        return done.exit_code, done.stdout

    def checked_without_its_start(loads: list[int]) -> tuple[int, str]:
        later = vllm_log(TURNS, loads, seed=9, k=lambda n: next(k for first, last, k in rows if first <= n <= last))
        (tmp_path / "tail").write_text("\n".join(later.splitlines()[2:]) + "\n")
        done = run("advise", *both, "--check", tmp_path / "tail")
        return done.exit_code, done.stdout

    assert checked(1.01, FOUR)[0] == 0
    assert checked_without_its_start(FOUR)[0] == 0  # its most drafted tokens are K of before: lines tell by load
    assert checked(1.15, FOUR)[0] == 1
    code, said = checked(1.01, [4] * 30)
    assert (code, "no load at which the table has another K" in said) == (3, True), said


def test_a_server_that_starts_without_the_table_was_not_changed(both: list[Path], tmp_path: Path) -> None:
    (tmp_path / "later").write_text(vllm_log(TURNS, FOUR, seed=9))
    done = run("advise", *both, "--check", tmp_path / "later")
    assert (done.exit_code, "at every load in the later files" in " ".join(done.stdout.split())) == (1, True), done.output


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


LARGE = Truth((0.55, 0.3, 0.15, 0.06, 0.02), token_s=0.00006, draft_s=0.0008)
"""A server whose K of 5 is too large."""
DAY = Clients(users=lambda s: (8, 16, 32)[int(s // 200) % 3], answer=300, prompt=200, prompt_s=0.00006)
"""Who asks it."""


def _clients(folder: Path, name: str, truth: Truth, day: Clients, k: int, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(clients_log(replace(truth, survival=truth.survival[: k or 5]), day, k, 1200, seed=seed)[0])
    return folder / name


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What it wrote with drafts and without."""
    folder = tmp_path_factory.mktemp("large")
    return [_clients(folder, name, LARGE, DAY, k, seed) for name, k, seed in (("with", 5, 1), ("without", 0, 2))]


@pytest.mark.parametrize(
    ("day", "codes"),
    [
        ({}, (0,)),
        ({"prompt": 400}, (0, 3)),
        ({"prompt": 1000}, (0, 3)),
        ({"answer": 150}, (0, 3)),
        ({"prompt": 0}, (0, 3)),
    ],
)  # fmt: skip
def test_prompts_that_became_longer_are_not_charged_to_the_change(
    day: dict[str, int], codes: tuple[int, ...], large: list[Path], tmp_path: Path
) -> None:
    """What K = 2 gives over 5 is as it was told, of the traffic of before."""
    told = json.loads(run("advise", *large, "--json").stdout)
    assert (told["verdict"], told["tokens"]) == ("set", 2)
    later = _clients(tmp_path, "later", LARGE, replace(DAY, **day), 2, 7)
    done = run("advise", *large, "--check", later)
    assert done.exit_code in codes, done.output
    found = json.loads(run("advise", *large, "--check", later, "--json").stdout)["gain"]
    if found is not None:
        ran = [LARGE.speed(2, n) / LARGE.speed(5, n) - 1 for n in (8, 16, 32)]
        assert found["low"] - 0.02 <= max(ran), done.output
        assert found["high"] + 0.02 >= min(ran), done.output
    assert ("the traffic is another" in done.stdout) is bool(day)
    assert "steps did not become" not in done.stdout


def test_prompts_that_became_shorter_are_no_gain_of_the_change(tmp_path: Path) -> None:
    """The machine became slower meanwhile, so that the change gave less than was told."""
    day = replace(DAY, prompt=800)
    files = [_clients(tmp_path, name, LARGE, day, k, seed) for name, k, seed in (("with", 5, 1), ("without", 0, 2))]
    slower = replace(LARGE, base_s=0.0135, token_s=0.00008)
    later = _clients(tmp_path, "later", slower, replace(day, prompt=100), 2, 7)
    done = run("advise", *files, "--check", later)
    assert done.exit_code != 0, done.output


def test_prompts_that_nothing_prices_leave_speeds_open(large: list[Path], tmp_path: Path) -> None:
    """Before, not one prompt token was told; tokens per draft are held against what was told all the same."""
    silent = tmp_path / "with"
    silent.write_text(re.sub("prompt throughput: [0-9.]+", "prompt throughput: 0.0", large[0].read_text()))
    plain = tmp_path / "without"
    plain.write_text(re.sub("prompt throughput: [0-9.]+", "prompt throughput: 0.0", large[1].read_text()))
    later = _clients(tmp_path, "later", LARGE, replace(DAY, prompt=1000), 2, 7)
    done = run("advise", silent, plain, "--check", later)
    assert (done.exit_code, "do not tell what prompts take" in done.stdout) == (3, True), done.output
    assert "were expected" in done.stdout


def test_prompts_that_were_cached_leave_speeds_open(large: list[Path], tmp_path: Path) -> None:
    """Lines of load count them, or not, by version: what they took nobody tells."""
    later = _clients(tmp_path, "later", LARGE, DAY, 2, 7)
    later.write_text(later.read_text().replace("hit rate: 0.0%", "hit rate: 80.0%"))
    done = run("advise", *large, "--check", later)
    told = " ".join(done.stdout.split())
    assert (done.exit_code, "0% were cached before, 80% after" in told) == (3, True), done.output


def test_a_row_that_did_not_run_says_nothing_of_its_drafts(tmp_path: Path) -> None:
    """Of a table whose largest K is for loads that never came, later positions were never drafted."""
    truth = Truth((0.575, 0.324, 0.179, 0.097), base_s=0.008, token_s=0.0002, draft_s=0.0016)
    loads = [n for _ in range(3) for n in (8, 64) for _ in range(8)]
    (tmp_path / "with").write_text(vllm_log(truth, loads))
    (tmp_path / "without").write_text(vllm_log(truth, loads, seed=5, k=lambda _: 0, method=""))
    told = json.loads(run("advise", tmp_path / "with", tmp_path / "without", "--json").stdout)
    rows = told["rows"]
    assert rows[0][2] > next(k for first, last, k in rows if first <= 8 <= last), rows
    most = rows[0][2]
    table = f"'num_speculative_tokens': {most}, 'num_speculative_tokens_per_batch_size': {rows}"
    later = vllm_log(
        replace(truth, survival=truth.survival[:most]), loads, seed=9,
        k=lambda n: next((k for first, last, k in rows if first <= n <= last), rows[-1][2]),
    )  # fmt: skip
    (tmp_path / "later").write_text(later.replace(f"'num_speculative_tokens': {most}", table))
    done = run("advise", tmp_path / "with", tmp_path / "without", "--check", tmp_path / "later")
    assert done.exit_code == 0, done.output


def test_loads_that_are_only_near_are_not_compared(tmp_path: Path) -> None:
    """A fifth more running makes every request slower, whatever K is."""
    (tmp_path / "before").write_text(vllm_log(POOR, sorted([10, 20, 40] * 30), clumped=0.1))
    near = vllm_log(replace(POOR, survival=POOR.survival[:2]), sorted([12, 24, 48] * 30), seed=9, clumped=0.1)
    (tmp_path / "after").write_text(near)
    done = run("advise", tmp_path / "before", "--check", tmp_path / "after")
    assert (done.exit_code, "no load ran long enough" in done.stdout) == (3, True), done.output


@pytest.mark.parametrize(("found", "slower", "code", "told"), [
    (0.6, 1.0, 0, "held"),
    (0.2, 1.0, 1, "drafts are made in 20% of steps, not 60%"),
    (0.95, 1.1, 3, "more tokens than were"),
])  # fmt: skip
def test_a_look_up_that_finds_less_or_more(found: float, slower: float, code: int, told: str, tmp_path: Path) -> None:
    """What it finds is the traffic's: less of it is no cost of drafts, more of it no gain of another K."""
    truth = Truth(survival=(0.6, 0.2, 0.05, 0.02, 0.01), draft_s=0.0012)

    def log(own: Truth, found: float, k: int, seed: int) -> str:
        own = replace(own, survival=own.survival[:k])
        return walked_log(own, DAY.users, lambda _: k, 1200, seed, method="ngram", found=found)[0]

    (tmp_path / "with").write_text(log(truth, 0.6, 5, 1))
    later = replace(truth, base_s=truth.base_s * slower, token_s=truth.token_s * slower, draft_s=truth.draft_s * slower)
    (tmp_path / "later").write_text(log(later, found, 3, 3))
    done = run("advise", tmp_path / "with", "--check", tmp_path / "later")
    assert (done.exit_code, told in " ".join(done.stdout.split())) == (code, True), done.output


def test_stretches_whose_steps_are_timed_are_compared_too() -> None:
    """SGLang's lines and vLLM's scrapes say what a step takes: tokens a second are of that time, without pauses."""
    drafts = Drafts(drafts=800, drafted=2400, accepted=800)
    one = Interval(seconds=10, running=8, steady=True, generated_tok_s=160, prompt_tok_s=20, drafts=drafts, step_s=0.05)
    server = SimpleNamespace(intervals=(one, replace(one, steady=False)), plain=(), gamma=3)
    [found] = _timed(cast(Server, server))
    assert found.generated_tok_s == pytest.approx(8 * 2 / 0.05)
    assert found.prompt_tok_s / found.generated_tok_s == pytest.approx(20 / 160)
