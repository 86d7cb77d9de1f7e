"""What drafters are trained on: a target's answers in their contexts, what is held out of them, and batches."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drafters.training.recipe import check_vocabulary
from simulator.errors import InputError

LEAST_RESPONSE: Final = 3
"""Tokens of an answer that has something to draft and to condition on."""
_HELD_OUT, _MOST_HELD_OUT, _LEAST_PROMPTS = 0.05, 0.2, 8
"""Shares of the prompts that are held out where nobody says, and how many should be."""
GRAM: Final = 13
"""Tokens of the runs by which overlap is counted, as GPT-3's authors did."""
_MIXED: Final = 32
"""Batches that are sorted by length together: little padding, and batches still mixed."""


BATCHES: Final = 2
"""Version of how batches are drawn: what was begun by another cannot be gone on with."""


@dataclass(frozen=True, slots=True)
class Text:
    """A context and the target's own answer to it."""

    name: str
    """What messages call it."""
    domain: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    conversation: str = ""
    """What its turns share: they are held out together."""
    opening: tuple[int, ...] = ()
    """The prompt that its conversation began with, also where that turn is not here; empty for its own."""

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens."""
        return self.prompt + self.response

    @property
    def group(self) -> str:
        """What it stands or falls with: its conversation, or itself."""
        return self.conversation or self.name

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


class Split(NamedTuple):
    """Texts to train on, and those that are held out."""

    train: list[Text]
    held_out: list[Text]


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Padded texts and where their answers lie."""

    ids: Tensor
    """[B, N]."""
    prompt_tokens: Tensor
    """Index of each text's first response token, [B]."""
    length: Tensor
    """Real tokens of each text, [B]."""

    @classmethod
    def of(cls, texts: Sequence[Text], device: torch.device) -> TextBatch:
        """Texts side by side, the shorter ones padded with token 0."""
        width = max(len(text) for text in texts)
        ids = torch.tensor([[*text.ids, *[0] * (width - len(text))] for text in texts], device=device)
        prompts, lengths = ([len(t.prompt) for t in texts], [len(t) for t in texts])
        return cls(ids, torch.tensor(prompts, device=device), torch.tensor(lengths, device=device))


def usable(texts: Sequence[Text], max_tokens: int) -> list[Text]:
    """Texts cut to `max_tokens`, without those of whose answer too little is left."""
    cut = [replace(t, response=t.response[: max(0, max_tokens - len(t.prompt))]) for t in texts]
    return [text for text in cut if len(text.response) >= LEAST_RESPONSE]


def split(texts: Sequence[Text], share: float) -> Split:
    """Hold out that share of the prompts by a hash of them: equal prompts are on one side, so are turns of a conversation.

    Raises InputError where nothing is left on either side.
    """
    opening = opening_prompts(texts)
    held = {group: _fraction(prompt) < share for group, prompt in opening.items()}
    found = Split([], [])
    for text in texts:
        found[held[text.group]].append(text)
    if not found.train or not found.held_out:
        side, other = ("held out", "larger") if not found.held_out else ("left to train on", "smaller")
        different = len({*opening.values()})
        raise InputError(
            f"--held-out {share:g}: of {different} different prompts none is {side}; give more prompts, or a {other} share"
        )
    return found


def default_share(texts: Sequence[Text]) -> float:
    """The share of prompts that is held out where nobody says: a twentieth, of few so much that about eight are, and a fifth
    at most."""
    different = len({*opening_prompts(texts).values()})
    return min(_MOST_HELD_OUT, max(_HELD_OUT, _LEAST_PROMPTS / max(different, 1)))


def opening_prompts(texts: Sequence[Text]) -> dict[str, tuple[int, ...]]:
    """The prompt that each conversation began with, as far as its turns are here."""
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        first = text.opening or text.prompt
        if text.group not in found or len(first) < len(found[text.group]):
            found[text.group] = first
    return found


def _fraction(prompt: tuple[int, ...]) -> float:
    """A number in [0, 1) that a prompt has."""
    return int.from_bytes(_hashed(prompt)[:8], "big") / 2**64


