"""What all tests share: commands built once a process, for `CliRunner` builds all thirty of them for every call."""

from __future__ import annotations

from functools import cache

import pytest
import typer


@pytest.fixture(autouse=True, scope="session")
def commands_built_once() -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    # Where typer names it otherwise, tests take longer and are the same.
    patch.setattr("typer.testing._get_command", cache(typer.main.get_command), raising=False)
    return patch
