"""What fits a checkpoint of unknown make: how much of its drafts is accepted as declared, and under other conventions.

A misread convention does not crash: acceptance falls. So the same texts are drafted with one convention flipped at a time,
then with pairs of the best three, and what each gains is compared text by text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from drafters.checkpoints import load_declared, read_tensors
from drafters.decoding import DecodeRequest, decode
from drafters.dense import DenseText, record_anchors
from drafters.families.registry import read_shape
from drafters.formats.contract import Declared
from drafters.kinds.none import NoDrafter
from drafters.kinds.settings import (
    BlockSettings,
    FedBack,
    InBlock,
    Layout,
    NormWeight,
    Order,
    PairSettings,
    Residual,
    TapNorm,
    VocabularyMap,
    WindowFrom,
)
from drafters.target import Target
from simulator.errors import InputError
from simulator.records import Sampling

Floats = npt.NDArray[np.float64]

_DRAWS: Final = 10_000
_ERROR: Final = 0.05
"""Chance of an interval that misses, over all readings together."""
_BEST: Final = 3
"""Flipped conventions of which pairs are tried."""
_FLIPPED: Final[Mapping[str, tuple[str, ...]]] = {
    "order": get_args(Order), "residual": get_args(Residual), "fed_back": get_args(FedBack), "tap_norm": get_args(TapNorm),
    "layout": get_args(Layout), "in_block": get_args(InBlock), "window_from": get_args(WindowFrom),
    "norm_weight": get_args(NormWeight), "vocabulary_map": get_args(VocabularyMap),
}  # fmt: skip
"""Conventions by field, and what each can be."""
_WORDS: Final = {
    "order": "order", "residual": "residual", "fed_back": "fed back", "tap_norm": "norm of taps", "layout": "layout",
    "in_block": "inside the block", "window_from": "windows from the", "norm_weight": "norms ×", "vocabulary_map": "d2t",
    "taps": "taps", "shape": "rotary", "softcap": "softcap",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to read a checkpoint: fields that are other than declared, and what they are, in words."""

    changes: Mapping[str, Any]
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """In a table."""
        return " and ".join(self.words) or "as declared"


@dataclass(frozen=True)
class Reading:
    """What came of reading a checkpoint in one way."""

    variant: Variant
    accepted: Floats
    """Tokens accepted in all, by text."""
    first: Floats
    """Anchors whose first position is accepted, by text."""
    survival: tuple[float, ...]
    """Share of anchors whose position k is accepted."""


@dataclass(frozen=True)
class Diagnosis:
    """All readings, the declared one first."""

    format: str
    conventions: Mapping[str, Any]
    gamma: int
    anchors: Floats
    """By text."""
    commonest: Floats
    """How often the commonest token came next, by text: what a drafter is accepted that always says it."""
    readings: tuple[Reading, ...]
    impossible: tuple[str, ...]
    """Ways that the files' tensors cannot be read in."""

    @cached_property
    def weights(self) -> Floats:
        """How often each text is drawn, [draws, texts]."""
        count = len(self.anchors)
        return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _DRAWS).astype(np.float64)

    def length(self, reading: Reading) -> float:
        """Tokens accepted of a draft, on average."""
        return float(reading.accepted.sum() / self.anchors.sum())

    def gain(self, reading: Reading) -> tuple[float, float, float]:
        """(tokens more than as declared, and an interval that holds for all readings together), paired by text."""
        more = reading.accepted - self.readings[0].accepted
        drawn = (self.weights @ more) / (self.weights @ self.anchors)
        tail = _ERROR / max(len(self.readings) - 1, 1) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return float(more.sum() / self.anchors.sum()), float(low), float(high)

    @cached_property
    def best(self) -> Reading:
        """The reading of which most is accepted."""
        return max(self.readings, key=self.length)

    @property
    def chance(self) -> float:
        """Share of anchors that the commonest token would be accepted at."""
        return float(self.commonest.sum() / self.anchors.sum())

    @property
    def beats_chance(self) -> bool:
        """Whether the best reading's first position is accepted more often than the commonest token would be."""
        drawn = (self.weights @ (self.best.first - self.commonest)) / (self.weights @ self.anchors)
        return bool(np.quantile(drawn, _ERROR / 2) > 0)

    @property
    def better(self) -> Reading | None:
        """The best reading, where it is clearly better than the declared one."""
        return self.best if self.best is not self.readings[0] and self.gain(self.best)[1] > 0 else None

    @property
    def alike(self) -> list[Reading]:
        """Readings that cannot be told from the declared one: their intervals hold 0, and no large loss."""
        near = 0.1 * max(self.length(self.readings[0]), 1e-12)
        return [r for r in self.readings[1:] if (g := self.gain(r))[1] <= 0 <= g[2] and g[1] > -near]


