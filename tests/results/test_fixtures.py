"""Databases of every schema version that was ever current: they open, migrate, and are printed as they were stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from results.store.database import Store
from results.store.migration import migrations
from tests.selection import few
from tools.fixtures import CONTENTS, fixture, unpacked
from tuner.cli.app import app as tuner

CONTENT: dict[str, Any] = json.loads(CONTENTS.read_text(encoding="utf-8"))
ALL = range(1, len(migrations()) + 1)


def printed(program: Any, *arguments: str) -> str:
    """What a command prints, which must go well."""
    done = CliRunner().invoke(program, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_version_but_the_newest_has_a_database() -> None:
    """Of the newest, one is made when its code is whole: `python tools/fixtures.py`."""
    assert not [version for version in ALL[:-1] if not fixture(version).exists()]
    assert {int(version) for version in CONTENT} == {version for version in ALL if fixture(version).exists()}


@pytest.mark.skipif(duckdb.__version__ < "2", reason="DuckDB 1 opens no file that DuckDB 2 wrote, and these are such")
@pytest.mark.parametrize("version", few([version for version in ALL if fixture(version).exists()], 1, 8))
def test_a_database_of_any_version_is_printed_as_it_was_stored(version: int, tmp_path: Path) -> None:
    held, out = CONTENT[str(version)]["holds"], ["--out", str(tmp_path)]
    store = Store(unpacked(version, tmp_path))
    assert sorted(run["run"] for run in json.loads(printed(app, "runs", "--json", *out))["runs"]) == held["runs"]
    lengths = {}
    for run in held["runs"]:
        shown = json.loads(printed(app, "show", run, "--json", *out))
        rows = [row for row in shown["accepted_length"] if row["task"] and row["drafter"] != "none"]
        lengths |= {f"{row['drafter']} {row['gamma']} {row['task']}": row["tau"] for row in rows}
        printed(app, "report", run, *out)
        assert run in (tmp_path / run / "report.html").read_text(encoding="utf-8")
    assert lengths == pytest.approx(held["accepted length"], rel=1e-9)
    with store.reading() as connection:
        simulated = connection.execute("SELECT sweep_id, point, throughput FROM simulations ORDER BY ALL").fetchall()
    assert [list(row) for row in simulated] == held.get("throughput", [])
    for study, load, place, throughput in held.get("confirmed", []):
        at = json.loads(printed(tuner, "show", study, "--json", *out))["loads"][load]
        found = [at["winner"], *at["beside"]] if at["winner"] else at["beside"]
        [figures] = [each["figures"] for each in found if each["place"] == place]
        assert figures["throughput"] == throughput
    assert (tmp_path / f"specyard.schema-{version}.duckdb").exists() == (version < len(migrations()))
