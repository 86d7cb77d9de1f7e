"""How tests ask for advice, and of which servers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from typer.testing import CliRunner, Result

from harness.cli.app import app
from tests.harness.served.writing import Truth

LOADS = [int(n) for n in np.clip(np.round(16 * np.exp(0.9 * np.sin(np.arange(180) / 20))), 1, 64)]


POOR = Truth(survival=(0.6, 0.2, 0.04, 0.01, 0.002))
"""A server whose K is too large."""


HEAVY = Truth(survival=(0.5, 0.3, 0.15), token_s=0.0001, draft_s=0.0005)
"""One that should draft nothing above about 40 running."""


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def advised(folder: Path, text: str, *words: object) -> dict[str, object]:
    """The advice on a file, as JSON."""
    (folder / "file.log").write_text(text)
    done = run("advise", folder / "file.log", *words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(done.stdout)
    return found
