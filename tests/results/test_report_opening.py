"""What a report opens with: its title, its answer, and the commands to type next."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import typer

from harness.cli.app import app
from results.report import compose
from tests.results.database import (
    PROFILE,
    RUN,
    add_study,
    add_sweep,
    everything,
    insert,
    recorded,
)
from tests.results.test_report import Page


def test_it_opens_with_the_study_then_the_sweep_then_what_was_recorded() -> None:
    con = recorded()
    assert "Most tokens per round: dspark in math" in Page(compose.render(con, RUN)).text
    add_sweep(con)
    text = Page(compose.render(con, RUN)).text
    # 250·64/(1 + 64/40) = 6,154 at 64 users, 96 of a user; 8,649 at 256, 34: the bound of 50 lies between.
    where = "On h100/toy, with at least 50 tokens/s on average"
    found = re.search(where + r", run dspark prefix_scheduler: at least 6,154 ± \d+ tokens/s/GPU at 64 users\.", text)
    assert found is not None
    assert "There may be more of it between 64 users and 256 users" in text
    assert "throughput over MTP-1" in text
    assert "throughput over no speculation" in text
    assert "it commits 3.00 tokens per round against 3.00 of MTP-1" in text
    add_study(con)
    text = Page(compose.render(con, RUN)).text
    assert f"{where}: at 64 users, run dspark γ=7 prefix_scheduler." in text
    assert "+50% throughput over MTP-1 at 64 users 95 % with the profile held +45.0% to +55.0%" in text
    assert "+160% throughput over no speculation" in text


def commands(html: str) -> list[list[str]]:
    """Command lines that a page tells to type; those of which it only gives the name are left out."""
    found = re.findall(r"<(?:code|pre[^>]*)>((?:harness|tuner) [^<]*)</(?:code|pre)>", html)
    return [words for words in (shlex.split(unescape(line)) for line in found) if len(words) > 2 + (words[1] == "hardware")]


def test_commands_to_type_next_can_be_pasted() -> None:
    """With what was recorded alone, and with a sweep of a profile of one's own: what is told is about this database."""
    con, out = recorded(), Path("my runs")
    told = commands(compose.render(con, RUN, out=out))
    assert {words[1] for words in told} == {"simulate", "replay", "run"}
    add_sweep(con)
    con.execute("UPDATE sweeps SET command = ?", ["harness simulate --hardware 'my toy.json' --out 'my runs'"]).fetchall()
    promised = commands(compose.render(con, RUN, out=out))
    assert not any(words[1] == "sensitivity" for words in promised)  # it knows of no promise
    con.execute("UPDATE sweeps SET plan = json_merge_patch(plan, '{\"slas\": []}')").fetchall()
    told += commands(compose.render(con, RUN, out=out))
    [sensitivity] = [words for words in told if words[1] == "sensitivity"]
    assert sensitivity[sensitivity.index("--hardware") + 1] == "my toy.json"
    assert sensitivity[sensitivity.index("--concurrency") + 1] == "256"  # that of the answer
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for program, command, *arguments in told:
        assert program == "harness"
        known[command].make_context(command, list(arguments))
        assert command == "run" or arguments[-2:] == ["--out", "my runs"]  # which is told as it was typed
    assert not any("--out" in words for words in commands(compose.render(con, RUN)))


@pytest.mark.parametrize(("target", "profile"), [
    ("Qwen/Qwen3-8B", "h100/qwen3-8b"), ("/srv/gemma-4-12B-it/", "h100/gemma-4-12b"),
    ("meta-llama/Llama-3.1-8B-Instruct", "DEVICE/MODEL"), ("the tiny target", "DEVICE/MODEL"), ("", "DEVICE/MODEL"),
])  # fmt: skip
def test_the_next_command_is_about_the_model_that_was_recorded(target: str, profile: str) -> None:
    con = recorded()
    con.execute("UPDATE runs SET target = ?", [json.dumps({"source": target})]).fetchall()
    report = compose.compose(con, RUN)
    told = [words for words in commands(compose.page(report)) if words[1] == "simulate"]
    assert {words[words.index("--hardware") + 1] for words in told} == {profile}
    for text in (report.answer.why_next, report.notices[-1]):
        assert ("`harness hardware list`" in text) == (profile == "DEVICE/MODEL")


def test_the_next_command_takes_the_configuration_that_was_given() -> None:
    con = recorded()
    con.execute("UPDATE runs SET target = ?", [json.dumps({"source": "mine", "config": "my config.json"})]).fetchall()
    told = [words for words in commands(compose.page(compose.compose(con, RUN))) if words[1] == "simulate"]
    assert {words[words.index("--hardware") + 1] for words in told} == {"DEVICE"}
    assert {words[words.index("--model") + 1] for words in told} == {"my config.json"}


def test_the_next_command_takes_the_folder_of_ones_own_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    con = recorded()
    con.execute("UPDATE runs SET target = ?", [json.dumps({"source": str(tmp_path)})]).fetchall()
    told = [words for words in commands(compose.page(compose.compose(con, RUN))) if words[1] == "simulate"]
    assert {(words[words.index("--hardware") + 1], words[words.index("--model") + 1]) for words in told} == {
        ("DEVICE", str(tmp_path))
    }


