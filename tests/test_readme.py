"""What README and docs say exists, and what they tell people to type works."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest
import typer

from harness.cli.app import app
from harness.recording.suite import load_suite
from results.store.database import Store
from simulator.arrivals import RecordedRequests
from tuner.cli.app import app as tuner_app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
TEXT["extending.md"] = TEXT["extending.md"].split("# What else can be added")[0]  # the rest is there where it was added


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT[page.name]):
        assert "://" in link or (page.parent / link).exists(), link


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/([^)#]+)\)", TEXT["README.md"]))
    assert {page.name for page in PAGES[1:]} <= linked


def test_the_readme_is_one_screen() -> None:
    assert len(TEXT["README.md"].splitlines()) <= 70


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_options_exist(page: Path) -> None:
    options: set[str] = set()
    for program, of in (("harness", app), ("tuner", tuner_app)):
        group = typer.main.get_command(of)
        commands = group.commands  # type: ignore[attr-defined]
        options |= {*group.context_settings["help_option_names"], *(o for p in group.params for o in p.opts)}
        options |= {o for c in commands.values() for p in c.params for o in (*p.opts, *p.secondary_opts)}
        words = re.findall(rf"(?:`|^    ){program} ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", TEXT[page.name], re.MULTILINE)
        used = [" ".join(two) if " ".join(two) in commands else two[0] for two in words]
        assert set(used) <= set(commands)
        if page.name in ("README.md", "commands.md"):
            assert used
        if page.name == "commands.md":
            assert set(used) == set(commands)
    typed = re.findall(r"^    (?:harness|tuner) .*$", TEXT[page.name], re.MULTILINE)
    named = [
        *re.findall(r"`(--[a-z-]+)", TEXT[page.name]),
        *(o for line in typed for o in re.findall(r" (--[a-z-]+)", line)),
    ]
    for option in named:
        assert option in options, option


@pytest.mark.parametrize("sql", re.findall(r"```sql\n(.*?)```", TEXT["database.md"], re.DOTALL))
def test_sql_examples_run(sql: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "specyard.duckdb")
    with store.writing():
        pass
    with duckdb.connect(str(store.file), read_only=True) as connection:
        connection.execute(sql).fetchall()


def test_the_suite_example_loads(tmp_path: Path) -> None:
    [block] = [b for b in re.findall(r"(?:^    .*\n)+", TEXT["your-own.md"], re.MULTILINE) if "suite.yaml" in b]
    (tmp_path / "suite.yaml").write_text(re.sub(r"^    ", "", block, flags=re.MULTILINE))
    (tmp_path / "prompts").mkdir()
    for task in ("sums", "stories"):
        (tmp_path / "prompts" / f"{task}.jsonl").write_text('{"turns": ["1 + 1?"]}\n')
    assert load_suite(str(tmp_path)).file.generation.temperature == 0.7


def test_the_example_of_arrivals_is_read(tmp_path: Path) -> None:
    [block] = re.findall(r"```csv\n(.*?)```", TEXT["loads.md"], re.DOTALL)
    (tmp_path / "arrivals.csv").write_text(block)
    found = RecordedRequests.read(tmp_path / "arrivals.csv")
    assert found.arrival_s.tolist() == [0.0, 0.4, 1.7]
    assert found.output_tokens.tolist() == [109, 55, 16]


@pytest.mark.parametrize("target", ["run", "test"])
def test_make_targets_exist(target: str) -> None:
    assert f"make {target}" in TEXT["README.md"]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
