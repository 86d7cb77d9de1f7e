"""The same GPUs shared out otherwise: one command compares the layouts in the same draws, and says which to run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.options import profiles_of, say_gpus
from harness.sweeps.layouts import _apart
from results.report.compose import compose
from results.store.database import Store
from simulator.decision import Draw
from simulator.errors import InputError
from simulator.hardware.catalogue import Asked, find_profile
from simulator.load import Users
from simulator.policies import PolicySpec
from simulator.setup import Setup
from tests.documented import differences

ASKED = (
    "--hardware", "l40s/qwen3-4b", "--gpus", "2", "--drafter", "mtp", "--policy", "none,fixed:1", "--decision-draws", "10",
)  # fmt: skip
COPIED = ("vllm serve", "harness ", "tuner ")
"""Lines that are to be copied: they are not broken."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts")
    asked = ["synthesize", "--survival", ".8", "--drafter", "mtp", "--responses-per-task", "30", "--output-tokens", "32"]
    done = CliRunner().invoke(app, [*asked, "--out", str(folder)])
    assert done.exit_code == 0, (done.output, done.exception)
    return folder


def ran(out: Path, *asked: str) -> str:
    done = CliRunner().invoke(app, [*asked, "--out", str(out)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def test_layouts_are_compared_in_one_command(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ran(out, "simulate", *ASKED, "--tp", "1,2", "--concurrency", "8", "--seconds", "20", "--json")
    assert differences(text) == []
    printed: dict[str, Any] = json.loads(text)
    [decision] = printed["decisions"].values()
    [rival] = decision["rivals"]
    assert {(decision["gpus"], decision["replicas"]), (rival["gpus"], rival["replicas"])} == {(1, 2), (2, 1)}
    gain = rival["gain"]
    assert gain["held"]["value"] >= 0  # the better one is told
    assert gain["all"]["low"] <= gain["held"]["low"]
    assert gain["held"]["high"] <= gain["all"]["high"]
    other = json.loads(ran(out, "show", rival["sweep"], "--json"))
    rates = [max(row["throughput"] for row in one["simulations"]) for one in (printed, other)]
    assert gain["held"]["value"] == pytest.approx(rates[0] / rates[1] - 1, abs=0.1)
    [told] = other["decisions"].values()
    assert told["rivals"][0]["gain"]["held"]["value"] == pytest.approx(1 / (1 + gain["held"]["value"]) - 1, abs=0.02)
    better = printed["sweep"]["sweep_id"]
    shown = ran(out, "show", better)
    assert "2 replicas on 1 GPU each" in shown
    assert "1 replica on 2 GPUs" in shown
    for name, value in {"COLUMNS": "80", "FORCE_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in ran(out, "show", better).splitlines()]
    assert [line for line in lines if len(line) > 80 and not line.startswith(COPIED)] == []
    assert sum("replica" in line for line in lines) >= 2
    with Store(out / "specyard.duckdb").reading() as con:
        answer = compose(con, printed["sweep"]["run_id"]).answer
    assert answer.profile == decision["profile"]  # not of the layout that was simulated last


@pytest.mark.slow
def test_a_comparison_that_was_stopped_goes_on(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped as the first layout was decided, and as both were: what goes on ends in the comparison, whichever is named."""
    asked = ["simulate", *ASKED, "--tp", "1,2", "--concurrency", "4", "--seconds", "10", "--out", str(out)]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr("harness.sweeps.layouts.next_layout", stop)
        assert CliRunner().invoke(app, asked).exit_code == 130
    first = Store(out / "specyard.duckdb").sweep("latest")["sweep_id"]
    with monkeypatch.context() as stopped:
        stopped.setattr("harness.sweeps.layouts.compare_layouts", stop)
        assert CliRunner().invoke(app, ["simulate", "--resume", first, "--out", str(out)]).exit_code == 130
    second = Store(out / "specyard.duckdb").sweep("latest")["sweep_id"]
    assert second != first
    for name in (first, second):
        [decision] = json.loads(ran(out, "simulate", "--resume", name, "--json"))["decisions"].values()
        [rival] = decision["rivals"]
        assert rival["sweep"] in (first, second)
        assert rival["gain"]["held"]["value"] >= 0


def test_only_passes_that_gpus_share_are_off_by_themselves() -> None:
    def setup(gpus: int) -> Setup:
        profile = find_profile("l40s/qwen3-4b", Asked(gpus=gpus))
        return Setup(load=Users(4), policy=PolicySpec.fixed(1), profile=profile)

    one, two = setup(1), setup(2)
    assert _apart(one, Draw(0, off=True)) is one
    assert _apart(two, Draw(0, off=False)) is two
    factors = []
    for seed in range(200):
        drawn = _apart(replace(two, seed=seed), Draw(0, off=True)).profile
        factors.append(drawn.verify.seconds[0] / two.profile.verify.seconds[0])
        assert drawn.overhead_s == two.profile.overhead_s
    assert 0.07 < (sum((f - 1) ** 2 for f in factors) / len(factors)) ** 0.5 < 0.13


@pytest.mark.slow
def test_a_report_of_an_open_loop_shows_what_its_loads_tell_apart(out: Path) -> None:
    """All that keeps up has the throughput that arrives; and of one load there is no line over loads."""
    plain = (
        "simulate", "--hardware", "l40s/qwen3-4b", "--policy", "none", "--decision-draws", "0", "--seconds", "20", "--json",
    )  # fmt: skip

    def sections(*load: str) -> dict[str, Any]:
        sweep = json.loads(ran(out, *plain, *load))["sweep"]
        with Store(out / "specyard.duckdb").reading() as con:
            return {one.name: one for one in compose(con, sweep["run_id"], sweep_id=sweep["sweep_id"]).sections}

    several = sections("--rate", "4,8")
    assert "frontier" not in several
    assert not {"threshold", "reliability", "speed"} & several.keys()  # nothing of the kind was recorded
    panels = several["load"].figure.panels
    assert [panel.div_id for panel in panels] == ["load-tps", "load-budget"]
    assert list(panels[0].plot.data[0].x) == [4, 8]
    assert not {"frontier", "load"} & sections("--rate", "4").keys()
    users = sections("--concurrency", "4,8")
    assert [panel.div_id for panel in users["load"].figure.panels] == ["load-throughput", "load-budget"]
    assert "frontier" in users


def test_gpus_that_nobody_asked_for_are_told() -> None:
    """An 8B does not fit on one L4 beside the largest drafter: two are taken, and who has one has to know."""
    profile, said = find_profile("l4/qwen3-8b"), list[str]()
    assert profile.gpus == 2
    say_gpus(profile, "l4/qwen3-8b", None, said.append)
    assert len(said) == 1
    assert "2 GPUs share the model" in said[0]
    say_gpus(profile, "l4/qwen3-8b", 2, said.append)
    say_gpus(find_profile("h100/qwen3-8b"), "h100/qwen3-8b", None, said.append)
    assert len(said) == 1
    say_gpus(find_profile("l4/qwen3-4b"), "l4", None, said.append)
    assert said[1:] == ["l4/qwen3-4b: 1 GPU, NVIDIA L4 24 GB"]


def test_a_layout_whose_gpus_do_not_hold_the_model_is_left_out() -> None:
    said = list[str]()
    found = profiles_of(lambda gpus: find_profile("l4/qwen3-14b", Asked(gpus=gpus)), [(1, 4), (2, 2), (4, 1)], said.append)
    assert [(profile.gpus, replicas) for profile, replicas in found] == [(2, 2), (4, 1)]
    assert len(said) == 1
    assert "does not fit on 1 × NVIDIA L4 24 GB" in said[0]
    with pytest.raises(InputError, match="does not fit on 1"):
        profiles_of(lambda gpus: find_profile("l4/qwen3-14b", Asked(gpus=gpus)), [(1, 4)], said.append)
