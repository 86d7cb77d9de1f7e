"""What fits a checkpoint of unknown make: how much of its drafts is accepted as declared, and under other conventions.

A misread convention does not crash: acceptance falls. So the same texts are drafted with one convention flipped at a time,
then with pairs of the best three, and what each gains is compared text by text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drafters.checkpoints import load_declared, read_tensors
from drafters.decoding import DecodeRequest, decode
from drafters.dense import DenseText, record_anchors
from drafters.formats.contract import Declared
from drafters.kinds.none import NoDrafter
from drafters.kinds.settings import (
    BlockSettings,
    FedBack,
    HeadType,
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

_SMALL: Final = 5 * 10**7
"""Weights of a target too small for several threads."""
_DRAWS: Final = 10_000
_ERROR: Final = 0.05
"""Chance of an interval that misses, over all readings together."""
_BEST: Final = 3
"""Flipped conventions of which pairs are tried whatever comes of them."""
_FLIPPED: Final[Mapping[str, tuple[str, ...]]] = {
    "order": get_args(Order), "residual": get_args(Residual), "fed_back": get_args(FedBack), "tap_norm": get_args(TapNorm),
    "layout": get_args(Layout), "in_block": get_args(InBlock), "window_from": get_args(WindowFrom),
    "norm_weight": get_args(NormWeight), "vocabulary_map": get_args(VocabularyMap),
}  # fmt: skip
"""Conventions by field, and what each can be."""
_DECISIVE: Final = {"taps", "layout", "order", "residual", "tap_norm", "norm_weight", "vocabulary_map", "markov_rank"}
"""Fields of which a wrong one may leave a drafter nothing."""
_BASES: Final = (1e4, 5e5, 1e6)
"""Bases of rotary angles that most models have."""
_THEIRS: Final = "rotary the target's"
LONGER: Final = 2
"""Tokens by which a reading drafts more than is declared: its block is one longer, and the anchor's slot counts in."""
_HEADS: Final = ("markov_head.", "confidence_head.")
"""Tensors of a sequential head, and of confidences that read it."""
_KINDS: Final[Mapping[str, HeadType]] = {"gate_proj": "gated", "joint_proj": "rnn"}
"""Kinds of sequential heads, by the tensor that no other has."""
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

    def gain(self, reading: Reading, base: Reading | None = None) -> tuple[float, float, float]:
        """(tokens more than `base`, by default as declared, and an interval that holds for all readings together), paired by
        text."""
        more = reading.accepted - (base or self.readings[0]).accepted
        drawn = (self.weights @ more) / (self.weights @ self.anchors)
        tail = _ERROR / max(len(self.readings) - 1, 1) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return float(more.sum() / self.anchors.sum()), float(low), float(high)

    def ahead(self, reading: Reading, base: Reading | None = None) -> tuple[int, int]:
        """(texts of which a reading accepts more than `base`, by default as declared; texts of which it accepts other)."""
        return _ahead(reading.accepted - (base or self.readings[0]).accepted)

    def surpasses(self, reading: Reading, base: Reading | None = None) -> bool:
        """Whether clearly more is accepted than of `base`, by default as declared: on average, or in so many of the texts
        that it is no chance. One text that is drafted as a whole makes any average unsure."""
        more, low, _ = self.gain(reading, base)
        error = _ERROR / max(len(self.readings) - 1, 1) / 2
        return low > 0 or (more > 0 and _no_chance(*self.ahead(reading, base), error))

    @cached_property
    def best(self) -> Reading:
        """The declared reading where none is clearly better; of those that are, the one of which most is accepted, or the
        nearest to what is declared that cannot be told from it: of rotary angles the target's, where they are among them."""
        clear = [r for r in self.readings if self.surpasses(r)]
        if not clear:
            return self.readings[0]
        most = max(clear, key=self.length)
        rivals = [r for r in clear if r is most or not self.surpasses(most, r)]
        nearest = min(rivals, key=lambda r: (len(r.variant.words), -self.length(r)))
        alike = (r for r in rivals if r.variant.changes.keys() == nearest.variant.changes.keys())
        return next((r for r in alike if _THEIRS in r.variant.words), nearest)

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
        """The best reading, where it is clearly better than the declared one."""
        return self.best if self.best is not self.readings[0] else None

    @property
    def alike(self) -> list[Reading]:
        """Readings that cannot be told from the best, or from the declared one where none is clearly better: neither accepts
        clearly more, and their intervals hold no large loss."""
        base = self.better or self.readings[0]
        near = 0.1 * max(self.length(base), 1e-12)
        others = [r for r in self.readings if r is not base and self.gain(r, base)[1] > -near]
        found = [r for r in others if not self.surpasses(r, base) and not self.surpasses(base, r)]
        return [r for r in found if not any({*one.variant.words} < {*r.variant.words} for one in found)]


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
    gamma = min(gammas(declared, singles))
    total = 1 + len(singles) + _BEST
    impossible, readings, first_failure = list[str](), list[Reading](), list[InputError]()
    tried = set[frozenset[str]]()
    following = [np.array(text.ids[len(text.prompt) + 1 :][: text.anchors]) for text in texts]
    values, counts = np.unique(np.concatenate(following), return_counts=True)
    commonest = np.array([(of_text == values[counts.argmax()]).sum() for of_text in following], np.float64)
    anchors = np.array([text.anchors for text in texts], np.float64)

    def read(variant: Variant) -> None:
        try:
            _check_taps(variant.changes.get("taps", declared.settings.taps), declared, target, name)
            readings.append(_reading(variant, declared, gamma, folder, target, texts, tensors, name))
        except (InputError, ValueError) as error:
            impossible.append(variant.name)
            if not variant.changes:  # it drafts nothing then, and something else may be better
                first_failure.append(InputError(str(error)))
                nothing = np.zeros(len(texts))
                readings.append(Reading(variant, nothing, nothing, (0.0,) * gamma))
        tried.add(frozenset(variant.words))
        advance(len(tried), max(total, len(tried)))

    def together(pairs: Iterable[tuple[Variant, Variant]]) -> None:
        nonlocal total
        both = [_both(one, other) for one, other in pairs if not one.changes.keys() & other.changes.keys()]
        new = [variant for variant in both if frozenset(variant.words) not in tried]
        total = len(tried) + len(new)
        for variant in new:
            read(variant)

    def found() -> Diagnosis:
        known = tuple(readings), tuple(impossible)
        return Diagnosis(declared.format, declared.conventions, gamma, anchors, commonest, *known)

    for variant in [Variant({}, ()), *singles]:
        read(variant)
    best = [r.variant for r in sorted(readings[1:], key=lambda r: -float(r.accepted.sum()))[:_BEST]]
    together(combinations(best, 2))
    if best and (first_failure or found().better is not None):  # one thing is wrong; so may be another
        together((best[0], other) for other in singles)
    if first_failure or found().better is not None or not found().beats_chance:  # or two that each leave nothing
        together(combinations([one for one in singles if one.changes.keys() & _DECISIVE], 2))
    if first_failure and not any(reading.accepted.any() for reading in readings):
        raise first_failure[0]
    advance(len(tried), len(tried))
    return found()


