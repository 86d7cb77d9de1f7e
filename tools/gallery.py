"""The pictures of docs/ and the README, made from scratch: `python tools/gallery.py`, a few minutes on two cores.

A run of the bundled pair, and the synthesised Qwen3-4B traces simulated on an H100's roofline. Needs Chromium or Chrome.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, Literal, NamedTuple

from results.report.compose import compose
from results.report.export import write_pictures
from results.store.database import Store

PICTURES: Final = Path(__file__).parents[1] / "docs" / "pictures"
MOST_BYTES: Final = 150_000
COMMANDS: Final = {
    "qwen3-4b": [
        ["harness", "synthesize", "paper:qwen3-4b"],
        [
            "harness", "simulate", "latest", "--hardware", "h100/qwen3-4b", "--concurrency", "1..256",
            "--policy", "none,fixed:1,fixed:7,prefix_scheduler", "--sla", "tps>=80",
        ],
        [
            "harness", "sensitivity", "latest", "--hardware", "h100/qwen3-4b", "--concurrency", "8,64,256", "--policy",
            "none,fixed:1,fixed:7,prefix_scheduler", "--seconds", "20",
        ],
    ],
    "tiny": [["harness", "run", "suites/math_code_chat", "--limit", "4", "--block-sizes", "3,5,7"]],
}  # fmt: skip


class Picture(NamedTuple):
    """One figure of one report."""

    report: str
    section: str
    scheme: Literal["light", "dark"] = "light"

    @property
    def file(self) -> Path:
        """Where it is kept."""
        dark = "-dark" if self.scheme == "dark" else ""
        return PICTURES / f"{self.report}-{self.section}{dark}.png"


SHOWN: Final = (
    Picture("qwen3-4b", "frontier"),
    Picture("qwen3-4b", "frontier", "dark"),
    Picture("qwen3-4b", "load"),
    Picture("qwen3-4b", "step-time"),
    Picture("qwen3-4b", "tolerance"),
    Picture("qwen3-4b", "threshold"),
    Picture("tiny", "accepted-length"),
    Picture("tiny", "block-size"),
)


def main() -> None:
    """Run what is shown, unless it is there already, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder to run in and reuse; by default a new one")
    with tempfile.TemporaryDirectory() as scratch:
        work = parser.parse_args().work or Path(scratch)
        for name, commands in COMMANDS.items():
            if not (work / name / "specyard.duckdb").exists():
                for command in commands:
                    program = [sys.executable, "-m", *command, "--out", str(work / name)]
                    subprocess.run(program, check=True, cwd=Path(__file__).parents[1])
            draw(name, Store(work / name / "specyard.duckdb"))


def draw(name: str, store: Store) -> None:
    """The pictures of one report."""
    with store.reading() as connection:
        report = compose(connection, store.find_run("latest"))
    for scheme in ("light", "dark"):
        wanted = {p.section: p.file for p in SHOWN if p.report == name and p.scheme == scheme}
        if not wanted:
            continue
        PICTURES.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            made = write_pictures(report, Path(folder), only=list(wanted), scale=1.0, scheme=scheme)
            for file in made:
                wanted[file.stem].write_bytes(file.read_bytes())
                size = file.stat().st_size
                print(f"{wanted[file.stem].name} {size / 1e3:.0f} kB" + (" too large" if size > MOST_BYTES else ""))


if __name__ == "__main__":
    main()
