"""Taking runs, sweeps and studies out of a database: whole, nothing else, and the space is free again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from results.store.database import Store, utc_now
from results.store.housekeeping import Holding, holdings, named, outdated, take_out
from results.store.lease import leased
from results.store.rows import anchor_table, response_tables
from results.store.subjects import RUN, STUDY, SUBJECTS, SWEEP
from simulator.errors import InputError
from simulator.records import Anchors, Recording
from tests.results.test_store import INFO, RESPONSE

VALUES: Mapping[str, Any] = {
    "VARCHAR": "x", "JSON": "{}", "BOOLEAN": True, "TIMESTAMP": datetime(2026, 1, 1), "DOUBLE": 0.0, "FLOAT": 0.0,
    "BIGINT": 0, "INTEGER": 0, "UINTEGER": 0, "USMALLINT": 0, "UTINYINT": 0, "UBIGINT": 0,
}  # fmt: skip
"""A value for every type of column."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "specyard.duckdb")


def fill(store: Store, ids: Mapping[str, str], created_at: datetime, *, error: str | None = None) -> None:
    """A row in each table that has one of these columns, whatever it means; profiles are made as they are named."""
    with store.writing() as connection:
        sql = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
        tables: dict[str, dict[str, Any]] = {}
        for table, column, kind in connection.execute(sql).fetchall():
            value = [] if kind.endswith("[]") else VALUES[kind]
            tables.setdefault(table, {})[column] = ids.get(column, value)
        views = {name for (name,) in connection.execute("SELECT view_name FROM duckdb_views()").fetchall()}
        for table, row in tables.items():
            if table in {*views, "specyard_schema", "leases"} or not set(row) & set(ids):
                continue
            row |= {"created_at": created_at} if "created_at" in row else {}
            row |= {"failure": None} if "failure" in row else {}
            row |= {"error": error} if "error" in row else {}
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def whole(store: Store, name: str, created_at: datetime, *, error: str | None = None) -> None:
    """A run, a sweep and a study of it, with a row in each of their tables, and a profile of their own."""
    ids = {"run_id": f"r{name}", "sweep_id": f"s{name}", "study_id": f"t{name}", "profile_hash": f"p{name}"}
    beside = {"validation_id": f"v{name}", "tolerance_id": f"o{name}", "believed_hash": f"p{name}"}
    fill(store, ids | beside | {"subject": f"s{name}"}, created_at, error=error)


def counts(store: Store) -> dict[str, int]:
    """Rows by table, but of those that are no run's, sweep's or study's."""
    with store.reading() as connection:
        own = "('specyard_schema', 'own_policies')"  # of the schema, and of nobody: known by what they say
        sql = f"SELECT table_name FROM duckdb_tables() WHERE table_name NOT IN {own}"
        tables = [name for (name,) in connection.execute(sql).fetchall()]
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in tables}


def ids(found: list[Holding]) -> set[str]:
    return {each.id for each in found}


def test_a_run_goes_with_every_row_of_it_and_no_other(store: Store) -> None:
    """Of all tables there are, as the schema says: a new one that is forgotten here fails."""
    now = utc_now()
    whole(store, "1", now)
    one = counts(store)
    assert all(count == 1 for table, count in one.items() if table != "leases"), one
    whole(store, "2", now)
    assert ids(named(store, ["r2"])) == {"r2", "s2", "t2"}
    take_out(store, named(store, ["r2"]))
    assert counts(store) == one
    assert ids(holdings(store)) == {"r1", "s1", "t1"}


@pytest.mark.parametrize("name", ["s2", "t2"])
def test_a_sweep_or_a_study_goes_alone(store: Store, name: str) -> None:
    for number in "12":
        whole(store, number, utc_now())
    before = counts(store)
    assert ids(named(store, [name])) == {name}
    take_out(store, named(store, [name]))
    assert ids(holdings(store)) == {"r1", "s1", "t1", "r2", "s2", "t2"} - {name}
    of_kind = {
        SWEEP: {"sweeps", "simulations", "contrasts", "decisions"},
        STUDY: {"studies", "trials", "confirmations", "sensitivities"},
    }
    gone = of_kind[SWEEP if name == "s2" else STUDY]
    assert {table for table, count in counts(store).items() if count != before[table]} == gone


def test_the_space_is_free_again(store: Store) -> None:
    rng, kept = np.random.default_rng(0), store.create_run(INFO)
    store.add(kept, response_tables(Recording("dspark", 2), [RESPONSE]))
    run_id = store.create_run(INFO)
    probs = rng.random((200_000, 7), np.float32)
    anchors = Anchors(np.full(200_000, 7, np.uint8), np.zeros(200_000, np.uint8), probs)
    small = store.file.stat().st_size
    store.add(run_id, {"anchors": anchor_table(Recording("dspark", 7), "sums/0", 0, anchors)})
    (store.file.parent / run_id / "figures").mkdir(parents=True)
    (store.file.parent / run_id / "report.html").write_text("a report")
    grown = store.file.stat().st_size
    assert grown > small + 4_000_000
    freed = take_out(store, named(store, [run_id[:5]]))
    assert store.file.stat().st_size == grown - freed <= small
    assert [file.name for file in store.file.parent.iterdir()] == [store.file.name]
    assert store.recorded_prompts(kept) == {(Recording("dspark", 2), "sums/0")}


