"""The store: transactions, schema versions, foreign files, several processes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import results.store.connection
import results.store.migration
from results.store.database import Store
from results.store.recordings import acceptance_note, accepted_otherwise
from results.store.rows import TARGET, anchor_table, recordings, response_tables
from results.store.runs import RunInfo, SpeedSample
from simulator.confidence import calibrated
from simulator.errors import InputError
from simulator.records import Anchors, Recording, Response, Round
from simulator.sla import Sla
from simulator.traces import cut

INFO = RunInfo(
    "harness run", "mine", 1, "hash", "bundled", "tiny", {"hash": "t"}, {"dspark": {"gamma": 2}}, {}, 0, {}, None, {}, {}
)
RESPONSE = Response(
    "sums", "math", "sums/0", 0, 12, (5, 6, 7, 2), "text", "stop",
    (Round(2, 2, 1, 2, (0.5, 0.25), 1, 0.1, 0.2), Round(2, 2, 0, 1, (0.5, 0.25), 1, 0.1, 0.2)),
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "deep" / "specyard.duckdb")


def test_what_goes_in_comes_out(store: Store) -> None:
    run_id = store.create_run(INFO)
    store.add(run_id, response_tables(Recording("dspark", 2), [RESPONSE]))
    store.add_speed(run_id, [SpeedSample("dspark", 2, 0, "sums/0", 1, 3, 0.5)])
    assert store.recorded_prompts(run_id) == {(Recording("dspark", 2), "sums/0")}
    assert store.timed(run_id) == {(0, "sums/0")}
    assert store.run(run_id)["finished_at"] is None
    store.finish_run(run_id)
    assert store.run(run_id)["finished_at"] is not None
    with store.reading() as connection:
        assert connection.execute("SELECT drafter, tau, rounds, responses FROM accepted_length").fetchall() == [
            ("dspark", 1.5, 2, 1)
        ]
        assert connection.execute("SELECT confidence, accepted, committed FROM rounds ORDER BY round").fetchall() == [
            ([0.5, 0.25], 1, 2),
            ([0.5, 0.25], 0, 1),
        ]
        assert connection.execute("SELECT token_ids, output_tokens FROM responses").fetchall() == [([5, 6, 7, 2], 4)]


def test_a_reader_may_ask_whatever_it_likes(store: Store) -> None:
    """Opening leaves no result unread: DuckDB 2 would refuse `sql` then."""
    store.create_run(INFO)
    with store.reading() as connection:
        assert connection.sql("SELECT suite FROM runs").fetchall() == [("mine",)]


def test_a_unit_is_written_whole_or_not_at_all(store: Store) -> None:
    run_id = store.create_run(INFO)
    tables = response_tables(Recording("dspark", 2), [RESPONSE])
    doubled = pa.concat_tables([tables["rounds"], tables["rounds"].slice(0, 1)])
    with pytest.raises(duckdb.ConstraintException):
        store.add(run_id, {**tables, "rounds": doubled})
    assert store.recorded_prompts(run_id) == set()
    store.add(run_id, tables)
    with pytest.raises(duckdb.ConstraintException):
        store.add(run_id, tables)
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM rounds").fetchone() == (2,)


ANCHORS = Anchors(
    np.array([2, 2, 1], np.uint8), np.array([2, 0, 1], np.uint8), np.array([[1, 0.5], [0, 0.25], [1, 0]], np.float32),
    np.array([[0.5, 0.25], [1, 0], [0.75, 0.125]], np.float32),
)  # fmt: skip


def test_a_trace_comes_out_as_it_went_in(store: Store) -> None:
    run_id = store.create_run(dataclasses.replace(INFO, drafters={"none": {}, "dspark": {}, "eagle3": {}, "ngram": {}}))
    plain = tuple(Round(0, 0, 0, 1, (), 1) for _ in range(3))
    other = Response("sums", "math", "sums/1", 0, 9, (5,), "", "length", (), (7, 8))
    store.add(run_id, response_tables(Recording("none", 0), [dataclasses.replace(RESPONSE, rounds=plain), other]))
    lookup = dataclasses.replace(ANCHORS, confidence=None)
    headless = dataclasses.replace(lookup, certainty=ANCHORS.confidence)
    for name, anchors in (("dspark", ANCHORS), ("eagle3", headless), ("ngram", lookup)):
        key = Recording(name, 2)
        noted = recordings(key, [("sums/1", 0, 0), ("sums/0", 0, 3)])
        store.add(run_id, {"anchors": anchor_table(key, "sums/0", 0, anchors), "recordings": noted})
    assert store.traced(run_id, "sampled") == [Recording(name, 2) for name in ("dspark", "eagle3", "ngram")]
    trace = store.trace(run_id, Recording("dspark", 2))
    assert [(r.prompt_id, r.prompt_tokens) for r in trace.responses] == [("sums/0", 12), ("sums/1", 9)]
    assert trace.offsets.tolist() == [0, 3, 3]
    for name in ("drafted", "accepted", "accept_prob", "confidence"):
        np.testing.assert_array_equal(getattr(trace.anchors, name), getattr(ANCHORS, name))
    assert trace.anchors.fresh_confidence is None
    assert trace.anchors.certainty is None
    np.testing.assert_array_equal(store.trace(run_id, Recording("eagle3", 2)).anchors.certainty, ANCHORS.confidence)
    for name in ("eagle3", "ngram"):
        assert store.trace(run_id, Recording(name, 2)).anchors.confidence is None
    with pytest.raises(InputError, match="no dense record of eagle3 at γ = 7"):
        store.trace(run_id, Recording("eagle3", 7))


def test_calibrated_confidences_are_a_view(store: Store) -> None:
    run_id = store.create_run(INFO)
    store.add(run_id, {"anchors": anchor_table(Recording("dspark", 2), "sums/0", 0, ANCHORS)})
    with store.writing() as connection:
        for position, temperature in ((1, 2.0), (2, 0.5)):
            values = [run_id, "dspark", 2, "sampled", position, temperature, *[1] * 4, *[0.5] * 7]
            connection.execute(f"INSERT INTO calibrations VALUES ({', '.join('?' * 17)})", values)
    assert store.temperatures(run_id, Recording("dspark", 2)) == [2.0, 0.5]
    assert store.temperatures(run_id, Recording("dspark", 7)) == []
    with store.reading() as connection:
        rows = connection.execute("SELECT calibrated FROM calibrated_anchors ORDER BY anchor").fetchall()
    assert ANCHORS.confidence is not None
    np.testing.assert_allclose([r[0] for r in rows], calibrated(ANCHORS.confidence, [2.0, 0.5]), atol=1e-6)


@pytest.mark.parametrize("kept", ["confidence", "certainty"])
def test_an_anchor_takes_less_than_64_bytes(store: Store, kept: str) -> None:
    """γ = 7 with confidences or what they are estimated from, on disk, indexes and all: the promise of the README."""
    rng, count, unit = np.random.default_rng(0), 400_000, 20_000
    beta = np.minimum(1, rng.lognormal(0, 1, (count, 7))).astype(np.float32)
    accepted = (rng.random((count, 7)) < beta).cumprod(1).sum(1).astype(np.uint8)
    sure = rng.beta(2, 1, (count, 7)).astype(np.float32)
    anchors = dataclasses.replace(Anchors(np.full(count, 7, np.uint8), accepted, beta), **{kept: sure})
    run_id = store.create_run(INFO)
    before = store.file.stat().st_size
    for first in range(0, count, unit):
        part = cut(anchors, slice(first, first + unit))
        store.add(run_id, {"anchors": anchor_table(Recording("dspark", 7), f"sums/{first}", 0, part)})
    store.finish_run(run_id)
    each = (store.file.stat().st_size - before) / count
    print(f"{each:.1f} bytes an anchor")
    assert each < 64
    assert [file.name for file in store.file.parent.iterdir()] == [store.file.name]
    with store.reading() as connection:  # nothing is lost by making the file small
        assert connection.execute("SELECT count(*), sum(accepted) FROM anchors").fetchall() == [(count, accepted.sum())]
    with pytest.raises(duckdb.ConstraintException), store.writing() as connection:
        connection.execute("INSERT INTO runs SELECT * FROM runs")


def test_runs_are_found_by_latest_and_prefix(store: Store) -> None:
    ids = [store.create_run(INFO) for _ in range(3)]
    with pytest.raises(InputError, match="has no run with results yet"):
        store.find_run("latest")
    for run_id in ids[:2]:
        store.add(run_id, response_tables(Recording("dspark", 2), [RESPONSE]))
    assert store.find_run("latest") == ids[1]  # nothing came of the last one
    with store.writing() as connection:
        connection.execute("UPDATE runs SET failure = 'its pair is gone' WHERE run_id = ?", [ids[1]])
    assert store.find_run("latest") == ids[0]
    assert store.find_run(ids[2]) == ids[2]
    assert store.find_run(ids[0]) == ids[0]
    with pytest.raises(InputError, match="no such run"):
        store.find_run("zzz")
    with pytest.raises(InputError, match="no such run"):
        store.find_run("")


def test_foreign_and_broken_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    junk = tmp_path / "junk.duckdb"
    junk.write_bytes(b"not a database " * 1000)
    with pytest.raises(InputError, match="is not a DuckDB file"):
        Store(junk).create_run(INFO)
    assert junk.read_bytes() == b"not a database " * 1000
    foreign = tmp_path / "foreign.duckdb"
    with duckdb.connect(str(foreign)) as connection:
        connection.execute("CREATE TABLE mine (i INTEGER)")
    with pytest.raises(InputError, match="not one of Specyard's"):
        Store(foreign).create_run(INFO)
    with duckdb.connect(str(foreign), read_only=True) as connection:
        assert connection.execute("SHOW TABLES").fetchall() == [("mine",)]
    with pytest.raises(InputError, match="no such database"), Store(tmp_path / "none.duckdb").reading():
        pass


def test_a_newer_schema_is_refused_and_an_older_one_is_brought_up_to_date(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = store.create_run(INFO)
    with store.writing() as connection:
        connection.execute("INSERT INTO specyard_schema VALUES (99, now())")
    with pytest.raises(InputError, match="has schema 99"), store.reading():
        pass
    with pytest.raises(InputError, match="has schema 99"):
        store.create_run(INFO)
    with duckdb.connect(str(store.file)) as connection:
        connection.execute("DELETE FROM specyard_schema WHERE version = 99")

    migrations = tmp_path / "schema"
    migrations.mkdir()
    known = sorted(results.store.migration.MIGRATIONS.glob("*.sql"))
    for file in known:
        (migrations / file.name).write_text(file.read_text())
    (migrations / "999_next.sql").write_text("ALTER TABLE runs ADD COLUMN colour VARCHAR")
    monkeypatch.setattr(results.store.migration, "MIGRATIONS", migrations)
    with store.reading() as connection:
        assert connection.execute("SELECT run_id, colour FROM runs").fetchall() == [(run_id, None)]
        assert connection.execute("SELECT max(version) FROM specyard_schema").fetchone() == (len(known) + 1,)


def test_bounds_of_older_databases_are_the_means_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to schema 8, tps>=350 bounded the mean over users, and p95_ttft<=0.5 was kept by 95 % of requests."""
    migrations, store = tmp_path / "schema", Store(tmp_path / "specyard.duckdb")
    migrations.mkdir()
    for file in sorted(results.store.migration.MIGRATIONS.glob("*.sql"))[:8]:
        (migrations / file.name).write_text(file.read_text())
    old = {"tps>=350": -0.02, "p95_ttft<=0.5": 0.0, "ttft<=0.2": 0.1}
    plan, by_bound = json.dumps({"slas": list(old), "objective": "tps"}), json.dumps({"throughput": 9.0} | old)
    rungs = json.dumps([{"seconds": 1, "violations": old}])
    with monkeypatch.context() as patched:
        patched.setattr(results.store.migration, "MIGRATIONS", migrations)
        with store.writing() as con:
            con.execute("INSERT INTO studies VALUES ('s', 'r', now(), now(), 'c', ?, 'h', NULL, '{}')", [plan])
            con.execute("INSERT INTO sweeps VALUES ('w', 'r', now(), now(), 'c', ?, NULL, '{}')", [plan])
            con.execute(
                "INSERT INTO trials VALUES ('s', 'users:8', 0, 0, 'start', 'complete', NULL, 'none', 0, 'none', 'none', 8, "
                "'{}', '{}', '{}', ?, [1.0], ?, true, ?, 1)", [rungs, by_bound, by_bound],
            )  # fmt: skip
    new = {"mean_tps>=350": -0.02, "p95_ttft<=0.5": 0.0, "mean_ttft<=0.2": 0.1}
    with store.reading() as con:
        for table in ("studies", "sweeps"):
            [[kept]] = con.execute(f"SELECT plan FROM {table}").fetchall()
            assert json.loads(kept) == {"slas": list(new), "objective": "tps"}
        [row] = con.execute("SELECT rungs, violations, figures FROM trials").fetchall()
    assert [json.loads(cell) for cell in row] == [[{"seconds": 1, "violations": new}], *[{"throughput": 9.0} | new] * 2]
    slas = [Sla.parse(text) for text in new]
    assert [sla.share for sla in slas] == [None, 0.95, None]


