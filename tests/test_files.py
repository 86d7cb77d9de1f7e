"""Every reader of files on files that are broken at random: what comes back is a value, or one sentence that names the file.

Bytes are cut, changed, doubled and left out; and in JSON and YAML single values, wherever they stand, become hostile ones.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import Qwen3ForCausalLM
from typer.testing import CliRunner

from drafters.checkpoints import build_drafter, load_drafter
from drafters.target import Target
from harness.cli.app import app as harness
from results.baseline import read_baseline, write_baseline
from results.store.archives import take_up
from results.store.database import Store
from simulator.errors import InputError
from simulator.load import loads
from tests.drafters.conftest import drafter_config, micro_config
from tests.harness.processes import refusal
from tests.results.sums import drawn, prompts
from tests.test_text_files import READERS

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1e308, float("nan"), float("-inf"), "", " ", "☃", "\udc80", "x" * 300, "../../etc", "a\nb",
    "nan", [], {}, [[]], [None], {"": {}}, [1, "1"],
)  # fmt: skip
"""What stands where something else is expected."""
PIECES = (b"\x00", b"\xff\xfe", b"\n\n", b",", b'"', b"{", b"]", b"1e999", b"-")
CASES = 120
"""Broken files of each reader."""


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value has parts, itself included."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from paths(part, (*at, key))


def put(value: Any, at: tuple[Any, ...], other: Any) -> Any:
    """The same with another part there."""
    if not at:
        return other
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[at[0]] = put(copied[at[0]], at[1:], other)
    return copied


def broken_value(text: str, suffix: str, rng: random.Random) -> bytes:
    """A text of JSON, of JSON lines or of YAML with one hostile value."""
    if suffix == ".jsonl":
        lines = text.splitlines()
        i = rng.randrange(len(lines))
        lines[i] = broken_value(lines[i], ".json", rng).decode(errors="surrogateescape")
        return "\n".join(lines).encode(errors="surrogateescape")
    content = yaml.safe_load(text) if suffix == ".yaml" else json.loads(text)
    content = put(content, rng.choice(list(paths(content))), rng.choice(HOSTILE))
    written = yaml.safe_dump(content, allow_unicode=True) if suffix == ".yaml" else json.dumps(content, ensure_ascii=False)
    return written.encode(errors="surrogateescape")


def broken_bytes(content: bytes, rng: random.Random) -> bytes:
    """The same with a stretch cut off, changed, doubled or left out."""
    if not content:
        return content
    at = rng.randrange(len(content))
    end = min(len(content), at + rng.choice((1, 2, 8, 64, 512)))
    stretch = content[at:end]
    return rng.choice(
        (
            content[:at],
            content[:at] + rng.randbytes(len(stretch)) + content[end:],
            content[:end] + stretch + content[end:],
            content[:at] + content[end:],
            content[:at]
            + rng.choice((b"\x00", b"\xff\xfe", b"\n\n", b",", b'"', b"{", b"]", b"1e999", b"-"))
            + content[end:],
        )
    )


def written_baseline() -> str:
    """A baseline of two prompts."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        write_baseline(drawn(rng, prompts(rng, 1)), Path(folder) / "base.json")
        return (Path(folder) / "base.json").read_text(encoding="utf-8")


def arrivals(file: Path) -> object:
    return loads(None, 0.0, None, 1.0, [file], 1.0)


TEXTS = {
    name: (content, (arrivals if name.startswith("arrivals") else read)) for name, (content, read) in READERS.items()
} | {"base.json": (written_baseline(), read_baseline)}


def judged(read: Callable[[Path], object], file: Path, folder: Path) -> str:
    """What a reader says of a file: nothing, or the sentence it refuses it with."""
    try:
        read(file)
    except InputError as error:
        said = str(error)
        assert said.strip(), "no word"
        assert "\n" not in said.strip(), said
        assert len(said) < 3000, said
        assert file.name in said or file.parent.name in said or folder.name in said, said
        return said
    return ""


