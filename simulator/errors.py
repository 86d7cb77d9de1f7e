"""What ends a command with one sentence: bad input, and an answer that is no."""

from __future__ import annotations

import errno


class InputError(ValueError):
    """Something the user gave is wrong. The message names the file or field and the fix; commands exit with code 2.

    It is one line, whatever stands in the files that it repeats words of.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class NoSuchLayout(InputError):
    """GPUs cannot share a model so: they do not hold it, or the profile is measured on another number of them."""


class AnswerIsNo(Exception):
    """What was asked for was worked out and is not to be had: nobody's mistake. Commands exit with code 1."""


def first_paragraph(error: Exception) -> str:
    """What a library says of its failure, as far as its first empty line or torch's own stack, on one line of ours."""
    said = str(error).strip().partition("\n\n")[0].partition("\nException raised from")[0]
    return " ".join(said.split())


def is_full(error: BaseException) -> bool:
    """Whether something failed since a disk, or one's share of it, is full, by its own words or by what it was raised after:
    torch raises an error of its own for a file that ends too early."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
