"""What ends a command with one sentence: bad input, and an answer that is no."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave is wrong. The message names the file or field and the fix; commands exit with code 2."""


class AnswerIsNo(Exception):
    """What was asked for was worked out and is not to be had: nobody's mistake. Commands exit with code 1."""


def first_paragraph(error: Exception) -> str:
    """What a library says of its failure, as far as its first empty line or torch's own stack, on one line of ours."""
    said = str(error).strip().partition("\n\n")[0].partition("\nException raised from")[0]
    return " ".join(said.split())
