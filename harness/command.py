"""What the commands share: failures in one sentence, and options that hold several values."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from harness.errors import WorkerDied
from simulator.errors import InputError


@contextmanager
def user_errors(program: str) -> Iterator[None]:
    """Turn what went wrong into one sentence and an exit code: 2 for bad input, 1 for a failure, 130 for Ctrl-C."""
    try:
        yield
    except InputError as error:
        _fail(program, str(error), 2)
    except OSError as error:
        _fail(program, f"{error.filename or 'input/output'}: {error.strerror or error}", 2)
    except WorkerDied as error:
        _fail(program, str(error), 1)
    except KeyboardInterrupt:
        _fail(program, "interrupted", 130)


def listed(texts: list[str] | None) -> list[str] | None:
    """Options that may be repeated, and each hold several with commas between."""
    return [part.strip() for text in texts for part in text.split(",")] if texts else None


def shares(mix: str | None) -> dict[str, float] | None:
    """Shares of domains, as math=0.4,code=0.6. Raises InputError."""
    if mix is None:
        return None
    try:
        return {domain: float(share) for domain, share in (part.split("=") for part in mix.split(","))}
    except ValueError:
        raise InputError(f"--mix {mix}: is written as math=0.4,code=0.6") from None


def _fail(program: str, message: str, code: int) -> NoReturn:
    print(f"{program}: {message}", file=sys.stderr)
    raise typer.Exit(code)