@pytest.mark.parametrize("name", TEXTS)
@settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
@example(seed=758)  # averages of which some answers accept more than is drafted
def test_broken_text_files(name: str, seed: int, tmp_path: Path) -> None:
    rng, folder = random.Random(seed), tmp_path / f"case{seed}"
    for other, (content, _) in TEXTS.items():
        (folder / other).parent.mkdir(parents=True, exist_ok=True)
        (folder / other).write_text(content.replace("HUB", str(folder / "hub.jsonl")), encoding="utf-8")
    file, text = folder / name, (folder / name).read_text(encoding="utf-8")
    structured = file.suffix in (".json", ".jsonl", ".yaml") and rng.random() < 0.6
    file.write_bytes(broken_value(text, file.suffix, rng) if structured else broken_bytes(text.encode(), rng))
    judged(TEXTS[name][1], file, folder)


@pytest.fixture(scope="module")
def target() -> Target:
    return Target(Qwen3ForCausalLM(micro_config()))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Path:
    """A folder with a DSpark of a micro target."""
    folder = tmp_path_factory.mktemp("checkpoint")
    raw = drafter_config("dspark", target)
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    drafter = build_drafter(raw, target, gamma=None, name="dspark")
    tensors = {n: t.contiguous() for n, t in drafter.state_dict().items() if not n.startswith(("embed_tokens", "lm_head"))}
    save_file(tensors, folder / "model.safetensors")
    assert load_drafter(str(folder), target).gamma
    return folder


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@settings(max_examples=CASES, deadline=None)
@given(seed=st.integers(0, 2**32))
@example(seed=4038)  # heads of 10^30 numbers, whose angles took all memory
def test_broken_checkpoints(name: str, seed: int, checkpoint: Path, target: Target) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "drafter"
        shutil.copytree(checkpoint, folder)
        content = (folder / name).read_bytes()
        structured = name == "config.json" and rng.random() < 0.7
        broken = broken_value(content.decode(), ".json", rng) if structured else broken_bytes(content, rng)
        (folder / name).write_bytes(broken)
        judged(lambda file: load_drafter(str(file.parent), target), folder / name, folder)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with a run."""
    out = tmp_path_factory.mktemp("database")
    made = "synthesize --survival .7,.5 --drafter mtp --responses-per-task 12 --output-tokens 16 --out"
    done = CliRunner().invoke(harness, [*made.split(), str(out)])
    assert done.exit_code == 0, done.output
    return (out / "specyard.duckdb").read_bytes()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_broken_databases(seed: int, database: bytes) -> None:
    """In a process of its own, for what DuckDB takes for its own fault ends one: it is a sentence and 2, or all is well."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as out:
        file = Path(out) / "specyard.duckdb"
        broken = broken_bytes(database, rng)
        file.write_bytes(broken)
        done = refusal(rng.choice(("runs", "show")), "--out", out)
        assert done.returncode in (0, 2), done.stderr
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or (done.stdout == "" and done.stderr.count("\n") == 1), done.stderr
        assert file.read_bytes() == broken


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a run."""
    out = tmp_path_factory.mktemp("archived")
    made = "synthesize --survival .7,.5 --drafter mtp --responses-per-task 12 --output-tokens 16 --out"
    for words in ([*made.split(), str(out)], ["export", "latest", str(out / "archive"), "--out", str(out)]):
        done = CliRunner().invoke(harness, words)
        assert done.exit_code == 0, done.output
    return out / "archive"


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_broken_archives(seed: int, archive: Path) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "archive"
        shutil.copytree(archive, folder)
        name = rng.choice(["archive.json"] * 4 + sorted(file.name for file in folder.iterdir()))
        content = (folder / name).read_bytes()
        structured = name == "archive.json" and rng.random() < 0.7
        (folder / name).write_bytes(
            broken_value(content.decode(), ".json", rng) if structured else broken_bytes(content, rng)
        )
        refused = judged(lambda file: take_up(Store(Path(made) / "new.duckdb"), file.parent), folder / name, folder)
        assert not (refused and (Path(made) / "new.duckdb").exists())
