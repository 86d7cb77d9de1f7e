"""Runs made of what was served: replayed to it, with intervals of what was counted, and read by the other commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.served.acceptance import acceptance_of, interval
from harness.served.kept import traces_of
from harness.served.server import together
from harness.served.sources.registry import read_files
from results.store.database import Store
from results.store.decisions import models_of
from simulator.policies import PolicySpec
from simulator.replay import replay
from simulator.serving.command import ServedWith
from tests.harness.served.advising import LOADS, run
from tests.harness.served.writing import Truth, answers, vllm_log, vllm_metrics


def test_averages_leave_more_open_than_requests(tmp_path: Path) -> None:
    (tmp_path / "requests").write_text(answers(40))
    requests = together(*read_files([tmp_path / "requests"]))
    counts = requests.drafts
    (tmp_path / "averages").write_text(vllm_metrics(int(counts.drafts), [int(n) for n in counts.accepted_at], 1200, 40))
    averages = acceptance_of(together(*read_files([tmp_path / "averages"])))
    told = acceptance_of(requests)
    assert averages.survival == pytest.approx(told.survival)
    widths = [np.subtract(*interval(own.tokens_drawn(3))[::-1]) for own in (averages, told)]
    assert widths[0] > widths[1]


@pytest.mark.parametrize("rounds", [True, False])
def test_a_served_run_replays_to_what_was_served(rounds: bool, tmp_path: Path) -> None:
    """Round by round where rounds are told, and in sum where only their histogram is."""
    text = answers(20) if rounds else "\n".join(_without_rounds(line) for line in answers(20).splitlines()) + "\n"
    (tmp_path / "a").write_text(text)
    server = together(*read_files([tmp_path / "a"]))
    trace, _ = traces_of(server, acceptance_of(server), "mine", "eagle3", 0)
    policy = PolicySpec.fixed(3).bind()
    for (_, anchors), request in zip(trace, server.told_apart, strict=True):
        walked = [r.accepted for r in replay(anchors, policy)]
        if rounds:
            assert tuple(walked) == request.rounds
        assert (len(walked), sum(walked)) == (request.drafts.drafts, request.drafts.accepted)


def _without_rounds(line: str) -> str:
    one = json.loads(line)
    one["metrics"]["speculative_decoding"].update(per_step_accepted=None, per_step_drafted=None)
    return json.dumps(one)


def test_averages_are_met_by_the_run_made_of_them(tmp_path: Path) -> None:
    """Acceptance by position, and the steps in which nothing is proposed."""
    (tmp_path / "a").write_text(vllm_metrics(300, (240, 180, 90), 1200, 40))
    server = together(*read_files([tmp_path / "a"]))
    trace, _ = traces_of(server, acceptance_of(server), "mine", "ngram", 0)
    rounds = [one for _, anchors in trace for one in replay(anchors, PolicySpec.fixed(3).bind())]
    drafts = [one.accepted for one in rounds if one.verified]
    assert len(drafts) / len(rounds) == pytest.approx(0.25, abs=0.01)
    assert [np.mean([one >= k for one in drafts]) for k in (1, 2, 3)] == pytest.approx([0.8, 0.6, 0.3], abs=0.03)


@pytest.mark.parametrize("drafts", [100, 300, 3_000, 300_000])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_intervals_over_made_answers_are_those_of_what_was_counted(drafts: int, share: float, tmp_path: Path) -> None:
    """A log of few drafts leaves as much open in a simulation as in advice; what was counted stays the middle."""
    tries = (round(0.8 * drafts), round(0.6 * drafts), round(0.3 * drafts))
    (tmp_path / "a").write_text(vllm_metrics(drafts, tries, round(drafts / share), drafts // 20))
    server = together(*read_files([tmp_path / "a"]))
    found = acceptance_of(server)
    trace, _ = traces_of(server, found, "mine", "eagle3", 0)
    walked = [[r.accepted for r in replay(anchors, PolicySpec.fixed(3).bind())] for _, anchors in trace]
    tokens, steps = np.array([(len(one) + sum(one), len(one)) for one in walked]).T
    assert tokens.sum() / steps.sum() == pytest.approx(found.tokens(3), rel=0.02)
    chosen = np.random.default_rng(3).integers(len(walked), size=(4_000, len(walked)))
    low, high = interval(tokens[chosen].sum(1) / steps[chosen].sum(1))
    told_low, told_high = interval(found.tokens_drawn(3))
    narrower = 0.65 if drafts < 300 else 0.9  # answers cannot differ more than drafts can be accepted
    assert narrower * (told_high - told_low) - 0.005 < high - low < 1.15 * (told_high - told_low) + 0.02


def test_a_report_of_averages_says_that_its_intervals_are_of_made_answers(tmp_path: Path) -> None:
    """Answers made of a log's averages are not what requests would be; of requests told apart nothing is said."""
    (tmp_path / "log").write_text(vllm_log(Truth(), LOADS))
    (tmp_path / "answers").write_text(answers(60))
    pages = []
    for file in ("log", "answers"):
        out = ("--out", tmp_path / f"{file} runs")
        assert run("import", tmp_path / file, "--drafter", "mine=eagle3", *out).exit_code == 0
        assert run("report", "latest", *out).exit_code == 0
        pages.append(next((tmp_path / f"{file} runs").glob("*/report.html")).read_text())
    assert ["were made with their averages" in page for page in pages] == [True, False]


