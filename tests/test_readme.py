"""What the README says exists, and what it tells people to type works."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest
import typer

from harness.cli.app import app
from harness.recording.suite import load_suite
from results.store.database import Store
from tuner.cli.app import app as tuner_app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_commands_and_options_exist() -> None:
    options = set()
    for program, of in (("harness", app), ("tuner", tuner_app)):
        commands = typer.main.get_command(of).commands  # type: ignore[attr-defined]
        options |= {o for c in commands.values() for p in c.params for o in p.opts}
        used = re.findall(rf"(?:`|^    ){program} ([a-z]+)", README, re.MULTILINE)
        assert used
        assert set(used) <= set(commands)
    for option in re.findall(r"`(--[a-z-]+)", README):
        assert option in options, option


@pytest.mark.parametrize("sql", re.findall(r"```sql\n(.*?)```", README, re.DOTALL))
def test_sql_examples_run(sql: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "specyard.duckdb")
    with store.writing():
        pass
    with duckdb.connect(str(store.file), read_only=True) as connection:
        connection.execute(sql).fetchall()


def test_the_suite_example_loads(tmp_path: Path) -> None:
    [block] = [b for b in re.findall(r"(?:^    .*\n)+", README, re.MULTILINE) if "suite.yaml" in b]
    (tmp_path / "suite.yaml").write_text(re.sub(r"^    ", "", block, flags=re.MULTILINE))
    (tmp_path / "prompts").mkdir()
    for task in ("sums", "stories"):
        (tmp_path / "prompts" / f"{task}.jsonl").write_text('{"turns": ["1 + 1?"]}\n')
    assert load_suite(str(tmp_path)).file.generation.temperature == 0.7


@pytest.mark.parametrize("target", ["run", "test"])
def test_make_targets_exist(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
