"""Databases that are damaged, foreign, older, read-only or on a full disk: one sentence, nothing lost, and a way out."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

import results.store.connection
import results.store.migration
from results.store.connection import StoreError
from results.store.database import Store
from results.store.rescue import rescue
from results.store.rows import TARGET, anchor_table, recordings, response_tables
from simulator.errors import InputError
from simulator.records import Anchors, Recording, Round
from tests.results.test_store import INFO, RESPONSE

OLD = 6
"""A schema that Specyard 0.2 wrote."""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "specyard.duckdb", said.append)


def older(file: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, bytes]:
    """A database of an older schema with one run; returns the run's id and the file's content."""
    current, old = results.store.migration.MIGRATIONS, file.parent / "old schema"
    old.mkdir()
    for sql in sorted(current.glob("*.sql"))[:OLD]:
        shutil.copy(sql, old)
    with monkeypatch.context() as patched:
        patched.setattr(results.store.migration, "MIGRATIONS", old)
        run_id = Store(file).create_run(INFO)
    shutil.rmtree(old)
    return run_id, file.read_bytes()


def test_an_older_database_is_copied_before_it_is_brought_up_to_date(
    store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, before = older(store.file, monkeypatch)
    assert store.find_run(run_id) == run_id
    [sentence] = said
    assert f"(schema {OLD})" in sentence
    assert f"stays as it was in specyard.schema-{OLD}.duckdb" in sentence
    assert store.file.with_name(f"specyard.schema-{OLD}.duckdb").read_bytes() == before
    assert sorted(f.name for f in store.file.parent.iterdir()) == ["specyard.duckdb", f"specyard.schema-{OLD}.duckdb"]
    assert Store(store.file, said.append).find_run(run_id) == run_id
    assert len(said) == 1  # once is enough


def test_writing_into_an_older_database_keeps_a_copy_too_and_overwrites_none(
    store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store.file.with_name(f"specyard.schema-{OLD}.duckdb")
    kept.write_bytes(b"somebody's")
    _, before = older(store.file, monkeypatch)
    store.create_run(INFO)
    assert kept.read_bytes() == b"somebody's"
    assert store.file.with_name(f"specyard.schema-{OLD}-2.duckdb").read_bytes() == before
    assert len(said) == 1


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on read-only media, which tests that run as root cannot make out of permissions."""
    monkeypatch.setattr(results.store.connection.os, "access", lambda path, mode: mode != os.W_OK)