def texts_of(target: Target, prompts: Sequence[Sequence[int]], tokens: int, gamma: int) -> list[DenseText]:
    """The target's own greedy answers to prompts, of so many tokens at most. Raises InputError where all are too short."""
    asked = [DecodeRequest(tuple(ids), tokens + gamma, (i,)) for i, ids in enumerate(prompts)]
    answered = dict(decode(target, NoDrafter(), asked, Sampling(temperature=0), max_batch=8))
    texts = []
    for i, ids in enumerate(prompts):
        said = tuple(answered[i].token_ids)
        whole = len(said) <= tokens
        if len(said) > 2:
            texts.append(DenseText(tuple(ids), said[:tokens], said[tokens:], whole, (i,), f"prompt {i + 1}"))
    if len(texts) < 2:
        raise InputError("the target's answers are too short to judge a drafter by; give other --prompts")
    return texts


def diagnose(
    declared: Declared, folder: Path, target: Target, texts: Sequence[DenseText], name: str,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Diagnosis:  # fmt: skip
    """Read a checkpoint in every way that its tensors allow. Raises InputError where not even as it declares."""
    tensors, gamma = read_tensors(folder, name), _common_gamma(declared)
    singles = list(_flips(declared.settings, target))
    total = 1 + len(singles) + _BEST
    done, impossible, readings = 0, list[str](), list[Reading]()

    def read(variant: Variant) -> None:
        nonlocal done
        try:
            readings.append(_reading(variant, declared, gamma, folder, target, texts, tensors, name))
        except (InputError, ValueError) as error:
            if not variant.changes:
                raise InputError(str(error)) from None
            impossible.append(variant.name)
        done += 1
        advance(done, total)

    for variant in [Variant({}, ()), *singles]:
        read(variant)
    best = sorted(readings[1:], key=lambda r: -float(r.accepted.sum()))[:_BEST]
    for one, other in combinations([r.variant for r in best], 2):
        if not one.changes.keys() & other.changes.keys():
            read(Variant({**one.changes, **other.changes}, (*one.words, *other.words)))
    advance(total, total)
    following = [np.array(text.ids[len(text.prompt) + 1 :][: text.anchors]) for text in texts]
    values, counts = np.unique(np.concatenate(following), return_counts=True)
    commonest = np.array([(of_text == values[counts.argmax()]).sum() for of_text in following], np.float64)
    anchors = np.array([text.anchors for text in texts], np.float64)
    told = {word: value for word, value in declared.conventions.items() if word != "γ"}
    return Diagnosis(declared.format, told, gamma, anchors, commonest, tuple(readings), tuple(impossible))


def _reading(
    variant: Variant, declared: Declared, gamma: int, folder: Path, target: Target, texts: Sequence[DenseText],
    tensors: Mapping[str, Tensor], name: str,
) -> Reading:  # fmt: skip
    settings = replace(declared.settings, **variant.changes)
    read_so = replace(declared, settings=settings, gamma=gamma)
    drafter = load_declared(read_so, folder, target, name=name, gamma=gamma, tensors=tensors)
    [recorded] = record_anchors(target, [drafter], texts, Sampling(temperature=0))
    by_text = [anchors.accepted.astype(np.int64) for anchors in next(iter(recorded.values()))]
    every = np.concatenate(by_text)
    survival = tuple(float((every >= k).mean()) for k in range(1, gamma + 1))
    total, first = ([float(part.sum()) for part in parts] for parts in (by_text, [own > 0 for own in by_text]))
    return Reading(variant, np.array(total), np.array(first), survival)


def _common_gamma(declared: Declared) -> int:
    """γ that every layout has."""
    if isinstance(declared.settings, BlockSettings):
        return min(declared.gamma, max(declared.settings.block - 1, 1))
    return declared.gamma


def _flips(settings: PairSettings | BlockSettings, target: Target) -> Iterator[Variant]:
    """Every convention by itself, as it is not declared."""
    for step, words in ((-1, "one lower"), (1, "one higher")):
        taps = tuple(tap + step for tap in settings.taps)
        if taps and min(taps) >= -1 and max(taps) < target.num_layers:
            yield Variant({"taps": taps}, (f"taps {words}",))
    for field, values in _FLIPPED.items():
        declared = getattr(settings, field, None)
        if declared is None or (field == "vocabulary_map" and not settings.reduced):
            continue
        if field in ("in_block", "window_from") and not any(settings.shape.windows):
            continue
        for value in values:
            if value != declared:
                yield Variant({field: value}, (f"{_WORDS[field]} {value}",))
    for words, rotary in _rotaries(target):
        if rotary != dict(settings.shape.rotary):
            yield Variant({"shape": replace(settings.shape, rotary=rotary)}, (f"rotary {words}",))
    if settings.softcap is not None:
        yield Variant({"softcap": None}, ("no softcap",))


def _rotaries(target: Target) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "plain, base 10000", {"rope_type": "default", "rope_theta": 10000.0}
    try:
        yield "the target's", dict(read_shape(target.model.config.to_dict(), target.name).rotary)
    except InputError:
        return
