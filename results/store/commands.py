"""Commands as sentences tell people to type them: quoted for a shell, about the database they are told of."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

DEFAULT_OUT: Final = Path("runs")
"""The folder of the database where `--out` names no other."""


MADE_OF = ("--hardware", "--model", "--tp", "--weights", "--kv", "--mean-context")
"""The options that say which hardware is meant."""


def given(command: str, option: str) -> str | None:
    """What a stored command gives an option, the last time; None where it does not."""
    found = None
    words = shlex.split(command)
    for word, following in zip(words, [*words[1:], None], strict=True):
        spelling, joint, value = word.partition("=")
        if spelling == option:
            found = value if joint else following
    return found


def typed(*words: object, out: Path | None = None) -> str:
    """A command for a shell, with `--out` where the database is in a folder that is not the default.

    Args:
        words: program, command and arguments.
        out: the folder of the database that the command is to read or write; None for a command that has none.
    """
    elsewhere = [] if out is None or out == DEFAULT_OUT else ["--out", out]
    return shlex.join(str(word) for word in (*words, *elsewhere))
