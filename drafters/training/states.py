"""What a target makes of the texts that are trained on: kept on disk as far as there is room, else computed anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from drafters.target import Target, TargetPass
from drafters.training.texts import Text, TextBatch
from simulator.errors import InputError

_FILL_TOKENS: Final = 4096
"""Tokens that the target reads at once while the cache is filled."""


class States:
    """Taps and final hidden states of texts, read as recording reads them.

    The cache is one file, mapped into memory: the states of the first texts, one after the other, in the target's own
    numeric type, so that they are what would be computed.
    """

    def __init__(
        self, target: Target, taps: Sequence[int], texts: Sequence[Text], folder: Path | None = None, most_bytes: int = 0
    ) -> None:
        self._target, self._taps, self._texts, self._folder = target, tuple(taps), texts, folder
        self._width = (len(self._taps) + 1) * target.hidden_size
        self.token_bytes = self._width * target.dtype.itemsize
        """Bytes of a token's states."""
        self.kept = 0
        """Texts whose states are kept: the first ones."""
        self._starts = [0]
        for text in texts:
            if folder is None or (self._starts[-1] + len(text)) * self.token_bytes > most_bytes:
                break
            self._starts.append(self._starts[-1] + len(text))
            self.kept += 1
        self._file: Tensor | None = None

    @property
    def all_bytes(self) -> int:
        """What it would take to keep all of them."""
        return sum(len(text) for text in self._texts) * self.token_bytes

    @property
    def kept_bytes(self) -> int:
        """What it takes to keep those that are kept."""
        return self._starts[-1] * self.token_bytes

    def open(self, *, fill: bool, advance: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Map the file; `fill` computes what is not in it yet, in an order and in batches that do not depend on stops.

        `advance` is told how many texts are done. Raises InputError where there is no room.
        """
        if not self.kept or self._folder is None:
            return
        path, count = self._folder / "states", self._starts[-1] * self._width
        try:
            if fill:
                self._folder.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as file:
                    os.posix_fallocate(file.fileno(), 0, count * self._target.dtype.itemsize)
        except OSError as error:
            raise InputError(f"--cache: {path}: no room for {self.kept_bytes:,} bytes ({error.strerror})") from None
        self._file = torch.from_file(str(path), shared=True, size=count, dtype=self._target.dtype)
        if fill:
            self._fill(advance)

    def _fill(self, advance: Callable[[int, int], None]) -> None:
        assert self._folder is not None
        mark = self._folder / "filled"
        done = int(mark.read_text()) if mark.exists() else 0
        for number, group in enumerate(self._groups()):
            if number < done:
                continue
            _, seen = self._computed(group)
            for row, index in enumerate(group):
                length = len(self._texts[index])
                both = torch.cat([seen.taps[row, :length], seen.hidden[row, :length]], -1)
                self._of(index).copy_(both)
            partial = mark.with_suffix(".partial")
            partial.write_text(str(number + 1))
            partial.replace(mark)
            advance(group[-1] + 1, self.kept)

    def _groups(self) -> list[list[int]]:
        """Texts that are read together, in order."""
        groups: list[list[int]] = []
        for index in range(self.kept):
            longest = max((len(self._texts[i]) for i in groups[-1]), default=0) if groups else 0
            if not groups or max(longest, len(self._texts[index])) * (len(groups[-1]) + 1) > _FILL_TOKENS:
                groups.append([])
            groups[-1].append(index)
        return groups

    def _of(self, index: int) -> Tensor:
        """A kept text's states in the file, [N, (m + 1)·d]."""
        assert self._file is not None
        start, end = self._starts[index], self._starts[index + 1]
        return self._file[start * self._width : end * self._width].view(-1, self._width)

    def _computed(self, indices: Sequence[int]) -> tuple[TextBatch, TargetPass]:
        batch = TextBatch.of([self._texts[i] for i in indices], self._target.device)
        return batch, self._target.read(batch.ids, self._taps)

    def read(self, indices: Sequence[int]) -> tuple[TextBatch, TargetPass]:
        """Texts by index, and what the target makes of them: [B, N, m·d] and [B, N, d], of padding whatever it is."""
        anew = [i for i in indices if i >= self.kept]
        if len(anew) == len(indices):
            return self._computed(indices)
        batch = TextBatch.of([self._texts[i] for i in indices], self._target.device)
        both = torch.zeros(*batch.ids.shape, self._width, dtype=self._target.dtype)
        for row, index in enumerate(indices):
            if index < self.kept:
                both[row, : len(self._texts[index])] = self._of(index)
        both = both.to(self._target.device)
        if anew:
            _, seen = self._computed(anew)
            rows = [row for row, index in enumerate(indices) if index >= self.kept]
            both[rows, : seen.hidden.shape[1]] = torch.cat([seen.taps, seen.hidden], -1)
        taps = len(self._taps) * self._target.hidden_size
        return batch, TargetPass(both[..., taps:], both[..., :taps])
