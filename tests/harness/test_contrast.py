"""Policies against one of them: nothing where they do the same, and what their simulations say where they do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from results.report.compose import compose
from results.store.contrasts import read_contrasts
from results.store.database import Store
from simulator.draws import sample
from simulator.hardware.catalogue import find_profile
from simulator.hardware.profile import dump_profile
from tests.documented import differences

SMALL = ("--hardware", "h100/qwen3-4b", "--seconds", "20", "--drafter", "dspark", "--decision-draws", "10")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contrasts")
    asked = ["synthesize", "--responses-per-task", "8", "--output-tokens", "64", "--out", str(folder)]
    assert CliRunner().invoke(app, asked).exit_code == 0
    return folder


def simulated(out: Path, *more: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["simulate", *SMALL, *more, "--out", str(out)])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout if code == 0 else done.stderr


def shown(out: Path, *more: str) -> str:
    done = CliRunner().invoke(app, ["show", *more, "--out", str(out)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def test_what_does_the_same_differs_in_nothing(out: Path) -> None:
    """A table of one k is that k; a threshold of 0 is the whole block, where deciding takes no time."""
    hardware = out / "deciding is free.json"
    hardware.write_text(dump_profile(replace(find_profile("h100/qwen3-4b"), deciding_share=0.0)))
    for twin, against in (("k_by_batch:1000=3", "fixed:3"), ("threshold:0", "fixed:7")):
        asked = ("--hardware", str(hardware), "--concurrency", "4", "--policy", f"{twin},{against}", "--against", against)
        printed = simulated(out, *asked, "--json")
        [one] = json.loads(printed)["contrasts"]
        assert one["against"] == against
        assert one["gain"]["all"] == one["gain"]["held"] == {"value": 0, "low": 0, "high": 0}


@pytest.mark.slow
def test_what_differs_differs_as_its_simulations_do(out: Path) -> None:
    asked = ("--concurrency", "2,64", "--policy", "fixed:1,fixed:7,prefix_scheduler,none", "--against", "fixed:7")
    text = simulated(out, *asked, "--json")
    assert differences(text) == []
    printed: dict[str, Any] = json.loads(text)
    rows = {(r["policy"], r["load"]): r["throughput"] for r in printed["simulations"]}
    found = {(c["candidate"]["policy"], c["load"]): c["gain"]["held"] for c in printed["contrasts"]}
    assert set(found) == {(p, n) for p in ("fixed:1", "prefix_scheduler") for n in ("users:2/0", "users:64/0")}
    for (policy, load), gain in found.items():
        assert gain["low"] <= gain["value"] <= gain["high"]
        assert gain["value"] == pytest.approx(rows[policy, load] / rows["fixed:7", load] - 1, abs=0.12)
    sweep = printed["sweep"]["sweep_id"]
    assert shown(out, sweep, "--json") == text
    assert shown(out, sweep).count("prefix_scheduler") >= 2
    with Store(out / "specyard.duckdb").reading() as con:
        stored = read_contrasts(con, sweep)
        sections = {section.name: section for section in compose(con, printed["sweep"]["run_id"], sweep_id=sweep).sections}
    assert [one.row() for one in stored] == printed["contrasts"]
    assert len(sections["contrast"].tables[0].groups) == 2
    [drawn] = sections["contrast"].figure.panels
    assert [list(trace.x) for trace in drawn.plot.data] == [[2, 64], [2, 64]]


def test_no_speculation_is_the_twin_of_all(out: Path) -> None:
    asked = ("--concurrency", "4", "--policy", "fixed:7,none", "--against", "none", "--decision-draws", "0")
    assert "Against none" in simulated(out, *asked)


def test_what_is_not_simulated_is_nothing_to_compare_with(out: Path) -> None:
    told = simulated(out, "--concurrency", "4", "--policy", "fixed:7", "--against", "fixed:3", code=2)
    assert "--against fixed:3" in told.splitlines()[-1]
    assert "--policy" in told.splitlines()[-1]


def test_what_gives_no_figure_is_no_contrast(out: Path) -> None:
    """Answers of one token have no speed; nothing of them breaks the sweep."""
    asked = ("--rate", "1", "--output-tokens", "1", "--policy", "fixed:7,none", "--against", "none")
    assert json.loads(simulated(out, *asked, "--json"))["contrasts"] == []


@pytest.mark.slow
def test_loads_of_two_kinds_are_told_apart(out: Path) -> None:
    """What is made large differs; one axis holds one kind."""
    asked = ("--concurrency", "2,64", "--rate", "2", "--policy", "fixed:1,fixed:7", "--against", "fixed:7")
    first = simulated(out, *asked)
    assert first.count("tokens/s/GPU  95 %") == first.count("tokens/s of a user on average  95 %") == 1
    assert shown(out, first.split()[1]) == first
    assert f"sweep {first.split()[1]}, " in shown(out)
    with Store(out / "specyard.duckdb").reading() as con:
        [section] = [
            one for one in compose(con, Store(out / "specyard.duckdb").find_run("latest")).sections if one.name == "contrast"
        ]
    [panel] = section.figure.panels
    assert [list(trace.x) for trace in panel.plot.data] == [[2, 64]]
    assert sum(len(group) for group in section.tables[0].groups) == 3


def test_a_policy_that_is_left_out_is_nothing_to_compare_with(out: Path) -> None:
    told = simulated(out, "--concurrency", "4", "--against", "threshold:0.5", code=2)
    assert "--against threshold:0.5" in told.splitlines()[-1]
    assert "--policy" in told.splitlines()[-1]


def test_what_was_compared_is_not_compared_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between loads, a sweep goes on with the next; one that has ended shows what it found."""
    asked = ("--concurrency", "2,8", "--policy", "fixed:1,fixed:7", "--against", "fixed:7")
    whole = simulated(out, *asked)
    sweep, compared = whole.split()[1], list[int]()

    def counted(*args: Any, **more: Any) -> Any:
        compared.append(1)
        return sample(*args, **more)

    monkeypatch.setattr("harness.sweeps.contrast.sample", counted)
    monkeypatch.setattr("harness.sweeps.decision.sample", counted)
    again = CliRunner().invoke(app, ["simulate", "--resume", sweep, "--out", str(out)])
    assert (again.stdout, compared) == (whole, [])
    with Store(out / "specyard.duckdb").writing() as con:
        con.execute("DELETE FROM contrasts WHERE sweep_id = ? AND load LIKE 'users:8/%'", [sweep])
        con.execute("DELETE FROM decisions WHERE subject = ?", [sweep])
    assert "not yet (--resume" in shown(out, sweep)
    again = CliRunner().invoke(app, ["simulate", "--resume", sweep, "--out", str(out)])
    assert again.stdout == whole
    assert len(compared) == 2  # one load, and what to run