def test_what_is_old_goes_but_for_the_newest(store: Store) -> None:
    now = utc_now()
    for number, days in (("1", 90), ("2", 60), ("3", 40), ("4", 1)):
        whole(store, number, now - timedelta(days=days))
    whole(store, "5", now - timedelta(days=50), error="every point failed")  # no sweep that came to something
    every = ids(holdings(store))
    month = timedelta(days=30)
    assert ids(outdated(store, older=month, keep=None)) == every - {"r4", "s4", "t4"}
    assert ids(outdated(store, older=month, keep=2)) == every - {"r4", "s4", "t4", "r3", "s3", "t3"}
    assert ids(outdated(store, older=None, keep=1)) == every - {"r4", "s4", "t4"}
    assert ids(outdated(store, older=month, keep=9)) == {"s5"}
    assert outdated(store, older=timedelta(days=365), keep=None) == []
    with store.writing() as connection:  # a run that a young sweep stands on is no old one
        connection.execute("UPDATE sweeps SET created_at = ? WHERE sweep_id = 's1'", [now])
    assert ids(outdated(store, older=month, keep=None)) == every - {"r4", "s4", "t4", "r1", "s1"}


@pytest.mark.parametrize("table", ["validations", "tolerances"])
def test_a_run_that_was_validated_yesterday_is_in_use(store: Store, table: str) -> None:
    now = utc_now()
    whole(store, "1", now - timedelta(days=90))
    with store.writing() as connection:
        connection.execute(f"UPDATE {table} SET created_at = ?", [now - timedelta(days=1)])
    assert "r1" not in ids(outdated(store, older=timedelta(days=30), keep=None))


def test_a_sweep_that_began_since_it_was_listed_keeps_its_run(store: Store) -> None:
    whole(store, "1", utc_now())
    chosen = [each for each in named(store, ["r1"]) if each.word == "run"]
    with leased(store, SWEEP, "s1"), pytest.raises(InputError, match="is at work on it"):
        take_out(store, chosen)
    assert ids(holdings(store)) == {"r1", "s1", "t1"}


def test_what_is_being_worked_on_stays(store: Store) -> None:
    whole(store, "1", utc_now() - timedelta(days=90))
    with leased(store, SWEEP, "s1"):
        assert ids(outdated(store, older=timedelta(days=30), keep=None)) == {"t1"}
        for name in ("r1", "s1"):
            with pytest.raises(InputError, match=r"at work on it|sweep or study of it goes on"):
                named(store, [name])
    assert ids(outdated(store, older=timedelta(days=30), keep=None)) == {"r1", "s1", "t1"}
    found = named(store, ["r1"])
    with leased(store, RUN, "r1"), pytest.raises(InputError, match="is at work on it"):  # since it was listed
        take_out(store, found)
    assert ids(holdings(store)) == {"r1", "s1", "t1"}


def test_every_kind_has_its_word() -> None:
    assert {word: subject.word for word, subject in SUBJECTS.items()} == {word: word for word in SUBJECTS}


def command(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.stderr


def test_commands_list_before_they_remove(store: Store) -> None:
    for number, days in (("1", 90), ("2", 1)):
        whole(store, number, utc_now() - timedelta(days=days))
    out = ["--out", str(store.file.parent)]
    for asked in (["remove", "r1"], ["prune", "--older", "30d", "--keep", "1"]):
        code, told, _ = command(*asked, *out)
        assert code == 0
        assert told.splitlines()[-1] == "nothing is removed; --yes removes what is listed"
        assert {line.split()[1] for line in told.splitlines()[:-1]} == {"r1", "s1", "t1"}
    listed = json.loads(command("prune", "--older", "30d", *out, "--json")[1])
    assert listed == {
        "schema": 1, "kind": "removal",
        "listed": [{"kind": k, "id": f"{k[0] if k != 'study' else 't'}1", "run": "r1"} for k in ("run", "sweep", "study")],
        "removed": False, "bytes_freed": 0,
    }  # fmt: skip
    assert len(holdings(store)) == 6
    code, told, _ = command("prune", "--older", "30d", *out, "--yes")
    assert code == 0
    assert "removed; " in told.splitlines()[-1]
    assert ids(holdings(store)) == {"r2", "s2", "t2"}
    assert command("prune", "--keep", "5", *out, "--yes")[1] == "nothing to remove\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["remove", "zz"], "zz: no such run, sweep or study"),
        (["remove", ""], "a value is empty"),
        (["remove", "r"], "r: fits r2, r1"),
        (["prune"], "say what may go: --older 30d, --keep 5, or both"),
        (["prune", "--older", "soon"], "--older soon: is written as 12h, 30d or 8w"),
        (["prune", "--keep", "-1"], "--keep -1: must be 0 or more"),
    ],
)
def test_commands_refuse_in_a_sentence(store: Store, arguments: list[str], message: str) -> None:
    for number, days in (("1", 2), ("2", 1)):
        whole(store, number, utc_now() - timedelta(days=days))
    code, told, problem = command(*arguments, "--out", str(store.file.parent), "--yes")
    assert (code, told) == (2, "")
    assert problem.startswith(f"harness: {message}")
    assert len(problem.splitlines()) == 1
    assert len(holdings(store)) == 6


def test_rescue_is_a_command(store: Store, tmp_path: Path) -> None:
    run_id = store.create_run(INFO)
    store.add(run_id, response_tables(Recording("dspark", 2), [RESPONSE]))
    code, told, _ = command("rescue", "--out", str(tmp_path))
    assert code == 0
    assert "responses: 1 row\n" in told
    assert Store(tmp_path / "specyard.rescued.duckdb").find_run("latest") == run_id
    assert command("rescue", "--out", str(tmp_path))[0] == 2
