"""What fits a checkpoint of unknown make: how much of its drafts is accepted as declared, and under other conventions.

A misread convention does not crash: acceptance falls. So the same texts are drafted with one convention flipped at a time,
then with pairs of the best three, and what each gains is compared text by text. Of many taps each one's neighbours are asked
about on a few of the texts first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drafters.checkpoints import load_declared, read_tensors
from drafters.conventions import DECISIVE, THEIRS, Variant, check_taps, flips, gammas, merged, neighbours, read_otherwise
from drafters.decoding import DecodeRequest, decode
from drafters.dense import DenseText, record_anchors
from drafters.formats.contract import Declared
from drafters.kinds.none import NoDrafter
from drafters.target import Target
from simulator.errors import InputError
from simulator.records import Sampling

Floats = npt.NDArray[np.float64]

_SMALL: Final = 5 * 10**7
"""Weights of a target too small for several threads."""
_DRAWS: Final = 10_000
_ERROR: Final = 0.05
"""Chance of an interval that misses, over all readings together."""
_LEAST: Final = 0.02
"""Share of what is accepted by which a reading has to be better: less is no sign of a convention misread."""
_MAY: Final = 0.05
"""Share of what is accepted by which a reading is worth more answers though it is not surely better."""
_FURTHER: Final = 2
"""Conventions beside a pair that are looked for, each in a reading of its own."""
_BEST: Final = 3
"""Flipped conventions of which pairs are tried whatever comes of them."""
_GLANCE: Final = 3
"""One text of so many tells whether a tap by itself is worth a whole reading in a neighbour's place."""
LONGER: Final = 2
"""Tokens by which a reading drafts more than is declared: its block is one longer, and the anchor's slot counts in."""


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
    dismissed: tuple[str, ...] = ()
    """Ways that accept no more than is declared of the few texts that were tried: no more was read in them."""
    verifier: str = ""
    """The target that the checkpoint names; empty where it names none."""
    base: float | None = None
    """Base of the rotary angles that it declares."""

    @property
    def error(self) -> float:
        """Chance of an interval of one reading that misses, were all that was tried alike."""
        return _ERROR / max(len(self.readings) + len(self.dismissed) - 1, 1)

    @cached_property
    def weights(self) -> Floats:
        """How often each text is drawn, [draws, texts]."""
        count = len(self.anchors)
        return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _DRAWS).astype(np.float64)

    def length(self, reading: Reading) -> float:
        """Tokens accepted of a draft, on average."""
        return float(reading.accepted.sum() / self.anchors.sum())

    def gain(self, reading: Reading, base: Reading | None = None) -> tuple[float, float, float]:
        """(tokens more than `base`, by default as declared, and an interval that holds for all readings together), paired by
        text."""
        more = reading.accepted - (base or self.readings[0]).accepted
        drawn = (self.weights @ more) / (self.weights @ self.anchors)
        low, high = np.quantile(drawn, [self.error / 2, 1 - self.error / 2])
        return float(more.sum() / self.anchors.sum()), float(low), float(high)

    def ahead(self, reading: Reading, base: Reading | None = None) -> tuple[int, int]:
        """(texts of which a reading accepts more than `base`, by default as declared; texts of which it accepts other)."""
        return _ahead(reading.accepted - (base or self.readings[0]).accepted)

    def surpasses(self, reading: Reading, base: Reading | None = None) -> bool:
        """Whether clearly more is accepted than of `base`, by default as declared: on average, or in so many of the texts
        that it is no chance. One text that is drafted as a whole makes any average unsure."""
        more, low, _ = self.gain(reading, base)
        sure = low > 0 or _no_chance(*self.ahead(reading, base), self.error / 2)
        return more > _LEAST * self.length(reading) and sure

    def parts(self, reading: Reading) -> list[Reading]:
        """Readings of some of a combination's conventions that accept as much as it, or more."""
        words = {*reading.variant.words}
        parts = (r for r in self.readings if r.variant.words and {*r.variant.words} < words)
        return [part for part in parts if self.length(part) >= self.length(reading)]

    @cached_property
    def _clear(self) -> list[Reading]:
        """Readings that are clearly better than the declared one."""
        # How long a block is hardly shows in what is accepted of it.
        return [r for r in self.readings if self.surpasses(r) and r.variant.changes.keys() != {"block"}]

    @cached_property
    def unsure(self) -> tuple[Reading, Reading] | None:
        """(a reading that may be better than the best, a combination of it that clearly is and accepts no more than it): as
        where one answer differs much. Nothing speaks for the combination then, and too little for its part."""
        pairs = [
            (part, r) for r in self._clear for part in self.parts(r) if part not in self._clear and not self.parts(part)
        ]
        open_ = [(part, r) for part, r in pairs if self.surpasses(r, self.best)]
        return max(open_, key=lambda pair: (self.length(pair[0]), self.length(pair[1])), default=None)

    @cached_property
    def best(self) -> Reading:
        """The declared reading where none is clearly better; of those that are, the one of which most is accepted, or the
        nearest to what is declared that none surpasses: of rotary angles the target's, where they are among them. A
        combination whose `parts` accept as much is none of them."""
        clear = [r for r in self._clear if not self.parts(r)]
        if not clear:
            return self.readings[0]
        most = max(clear, key=self.length)
        rivals = [r for r in clear if r is most or not any(self.surpasses(other, r) for other in clear)]
        nearest = min(rivals, key=lambda r: (len(r.variant.words), -self.length(r)))
        alike = [r for r in rivals if r.variant.changes.keys() == nearest.variant.changes.keys()]
        own = (r for r in alike if len(r.variant.words) == len(nearest.variant.words) and self._of_base(r))
        return next((r for r in alike if THEIRS in r.variant.words), next(own, nearest))

    def _of_base(self, reading: Reading) -> bool:
        """Whether a reading turns otherwise than declared, and by the base that is declared."""
        shape = reading.variant.changes.get("shape")
        return shape is not None and shape.rotary.get("rope_theta") == self.base

    @property
    def leading(self) -> Reading:
        """The best reading, or the one that may be better."""
        return self.best if self.unsure is None else self.unsure[0]

    @property
    def chance(self) -> float:
        """Share of anchors that the commonest token would be accepted at."""
        return float(self.commonest.sum() / self.anchors.sum())

    @property
    def beats_chance(self) -> bool:
        """Whether the best reading's first position is accepted more often than the commonest token would be: on average, or
        in so many of the texts that it is no chance. One answer that says one token over and over hides the first."""
        more = self.best.first - self.commonest
        drawn = (self.weights @ more) / (self.weights @ self.anchors)
        return bool(np.quantile(drawn, _ERROR / 4) > 0) or _no_chance(*_ahead(more), _ERROR / 4)

    @property
    def may_beat_chance(self) -> bool:
        """Whether the best reading's first position is accepted more often than that, though it may be chance."""
        return bool(self.best.first.sum() > self.commonest.sum())

    @property
    def better(self) -> Reading | None:
        """The best reading, where it is clearly better than the declared one and no other may be better."""
        return self.best if self.best is not self.readings[0] and self.unsure is None else None

    @property
    def alike(self) -> list[Reading]:
        """Readings that cannot be told from the best, or from the declared one where none is clearly better: neither accepts
        clearly more, and their intervals hold no large loss."""
        base = self.better or self.readings[0]
        near = 0.1 * max(self.length(base), 1e-12)
        others = [r for r in self.readings if r is not base and self.gain(r, base)[1] > -near]
        found = [r for r in others if not self.surpasses(r, base) and not self.surpasses(base, r)]
        return [r for r in found if not any({*one.variant.words} < {*r.variant.words} for one in found)]

    @property
    def may_be_better(self) -> Reading | None:
        """Where none is clearly better than the declared one, the reading that accepts most, if that is so much more that
        more answers may make it sure."""
        if self.better is not None or self.unsure is not None:
            return None
        most = max((r for r in self.readings if not self.parts(r)), key=self.length)
        return most if self.gain(most)[0] > _MAY * self.length(self.readings[0]) else None