def known_by(prompt: tuple[int, ...]) -> str:
    """What a prompt is known by beside a checkpoint that was trained on it: 12 hexadecimal digits of its tokens' hash."""
    return _hashed(prompt).hex()[:12]


def _hashed(prompt: tuple[int, ...]) -> bytes:
    return hashlib.sha256(np.asarray(prompt, dtype=np.int64).tobytes()).digest()


def overlap(parts: Split) -> tuple[float, float]:
    """Shares of the held-out prompts' and answers' runs of 13 tokens that occur in the texts trained on.

    Of prompts, what all begin and end with alike (the chat template) is left out. 0 where none is so long.
    """
    before, after = _template([t.prompt for part in parts for t in part])
    prompts = [[t.prompt[before : len(t.prompt) - after] for t in part] for part in parts]
    answers = [[t.response for t in part] for part in parts]
    trained = np.concatenate([_grams(prompts[0]), _grams(answers[0])])
    return _share(_grams(prompts[1]), trained), _share(_grams(answers[1]), trained)


def _share(grams: npt.NDArray[np.uint64], among: npt.NDArray[np.uint64]) -> float:
    return float(np.isin(grams, among).mean()) if len(grams) else 0.0


def _template(prompts: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """Tokens that all prompts begin with, and end with."""

    def shared(rows: Sequence[tuple[int, ...]]) -> int:
        low, high = min(rows), max(rows)  # what the first and the last in order share, all do
        return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))

    return shared(prompts), shared([prompt[::-1] for prompt in prompts])


def _grams(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.uint64]:
    """Hashes of all runs of 13 tokens, each once."""
    factors = np.random.Generator(np.random.Philox(seed=GRAM)).integers(1, 2**63, GRAM, dtype=np.uint64) | np.uint64(1)
    found = [np.zeros(0, dtype=np.uint64)]
    for row in rows:
        if len(row) >= GRAM:
            windows = np.lib.stride_tricks.sliding_window_view(np.asarray(row, dtype=np.uint64) + np.uint64(1), GRAM)
            found.append((windows * factors).sum(1, dtype=np.uint64))
    return np.unique(np.concatenate(found))


def most_frequent(texts: Sequence[Text], count: int, vocabulary: int) -> tuple[list[int], float]:
    """The `count` most frequent tokens of the answers, in order of their ids, and the share of the answers that they are.

    Raises InputError where there are not so many tokens in the target's vocabulary.
    """
    check_vocabulary(count, vocabulary)
    counts = np.bincount([token for text in texts for token in text.response], minlength=vocabulary)
    chosen = np.sort(np.argsort(-counts, kind="stable")[:count])
    return [int(token) for token in chosen], float(counts[chosen].sum() / counts.sum())


def batches(texts: Sequence[Text], size: int, seed: int, start: int = 0) -> Iterator[list[int]]:
    """Endless batches of texts of similar length, by index, from step `start`; a function of the seed and the step alone.

    Raises InputError where there are not enough texts for one.
    """
    if len(texts) < size:
        raise InputError(f"--batch {size}: there are {len(texts)} usable answers to train on; give more, or a smaller batch")
    step, epoch = 0, 0
    while True:
        rng = np.random.Generator(np.random.Philox(seed=[seed, epoch]))
        order = rng.permutation(len(texts))[: len(texts) // size * size]  # others are left over in every epoch
        groups = [order[i : i + _MIXED * size] for i in range(0, len(order), _MIXED * size)]
        ordered = [sorted(group, key=lambda i: len(texts[i])) for group in groups]
        found = [group[i : i + size] for group in ordered for i in range(0, len(group), size)]
        for index in rng.permutation(len(found)):
            if step >= start:
                yield [int(i) for i in found[index]]
            step += 1
        epoch += 1


def by_domain(texts: Sequence[Text], most: int) -> list[Text]:
    """The first `most` of every domain, by a hash of their prompts, in order of domains."""
    found: dict[str, list[Text]] = defaultdict(list)
    for text in sorted(texts, key=lambda t: (t.domain, _fraction(t.prompt), t.name)):
        if len(found[text.domain]) < most:
            found[text.domain].append(text)
    return [text for domain in found.values() for text in domain]
