"""Nearly dead drafters, loads that nothing compares, and what lies beside the files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from harness.served.acceptance import acceptance_of
from harness.served.server import together
from harness.served.sources.registry import read_files
from harness.served.timed import incomparable, seen
from tests.harness.served.advising import HEAVY, advised, run
from tests.harness.served.writing import Truth, vllm_log

LOADS = [n for _ in range(3) for n in (4, 32) for _ in range(8)]


@pytest.mark.parametrize("share", [0.0002, 0.001, 0.004])
def test_a_nearly_dead_drafter_is_read(share: float, tmp_path: Path) -> None:
    """Its log rounds the mean length to 1.00, and counts the few tokens that were accepted."""
    told = advised(tmp_path, vllm_log(Truth(survival=(share, share / 9, share / 99)), LOADS))
    assert told["verdict"] == "off"
    assert "harness doctor" in str(told["next"])
    drafts = together(*read_files([tmp_path / "file.log"])).drafts
    assert drafts.accepted_at[0] / drafts.drafts == pytest.approx(share, abs=0.0006)


def test_steps_without_drafts_at_other_loads_than_those_with_say_nothing(tmp_path: Path) -> None:
    """A table's own plateau, twice as high as the highest load that drafts: what drafting takes cannot be told from what a
    request takes."""
    text = vllm_log(HEAVY, [n for n in (4, 8, 16, 32) for _ in range(8)] + [64] * 20, k=lambda n: 3 if n <= 32 else 0)
    (tmp_path / "log").write_text(text)
    server = together(*read_files([tmp_path / "log"]))
    assert "of no load are both there" in incomparable(server)
    assert seen(server, "eagle3", acceptance_of(server)) is None


def test_a_profile_does_not_outweigh_what_files_time(tmp_path: Path) -> None:
    (tmp_path / "without").write_text(vllm_log(HEAVY, LOADS, seed=5, k=lambda _: 0, method=""))
    own = advised(tmp_path, vllm_log(HEAVY, LOADS), tmp_path / "without")
    beside = advised(tmp_path, vllm_log(HEAVY, LOADS), tmp_path / "without", "--hardware", "h100/qwen3-8b")
    assert beside["basis"] == own["basis"]
    assert np.isclose(beside["gain"]["value"], own["gain"]["value"])  # type: ignore[index]


def test_what_cannot_be_read_in_a_folder_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text(vllm_log(HEAVY, LOADS))
    (tmp_path / "stderr.log").write_text("")
    (tmp_path / "core.gz").write_bytes(gzip.compress(b"x" * 5000)[:40] + b"\0" * 9)
    done = run("advise", tmp_path)
    assert done.exit_code == 0, done.output
    told = "".join(done.stdout.split())
    assert all(f"{name}:isnoneofwhatisreadhere" in told for name in ("stderr.log", "core.gz")), done.stdout
    assert run("advise", tmp_path / "stderr.log").exit_code == 2