def _ahead(more: Floats) -> tuple[int, int]:
    """(texts with more, texts with more or less)."""
    return int((more > 0).sum()), int((more != 0).sum())


def _no_chance(ahead: int, apart: int, error: float) -> bool:
    """Whether so many texts of those that differ are seldom ahead where either way is as likely."""
    return bool(sum(comb(apart, k) for k in range(ahead, apart + 1)) / 2**apart < error)


@contextmanager
def threads_for(target: Target) -> Iterator[None]:
    """On a CPU one thread where the target is small: more would mostly wait for each other, longest on a busy machine."""
    threads = torch.get_num_threads()
    if target.device.type == "cpu" and sum(p.numel() for p in target.model.parameters()) < _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def texts_of(target: Target, prompts: Sequence[Sequence[int]], tokens: int, gamma: int) -> list[DenseText]:
    """The target's own greedy answers to prompts, of so many tokens at most; what is hardly an answer is left out.

    One that mostly says one token is drafted well or badly as a whole, and would outweigh all others. Raises InputError
    where all are too short.
    """
    asked = [DecodeRequest(tuple(ids), tokens + gamma, (i,)) for i, ids in enumerate(prompts)]
    answered = dict(decode(target, NoDrafter(), asked, Sampling(temperature=0), max_batch=8))
    texts, telling = [], []
    for i, ids in enumerate(prompts):
        said = tuple(answered[i].token_ids)
        whole = len(said) <= tokens
        if len(said) > 2:
            texts.append(DenseText(tuple(ids), said[:tokens], said[tokens:], whole, (i,), f"prompt {i + 1}"))
            if 2 * max(Counter(said[:tokens]).values()) <= len(said[:tokens]):
                telling.append(texts[-1])
    if len(texts) < 2:
        raise InputError("the target's answers are too short to judge a drafter by; give other --prompts")
    return telling if 2 * len(telling) >= max(len(texts), 8) else texts


