"""Keys and values of a ragged batch: one row a request, filled from position 0, rolled back by forgetting its length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Cache, CacheLayerMixin


class Positions(NamedTuple):
    """Where the tokens of one pass stand in their texts. The host knows as well, so that nothing is read back."""

    starts: tuple[int, ...]
    """The first position of each row."""
    tensor: Tensor
    """int64 [B, N]: N positions a row, rising by one."""
    longest: int
    """The latest first position."""
    length: int
    """One more than the largest position: how much of the cache a query may see."""
    aligned: bool
    """Whether all rows start at the same position."""

    @classmethod
    def of(cls, starts: Sequence[int], count: int, device: torch.device) -> Positions:
        """Positions of `count` tokens a row, row i from `starts[i]` on."""
        first, longest = min(starts), max(starts)
        aligned = first == longest
        if aligned:
            tensor = torch.arange(first, first + count, device=device).expand(len(starts), count)
        else:
            tensor = torch.tensor(starts, device=device).unsqueeze(1) + torch.arange(count, device=device)
        return cls(tuple(starts), tensor, longest, longest + count, aligned)

    def first(self, count: int) -> Positions:
        """The first `count` positions of each row."""
        if count == self.tensor.shape[1]:
            return self
        return Positions(self.starts, self.tensor[:, :count], self.longest, self.longest + count, self.aligned)


class KVCache:
    """Keys and values per layer, [rows, kv_heads, capacity, head_dim], allocated when a layer first writes.

    Position p of a row's text lies at index p. Nothing marks an entry as valid: readers mask by position, and a position
    is always written again before it becomes visible. Rejected tokens and padding are therefore rolled back for free.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, capacity
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, rows: slice, positions: Positions, keys: Tensor, values: Tensor) -> None:
        """Store `keys` and `values` [B, kv_heads, N, head_dim] of `rows` (B of them) at `positions` [B, N]."""
        if layer not in self._layers:
            self._layers[layer] = tuple(  # type: ignore[assignment]
                x.new_zeros(self.rows, x.shape[1], self.capacity, x.shape[3]) for x in (keys, values)
            )
        all_keys, all_values = self._layers[layer]
        if positions.aligned:
            all_keys[rows, :, positions.longest : positions.length] = keys
            all_values[rows, :, positions.longest : positions.length] = values
            return
        row = torch.arange(rows.start, rows.stop, device=keys.device).unsqueeze(1)
        all_keys[row, :, positions.tensor] = keys.transpose(1, 2)
        all_values[row, :, positions.tensor] = values.transpose(1, 2)

    def read(self, layer: int, rows: slice, length: int) -> tuple[Tensor, Tensor]:
        """Views of the first `length` positions of `rows`: keys and values [B, kv_heads, length, head_dim]."""
        count = rows.stop - rows.start
        keys, values = self._layers[layer]
        # `narrow`, and no index of three slices: a small model feels the difference in every layer.
        return (
            keys.narrow(0, rows.start, count).narrow(2, 0, length),
            values.narrow(0, rows.start, count).narrow(2, 0, length),
        )

    def reshaped(self, rows: int, capacity: int) -> KVCache:
        """The same memory for other shapes: what one of the two writes, the other loses.

        Raises ValueError where there is less of it, or no pass has allocated it yet.
        """
        if not self._layers or rows * capacity > self.rows * self.capacity:
            raise ValueError(f"no {rows} × {capacity} positions in a cache of {self.rows} × {self.capacity}")
        other = KVCache(rows, capacity)
        for layer, (keys, values) in self._layers.items():
            shapes = [(rows, x.shape[1], capacity, x.shape[3]) for x in (keys, values)]
            first, second = (
                x.view(-1)[: math.prod(shape)].view(shape) for x, shape in zip((keys, values), shapes, strict=True)
            )
            other._layers[layer] = (first, second)
        return other

    def tensors(self) -> Iterator[Tensor]:
        """All keys and values there are, each [rows, kv_heads, capacity, head_dim]: none before a pass has written."""
        return (x for pair in self._layers.values() for x in pair)

    @property
    def token_bytes(self) -> int:
        """What a position of a row takes; layers may differ, and those that keep none take none."""
        return sum(x.shape[1] * x.shape[3] * x.itemsize for x in self.tensors())

    def move(self, sources: Tensor, holes: Tensor) -> None:
        """Copy rows `sources` over rows `holes` (int64, equally many, disjoint)."""
        for stored in self.tensors():
            stored[holes] = stored[sources]


class _Pass:
    """Which rows and positions of the cache the pass that is under way writes."""

    rows: slice
    positions: Positions


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer of a target's cache, as attention layers of transformers call it."""

    is_sliding = False  # sliding layers keep everything too: their windows are masked

    def __init__(self, index: int, kv: KVCache, under_way: _Pass) -> None:
        super().__init__()
        self._index, self._kv, self._pass = index, kv, under_way

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Store the pass's new entries and return everything that its queries may attend to."""
        rows, positions = self._pass.rows, self._pass.positions
        self._kv.write(self._index, rows, positions, key_states, value_states)
        return self._kv.read(self._index, rows, positions.length)

    def get_seq_length(self) -> int:
        """Positions before the pass: of the row that is furthest, where rows differ."""
        return self._pass.positions.longest

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Entries that `update` returns, and the position of the first of them."""
        return self._pass.positions.length, 0

    def get_max_length(self) -> int:
        """Positions a row has room for."""
        return self._kv.capacity

    get_max_cache_shape = get_max_length  # its name before transformers 5.19

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: storage is allocated at the first `update`."""


class TargetCache(Cache):  # type: ignore[misc]
    """A `KVCache` in the form that models of transformers take; layers that share entries or keep none stay empty."""

    def __init__(self, layers: int, rows: int, capacity: int, *, kv: KVCache | None = None) -> None:
        """Room for `rows` texts of up to `capacity` positions, in each of `layers` layers; in memory of `kv` where given."""
        self.kv, self._pass = kv or KVCache(rows, capacity), _Pass()
        super().__init__(layers=[_Layer(i, self.kv, self._pass) for i in range(layers)])

    def reshaped(self, rows: int, capacity: int) -> TargetCache:
        """The same memory for other shapes: what one of the two writes, the other loses. Raises ValueError as `KVCache`."""
        return TargetCache(len(self.layers), rows, capacity, kv=self.kv.reshaped(rows, capacity))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """The `update` of that layer: none is made on the way here, nor lies on another device."""
        kept: tuple[Tensor, Tensor] = self.layers[layer_idx].update(key_states, value_states)
        return kept

    def begin(self, rows: slice, positions: Positions) -> None:
        """Say what the coming pass writes."""
        self._pass.rows, self._pass.positions = rows, positions

    def move(self, sources: Tensor, holes: Tensor) -> None:
        """Copy rows `sources` over rows `holes` (int64, equally many, disjoint)."""
        self.kv.move(sources, holes)
