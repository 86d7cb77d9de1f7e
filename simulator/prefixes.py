"""What recorded prompts have in common: blocks of tokens, each known by a hash and by all that stands before it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from simulator.numbers import counted

Ints = npt.NDArray[np.int64]
_MOSTLY = 0.98
"""The share of a trace's prompts that fit its blocks; a few have lengths that were counted otherwise."""
_SIZES = tuple(2**i for i in range(3, 13))
"""Tokens that blocks may have where a file does not say so."""


@dataclass(frozen=True, slots=True)
class PrefixBlocks:
    """Whole blocks of each prompt, in order from its beginning."""

    tokens: int
    """Tokens of a block."""
    ids: Ints
    """Equal where prompts are equal up to the block's end: from 0 to less than `distinct`, request after request."""
    offsets: Ints
    """Blocks of request i are ids[offsets[i] : offsets[i + 1]], [n + 1]."""

    def of(self, request: int) -> tuple[int, ...]:
        """The blocks of a request, by its number."""
        return tuple(self.ids[self.offsets[request] : self.offsets[request + 1]].tolist())

    @property
    def distinct(self) -> int:
        """Different blocks."""
        return int(self.ids.max()) + 1 if len(self.ids) else 0

    @property
    def in_common(self) -> bool:
        """Whether any prompt begins as another does."""
        return self.distinct < len(self.ids)

    def over_again(self, times: int) -> PrefixBlocks:
        """The same so many times, one after the other; none of a later time is one of an earlier."""
        number = np.arange(times)[:, None]
        ids = (self.ids + number * self.distinct).ravel()
        ends = (self.offsets[1:] + number * len(self.ids)).ravel()
        return replace(self, ids=ids, offsets=np.concatenate([self.offsets[:1], ends]))


_SESSIONS: Final = ("session", "session_id")
"""What says whose blocks are meant where hashes are of a session."""


def hashes_of(row: Mapping[str, Any]) -> tuple[Sequence[object], int | None]:
    """The hashes of a row's blocks, and the tokens of a block where it says so. Raises ValueError."""
    found, size = row.get("hash_ids"), row.get("block_size")
    if found is None or found == "":
        return (), None
    if isinstance(found, str):  # of a table
        try:
            found = json.loads(found)
        except ValueError:
            found = None
    if not isinstance(found, list) or any(isinstance(i, bool) or not isinstance(i, int | str) for i in found):
        raise ValueError("hash_ids: must be a list of whole numbers or texts")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 2**20):
        raise ValueError(f"block_size {size!r}: must be a whole number of tokens, from 1 to {2**20:,}")
    if row.get("hash_id_scope") == "local":  # of a session: another's block 1 is another block
        session = next((row[name] for name in _SESSIONS if name in row), None)
        return [(session, i) for i in found], size
    return list(found), size


def blocks_of(
    hashes: Sequence[Sequence[object]], prompt_tokens: Ints, said: Counter[int | None], usual: int
) -> tuple[PrefixBlocks | None, str]:
    """Blocks of prompts, and what to know of them; None where there are none, or nobody knows how many tokens they have.

    Args:
        hashes: of each prompt, by request.
        said: how often rows say how many tokens a block has, by what they say.
        usual: tokens of a block where the file does not say so; 0 is unknown.
    """
    numbers = np.fromiter(map(len, hashes), np.int64, len(hashes))
    if not numbers.any():
        return None, ""
    sizes = {size for size in said if size is not None}
    if len(sizes) > 1:
        return None, f"hash_ids are left out: block_size is {', '.join(map(str, sorted(sizes)))} in one file"
    fitting = [size for size in (*sizes, usual, *_SIZES) if size and _fits(numbers, prompt_tokens, size)]
    if not fitting and not sizes:
        return None, "hash_ids are left out: their numbers fit no size of blocks; give block_size beside them"
    tokens = next(iter(sizes)) if sizes else fitting[0]
    known: dict[tuple[int, object], int] = {}
    whole = np.minimum(numbers, prompt_tokens // tokens)
    ids = list[int]()
    for given, n in zip(hashes, whole.tolist(), strict=True):
        before = -1  # some traces hash a block by itself, and a cache finds it only behind the same blocks
        for block in given[:n]:
            before = known.setdefault((before, block), len(known))
            ids.append(before)
    if not ids:
        return None, ""
    blocks = PrefixBlocks(tokens, np.array(ids, np.int64), np.concatenate([[0], np.cumsum(whole)]).astype(np.int64))
    note = f"prompts have blocks of {tokens} tokens in common: {counted(len(ids), 'block')}, {len(known):,} different ones"
    return blocks, note


def _fits(numbers: Ints, prompt_tokens: Ints, size: int) -> bool:
    """Whether nearly all prompts with hashes have as many as such blocks, with or without the last, unfilled one."""
    given = numbers > 0
    prompts, found = prompt_tokens[given], numbers[given]
    return bool(((found == prompts // size) | (found == -(-prompts // size))).mean() >= _MOSTLY)
