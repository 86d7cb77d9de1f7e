"""Options that were called otherwise in the release before, and go on working in this one, with a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

FORMER: Final[Mapping[str, Mapping[str, str]]] = {
    "harness profile": {"--seconds": "--time-limit"},
    "harness report": {"--sim": "--sweep"},
    "harness simulate": {"--draws": "--decision-draws"},
    "harness validate": {"--seconds": "--time-limit", "--max-tokens": "--max-new-tokens"},
    "tuner export": {"--load": "--concurrency"},
    "tuner search": {
        "--draws": "--confirmation-draws", "--load": "--concurrency", "--timeout": "--time-limit", "--traces": "RUN"
    },
}  # fmt: skip
"""By command, what an old option is called now; without dashes it is an argument now, to be put where it stands."""


def renewed(command: str, words: Sequence[str], takes_value: Mapping[str, bool]) -> tuple[list[str], list[str]]:
    """The words that follow a command's name with today's spellings, and a note for each that has changed.

    Args:
        command: program and name, as "tuner search".
        takes_value: by the spelling of an option, whether the word after it is its value.

    Raises:
        ValueError: an option stands there under both of its names.
    """
    former = FORMER.get(command, {})
    made, notes, left = list[str](), dict[str, str](), list(words)
    given, argued = set[str](), False
    while left:
        word = left.pop(0)
        if word == "--":
            made += [word, *left]
            argued = argued or bool(left)
            break
        spelling, joint, value = word.partition("=")
        now = former.get(spelling)
        if now is None:
            made.append(word)
            given.add(spelling)
            argued = argued or not word.startswith("-")
            if takes_value.get(spelling) and not joint and left:
                made.append(left.pop(0))
            continue
        notes[spelling] = now
        if now.startswith("-"):
            made.append(now + joint + value)
            if not joint and left:
                made.append(left.pop(0))
        elif joint or left:
            made.append(value if joint else left.pop(0))
        else:
            raise ValueError(f"{spelling}: needs a value, and is the argument {now} now")
    said = {old: f"is {'called' if now.startswith('-') else 'the argument'} {now} now" for old, now in notes.items()}
    for old, now in notes.items():
        if now in given or (argued and not now.startswith("-")):
            raise ValueError(f"{old}: {said[old]}, which is given too; leave {old} out")
    return made, [f"{old} {told}; the old name goes with the next release" for old, told in said.items()]