def _both(one: Variant, other: Variant) -> Variant:
    return Variant({**one.changes, **other.changes}, (*one.words, *other.words))


def _reading(
    variant: Variant, declared: Declared, gamma: int, folder: Path, target: Target, texts: Sequence[DenseText],
    tensors: Mapping[str, Tensor], name: str,
) -> Reading:  # fmt: skip
    read_so = read_otherwise(declared, variant)
    drafter = load_declared(read_so, folder, target, name=name, tensors=tensors)
    [recorded] = record_anchors(target, [drafter], texts, Sampling(temperature=0))
    by_text = [np.minimum(anchors.accepted, gamma).astype(np.int64) for anchors in next(iter(recorded.values()))]
    every = np.concatenate(by_text)
    survival = tuple(float((every >= k).mean()) for k in range(1, gamma + 1))
    total, first = ([float(part.sum()) for part in parts] for parts in (by_text, [own > 0 for own in by_text]))
    return Reading(variant, np.array(total), np.array(first), survival)


def read_otherwise(declared: Declared, variant: Variant) -> Declared:
    """The declaration with a variant's conventions in place of its own."""
    settings = replace(declared.settings, **variant.changes)
    names = declared.names
    if isinstance(settings, BlockSettings) and not settings.markov_rank and "markov_rank" in variant.changes:
        names = lambda name: None if (o := declared.names(name)) is None or o.startswith(_HEADS) else o  # noqa: E731
    left = declared.assumed if not variant.changes else frozenset()
    return replace(declared, settings=settings, gamma=own_gamma(declared, settings), names=names, assumed=left)


