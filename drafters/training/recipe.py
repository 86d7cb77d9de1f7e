"""What is trained, and how: plain values, without an import that takes time; commands show the defaults in their help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from simulator.drafter_kinds import LEARNED
from simulator.errors import InputError

Format = Literal["auto", "deepspec", "speculators"]
Precision = Literal["auto", "float32", "bfloat16"]
_MOST: Final = 1 << 31
_LONGEST: Final = 253
"""γ at most: records and formats hold one more. Not imported from there: what is there imports numpy."""


def _check(**ranges: tuple[float | None, float, float]) -> None:
    """Raise ValueError, naming the option, for (value, least, most) out of range; None is what nobody said."""
    for name, (value, least, most) in ranges.items():
        if value is not None and not (math.isfinite(value) and least <= value <= most):
            given, *bounds = (f"{n:,}" if isinstance(n, int) else f"{n:g}" for n in (value, least, most))
            raise ValueError(f"--{name.replace('_', '-')} {given}: must be from {bounds[0]} to {bounds[1]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What a drafter is; None is the published default over this target. Raises ValueError."""

    kind: str
    """One of the kinds that have weights."""
    layers: int | None = None
    """Layers of the draft."""
    taps: tuple[int, ...] | None = None
    """Layers of the target whose output is read, from 0; −1 is the embedding output."""
    rank: int | None = None
    """The sequential head's rank; dspark's alone."""
    gamma: int | None = None
    """γ: tokens drafted a round."""
    vocabulary: int | None = None
    """Tokens that the draft can say, the most frequent of the answers; None is all."""
    format: Format = "auto"
    """The published format it is written in: DeepSpec's where that has a word for it, else speculators'."""

    def __post_init__(self) -> None:
        if self.kind not in LEARNED:
            raise ValueError(f"KIND {self.kind}: must be one of {', '.join(LEARNED)}")
        if self.format not in ("auto", "deepspec", "speculators"):
            raise ValueError(f"--format {self.format}: must be auto, deepspec or speculators")
        _check(
            layers=(self.layers, 1, 100), rank=(self.rank, 1, 1 << 16), gamma=(self.gamma, 1, _LONGEST),
            vocabulary=(self.vocabulary, 2, _MOST),
        )  # fmt: skip
        if self.rank is not None and self.kind != "dspark":
            raise ValueError(f"--rank {self.rank}: is of a sequential head, which {self.kind} has not; leave it out")
        if self.layers not in (None, 1) and self.kind == "mtp":
            raise ValueError(f"--layers {self.layers}: mtp has one layer; leave it out")
        if self.taps is not None and (
            self.kind == "mtp" or not 1 <= len(self.taps) <= 64 or len({*self.taps}) < len(self.taps)
        ):
            wanted = (
                "mtp reads the last layer; leave it out" if self.kind == "mtp" else "must be different layers, 64 at most"
            )
            raise ValueError(f"--taps {','.join(map(str, self.taps))}: {wanted}")
        if self.vocabulary is not None and (self.kind == "mtp" or self.format == "deepspec"):
            whose = "DeepSpec's format" if self.format == "deepspec" else "an mtp drafter's head"
            raise ValueError(f"--vocabulary {self.vocabulary}: {whose} has all of the target's tokens; leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a drafter is trained. Raises ValueError, naming the option."""

    epochs: float = 10.0
    """How often the texts are read, at most."""
    steps: int | None = None
    """Optimiser steps at most, in place of epochs."""
    batch: int = 16
    """Texts of a step, over all processes."""
    accumulate: int = 1
    """Parts a step is computed in, by each process: less memory, the same step."""
    anchors: int = 32
    """Blocks drafted in a text at once, at random places of its answer."""
    max_tokens: int = 2048
    """Longer texts are cut there."""
    learning_rate: float = 3e-3
    """Peak rate of tables, norms, heads and biases (AdamW)."""
    matrix_rate: float = 0.02
    """Peak rate of hidden matrices (Muon)."""
    warmup: float = 0.04
    """Share of the steps in which both rates rise from 0."""
    decay: float = 0.4
    """Share of the steps, the last ones, in which both fall to a fiftieth."""
    held_out: float | None = None
    """Share of prompts, by a hash of them, that are never trained on; None is `texts.default_share`."""
    evaluations: int = 20
    """How often the held-out texts are drafted on, evenly over the steps."""
    evaluated: int = 16
    """Held-out texts of a domain that are drafted on, at most."""
    patience: int = 5
    """Evaluations without a longer accepted length after which rates fall, and as many later training stops."""
    precision: Precision = "auto"
    """What matrix products are computed in; `auto` measures what is fastest here."""
    cache_bytes: int = 0
    """Hidden states of the target that are kept on disk, at most; others are computed anew whenever they are read."""
    seed: int = 0

    def __post_init__(self) -> None:
        _check(
            epochs=(self.epochs, 1e-3, 1e5), steps=(self.steps, 1, _MOST), batch=(self.batch, 1, 1 << 16),
            accumulate=(self.accumulate, 1, self.batch), anchors=(self.anchors, 1, 1 << 16),
            max_tokens=(self.max_tokens, 8, 1 << 20), learning_rate=(self.learning_rate, 1e-9, 10),
            matrix_rate=(self.matrix_rate, 1e-9, 10), warmup=(self.warmup, 0, 1), decay=(self.decay, 1e-6, 1),
            held_out=(self.held_out, 1e-4, 0.9), evaluations=(self.evaluations, 1, 10**4),
            evaluated=(self.evaluated, 1, 10**5), patience=(self.patience, 1, 10**4), seed=(self.seed, 0, 1 << 40),
        )  # fmt: skip

    def rate(self, step: int, steps: int) -> float:
        """Factor on both peak rates at `step`, from 0, of `steps`."""
        warm = min(1.0, (step + 1) / max(1.0, self.warmup * steps))
        left = (steps - step) / (self.decay * steps)
        return warm * max(0.02, min(1.0, left))


def cache_bytes(text: str) -> int:
    """Bytes of a size as people write it: 20GB, 500MB, 0. Raises ValueError."""
    units: dict[str, float] = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
    digits = text.strip().rstrip("BKMGTbkmgt ")
    try:
        size = float(digits) * units[text.strip()[len(digits) :].strip().upper()]
    except (ValueError, KeyError):
        size = math.nan
    if not 0 <= size < 1e18 or (size and digits == text.strip()):  # 20 bytes, nobody means
        raise ValueError(f"--cache {text}: is written as 20GB, 500MB or 0")
    return int(size)


def check_taps(taps: Sequence[int], layers: int) -> None:
    """Raise InputError for a tap outside of a target of so many layers."""
    if outside := [tap for tap in taps if not -1 <= tap < layers]:
        raise InputError(f"--taps {outside[0]}: the target has layers 0 to {layers - 1}, and −1 is the embedding")


def check_vocabulary(count: int, tokens: int) -> None:
    """Raise InputError for a reduced vocabulary of more tokens than the target has."""
    if count > tokens:
        raise InputError(f"--vocabulary {count}: the target has {tokens} tokens; leave it out for all")


def taps_of(text: str) -> tuple[int, ...]:
    """Layers as people write them: 1,9,17. Raises ValueError."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--taps {text}: is written as layers from 0, as 1,9,17") from None
