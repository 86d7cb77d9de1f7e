"""Whether two pages say the same: every word, and every number to a thousandth.

What is fitted far beyond what was measured rounds otherwise on another processor. `python tools/same_page.py ONE OTHER`
prints the lines that differ by more, and ends with 1 where there are some.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
CLOSE = 1e-3


def differences(one: str, other: str) -> Iterator[tuple[str, str]]:
    """The lines that differ, of both pages; an empty one where there is none."""
    for mine, theirs in zip_longest(one.splitlines(), other.splitlines(), fillvalue=""):
        if not _same(mine, theirs):
            yield mine, theirs


def _same(mine: str, theirs: str) -> bool:
    numbers = [[float(word.replace(",", "")) for word in _NUMBER.findall(line)] for line in (mine, theirs)]
    if _NUMBER.sub("#", mine) != _NUMBER.sub("#", theirs):
        return False
    return all(math.isclose(a, b, rel_tol=CLOSE) for a, b in zip(*numbers, strict=True))


def main() -> None:
    found = list(differences(*(Path(name).read_text(encoding="utf-8") for name in sys.argv[1:])))
    for mine, theirs in found:
        print(f"< {mine}\n> {theirs}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
