"""Archives of runs: what is taken up is what was written, and what is not whole, or somebody else's, is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results.store.archives import MANIFEST, is_archive, read_archive, take_up, write_archive
from results.store.database import Store
from results.store.migration import migrations
from results.store.subjects import OF_A_RUN
from simulator.errors import InputError
from tests.results.database import (
    RUN,
    add_anchors,
    add_run,
    add_study,
    add_sweep,
    add_tolerances,
    add_validation,
    insert,
    recorded,
)
from tools.fixtures import unpacked

POLICY = "mine.py:Greedy#01234567"


def rows(store: Store, run: str = RUN) -> dict[str, list[tuple[object, ...]]]:
    """Every row of a run and of what stands on it, by table; floats by their bits."""
    with store.reading() as con:
        return {
            name: [
                tuple(repr(value) for value in row)
                for row in con.execute(f"SELECT * FROM {name} WHERE {which} ORDER BY ALL", {"run": run}).fetchall()
            ]
            for name, which in OF_A_RUN.items()
        }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A database with rows of a run in every table there is, and another run."""
    made = Store(tmp_path_factory.mktemp("archives") / "specyard.duckdb")
    with made.writing() as con:
        recorded({"dspark": 7, "mtp": 2, "none": 0}, con=con)
        add_anchors(con)
        add_anchors(con, "mtp", 1, head=False)
        odd = [float("nan"), -0.0, 1e-45, np.pi]
        con.execute("UPDATE anchors SET outside = ?, fresh_confidence = confidence WHERE drafter = 'dspark'", [odd])
        insert(con, "readings", [{"run_id": RUN, "prompt_id": "gsm8k/0", "turn": 0, "tokens": 40, "outside": 1}])
        add_sweep(con)
        add_study(con)
        add_validation(con)
        add_tolerances(con)
        contrast = {"sweep_id": "5eed", "number": 0, "load": "users:4/0", "candidate": {}, "against": POLICY, "draws": 3}
        insert(con, "contrasts", [contrast | {"figure": "tps"}])
        insert(con, "decisions", [{"subject": name, "load": "users:4/0", "decision": {}} for name in ("5eed", "57ad")])
        facts = ("lossless", "replays_exactly", "reads_confidences", "wants_raw_confidences", "needs_cost")
        own = {
            "policy": POLICY,
            "file": "mine.py",
            "class_name": "Greedy",
            "digest": "01234567",
            "text": "class Greedy: ...",
        }
        insert(con, "own_policies", [own | dict.fromkeys(facts, True) | {"searched": ["k"]}])
        con.execute("UPDATE sweeps SET plan = ?", [json.dumps({"policies": [POLICY]})])
        add_run(con, "other")
    return made