def own_gamma(declared: Declared, settings: PairSettings | BlockSettings) -> int:
    """γ of a reading: a block is drafted whole where it was, since its length changes what is computed."""
    if isinstance(settings, BlockSettings) and isinstance(declared.settings, BlockSettings):
        whole = declared.gamma == declared.settings.most_drafted
        return settings.most_drafted if whole else min(declared.gamma, settings.most_drafted)
    return declared.gamma


def gammas(declared: Declared, singles: Sequence[Variant]) -> list[int]:
    """γ of every reading: layout and length of a block change it, also both at once."""
    pairs = (_both(one, other) for one, other in combinations(singles, 2))
    both = [pair for pair in pairs if pair.changes.keys() == {"layout", "block"}]
    return [own_gamma(declared, replace(declared.settings, **one.changes)) for one in [Variant({}, ()), *singles, *both]]


def _check_taps(taps: tuple[int, ...], declared: Declared, target: Target, name: str) -> None:
    """Raise InputError for layers that the target has not: such may be declared where they are counted otherwise."""
    fused = not isinstance(declared.settings, PairSettings) or declared.settings.fused
    if min(taps) < -1 or max(taps) > target.num_layers - fused:
        raise InputError(
            f"checkpoint {name}: taps {' '.join(f'h[{tap + 1}]' for tap in taps)}, and the target has h[0] to "
            f"h[{target.num_layers}]"
        )


def flips(declared: Declared, target: Target, tensors: Mapping[str, Sequence[int]]) -> Iterator[Variant]:
    """Every convention by itself, as it is not declared; `tensors` are shapes of those there are, by our names."""
    settings = declared.settings
    yield from _of_taps(settings, target)
    for field, values in _FLIPPED.items():
        own = getattr(settings, field, None)
        if own is None or field in _moot(declared):
            continue
        if field == "in_block" and not any(settings.shape.windows):  # all layers are alike
            values = ("bidirectional",) if own == "causal" else ("causal",)
        for value in values:
            if value != own:
                yield Variant({field: value}, (f"{_WORDS[field]} {value}",))
    seen = [dict(settings.shape.rotary)]
    for words, rotary in _rotaries(target, settings):
        if rotary not in seen:
            seen.append(rotary)
            yield Variant({"shape": replace(settings.shape, rotary=rotary)}, (f"rotary {words}",))
    if any(settings.shape.windows):
        yield Variant({"shape": replace(settings.shape, windows=(None,) * settings.shape.layers)}, ("no windows",))
    caps = {settings.softcap, getattr(target.config, "final_logit_softcapping", None), None} - {settings.softcap}
    for cap in sorted(caps, key=str):
        yield Variant({"softcap": cap}, ("no softcap" if cap is None else f"softcap {cap:g}, as the target",))
    if "embed_tokens.weight" in tensors and "lm_head.weight" not in tensors and not settings.reduced:
        other = "target" if settings.head == "own embedding" else "own embedding"
        yield Variant({"head": other}, (f"the head of {'its target' if other == 'target' else 'its own embedding'}",))
    if isinstance(settings, BlockSettings):
        yield from _of_blocks(settings, tensors)