def both_ways(store: Store) -> str:
    """A run whose dspark drafted both ways, greedily with other acceptances, and whose n-grams are kept once."""
    run_id = store.create_run(dataclasses.replace(INFO, drafters={"none": {}, "dspark": {}, "ngram": {}}))
    plain = dataclasses.replace(RESPONSE, rounds=(Round(0, 0, 0, 1, (), 1),) * 3)
    store.add(run_id, response_tables(TARGET, [plain]))
    kept = (Recording("dspark", 2), Recording("dspark", 2, drafting="greedy"), Recording("ngram", 2, drafting="either"))
    for key, accepted in zip(kept, (2, 1, 0), strict=True):
        anchors = dataclasses.replace(ANCHORS, accepted=np.array([accepted, 0, 0], np.uint8))
        rows = anchor_table(key, "sums/0", 0, anchors)
        store.add(run_id, {"anchors": rows, "recordings": recordings(key, [("sums/0", 0, 3)])})
    return run_id


def test_how_much_longer_the_other_way_accepts_is_of_rounds(store: Store) -> None:
    """Of three anchors that keep 2, 0 and 0 drafts a decoder sees the first alone; means over anchors know no rounds."""
    told = accepted_otherwise(store, both_ways(store), "greedy")
    assert told.startswith(
        "drafts are greedy here; sampled ones of dspark γ=2 are accepted 3.00 tokens long in this recording"
    )
    assert "these 1.50" in told