@pytest.fixture(scope="module")
def written(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its archive."""
    made = tmp_path_factory.mktemp("written") / "archive"
    write_archive(store, RUN, made)
    return made


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the archive, to break."""
    return Path(shutil.copytree(written, tmp_path / "archive"))


def test_every_table_of_the_schema_is_of_a_run_or_of_nobody(store: Store) -> None:
    with store.reading() as con:
        tables = {name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    assert tables - {"specyard_schema", "leases"} == set(OF_A_RUN)
    assert not [name for name, found in rows(store).items() if not found]


class TestEveryArchive:
    """What holds of each form that `harness export --to` knows."""

    def test_what_is_taken_up_is_what_was_written(self, store: Store, folder: Path, tmp_path: Path) -> None:
        taken = Store(tmp_path / "new" / "specyard.duckdb")
        archive, new = take_up(taken, folder)
        assert new
        assert rows(taken) == rows(store)
        assert (archive.run_id, archive.schema) == (RUN, len(migrations()))
        assert taken.run(RUN) == store.run(RUN)
        with taken.reading() as con:
            assert con.execute("SELECT run_id FROM runs").fetchall() == [(RUN,)]

    def test_the_same_twice_and_again_from_what_was_taken_up(self, folder: Path, tmp_path: Path) -> None:
        taken = Store(tmp_path / "new" / "specyard.duckdb")
        take_up(taken, folder)
        before = rows(taken)
        assert not take_up(taken, folder)[1]
        assert rows(taken) == before
        again = write_archive(taken, RUN, tmp_path / "again")
        assert again.tables == read_archive(folder)[1].tables

    def test_a_run_beside_others_and_what_they_share(self, store: Store, folder: Path) -> None:
        """A profile that others stand on is there once; a run of the same id with other rows is another run."""
        before = rows(store, "other")
        with store.writing() as con:
            con.execute("DELETE FROM anchors WHERE run_id = ? AND drafter = 'mtp' AND prompt_id = 'gsm8k/0'", [RUN])
        with pytest.raises(InputError, match="with other anchors"):
            take_up(store, folder)
        from results.store.housekeeping import named, take_out

        take_out(store, named(store, [RUN]))
        with store.writing() as con:
            insert(con, "profiles", pl.read_parquet(folder / "profiles.parquet").to_dicts())
        assert take_up(store, folder)[1]
        assert rows(store, "other") == before
        assert rows(store)["anchors"]

    @pytest.mark.parametrize("cut", [1, 1000])
    @pytest.mark.parametrize("name", ["anchors", "runs"])
    def test_a_file_that_is_not_whole(self, name: str, cut: int, folder: Path, tmp_path: Path) -> None:
        file = folder / f"{name}.parquet"
        file.write_bytes(file.read_bytes()[:-cut])
        refused(tmp_path, folder, f"{name}.parquet: is not as it was written")

    def test_a_file_that_is_gone_or_added(self, folder: Path, tmp_path: Path) -> None:
        (folder / "README.md").write_text("what this is")
        assert take_up(Store(tmp_path / "new" / "specyard.duckdb"), folder)[1]
        (folder / "rounds.parquet").unlink()
        refused(tmp_path, folder, "rounds.parquet: cannot be read")
        (folder / MANIFEST).unlink()
        assert is_archive(folder)
        refused(tmp_path, folder, f"has no {MANIFEST}")

    def test_of_a_newer_specyard(self, folder: Path, tmp_path: Path) -> None:
        told(folder, schema=len(migrations()) + 1, more=["of a later day"])
        refused(tmp_path, folder, "upgrade specyard")

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda table: table.append_column("mood", pa.array(["good"] * len(table))), "unknown column 'mood'"),
            (lambda table: table.drop_columns(["turn"]), "lacks column 'turn'"),
            (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "holds no rows of rounds"),
            (lambda table: table.set_column(2, "gamma", pa.array(["seven"] * len(table))), "holds no rows of rounds"),
            (lambda table: table.set_column(0, "run_id", pa.array(["other"] * len(table))), "holds other rows"),
        ],
    )
    def test_somebody_elses_table(
        self, change: Callable[[pa.Table], pa.Table], problem: str, folder: Path, tmp_path: Path
    ) -> None:
        """Its digest is told anew: who made it meant it so."""
        rewritten(folder, "rounds", change)
        refused(tmp_path, folder, problem)

    def test_recordings_that_do_not_replay(self, folder: Path, tmp_path: Path) -> None:
        rewritten(folder, "anchors", lambda table: table.slice(1))
        refused(tmp_path, folder, "do not replay")

    def test_rows_of_another_run_than_it_says(self, folder: Path, tmp_path: Path) -> None:
        told(folder, run_id="beef")
        refused(tmp_path, folder, "is of run beef")

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b"\xff", b'{"format": "specyard run"}', b'{"schema": "x"}', b"[" * 100_000]
    )
    def test_what_describes_something_else(self, content: bytes, folder: Path, tmp_path: Path) -> None:
        (folder / MANIFEST).write_bytes(content)
        refused(tmp_path, folder, "is not what `harness export` writes")

    def test_a_table_that_no_run_has(self, folder: Path, tmp_path: Path) -> None:
        tables = json.loads((folder / MANIFEST).read_bytes())["tables"]
        told(folder, tables=tables | {"../leases": tables["runs"]})
        refused(tmp_path, folder, "no run has")

    def test_nothing_is_left_of_an_export_that_fails(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
        with pytest.raises(OSError, match="No space"):
            write_archive(store, RUN, tmp_path / "archive")
        assert not list(tmp_path.iterdir())

    def test_what_is_not_finished_or_there_already(self, store: Store, tmp_path: Path) -> None:
        with store.writing() as con:
            add_run(con, "begun", finished=False)
        with pytest.raises(InputError, match="is not finished"):
            write_archive(store, "begun", tmp_path / "archive")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("mine")
        with pytest.raises(InputError, match="not written over"):
            write_archive(store, RUN, tmp_path / "mine")
        assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]

    def test_anything_reads_it(self, folder: Path) -> None:
        """The files are Parquet as others read it: polars, and DuckDB's own reader."""
        frame = pl.read_parquet(folder / "anchors.parquet")
        assert frame["accept_prob"].list.len().unique().to_list() == [1, 4]
        [(count,)] = duckdb.sql(f"SELECT count(*) FROM '{folder}/anchors.parquet'").fetchall()
        assert count == len(frame)


