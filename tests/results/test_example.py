"""The recording of a real model that ships: it is taken up, says what the page says, and is simulated at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.app import app

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "results" / "examples"


def said(*arguments: str) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A folder of runs with the example alone."""
    option = ["--out", str(tmp_path_factory.mktemp("example"))]
    said("import", str(EXAMPLES / "smollm2-dspark"), *option)
    return option


def test_it_says_what_the_page_says(out: list[str]) -> None:
    found = json.loads(said("show", "latest", *out, "--json"))["accepted_length"]
    rows = [row for row in found if row["task"] is None and row["drafting"] != "greedy"]
    assert len(found) == len({(row["drafter"], row["drafting"], row["domain"], row["task"]) for row in found})
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for drafter, line in (("dspark", "recorded, on"), ("ngram", "the same, n-gram")):
        [told] = re.findall(rf"^\| {line}.*?\| (.*) \|$", page, re.MULTILINE)
        recorded = {row["domain"]: f"{row['tau']:.2f}" for row in rows if row["drafter"] == drafter}
        assert [recorded[domain] for domain in ("math", "code", "chat")] == told.split(" | ")


def test_it_is_simulated_on_a_profile_of_its_model(out: list[str]) -> None:
    model = ["--hardware", "l4", "--model", str(EXAMPLES / "smollm2.config.json")]
    short = ["--seconds", "5", "--concurrency", "4", "--decision-draws", "0"]
    points = json.loads(said("simulate", "latest", *model, *short, *out, "--json"))["simulations"]
    assert {point["drafter"] for point in points} == {"none", "dspark", "ngram"}


def test_nothing_of_the_machine_that_made_it_is_in_it(out: list[str]) -> None:
    shown = json.loads(said("show", "latest", *out, "--json"))["run"]
    del shown["report"], shown["database"]  # of this machine
    assert not re.search(r"\"/|/tmp/|/home/|/root/", json.dumps(shown))
