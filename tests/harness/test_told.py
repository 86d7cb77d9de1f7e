"""What `harness simulate` recommends, claims and prints, by what was simulated: decisions that data can carry, overload in
which nothing is kept, near misses that can be acted on, tables of a terminal's width."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness.cli.simulate import _gpus, print_sweep
from results.store.database import Store
from results.store.simulations import Simulation
from simulator.configuration import Configuration, System
from simulator.decision import Decision, Range
from simulator.hardware.catalogue import find_profile
from simulator.load import Users
from simulator.plan import SweepPlan
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import Recording
from simulator.serving.vllm import VLLM
from simulator.sla import Sla
from tests.harness.processes import called

DSPARK = ("--hardware", "h100/qwen3-4b", "--drafter", "dspark", "--decision-draws", "10")
BOTH = (*DSPARK, "--policy", "none,fixed:7")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one synthesised run: answers of 512 tokens."""
    folder = tmp_path_factory.mktemp("told")
    done = called("synthesize", "paper:qwen3-4b", "--responses-per-task", "20", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def swept(out: Path, *arguments: str) -> dict[str, Any]:
    done = called("simulate", *arguments, "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def decided(found: dict[str, Any]) -> dict[str, Any]:
    [decision] = found["decisions"].values()
    return dict(decision)


def printed(
    out: Path, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """What a terminal of 80 columns shows of a sweep."""
    for name, value in {"COLUMNS": "80", "FORCE_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    print_sweep(Store(out / "specyard.duckdb"), found["sweep"]["sweep_id"], as_json=False)
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in capsys.readouterr().out.splitlines()]


def cells(lines: list[str]) -> list[list[str]]:
    """Heads and rows of a table."""
    start = next(i for i, line in enumerate(lines) if line.startswith(" drafter"))
    table = [re.split(r"  +", line.strip()) for line in lines[start:]]
    return table[: next(i for i, line in enumerate(lines[start:]) if not line.startswith(" "))]


@pytest.mark.parametrize("policy", [NO_DRAFTER, PolicySpec.fixed(7)])
def test_gpus_of_what_is_to_be_run_have_a_range(policy: PolicySpec) -> None:
    """Of no speculation too, whatever recording its simulation walked."""
    profile = find_profile("h100/qwen3-4b")
    plan = SweepPlan(profile=profile, loads=[Users(64)], slas=[Sla.parse("tps>=50")], users=640)
    simulated = Simulation(
        point=0, run_id="r", system=System(Recording("none" if policy == NO_DRAFTER else "dspark", 7), policy),
        load=Users(64), lossless=True, exact=True, seed=0, headroom=2.0,
    )  # fmt: skip
    run = Configuration.plain(64) if policy == NO_DRAFTER else Configuration(Recording("dspark", 7), policy, 64)
    stub = Decision.about(
        engine=VLLM, profile=profile, load=Users(64), replicas=1, slas=plan.slas, figure="throughput", traffic="toys",
        temperature=0,
    )  # fmt: skip
    decided = msgspec.structs.replace(stub, candidate=run, holds=Range(2.0, 1.0, 2.5))
    assert _gpus(plan, 640, simulated, {Users(64): decided}) == "5 (4 to 10)"
    assert _gpus(plan, 640, simulated, {}) == "5"
    other = System(Recording("dspark", 3), PolicySpec.fixed(3))
    assert _gpus(plan, 640, msgspec.structs.replace(simulated, system=other), {Users(64): decided}) == "5"


def test_three_requests_carry_no_recommendation(out: Path, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0.0,396,109\n0.4,879,55\n1.7,91,16\n")
    decision = decided(swept(out, *BOTH, "--arrivals", str(tmp_path / "own.csv")))
    assert not decision["command"]
    assert "3 requests" in decision["reason"]
    assert "20" in decision["reason"]


@pytest.mark.slow
def test_seventeen_requests_carry_no_promise_and_the_seconds_that_are_named_do(out: Path) -> None:
    asked = (*BOTH, "--rate", "0.05", "--sla", "tps>=50")
    decision = decided(swept(out, *asked))
    assert not decision["command"]
    seconds = re.search(r"--seconds (\d+)", decision["reason"])
    assert seconds is not None, decision["reason"]
    found = swept(out, *asked, "--seconds", seconds[1], "--no-headroom")
    decision = decided(found)
    assert decision["command"], decision["reason"]
    share = decision["attained"]["tps>=50"]
    assert share["value"] == 1
    assert share["low"] < 1 - 3 / (max(r["finished"] for r in found["simulations"]) + 4)


def test_a_run_that_is_too_short_is_called_that(out: Path, monkeypatch: Any, capsys: Any) -> None:
    """Most of the two seconds come to nothing: that is why there is no choice, and nothing is best."""
    found = swept(out, *BOTH, "--rate", "2", "--seconds", "2", "--sla", "tps>=50")
    assert "finished" in decided(found)["reason"]
    assert "only one configuration" not in decided(found)["reason"]
    heads, *rows = cells(printed(out, found, monkeypatch, capsys))
    assert heads[0] == "drafter · policy"
    assert not any("*" in cell or "✓" in cell for row in rows for cell in row)


def test_where_the_queue_grows_nothing_is_kept_anywhere(out: Path, monkeypatch: Any, capsys: Any) -> None:
    """Speeds of those who are served stay above the bound."""
    found = swept(out, *BOTH, "--rate", "400", "--seconds", "80", "--sla", "tps>=50")
    for row in found["simulations"]:
        assert row["keeps_up"] is False
        assert row["attained"]["tps>=50"] > 0.95
        assert row["slas"] == {"tps>=50": False}
        assert row["headroom"] < 1
    decision = decided(found)
    assert not decision["command"]
    assert "overload" in decision["reason"]
    shown = printed(out, found, monkeypatch, capsys)
    assert not any("✓" in line or "*" in line for line in shown)
    assert sum("overload ✗" in line for line in shown) == 2


@pytest.mark.slow
def test_the_replicas_that_a_near_miss_names_keep_the_promise(out: Path) -> None:
    asked = (*DSPARK, "--policy", "none,fixed:3,fixed:7", "--concurrency", "256", "--seconds", "60", "--sla", "tps>=100")
    found = swept(out, *asked)
    reason = decided(found)["reason"]
    closest = max(found["simulations"], key=lambda r: r["attained"]["tps>=100"])
    assert 0 < closest["attained"]["tps>=100"] < 0.95
    assert f"{closest['drafter']} γ={closest['gamma']} {closest['policy']}" in reason
    assert f"{100 * closest['attained']['tps>=100']:.0f}"[0] in reason
    replicas = re.search(r"--replicas (\d+)", reason)
    assert replicas is not None, reason
    assert decided(swept(out, *asked, "--replicas", replicas[1], "--no-headroom"))["command"]


def test_a_promise_that_is_broken_is_so_though_nobody_knows_whether_it_keeps_up(out: Path, tmp_path: Path) -> None:
    """A log of 120 requests in bursts: too short to tell whether its queue grows, and long enough to tell what waits."""
    file = tmp_path / "burst.csv"
    rows = "".join(f"{i // 40 + i % 40 * 1e-3},2000,200\n" for i in range(120))
    file.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
    found = swept(out, *DSPARK, "--policy", "none,fixed:7", "--arrivals", str(file), "--sla", "ttft<=20ms")
    assert {r["keeps_up"] for r in found["simulations"]} == {None}
    reason = decided(found)["reason"]
    assert "closest" in reason
    assert "too short" not in reason


def asked_by_chance(file: Path, count: int, per_s: float, tokens: int) -> Path:
    """A log of so many requests that come independently of each other."""
    at = np.cumsum(np.random.default_rng(11).exponential(1 / per_s, count))
    rows = "".join(f"{came:.4f},200,{tokens}\n" for came in at)
    file.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
    return file


def test_an_ordinary_log_is_told_as_it_is_when_it_comes_several_times_over(out: Path, tmp_path: Path) -> None:
    """What is inside at the end of a minute is more than at half of it, by chance: by itself that says nothing, and of
    more minutes like it, it does."""
    file = asked_by_chance(tmp_path / "minute.csv", 300, 5, 200)
    asked = (*DSPARK, "--policy", "none,fixed:3", "--sla", "tps>=20", "--no-headroom")
    once = swept(out, *asked, "--arrivals", str(file))
    assert {r["keeps_up"] for r in once["simulations"]} == {True}
    assert any("8 of it" in told for r in once["simulations"] for told in r["warnings"])
    assert decided(once)["command"]


def test_a_log_of_overload_stays_overload(out: Path, tmp_path: Path) -> None:
    file = asked_by_chance(tmp_path / "much.csv", 3000, 100, 512)
    found = swept(out, *DSPARK, "--policy", "none,fixed:3", "--sla", "tps>=1", "--no-headroom", "--arrivals", str(file))
    assert {r["keeps_up"] for r in found["simulations"]} == {False}
    assert "overload" in decided(found)["reason"]


def test_answers_that_outlast_a_log_say_how_long_a_log_would_do(out: Path, tmp_path: Path) -> None:
    file = asked_by_chance(tmp_path / "seconds.csv", 120, 60, 2000)
    found = swept(out, *DSPARK, "--policy", "none,fixed:3", "--sla", "tps>=1", "--no-headroom", "--arrivals", str(file))
    assert {r["keeps_up"] for r in found["simulations"]} == {None}
    assert re.search(r"answers take [\d.]+ s on average, .* within [\d.]+ s; give a log of \d+ s", decided(found)["reason"])


def test_a_burst_of_a_millisecond_is_as_if_all_came_at_once(out: Path, tmp_path: Path) -> None:
    """Slices of ten microseconds are no load that grows, nor do they fill the memory."""
    found = []
    for name, gap_s in (("burst", 1e-5), ("once", 0.0)):
        rows = "".join(f"{i * gap_s:.5f},200,60\n" for i in range(100))
        (tmp_path / f"{name}@2x.csv").write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
        [row] = swept(
            out, "--hardware", "h100/qwen3-4b", "--drafter", "dspark", "--policy", "fixed:7", "--decision-draws", "0",
            "--arrivals", str(tmp_path / f"{name}@2x.csv"),
        )["simulations"]  # fmt: skip
        found.append(row)
    burst, once = found
    assert burst["throughput"] == pytest.approx(once["throughput"], rel=0.02)
    assert burst["quantiles"]["p50_ttft"] == pytest.approx(once["quantiles"]["p50_ttft"], rel=0.05)
    assert (burst["keeps_up"], once["keeps_up"]) == (None, None)


@pytest.mark.slow
def test_nothing_is_closest_by_chance_where_nobody_keeps_it(out: Path) -> None:
    """No request of anybody reaches 5,000 tokens a second: the fastest is closest, in whichever order they stand."""
    for policies in ("none,fixed:7", "fixed:7,none"):
        found = swept(
            out,
            *DSPARK,
            "--policy",
            policies,
            "--concurrency",
            "32",
            "--seconds",
            "30",
            "--sla",
            "tps>=5000",
            "--no-headroom",
        )
        assert "closest is dspark γ=7 fixed:7" in decided(found)["reason"]


LONG = "k_by_batch:1=7/2=7/4=7/8=6/16=5/32=4/64=3/128=2/256=1"


@pytest.mark.slow
def test_a_table_with_users_and_money_is_as_wide_as_the_terminal(out: Path, monkeypatch: Any, capsys: Any) -> None:
    costs = ("--users", "500", "--gpu-hour", "2.5", "--sla", "tps>=150", "--seconds", "60")
    found = swept(out, *DSPARK, "--policy", f"none,fixed:7,{LONG}", "--concurrency", "16", *costs)
    shown = printed(out, found, monkeypatch, capsys)
    assert all(len(line) <= 80 for line in shown if not line.startswith("  "))
    assert any(found["simulations"][2]["policy"] in line for line in shown)
    heads = cells(shown)[0]
    gone = next(line for line in shown if line.startswith("(a wider terminal"))
    for name in ("holds", "$ / M tokens", "GPUs for 500 users"):
        assert (name in heads) != (name in " ".join([gone, shown[shown.index(gone) + 1]]))
    holds = decided(found)["holds"]
    each = [round(16 * holds[end]) for end in ("high", "value", "low")]
    fewest, value, most = (-(-500 // n) for n in each)
    assert any(f"{value} GPUs (95 %: {fewest} to {most})" in " ".join(shown[i : i + 2]) for i in range(len(shown)))


@pytest.mark.slow
def test_warnings_name_their_rows_and_a_long_sweep_ends_in_a_sentence(out: Path, monkeypatch: Any, capsys: Any) -> None:
    """One line a kind of warning; in the table every row that it is about, and no other, has its letter."""
    asked = ("--policy", "none,fixed:7", "--concurrency", "1,64,256", "--seconds", "20", "--sla", "tps>=100")
    found = swept(out, *DSPARK, *asked)
    shown = printed(out, found, monkeypatch, capsys)
    heads, *rows = cells(shown)
    few = next(line for line in shown if "fewer than 100 requests finished" in line)
    assert sum("requests finished" in line for line in shown) == 1
    letter = few.partition(":")[0]
    marked = [letter in re.split(r", ", row[-1]) for row in rows]
    assert heads[-1] == "notes"
    assert marked == [r["finished"] < 100 for r in found["simulations"]]
    assert any(marked)
    assert not all(marked)
    text = " ".join(shown)
    assert "dspark γ=7 fixed:7 at 64 users" in text
    assert "nothing that keeps the promise at 256 users" in text
    assert "too few requests to tell at 1 user" in text