@pytest.mark.skipif(duckdb.__version__ < "2", reason="DuckDB 1 opens no file that DuckDB 2 wrote, and these are such")
@pytest.mark.parametrize("version", [2, 6, 13])
def test_an_archive_of_an_older_schema_is_brought_up_to_date(version: int, tmp_path: Path) -> None:
    """As its database is, row by row. What wrote it is here: a table, a file."""
    folder = tmp_path / "archive"
    folder.mkdir()
    file = unpacked(version, tmp_path)
    with duckdb.connect(str(file), read_only=True) as con:
        [(run, created_at)] = con.execute("SELECT run_id, created_at FROM runs ORDER BY ALL LIMIT 1").fetchall()
        there = {name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        tables = {}
        for name, which in OF_A_RUN.items():
            if name not in there:
                continue
            found = con.sql(f"SELECT * FROM {name} WHERE {which}", params={"run": run}).to_arrow_table()
            if len(found):
                pq.write_table(found, folder / f"{name}.parquet")
                tables[name] = {"rows": len(found), "sha256": digest(folder / f"{name}.parquet")}
    about = {"format": "specyard run", "schema": version, "specyard": "0.1.0", "written_at": "2026-01-01T00:00:00"}
    about |= {"run_id": run, "created_at": created_at.isoformat(), "tables": tables}
    (folder / MANIFEST).write_text(json.dumps(about))
    taken = Store(tmp_path / "new" / "specyard.duckdb")
    take_up(taken, folder)
    old = Store(file, lambda text: None)
    assert rows(taken, run) == rows(old, run)
    assert rows(old, run)["responses"]


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def told(folder: Path, **other: object) -> None:
    """Let an archive say something else of itself."""
    file = folder / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_bytes()) | other))


def rewritten(folder: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """An archive with another table, and its digest."""
    file = folder / f"{name}.parquet"
    table = change(pq.read_table(file))
    pq.write_table(table, file)
    tables = json.loads((folder / MANIFEST).read_bytes())["tables"]
    told(folder, tables=tables | {name: {"rows": len(table), "sha256": digest(file)}})


def refused(tmp_path: Path, folder: Path, problem: str) -> None:
    """An archive is refused in one sentence that says this, and leaves no row."""
    into = tmp_path / "refused"
    with pytest.raises(InputError, match=problem) as raised:
        take_up(Store(into / "specyard.duckdb"), folder)
    assert "\n" not in str(raised.value)
    assert not into.exists()
    shutil.rmtree(into, ignore_errors=True)
