"""Drafters of every published format, through all that is done with one: recorded, timed, profiled, judged, exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from tests.drafters.test_golden_formats import FOLDERS, GOLDEN, reference
from tests.harness.processes import harness, query
from tuner.cli.app import app as tuner

pytestmark = [pytest.mark.slow, pytest.mark.ray]
SUITE = Path(__file__).parents[2] / "suites" / "math_code_chat"
TARGETS = sorted({reference(folder)["target"] for folder in FOLDERS})


def reduced(folder: Path) -> bool:
    return (json.loads((folder / "config.json").read_text()).get("draft_vocab_size") or 512) < 512


def done(command: Any, *arguments: str) -> str:
    """What a command prints, in this process."""
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_published_drafters_go_all_the_way(target: str, tmp_path: Path) -> None:
    folders = {folder.name: folder for folder in FOLDERS if reference(folder)["target"] == target}
    pair = ["--target", str(GOLDEN / target)]
    for name, folder in folders.items():
        pair += ["--drafter", f"{name}={folder}"]
    out = ["--out", str(tmp_path)]
    small = ["--limit", "2", "--max-new-tokens", "24", "--actors", "1"]

    plain = ["--chat-template", "plain"]  # these targets have no template of their own
    recorded = json.loads(harness("run", str(SUITE), *pair, *plain, *small, *out, "--json", check=True).stdout)
    assert recorded["run"]["target"]["chat_template"] == "plain"
    declared = recorded["run"]["drafters"]
    assert {name: declared[name]["gamma"] for name in folders} == {n: reference(f)["gamma"] for n, f in folders.items()}
    assert {row["drafter"] for row in recorded["speed"]} == {*folders, "none"}
    assert {row["drafter"] for row in recorded["lost"]} == {name for name, folder in folders.items() if reduced(folder)}
    assert {name for (name,) in query(tmp_path, "SELECT DISTINCT drafter FROM anchors")} == {*folders}
    report = Path(recorded["run"]["report"]).read_text(encoding="utf-8")
    assert [name for name in folders if declared[name]["format"] not in report] == []
    assert ("lost to the reduced vocabulary" in report) == any(reduced(folder) for folder in folders.values())

    limits = ["--time-limit", "4", "--max-requests", "2", "--context-tokens", "64"]
    measured = json.loads(done(app, "profile", *pair, *limits, *out, "--json"))
    assert {*folders} <= {*measured["profile"]["draft"]}
    of_profile = ["--hardware", measured["file"], "--concurrency", "2", "--trials", "2", "--seconds", "5", "--actors", "0"]
    for name, folder in folders.items():
        told = CliRunner().invoke(
            app, ["doctor", str(folder), *pair[:2], "--texts", "4", "--max-new-tokens", "16", "--json"]
        )
        assert told.exit_code in (0, 1), told.output
        found = json.loads(told.stdout)["doctor"]
        assert (found["format"], found["table"][0]["reading"]) == (declared[name]["format"], "as declared")
        done(tuner, "search", "latest", *of_profile, "--drafter", name, *out)
        assert done(tuner, "export", "latest", *out)