def test_the_title_can_be_shown_without_explanation() -> None:
    """Question, model, hardware, traffic, suite and date of what the page answers: recordings, a sweep, a study."""
    con = recorded()
    titles = []
    for add in (lambda con: None, add_sweep, add_study):
        add(con)
        html = compose.render(con, RUN)
        title, head = (re.findall(f"<{tag}>(.*?)</{tag}>", html)[0] for tag in ("title", "h1"))
        assert title.startswith(head)
        titles.append(head)
    recordings, sweep, study = titles
    for title in titles:
        assert all(fact in title for fact in ("the tiny target", "math_code_chat v1", "2026-02-01", "?"))
    assert "Xeon" in recordings
    assert "h100/toy under 1 to 256 users" in sweep
    assert "h100/toy under 64 users" in study


@pytest.mark.parametrize(
    ("named", "opens_with_study"),
    [
        ({}, True),
        ({"study_id": "57ad"}, True),
        ({"sweep_id": "5eed"}, False),
        ({"study_id": "57ad", "sweep_id": "5eed"}, True),
    ],
)
@pytest.mark.parametrize("sweep_on", ["2026-02-01", "2026-02-03"])
def test_it_opens_with_the_study_or_with_the_sweep_that_alone_was_named(
    named: dict[str, str], opens_with_study: bool, sweep_on: str
) -> None:
    """Whatever was asked last."""
    con = everything()
    con.execute("UPDATE sweeps SET created_at = ?", [sweep_on]).fetchall()
    report = compose.compose(con, RUN, **named)  # type: ignore[arg-type]
    assert ("under 64 users" in report.title) == opens_with_study
    assert report.answer.headline.startswith("On h100/toy, with at least 50 tokens/s on average: at 64") == opens_with_study


def test_a_table_for_all_loads_opens_the_report_whole() -> None:
    """And not what is best at the busiest load; its command stands there to be copied."""
    con = recorded()
    add_study(con)
    con.execute(
        """UPDATE studies SET plan = replace(plan::VARCHAR, '["users:64/0"]', '["users:8/0", "users:64/0"]')::JSON"""
    )
    row = {"study_id": "57ad", "place": 9, "role": "k by batch", "drafter": "dspark", "gamma": 7, "confidences": "none"}
    row |= {"policy": "k_by_batch:8=7/64=0", "request_cap": 64, "exact": True, "prompts": 9, "draws": 6, "feasible": True}
    for load, gain in (("users:8/0", 0.5), ("users:64/0", 0.0)):
        figures = {"figures": {"over none": gain}, "half_widths": {"over none": 0.02}}
        insert(con, "confirmations", [row | figures | {"load": load}])
    answer = compose.compose(con, RUN).answer
    assert "7 with 1 to 8 running and 0 with 9 to 64 running" in answer.headline
    assert [(gain.value, gain.over[-8:]) for gain in answer.gains] == [("+50%", " 8 users"), ("+0%", "64 users")]
    assert '"num_speculative_tokens_per_batch_size": [[1, 8, 7], [9, 64, 0]]' in answer.command


def test_a_study_that_found_nothing_leaves_the_opening_to_the_sweep() -> None:
    con = recorded()
    add_sweep(con)
    add_study(con, confirmed=False)
    report = compose.compose(con, RUN)
    assert "1 to 256 users" in report.title
    assert "1 to 256 users" not in compose.compose(con, RUN, study_id="57ad").title  # what is named is shown alone
    assert "prefix_scheduler: at least" in report.answer.headline


@pytest.mark.parametrize(
    ("target", "named"), [("Qwen/Qwen3-4B", "for Qwen/Qwen3-4B on"), ("/srv/models/qwen/ours", "for qwen/ours on")]
)
def test_the_title_names_a_model_that_is_a_folder(target: str, named: str) -> None:
    con = recorded()
    con.execute("UPDATE runs SET target = ?", [json.dumps({"source": target})]).fetchall()
    assert named in compose.compose(con, RUN).title


def test_the_title_of_traces_of_no_model_names_that_of_the_profile() -> None:
    con = recorded(source="synthesised")
    con.execute("UPDATE runs SET target = '{}', host = '{}'").fetchall()
    assert "(synthesised)" in compose.compose(con, RUN).title
    con.execute("UPDATE runs SET prompt_source = 'data-dir'")
    assert "(own prompts)" in compose.compose(con, RUN).title
    add_sweep(con, profile=replace(PROFILE, model="Qwen/Qwen3-4B"))
    assert "Qwen3-4B on h100/toy" in compose.compose(con, RUN).title


def test_the_title_says_how_gpus_are_shared_out() -> None:
    """Which the name of a profile need not say, as that of a fitted one."""
    con = recorded()
    add_sweep(con, profile=replace(PROFILE, gpus=2))
    assert "on h100/toy, 1 replica on 2 GPUs, under" in compose.compose(con, RUN).title


def test_the_headline_answers_and_the_page_says_what_it_is_not() -> None:
    text = Page(compose.render(recorded(), RUN)).text
    tau = r"\(\d\.\d\d\)"
    assert re.search(rf"Most tokens per round: dspark in math {tau}, code {tau} and chat {tau}\.", text)
    assert re.search(r"\d\.\d\d× tokens per round of dspark over MTP-1 95 % \d\.\d\d to \d\.\d\d", text)
    # tokens are equal, seconds 0.63 and 1.03 on average over 4 prompts: 1.03/0.63.
    measured = r"Measured on this machine, one request at a time, dspark is 1\.63 times .*\(95 % 1\.\d\d to 1\.\d\d\)\."
    assert re.search(measured, text)
    assert "bundled prompts, not the benchmarks" in text
    assert "they are not expected to be equal" in text
    for fact in ("harness run suites/math_code_chat", "9a4f0c", "4be1c77", "torch 2.9", "Xeon", "memory 16.0 GiB"):
        assert fact in text
    assert "gpu None" not in text
