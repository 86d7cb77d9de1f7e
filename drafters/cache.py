"""Keys and values of a ragged batch: one row a request, filled from position 0, rolled back by forgetting its length."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys and values per layer, [rows, kv_heads, capacity, head_dim], allocated when a layer first writes.

    Position p of a row's text lies at index p. Nothing marks an entry as valid: readers mask by position, and a position
    is always written again before it becomes visible. Rejected tokens and padding are therefore rolled back for free.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, capacity
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, rows: slice, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store `keys` and `values` [B, kv_heads, N, head_dim] of `rows` (B of them) at `positions` [B, N]."""
        if layer not in self._layers:
            self._layers[layer] = tuple(  # type: ignore[assignment]
                x.new_zeros(self.rows, x.shape[1], self.capacity, x.shape[3]) for x in (keys, values)
            )
        row = torch.arange(rows.start, rows.stop, device=positions.device).unsqueeze(1)
        for stored, new in zip(self._layers[layer], (keys, values), strict=True):
            stored[row, :, positions] = new.transpose(1, 2)

    def read(self, layer: int, rows: slice, length: int) -> tuple[Tensor, Tensor]:
        """Views of the first `length` positions of `rows`: keys and values [B, kv_heads, length, head_dim]."""
        keys, values = self._layers[layer]
        return keys[rows, :, :length], values[rows, :, :length]

    def move(self, sources: Tensor, holes: Tensor) -> None:
        """Copy rows `sources` over rows `holes` (int64, equally many, disjoint)."""
        for stored in (x for pair in self._layers.values() for x in pair):
            stored[holes] = stored[sources]


class CacheWindow:
    """The view of a `KVCache` that a Hugging Face model gets for one forward pass over `rows` at `positions`."""

    def __init__(self, cache: KVCache, rows: slice, positions: Tensor, length: int) -> None:
        self.cache, self.rows, self.positions, self.length = cache, rows, positions, length

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Called by every attention layer: store the new entries, return all that may be attended to."""
        self.cache.write(layer, self.rows, self.positions, keys, values)
        return self.cache.read(layer, self.rows, self.length)
