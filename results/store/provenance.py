"""What made a result: the command, the code's commit, the versions of what it depends on."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

_PACKAGES = (
    "specyard",
    "torch",
    "transformers",
    "safetensors",
    "tokenizers",
    "ray",
    "duckdb",
    "polars",
    "plotly",
    "optuna",
    "numpy",
)


def command_line(program: str = "harness") -> str:
    """The command as typed."""
    return shlex.join([program, *sys.argv[1:]])


def package_versions() -> dict[str, str]:
    """Versions of what results depend on, by distribution."""
    return {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def git_revision() -> str | None:
    """Commit of the checkout this code runs from, with a + for uncommitted changes; None outside one."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None  # installed inside somebody else's repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