def _moot(declared: Declared) -> set[str]:
    """Conventions that make no difference to a drafter."""
    settings = declared.settings
    found = set() if settings.reduced else {"vocabulary_map"}
    found |= set() if any(settings.shape.windows) else {"window_from"}
    if declared.core == "mtp":
        found |= {"residual", "tap_norm"} | ({"fed_back"} if declared.gamma == 1 else set())
    return found


def _of_taps(settings: PairSettings | BlockSettings, target: Target) -> Iterator[Variant]:
    """Layers counted otherwise and, where the last one's output is the feature, with the target's last norm or without."""
    last, direct = target.num_layers, isinstance(settings, PairSettings) and not settings.fused
    for step, words in ((-1, "one lower"), (1, "one higher")):
        taps = tuple(tap + step for tap in settings.taps)
        if direct and max(taps) >= last - 1 and max(settings.taps) >= last - 1:
            words = f"the last, {'after' if taps[-1] == last else 'before'} the target's last norm"
        if taps and min(taps) >= -1 and max(taps) < last + direct:
            yield Variant({"taps": taps}, (f"taps {words}",))


def _of_blocks(settings: BlockSettings, tensors: Mapping[str, Sequence[int]]) -> Iterator[Variant]:
    """What only blocks have: their length, the anchor's slot counted in or not, the sequential head, and embeddings that are
    not normed before they are read."""
    root = settings.shape.hidden_size**0.5
    for scale, words in ((1.0, "embeddings unscaled"), (root, "embeddings × √d")):
        if scale != settings.embedding_scale:
            yield Variant({"embedding_scale": scale}, (words,))
    yield Variant({"block": settings.block + 1}, ("block one longer",))
    if settings.most_drafted > 1 and settings.block > 2:
        yield Variant({"block": settings.block - 1}, ("block one shorter",))
    if settings.markov_rank:
        yield Variant({"markov_rank": 0, "confidence": "none"}, ("no sequential head",))
    elif table := tensors.get("markov_head.markov_w1.weight"):
        read = tensors.get("confidence_head.proj.weight", (1, 0))[1] - settings.shape.hidden_size
        kind = next((kind for part, kind in _KINDS.items() if f"markov_head.{part}.weight" in tensors), "vanilla")
        confidence = "none" if read < 0 else "hidden and token" if read else "hidden"
        yield Variant({"markov_rank": table[1], "markov_head": kind, "confidence": confidence}, ("the sequential head",))


def _rotaries(target: Target, settings: PairSettings | BlockSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    declared = dict(settings.shape.rotary)
    turned = {key: value for key, value in declared.items() if key != "interleaved"}
    yield from (
        [("not interleaved", turned)] if declared.get("interleaved") else [("interleaved", {**turned, "interleaved": True})]
    )
    own = getattr(target.config, "rope_parameters", None) or {}
    theirs = dict(own.get("full_attention") or own)  # by kinds of layers, or of all
    own_base = turned.get("rope_theta")
    bases = sorted({*_BASES, *(float(base) for of in (turned, theirs) if (base := of.get("rope_theta")))})
    for base in bases:
        yield f"plain, base {base:g}", {"rope_type": "default", "rope_theta": base}
    if "rope_theta" in theirs:
        yield "the target's", theirs
        yield f"scaled as the target's, base {own_base:g}", {**theirs, "rope_theta": own_base}
    if turned.get("rope_type", "default") != "default":
        for base in bases:
            yield f"scaled as declared, base {base:g}", {**turned, "rope_theta": base}
