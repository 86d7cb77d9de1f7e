"""A small database of every schema version that was ever current, made by the code of its time.

`python tools/fixtures.py 9` makes that of schema 9 anew, without a number it makes those that are missing. A commit that had
the version is unpacked, and its commands are run as far as they run with today's libraries; of version 3, whose tables no
commit had as they are now, its migration is run on the database of version 2. Then floats are rounded,
so that the file is small, and what is in it is read by SQL of its own schema and written into contents.json: what today's
commands must print of it. To release a schema, add the commit of its code to `MADE_BY`.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from results.store.migration import migrations

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "results" / "fixtures"
CONTENTS = FIXTURES / "contents.json"
MADE_BY = {
    2: "d5a9f7c", 4: "44c8191", 5: "1310c07", 6: "b0d47a5", 7: "6cd04b2", 8: "6d5dfd3", 9: "9407b09", 10: "4ffed0d",
    11: "1fb8668", 12: "a4a7044", 13: "c4ab694", 14: "5f22146",
}  # fmt: skip
"""A commit whose code made databases of a schema version. That of version 1 was kept when it was current."""
SYNTHESIZE = "harness synthesize paper:qwen3-4b --responses-per-task 2 --output-tokens 12"
SIMULATE = "harness simulate --hardware PROFILE --concurrency 4 --policy none,fixed:3 --seconds 5"
SEARCH = "tuner search --hardware PROFILE --load 4 --trials 4 --seconds 5 --draws 5 --actors 0"
PROFILE = {
    "schema": 1, "name": "small", "device": "none", "model": "Qwen/Qwen3-4B", "source": "user",
    "provenance": {"note": "made up"}, "kv_capacity_tokens": 100_000, "overhead_s": 0.0005,
    "verify": {"counts": [1, 64, 16384], "seconds": [0.004, 0.005, 0.3]},
    "draft": {
        name: {"drafted": [1, 16], "requests": [{"counts": [1], "seconds": [s]} for s in (0.0005, 0.002)], "block": whole}
        for name, whole in (("dspark", True), ("dflash", True), ("eagle3", False), ("mtp", False))
    },
    "free_drafters": ["none", "ngram"],
}  # fmt: skip
"""A profile of few numbers, for it is stored with every sweep and study."""
_FLOATS = "SELECT column_name FROM information_schema.columns WHERE table_name = 'anchors' AND data_type = 'FLOAT[]'"
LONGEST_S = 600
"""Seconds of one command."""


def fixture(version: int) -> Path:
    """The file that a version's database is kept in."""
    return FIXTURES / f"schema_{version:03}.duckdb.gz"


def unpacked(version: int, folder: Path) -> Path:
    """A version's database in a folder, as a command finds it."""
    file = folder / "specyard.duckdb"
    file.write_bytes(gzip.decompress(fixture(version).read_bytes()))
    return file


def contents(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """What today's commands must print of a database: read by SQL that all versions understand."""

    def rows(sql: str) -> list[tuple[Any, ...]]:
        return list(connection.execute(sql).fetchall())

    tables = {name for (name,) in rows("SELECT table_name FROM information_schema.tables")}
    found: dict[str, Any] = {
        "runs": [run for (run,) in rows("SELECT run_id FROM runs ORDER BY ALL")],
        "accepted length": {
            f"{drafter} {gamma} {task}": tau
            for drafter, gamma, task, tau in rows(
                "SELECT drafter, gamma, task, tau FROM accepted_length WHERE drafter <> 'none' ORDER BY ALL"
            )
        },
    }
    if "simulations" in tables:
        found["throughput"] = rows("SELECT sweep_id, point, throughput FROM simulations ORDER BY ALL")
    if "confirmations" in tables:
        confirmed = "SELECT study_id, load, place, figures->>'throughput' FROM confirmations ORDER BY ALL"
        found["confirmed"] = [(*named, float(throughput)) for *named, throughput in rows(confirmed) if throughput]
    return {name: value for name, value in found.items() if value}


def run(commands: Sequence[str], code: Path, out: Path) -> list[str]:
    """Run commands of older code; returns what each ended with."""
    (code / "small.json").write_text(json.dumps(PROFILE), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(code), "NUMBA_CACHE_DIR": str(code / "numba")}
    said = []
    for program, *arguments in (command.replace("PROFILE", "small.json").split() for command in commands):
        if not (code / program / "__main__.py").exists():
            continue
        command = [sys.executable, "-m", program, *arguments, "--out", str(out)]
        done = subprocess.run(
            command, cwd=code, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_S
        )
        said.append(f"{program} {' '.join(arguments)}: {done.returncode}")
        if done.returncode:
            print(said[-1], (done.stderr or done.stdout)[-600:], file=sys.stderr)
    return said


def make(version: int) -> list[str]:
    """Write a version's database; returns what was run for it."""
    with tempfile.TemporaryDirectory() as name:
        folder, made = Path(name), Path(name) / "out" / "specyard.duckdb"
        made.parent.mkdir()
        if version in MADE_BY:
            (code := folder / "code").mkdir()
            archive = subprocess.run(["git", "archive", MADE_BY[version]], cwd=ROOT, check=True, capture_output=True)
            subprocess.run(["tar", "x"], cwd=code, input=archive.stdout, check=True)
            ran = run((SYNTHESIZE, SIMULATE, SEARCH), code, made.parent)
        else:
            ran = [f"the migration to {version}, of schema_{version - 1:03}"]
            with duckdb.connect(str(unpacked(version - 1, made.parent))) as connection:
                connection.execute(migrations()[version - 1].read_text(encoding="utf-8"))
                connection.execute(f"INSERT INTO specyard_schema VALUES ({version}, now())")
        small = folder / "small.duckdb"
        with duckdb.connect(str(made)) as connection:
            for (floats,) in connection.execute(_FLOATS).fetchall():
                connection.execute(f"UPDATE anchors SET {floats} = list_transform({floats}, lambda x: round(x, 1)::FLOAT)")
            connection.execute(f"ATTACH '{small}' AS small")
            connection.execute("COPY FROM DATABASE specyard TO small")
        fixture(version).write_bytes(gzip.compress(small.read_bytes(), mtime=0))
    return ran


def held(version: int) -> dict[str, Any]:
    """What is in a version's database; that it is of this version is checked."""
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(str(unpacked(version, Path(folder)))) as connection:
        [(found,)] = connection.execute("SELECT max(version) FROM specyard_schema").fetchall()
        assert found == version, f"{fixture(version).name} is of schema {found}"
        return contents(connection)


def main() -> None:
    """Make the databases whose numbers are given, or those that are missing, and say what is in all there are."""
    known: dict[str, Any] = json.loads(CONTENTS.read_text(encoding="utf-8"))
    missing = [version for version in range(2, max(MADE_BY) + 1) if not fixture(version).exists()]
    for version in [int(number) for number in sys.argv[1:]] or missing:
        known[str(version)] = {"ran": make(version)}
        print(f"{fixture(version).name}: {fixture(version).stat().st_size:,} bytes", flush=True)
    rows = (
        f'"{number}": {json.dumps(known[number] | {"commit": MADE_BY.get(int(number), ""), "holds": held(int(number))})}'
        for number in sorted(known, key=int)
    )
    CONTENTS.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