@pytest.mark.slow
def test_the_other_commands_work_on_a_served_run_and_say_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(answers(30))
    out = ("--out", tmp_path / "runs")
    assert run("import", tmp_path / "a", "--drafter", "mine=eagle3", *out).exit_code == 0
    store = Store(tmp_path / "runs" / "specyard.duckdb")
    row = store.run(store.find_run("latest"))
    assert (row["prompt_source"], row["plan"]["label"]) == ("served", "estimated from served rounds")
    small = ("--hardware", "h100/qwen3-4b", "--concurrency", "2", "--seconds", "1", "--policy", "none,fixed:2")
    done = run("simulate", "latest", *small, "--decision-draws", "0", *out)
    assert done.exit_code == 0, done.output
    assert "estimated from served rounds" in done.stdout
    told = run("simulate", "latest", *small, "--decision-draws", "0", "--json", *out)
    assert json.loads(told.stdout)["label"] == "estimated from served rounds"
    assert run("report", "latest", *out).exit_code == 0
    page = next((tmp_path / "runs").glob("*/report.html")).read_text()
    assert "estimated from served rounds" in page.lower()
    assert "rounds estimated from served rounds: walked again as an engine logged them" in page
    assert "dense record" not in page


def test_longer_drafts_than_were_served_are_not_in_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(answers(30))
    assert run("import", tmp_path / "a", "--drafter", "eagle3", "--out", tmp_path).exit_code == 0
    small = ("--hardware", "h100/qwen3-4b", "--concurrency", "2", "--policy", "fixed:5", "--out", tmp_path)
    assert run("simulate", "latest", *small).exit_code == 2


def test_a_served_drafter_keeps_its_checkpoint(tmp_path: Path) -> None:
    """In the advice, in the run, and so in exports and reports; one that nobody names stays unnamed."""
    log = vllm_log(Truth(), [8] * 20)
    for name, text, named in (
        ("named", log, {"eagle3": "Org/Draft"}),
        ("not", log.replace("'model': 'Org/Draft', ", ""), {}),
    ):
        (tmp_path / name).write_text(text)
        told = CliRunner().invoke(app, ["advise", str(tmp_path / name), "--json"])
        assert json.loads(told.stdout)["checkpoint"] == named.get("eagle3", "")
        out = tmp_path / f"{name}.runs"
        done = CliRunner().invoke(app, ["import", str(tmp_path / name), "--out", str(out), "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        store = Store(out / "specyard.duckdb")
        assert models_of(store.run(store.find_run("latest"))).checkpoints == named


def test_a_served_look_up_is_kept_with_its_own_windows(tmp_path: Path) -> None:
    log = vllm_log(Truth(), [8] * 20, method="ngram").replace("'model': 'Org/Draft'", "'prompt_lookup_max': 7")
    (tmp_path / "log").write_text(log)
    done = CliRunner().invoke(app, ["import", str(tmp_path / "log"), "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    store = Store(tmp_path / "specyard.duckdb")
    served = models_of(store.run(store.find_run("latest"))).served
    assert served == {"ngram": ServedWith("vLLM", {"prompt_lookup_max": 7})}