@pytest.mark.usefixtures("unwritable")
def test_an_older_database_that_cannot_be_written_is_read_through_a_copy(
    store: Store, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(results.store.connection.os, "access", lambda path, mode: True)
        run_id, before = older(store.file, monkeypatch)
    assert store.find_run(run_id) == run_id
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM decisions").fetchall() == [(0,)]
    [sentence] = said
    assert "cannot be written; it is read through a temporary copy" in sentence
    assert store.file.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["specyard.duckdb"]
    with pytest.raises(StoreError, match="cannot be written; choose another --out"):
        store.create_run(INFO)
    with pytest.raises(StoreError, match="cannot be written"):
        store.prepare()


READS = """
import os, sys
from pathlib import Path
from results.store.database import Store
folder = Path(sys.argv[1])
print(Store(folder / "specyard.duckdb").find_run(sys.argv[2]))
"""


def test_read_only_media(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that is really read-only, where this machine lets us make one."""
    run_id, before = older(store.file, monkeypatch)
    inside = f'mount --bind "{tmp_path}" "{tmp_path}" && mount -o remount,bind,ro "{tmp_path}" && exec "$@"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", inside, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mounts")
    done = subprocess.run(
        [*command, sys.executable, "-c", READS, str(tmp_path), run_id], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == run_id, done.stderr
    assert "it is read through a temporary copy" in done.stderr
    assert store.file.read_bytes() == before


@pytest.mark.parametrize("length", [0, 10, 5_000, 20_000])
def test_a_file_cut_short_is_damaged_or_none_of_ours(store: Store, length: int) -> None:
    store.create_run(INFO)
    whole = store.file.read_bytes()
    store.file.write_bytes(whole[:length])
    problem = "is damaged .* `harness rescue" if length > 4096 else "is empty, not a DuckDB file|is not a DuckDB file"
    for act in (lambda: store.find_run("latest"), lambda: store.create_run(INFO), store.prepare):
        with pytest.raises(InputError, match=problem):
            act()
    assert store.file.read_bytes() == whole[:length]


def test_an_sqlite_file_is_refused_without_a_look_at_the_network(store: Store) -> None:
    with sqlite3.connect(store.file) as connection:
        connection.execute("CREATE TABLE mine (i INTEGER)")
    with pytest.raises(InputError, match="is not a DuckDB file but one of SQLite's; choose another --out"):
        store.create_run(INFO)
    with pytest.raises(InputError, match="one of SQLite's"), store.reading():
        pass


def test_extensions_are_never_fetched(store: Store) -> None:
    store.create_run(INFO)
    for opened in (store.reading, store.writing):
        with opened() as connection:
            for setting in ("autoinstall_known_extensions", "autoload_known_extensions"):
                assert connection.execute(f"SELECT current_setting('{setting}')").fetchall() == [(False,)]


DIES = "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]); c.execute('CREATE TABLE t (i INT)'); os._exit(1)"


@pytest.mark.skipif(duckdb.__version__ < "2", reason="DuckDB 1.4 replays any log that lies beside a file, and does not say")
def test_the_log_of_another_database(store: Store, tmp_path: Path) -> None:
    run_id = store.create_run(INFO)
    other = tmp_path / "other.duckdb"
    subprocess.run([sys.executable, "-c", DIES, str(other)], check=False)
    log = tmp_path / "specyard.duckdb.wal"
    shutil.copy(tmp_path / "other.duckdb.wal", log)
    with pytest.raises(StoreError, match=r"specyard.duckdb.wal: belongs to another database.*move specyard.duckdb.wal away"):
        store.find_run("latest")
    into = tmp_path / "new.duckdb"
    rescue(store.file, into, lambda text: None)
    assert Store(into).find_run(run_id) == run_id
    log.unlink()
    assert store.find_run(run_id) == run_id
    store.file.rename(tmp_path / "away")
    shutil.copy(tmp_path / "other.duckdb.wal", log)
    with pytest.raises(StoreError, match=r"its database specyard.duckdb is gone"):
        store.create_run(INFO)
    assert not store.file.exists()


def recorded(store: Store, anchors: int) -> str:
    """A run with so many anchors of three responses."""
    rng, run_id = np.random.default_rng(0), store.create_run(INFO)
    for turn in range(3):
        rows = anchor_table(
            Recording("dspark", 2), "sums/0", turn,
            Anchors(np.full(anchors, 2, np.uint8), np.zeros(anchors, np.uint8), rng.random((anchors, 2), np.float32)),
        )  # fmt: skip
        store.add(run_id, {"anchors": rows, "recordings": recordings(Recording("dspark", 2), [("sums/0", turn, anchors)])})
        plain = dataclasses.replace(RESPONSE, turn=turn, rounds=(Round(0, 0, 0, 1, (), 1),) * 3)
        store.add(run_id, response_tables(TARGET, [plain]))
    return run_id


def with_torn_anchors(store: Store) -> bytes:
    """Overwrite the middle of a block that the anchors' probabilities lie in; returns what the file holds then."""
    with store.reading() as connection:
        mine = "column_name = 'accept_prob' AND block_id >= 0"
        sql = f"SELECT DISTINCT block_id FROM pragma_storage_info('anchors') WHERE {mine}"
        blocks = sorted(block for (block,) in connection.execute(sql).fetchall())
        [(block_bytes,)] = connection.execute("SELECT block_size FROM pragma_database_size()").fetchall()
    content = bytearray(store.file.read_bytes())
    place = 3 * 4096 + blocks[len(blocks) // 2] * block_bytes + block_bytes // 2  # after three headers
    content[place : place + 64] = b"x" * 64
    store.file.write_bytes(content)
    return bytes(content)


def test_what_reads_of_a_damaged_file_is_rescued(store: Store, tmp_path: Path) -> None:
    """A block of the anchors is overwritten; all other tables, and the anchors before and after, come out."""
    run_id = recorded(store, 100_000)
    content = with_torn_anchors(store)
    with pytest.raises(StoreError, match=r"is damaged .* `harness rescue"), store.reading() as connection:
        connection.execute("SELECT sum(accept_prob[1]) FROM anchors").fetchall()
    found = {each.table: each for each in rescue(store.file, tmp_path / "new.duckdb", lambda text: None)}
    assert found["anchors"].rows + found["anchors"].lost == 300_000
    assert 0 < found["anchors"].lost < 200_000
    assert all(each.lost == 0 for name, each in found.items() if name != "anchors")
    assert content == store.file.read_bytes()
    rescued = Store(tmp_path / "new.duckdb")
    assert rescued.find_run(run_id) == run_id
    with rescued.reading() as connection:  # no recording is torn
        promised = "(SELECT coalesce(sum(anchors), 0) FROM recordings)"
        sql = f"SELECT {promised}, (SELECT count(*) FROM anchors), count(failure) FROM runs"
        [(promised, there, failed)] = connection.execute(sql).fetchall()
    assert promised == there
    assert failed == 1
    with pytest.raises(InputError, match="is there already"):
        rescue(store.file, tmp_path / "new.duckdb", lambda text: None)


def test_nothing_to_rescue_leaves_nothing(store: Store, tmp_path: Path) -> None:
    store.create_run(INFO)
    store.file.write_bytes(store.file.read_bytes()[:20_000])
    with pytest.raises(StoreError, match="nothing of it can be read"):
        rescue(store.file, tmp_path / "new.duckdb", lambda text: None)
    assert [f.name for f in tmp_path.iterdir()] == ["specyard.duckdb"]


FILLS = """
import dataclasses, resource, sys
from pathlib import Path
import numpy as np
from results.store.database import Store
from results.store.rows import anchor_table
from simulator.errors import InputError
from simulator.records import Anchors, Recording, Round
store, run_id = Store(Path(sys.argv[1])), sys.argv[2]
resource.setrlimit(resource.RLIMIT_FSIZE, (6 << 20, 6 << 20))  # no file grows beyond: as a full disk, but for this process
rng, kept = np.random.default_rng(0), 0
try:
    while True:
        probs = rng.random((20_000, 7), np.float32)
        anchors = Anchors(np.full(20_000, 7, np.uint8), np.zeros(20_000, np.uint8), probs)
        store.add(run_id, {"anchors": anchor_table(Recording("dspark", 7), f"sums/{kept}", 0, anchors)})
        kept += 1
except InputError as error:
    print(kept, type(error).__name__, error)
"""


def test_a_full_disk_loses_nothing_that_was_committed(store: Store) -> None:
    run_id = store.create_run(INFO)
    store.add(run_id, response_tables(Recording("dspark", 2), [RESPONSE]))
    done = subprocess.run(
        [sys.executable, "-c", FILLS, str(store.file), run_id], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kept, name, sentence = done.stdout.split(" ", 2)
    assert name == "StoreError"
    assert "cannot be written" in sentence
    assert "what was committed is safe: make room, and go on" in sentence
    assert len(sentence.splitlines()) == 1
    assert int(kept) >= 1
    with store.reading() as connection:
        rows = connection.execute("SELECT prompt_id, count(*) FROM anchors GROUP BY ALL").fetchall()
    assert dict(rows) == {f"sums/{i}": 20_000 for i in range(int(kept))}
    store.create_run(INFO)  # and there is room again


COMPACTS = """
import os, sys
from pathlib import Path
import results.store.connection
from results.store.database import Store
results.store.connection.os.replace = lambda a, b: os.kill(os.getpid(), 9)
Store(Path(sys.argv[1])).compact(whatever=True)
"""


def test_a_kill_while_compacting_leaves_no_copy_for_ever(store: Store, tmp_path: Path) -> None:
    run_id = store.create_run(INFO)
    done = subprocess.run([sys.executable, "-c", COMPACTS, str(store.file)], check=False)
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) > 1  # the kill left a copy
    (tmp_path / f".{store.file.name}.1234").write_bytes(b"of Specyard 0.3")
    (tmp_path / ".specyard.duckdb.notes").write_bytes(b"somebody's own")
    again = Store(store.file)
    with again.writing():
        pass
    assert sorted(f.name for f in tmp_path.iterdir()) == [".specyard.duckdb.notes", "specyard.duckdb"]
    assert again.find_run(run_id) == run_id


def test_no_room_for_a_copy_leaves_an_older_database_as_it_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _, before = older(store.file, monkeypatch)

    def full(source: Path, into: Path) -> None:
        into.write_bytes(b"half a copy")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.store.migration.shutil, "copyfile", full)
    with pytest.raises(StoreError, match=r"no place beside it to keep a copy \(No space left on device\); make room"):
        store.create_run(INFO)
    assert store.file.read_bytes() == before
    assert [f.name for f in store.file.parent.iterdir()] == ["specyard.duckdb"]


@pytest.mark.slow
def test_damage_anywhere_is_a_sentence_or_does_no_harm(store: Store) -> None:
    """Forty places, by seed: every one is noticed, or lies where nothing is kept."""
    run_id = recorded(store, 2_000)
    content, rng = store.file.read_bytes(), np.random.default_rng(0)
    with store.reading() as connection:
        whole = connection.execute(EVERYTHING).fetchall()
    noticed: list[str] = []
    for place in [0, 8, 12, 20, 4096, 4104, 8192, *rng.integers(0, len(content) - 8, 33).tolist()]:
        damaged = bytearray(content)
        damaged[place : place + 8] = rng.bytes(8)
        store.file.write_bytes(damaged)
        try:
            assert store.find_run(run_id) == run_id
            with store.reading() as connection:
                assert connection.execute(EVERYTHING).fetchall() == whole
        except StoreError as error:
            noticed.append(str(error))
    assert len(noticed) > 10
    assert not any("\n" in sentence for sentence in noticed)


EVERYTHING = """
    SELECT (SELECT hash(list(a ORDER BY a)) FROM anchors a), (SELECT hash(list(r)) FROM responses r),
           (SELECT hash(list(r)) FROM runs r)
"""
