"""Sweeps of simulations: same numbers wherever they run, stored as they come, resumed, and refused in one sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

import results.store.rows
import simulator.hardware.profile
from harness.cli.app import app
from harness.cli.simulate import print_sweep
from harness.console import Watcher
from harness.sweeps.run import run_sweep
from results.store.database import Store
from results.store.rows import plan_row, read_plan
from simulator.errors import InputError
from simulator.hardware.catalogue import bundled_profiles, find_profile
from simulator.hardware.profile import Profile, dump_profile
from simulator.load import Arrivals, Load, RecordedArrivals, Users, counts
from simulator.plan import SweepPlan
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.serving.engines import engine_of
from simulator.sla import Sla
from tests.harness.processes import called, harness
from tests.harness.test_cli import refused

QUIET = Watcher(lambda text: None, lambda stage, done, total: None)
QUICK = ("--hardware", "h100/qwen3-4b", "--seconds", "20", "--decision-draws", "10")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one synthesised run."""
    folder = tmp_path_factory.mktemp("sweeps")
    done = called("synthesize", "--responses-per-task", "12", "--output-tokens", "96", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def simulated(out: Path, *arguments: str, run: Callable[..., Any] = called) -> list[dict[str, Any]]:
    done = run("simulate", *QUICK, *arguments, "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["simulations"]
    return rows


PEEKS = """
from simulator.policies import Policy

class Peek(Policy):
    def admit(self, step):
        for request in range(step.running):
            step.admit(request, step.accepted(request))
"""


def test_a_policy_of_ones_own_that_breaks_everywhere_is_no_success(out: Path, tmp_path: Path) -> None:
    """The others are shown; a script that asks whether it went well is told that it did not."""
    (tmp_path / "peek.py").write_text(PEEKS)
    asked = ("--policy", f"{tmp_path}/peek.py:Peek,fixed:3", "--concurrency", "4", "--drafter", "dspark")
    done = called("simulate", *QUICK, *asked, "--decision-draws", "0", "--out", str(out))
    assert (done.returncode, "fixed:3" in done.stdout) == (2, True)
    [sentence] = [line for line in done.stderr.splitlines() if "could not be simulated" in line]
    assert "peek.py:Peek" in sentence
    assert "--resume" not in sentence  # which would break as it did


def test_of_what_breaks_everywhere_nothing_is_left(out: Path, tmp_path: Path) -> None:
    (tmp_path / "peek.py").write_text(PEEKS)
    asked = ("--policy", f"{tmp_path}/peek.py:Peek", "--concurrency", "4", "--drafter", "dspark", "--decision-draws", "0")
    before = Store(out / "specyard.duckdb").sweep("latest")["sweep_id"]
    done = called("simulate", *QUICK, *asked, "--out", str(out))
    assert (done.returncode, done.stdout) == (2, "")
    sentence = done.stderr.splitlines()[-1]
    assert "peek.py:Peek" in sentence
    assert "--resume" not in sentence
    with Store(out / "specyard.duckdb").reading() as con:
        newest = con.execute("SELECT sweep_id FROM sweeps ORDER BY created_at DESC LIMIT 1").fetchone()
    assert newest == (before,)


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must not depend on where and when a point was simulated."""
    return [{k: v for k, v in r.items() if k not in ("wall_s", "sweep_id")} for r in rows]


@pytest.mark.slow
@pytest.mark.ray
def test_the_same_numbers_here_and_on_workers(out: Path) -> None:
    asked = ("--concurrency", "1,8", "--policy", "prefix_scheduler,none,vllm_adaptive", "--drafter", "dspark", "--seed", "3")
    here, there = simulated(out, *asked), simulated(out, *asked, "--actors", "2", run=harness)
    assert figures(here) == figures(there)
    assert [(r["drafter"], r["policy"], r["users"]) for r in here] == [
        (d, p, n) for d, p in (("dspark", "prefix_scheduler"), ("none", "none"), ("dspark", "vllm_adaptive")) for n in (1, 8)
    ]
    assert [r["confidences"] for r in here[::2]] == ["calibrated", "none", "raw"]
    assert all(r["exact"] == (r["policy"] != "vllm_adaptive") for r in here)
    assert here[0]["tau"] > 2 > here[2]["tau"] == 1


def test_defaults_cover_what_can_be_and_say_what_cannot(out: Path) -> None:
    done = called("simulate", *QUICK, "--concurrency", "4", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "eagle3 γ=7 prefix_scheduler: left out: policy prefix_scheduler: needs confidences" in done.stderr
    for who in ("none", "dspark γ=7 fixed:7", "dspark γ=7 prefix_scheduler", "dflash γ=7 fixed:7", "mtp γ=1 fixed:1"):
        assert who in done.stdout
    assert "h100/qwen3-4b (roofline)" in done.stdout


@pytest.mark.slow
@pytest.mark.ray
def test_drafters_without_a_head_are_scheduled_on_estimates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small recording of the bundled pair: Eagle3 says nothing of itself, yet its drafts are cut where they get worse."""
    small = ("suites/math_code_chat", "--limit", "5", "--max-new-tokens", "64", "--drafter", "eagle3", "--drafter", "ngram")
    done = harness("record", *small, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    asked = ("--concurrency", "64", "--policy", "fixed:7,prefix_scheduler,vllm_adaptive")
    done = called("simulate", *QUICK, *asked, "--json", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "ngram γ=7 prefix_scheduler: left out" in done.stderr
    fixed, scheduled, adaptive, lookup = json.loads(done.stdout)["simulations"]
    assert [r["confidences"] for r in (fixed, scheduled, adaptive, lookup)] == ["none", "estimated", "estimated", "none"]
    assert 1 < scheduled["budget"] < fixed["budget"] == 8
    assert scheduled["throughput"] > fixed["throughput"]
    assert scheduled["exact"]
    print_sweep(Store(tmp_path / "specyard.duckdb"), fixed["sweep_id"], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.lstrip().startswith("drafter"))
    names = [line.split("  ")[0].strip(" *") for line in lines[head + 1 :]]  # one has a star, for most
    eagle3 = [f"eagle3 γ=7 {policy}" for policy in ("fixed:7", "prefix_scheduler (estimated)", "vllm_adaptive (estimated)")]
    assert names[:4] == [*eagle3, "ngram γ=7 fixed:7"]


def test_an_interrupted_sweep_goes_on(out: Path) -> None:
    rows = simulated(out, "--concurrency", "1..8", "--policy", "fixed:3", "--drafter", "eagle3")
    sweep = rows[0]["sweep_id"]
    with duckdb.connect(str(out / "specyard.duckdb")) as connection:
        connection.execute("DELETE FROM simulations WHERE sweep_id = ? AND point > 1", [sweep])
        connection.execute("UPDATE sweeps SET finished_at = NULL WHERE sweep_id = ?", [sweep])
    done = called("simulate", "--resume", sweep[:4], "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert figures(json.loads(done.stdout)["simulations"]) == figures(rows)


def test_rows_of_requests_as_parquet(out: Path, tmp_path: Path) -> None:
    [row] = simulated(
        out, "--rate", "3", "--policy", "none", "--rows", str(tmp_path / "rows"), "--sla", "tps>=1", "--prompt-tokens", "9"
    )
    requests = pl.read_parquet(tmp_path / "rows" / "point_00000.parquet")
    after = requests.filter(pl.col("finish_s") >= row["warmup_s"])
    assert len(after) == row["finished"] > 20
    tps = (after["output_tokens"] - 1) / (after["finish_s"] - after["first_s"])
    assert tps.mean() == pytest.approx(row["tps"])
    assert tps.median() == pytest.approx(row["quantiles"]["p50_tps"], rel=0.011)
    assert set(requests["prompt_tokens"]) == {9}
    assert row["slas"] == {"tps>=1": True}
    assert row["attainment"] == 1


def test_recorded_arrivals_are_served_once(out: Path, tmp_path: Path) -> None:
    file = tmp_path / "arrivals.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i / 4},{50 + i},{20 + i}\n" for i in range(40)))
    [row] = simulated(out, "--arrivals", str(file), "--speed", "2", "--policy", "fixed:7", "--drafter", "dspark")
    assert (row["finished"], row["arrivals"], row["warmup_s"]) == (40, "arrivals.csv@2", 0)
    assert row["simulated_s"] > 39 / 8
    assert called("report", "latest", "--out", str(out)).returncode == 0  # a load without a place on an axis


def test_a_sweep_resumes_the_same_arrivals_or_none(out: Path, tmp_path: Path) -> None:
    file = tmp_path / "arrivals.csv"
    file.write_text(before := "arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i / 4},50,20\n" for i in range(9)))
    simulated(out, "--arrivals", str(file), "--policy", "none")
    file.write_text(before + "9,50,20\n")
    changed = called("simulate", "--resume", "latest", "--out", str(out))
    assert changed.returncode == 2
    assert "has changed since it was planned with" in changed.stderr
    file.unlink()
    gone = called("simulate", "--resume", "latest", "--out", str(out))
    assert gone.returncode == 2
    assert f"{file}: No such file" in gone.stderr
    file.write_text(before)
    assert called("simulate", "--resume", "latest", "--out", str(out)).returncode == 0


@pytest.mark.parametrize("engine", ["vllm", "any"])
def test_a_plan_is_stored_as_text_and_read_back_equal(engine: str) -> None:
    plan = SweepPlan(
        profile=find_profile("h100/qwen3-4b"), believed=find_profile("b200/qwen3-4b"),
        loads=[Users(4, 0.5), Arrivals(2), RecordedArrivals(Path("/a.csv"), 2)],
        policies=[NO_DRAFTER, PolicySpec("lagged_scheduler", "2/0.5")], weights={"math": 1.0},
        slas=[Sla.parse("p95_ttft<=0.5")], engine=engine_of(engine),
    )  # fmt: skip
    row = json.loads(json.dumps(plan_row(plan)))
    assert read_plan(row, SweepPlan) == plan
    assert (row["loads"], row["policies"], row["slas"], row["engine"]) == (
        ["users:4/0.5", "rate:2/1", "file:/a.csv@2"], ["none", "lagged_scheduler:2/0.5"], ["ttft<=500ms"], engine,
    )  # fmt: skip
    assert hashlib.sha256(row["profile"].encode()).hexdigest() == plan.profile.digest
    with pytest.raises(InputError, match="unknown field `speed`"):
        read_plan({**row, "speed": 1}, SweepPlan)


def test_a_sweep_writes_its_profile_out_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for every point: the digest is worked out once, the row made once."""
    written: list[str] = []

    def dumped(profile: Profile) -> str:
        written.append(profile.name)
        return dump_profile(profile)

    for module in (results.store.rows, simulator.hardware.profile):
        monkeypatch.setattr(module, "dump_profile", dumped)
    store = Store(out / "specyard.duckdb")
    few = SweepPlan(profile=find_profile("h100/qwen3-4b"), loads=[Users(2)], policies=[NO_DRAFTER], seconds=1)
    counts = []
    for replications in (1, 4):
        plan = msgspec.structs.replace(few, profile=find_profile("h100/qwen3-4b"), replications=replications)
        sweep_id = run_sweep(store, store.find_run("latest"), plan, QUIET)
        assert len(store.simulations(sweep_id)) == replications
        counts.append(len(written))
        written.clear()
    assert counts[0] == counts[1] <= 3


@pytest.mark.slow
def test_a_wrong_belief_costs(out: Path) -> None:
    """A scheduler that thinks verification is free verifies everything."""
    asked = ("--concurrency", "256", "--policy", "prefix_scheduler", "--drafter", "dspark")
    [true] = simulated(out, *asked)
    [wrong] = simulated(out, *asked, "--believed-hardware", "b200/qwen3-4b")
    assert wrong["believed"] == "b200/qwen3-4b"
    assert wrong["budget"] > true["budget"]


def test_numbers_and_loads_as_users_write_them() -> None:
    assert counts("-c", "1..256") == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert counts("-c", "3..20,7") == [3, 4, 7, 8, 16, 20]
    assert counts("-c", None) == []
    with pytest.raises(InputError, match=r"-c 4,256\.\.8: 256\.\.8 falls; a range rises, as 8\.\.256"):
        counts("-c", "4,256..8")
    assert Load.parse("users:64/2.5") == Users(64, 2.5)
    assert Load.parse("rate:5/0") == Arrivals(5, 0)
    for wrong in ("users:0", "users:x", "rate:-1", "queue:3"):
        with pytest.raises(InputError, match="load"):
            Load.parse(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "4"], "name a hardware profile with --hardware"),
        ([*QUICK], "name a load"),
        ([*QUICK, "--concurrency", "a..b"], "--concurrency a..b: is written as 64"),
        (["--hardware", "h100/gpt-2", "--concurrency", "1"], "known here is gpt-2: there are qwen3-4b"),
        ([*QUICK, "--concurrency", "1", "--policy", "best"], "no such policy; there are fixed:K"),
        ([*QUICK, "--concurrency", "1", "--drafter", "medusa"], "no dense recording of medusa; there are: dspark"),
        ([*QUICK, "--concurrency", "1", "--sla", "speed>=1"], "is written tps>=80"),
        ([*QUICK, "--concurrency", "1", "--mix", "law=1"], "no law in run"),
        ([*QUICK, "--concurrency", "1", "--mix", "law"], "is written as math=0.4"),
        ([*QUICK, "--concurrency", "1", "--request-cap", "2000"], "step_tokens 8192: must be more than"),
        ([*QUICK, "--concurrency", "1", "--prompt-tokens", "9000000"], "but the hardware holds"),
        ([*QUICK, "--arrivals", "/nowhere.csv"], "nowhere.csv"),
        (["--hardware", "h100/gpt-2", "--arrivals", "/nowhere.csv"], "known here is gpt-2: there are qwen3-4b"),
        ([*QUICK, "--arrivals", "/nowhere.csv", "--mix", "law=1"], "no law in run"),
    ],
)
def test_bad_input_is_refused(out: Path, arguments: list[str], message: str) -> None:
    with duckdb.connect(str(out / "specyard.duckdb"), read_only=True) as connection:
        before = connection.execute("SELECT count(*) FROM sweeps").fetchall()
    assert message in refused("simulate", *arguments, "--out", str(out), run=called)
    with duckdb.connect(str(out / "specyard.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM sweeps").fetchall() == before


def test_profiles_are_listed_and_printed(tmp_path: Path) -> None:
    assert "h100/qwen3-4b" in called("hardware").stdout.split()
    mine = tmp_path / "mine.json"
    mine.write_text(called("hardware", "h100/qwen3-4b").stdout)
    assert find_profile(str(mine)) == find_profile("h100/qwen3-4b")


def test_the_table_of_profiles_fits_a_terminal_and_has_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profile = find_profile("h100/qwen3-4b")
    Path("runs/hardware/lab").mkdir(parents=True)
    measured = dataclasses.replace(profile, source="measured", provenance={"date": "2026-02-03"}, gpus=2)
    Path("runs/hardware/lab/mine.json").write_text(dump_profile(measured))
    Path("runs/hardware/undated.json").write_text(dump_profile(dataclasses.replace(profile, source="user", provenance={})))
    Path("runs/hardware/broken.json").write_text("{")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    console = Console(width=80, highlight=False)
    monkeypatch.setattr("harness.cli.hardware.plain_console", lambda: console)
    with console.capture() as captured:
        done = CliRunner().invoke(app, ["hardware"])
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("left out: runs/hardware/broken.json: is not JSON")
    lines = captured.get().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    fits = f"{profile.kv_capacity_tokens:,}"
    assert rows["runs/hardware/lab/mine.json"] == ["2", fits, "measured", "2026-02-03"]
    assert rows["runs/hardware/undated.json"] == ["1", fits, "user", today]
    assert rows["h100/qwen3-4b"] == ["1", fits, "roofline", "–"]
    assert rows["b300/deepseek-v4-flash"][2:] == ["published", "2026-08-14"]
    assert rows["paper/deepseek-v4-pro"][2:] == ["fitted", "2026"]
    assert len(rows) == len(bundled_profiles()) + 2


def test_greedy_drafts_of_a_run_without_them_are_refused_and_a_default_says_so(out: Path) -> None:
    """The papers' curves are of sampled drafts; vLLM's policy would by default be simulated on greedy ones."""
    asked = ("simulate", *QUICK, "--concurrency", "4", "--drafter", "dspark", "--out", str(out), "--policy")
    done = called(*asked, "fixed:7", "--drafting", "greedy")
    assert done.returncode == 2
    assert "has no recordings of greedy drafts for --drafting greedy; there are sampled ones" in done.stderr
    done = called(*asked, "vllm_adaptive")
    assert done.returncode == 0, done.stderr
    assert "has no recordings of greedy drafts: what follows is of sampled ones" in done.stderr
    assert "sampled drafts" in done.stdout