def diagnose(
    declared: Declared, folder: Path, target: Target, texts: Sequence[DenseText], name: str,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Diagnosis:  # fmt: skip
    """Read a checkpoint in every way that its tensors allow. Raises InputError where not even as it declares."""
    tensors = read_tensors(folder, name)
    singles = list(flips(declared, target, {declared.names(key) or "": value.shape for key, value in tensors.items()}))
    by_one = list(neighbours(declared.settings, target))
    seen = _Readings(declared, folder, target, texts, name, tensors, min(gammas(declared, singles)), advance)
    seen.total = 1 + len(singles) + len(by_one) + _BEST
    for variant in [Variant({}, ()), *singles]:
        seen.read(variant)
    for variant in by_one:
        seen.glance(variant)
    known = seen.found()
    worth = [r for r in seen.readings[1:] if r.variant not in by_one or known.surpasses(r)]  # neighbours are much alike
    best = [r.variant for r in sorted(worth, key=lambda r: -float(r.accepted.sum()))[:_BEST]]
    seen.together(combinations(best, 2))
    if best and seen.wrong:  # one thing is; so may be another
        seen.together((best[0], other) for other in singles)
    if seen.wrong or not seen.found().beats_chance:  # or two that each leave nothing
        seen.together(combinations([one for one in singles if one.changes.keys() & DECISIVE], 2))
    for _ in range(_FURTHER):  # or a third, and a fourth; or a second, where the best is not the one that accepts most
        best_yet = seen.found().best
        so_far = best_yet.variant
        if so_far.words:
            seen.together((so_far, other) for other in singles)
        if "taps" in so_far.changes:  # of several taps another may be wrong besides
            for other in neighbours(replace(declared.settings, taps=so_far.changes["taps"]), target):
                if other.changes["taps"] != declared.settings.taps:
                    seen.glance(merged(so_far, other), best_yet)
    if seen.failure and not any(reading.accepted.any() for reading in seen.readings):
        raise seen.failure
    advance(len(seen.tried), len(seen.tried))
    return seen.found()


class _Readings:
    """What a checkpoint was read in so far, and what came of it: the declared reading first."""

    def __init__(
        self, declared: Declared, folder: Path, target: Target, texts: Sequence[DenseText], name: str,
        tensors: Mapping[str, Tensor], gamma: int, advance: Callable[[int, int], None],
    ) -> None:  # fmt: skip
        """`gamma` positions are compared, which it has in all readings."""
        self._declared, self._folder, self._target, self._texts = declared, folder, target, texts
        self._name, self._tensors, self._gamma, self._advance = name, tensors, gamma, advance
        self.readings, self.tried, self.total = list[Reading](), set[frozenset[str]](), 0
        self._impossible, self._dismissed = list[str](), list[str]()
        self.failure: InputError | None = None
        """Why it cannot be read as it declares."""

    def read(self, variant: Variant) -> None:
        """Draft all texts so. What it declares may be impossible: it drafts nothing then."""
        try:
            self.readings.append(self._reading(variant, self._texts))
        except (InputError, ValueError) as error:
            self._impossible.append(variant.name)
            if not variant.changes:
                self.failure = InputError(str(error))
                nothing = np.zeros(len(self._texts))
                self.readings.append(Reading(variant, nothing, nothing, (0.0,) * self._gamma))
        self._told(variant)

    def glance(self, variant: Variant, base: Reading | None = None) -> None:
        """Draft a few of the texts so and, where more is accepted of them than of `base`, by default as declared, all."""
        if frozenset(variant.words) in self.tried:
            return None
        few = slice(None, None, _GLANCE)
        with suppress(InputError, ValueError):  # `read` tells why
            least = (base or self.readings[0]).accepted[few].sum()
            if self._reading(variant, self._texts[few]).accepted.sum() <= least:
                self._dismissed.append(variant.name)
                return self._told(variant)
        return self.read(variant)

    def together(self, pairs: Iterable[tuple[Variant, Variant]]) -> None:
        """Read both of every pair at once, as far as they are of different conventions."""
        both = [merged(one, other) for one, other in pairs if not one.changes.keys() & other.changes.keys()]
        new = [variant for variant in both if frozenset(variant.words) not in self.tried]
        self.total = len(self.tried) + len(new)
        for variant in new:
            self.read(variant)

    @property
    def wrong(self) -> bool:
        """Whether it cannot be read as it declares, or something else is clearly better."""
        found = self.found()
        return self.failure is not None or found.best is not found.readings[0] or found.unsure is not None

    def found(self) -> Diagnosis:
        """What is known by now."""
        following = [np.array(text.ids[len(text.prompt) + 1 :][: text.anchors]) for text in self._texts]
        values, counts = np.unique(np.concatenate(following), return_counts=True)
        commonest = np.array([(of_text == values[counts.argmax()]).sum() for of_text in following], np.float64)
        return Diagnosis(
            self._declared.format, self._declared.conventions, self._gamma,
            np.array([text.anchors for text in self._texts], np.float64), commonest,
            tuple(self.readings), tuple(self._impossible), tuple(self._dismissed),
            self._declared.verifier, self._declared.settings.shape.rotary.get("rope_theta"),
        )  # fmt: skip

    def _told(self, variant: Variant) -> None:
        self.tried.add(frozenset(variant.words))
        self._advance(len(self.tried), max(self.total, len(self.tried)))

    def _reading(self, variant: Variant, texts: Sequence[DenseText]) -> Reading:
        declared, target, name, gamma = self._declared, self._target, self._name, self._gamma
        check_taps(variant.changes.get("taps", declared.settings.taps), declared, target, name)
        drafter = load_declared(read_otherwise(declared, variant), self._folder, target, name=name, tensors=self._tensors)
        [recorded] = record_anchors(target, [drafter], texts, Sampling(temperature=0))
        by_text = [np.minimum(anchors.accepted, gamma).astype(np.int64) for anchors in next(iter(recorded.values()))]
        every = np.concatenate(by_text)
        survival = tuple(float((every >= k).mean()) for k in range(1, gamma + 1))
        total, first = ([float(part.sum()) for part in parts] for parts in (by_text, [own > 0 for own in by_text]))
        return Reading(variant, np.array(total), np.array(first), survival)
