"""The doctor: its statistics on numbers that are known, and a checkpoint that declares the wrong layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from drafters.doctor import Diagnosis, Reading, Variant
from harness.cli.app import app
from tests.documented import differences

TINY = Path(__file__).parents[2] / "drafters" / "tiny"
TEXTS, ANCHORS = 24, 60


def diagnosis(*lengths: float, commonest: float = 0.1, seed: int = 0, spread: float = 0.2) -> Diagnosis:
    """Readings that accept so many tokens on average, with texts that differ as `spread` says, all alike."""
    rng = np.random.default_rng(seed)
    easy = np.exp(spread * rng.standard_normal(TEXTS))
    readings = [
        Reading(Variant({"order": i} if i else {}, (f"reading {i}",) if i else ()), rng.poisson(length * ANCHORS * easy)
                .astype(np.float64), rng.poisson(min(length, 1.0) / 2 * ANCHORS * easy).astype(np.float64),
                (min(length, 1.0) / 2,))
        for i, length in enumerate(lengths)
    ]  # fmt: skip
    anchors = np.full(TEXTS, float(ANCHORS))
    return Diagnosis("x", {}, 1, anchors, commonest * anchors, tuple(readings), ())


def test_what_is_clearly_better_is_said() -> None:
    found = diagnosis(1.0, 1.5, 0.1)
    assert found.better is found.readings[1]
    gain, low, high = found.gain(found.readings[1])
    assert low < gain < high
    assert gain == pytest.approx(0.5, abs=0.15)
    assert found.alike == []


def test_what_is_alike_cannot_be_told_apart() -> None:
    found = diagnosis(1.0, 1.0, 0.1)
    assert found.better is None
    assert found.alike == [found.readings[1]]


def test_readings_that_are_all_alike_are_rarely_told_apart() -> None:
    """Of 200 checkpoints with twelve equal readings at most 8 % are said to have a better one; 5 % is meant."""
    assert sum(diagnosis(*[1.0] * 13, seed=seed).better is not None for seed in range(200)) <= 16


def test_what_accepts_as_often_as_the_commonest_token_does_not_beat_chance() -> None:
    assert not diagnosis(0.2, 0.2, commonest=0.12).beats_chance
    assert diagnosis(1.0, 0.2, commonest=0.12).beats_chance


def run(*options: str) -> Any:
    done = CliRunner().invoke(app, ["doctor", *options, "--json"])
    return done.exit_code, json.loads(done.stdout)["doctor"], done.stderr


@pytest.mark.slow
def test_the_bundled_drafters_are_read_as_they_declare() -> None:
    for name in ("eagle3", "dspark"):
        code, told, _ = run(str(TINY / name), "--target", "tiny")
        assert (code, told["verdict"], told["format"]) == (0, "declared", "DeepSpec")
        assert told["table"][0]["reading"] == "as declared"


@pytest.mark.slow
def test_layers_declared_one_too_high_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "wrong layers"
    shutil.copytree(TINY / "dspark", folder)
    config = json.loads((folder / "config.json").read_text())
    config["target_layer_ids"] = [i + 1 for i in config["target_layer_ids"]]
    (folder / "config.json").write_text(json.dumps(config))
    code, told, said = run(str(folder), "--target", "tiny")
    assert code == 1
    assert (told["verdict"], told["best"]) == ("other", "taps one lower")
    assert told["interval"][0] > 0
    assert "taps one lower" in said.splitlines()[-1]


def test_json_has_the_documented_keys() -> None:
    options = [str(TINY / "mtp"), "--target", "tiny", "--texts", "4", "--max-new-tokens", "8", "--json"]
    done = CliRunner().invoke(app, ["doctor", *options])
    assert done.exit_code in (0, 1), done.output
    assert differences(done.stdout) == []


def test_a_folder_that_is_not_there_is_told_at_once() -> None:
    done = CliRunner().invoke(app, ["doctor", "./nowhere", "--target", "tiny"])
    assert done.exit_code == 2
    assert "checkpoint ./nowhere: no such folder" in done.stderr