def test_acceptance_that_nobody_measured_is_told(store: Store) -> None:
    run_id = store.create_run(dataclasses.replace(INFO, prompt_source="synthesised"))
    assert "was not measured on this traffic" in acceptance_note(store, run_id, "greedy")
    assert not acceptance_note(store, store.create_run(INFO), "greedy")


def test_recordings_are_kept_by_how_drafts_were_chosen(store: Store) -> None:
    run_id = both_ways(store)
    assert store.recordings(run_id) == [
        Recording("dspark", 2),
        Recording("dspark", 2, drafting="greedy"),
        Recording("ngram", 2, drafting="either"),
    ]
    assert store.draftings(run_id) == ["sampled", "greedy"]
    for way, accepted in (("sampled", 2), ("greedy", 1)):
        assert store.traced(run_id, way) == [Recording(name, 2, drafting=way) for name in ("dspark", "ngram")]  # type: ignore[arg-type]
        trace = store.trace(run_id, Recording("dspark", 2, drafting=way))  # type: ignore[arg-type]
        assert (trace.drafting, trace.anchors.accepted[0]) == (way, accepted)
        assert store.trace(run_id, Recording("ngram", 2, drafting=way)).drafting == "either"  # type: ignore[arg-type]


def test_drafts_that_were_not_recorded_are_refused(store: Store) -> None:
    run_id = store.create_run(dataclasses.replace(INFO, drafters={"none": {}, "dspark": {}}))
    store.add(run_id, {"recordings": recordings(Recording("dspark", 2), [("sums/0", 0, 3)])})
    assert store.draftings(run_id) == ["sampled"]
    with pytest.raises(InputError, match="has no recordings of greedy drafts for --drafting greedy; there are sampled ones"):
        store.traced(run_id, "greedy")


