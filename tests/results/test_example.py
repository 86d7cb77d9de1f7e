"""The recording of a real model that ships: it is taken up, says what the page says, and is simulated at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.app import app

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "results" / "examples"
DOMAINS = ("math", "code", "chat")


def said(*arguments: str) -> Any:
    """What a command prints as JSON."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A folder of runs with the example alone."""
    option = ["--out", str(tmp_path_factory.mktemp("example"))]
    said("import", str(EXAMPLES / "smollm2-dspark"), *option)
    return option


def test_it_says_what_the_page_says(out: list[str]) -> None:
    shown = said("show", "latest", *out)
    found = shown["accepted_length"]
    rows = [row for row in found if row["task"] is None and row["drafting"] != "greedy"]
    greedy = {row["domain"]: row["tau"] for row in found if row["task"] is None and row["drafting"] == "greedy"}
    assert len(found) == len({(row["drafter"], row["drafting"], row["domain"], row["task"]) for row in found})
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    last = max(shown["run"]["drafters"]["dspark"]["training"]["evaluated"], key=lambda one: one["step"])
    trained = {one["domain"]: one["tau"] for one in last["drafting"]}
    recorded = {(row["drafter"], row["domain"]): row["tau"] for row in rows}
    lines = {
        "on 48 held-out": trained,
        "recorded, on": {domain: recorded["dspark", domain] for domain in DOMAINS},
        "the same, greedy drafts": greedy,
        "the same, n-gram": {domain: recorded["ngram", domain] for domain in DOMAINS},
    }
    for line, tau in lines.items():
        [told] = re.findall(rf"^\| {line}.*?\| (.*) \|$", page, re.MULTILINE)
        assert [f"{tau[domain]:.2f}" for domain in DOMAINS] == told.split(" | ")


def test_on_a_profile_of_its_model_it_does_not_pay(out: list[str]) -> None:
    """As the page says: DSpark gives fewer tokens than no speculation at every load."""
    model = ["--hardware", "l4", "--model", str(EXAMPLES / "smollm2.config.json")]
    points = said(
        "simulate", "latest", *model, "--seconds", "20", "--concurrency", "1,16,128", "--decision-draws", "0", *out
    )
    tokens = {(point["drafter"], point["policy"], point["users"]): point["throughput"] for point in points["simulations"]}
    assert len({users for _, _, users in tokens}) == 3
    assert {drafter for drafter, _, _ in tokens} == {"none", "dspark", "ngram"}
    for (drafter, _, users), found in tokens.items():
        assert drafter != "dspark" or found < tokens["none", "none", users]


def test_nothing_of_the_machine_that_made_it_is_in_it(out: list[str]) -> None:
    run = said("show", "latest", *out)["run"]
    del run["report"], run["database"]  # of this machine
    assert [text for text in strings(run) if Path(text).is_absolute()] == []


def strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from strings(one)