def since(rows: pa.Table, *columns: str) -> pa.Table:
    """Rows less the columns that their table gained later."""
    return rows.drop_columns([name for name in columns if name in rows.column_names])


def test_recordings_of_schema_6_were_of_sampled_drafts_or_hold_for_either(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temperature 0, n-gram and none draft the same both ways, so an old recording of them serves greedy questions too."""
    current, old = results.store.migration.MIGRATIONS, tmp_path / "schema"
    old.mkdir()
    for file in sorted(current.glob("*.sql"))[:6]:
        (old / file.name).write_text(file.read_text())
    monkeypatch.setattr(results.store.migration, "MIGRATIONS", old)
    drafters = {"none": {"kind": "none"}, "my draft": {"kind": "eagle3"}, "lookup": {"kind": "ngram"}}
    ids = {}
    for temperature in (0.0, 0.7):
        info = dataclasses.replace(INFO, drafters=drafters, sampling={"temperature": temperature})
        ids[temperature] = run_id = store.create_run(info)
        plain = dataclasses.replace(RESPONSE, rounds=(Round(0, 0, 0, 1, (), 1),) * 3)
        for name, tables in {
            "none": response_tables(Recording("none", 0), [plain]),
            **{
                name: {
                    "anchors": anchor_table(Recording(name, 2), "sums/0", 0, ANCHORS),
                    "recordings": recordings(Recording(name, 2), [("sums/0", 0, 3)]),
                }
                for name in ("my draft", "lookup")
            },
        }.items():
            assert name in drafters
            store.add(run_id, {table: since(rows, "drafting", "outside") for table, rows in tables.items()})
    monkeypatch.setattr(results.store.migration, "MIGRATIONS", current)
    assert store.recordings(ids[0.7]) == [Recording("my draft", 2), Recording("lookup", 2, drafting="either")]
    assert store.trace(ids[0.7], Recording("my draft", 2)).kind == "eagle3"
    assert store.recordings(ids[0.0]) == [
        Recording("my draft", 2, drafting="either"),
        Recording("lookup", 2, drafting="either"),
    ]
    assert store.draftings(ids[0.0]) == ["sampled", "greedy"]
    np.testing.assert_array_equal(
        store.trace(ids[0.0], Recording("my draft", 2, drafting="greedy")).anchors.accepted, ANCHORS.accepted
    )
    with store.reading() as connection:
        rows = connection.execute("SELECT DISTINCT drafting FROM rounds WHERE drafter = 'none'").fetchall()
        assert rows == [("either",)]


def test_anchors_of_schema_2_are_read_without_certainties(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Specyard 0.2.0. The view over them must survive the column they gain, and is NULL without temperatures."""
    current, old = results.store.migration.MIGRATIONS, tmp_path / "schema"
    old.mkdir()
    for file in sorted(current.glob("*.sql"))[:2]:
        (old / file.name).write_text(file.read_text())
    monkeypatch.setattr(results.store.migration, "MIGRATIONS", old)
    run_id = store.create_run(dataclasses.replace(INFO, drafters={"none": {}, "dspark": {}}))
    plain = response_tables(Recording("none", 0), [dataclasses.replace(RESPONSE, rounds=(Round(0, 0, 0, 1, (), 1),) * 3)])
    rows = anchor_table(Recording("dspark", 2), "sums/0", 0, ANCHORS).drop_columns("certainty")
    tables = {**plain, "anchors": rows, "recordings": recordings(Recording("dspark", 2), [("sums/0", 0, 3)])}
    store.add(run_id, {name: since(table, "drafting", "outside") for name, table in tables.items()})
    monkeypatch.setattr(results.store.migration, "MIGRATIONS", current)
    trace = store.trace(run_id, Recording("dspark", 2))
    np.testing.assert_array_equal(trace.anchors.confidence, ANCHORS.confidence)
    assert trace.anchors.certainty is None
    assert store.estimates(run_id, Recording("dspark", 2)) == []
    with store.reading() as connection:
        view = "SELECT certainty, confidence, calibrated FROM calibrated_anchors ORDER BY anchor LIMIT 1"
        assert connection.execute(view).fetchall() == [(None, [0.5, 0.25], None)]


def test_another_process_may_hold_the_file_for_a_while(store: Store) -> None:
    store.create_run(INFO)
    hold = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(1.5)"
    with subprocess.Popen([sys.executable, "-c", hold, str(store.file)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        store.create_run(INFO)
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)


def test_a_file_locked_at_the_end_does_not_fail_the_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the file small is a courtesy: what is recorded is committed already."""
    run_id, compact = store.create_run(INFO), Store.compact
    hold = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(30)"

    def held(self: Store) -> None:
        with subprocess.Popen([sys.executable, "-c", hold, str(self.file)], stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            try:
                compact(self)
            finally:
                other.kill()

    monkeypatch.setattr(results.store.connection, "_COMPACT_WAITS_S", 0.3)
    monkeypatch.setattr(Store, "compact", held)
    store.finish_run(run_id)
    assert store.run(run_id)["finished_at"] is not None
    assert [file.name for file in store.file.parent.iterdir()] == [store.file.name]


def test_records_check_themselves() -> None:
    with pytest.raises(ValueError, match="accepted ≤ verified ≤ drafted"):
        Round(2, 3, 1, 1, (), 1, 0, 0)
    with pytest.raises(ValueError, match="committed"):
        Round(2, 2, 1, 3, (), 1, 0, 0)
    with pytest.raises(ValueError, match="one confidence per drafted token"):
        Round(2, 2, 1, 2, (0.5,), 1, 0, 0)
    with pytest.raises(ValueError, match="committed 4"):
        Response("t", "d", "p", 0, 1, (1, 2, 3), "", "stop", RESPONSE.rounds)
